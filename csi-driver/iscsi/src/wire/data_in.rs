//! SCSI Data-In (RFC 7143 section 11.7), which may carry the status of the command.

use super::{BadField, FINAL, Header, NO_TAG, bit, blank, opcode, put_u32, residual, u32_at};
use crate::scsi::Residual;

const ACKNOWLEDGE: u8 = 0x40;
const STATUS: u8 = 0x01;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataIn {
    /// Ends a sequence of at most MaxBurstLength.
    pub last: bool,
    /// The target asks for an acknowledgement; only with ErrorRecoveryLevel above 0.
    pub acknowledge: bool,
    pub itt: u32,
    pub exp_cmd_sn: u32,
    pub max_cmd_sn: u32,
    pub data_sn: u32,
    pub offset: u32,
    pub status: Option<CollapsedStatus>,
}

/// The status of the command in its last Data-In.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollapsedStatus {
    pub status: u8,
    pub stat_sn: u32,
    pub residual: Residual,
}

impl DataIn {
    pub fn parse(header: &Header) -> Result<Self, BadField> {
        let last = header[1] & FINAL != 0;
        let status = if header[1] & STATUS == 0 {
            None
        } else if last {
            Some(CollapsedStatus {
                status: header[3],
                stat_sn: u32_at(header, 24),
                residual: residual::parse(header)?,
            })
        } else {
            return Err(BadField("status in a Data-In that is not the last"));
        };
        Ok(Self {
            last,
            acknowledge: header[1] & ACKNOWLEDGE != 0,
            itt: u32_at(header, 16),
            exp_cmd_sn: u32_at(header, 28),
            max_cmd_sn: u32_at(header, 32),
            data_sn: u32_at(header, 36),
            offset: u32_at(header, 40),
            status,
        })
    }

    pub fn emit(&self, data_len: u32) -> Header {
        let flags = bit(self.last, FINAL)
            | bit(self.acknowledge, ACKNOWLEDGE)
            | bit(self.status.is_some(), STATUS);
        let mut header = blank(opcode::DATA_IN, flags, data_len);
        put_u32(&mut header, 16, self.itt);
        put_u32(&mut header, 20, NO_TAG);
        put_u32(&mut header, 28, self.exp_cmd_sn);
        put_u32(&mut header, 32, self.max_cmd_sn);
        put_u32(&mut header, 36, self.data_sn);
        put_u32(&mut header, 40, self.offset);
        if let Some(status) = self.status {
            header[3] = status.status;
            put_u32(&mut header, 24, status.stat_sn);
            residual::emit(&mut header, status.residual);
        }
        header
    }
}
