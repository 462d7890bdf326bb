//! The initiator's end of a session.
//!
//! `Login` (`crate::login::initiator`) -> `Full` (`full`, `requests`) -> `Closed`. Commands may be submitted from the start;
//! they go out when the login is complete.
//!
//! Invariants: every accepted tag is answered once by `Done`, or by the end of the session.

mod config;
mod full;
mod requests;
mod tasks;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::transmit::TransmitQueue;
use super::{Negotiated, SessionError, Transmit};
use crate::login::MAX_LOGIN_SEGMENT;
use crate::login::initiator::{InitiatorLogin, LoginFailure, Step};
use crate::scsi::{Attribute, Cdb, Lun, ScsiOutcome, Sense, TaskFunction, TaskResponse};
use crate::wire::frame::{Framer, Framing, Pdu};
use crate::wire::login::{LoginRequest, LoginResponse, Transit, VERSION};
use crate::wire::{self, opcode};
use full::{Full as FullFeature, Outbox, malformed};

pub use config::{ChapInitiator, InitiatorConfig, InitiatorLimits, SessionKind};

/// One SCSI command to be sent.
#[derive(Clone, Debug)]
pub struct Command {
    pub lun: Lun,
    pub cdb: Cdb,
    pub data: DataDir,
    pub attr: Attribute,
}

/// The data phase of a command.
#[derive(Clone, Debug)]
pub enum DataDir {
    None,
    /// At most so many bytes are expected.
    In(u32),
    Out(Vec<Bytes>),
}

/// A task management request; tags in `function` are tags of `Initiator::submit`.
#[derive(Clone, Copy, Debug)]
pub struct TaskManagement {
    pub lun: Lun,
    pub function: TaskFunction,
}

/// The command was not taken: the queue of `InitiatorLimits::max_queued` is full, or the session is down.
#[derive(Debug)]
pub struct Full(pub Command);

/// A target that SendTargets reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveredTarget {
    pub name: String,
    pub portals: Vec<DiscoveredPortal>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveredPortal {
    /// `host:port`; the port is 3260 where the target named none.
    pub address: String,
    pub group: u16,
}

/// Why the session ended without a logout of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The target did not complete the login in time.
    LoginTimeout,
    /// The login was refused with this status class and detail.
    LoginRefused { class: u8, detail: u8 },
    /// The login shall be tried at this `host:port` (or `host:port,group`).
    Redirected { address: String, permanent: bool },
    /// A NOP-Out was not answered in time.
    PingTimeout,
    /// The logout was not answered in time.
    LogoutTimeout,
    /// The target announced that it drops the connection or the session.
    TargetDropped { event: u8 },
    /// The peer broke the protocol, or a digest failed.
    Error(SessionError),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InitiatorEvent {
    LoggedIn {
        negotiated: Negotiated,
        tsih: u16,
        /// TargetPortalGroupTag, if the target told it.
        portal_group: Option<u16>,
    },
    /// Exactly one for each accepted tag, unless `Dropped` or `LoggedOut` came before. Tasks that a completed task management
    /// function aborted are done with status TASK ABORTED.
    Done {
        tag: u64,
        outcome: ScsiOutcome,
    },
    TmfDone {
        tag: u64,
        response: TaskResponse,
    },
    /// The answer to `discover`.
    Discovered(Vec<DiscoveredTarget>),
    /// The target asks for a logout (and a new login) within this time: it drains.
    LogoutRequested {
        within: Duration,
    },
    /// The target reports an event of a unit.
    UnitEvent {
        lun: Lun,
        sense: Option<Sense>,
    },
    LoggedOut,
    /// The last event. All open tags have failed.
    Dropped(DropReason),
}

/// The initiator's end of a session: logs in, keeps the command window full, gathers answers.
///
/// A new value is made for each connection; keeping the ISID of the config the same makes the login a reinstatement.
#[derive(Debug)]
pub struct Initiator {
    phase: Phase,
    framer: Framer,
    out: Outbox,
    started: Duration,
    limits: InitiatorLimits,
    isid: [u8; 6],
}

#[derive(Debug)]
enum Phase {
    Login {
        login: Box<InitiatorLogin>,
        exp_stat_sn: u32,
        waiting: Waiting,
    },
    Full(Box<FullFeature>),
    Closed,
}

/// What was asked for before the login was complete.
#[derive(Debug, Default)]
struct Waiting {
    commands: VecDeque<(u64, Command)>,
    managements: Vec<(u64, TaskManagement)>,
    discover: bool,
    logout: bool,
}

