//! The rejoin from its switch to both legs until the other leg is a member, or is given up (2.6 steps 5 to 9).

use twinsite_register::Leg;

use super::Serve;
use super::rejoin::may_join;
use super::state::{Ask, Fact, State, Won};
use crate::status::{LostWhy, RejoinBlock};

impl Serve {
    pub(super) fn drop_current_target(&mut self, why: RejoinBlock) {
        if let Some(y) = self.rejoin.target {
            self.drop_target(y, why);
        }
    }

    pub(super) fn drop_target(&mut self, y: Leg, why: RejoinBlock) {
        self.enter(State::Solo);
        self.give_up_target(y, why);
    }

    /// An operator may say no while the copy runs.
    pub(super) fn recheck_join(&mut self) {
        let (Some(y), Some(register)) = (self.rejoin.target, self.register.as_ref()) else {
            return;
        };
        let Some(info) = self.links[y.index()].info else {
            return;
        };
        if let Some(block) = may_join(register, y, &info) {
            self.drop_target(y, block);
        }
    }

    /// Step 5: new writes and flushes need both legs, and reads the lease of both.
    pub(super) fn need_both(&mut self) {
        if let Some(y) = self.rejoin.target {
            self.enter(State::RjNeed);
            self.extend_flushes(y);
            self.copies.paused = false;
            self.pump_copies();
        }
    }

    /// Steps 6 to 7b.
    pub(super) fn growing(&mut self) {
        let Some(y) = self.rejoin.target else { return };
        self.copies.resync = None;
        self.enter(State::Growing);
        let steps = self.growing_script(y.other(), y);
        self.start_script(steps);
    }

    /// Step 8. Both superblocks are durable (R11), and the register was read after that.
    pub(super) fn grow(&mut self) {
        if self.scripts.running() || !self.requests.open.is_empty() {
            return;
        }
        let (Some(y), Some(register)) = (self.rejoin.target, self.register.clone()) else {
            return;
        };
        let Some(info) = self.links[y.index()].info else {
            return;
        };
        if let Some(block) = may_join(&register, y, &info) {
            self.ungrow(block);
            return;
        }
        self.want(Ask::Grow);
        if self.state == State::Growing && self.joint.is_none() {
            self.ungrow(RejoinBlock::NoRejoin);
        }
    }

    /// Nothing was sent: X becomes Member again without asking anybody.
    pub(super) fn ungrow(&mut self, why: RejoinBlock) {
        let Some(y) = self.rejoin.target else { return };
        self.enter(State::Ungrow);
        self.give_up_target(y, why);
        let steps = self.member_steps(y.other(), "grow given up");
        self.start_script(steps);
    }

    pub(super) fn grow_again(&mut self) {
        let (Some(y), Some(register)) = (self.rejoin.target, self.register.clone()) else {
            return;
        };
        let may = self.links[y.index()]
            .info
            .is_some_and(|info| may_join(&register, y, &info).is_none());
        let there = self.links[y.index()].lost.is_none() && may;
        if there {
            self.want(Ask::Grow);
        }
        let waits = there && self.joint.is_some();
        if !waits && !self.requests.is_open(|ask| ask == Ask::Grow) {
            self.bump();
        }
    }

    /// The sender of a grow that wants out: only a bump ends it (R20).
    pub(super) fn bump(&mut self) {
        if self.requests.is_open(|ask| ask == Ask::Bump) {
            return;
        }
        self.want(Ask::Bump);
    }

    pub(super) fn bump_won(&mut self) {
        let Some(y) = self.rejoin.target else { return };
        self.adopt();
        self.enter(State::SbWrite(Won::Bump));
        self.give_up_target(y, RejoinBlock::LegLost);
        let steps = self.member_steps(y.other(), "bump");
        self.start_script(steps);
    }

    /// Both are members now. A leg that is lost, or lacks what only the other one has, leaves by a shrink at once.
    pub(super) fn grow_won(&mut self) {
        let Some(y) = self.rejoin.target else { return };
        self.adopt();
        self.last_member_seen();
        self.rejoin_over();
        self.slots_due = true;
        if std::mem::take(&mut self.source_behind) {
            let link = &mut self.links[y.other().index()];
            link.lost = Some(LostWhy::Restarted);
        }
        if Leg::BOTH
            .into_iter()
            .any(|leg| self.links[leg.index()].lost.is_some())
        {
            self.freeze();
            return;
        }
        self.enter(State::SbWrite(Won::Grow));
        let steps = self.grown_steps();
        self.start_script(steps);
    }

    pub(super) fn grown(&mut self) {
        self.slots_due = false;
        self.settled = false;
        self.enter(State::Synced);
        self.reconcile(false);
        self.resume_expand();
        self.land();
    }

    /// X restarted with a volatile cache and writes that were not flushed (R40).
    pub(super) fn last_member_restarted(&mut self, x: Leg) {
        self.source_behind = self.state == State::RjNeed || self.state.after_copy();
        if matches!(self.state, State::RjTarget | State::RjBoth) {
            // What was copied may be gone from X: regions that count as copied would differ for ever.
            self.fact(Fact::Blocked(RejoinBlock::GivenUp));
        }
        self.flush_will_fail(x);
        self.record_boot(x);
    }
}
