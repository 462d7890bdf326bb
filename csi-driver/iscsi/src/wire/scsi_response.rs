//! SCSI Response (RFC 7143 section 11.4). The data segment holds a 2-byte length and the sense data.

use super::{BadField, FINAL, Header, blank, opcode, put_u32, residual, u32_at};
use crate::scsi::Residual;

/// The command completed at the target; `status` is valid.
pub const COMPLETED: u8 = 0x00;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScsiResponse {
    /// `COMPLETED`, or a failure of the target.
    pub response: u8,
    pub status: u8,
    pub itt: u32,
    pub stat_sn: u32,
    pub exp_cmd_sn: u32,
    pub max_cmd_sn: u32,
    /// How many R2T and Data-In PDUs the command had.
    pub exp_data_sn: u32,
    pub residual: Residual,
}

impl ScsiResponse {
    pub fn parse(header: &Header) -> Result<Self, BadField> {
        Ok(Self {
            response: header[2],
            status: header[3],
            itt: u32_at(header, 16),
            stat_sn: u32_at(header, 24),
            exp_cmd_sn: u32_at(header, 28),
            max_cmd_sn: u32_at(header, 32),
            exp_data_sn: u32_at(header, 36),
            residual: residual::parse(header)?,
        })
    }

    pub fn emit(&self, data_len: u32) -> Header {
        let mut header = blank(opcode::SCSI_RESPONSE, FINAL, data_len);
        header[2] = self.response;
        header[3] = self.status;
        put_u32(&mut header, 16, self.itt);
        put_u32(&mut header, 24, self.stat_sn);
        put_u32(&mut header, 28, self.exp_cmd_sn);
        put_u32(&mut header, 32, self.max_cmd_sn);
        put_u32(&mut header, 36, self.exp_data_sn);
        residual::emit(&mut header, self.residual);
        header
    }
}