const CONNECTION_ID: u16 = 0;
const LOGIN_ITT: u32 = 0;
const FIRST_CMD_SN: u32 = 1;
/// The targets that are known send none.
const MAX_AHS: u32 = 1020;

impl Initiator {
    /// `poll_transmit` gives the first login PDU at once.
    pub fn new(config: InitiatorConfig, now: Duration) -> Self {
        let mut login = Box::new(InitiatorLogin::new(&config));
        let (transit, text) = login.start();
        let mut initiator = Self {
            phase: Phase::Login {
                login,
                exp_stat_sn: 0,
                waiting: Waiting::default(),
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
            limits: config.limits,
            isid: config.isid,
        };
        initiator.push_login(transit, text, 0);
        initiator
    }

    /// Bytes from the socket in any split. Data-In payloads are slices of `bytes`. After an error the session is down.
    pub fn handle_bytes(&mut self, now: Duration, bytes: Bytes) -> Result<(), SessionError> {
        if let Phase::Full(full) = &mut self.phase {
            full.heard(now);
        }
        self.framer.push(bytes);
        loop {
            if matches!(self.phase, Phase::Closed) {
                return Err(SessionError::Closed);
            }
            let step = match self.framer.next_pdu() {
                Ok(None) => return Ok(()),
                Ok(Some(pdu)) => self.handle_pdu(now, pdu),
                Err(error) => Err(error.into()),
            };
            match step {
                Ok(None) => {}
                Ok(Some(last)) => {
                    self.end(last);
                    return Ok(());
                }
                Err(error) => {
                    self.end(InitiatorEvent::Dropped(DropReason::Error(error.clone())));
                    return Err(error);
                }
            }
        }
    }

    pub fn handle_timeout(&mut self, now: Duration) {
        let reason = match &mut self.phase {
            Phase::Login { .. } => (now >= self.started + self.limits.login_timeout)
                .then_some(DropReason::LoginTimeout),
            Phase::Full(full) => match full.logout_since() {
                Some(since) => {
                    (now >= since + self.limits.ping_timeout).then_some(DropReason::LogoutTimeout)
                }
                None => full.handle_timeout(now, &mut self.out),
            },
            Phase::Closed => None,
        };
        if let Some(reason) = reason {
            self.end(InitiatorEvent::Dropped(reason));
        }
    }

    /// Queues a command; it may be called before the login is complete.
    pub fn submit(&mut self, now: Duration, tag: u64, command: Command) -> Result<(), Full> {
        let _ = now;
        match &mut self.phase {
            Phase::Login { waiting, .. } => {
                if waiting.commands.len() >= self.limits.max_queued {
                    return Err(Full(command));
                }
                waiting.commands.push_back((tag, command));
                Ok(())
            }
            Phase::Full(full) => full.submit(tag, command, &mut self.out),
            Phase::Closed => Err(Full(command)),
        }
    }

    /// Sends a task management function; it is answered by `TmfDone`, unless the session ends before.
    pub fn submit_task_management(&mut self, now: Duration, tag: u64, request: TaskManagement) {
        let _ = now;
        match &mut self.phase {
            Phase::Login { waiting, .. } => waiting.managements.push((tag, request)),
            Phase::Full(full) => full.manage(tag, request, &mut self.out),
            Phase::Closed => {}
        }
    }

    /// Asks for the targets of a discovery session.
    pub fn discover(&mut self, now: Duration) {
        let _ = now;
        match &mut self.phase {
            Phase::Login { waiting, .. } => waiting.discover = true,
            Phase::Full(full) => full.discover(&mut self.out),
            Phase::Closed => {}
        }
    }

    /// Logs out; open commands are not waited for.
    pub fn logout(&mut self, now: Duration) {
        match &mut self.phase {
            Phase::Login { waiting, .. } => waiting.logout = true,
            Phase::Full(full) => full.logout(now, CONNECTION_ID, &mut self.out),
            Phase::Closed => {}
        }
    }

    pub fn poll_event(&mut self) -> Option<InitiatorEvent> {
        self.out.events.pop_front()
    }

    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.transmit.poll()
    }

