//! Attach: from an order to a set of legs that may serve.
//!
//! ```text
//! Check   read R, log in, look (no registration needed) -> may_fence, order rule (R28, R38)
//! Fence   keys on disk, then PREEMPT AND ABORT on each leg (R6)
//! Decide  verify after the last fence, read superblocks and maps, R once more -> the table (R5, R26, R37)
//! CasWait the one request (R24); its outcome is awaited, never guessed (R4, R41)
//! SbWrite superblocks of the set, both slots (R3, R32)
//! LeaseWait -> Served
//! ```
//! Whatever goes wrong, nothing is owed: R is ahead of the legs or equal to them, and the next attach finishes it. A leg that
//! is lost sends the attach back to Decide with the fences held, at most [`MAX_ROUNDS`] times. An attach that goes on behind
//! a shown device (`patient`) waits where another one refuses.
//!
//! The volumes of a group attach as one (2.10): every step is done for all of them before the next one begins, the set is the
//! legs that are usable for every volume, and there is one request. A single volume is a group of one.
//!
//! Invariants: no fence before the keys are on disk; no request before `n` is on disk; at most one request is open; nothing
//! is served before every leg of the set is durable and the lease is over.
//! Not here: what a row says ([`crate::activation`]), how a leg is fenced ([`crate::fence`]), serving.

mod again;
mod cas;
mod check;
mod choose;
mod ending;
mod events;
mod finish;
mod head;
mod lease;
mod leg;
pub mod oneshot;
mod order;
mod release;
mod sequence;
mod settle;

pub(crate) use release::Release;

use std::time::Duration;

use twinsite_register::{BeatObject, Leg, Members, Order, Register, StampId};

use crate::activation::Cas;
use crate::engine::{AttachEnd, IdSource, Port, Served};
use crate::io::{AttachOrder, AttachRecord, Input, Output, RegisterId};
use crate::status::{Refusal, StateName};
use cas::CasWait;
use leg::{Ended, LegTrack};

/// Rounds of verify, read and decide in one attach.
const MAX_ROUNDS: u32 = 5;

/// The register as it was last read.
#[derive(Clone, Debug)]
enum Seen {
    Unreadable,
    Absent,
    Value(Box<Register>),
}

impl Seen {
    fn value(&self) -> Option<&Register> {
        match self {
            Self::Value(register) => Some(register),
            Self::Unreadable | Self::Absent => None,
        }
    }
}

/// The register and the beat object of every volume were asked for.
#[derive(Clone, Copy, Debug)]
struct Ask {
    register: Option<RegisterId>,
    until: Duration,
}

/// What the table said, carried through the request and the writes.
#[derive(Clone, Copy, Debug)]
struct Plan {
    set: Members,
    cas: Option<Cas>,
    /// The row, for the history ring.
    why: &'static str,
}

#[derive(Clone, Debug)]
enum Phase {
    Check {
        ask: Ask,
        login_until: [Duration; 2],
    },
    /// The keys go to disk before the first fence.
    SaveKeys,
    Fence,
    /// What is under way on the legs ends first: a late write of ours must not come after a newer one.
    Drain,
    ReadLegs,
    ReadRegister(Ask),
    /// The place in the order goes to disk before the request, or without the register before the superblocks.
    SavePlace(Plan),
    CasWait {
        plan: Plan,
        wait: Box<CasWait>,
    },
    SbWrite {
        plan: Plan,
    },
    LeaseWait {
        plan: Plan,
        until: Duration,
    },
    /// A patient attach looks again later.
    Pause {
        until: Duration,
    },
}

/// One volume of an attach.
#[derive(Clone, Debug)]
struct OfVolume {
    /// Key, seed, site, node, move, marks and limits are those of every volume of the attach.
    order: AttachOrder,
    record: AttachRecord,
    /// A record is on its way to the disk.
    record_open: bool,
    legs: [LegTrack; 2],
    beat_object: Option<BeatObject>,
    beat_asked: bool,
    /// What step 2 fences.
    fence: Members,
    /// Legs whose superblocks of step 6 are durable.
    durable: Members,
    /// The leg that runs alone lost a volatile cache since its recorded boot id (R40).
    restarted: bool,
    /// A device of an earlier attach would go on: only behind keys of the record (R38).
    continuing: bool,
}

