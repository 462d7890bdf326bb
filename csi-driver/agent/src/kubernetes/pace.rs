//! When a status goes to the API server: news soon, numbers seldom, a sign of life now and then.
//!
//! Pure. A node may hold a thousand objects whose numbers move all the time; the API server and everybody who watches
//! should hear of what happened, not of each byte.
//!
//! | what differs from what was sent | earliest after the last one |
//! |---|---|
//! | anything but numbers | [`NEWS`]; [`QUICK`] up to [`SPARE`] times, each earned back by a second of silence |
//! | numbers, while a resync runs | [`PROGRESS`] |
//! | numbers | [`NUMBERS`] |
//! | nothing | [`LIFE`] |
//! | nothing, but the object says otherwise | [`NEWS`], until the watch shows it again |

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};

pub(crate) const NEWS: Duration = Duration::from_secs(1);
/// An attach comes from its order to its device in less than a second, and somebody waits for each step.
pub(crate) const QUICK: Duration = Duration::from_millis(100);
const SPARE: u32 = 3;
pub(crate) const PROGRESS: Duration = Duration::from_secs(2);
pub(crate) const NUMBERS: Duration = Duration::from_secs(10);
pub(crate) const LIFE: Duration = Duration::from_secs(60);
/// After a failure: this, doubled with each further one up to [`MAX_BACK_OFF`].
const BACK_OFF: Duration = Duration::from_secs(1);
const MAX_BACK_OFF: Duration = Duration::from_secs(15);

/// Fields whose change is not news.
const NUMBER_FIELDS: [&str; 13] = [
    "allocatedBytes",
    "bytesPerSecond",
    "chunks",
    "comparedBytes",
    "dirtyBytes",
    "etaSeconds",
    "free",
    "freeBytes",
    "percent",
    "resync",
    "resyncBytesPerSecond",
    "resyncCopiedBytes",
    "resyncPercent",
];
/// Fields whose change is nothing at all: instants of looking.
const INSTANTS: [&str; 3] = ["lastTransitionTime", "observedAt", "readAt"];
/// Age of the other site's last command: news when it passes one of these, in milliseconds.
const AGE: &str = "lastForeignCommandAge";
const AGES: [u64; 12] = [
    1_000, 2_000, 3_000, 4_000, 5_000, 6_000, 8_000, 10_000, 15_000, 20_000, 30_000, 60_000,
];

/// What was sent of one object.
#[derive(Debug)]
pub(crate) struct Pace {
    sent: Option<Sent>,
    /// How often news may be quick.
    spare: u32,
    /// The status that was looked at last, and when it should go: what moves is compared once and not at each turn.
    judged: Option<(Arc<Value>, Duration)>,
    failures: u32,
    /// Not before this.
    hold: Duration,
}

#[derive(Debug)]
struct Sent {
    at: Duration,
    status: Arc<Value>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            sent: None,
            spare: SPARE,
            judged: None,
            failures: 0,
            hold: Duration::ZERO,
        }
    }
}

impl Pace {
    /// When this status should go.
    pub(crate) fn due(&mut self, status: &Arc<Value>) -> Duration {
        let Some(sent) = &self.sent else {
            return self.hold;
        };
        let at = match &self.judged {
            Some((judged, at)) if Arc::ptr_eq(judged, status) => *at,
            _ => {
                let at = sent.at + wait(&sent.status, status, self.spare);
                self.judged = Some((Arc::clone(status), at));
                at
            }
        };
        at.max(self.hold)
    }

    /// When a status may go that stands otherwise on the object than it was sent.
    pub(crate) fn answer(&self) -> Duration {
        let sent = self
            .sent
            .as_ref()
            .map_or(Duration::ZERO, |sent| sent.at + NEWS);
        sent.max(self.hold)
    }

    /// Whether it has something to tell that the API server does not know, however soon that is.
    pub(crate) fn owes(&self, status: &Value) -> bool {
        self.sent
            .as_ref()
            .is_none_or(|sent| news(&sent.status) != news(status))
    }

    /// The API server has it.
    pub(crate) fn sent(&mut self, at: Duration, status: Arc<Value>) {
        let silence = self.sent.as_ref().map_or(at, |sent| at - sent.at);
        let earned = u32::try_from(silence.as_secs()).unwrap_or(SPARE);
        self.spare = self
            .spare
            .saturating_add(earned)
            .min(SPARE)
            .saturating_sub(1);
        self.sent = Some(Sent { at, status });
        self.judged = None;
        self.failures = 0;
        self.hold = Duration::ZERO;
    }

    /// It has not; says whether that is news.
    pub(crate) fn failed(&mut self, at: Duration) -> bool {
        let first = self.failures == 0;
        let wait = BACK_OFF * 2u32.pow(self.failures.min(8));
        self.failures = self.failures.saturating_add(1);
        self.hold = at + wait.min(MAX_BACK_OFF);
        first
    }

    /// Whether a failure still holds requests about the object back.
    pub(crate) fn held_back(&self, now: Duration) -> bool {
        self.hold > now
    }

    /// The object is another one now, or its status was lost: everything is news again.
    pub(crate) fn forget(&mut self) {
        self.sent = None;
    }
}

