//! SCSI Command (RFC 7143 section 11.3).

use super::{
    BadField, FINAL, Header, bit, blank, is_immediate, opcode, put_u32, put_u64, u32_at, u64_at,
};
use crate::scsi::{Attribute, Lun};

const READ: u8 = 0x40;
const WRITE: u8 = 0x20;
const ATTRIBUTE: u8 = 0x07;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScsiCommand {
    pub immediate: bool,
    /// No unsolicited Data-Out follows.
    pub last: bool,
    pub read: bool,
    pub write: bool,
    pub attr: Attribute,
    pub lun: Lun,
    pub itt: u32,
    pub expected_length: u32,
    pub cmd_sn: u32,
    pub exp_stat_sn: u32,
    pub cdb: [u8; 16],
}

impl ScsiCommand {
    pub fn parse(header: &Header) -> Result<Self, BadField> {
        let attr = match header[1] & ATTRIBUTE {
            0 | 1 => Attribute::Simple,
            2 => Attribute::Ordered,
            3 => Attribute::HeadOfQueue,
            4 => Attribute::Aca,
            _ => return Err(BadField("reserved task attribute")),
        };
        let mut cdb = [0; 16];
        cdb.copy_from_slice(&header[32..48]);
        Ok(Self {
            immediate: is_immediate(header),
            last: header[1] & FINAL != 0,
            read: header[1] & READ != 0,
            write: header[1] & WRITE != 0,
            attr,
            lun: Lun(u64_at(header, 8)),
            itt: u32_at(header, 16),
            expected_length: u32_at(header, 20),
            cmd_sn: u32_at(header, 24),
            exp_stat_sn: u32_at(header, 28),
            cdb,
        })
    }

    pub fn emit(&self, data_len: u32) -> Header {
        let attr = match self.attr {
            Attribute::Simple => 1,
            Attribute::Ordered => 2,
            Attribute::HeadOfQueue => 3,
            Attribute::Aca => 4,
        };
        let mut header = blank(
            opcode::SCSI_COMMAND | bit(self.immediate, super::IMMEDIATE),
            bit(self.last, FINAL) | bit(self.read, READ) | bit(self.write, WRITE) | attr,
            data_len,
        );
        put_u64(&mut header, 8, self.lun.0);
        put_u32(&mut header, 16, self.itt);
        put_u32(&mut header, 20, self.expected_length);
        put_u32(&mut header, 24, self.cmd_sn);
        put_u32(&mut header, 28, self.exp_stat_sn);
        header[32..48].copy_from_slice(&self.cdb);
        header
    }
}
