//! Guest reads, writes and discards, from admission to the answer.
//!
//! ```text
//! waiting -> gated (region not reconciled) -> lock -> gate 1 (page on one leg) -> data to the targets
//!         -> data on every needed leg and gate 2 (page on all) -> answered -> every command over -> gone
//! ```
//!
//! Invariants: data leaves only after gate 1 (R1); a write is answered only when every leg of `need` has it and its page
//! (R2); the lock is held until no command of the request is under way, so two writes to one block keep their order on each
//! leg; after the answer no new command is sent with the request's buffer; a write that was answered with an error has its
//! regions in `must` before the answer, and they leave it only by a copy or with the other leg (R45).
//! Not here: what a leg did not do (`failed`), starting over in another membership (`again`).

use std::time::Duration;

use twinsite_register::{Leg, Members};

use super::Serve;
use super::commands::Purpose;
use super::state::{Admit, State};
use crate::dirty::Claim;
use crate::io::{DATA_START, GuestError, GuestOp, LegOp, Output, ReqId};
use crate::locks::{Access, Held, Lock};
use crate::regions::span;
use crate::slab::Handle;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Read,
    Write { fua: bool },
    Discard,
    Zero,
}

/// A request's data on one leg.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LegIo {
    /// Not a target, or not yet.
    No,
    /// To be sent as soon as the leg is ready.
    Wait,
    Sent,
    Done,
}

/// A guest request under way.
#[derive(Debug)]
pub(super) struct Req {
    pub(super) id: ReqId,
    pub(super) kind: Kind,
    pub(super) offset: u64,
    /// Bytes of the piece under way.
    pub(super) len: u64,
    /// Bytes of a discard behind this piece.
    pub(super) rest: u64,
    pub(super) need: Members,
    pub(super) io: [LegIo; 2],
    /// Page transactions that must open gate 1, gate 2.
    pub(super) gate1: u32,
    pub(super) gate2: u32,
    pub(super) held: Option<Held>,
    pub(super) issued: bool,
    pub(super) answered: bool,
    /// Set at the first send: time runs on over a relogin.
    pub(super) deadline: Option<Duration>,
    /// Members that failed it.
    pub(super) failed: Members,
    /// Starts over when nothing of it is under way.
    pub(super) restart: bool,
}

impl Req {
    pub(super) fn op(&self, _leg: Leg) -> LegOp {
        let offset = DATA_START + self.offset;
        // Reads and writes are at most `io_max`, tested at admission.
        let len = self.len as u32;
        match self.kind {
            Kind::Read => LegOp::ReadData {
                req: self.id,
                offset,
                len,
            },
            Kind::Write { fua } => LegOp::WriteData {
                req: self.id,
                skip: 0,
                offset,
                len,
                fua,
            },
            Kind::Discard => LegOp::Discard {
                offset,
                len: self.len,
            },
            Kind::Zero => LegOp::Zero {
                offset,
                len: self.len,
            },
        }
    }

    pub(super) fn done(&self) -> Members {
        Leg::BOTH
            .into_iter()
            .filter(|leg| self.io[leg.index()] == LegIo::Done)
            .collect()
    }

    pub(super) fn under_way(&self) -> bool {
        self.io.contains(&LegIo::Sent)
    }

    pub(super) fn is_write(&self) -> bool {
        self.kind != Kind::Read
    }

    /// Was it sent when fewer legs had to have it?
    pub(super) fn older(&self, need: Members) -> bool {
        self.issued && self.need != need
    }
}

/// Who holds an interval.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    Guest(Handle),
    Copy(u32),
    Verify(Handle),
}

impl Serve {
    /// A guest request arrives.
    pub(super) fn guest(&mut self, id: ReqId, op: GuestOp) {
        if let Err(error) = self.acceptable(op) {
            self.out.push(Output::GuestDone {
                id,
                result: Err(error),
            });
        } else if matches!(op, GuestOp::Flush) {
            self.flush_request(id);
        } else if self.waiting.is_empty() && self.may_admit(op) {
            self.admit(id, op);
        } else if self.waiting.len() >= self.config.max_queued as usize {
            self.out.push(Output::GuestDone {
                id,
                result: Err(GuestError::QueueFull),
            });
        } else {
            self.waiting.push_back((id, op));
        }
    }

    fn acceptable(&self, op: GuestOp) -> Result<(), GuestError> {
        if !self.shown || self.stopping {
            return Err(GuestError::NotShown);
        }
        if self.failing && !matches!(op, GuestOp::Read { .. }) {
            return Err(GuestError::Io);
        }
        let (offset, len, max) = match op {
            GuestOp::Read { offset, len } | GuestOp::Write { offset, len, .. } => {
                (offset, u64::from(len), u64::from(self.config.io_max))
            }
            GuestOp::Discard { offset, len } | GuestOp::WriteZeros { offset, len } => {
                (offset, len, u64::MAX)
            }
            GuestOp::Flush => return Ok(()),
        };
        let fits = offset
            .checked_add(len)
            .is_some_and(|end| end <= self.geometry.size());
        let aligned = (offset | len).is_multiple_of(512);
        if fits && aligned && len > 0 && len <= max {
            Ok(())
        } else {
            Err(GuestError::Invalid)
        }
    }

