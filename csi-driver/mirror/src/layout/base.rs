//! Base number blocks: for every map page, the number that the other leg had at least when it left.
//!
//! A leg that returns with a lower number anywhere was rolled back meanwhile and gets a full copy. The blocks count only
//! together with the superblock whose `base_crc` fits them.

use twinsite_register::Epoch;

use super::bytes::{blank, open, put, seal, u32_at, u64_at};
use super::{BLOCK, Block, BlockError};

const MAGIC: &[u8; 4] = b"TWBN";
const INDEX: usize = 4;
const EPOCH: usize = 8;
const CRC: usize = 16;
const NUMBERS: usize = 32;
/// Page numbers per block.
pub const BASE_NUMBERS: usize = (BLOCK - NUMBERS) / 8;

/// One block of page numbers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BaseNumbers {
    /// Which block.
    pub index: u32,
    /// The base epoch.
    pub epoch: Epoch,
    /// Number of page `index * 508 + n`; pages behind the end have 0. At most [`BASE_NUMBERS`].
    pub numbers: Vec<u64>,
}

impl BaseNumbers {
    /// The block, with its checksum.
    pub fn emit(&self) -> Block {
        let mut block = blank();
        let b = &mut *block;
        put(b, 0, MAGIC);
        put(b, INDEX, &self.index.to_le_bytes());
        put(b, EPOCH, &self.epoch.0.to_le_bytes());
        for (n, number) in self.numbers.iter().take(BASE_NUMBERS).enumerate() {
            put(b, NUMBERS + 8 * n, &number.to_le_bytes());
        }
        seal(b, CRC);
        block
    }

    /// Block `index` from the bytes that stand in its place; always [`BASE_NUMBERS`] numbers.
    pub fn parse(index: u32, bytes: &[u8]) -> Result<Self, BlockError> {
        let b = open(bytes, MAGIC, CRC)?;
        let found = u32_at(b, INDEX);
        if found != index {
            return Err(BlockError::Misplaced(found));
        }
        let numbers = (0..BASE_NUMBERS)
            .map(|n| u64_at(b, NUMBERS + 8 * n))
            .collect();
        Ok(Self {
            index,
            epoch: Epoch(u64_at(b, EPOCH)),
            numbers,
        })
    }
}

/// The blocks for the numbers of all pages, page 0 first.
pub fn base_blocks(epoch: Epoch, numbers: &[u64]) -> Vec<Block> {
    let block = |(index, part): (usize, &[u64])| {
        BaseNumbers {
            index: index as u32,
            epoch,
            numbers: part.to_vec(),
        }
        .emit()
    };
    numbers
        .chunks(BASE_NUMBERS)
        .enumerate()
        .map(block)
        .collect()
}

/// What `base_crc` must be for these blocks, in order.
pub fn base_crc<'a>(blocks: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    blocks.into_iter().fold(0, crc32c::crc32c_append)
}
