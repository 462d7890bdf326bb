//! Which regions still have to be copied from one leg to the other, in what order and how fast.
//!
//! Serves a rejoin (regions in which the joining leg may differ), the reconcile after an attach (pending regions) and
//! regions whose write ended in an error (must-reconcile). A guest that waits for a region goes first and is not slowed
//! down by the rate limit. A region leaves the set only when the target has it durably, so a copy that is cut short starts
//! again.
//!
//! Not here: the locks a copy holds and the leg commands (`serve/copy.rs`).

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use crate::config::Config;
use crate::layout::Geometry;
use crate::rate::{Bucket, Meter};
use crate::regions::{RegionSet, extent};
use crate::status::Progress;

/// The regions left and the order of copying.
#[derive(Debug)]
pub(crate) struct Resync {
    geometry: Geometry,
    copy_max: u32,
    todo: RegionSet,
    /// Regions of copies under way.
    busy: RegionSet,
    urgent: VecDeque<u32>,
    cursor: u32,
    /// Whole passes over the set.
    passes: u32,
    bucket: Bucket,
    meter: Meter,
    total: u64,
    full: bool,
}

/// What to copy next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    Copy(Range<u32>),
    /// The rate limit says: not before.
    At(Duration),
    /// Nothing that is not under way already.
    Nothing,
}

impl Resync {
    pub(crate) fn new(
        now: Duration,
        config: &Config,
        geometry: Geometry,
        todo: RegionSet,
        full: bool,
    ) -> Self {
        let total = u64::from(todo.len()) << geometry.region_shift();
        Self {
            geometry,
            copy_max: config.copy_max.max(1 << geometry.region_shift()),
            todo,
            busy: RegionSet::new(),
            urgent: VecDeque::new(),
            cursor: 0,
            passes: 0,
            bucket: Bucket::new(now, config.resync_bytes_per_second, config.copy_max),
            meter: Meter::new(now),
            total,
            full,
        }
    }

    /// From now on no faster than this.
    pub(crate) fn set_rate(&mut self, now: Duration, rate: Option<u64>) {
        self.bucket.set_rate(now, rate, self.copy_max);
    }

    /// Nothing is left and nothing is under way.
    pub(crate) fn is_done(&self) -> bool {
        self.todo.is_empty()
    }

    pub(crate) fn left_bytes(&self) -> u64 {
        (u64::from(self.todo.len()) << self.geometry.region_shift()).min(self.geometry.size())
    }

    pub(crate) fn passes(&self) -> u32 {
        self.passes
    }

    /// The region must be copied (again).
    pub(crate) fn add(&mut self, region: u32) {
        if self.todo.insert(region) {
            self.total = self
                .total
                .max(u64::from(self.todo.len()) << self.geometry.region_shift());
        }
    }

    /// A guest waits for this region.
    pub(crate) fn hurry(&mut self, region: u32) {
        if self.todo.contains(region)
            && !self.busy.contains(region)
            && !self.urgent.contains(&region)
        {
            self.urgent.push_back(region);
        }
    }

    /// The next run of regions to copy; it counts as under way.
    pub(crate) fn next(&mut self, now: Duration) -> Next {
        self.bucket.fill(now);
        while let Some(region) = self.urgent.pop_front() {
            if self.todo.contains(region) && !self.busy.contains(region) {
                return self.take(region..region + 1);
            }
        }
        if self.todo.len() == self.busy.len() {
            return Next::Nothing;
        }
        if let Some(at) = self.bucket.wait() {
            return Next::At(at);
        }
        let mut from = self.cursor;
        let first = loop {
            match self.todo.next(from) {
                Some(region) if self.busy.contains(region) => from = region + 1,
                Some(region) => break region,
                None if from == 0 => return Next::Nothing,
                None => {
                    from = 0;
                    self.passes += 1;
                }
            }
        };
        let longest = self.copy_max >> self.geometry.region_shift();
        let mut end = first + 1;
        while end - first < longest && self.todo.contains(end) && !self.busy.contains(end) {
            end += 1;
        }
        self.cursor = end;
        self.take(first..end)
    }