/// One attach.
#[derive(Clone, Debug)]
pub(crate) struct Attach {
    /// At least one.
    volumes: Vec<OfVolume>,
    ids: IdSource,
    seen: Seen,
    /// The stamp that the register showed before the verification of this round.
    stamp_before: Option<StampId>,
    phase: Phase,
    started: Duration,
    /// Of the last input.
    now: Duration,
    rounds: u32,
    last_fence: Duration,
    /// Every lease that a superblock named, over all rounds: our own writes must not hide an older one.
    leases_ms: Vec<u32>,
    /// The register after our own won request: a detach releases it.
    stamped: Option<Box<Register>>,
    /// The device is shown by this engine and its requests wait: nobody else tries again for us.
    patient: bool,
    /// Where a patient attach begins again.
    from_check: bool,
    detaching: bool,
}

impl Attach {
    /// Begin with the orders of one or more volumes that share a register: read it, log in to all legs.
    pub(crate) fn start(now: Duration, orders: Vec<AttachOrder>, port: &mut Port) -> Self {
        let ids = IdSource::new(orders.first().map_or([0; 32], |order| order.seed));
        let mut attach = Self::new(now, orders, ids);
        for (v, volume) in attach.volumes.iter_mut().enumerate() {
            volume.continuing = volume.order.shown;
            // What an earlier device was owed is nothing to a new one.
            volume.record.flush_owed &= volume.continuing;
            for leg in Leg::BOTH {
                port.of(v).push(Output::Connect { leg });
            }
        }
        attach.enter_check(now, port);
        attach
    }

    fn new(now: Duration, orders: Vec<AttachOrder>, ids: IdSource) -> Self {
        let of_volume = |(v, order): (usize, AttachOrder)| OfVolume {
            record: order.record.clone(),
            record_open: false,
            order,
            legs: Leg::BOTH.map(|leg| LegTrack::new(v, leg)),
            beat_object: None,
            beat_asked: false,
            fence: Members::NONE,
            durable: Members::NONE,
            restarted: false,
            continuing: false,
        };
        Self {
            volumes: orders.into_iter().enumerate().map(of_volume).collect(),
            ids,
            seen: Seen::Unreadable,
            stamp_before: None,
            phase: Phase::Pause { until: now },
            started: now,
            now,
            rounds: 0,
            last_fence: now,
            leases_ms: Vec::new(),
            stamped: None,
            patient: false,
            from_check: false,
            detaching: false,
        }
    }

    /// What is the same for all volumes.
    fn order(&self) -> &AttachOrder {
        &self.volumes[0].order
    }

    fn indices(&self) -> std::ops::Range<usize> {
        0..self.volumes.len()
    }

    fn all_legs(&self) -> impl Iterator<Item = (usize, Leg)> + use<> {
        self.indices().flat_map(|v| Leg::BOTH.map(|leg| (v, leg)))
    }

    fn tracks(&self) -> impl Iterator<Item = &LegTrack> {
        self.volumes.iter().flat_map(|volume| &volume.legs)
    }

    fn track(&self, v: usize, leg: Leg) -> &LegTrack {
        &self.volumes[v].legs[leg.index()]
    }

    fn track_mut(&mut self, v: usize, leg: Leg) -> &mut LegTrack {
        &mut self.volumes[v].legs[leg.index()]
    }

    /// For status.
    pub(crate) fn state(&self) -> StateName {
        match self.phase {
            Phase::Check { .. } | Phase::SaveKeys => StateName::Check,
            Phase::Fence => StateName::Fence,
            Phase::Drain
            | Phase::ReadLegs
            | Phase::ReadRegister(_)
            | Phase::SavePlace(_)
            | Phase::Pause { .. } => StateName::Decide,
            Phase::CasWait { .. } => StateName::CasWait,
            Phase::SbWrite { .. } => StateName::SbWrite,
            Phase::LeaseWait { .. } => StateName::LeaseWait,
        }
    }

