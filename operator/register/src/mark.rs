//! When a register that was read may not be believed: class Below (R17, R43).
//!
//! A witness can be restored from a backup. Each site keeps marks, the highest `{register_id, epoch, seq}` that it saw, and
//! every leg carries a superblock. A register below any of them, or another register than any of them knows, is Below: no
//! compare-and-swap, no fence, no wipe, no birth. Below is tested first, before Creating and Tombstone, since a restored
//! Creating or Tombstone would zero or wipe live data.
//! Gap that remains: a site that saw nothing since the backup. Restoring a witness therefore requires a reseed.

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, Gen, RegisterId};
use crate::value::{Register, State};

/// The highest register that a site saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// Of which register.
    pub register_id: RegisterId,
    /// Highest epoch.
    pub epoch: Epoch,
    /// Highest `active.seq`.
    pub seq: u64,
}

impl Mark {
    /// The mark that a register which was read and believed leaves.
    pub const fn of(register: &Register) -> Self {
        Self {
            register_id: register.register_id,
            epoch: register.epoch,
            seq: register.active.seq,
        }
    }

    /// The mark that a site has, once it saw this register beside the marks that it keeps; whoever keeps them, and where.
    ///
    /// # Errors
    /// The register is below one of them: it is not believed, and changes none.
    pub fn after(marks: &[Self], register: &Register) -> Result<Self, Below> {
        match below(register, marks, &[]) {
            Some(below) => Err(below),
            None => Ok(marks
                .first()
                .map_or(Self::of(register), |mark| mark.raised(register))),
        }
    }

    /// What two that keep marks of one group know together; of another register it learns nothing.
    #[must_use]
    pub fn joined(self, other: Self) -> Self {
        if self.register_id != other.register_id {
            return self;
        }
        Self {
            register_id: self.register_id,
            epoch: self.epoch.max(other.epoch),
            seq: self.seq.max(other.seq),
        }
    }

    /// The mark after a believed register was seen: a reseed starts a new mark, else the maximum of both.
    #[must_use]
    pub fn raised(self, register: &Register) -> Self {
        let now = Self::of(register);
        if self.register_id == now.register_id {
            self.joined(now)
        } else {
            now
        }
    }
}

/// What a superblock says about the register, for the same test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SbMark {
    /// The register it was written for.
    pub register_id: RegisterId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its generation.
    pub generation: Gen,
    /// Its `active_seq`.
    pub seq: u64,
    /// Was the volume never formatted? Only then can it be a superblock of birth.
    pub unformatted: bool,
}

/// Why a register is Below.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Below {
    /// A mark or superblock knows another register, and no reseed connects them.
    #[error("register {0} is not the one known here")]
    OtherRegister(RegisterId),
    /// Something known here has a later epoch.
    #[error("register is at an epoch below {0}, which was seen here")]
    Epoch(Epoch),
    /// Something known here has a later active sequence.
    #[error("register is at an active sequence below {0}, which was seen here")]
    Seq(u64),
}

/// What a readable register is, in the order in which it must be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Not to be believed.
    Below(Below),
    /// There is none.
    Absent,
    /// Being created.
    Creating,
    /// In use.
    Live,
    /// Deleted.
    Tombstone,
}

/// Class of a register that was read (`None` = the witness answered that there is none).
pub fn classify(read: Option<&Register>, marks: &[Mark], superblocks: &[SbMark]) -> Class {
    let Some(register) = read else {
        return Class::Absent;
    };
    if let Some(below) = below(register, marks, superblocks) {
        return Class::Below(below);
    }
    match register.state {
        State::Creating => Class::Creating,
        State::Live => Class::Live,
        State::Tombstone => Class::Tombstone,
    }
}

fn below(register: &Register, marks: &[Mark], superblocks: &[SbMark]) -> Option<Below> {
    let of_marks = marks
        .iter()
        .find_map(|m| above(register, m.register_id, m.epoch, m.seq));
    let of_superblocks = || {
        superblocks.iter().find_map(|sb| {
            if is_birth_of(register, sb) {
                None
            } else {
                above(register, sb.register_id, sb.epoch, sb.seq)
            }
        })
    };
    of_marks.or_else(of_superblocks)
}

fn above(register: &Register, id: RegisterId, epoch: Epoch, seq: u64) -> Option<Below> {
    if register.former.contains(&id) {
        return None;
    }
    if id != register.register_id {
        return Some(Below::OtherRegister(register.register_id));
    }
    if epoch > register.epoch {
        return Some(Below::Epoch(epoch));
    }
    (seq > register.active.seq).then_some(Below::Seq(seq))
}

/// The superblock that a birth under this Creating register writes is ahead of it by design.
fn is_birth_of(register: &Register, sb: &SbMark) -> bool {
    register.state == State::Creating
        && sb.register_id == register.register_id
        && sb.generation == register.generation
        && sb.epoch == Epoch(1)
        && sb.unformatted
}

#[cfg(test)]
mod tests;
