//! Guest reads: which leg is asked, what a failed sector means, and the lease that is looked at when the bytes are there.

use twinsite_register::{Leg, Members};

use super::Serve;
use super::commands::Purpose;
use super::guest::LegIo;
use crate::io::{GuestError, Output};
use crate::regions::span;
use crate::slab::Handle;
use crate::status::Event;

impl Serve {
    pub(super) fn send_read(&mut self, at: Handle) {
        if self.state.is_over() {
            return;
        }
        // A leg that may lack what was acknowledged is not asked: the read waits until it is settled who is a member.
        let behind = Leg::BOTH.map(|leg| self.behind(leg));
        let Some(req) = self.reqs.get_mut(at) else {
            return;
        };
        let candidates = self.running.members.and(Members::BOTH);
        let usable = |leg: Leg| candidates.contains(leg) && !req.failed.contains(leg);
        let prefer = [self.local, self.local.other()];
        let good = |leg: Leg| usable(leg) && !behind[leg.index()];
        let ready = prefer
            .into_iter()
            .find(|&leg| good(leg) && self.links[leg.index()].ready());
        let later = prefer
            .into_iter()
            .find(|&leg| good(leg))
            .or_else(|| prefer.into_iter().find(|&leg| usable(leg)));
        req.issued = true;
        req.io = [LegIo::No; 2];
        match ready {
            Some(leg) => {
                req.io[leg.index()] = LegIo::Sent;
                let deadline = *req.deadline.get_or_insert(self.now + self.config.t_cmd);
                self.send_until(leg, Purpose::Guest(at), deadline);
            }
            None => match later {
                Some(leg) => req.io[leg.index()] = LegIo::Wait,
                None => self.read_unreadable(at),
            },
        }
    }

    /// No member can read these bytes.
    pub(super) fn read_unreadable(&mut self, at: Handle) {
        let Some(req) = self.reqs.get(at) else { return };
        self.out.event(Event::ReadFailed {
            offset: req.offset,
            len: req.len as u32,
        });
        self.end_with(at, GuestError::Io);
    }

    /// The bytes are in the shell's buffer. Whether they may be handed out is looked at now, not when it was asked (R8).
    pub(super) fn read_returned(&mut self, at: Handle, leg: Leg) {
        if self.policy.lease && !self.lease.runs(self.now) {
            self.counters.lease_holds += 1;
            self.held_reads.push((at, leg));
            // After a pause of the guest nothing has renewed it: do that now.
            self.probe_at = self.now;
            return;
        }
        self.answer_read(at);
    }

    pub(super) fn answer_read(&mut self, at: Handle) {
        let Some(req) = self.reqs.get_mut(at) else {
            return;
        };
        if !req.answered {
            req.answered = true;
            let (id, offset, len, failed) = (req.id, req.offset, req.len, req.failed);
            let deadline = req.deadline;
            self.out.push(Output::GuestDone { id, result: Ok(()) });
            self.guest_took(deadline);
            for leg in failed.iter() {
                self.read_repair(leg, offset, len);
            }
        }
        self.forget_req(at);
    }

    /// The other leg had the bytes: copy its regions over, which rewrites the bad sectors.
    pub(super) fn read_repair(&mut self, leg: Leg, offset: u64, len: u64) {
        if self.running.members != Members::BOTH {
            return;
        }
        self.counters.read_repairs += 1;
        self.out.event(Event::ReadRepaired {
            leg,
            offset,
            len: len as u32,
        });
        for region in span(self.geometry, offset, len) {
            self.must_reconcile(region, leg.other());
        }
    }

    /// Reads that came back while no lease ran: handed out under a fresh one, read again if their leg is no member.
    pub(super) fn release_reads(&mut self) {
        if self.policy.lease && !self.lease.runs(self.now) {
            return;
        }
        for (at, leg) in std::mem::take(&mut self.held_reads) {
            if self.running.members.contains(leg) {
                self.answer_read(at);
            } else {
                self.send_read(at);
            }
        }
    }
}
