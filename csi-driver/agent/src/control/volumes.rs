//! What the control plane asks of the data path about volumes, and what it hears back.
//!
//! The control plane says which volume to open, with everything that the engine and its sessions need;
//! from then on it only gives orders and listens. Nothing here waits: orders are posted, events come
//! through the [`Report`] that goes with the order.
//!
//! Not here: the actor that owns engine, sessions and device (`volume`), when to open (`reconcile`).

use std::{fmt, path::PathBuf, sync::Arc};

use tokio::runtime::Handle;
use twinsite_api::{AttachmentMode, ChapCredentials, FrontEnd, InspectReport};
use twinsite_mirror::{
    io::{AttachOrder, ControlError, Format, FsType, Leg, Naa, VerifyOrder},
    oneshot::Reseeding,
    status::{Event, Refusal, Status},
};
use twinsite_register::{Force, GroupId, VolumeId};
use twinsite_witness::WitnessHandle;

use super::records::Records;

/// How a leg is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegTarget {
    /// `host:port`, best first.
    pub portals: Vec<String>,
    pub iqn: String,
    pub lun: u16,
    /// The NAA name that the LUN must have; another one is another LUN.
    pub naa: Naa,
    pub chap: Option<ChapCredentials>,
    /// Served by an array of another make.
    pub array: bool,
    /// Its write cache survives a power cut: counts as WCE=0.
    pub cache_protected: bool,
}

/// Open a volume, or do one thing with its legs.
pub struct VolumeOrder {
    /// Name of the Attachment object.
    pub name: String,
    /// What people call the volume.
    pub reference: String,
    pub mode: AttachmentMode,
    pub volume: VolumeId,
    /// Whose register decides about it.
    pub group: GroupId,
    /// How the legs are reached, by [`Leg::index`]; `None`: the order does not name it.
    pub legs: [Option<LegTarget>; 2],
    /// The order as the engine takes it. Also what a one-shot needs of it: key, seed, site, node, marks.
    pub attach: Box<AttachOrder>,
    /// Bytes of data: of a birth the size, of a writer what it should have (an order to expand comes apart).
    pub size: u64,
    pub front_end: FrontEnd,
    /// For mode Reseed.
    pub reseed: Option<Reseeding>,
    /// What a person accepted, for mode Force.
    pub force: Option<Box<Force>>,
    pub witness: WitnessHandle,
    /// Where `SaveRecord` goes: [`Records::save_apart`].
    pub records: Records,
    /// For what must not be done on a data thread.
    pub runtime: Handle,
    pub report: Report,
}

impl fmt::Debug for VolumeOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "VolumeOrder({} for {}, {:?})",
            self.name, self.reference, self.mode
        )
    }
}

/// Where events of a volume go; may be called from any thread and never blocks.
pub type Report = Arc<dyn Fn(VolumeEvent) + Send + Sync>;

/// What happens to a volume.
#[derive(Clone, Debug)]
pub enum VolumeEvent {
    /// A snapshot: on every change of state, and every second while it is open.
    Status(Box<Status>),
    /// Why a leg cannot be reached, of all its portals the last that was tried; `None`: it can.
    Path {
        leg: Leg,
        trouble: Option<String>,
    },
    /// The device is there.
    Shown {
        path: PathBuf,
        size: u64,
        front_end: FrontEnd,
        /// Whether it has its file system, as recorded on the legs.
        format: Format,
    },
    Resized {
        size: u64,
    },
    /// The device is gone.
    Hidden,
    /// The mirror serves (also without a device: a caretaker).
    Serving,
    /// The first write of this attach was acknowledged.
    FirstWrite,
    /// Something worth a line in the log.
    Told(Event),
    /// The answer to [`VolumeHandle::drop_leg`], [`VolumeHandle::expand`] or [`VolumeHandle::verify`].
    OrderDone(Result<(), ControlError>),
    /// The answer to [`VolumeHandle::set_format`].
    FormatRecorded(Result<(), ControlError>),
    /// What mode Inspect found.
    Inspected(Box<InspectReport>),
    /// The volume has ended; nothing follows.
    Ended(Ending),
}

/// How a volume ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Detached cleanly: released and logged out.
    Detached,
    Refused(Refusal),
    Superseded,
    /// A one-shot order is done.
    Done,
    /// It could not be done; `word` is a condition reason, `text` says what to do.
    Failed {
        word: &'static str,
        text: String,
    },
}

/// Orders to an open volume. Orders to one that has ended are forgotten.
pub trait VolumeHandle: Send {
    /// Drain, clean, release, log out; ends with [`Ending::Detached`].
    fn detach(&self);
    fn drop_leg(&self, leg: Leg);
    fn expand(&self, size: u64);
    fn set_format(&self, format: Format, fs_type: FsType);
    /// Compare both legs, or end that; answered by [`VolumeEvent::OrderDone`].
    fn verify(&self, order: VerifyOrder);
    /// How the legs are reached from now on, by [`Leg::index`]. A session that is up stays; a leg that had no address until
    /// now is logged in to.
    fn readdress(&self, legs: [Option<LegTarget>; 2]);
}

/// Opens volumes.
pub trait Volumes: Send {
    /// Begins; everything else comes through the report.
    fn open(&mut self, order: VolumeOrder) -> Box<dyn VolumeHandle>;
    /// The same for the volumes of a group, which are one order of several objects.
    fn open_group(&mut self, orders: Vec<VolumeOrder>) -> Vec<Box<dyn VolumeHandle>>;
}
