//! Guest requests when the world changes under them: a leg is back or gone for good, answers may be given again, everything
//! fails, or the legs were decided on anew.

use twinsite_register::{Leg, Members};

use super::Serve;
use super::commands::Purpose;
use super::guest::{Kind, LegIo, Owner};
use crate::io::{GuestError, GuestOp, Output};
use crate::regions::span;
use crate::slab::Handle;

impl Serve {
    /// A leg is ready: what waits for it goes out.
    pub(super) fn resend_guests(&mut self, leg: Leg) {
        for at in self.reqs.handles() {
            let Some(req) = self.reqs.get_mut(at) else {
                continue;
            };
            if req.answered || !req.io.contains(&LegIo::Wait) {
                continue;
            }
            if !req.is_write() {
                self.send_read(at);
            } else if req.io[leg.index()] == LegIo::Wait {
                req.io[leg.index()] = LegIo::Sent;
                let deadline = req.deadline.unwrap_or(self.now + self.config.t_cmd);
                self.send_until(leg, Purpose::Guest(at), deadline);
            }
        }
    }

    /// The leg lost its volatile cache: what it answered for writes that are not answered yet counts no more. A flush that
    /// fails for it may be answered before such a write is (R40).
    pub(super) fn leg_forgot(&mut self, leg: Leg) {
        for at in self.reqs.handles() {
            let Some(req) = self.reqs.get_mut(at) else {
                continue;
            };
            let cached = req.is_write() && req.kind != Kind::Write { fua: true };
            if cached && !req.answered && req.io[leg.index()] == LegIo::Done {
                req.io[leg.index()] = LegIo::Wait;
            }
        }
    }

    /// A leg that failed writes stays after all: it is asked for them once more.
    pub(super) fn ask_again(&mut self, leg: Leg) {
        for at in self.reqs.handles() {
            let Some(req) = self.reqs.get_mut(at) else {
                continue;
            };
            if req.is_write() && !req.answered && req.failed.contains(leg) {
                req.failed = req.failed.without(leg);
                req.io[leg.index()] = LegIo::Wait;
            }
        }
    }

    /// From now on only `members` must have the writes that are under way; a read from another leg is asked again.
    pub(super) fn retarget(&mut self, members: Members) {
        for at in self.reqs.handles() {
            let Some(req) = self.reqs.get_mut(at) else {
                continue;
            };
            if req.is_write() {
                req.need = req.need.and(members);
                for leg in Leg::BOTH {
                    if !members.contains(leg) && req.io[leg.index()] == LegIo::Wait {
                        req.io[leg.index()] = LegIo::No;
                    }
                }
                self.try_answer(at);
            } else if Leg::BOTH
                .into_iter()
                .any(|leg| !members.contains(leg) && req.io[leg.index()] == LegIo::Wait)
            {
                self.send_read(at);
            }
        }
        self.release_reads();
    }

    /// Answers may be given again: look at every request.
    pub(super) fn answer_all(&mut self) {
        for at in self.reqs.handles() {
            self.try_answer(at);
        }
        self.release_reads();
        self.try_flushes();
        self.admit_waiting();
    }

    /// After a new decision every open request starts over, once the commands of its first life are over: then nothing
    /// old can be executed after something newer.
    pub(super) fn restart_guests(&mut self) {
        self.parked.clear();
        self.delayed.clear();
        self.held_reads.clear();
        for at in self.reqs.handles() {
            self.restart_guest(at);
        }
    }

    pub(super) fn restart_guest(&mut self, at: Handle) {
        let Some(req) = self.reqs.get_mut(at) else {
            return;
        };
        for io in &mut req.io {
            if *io != LegIo::Sent {
                *io = LegIo::No;
            }
        }
        (req.gate1, req.gate2, req.need) = (0, 0, Members::NONE);
        req.restart = true;
        if req.under_way() {
            return;
        }
        (req.restart, req.issued, req.deadline, req.failed) = (false, false, None, Members::NONE);
        let held = req.held.take();
        if req.answered {
            req.held = held;
            self.forget_req(at);
            return;
        }
        if let Some(held) = held {
            self.unlock(held);
            self.begin(at);
        } else {
            // It waits for its bytes, or waited for a copy.
            let mut granted = std::mem::take(&mut self.granted);
            self.locks.cancel(Owner::Guest(at), &mut granted);
            self.granted = granted;
            self.run_granted();
            self.begin(at);
        }
    }

    /// Regions that wait for a copy were copied: their requests go on.
    pub(super) fn unpark(&mut self, region: u32) {
        for at in self.parked.remove(&region).unwrap_or_default() {
            match self.reqs.get(at) {
                Some(req) if !req.answered => self.begin(at),
                Some(_) => self.forget_req(at),
                None => {}
            }
        }
    }

    /// End a request with an error. A write whose data may be on a leg makes its regions must-reconcile first (R45).
    pub(super) fn answer_error(&mut self, at: Handle, error: GuestError) {
        let Some(req) = self.reqs.get_mut(at) else {
            return;
        };
        if req.answered {
            return;
        }
        req.answered = true;
        for io in &mut req.io {
            if *io == LegIo::Wait {
                *io = LegIo::No;
            }
        }
        let (id, write, issued) = (req.id, req.is_write(), req.issued);
        let run = span(self.geometry, req.offset, req.len);
        if write && issued {
            run.for_each(|region| self.must_reconcile(region, self.local));
        }
        self.held_reads.retain(|&(held, _)| held != at);
        self.out.push(Output::GuestDone {
            id,
            result: Err(error),
        });
    }

    /// A request that is over for the guest frees what it holds; kept apart from the answer, so that failing all requests
    /// never lets one of them go on.
    pub(super) fn end_with(&mut self, at: Handle, error: GuestError) {
        self.answer_error(at, error);
        self.forget_req(at);
    }

    /// Everything the guest has open fails: superseded, detached by force, or frozen for too long.
    pub(super) fn fail_guests(&mut self, error: GuestError, reads: bool) {
        for (id, op) in std::mem::take(&mut self.waiting) {
            if reads || !matches!(op, GuestOp::Read { .. }) {
                self.out.push(Output::GuestDone {
                    id,
                    result: Err(error),
                });
            } else {
                self.waiting.push_back((id, op));
            }
        }
        let open = self.reqs.handles();
        for &at in &open {
            if self.reqs.get(at).is_some_and(|req| reads || req.is_write()) {
                self.answer_error(at, error);
            }
        }
        for at in open {
            self.forget_req(at);
        }
        for flush in std::mem::take(&mut self.flushes) {
            self.out.push(Output::GuestDone {
                id: flush.id,
                result: Err(error),
            });
        }
    }
}
