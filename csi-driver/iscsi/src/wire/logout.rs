//! Logout Request and Response (RFC 7143 sections 11.14 and 11.15).

use super::{
    BadField, FINAL, Header, IMMEDIATE, bit, blank, is_immediate, opcode, put_u16, put_u32, u16_at,
    u32_at,
};

/// What is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogoutReason {
    CloseSession,
    CloseConnection,
    RemoveForRecovery,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogoutRequest {
    pub immediate: bool,
    pub reason: LogoutReason,
    pub itt: u32,
    pub cid: u16,
    pub cmd_sn: u32,
    pub exp_stat_sn: u32,
}

impl LogoutRequest {
    pub fn parse(header: &Header) -> Result<Self, BadField> {
        let reason = match header[1] & 0x7F {
            0 => LogoutReason::CloseSession,
            1 => LogoutReason::CloseConnection,
            2 => LogoutReason::RemoveForRecovery,
            _ => return Err(BadField("reserved logout reason")),
        };
        Ok(Self {
            immediate: is_immediate(header),
            reason,
            itt: u32_at(header, 16),
            cid: u16_at(header, 20),
            cmd_sn: u32_at(header, 24),
            exp_stat_sn: u32_at(header, 28),
        })
    }

    pub fn emit(&self) -> Header {
        let reason = match self.reason {
            LogoutReason::CloseSession => 0,
            LogoutReason::CloseConnection => 1,
            LogoutReason::RemoveForRecovery => 2,
        };
        let first = opcode::LOGOUT_REQUEST | bit(self.immediate, IMMEDIATE);
        let mut header = blank(first, FINAL | reason, 0);
        put_u32(&mut header, 16, self.itt);
        put_u16(&mut header, 20, self.cid);
        put_u32(&mut header, 24, self.cmd_sn);
        put_u32(&mut header, 28, self.exp_stat_sn);
        header
    }
}

/// Response codes.
pub mod response {
    pub const CLOSED: u8 = 0;
    pub const NO_SUCH_CONNECTION: u8 = 1;
    pub const NO_RECOVERY: u8 = 2;
    pub const CLEANUP_FAILED: u8 = 3;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogoutResponse {
    pub response: u8,
    pub itt: u32,
    pub stat_sn: u32,
    pub exp_cmd_sn: u32,
    pub max_cmd_sn: u32,
    pub time2wait: u16,
    pub time2retain: u16,
}

impl LogoutResponse {
    pub fn parse(header: &Header) -> Self {
        Self {
            response: header[2],
            itt: u32_at(header, 16),
            stat_sn: u32_at(header, 24),
            exp_cmd_sn: u32_at(header, 28),
            max_cmd_sn: u32_at(header, 32),
            time2wait: u16_at(header, 40),
            time2retain: u16_at(header, 42),
        }
    }

    pub fn emit(&self) -> Header {
        let mut header = blank(opcode::LOGOUT_RESPONSE, FINAL, 0);
        header[2] = self.response;
        put_u32(&mut header, 16, self.itt);
        put_u32(&mut header, 24, self.stat_sn);
        put_u32(&mut header, 28, self.exp_cmd_sn);
        put_u32(&mut header, 32, self.max_cmd_sn);
        put_u16(&mut header, 40, self.time2wait);
        put_u16(&mut header, 42, self.time2retain);
        header
    }
}
