//! How long a failed watch waits before it is repeated: doubling up to a bound, for ever.

use std::time::Duration;

use kube::runtime::utils::Backoff;

use super::random::random;

/// A wait that doubles from the first to the longest, give or take a quarter so that not everything asks at once.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Patience {
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }
}

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.next;
        self.next = self.next.saturating_mul(2).min(self.longest);
        let [dice] = random::<1>();
        // 75 % to 125 % of it.
        Some(wait.mul_f64(0.75 + f64::from(dice) / 510.0))
    }
}

impl Backoff for Patience {
    fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew() {
        let mut patience = Patience::new(Duration::from_millis(100), Duration::from_millis(400));
        let near = |wait: Duration, wanted: u64| {
            let wanted = Duration::from_millis(wanted);
            assert!(
                wait >= wanted * 3 / 4 && wait <= wanted * 5 / 4,
                "{wait:?} {wanted:?}"
            );
        };
        for wanted in [100, 200, 400, 400] {
            near(patience.next().unwrap(), wanted);
        }
        patience.reset();
        near(patience.next().unwrap(), 100);
    }
}
