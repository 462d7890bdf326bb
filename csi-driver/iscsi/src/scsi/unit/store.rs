//! What a unit asks of its store and how the store's failures become sense data.

use bytes::Bytes;

use crate::scsi::{Code, Sense, SenseKey};

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
    /// On stable storage before the reply; after a crash at whatever moment, all of it is there or nothing.
    WriteAtomic {
        offset: u64,
        data: Vec<Bytes>,
    },
    /// Everything written before is on stable storage before the reply.
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
    /// It goes on where the answer before ended, which need not be a whole block.
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
    /// Ascending, without gaps, beginning at the offset asked for; may end early.
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

/// Whether the failed operation was to change the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intent {
    Read,
    Write,
}

impl StoreError {
    /// The one table from store failures to sense data.
    pub(super) fn sense(self, intent: Intent) -> Sense {
        let (key, code) = match (self, intent) {
            (Self::Medium, Intent::Read) => (SenseKey::MediumError, Code::UNRECOVERED_READ_ERROR),
            (Self::Medium, Intent::Write) => (SenseKey::MediumError, Code::WRITE_ERROR),
            (Self::NoSpace, _) => (SenseKey::DataProtect, Code::SPACE_ALLOCATION_FAILED),
            (Self::ReadOnly, _) => (SenseKey::DataProtect, Code::WRITE_PROTECTED),
            (Self::Gone, _) => (SenseKey::NotReady, Code::NOT_READY_INTERVENTION),
            (Self::Unsupported, _) => (SenseKey::IllegalRequest, Code::INVALID_FIELD_IN_CDB),
            (Self::Hardware, _) => (SenseKey::HardwareError, Code::INTERNAL_TARGET_FAILURE),
        };
        Sense::new(key, code)
    }
}
