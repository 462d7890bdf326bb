//! Map pages: two bits per region, on the data itself.
//!
//! A page whose checksum is wrong is read as all dirty: losing a map costs copying, never data. The reserved value 3 is read
//! as dirty too, which makes the union of two pages the bitwise or.

use twinsite_register::Epoch;

use super::bytes::{array, blank, open, put, seal, u32_at, u64_at};
use super::{BLOCK, Block, BlockError};

const MAGIC: &[u8; 4] = b"TWMP";
const PAGE: usize = 4;
const NUMBER: usize = 8;
const EPOCH: usize = 16;
const CRC: usize = 24;
const REGIONS: usize = 32;
const REGION_BYTES: usize = BLOCK - REGIONS;
/// Regions per page.
pub const PAGE_REGIONS: usize = REGION_BYTES * 4;

/// What is known of one region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegionState {
    /// Never written: both legs read zeros.
    Unwritten,
    /// Both legs have the same.
    Clean,
    /// The legs may differ.
    Dirty,
}

impl RegionState {
    const fn bits(self) -> u8 {
        match self {
            Self::Unwritten => 0,
            Self::Clean => 1,
            Self::Dirty => 2,
        }
    }

    const fn of_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Unwritten,
            1 => Self::Clean,
            _ => Self::Dirty,
        }
    }
}

/// One page of the dirty map.
#[derive(Clone, PartialEq, Eq)]
pub struct MapPage {
    /// Which page.
    pub page: u32,
    /// Grows by one per transaction: a gap of two between members shows a leg that was rolled back.
    pub number: u64,
    /// The epoch of the last transaction.
    pub epoch: Epoch,
    regions: Box<[u8; REGION_BYTES]>,
}

impl MapPage {
    /// A page with every region in one state.
    pub fn filled(page: u32, number: u64, epoch: Epoch, state: RegionState) -> Self {
        let byte = state.bits() * 0b0101_0101;
        Self {
            page,
            number,
            epoch,
            regions: Box::new([byte; REGION_BYTES]),
        }
    }

    /// The block, with its checksum.
    pub fn emit(&self) -> Block {
        let mut block = blank();
        let b = &mut *block;
        put(b, 0, MAGIC);
        put(b, PAGE, &self.page.to_le_bytes());
        put(b, NUMBER, &self.number.to_le_bytes());
        put(b, EPOCH, &self.epoch.0.to_le_bytes());
        put(b, REGIONS, &*self.regions);
        seal(b, CRC);
        block
    }

    /// Page `page` from the bytes that stand in its place.
    pub fn parse(page: u32, bytes: &[u8]) -> Result<Self, BlockError> {
        let b = open(bytes, MAGIC, CRC)?;
        let found = u32_at(b, PAGE);
        if found != page {
            return Err(BlockError::Misplaced(found));
        }
        Ok(Self {
            page,
            number: u64_at(b, NUMBER),
            epoch: Epoch(u64_at(b, EPOCH)),
            regions: Box::new(array(b, REGIONS)),
        })
    }

    /// Page `page` from what stands in its place; damaged, unreadable or misplaced means all dirty, number 0.
    pub fn parse_or_dirty(page: u32, bytes: &[u8]) -> Self {
        Self::parse(page, bytes)
            .unwrap_or_else(|_| Self::filled(page, 0, Epoch::ZERO, RegionState::Dirty))
    }

    /// State of region `index` of this page; behind the end of the page: dirty, nobody may rely on it.
    pub fn region(&self, index: usize) -> RegionState {
        match self.regions.get(index / 4) {
            Some(byte) => RegionState::of_bits(byte >> (index % 4 * 2)),
            None => RegionState::Dirty,
        }
    }

    /// Set the state of region `index`, below [`PAGE_REGIONS`].
    pub fn set_region(&mut self, index: usize, state: RegionState) {
        let shift = index % 4 * 2;
        let byte = &mut self.regions[index / 4];
        *byte = *byte & !(3 << shift) | state.bits() << shift;
    }

    /// Take over every mark of another page: dirty wins over clean, clean over unwritten. Numbers stay.
    pub fn unite(&mut self, other: &Self) {
        for (mine, theirs) in self.regions.iter_mut().zip(other.regions.iter()) {
            let or = *mine | theirs;
            // 3 becomes 2: where the high bit is set the low one goes.
            *mine = or & !((or >> 1) & 0b0101_0101);
        }
    }

    /// Is any of the first `count` regions dirty?
    pub fn any_dirty(&self, count: usize) -> bool {
        self.dirty(count).next().is_some()
    }

    /// Indices of the dirty ones among the first `count` regions, ascending.
    pub fn dirty(&self, count: usize) -> impl Iterator<Item = usize> {
        let count = count.min(PAGE_REGIONS);
        let bytes = self.regions.iter().enumerate().take(count.div_ceil(4));
        bytes
            .filter(|(_, byte)| **byte & 0b1010_1010 != 0)
            .flat_map(|(at, byte)| {
                (0..4)
                    .filter(move |n| byte >> (n * 2) & 2 != 0)
                    .map(move |n| at * 4 + n)
            })
            .take_while(move |&index| index < count)
    }

    /// Do both pages say the same of every region?
    pub fn same_regions(&self, other: &Self) -> bool {
        self.regions == other.regions
    }
}

impl std::fmt::Debug for MapPage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MapPage")
            .field("page", &self.page)
            .field("number", &self.number)
            .field("epoch", &self.epoch)
            .field("dirty", &self.dirty(PAGE_REGIONS).count())
            .finish_non_exhaustive()
    }
}
