//! A session of a target with its connection, and the words in which a target is spoken to.

use std::net::SocketAddr;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use twinsite_iscsi::scsi::{Lun, NexusId};
use twinsite_iscsi::session::{LoginInfo, TargetSession};

use super::counters::TargetStats;
use super::gate::Place;
use super::server::Tsih;
use crate::reactor::{Alarm, Context, Descriptor, Stream, Token};

/// No more commands of a session are taken while so much waits to be sent to it.
pub(super) const SESSION_BACKLOG: usize = 8 << 20;

/// A session whose login is ready, from a gate.
pub(super) struct Arrival {
    pub(super) session: TargetSession,
    pub(super) info: LoginInfo,
    pub(super) socket: Descriptor,
    /// Answers of the login that the gate has not sent.
    pub(super) unsent: Vec<bytes::Bytes>,
    pub(super) peer: SocketAddr,
    pub(super) tsih: Tsih,
}

/// What a target is told.
pub(super) enum TargetMail {
    Session(Box<Arrival>),
    SetSize {
        lun: u16,
        size: u64,
        reply: SyncSender<bool>,
    },
    Stats(SyncSender<TargetStats>),
    ForeignAge {
        lun: u16,
        own_key: u64,
        reply: SyncSender<Option<Option<Duration>>>,
    },
    /// End now.
    Remove(SyncSender<()>),
    /// Ask the initiators to go, end after this time.
    Drain {
        grace: Duration,
        done: SyncSender<()>,
    },
    #[cfg(feature = "test-hooks")]
    SetFaults {
        lun: u16,
        faults: crate::backend::faults::Faults,
        reply: SyncSender<bool>,
    },
}

/// What an operation of a target was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Receive(Place),
    Send(Place),
    Deadline(Place),
    Linger(Place),
    Store(usize),
    EndOfGrace,
}

impl Purpose {
    pub(super) fn token(self) -> Token {
        match self {
            Self::Receive(place) => place.token(1),
            Self::Send(place) => place.token(2),
            Self::Deadline(place) => place.token(3),
            Self::Linger(place) => place.token(4),
            Self::Store(key) => Token(5 << 56 | key as u64),
            Self::EndOfGrace => Token(6 << 56),
        }
    }

    pub(super) fn of(token: Token) -> Self {
        let place = Place::of(token);
        match token.0 >> 56 {
            1 => Self::Receive(place),
            2 => Self::Send(place),
            3 => Self::Deadline(place),
            4 => Self::Linger(place),
            5 => Self::Store((token.0 & 0xFFFF_FFFF) as usize),
            _ => Self::EndOfGrace,
        }
    }
}

/// A logged-in session and its connection.
pub(super) struct Connection {
    pub(super) place: Place,
    pub(super) nexus: NexusId,
    /// The units that its initiator may use, in order: no other exists for it.
    pub(super) luns: Vec<u16>,
    pub(super) stream: Stream,
    pub(super) session: TargetSession,
    pub(super) info: LoginInfo,
    pub(super) peer: SocketAddr,
    pub(super) alarm: Alarm,
    pub(super) dirty: bool,
    /// The session has ended; what is queued is still sent.
    pub(super) ended: bool,
    /// `None`: another connection has taken its place and its session handle.
    pub(super) tsih: Option<Tsih>,
}

/// What is left of a connection when it has come to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    Open,
    /// Its session has ended and all was sent.
    Done,
}

impl Connection {
    /// The number of a LUN that exists for this initiator.
    pub(super) fn find(&self, lun: Lun) -> Option<u16> {
        lun.number()
            .filter(|number| self.luns.binary_search(number).is_ok())
    }

    /// Whether its next command can be taken.
    pub(super) fn has_room(&self) -> bool {
        self.stream.backlog() + self.session.transmit_backlog() < SESSION_BACKLOG
    }

    /// Sends what the session has to say, and sets its next deadline.
    pub(super) fn settle(&mut self, cx: &mut Context<'_>, hold: bool) -> Rest {
        self.dirty = false;
        while self.stream.backlog() < SESSION_BACKLOG
            && let Some(transmit) = self.session.poll_transmit()
        {
            self.stream.queue(transmit.pieces);
        }
        if !self.ended {
            self.stream.pause(hold || !self.has_room());
        }
        self.stream.settle(cx);
        let deadline = self.session.deadline();
        self.alarm
            .set(cx, Purpose::Deadline(self.place).token(), deadline);
        if self.ended && self.stream.backlog() == 0 && self.session.transmit_backlog() == 0 {
            Rest::Done
        } else {
            Rest::Open
        }
    }
}
