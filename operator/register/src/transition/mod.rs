//! Every change that anyone may propose to the register, as a pure function from the expected value to the new one.
//!
//! Each function tests its expectation and refuses with the reason; what it returns is always sent as a compare-and-swap of
//! the whole value against `self`. Three files by who sends them: [`writer`](self) transitions of an attached agent here,
//! the operator's edits and births in `operator`, and what only a human may do in `human`.
//!
//! | transition | sent by |
//! |---|---|
//! | create, birth | operator at the active site |
//! | attach (stamp with shrink, bump, move), late stamp, shrink, grow, bump, land, release | writer |
//! | latch, unlatch, list, rejoin, tombstone, wiped | operator |
//! | confirm, retire, force, reseed | human through the operator |

mod human;
mod operator;

pub use human::{Force, LegSeed, RESEED_JUMP, Reseed, SeedMembers};
pub use operator::Create;

use crate::ids::{Epoch, Gen, Key, Leg, Members, Site, StampId, TxId};
use crate::outcome::{NotMine, Running};
use crate::value::{
    Active, MAX_NOTES, MAX_PARENTS, MAX_TEXT, Note, Order, Parent, Register, State,
};

/// Why a transition may not be proposed on this value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Wrong state for this transition.
    #[error("the register is {0:?}")]
    State(State),
    /// The value is not one this writer may use as expected value (R23).
    #[error("not the value this writer runs with: {0}")]
    NotMine(#[from] NotMine),
    /// The members are not those the transition starts from.
    #[error("the members are {0}")]
    Members(Members),
    /// The leg is not a member, or it is one and must not be.
    #[error("leg {0} is in the wrong set")]
    Leg(Leg),
    /// Drained, dropped, retired or of an unconfirmed lost branch: the leg may not become a member.
    #[error("leg {0} must not join")]
    MustNotJoin(Leg),
    /// The volume is not active at the site of this attach and no move was ordered.
    #[error("the active site is {0}")]
    NotActive(Site),
    /// A move to the site where the volume already is.
    #[error("the volume is already active at {0}")]
    AlreadyActive(Site),
    /// Another Attachment came later (R38).
    #[error("attachment order {0} is later")]
    OrderStale(u64),
    /// Somebody holds the volume.
    #[error("key {0} holds the volume")]
    Held(Key),
    /// The plan that a human approved was made for another value.
    #[error("the register is at epoch {0}, not at what was planned")]
    PlanStale(Epoch),
    /// An argument that no caller can have meant.
    #[error("bad argument: {0}")]
    Argument(&'static str),
    /// Epoch or sequence is at the end of its range.
    #[error("no number is left")]
    Exhausted,
}

/// What an attach writes about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Key of the attach; stored with session byte 0.
    pub key: Key,
    /// New in every stamp.
    pub stamp_id: StampId,
    /// The place of this Attachment; of a caretaker too.
    pub order: Order,
}

/// What an attach or thaw does to the membership.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Membership {
    /// Members, epoch and generation stay.
    Keep,
    /// {AB} becomes the one leg.
    Shrink {
        /// The leg that stays.
        to: Leg,
        /// The new generation.
        generation: Gen,
    },
    /// Same members, next epoch: ends a grow that may still be under way (R20).
    Bump {
        /// The new generation.
        generation: Gen,
    },
}

/// Was the move planned?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MoveKind {
    /// The old site detached first.
    Planned,
    /// Failover: latched.
    Unplanned,
}

/// The volume moves to this site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    /// The new active site.
    pub to: Site,
    /// Planned or not.
    pub kind: MoveKind,
}

/// The one compare-and-swap of an attach: always a stamp (R24), with what 2.8 says in the same request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AttachChange {
    /// Who attaches, at which site.
    pub site: Site,
    /// The stamp.
    pub stamp: Stamp,
    /// The membership.
    pub membership: Membership,
    /// The move, if one was ordered.
    pub moves: Option<Move>,
}

