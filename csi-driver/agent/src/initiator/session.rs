//! One iSCSI session of a leg: its socket, its stream, its protocol state.
//!
//! ```text
//!   Idle --begin--> Connecting --connected--> Live (logging in, then logged in) --lost--> Idle
//! ```
//! Invariants: tokens of an older connection are recognised by their serial and ignored; the operations of a closed
//! connection never reach a newer one.
//! Not here: which portal, when again, what is sent (`link`).

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use twinsite_iscsi::session::{
    Command, DropReason, Initiator, InitiatorConfig, InitiatorEvent, SessionError, TaskManagement,
};

use crate::reactor::{
    Context, Descriptor, Event, OpId, SocketOptions, Stream, StreamEvent, Token, connect_socket,
};

/// What an operation of a session was for; with the serial of its connection in its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Connect,
    Receive,
    Send,
}

/// Tokens of a session: `base` in the upper 16 bits, then the serial, then the use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tokens {
    pub base: u16,
}

impl Tokens {
    fn token(self, serial: u32, purpose: Use) -> Token {
        let purpose = match purpose {
            Use::Connect => 0,
            Use::Receive => 1,
            Use::Send => 2,
        };
        Token(u64::from(self.base) << 48 | u64::from(serial) << 8 | purpose)
    }

    fn parse(token: Token) -> (u32, Option<Use>) {
        let purpose = match token.0 & 0xFF {
            0 => Some(Use::Connect),
            1 => Some(Use::Receive),
            2 => Some(Use::Send),
            _ => None,
        };
        ((token.0 >> 8) as u32, purpose)
    }
}

enum Phase {
    Idle,
    Connecting {
        socket: Descriptor,
        op: OpId,
        config: Box<InitiatorConfig>,
    },
    Live {
        stream: Stream,
        initiator: Box<Initiator>,
    },
}

/// What became of an input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    GoesOn,
    /// The connection is over; events may still be polled.
    Lost(Loss),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Loss {
    Connect(String),
    Closed(String),
    Protocol(SessionError),
    Ended(DropReason),
    OtherLun { expected: String, found: String },
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(text) | Self::Closed(text) => f.write_str(text),
            Self::Protocol(error) => error.fmt(f),
            Self::Ended(DropReason::LoginRefused { class, detail }) => {
                let what = match (class, detail) {
                    (2, 1) => "the credentials are wrong, or missing",
                    (2, 2) => "this initiator may not log in",
                    (2, 3) => "no such target there: correct the address or the iSCSI name",
                    (2, 4) => "the target was removed",
                    _ => "see the log of the target",
                };
                write!(f, "login refused ({class}.{detail}): {what}")
            }
            Self::Ended(DropReason::LoginTimeout) => f.write_str("no answer to the login"),
            Self::Ended(reason) => write!(f, "session ended: {reason:?}"),
            Self::OtherLun { expected, found } => write!(
                f,
                "the LUN there is {found}, not {expected}: correct the address, or spec.legs.naa"
            ),
        }
    }
}

pub(super) struct Session {
    tokens: Tokens,
    serial: u32,
    phase: Phase,
}

impl Session {
    pub(super) fn new(tokens: Tokens) -> Self {
        Self {
            tokens,
            serial: 0,
            phase: Phase::Idle,
        }
    }

    /// Tells one connection from the next.
    pub(super) fn serial(&self) -> u32 {
        self.serial
    }

    /// Connects to a portal and logs in with `config`.
    pub(super) fn begin(
        &mut self,
        cx: &mut Context<'_>,
        portal: SocketAddr,
        options: &SocketOptions,
        config: InitiatorConfig,
    ) -> Result<(), Loss> {
        self.close(cx);
        self.serial = self.serial.wrapping_add(1);
        let socket = connect_socket(&portal, options).map_err(|e| Loss::Connect(e.to_string()))?;
        let token = self.tokens.token(self.serial, Use::Connect);
        let op = cx.connect(&socket, portal, token);
        let config = Box::new(config);
        self.phase = Phase::Connecting { socket, op, config };
        Ok(())
    }

    /// Ends the connection without a word.
    pub(super) fn close(&mut self, cx: &mut Context<'_>) {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle => {}
            Phase::Connecting { socket, op, .. } => {
                cx.cancel(op);
                socket.shutdown();
            }
            Phase::Live { mut stream, .. } => stream.close(),
        }
    }

    /// A result of an operation of this session.
    pub(super) fn handle(&mut self, cx: &mut Context<'_>, token: Token, event: Event) -> Fate {
        let (serial, purpose) = Tokens::parse(token);
        if serial != self.serial {
            return Fate::GoesOn;
        }
        match (&mut self.phase, purpose, event) {
            (Phase::Connecting { .. }, Some(Use::Connect), Event::Connected(Ok(()))) => {
                self.log_in(cx.now());
                Fate::GoesOn
            }
            (Phase::Connecting { .. }, Some(Use::Connect), Event::Connected(Err(error))) => {
                Fate::Lost(Loss::Connect(error.to_string()))
            }
            (Phase::Live { stream, initiator }, Some(Use::Receive | Use::Send), event) => {
                match stream.handle(event) {
                    StreamEvent::Received(bytes) => match initiator.handle_bytes(cx.now(), bytes) {
                        Ok(()) => Fate::GoesOn,
                        Err(error) => Fate::Lost(Loss::Protocol(error)),
                    },
                    StreamEvent::Sent => Fate::GoesOn,
                    StreamEvent::Closed(error) => Fate::Lost(Loss::Closed(
                        error.map_or_else(|| "closed by the target".to_owned(), |e| e.to_string()),
                    )),
                }
            }
            _ => Fate::GoesOn,
        }
    }

    fn log_in(&mut self, now: Duration) {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Connecting { socket, config, .. } => {
                let receive = self.tokens.token(self.serial, Use::Receive);
                let send = self.tokens.token(self.serial, Use::Send);
                let stream = Stream::new(socket, receive, send);
                let initiator = Box::new(Initiator::new(*config, now));
                self.phase = Phase::Live { stream, initiator };
            }
            other => self.phase = other,
        }
    }

    fn initiator(&mut self) -> Option<&mut Initiator> {
        match &mut self.phase {
            Phase::Live { initiator, .. } => Some(initiator),
            Phase::Idle | Phase::Connecting { .. } => None,
        }
    }

    pub(super) fn poll_event(&mut self) -> Option<InitiatorEvent> {
        self.initiator()?.poll_event()
    }

    /// `false`: the session does not take it.
    pub(super) fn submit(&mut self, now: Duration, tag: u64, command: Command) -> bool {
        self.initiator()
            .is_some_and(|initiator| initiator.submit(now, tag, command).is_ok())
    }

    pub(super) fn submit_task_management(
        &mut self,
        now: Duration,
        tag: u64,
        request: TaskManagement,
    ) {
        if let Some(initiator) = self.initiator() {
            initiator.submit_task_management(now, tag, request);
        }
    }

    pub(super) fn tick(&mut self, now: Duration) {
        if let Some(initiator) = self.initiator() {
            initiator.handle_timeout(now);
        }
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Live { initiator, .. } => initiator.deadline(),
            Phase::Idle | Phase::Connecting { .. } => None,
        }
    }

    /// Sends what there is to send, in one gathered send.
    pub(super) fn settle(&mut self, cx: &mut Context<'_>) {
        if let Phase::Live { stream, initiator } = &mut self.phase {
            while let Some(transmit) = initiator.poll_transmit() {
                stream.queue(transmit.pieces);
            }
            stream.settle(cx);
        }
    }
}
