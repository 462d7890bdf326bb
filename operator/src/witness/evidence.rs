//! How long a sign of life has stood still, by the clock of who looks.
//!
//! Only what was watched without a gap counts: after a look that failed, or a while without looking, the stillness begins
//! anew. A witness that was away for everybody is thus never taken for a site that is dead.
//!
//! Not here: what follows from it (the policy planner); where signs are read ([`super::access`]).

use std::time::Duration;

use tokio::time::Instant;

/// A longer time between two looks is a gap.
pub const LONGEST_GAP: Duration = Duration::from_secs(4);

/// One sign of life and how long it has not changed.
#[derive(Clone, Debug, Default)]
pub struct Still<T> {
    seen: Option<Seen<T>>,
}

#[derive(Clone, Debug)]
struct Seen<T> {
    value: T,
    since: Instant,
    looked: Instant,
}

impl<T: PartialEq> Still<T> {
    /// The sign as it was read by a request that began at `asked`.
    pub fn saw(&mut self, asked: Instant, now: Instant, value: T) {
        let unchanged = self.seen.as_ref().filter(|seen| {
            seen.value == value && now.saturating_duration_since(seen.looked) <= LONGEST_GAP
        });
        // An unchanged value was still there when the request began; a changed one may be as young as the answer.
        let since = unchanged.map_or(now, |seen| seen.since);
        let looked = if unchanged.is_some() { asked } else { now };
        self.seen = Some(Seen {
            value,
            since,
            looked,
        });
    }

    /// A look failed: what was seen before no longer counts.
    pub fn blind(&mut self) {
        self.seen = None;
    }

    /// For how long it has stood still; `None`: not known.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        let seen = self.seen.as_ref()?;
        let fresh = now.saturating_duration_since(seen.looked) <= LONGEST_GAP;
        fresh.then(|| seen.looked.saturating_duration_since(seen.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(still: &mut Still<u64>, start: Instant, second: u64, value: u64) -> Option<u64> {
        let now = start + Duration::from_secs(second);
        still.saw(now, now, value);
        still.age(now).map(|age| age.as_secs())
    }

    #[test]
    fn a_sign_that_moves_has_no_age_and_one_that_stands_still_grows_old() {
        let (start, mut still) = (Instant::now(), Still::default());
        assert_eq!(still.age(start), None);
        assert_eq!(look(&mut still, start, 0, 1), Some(0));
        assert_eq!(look(&mut still, start, 1, 2), Some(0));
        assert_eq!(look(&mut still, start, 2, 2), Some(1));
        assert_eq!(look(&mut still, start, 3, 2), Some(2));
        assert_eq!(look(&mut still, start, 4, 3), Some(0));
    }

    #[test]
    fn what_was_not_watched_does_not_count() {
        let (start, mut still) = (Instant::now(), Still::default());
        look(&mut still, start, 0, 1);
        assert_eq!(look(&mut still, start, 1, 1), Some(1));
        // The process stood still for a minute.
        assert_eq!(still.age(start + Duration::from_secs(61)), None);
        assert_eq!(look(&mut still, start, 61, 1), Some(0));
        assert_eq!(look(&mut still, start, 62, 1), Some(1));
        // The witness did not answer once.
        still.blind();
        assert_eq!(still.age(start + Duration::from_secs(62)), None);
        assert_eq!(look(&mut still, start, 63, 1), Some(0));
    }

    #[test]
    fn a_slow_answer_makes_nothing_older_than_its_question() {
        let (start, mut still) = (Instant::now(), Still::default());
        look(&mut still, start, 0, 1);
        let (asked, now) = (
            start + Duration::from_secs(1),
            start + Duration::from_secs(3),
        );
        still.saw(asked, now, 1);
        assert_eq!(still.age(now), Some(Duration::from_secs(1)));
    }
}
