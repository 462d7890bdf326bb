//! What decides about a volume: the engine of an attach, or a one-shot order to its legs.

use std::time::Duration;

use twinsite_api::AttachmentMode;
use twinsite_mirror::engine::Engine;
use twinsite_mirror::io::{AttachOrder, Input, Members, Output};
use twinsite_mirror::oneshot::{OneShot, OneShotOrder, Task};
use twinsite_mirror::status::Status;

use super::inspect;
use crate::control::volumes::{Ending, VolumeEvent, VolumeOrder};

/// Made without a clock; begins at the first turn on the data thread.
pub(super) enum Machine {
    Waiting(Option<Begin>),
    Attach(Box<Engine>),
    OneShot(Box<OneShot>),
}

pub(super) enum Begin {
    Attach(Box<AttachOrder>),
    OneShot(Box<OneShotOrder>),
}

impl Machine {
    /// `Err` says what the order lacks.
    pub(super) fn of(order: &VolumeOrder) -> Result<Self, String> {
        let attach = &order.attach;
        let task = match order.mode {
            AttachmentMode::Writer | AttachmentMode::Caretaker => {
                return Ok(Self::Waiting(Some(Begin::Attach(attach.clone()))));
            }
            AttachmentMode::Birth => Task::Birth {
                size: order.size,
                initialize: attach.initialize,
            },
            AttachmentMode::Inspect => Task::Inspect,
            AttachmentMode::Wipe => Task::Wipe,
            AttachmentMode::Reseed => {
                let lacks = || "spec.reseed.registerId is missing".to_owned();
                let register_id = order.reseed.ok_or_else(lacks)?;
                Task::Reseed { register_id }
            }
            AttachmentMode::Force => {
                let lacks = || "spec.force is missing".to_owned();
                Task::Force(order.force.clone().ok_or_else(lacks)?)
            }
        };
        let named = twinsite_mirror::io::Leg::BOTH
            .into_iter()
            .filter(|leg| order.legs[leg.index()].is_some());
        Ok(Self::Waiting(Some(Begin::OneShot(Box::new(
            OneShotOrder {
                task,
                legs: named.fold(Members::NONE, Members::with),
                volume: order.volume,
                key: attach.key,
                seed: attach.seed,
                site: attach.site,
                node: attach.node.clone(),
                marks: attach.marks.clone(),
                config: attach.config,
            },
        )))))
    }

    pub(super) fn start(&mut self, now: Duration) {
        let Self::Waiting(begin) = self else { return };
        match begin.take() {
            Some(Begin::Attach(order)) => {
                let mut engine = Box::new(Engine::new(now));
                engine.handle(now, Input::Attach(order));
                *self = Self::Attach(engine);
            }
            Some(Begin::OneShot(order)) => {
                *self = Self::OneShot(Box::new(OneShot::new(now, *order)));
            }
            None => {}
        }
    }

    pub(super) fn handle(&mut self, now: Duration, input: Input) {
        self.start(now);
        match self {
            Self::Waiting(_) => {}
            Self::Attach(engine) => engine.handle(now, input),
            Self::OneShot(one_shot) => one_shot.handle(now, &input),
        }
    }

    pub(super) fn poll(&mut self) -> Option<Output> {
        match self {
            Self::Waiting(_) => None,
            Self::Attach(engine) => engine.poll(),
            Self::OneShot(one_shot) => one_shot.poll(),
        }
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        match self {
            Self::Waiting(_) => None,
            Self::Attach(engine) => engine.deadline(),
            Self::OneShot(one_shot) => one_shot.end().map_or_else(|| one_shot.deadline(), |_| None),
        }
    }

    /// A snapshot, for an attach.
    pub(super) fn status(&self, now: Duration) -> Option<Status> {
        match self {
            Self::Attach(engine) => Some(engine.status(now)),
            Self::Waiting(_) | Self::OneShot(_) => None,
        }
    }

    /// How a one-shot order ended, and what it found; an attach tells by its outputs.
    pub(super) fn end(&self) -> Option<(Option<VolumeEvent>, Ending)> {
        match self {
            Self::Waiting(_) | Self::Attach(_) => None,
            Self::OneShot(one_shot) => Some(match one_shot.end()? {
                Ok(done) => (inspect::found(done), Ending::Done),
                Err(failure) => (None, inspect::failed(*failure)),
            }),
        }
    }
}
