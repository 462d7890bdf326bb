//! Where a volume should be, and whether this site lets it go or takes it.
//!
//! The register decides where a volume *is*. What may ask for a change, strongest first: a Failover object, a drained site,
//! the automatic policy, `spec.activeSite` (not while latched), and `failback: WhenInSync` while latched.
//!
//! A planned move is done by two operators that never speak to each other, each by what the other's objects show:
//!
//! ```text
//! old site                                        new site
//! leaving {overlap}: all pods use the volume ──►  move record, scales up: the pod is placed, its node attaches,
//!                                                 the agent waits at the register for the holder to let go
//! leaving {down}: scales to 0               ◄──   awaited: the node is ready to mount, all that is slow is done
//! the agent detaches once the node is through     the agent sees the register without a holder, and takes it
//! ```
//! Pods that could run without the volume are placed only after the old site has let go, and nothing waits longer than
//! [`OVERLAP_LIMIT`] for the other site. Both need the peer's word that it wants the same. Whoever loses sight of the other
//! goes back to what the register says.
//!
//! Invariants: a record names the register's present `active.seq`, so that an old one can never steal a volume; a planned
//! record needs both copies in sync, and that nobody holds the volume or that the old site said that it leaves; that
//! nobody holds it any more is asked of the register by the agent that takes it (`HolderActive`), where it cannot be old.
//! An unplanned record needs the own copy to be a member.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use twinsite_api::{
    AttachmentMode, AttachmentState, Awaited, Failback, FailoverMode, FailoverPolicy, Leaving,
    LegState, MoveMode, MoveRecord, condition_type, reason,
};
use twinsite_register::{Members, Register};

use crate::policy::{self, Case, Verdict};
use crate::volume::attachments;
use crate::volume::situation::{Situation, drained};
use crate::volume::{FailoverOrder, Plan, Why};

/// What this site does about where the volume is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Course {
    /// As the register says.
    Stay,
    /// The volume is here and leaves: nothing holds it any more.
    Leave(String),
    /// The volume comes here, under this record.
    Arrive(MoveRecord),
}

/// Who wants the volume where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) to: String,
    pub(crate) unplanned: bool,
    /// A Failover object: it does not need the specs to agree.
    pub(crate) by_order: bool,
    pub(crate) reason: String,
}

/// The strongest wish that is not about an emergency.
pub(crate) fn wish(situation: &Situation<'_>, register: &Register) -> Option<Wish> {
    let order = |order: &FailoverOrder| {
        let spec = &order.object.spec;
        Wish {
            to: spec.to.clone(),
            unplanned: spec.mode == FailoverMode::Unplanned,
            by_order: true,
            reason: format!(
                "Failover {}",
                order.object.metadata.name.as_deref().unwrap_or("")
            ),
        }
    };
    if let Some(first) = situation.seen.failovers.first() {
        // A force has its own way, and so has a reseed: the register moves with it.
        let mode = first.object.spec.mode;
        let own_way = matches!(mode, FailoverMode::Force | FailoverMode::Reseed);
        return (!own_way).then(|| order(first));
    }
    let active = situation.site_name(register.active.site);
    let elsewhere = if active == situation.site {
        situation.other_site
    } else {
        situation.site
    };
    let plain = |to: &str, reason: String| Wish {
        to: to.to_owned(),
        unplanned: false,
        by_order: false,
        reason,
    };
    if situation.is_drained(active) {
        return Some(plain(elsewhere, format!("site {active} is drained")));
    }
    let wanted = situation.active_site_wanted();
    if wanted == active || situation.is_drained(wanted) {
        return None;
    }
    if !register.active.latched {
        return Some(plain(wanted, format!("spec.activeSite is {wanted}")));
    }
    let returns = situation.spec().failback.unwrap_or_default() == Failback::WhenInSync;
    (returns && register.members == Members::BOTH).then(|| {
        plain(
            wanted,
            format!("failback to {wanted}: both copies are in sync"),
        )
    })
}

