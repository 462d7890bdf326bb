//! The read lease: while it runs, no other writer can have begun to serve (R8, R27).
//!
//! A new owner fences a leg of its set and then waits out our lease. So a read from the local leg is not stale if an I/O
//! that was **sent** less than `T_lease` ago completed with GOOD on both legs: then nobody had fenced either of them when
//! it was sent. Entering a state never grants it. A gap in the event loop voids it, because completions that lay in the
//! kernel meanwhile say nothing about now.

use std::time::Duration;

use twinsite_register::Leg;

/// The lease of one attach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lease {
    length: Duration,
    /// Send time of the youngest I/O that completed, per leg.
    proof: [Option<Duration>; 2],
    last_turn: Duration,
}

impl Lease {
    pub(crate) const fn new(now: Duration, length: Duration) -> Self {
        Self {
            length,
            proof: [None; 2],
            last_turn: now,
        }
    }

    /// The event loop turned. A gap of more than a quarter of the lease voids it.
    pub(crate) fn turn(&mut self, now: Duration) {
        if now.saturating_sub(self.last_turn) > self.length / 4 {
            self.void();
        }
        self.last_turn = now;
    }

    /// An I/O sent at `sent` completed with GOOD on `leg`.
    pub(crate) fn proved(&mut self, leg: Leg, sent: Duration) {
        let proof = &mut self.proof[leg.index()];
        *proof = (*proof).max(Some(sent));
    }

    pub(crate) fn void(&mut self) {
        self.proof = [None; 2];
    }

    /// The older of the two proofs: the lease runs from it.
    pub(crate) fn from(&self) -> Option<Duration> {
        Some(self.proof[0]?.min(self.proof[1]?))
    }

    pub(crate) fn runs(&self, now: Duration) -> bool {
        self.from().is_some_and(|from| now < from + self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn it_runs_from_the_send_of_an_io_that_completed_on_both_legs() {
        let mut lease = Lease::new(ms(0), ms(3000));
        assert!(!lease.runs(ms(0)), "never granted by a state change");
        lease.proved(Leg::A, ms(100));
        assert!(!lease.runs(ms(100)));
        lease.proved(Leg::B, ms(200));
        assert!(lease.runs(ms(3099)) && !lease.runs(ms(3100)));
        lease.proved(Leg::A, ms(50));
        assert_eq!(
            lease.from(),
            Some(ms(100)),
            "an older proof changes nothing"
        );
    }

    #[test]
    fn a_gap_in_the_event_loop_voids_it() {
        let mut lease = Lease::new(ms(0), ms(3000));
        lease.proved(Leg::A, ms(0));
        lease.proved(Leg::B, ms(0));
        lease.turn(ms(750));
        assert!(lease.runs(ms(750)));
        lease.turn(ms(1501));
        assert!(!lease.runs(ms(1501)));
    }
}
