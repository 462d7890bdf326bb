//! Own requests to the register: sent until their outcome is known.
//!
//! A request that may still be under way is never forgotten (2.3 rule 4): it is repeated byte for byte and the register read
//! until the read shows that it was won, or that another value replaced the expected one. At most two requests on one
//! expected value are open: shrink and thaw, or grow and bump. The outcome comes from the proposed generation or stamp,
//! never from the transaction id (R41). Without an open request the register is read every ten seconds.

use std::mem::{Discriminant, discriminant};
use std::time::Duration;

use twinsite_register::{Gen, Outcome, Refusal, Register, Stamp, outcome};

use super::Serve;
use super::joint::{Ids, Wish};
use super::state::{Ask, Fact, Standing, State, earliest};
use crate::io::{CasResult, RegisterError, RegisterId};
use crate::status::{Condition, RejoinBlock};

/// After this long without an outcome the operator is told.
const UNKNOWN_AFTER: Duration = Duration::from_secs(5);

/// A request whose outcome is not known.
#[derive(Clone, Debug)]
pub(super) struct Own {
    pub(super) ask: Ask,
    expected: Register,
    proposed: Register,
}

impl Own {
    pub(super) const fn expected(&self) -> &Register {
        &self.expected
    }
}

/// Requests, reads and their timers.
#[derive(Debug)]
pub(super) struct Requests {
    pub(super) open: Vec<Own>,
    read: Option<(RegisterId, Duration)>,
    /// Compare-and-swaps without an answer.
    cas: Vec<(RegisterId, Ask, Duration)>,
    /// When the open requests are repeated, or the register read again.
    again: Option<Duration>,
    pause: Duration,
    since: Duration,
    poll: Duration,
    failures: u32,
    /// Proposed by a request that can no longer execute: the one built again proposes the same.
    generation: Option<(Discriminant<Ask>, Gen)>,
}

impl Requests {
    pub(super) fn new(poll: Duration) -> Self {
        Self {
            open: Vec::new(),
            read: None,
            cas: Vec::new(),
            again: None,
            pause: Duration::ZERO,
            since: Duration::ZERO,
            poll,
            failures: 0,
            generation: None,
        }
    }

    pub(super) fn is_open(&self, ask: impl Fn(Ask) -> bool) -> bool {
        self.open.iter().any(|own| ask(own.ask))
    }

    /// Nothing is asked of the register.
    pub(super) const fn is_idle(&self) -> bool {
        self.open.is_empty() && self.read.is_none()
    }

    pub(super) fn deadline(&self, timeout: Duration) -> Option<Duration> {
        let read = self.read.map(|(_, sent)| sent + timeout);
        let cas = self.cas.iter().map(|&(_, _, sent)| sent + timeout).min();
        let idle = (self.open.is_empty() && self.read.is_none()).then_some(self.poll);
        earliest([read, cas, self.again, idle])
    }
}

impl Serve {
    /// Send this request, or in a group wait until all its volumes want it.
    pub(super) fn want(&mut self, ask: Ask) {
        if self.waits_for_group(Wish::Ask(ask)) {
            return;
        }
        let Some(expected) = self.basis(ask).cloned() else {
            return;
        };
        let generation = match ask {
            Ask::Shrink { .. } | Ask::Grow | Ask::Bump => self.proposal(ask),
            Ask::LateStamp | Ask::Thaw | Ask::Land | Ask::Release => Gen::default(),
        };
        let ids = Ids {
            generation,
            stamp: self.ids.stamp(),
            txid: self.ids.txid(),
        };
        self.send_ask(ask, &expected, &ids);
    }

    /// The new value that this request proposes.
    pub(crate) fn propose(
        &self,
        ask: Ask,
        expected: &Register,
        ids: &Ids,
    ) -> Result<Register, Refusal> {
        let (running, generation, txid) = (&self.running, ids.generation, ids.txid);
        let stamp = Stamp {
            key: running.key,
            stamp_id: ids.stamp,
            order: self.place,
        };
        match ask {
            Ask::LateStamp => expected.late_stamp(running, &stamp, txid),
            Ask::Thaw => expected.thaw(running, &stamp, txid),
            Ask::Shrink { to, drop: true } => {
                expected.drop_leg(running, to.other(), generation, txid)
            }
            Ask::Shrink { to, drop: false } => expected.shrink(running, to, generation, txid),
            Ask::Grow => expected.grow(running, generation, txid),
            Ask::Bump => expected.bump(running, generation, txid),
            Ask::Land => expected.land(running, running.members, txid),
            Ask::Release => expected.release(running.key, txid),
        }
    }

