//! One-shot orders to legs: birth, inspect, wipe, reseed, force. Everything that touches a leg is done by an agent, by iSCSI.
//!
//! ```text
//! Look    read R, log in, register (nobody is preempted), read superblocks -> may this be done to these legs?
//! Fence   PREEMPT AND ABORT (not for inspect) -> read R again, it must not have changed (R43)
//! Verify  registrations and superblocks once more, behind the fence -> still?
//! Write   birth: zero, map, beat, superblock; wipe: map, slots, CLEAR; reseed: the new register id in both slots; force: a mark in both
//! Cas     birth, if both legs were born here; force
//! ```
//! The volumes of a group wait for each other between these steps (`group`).
//! Same use as an engine: `handle`, then `poll` until `None`, `deadline`; over when [`OneShot::end`] answers. A crash at any
//! point is repaired by the same order again.
//!
//! Invariants: nothing is written to a leg whose superblock speaks of anything else (I18); a leg that was looked at only is
//! left without our registration.
//! Not here: whether an order may be carried out (`judge`), what each one asks of a leg and writes there (the files named after them).

mod birth;
mod force;
mod gate;
mod group;
mod judge;
mod look;
mod moment;
mod order;
mod plan;
mod reseed;
#[cfg(test)]
mod tests;
mod wipe;

pub use plan::{Approval, ForceError, Token, force, reseed_seed};

use std::time::Duration;

use twinsite_register::{BeatObject, Key, KeyTag, Leg, LegSeed, Register};

use super::head::Head;
use super::leg::{Ended, Kind, LegTrack};
use super::sequence::Sequence;
use crate::engine::{IdSource, Port};
use crate::io::{CasResult, Input, LegDown, LegInfo, LegOp, Output, RegisterId, Session};
use crate::layout::Geometry;
use crate::script::Fault;

use gate::Gate;
pub use group::GroupOneShot;
use judge::Judged;
pub use look::LegInspection;
pub use order::{Done, Failure, OneShotOrder, Reseeding, Task};

#[derive(Clone, Debug)]
enum Phase {
    /// Logging in, registering, reading. `late`: whoever has not answered by now is not there.
    Look {
        register: Option<RegisterId>,
        until: Duration,
        late: bool,
    },
    Unregister,
    Fence,
    Again {
        register: RegisterId,
        until: Duration,
    },
    Verify,
    Write,
    /// One of a group waits for the others.
    Gate(Gate),
    Cas {
        register: Register,
        id: RegisterId,
        until: Duration,
    },
    Outcome {
        register: Register,
        id: RegisterId,
        until: Duration,
    },
    Over,
}

/// Where a leg stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    Away,
    Registering,
    Reading,
    Looked,
    /// Nothing is to be written: it is as it should be.
    Ready,
}

/// One one-shot order under way.
#[derive(Debug)]
pub struct OneShot {
    order: OneShotOrder,
    key: Key,
    /// For looking before the fence: a live writer is not disturbed by a key of this tag.
    look_key: Key,
    /// Why nothing is done, told once our registrations are gone.
    failure: Option<Failure>,
    ids: IdSource,
    port: Port,
    tracks: [LegTrack; 2],
    at: [At; 2],
    register: Option<Result<Option<Box<Register>>, ()>>,
    /// The beat object was asked for and has not answered.
    beat_asked: bool,
    beat_object: Option<BeatObject>,
    phase: Phase,
    seeds: [Option<LegSeed>; 2],
    /// One of the volumes of a group.
    of_group: bool,
    end: Option<Result<Done, Failure>>,
}

impl OneShot {
    /// Begin.
    pub fn new(now: Duration, order: OneShotOrder) -> Self {
        Self::begin(now, order, false)
    }

    fn of_group(now: Duration, order: OneShotOrder) -> Self {
        Self::begin(now, order, true)
    }

    fn begin(now: Duration, order: OneShotOrder, of_group: bool) -> Self {
        let random = order.key.to_u64() >> 8;
        let mut port = Port::default();
        for leg in order.legs.iter() {
            port.push(Output::Connect { leg });
        }
        let register = Some(port.read_register());
        let named = matches!(order.task, Task::Force(_) | Task::Reseed(_));
        let beat_asked = (of_group && named) || order.task == Task::Inspect;
        if beat_asked {
            port.push(Output::ReadBeat);
        }
        let until = now
            + order
                .config
                .login_timeout
                .max(order.config.register_timeout);
        Self {
            key: Key::new(KeyTag::Writer(order.site), random),
            look_key: Key::new(KeyTag::Inspect, random),
            failure: None,
            ids: IdSource::new(order.seed),
            port,
            tracks: Leg::BOTH.map(|leg| LegTrack::new(0, leg)),
            at: [At::Away; 2],
            register: None,
            beat_asked,
            beat_object: None,
            phase: Phase::Look {
                register,
                until,
                late: false,
            },
            seeds: [None; 2],
            of_group,
            end: None,
            order,
        }
    }

