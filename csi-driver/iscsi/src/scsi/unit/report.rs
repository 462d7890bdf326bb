//! Parameter data that says what the unit is and how it stands: capacity, LUNs, ports, log pages,
//! defects.
//!
//! Not here: GET LBA STATUS (`lba_map`).

use bytes::{BufMut, BytesMut};

use super::config::UnitConfig;
use super::ended::bad_cdb;
use crate::scsi::{Cdb, Code, Lun, Sense};

/// READ CAPACITY(10): saturated beyond 32 bits.
pub(super) fn capacity10(config: &UnitConfig) -> BytesMut {
    let last = config.blocks().saturating_sub(1);
    let mut out = BytesMut::with_capacity(8);
    out.put_u32(u32::try_from(last).unwrap_or(u32::MAX));
    out.put_u32(config.block_size.bytes());
    out
}

/// READ CAPACITY(16).
pub(super) fn capacity16(config: &UnitConfig) -> BytesMut {
    const LBPME: u8 = 0x80;
    const LBPRZ: u8 = 0x40;
    let mut out = BytesMut::with_capacity(32);
    out.put_u64(config.blocks().saturating_sub(1));
    out.put_u32(config.block_size.bytes());
    out.put_u8(0);
    out.put_u8(config.block_size.per_physical_exponent());
    out.put_u8(match (config.thin, config.discard_zeroes) {
        (false, _) => 0,
        (true, false) => LBPME,
        (true, true) => LBPME | LBPRZ,
    });
    out.put_bytes(0, 17);
    out
}

/// REPORT LUNS: well-known logical units alone are none, all others are the target's.
pub(super) fn luns(cdb: &Cdb, luns: &[Lun]) -> Result<(BytesMut, u64), Sense> {
    let allocation = cdb.field_at(6, 4);
    let reported = match cdb.byte(2) {
        0x00 | 0x02 => luns,
        0x01 => &[],
        _ => return Err(bad_cdb(2)),
    };
    if allocation < 16 {
        return Err(bad_cdb(6));
    }
    let mut out = BytesMut::with_capacity(8 + 8 * reported.len());
    out.put_u32(8 * reported.len() as u32);
    out.put_u32(0);
    reported.iter().for_each(|lun| out.put_u64(lun.0));
    Ok((out, allocation))
}

/// REPORT TARGET PORT GROUPS: one group, active/optimized, of one port.
pub(super) fn port_groups(cdb: &Cdb, config: &UnitConfig) -> Result<(BytesMut, u64), Sense> {
    const ACTIVE_OPTIMIZED_SUPPORTED: u8 = 0x01;
    let extended = match cdb.byte(1) >> 5 {
        0 => false,
        1 => true,
        _ => return Err(bad_cdb(1)),
    };
    let mut out = BytesMut::new();
    out.put_u32(if extended { 16 } else { 12 });
    if extended {
        out.put_slice(&[0x10, 0, 0, 0]);
    }
    out.put_slice(&[0, ACTIVE_OPTIMIZED_SUPPORTED]);
    out.put_u16(config.portal_group);
    out.put_slice(&[0, 0, 0, 1]);
    out.put_u16(0);
    out.put_u16(config.relative_port);
    Ok((out, cdb.field_at(6, 4)))
}

/// LOG SENSE: the list of pages, and informational exceptions (none).
pub(super) fn log(cdb: &Cdb) -> Result<(BytesMut, u64), Sense> {
    const INFORMATIONAL_EXCEPTIONS: u8 = 0x2F;
    let mut out = BytesMut::new();
    match (cdb.byte(2) & 0x3F, cdb.byte(3)) {
        (0x00, 0) => out.put_slice(&[0, 0, 0, 2, 0, INFORMATIONAL_EXCEPTIONS]),
        (INFORMATIONAL_EXCEPTIONS, 0) => {
            out.put_slice(&[INFORMATIONAL_EXCEPTIONS, 0, 0, 8, 0, 0, 0x03, 4, 0, 0, 0, 0]);
        }
        _ => return Err(bad_cdb(2)),
    }
    Ok((out, cdb.field_at(7, 2)))
}

/// READ DEFECT DATA(10) and (12): empty lists in the format asked for.
pub(super) fn defects(cdb: &Cdb) -> Result<(BytesMut, u64), Sense> {
    let long = cdb.opcode() == 0xB7;
    let (flags, allocation) = if long {
        (cdb.byte(1), cdb.field_at(6, 4))
    } else {
        (cdb.byte(2), cdb.field_at(7, 2))
    };
    let mut out = BytesMut::new();
    out.put_slice(&[0, flags & 0x1F, 0, 0]);
    if long {
        out.put_u32(0);
    }
    Ok((out, allocation))
}

/// Reads beyond the last block are told from those that are too long.
pub(super) fn out_of_range(first: u64) -> Sense {
    Sense::illegal(Code::LBA_OUT_OF_RANGE).with_information(first)
}
