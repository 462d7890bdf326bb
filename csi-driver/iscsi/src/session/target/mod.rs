//! The target's end of a session.

//!
//! `Login` (names, CHAP, keys: `crate::login::target`) -> `Ready` (the server closes an older session of the same port
//! first) -> `Full` (`full` and its parts) -> `Closed`.
//!
//! Invariants: no event of a command before `accept_login`; a closed session gives no bytes but those queued before.

mod commands;
mod config;
mod discovery;
mod full;
mod gather;
mod management;
mod ping;
mod respond;
mod tasks;
mod window;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::transmit::TransmitQueue;
use super::{Negotiated, SessionError, Transmit};
use crate::login::MAX_LOGIN_SEGMENT;
use crate::login::target::{Step, TargetLogin};
use crate::scsi::{Attribute, Cdb, Expected, Lun, ScsiOutcome, TaskFunction, TaskResponse};
use crate::wire::frame::{Framer, Framing, Pdu};
use crate::wire::login::{LoginRequest, LoginResponse, LoginStatus, Transit, VERSION};
use crate::wire::{self, opcode};
use full::{Full, Outbox, Start, malformed};
use ping::Due;
use window::Window;

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
    pub cid: u16,
    /// The session that the initiator names instead of asking for a new one (RFC 7143 section 6.3.1). The server refuses the
    /// login with `NoSuchSession` if this initiator port has none of this TSIH, with `TooManySessions` if its connection has
    /// another CID; else this connection takes its place (`keep_tsih`) and the tasks of the old one are aborted.
    pub joins: Option<u16>,
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
    /// 020a
    NoSuchSession,
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
pub struct TargetSession {
    phase: Phase,
    framer: Framer,
    out: Outbox,
    started: Duration,
    config: Arc<TargetConfig>,
}

#[derive(Debug)]
enum Phase {
    Login {
        login: Box<TargetLogin>,
        portal: Portal,
        stat_sn: u32,
    },
    /// All is agreed; the server's word is awaited.
    Ready(Box<Ready>),
    Full(Box<Full>),
    Closed,
}

#[derive(Debug)]
struct Ready {
    request: LoginRequest,
    transit: Transit,
    text: Vec<u8>,
    info: LoginInfo,
    portal: Portal,
    stat_sn: u32,
}

/// Additional header segments before and after login: extended CDBs of up to 260 bytes are more than enough.
const MAX_AHS: u32 = 1020;

impl TargetSession {
    pub fn new(config: Arc<TargetConfig>, seed: ConnectionSeed, now: Duration) -> Self {
        let portal = seed.portal.clone();
        Self {
            phase: Phase::Login {
                login: Box::new(TargetLogin::new(Arc::clone(&config), seed)),
                portal,
                stat_sn: 0,
            },
            framer: Framer::new(Framing {
                max_segment: MAX_LOGIN_SEGMENT,
                max_ahs: MAX_AHS,
                header_digest: false,
                data_digest: false,
            }),
            out: Outbox {
                transmit: TransmitQueue::new(),
                events: VecDeque::new(),
            },
            started: now,
            config,
        }
    }

    /// Bytes from the socket in any split. Write data given out are slices of `bytes`. After an error the session is closed.
    pub fn handle_bytes(&mut self, now: Duration, bytes: Bytes) -> Result<(), SessionError> {
        if let Phase::Full(full) = &mut self.phase {
            full.ping.heard(now);
        }
        self.framer.push(bytes);
        loop {
            if matches!(self.phase, Phase::Closed) {
                return Err(SessionError::Closed);
            }
            let step = match self.framer.next_pdu() {
                Ok(None) => return self.check_backlog(),
                Ok(Some(pdu)) => self.handle_pdu(now, pdu),
                Err(error) => Err(error.into()),
            };
            match step {
                Ok(None) => {}
                Ok(Some(reason)) => {
                    self.end(reason);
                    return Ok(());
                }
                Err(error) => {
                    self.end(CloseReason::Error(error.clone()));
                    return Err(error);
                }
            }
        }
    }

    pub fn handle_timeout(&mut self, now: Duration) {
        let limits = &self.config.limits;
        match &mut self.phase {
            Phase::Login { .. } | Phase::Ready(_) => {
                if now >= self.started + limits.login_timeout {
                    self.end(CloseReason::LoginTimeout);
                }
            }
            Phase::Full(full) => {
                match full
                    .ping
                    .due(now, limits.ping_interval, limits.ping_timeout)
                {
                    Due::Nothing => {}
                    Due::Send => full.send_ping(now, &mut self.out),
                    Due::Dead => self.end(CloseReason::PingTimeout),
                }
            }
            Phase::Closed => {}
        }
    }

