//! GET LBA STATUS: which blocks are allocated, asked of the store in windows that grow, until the
//! descriptors that the initiator has room for are full (SBC-3 5.5).
//!
//! A window at a time, since a store finds extents one by one: a fragmented one is not searched to its
//! end for an answer of one descriptor, an empty one is not asked a thousand times.

use bytes::{BufMut, BytesMut};

use super::ended::Ended;
use super::job::Step;
use super::store::{Extent, StoreOp, StoreReply};

/// The first window, in bytes; each later one is four times as large.
const FIRST_WINDOW: u64 = 1 << 20;
/// Descriptors of one answer.
const MAX_DESCRIPTORS: u64 = 4096;

#[derive(Debug)]
pub(super) struct LbaMap {
    first: u64,
    blocks: u64,
    block: u64,
    allocation: u64,
    window: u64,
    /// Neighbours of the same kind joined.
    extents: Vec<Extent>,
}

impl LbaMap {
    /// From block `first` of `blocks` on, `block` bytes each.
    pub(super) fn new(first: u64, blocks: u64, block: u64, allocation: u64) -> Self {
        let extents = Vec::new();
        Self {
            first,
            blocks,
            block,
            allocation,
            window: FIRST_WINDOW,
            extents,
        }
    }

    /// Where what is known ends.
    fn known(&self) -> u64 {
        self.extents
            .last()
            .map_or(self.first * self.block, |extent| extent.offset + extent.len)
    }

    pub(super) fn start(&mut self) -> Step {
        let offset = self.known();
        let len = self.window.min(self.blocks * self.block - offset);
        self.window = self.window.saturating_mul(4);
        Step::Store(StoreOp::Map { offset, len })
    }

    pub(super) fn resume(&mut self, reply: StoreReply) -> Step {
        let before = self.known();
        if let StoreReply::Extents(extents) = reply {
            extents.into_iter().for_each(|extent| self.add(extent));
        }
        let stuck = self.known() <= before;
        let complete = self.known() >= self.blocks * self.block;
        if !stuck && !complete && self.extents.len() <= descriptors(self.allocation) {
            return self.start();
        }
        let data = lba_status(
            &self.extents,
            self.first,
            self.blocks,
            self.block,
            self.allocation,
        );
        Step::End(Ended::data(data, self.allocation))
    }

    fn add(&mut self, extent: Extent) {
        match self.extents.last_mut() {
            Some(last)
                if last.mapped == extent.mapped
                    && last.offset.saturating_add(last.len) == extent.offset =>
            {
                last.len = last.len.saturating_add(extent.len);
            }
            _ => self.extents.push(extent),
        }
    }
}

fn descriptors(allocation: u64) -> usize {
    (allocation.saturating_sub(8) / 16).clamp(1, MAX_DESCRIPTORS) as usize
}

