//! Fields of a block by offset, and its checksum.

use super::{BLOCK, Block, BlockError};

pub(super) fn blank() -> Block {
    Box::new([0; BLOCK])
}

pub(super) fn array<const N: usize>(block: &[u8; BLOCK], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&block[at..at + N]);
    out
}

pub(super) fn u16_at(block: &[u8; BLOCK], at: usize) -> u16 {
    u16::from_le_bytes(array(block, at))
}

pub(super) fn u32_at(block: &[u8; BLOCK], at: usize) -> u32 {
    u32::from_le_bytes(array(block, at))
}

pub(super) fn u64_at(block: &[u8; BLOCK], at: usize) -> u64 {
    u64::from_le_bytes(array(block, at))
}

pub(super) fn put(block: &mut [u8; BLOCK], at: usize, field: &[u8]) {
    block[at..at + field.len()].copy_from_slice(field);
}

/// CRC32C over the whole block with the four bytes at `crc_at` taken as zero.
pub(super) fn checksum(block: &[u8; BLOCK], crc_at: usize) -> u32 {
    let head = crc32c::crc32c(&block[..crc_at]);
    let field = crc32c::crc32c_append(head, &[0; 4]);
    crc32c::crc32c_append(field, &block[crc_at + 4..])
}

pub(super) fn seal(block: &mut [u8; BLOCK], crc_at: usize) {
    let crc = checksum(block, crc_at);
    put(block, crc_at, &crc.to_le_bytes());
}

/// Length, blankness, magic and checksum, in this order: what every kind of block is tested for first.
pub(super) fn open<'a>(
    bytes: &'a [u8],
    magic: &[u8],
    crc_at: usize,
) -> Result<&'a [u8; BLOCK], BlockError> {
    let block: &[u8; BLOCK] = bytes
        .try_into()
        .map_err(|_| BlockError::Length(bytes.len()))?;
    if &block[..magic.len()] != magic {
        let blank = block.iter().all(|&byte| byte == 0);
        return Err(if blank {
            BlockError::Blank
        } else {
            BlockError::Magic
        });
    }
    if u32_at(block, crc_at) != checksum(block, crc_at) {
        return Err(BlockError::Crc);
    }
    Ok(block)
}
