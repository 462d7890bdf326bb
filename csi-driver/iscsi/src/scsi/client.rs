//! The initiator's side: command blocks and what the answers say.
//!
//! Builders give the CDB, with its parameter list where there is one. Parsers never trust a length: an
//! answer that was cut by its allocation length is `ParseError::Truncated` with the length to ask for,
//! so that "only own keys" is never concluded from half a list. PERSISTENT RESERVE OUT is `PrOut::emit`.
//!
//! Not here: sending, retrying after a unit attention, deciding (`crate::session`, the mirror).

mod identity;
mod reservations;

use bytes::{BufMut, Bytes, BytesMut};

use super::Cdb;

pub use identity::{BlockLimits, Capacity, Identity, Provisioning, naa};
pub use reservations::{
    Capabilities, FullStatus, Keys, Registrant, Reservation, ReservationStatus,
};

/// Allocation length of the variable answers; larger ones name what they need.
pub const ALLOCATION: u16 = 0xFFFC;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("answer is shorter than its fixed part")]
    Short,
    #[error("answer was cut, it has {needed} bytes")]
    Truncated { needed: usize },
    #[error("answer contradicts itself")]
    Malformed,
}

/// Where a written block must be before the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Wherever the unit's write cache says.
    Cached,
    /// On stable storage (FUA).
    Stable,
}

pub fn test_unit_ready() -> Cdb {
    Cdb::new(&[0; 6])
}

pub fn inquiry(allocation: u16) -> Cdb {
    let [high, low] = allocation.to_be_bytes();
    Cdb::new(&[0x12, 0, 0, high, low, 0])
}

/// INQUIRY of a vital product data page.
pub fn vpd(page: u8, allocation: u16) -> Cdb {
    let [high, low] = allocation.to_be_bytes();
    Cdb::new(&[0x12, 1, page, high, low, 0])
}

/// VPD page C0h, which `TargetAge::parse` reads.
pub fn target_age() -> Cdb {
    vpd(super::target_age::PAGE, 252)
}

pub fn read_capacity16() -> Cdb {
    let mut cdb = [0; 16];
    cdb[0] = 0x9E;
    cdb[1] = 0x10;
    cdb[13] = 32;
    Cdb::new(&cdb)
}

fn lba16(opcode: u8, flags: u8, lba: u64, blocks: u32) -> Cdb {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[1] = flags;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    Cdb::new(&cdb)
}

pub fn read16(lba: u64, blocks: u32) -> Cdb {
    lba16(0x88, 0, lba, blocks)
}

pub fn write16(lba: u64, blocks: u32, durability: Durability) -> Cdb {
    let flags = match durability {
        Durability::Cached => 0,
        Durability::Stable => 0x08,
    };
    lba16(0x8A, flags, lba, blocks)
}

/// SYNCHRONIZE CACHE of everything.
pub fn synchronize_cache16() -> Cdb {
    lba16(0x91, 0, 0, 0)
}

/// WRITE SAME: the data out is the one block that all of them become.
pub fn write_same16(lba: u64, blocks: u32) -> Cdb {
    lba16(0x93, 0, lba, blocks)
}

/// WRITE SAME that may deallocate: the data out is one block of zeros.
pub fn write_same16_unmap(lba: u64, blocks: u32) -> Cdb {
    lba16(0x93, 0x08, lba, blocks)
}

/// UNMAP of (first block, blocks); at most 4095 ranges fit its list.
pub fn unmap(ranges: &[(u64, u32)]) -> (Cdb, Bytes) {
    let ranges = &ranges[..ranges.len().min(4095)];
    let length = 16 * ranges.len() as u16;
    let mut list = BytesMut::with_capacity(8 + usize::from(length));
    list.put_u16(6 + length);
    list.put_u16(length);
    list.put_u32(0);
    for (lba, blocks) in ranges {
        list.put_u64(*lba);
        list.put_u32(*blocks);
        list.put_u32(0);
    }
    let [high, low] = (8 + length).to_be_bytes();
    (
        Cdb::new(&[0x42, 0, 0, 0, 0, 0, 0, high, low, 0]),
        list.freeze(),
    )
}

fn pr_in(action: u8, allocation: u16) -> Cdb {
    let [high, low] = allocation.to_be_bytes();
    Cdb::new(&[0x5E, action, 0, 0, 0, 0, 0, high, low, 0])
}

pub fn pr_read_keys() -> Cdb {
    pr_in(0, ALLOCATION)
}

pub fn pr_read_reservation() -> Cdb {
    pr_in(1, ALLOCATION)
}

pub fn pr_report_capabilities() -> Cdb {
    pr_in(2, 8)
}

pub fn pr_read_full_status() -> Cdb {
    pr_in(3, ALLOCATION)
}

fn be(bytes: &[u8], at: usize, width: usize) -> u64 {
    bytes
        .iter()
        .skip(at)
        .take(width)
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// The bytes after a header of `head` bytes, which say themselves how many they should be.
fn counted(data: &[u8], head: usize, declared: usize) -> Result<&[u8], ParseError> {
    let needed = head.saturating_add(declared);
    data.get(head..needed)
        .ok_or(ParseError::Truncated { needed })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scsi::{PrState, Sense, TargetAge};

    proptest! {
        /// The first bytes carry lengths; small ones let the parsers reach what is behind them.
        #[test]
        fn random_answers_never_panic(
            head in prop::collection::vec(0u8..64, 0..32),
            tail in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let data = &[head, tail].concat()[..];
            let _ = Identity::parse(data);
            let _ = naa(data);
            let _ = BlockLimits::parse(data);
            let _ = Provisioning::parse(data);
            let _ = Capacity::parse(data).map(|capacity| capacity.bytes());
            let _ = Keys::parse(data);
            let _ = ReservationStatus::parse(data);
            let _ = FullStatus::parse(data);
            let _ = Capabilities::parse(data);
            let _ = TargetAge::parse(data);
            let _ = PrState::restore(data);
            for code in [0x70, 0x72] {
                let _ = Sense::parse(&[&[code], data].concat());
            }
        }
    }

    #[test]
    fn builders_give_the_bytes_of_the_standards() {
        assert_eq!(inquiry(0x0124).as_bytes(), [0x12, 0, 0, 1, 0x24, 0]);
        assert_eq!(vpd(0x83, 252).as_bytes(), [0x12, 1, 0x83, 0, 252, 0]);
        assert_eq!(
            read_capacity16().as_bytes(),
            [0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0]
        );
        assert_eq!(
            write16(0x0102_0304_0506_0708, 0x0A0B, Durability::Stable).as_bytes(),
            [0x8A, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x0A, 0x0B, 0, 0]
        );
        assert_eq!(synchronize_cache16().as_bytes()[0], 0x91);
        let (cdb, list) = unmap(&[(5, 6), (0x0100, 7)]);
        assert_eq!(cdb.as_bytes(), [0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0]);
        assert_eq!(list[..8], [0, 38, 0, 32, 0, 0, 0, 0]);
        assert_eq!(
            list[8..24],
            [0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 0]
        );
        assert_eq!(
            list[24..40],
            [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 7, 0, 0, 0, 0]
        );
        assert_eq!(
            pr_read_full_status().as_bytes(),
            [0x5E, 3, 0, 0, 0, 0, 0, 0xFF, 0xFC, 0]
        );
    }
}
