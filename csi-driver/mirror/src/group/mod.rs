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

mod relay;
mod requests;
#[cfg(test)]
mod tests;

use std::time::Duration;

use twinsite_register::{Leg, Members, Register};

use crate::attach::{Attach, Release};
use crate::config::Config;
use crate::engine::{AttachEnd, Held, IdSource, Port, ServeEnd, Served, refuse};
use crate::io::{AttachOrder, GuestError, Input, Output, RemoveWhy};
use crate::serve::{Serve, Wish, graver};
use crate::status::{Event, LostWhy, Refusal, StateName, Status};
use relay::Relay;

/// Most volumes of a group.
pub const MAX_VOLUMES: usize = 64;
/// Looks after one input; each lets at least one volume go on, so that more means that two rules undo each other.
const MAX_LOOKS: u32 = 1000;

/// Why orders cannot be those of one group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GroupError {
    /// None, or too many.
    #[error("a group has 1 to {MAX_VOLUMES} volumes, not {0}")]
    Count(usize),
    /// The same volume twice.
    #[error("volume {0} is named twice")]
    Twice(twinsite_register::VolumeId),
    /// Key, seed, uid of the group, site, node, move, mode, marks and limits are one for all.
    #[error(
        "the orders of a group differ in more than volume, record, device and what may be initialised"
    )]
    Differ,
}

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

    /// What concerns all volumes, until nothing is left to do.
    fn look(&mut self, now: Duration) {
        for _ in 0..MAX_LOOKS {
            if !self.look_once(now) {
                let calm = |members: &Vec<Member>| members.iter().all(|m| m.serve.is_calm());
                self.calm = matches!(&self.phase, Phase::Serving(members) if calm(members));
                break;
            }
        }
        let due = self.detached_by.is_some_and(|at| at <= now);
        if due || self.release.is_none() {
            self.tell_detached();
        }
    }

    fn look_once(&mut self, now: Duration) -> bool {
        let Phase::Serving(members) = &mut self.phase else {
            return false;
        };
        // What one learned of the request that all have open, all know at the same instant.
        for from in 0..members.len() {
            let Some((expected, register)) = members[from].serve.take_resolved() else {
                continue;
            };
            for (volume, member) in members.iter_mut().enumerate() {
                if volume != from && member.end.is_none() {
                    with_port(&mut self.port, volume, &mut member.serve, |serve| {
                        serve.learn(expected, &register);
                    });
                }
            }
        }
        for member in members.iter_mut() {
            if let Some(end) = member.serve.take_end() {
                member.end = Some(end);
            }
        }
        if members.iter().any(|member| member.is_superseded()) {
            self.supersede(now);
            return false;
        }
        if members.iter().all(|member| member.end.is_some()) {
            self.serve_ended(now);
            return true;
        }
        self.hold_all()
            || self.tell_lost()
            || self.show_all()
            || self.switch_all()
            || self.request_for_all()
            || self.decide_if_stuck()
    }

    /// Every member leg is lost to some volume, each to another one, and all are logged in again: no single leg has what all
    /// volumes need. Which leg has what each of them needs is decided anew, as at an attach, with the fences held.
    fn decide_if_stuck(&mut self) -> bool {
        let Phase::Serving(members) = &mut self.phase else {
            return false;
        };
        if !members.iter().all(|member| member.serve.is_stuck()) {
            return false;
        }
        for (volume, member) in members.iter_mut().enumerate() {
            with_port(&mut self.port, volume, &mut member.serve, |serve| {
                serve.hold_with_group(false);
            });
        }
        true
    }

    /// One that decides again takes all with it.
    fn hold_all(&mut self) -> bool {
        let Phase::Serving(members) = &mut self.phase else {
            return false;
        };
        let leaving = members
            .iter()
            .filter_map(|member| member.serve.is_holding());
        let Some(reattach) = leaving.reduce(|one, other| one || other) else {
            return false;
        };
        let mut held = false;
        for (volume, member) in members.iter_mut().enumerate() {
            if member.serve.is_holding().is_none() && member.end.is_none() {
                held = true;
                with_port(&mut self.port, volume, &mut member.serve, |serve| {
                    serve.hold_with_group(reattach);
                });
            }
        }
        if held {
            return true;
        }
        // In one event: what a leg says to one volume while another one still drains is heard by its serving phase, and what it
        // says later by the attach.
        let rests = |member: &Member| member.end.is_some() || member.serve.has_come_to_rest();
        if !members.iter().all(rests) {
            return false;
        }
        for (volume, member) in members.iter_mut().enumerate() {
            if member.end.is_none() {
                with_port(&mut self.port, volume, &mut member.serve, |serve| {
                    serve.end_with_group();
                });
            }
        }
        true
    }

    /// A member leg that is lost to one volume is lost to all.
    fn tell_lost(&mut self) -> bool {
        let Phase::Serving(members) = &mut self.phase else {
            return false;
        };
        let merged: [Option<LostWhy>; 2] = Leg::BOTH.map(|leg| {
            let own = members.iter().map(|member| member.serve.own_loss(leg));
            own.fold(None, graver)
        });
        let mut told = false;
        for (volume, member) in members.iter_mut().enumerate() {
            if member.end.is_none() {
                with_port(&mut self.port, volume, &mut member.serve, |serve| {
                    told |= serve.tell_lost(merged);
                });
            }
        }
        told
    }

    fn show_all(&mut self) -> bool {
        let Phase::Serving(members) = &mut self.phase else {
            return false;
        };
        let done = |member: &Member| member.serve.wish() == Some(Wish::Show);
        if !members.iter().all(done) {
            return false;
        }
        for (volume, member) in members.iter_mut().enumerate() {
            with_port(&mut self.port, volume, &mut member.serve, |serve| {
                serve.show_with_group();
            });
        }
        true
    }

    /// Before the last part of the copy writes wait for one leg only: no volume goes there long before the others.
    fn switch_all(&mut self) -> bool {
        let Phase::Serving(members) = &mut self.phase else {
            return false;
        };
        if !members.iter().all(|member| member.serve.is_nearly_copied()) {
            return false;
        }
        let mut switched = false;
        for (volume, member) in members.iter_mut().enumerate() {
            with_port(&mut self.port, volume, &mut member.serve, |serve| {
                switched |= serve.switch_with_group();
            });
        }
        switched
    }

    fn supersede(&mut self, now: Duration) {
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
    fn serve_ended(&mut self, now: Duration) {
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

    fn attach_ended(&mut self, now: Duration, end: AttachEnd<Vec<Served>>) {
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

    fn tell_detached(&mut self) {
        if self.detached_by.take().is_some() {
            self.say_all(|| Output::Detached);
        }
    }

    fn say_all(&mut self, output: impl Fn() -> Output) {
        for volume in 0..self.volumes {
            self.port.of(volume).push(output());
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

/// The first of orders that differ only where volumes may.
fn one_group(orders: &[AttachOrder]) -> Result<Option<&AttachOrder>, GroupError> {
    if orders.is_empty() || orders.len() > MAX_VOLUMES {
        return Err(GroupError::Count(orders.len()));
    }
    for (at, order) in orders.iter().enumerate() {
        if orders[..at]
            .iter()
            .any(|other| other.volume == order.volume)
        {
            return Err(GroupError::Twice(order.volume));
        }
    }
    let Some(first) = orders.first() else {
        return Ok(None);
    };
    let alike = |order: &AttachOrder| {
        let made_alike = AttachOrder {
            volume: first.volume,
            record: first.record.clone(),
            shown: first.shown,
            initialize: first.initialize,
            ..order.clone()
        };
        made_alike == *first
    };
    if orders.iter().all(alike) {
        Ok(Some(first))
    } else {
        Err(GroupError::Differ)
    }
}
