//! The text at the head of a leg, for the person who finds the LUN with another tool.

use super::{Block, bytes};

const NOTICE: &str = "\
This LUN is one leg of a twinsite mirrored volume.
It is not empty and it is not a disk of this machine: another machine may be writing to it now.
Do not partition, format, mount or scan it. Data begins at 128 MiB, behind superblocks and a dirty map.
Ask `kubectl twinsite status`, or the owner of the other site, before you touch it.
";

/// The first block of the guard; the other blocks up to 64 KiB are zero.
pub fn guard_block() -> Block {
    let mut block = bytes::blank();
    bytes::put(&mut block, 0, NOTICE.as_bytes());
    block
}
