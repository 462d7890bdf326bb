//! The late stamp: served without the register, and now it answers (2.7 step 9).

use twinsite_register::{Leg, Outcome};

use super::Serve;
use super::commands::Purpose;
use super::state::{Ask, Fact, Standing, State};
use crate::status::{Event, LostWhy};

impl Serve {
    /// The register answers for the first time, at our membership: both legs must still be ours.
    pub(super) fn check_late_stamp(&mut self) {
        if !self.requests.open.is_empty() || self.orders.stamp_checks.is_some() {
            return;
        }
        let set = self.running.members;
        if set.iter().any(|leg| !self.ready(leg)) {
            // A leg is away: decide with the fences held instead.
            self.fact(Fact::Read(Standing::UnstampedAhead));
            return;
        }
        self.orders.stamp_checks = Some(set);
        for leg in set.iter() {
            self.send(leg, Purpose::Verify);
        }
    }

    pub(super) fn late_stamp_checked(&mut self, leg: Leg, own: bool) {
        let Some(left) = self.orders.stamp_checks else {
            return;
        };
        if !own {
            self.orders.stamp_checks = None;
            self.lose(leg, LostWhy::NotRegistered);
            return;
        }
        let left = left.without(leg);
        self.orders.stamp_checks = Some(left).filter(|left| !left.is_empty());
        if left.is_empty() {
            self.late_stamp();
        }
    }

    pub(super) fn late_stamp(&mut self) {
        if !matches!(self.state, State::Synced | State::Solo) {
            return;
        }
        self.want(Ask::LateStamp);
    }

    pub(super) fn late_stamp_outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Unknown => {}
            Outcome::Won => {
                self.stamped = true;
                self.out.event(Event::Membership {
                    epoch: self.running.epoch,
                    members: self.running.members,
                });
                if self.state == State::Frozen {
                    self.read_register_fresh();
                } else {
                    self.land();
                }
            }
            Outcome::Free => self.read_register_fresh(),
            // Another site or sequence is found by standing() when the register is read again after the decision.
            Outcome::Lost | Outcome::WonSuperseded => {
                let moved = self.seen.as_ref().is_some_and(|seen| {
                    (seen.active.site, seen.active.seq) != (self.running.site, self.running.seq)
                });
                let standing = if moved {
                    Standing::Other
                } else {
                    Standing::UnstampedAhead
                };
                self.fact(Fact::Read(standing));
            }
        }
    }
}
