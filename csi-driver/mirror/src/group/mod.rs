//! Several volumes with one register, one writer and one device each: they attach, shrink, grow and move as one (2.10).
//!
//! ```text
//!            Group ── attach of all volumes (steps 1-6, one request) ──► a serving phase per volume
//!              │                                                              │ says what it wants, or what it lost
//!              └── all want it: one request, every volume follows ◄───────────┘
//! ```
//! The phases of a volume are those of [`crate::engine::Engine`]; they only stop where the membership is concerned, and this
//! decides when all may go on:
//!
//! | what | when |
//! |---|---|
//! | devices are shown | every volume is done with step 8 of the attach |
//! | shrink, drop leg | every volume is frozen and would keep the same leg; a leg lost to one is lost to all |
//! | thaw | every volume has its leg back |
//! | writes of a rejoin go to both legs | every volume has little left to copy |
//! | grow | every volume has finished step 7 |
//! | bump | the grow is open, and any volume wants out |
//! | land | every volume has its superblocks in both slots |
//! | release | every volume is out |
//!
//! Invariants: the volumes of a group run on one set of legs whenever any of them acknowledges; a request is sent once for all
//! of them, on one expected value; one volume that is superseded, or decides again, takes all with it.
//! A request of the guest touches its own volume only: the group looks at nothing while all of them are calm.
//! Not here: what a volume does between these points (`attach`, `serve`).

mod orders;
mod phases;
mod relay;
mod requests;
#[cfg(test)]
mod tests;
mod together;

pub use orders::{GroupError, MAX_VOLUMES};

use std::time::Duration;

use twinsite_register::Members;

use crate::attach::{Attach, Release};
use crate::config::Config;
use crate::engine::{IdSource, Port, ServeEnd, refuse};
use crate::io::{AttachOrder, Input, Output};
use crate::serve::Serve;
use crate::status::{Refusal, StateName, Status};
use orders::one_group;
use relay::Relay;

/// One serving volume.
struct Member {
    serve: Box<Serve>,
    /// Its phase is over; it waits for the others.
    end: Option<ServeEnd>,
}

enum Phase {
    Off,
    Refused(Refusal),
    Attaching {
        attach: Box<Attach>,
        /// Served before; the requests of the guests wait in them. Empty: nothing was served yet.
        held: Vec<Box<Serve>>,
    },
    Serving(Vec<Member>),
    Superseded,
}

/// The engine of a group. The same use as of [`crate::engine::Engine`], with the number of a volume beside every input and
/// output; numbers follow the order of [`Group::attach`].
pub struct Group {
    port: Port,
    phase: Phase,
    since: Duration,
    config: Config,
    seed: [u8; 32],
    volumes: usize,
    release: Option<Release>,
    /// Detached, but for the release: told then at the latest.
    detached_by: Option<Duration>,
    generation: u32,
    /// Of the requests of all volumes together.
    ids: IdSource,
    proposal: requests::Proposal,
    relay: Relay,
    /// The volume that heard of the register last.
    heard: usize,
    /// Nothing was to be done at the last look.
    calm: bool,
}

impl Group {
    /// A group that is Off.
    pub fn new(now: Duration) -> Self {
        Self {
            port: Port::default(),
            phase: Phase::Off,
            since: now,
            config: Config::default(),
            seed: [0; 32],
            volumes: 0,
            release: None,
            detached_by: None,
            generation: 0,
            ids: IdSource::new([0; 32]),
            proposal: requests::Proposal::default(),
            relay: Relay::default(),
            heard: 0,
            calm: false,
        }
    }

    /// Open these volumes as one. `uid` of every order is the one uid of the group; that of each Attachment is in its record.
    pub fn attach(&mut self, now: Duration, orders: Vec<AttachOrder>) -> Result<(), GroupError> {
        let Some(first) = one_group(&orders)? else {
            return Err(GroupError::Count(0));
        };
        self.tell_detached();
        self.config = first.config;
        self.seed = first.seed;
        self.volumes = orders.len();
        let attach = Box::new(Attach::start(now, orders, &mut self.port));
        let held = Vec::new();
        self.enter(now, Phase::Attaching { attach, held });
        Ok(())
    }

    /// How many volumes the last attach had.
    pub const fn volumes(&self) -> usize {
        self.volumes
    }

    /// Take one input of a volume. A tick and a detach are of all volumes.
    pub fn handle(&mut self, now: Duration, volume: usize, input: Input) {
        if volume >= self.volumes {
            return refuse(input, self.port.of(volume));
        }
        self.relay.turn();
        match input {
            Input::RegisterRead { id, result } => {
                for (volume, id) in self.relay.read_answered(id) {
                    let result = result.clone();
                    self.dispatch(now, volume, Input::RegisterRead { id, result });
                    self.heard = volume;
                }
            }
            Input::RegisterCas { id, result } => {
                for (volume, id) in self.relay.cas_answered(id, result) {
                    self.dispatch(now, volume, Input::RegisterCas { id, result });
                    self.heard = volume;
                }
            }
            Input::Detach if !matches!(self.phase, Phase::Serving(_)) => {
                self.dispatch(now, volume, input);
            }
            Input::Tick | Input::Detach => {
                for volume in 0..self.volumes {
                    self.dispatch(now, volume, input.clone());
                }
            }
            input => {
                self.dispatch(now, volume, input);
                if self.is_calm(volume) {
                    return;
                }
            }
        }
        self.look(now);
    }

