//! Task Management Function Request and Response (RFC 7143 sections 11.5 and 11.6; RFC 7144).

use super::{
    FINAL, Header, IMMEDIATE, bit, blank, is_immediate, opcode, put_u32, put_u64, u32_at, u64_at,
};
use crate::scsi::{Lun, TaskResponse};

/// Function codes.
pub mod function {
    pub const ABORT_TASK: u8 = 1;
    pub const ABORT_TASK_SET: u8 = 2;
    pub const CLEAR_ACA: u8 = 3;
    pub const CLEAR_TASK_SET: u8 = 4;
    pub const LUN_RESET: u8 = 5;
    pub const TARGET_WARM_RESET: u8 = 6;
    pub const TARGET_COLD_RESET: u8 = 7;
    pub const TASK_REASSIGN: u8 = 8;
    pub const QUERY_TASK: u8 = 9;
    pub const QUERY_TASK_SET: u8 = 10;
    pub const IT_NEXUS_RESET: u8 = 11;
    pub const QUERY_ASYNC_EVENT: u8 = 12;
}

/// Response codes.
pub mod response {
    use super::TaskResponse;

    pub const COMPLETE: u8 = 0;
    pub const TASK_NOT_FOUND: u8 = 1;
    pub const LUN_NOT_FOUND: u8 = 2;
    pub const TASK_STILL_ALLEGIANT: u8 = 3;
    pub const NO_REASSIGNMENT: u8 = 4;
    pub const NOT_SUPPORTED: u8 = 5;
    pub const NOT_AUTHORIZED: u8 = 6;
    pub const SUCCEEDED: u8 = 7;
    pub const REJECTED: u8 = 255;

    pub fn from_task_response(response: TaskResponse) -> u8 {
        match response {
            TaskResponse::Complete => COMPLETE,
            TaskResponse::TaskNotFound => TASK_NOT_FOUND,
            TaskResponse::LunNotFound => LUN_NOT_FOUND,
            TaskResponse::NotSupported => NOT_SUPPORTED,
            TaskResponse::Rejected => REJECTED,
            TaskResponse::Succeeded => SUCCEEDED,
        }
    }

    pub fn to_task_response(code: u8) -> TaskResponse {
        match code {
            COMPLETE => TaskResponse::Complete,
            TASK_NOT_FOUND => TaskResponse::TaskNotFound,
            LUN_NOT_FOUND => TaskResponse::LunNotFound,
            NO_REASSIGNMENT | NOT_SUPPORTED => TaskResponse::NotSupported,
            SUCCEEDED => TaskResponse::Succeeded,
            _ => TaskResponse::Rejected,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskManagementRequest {
    pub immediate: bool,
    pub function: u8,
    pub lun: Lun,
    pub itt: u32,
    /// The task concerned, or `NO_TAG`.
    pub referenced_itt: u32,
    pub cmd_sn: u32,
    pub exp_stat_sn: u32,
    /// CmdSN of the task concerned.
    pub ref_cmd_sn: u32,
}

impl TaskManagementRequest {
    pub fn parse(header: &Header) -> Self {
        Self {
            immediate: is_immediate(header),
            function: header[1] & 0x7F,
            lun: Lun(u64_at(header, 8)),
            itt: u32_at(header, 16),
            referenced_itt: u32_at(header, 20),
            cmd_sn: u32_at(header, 24),
            exp_stat_sn: u32_at(header, 28),
            ref_cmd_sn: u32_at(header, 32),
        }
    }

    pub fn emit(&self) -> Header {
        let first = opcode::TASK_MANAGEMENT_REQUEST | bit(self.immediate, IMMEDIATE);
        let mut header = blank(first, FINAL | self.function & 0x7F, 0);
        put_u64(&mut header, 8, self.lun.0);
        put_u32(&mut header, 16, self.itt);
        put_u32(&mut header, 20, self.referenced_itt);
        put_u32(&mut header, 24, self.cmd_sn);
        put_u32(&mut header, 28, self.exp_stat_sn);
        put_u32(&mut header, 32, self.ref_cmd_sn);
        header
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskManagementResponse {
    pub response: u8,
    pub itt: u32,
    pub stat_sn: u32,
    pub exp_cmd_sn: u32,
    pub max_cmd_sn: u32,
}

impl TaskManagementResponse {
    pub fn parse(header: &Header) -> Self {
        Self {
            response: header[2],
            itt: u32_at(header, 16),
            stat_sn: u32_at(header, 24),
            exp_cmd_sn: u32_at(header, 28),
            max_cmd_sn: u32_at(header, 32),
        }
    }

    pub fn emit(&self) -> Header {
        let mut header = blank(opcode::TASK_MANAGEMENT_RESPONSE, FINAL, 0);
        header[2] = self.response;
        put_u32(&mut header, 16, self.itt);
        put_u32(&mut header, 24, self.stat_sn);
        put_u32(&mut header, 28, self.exp_cmd_sn);
        put_u32(&mut header, 32, self.max_cmd_sn);
        header
    }
}
