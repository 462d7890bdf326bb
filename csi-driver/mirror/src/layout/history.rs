//! The history ring: a copy of every superblock that was written, with the reason. Forensics, never read by the engine.

use super::bytes::{blank, open, put, seal};
use super::superblock::text;
use super::{BLOCK, Block, BlockError, HISTORY_BLOCKS, HISTORY_OFFSET, Superblock};

const MAGIC: &[u8; 8] = b"TWINSH01";
const CRC: usize = 8;
const REASON: usize = 3072;
const REASON_BYTES: usize = 512;

/// One entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct History {
    /// The superblock that was written.
    pub superblock: Superblock,
    /// Why; cut at 512 bytes.
    pub reason: String,
}

impl History {
    /// The block, with its checksum.
    pub fn emit(&self) -> Block {
        let mut block = blank();
        let b = &mut *block;
        put(b, 0, MAGIC);
        self.superblock.fill(b);
        let mut end = self.reason.len().min(REASON_BYTES);
        while !self.reason.is_char_boundary(end) {
            end -= 1;
        }
        put(b, REASON, &self.reason.as_bytes()[..end]);
        seal(b, CRC);
        block
    }

    /// An entry from the bytes of its block.
    pub fn parse(bytes: &[u8]) -> Result<Self, BlockError> {
        let b = open(bytes, MAGIC, CRC)?;
        Ok(Self {
            superblock: Superblock::read(b)?,
            reason: text(&b[REASON..REASON + REASON_BYTES]),
        })
    }
}

/// Where the entry of the superblock with this sequence number stands.
pub const fn history_offset(sb_seq: u64) -> u64 {
    HISTORY_OFFSET + BLOCK as u64 * (sb_seq % HISTORY_BLOCKS)
}
