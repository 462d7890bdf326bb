//! Where the page cache of a unit may hold small pieces, which a large write had better not go into.
//!
//! Linux keeps what was written at once as one piece (a folio), for as long as it is cached: a large write over small pieces goes
//! over each of them, and so does its write-back, which is twice the CPU. Where everything is stable when it is acknowledged, small
//! pieces are clean and can be dropped before a large write covers them; they come back as large ones.
//!
//! Invariants: a stretch that is given out to be dropped lies wholly within the write, so nothing that is still wanted leaves the
//! cache. Memory: a bit for each [`GRAIN`] up to the last small write, 4 MiB for each TiB, and none from [`END`] on.
//! Not here: dropping it (`reactor::Descriptor`).

use std::ops::Range;

use super::backing::Medium;

/// As large as the pieces are written.
const GRAIN: u64 = Medium::Device.write_piece() as u64;
/// What lies behind is not told apart: a file with holes may be of any size, and one block at its end must not cost memory for all
/// of it.
const END: u64 = 64 << 40;

/// A bit for each grain of a unit: small writes went there since the last large one.
#[derive(Debug, Default)]
pub(super) struct Grain {
    small: Vec<u64>,
}

impl Grain {
    /// A write comes here. What of the cache is to be dropped before it, if anything.
    pub(super) fn write(&mut self, offset: u64, len: u64) -> Option<Range<u64>> {
        let end = offset + len;
        let whole = offset.div_ceil(GRAIN)..end / GRAIN;
        if whole.start >= whole.end {
            (offset / GRAIN..end.div_ceil(GRAIN)).for_each(|grain| self.mark(grain));
            return None;
        }
        if !offset.is_multiple_of(GRAIN) {
            self.mark(offset / GRAIN);
        }
        if !end.is_multiple_of(GRAIN) {
            self.mark(end / GRAIN);
        }
        let mut dropped: Option<Range<u64>> = None;
        for grain in whole {
            if self.clear(grain) {
                let first = dropped.map_or(grain, |dropped| dropped.start);
                dropped = Some(first..grain + 1);
            }
        }
        dropped.map(|grains| grains.start * GRAIN..grains.end * GRAIN)
    }

    fn mark(&mut self, grain: u64) {
        if grain >= END / GRAIN {
            return;
        }
        let Ok(word) = usize::try_from(grain / 64) else {
            return;
        };
        if word >= self.small.len() {
            self.small.resize(word + 1, 0);
        }
        self.small[word] |= 1 << (grain % 64);
    }

    /// Whether it was marked.
    fn clear(&mut self, grain: u64) -> bool {
        let word = usize::try_from(grain / 64).ok();
        let Some(word) = word.and_then(|word| self.small.get_mut(word)) else {
            return false;
        };
        let bit = 1 << (grain % 64);
        let marked = *word & bit != 0;
        *word &= !bit;
        marked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_large_write_covers_wholly_and_small_ones_touched_is_dropped() {
        let mut grain = Grain::default();
        let write = |grain: &mut Grain, offset, len| grain.write(offset, len);
        assert_eq!(write(&mut grain, 0, 4 * GRAIN), None);
        assert_eq!(write(&mut grain, GRAIN + 4096, 4096), None);
        assert_eq!(write(&mut grain, 5 * GRAIN - 512, 1024), None);
        // Covers grain 1 wholly, 0 and 2 in part: those are mixed from now on.
        let dropped = write(&mut grain, 4096, 2 * GRAIN);
        assert_eq!(dropped, Some(GRAIN..2 * GRAIN));
        assert_eq!(write(&mut grain, GRAIN, GRAIN), None);
        let dropped = write(&mut grain, 0, 6 * GRAIN);
        assert_eq!(dropped, Some(0..6 * GRAIN));
        assert_eq!(write(&mut grain, 0, 6 * GRAIN), None);
    }

    #[test]
    fn a_small_write_far_behind_costs_no_memory() {
        let mut grain = Grain::default();
        for offset in [END, 1 << 50] {
            assert_eq!(grain.write(offset, 4096), None);
            assert_eq!(grain.write(offset, 2 * GRAIN), None);
        }
        assert_eq!(grain.small.capacity(), 0);
        assert_eq!(grain.write(1 << 30, 4096), None);
        let dropped = grain.write(1 << 30, 2 * GRAIN);
        assert_eq!(dropped, Some(1 << 30..(1 << 30) + GRAIN));
    }

    #[test]
    fn a_write_of_the_size_of_a_grain_that_covers_none_is_small_in_both() {
        let mut grain = Grain::default();
        assert_eq!(grain.write(GRAIN / 2, GRAIN), None);
        assert_eq!(grain.write(0, GRAIN), Some(0..GRAIN));
        assert_eq!(grain.write(GRAIN, GRAIN), Some(GRAIN..2 * GRAIN));
    }
}
