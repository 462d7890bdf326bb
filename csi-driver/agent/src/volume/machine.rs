//! What decides about a volume: the engine of an attach, or a one-shot order.

use std::time::Duration;

use twinsite_mirror::engine::Engine;
use twinsite_mirror::io::{AttachOrder, Input, Output};
use twinsite_mirror::status::Status;

use crate::control::volumes::{Ending, VolumeOrder};

pub(super) enum Machine {
    Attach {
        engine: Box<Engine>,
        /// Given at the first turn on the data thread.
        order: Option<Box<AttachOrder>>,
    },
}

impl Machine {
    pub(super) fn of(order: &VolumeOrder) -> Self {
        Self::Attach {
            engine: Box::new(Engine::new(Duration::ZERO)),
            order: Some(order.attach.clone()),
        }
    }

    pub(super) fn start(&mut self, now: Duration) {
        match self {
            Self::Attach { engine, order } => {
                if let Some(order) = order.take() {
                    **engine = Engine::new(now);
                    engine.handle(now, Input::Attach(order));
                }
            }
        }
    }

    pub(super) fn handle(&mut self, now: Duration, input: Input) {
        match self {
            Self::Attach { engine, .. } => engine.handle(now, input),
        }
    }

    pub(super) fn poll(&mut self) -> Option<Output> {
        match self {
            Self::Attach { engine, .. } => engine.poll(),
        }
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        match self {
            Self::Attach { engine, .. } => engine.deadline(),
        }
    }

    /// A snapshot, for an attach.
    pub(super) fn status(&self, now: Duration) -> Option<Status> {
        match self {
            Self::Attach { engine, .. } => Some(engine.status(now)),
        }
    }

    /// How a one-shot order ended; an attach tells by its outputs.
    pub(super) fn end(&mut self) -> Option<Ending> {
        match self {
            Self::Attach { .. } => None,
        }
    }
}
