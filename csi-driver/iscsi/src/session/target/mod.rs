//! The target's end of a session.

mod config;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Negotiated, SessionError, Transmit};
use crate::scsi::{Attribute, Cdb, Expected, Lun, ScsiOutcome, TaskFunction, TaskResponse};

pub use config::{
    Account, Acl, Auth, ConnectionSeed, Portal, Redirect, TargetConfig, TargetEntry, TargetLimits,
};

/// A login that passed every check of the session. The server closes an old session of the same
/// (initiator, ISID, target, portal group) first and aborts its tasks; then it calls `accept_login`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginInfo {
    pub initiator: String,
    pub initiator_alias: Option<String>,
    pub isid: [u8; 6],
    /// `None`: a discovery session, which never gives commands.
    pub target: Option<String>,
    pub portal_group: u16,
    pub tsih: u16,
    /// The CHAP user, if there was CHAP.
    pub user: Option<String>,
    pub negotiated: Negotiated,
}

/// Why the server refuses a login that the session would accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginRefusal {
    /// 0202
    NotAuthorized,
    /// 0203
    TargetNotFound,
    /// 0204
    TargetRemoved,
    /// 0206
    TooManySessions,
    /// 0301
    Unavailable,
    /// 0302
    OutOfResources,
}

/// A command with all its write data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetCommand {
    /// Names the task in `respond`; never used twice in a session.
    pub task: u64,
    pub lun: Lun,
    pub cdb: Cdb,
    /// As many bytes as `expected` says.
    pub data_out: Vec<Bytes>,
    pub expected: Expected,
    pub attr: Attribute,
    pub immediate: bool,
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    LoggedOut,
    LoginTimeout,
    /// The login was refused with this status class and detail (after the answer has been sent).
    LoginRefused {
        class: u8,
        detail: u8,
    },
    /// A peer that used to answer NOP-In answers no more.
    PingTimeout,
    /// `TargetSession::close` was called.
    Local,
    Error(SessionError),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetEvent {
    /// Answer with `accept_login` or `refuse_login`.
    LoginReady(LoginInfo),
    /// Answer with `respond` or `discard`.
    Command(TargetCommand),
    /// Answer with `respond_task_management`. `function` names tasks by `TargetCommand::task`. The session itself answers
    /// for tasks that were never given out, and drops late answers of aborted ones.
    TaskManagement {
        request: u64,
        lun: Lun,
        function: TaskFunction,
    },
    /// The last event. Send what `poll_transmit` still gives, then close the connection.
    Closed(CloseReason),
}

/// The target's end of a session: login, command window, write data, responses.
#[derive(Debug)]
pub struct TargetSession {}

impl TargetSession {
    pub fn new(config: Arc<TargetConfig>, seed: ConnectionSeed, now: Duration) -> Self {
        let _ = (config, seed, now);
        todo!()
    }

    /// Bytes from the socket in any split. Write data given out are slices of `bytes`.
    pub fn handle_bytes(&mut self, now: Duration, bytes: Bytes) -> Result<(), SessionError> {
        let _ = (now, bytes);
        todo!()
    }

    pub fn handle_timeout(&mut self, now: Duration) {
        let _ = now;
        todo!()
    }

    /// Lets the login of `LoginReady` through.
    pub fn accept_login(&mut self, now: Duration) {
        let _ = now;
        todo!()
    }

    pub fn refuse_login(&mut self, now: Duration, why: LoginRefusal) {
        let _ = (now, why);
        todo!()
    }

    /// Ends a task: Data-In, status, sense. Ignored for a task that is not open (aborted, or the session is closed).
    pub fn respond(&mut self, task: u64, outcome: ScsiOutcome) {
        let _ = (task, outcome);
        todo!()
    }

    /// Ends a task without an answer to the initiator (aborted from another nexus with TAS=0).
    pub fn discard(&mut self, task: u64) {
        let _ = task;
        todo!()
    }

    /// Drops the tasks for this LUN whose write data is not yet whole, without an answer: `UnitOutput::AbortGathering`
    /// (the LUN was reset from another nexus).
    pub fn abort_gathering(&mut self, lun: Lun) {
        let _ = lun;
        todo!()
    }

    pub fn respond_task_management(&mut self, request: u64, response: TaskResponse) {
        let _ = (request, response);
        todo!()
    }

    /// Asks the initiator to log out within this time (asynchronous event 1): a planned drain.
    pub fn request_logout(&mut self, within: Duration) {
        let _ = within;
        todo!()
    }

    /// Ends the session from this side: reinstatement, reset, shutdown.
    pub fn close(&mut self) {
        todo!()
    }

    pub fn poll_event(&mut self) -> Option<TargetEvent> {
        todo!()
    }

    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        todo!()
    }

    pub fn deadline(&self) -> Option<Duration> {
        todo!()
    }

    /// Bytes that wait for `poll_transmit`; a shell that sees it grow stops reading.
    pub fn transmit_backlog(&self) -> usize {
        todo!()
    }

    /// Tasks given out and not ended.
    pub fn open_tasks(&self) -> usize {
        todo!()
    }
}