    fn may_admit(&self, op: GuestOp) -> bool {
        let (read, bytes) = match op {
            GuestOp::Read { len, .. } => (true, u64::from(len)),
            GuestOp::Write { len, .. } => (false, u64::from(len)),
            GuestOp::Discard { .. } | GuestOp::WriteZeros { .. } | GuestOp::Flush => (false, 0),
        };
        let wanted = match self.policy.admit {
            Admit::Nothing => false,
            Admit::Reads => read,
            Admit::All => true,
        };
        let used = self.reqs.len();
        wanted
            && used < self.config.max_requests as usize
            && (used == 0 || self.bytes + bytes <= self.config.max_bytes)
    }

    /// Take up what waits for a permit, in order.
    pub(super) fn admit_waiting(&mut self) {
        while let Some(&(id, op)) = self.waiting.front() {
            if !self.may_admit(op) {
                break;
            }
            self.waiting.pop_front();
            self.admit(id, op);
        }
    }

    fn admit(&mut self, id: ReqId, op: GuestOp) {
        let (kind, offset, len) = match op {
            GuestOp::Read { offset, len } => {
                self.counters.reads += 1;
                self.counters.read_bytes += u64::from(len);
                (Kind::Read, offset, u64::from(len))
            }
            GuestOp::Write { offset, len, fua } => {
                self.counters.writes += 1;
                self.counters.written_bytes += u64::from(len);
                (Kind::Write { fua }, offset, u64::from(len))
            }
            GuestOp::Discard { offset, len } => {
                self.counters.discards += 1;
                (Kind::Discard, offset, len)
            }
            GuestOp::WriteZeros { offset, len } => {
                self.counters.discards += 1;
                (Kind::Zero, offset, len)
            }
            GuestOp::Flush => return,
        };
        let (kind, piece) = self.piece(kind, offset, len);
        if matches!(kind, Kind::Read | Kind::Write { .. }) {
            self.bytes += piece;
        }
        let at = self.reqs.insert(Req {
            id,
            kind,
            offset,
            len: piece,
            rest: len - piece,
            need: Members::NONE,
            io: [LegIo::No; 2],
            gate1: 0,
            gate2: 0,
            held: None,
            issued: false,
            answered: false,
            deadline: None,
            failed: Members::NONE,
            restart: false,
        });
        self.begin(at);
    }

    /// Wait for the regions to be reconciled, then for the bytes.
    pub(super) fn begin(&mut self, at: Handle) {
        let Some(req) = self.reqs.get(at) else { return };
        if req.answered {
            return;
        }
        if matches!(self.state, State::Equalise | State::FirstBeat) {
            // R42: no page transaction before the pages are equal, no data before the first beat.
            self.delayed.push(at);
            return;
        }
        let run = span(self.geometry, req.offset, req.len);
        if let Some(region) = self.gated(run) {
            self.parked.entry(region).or_default().push(at);
            self.hurry(region);
            return;
        }
        let access = if req.is_write() {
            Access::Write
        } else {
            Access::Read
        };
        let lock = Lock {
            owner: Owner::Guest(at),
            access,
            offset: req.offset,
            len: req.len,
        };
        if let Some(held) = self.locks.acquire(lock) {
            self.locked(at, held);
        }
    }

    /// The lock was granted.
    pub(super) fn locked(&mut self, at: Handle, held: Held) {
        let Some(req) = self.reqs.get_mut(at) else {
            self.unlock(held);
            return;
        };
        if req.answered {
            self.unlock(held);
            self.forget_req(at);
            return;
        }
        req.held = Some(held);
        let run = span(self.geometry, req.offset, req.len);
        if self.gated(run.clone()).is_some() {
            // It became must-reconcile while we waited for the bytes.
            if let Some(req) = self.reqs.get_mut(at) {
                req.held = None;
            }
            self.unlock(held);
            self.begin(at);
            return;
        }
        let Some(req) = self.reqs.get_mut(at) else {
            return;
        };
        if !req.is_write() {
            self.send_read(at);
            return;
        }
        self.verify.note_write(req.offset, req.len);
        let (mut gate1, mut gate2) = (0, 0);
        for region in run {
            match self.map.claim(region, at, self.tick) {
                Claim::Hot => {}
                Claim::Gate2 => gate2 += 1,
                Claim::Both => {
                    gate1 += 1;
                    gate2 += 1;
                    self.cold(region);
                }
            }
        }
        let Some(req) = self.reqs.get_mut(at) else {
            return;
        };
        (req.gate1, req.gate2) = (gate1, gate2);
        if gate1 > 0 {
            self.counters.cold_writes += 1;
        }
        if gate2 > 0 {
            self.start_pages();
        }
        if gate1 == 0 {
            self.send_write(at);
        }
    }