    /// The next output.
    pub fn poll(&mut self) -> Option<Output> {
        self.port.pop().map(|(_, output)| output)
    }

    /// How it ended, once it did.
    pub fn end(&self) -> Option<&Result<Done, Failure>> {
        self.end.as_ref()
    }

    /// When [`Input::Tick`] is wanted.
    pub fn deadline(&self) -> Option<Duration> {
        let phase = match &self.phase {
            Phase::Look { late: true, .. } => None,
            Phase::Look { until, .. }
            | Phase::Again { until, .. }
            | Phase::Cas { until, .. }
            | Phase::Outcome { until, .. } => Some(*until),
            Phase::Unregister
            | Phase::Fence
            | Phase::Verify
            | Phase::Write
            | Phase::Gate(_)
            | Phase::Over => None,
        };
        self.tracks
            .iter()
            .filter_map(LegTrack::deadline)
            .chain(phase)
            .min()
    }

    /// Take one input; a [`Input::Detach`] gives the order up.
    pub fn handle(&mut self, now: Duration, input: &Input) {
        if self.end.is_some() {
            return;
        }
        match input {
            Input::LegUp { leg, info } => self.up(now, *leg, *info),
            Input::LegDown { leg, why } => self.down(*leg, *why),
            Input::LegDone { leg, cmd, result } => {
                let config = self.order.config;
                let track = &mut self.tracks[leg.index()];
                let ended = track.handle_done(now, *cmd, result.clone(), &config, &mut self.port);
                if let Some(ended) = ended {
                    self.script_ended(now, *leg, ended);
                }
            }
            Input::RegisterRead { id, result } => {
                let read = result.clone().map_err(|_| ());
                self.register_read(now, *id, read);
            }
            Input::BeatObject { result } => {
                self.beat_asked = false;
                self.beat_object = result.as_ref().ok().copied().flatten();
            }
            Input::RegisterCas { id, result } => self.cas_answered(now, *id, *result),
            Input::Detach => self.fail(Failure::Changed),
            Input::Tick => self.time(now),
            _ => {}
        }
        self.advance(now);
    }

    fn up(&mut self, now: Duration, leg: Leg, info: LegInfo) {
        if !self.order.legs.contains(leg) || !matches!(self.phase, Phase::Look { .. }) {
            return;
        }
        let mut register = Sequence::default();
        register.push(LegOp::PrRegister {
            key: self.look_key,
            session: Session::Data,
        });
        let track = &mut self.tracks[leg.index()];
        track.info = Some(info);
        self.at[leg.index()] = At::Registering;
        track.write(now, register, &self.order.config, &mut self.port);
    }

    fn down(&mut self, leg: Leg, why: LegDown) {
        let was_up = self.tracks[leg.index()].info.is_some();
        self.tracks[leg.index()].down();
        self.at[leg.index()] = At::Away;
        if was_up && why != LegDown::Closed && !matches!(self.phase, Phase::Look { .. }) {
            self.lost(leg, Fault::Leg);
        }
    }

    fn lost(&mut self, leg: Leg, fault: Fault) {
        self.at[leg.index()] = At::Away;
        self.tracks[leg.index()].head = None;
        // A report about the other leg is still worth having; one that is fenced only may be away.
        let looking = matches!(self.phase, Phase::Look { .. });
        if self.order.task != Task::Inspect && (self.is_written(leg) || !looking) {
            self.fail(match fault {
                Fault::Taken => Failure::Taken(leg),
                Fault::Leg | Fault::Unreserved => Failure::Unreachable(leg),
            });
        }
    }

    fn script_ended(&mut self, now: Duration, leg: Leg, ended: Ended) {
        match ended {
            Ended::Written if self.at[leg.index()] == At::Registering => self.read(now, leg),
            Ended::Read(head) => {
                self.tracks[leg.index()].head = Some(head);
                self.at[leg.index()] = At::Looked;
            }
            Ended::Written | Ended::Fenced | Ended::Probed => {}
            // The nexus may carry news of an earlier registration.
            Ended::Failed(Kind::Write, Fault::Taken) if self.at[leg.index()] == At::Registering => {
                if let Some(info) = self.tracks[leg.index()].info {
                    self.up(now, leg, info);
                }
            }
            Ended::Failed(_, fault) => self.lost(leg, fault),
        }
    }

