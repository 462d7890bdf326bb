//! The register as a value, and its JSON form.
//!
//! The JSON form has a `version` and refuses unknown fields: an agent that does not understand a field could drop it when it
//! writes the whole value back. [`Register::from_json`] also refuses values that no transition can make, so that the rest of
//! the program never meets, say, a live register without members.
//! Not here: how one value follows another ([`crate::transition`]).

use serde::{Deserialize, Serialize};

use crate::ids::{
    AttachmentUid, Epoch, Gen, GroupId, Key, Leg, Members, Naa, RegisterId, Site, StampId, TxId,
    VolumeId,
};

/// The version of the JSON form that this crate reads and writes.
pub const VERSION: u32 = 1;
/// How many earlier memberships are kept.
pub const MAX_PARENTS: usize = 8;
/// How many notes are kept; forced ones are kept beside these.
pub const MAX_NOTES: usize = 16;
/// How many legs given up by a human are remembered.
pub const MAX_RETIRED: usize = 64;
/// How many replaced registers are remembered.
pub const MAX_FORMER: usize = 64;
/// How many volumes a group may have.
pub const MAX_VOLUMES: usize = 256;
/// Longest text of a note, in bytes.
pub const MAX_TEXT: usize = 512;

/// Where the register is in its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum State {
    /// Made by create-if-absent; the legs are being born.
    Creating,
    /// In use.
    Live,
    /// Deleted; legs that return are wiped.
    Tombstone,
}

/// Where the volume is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Active {
    /// The site that may attach.
    pub site: Site,
    /// Grows by one per move between sites.
    pub seq: u64,
    /// The last move was unplanned or manual: the spec does not bind until it equals `site` or a human moves.
    pub latched: bool,
}

/// The place of an Attachment in the order of all that ever attached (R38).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Its number; 0 = nobody attached yet.
    pub n: u64,
    /// Which Attachment.
    pub uid: AttachmentUid,
}

/// Exactly this superblock may run although its history does not fit (R44).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Granted {
    /// The leg that carries it.
    pub leg: Leg,
    /// Its epoch.
    pub sb_epoch: Epoch,
    /// Its generation.
    pub sb_gen: Gen,
    /// Its sequence number.
    pub sb_seq: u64,
    /// Of which volume, in the register of a group; there each volume has one for the leg, or none has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeId>,
}

/// A leg that a human gave up: never adopted, joined or wiped again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retired {
    /// Which leg it was.
    pub leg: Leg,
    /// Which LUN it was.
    pub naa: Naa,
}

/// One earlier membership.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parent {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its generation.
    #[serde(rename = "gen")]
    pub generation: Gen,
    /// Its members.
    pub members: Members,
}

/// Who changed the register, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// Who.
    pub who: String,
    /// Why.
    pub why: String,
    /// A force or reseed: this note is never removed.
    pub forced: bool,
}

/// The register of one group of volumes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// Version of the JSON form.
    pub version: u32,
    /// Which register this is.
    pub register_id: RegisterId,
    /// Which group it decides for.
    pub group: GroupId,
    /// The volumes of the group.
    pub volumes: Vec<VolumeId>,
    /// Where it is in its life.
    pub state: State,
    /// The ordered number of the membership.
    pub epoch: Epoch,
    /// The random id of the membership.
    #[serde(rename = "gen")]
    pub generation: Gen,
    /// The legs that must have a write before it is acknowledged.
    pub members: Members,
    /// Where the volume is in use.
    pub active: Active,
    /// Key of the attach that stamped last; none after a clean detach.
    pub holder: Option<Key>,
    /// The id of that stamp.
    pub stamp_id: StampId,
    /// The Attachment that came last.
    pub order: Order,
    /// New in every compare-and-swap.
    pub txid: TxId,
    /// Superblocks that run by the word of a human, at most one per leg and volume.
    pub granted: Vec<Granted>,
    /// Registers that a reseed replaced.
    pub former: Vec<RegisterId>,
    /// Legs of a lost branch: no rejoin until a human confirms.
    pub unconfirmed: Members,
    /// Legs that must not rejoin.
    pub no_rejoin: Members,
    /// Legs given up by a human.
    pub retired: Vec<Retired>,
    /// Live: legs known to carry a superblock of this epoch. Tombstone: legs known to be wiped or retired.
    pub landed: Members,
    /// The last memberships, newest first, without the present one.
    pub parents: Vec<Parent>,
    /// Who did what, oldest first.
    pub note: Vec<Note>,
}

