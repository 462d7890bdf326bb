//! When an unplanned move may be ordered without a person: the rule of evidence.
//!
//! A volume moves only if the *active* site shows no sign of life at the witness for `detectAfter`, the volume's own beat
//! has stood still as long if it is attached, and the own target has heard no command of the other site's writer either. All
//! ages are of the observer's own clock. A moving beat: never. The attaching agent asks the target again, behind its fence.
//!
//! Blast radius is the volume: nothing is decided about sites or nodes. [`RateLimit`] keeps a wrong judgement small.
//! Not here: whether a move is possible at all (`moves`), the signs of life themselves (`witness`).

use std::time::Duration;

use twinsite_api::FailoverPolicy;

/// Two beats of 2 s and one poll: a beat that stands still for less may still be moving.
pub const BEATS_STILL: Duration = Duration::from_secs(5);
/// A volume that was moved without a person is not moved so again within this time. It can be short: the copy here has to
/// be a member again first, and the plug may be pulled at either site at any moment.
pub const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// What there is to judge. Of a volume that is active at the other site.
#[derive(Clone, Debug, Default)]
pub struct Case {
    pub policy: FailoverPolicy,
    pub detect_after: Duration,
    /// Name of the active site, for the words.
    pub active: String,
    /// The register was read now, is in use and above every mark.
    pub register_is_current: bool,
    /// The register names a holder.
    pub is_attached: bool,
    /// The own copy is a member: it has every acknowledged write.
    pub own_is_member: bool,
    /// The own copy is served by our own target.
    pub own_target_serves: bool,
    /// A copy is on an array of another make, whose fence proves less.
    pub has_array: bool,
    /// Since the own target last heard the other site's writer; `None`: not since it started.
    pub foreign_command: Option<Duration>,
    pub site_still_for: Option<Duration>,
    pub beat_still_for: Option<Duration>,
    /// Since this volume last moved unplanned.
    pub last_unplanned: Option<Duration>,
    /// This site is drained.
    pub is_drained: bool,
    /// The rate limit allows another move now.
    pub permit: bool,
}

/// What the policy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The active site lives, or nothing is to be decided here.
    Quiet,
    /// It may be down; what is missing.
    Wait(String),
    /// Policy Observe: what Automatic would do.
    Would(String),
    Move(String),
}

/// Judges one volume.
pub fn judge(case: &Case) -> Verdict {
    if case.policy == FailoverPolicy::Manual {
        return Verdict::Quiet;
    }
    let stale = |age: Option<Duration>, at_least: Duration| age.is_some_and(|age| age >= at_least);
    if !stale(case.site_still_for, case.detect_after) {
        return Verdict::Quiet;
    }
    let wait = |text: &str| Verdict::Wait(format!("{} shows no sign of life: {text}", case.active));
    if !case.register_is_current {
        return wait("the register cannot be read, or is older than what was seen here");
    }
    let still = case.detect_after.max(BEATS_STILL);
    if case.is_attached && !stale(case.beat_still_for, still) {
        return if case.beat_still_for.is_some_and(|age| age < BEATS_STILL) {
            wait("the volume's writer still beats, or did a moment ago")
        } else {
            wait("how long the volume's writer has not beaten is not known yet, or not long enough")
        };
    }
    if case
        .foreign_command
        .is_some_and(|age| age < case.detect_after)
    {
        return wait("its writer still sends commands to the copy here");
    }
    if !case.own_is_member {
        return wait("the copy here lacks acknowledged writes; only a person can force it");
    }
    if case.has_array {
        return wait(
            "a copy is on an array, which automatic failover does not touch: make a Failover object",
        );
    }
    if !case.own_target_serves {
        return wait("the copy here is not served");
    }
    if case.is_drained {
        return wait("this site is drained");
    }
    if case.last_unplanned.is_some_and(|ago| ago < AGAIN_AFTER) {
        return wait(
            "the volume moved a short while ago; it is left alone for half a minute: make a Failover object to move it now",
        );
    }
    // No running count: the words stand in a status, which is written when they change.
    let text = format!(
        "no sign of life of {} for {:?}",
        case.active, case.detect_after
    );
    match case.policy {
        FailoverPolicy::Manual => Verdict::Quiet,
        FailoverPolicy::Observe => Verdict::Would(text),
        FailoverPolicy::Automatic if !case.permit => {
            wait("its turn has not come: moves are limited in rate")
        }
        FailoverPolicy::Automatic => Verdict::Move(text),
    }
}

/// How many moves may begin in one go.
pub const BURST: u32 = 64;
/// How many more each second.
pub const PER_SECOND: u32 = 16;

/// A bucket of permits for automatic moves, refilled with time.
#[derive(Clone, Debug)]
pub struct RateLimit {
    permits: u32,
    /// When the last whole permit was added.
    since: Duration,
}

impl RateLimit {
    /// Full.
    pub const fn new(now: Duration) -> Self {
        Self {
            permits: BURST,
            since: now,
        }
    }

    /// Whether a move may begin now.
    pub fn has_permit(&mut self, now: Duration) -> bool {
        let each = Duration::from_secs(1) / PER_SECOND;
        let passed = now.saturating_sub(self.since);
        let earned = u32::try_from(passed.as_nanos() / each.as_nanos()).unwrap_or(u32::MAX);
        self.permits = self.permits.saturating_add(earned).min(BURST);
        self.since = if self.permits == BURST {
            now
        } else {
            self.since + each * earned
        };
        self.permits > 0
    }

    /// A plan used the permit (`Plan::took_permit`).
    pub const fn take(&mut self) {
        self.permits = self.permits.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests;
