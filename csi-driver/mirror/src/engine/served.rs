//! What attach hands to the serving phase, and what the serving phase hands back.
//!
//! At the hand-over the legs of the set are fenced and verified, superblocks of the membership are durable in both slots,
//! the lease wait is over, and no request to the register is open. From here on the serving phase makes the legs equal
//! (2.7 step 8), writes the first beat and shows the device (step 9).

use twinsite_register::{BeatObject, Members, Order, Register, Running};

use super::seed::IdSource;
use crate::io::{AttachOrder, LegInfo};
use crate::layout::{Beat, MapPage, Superblock};
use crate::status::Refusal;

/// The result of an attach that may serve.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) order: AttachOrder,
    /// The key that is registered on both sessions of each leg of the set: `order.key`, or a later one of the same uid.
    pub(crate) running: Running,
    /// Place of this uid in the order, `n` and uid.
    pub(crate) place: Order,
    pub(crate) ids: IdSource,
    /// The value after the attach's compare-and-swap; `None`: run without the register (U3, U4), a late stamp is owed.
    pub(crate) register: Option<Register>,
    /// Per leg of the set.
    pub(crate) legs: [Option<ServedLeg>; 2],
    /// Every leg whose sessions are logged in now, of the set or not.
    pub(crate) connected: [Option<LegInfo>; 2],
    pub(crate) beat_object: Option<BeatObject>,
    /// A device that was shown before goes on: the first `ShowDevice` says so.
    pub(crate) continued: bool,
}

impl Served {
    /// The legs that run.
    pub(crate) fn set(&self) -> Members {
        self.running.members
    }
}

/// One leg of the set, as it stands on the medium.
#[derive(Clone, Debug)]
pub(crate) struct ServedLeg {
    /// As of the login of this attach: its boot id is compared with `superblock.boot_id`.
    pub(crate) info: LegInfo,
    /// The newest superblock, durable in both slots.
    pub(crate) superblock: Superblock,
    /// All map pages; a page that could not be believed is all dirty with number 0.
    pub(crate) pages: Vec<MapPage>,
    pub(crate) beat: Option<Beat>,
    /// The base numbers, if the blocks on this leg fit its `base`.
    pub(crate) base_numbers: Option<Vec<u64>>,
    /// The leg runs alone, and its target lost a volatile cache since the boot id recorded before this attach. For a
    /// continued device: the next flush fails once (R40).
    pub(crate) restarted: bool,
}

/// Back to "Decide with the fences held": the requests of the guest wait meanwhile. Only a writer that attached without
/// the register and was never stamped comes here, or one that lost a leg before its first beat.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) order: AttachOrder,
    pub(crate) place: Order,
    pub(crate) ids: IdSource,
    /// Legs of the set that are still connected and fenced.
    pub(crate) connected: [Option<LegInfo>; 2],
    pub(crate) fenced: Members,
    /// The device is shown.
    pub(crate) shown: bool,
}

/// Why the serving phase ended.
#[derive(Clone, Debug)]
pub(crate) enum ServeEnd {
    /// Decide again, with the fences held.
    Decide(Box<Held>),
    /// All keys are gone from the last member: attach in place, new key, same uid, device held (2.14).
    Reattach(Box<Held>),
    Superseded,
    /// Detached; the register may still name our key: `release` is the last value seen with it.
    Off {
        release: Option<Box<Register>>,
    },
}

/// Why attach ended; `S`: of the one volume, or of all volumes of a group.
#[derive(Clone, Debug)]
pub(crate) enum AttachEnd<S> {
    Served(S),
    Refused(Refusal),
    /// Another writer took over meanwhile, or the shown device may never go on.
    Superseded,
    /// Detach came first. A stamp that was won is released by the engine.
    Off {
        release: Option<Box<Register>>,
    },
}

impl AttachEnd<Vec<Served>> {
    /// Of an attach of one volume.
    pub(crate) fn alone(self) -> AttachEnd<Box<Served>> {
        match self {
            Self::Served(mut all) => match all.pop() {
                Some(served) => AttachEnd::Served(Box::new(served)),
                None => AttachEnd::Superseded,
            },
            Self::Refused(why) => AttachEnd::Refused(why),
            Self::Superseded => AttachEnd::Superseded,
            Self::Off { release } => AttachEnd::Off { release },
        }
    }
}