    /// Lets the login of `LoginReady` through.
    pub fn accept_login(&mut self, now: Duration) {
        match std::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Ready(ready) => {
                let ready = *ready;
                let limits = &self.config.limits;
                let window = Window::new(ready.request.cmd_sn, limits.queue_depth.max(1));
                let response = LoginResponse {
                    transit: ready.transit,
                    tsih: ready.info.tsih,
                    max_cmd_sn: window.max(),
                    ..login_response(&ready.request, ready.stat_sn, LoginStatus::SUCCESS)
                };
                push_login(&mut self.out, &response, ready.text);
                let agreed = &ready.info.negotiated;
                let (header_digest, data_digest) = (agreed.header_digest, agreed.data_digest);
                self.out.transmit.set_digests(header_digest, data_digest);
                self.framer.set_framing(Framing {
                    max_segment: agreed.max_recv_segment,
                    max_ahs: MAX_AHS,
                    header_digest,
                    data_digest,
                });
                self.phase = Phase::Full(Box::new(Full::new(Start {
                    config: Arc::clone(&self.config),
                    info: ready.info,
                    portal: ready.portal,
                    cid: ready.request.cid,
                    cmd_sn: ready.request.cmd_sn,
                    stat_sn: ready.stat_sn.wrapping_add(1),
                    now,
                })));
            }
            other => self.phase = other,
        }
    }

    /// Before `accept_login`: the session goes on under the handle that the initiator named.
    pub fn keep_tsih(&mut self) {
        if let Phase::Ready(ready) = &mut self.phase
            && let Some(tsih) = ready.info.joins
        {
            ready.info.tsih = tsih;
        }
    }

    pub fn refuse_login(&mut self, now: Duration, why: LoginRefusal) {
        let _ = now;
        if let Phase::Ready(ready) = &self.phase {
            let status = match why {
                LoginRefusal::NotAuthorized => LoginStatus::NOT_AUTHORIZED,
                LoginRefusal::TargetNotFound => LoginStatus::NOT_FOUND,
                LoginRefusal::TargetRemoved => LoginStatus::TARGET_REMOVED,
                LoginRefusal::TooManySessions => LoginStatus::TOO_MANY_CONNECTIONS,
                LoginRefusal::NoSuchSession => LoginStatus::NO_SUCH_SESSION,
                LoginRefusal::Unavailable => LoginStatus::UNAVAILABLE,
                LoginRefusal::OutOfResources => LoginStatus::OUT_OF_RESOURCES,
            };
            let response = login_response(&ready.request, ready.stat_sn, status);
            push_login(&mut self.out, &response, Vec::new());
            self.end(refused(status));
        }
    }

    /// Ends a task: Data-In, status, sense. Ignored for a task that is not open (aborted, or the session is closed).
    pub fn respond(&mut self, task: u64, outcome: ScsiOutcome) {
        if let Phase::Full(full) = &mut self.phase {
            full.respond(task, outcome, &mut self.out);
        }
    }

    /// Ends a task without an answer to the initiator (aborted from another nexus with TAS=0).
    pub fn discard(&mut self, task: u64) {
        if let Phase::Full(full) = &mut self.phase {
            full.discard(task, &mut self.out);
        }
    }

    /// Drops the tasks for this LUN whose write data is not yet whole, without an answer: `UnitOutput::AbortGathering`
    /// (the LUN was reset from another nexus).
    pub fn abort_gathering(&mut self, lun: Lun) {
        if let Phase::Full(full) = &mut self.phase {
            full.abort_gathering(lun, &mut self.out);
        }
    }

    pub fn respond_task_management(&mut self, request: u64, response: TaskResponse) {
        if let Phase::Full(full) = &mut self.phase {
            full.respond_management(request, response, &mut self.out);
        }
    }

    /// Asks the initiator to log out within this time (asynchronous event 1): a planned drain.
    pub fn request_logout(&mut self, within: Duration) {
        if let Phase::Full(full) = &mut self.phase {
            full.request_logout(within, &mut self.out);
        }
    }

    /// Ends the session from this side: reinstatement, reset, shutdown.
    pub fn close(&mut self) {
        self.end(CloseReason::Local);
    }

    pub fn poll_event(&mut self) -> Option<TargetEvent> {
        self.out.events.pop_front()
    }

    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.transmit.poll()
    }

    pub fn deadline(&self) -> Option<Duration> {
        let limits = &self.config.limits;
        match &self.phase {
            Phase::Login { .. } | Phase::Ready(_) => Some(self.started + limits.login_timeout),
            Phase::Full(full) => full
                .ping
                .deadline(limits.ping_interval, limits.ping_timeout),
            Phase::Closed => None,
        }
    }

    /// Bytes that wait for `poll_transmit`; a shell that sees it grow stops reading. Beyond
    /// `TargetLimits::max_backlog` the session ends.
    pub fn transmit_backlog(&self) -> usize {
        self.out.transmit.len()
    }

    /// Tasks of the initiator that have not ended.
    pub fn open_tasks(&self) -> usize {
        match &self.phase {
            Phase::Full(full) => full.tasks.len(),
            Phase::Login { .. } | Phase::Ready(_) | Phase::Closed => 0,
        }
    }

    fn handle_pdu(&mut self, now: Duration, pdu: Pdu) -> Result<Option<CloseReason>, SessionError> {
        let _ = now;
        match &mut self.phase {
            Phase::Login { .. } => self.handle_login(&pdu),
            Phase::Full(full) => full.handle(pdu, &mut self.out),
            Phase::Ready(_) => Err(SessionError::Protocol("PDU before the login was answered")),
            Phase::Closed => Err(SessionError::Closed),
        }
    }

    fn handle_login(&mut self, pdu: &Pdu) -> Result<Option<CloseReason>, SessionError> {
        let Phase::Login {
            login,
            portal,
            stat_sn,
        } = &mut self.phase
        else {
            return Ok(None);
        };
        let opcode = wire::opcode_of(&pdu.header);
        if opcode != opcode::LOGIN_REQUEST {
            return Err(SessionError::UnexpectedPdu { opcode });
        }
        let request = LoginRequest::parse(&pdu.header).map_err(|error| malformed(pdu, error))?;
        let step = login.handle(&request, pdu.data.iter().map(|piece| &piece[..]));
        let number = *stat_sn;
        *stat_sn = number.wrapping_add(1);
        match step {
            Step::Reply { transit, text } => {
                let response = LoginResponse {
                    transit,
                    ..login_response(&request, number, LoginStatus::SUCCESS)
                };
                push_login(&mut self.out, &response, text);
                Ok(None)
            }
            Step::Refuse { status, text } => {
                let response = login_response(&request, number, status);
                push_login(&mut self.out, &response, text);
                Ok(Some(refused(status)))
            }
            Step::Ready {
                transit,
                text,
                info,
            } => {
                self.out
                    .events
                    .push_back(TargetEvent::LoginReady((*info).clone()));
                let portal = portal.clone();
                self.phase = Phase::Ready(Box::new(Ready {
                    request,
                    transit,
                    text,
                    info: *info,
                    portal,
                    stat_sn: number,
                }));
                Ok(None)
            }
        }
    }

    fn check_backlog(&mut self) -> Result<(), SessionError> {
        if self.out.transmit.len() <= self.config.limits.max_backlog {
            return Ok(());
        }
        let error = SessionError::Protocol("answers are not read");
        self.end(CloseReason::Error(error.clone()));
        Err(error)
    }

    fn end(&mut self, reason: CloseReason) {
        if !matches!(self.phase, Phase::Closed) {
            self.phase = Phase::Closed;
            self.out.events.push_back(TargetEvent::Closed(reason));
        }
    }
}

fn refused(status: LoginStatus) -> CloseReason {
    CloseReason::LoginRefused {
        class: status.class,
        detail: status.detail,
    }
}

/// An answer that stays in its stage.
fn login_response(request: &LoginRequest, stat_sn: u32, status: LoginStatus) -> LoginResponse {
    LoginResponse {
        transit: Transit {
            more: false,
            current: request.transit.current,
            next: None,
        },
        version_max: VERSION,
        version_active: VERSION,
        isid: request.isid,
        tsih: 0,
        itt: request.itt,
        stat_sn,
        exp_cmd_sn: request.cmd_sn,
        max_cmd_sn: request.cmd_sn,
        status,
    }
}

fn push_login(out: &mut Outbox, response: &LoginResponse, text: Vec<u8>) {
    out.transmit
        .push_data(&response.emit(text.len() as u32), text.into());
}
