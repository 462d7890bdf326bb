//! What a logical unit is configured with, and its geometry.
//!
//! Not here: mode parameters that initiators change (`mode`).

use std::time::Duration;

use super::PrState;
use crate::scsi::Lun;

/// Blocks that one VERIFY, COPY or WRITE SAME step moves, in bytes.
pub(super) const STEP_BYTES: u64 = 1 << 20;
/// Largest COMPARE AND WRITE, in blocks (the field has one byte).
pub(super) const MAX_COMPARE_BLOCKS: u64 = 255;
/// Largest WRITE SAME, in blocks.
pub(super) const MAX_SAME_BLOCKS: u64 = 32 * 1024;
/// Largest WRITE ATOMIC, in bytes.
pub(super) const MAX_ATOMIC_BYTES: u64 = 1 << 20;
/// Descriptors of one UNMAP.
pub(super) const MAX_UNMAP_DESCRIPTORS: u64 = 256;
/// Bytes that one UNMAP may name in all.
const MAX_UNMAP_BYTES: u64 = 512 << 20;

/// Logical block size; the physical block is always 4096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockSize {
    B512,
    B4096,
}

impl BlockSize {
    pub fn bytes(self) -> u32 {
        match self {
            Self::B512 => 512,
            Self::B4096 => 4096,
        }
    }

    /// Logical blocks per physical block, as a power of two.
    pub(super) fn per_physical_exponent(self) -> u8 {
        match self {
            Self::B512 => 3,
            Self::B4096 => 0,
        }
    }
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
    /// The store knows `StoreOp::WriteAtomic`.
    pub atomic_writes: bool,
    /// Random per start of the target.
    pub boot_id: u64,
    /// When the target began to serve, on the clock of `now`.
    pub started: Duration,
    /// Largest transfer of one command in bytes, advertised in VPD B0.
    pub max_transfer: u32,
    /// Tasks held at once over all nexuses; more get TASK SET FULL. Commands that fence or only ask have
    /// a little room of their own beyond it.
    pub task_limit: usize,
    pub pr: PrState,
}

impl UnitConfig {
    pub(super) fn block(&self) -> u64 {
        u64::from(self.block_size.bytes())
    }

    /// Logical blocks of the unit.
    pub(super) fn blocks(&self) -> u64 {
        self.size / self.block()
    }

    pub(super) fn max_transfer_blocks(&self) -> u64 {
        u64::from(self.max_transfer) / self.block()
    }

    /// Longest WRITE ATOMIC; 0: there is none.
    pub(super) fn max_atomic_blocks(&self) -> u64 {
        if self.atomic_writes {
            MAX_ATOMIC_BYTES.min(u64::from(self.max_transfer)) / self.block()
        } else {
            0
        }
    }

    pub(super) fn max_unmap_blocks(&self) -> u64 {
        MAX_UNMAP_BYTES / self.block()
    }
}