/// Bytes that are not a register that this crate may act on.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// Not JSON of the known form.
    #[error("register is not valid JSON of version {VERSION}")]
    Json(#[source] serde_json::Error),
    /// Written by newer software.
    #[error("register has version {0}, this software knows {VERSION}")]
    Version(u64),
    /// The form is right but no transition makes such a value.
    #[error("register contradicts itself: {0}")]
    Impossible(&'static str),
}

impl Register {
    /// The value in its stored form.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a register has only text keys and plain values")
    }

    /// Read the stored form. A version above [`VERSION`] is told apart from damage, so that it can be said.
    pub fn from_json(bytes: &[u8]) -> Result<Self, FormatError> {
        #[derive(Deserialize)]
        struct Probe {
            version: u64,
        }
        let probe: Probe = serde_json::from_slice(bytes).map_err(FormatError::Json)?;
        if probe.version != u64::from(VERSION) {
            return Err(FormatError::Version(probe.version));
        }
        let value: Self = serde_json::from_slice(bytes).map_err(FormatError::Json)?;
        value.check().map_err(FormatError::Impossible)?;
        Ok(value)
    }

    /// What is true of every value that a transition makes.
    pub fn check(&self) -> Result<(), &'static str> {
        let empty = self.members.is_empty();
        match self.state {
            State::Creating if self.epoch != Epoch::ZERO || !empty => {
                return Err("creating with an epoch or members");
            }
            State::Live if self.epoch == Epoch::ZERO || empty => {
                return Err("live without an epoch or members");
            }
            State::Tombstone if self.epoch == Epoch::ZERO || !empty => {
                return Err("tombstone with members");
            }
            State::Creating | State::Live | State::Tombstone => {}
        }
        if self.state != State::Live && self.holder.is_some() {
            return Err("a holder of a register that is not live");
        }
        if self.holder.is_some_and(|key| key != key.attach()) {
            return Err("a holder with a session number");
        }
        if self.state == State::Live && self.active.seq == 0 {
            return Err("live without an active sequence");
        }
        if self.parents.len() > MAX_PARENTS {
            return Err("too many parents");
        }
        let mut newer = self.epoch;
        for parent in &self.parents {
            if parent.epoch >= newer || parent.members.is_empty() {
                return Err("parents out of order or without members");
            }
            newer = parent.epoch;
        }
        if !self.members.and(self.no_rejoin).is_empty()
            || !self.members.and(self.unconfirmed).is_empty()
        {
            return Err("a member that must not rejoin");
        }
        if self.state == State::Live && !self.members.includes(self.landed) {
            return Err("landed names a leg that is no member");
        }
        if self.volumes.is_empty() || self.volumes.len() > MAX_VOLUMES {
            return Err("no volume, or too many");
        }
        let twice = |(at, volume): (usize, &VolumeId)| self.volumes[..at].contains(volume);
        if self.volumes.iter().enumerate().any(twice) {
            return Err("a volume twice");
        }
        self.check_granted()?;
        if self.former.len() > MAX_FORMER || self.former.contains(&self.register_id) {
            return Err("former registers out of bounds");
        }
        if self.retired.len() > MAX_RETIRED {
            return Err("too many retired legs");
        }
        Ok(())
    }

    /// A grant names its volume exactly where there are several, and a leg has one for each of them or for none: a group never
    /// runs on the word for one of its volumes.
    fn check_granted(&self) -> Result<(), &'static str> {
        let several = self.volumes.len() > 1;
        if self.granted.len() > 2 * self.volumes.len() {
            return Err("more than one grant for a leg");
        }
        for (at, granted) in self.granted.iter().enumerate() {
            let known = match granted.volume {
                Some(volume) => several && self.volumes.contains(&volume),
                None => !several,
            };
            if !known {
                return Err("a grant for another volume");
            }
            let same = |other: &Granted| (other.leg, other.volume) == (granted.leg, granted.volume);
            if self.granted[..at].iter().any(same) {
                return Err("more than one grant for a leg");
            }
        }
        let of = |leg| self.granted.iter().filter(|g| g.leg == leg).count();
        if Leg::BOTH
            .iter()
            .any(|&leg| ![0, self.volumes.len()].contains(&of(leg)))
        {
            return Err("a grant for some volumes only");
        }
        Ok(())
    }

    /// Would a land of these legs change anything: does one of them still run by a grant, or is it not known to carry this epoch?
    pub fn lacks_land_of(&self, legs: Members) -> bool {
        let of_one = |granted: &Granted| legs.contains(granted.leg);
        !self.landed.includes(legs) || self.granted.iter().any(of_one)
    }

    /// The grant for this leg of this volume, if a human gave one.
    pub fn granted_to(&self, leg: Leg, volume: VolumeId) -> Option<&Granted> {
        let of_volume = |granted: &&Granted| granted.volume.is_none_or(|of| of == volume);
        let mut granted = self.granted.iter().filter(of_volume);
        granted.find(|granted| granted.leg == leg)
    }

    /// Was this LUN given up by a human?
    pub fn is_retired(&self, leg: Leg, naa: Naa) -> bool {
        self.retired.contains(&Retired { leg, naa })
    }

    /// The members of an epoch, if it is the present one or among the parents, and the generation fits.
    pub fn members_of(&self, epoch: Epoch, generation: Gen) -> Option<Members> {
        if (epoch, generation) == (self.epoch, self.generation) {
            return Some(self.members);
        }
        self.parents
            .iter()
            .find(|p| (p.epoch, p.generation) == (epoch, generation))
            .map(|p| p.members)
    }
}

#[cfg(test)]
mod tests;
