//! INQUIRY: standard data and vital product data (SPC-4 6.6, 7.8; SBC-3 6.6).
//!
//! Not here: the vendor page C0h's layout (`scsi::target_age`).

use bytes::{BufMut, BytesMut};

use super::config::{
    MAX_COMPARE_BLOCKS, MAX_SAME_BLOCKS, MAX_UNMAP_DESCRIPTORS, STEP_BYTES, UnitConfig,
};
use super::copy;
use super::ended::bad_cdb;
use crate::scsi::target_age::{self, TargetAge};
use crate::scsi::{Cdb, Sense};

const PAGES: [u8; 10] = [
    0x00,
    0x80,
    0x83,
    0x86,
    0x8F,
    0xB0,
    0xB1,
    0xB2,
    0x88,
    target_age::PAGE,
];
const PROTOCOL_ISCSI: u8 = 0x50;

/// The parameter data of an INQUIRY and its allocation length.
pub(super) fn inquiry(
    cdb: &Cdb,
    config: &UnitConfig,
    age: TargetAge,
) -> Result<(BytesMut, u64), Sense> {
    let allocation = cdb.field_at(3, 2);
    let page = cdb.byte(2);
    if cdb.byte(1) & !0x01 != 0 {
        return Err(bad_cdb(1));
    }
    let data = match (cdb.bit(1, 0), page) {
        (false, 0) => standard(config),
        (false, _) => return Err(bad_cdb(2)),
        (true, 0x00) => supported_pages(),
        (true, 0x80) => vpd(0x80, config.serial.as_bytes()),
        (true, 0x83) => vpd(0x83, &designators(config)),
        (true, 0x86) => vpd(0x86, &extended()),
        (true, 0x88) => vpd(0x88, &ports(config)),
        (true, 0x8F) => vpd(0x8F, &copy::third_party()),
        (true, 0xB0) => vpd(0xB0, &block_limits(config)),
        (true, 0xB1) => vpd(0xB1, &characteristics()),
        (true, 0xB2) => vpd(0xB2, &provisioning(config)),
        (true, target_age::PAGE) => age.emit(),
        (true, _) => return Err(bad_cdb(2)),
    };
    Ok((data, allocation))
}

/// The standard data of a LUN that is not there: qualifier 011b, type 1Fh.
pub(super) fn absent(cdb: &Cdb) -> Result<(BytesMut, u64), Sense> {
    if cdb.byte(1) != 0 || cdb.byte(2) != 0 {
        return Err(bad_cdb(2));
    }
    let mut out = BytesMut::with_capacity(36);
    out.put_slice(&[0x7F, 0, 0x06, 0x12, 31, 0, 0, 0x02]);
    out.put_bytes(b' ', 28);
    Ok((out, cdb.field_at(3, 2)))
}

fn standard(config: &UnitConfig) -> BytesMut {
    const VERSION_SPC4: u8 = 0x06;
    const HISUP_FORMAT_2: u8 = 0x12;
    const IMPLICIT_ALUA_3PC: u8 = 0x18;
    const CMDQUE: u8 = 0x02;
    let mut out = BytesMut::with_capacity(96);
    let removable = if config.removable { 0x80 } else { 0 };
    out.put_slice(&[
        0,
        removable,
        VERSION_SPC4,
        HISUP_FORMAT_2,
        91,
        IMPLICIT_ALUA_3PC,
        0x10,
        CMDQUE,
    ]);
    put_padded(&mut out, &config.vendor, 8);
    put_padded(&mut out, &config.product, 16);
    put_padded(&mut out, &config.revision, 4);
    out.put_bytes(0, 22);
    // SAM-5, iSCSI, SPC-4, SBC-3, no version claimed of each.
    for descriptor in [0x00A0, 0x0960, 0x0460, 0x04C0] {
        out.put_u16(descriptor);
    }
    out.put_bytes(0, 96 - out.len());
    out
}

fn put_padded(out: &mut BytesMut, text: &str, width: usize) {
    let printable = |byte: u8| {
        if (0x20..0x7F).contains(&byte) {
            byte
        } else {
            b'?'
        }
    };
    let bytes = text.bytes().map(printable).chain(std::iter::repeat(b' '));
    out.extend(bytes.take(width));
}

fn vpd(page: u8, body: &[u8]) -> BytesMut {
    let mut out = BytesMut::with_capacity(4 + body.len());
    out.put_slice(&[0, page]);
    out.put_u16(body.len() as u16);
    out.put_slice(body);
    out
}

fn supported_pages() -> BytesMut {
    let mut pages = PAGES;
    pages.sort_unstable();
    vpd(0x00, &pages)
}

