//! A guest request that a leg did not do: the session died, the leg was busy, or it answered with an error.
//!
//! Whoever is to blame is lost, unless it is the last member or the other leg cannot do it either: then the guest has the
//! error. Invariant: what was acknowledged and is not known to be on a leg that rejoins is copied there again.

use twinsite_register::{Leg, Members};

use super::Serve;
use super::guest::LegIo;
use crate::io::{GuestError, LegError};
use crate::regions::span;
use crate::slab::Handle;
use crate::status::LostWhy;

impl Serve {
    /// The session died with the command under way.
    pub(super) fn guest_gone(&mut self, at: Handle, leg: Leg) {
        let members = self.policy.targets;
        let Some(req) = self.reqs.get_mut(at) else {
            return;
        };
        let again = !req.answered && members.contains(leg);
        if req.restart {
            req.io[leg.index()] = LegIo::No;
            self.restart_guest(at);
            return;
        }
        req.io[leg.index()] = if again { LegIo::Wait } else { LegIo::No };
        if req.answered {
            if self.rejoin.target == Some(leg) {
                // Acknowledged from X alone and not known to be on Y: copied again (2.6 step 6).
                let run = span(self.geometry, req.offset, req.len);
                run.for_each(|region| self.copy_again(region));
            }
            self.forget_req(at);
        } else if !req.is_write() {
            self.send_read(at);
        } else {
            self.settle_failed(at);
            self.try_answer(at);
        }
    }

    /// BUSY for data that was already acknowledged: its buffer may not be named again, so the regions are copied.
    /// Says whether that was the case.
    pub(super) fn guest_busy(&mut self, at: Handle, leg: Leg) -> bool {
        if self.reqs.get(at).is_none_or(|req| !req.answered) {
            return false;
        }
        self.guest_gone(at, leg);
        true
    }

    /// The leg failed the request itself.
    pub(super) fn guest_failed(&mut self, at: Handle, leg: Leg, error: LegError) {
        let Some(req) = self.reqs.get_mut(at) else {
            return;
        };
        req.failed = req.failed.with(leg);
        req.io[leg.index()] = LegIo::No;
        if req.restart {
            self.restart_guest(at);
        } else if req.is_write() {
            self.write_failed(at, leg, error);
        } else {
            self.links[leg.index()].read_errors += 1;
            self.send_read(at);
        }
    }

    /// MEDIUM ERROR, HARDWARE ERROR, no space, a refusal: the leg does not have the write, and is lost for it. Unless it
    /// is the last member, or the other leg cannot write this either: then the guest gets the error.
    fn write_failed(&mut self, at: Handle, leg: Leg, error: LegError) {
        let Some(req) = self.reqs.get(at) else { return };
        let answered = req.answered;
        let other = req.io[leg.index() ^ 1];
        let guest_error = if error == LegError::NoSpace {
            GuestError::NoSpace
        } else {
            GuestError::Io
        };
        if self.running.members.sole() == Some(leg) || req.failed == Members::BOTH {
            let run = span(self.geometry, req.offset, req.len);
            if self.rejoin.target.is_some() {
                run.for_each(|region| self.copy_again(region));
            }
            self.end_with(at, guest_error);
        } else if other == LegIo::Sent && !answered {
            // The other leg's answer decides whose fault it is; it comes within T_cmd.
        } else {
            self.lose(leg, LostWhy::WriteError);
            if answered {
                self.forget_req(at);
            }
        }
    }

    /// The data is on one leg and the other one failed it.
    pub(super) fn settle_failed(&mut self, at: Handle) {
        let Some(req) = self.reqs.get(at) else { return };
        if req.is_write() && !req.failed.is_empty() && !req.under_way() {
            let failed = req.failed;
            let sole = self.running.members.sole();
            // The last member is never removed: the guest has its error.
            for leg in failed.iter().filter(|&leg| sole != Some(leg)) {
                self.lose(leg, LostWhy::WriteError);
            }
        }
    }
}
