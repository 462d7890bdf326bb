//! What decides about a volume: the engine of an attach, or a one-shot order to its legs.

use std::time::Duration;

use twinsite_api::AttachmentMode;
use twinsite_mirror::engine::Engine;
use twinsite_mirror::io::{AttachOrder, Input, Members, Output};
use twinsite_mirror::oneshot::{Done, Failure, OneShot, OneShotOrder, Task};
use twinsite_mirror::status::Status;

use super::inspect;
use super::together::{self, Share};
use crate::control::volumes::{Ending, VolumeEvent, VolumeOrder};

/// Made without a clock; begins at the first turn on the data thread.
pub(super) enum Machine {
    Waiting(Option<Begin>),
    Attach(Box<Engine>),
    OneShot(Box<OneShot>),
    /// One volume of a group.
    Member(Share),
}

pub(super) enum Begin {
    Attach(Box<AttachOrder>),
    OneShot(Box<OneShotOrder>),
}

impl Machine {
    /// `Err` says what the order lacks.
    pub(super) fn of(order: &VolumeOrder) -> Result<Self, String> {
        let begin = match order.mode {
            AttachmentMode::Writer | AttachmentMode::Caretaker => {
                Begin::Attach(order.attach.clone())
            }
            _ => Begin::OneShot(Box::new(one_shot(order)?)),
        };
        Ok(Self::Waiting(Some(begin)))
    }

    /// What the volumes of a group do together.
    pub(super) fn of_group(orders: &[VolumeOrder]) -> Result<together::Begin, String> {
        let mode = orders.first().map(|order| order.mode);
        match mode {
            Some(AttachmentMode::Writer | AttachmentMode::Caretaker) => {
                let attaches = orders.iter().map(|order| (*order.attach).clone());
                Ok(together::Begin::Attach(attaches.collect()))
            }
            Some(AttachmentMode::Inspect) | None => {
                Err("this mode is of one volume at a time".to_owned())
            }
            Some(_) => {
                let orders = orders.iter().map(one_shot).collect::<Result<_, _>>()?;
                Ok(together::Begin::OneShot(orders))
            }
        }
    }

    pub(super) fn start(&mut self, now: Duration) {
        if let Self::Member(share) = self {
            share.start(now);
        }
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
            Self::Member(share) => share.handle(now, input),
        }
    }

    pub(super) fn poll(&mut self) -> Option<Output> {
        match self {
            Self::Waiting(_) => None,
            Self::Attach(engine) => engine.poll(),
            Self::OneShot(one_shot) => one_shot.poll(),
            Self::Member(share) => share.poll(),
        }
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        match self {
            Self::Waiting(_) => None,
            Self::Attach(engine) => engine.deadline(),
            Self::OneShot(one_shot) => one_shot.end().map_or_else(|| one_shot.deadline(), |_| None),
            Self::Member(share) => share.deadline(),
        }
    }

    /// A snapshot, for an attach.
    pub(super) fn status(&self, now: Duration) -> Option<Status> {
        match self {
            Self::Attach(engine) => Some(engine.status(now)),
            Self::Member(share) => share.status(now),
            Self::Waiting(_) | Self::OneShot(_) => None,
        }
    }

    /// How a one-shot order ended, and what it found; an attach tells by its outputs.
    pub(super) fn end(&self) -> Option<(Option<VolumeEvent>, Ending)> {
        match self {
            Self::Waiting(_) | Self::Attach(_) => None,
            Self::OneShot(one_shot) => one_shot.end().map(outcome),
            Self::Member(share) => {
                let unfit = |text| {
                    let word = twinsite_api::reason::INVALID_SPEC;
                    (None, Ending::Failed { word, text })
                };
                let ended = share.end().as_ref().map(outcome);
                ended.or_else(|| share.unfit().map(unfit))
            }
        }
    }
}

fn outcome(end: &Result<Done, Failure>) -> (Option<VolumeEvent>, Ending) {
    match end {
        Ok(done) => (inspect::found(done), Ending::Done),
        Err(failure) => (None, inspect::failed(*failure)),
    }
}

/// `Err` says what the order lacks.
fn one_shot(order: &VolumeOrder) -> Result<OneShotOrder, String> {
    let attach = &order.attach;
    let task = match order.mode {
        AttachmentMode::Writer | AttachmentMode::Caretaker => {
            return Err("an attach is no one-shot order".to_owned());
        }
        AttachmentMode::Birth => Task::Birth {
            size: order.size,
            initialize: attach.initialize,
        },
        AttachmentMode::Inspect => Task::Inspect,
        AttachmentMode::Wipe => Task::Wipe,
        AttachmentMode::Reseed => {
            let lacks = || "spec.reseed.registerId is missing".to_owned();
            Task::Reseed(order.reseed.clone().ok_or_else(lacks)?)
        }
        AttachmentMode::Force => {
            let lacks = || "spec.force is missing".to_owned();
            Task::Force(order.force.clone().ok_or_else(lacks)?)
        }
    };
    let named = twinsite_mirror::io::Leg::BOTH
        .into_iter()
        .filter(|leg| order.legs[leg.index()].is_some());
    Ok(OneShotOrder {
        task,
        legs: named.fold(Members::NONE, Members::with),
        volume: order.volume,
        key: attach.key,
        seed: attach.seed,
        site: attach.site,
        node: attach.node.clone(),
        marks: attach.marks.clone(),
        config: attach.config,
    })
}
