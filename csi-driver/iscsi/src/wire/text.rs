//! Text Request and Response (RFC 7143 sections 11.10 and 11.11).

use super::{
    BadField, CONTINUE, FINAL, Header, IMMEDIATE, bit, blank, is_immediate, opcode, put_u32,
    put_u64, u32_at, u64_at,
};
use crate::scsi::Lun;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextRequest {
    pub immediate: bool,
    pub last: bool,
    /// The text goes on in the next PDU.
    pub more: bool,
    pub lun: Lun,
    pub itt: u32,
    /// The response that this one goes on from, or `NO_TAG`.
    pub ttt: u32,
    pub cmd_sn: u32,
    pub exp_stat_sn: u32,
}

impl TextRequest {
    pub fn parse(header: &Header) -> Result<Self, BadField> {
        let (last, more) = flags(header)?;
        Ok(Self {
            immediate: is_immediate(header),
            last,
            more,
            lun: Lun(u64_at(header, 8)),
            itt: u32_at(header, 16),
            ttt: u32_at(header, 20),
            cmd_sn: u32_at(header, 24),
            exp_stat_sn: u32_at(header, 28),
        })
    }

    pub fn emit(&self, data_len: u32) -> Header {
        let mut header = blank(
            opcode::TEXT_REQUEST | bit(self.immediate, IMMEDIATE),
            bit(self.last, FINAL) | bit(self.more, CONTINUE),
            data_len,
        );
        put_u64(&mut header, 8, self.lun.0);
        put_u32(&mut header, 16, self.itt);
        put_u32(&mut header, 20, self.ttt);
        put_u32(&mut header, 24, self.cmd_sn);
        put_u32(&mut header, 28, self.exp_stat_sn);
        header
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextResponse {
    pub last: bool,
    pub more: bool,
    pub lun: Lun,
    pub itt: u32,
    /// To be sent back to get the rest, `NO_TAG` if there is none.
    pub ttt: u32,
    pub stat_sn: u32,
    pub exp_cmd_sn: u32,
    pub max_cmd_sn: u32,
}

impl TextResponse {
    pub fn parse(header: &Header) -> Result<Self, BadField> {
        let (last, more) = flags(header)?;
        Ok(Self {
            last,
            more,
            lun: Lun(u64_at(header, 8)),
            itt: u32_at(header, 16),
            ttt: u32_at(header, 20),
            stat_sn: u32_at(header, 24),
            exp_cmd_sn: u32_at(header, 28),
            max_cmd_sn: u32_at(header, 32),
        })
    }

    pub fn emit(&self, data_len: u32) -> Header {
        let mut header = blank(
            opcode::TEXT_RESPONSE,
            bit(self.last, FINAL) | bit(self.more, CONTINUE),
            data_len,
        );
        put_u64(&mut header, 8, self.lun.0);
        put_u32(&mut header, 16, self.itt);
        put_u32(&mut header, 20, self.ttt);
        put_u32(&mut header, 24, self.stat_sn);
        put_u32(&mut header, 28, self.exp_cmd_sn);
        put_u32(&mut header, 32, self.max_cmd_sn);
        header
    }
}

fn flags(header: &Header) -> Result<(bool, bool), BadField> {
    let (last, more) = (header[1] & FINAL != 0, header[1] & CONTINUE != 0);
    if last && more {
        return Err(BadField("text PDU continues and ends at once"));
    }
    Ok((last, more))
}
