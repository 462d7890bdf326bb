//! The initiator's end of a session.

mod config;

use std::time::Duration;

use bytes::Bytes;

use super::{Negotiated, SessionError, Transmit};
use crate::scsi::{Attribute, Cdb, Lun, ScsiOutcome, Sense, TaskFunction, TaskResponse};

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
pub struct Initiator {}

impl Initiator {
    /// `poll_transmit` gives the first login PDU at once.
    pub fn new(config: InitiatorConfig, now: Duration) -> Self {
        let _ = (config, now);
        todo!()
    }

    /// Bytes from the socket in any split. Data-In payloads are slices of `bytes`.
    pub fn handle_bytes(&mut self, now: Duration, bytes: Bytes) -> Result<(), SessionError> {
        let _ = (now, bytes);
        todo!()
    }

    pub fn handle_timeout(&mut self, now: Duration) {
        let _ = now;
        todo!()
    }

    /// Queues a command; it may be called before the login is complete.
    pub fn submit(&mut self, now: Duration, tag: u64, command: Command) -> Result<(), Full> {
        let _ = (now, tag, command);
        todo!()
    }

    pub fn submit_task_management(&mut self, now: Duration, tag: u64, request: TaskManagement) {
        let _ = (now, tag, request);
        todo!()
    }

    /// Asks for the targets of a discovery session.
    pub fn discover(&mut self, now: Duration) {
        let _ = now;
        todo!()
    }

    /// Logs out; open commands are not waited for.
    pub fn logout(&mut self, now: Duration) {
        let _ = now;
        todo!()
    }

    pub fn poll_event(&mut self) -> Option<InitiatorEvent> {
        todo!()
    }

    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        todo!()
    }

    pub fn deadline(&self) -> Option<Duration> {
        todo!()
    }

    /// Commands accepted and not done, sent or not.
    pub fn open_commands(&self) -> usize {
        todo!()
    }
}
