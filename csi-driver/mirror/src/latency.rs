//! What guest requests take, and what follows from it: how fast a resync may go beside them, and when a leg is so slow that
//! the volume is better off without it (protocol 2.15).
//!
//! Latencies are counted in a window of buckets that grow by a factor of two, so a percentile is known to that factor; the
//! decisions leave more room than that.

use std::time::Duration;

use twinsite_register::Leg;

/// One window.
const WINDOW: Duration = Duration::from_millis(500);
const BUCKETS: usize = 32;

/// Latencies of one window: bucket n counts those of less than 2^n microseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Histogram {
    counts: [u32; BUCKETS],
    all: u32,
}

impl Histogram {
    fn add(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.counts[bucket.min(BUCKETS - 1)] += 1;
        self.all += 1;
    }

    /// The bound below which 99 of 100 are; `None`: there were none.
    fn p99(&self) -> Option<Duration> {
        let above = self.all / 100;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate().rev() {
            seen += count;
            if seen > above {
                return Some(Duration::from_micros(1 << bucket));
            }
        }
        None
    }
}

/// The rate of a resync by additive increase and multiplicative decrease: the guest goes first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// What a person set; `None` = unlimited.
    ceiling: Option<u64>,
    /// What is allowed now.
    rate: Option<u64>,
    /// p99 of the guest while nothing is copied.
    usual: Option<Duration>,
    window: Histogram,
    copied: u64,
    ends: Duration,
}

/// A resync is never slowed down below this.
const SLOWEST: u64 = 4 << 20;
/// A window with fewer requests says nothing of their latency.
const ENOUGH: u32 = 8;
/// Slower than twice the usual, and by this much, is too slow.
const SLACK: Duration = Duration::from_millis(5);

impl Pace {
    pub(crate) fn new(now: Duration, ceiling: Option<u64>) -> Self {
        Self {
            ceiling,
            rate: ceiling,
            usual: None,
            window: Histogram::default(),
            copied: 0,
            ends: now + WINDOW,
        }
    }

    /// What is allowed now; `None` = unlimited.
    pub(crate) const fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// A guest request took this long.
    pub(crate) fn took(&mut self, took: Duration) {
        self.window.add(took);
    }

    pub(crate) fn copied(&mut self, bytes: u64) {
        self.copied += bytes;
    }

    /// End the window if its time is over. `Some`: the rate from now on.
    pub(crate) fn turn(&mut self, now: Duration) -> Option<Option<u64>> {
        if now < self.ends {
            return None;
        }
        let long = now.saturating_sub(self.ends) + WINDOW;
        let (window, copied) = (self.window, self.copied);
        (self.window, self.copied, self.ends) = (Histogram::default(), 0, now + WINDOW);
        let before = self.rate;
        if copied == 0 {
            self.rest(&window);
        } else {
            let speed = (u128::from(copied) * 1000 / long.as_millis().max(1)) as u64;
            self.adapt(&window, speed);
        }
        (self.rate != before).then_some(self.rate)
    }

    fn rest(&mut self, window: &Histogram) {
        if let Some(p99) = window.p99().filter(|_| window.all >= ENOUGH) {
            self.usual = Some(self.usual.map_or(p99, |usual| (usual * 7 + p99) / 8));
        }
        self.rate = self.ceiling;
    }

    fn adapt(&mut self, window: &Histogram, speed: u64) {
        let slow = window.all >= ENOUGH
            && self
                .usual
                .zip(window.p99())
                .is_some_and(|(usual, p99)| p99 > (usual * 2).max(usual + SLACK));
        let most = self.ceiling.unwrap_or(u64::MAX);
        if slow {
            let now = self.rate.unwrap_or(u64::MAX).min(speed);
            self.rate = Some((now / 2).max(SLOWEST).min(most));
        } else if let Some(rate) = self.rate {
            let more = rate.saturating_add((rate / 8).max(SLOWEST));
            // Nobody holds it back any more: the source, the target or the line do.
            let free = self.ceiling.is_none() && more / 4 > speed.max(SLOWEST);
            self.rate = if free { None } else { Some(more.min(most)) };
        }
    }
}

/// Looks for a leg that is slow for long while the other one is not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slowness {
    limit: Option<Duration>,
    windows: [Histogram; 2],
    ends: Duration,
    /// p99 of the last window with commands: few and slow ones do not end in the windows of the other leg's.
    last: [Option<Duration>; 2],
    since: [Option<Duration>; 2],
    /// Not before: the budget of the last time.
    next: Duration,
}

/// So long over the limit.
const SLOW_FOR: Duration = Duration::from_secs(30);
/// One leg in this time.
const BUDGET: Duration = Duration::from_secs(600);

impl Slowness {
    pub(crate) const fn new(now: Duration, limit: Option<Duration>) -> Self {
        Self {
            limit,
            windows: [Histogram {
                counts: [0; BUCKETS],
                all: 0,
            }; 2],
            ends: now,
            last: [None; 2],
            since: [None; 2],
            next: now,
        }
    }

    /// A command of the guest to this leg took this long.
    pub(crate) fn took(&mut self, leg: Leg, took: Duration) {
        self.windows[leg.index()].add(took);
    }

    /// The membership changed: what was slow before says nothing.
    pub(crate) fn forget(&mut self) {
        (self.last, self.since) = ([None; 2], [None; 2]);
        self.windows = [Histogram::default(); 2];
    }