    /// Build the request on this value and send it; the state says that it is open.
    pub(super) fn send_ask(&mut self, ask: Ask, expected: &Register, ids: &Ids) {
        let Ok(proposed) = self.propose(ask, expected, ids) else {
            return;
        };
        match (ask, self.state) {
            (Ask::Shrink { to, .. }, _) => self.enter(State::ShrinkWait(to)),
            (Ask::Thaw, State::ShrinkWait(x)) => self.enter(State::ThawWait(x)),
            (Ask::Grow, _) => self.enter(State::GrowWait),
            (Ask::Bump, _) => self.enter(State::BumpWait),
            (Ask::LateStamp | Ask::Thaw | Ask::Land | Ask::Release, _) => {}
        }
        self.drop_wish();
        self.request(ask, expected.clone(), proposed);
    }

    /// Send a request on a value that names this writer as the holder (R23), with an id of its own (R25); its fact is [`Fact::Outcome`]. `proposed` was made from `expected` by a transition of the register.
    pub(super) fn request(&mut self, ask: Ask, expected: Register, proposed: Register) {
        let requests = &mut self.requests;
        debug_assert!(
            requests.open.iter().all(|own| own.expected == expected),
            "at most two on one expected value"
        );
        if requests.open.is_empty() {
            requests.since = self.now;
            requests.pause = self.config.register_retry.0;
        }
        requests.open.push(Own {
            ask,
            expected,
            proposed,
        });
        requests.again = None;
        self.send_request(requests_last(&self.requests));
    }

    fn send_request(&mut self, index: usize) {
        let Some(own) = self.requests.open.get(index) else {
            return;
        };
        let (ask, expected, proposed) = (own.ask, own.expected.clone(), own.proposed.clone());
        let id = self.out.cas_register(expected, proposed);
        self.requests.cas.push((id, ask, self.now));
    }

    /// Read the register now, unless a read is under way.
    pub(super) fn read_register(&mut self) {
        if self.requests.read.is_none() {
            let id = self.out.read_register();
            self.requests.read = Some((id, self.now));
        }
    }

    /// The generation to propose: the same as long as no request for it had another outcome than "free fields differ".
    pub(super) fn proposal(&mut self, ask: Ask) -> Gen {
        let kind = discriminant(&ask);
        let again = self
            .requests
            .generation
            .filter(|&(of, _)| of == kind)
            .map(|(_, generation)| generation);
        let generation = again.unwrap_or_else(|| self.ids.generation());
        self.requests.generation = Some((kind, generation));
        generation
    }

    /// A read that is certainly sent after this point: an answer to an earlier one is not used.
    pub(super) fn read_register_fresh(&mut self) {
        self.requests.read = None;
        self.read_register();
    }

    pub(super) fn cas_done(&mut self, id: RegisterId, result: CasResult) {
        let Some(at) = self
            .requests
            .cas
            .iter()
            .position(|&(open, _, _)| open == id)
        else {
            return;
        };
        let (_, ask, _) = self.requests.cas.swap_remove(at);
        if result == CasResult::Won
            && let Some(own) = self.requests.open.iter().find(|own| own.ask == ask)
        {
            // The request's own answer: as good as a read that shows what it proposed.
            let register = own.proposed.clone();
            self.resolve(&register);
            return;
        }
        // A refusal is no proof of loss: an earlier copy may have won.
        if self.requests.open.iter().any(|own| own.ask == ask) {
            self.read_register_fresh();
        }
    }

    pub(super) fn register_read(
        &mut self,
        id: RegisterId,
        result: Result<Option<Box<Register>>, RegisterError>,
    ) {
        if self.requests.read.is_none_or(|(open, _)| open != id) {
            return;
        }
        self.requests.read = None;
        self.requests.poll = self.now + self.config.register_poll;
        match result {
            Err(_) => self.register_unreadable(),
            Ok(read) => {
                self.requests.failures = 0;
                self.lower(Condition::WitnessUnreachable);
                match read {
                    // An object that is gone is a lost witness, not a decision.
                    None => self.below(),
                    Some(register) if self.is_below(&register) => self.below(),
                    Some(register) => {
                        // A leg above the register says so until it joins or is looked at again.
                        if self.rejoin.blocked != Some(RejoinBlock::LegAhead) {
                            self.lower(Condition::WitnessRolledBack);
                        }
                        self.resolve(&register);
                    }
                }
            }
        }
    }

    fn register_unreadable(&mut self) {
        self.requests.failures += 1;
        if self.requests.failures >= 2 {
            self.raise(Condition::WitnessUnreachable);
        }
        self.schedule_again();
        if self.requests.open.is_empty() {
            self.fact(Fact::Read(Standing::Unreadable));
        }
    }

    fn below(&mut self) {
        self.raise(Condition::WitnessRolledBack);
        self.schedule_again();
        self.fact(Fact::Read(Standing::Below));
    }

    /// A register older than what this writer runs with was restored from somewhere (2.3 rule 6).
    fn is_below(&self, register: &Register) -> bool {
        let known = |id| register.register_id == id || register.former.contains(&id);
        let ours = self.register.as_ref().map(|register| register.register_id);
        let sbs = self.superblocks.iter().flatten().map(|sb| sb.register_id);
        let marks = self.order.marks.iter();
        if !ours.into_iter().chain(sbs).all(known) {
            return true;
        }
        let lower = register.epoch < self.running.epoch || register.active.seq < self.running.seq;
        let mark_above = marks.clone().any(|mark| {
            mark.register_id == register.register_id
                && (mark.epoch > register.epoch || mark.seq > register.active.seq)
        });
        let known_here = ours.is_none_or(|id| id == register.register_id);
        (known_here && lower) || mark_above
    }

