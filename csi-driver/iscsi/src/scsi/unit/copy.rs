//! EXTENDED COPY (LID1) and RECEIVE COPY RESULTS: copies within this unit (SPC-4 6.4, 6.24).
//!
//! Not here: the copying itself (`job`), who may ask for which result (the nexus keeps its own).

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use super::config::UnitConfig;
use super::ended::{bad_list, short_list};
use super::job::Segment;
use crate::scsi::{Cdb, Code, Sense, SenseKey};

const MAX_TARGETS: usize = 2;
const MAX_SEGMENTS: usize = 16;
const MAX_LIST: usize = 32 * (MAX_TARGETS + MAX_SEGMENTS);
const MAX_SEGMENT_BYTES: u64 = 64 << 20;
/// Results that one nexus keeps; the oldest goes first.
pub(super) const MAX_RESULTS: usize = 8;

const HEAD: usize = 16;
const TARGET_LEN: usize = 32;
const IDENTIFICATION: u8 = 0xE4;
const BLOCK_TO_BLOCK: u8 = 0x02;
const BLOCK_TO_BLOCK_OFFSETS: u8 = 0x0A;

/// A parsed EXTENDED COPY.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Copy {
    /// The list id to keep a result under, unless the initiator wants none.
    pub(super) list: Option<u8>,
    pub(super) segments: VecDeque<Segment>,
}

/// The result of a copy that ended, as COPY STATUS gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CopyResult {
    pub(super) list: u8,
    pub(super) failed: bool,
    pub(super) segments: u16,
}

fn aborted(code: Code) -> Sense {
    Sense::new(SenseKey::CopyAborted, code)
}