/// What to do, with the reasons for waiting put into the plan.
pub(crate) fn course(situation: &Situation<'_>, plan: &mut Plan) -> Course {
    let prior = situation.last().and_then(|status| status.leaving.clone());
    let Some(register) = situation.live() else {
        plan.leaving = prior;
        return Course::Stay;
    };
    let wish = wish(situation, register);
    if situation.is_active(register) {
        return departure(situation, register, wish, plan);
    }
    let course = coming(situation, register, wish, plan);
    if course == Course::Stay && situation.attachment(AttachmentMode::Writer).is_some() {
        // What the volume was released under is not opened again for the time that it is still there.
        plan.leaving = prior;
    }
    course
}

/// What this site does while the volume is at the other one.
fn coming(
    situation: &Situation<'_>,
    register: &Register,
    wish: Option<Wish>,
    plan: &mut Plan,
) -> Course {
    if let Some(course) = takeover(situation, register, wish.as_ref(), plan) {
        return course;
    }
    match wish {
        Some(wish) if wish.to == situation.site && !wish.unplanned => {
            arrival(situation, register, &wish, plan)
        }
        _ => Course::Stay,
    }
}

/// What both sides of a planned move need.
fn agreed(situation: &Situation<'_>, register: &Register, wish: &Wish) -> Result<(), Why> {
    let wait = |word, text: String| Err(Why::new(word, format!("{}: {text}", wish.reason)));
    let peer = &situation.seen.peer;
    let other = situation.other_site;
    if !peer.reach.answers() {
        return wait(
            condition_type::PEER_REACHABLE,
            format!("the cluster of {other} must answer before a planned move"),
        );
    }
    if let Some(lacks) = &peer.lacks {
        return wait("TwinDiffers", lacks.clone());
    }
    if !wish.by_order {
        let active = situation.site_name(register.active.site);
        let here = situation.is_drained(active);
        let Some(twin) = situation.twin() else {
            return wait(
                "TwinDiffers",
                format!(
                    "the cluster of {other} has no MirroredVolume {}",
                    situation.desired.reference()
                ),
            );
        };
        let theirs_drained = peer
            .pair
            .as_deref()
            .is_some_and(|pair| drained(pair, active));
        if here && !theirs_drained {
            return wait(
                "TwinDiffers",
                format!("the SitePair in the cluster of {other} does not drain {active} yet"),
            );
        }
        if !here && twin.active_site.as_deref() != Some(wish.to.as_str()) {
            let theirs = twin.active_site.as_deref().unwrap_or("another site");
            return wait(
                "TwinDiffers",
                format!("the cluster of {other} wants {theirs} as activeSite: both must agree"),
            );
        }
    }
    if register.members != Members::BOTH {
        return wait(
            condition_type::IN_SYNC,
            "both copies must be in sync before a planned move".to_owned(),
        );
    }
    Ok(())
}

fn departure(
    situation: &Situation<'_>,
    register: &Register,
    wish: Option<Wish>,
    plan: &mut Plan,
) -> Course {
    let Some(wish) = wish.filter(|wish| wish.to != situation.site) else {
        return Course::Stay;
    };
    if wish.unplanned {
        plan.wait(
            reason::PENDING,
            format!("{}: this site is up; an unplanned move is for one that is down: order a Planned one", wish.reason),
        );
        return Course::Stay;
    }
    if let Err(why) = agreed(situation, register, &wish) {
        plan.wait(why.word, why.message);
        return Course::Stay;
    }
    let leaving = leaving(situation, register, &wish.to);
    let is_down = leaving.down;
    plan.leaving = Some(leaving);
    plan.again(SOON);
    if !is_down {
        let text = format!(
            "{}: the pods are placed at {} before they end here",
            wish.reason, wish.to
        );
        plan.wait("Moving", text);
        return Course::Stay;
    }
    let text = match register.holder {
        Some(_) => format!(
            "{}: the volume leaves for {} as soon as nothing holds it here",
            wish.reason, wish.to
        ),
        None => format!("{}: released; {} takes it", wish.reason, wish.to),
    };
    plan.wait("Moving", text.clone());
    Course::Leave(text)
}