    pub fn deadline(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Login { .. } => Some(self.started + self.limits.login_timeout),
            Phase::Full(full) => match full.logout_since() {
                Some(since) => Some(since + self.limits.ping_timeout),
                None => full.deadline(),
            },
            Phase::Closed => None,
        }
    }

    /// Commands accepted and not done, sent or not.
    pub fn open_commands(&self) -> usize {
        match &self.phase {
            Phase::Login { waiting, .. } => waiting.commands.len(),
            Phase::Full(full) => full.tasks.len() + full.queue.len(),
            Phase::Closed => 0,
        }
    }

    fn handle_pdu(
        &mut self,
        now: Duration,
        pdu: Pdu,
    ) -> Result<Option<InitiatorEvent>, SessionError> {
        match &mut self.phase {
            Phase::Login { .. } => self.handle_login(now, &pdu),
            Phase::Full(full) => full.handle(pdu, &mut self.out),
            Phase::Closed => Err(SessionError::Closed),
        }
    }

    fn handle_login(
        &mut self,
        now: Duration,
        pdu: &Pdu,
    ) -> Result<Option<InitiatorEvent>, SessionError> {
        let Phase::Login {
            login, exp_stat_sn, ..
        } = &mut self.phase
        else {
            return Ok(None);
        };
        let opcode = wire::opcode_of(&pdu.header);
        if opcode != opcode::LOGIN_RESPONSE {
            return Err(SessionError::UnexpectedPdu { opcode });
        }
        let response = LoginResponse::parse(&pdu.header).map_err(|error| malformed(pdu, error))?;
        let next = response.stat_sn.wrapping_add(1);
        *exp_stat_sn = next;
        match login.handle(&response, pdu.data.iter().map(|piece| &piece[..])) {
            Ok(Step::Send { transit, text }) => {
                self.push_login(transit, text, next);
                Ok(None)
            }
            Ok(Step::Done {
                negotiated,
                tsih,
                portal_group,
            }) => {
                self.enter(now, &response, *negotiated, tsih, portal_group);
                Ok(None)
            }
            Err(LoginFailure::Refused(status)) => {
                Ok(Some(InitiatorEvent::Dropped(DropReason::LoginRefused {
                    class: status.class,
                    detail: status.detail,
                })))
            }
            Err(LoginFailure::Redirected { address, permanent }) => {
                Ok(Some(InitiatorEvent::Dropped(DropReason::Redirected {
                    address,
                    permanent,
                })))
            }
            Err(error) => Err(SessionError::Login(error.to_string())),
        }
    }

    /// The full feature phase begins.
    fn enter(
        &mut self,
        now: Duration,
        response: &LoginResponse,
        negotiated: Negotiated,
        tsih: u16,
        portal_group: Option<u16>,
    ) {
        let (header_digest, data_digest) = (negotiated.header_digest, negotiated.data_digest);
        self.out.transmit.set_digests(header_digest, data_digest);
        self.framer.set_framing(Framing {
            max_segment: negotiated.max_recv_segment,
            max_ahs: MAX_AHS,
            header_digest,
            data_digest,
        });
        let mut full = Box::new(FullFeature::new(
            self.limits.clone(),
            negotiated.clone(),
            FIRST_CMD_SN,
            response.stat_sn.wrapping_add(1),
            now,
        ));
        full.learn(response.exp_cmd_sn, response.max_cmd_sn);
        self.out.events.push_back(InitiatorEvent::LoggedIn {
            negotiated,
            tsih,
            portal_group,
        });
        let before = std::mem::replace(&mut self.phase, Phase::Closed);
        if let Phase::Login { waiting, .. } = before {
            full.queue = waiting.commands;
            full.send_queued(&mut self.out);
            for (tag, request) in waiting.managements {
                full.manage(tag, request, &mut self.out);
            }
            if waiting.discover {
                full.discover(&mut self.out);
            }
            if waiting.logout {
                full.logout(now, CONNECTION_ID, &mut self.out);
            }
        }
        self.phase = Phase::Full(full);
    }

    fn push_login(&mut self, transit: Transit, text: Vec<u8>, exp_stat_sn: u32) {
        let request = LoginRequest {
            transit,
            version_max: VERSION,
            version_min: VERSION,
            isid: self.isid,
            tsih: 0,
            itt: LOGIN_ITT,
            cid: CONNECTION_ID,
            cmd_sn: FIRST_CMD_SN,
            exp_stat_sn,
        };
        self.out
            .transmit
            .push_data(&request.emit(text.len() as u32), text.into());
    }

    fn end(&mut self, last: InitiatorEvent) {
        if !matches!(self.phase, Phase::Closed) {
            self.phase = Phase::Closed;
            self.out.events.push_back(last);
        }
    }
}