fn wait(sent: &Value, status: &Value, spare: u32) -> Duration {
    if sent == status {
        LIFE
    } else if news(sent) != news(status) {
        if spare > 0 { QUICK } else { NEWS }
    } else if numbers(sent) == numbers(status) {
        LIFE
    } else if status["resyncPercent"].is_null() {
        NUMBERS
    } else {
        PROGRESS
    }
}

/// A status without what moves on its own.
fn news(status: &Value) -> Value {
    without(status, &|key| {
        NUMBER_FIELDS.contains(&key) || INSTANTS.contains(&key)
    })
}

fn numbers(status: &Value) -> Value {
    without(status, &|key| INSTANTS.contains(&key))
}

fn without(value: &Value, left_out: &dyn Fn(&str) -> bool) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(key, _)| !left_out(key));
            let kept: Map<String, Value> = kept
                .map(|(key, value)| match (key.as_str(), value.as_u64()) {
                    (AGE, Some(age)) => (key.clone(), step(age).into()),
                    _ => (key.clone(), without(value, left_out)),
                })
                .collect();
            Value::Object(kept)
        }
        Value::Array(items) => {
            let items = items.iter().map(|item| without(item, left_out));
            Value::Array(items.collect())
        }
        other => other.clone(),
    }
}

/// How many of the [`AGES`] an age has passed.
fn step(age: u64) -> usize {
    AGES.iter().filter(|limit| age >= **limit).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const SENT: Duration = Duration::from_secs(100);

    fn check(before: Value, after: Value, wait: Duration) {
        let mut pace = Pace {
            spare: 0,
            sent: Some(Sent {
                at: SENT,
                status: Arc::new(before.clone()),
            }),
            ..Pace::default()
        };
        let due = pace.due(&Arc::new(after.clone()));
        assert_eq!(due, SENT + wait, "{before} -> {after}");
    }

    #[test]
    fn news_goes_soon_and_numbers_seldom() {
        let first = Pace::default().due(&Arc::new(json!({})));
        assert_eq!(first, Duration::ZERO);
        check(
            json!({"state": "Attaching"}),
            json!({"state": "Attached"}),
            NEWS,
        );
        check(json!({"dirtyBytes": 1}), json!({"dirtyBytes": 2}), NUMBERS);
        check(json!({"free": "9Gi"}), json!({"free": "8Gi"}), NUMBERS);
        check(
            json!({"resyncPercent": 1}),
            json!({"resyncPercent": 2}),
            PROGRESS,
        );
        check(json!({}), json!({"resyncPercent": 2}), PROGRESS);
        check(
            json!({"state": "Attached"}),
            json!({"state": "Attached"}),
            LIFE,
        );
        let legs =
            |dirty: u64, state: &str| json!({"legs": [{"dirtyBytes": dirty, "state": state}]});
        check(legs(1, "Member"), legs(2, "Member"), NUMBERS);
        check(legs(1, "Member"), legs(1, "Outdated"), NEWS);
        let read = |at: &str| json!({"register": {"epoch": 1, "readAt": at}});
        check(read("now"), read("then"), LIFE);
    }

    #[test]
    fn what_stands_otherwise_on_the_object_is_said_again_each_second() {
        let mut pace = Pace::default();
        assert_eq!(pace.answer(), Duration::ZERO);
        let status = Arc::new(json!({"state": "Serving"}));
        pace.sent(SENT, Arc::clone(&status));
        assert_eq!(pace.due(&status), SENT + LIFE);
        assert_eq!(pace.answer(), SENT + NEWS);
        pace.failed(SENT + NEWS);
        assert_eq!(pace.answer(), SENT + NEWS + BACK_OFF);
    }

    #[test]
    fn a_few_steps_in_a_row_are_told_at_once_and_a_flutter_each_second() {
        let mut pace = Pace::default();
        let (mut now, mut sends) = (SENT, Vec::new());
        for step in 0..8 {
            let status = Arc::new(json!({"state": step}));
            let due = pace.due(&status).max(now);
            sends.push((due - SENT).as_millis());
            pace.sent(due, status);
            now = due;
        }
        assert_eq!(sends, [0, 100, 200, 1200, 2200, 3200, 4200, 5200]);
    }

    #[test]
    fn the_age_of_a_foreign_command_is_news_at_its_steps() {
        let age = |age: u64| json!({"lastForeignCommandAge": age});
        check(age(120), age(900), LIFE);
        check(age(900), age(1_000), NEWS);
        check(age(4_999), age(5_001), NEWS);
        check(age(70_000), age(700_000), LIFE);
        check(json!({}), age(1), NEWS);
    }

    #[test]
    fn a_failure_is_followed_by_longer_and_longer_waits_and_a_success_ends_them() {
        let mut pace = Pace::default();
        let status = Arc::new(json!({"state": "Attached"}));
        let mut waits = Vec::new();
        for _ in 0..6 {
            pace.failed(SENT);
            waits.push((pace.due(&status) - SENT).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 15, 15]);
        pace.sent(SENT, Arc::clone(&status));
        pace.failed(SENT);
        pace.forget();
        assert_eq!(pace.due(&status), SENT + BACK_OFF);
    }
}