/// How far the departure is. Workloads that went down stay so, whatever becomes of the other site's pods.
fn leaving(situation: &Situation<'_>, register: &Register, to: &str) -> Leaving {
    let seq = register.active.seq;
    let prior = situation
        .last()
        .and_then(|status| status.leaving.as_ref())
        .filter(|prior| prior.expect_seq == seq && prior.to == to);
    let overlap = prior.map_or_else(|| all_pods_hold(situation), |prior| prior.overlap);
    let twin = situation.seen.peer.volume.as_ref();
    let theirs = twin.and_then(|twin| twin.status.as_ref());
    // Nobody waits for a site that has not taken the move up: the volume is in use here.
    let taken_up = theirs
        .and_then(|status| status.move_.as_ref())
        .is_some_and(|record| record.mode == MoveMode::Planned && record.expect_seq == seq);
    let since = prior
        .and_then(|prior| prior.since.clone())
        .or_else(|| taken_up.then_some(Time(situation.now)));
    let waited = since
        .as_ref()
        .map_or(0, |since| situation.now.as_second() - since.0.as_second());
    let is_awaited = || {
        let awaited = theirs.and_then(|status| status.awaited.as_ref());
        awaited.is_some_and(|awaited| awaited.expect_seq == seq)
    };
    let down = prior.is_some_and(|prior| prior.down)
        || !overlap
        || register.holder.is_none()
        || is_awaited()
        || (taken_up && waited >= OVERLAP_LIMIT);
    Leaving {
        to: to.to_owned(),
        expect_seq: seq,
        overlap,
        down,
        since,
    }
}

/// Every pod that the workloads have uses the volume, so that none of them can run where the volume is not.
fn all_pods_hold(situation: &Situation<'_>) -> bool {
    let views = &situation.seen.workloads;
    let all = views.iter().all(|view| {
        let pods = situation.seen.pods.iter();
        let own = pods.filter(|pod| pod.is_of(&view.workload)).count();
        view.running.is_some() && view.running == i32::try_from(own).ok()
    });
    all && views.iter().any(|view| view.running > Some(0))
}

/// The old site says that it leaves for this one, and that its pods may be placed here already.
fn is_offered(situation: &Situation<'_>, register: &Register) -> bool {
    let twin = situation.seen.peer.volume.as_ref();
    let leaving = twin.and_then(|twin| twin.status.as_ref()?.leaving.as_ref());
    leaving.is_some_and(|leaving| {
        leaving.to == situation.site && leaving.expect_seq == register.active.seq && leaving.overlap
    })
}

/// The pod that will use the volume is placed here, and all that Kubernetes does before it mounts is done.
pub(crate) fn awaited(situation: &Situation<'_>, record: &MoveRecord) -> Option<Awaited> {
    let writer = situation.attachment(AttachmentMode::Writer)?;
    let node = writer.spec.node.as_str();
    let there = situation.seen.volume_attachments.iter();
    let mut there = there.filter(|one| one.node == node).peekable();
    let attached = there.peek().is_some() && there.all(|one| one.attached && !one.deleting);
    let used = situation.seen.node(node)?.volume_in_use;
    // An attachment of an earlier time says something else.
    let waits = writer.status.as_ref().is_some_and(|status| {
        status.state == AttachmentState::Pending
            && status.reason.as_deref() == Some(reason::HELD_ELSEWHERE)
    });
    let stays = writer.metadata.deletion_timestamp.is_none();
    let comes = stays && waits && !attachments::is_spent(situation, writer);
    (record.mode == MoveMode::Planned && comes && attached && used).then(|| Awaited {
        expect_seq: record.expect_seq,
        node: node.to_owned(),
    })
}

/// Seconds after which the old site lets go although no pod waits at the other one, once that has taken the move up.
const OVERLAP_LIMIT: i64 = 30;