    /// When [`Input::Tick`] is wanted.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let phase = match &self.phase {
            Phase::Check { ask, login_until } => {
                let waited = |leg: &Leg| self.indices().any(|v| !self.is_looked_at(v, *leg));
                let logins = Leg::BOTH.into_iter().filter(waited);
                let waits = logins
                    .map(|leg| login_until[leg.index()])
                    .chain([ask.until]);
                waits.filter(|at| *at > self.now).min()
            }
            Phase::ReadRegister(ask) => Some(ask.until),
            Phase::CasWait { wait, .. } => Some(wait.deadline()),
            // Else the wait is for the record or for a leg, and a tick in the past would only be repeated.
            Phase::LeaseWait { plan, until } => {
                (!self.record_is_open() && self.all_held(plan.set)).then_some(*until)
            }
            Phase::Pause { until } => Some(*until),
            Phase::SaveKeys
            | Phase::Fence
            | Phase::Drain
            | Phase::ReadLegs
            | Phase::SavePlace(_)
            | Phase::SbWrite { .. } => None,
        };
        // What is past was acted on, and waits for something else now.
        let phase = phase.filter(|at| *at > self.now);
        let legs = self.tracks().filter_map(LegTrack::deadline);
        phase.into_iter().chain(legs).chain(self.budget()).min()
    }

    fn budget(&self) -> Option<Duration> {
        (!self.patient).then(|| self.started + self.order().config.attach_timeout)
    }

    /// Take one input of a volume; the end, if it was the last.
    pub(crate) fn handle(
        &mut self,
        now: Duration,
        v: usize,
        input: &Input,
        port: &mut Port,
    ) -> Option<AttachEnd<Vec<Served>>> {
        self.now = now;
        let config = self.order().config;
        let ended = match input {
            Input::LegUp { leg, info } => {
                self.track_mut(v, *leg).up(now, *info, &config, port);
                None
            }
            Input::LegDown { leg, why } => self.leg_down(now, (v, *leg), *why, port),
            Input::LegDone { leg, cmd, result } => {
                let track = self.track_mut(v, *leg);
                let ended = track.handle_done(now, *cmd, result.clone(), &config, port);
                ended.and_then(|ended| self.script_ended(now, (v, *leg), ended, port))
            }
            Input::RegisterRead { id, result } => self.register_read(now, *id, result, port),
            Input::RegisterCas { id, result } => {
                let Phase::CasWait { wait, .. } = &mut self.phase else {
                    return None;
                };
                let end = wait.handle_cas(now, *id, *result, &config, port);
                end.and_then(|end| self.cas_ended(now, end, port))
            }
            Input::RecordSaved if port.of(v).record_saved() => self.record_saved(now, v, port),
            Input::RecordSaved => None,
            Input::BeatObject { result } => {
                self.beat_read(v, *result);
                None
            }
            Input::Detach => {
                self.detaching = true;
                None
            }
            Input::Tick
            | Input::Attach(_)
            | Input::DropLeg(_)
            | Input::Expand { .. }
            | Input::Verify(_)
            | Input::SetFormat { .. }
            | Input::Guest { .. } => None,
        };
        // Not at a tick only: an input may come late, and what is due by then must not be forgotten.
        ended
            .or_else(|| self.time(now, port))
            .or_else(|| self.advance(now, port))
    }

    fn ask(&mut self, now: Duration, port: &mut Port) -> Ask {
        self.seen = Seen::Unreadable;
        for (v, volume) in self.volumes.iter_mut().enumerate() {
            volume.beat_asked = true;
            port.of(v).push(Output::ReadBeat);
        }
        Ask {
            register: Some(port.of(0).read_register()),
            until: now + self.order().config.register_timeout,
        }
    }

    fn is_answered(&self, now: Duration, ask: &Ask) -> bool {
        let beats = self.volumes.iter().any(|volume| volume.beat_asked);
        (ask.register.is_none() && !beats) || ask.until <= now
    }

    fn time(&mut self, now: Duration, port: &mut Port) -> Option<AttachEnd<Vec<Served>>> {
        let config = self.order().config;
        for (v, leg) in self.all_legs() {
            let ended = self.track_mut(v, leg).handle_time(now, &config, port);
            if let Some(Ended::Failed(kind, fault)) = ended
                && let Some(end) = self.script_failed(now, (v, leg), kind, fault, port)
            {
                return Some(end);
            }
        }
        match &mut self.phase {
            Phase::CasWait { wait, .. } => wait.handle_time(now, &config, port.of(0)),
            Phase::Pause { until } if *until <= now => {
                self.rounds = 0;
                if self.from_check {
                    self.enter_check(now, port);
                } else {
                    self.begin_round();
                }
            }
            Phase::Pause { .. }
            | Phase::Check { .. }
            | Phase::SaveKeys
            | Phase::Fence
            | Phase::Drain
            | Phase::ReadLegs
            | Phase::ReadRegister(_)
            | Phase::SavePlace(_)
            | Phase::SbWrite { .. }
            | Phase::LeaseWait { .. } => {}
        }
        if self.budget().is_some_and(|until| until <= now) {
            let waits_for_leg =
                matches!(self.phase, Phase::SbWrite { .. } | Phase::LeaseWait { .. });
            let why = if waits_for_leg {
                Refusal::WaitMember
            } else {
                Refusal::TimedOut
            };
            return self.refuse(now, why, port);
        }
        None
    }

    /// Go on as far as what is known allows.
    fn advance(&mut self, now: Duration, port: &mut Port) -> Option<AttachEnd<Vec<Served>>> {
        // Each turn leaves its phase, and rounds are bounded.
        while self.is_due(now) {
            if let Some(end) = self.turn(now, port) {
                return Some(end);
            }
        }
        None
    }

    /// Has the phase all it waited for?
    fn is_due(&self, now: Duration) -> bool {
        let idle = || self.tracks().all(LegTrack::is_idle);
        match &self.phase {
            // A request under way has an outcome first, and what it stamped is released.
            Phase::CasWait { .. } => false,
            _ if self.detaching => true,
            Phase::Check { ask, login_until } => self.check_is_over(now, ask, login_until),
            Phase::Fence | Phase::Drain | Phase::ReadLegs => idle(),
            Phase::ReadRegister(ask) => self.is_answered(now, ask),
            Phase::SbWrite { plan } => self.volumes.iter().all(|volume| volume.durable == plan.set),
            Phase::LeaseWait { plan, until } => {
                *until <= now && !self.record_is_open() && self.all_held(plan.set)
            }
            Phase::SaveKeys | Phase::SavePlace(_) | Phase::Pause { .. } => false,
        }
    }

    fn turn(&mut self, now: Duration, port: &mut Port) -> Option<AttachEnd<Vec<Served>>> {
        if self.detaching {
            return Some(self.detached(port));
        }
        match &self.phase {
            Phase::Check { .. } => return self.check(now, port),
            Phase::Fence => self.begin_round(),
            Phase::Drain if self.rounds > MAX_ROUNDS => {
                return self.refuse(now, Refusal::TimedOut, port);
            }
            Phase::Drain => self.read_legs(now, port),
            Phase::ReadLegs => {
                self.stamp_before = self.seen.value().map(|register| register.stamp_id);
                let ask = self.ask(now, port);
                self.phase = Phase::ReadRegister(ask);
            }
            Phase::ReadRegister(_) => return self.choose(now, port),
            Phase::SbWrite { plan } => {
                let plan = *plan;
                self.enter_lease(now, plan, port);
            }
            Phase::LeaseWait { plan, .. } => {
                let plan = *plan;
                return Some(self.serve(plan, port));
            }
            Phase::SaveKeys | Phase::SavePlace(_) | Phase::CasWait { .. } | Phase::Pause { .. } => {
            }
        }
        None
    }

    /// From step 3 of the attach: verify the fences and read. Legs that are back take part.
    fn begin_round(&mut self) {
        self.rounds += 1;
        self.phase = Phase::Drain;
    }

    fn read_legs(&mut self, now: Duration, port: &mut Port) {
        self.phase = Phase::ReadLegs;
        for volume in &mut self.volumes {
            let order = &volume.order;
            for track in &mut volume.legs {
                track.head = None;
                if let (Some(info), true, false) = (track.info, track.fenced, track.given_up) {
                    track.read(now, order.key, order.volume, info, &order.config, port);
                }
            }
        }
    }

    /// Are these legs of every volume ours, and at rest?
    fn all_held(&self, set: Members) -> bool {
        self.indices().all(|v| {
            set.iter().all(|leg| {
                let track = self.track(v, leg);
                track.is_held() && track.is_idle()
            })
        })
    }

    fn record_is_open(&self) -> bool {
        self.volumes.iter().any(|volume| volume.record_open)
    }

    fn save_records(&mut self, port: &mut Port) {
        for (v, volume) in self.volumes.iter_mut().enumerate() {
            volume.record_open = true;
            port.of(v).save_record(volume.record.clone());
        }
    }

    fn place(&self) -> Order {
        Order {
            n: self.highest_n().unwrap_or(0),
            uid: self.order().uid,
        }
    }

    fn highest_n(&self) -> Option<u64> {
        self.volumes.iter().filter_map(|v| v.record.n).max()
    }
}

#[cfg(test)]
mod tests;
