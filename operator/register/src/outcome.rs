//! What a writer may base a request on (R23) and how it learns what became of one (R41).
//!
//! A request is a message: it may be executed late, never, or twice, and its answer may be lost. So the outcome is read
//! from a linearizable read, and by what the request proposed (generation, stamp), never by the transaction id: an operator
//! may have changed a free field after the request was won, and then the transaction id is neither the old one nor ours.

use crate::ids::{Epoch, Gen, Key, Members, Site};
use crate::value::{Register, State};

/// The membership an attached writer runs with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Running {
    /// Its key, session byte 0.
    pub key: Key,
    /// The epoch it acknowledges under.
    pub epoch: Epoch,
    /// The generation of that epoch.
    pub generation: Gen,
    /// The legs it acknowledges from.
    pub members: Members,
    /// The active site.
    pub site: Site,
    /// The active sequence.
    pub seq: u64,
}

impl Running {
    /// What a writer runs with once its stamp shows in this register.
    pub const fn of(register: &Register, key: Key) -> Self {
        Self {
            key: key.attach(),
            epoch: register.epoch,
            generation: register.generation,
            members: register.members,
            site: register.active.site,
            seq: register.active.seq,
        }
    }

    /// Are epoch, generation, members, site and sequence those of this register? The holder is not looked at.
    pub fn equals(&self, register: &Register) -> bool {
        register.state == State::Live
            && self.epoch == register.epoch
            && self.generation == register.generation
            && self.members == register.members
            && self.site == register.active.site
            && self.seq == register.active.seq
    }
}

/// Why a register may not be used as expected value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotMine {
    /// Another attach stamped, or the stamp was released: this writer is superseded.
    #[error("the holder is {0:?}")]
    Holder(Option<Key>),
    /// The volume is deleted or not yet made.
    #[error("the register is {0:?}")]
    State(State),
    /// Own key, but not the membership this writer runs with: an own request was won.
    #[error("epoch {0} is not the one run with")]
    Membership(Epoch),
    /// Own key, but the active site or sequence is another: a human moved the volume.
    #[error("the active site is {0}, sequence {1}")]
    Active(Site, u64),
}

impl Register {
    /// Rule 2 (R23): may this writer send a request with this value as the expected one? Free fields may differ.
    pub fn may_expect(&self, running: &Running) -> Result<(), NotMine> {
        if self.state != State::Live {
            return Err(NotMine::State(self.state));
        }
        if self.holder != Some(running.key) {
            return Err(NotMine::Holder(self.holder));
        }
        if (self.active.site, self.active.seq) != (running.site, running.seq) {
            return Err(NotMine::Active(self.active.site, self.active.seq));
        }
        if !running.equals(self) {
            return Err(NotMine::Membership(self.epoch));
        }
        Ok(())
    }

    /// Do the two values differ, if at all, only in free fields: txid, note, landed, latched, volumes, granted,
    /// unconfirmed, no_rejoin, retired and former?
    pub fn same_but_free(&self, other: &Self) -> bool {
        // Taken apart field by field, so that a new field cannot be forgotten here.
        let Self {
            version,
            register_id,
            group,
            volumes: _,
            state,
            epoch,
            generation,
            members,
            active,
            holder,
            stamp_id,
            order,
            txid: _,
            granted: _,
            former: _,
            unconfirmed: _,
            no_rejoin: _,
            retired: _,
            landed: _,
            parents,
            note: _,
        } = self;
        *version == other.version
            && *register_id == other.register_id
            && *group == other.group
            && *state == other.state
            && *epoch == other.epoch
            && *generation == other.generation
            && *members == other.members
            && (active.site, active.seq) == (other.active.site, other.active.seq)
            && *holder == other.holder
            && *stamp_id == other.stamp_id
            && *order == other.order
            && *parents == other.parents
    }
}

/// What became of a request, from a linearizable read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was executed and nobody took over since.
    Won,
    /// It was executed, and then another attach took over.
    WonSuperseded,
    /// The register still has the expected value: the request may be executed yet. Repeat it byte for byte, read again.
    Unknown,
    /// Only free fields changed: the request can no longer execute. Build one again on the new value.
    Free,
    /// Something else was executed. That never proves that this request was not: read, and decide by the state.
    Lost,
}

/// Rule 3 (R41): the outcome of the request `expected -> proposed` when `read` is what the register shows now.
pub fn outcome(expected: &Register, proposed: &Register, read: &Register) -> Outcome {
    if shows(expected, proposed, read) {
        let by_membership = proposed.generation != expected.generation;
        let superseded = by_membership && read.holder != proposed.holder;
        return if superseded {
            Outcome::WonSuperseded
        } else {
            Outcome::Won
        };
    }
    if read.txid == expected.txid {
        return Outcome::Unknown;
    }
    if read.same_but_free(expected) {
        Outcome::Free
    } else {
        Outcome::Lost
    }
}

/// Does `read` show what was proposed? By generation if the request changes it, else by holder and stamp, else (land,
/// release and the operator's edits, which are repeated until they show) by the fields that it changes.
fn shows(expected: &Register, proposed: &Register, read: &Register) -> bool {
    if read.register_id != proposed.register_id {
        return false;
    }
    if proposed.generation != expected.generation {
        return read.generation == proposed.generation && read.epoch == proposed.epoch;
    }
    if proposed.stamp_id != expected.stamp_id {
        return read.stamp_id == proposed.stamp_id && read.holder == proposed.holder;
    }
    if proposed.holder != expected.holder {
        return read.holder != expected.holder;
    }
    let free = |from: &Register| Register {
        txid: expected.txid,
        note: expected.note.clone(),
        ..from.clone()
    };
    read.txid != expected.txid && free(read) == free(proposed)
}

#[cfg(test)]
mod tests;