impl Register {
    /// Stamp, shrink, bump and move of an attach, in one value. Replaces any holder: the attach has fenced it.
    pub fn attach(&self, change: &AttachChange, txid: TxId) -> Result<Self, Refusal> {
        self.expect_state(State::Live)?;
        let mut next = self.with_txid(txid)?;
        next.put_stamp(&change.stamp)?;
        match change.moves {
            None if self.active.site != change.site => {
                return Err(Refusal::NotActive(self.active.site));
            }
            None => {}
            Some(Move { to, .. }) if to != change.site => {
                return Err(Refusal::Argument("a move to another site"));
            }
            Some(Move { to, .. }) if to == self.active.site => {
                return Err(Refusal::AlreadyActive(to));
            }
            Some(Move { to, kind }) => {
                let seq = self.active.seq.checked_add(1).ok_or(Refusal::Exhausted)?;
                next.active = Active {
                    site: to,
                    seq,
                    latched: kind == MoveKind::Unplanned,
                };
            }
        }
        match change.membership {
            Membership::Keep => {}
            Membership::Shrink { to, generation } => next.shrink_to(to, generation)?,
            Membership::Bump { generation } => next.bump_to(generation)?,
        }
        Ok(next)
    }

    /// The stamp of a thaw: the same attach, a new stamp, so that a shrink still under way can no longer execute (R24).
    pub fn thaw(&self, running: &Running, stamp: &Stamp, txid: TxId) -> Result<Self, Refusal> {
        self.may_expect(running)?;
        if !stamp.key.same_attach(running.key) {
            return Err(Refusal::Argument("a thaw with another key"));
        }
        let mut next = self.with_txid(txid)?;
        next.put_stamp(stamp)?;
        Ok(next)
    }

    /// The stamp of a writer that attached while the register was unreadable. It may replace another holder, but only at
    /// the membership this writer runs with, and only if no later Attachment came.
    pub fn late_stamp(
        &self,
        running: &Running,
        stamp: &Stamp,
        txid: TxId,
    ) -> Result<Self, Refusal> {
        self.expect_state(State::Live)?;
        if !stamp.key.same_attach(running.key) {
            return Err(Refusal::Argument("a late stamp with another key"));
        }
        if !running.equals(self) {
            let active = (self.active.site, self.active.seq);
            return Err(Refusal::NotMine(if active == (running.site, running.seq) {
                NotMine::Membership(self.epoch)
            } else {
                NotMine::Active(self.active.site, self.active.seq)
            }));
        }
        let mut next = self.with_txid(txid)?;
        next.put_stamp(stamp)?;
        Ok(next)
    }

    /// {AB} of epoch e becomes {`to`} of epoch e+1.
    pub fn shrink(
        &self,
        running: &Running,
        to: Leg,
        generation: Gen,
        txid: TxId,
    ) -> Result<Self, Refusal> {
        self.may_expect(running)?;
        let mut next = self.with_txid(txid)?;
        next.shrink_to(to, generation)?;
        Ok(next)
    }

    /// The order "drop leg": a shrink after which `drop` does not rejoin until an operator says so. Never the last member.
    pub fn drop_leg(
        &self,
        running: &Running,
        drop: Leg,
        generation: Gen,
        txid: TxId,
    ) -> Result<Self, Refusal> {
        let mut next = self.shrink(running, drop.other(), generation, txid)?;
        next.no_rejoin = next.no_rejoin.with(drop);
        Ok(next)
    }

    /// {X} of epoch e becomes {AB} of epoch e+1. The caller has Growing and Candidate superblocks durable first (R11).
    pub fn grow(&self, running: &Running, generation: Gen, txid: TxId) -> Result<Self, Refusal> {
        self.may_expect(running)?;
        let leg = self
            .members
            .sole()
            .ok_or(Refusal::Members(self.members))?
            .other();
        if self.no_rejoin.or(self.unconfirmed).contains(leg) {
            return Err(Refusal::MustNotJoin(leg));
        }
        let mut next = self.with_txid(txid)?;
        next.next_epoch(Members::BOTH, generation)?;
        Ok(next)
    }

    /// {X} of epoch e becomes {X} of epoch e+1: for the sender of a grow that wants out.
    pub fn bump(&self, running: &Running, generation: Gen, txid: TxId) -> Result<Self, Refusal> {
        self.may_expect(running)?;
        let mut next = self.with_txid(txid)?;
        next.bump_to(generation)?;
        Ok(next)
    }

