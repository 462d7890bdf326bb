//! A member is lost: hold, ask the register, shrink or thaw (2.5).
//!
//! No write is answered from the loss until the membership is known and durable on the leg that is left (R3, R4).

use twinsite_register::{Leg, Members, Running};

use super::Serve;
use super::link::curable;
use super::state::{Ask, State, Won};
use crate::io::{ControlError, GuestError};
use crate::layout::Base;
use crate::status::{Event, LostWhy, StateName};

impl Serve {
    pub(super) fn freeze(&mut self) {
        if self.state == State::Expand {
            self.fail_orders(ControlError::Interrupted);
        }
        self.cancel_script();
        self.fail_format();
        self.sweep = None;
        self.enter(State::Frozen);
        self.frozen_since = self.now;
        self.lost_in_frozen();
        if self.requests.open.is_empty() {
            self.read_register_fresh();
        }
    }

    pub(super) fn frozen_again(&mut self) {
        self.enter(State::Frozen);
        if self.cause_left() {
            self.read_register_fresh();
        } else {
            self.thaw();
        }
    }

    pub(super) fn cause_left(&self) -> bool {
        let here = |leg: Leg| self.links[leg.index()].lost.is_some() || !self.ready(leg);
        self.lost_elsewhere() || Leg::BOTH.into_iter().any(here)
    }

    /// Nothing was sent, or what was sent did not happen: back to Synced when no cause is left.
    pub(super) fn thaw(&mut self) {
        if self.cause_left() || self.requests.is_open(|ask| ask != Ask::Land) {
            if self.state == State::Frozen && self.requests.open.is_empty() {
                self.read_register();
            }
            return;
        }
        self.failing = false;
        self.enter(State::Synced);
        for leg in Leg::BOTH {
            self.resume_leg(leg);
        }
        self.reconcile(false);
        self.decide_expansion();
    }

    /// Regions of this attach may differ, and one leg lost a cache before it: only the source has what was acknowledged (R39).
    fn only_the_source(&self) -> bool {
        self.boot_changed && !self.pending.is_empty()
    }

    /// Both are lost: which one may stay as the last member, which is never removed? A leg that failed a write, or is slow, has all that
    /// was acknowledged; so has one that is to leave by order, which then stays. One that failed a SYNC may lack it; it stays only if nothing better can come back.
    fn least_lost(&self) -> Option<Leg> {
        let lost = |leg: Leg| self.lost(leg);
        if lost(Leg::A).is_none() || lost(Leg::B).is_none() {
            return None;
        }
        let may = |leg: &Leg| !self.only_the_source() || *leg == self.sources.leg;
        let legs = || [self.local, self.local.other()].into_iter().filter(may);
        let failed_sync = |leg: &Leg| {
            let other = lost(leg.other());
            lost(*leg) == Some(LostWhy::SyncFailed) && other.is_some_and(|why| !curable(why))
        };
        legs()
            .find(|&leg| matches!(lost(leg), Some(LostWhy::WriteError | LostWhy::Slow)))
            .or_else(|| legs().find(|&leg| lost(leg) == Some(LostWhy::Dropped)))
            .or_else(|| legs().find(failed_sync))
    }

    /// Both targets restarted and lost acknowledged writes: no leg is better, so no shrink (2.5). One of them may have
    /// restarted before this attach (R39).
    pub(super) fn lost_in_frozen(&mut self) {
        let restarted = |leg: Leg| self.links[leg.index()].lost == Some(LostWhy::Restarted);
        let before = |leg: Leg| {
            let lost = self.links[leg.index()].lost;
            let stays =
                lost.is_none_or(|why| matches!(why, LostWhy::WriteError | LostWhy::SyncFailed));
            self.only_the_source() && leg != self.sources.leg && stays
        };
        let lacks = Leg::BOTH
            .into_iter()
            .all(|leg| restarted(leg) || before(leg));
        let now = Leg::BOTH.into_iter().any(restarted);
        if !(lacks && now && self.requests.open.is_empty()) {
            return;
        }
        for region in self.map.dirty_set().iter() {
            self.must.insert(region);
        }
        for leg in Leg::BOTH {
            self.links[leg.index()].lost = None;
            self.ask_again(leg);
            self.flush_will_fail(leg);
        }
        // Both boot ids are written again when the legs are equal: until then a restart could not be told (R29).
        self.settled = false;
        self.copies.resync = None;
        self.thaw();
    }