    fn is_calm(&self, volume: usize) -> bool {
        match &self.phase {
            Phase::Serving(members) => self.calm && members[volume].serve.is_calm(),
            _ => false,
        }
    }

    fn dispatch(&mut self, now: Duration, volume: usize, input: Input) {
        if let Some(release) = &mut self.release {
            release.handle(now, &input, &self.config, self.port.of(0));
            if release.is_over() {
                self.release = None;
            }
        }
        match &mut self.phase {
            Phase::Serving(members) => {
                let member = &mut members[volume];
                if member.end.is_some() {
                    // Detached, and waits for the others: its sessions are closed.
                    if matches!(input, Input::RecordSaved) {
                        self.port.of(volume).record_saved();
                        return;
                    }
                    return refuse(input, self.port.of(volume));
                }
                with_port(&mut self.port, volume, &mut member.serve, |serve| {
                    serve.handle(now, input);
                });
            }
            Phase::Attaching { attach, held } => {
                let answered = !held.is_empty();
                if let Some(serve) = held.get_mut(volume) {
                    with_port(&mut self.port, volume, serve, |serve| {
                        serve.handle_held(now, &input);
                    });
                }
                let end = attach.handle(now, volume, &input, &mut self.port);
                if let Some(end) = end {
                    self.attach_ended(now, end);
                } else if !matches!(input, Input::Detach | Input::Guest { .. }) || !answered {
                    refuse(input, self.port.of(volume));
                }
            }
            Phase::Off | Phase::Refused(_) | Phase::Superseded => match input {
                Input::Detach if self.detached_by.is_none() => {
                    self.port.of(volume).push(Output::Detached);
                }
                Input::Detach => {}
                Input::RecordSaved => {
                    self.port.of(volume).record_saved();
                }
                input => refuse(input, self.port.of(volume)),
            },
        }
    }

    fn enter(&mut self, now: Duration, phase: Phase) -> Phase {
        self.since = now;
        self.calm = false;
        std::mem::replace(&mut self.phase, phase)
    }

    /// The next output and the volume whose shell carries it out. One request to the register speaks for all volumes.
    pub fn poll(&mut self) -> Option<(usize, Output)> {
        loop {
            let (volume, output) = self.port.pop()?;
            let joins = match &output {
                Output::ReadRegister { id } => self.relay.joins_read(volume, *id),
                Output::CasRegister { id, new, .. } => self.relay.joins_cas(volume, *id, new.txid),
                _ => false,
            };
            if !joins {
                return Some((volume, output));
            }
        }
    }

    /// When a [`Input::Tick`] is wanted at the latest; `None` = never.
    pub fn deadline(&self) -> Option<Duration> {
        let release = self.release.as_ref().and_then(Release::deadline);
        let own = release.into_iter().chain(self.detached_by).min();
        let phase = match &self.phase {
            Phase::Serving(members) => {
                let open = members.iter().filter(|member| member.end.is_none());
                open.filter_map(|member| member.serve.deadline()).min()
            }
            Phase::Attaching { attach, .. } => attach.deadline(),
            Phase::Off | Phase::Refused(_) | Phase::Superseded => None,
        };
        phase.into_iter().chain(own).min()
    }

    /// A snapshot of one volume.
    pub fn status(&self, now: Duration, volume: usize) -> Status {
        let named = |state| Status {
            state,
            since: self.since,
            ..Status::off()
        };
        match &self.phase {
            Phase::Serving(members) => members
                .get(volume)
                .map_or_else(Status::off, |member| member.serve.status(now)),
            Phase::Attaching { attach, held } => match held.get(volume) {
                Some(serve) => Status {
                    state: attach.state(),
                    since: self.since,
                    ..serve.status(now)
                },
                None => named(attach.state()),
            },
            Phase::Off => named(StateName::Off),
            Phase::Refused(why) => Status {
                refusal: Some(*why),
                ..named(StateName::Refused)
            },
            Phase::Superseded => named(StateName::Superseded),
        }
    }

    /// The legs on which all volumes run, if they serve.
    pub fn members(&self) -> Option<Members> {
        match &self.phase {
            Phase::Serving(members) => members.first().map(|member| member.serve.members()),
            _ => None,
        }
    }
}

impl Member {
    fn is_superseded(&self) -> bool {
        matches!(self.end, Some(ServeEnd::Superseded))
    }
}

/// Let a volume write to the port of the group.
fn with_port(port: &mut Port, volume: usize, serve: &mut Serve, act: impl FnOnce(&mut Serve)) {
    serve.out = std::mem::take(port.of(volume));
    act(serve);
    *port = std::mem::take(&mut serve.out);
}
