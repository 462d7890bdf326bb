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
//! ```text
//! Off --order--> attaching --Served--> serving --Decide, Reattach--> attaching (the guest's requests wait)
//!  ^                 |                    |
//!  +----Refused------+-----Detached-------+--Superseded--> over, until the next order
//! ```
//! Not here: attach (`attach/`), the serving states (`serve/`).

mod port;
mod seed;
mod served;

pub(crate) use port::Port;
pub(crate) use seed::IdSource;
pub(crate) use served::{AttachEnd, Held, ServeEnd, Served, ServedLeg};

use std::time::Duration;

use twinsite_register::Register;

use crate::attach::{Attach, Release};
use crate::config::Config;
use crate::io::{AttachOrder, ControlError, GuestError, Input, Output, RemoveWhy};
use crate::serve::Serve;
use crate::status::{Refusal, StateName, Status};

/// Which phase has the volume.
enum Phase {
    Off,
    Refused(Refusal),
    Attaching {
        attach: Box<Attach>,
        /// Served before; the guest's requests wait in it.
        held: Option<Box<Serve>>,
    },
    Serving(Box<Serve>),
    /// Another writer took over; only a new attach order leads out (R16).
    Superseded,
}

/// The engine.
pub struct Engine {
    port: Port,
    phase: Phase,
    since: Duration,
    config: Config,
    seed: [u8; 32],
    /// The register may still name a key of an attach that is over.
    release: Option<Release>,
    /// Generation of the next serving phase's commands.
    generation: u32,
}

impl Engine {
    /// An engine that is Off: it does nothing before [`Input::Attach`].
    pub fn new(now: Duration) -> Self {
        Self {
            port: Port::default(),
            phase: Phase::Off,
            since: now,
            config: Config::default(),
            seed: [0; 32],
            release: None,
            generation: 0,
        }
    }

    /// Take one input. Outputs wait in [`Self::poll`].
    pub fn handle(&mut self, now: Duration, input: Input) {
        if let Some(release) = &mut self.release {
            release.handle(now, &input, &self.config, &mut self.port);
            if release.is_over() {
                self.release = None;
            }
        }
        match &mut self.phase {
            Phase::Serving(serve) => {
                serve.out = std::mem::take(&mut self.port);
                serve.handle(now, input);
                self.port = std::mem::take(&mut serve.out);
                if let Some(end) = serve.take_end() {
                    self.serve_ended(now, end);
                }
            }
            Phase::Attaching { attach, held } => {
                if let Some(serve) = held {
                    serve.out = std::mem::take(&mut self.port);
                    serve.handle_held(now, &input);
                    self.port = std::mem::take(&mut serve.out);
                }
                let end = attach.handle(now, 0, &input, &mut self.port);
                let answered = held.is_some();
                if let Some(end) = end {
                    self.attach_ended(now, end.alone());
                } else if !matches!(input, Input::Detach | Input::Guest { .. }) || !answered {
                    refuse(input, &mut self.port);
                }
            }
            Phase::Off | Phase::Refused(_) | Phase::Superseded => match input {
                Input::Attach(order) => self.attach(now, *order),
                Input::Detach => self.port.push(Output::Detached),
                Input::RecordSaved => {
                    self.port.record_saved();
                }
                input => refuse(input, &mut self.port),
            },
        }
    }

    fn attach(&mut self, now: Duration, order: AttachOrder) {
        self.config = order.config;
        self.seed = order.seed;
        let attach = Box::new(Attach::start(now, vec![order], &mut self.port));
        self.enter(now, Phase::Attaching { attach, held: None });
    }

    fn enter(&mut self, now: Duration, phase: Phase) -> Phase {
        self.since = now;
        std::mem::replace(&mut self.phase, phase)
    }

    fn serve_ended(&mut self, now: Duration, end: ServeEnd) {
        let phase = self.enter(now, Phase::Off);
        let serve = match phase {
            Phase::Serving(serve) => Some(serve),
            Phase::Off | Phase::Refused(_) | Phase::Attaching { .. } | Phase::Superseded => None,
        };
        match end {
            ServeEnd::Superseded => self.phase = Phase::Superseded,
            ServeEnd::Off { release } => {
                self.release(now, release);
                self.port.push(Output::Detached);
            }
            ServeEnd::Decide(again) => {
                let attach = Box::new(Attach::decide_again(now, vec![*again], &mut self.port));
                self.phase = Phase::Attaching {
                    attach,
                    held: serve,
                };
            }
            ServeEnd::Reattach(again) => {
                let attach = Box::new(Attach::reattach(now, vec![*again], &mut self.port));
                self.phase = Phase::Attaching {
                    attach,
                    held: serve,
                };
            }
        }
    }