    /// These legs carry a superblock of this epoch in both slots: an older one there is damage from now on (R32).
    pub fn land(&self, running: &Running, legs: Members, txid: TxId) -> Result<Self, Refusal> {
        self.may_expect(running)?;
        if legs.is_empty() || !self.members.includes(legs) {
            return Err(Refusal::Members(legs));
        }
        let mut next = self.with_txid(txid)?;
        next.landed = next.landed.or(legs);
        next.granted.retain(|granted| !legs.contains(granted.leg));
        Ok(next)
    }

    /// A clean detach: nobody holds the volume. Also sent after a detach that left an own request open; the whole-value
    /// comparison makes that request end one way or the other.
    pub fn release(&self, key: Key, txid: TxId) -> Result<Self, Refusal> {
        self.expect_state(State::Live)?;
        if self.holder != Some(key.attach()) {
            return Err(Refusal::NotMine(NotMine::Holder(self.holder)));
        }
        let mut next = self.with_txid(txid)?;
        next.holder = None;
        Ok(next)
    }

    fn expect_state(&self, state: State) -> Result<(), Refusal> {
        if self.state == state {
            Ok(())
        } else {
            Err(Refusal::State(self.state))
        }
    }

    fn with_txid(&self, txid: TxId) -> Result<Self, Refusal> {
        if txid == self.txid || txid.is_zero() {
            return Err(Refusal::Argument("a used transaction id"));
        }
        Ok(Self {
            txid,
            ..self.clone()
        })
    }

    fn put_stamp(&mut self, stamp: &Stamp) -> Result<(), Refusal> {
        if stamp.stamp_id == self.stamp_id || stamp.stamp_id.is_zero() {
            return Err(Refusal::Argument("a used stamp id"));
        }
        if stamp.order.uid.is_zero() || stamp.order.n == 0 {
            return Err(Refusal::Argument("a stamp without an order"));
        }
        let own = self.order.uid == stamp.order.uid;
        if !own && self.order.n >= stamp.order.n {
            return Err(Refusal::OrderStale(self.order.n));
        }
        self.holder = Some(stamp.key.attach());
        self.stamp_id = stamp.stamp_id;
        if !own {
            self.order = stamp.order;
        }
        Ok(())
    }

    fn shrink_to(&mut self, to: Leg, generation: Gen) -> Result<(), Refusal> {
        if self.members != Members::BOTH {
            return Err(Refusal::Members(self.members));
        }
        self.next_epoch(Members::only(to), generation)
    }

    fn bump_to(&mut self, generation: Gen) -> Result<(), Refusal> {
        if self.members.sole().is_none() {
            return Err(Refusal::Members(self.members));
        }
        self.next_epoch(self.members, generation)
    }

    /// The only place where a live register gets another membership, force and reseed included.
    fn next_epoch(&mut self, members: Members, generation: Gen) -> Result<(), Refusal> {
        let known = self.generation == generation
            || self.parents.iter().any(|p| p.generation == generation);
        if known || generation.is_zero() {
            return Err(Refusal::Argument("a used generation"));
        }
        let epoch = self.epoch.next().ok_or(Refusal::Exhausted)?;
        if !self.members.is_empty() {
            let parent = Parent {
                epoch: self.epoch,
                generation: self.generation,
                members: self.members,
            };
            self.parents.insert(0, parent);
            self.parents.truncate(MAX_PARENTS);
        }
        self.epoch = epoch;
        self.generation = generation;
        self.members = members;
        self.landed = Members::NONE;
        // A leg that left is rebuilt, whatever a person said of it.
        self.granted.retain(|granted| members.contains(granted.leg));
        Ok(())
    }

    fn push_note(&mut self, who: &str, why: &str, forced: bool) {
        let cut = |text: &str| {
            let mut end = text.len().min(MAX_TEXT);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text[..end].to_owned()
        };
        self.note.push(Note {
            who: cut(who),
            why: cut(why),
            forced,
        });
        let mut surplus = self
            .note
            .iter()
            .filter(|note| !note.forced)
            .count()
            .saturating_sub(MAX_NOTES);
        self.note.retain(|note| {
            let drop = !note.forced && surplus > 0;
            surplus -= usize::from(drop);
            !drop
        });
    }
}

#[cfg(test)]
mod tests;
