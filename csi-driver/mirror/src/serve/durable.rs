//! Flushes of the guest, and the syncs of everybody else.
//!
//! One SYNCHRONIZE CACHE per leg is in flight; whoever needs a leg durable up to a mark waits until the tracker covers it. A
//! flush is answered when every leg that was needed when it came covers its mark (2.4): both legs in a pair and from step 5
//! of a rejoin to its end (R40), X alone otherwise. While regions of the attach are pending it is held (R39).

use twinsite_register::{Leg, Members};

use super::Serve;
use super::commands::Purpose;
use crate::flush::{Mark, SyncTracker};
use crate::io::{GuestError, Output, ReqId};
use crate::status::Event;

/// A flush under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flush {
    pub(super) id: ReqId,
    marks: [Option<Mark>; 2],
    /// Something it covers is known to be gone.
    fail: bool,
}

impl Flush {
    /// After another decision: everything that completed so far must be durable on the legs that run now.
    pub(super) fn restart(&mut self, members: Members, syncs: &[SyncTracker; 2]) {
        self.marks = Leg::BOTH.map(|leg| members.contains(leg).then(|| syncs[leg.index()].mark()));
    }
}

impl Serve {
    pub(super) fn flush_request(&mut self, id: ReqId) {
        if self.flushes.len() >= self.config.max_queued as usize {
            self.out.push(Output::GuestDone {
                id,
                result: Err(GuestError::QueueFull),
            });
            return;
        }
        self.counters.flushes += 1;
        let need = self.policy.need;
        let marks = Leg::BOTH.map(|leg| need.contains(leg).then(|| self.syncs[leg.index()].mark()));
        let fail = std::mem::take(&mut self.flush_fail);
        self.flushes.push_back(Flush { id, marks, fail });
        self.try_flushes();
    }

    /// Answer what is covered, in order; ask for the syncs that are missing.
    pub(super) fn try_flushes(&mut self) {
        if self.flushes.is_empty() || !self.policy.answer || !self.pending.is_empty() {
            return;
        }
        while let Some(flush) = self.flushes.front() {
            let covered = Leg::BOTH.into_iter().all(|leg| {
                flush.marks[leg.index()].is_none_or(|mark| self.syncs[leg.index()].covers(mark))
            });
            if !covered {
                break;
            }
            let (id, fail) = (flush.id, flush.fail);
            self.flushes.pop_front();
            let result = if fail {
                self.counters.flush_failures += 1;
                Err(GuestError::Io)
            } else {
                self.flushed += 1;
                Ok(())
            };
            self.out.push(Output::GuestDone { id, result });
        }
        for leg in Leg::BOTH {
            let mark = self
                .flushes
                .iter()
                .filter_map(|flush| flush.marks[leg.index()])
                .max();
            if let Some(mark) = mark {
                self.want_sync(leg, mark);
            }
        }
    }

    /// The flushes that are open now wait for these legs only.
    pub(super) fn retarget_flushes(&mut self, members: Members) {
        for flush in &mut self.flushes {
            for leg in Leg::BOTH {
                if !members.contains(leg) {
                    flush.marks[leg.index()] = None;
                }
            }
        }
    }

    /// Flushes that are open now must cover this leg too (2.6 step 5).
    pub(super) fn extend_flushes(&mut self, leg: Leg) {
        let mark = self.syncs[leg.index()].mark();
        for flush in &mut self.flushes {
            flush.marks[leg.index()].get_or_insert(mark);
        }
    }

    /// Make the leg durable up to the mark; [`Self::after_sync`] follows.
    pub(super) fn want_sync(&mut self, leg: Leg, mark: Mark) {
        let wanted = &mut self.sync_wanted[leg.index()];
        *wanted = Some(wanted.map_or(mark, |known| known.max(mark)));
        self.pump_sync(leg);
    }

    pub(super) fn pump_sync(&mut self, leg: Leg) {
        let tracker = &mut self.syncs[leg.index()];
        let Some(mark) = self.sync_wanted[leg.index()] else {
            return;
        };
        if tracker.covers(mark) {
            self.sync_wanted[leg.index()] = None;
        } else if tracker.wants(mark) && self.links[leg.index()].ready() {
            tracker.send();
            self.send(leg, Purpose::Sync);
        }
    }

    /// A SYNC succeeded: flushes, scripts and the sweep look again.
    pub(super) fn after_sync(&mut self) {
        for leg in Leg::BOTH {
            self.pump_sync(leg);
        }
        self.try_flushes();
        self.run_script();
        self.run_sweep();
    }

    /// The last member cannot make its writes durable: the flushes that are open learn it, a later one tries again.
    pub(super) fn sync_impossible(&mut self) {
        for flush in std::mem::take(&mut self.flushes) {
            self.counters.flush_failures += 1;
            self.out.push(Output::GuestDone {
                id: flush.id,
                result: Err(GuestError::Io),
            });
        }
    }

    /// Acknowledged writes that were not flushed are gone: the next flush fails once (R40).
    pub(super) fn flush_will_fail(&mut self, leg: Leg) {
        self.flush_fails_once(leg);
        self.syncs[leg.index()].forget();
    }

    /// No flush has been answered with the error yet.
    pub(super) fn flush_failure_owed(&self) -> bool {
        self.flush_fail || self.flushes.iter().any(|flush| flush.fail)
    }

    /// An agent that dies now and goes on behind the same device must find that the error is still owed (R40): by the boot id
    /// in the superblock until the record on its own disk says so.
    pub(super) fn boot_may_be_recorded(&self) -> bool {
        !self.flush_failure_owed() || (self.order.record.flush_owed && self.out.record_is_saved())
    }

    /// The record follows what is owed.
    pub(super) fn keep_owed(&mut self) {
        let owed = self.flush_failure_owed();
        if owed != self.order.record.flush_owed {
            self.order.record.flush_owed = owed;
            self.out.save_record(self.order.record.clone());
        }
    }

    /// The same for writes of before this attach: what the leg has in its cache is unknown all the same.
    pub(super) fn flush_fails_once(&mut self, leg: Leg) {
        // Those that are open, or else the next one.
        self.flush_fail = self.flushes.is_empty();
        for flush in &mut self.flushes {
            flush.fail = true;
        }
        self.out.event(Event::FlushWillFail { leg });
    }
}
