//! How one phase of the group follows another: attached, served, decided again, over.
//!
//! ```text
//! attaching --Served--> serving --all hold--> attaching (the requests of the guests wait)
//!     |                    |
//!     +-- Refused, Off ----+-- Superseded, Detached --> over
//! ```

use std::time::Duration;

use twinsite_register::{Leg, Register};

use super::{Group, Member, Phase, requests, with_port};
use crate::attach::{Attach, Release};
use crate::engine::{AttachEnd, Held, IdSource, ServeEnd, Served};
use crate::io::{GuestError, Output, RemoveWhy};
use crate::serve::Serve;
use crate::status::Event;

impl Group {
    pub(super) fn supersede(&mut self, now: Duration) {
        let Phase::Serving(members) = self.enter(now, Phase::Superseded) else {
            return;
        };
        for (volume, mut member) in members.into_iter().enumerate() {
            match member.end {
                Some(ServeEnd::Superseded) => {}
                // About to decide again, or detached.
                Some(_) => {
                    self.abandon_one(
                        volume,
                        member.serve,
                        GuestError::Superseded,
                        RemoveWhy::Superseded,
                    );
                    self.port.of(volume).event(Event::Superseded);
                }
                None => with_port(&mut self.port, volume, &mut member.serve, |serve| {
                    serve.supersede_with_group();
                }),
            }
        }
    }

    /// Every volume's serving phase is over, and none is superseded.
    pub(super) fn serve_ended(&mut self, now: Duration) {
        let Phase::Serving(members) = self.enter(now, Phase::Off) else {
            return;
        };
        let mut held = Vec::new();
        let mut serves = Vec::new();
        let (mut reattach, mut release) = (false, None);
        for member in members {
            match member.end {
                Some(ServeEnd::Decide(again)) => held.push(*again),
                Some(ServeEnd::Reattach(again)) => {
                    reattach = true;
                    held.push(*again);
                }
                Some(ServeEnd::Off { release: own }) => release = release.or(own),
                Some(ServeEnd::Superseded) | None => {}
            }
            serves.push(member.serve);
        }
        if held.len() < serves.len() {
            // Detached: one that was about to decide again has nothing to decide any more.
            self.abandon(serves, GuestError::Io, RemoveWhy::Detached);
            return self.detached(now, release);
        }
        self.decide_again(now, held, reattach, serves);
    }

    fn decide_again(
        &mut self,
        now: Duration,
        mut held: Vec<Held>,
        reattach: bool,
        serves: Vec<Box<Serve>>,
    ) {
        for held in &mut held {
            // What was proposed since the attach is not proposed again.
            held.ids = self.ids.clone();
        }
        let attach = Box::new(if reattach {
            Attach::reattach(now, held, &mut self.port)
        } else {
            Attach::decide_again(now, held, &mut self.port)
        });
        self.phase = Phase::Attaching {
            attach,
            held: serves,
        };
    }

    pub(super) fn attach_ended(&mut self, now: Duration, end: AttachEnd<Vec<Served>>) {
        let held = match self.enter(now, Phase::Off) {
            Phase::Attaching { held, .. } => held,
            Phase::Off | Phase::Refused(_) | Phase::Serving(_) | Phase::Superseded => Vec::new(),
        };
        match end {
            AttachEnd::Served(all) => self.serve(now, all, held),
            AttachEnd::Refused(why) => {
                self.abandon(held, GuestError::Io, RemoveWhy::NotContinued);
                self.phase = Phase::Refused(why);
                self.say_all(|| Output::Refused(why));
            }
            AttachEnd::Superseded => {
                self.abandon(held, GuestError::Superseded, RemoveWhy::Superseded);
                self.phase = Phase::Superseded;
                self.say_all(|| Output::Event(Event::Superseded));
            }
            AttachEnd::Off { release } => {
                self.abandon(held, GuestError::Io, RemoveWhy::Detached);
                self.detached(now, release);
            }
        }
    }

    fn serve(&mut self, now: Duration, all: Vec<Served>, held: Vec<Box<Serve>>) {
        if let Some(served) = all.first() {
            self.ids = served.ids.clone();
        }
        self.proposal = requests::Proposal::default();
        self.generation += 1 << 16;
        let mut held = held.into_iter();
        let mut members = Vec::new();
        for (volume, served) in all.into_iter().enumerate() {
            let serve = match held.next() {
                Some(mut serve) => {
                    with_port(&mut self.port, volume, &mut serve, |serve| {
                        serve.resume(now, served);
                    });
                    serve
                }
                None => {
                    let out = std::mem::take(self.port.of(volume));
                    let mut serve = Box::new(Serve::of_group(now, served, self.generation, out));
                    self.port = std::mem::take(&mut serve.out);
                    serve
                }
            };
            members.push(Member { serve, end: None });
        }
        self.enter(now, Phase::Serving(members));
    }

    /// The requests of the guests that waited for another decision fail, and the devices go.
    fn abandon(&mut self, held: Vec<Box<Serve>>, error: GuestError, why: RemoveWhy) {
        for (volume, serve) in held.into_iter().enumerate() {
            self.abandon_one(volume, serve, error, why);
        }
    }

    fn abandon_one(
        &mut self,
        volume: usize,
        mut serve: Box<Serve>,
        error: GuestError,
        why: RemoveWhy,
    ) {
        with_port(&mut self.port, volume, &mut serve, |serve| {
            serve.abandon(error)
        });
        for leg in Leg::BOTH {
            self.port.of(volume).push(Output::Disconnect { leg });
        }
        if serve.is_shown() {
            self.port.of(volume).push(Output::RemoveDevice { why });
        }
    }

    /// All volumes are out. It is told when the register is released, or could not be for a while.
    fn detached(&mut self, now: Duration, register: Option<Box<Register>>) {
        self.detached_by = Some(now + self.config.register_timeout);
        let Some(key) = register.and_then(|register| register.holder) else {
            return self.tell_detached();
        };
        // Ids of the attach must not come again.
        self.seed[0] ^= 0x5a;
        let ids = IdSource::new(self.seed);
        let port = self.port.of(0);
        self.release = Some(Release::start(now, key, ids, &self.config, port));
    }

    pub(super) fn tell_detached(&mut self) {
        if self.detached_by.take().is_some() {
            self.say_all(|| Output::Detached);
        }
    }

    fn say_all(&mut self, output: impl Fn() -> Output) {
        for volume in 0..self.volumes {
            self.port.of(volume).push(output());
        }
    }
}