    /// Send the shrink that keeps the leg that is left.
    pub(super) fn shrink(&mut self) {
        if !self.requests.open.is_empty() {
            return;
        }
        match self.shrink_target() {
            Some((to, drop)) => self.want(Ask::Shrink { to, drop }),
            None => self.lost_in_frozen(),
        }
        if let Some(joint) = &mut self.joint {
            // What the other volumes lose meanwhile may give another answer.
            joint.asked = self.state == State::Frozen;
        }
    }

    /// Which leg a shrink would keep, and whether it is by order.
    pub(super) fn shrink_target(&self) -> Option<(Leg, bool)> {
        let there = |leg: &Leg| self.lost(*leg).is_none();
        let left: Members = Leg::BOTH.into_iter().filter(there).collect();
        // Both lost for good: hold. Both there: the relogin settles it. One is left but away just now: it may be lost, too.
        let keep = left.sole().or_else(|| self.least_lost());
        let x = keep.filter(|&x| self.ready(x) && self.requests.open.is_empty())?;
        // R39: only to the source; when it is lost, hold.
        let may = !self.only_the_source() || x == self.sources.leg;
        may.then(|| (x, self.is_dropped(x.other())))
    }

    /// The shrink has no outcome and nothing is lost any more: a stamp on the same expected value ends it (R24).
    pub(super) fn maybe_thaw(&mut self, x: Leg) {
        let y = x.other();
        if self.lost(y).is_none() && self.ready(y) {
            self.want(Ask::Thaw);
        }
    }

    pub(super) fn fail_frozen(&mut self) {
        self.failing = true;
        self.fail_guests(GuestError::Io, false);
    }

    pub(super) fn shrink_won(&mut self, x: Leg, drop: bool) {
        let before = Base {
            epoch: self.running.epoch,
            generation: self.running.generation,
            crc: 0,
        };
        self.failing = false;
        self.adopt();
        self.state = State::SbWrite(Won::Shrink);
        self.apply_policy();
        self.since = self.now;
        self.out.event(Event::State {
            from: StateName::ShrinkWait,
            to: StateName::SbWrite,
        });
        // The last member is never removed; what it lost meanwhile the next flush tells (R40).
        let behind = self.links[x.index()].lost.is_some_and(|why| !curable(why));
        let lost = &mut self.links[x.index()].lost;
        match lost {
            Some(LostWhy::Restarted) => {
                *lost = None;
                self.last_member_restarted(x);
            }
            Some(LostWhy::SyncFailed) => {
                *lost = None;
                self.flush_will_fail(x);
            }
            Some(why) if !curable(*why) => *lost = None,
            Some(_) | None => {}
        }
        self.last_member_seen();
        self.ask_again(x);
        let rolled_back = self.links[x.other().index()].lost == Some(LostWhy::RolledBack);
        self.leave(x.other());
        self.forget_reconcile();
        self.lease.void();
        if drop {
            self.order_done();
        } else {
            // A graver reason than the order took the leg out: it may come back.
            self.fail_orders(ControlError::Interrupted);
        }
        let steps = self.shrink_script(x, before, rolled_back);
        self.start_script(steps);
        // Reads waited for the decision, and a leg that was not verified is verified again.
        if behind && self.ready(x) {
            self.resume_leg(x);
        } else if behind {
            self.reset_link(x);
        }
    }

    /// The register shows a membership that this writer won.
    pub(super) fn adopt(&mut self) {
        if let Some(register) = &self.register {
            self.running = Running::of(register, self.running.key);
            self.stamped = true;
            self.map.set_epoch(self.running.epoch);
            // No superblock of this epoch is known to be durable with base none.
            (self.settled, self.clearable) = (false, false);
            self.out.event(Event::Membership {
                epoch: self.running.epoch,
                members: self.running.members,
            });
        }
    }
}
