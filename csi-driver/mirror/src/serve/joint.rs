//! One volume of a group: where its serving phase stops until all volumes of the group are as far (2.10).
//!
//! The membership is the group's: no request to the register leaves a volume by itself. It says what it wants ([`Wish`]), the
//! group sends one request when all want it, and every volume then follows its outcome as if it had sent it alone. A member
//! that one volume lost is lost to all.
//!
//! Not here: who asks whom and when (`group`). Without a group nothing of this takes part.

use twinsite_register::{Gen, Leg, Members, Register, StampId, TxId};

use super::Serve;
use super::link::{Link, curable};
use super::state::{Ask, Fact, State};
use crate::status::LostWhy;

/// What a volume cannot do alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wish {
    /// Everything up to the device is done.
    Show,
    /// A request to the register.
    Ask(Ask),
}

/// Ids that a request proposes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ids {
    pub(crate) generation: Gen,
    pub(crate) stamp: StampId,
    pub(crate) txid: TxId,
}

/// What the group told this volume, and what it waits for.
#[derive(Debug, Default)]
pub(super) struct Joint {
    wish: Option<Wish>,
    /// Frozen, and the register was read since: the holder is this writer.
    pub(super) asked: bool,
    /// Members that are lost in any volume, this one included, by [`Leg::index`].
    lost: [Option<LostWhy>; 2],
    /// Every volume of the group has little left to copy.
    pub(super) may_switch: bool,
    /// A value that ended the open requests on the value with this transaction: news for the other volumes.
    resolved: Option<(TxId, Register)>,
}

/// The graver of two reasons, in an order that does not depend on who lost the leg first.
pub(crate) fn graver(one: Option<LostWhy>, other: Option<LostWhy>) -> Option<LostWhy> {
    let gravity = |why: &LostWhy| match why {
        LostWhy::Session(_) => 0,
        LostWhy::Timeout => 1,
        LostWhy::Slow => 2,
        LostWhy::Dropped => 3,
        LostWhy::WriteError => 4,
        LostWhy::SyncFailed => 5,
        LostWhy::NotRegistered => 6,
        LostWhy::Restarted => 7,
        LostWhy::RolledBack => 8,
    };
    one.into_iter().chain(other).max_by_key(gravity)
}

impl Serve {
    // --- What the phase itself says -----------------------------------------------------------------------------------

    /// Wait for the other volumes of the group, if there is one.
    pub(super) fn waits_for_group(&mut self, wish: Wish) -> bool {
        match &mut self.joint {
            Some(joint) => {
                joint.wish = Some(wish);
                true
            }
            None => false,
        }
    }

    /// The state changed: what was wanted before is not wanted any more.
    pub(super) fn drop_wish(&mut self) {
        if let Some(joint) = &mut self.joint {
            (joint.wish, joint.asked, joint.may_switch) = (None, false, false);
        }
    }

    /// This value says what became of the open requests.
    pub(super) fn note_resolved(&mut self, register: &Register) {
        let expected = self.requests.open.first().map(|own| own.expected().txid);
        if let (Some(joint), Some(expected)) = (&mut self.joint, expected) {
            joint.resolved = Some((expected, register.clone()));
        }
    }

    /// Why this member is lost, here or in another volume of the group.
    pub(super) fn lost(&self, leg: Leg) -> Option<LostWhy> {
        let elsewhere = self
            .joint
            .as_ref()
            .and_then(|joint| joint.lost[leg.index()]);
        graver(self.links[leg.index()].lost, elsewhere)
    }

    /// Is a member lost, but not here?
    pub(super) fn lost_elsewhere(&self) -> bool {
        let lost = self.joint.as_ref().map(|joint| joint.lost);
        lost.is_some_and(|lost| lost.iter().any(Option::is_some))
    }

    /// All is done for the device, and the other volumes are not as far.
    pub(super) fn waits_to_show(&self) -> bool {
        self.joint
            .as_ref()
            .is_some_and(|joint| joint.wish == Some(Wish::Show))
    }

    /// In RjTarget, is little left to copy?
    pub(super) fn rest_is_small(&self) -> bool {
        self.copies.resync.as_ref().is_some_and(|resync| {
            resync.left_bytes() <= self.config.rest_small || resync.passes() > 0
        })
    }

    /// May new writes go to both legs of the rejoin?
    pub(super) fn may_switch(&self) -> bool {
        self.joint.as_ref().is_none_or(|joint| joint.may_switch)
    }

    // --- What the group asks ------------------------------------------------------------------------------------------

    /// Serves on these legs.
    pub(crate) fn members(&self) -> Members {
        self.running.members
    }

    /// What the volume waits for.
    pub(crate) fn wish(&self) -> Option<Wish> {
        let joint = self.joint.as_ref()?;
        if self.state == State::Frozen {
            let (to, drop) = self.shrink_target().filter(|_| joint.asked)?;
            return Some(Wish::Ask(Ask::Shrink { to, drop }));
        }
        joint.wish
    }

    /// The requests that are open, and the value they expect.
    pub(crate) fn open_requests(&self) -> (Vec<Ask>, Option<&Register>) {
        let open = &self.requests.open;
        let expected = open.first().map(super::register::Own::expected);
        (open.iter().map(|own| own.ask).collect(), expected)
    }

    /// The value of the register that a request of this volume would be built on.
    pub(crate) fn basis(&self, ask: Ask) -> Option<&Register> {
        match ask {
            Ask::LateStamp => self.seen.as_ref(),
            Ask::Shrink { .. } | Ask::Thaw | Ask::Grow | Ask::Bump | Ask::Land | Ask::Release => {
                self.register.as_ref()
            }
        }
    }

