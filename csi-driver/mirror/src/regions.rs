//! Regions of a volume, and sets of them.
//!
//! A region is what one entry of the dirty map speaks of: 64 KiB or 256 KiB of guest data.

use std::ops::Range;

use crate::layout::Geometry;

/// Regions touched by `len` bytes from `offset`; empty for no bytes.
pub(crate) fn span(geometry: Geometry, offset: u64, len: u64) -> Range<u32> {
    if len == 0 {
        return 0..0;
    }
    // Region numbers fit: a volume has at most MAX_PAGES pages of them.
    geometry.region_of(offset) as u32..geometry.region_of(offset + len - 1) as u32 + 1
}

/// First byte and length of a run of regions, cut at the end of the volume.
pub(crate) fn extent(geometry: Geometry, run: Range<u32>) -> (u64, u64) {
    let start = u64::from(run.start) << geometry.region_shift();
    let end = (u64::from(run.end) << geometry.region_shift()).min(geometry.size());
    (start, end.saturating_sub(start))
}

/// A set of regions as a bit set with a count.
#[derive(Clone, Debug, Default)]
pub(crate) struct RegionSet {
    words: Vec<u64>,
    count: u32,
}

impl RegionSet {
    pub(crate) const fn new() -> Self {
        Self {
            words: Vec::new(),
            count: 0,
        }
    }

    pub(crate) const fn len(&self) -> u32 {
        self.count
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn contains(&self, region: u32) -> bool {
        self.words
            .get(region as usize / 64)
            .is_some_and(|word| word >> (region % 64) & 1 == 1)
    }

    /// Is any region of the run in the set? Costs nothing while the set is empty.
    pub(crate) fn any(&self, run: Range<u32>) -> bool {
        self.count != 0 && run.into_iter().any(|region| self.contains(region))
    }

    pub(crate) fn insert(&mut self, region: u32) -> bool {
        let word = region as usize / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let bit = 1 << (region % 64);
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += u32::from(new);
        new
    }

    pub(crate) fn remove(&mut self, region: u32) -> bool {
        let Some(word) = self.words.get_mut(region as usize / 64) else {
            return false;
        };
        let bit = 1 << (region % 64);
        let had = *word & bit != 0;
        *word &= !bit;
        self.count -= u32::from(had);
        had
    }

    pub(crate) fn clear(&mut self) {
        self.words.clear();
        self.count = 0;
    }

    /// The first region of the set at or after `from`.
    pub(crate) fn next(&self, from: u32) -> Option<u32> {
        let mut word = from as usize / 64;
        let mut bits = *self.words.get(word)? & (u64::MAX << (from % 64));
        loop {
            if bits != 0 {
                return Some(word as u32 * 64 + bits.trailing_zeros());
            }
            word += 1;
            bits = *self.words.get(word)?;
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        let mut at = self.next(0);
        std::iter::from_fn(move || {
            let region = at?;
            at = self.next(region + 1);
            Some(region)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_extents_meet_at_region_borders_and_the_end_of_the_volume() {
        let g = Geometry::new(200 << 10, 16).unwrap();
        assert_eq!(span(g, 0, 4096), 0..1);
        assert_eq!(span(g, 61440, 4096), 0..1);
        assert_eq!(span(g, 61440, 4097), 0..2);
        assert_eq!(span(g, 65536, 131072), 1..3);
        assert_eq!(span(g, 65536, 0), 0..0);
        assert_eq!(extent(g, 3..4), (192 << 10, 8 << 10));
        assert_eq!(extent(g, 1..3), (64 << 10, 128 << 10));
    }

    #[test]
    fn a_set_counts_and_walks_its_regions() {
        let mut set = RegionSet::new();
        assert_eq!(set.next(0), None);
        for region in [3, 64, 65, 200] {
            assert!(set.insert(region));
            assert!(!set.insert(region));
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [3, 64, 65, 200]);
        assert_eq!(set.next(66), Some(200));
        assert!(set.any(0..4) && !set.any(4..64));
        assert!(set.remove(64) && !set.remove(64) && !set.remove(9999));
        assert_eq!(
            (set.len(), set.contains(64), set.contains(65)),
            (3, false, true)
        );
    }
}
