//! What stands on a leg before its data: fixed offsets, little endian, CRC32C, 4096-byte blocks.
//!
//! The head of the LUN is used and not its tail, because a tail copy would have to move at every resize. Every block is
//! written whole with FUA and never partly, and its CRC covers all 4096 bytes with the CRC field as zero. Parsing never
//! panics, whatever the 4096 bytes are: a leg may be blank, torn, foreign or written by newer software, and each of these is
//! told apart, since the answers differ (birth, other slot, `ForeignData`, refuse).
//!
//! Not here: which leg may be believed ([`crate::activation`]) and when blocks are written.

mod base;
mod beat;
mod bytes;
mod geometry;
mod guard;
mod history;
mod map;
mod slots;
mod superblock;

pub use base::{BASE_NUMBERS, BaseNumbers, base_blocks, base_crc};
pub use beat::Beat;
pub use geometry::{Geometry, GeometryError, MAX_PAGES};
pub use guard::guard_block;
pub use history::{History, history_offset};
pub use map::{MapPage, PAGE_REGIONS, RegionState};
pub use slots::{Slots, slot_offset};
pub use superblock::{Base, FORMAT_VERSION, NODE_BYTES, Role, SB_USED, Superblock};

pub use crate::io::{BLOCK, Block};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Text that tells a person what this LUN is.
pub const GUARD_OFFSET: u64 = 0;
/// Superblock slots 0 and 1.
pub const SLOT_OFFSETS: [u64; 2] = [64 * KIB, 128 * KIB];
/// The beat block.
pub const BEAT_OFFSET: u64 = 192 * KIB;
/// The history ring.
pub const HISTORY_OFFSET: u64 = 256 * KIB;
/// Blocks of the history ring.
pub const HISTORY_BLOCKS: u64 = 64;
/// Map page 0.
pub const MAP_OFFSET: u64 = MIB;
/// First byte after the last possible map page.
pub const MAP_END: u64 = 65 * MIB;
/// Base number block 0.
pub const BASE_OFFSET: u64 = 80 * MIB;
/// First byte of data.
pub const DATA_OFFSET: u64 = crate::io::DATA_START;

/// Where map page `page` stands.
pub const fn map_offset(page: u32) -> u64 {
    MAP_OFFSET + BLOCK as u64 * page as u64
}

/// Where base number block `index` stands.
pub const fn base_offset(index: u32) -> u64 {
    BASE_OFFSET + BLOCK as u64 * index as u64
}

/// Why bytes are not the block they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BlockError {
    /// Not 4096 bytes.
    #[error("{0} bytes instead of one block")]
    Length(usize),
    /// All zero: never written.
    #[error("blank block")]
    Blank,
    /// Something else stands here.
    #[error("wrong magic")]
    Magic,
    /// Torn or damaged.
    #[error("wrong checksum")]
    Crc,
    /// Written by newer software; the checksum is right.
    #[error("format version {0}")]
    Version(u32),
    /// Uses a feature that this software does not know and must know.
    #[error("unknown incompatible features {0:#x}")]
    Incompatible(u64),
    /// The checksum is right but a field cannot be.
    #[error("impossible {0}")]
    Field(&'static str),
    /// A good block of another place: a misdirected write.
    #[error("block number {0} of another place")]
    Misplaced(u32),
}

impl BlockError {
    /// Newer software wrote this: refuse, never fall back to an older copy and never initialise.
    pub const fn is_newer(self) -> bool {
        matches!(self, Self::Version(_) | Self::Incompatible(_))
    }
}

#[cfg(test)]
pub(crate) mod tests;