fn arrival(situation: &Situation<'_>, register: &Register, wish: &Wish, plan: &mut Plan) -> Course {
    if let Err(why) = agreed(situation, register, wish) {
        plan.wait(why.word, why.message);
        return Course::Stay;
    }
    if situation.is_drained(situation.site) && !wish.by_order {
        return Course::Stay;
    }
    let is_free = register.holder.is_none() && situation.peer_is_detached() == Some(true);
    if !is_free && !is_offered(situation, register) {
        plan.wait(
            "Moving",
            format!(
                "{}: waits until {} has let go of the volume",
                wish.reason, situation.other_site
            ),
        );
        plan.again(SOON);
        return Course::Stay;
    }
    if !situation.own_is_served() {
        plan.wait(
            condition_type::WAITING_FOR_LEG,
            format!("{}: the copy of this site is not served", wish.reason),
        );
        return Course::Stay;
    }
    plan.wait("Moving", format!("{}: the volume moves here", wish.reason));
    plan.again(SOON);
    Course::Arrive(record(situation, register, MoveMode::Planned, &wish.reason))
}

/// While something is under way the plan is made again after this time, whether something is heard or not.
const SOON: Duration = Duration::from_secs(2);

/// An unplanned move to this site; `None`: there is no question of one.
fn takeover(
    situation: &Situation<'_>,
    register: &Register,
    wish: Option<&Wish>,
    plan: &mut Plan,
) -> Option<Course> {
    let ordered = wish.filter(|wish| wish.unplanned && wish.to == situation.site);
    let active = situation.site_name(register.active.site).to_owned();
    let evidence = situation.seen.evidence;
    let beats = register.holder.is_some()
        && evidence
            .beat_still_for
            .is_none_or(|still| still < policy::BEATS_STILL);
    let is_member = register.members.contains(situation.own_leg());
    // What began goes on, unless the other site turns out to live.
    let prior = prior(situation, register, MoveMode::Failover);
    let detect_after = situation.pair.spec.failover.detect_after.length();
    let lives = evidence
        .site_still_for
        .is_some_and(|still| still < detect_after);
    let beats_again = register.holder.is_some()
        && evidence
            .beat_still_for
            .is_some_and(|still| still < policy::BEATS_STILL);
    if let Some(prior) = prior {
        let stands = is_member && !beats_again && (ordered.is_some() || !lives);
        if stands {
            plan.wait(
                "Moving",
                format!(
                    "takeover from {active}: {}",
                    prior.reason.as_deref().unwrap_or("ordered")
                ),
            );
            plan.again(SOON);
            let mut record = prior.clone();
            if let Some(wish) = ordered.filter(|_| !record.by_person) {
                // The policy began it, a person wants it too: their word is enough for the agent.
                (record.by_person, record.reason) = (true, Some(wish.reason.clone()));
            }
            if ordered.is_none() && situation.pair.spec.failover.policy != FailoverPolicy::Manual {
                // An order that was withdrawn spares nobody the evidence any more.
                record.by_person = false;
            }
            return Some(Course::Arrive(record));
        }
    }
    if let Some(wish) = ordered {
        let hold = |plan: &mut Plan, word: &'static str, text: &str| {
            plan.wait(word, format!("{}: {text}", wish.reason));
            plan.again(SOON);
            Some(Course::Stay)
        };
        if !is_member {
            return hold(
                plan,
                reason::WAIT_MEMBER,
                "the copy here lacks acknowledged writes; see what would be lost with `kubectl twinsite plan`, then force",
            );
        }
        if beats {
            return hold(
                plan,
                reason::STILL_ACTIVE,
                "the writer still beats at the witness: order a Planned move, or stop it there",
            );
        }
        if !situation.own_is_served() {
            return hold(
                plan,
                condition_type::WAITING_FOR_LEG,
                "the copy of this site is not served",
            );
        }
        plan.wait("Moving", format!("{}: takeover from {active}", wish.reason));
        plan.again(SOON);
        let ordered = MoveRecord {
            by_person: true,
            ..record(situation, register, MoveMode::Failover, &wish.reason)
        };
        return Some(Course::Arrive(ordered));
    }
    let mut case = case(situation, register, active.clone(), is_member);
    let by_hand = situation.pair.spec.failover.policy == FailoverPolicy::Manual;
    if by_hand && !register.members.is_empty() {
        // Nothing is moved, but a person is told what is seen.
        case.policy = FailoverPolicy::Observe;
        // What keeps a machine from deciding does not keep a person from being told.
        case.has_array = false;
    }
    match policy::judge(&case) {
        Verdict::Quiet => None,
        Verdict::Wait(text) => {
            plan.policy = Some(Why::new("NotYet", text));
            plan.again(Duration::from_secs(1));
            None
        }
        Verdict::Would(text) if by_hand => {
            let (volume, site) = (situation.desired.reference(), situation.site);
            plan.policy = Some(Why::new(
                PERSON_NEEDED,
                format!(
                    "{text}, and with policy Manual nothing moves by itself: if {active} is down, kubectl twinsite failover {volume} --to {site} --mode unplanned, or --all instead of the volume"
                ),
            ));
            None
        }
        Verdict::Would(text) => {
            plan.policy = Some(Why::new(
                "WouldFailOver",
                format!("policy Observe: Automatic would move the volume here: {text}"),
            ));
            None
        }
        Verdict::Move(text) => {
            plan.took_permit = true;
            plan.wait("Moving", format!("takeover from {active}: {text}"));
            plan.again(SOON);
            let reason = format!("policy Automatic: {text}");
            Some(Course::Arrive(record(
                situation,
                register,
                MoveMode::Failover,
                &reason,
            )))
        }
    }
}

