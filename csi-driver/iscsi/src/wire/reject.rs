//! Reject (RFC 7143 section 11.17). The data segment holds the header of the PDU in question.

use super::{FINAL, Header, NO_TAG, blank, opcode, put_u32, u32_at};

/// Reason codes.
pub mod reason {
    pub const DATA_DIGEST: u8 = 0x02;
    pub const SNACK: u8 = 0x03;
    pub const PROTOCOL_ERROR: u8 = 0x04;
    pub const NOT_SUPPORTED: u8 = 0x05;
    pub const TOO_MANY_IMMEDIATE: u8 = 0x06;
    pub const TASK_IN_PROGRESS: u8 = 0x07;
    pub const INVALID_FIELD: u8 = 0x09;
    pub const LONG_OPERATION: u8 = 0x0A;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    pub reason: u8,
    pub stat_sn: u32,
    pub exp_cmd_sn: u32,
    pub max_cmd_sn: u32,
    pub data_sn: u32,
}

impl Reject {
    pub fn parse(header: &Header) -> Self {
        Self {
            reason: header[2],
            stat_sn: u32_at(header, 24),
            exp_cmd_sn: u32_at(header, 28),
            max_cmd_sn: u32_at(header, 32),
            data_sn: u32_at(header, 36),
        }
    }

    pub fn emit(&self, data_len: u32) -> Header {
        let mut header = blank(opcode::REJECT, FINAL, data_len);
        header[2] = self.reason;
        put_u32(&mut header, 16, NO_TAG);
        put_u32(&mut header, 24, self.stat_sn);
        put_u32(&mut header, 28, self.exp_cmd_sn);
        put_u32(&mut header, 32, self.max_cmd_sn);
        put_u32(&mut header, 36, self.data_sn);
        header
    }
}