    fn attach_ended(&mut self, now: Duration, end: AttachEnd<Box<Served>>) {
        let held = match self.enter(now, Phase::Off) {
            Phase::Attaching { held, .. } => held,
            Phase::Off | Phase::Refused(_) | Phase::Serving(_) | Phase::Superseded => None,
        };
        match end {
            AttachEnd::Served(served) => match held {
                Some(serve) => self.resume(now, serve, *served),
                None => self.serve(now, *served),
            },
            AttachEnd::Refused(why) => {
                self.abandon(held, GuestError::Io, RemoveWhy::NotContinued);
                self.phase = Phase::Refused(why);
                self.port.push(Output::Refused(why));
            }
            AttachEnd::Superseded => {
                self.abandon(held, GuestError::Superseded, RemoveWhy::Superseded);
                self.phase = Phase::Superseded;
                self.port.event(crate::status::Event::Superseded);
            }
            AttachEnd::Off { release } => {
                self.abandon(held, GuestError::Io, RemoveWhy::Detached);
                self.release(now, release);
                self.port.push(Output::Detached);
            }
        }
    }

    /// The guest's requests that waited for another decision fail, and the device goes.
    fn abandon(&mut self, held: Option<Box<Serve>>, error: GuestError, why: RemoveWhy) {
        let Some(mut serve) = held else { return };
        serve.out = std::mem::take(&mut self.port);
        serve.abandon(error);
        self.port = std::mem::take(&mut serve.out);
        if serve.is_shown() {
            self.port.push(Output::RemoveDevice { why });
        }
    }

    fn release(&mut self, now: Duration, register: Option<Box<Register>>) {
        let Some(key) = register.and_then(|register| register.holder) else {
            return;
        };
        // Ids of the attach must not come again.
        self.seed[0] ^= 0x5a;
        let ids = IdSource::new(self.seed);
        self.release = Some(Release::start(now, key, ids, &self.config, &mut self.port));
    }

    fn serve(&mut self, now: Duration, served: Served) {
        self.generation += 1 << 16;
        let serve = Serve::new(now, served, self.generation, std::mem::take(&mut self.port));
        self.serving(now, Box::new(serve));
    }

    fn resume(&mut self, now: Duration, mut serve: Box<Serve>, served: Served) {
        serve.out = std::mem::take(&mut self.port);
        serve.resume(now, served);
        self.serving(now, serve);
    }

    fn serving(&mut self, now: Duration, mut serve: Box<Serve>) {
        self.port = std::mem::take(&mut serve.out);
        let end = serve.take_end();
        self.enter(now, Phase::Serving(serve));
        if let Some(end) = end {
            self.serve_ended(now, end);
        }
    }

    /// The next output, in the order in which they must be carried out.
    pub fn poll(&mut self) -> Option<Output> {
        self.port.pop().map(|(_, output)| output)
    }

    /// When the engine wants a [`Input::Tick`] at the latest; `None` = never.
    pub fn deadline(&self) -> Option<Duration> {
        let phase = match &self.phase {
            Phase::Serving(serve) => serve.deadline(),
            Phase::Attaching { attach, .. } => attach.deadline(),
            Phase::Off | Phase::Refused(_) | Phase::Superseded => None,
        };
        let release = self.release.as_ref().and_then(Release::deadline);
        phase.into_iter().chain(release).min()
    }

    /// A snapshot for status and metrics.
    pub fn status(&self, now: Duration) -> Status {
        let named = |state| Status {
            state,
            since: self.since,
            ..Status::off()
        };
        match &self.phase {
            Phase::Serving(serve) => serve.status(now),
            Phase::Attaching {
                attach,
                held: Some(serve),
            } => Status {
                state: attach.state(),
                since: self.since,
                ..serve.status(now)
            },
            Phase::Attaching { attach, held: None } => named(attach.state()),
            Phase::Off => named(StateName::Off),
            Phase::Refused(why) => Status {
                refusal: Some(*why),
                ..named(StateName::Refused)
            },
            Phase::Superseded => named(StateName::Superseded),
        }
    }

    /// An engine that serves what a test made up.
    #[cfg(test)]
    pub(crate) fn serving_from(now: Duration, served: Served) -> Self {
        let mut engine = Self::new(now);
        engine.config = served.order.config;
        engine.serve(now, served);
        engine
    }

    /// It has decided again, on what a test made up.
    #[cfg(test)]
    pub(crate) fn decided(&mut self, now: Duration, served: Served) {
        let Phase::Serving(serve) = self.enter(now, Phase::Off) else {
            unreachable!("the engine of a test serves");
        };
        self.resume(now, serve, served);
    }
}

/// Nothing is attached, or not yet.
pub(crate) fn refuse(input: Input, port: &mut Port) {
    let not_attached = Err(ControlError::NotAttached);
    let answer = match input {
        Input::Guest { id, .. } => Output::GuestDone {
            id,
            result: Err(GuestError::NotShown),
        },
        Input::DropLeg(_) | Input::Expand { .. } | Input::Verify(_) => Output::OrderDone {
            result: not_attached,
        },
        Input::SetFormat { .. } => Output::FormatRecorded {
            result: not_attached,
        },
        Input::Attach(_)
        | Input::Detach
        | Input::LegUp { .. }
        | Input::LegDown { .. }
        | Input::LegDone { .. }
        | Input::RegisterRead { .. }
        | Input::RegisterCas { .. }
        | Input::RecordSaved
        | Input::BeatObject { .. }
        | Input::Tick => return,
    };
    port.push(answer);
}
