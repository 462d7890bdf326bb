//! Ready To Transfer (RFC 7143 section 11.8): the target asks for a piece of the write data.

use super::{FINAL, Header, blank, opcode, put_u32, put_u64, u32_at, u64_at};
use crate::scsi::Lun;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct R2t {
    pub lun: Lun,
    pub itt: u32,
    pub ttt: u32,
    pub stat_sn: u32,
    pub exp_cmd_sn: u32,
    pub max_cmd_sn: u32,
    pub r2t_sn: u32,
    pub offset: u32,
    pub length: u32,
}

impl R2t {
    pub fn parse(header: &Header) -> Self {
        Self {
            lun: Lun(u64_at(header, 8)),
            itt: u32_at(header, 16),
            ttt: u32_at(header, 20),
            stat_sn: u32_at(header, 24),
            exp_cmd_sn: u32_at(header, 28),
            max_cmd_sn: u32_at(header, 32),
            r2t_sn: u32_at(header, 36),
            offset: u32_at(header, 40),
            length: u32_at(header, 44),
        }
    }

    pub fn emit(&self) -> Header {
        let mut header = blank(opcode::R2T, FINAL, 0);
        put_u64(&mut header, 8, self.lun.0);
        put_u32(&mut header, 16, self.itt);
        put_u32(&mut header, 20, self.ttt);
        put_u32(&mut header, 24, self.stat_sn);
        put_u32(&mut header, 28, self.exp_cmd_sn);
        put_u32(&mut header, 32, self.max_cmd_sn);
        put_u32(&mut header, 36, self.r2t_sn);
        put_u32(&mut header, 40, self.offset);
        put_u32(&mut header, 44, self.length);
        header
    }
}
