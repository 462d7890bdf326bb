//! Who a unit is and what it can: INQUIRY, VPD 83h, B0h, B2h, READ CAPACITY(16).

use super::{ParseError, be, counted};

/// Standard INQUIRY data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// False: there is no unit at this LUN.
    pub present: bool,
    pub device_type: u8,
    pub vendor: String,
    pub product: String,
    pub revision: String,
}

impl Identity {
    pub fn parse(data: &[u8]) -> Result<Self, ParseError> {
        let data = data.get(..36).ok_or(ParseError::Short)?;
        let text = |from: usize, to: usize| {
            String::from_utf8_lossy(&data[from..to])
                .trim_end()
                .to_owned()
        };
        Ok(Self {
            present: data[0] >> 5 == 0,
            device_type: data[0] & 0x1F,
            vendor: text(8, 16),
            product: text(16, 32),
            revision: text(32, 36),
        })
    }
}

/// The body of a VPD page, which must be the one asked for.
fn page(data: &[u8], code: u8) -> Result<&[u8], ParseError> {
    let head = data.get(..4).ok_or(ParseError::Short)?;
    if head[1] != code {
        return Err(ParseError::Malformed);
    }
    counted(data, 4, be(head, 2, 2) as usize)
}

/// The NAA designator of the unit in VPD page 83h, the longest if there are several; an 8-byte one is
/// padded with zeros. `None`: the unit has none.
pub fn naa(data: &[u8]) -> Result<Option<[u8; 16]>, ParseError> {
    const NAA: u8 = 0x03;
    let mut rest = page(data, 0x83)?;
    let mut best: Option<&[u8]> = None;
    while !rest.is_empty() {
        let (head, body) = rest.split_at_checked(4).ok_or(ParseError::Malformed)?;
        let (body, next) = body
            .split_at_checked(usize::from(head[3]))
            .ok_or(ParseError::Malformed)?;
        let of_unit = head[1] & 0x30 == 0;
        let longer = best.is_none_or(|best| best.len() < body.len());
        if of_unit && head[1] & 0x0F == NAA && matches!(body.len(), 8 | 16) && longer {
            best = Some(body);
        }
        rest = next;
    }
    Ok(best.map(|body| {
        let mut naa = [0; 16];
        naa[..body.len()].copy_from_slice(body);
        naa
    }))
}

/// VPD page B0h; 0 means "not said" in each field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockLimits {
    pub max_compare_blocks: u8,
    pub optimal_granularity: u16,
    pub max_transfer_blocks: u32,
    pub optimal_transfer_blocks: u32,
    pub max_unmap_blocks: u32,
    pub max_unmap_descriptors: u32,
    pub unmap_granularity: u32,
    pub unmap_alignment: Option<u32>,
    pub max_write_same_blocks: u64,
}

impl BlockLimits {
    pub fn parse(data: &[u8]) -> Result<Self, ParseError> {
        let body = page(data, 0xB0)?;
        if body.len() < 12 {
            return Err(ParseError::Short);
        }
        // A page of SBC-2 ends after the transfer lengths: the rest reads as 0.
        let alignment = be(body, 28, 4) as u32;
        Ok(Self {
            max_compare_blocks: body[1],
            optimal_granularity: be(body, 2, 2) as u16,
            max_transfer_blocks: be(body, 4, 4) as u32,
            optimal_transfer_blocks: be(body, 8, 4) as u32,
            max_unmap_blocks: be(body, 16, 4) as u32,
            max_unmap_descriptors: be(body, 20, 4) as u32,
            unmap_granularity: be(body, 24, 4) as u32,
            unmap_alignment: (alignment >> 31 == 1).then_some(alignment & 0x7FFF_FFFF),
            max_write_same_blocks: be(body, 32, 8),
        })
    }
}

/// VPD page B2h.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Provisioning {
    pub unmap: bool,
    pub write_same16_unmap: bool,
    /// Unmapped blocks read as zeros.
    pub zeroes: bool,
    pub thin: bool,
}

impl Provisioning {
    pub fn parse(data: &[u8]) -> Result<Self, ParseError> {
        let body = page(data, 0xB2)?;
        if body.len() < 4 {
            return Err(ParseError::Short);
        }
        Ok(Self {
            unmap: body[1] & 0x80 != 0,
            write_same16_unmap: body[1] & 0x40 != 0,
            zeroes: body[1] & 0x04 != 0,
            thin: body[2] & 0x07 == 2,
        })
    }
}

/// READ CAPACITY(16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub blocks: u64,
    pub block: u32,
    pub physical_block: u32,
    pub provisioned: bool,
    /// Unmapped blocks read as zeros.
    pub zeroes: bool,
    /// The unit uses protection information, which nothing here does.
    pub protection: bool,
}

impl Capacity {
    pub fn parse(data: &[u8]) -> Result<Self, ParseError> {
        let data = data.get(..16).ok_or(ParseError::Short)?;
        let blocks = be(data, 0, 8).checked_add(1).ok_or(ParseError::Malformed)?;
        let block = be(data, 8, 4) as u32;
        let physical_block = block
            .checked_shl(u32::from(data[13] & 0x0F))
            .ok_or(ParseError::Malformed)?;
        if !block.is_power_of_two() || blocks.checked_mul(u64::from(block)).is_none() {
            return Err(ParseError::Malformed);
        }
        Ok(Self {
            blocks,
            block,
            physical_block,
            provisioned: data[14] & 0x80 != 0,
            zeroes: data[14] & 0x40 != 0,
            protection: data[12] & 0x01 != 0,
        })
    }

    pub fn bytes(&self) -> u64 {
        self.blocks * u64::from(self.block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_naa_of_the_unit_is_taken() {
        let designator =
            |kind: u8, body: &[u8]| [&[1, kind, 0, body.len() as u8][..], body].concat();
        let body = [
            designator(0x01, b"vendor"),
            designator(0x03, &[0x50; 8]),
            designator(0x13, &[0x61; 16]),
            designator(0x03, &[0x60; 16]),
        ]
        .concat();
        let data = [&[0, 0x83, 0, body.len() as u8][..], &body].concat();
        assert_eq!(naa(&data), Ok(Some([0x60; 16])));
        assert_eq!(
            naa(&data[..20]),
            Err(ParseError::Truncated { needed: data.len() })
        );
        assert_eq!(naa(&[0, 0x83, 0, 0]), Ok(None));
        assert_eq!(naa(&[0, 0x80, 0, 0]), Err(ParseError::Malformed));
        assert_eq!(
            naa(&[0, 0x83, 0, 5, 1, 3, 0, 16, 9]),
            Err(ParseError::Malformed)
        );
    }

    #[test]
    fn a_short_block_limits_page_leaves_the_rest_unsaid() {
        let data = [0, 0xB0, 0, 12, 0, 9, 0, 8, 0, 0, 1, 0, 0, 0, 0, 64];
        let want = BlockLimits {
            max_compare_blocks: 9,
            optimal_granularity: 8,
            max_transfer_blocks: 256,
            optimal_transfer_blocks: 64,
            ..BlockLimits::default()
        };
        assert_eq!(BlockLimits::parse(&data), Ok(want));
    }

    #[test]
    fn an_impossible_capacity_is_refused() {
        let mut data = [0xFF; 32];
        assert_eq!(Capacity::parse(&data), Err(ParseError::Malformed));
        data[..8].copy_from_slice(&99u64.to_be_bytes());
        data[8..12].copy_from_slice(&520u32.to_be_bytes());
        assert_eq!(Capacity::parse(&data), Err(ParseError::Malformed));
    }
}
