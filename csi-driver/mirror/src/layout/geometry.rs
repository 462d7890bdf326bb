//! Regions and map pages of a volume of a given size.

use super::{BLOCK, DATA_OFFSET, MAP_END, MAP_OFFSET, PAGE_REGIONS};

/// Map pages that fit between their offset and their end.
pub const MAX_PAGES: u32 = ((MAP_END - MAP_OFFSET) / BLOCK as u64) as u32;

const SMALL_SHIFT: u32 = 16;
const LARGE_SHIFT: u32 = 18;
/// Up to here regions are 64 KiB, above 256 KiB.
const SMALL_MAX: u64 = 256 << 30;
const SECTOR: u64 = 512;

/// Why a size cannot be a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GeometryError {
    /// Zero, or not whole sectors.
    #[error("size {0} is not a whole number of sectors above zero")]
    Size(u64),
    /// Neither 64 KiB nor 256 KiB.
    #[error("region shift {0}")]
    Shift(u32),
    /// The map would not fit.
    #[error("size {0} is beyond the dirty map")]
    TooLarge(u64),
}

/// How many bytes there are and how they are cut into regions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    size: u64,
    region_shift: u32,
}

impl Geometry {
    /// The geometry of a new volume of this size.
    pub fn for_new(size: u64) -> Result<Self, GeometryError> {
        Self::new(
            size,
            if size <= SMALL_MAX {
                SMALL_SHIFT
            } else {
                LARGE_SHIFT
            },
        )
    }

    /// A geometry as recorded in a superblock; an expanded volume keeps its shift.
    pub fn new(size: u64, region_shift: u32) -> Result<Self, GeometryError> {
        if size == 0 || !size.is_multiple_of(SECTOR) {
            return Err(GeometryError::Size(size));
        }
        if region_shift != SMALL_SHIFT && region_shift != LARGE_SHIFT {
            return Err(GeometryError::Shift(region_shift));
        }
        let max = u64::from(MAX_PAGES) * PAGE_REGIONS as u64;
        if size.div_ceil(1 << region_shift) > max || size > u64::MAX - DATA_OFFSET {
            return Err(GeometryError::TooLarge(size));
        }
        Ok(Self { size, region_shift })
    }

    /// Bytes of data.
    pub const fn size(self) -> u64 {
        self.size
    }

    /// Binary logarithm of the bytes of a region.
    pub const fn region_shift(self) -> u32 {
        self.region_shift
    }

    /// Bytes of a region; the last one may be shorter.
    pub const fn region_bytes(self) -> u64 {
        1 << self.region_shift
    }

    /// How many regions.
    pub const fn regions(self) -> u64 {
        self.size.div_ceil(self.region_bytes())
    }

    /// How many map pages.
    pub const fn pages(self) -> u32 {
        // At most MAX_PAGES, by construction.
        self.regions().div_ceil(PAGE_REGIONS as u64) as u32
    }

    /// How many regions of this page exist; 0 behind the end.
    pub const fn regions_in_page(self, page: u32) -> usize {
        let first = page as u64 * PAGE_REGIONS as u64;
        let left = self.regions().saturating_sub(first);
        if left < PAGE_REGIONS as u64 {
            left as usize
        } else {
            PAGE_REGIONS
        }
    }

    /// The region of this volume byte.
    pub const fn region_of(self, offset: u64) -> u64 {
        offset >> self.region_shift
    }

    /// Page and index within it of this region.
    pub const fn place_of(self, region: u64) -> (u32, usize) {
        (
            (region / PAGE_REGIONS as u64) as u32,
            (region % PAGE_REGIONS as u64) as usize,
        )
    }

    /// Region at this place.
    pub const fn region_at(self, page: u32, index: usize) -> u64 {
        page as u64 * PAGE_REGIONS as u64 + index as u64
    }

    /// First byte and length of a region within the volume; length 0 behind the end.
    pub const fn extent(self, region: u64) -> (u64, u64) {
        let start = region << self.region_shift;
        let left = self.size.saturating_sub(start);
        (
            start,
            if left < self.region_bytes() {
                left
            } else {
                self.region_bytes()
            },
        )
    }

    /// Bytes that a LUN must have to be a leg of this volume.
    pub const fn lun_bytes(self) -> u64 {
        DATA_OFFSET + self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_volumes_have_64_kib_regions_and_large_ones_256() {
        assert_eq!(Geometry::for_new(256 << 30).unwrap().region_shift(), 16);
        assert_eq!(
            Geometry::for_new((256 << 30) + 512).unwrap().region_shift(),
            18
        );
    }

    #[test]
    fn sizes_and_shifts_out_of_bounds_are_refused() {
        assert_eq!(Geometry::for_new(0), Err(GeometryError::Size(0)));
        assert_eq!(Geometry::for_new(1000), Err(GeometryError::Size(1000)));
        assert_eq!(Geometry::new(512, 17), Err(GeometryError::Shift(17)));
        assert_eq!(Geometry::new(512, 64), Err(GeometryError::Shift(64)));
        let max = u64::from(MAX_PAGES) * PAGE_REGIONS as u64 * (256 << 10);
        assert_eq!(MAX_PAGES, 16384);
        assert_eq!(Geometry::for_new(max).unwrap().pages(), MAX_PAGES);
        assert_eq!(
            Geometry::for_new(max + 512),
            Err(GeometryError::TooLarge(max + 512))
        );
        let end = u64::MAX - 511;
        assert_eq!(Geometry::for_new(end), Err(GeometryError::TooLarge(end)));
    }

    #[test]
    fn the_last_region_and_page_may_be_short() {
        let g = Geometry::for_new((16256 << 16) + 512).unwrap();
        assert_eq!((g.regions(), g.pages()), (16257, 2));
        assert_eq!(g.regions_in_page(0), 16256);
        assert_eq!(g.regions_in_page(1), 1);
        assert_eq!(g.regions_in_page(2), 0);
        assert_eq!(g.extent(16256), (16256 << 16, 512));
        assert_eq!(g.extent(16257).1, 0);
        assert_eq!(g.place_of(16256), (1, 0));
        assert_eq!(g.region_at(1, 0), 16256);
        assert_eq!(g.region_of((16256 << 16) - 1), 16255);
    }
}