    /// A linearizable value: outcomes of the open requests, or our standing.
    pub(super) fn resolve(&mut self, register: &Register) {
        if self.requests.open.is_empty() {
            let standing = self.standing(register);
            if standing == Standing::Mine || standing == Standing::UnstampedEqual {
                self.register = Some(register.clone());
            }
            self.seen = Some(register.clone());
            self.fact(Fact::Read(standing));
            return;
        }
        self.seen = Some(register.clone());
        let outcomes: Vec<(Ask, Outcome)> = self
            .requests
            .open
            .iter()
            .map(|own| (own.ask, outcome(&own.expected, &own.proposed, register)))
            .collect();
        if outcomes
            .iter()
            .all(|&(_, outcome)| outcome == Outcome::Unknown)
        {
            self.schedule_again();
            for (ask, outcome) in outcomes {
                self.fact(Fact::Outcome(ask, outcome));
            }
            return;
        }
        // One was won, or the expected value is gone: none of them can be executed any more.
        self.note_resolved(register);
        self.requests.open.clear();
        self.requests.cas.clear();
        self.requests.again = None;
        // A read that was sent before this outcome may show an older value.
        self.requests.read = None;
        self.requests.poll = self.now + self.config.register_poll;
        self.lower(Condition::MembershipUnknown);
        if !matches!(outcomes.first(), Some((_, Outcome::Free))) {
            self.requests.generation = None;
        }
        let won = outcomes
            .iter()
            .find(|(_, o)| matches!(o, Outcome::Won | Outcome::WonSuperseded));
        if let Some(&(ask, outcome)) = won.or(outcomes.first()) {
            if matches!(outcome, Outcome::Won | Outcome::Free) {
                self.register = Some(register.clone());
            }
            self.fact(Fact::Outcome(ask, outcome));
        }
    }

    /// Where a register that was read puts this writer.
    fn standing(&self, register: &Register) -> Standing {
        if register.state != twinsite_register::State::Live {
            return Standing::Other;
        }
        let same_place =
            (register.active.site, register.active.seq) == (self.running.site, self.running.seq);
        let later_order = register.order.uid != self.place.uid && register.order.n >= self.place.n;
        if !same_place || later_order {
            return Standing::Other;
        }
        let equal = self.running.equals(register);
        if self.stamped {
            let mine = register.holder == Some(self.running.key) && equal;
            return if mine {
                Standing::Mine
            } else {
                Standing::Other
            };
        }
        match equal {
            true if register.holder == Some(self.running.key) => Standing::Mine,
            true => Standing::UnstampedEqual,
            false => Standing::UnstampedAhead,
        }
    }

    fn schedule_again(&mut self) {
        let longest = self.config.register_retry.1;
        let first = self.config.register_retry.0;
        let pause = self.requests.pause.max(first);
        self.requests.again = Some(self.now + pause);
        self.requests.pause = (pause * 2).min(longest);
    }

    pub(super) fn request_timers(&mut self) {
        let timeout = self.config.register_timeout;
        if self
            .requests
            .read
            .is_some_and(|(_, sent)| sent + timeout <= self.now)
        {
            self.requests.read = None;
            self.register_unreadable();
        }
        let late: Vec<RegisterId> = self
            .requests
            .cas
            .iter()
            .filter(|cas| cas.2 + timeout <= self.now)
            .map(|cas| cas.0)
            .collect();
        for id in late {
            self.cas_done(id, CasResult::Unknown);
        }
        if self.requests.again.is_some_and(|at| at <= self.now) {
            self.requests.again = None;
            for index in 0..self.requests.open.len() {
                self.send_request(index);
            }
            self.read_register_fresh();
        }
        if self.requests.open.is_empty()
            && self.requests.read.is_none()
            && self.requests.poll <= self.now
        {
            self.requests.poll = self.now + self.config.register_poll;
            self.read_register();
        }
        let unknown =
            !self.requests.open.is_empty() && self.now >= self.requests.since + UNKNOWN_AFTER;
        if unknown && self.state != State::Ended {
            self.raise(Condition::MembershipUnknown);
        }
    }

    /// `landed` is set, and `granted` cleared (R44), lazily, and never beside another request (2.3 rule 4).
    pub(super) fn land(&mut self) {
        let members = self.running.members;
        let needed = |register: &Register| register.lacks_land_of(members);
        let needed = self.register.as_ref().is_some_and(needed);
        // A group finds by itself when all its volumes have their superblocks.
        if needed && self.stamped && self.requests.open.is_empty() && self.joint.is_none() {
            self.want(Ask::Land);
        }
    }
}

fn requests_last(requests: &Requests) -> usize {
    requests.open.len().saturating_sub(1)
}
