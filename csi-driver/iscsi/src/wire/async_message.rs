//! Asynchronous Message (RFC 7143 section 11.9). For a SCSI event the data segment holds a 2-byte
//! length and sense data.

use super::{
    FINAL, Header, NO_TAG, blank, opcode, put_u16, put_u32, put_u64, u16_at, u32_at, u64_at,
};
use crate::scsi::Lun;

/// Event codes.
pub mod event {
    pub const SCSI: u8 = 0;
    /// The initiator shall log out within parameter 3 seconds.
    pub const LOGOUT_REQUEST: u8 = 1;
    pub const CONNECTION_DROP: u8 = 2;
    pub const SESSION_DROP: u8 = 3;
    /// The initiator shall negotiate anew within parameter 3 seconds.
    pub const NEGOTIATE: u8 = 4;
    pub const VENDOR: u8 = 255;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsyncMessage {
    pub lun: Lun,
    pub stat_sn: u32,
    pub exp_cmd_sn: u32,
    pub max_cmd_sn: u32,
    pub event: u8,
    pub vendor_code: u8,
    pub parameters: [u16; 3],
}

impl AsyncMessage {
    pub fn parse(header: &Header) -> Self {
        Self {
            lun: Lun(u64_at(header, 8)),
            stat_sn: u32_at(header, 24),
            exp_cmd_sn: u32_at(header, 28),
            max_cmd_sn: u32_at(header, 32),
            event: header[36],
            vendor_code: header[37],
            parameters: [u16_at(header, 38), u16_at(header, 40), u16_at(header, 42)],
        }
    }

    pub fn emit(&self, data_len: u32) -> Header {
        let mut header = blank(opcode::ASYNC_MESSAGE, FINAL, data_len);
        put_u64(&mut header, 8, self.lun.0);
        put_u32(&mut header, 16, NO_TAG);
        put_u32(&mut header, 24, self.stat_sn);
        put_u32(&mut header, 28, self.exp_cmd_sn);
        put_u32(&mut header, 32, self.max_cmd_sn);
        header[36] = self.event;
        header[37] = self.vendor_code;
        for (parameter, at) in self.parameters.into_iter().zip([38, 40, 42]) {
            put_u16(&mut header, at, parameter);
        }
        header
    }
}
