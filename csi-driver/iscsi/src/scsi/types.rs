//! The words that sessions, the device server and its clients share: statuses, command blocks,
//! logical unit numbers, tasks, nexuses, and how much data was meant and moved.

use bytes::Bytes;

use super::Sense;

/// A SCSI status byte (SAM-5 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    Good,
    CheckCondition,
    ConditionMet,
    Busy,
    ReservationConflict,
    TaskSetFull,
    AcaActive,
    TaskAborted,
}

impl Status {
    /// The status of a wire byte, `None` for a value that SAM-5 does not define.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x00 => Self::Good,
            0x02 => Self::CheckCondition,
            0x04 => Self::ConditionMet,
            0x08 => Self::Busy,
            0x18 => Self::ReservationConflict,
            0x28 => Self::TaskSetFull,
            0x30 => Self::AcaActive,
            0x40 => Self::TaskAborted,
            _ => return None,
        })
    }

    pub fn byte(self) -> u8 {
        match self {
            Self::Good => 0x00,
            Self::CheckCondition => 0x02,
            Self::ConditionMet => 0x04,
            Self::Busy => 0x08,
            Self::ReservationConflict => 0x18,
            Self::TaskSetFull => 0x28,
            Self::AcaActive => 0x30,
            Self::TaskAborted => 0x40,
        }
    }
}

/// A command descriptor block of at most 16 bytes; bytes beyond its length are zero.
///
/// Longer CDBs (an additional header segment in iSCSI) are not used by any command served or sent
/// here; a session answers them with INVALID COMMAND OPERATION CODE by passing the first 16 bytes,
/// whose operation code (7Fh, 7Eh) no unit knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cdb {
    bytes: [u8; 16],
    len: u8,
}

impl Cdb {
    /// A CDB of these bytes, cut to the first 16.
    pub fn new(bytes: &[u8]) -> Self {
        let len = bytes.len().min(16);
        let mut cdb = [0; 16];
        cdb[..len].copy_from_slice(&bytes[..len]);
        Self {
            bytes: cdb,
            len: len as u8,
        }
    }

    /// The CDB in a 16-byte wire field, its length taken from the group code of the operation code.
    pub fn from_field(field: [u8; 16]) -> Self {
        let len = match field[0] >> 5 {
            0 => 6,
            1 | 2 => 10,
            5 => 12,
            _ => 16,
        };
        Self::new(&field[..len])
    }

    pub fn opcode(&self) -> u8 {
        self.bytes[0]
    }

    /// The bytes of this CDB's own length.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// All 16 bytes, zero padded, as a wire field carries them.
    pub fn field(&self) -> &[u8; 16] {
        &self.bytes
    }

    /// The byte at this place, zero beyond the CDB's length.
    pub(crate) fn byte(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(0)
    }

    /// Whether this bit of this byte is set.
    pub(crate) fn bit(&self, at: usize, bit: u8) -> bool {
        self.byte(at) & (1 << bit) != 0
    }

    /// A big-endian field of `width` bytes (at most 8) at this place.
    pub(crate) fn field_at(&self, at: usize, width: usize) -> u64 {
        (at..at + width).fold(0, |value, place| value << 8 | u64::from(self.byte(place)))
    }
}

/// A logical unit number: the eight bytes of the wire as one big-endian number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lun(pub u64);

impl Lun {
    /// The single-level LUN of this number: peripheral device addressing below 256, flat space above.
    pub fn from_number(number: u16) -> Self {
        let method = if number < 256 { 0 } else { 0x4000 };
        Self(u64::from(method | number & 0x3FFF) << 48)
    }

    /// The number of a single-level LUN by peripheral device (bus 0) or flat space addressing.
    pub fn number(self) -> Option<u16> {
        if self.0 & 0x0000_FFFF_FFFF_FFFF != 0 {
            return None;
        }
        let first = (self.0 >> 48) as u16;
        match first >> 14 {
            0 if first < 256 => Some(first),
            1 => Some(first & 0x3FFF),
            _ => None,
        }
    }
}

/// One I_T nexus as the target knows it: a logged-in session. Ids are not used twice in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NexusId(pub u64);

/// One task of one nexus; `tag` is the initiator task tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskKey {
    pub nexus: NexusId,
    pub tag: u64,
}

/// The initiator port of a nexus as persistent reservations name it (SPC-4 7.6.4.6).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TransportId {
    /// iSCSI name of the initiator, at most 223 bytes.
    pub name: String,
    /// Initiator session id; all-registrants forms may leave it out.
    pub isid: Option<[u8; 6]>,
}

/// The task attribute of a command (SAM-5 8.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attribute {
    #[default]
    Simple,
    Ordered,
    HeadOfQueue,
    Aca,
}

/// The transfer an initiator announced: direction and expected data transfer length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    None,
    In(u32),
    Out(u32),
}

impl Expected {
    pub fn length(self) -> u32 {
        match self {
            Self::None => 0,
            Self::In(length) | Self::Out(length) => length,
        }
    }
}

/// How the transfer the command meant differs from the one the initiator expected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residual {
    #[default]
    None,
    /// So many bytes were expected and not moved.
    Underflow(u32),
    /// So many bytes would have been moved on top, had they been expected.
    Overflow(u32),
}

impl Residual {
    /// The residual of a command that meant to move `meant` bytes where `expected` were announced.
    pub fn of(meant: u64, expected: u32) -> Self {
        let expected = u64::from(expected);
        match meant.cmp(&expected) {
            std::cmp::Ordering::Equal => Self::None,
            std::cmp::Ordering::Less => Self::Underflow((expected - meant) as u32),
            std::cmp::Ordering::Greater => {
                Self::Overflow(u32::try_from(meant - expected).unwrap_or(u32::MAX))
            }
        }
    }
}

/// How a command ended. `data_in` is already cut to what the initiator expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScsiOutcome {
    pub status: Status,
    pub sense: Option<Sense>,
    pub data_in: Vec<Bytes>,
    pub residual: Residual,
}

/// A task management function for one logical unit (SAM-5 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskFunction {
    AbortTask {
        tag: u64,
    },
    AbortTaskSet,
    ClearAca,
    ClearTaskSet,
    LunReset,
    /// To be given to every unit of the target.
    TargetWarmReset,
    /// To be given to every unit of the target; the session drops its connections afterwards.
    TargetColdReset,
    QueryTask {
        tag: u64,
    },
    QueryTaskSet,
    ItNexusReset,
    QueryAsyncEvent,
}

/// The answer to a task management function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskResponse {
    /// Done; for a query: no such task.
    Complete,
    TaskNotFound,
    LunNotFound,
    NotSupported,
    Rejected,
    /// A query found what it asked for (RFC 7144).
    Succeeded,
}