/// GET LBA STATUS from `first` on. `extents` are the store's, in bytes; a block that is mapped in part
/// counts as mapped.
pub(super) fn lba_status(
    extents: &[Extent],
    first: u64,
    blocks: u64,
    block: u64,
    allocation: u64,
) -> BytesMut {
    const MAPPED: u8 = 0;
    const DEALLOCATED: u8 = 1;
    let room = descriptors(allocation);
    let mut runs: Vec<(u64, u64, bool)> = Vec::new();
    let mut at = first;
    for extent in extents {
        let end = extent.offset.saturating_add(extent.len);
        let end = if extent.mapped {
            end.div_ceil(block)
        } else {
            end / block
        }
        .min(blocks);
        if end <= at {
            continue;
        }
        let count = runs.len();
        match runs.last_mut() {
            Some((_, length, mapped)) if *mapped == extent.mapped => *length += end - at,
            _ if count > room => break,
            _ => runs.push((at, end - at, extent.mapped)),
        }
        at = end;
    }
    if runs.is_empty() {
        runs.push((first, blocks - first, true));
    }
    let mut list = BytesMut::new();
    for (mut at, mut left, mapped) in runs {
        while left > 0 && list.len() < 16 * room {
            let length = left.min(u64::from(u32::MAX));
            list.put_u64(at);
            list.put_u32(length as u32);
            list.put_slice(&[if mapped { MAPPED } else { DEALLOCATED }, 0, 0, 0]);
            at += length;
            left -= length;
        }
    }
    let mut out = BytesMut::with_capacity(8 + list.len());
    out.put_u32(4 + list.len() as u32);
    out.put_u32(0);
    out.put_slice(&list);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(extents: &[(u64, u64, bool)], first: u64, allocation: u64) -> Vec<u8> {
        let extents: Vec<Extent> = extents
            .iter()
            .map(|&(offset, len, mapped)| Extent {
                offset,
                len,
                mapped,
            })
            .collect();
        lba_status(&extents, first, 100, 512, allocation).to_vec()
    }

    fn descriptor(lba: u64, blocks: u32, state: u8) -> Vec<u8> {
        [
            &lba.to_be_bytes()[..],
            &blocks.to_be_bytes(),
            &[state, 0, 0, 0],
        ]
        .concat()
    }

    #[test]
    fn extents_become_runs_of_blocks_from_the_one_asked_for() {
        let data = status(
            &[(0, 1024, false), (1024, 512, true), (1536, 512 * 97, false)],
            1,
            1000,
        );
        assert_eq!(data[..8], [0, 0, 0, 52, 0, 0, 0, 0]);
        assert_eq!(
            data[8..],
            [
                descriptor(1, 1, 1),
                descriptor(2, 1, 0),
                descriptor(3, 97, 1)
            ]
            .concat()
        );
    }

    #[test]
    fn a_block_mapped_in_part_is_mapped() {
        let data = status(
            &[(0, 700, false), (700, 100, true), (800, 50000, false)],
            0,
            1000,
        );
        assert_eq!(
            data[8..40],
            [descriptor(0, 1, 1), descriptor(1, 1, 0)].concat()
        );
    }

    #[test]
    fn the_list_ends_where_the_buffer_does_and_an_empty_answer_is_all_mapped() {
        let data = status(
            &[(0, 512, false), (512, 512, true), (1024, 512, false)],
            0,
            24,
        );
        assert_eq!(data.len(), 24);
        assert_eq!(status(&[], 7, 24)[8..], descriptor(7, 93, 0));
    }

    fn ask(map: &mut LbaMap, holes_every: u64, size: u64) -> Vec<(u64, u64)> {
        let mut asked = Vec::new();
        let mut step = map.start();
        while let Step::Store(StoreOp::Map { offset, len }) = step {
            asked.push((offset, len));
            assert!(offset + len <= size);
            let blocks = (offset / 512)..((offset + len) / 512);
            let extents = blocks
                .map(|block| Extent {
                    offset: block * 512,
                    len: 512,
                    mapped: (block / holes_every).is_multiple_of(2),
                })
                .collect();
            step = map.resume(StoreReply::Extents(extents));
        }
        asked
    }

    #[test]
    fn a_fragmented_unit_is_asked_for_one_window_and_a_plain_one_to_its_end() {
        const MIB: u64 = 1 << 20;
        let size = 40 * MIB;
        let mut fragmented = LbaMap::new(3, size / 512, 512, 24);
        assert_eq!(ask(&mut fragmented, 2, size), [(3 * 512, MIB)]);
        let mut plain = LbaMap::new(0, size / 512, 512, 24);
        let windows = [
            (0, MIB),
            (MIB, 4 * MIB),
            (5 * MIB, 16 * MIB),
            (21 * MIB, 19 * MIB),
        ];
        assert_eq!(ask(&mut plain, u64::MAX, size), windows);
    }

    #[test]
    fn a_store_that_does_not_answer_is_not_asked_again() {
        let mut map = LbaMap::new(0, 100, 512, 64);
        map.start();
        let Step::End(ended) = map.resume(StoreReply::Extents(Vec::new())) else {
            panic!("ended")
        };
        assert_eq!(ended.data_in[0][8..], descriptor(0, 100, 0));
    }
}