    /// A member is lost to this volume.
    pub(crate) fn own_loss(&self, leg: Leg) -> Option<LostWhy> {
        let pair = self.running.members == Members::BOTH;
        self.links[leg.index()].lost.filter(|_| pair)
    }

    /// What is left to copy is little, or copied.
    pub(crate) fn is_nearly_copied(&self) -> bool {
        match self.state {
            State::RjTarget => self.rest_is_small(),
            State::RjBoth | State::RjNeed => true,
            state => state.after_copy(),
        }
    }

    /// Would a grow that is open be ended by a bump of this volume?
    pub(crate) fn is_growing(&self) -> bool {
        matches!(self.state, State::GrowWait | State::BumpWait)
    }

    /// Superblocks of the membership are in both slots of its legs, and the register does not say so yet.
    pub(crate) fn may_land(&self) -> bool {
        let settled = matches!(self.state, State::Synced | State::Solo) && !self.slots_due;
        let members = self.running.members;
        let needed = |register: &Register| register.lacks_land_of(members);
        let needed = self.register.as_ref().is_some_and(needed);
        // A request that did not go through is no reason for the next one before the register was read.
        settled && needed && self.stamped && self.requests.is_idle()
    }

    /// Frozen, nothing is under way, and no relogin will change what is lost.
    pub(crate) fn is_stuck(&self) -> bool {
        let asked = self.joint.as_ref().is_some_and(|joint| joint.asked);
        let both = Leg::BOTH.into_iter().all(|leg| self.lost(leg).is_some());
        let settled = |leg: Leg| {
            let link = &self.links[leg.index()];
            // A leg that failed a SYNC, or was put back and made equal since, lacks what no superblock tells of: no decision
            // would see it. Nor would one see a restart that has no boot id to differ from.
            let untold = matches!(link.lost, Some(LostWhy::SyncFailed | LostWhy::RolledBack));
            let recorded = self.superblocks[leg.index()].as_ref();
            let compared = recorded.is_some_and(|sb| sb.boot_id != 0);
            let told = |why: LostWhy| !curable(why) && !untold && compared;
            match link.lost {
                None => link.ready(),
                Some(why) => told(why) && matches!(link.link, Link::Ready | Link::Reachable),
            }
        };
        let open = !self.requests.open.is_empty() || self.orders.detach.is_some();
        self.state == State::Frozen && asked && both && !open && Leg::BOTH.into_iter().all(settled)
    }

    /// About to go back to the decision; `true`: from Check, with a new key.
    pub(crate) fn is_holding(&self) -> Option<bool> {
        (self.state == State::Holding).then_some(self.reattach)
    }

    /// Nothing that any other volume could have to know.
    pub(crate) fn is_calm(&self) -> bool {
        let joint = self.joint.as_ref();
        let waits = joint.is_some_and(|joint| joint.wish.is_some() || joint.lost != [None; 2]);
        let lost = self.links.iter().any(|link| link.lost.is_some());
        let settled = matches!(self.state, State::Synced | State::Solo);
        settled && !waits && !lost && self.end.is_none() && !self.may_land()
    }

    // --- What the group says ------------------------------------------------------------------------------------------

    /// What this volume learned of its requests since it was last asked.
    pub(crate) fn take_resolved(&mut self) -> Option<(TxId, Register)> {
        self.joint.as_mut()?.resolved.take()
    }

    /// Another volume learned this of the same requests.
    pub(crate) fn learn(&mut self, expected: TxId, register: &Register) {
        let open = self.requests.open.first();
        if open.is_some_and(|own| own.expected().txid == expected) {
            self.resolve(register);
            self.settle();
        }
        // It is no news for the one that told it, whose next request may stand on the same value.
        if let Some(joint) = &mut self.joint {
            joint.resolved = None;
        }
    }

    /// All volumes are as far: show the device.
    pub(crate) fn show_with_group(&mut self) {
        if self.waits_to_show() {
            self.drop_wish();
            self.go();
            self.settle();
        }
    }

    /// All volumes have little left to copy.
    pub(crate) fn switch_with_group(&mut self) -> bool {
        if self.state != State::RjTarget {
            return false;
        }
        if let Some(joint) = &mut self.joint {
            joint.may_switch = true;
        }
        self.settle();
        true
    }

    /// Members that are lost in any volume of the group.
    pub(crate) fn tell_lost(&mut self, lost: [Option<LostWhy>; 2]) -> bool {
        let Some(joint) = &mut self.joint else {
            return false;
        };
        if joint.lost == lost {
            return false;
        }
        joint.lost = lost;
        self.fact(Fact::Elsewhere);
        self.settle();
        true
    }

    /// All volumes send the one request.
    pub(crate) fn send_with_group(&mut self, ask: Ask, expected: &Register, ids: &Ids) {
        self.send_ask(ask, expected, ids);
        self.settle();
    }

    /// Another volume of the group decides again, and so do all.
    pub(crate) fn hold_with_group(&mut self, reattach: bool) {
        if !self.state.is_over() {
            self.end_held(reattach);
            self.settle();
        }
    }

    /// Holding, and nothing is under way any more.
    pub(crate) fn has_come_to_rest(&self) -> bool {
        self.is_held()
    }

    /// All volumes have come to rest: what is connected and fenced now goes to the decision.
    pub(crate) fn end_with_group(&mut self) {
        if self.is_held() {
            self.held();
        }
    }

    /// The group has lost the volumes to another writer.
    pub(crate) fn supersede_with_group(&mut self) {
        if self.state != State::Ended {
            self.supersede();
        }
        self.end = None;
    }
}

#[cfg(test)]
mod tests;