    fn take(&mut self, run: Range<u32>) -> Next {
        for region in run.clone() {
            self.busy.insert(region);
        }
        self.bucket.spend(extent(self.geometry, run.clone()).1);
        Next::Copy(run)
    }

    /// The copy of this run is over: with `copied` it is durable on the target and leaves the set.
    pub(crate) fn finish(&mut self, now: Duration, run: Range<u32>, copied: bool) {
        if copied {
            self.meter.add(now, extent(self.geometry, run.clone()).1);
        }
        for region in run {
            self.busy.remove(region);
            if copied {
                self.todo.remove(region);
            }
        }
    }

    pub(crate) fn progress(&self) -> Progress {
        let left = self.left_bytes();
        let speed = self.meter.per_second();
        Progress {
            total_bytes: self.total.min(self.geometry.size()),
            left_bytes: left,
            bytes_per_second: speed,
            eta: left.checked_div(speed).map(Duration::from_secs),
            full: self.full,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resync(regions: impl IntoIterator<Item = u32>, rate: Option<u64>) -> Resync {
        let mut todo = RegionSet::new();
        regions.into_iter().for_each(|region| {
            todo.insert(region);
        });
        let config = Config {
            resync_bytes_per_second: rate,
            copy_max: 1 << 18,
            ..Config::default()
        };
        Resync::new(
            Duration::ZERO,
            &config,
            Geometry::new(100 << 16, 16).unwrap(),
            todo,
            false,
        )
    }

    #[test]
    fn runs_are_joined_up_to_the_longest_copy_and_never_taken_twice() {
        let mut r = resync([0, 1, 2, 3, 4, 9], None);
        assert_eq!(r.next(Duration::ZERO), Next::Copy(0..4));
        assert_eq!(r.next(Duration::ZERO), Next::Copy(4..5));
        assert_eq!(r.next(Duration::ZERO), Next::Copy(9..10));
        assert_eq!(r.next(Duration::ZERO), Next::Nothing);
        r.finish(Duration::ZERO, 4..5, false);
        assert_eq!(
            r.next(Duration::ZERO),
            Next::Copy(4..5),
            "not copied: again"
        );
        for run in [0..4, 4..5, 9..10] {
            r.finish(Duration::ZERO, run, true);
        }
        assert!(r.is_done());
    }

    #[test]
    fn a_waiting_guest_goes_first_and_past_the_rate_limit() {
        let mut r = resync(0..50, Some(1 << 18));
        assert_eq!(r.next(Duration::ZERO), Next::Copy(0..4));
        let Next::At(at) = r.next(Duration::ZERO) else {
            panic!("the bucket is empty")
        };
        assert!(at > Duration::ZERO && at < Duration::from_secs(1));
        r.hurry(33);
        r.hurry(33);
        assert_eq!(r.next(Duration::ZERO), Next::Copy(33..34));
        assert!(matches!(r.next(Duration::ZERO), Next::At(later) if later > at));
        assert_eq!(r.next(Duration::from_secs(2)), Next::Copy(4..8));
    }

    #[test]
    fn the_rate_limit_holds_over_time() {
        let mut r = resync(0..100, Some(1 << 20));
        let (mut now, mut copied) = (Duration::ZERO, 0u64);
        loop {
            match r.next(now) {
                Next::Copy(run) => {
                    copied += u64::from(run.end - run.start) << 16;
                    r.finish(now, run, true);
                }
                Next::At(at) => now = at,
                Next::Nothing => break,
            }
        }
        assert_eq!(copied, 100 << 16);
        let seconds = now.as_secs_f64();
        assert!(
            (5.5..6.5).contains(&seconds),
            "6.25 MiB less the burst at 1 MiB/s: {seconds}"
        );
        assert!(r.progress().bytes_per_second > 900_000);
    }
}