    /// The leg that the volume is better off without, at most one per budget.
    pub(crate) fn turn(&mut self, now: Duration) -> Option<Leg> {
        let limit = self.limit?;
        if now < self.ends {
            return None;
        }
        self.ends = now + WINDOW * 2;
        let p99 = self.windows.map(|window| window.p99());
        self.windows = [Histogram::default(); 2];
        for leg in Leg::BOTH {
            self.last[leg.index()] = p99[leg.index()].or(self.last[leg.index()]);
        }
        for leg in Leg::BOTH {
            let Some(own) = p99[leg.index()] else {
                continue;
            };
            // Both slow is the machine or the load, and no leg is better.
            let other = self.last[leg.other().index()];
            let slow = own > limit && other.is_some_and(|other| other * 4 <= limit);
            let since = &mut self.since[leg.index()];
            *since = slow.then(|| since.unwrap_or(now));
        }
        let long = |leg: &Leg| self.since[leg.index()].is_some_and(|at| at + SLOW_FOR <= now);
        let leg = Leg::BOTH.into_iter().find(long)?;
        if now < self.next {
            return None;
        }
        self.next = now + BUDGET;
        self.forget();
        Some(leg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;
    const MIB: u64 = 1 << 20;

    /// One window of `n` requests and `bytes` copied; the rate after it.
    fn window(
        pace: &mut Pace,
        now: &mut Duration,
        took: Duration,
        n: u32,
        bytes: u64,
    ) -> Option<u64> {
        for _ in 0..n {
            pace.took(took);
        }
        pace.copied(bytes);
        *now += WINDOW;
        pace.turn(*now);
        pace.rate
    }

    #[test]
    fn a_resync_halves_when_the_guest_suffers_and_recovers_step_by_step() {
        let mut now = MS(0);
        let mut pace = Pace::new(now, Some(200 * MIB));
        window(&mut pace, &mut now, MS(1), 100, 0);
        assert_eq!(
            window(&mut pace, &mut now, MS(1), 100, 100 * MIB),
            Some(200 * MIB)
        );
        assert_eq!(
            window(&mut pace, &mut now, MS(40), 100, 100 * MIB),
            Some(100 * MIB)
        );
        assert_eq!(
            window(&mut pace, &mut now, MS(40), 100, 50 * MIB),
            Some(50 * MIB)
        );
        let mut last = 50 * MIB;
        for _ in 0..30 {
            let rate = window(&mut pace, &mut now, MS(1), 100, last / 2).unwrap();
            assert!(rate > last || rate == 200 * MIB);
            last = rate;
        }
        assert_eq!(last, 200 * MIB, "never above what a person set");
        for _ in 0..30 {
            window(&mut pace, &mut now, MS(900), 100, MIB);
        }
        assert_eq!(pace.rate, Some(SLOWEST), "and never to a standstill");
    }

    #[test]
    fn an_idle_guest_slows_nothing_and_without_a_ceiling_the_measured_speed_is_what_is_halved() {
        let mut now = MS(0);
        let mut pace = Pace::new(now, None);
        assert_eq!(
            window(&mut pace, &mut now, MS(900), 3, 500 * MIB),
            None,
            "nothing is known"
        );
        window(&mut pace, &mut now, MS(1), 100, 0);
        assert_eq!(
            window(&mut pace, &mut now, MS(900), 3, 500 * MIB),
            None,
            "three are no measure"
        );
        let halved = window(&mut pace, &mut now, MS(900), 50, 500 * MIB);
        assert_eq!(halved, Some(500 * MIB));
        for _ in 0..60 {
            window(&mut pace, &mut now, MS(1), 50, 100 * MIB);
        }
        assert_eq!(pace.rate, None, "the rate is not what holds it back");
    }

    #[test]
    fn a_leg_is_given_up_after_thirty_slow_seconds_once_in_ten_minutes_and_only_if_the_other_is_well()
     {
        let run = |far: u64, near: u64, slow: &mut Slowness, now: &mut Duration, seconds: u64| {
            let mut given_up = vec![];
            for _ in 0..seconds {
                for _ in 0..10 {
                    slow.took(Leg::A, MS(near));
                    slow.took(Leg::B, MS(far));
                }
                *now += MS(1000);
                given_up.extend(slow.turn(*now));
            }
            given_up
        };
        let mut now = MS(0);
        let mut slow = Slowness::new(now, Some(MS(1000)));
        assert!(run(1500, 10, &mut slow, &mut now, 20).is_empty());
        assert!(
            run(10, 10, &mut slow, &mut now, 5).is_empty(),
            "it begins anew"
        );
        assert!(run(1500, 10, &mut slow, &mut now, 29).is_empty());
        assert_eq!(run(1500, 10, &mut slow, &mut now, 5), [Leg::B]);
        assert!(
            run(1500, 10, &mut slow, &mut now, 300).is_empty(),
            "the budget"
        );
        assert_eq!(run(1500, 10, &mut slow, &mut now, 300), [Leg::B]);
        let mut slow = Slowness::new(now, Some(MS(1000)));
        assert!(
            run(1500, 900, &mut slow, &mut now, 100).is_empty(),
            "both are slow"
        );
        let mut off = Slowness::new(now, None);
        assert!(run(1500, 10, &mut off, &mut now, 100).is_empty());
    }

    /// A guest that waits for each answer: the slow leg's come in windows in which the other one was asked nothing.
    #[test]
    fn a_leg_so_slow_that_its_answers_come_alone_is_given_up_too() {
        let mut slow = Slowness::new(MS(0), Some(MS(1000)));
        let mut given_up = vec![];
        for second in 1..=40 {
            match second % 2 {
                0 => slow.took(Leg::B, MS(1700)),
                _ => slow.took(Leg::A, MS(1)),
            }
            given_up.extend(slow.turn(MS(1000 * second)));
        }
        assert_eq!(given_up, [Leg::B]);
    }
}
