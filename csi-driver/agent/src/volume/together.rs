//! What the volumes of a group have in common on their data thread: one machine, whose outputs wait here until the actor of
//! their volume fetches them.
//!
//! All actors of a group live on one thread, so the lock is never waited for; it stands because an actor is made on another
//! thread than it lives on. An actor that has outputs because of another one's input is woken by a letter.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use twinsite_mirror::group::Group;
use twinsite_mirror::io::{AttachOrder, Input, Output};
use twinsite_mirror::oneshot::{Done, Failure, GroupOneShot, OneShotOrder};
use twinsite_mirror::status::Status;

use super::actor::Letter;
use crate::reactor::Mailbox;

/// What is to be done with the volumes, in the order of their numbers.
pub(super) enum Begin {
    Attach(Vec<AttachOrder>),
    OneShot(Vec<OneShotOrder>),
}

enum Engine {
    /// Made without a clock; begins at the first turn on the data thread.
    Waiting(Option<Begin>),
    Attach(Box<Group>),
    OneShot(GroupOneShot),
    /// The orders are not those of one group.
    Unfit(String),
}

struct Common {
    engine: Engine,
    outputs: Vec<VecDeque<Output>>,
    mailboxes: Vec<Mailbox<Letter>>,
}

/// One volume's end of it.
#[derive(Clone)]
pub(super) struct Share {
    common: Arc<Mutex<Common>>,
    volume: usize,
}

impl Share {
    /// For each of these volumes its own.
    pub(super) fn of_all(begin: Begin, mailboxes: Vec<Mailbox<Letter>>) -> Vec<Self> {
        let count = mailboxes.len();
        let common = Arc::new(Mutex::new(Common {
            engine: Engine::Waiting(Some(begin)),
            outputs: (0..count).map(|_| VecDeque::new()).collect(),
            mailboxes,
        }));
        let share = |volume| Self {
            common: Arc::clone(&common),
            volume,
        };
        (0..count).map(share).collect()
    }

    fn with<T>(&self, act: impl FnOnce(&mut Common, usize) -> T) -> T {
        let mut common = self.common.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut common, self.volume)
    }

    pub(super) fn start(&self, now: Duration) {
        self.with(|common, volume| {
            if matches!(common.engine, Engine::Waiting(_)) {
                common.start(now);
                common.hand_out(volume);
            }
        });
    }

    pub(super) fn handle(&self, now: Duration, input: Input) {
        self.with(|common, volume| {
            common.start(now);
            match &mut common.engine {
                Engine::Waiting(_) | Engine::Unfit(_) => {}
                Engine::Attach(group) => group.handle(now, volume, input),
                Engine::OneShot(orders) => orders.handle(now, volume, &input),
            }
            common.hand_out(volume);
        });
    }

    pub(super) fn poll(&self) -> Option<Output> {
        self.with(|common, volume| common.outputs.get_mut(volume)?.pop_front())
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.with(|common, _| match &common.engine {
            Engine::Waiting(_) | Engine::Unfit(_) => None,
            Engine::Attach(group) => group.deadline(),
            Engine::OneShot(orders) => orders.deadline(),
        })
    }

    /// A snapshot, for an attach.
    pub(super) fn status(&self, now: Duration) -> Option<Status> {
        self.with(|common, volume| match &common.engine {
            Engine::Attach(group) => Some(group.status(now, volume)),
            Engine::Waiting(_) | Engine::OneShot(_) | Engine::Unfit(_) => None,
        })
    }

    /// How a one-shot order ended; an attach tells by its outputs.
    pub(super) fn end(&self) -> Option<Result<Done, Failure>> {
        self.with(|common, volume| match &common.engine {
            Engine::OneShot(orders) => orders.end(volume).cloned(),
            Engine::Waiting(_) | Engine::Attach(_) | Engine::Unfit(_) => None,
        })
    }

    /// Why nothing was begun.
    pub(super) fn unfit(&self) -> Option<String> {
        self.with(|common, _| match &common.engine {
            Engine::Unfit(why) => Some(why.clone()),
            Engine::Waiting(_) | Engine::Attach(_) | Engine::OneShot(_) => None,
        })
    }
}

impl Common {
    fn start(&mut self, now: Duration) {
        let Engine::Waiting(begin) = &mut self.engine else {
            return;
        };
        match begin.take() {
            Some(Begin::Attach(orders)) => {
                let mut group = Box::new(Group::new(now));
                self.engine = match group.attach(now, orders) {
                    Ok(()) => Engine::Attach(group),
                    Err(error) => Engine::Unfit(error.to_string()),
                };
            }
            Some(Begin::OneShot(orders)) => {
                self.engine = Engine::OneShot(GroupOneShot::new(now, orders));
            }
            None => {}
        }
    }

    /// Sort what was said by volume, and wake whoever has something to fetch and does not know it.
    fn hand_out(&mut self, by: usize) {
        let mut woken: Vec<usize> = Vec::new();
        loop {
            let next = match &mut self.engine {
                Engine::Waiting(_) | Engine::Unfit(_) => None,
                Engine::Attach(group) => group.poll(),
                Engine::OneShot(orders) => orders.poll(),
            };
            let Some((volume, output)) = next else { break };
            if volume != by && !woken.contains(&volume) {
                woken.push(volume);
            }
            if let Some(outputs) = self.outputs.get_mut(volume) {
                outputs.push_back(output);
            }
        }
        let ended = matches!(&self.engine, Engine::OneShot(orders) if orders.end(by).is_some());
        let others = (0..self.mailboxes.len()).filter(|other| *other != by && ended);
        woken.extend(others);
        for volume in woken {
            // A full mailbox wakes its actor anyway, and one that is gone needs nothing any more.
            if self.mailboxes[volume].post(Letter::Wake).is_err() {
                tracing::trace!(volume, "no letter to a volume of the group");
            }
        }
    }
}
