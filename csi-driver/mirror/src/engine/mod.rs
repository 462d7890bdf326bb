//! The engine of one attached volume: one owner, one event at a time, no clock, no I/O.
//!
//! Call order, for a shell that owns one engine:
//! 1. `new`, then [`Engine::handle`] with each [`Input`] as it comes, `now` never going back;
//! 2. after **every** `handle`, [`Engine::poll`] until it gives `None` and carry the outputs out in order;
//! 3. arm a timer for [`Engine::deadline`] and hand in [`Input::Tick`] when it is reached.
//!
//! An output is a fact the engine already counts on: a shell that drops one breaks the protocol; dropping the whole
//! engine (a crash) never does.
//!
//! Not here: attach (`attach/`), the serving states (`serve/`).

mod port;
mod seed;
mod served;

pub(crate) use port::Port;
pub(crate) use seed::IdSource;
pub(crate) use served::{AttachEnd, Held, Served, ServedLeg};

use std::collections::VecDeque;
use std::time::Duration;

use crate::io::{Input, Output};
use crate::status::Status;

/// The engine.
pub struct Engine {
    out: VecDeque<Output>,
}

impl Engine {
    /// An engine that is Off: it does nothing before [`Input::Attach`].
    pub fn new(_now: Duration) -> Self {
        Self {
            out: VecDeque::new(),
        }
    }

    /// Take one input. Outputs wait in [`Self::poll`].
    pub fn handle(&mut self, _now: Duration, _input: Input) {}

    /// The next output, in the order in which they must be carried out.
    pub fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When the engine wants a [`Input::Tick`] at the latest; `None` = never.
    pub fn deadline(&self) -> Option<Duration> {
        None
    }

    /// A snapshot for status and metrics.
    pub fn status(&self, _now: Duration) -> Status {
        Status::off()
    }
}
