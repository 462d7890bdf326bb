//! What each block may hold: a write counter per block, with everything that was issued, acknowledged, flushed and read.
//!
//! After any history a block holds a value in [last acknowledged, last issued], and a read never goes back. With volatile
//! caches the lower bound is the last flush, and a power cut may take what was read but not flushed.

use bytes::Bytes;

/// Regions of 64 KiB that the workload touches: neighbours, both sides of a page boundary, far ones.
const REGIONS: [u64; 12] = [
    0, 1, 2, 100, 101, 5000, 16_255, 16_256, 16_257, 17_000, 18_000, 18_500,
];
/// Blocks touched in each region, next to each other.
pub const RUN: usize = 4;
pub const BLOCKS: usize = REGIONS.len() * RUN;
pub const BLOCK: u64 = 4096;
pub const SIZE: u64 = 19_000 * 64 * 1024;

pub fn offset(block: usize) -> u64 {
    REGIONS[block / RUN] * 64 * 1024 + (block % RUN) as u64 * BLOCK
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds {
    pub issued: u64,
    pub acked: u64,
    pub flushed: u64,
    pub observed: u64,
    /// What a later flush vouches for: acknowledged since the last flush that failed.
    pub durable_claim: u64,
}

#[derive(Clone, Debug)]
pub struct Oracle {
    pub blocks: [Bounds; BLOCKS],
    pub volatile: bool,
    pub acknowledged: u64,
    pub read: u64,
}

impl Oracle {
    pub fn new(volatile: bool) -> Self {
        Self {
            blocks: [Bounds::default(); BLOCKS],
            volatile,
            acknowledged: 0,
            read: 0,
        }
    }

    /// The next value of a block.
    pub fn issue(&mut self, block: usize) -> (u64, Bytes) {
        let b = &mut self.blocks[block];
        b.issued += 1;
        (b.issued, Self::content(block, b.issued))
    }

    /// The bytes that stand for this value of this block.
    pub fn content(block: usize, value: u64) -> Bytes {
        let mut bytes = vec![0u8; BLOCK as usize];
        bytes[..8].copy_from_slice(&(block as u64 + 1).to_le_bytes());
        bytes[8..16].copy_from_slice(&value.to_le_bytes());
        let end = bytes.len() - 8;
        bytes[end..].copy_from_slice(&value.to_le_bytes());
        bytes.into()
    }

    /// The value in these bytes.
    pub fn value(block: usize, bytes: &[u8]) -> Result<u64, String> {
        let word =
            |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let (id, head, tail) = (word(0), word(8), word(bytes.len() - 8));
        if (id, head, tail) == (0, 0, 0) {
            return Ok(0);
        }
        if id != block as u64 + 1 || head != tail {
            return Err(format!(
                "block {block} holds foreign or torn bytes: id {id}, {head} at its head, {tail} at its end"
            ));
        }
        Ok(head)
    }

    pub fn acknowledged(&mut self, block: usize, value: u64) {
        let b = &mut self.blocks[block];
        b.acked = b.acked.max(value);
        b.durable_claim = b.durable_claim.max(value);
        self.acknowledged += 1;
    }

    /// What a read that begins now must show at least.
    pub fn floor(&self, block: usize) -> u64 {
        let b = &self.blocks[block];
        if self.volatile {
            b.flushed
        } else {
            b.acked.max(b.observed)
        }
    }

    pub fn read(&mut self, block: usize, floor: u64, value: u64) -> Result<(), String> {
        let b = &mut self.blocks[block];
        self.read += 1;
        if value > b.issued {
            return Err(format!(
                "block {block} reads {value}, but only {} were written",
                b.issued
            ));
        }
        if value < floor {
            return Err(format!(
                "block {block} reads {value}, at least {floor} was promised ({b:?})"
            ));
        }
        b.observed = b.observed.max(value);
        Ok(())
    }
}