/// The active site shows no sign of life, and only a person moves the volume.
pub(crate) const PERSON_NEEDED: &str = "PersonNeeded";

fn case(
    situation: &Situation<'_>,
    register: &Register,
    active: String,
    own_is_member: bool,
) -> Case {
    let settings = &situation.pair.spec.failover;
    let legs = situation.legs_together();
    let told = || legs.iter().filter_map(|leg| leg.as_ref()?.status.as_ref());
    // The agent tells at once when this passes one of its steps of a second or two; until then it is what was told last,
    // however long ago: a writer that goes on makes no news.
    let foreign_command = told()
        .filter_map(|status| status.last_foreign_command_age)
        .min()
        .map(Duration::from_millis);
    let is_array = |site: &str| {
        situation
            .known_target(site)
            .is_some_and(|target| target.array)
    };
    let last = situation
        .last()
        .and_then(|status| status.last_move.as_ref());
    let last_unplanned = last
        .filter(|last| last.mode == "Unplanned")
        .and_then(|last| last.detected_at.as_ref());
    let last_unplanned = last_unplanned.map(|at| {
        let ago = situation.now.as_second() - at.0.as_second();
        Duration::from_secs(u64::try_from(ago).unwrap_or(0))
    });
    Case {
        policy: if register.members.is_empty() {
            FailoverPolicy::Manual
        } else {
            settings.policy
        },
        detect_after: settings.detect_after.length(),
        active,
        register_is_current: true,
        is_attached: register.holder.is_some(),
        own_is_member,
        own_target_serves: told().count() == legs.len()
            && told().all(|status| status.state == LegState::Serving),
        has_array: is_array(situation.site) || is_array(situation.other_site),
        foreign_command,
        site_still_for: situation.seen.evidence.site_still_for,
        beat_still_for: situation.seen.evidence.beat_still_for,
        last_unplanned,
        is_drained: situation.is_drained(situation.site),
        permit: situation.seen.move_permit,
    }
}

/// The record of the last round, if it is about the same move.
fn prior<'a>(
    situation: &Situation<'a>,
    register: &Register,
    mode: MoveMode,
) -> Option<&'a MoveRecord> {
    let record = situation.last()?.move_.as_ref()?;
    (record.mode == mode && record.expect_seq == register.active.seq).then_some(record)
}

fn record(
    situation: &Situation<'_>,
    register: &Register,
    mode: MoveMode,
    reason: &str,
) -> MoveRecord {
    prior(situation, register, mode)
        .cloned()
        .unwrap_or_else(|| MoveRecord {
            mode,
            expect_seq: register.active.seq,
            ordered_at: Some(Time(situation.now)),
            reason: Some(reason.to_owned()),
            by_person: false,
        })
}