    fn read(&mut self, now: Duration, leg: Leg) {
        let track = &mut self.tracks[leg.index()];
        if let Some(info) = track.info {
            self.at[leg.index()] = At::Reading;
            track.look(
                now,
                self.order.volume,
                info,
                &self.order.config,
                &mut self.port,
            );
        }
    }

    fn register_read(
        &mut self,
        now: Duration,
        id: RegisterId,
        read: Result<Option<Box<Register>>, ()>,
    ) {
        match &mut self.phase {
            Phase::Look { register, .. } if *register == Some(id) => {
                *register = None;
                self.register = Some(read);
            }
            Phase::Again { register, .. } if *register == id => self.verify_register(now, read),
            Phase::Outcome {
                register, id: open, ..
            } if *open == id => {
                let proposed = register.clone();
                match self.order.task.clone() {
                    Task::Force(force) => self.force_read(&force, read),
                    _ => self.birth_read(&proposed, read),
                }
            }
            _ => {}
        }
    }

    /// The register as it was first read, if it exists.
    fn seen(&self) -> Option<&Register> {
        self.register.as_ref()?.as_ref().ok()?.as_deref()
    }

    fn time(&mut self, now: Duration) {
        for leg in Leg::BOTH {
            let config = self.order.config;
            let ended = self.tracks[leg.index()].handle_time(now, &config, &mut self.port);
            if let Some(Ended::Failed(_, fault)) = ended {
                self.lost(leg, fault);
            }
        }
        let over = |until: &Duration| *until <= now;
        match &mut self.phase {
            Phase::Look { until, late, .. } if over(until) => *late = true,
            Phase::Again { until, .. } if over(until) => self.fail(Failure::WitnessUnreachable),
            Phase::Cas {
                register, until, ..
            } if over(until) => {
                let register = register.clone();
                self.ask_outcome(now, register);
            }
            Phase::Outcome { until, .. } if over(until) => self.fail(Failure::WitnessUnreachable),
            Phase::Look { .. }
            | Phase::Again { .. }
            | Phase::Cas { .. }
            | Phase::Outcome { .. }
            | Phase::Unregister
            | Phase::Fence
            | Phase::Verify
            | Phase::Write
            | Phase::Gate(_)
            | Phase::Over => {}
        }
    }

    fn advance(&mut self, now: Duration) {
        // A phase that had nothing to send is over at once; phases only go forward.
        while self.end.is_none() && self.turn(now) {}
    }

    /// Leave the phase if it has all it waited for.
    fn turn(&mut self, now: Duration) -> bool {
        let idle = self.tracks.iter().all(LegTrack::is_idle);
        match &self.phase {
            Phase::Look { register, late, .. } => {
                let answered = register.is_none() && !self.beat_asked;
                if !idle || !self.is_settled(answered, *late) {
                    return false;
                }
                self.looked(now);
            }
            Phase::Unregister if idle => self.inspected(),
            Phase::Fence if idle => self.reach(now, Gate::Again),
            Phase::Verify if idle => self.verified(now),
            Phase::Write if idle => self.written(now),
            Phase::Unregister
            | Phase::Fence
            | Phase::Again { .. }
            | Phase::Verify
            | Phase::Write
            | Phase::Gate(_)
            | Phase::Cas { .. }
            | Phase::Outcome { .. }
            | Phase::Over => return false,
        }
        true
    }

    fn is_settled(&self, register_answered: bool, late: bool) -> bool {
        let legs = self
            .order
            .legs
            .iter()
            .all(|leg| match self.at[leg.index()] {
                At::Looked => true,
                At::Away => late,
                At::Registering | At::Reading | At::Ready => false,
            });
        legs && (register_answered || late)
    }

    /// Everything that could be seen without a fence was seen.
    fn looked(&mut self, now: Duration) {
        if self.order.task == Task::Inspect || self.is_forced() {
            self.unregister(now);
            return;
        }
        if let Err(failure) = self.may_begin() {
            self.failure = Some(failure);
            self.unregister(now);
            return;
        }
        self.reach(now, Gate::Fence);
    }

    fn fence(&mut self, now: Duration) {
        self.phase = Phase::Fence;
        for leg in self.order.legs.iter() {
            if self.at[leg.index()] != At::Looked {
                continue;
            }
            let track = &mut self.tracks[leg.index()];
            track.fence(now, self.key, &self.order.config, &mut self.port);
        }
    }

    fn head(&self, leg: Leg) -> Option<(&Head, LegInfo)> {
        let track = &self.tracks[leg.index()];
        Some((track.head.as_deref()?, track.info?))
    }

    fn ask_again(&mut self, now: Duration) {
        let register = self.port.read_register();
        let until = now + self.order.config.register_timeout;
        self.phase = Phase::Again { register, until };
    }

