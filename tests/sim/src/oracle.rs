//! What each block may hold: a write counter per block, with everything that was issued, acknowledged, flushed and read.
//!
//! After any history a block holds a value in [last acknowledged, last issued], and a read never goes back. With volatile
//! caches the lower bound is the last flush, and a power cut may take what was read but not flushed. A discard is a write
//! whose content is zeros: zeros may stand for any of them. What a person gave up by a force must never come back.

use bytes::Bytes;

/// Regions of 64 KiB that the workload touches: neighbours, both sides of a page boundary, far ones; the last two are there
/// only after the volume grew, the very last on a page of its own.
const REGIONS: [u64; 14] = [
    0, 1, 2, 100, 101, 5000, 16_255, 16_256, 16_257, 17_000, 18_000, 18_500, 19_010, 32_600,
];
/// Blocks touched in each region, next to each other.
pub const RUN: usize = 4;
pub const BLOCKS: usize = REGIONS.len() * RUN;
pub const BLOCK: u64 = 4096;
const REGION: u64 = 64 * 1024;
/// The volume at birth, and to what it may grow.
pub const SIZE: u64 = 19_000 * REGION;
pub const GROWN: [u64; 2] = [19_100 * REGION, 32_700 * REGION];

pub fn offset(block: usize) -> u64 {
    REGIONS[block / RUN] * REGION + (block % RUN) as u64 * BLOCK
}

/// Blocks of a device of this size.
pub fn blocks_of(size: u64) -> usize {
    REGIONS.iter().filter(|r| **r * REGION < size).count() * RUN
}

#[derive(Clone, Debug, Default)]
pub struct Bounds {
    pub issued: u64,
    pub acked: u64,
    pub flushed: u64,
    pub observed: u64,
    /// What a later flush vouches for: acknowledged since the last flush that failed.
    pub durable_claim: u64,
    /// Values that are zeros: discards, in order.
    zeros: Vec<u64>,
    /// Given up by a force: above the first, up to the second.
    lost: (u64, u64),
}

impl Bounds {
    /// The smallest value of at least `floor` that these bytes may stand for.
    fn possible(&self, raw: u64, floor: u64) -> Option<u64> {
        let (low, high) = self.lost;
        let kept = |v: u64| v <= low || high < v;
        if raw != 0 {
            return (raw >= floor && kept(raw)).then_some(raw);
        }
        std::iter::once(0)
            .chain(self.zeros.iter().copied())
            .find(|v| *v >= floor && kept(*v))
    }
}

#[derive(Clone, Debug)]
pub struct Oracle {
    pub blocks: Vec<Bounds>,
    pub volatile: bool,
    pub acknowledged: u64,
    pub read: u64,
}

impl Oracle {
    pub fn new(volatile: bool) -> Self {
        Self {
            blocks: vec![Bounds::default(); BLOCKS],
            volatile,
            acknowledged: 0,
            read: 0,
        }
    }

    /// The next value of a block.
    pub fn issue(&mut self, block: usize) -> u64 {
        let b = &mut self.blocks[block];
        b.issued += 1;
        b.issued
    }

    /// The next value of a block, which is zeros.
    pub fn issue_zeros(&mut self, block: usize) -> u64 {
        let value = self.issue(block);
        self.blocks[block].zeros.push(value);
        value
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

    /// The number in these bytes; 0 = zeros.
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

    /// Does this number, found on a leg, stand for everything acknowledged?
    pub fn has_acknowledged(&self, block: usize, raw: u64) -> bool {
        let b = &self.blocks[block];
        b.possible(raw, b.acked).is_some()
    }

    pub fn read(&mut self, block: usize, floor: u64, raw: u64) -> Result<(), String> {
        let b = &mut self.blocks[block];
        self.read += 1;
        if raw > b.issued {
            return Err(format!(
                "block {block} reads {raw}, but only {} were written",
                b.issued
            ));
        }
        let Some(value) = b.possible(raw, floor) else {
            return Err(format!(
                "block {block} reads {raw}, at least {floor} was promised ({b:?})"
            ));
        };
        b.observed = b.observed.max(value);
        Ok(())
    }

    /// A person made this leg the only one: what it holds is what there is now, everything later must never be seen. Of that
    /// its power may still take what is not `durable`.
    pub fn give_up(&mut self, block: usize, raw: u64, durable: u64) {
        let b = &mut self.blocks[block];
        let kept = b.possible(raw, 0).unwrap_or(raw);
        let last = if raw == 0 {
            b.zeros.last().copied().unwrap_or(0)
        } else {
            raw
        };
        (b.acked, b.observed) = (kept, kept);
        let stays = b.possible(durable, 0).unwrap_or(durable).min(kept);
        b.flushed = b.flushed.min(stays);
        b.durable_claim = b.durable_claim.min(stays);
        // Who forces the other branch again takes back what it had.
        b.lost = (last, b.issued);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_stand_for_any_discard_and_for_nothing_that_was_overwritten_later() {
        let mut o = Oracle::new(false);
        let first = o.issue(0);
        o.acknowledged(0, first);
        assert!(!o.has_acknowledged(0, 0), "a lost write");
        let gone = o.issue_zeros(0);
        o.acknowledged(0, gone);
        assert!(o.has_acknowledged(0, 0));
        assert!(o.read(0, o.floor(0), first).is_err(), "a discard undone");
        let last = o.issue(0);
        o.acknowledged(0, last);
        assert!(!o.has_acknowledged(0, 0));
        assert!(o.read(0, o.floor(0), 0).is_err());
        assert!(o.read(0, o.floor(0), last).is_ok());
    }

    #[test]
    fn what_a_force_gave_up_never_comes_back() {
        let mut o = Oracle::new(false);
        for _ in 0..3 {
            let value = o.issue(0);
            o.acknowledged(0, value);
        }
        o.give_up(0, 1, 1);
        assert_eq!(o.floor(0), 1);
        assert!(o.read(0, 1, 1).is_ok());
        assert!(o.read(0, 1, 3).is_err());
        let later = o.issue(0);
        assert!(o.read(0, 1, later).is_ok());
        o.give_up(0, 3, 3);
        assert!(o.read(0, 3, 3).is_ok(), "the other branch is forced");
        assert!(o.read(0, 3, later).is_err());
    }

    #[test]
    fn what_a_forced_leg_has_in_its_cache_only_may_still_go() {
        let mut o = Oracle::new(true);
        for _ in 0..2 {
            let value = o.issue(0);
            o.acknowledged(0, value);
        }
        o.blocks[0].flushed = 2;
        o.give_up(0, 2, 1);
        assert_eq!(o.floor(0), 1);
        assert!(o.read(0, 1, 1).is_ok());
    }

    #[test]
    fn a_volume_that_grew_has_more_blocks() {
        assert_eq!(blocks_of(SIZE), BLOCKS - 2 * RUN);
        assert_eq!(blocks_of(GROWN[1]), BLOCKS);
    }
}
