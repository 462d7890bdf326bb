//! The PDUs of RFC 7143 section 11: one module per kind, explicit offsets into the 48-byte header.
//!
//! A header of the right size always exists here (`frame` makes it from the stream), so `parse` fails
//! only on values. `emit` writes every byte of the header; the data segment's length is given to it,
//! since header and payload are sent apart.
//!
//! Invariants: `parse(emit(x)) == x`; reserved bits are written as zero and not looked at.
//! Not here: digests and padding (`frame`, `session::transmit`), text keys (`crate::text`).

pub mod async_message;
pub mod data_in;
pub mod data_out;
pub mod frame;
pub mod login;
pub mod logout;
pub mod nop;
pub mod r2t;
pub mod reject;
pub mod scsi_command;
pub mod scsi_response;
pub mod task_management;
pub mod text;

use thiserror::Error;

pub const HEADER: usize = 48;
pub type Header = [u8; HEADER];

/// The tag that names no task.
pub const NO_TAG: u32 = 0xFFFF_FFFF;

/// Operation codes, without the immediate bit.
pub mod opcode {
    pub const NOP_OUT: u8 = 0x00;
    pub const SCSI_COMMAND: u8 = 0x01;
    pub const TASK_MANAGEMENT_REQUEST: u8 = 0x02;
    pub const LOGIN_REQUEST: u8 = 0x03;
    pub const TEXT_REQUEST: u8 = 0x04;
    pub const DATA_OUT: u8 = 0x05;
    pub const LOGOUT_REQUEST: u8 = 0x06;
    pub const SNACK: u8 = 0x10;
    pub const NOP_IN: u8 = 0x20;
    pub const SCSI_RESPONSE: u8 = 0x21;
    pub const TASK_MANAGEMENT_RESPONSE: u8 = 0x22;
    pub const LOGIN_RESPONSE: u8 = 0x23;
    pub const TEXT_RESPONSE: u8 = 0x24;
    pub const DATA_IN: u8 = 0x25;
    pub const LOGOUT_RESPONSE: u8 = 0x26;
    pub const R2T: u8 = 0x31;
    pub const ASYNC_MESSAGE: u8 = 0x32;
    pub const REJECT: u8 = 0x3F;
}

const IMMEDIATE: u8 = 0x40;
const FINAL: u8 = 0x80;
const CONTINUE: u8 = 0x40;

/// A header value that RFC 7143 does not allow.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct BadField(pub &'static str);

pub fn opcode_of(header: &Header) -> u8 {
    header[0] & 0x3F
}

pub fn is_immediate(header: &Header) -> bool {
    header[0] & IMMEDIATE != 0
}

pub fn initiator_task_tag(header: &Header) -> u32 {
    u32_at(header, 16)
}

/// The CmdSN of the PDUs that carry one (all of the initiator's but Data-Out and SNACK).
pub fn cmd_sn(header: &Header) -> u32 {
    u32_at(header, 24)
}

pub(crate) fn data_segment_length(header: &Header) -> u32 {
    u32::from_be_bytes([0, header[5], header[6], header[7]])
}

pub(crate) fn ahs_length(header: &Header) -> u32 {
    u32::from(header[4]) * 4
}

/// A header of this opcode, data length and flags, all else zero.
fn blank(first: u8, flags: u8, data_len: u32) -> Header {
    let mut header = [0; HEADER];
    header[0] = first;
    header[1] = flags;
    let [_, a, b, c] = data_len.to_be_bytes();
    header[5] = a;
    header[6] = b;
    header[7] = c;
    header
}

fn u16_at(header: &Header, at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

pub(crate) fn u32_at(header: &Header, at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

fn u64_at(header: &Header, at: usize) -> u64 {
    u64::from(u32_at(header, at)) << 32 | u64::from(u32_at(header, at + 4))
}

fn put_u16(header: &mut Header, at: usize, value: u16) {
    header[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn put_u32(header: &mut Header, at: usize, value: u32) {
    header[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn put_u64(header: &mut Header, at: usize, value: u64) {
    header[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

fn bit(set: bool, mask: u8) -> u8 {
    if set { mask } else { 0 }
}

/// Residual counts and their O and U bits, which SCSI Response and Data-In carry alike.
mod residual {
    use super::{BadField, Header, bit, put_u32, u32_at};
    use crate::scsi::Residual;

    const OVERFLOW: u8 = 0x04;
    const UNDERFLOW: u8 = 0x02;
    const COUNT: usize = 44;

    pub(super) fn parse(header: &Header) -> Result<Residual, BadField> {
        let count = u32_at(header, COUNT);
        match (header[1] & OVERFLOW != 0, header[1] & UNDERFLOW != 0) {
            (false, false) => Ok(Residual::None),
            (true, false) => Ok(Residual::Overflow(count)),
            (false, true) => Ok(Residual::Underflow(count)),
            (true, true) => Err(BadField("residual overflow and underflow at once")),
        }
    }

    pub(super) fn emit(header: &mut Header, residual: Residual) {
        let (over, under, count) = match residual {
            Residual::None => (false, false, 0),
            Residual::Overflow(count) => (true, false, count),
            Residual::Underflow(count) => (false, true, count),
        };
        header[1] |= bit(over, OVERFLOW) | bit(under, UNDERFLOW);
        put_u32(header, COUNT, count);
    }
}

#[cfg(test)]
mod tests;
