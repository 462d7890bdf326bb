//! What a one-shot order says, and what comes of it.

use twinsite_register::{
    Epoch, Force, Gen, Key, Leg, LegSeed, Mark, Members, Naa, Register, RegisterId as RegisterName,
    Site, VolumeId,
};

use super::LegInspection;
use crate::config::Config;

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Task {
    /// Initialise legs. Under a Creating register they are members of epoch 1, under a Live one they are New.
    Birth {
        /// Bytes of data.
        size: u64,
        /// LUNs that may be initialised although they are not blank, by leg.
        initialize: [Option<Naa>; 2],
    },
    /// Read and report; preempts nobody, writes nothing.
    Inspect,
    /// Erase legs under a tombstone.
    Wipe,
    /// Fence the leg with a key of its site, then make the register name it, as a human decided. `legs` is that leg.
    Force(Box<Force>),
    /// Write the id of the new register to legs whose register is lost or below.
    Reseed(Reseeding),
}

/// A reseed, as a person accepted it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reseeding {
    /// The new id.
    pub register_id: RegisterName,
    /// The legs that get it. The others of the order are fenced, if they answer: somebody may run on them.
    pub chosen: Members,
    /// What the plan saw on each, if it says so.
    pub expect: [Option<(Epoch, Gen)>; 2],
    /// Copies of the volumes of a group that are not of one moment were accepted.
    pub inconsistent: bool,
}

/// A one-shot order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OneShotOrder {
    /// What to do.
    pub task: Task,
    /// To which legs.
    pub legs: Members,
    /// Of which volume.
    pub volume: VolumeId,
    /// New for this order; before a fence its random bits are used under the tag of `plan`.
    pub key: Key,
    /// 32 random bytes.
    pub seed: [u8; 32],
    /// Where this runs.
    pub site: Site,
    /// Which node.
    pub node: String,
    /// Highest register values seen at this site.
    pub marks: Vec<Mark>,
    /// Limits.
    pub config: Config,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Done {
    /// The legs carry their first superblock; `live`: and the register is Live since.
    Born {
        /// Is the register live?
        live: bool,
    },
    /// What stands on each leg of the order; `None`: not reached.
    Inspected {
        /// The register, if it could be read and exists.
        register: Option<Box<Register>>,
        /// By leg.
        legs: [Option<Box<LegInspection>>; 2],
    },
    /// The legs are erased; the register must hear of it (`wiped`).
    Wiped,
    /// The register names the leg, which is held by a key of this order until a writer of its site fences it.
    Forced,
    /// The superblocks name the new register; these may be granted.
    Reseeded {
        /// By leg.
        legs: [Option<LegSeed>; 2],
    },
}

/// Why it was not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// Not reached in time, or lost on the way.
    #[error("leg {0} is not reachable")]
    Unreachable(Leg),
    /// Somebody else fenced it meanwhile.
    #[error("leg {0} was taken by another key")]
    Taken(Leg),
    /// It carries something that this order may not touch.
    #[error("leg {0} carries other data")]
    ForeignData(Leg),
    /// Its history is not the one that the plan saw.
    #[error("leg {0} is not as the plan saw it")]
    OtherHistory(Leg),
    /// The LUN cannot hold the volume.
    #[error("leg {0} is too small")]
    TooSmall(Leg),
    /// Written by software that knows more.
    #[error("leg {0} was written by newer software")]
    UnknownFormat(Leg),
    /// A human gave this LUN up.
    #[error("leg {0} was retired")]
    Retired(Leg),
    /// The register did not answer.
    #[error("the witness did not answer")]
    WitnessUnreachable,
    /// The register is older than what was seen.
    #[error("the register is below what was seen here")]
    WitnessBehind,
    /// The register is not in the state in which this may be done.
    #[error("the register is not in the state for this order")]
    WrongState,
    /// The register changed while the legs were fenced.
    #[error("the register changed meanwhile")]
    Changed,
    /// The register is of several volumes, and this order is of one, or of others.
    #[error("the register is of other volumes than the order")]
    OtherVolumes,
    /// A force of a leg without data.
    #[error("leg {0} never joined: it has no data")]
    NeverJoined(Leg),
    /// A force of a mix of old and new that no person took as such.
    #[error("leg {0} is a copy that was not completed")]
    Incomplete(Leg),
    /// A force of copies that no person took as such.
    #[error("the copies of volumes {0} and {1} are not of one moment")]
    Mixed(VolumeId, VolumeId),
    /// The orders to the volumes of a group do not ask the same.
    #[error("the orders of the group are not alike")]
    OrdersDiffer,
    /// Nothing speaks against this volume, but something against another one of its group.
    #[error("another volume of the group was not ready")]
    Companion,
    /// The size cannot be a volume.
    #[error("the size is out of bounds")]
    BadSize,
}