    fn verify_register(&mut self, now: Duration, read: Result<Option<Box<Register>>, ()>) {
        let Ok(read) = read else {
            return self.fail(Failure::WitnessUnreachable);
        };
        if !self.is_as_judged(read.as_deref()) {
            return self.fail(Failure::Changed);
        }
        self.phase = Phase::Verify;
        for leg in Leg::BOTH {
            if !self.order.legs.contains(leg) || !self.is_written(leg) {
                continue;
            }
            let track = &mut self.tracks[leg.index()];
            if let Some(info) = track.info {
                let (key, volume) = (self.key, self.order.volume);
                track.read(now, key, volume, info, &self.order.config, &mut self.port);
            }
        }
    }

    /// Judged once more, behind the fence.
    fn verified(&mut self, now: Duration) {
        let judged = self
            .written_legs()
            .try_for_each(|leg| self.judge(leg).map(drop));
        match judged {
            Ok(()) => self.reach(now, Gate::Write),
            Err(failure) => self.fail(failure),
        }
    }

    fn write(&mut self, now: Duration) {
        self.phase = Phase::Write;
        let legs: Vec<Leg> = self.written_legs().collect();
        for leg in legs {
            let work = match self.judge(leg) {
                Ok(Judged::Ready) => {
                    self.at[leg.index()] = At::Ready;
                    continue;
                }
                Ok(Judged::Work) => self.work(leg),
                Err(failure) => return self.fail(failure),
            };
            match work {
                Ok(sequence) => {
                    let track = &mut self.tracks[leg.index()];
                    track.write(now, sequence, &self.order.config, &mut self.port);
                }
                Err(failure) => return self.fail(failure),
            }
        }
    }

    fn work(&mut self, leg: Leg) -> Result<Sequence, Failure> {
        let (head, info) = self.head(leg).ok_or(Failure::Unreachable(leg))?;
        match &self.order.task {
            Task::Birth { size, .. } => {
                let geometry = Geometry::for_new(*size).map_err(|_| Failure::BadSize)?;
                let register = self.seen().ok_or(Failure::WrongState)?;
                Ok(birth::work(
                    register,
                    leg,
                    &self.order,
                    self.key,
                    geometry,
                    &info,
                ))
            }
            Task::Wipe => Ok(wipe::wipe(self.key, head)),
            Task::Reseed(order) => {
                let body = head.body.as_ref().ok_or(Failure::ForeignData(leg))?;
                Ok(reseed::reseed(order.register_id, &body.superblock))
            }
            Task::Force(force) => {
                let body = head.body.as_ref().ok_or(Failure::ForeignData(leg))?;
                Ok(Self::mark(force, &body.superblock))
            }
            Task::Inspect => Err(Failure::WrongState),
        }
    }

    fn written(&mut self, now: Duration) {
        match self.order.task.clone() {
            Task::Birth { .. } => self.born(now),
            Task::Wipe => self.finish(Done::Wiped),
            Task::Force(_) => self.reach(now, Gate::Tell),
            Task::Reseed(order) => {
                for leg in order.chosen.iter() {
                    let seed = self.head(leg).and_then(|(head, _)| {
                        reseed_seed(&head.body.as_ref()?.superblock, order.register_id)
                    });
                    self.seeds[leg.index()] = seed;
                }
                self.finish(Done::Reseeded { legs: self.seeds });
            }
            Task::Inspect => {}
        }
    }

    fn cas_answered(&mut self, now: Duration, id: RegisterId, result: CasResult) {
        let Phase::Cas {
            register, id: open, ..
        } = &self.phase
        else {
            return;
        };
        if *open != id {
            return;
        }
        match result {
            CasResult::Won if matches!(self.order.task, Task::Force(_)) => {
                self.finish(Done::Forced);
            }
            CasResult::Won => self.finish(Done::Born { live: true }),
            CasResult::Conflict | CasResult::Unknown => {
                let register = register.clone();
                self.ask_outcome(now, register);
            }
        }
    }

    fn ask_outcome(&mut self, now: Duration, register: Register) {
        let id = self.port.read_register();
        let until = now + self.order.config.register_timeout;
        self.phase = Phase::Outcome {
            register,
            id,
            until,
        };
    }

    fn fail(&mut self, failure: Failure) {
        self.close(Err(failure));
    }

    fn finish(&mut self, done: Done) {
        self.close(Ok(done));
    }

    fn close(&mut self, end: Result<Done, Failure>) {
        if self.end.is_some() {
            return;
        }
        for leg in self.order.legs.iter() {
            self.tracks[leg.index()].down();
            self.port.push(Output::Disconnect { leg });
        }
        self.phase = Phase::Over;
        self.end = Some(end);
    }
}
