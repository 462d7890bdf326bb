//! How fast work beside the guest goes: a limit that is kept over time, and the speed that came of it.

use std::time::Duration;

/// Bytes per second as a bucket of bytes; `most` bytes go at once at least.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    rate: Option<u64>,
    /// Bytes that may be sent now; below zero after urgent copies.
    level: i64,
    burst: i64,
    filled: Duration,
}

impl Bucket {
    pub(crate) fn new(now: Duration, rate: Option<u64>, most: u32) -> Self {
        let burst = i64::try_from(rate.unwrap_or(0) / 10)
            .unwrap_or(i64::MAX)
            .max(i64::from(most));
        Self {
            rate,
            level: burst,
            burst,
            filled: now,
        }
    }

    /// From now on no faster than this.
    pub(crate) fn set_rate(&mut self, now: Duration, rate: Option<u64>, most: u32) {
        self.fill(now);
        let level = self.level;
        *self = Self::new(now, rate, most);
        self.level = self.level.min(level);
    }

    pub(crate) fn fill(&mut self, now: Duration) {
        let Some(rate) = self.rate else { return };
        let nanos = u64::try_from(now.saturating_sub(self.filled).as_nanos()).unwrap_or(u64::MAX);
        let bytes = u128::from(nanos) * u128::from(rate) / 1_000_000_000;
        if bytes > 0 {
            self.level = self
                .level
                .saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX))
                .min(self.burst);
            self.filled = now;
        }
    }

    /// When there is something to spend; `None` = now.
    pub(crate) fn wait(&self) -> Option<Duration> {
        let rate = self.rate?.max(1);
        if self.level > 0 {
            return None;
        }
        let missing = u64::try_from(1 - self.level).unwrap_or(u64::MAX);
        Some(
            self.filled
                + Duration::from_nanos(
                    (u128::from(missing) * 1_000_000_000 / u128::from(rate)) as u64 + 1,
                ),
        )
    }

    pub(crate) fn spend(&mut self, bytes: u64) {
        if self.rate.is_some() {
            self.level = self
                .level
                .saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }
}

/// Speed over the last seconds, for the ETA.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meter {
    since: Duration,
    bytes: u64,
    per_second: u64,
}

impl Meter {
    pub(crate) const fn new(now: Duration) -> Self {
        Self {
            since: now,
            bytes: 0,
            per_second: 0,
        }
    }

    pub(crate) const fn per_second(&self) -> u64 {
        self.per_second
    }

    pub(crate) fn add(&mut self, now: Duration, bytes: u64) {
        self.bytes += bytes;
        let span = now.saturating_sub(self.since);
        if span >= Duration::from_secs(1) {
            let speed = (u128::from(self.bytes) * 1_000_000_000 / span.as_nanos().max(1)) as u64;
            self.per_second = if self.per_second == 0 {
                speed
            } else {
                (self.per_second * 3 + speed) / 4
            };
            self.since = now;
            self.bytes = 0;
        }
    }
}