fn be(bytes: &[u8], at: usize, width: usize) -> u64 {
    bytes
        .iter()
        .skip(at)
        .take(width)
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Reads the parameter list. An empty one copies nothing.
pub(super) fn parse(cdb: &Cdb, list: &Bytes, config: &UnitConfig) -> Result<Copy, Sense> {
    let declared = cdb.field_at(10, 4) as usize;
    if declared == 0 {
        return Ok(Copy {
            list: None,
            segments: VecDeque::new(),
        });
    }
    let list = list.get(..declared).ok_or(short_list())?;
    if list.len() < HEAD {
        return Err(short_list());
    }
    let targets_len = be(list, 2, 2) as usize;
    let segments_len = be(list, 8, 4) as usize;
    let inline_len = be(list, 12, 4) as usize;
    let end = HEAD
        .saturating_add(targets_len)
        .saturating_add(segments_len)
        .saturating_add(inline_len);
    if end > list.len()
        || targets_len + segments_len > MAX_LIST
        || !targets_len.is_multiple_of(TARGET_LEN)
    {
        return Err(short_list());
    }
    if inline_len != 0 {
        return Err(bad_list(12));
    }
    let (targets, segments) = list[HEAD..].split_at(targets_len);
    let targets = parse_targets(targets, config)?;
    let segments = parse_segments(&segments[..segments_len], targets, config)?;
    let keep = match list[1] >> 3 & 0x03 {
        0 | 1 => Some(list[0]),
        _ => None,
    };
    Ok(Copy {
        list: keep,
        segments,
    })
}

/// All target descriptors must name this unit; gives their number.
fn parse_targets(targets: &[u8], config: &UnitConfig) -> Result<usize, Sense> {
    let count = targets.len() / TARGET_LEN;
    if count > MAX_TARGETS {
        return Err(Sense::illegal(Code::TOO_MANY_TARGET_DESCRIPTORS));
    }
    for target in targets.chunks_exact(TARGET_LEN) {
        if target[0] != IDENTIFICATION {
            return Err(Sense::illegal(Code::UNSUPPORTED_TARGET_DESCRIPTOR));
        }
        let length = usize::from(target[7]).min(20);
        let designator = &target[8..8 + length];
        let block = be(target, 29, 3);
        if target[1] & 0x1F != 0 {
            return Err(aborted(Code::INCORRECT_COPY_TARGET_TYPE));
        }
        if target[5] & 0x0F != 3
            || designator != config.naa
            || block != 0 && block != config.block()
        {
            return Err(aborted(Code::COPY_TARGET_NOT_REACHABLE));
        }
    }
    Ok(count)
}

fn parse_segments(
    mut rest: &[u8],
    targets: usize,
    config: &UnitConfig,
) -> Result<VecDeque<Segment>, Sense> {
    let mut segments = VecDeque::new();
    while let Some(kind) = rest.first() {
        let length = match *kind {
            BLOCK_TO_BLOCK => 28,
            BLOCK_TO_BLOCK_OFFSETS => 32,
            _ => return Err(Sense::illegal(Code::UNSUPPORTED_SEGMENT_DESCRIPTOR)),
        };
        let (segment, next) = rest.split_at_checked(length).ok_or(short_list())?;
        if segments.len() == MAX_SEGMENTS {
            return Err(Sense::illegal(Code::TOO_MANY_SEGMENT_DESCRIPTORS));
        }
        if be(segment, 2, 2) as usize + 4 != length {
            return Err(short_list());
        }
        segments.push_back(parse_segment(segment, targets, config)?);
        rest = next;
    }
    Ok(segments)
}

fn parse_segment(segment: &[u8], targets: usize, config: &UnitConfig) -> Result<Segment, Sense> {
    let block = config.block();
    if be(segment, 4, 2) as usize >= targets || be(segment, 6, 2) as usize >= targets {
        return Err(aborted(Code::COPY_SEGMENT_UNREACHABLE_TARGET));
    }
    let (len, from_byte, to_byte) = match segment[0] {
        BLOCK_TO_BLOCK => (be(segment, 10, 2) * block, 0, 0),
        _ => (be(segment, 8, 4), be(segment, 28, 2), be(segment, 30, 2)),
    };
    if !(len | from_byte | to_byte).is_multiple_of(block) || len > MAX_SEGMENT_BYTES {
        return Err(bad_list(HEAD));
    }
    let place = |lba: u64, byte: u64| {
        let start = lba.checked_mul(block)?.checked_add(byte)?;
        let end = start.checked_add(len)?;
        (end <= config.blocks() * block).then_some(start)
    };
    let from = place(be(segment, 12, 8), from_byte);
    let to = place(be(segment, 20, 8), to_byte);
    match (from, to) {
        (Some(from), Some(to)) => Ok(Segment { from, to, len }),
        _ => Err(aborted(Code::NONE)),
    }
}

/// RECEIVE COPY RESULTS, OPERATING PARAMETERS.
pub(super) fn operating_parameters(block: u64) -> BytesMut {
    const CODES: [u8; 3] = [BLOCK_TO_BLOCK, BLOCK_TO_BLOCK_OFFSETS, IDENTIFICATION];
    let granularity = block.trailing_zeros() as u8;
    let mut out = BytesMut::with_capacity(48);
    out.put_u32(40 + CODES.len() as u32);
    out.put_u32(0);
    out.put_u16(MAX_TARGETS as u16);
    out.put_u16(MAX_SEGMENTS as u16);
    out.put_u32(MAX_LIST as u32);
    out.put_u32(MAX_SEGMENT_BYTES as u32);
    out.put_bytes(0, 12);
    out.put_u16(0);
    out.put_u16(1);
    out.put_slice(&[1, granularity, 0, 0, 0, 0, 0, CODES.len() as u8]);
    out.put_slice(&CODES);
    out
}

/// RECEIVE COPY RESULTS, COPY STATUS.
pub(super) fn status(result: CopyResult) -> BytesMut {
    let mut out = BytesMut::with_capacity(12);
    out.put_u32(8);
    out.put_u8(if result.failed { 0x02 } else { 0x01 });
    out.put_u16(result.segments);
    out.put_u8(0);
    out.put_u32(0);
    out
}

/// Third-party copy descriptors of VPD page 8Fh.
pub(super) fn third_party() -> BytesMut {
    let mut out = BytesMut::new();
    // Supported commands: EXTENDED COPY (LID1); RECEIVE COPY RESULTS: status, operating parameters.
    out.put_slice(&[0x00, 0x01, 0, 8, 7, 0x83, 1, 0x00, 0x84, 2, 0x00, 0x03]);
    // Parameter data.
    out.put_slice(&[0x00, 0x04, 0, 28, 0, 0, 0, 0]);
    out.put_u16(MAX_TARGETS as u16);
    out.put_u16(MAX_SEGMENTS as u16);
    out.put_u32(MAX_LIST as u32);
    out.put_bytes(0, 16);
    // Supported descriptors.
    out.put_slice(&[
        0x00,
        0x08,
        0,
        4,
        3,
        BLOCK_TO_BLOCK,
        BLOCK_TO_BLOCK_OFFSETS,
        IDENTIFICATION,
    ]);
    // General copy operations.
    out.put_slice(&[0x80, 0x01, 0, 32]);
    out.put_u32(1);
    out.put_u32(1);
    out.put_u32(MAX_SEGMENT_BYTES as u32);
    out.put_bytes(0, 20);
    out
}
