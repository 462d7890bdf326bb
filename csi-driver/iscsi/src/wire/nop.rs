//! NOP-Out and NOP-In (RFC 7143 sections 11.18 and 11.19): pings of either end and their answers.

use super::{
    FINAL, Header, IMMEDIATE, bit, blank, is_immediate, opcode, put_u32, put_u64, u32_at, u64_at,
};
use crate::scsi::Lun;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NopOut {
    pub immediate: bool,
    pub lun: Lun,
    /// `NO_TAG`: no answer is wanted.
    pub itt: u32,
    /// The NOP-In that is answered, or `NO_TAG`.
    pub ttt: u32,
    pub cmd_sn: u32,
    pub exp_stat_sn: u32,
}

impl NopOut {
    pub fn parse(header: &Header) -> Self {
        Self {
            immediate: is_immediate(header),
            lun: Lun(u64_at(header, 8)),
            itt: u32_at(header, 16),
            ttt: u32_at(header, 20),
            cmd_sn: u32_at(header, 24),
            exp_stat_sn: u32_at(header, 28),
        }
    }

    pub fn emit(&self, data_len: u32) -> Header {
        let first = opcode::NOP_OUT | bit(self.immediate, IMMEDIATE);
        let mut header = blank(first, FINAL, data_len);
        put_u64(&mut header, 8, self.lun.0);
        put_u32(&mut header, 16, self.itt);
        put_u32(&mut header, 20, self.ttt);
        put_u32(&mut header, 24, self.cmd_sn);
        put_u32(&mut header, 28, self.exp_stat_sn);
        header
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NopIn {
    pub lun: Lun,
    /// The NOP-Out that is answered, or `NO_TAG`.
    pub itt: u32,
    /// `NO_TAG`: no answer is wanted.
    pub ttt: u32,
    pub stat_sn: u32,
    pub exp_cmd_sn: u32,
    pub max_cmd_sn: u32,
}

impl NopIn {
    pub fn parse(header: &Header) -> Self {
        Self {
            lun: Lun(u64_at(header, 8)),
            itt: u32_at(header, 16),
            ttt: u32_at(header, 20),
            stat_sn: u32_at(header, 24),
            exp_cmd_sn: u32_at(header, 28),
            max_cmd_sn: u32_at(header, 32),
        }
    }

    pub fn emit(&self, data_len: u32) -> Header {
        let mut header = blank(opcode::NOP_IN, FINAL, data_len);
        put_u64(&mut header, 8, self.lun.0);
        put_u32(&mut header, 16, self.itt);
        put_u32(&mut header, 20, self.ttt);
        put_u32(&mut header, 24, self.stat_sn);
        put_u32(&mut header, 28, self.exp_cmd_sn);
        put_u32(&mut header, 32, self.max_cmd_sn);
        header
    }
}
