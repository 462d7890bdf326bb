//! SCSI Data-Out (RFC 7143 section 11.7).

use super::{FINAL, Header, bit, blank, opcode, put_u32, put_u64, u32_at, u64_at};
use crate::scsi::Lun;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataOut {
    /// Ends the sequence: the answer to one R2T, or all unsolicited data.
    pub last: bool,
    pub lun: Lun,
    pub itt: u32,
    /// The R2T that is answered, `NO_TAG` for unsolicited data.
    pub ttt: u32,
    pub exp_stat_sn: u32,
    pub data_sn: u32,
    pub offset: u32,
}

impl DataOut {
    pub fn parse(header: &Header) -> Self {
        Self {
            last: header[1] & FINAL != 0,
            lun: Lun(u64_at(header, 8)),
            itt: u32_at(header, 16),
            ttt: u32_at(header, 20),
            exp_stat_sn: u32_at(header, 28),
            data_sn: u32_at(header, 36),
            offset: u32_at(header, 40),
        }
    }

    pub fn emit(&self, data_len: u32) -> Header {
        let mut header = blank(opcode::DATA_OUT, bit(self.last, FINAL), data_len);
        put_u64(&mut header, 8, self.lun.0);
        put_u32(&mut header, 16, self.itt);
        put_u32(&mut header, 20, self.ttt);
        put_u32(&mut header, 28, self.exp_stat_sn);
        put_u32(&mut header, 36, self.data_sn);
        put_u32(&mut header, 40, self.offset);
        header
    }
}
