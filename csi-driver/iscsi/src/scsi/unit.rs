//! The device server of one logical unit: what it is configured with, what it asks of its store,
//! what it answers.
//!
//! Call order: after each `handle_*` (and `nexus_*`, `set_*`) drain `poll` until `None`. Every
//! `UnitOutput::Store` is answered by exactly one `handle_store` with the same `OpId`, in any order.
//! Every command ends in exactly one of `Complete` and `AbortData`.

use std::time::Duration;

use bytes::Bytes;

use super::{
    Attribute, Cdb, Expected, Lun, NexusId, ScsiOutcome, TaskFunction, TaskKey, TaskResponse,
    TransportId,
};

/// Logical block size; the physical block is always 4096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockSize {
    B512,
    B4096,
}

/// What a unit is and serves. All of it is fixed for the life of the unit but what has a setter.
#[derive(Clone, Debug)]
pub struct UnitConfig {
    /// Bytes served; a rest smaller than a block is not reachable.
    pub size: u64,
    pub block_size: BlockSize,
    /// NAA-6 designator, the same through every path.
    pub naa: [u8; 16],
    pub serial: String,
    /// At most 8, 16 and 4 ASCII bytes in INQUIRY.
    pub vendor: String,
    pub product: String,
    pub revision: String,
    /// IQN of the target; with the portal group tag it is the target port's name.
    pub target_name: String,
    pub portal_group: u16,
    pub relative_port: u16,
    /// LUNs of the target, for REPORT LUNS.
    pub luns: Vec<Lun>,
    pub read_only: bool,
    pub removable: bool,
    /// Acknowledge writes from a volatile cache (WCE=1) until a MODE SELECT says otherwise.
    pub write_cache: bool,
    /// The store deallocates on `Discard`.
    pub thin: bool,
    /// A discarded range reads as zeros (LBPRZ).
    pub discard_zeroes: bool,
    /// Random per start of the target.
    pub boot_id: u64,
    /// When the target began to serve, on the clock of `now`.
    pub started: Duration,
    /// Largest transfer of one command in bytes, advertised in VPD B0.
    pub max_transfer: u32,
    /// Tasks held at once over all nexuses; more get TASK SET FULL.
    pub task_limit: usize,
    pub pr: PrState,
}

/// Persistent reservation state as it is saved with the unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrState;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrStateError {
    #[error("saved reservation state is cut short")]
    Truncated,
    #[error("saved reservation state has version {0}")]
    Version(u32),
    #[error("saved reservation state fails its checksum")]
    Checksum,
    #[error("saved reservation state contradicts itself")]
    Inconsistent,
}

impl PrState {
    /// Reads what `StoreOp::SavePr` carried. An empty slice is a unit without reservations.
    pub fn restore(_bytes: &[u8]) -> Result<Self, PrStateError> {
        Ok(Self)
    }
}

/// A store operation under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// What a unit asks of its store. Offsets and lengths are bytes, multiples of the logical block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreOp {
    Read {
        offset: u64,
        len: u64,
    },
    /// `fua`: on stable storage before the reply.
    Write {
        offset: u64,
        data: Vec<Bytes>,
        fua: bool,
    },
    Flush,
    Discard {
        offset: u64,
        len: u64,
    },
    WriteZeros {
        offset: u64,
        len: u64,
        fua: bool,
    },
    /// Which parts are allocated; a store that cannot tell answers `StoreError::Unsupported`.
    Map {
        offset: u64,
        len: u64,
    },
    /// Make this reservation state durable (fsync) and atomic before the reply.
    SavePr(Bytes),
}

/// A part of the answer to `StoreOp::Map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub offset: u64,
    pub len: u64,
    pub mapped: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreReply {
    /// Exactly the bytes asked for, in any number of pieces.
    Data(Vec<Bytes>),
    /// Ascending, without gaps, beginning at the offset asked for.
    Extents(Vec<Extent>),
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("medium error")]
    Medium,
    #[error("no space left")]
    NoSpace,
    #[error("store is read-only")]
    ReadOnly,
    #[error("store is gone")]
    Gone,
    #[error("operation is not supported by the store")]
    Unsupported,
    #[error("store failed")]
    Hardware,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitOutput {
    Store {
        op: OpId,
        request: StoreOp,
    },
    Complete {
        task: TaskKey,
        outcome: ScsiOutcome,
    },
    /// This task ended without a status (aborted on behalf of another nexus): the session forgets it.
    AbortData {
        task: TaskKey,
    },
    /// Tasks of this nexus for this LUN whose data is not yet whole are aborted: the session drops them.
    AbortGathering {
        nexus: NexusId,
    },
    TaskManagementDone {
        nexus: NexusId,
        tag: u64,
        response: TaskResponse,
    },
}

/// The device server of one LUN, shared by all nexuses.
#[derive(Debug)]
pub struct LogicalUnit;

impl LogicalUnit {
    pub fn new(_config: UnitConfig) -> Self {
        Self
    }

    /// A session logged in. A registration of the same initiator port (name and ISID) is its own again.
    pub fn nexus_added(&mut self, _now: Duration, _nexus: NexusId, _transport_id: TransportId) {}

    /// The session is gone: its tasks are aborted without an answer, its registration stays.
    pub fn nexus_removed(&mut self, _now: Duration, _nexus: NexusId) {}

    /// `data_out` is whole: `expected` bytes, or what the session could take of them.
    pub fn handle_command(
        &mut self,
        _now: Duration,
        _task: TaskKey,
        _attribute: Attribute,
        _cdb: Cdb,
        _data_out: Vec<Bytes>,
        _expected: Expected,
    ) {
    }

    /// `tag` names the function itself and comes back in `TaskManagementDone`.
    pub fn handle_task_management(
        &mut self,
        _now: Duration,
        _nexus: NexusId,
        _tag: u64,
        _function: TaskFunction,
    ) {
    }

    pub fn handle_store(
        &mut self,
        _now: Duration,
        _op: OpId,
        _result: Result<StoreReply, StoreError>,
    ) {
    }

    pub fn poll(&mut self) -> Option<UnitOutput> {
        None
    }

    /// The unit was expanded (or shrunk): CAPACITY DATA HAS CHANGED for every nexus.
    pub fn set_size(&mut self, _size: u64) {}

    /// Another LUN came or went: REPORTED LUNS DATA HAS CHANGED for every nexus.
    pub fn set_luns(&mut self, _luns: Vec<Lun>) {}

    /// Age of the last command of a registered nexus whose key, without its session byte, is not `own`.
    /// `None`: no such command since the start.
    pub fn foreign_command_age(&self, _now: Duration, _own: u64) -> Option<Duration> {
        None
    }
}