    /// Gate 1 is open for all regions of the write: the data goes to every target of the present state.
    fn send_write(&mut self, at: Handle) {
        if self.state.is_over() {
            return;
        }
        let policy = self.policy;
        let Some(req) = self.reqs.get_mut(at) else {
            return;
        };
        req.issued = true;
        req.need = policy.need;
        let deadline = *req.deadline.get_or_insert(self.now + self.config.t_cmd);
        let run = span(self.geometry, req.offset, req.len);
        for leg in policy.targets.iter() {
            let ready = self.links[leg.index()].ready();
            if let Some(req) = self.reqs.get_mut(at) {
                req.io[leg.index()] = if ready { LegIo::Sent } else { LegIo::Wait };
            }
            if ready {
                self.send_until(leg, Purpose::Guest(at), deadline);
            } else {
                self.links[leg.index()].note_deadline(deadline);
            }
        }
        if let Some(target) = self
            .rejoin
            .target
            .filter(|&target| !policy.targets.contains(target))
        {
            debug_assert!(!self.running.members.contains(target));
            for region in run {
                self.copy_again(region);
            }
        }
    }

    /// GOOD for the data of a request.
    pub(super) fn guest_done(&mut self, at: Handle, leg: Leg) {
        let Some(req) = self.reqs.get_mut(at) else {
            return;
        };
        req.io[leg.index()] = LegIo::Done;
        if req.restart {
            self.restart_guest(at);
            return;
        }
        match req.kind {
            Kind::Read => {
                self.read_returned(at, leg);
                return;
            }
            Kind::Write { fua: true } => {}
            Kind::Write { fua: false } | Kind::Discard | Kind::Zero => {
                self.syncs[leg.index()].wrote()
            }
        }
        let failed = !req.failed.is_empty();
        if self.running.members.sole() == Some(leg) {
            let run = span(self.geometry, req.offset, req.len);
            self.rewritten(run);
        }
        if failed {
            self.settle_failed(at);
        }
        self.try_answer(at);
    }

    /// Answer a write if it may be answered now; forget it when nothing of it is under way.
    pub(super) fn try_answer(&mut self, at: Handle) {
        let answer = self.policy.answer;
        let Some(req) = self.reqs.get_mut(at) else {
            return;
        };
        if !req.answered {
            let complete =
                req.issued && req.is_write() && req.gate2 == 0 && req.done().includes(req.need);
            if !complete || !answer || req.need.is_empty() {
                return;
            }
            if req.rest > 0 {
                if !req.under_way() {
                    self.next_piece(at);
                }
                return;
            }
            req.answered = true;
            let (id, deadline) = (req.id, req.deadline);
            self.out.push(Output::GuestDone { id, result: Ok(()) });
            self.guest_took(deadline);
        }
        self.forget_req(at);
    }

    /// The request was answered: once no command names its buffer, its bytes and its permit are free.
    pub(super) fn forget_req(&mut self, at: Handle) {
        let Some(req) = self.reqs.get(at) else { return };
        if !req.answered || req.under_way() {
            return;
        }
        let write = req.is_write();
        let (offset, len, kind) = (req.offset, req.len, req.kind);
        let waiting = req.held.is_none() && !req.issued;
        let Some(req) = self.reqs.remove(at) else {
            return;
        };
        if matches!(kind, Kind::Read | Kind::Write { .. }) {
            self.bytes -= len;
        }
        if write {
            for region in span(self.geometry, offset, len) {
                self.map.touch(region, self.tick);
            }
        }
        if let Some(held) = req.held {
            self.unlock(held);
        } else if waiting {
            let mut granted = std::mem::take(&mut self.granted);
            self.locks.cancel(Owner::Guest(at), &mut granted);
            self.granted = granted;
            self.run_granted();
        }
        if !self.waiting.is_empty() {
            self.admit_waiting();
        }
    }

    pub(super) fn unlock(&mut self, held: Held) {
        let mut granted = std::mem::take(&mut self.granted);
        self.locks.release(held, &mut granted);
        self.granted = granted;
        self.run_granted();
    }

    pub(super) fn run_granted(&mut self) {
        while let Some((owner, held)) = self.granted.pop() {
            match owner {
                Owner::Guest(at) => self.locked(at, held),
                Owner::Copy(slot) => self.copy_locked(slot, held),
                Owner::Verify(at) => self.verify_locked(at, held),
            }
        }
    }

    /// A gate of the map opened.
    pub(super) fn gate1(&mut self, at: Handle) {
        let Some(req) = self.reqs.get_mut(at) else {
            return;
        };
        req.gate1 = req.gate1.saturating_sub(1);
        if req.gate1 == 0 && !req.answered && !req.issued {
            self.send_write(at);
        }
    }

    pub(super) fn gate2(&mut self, at: Handle) {
        let Some(req) = self.reqs.get_mut(at) else {
            return;
        };
        req.gate2 = req.gate2.saturating_sub(1);
        if req.gate2 == 0 {
            self.try_answer(at);
        }
    }
}
