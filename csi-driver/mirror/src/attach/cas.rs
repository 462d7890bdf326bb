//! The one compare-and-swap of an attach, until its outcome is known.
//!
//! ```text
//! send -> won by its own answer
//!      -> conflict, no answer -> read -> won | lost | only free fields differ: build once more on the new value, send
//!                                     -> unchanged or unreadable: pause, repeat byte for byte
//! ```
//! An unknown outcome is never guessed (R4), a conflict is no proof of anything, and the outcome is read from what was
//! proposed (R41).

use std::time::Duration;

use twinsite_register::{AttachChange, Outcome, Refusal as Rejected, Register, outcome};

use crate::config::Config;
use crate::engine::{IdSource, Port};
use crate::io::{CasResult, RegisterError, RegisterId};
use crate::status::{Condition, Event};

/// After this long without an outcome an operator must know.
const UNKNOWN_AFTER: Duration = Duration::from_secs(5);

/// How it ended.
#[derive(Clone, Debug)]
pub(super) enum CasEnd {
    /// Executed, and this is the register since.
    Won(Box<Register>),
    /// Something else was executed, possibly after ours: decide again. With what was read.
    Lost(Option<Box<Register>>),
}

#[derive(Clone, Copy, Debug)]
enum At {
    Sent { id: RegisterId, until: Duration },
    Reading { id: RegisterId, until: Duration },
    Pause { until: Duration },
}

/// A request whose outcome is awaited.
#[derive(Clone, Debug)]
pub(super) struct CasWait {
    expected: Box<Register>,
    proposed: Box<Register>,
    change: AttachChange,
    at: At,
    pause: Duration,
    since: Duration,
    warned: bool,
}

impl CasWait {
    /// Build the request on `expected` and send it.
    pub(super) fn send(
        now: Duration,
        expected: &Register,
        change: AttachChange,
        ids: &mut IdSource,
        config: &Config,
        port: &mut Port,
    ) -> Result<Self, Rejected> {
        let proposed = expected.attach(&change, ids.txid())?;
        let mut wait = Self {
            expected: Box::new(expected.clone()),
            proposed: Box::new(proposed),
            change,
            at: At::Pause { until: now },
            pause: config.register_retry.0,
            since: now,
            warned: false,
        };
        wait.transmit(now, config, port);
        Ok(wait)
    }

    fn transmit(&mut self, now: Duration, config: &Config, port: &mut Port) {
        let id = port.cas_register((*self.expected).clone(), (*self.proposed).clone());
        self.at = At::Sent {
            id,
            until: now + config.register_timeout,
        };
    }

    fn ask(&mut self, now: Duration, config: &Config, port: &mut Port) {
        let id = port.read_register();
        self.at = At::Reading {
            id,
            until: now + config.register_timeout,
        };
    }

    fn hold(&mut self, now: Duration, config: &Config) {
        self.at = At::Pause {
            until: now + self.pause,
        };
        self.pause = (self.pause * 2).min(config.register_retry.1);
    }

    /// The answer to the request itself.
    pub(super) fn handle_cas(
        &mut self,
        now: Duration,
        id: RegisterId,
        result: CasResult,
        config: &Config,
        port: &mut Port,
    ) -> Option<CasEnd> {
        if !matches!(self.at, At::Sent { id: open, .. } if open == id) {
            return None;
        }
        match result {
            CasResult::Won => Some(self.won(self.proposed.clone(), port)),
            CasResult::Conflict | CasResult::Unknown => {
                self.ask(now, config, port);
                None
            }
        }
    }

    /// The answer to a read.
    pub(super) fn handle_read(
        &mut self,
        now: Duration,
        id: RegisterId,
        result: &Result<Option<Box<Register>>, RegisterError>,
        ids: &mut IdSource,
        config: &Config,
        port: &mut Port,
    ) -> Option<CasEnd> {
        if !matches!(self.at, At::Reading { id: open, .. } if open == id) {
            return None;
        }
        let read = match result {
            Ok(Some(read)) => read,
            Ok(None) => return Some(self.lost(None, port)),
            Err(RegisterError::Unreachable | RegisterError::Corrupt) => {
                self.hold(now, config);
                return None;
            }
        };
        match outcome(&self.expected, &self.proposed, read) {
            Outcome::Won => Some(self.won(read.clone(), port)),
            Outcome::WonSuperseded | Outcome::Lost => Some(self.lost(Some(read.clone()), port)),
            Outcome::Unknown => {
                self.hold(now, config);
                None
            }
            Outcome::Free => {
                // Same change, generation and stamp; only the transaction id is new.
                match read.attach(&self.change, ids.txid()) {
                    Ok(proposed) => {
                        self.expected = read.clone();
                        *self.proposed = proposed;
                        self.transmit(now, config, port);
                        None
                    }
                    Err(_) => Some(self.lost(Some(read.clone()), port)),
                }
            }
        }
    }

    fn won(&self, register: Box<Register>, port: &mut Port) -> CasEnd {
        self.settled(port);
        CasEnd::Won(register)
    }

    fn lost(&self, read: Option<Box<Register>>, port: &mut Port) -> CasEnd {
        self.settled(port);
        CasEnd::Lost(read)
    }

    fn settled(&self, port: &mut Port) {
        if self.warned {
            port.event(Event::Cleared(Condition::MembershipUnknown));
        }
    }

    pub(super) fn handle_time(&mut self, now: Duration, config: &Config, port: &mut Port) {
        if !self.warned && now >= self.since + UNKNOWN_AFTER {
            self.warned = true;
            port.event(Event::Raised(Condition::MembershipUnknown));
        }
        match self.at {
            At::Sent { until, .. } if until <= now => self.ask(now, config, port),
            At::Reading { until, .. } if until <= now => self.hold(now, config),
            At::Pause { until } if until <= now => self.transmit(now, config, port),
            At::Sent { .. } | At::Reading { .. } | At::Pause { .. } => {}
        }
    }

    pub(super) fn deadline(&self) -> Duration {
        let at = match self.at {
            At::Sent { until, .. } | At::Reading { until, .. } | At::Pause { until } => until,
        };
        if self.warned {
            at
        } else {
            at.min(self.since + UNKNOWN_AFTER)
        }
    }
}