fn put_designator(out: &mut BytesMut, code_set: u8, association_type: u8, body: &[u8]) {
    let of_port = association_type & 0x30 != 0;
    let (protocol, valid) = if of_port {
        (PROTOCOL_ISCSI, 0x80)
    } else {
        (0, 0)
    };
    out.put_slice(&[
        protocol | code_set,
        valid | association_type,
        0,
        body.len() as u8,
    ]);
    out.put_slice(body);
}

/// Device identification: the NAA and T10 names of the unit, then relative port, port group, port name
/// and device name.
fn designators(config: &UnitConfig) -> BytesMut {
    const BINARY: u8 = 1;
    const ASCII: u8 = 2;
    const UTF8: u8 = 3;
    let mut out = BytesMut::new();
    put_designator(&mut out, BINARY, 0x03, &config.naa);
    let mut t10 = BytesMut::new();
    put_padded(&mut t10, &config.vendor, 8);
    t10.extend_from_slice(config.serial.as_bytes());
    t10.truncate(0xFF);
    put_designator(&mut out, ASCII, 0x01, &t10);
    put_designator(
        &mut out,
        BINARY,
        0x14,
        &[
            0,
            0,
            config.relative_port.to_be_bytes()[0],
            config.relative_port as u8,
        ],
    );
    put_designator(
        &mut out,
        BINARY,
        0x15,
        &[
            0,
            0,
            config.portal_group.to_be_bytes()[0],
            config.portal_group as u8,
        ],
    );
    put_designator(&mut out, UTF8, 0x18, &scsi_name(&port_name(config)));
    put_designator(&mut out, UTF8, 0x28, &scsi_name(&config.target_name));
    out
}

fn port_name(config: &UnitConfig) -> String {
    format!("{},t,0x{:04x}", config.target_name, config.portal_group)
}

/// A SCSI name string: zero terminated, padded to four bytes.
fn scsi_name(name: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = name.bytes().take(250).collect();
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// SCSI ports: the one target port.
fn ports(config: &UnitConfig) -> BytesMut {
    let mut name = BytesMut::new();
    put_designator(&mut name, 3, 0x18, &scsi_name(&port_name(config)));
    let mut out = BytesMut::new();
    out.put_u16(0);
    out.put_u16(config.relative_port);
    out.put_u32(0);
    out.put_u16(0);
    out.put_u16(name.len() as u16);
    out.put_slice(&name);
    out
}

/// Extended INQUIRY data: all three task attributes, a volatile cache, I_T nexus loss clears nothing
/// beyond the standard.
fn extended() -> [u8; 60] {
    let mut out = [0; 60];
    out[1] = 0x07;
    out[2] = 0x01;
    out
}

fn block_limits(config: &UnitConfig) -> BytesMut {
    let max_transfer = config.max_transfer_blocks() as u32;
    let physical = 1u16 << config.block_size.per_physical_exponent();
    let mut out = BytesMut::with_capacity(60);
    out.put_u8(0);
    out.put_u8(MAX_COMPARE_BLOCKS as u8);
    out.put_u16(physical);
    out.put_u32(max_transfer);
    out.put_u32((STEP_BYTES / config.block()).min(u64::from(max_transfer)) as u32);
    out.put_u32(max_transfer);
    if config.thin {
        out.put_u32(config.max_unmap_blocks() as u32);
        out.put_u32(MAX_UNMAP_DESCRIPTORS as u32);
        out.put_u32(u32::from(physical));
        out.put_u32(0x8000_0000);
    } else {
        out.put_bytes(0, 16);
    }
    out.put_u64(MAX_SAME_BLOCKS);
    if config.atomic_writes {
        out.put_u32(config.max_atomic_blocks() as u32);
        out.put_u32(u32::from(physical));
        out.put_u32(u32::from(physical));
    }
    out.put_bytes(0, 60 - out.len());
    out
}

/// Block device characteristics: no rotation; after a block erase, reads give zeros (WABEREQ 01b).
fn characteristics() -> [u8; 60] {
    let mut out = [0; 60];
    out[1] = 1;
    out[3] = 0x40;
    out
}

fn provisioning(config: &UnitConfig) -> [u8; 4] {
    const LBPU_LBPWS_LBPWS10: u8 = 0xE0;
    const LBPRZ: u8 = 0x04;
    const THIN: u8 = 2;
    if !config.thin {
        return [0; 4];
    }
    [
        0,
        LBPU_LBPWS_LBPWS10 | if config.discard_zeroes { LBPRZ } else { 0 },
        THIN,
        0,
    ]
}
