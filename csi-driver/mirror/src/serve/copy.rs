//! Copies between the legs: the reconcile after an attach, regions of failed writes, and the filling of a rejoin's target.
//!
//! A copy holds its regions from before the read of the source until the target's write is done (R36). The lock keeps guest
//! writes out; guest reads of the source go on. In a full copy, regions unwritten on the source are zeroed on the target.
//!
//! What the source cannot read is narrowed down to the block: in a pair the other leg's is taken for it, and what neither can
//! read is left as it is; the target of a rejoin has nothing to offer, so the rejoin ends.

use std::ops::Range;

use twinsite_register::{Leg, Members};

use super::Serve;
use super::commands::Purpose;
use super::guest::Owner;
use super::state::Fact;
use crate::io::{BLOCK, CopyId, DATA_START, LegOp, Output};
use crate::layout::PAGE_REGIONS;
use crate::locks::{Access, Held, Lock};
use crate::regions::{RegionSet, extent};
use crate::resync::{Next, Resync};
use crate::status::{Event, LostWhy, RejoinBlock};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Locking,
    Read,
    Write,
    Zero,
}

/// A copy under way.
#[derive(Debug)]
struct Copy {
    run: Range<u32>,
    source: Leg,
    stage: Stage,
    held: Option<Held>,
    sent: bool,
    /// Given up: only the command under way is waited for.
    dead: bool,
    /// The piece under way, in bytes from the begin of the run: all of it until something cannot be read.
    piece: Range<u64>,
    /// The source cannot read this piece: the other leg is read, and the source written.
    swapped: bool,
}

impl Copy {
    /// The leg that the command of this stage goes to.
    fn leg(&self) -> Option<Leg> {
        let from = if self.swapped {
            self.source.other()
        } else {
            self.source
        };
        match self.stage {
            Stage::Locking => None,
            Stage::Read => Some(from),
            Stage::Write => Some(from.other()),
            Stage::Zero => Some(self.source.other()),
        }
    }

    /// A smaller piece at the same place, if there is one: a region of the run, then a block of the region.
    fn narrow(&mut self, region: u64) -> bool {
        let len = self.piece.end - self.piece.start;
        let smaller = if len > region {
            region
        } else if len > BLOCK as u64 {
            BLOCK as u64
        } else {
            return false;
        };
        self.piece.end = self.piece.start + smaller;
        true
    }

    /// The next piece: blocks to the end of the region that could not be read, then region by region. False: it was the last.
    fn next_piece(&mut self, region: u64, total: u64) -> bool {
        let (begin, len) = (self.piece.end, self.piece.end - self.piece.start);
        let within = begin % region != 0;
        let step = if within {
            len.min(BLOCK as u64)
        } else {
            region
        };
        self.piece = begin..(begin + step).min(total);
        (self.stage, self.swapped) = (Stage::Read, false);
        begin < total
    }
}

/// All copies, and what is left to copy.
#[derive(Debug)]
pub(super) struct Copies {
    slots: Vec<Option<Copy>>,
    pub(super) resync: Option<Resync>,
    pub(super) paused: bool,
    pub(super) next: Option<std::time::Duration>,
}

impl Copies {
    pub(super) fn new(slots: u32) -> Self {
        Self {
            slots: (0..slots.max(1)).map(|_| None).collect(),
            resync: None,
            paused: false,
            next: None,
        }
    }

    pub(super) fn idle(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }
}

/// Which leg is right about a pending region.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    /// For the whole volume.
    pub(super) leg: Leg,
    /// Pages whose number says otherwise; used only if no boot id changed.
    pub(super) pages: Vec<u32>,
}

impl Serve {
    /// The first region of the run that must be copied before it is read or written (R9).
    pub(super) fn gated(&self, run: Range<u32>) -> Option<u32> {
        if self.pending.is_empty() && self.must.is_empty() {
            return None;
        }
        run.into_iter()
            .find(|&region| self.pending.contains(region) || self.must.contains(region))
    }

    pub(super) fn hurry(&mut self, region: u32) {
        if let Some(resync) = &mut self.copies.resync {
            resync.hurry(region);
        }
        self.pump_copies();
    }

    /// A write may be on one leg only: no read, no clear before the region was copied from `source` (R45). In Solo the dirty
    /// bit is enough; in a rejoin the region is copied again.
    pub(super) fn must_reconcile(&mut self, region: u32, source: Leg) {
        if self.state.is_over() {
            return;
        }
        if self.running.members != Members::BOTH {
            self.copy_again(region);
            return;
        }
        self.must.insert(region);
        if source != self.local {
            self.repair.insert(region);
        }
        self.reconcile(false);
    }

    /// The rejoin must copy the region (again). After step 6 nothing is copied any more: a grow that is won leaves it
    /// must-reconcile from the source, a grow that is not leaves its dirty bit.
    pub(super) fn copy_again(&mut self, region: u32) {
        let Some(target) = self.rejoin.target else {
            return;
        };
        if let Some(resync) = &mut self.copies.resync {
            resync.add(region);
        } else if self.rejoin.will_copy(region) {
            // Step 3 is not durable yet: the set of the copy is made, the copy has not begun.
        } else if self.state.after_copy() {
            self.must.insert(region);
            if target == self.local {
                self.repair.insert(region);
            }
        }
    }

    /// Copy everything pending and must-reconcile.
    pub(super) fn reconcile(&mut self, restart: bool) {
        if self.pending.is_empty() && self.must.is_empty() {
            return;
        }
        if restart || self.copies.resync.is_none() {
            let mut todo = RegionSet::new();
            self.pending
                .iter()
                .chain(self.must.iter())
                .for_each(|region| {
                    todo.insert(region);
                });
            // No rate limit: flushes wait for this.
            let config = crate::config::Config {
                resync_bytes_per_second: None,
                ..self.config
            };
            self.copies.resync = Some(Resync::new(self.now, &config, self.geometry, todo, false));
        } else if let Some(resync) = &mut self.copies.resync {
            for region in self.must.iter() {
                resync.add(region);
            }
        }
        self.pump_copies();
    }

    fn source_of(&self, region: u32) -> Leg {
        if let Some(target) = self.rejoin.target {
            return target.other();
        }
        if self.pending.contains(region) {
            let other_way = self.sources.pages.contains(&(region / PAGE_REGIONS as u32));
            return if other_way {
                self.sources.leg.other()
            } else {
                self.sources.leg
            };
        }
        if self.repair.contains(region) {
            self.local.other()
        } else {
            self.local
        }
    }

    /// Start copies while slots and the rate limit allow.
    pub(super) fn pump_copies(&mut self) {
        // Whatever stops it now calls it again when it is over; a time that is past would be asked for without end.
        self.copies.next = None;
        while !self.copies.paused {
            let Some(slot) = self.copies.slots.iter().position(Option::is_none) else {
                return;
            };
            let Some(resync) = &mut self.copies.resync else {
                return;
            };
            let run = match resync.next(self.now) {
                Next::Copy(run) => run,
                Next::At(at) => {
                    self.copies.next = Some(at);
                    return;
                }
                Next::Nothing => return,
            };
            let source = self.source_of(run.start);
            let zero = self.zeroes(run.start);
            let same =
                |&region: &u32| self.source_of(region) == source && self.zeroes(region) == zero;
            let end = run.clone().find(|region| !same(region)).unwrap_or(run.end);
            if end < run.end
                && let Some(resync) = &mut self.copies.resync
            {
                resync.finish(self.now, end..run.end, false);
            }
            let run = run.start..end;
            let (offset, len) = extent(self.geometry, run.clone());
            self.copies.slots[slot] = Some(Copy {
                run,
                source,
                stage: Stage::Locking,
                held: None,
                sent: false,
                dead: false,
                piece: 0..len,
                swapped: false,
            });
            let owner = Owner::Copy(slot as u32);
            if let Some(held) = self.locks.acquire(Lock {
                owner,
                access: Access::Copy,
                offset,
                len,
            }) {
                self.copy_locked(slot as u32, held);
            }
        }
    }

    /// A region that reads zeros on the source without ever having been written.
    fn zeroes(&self, region: u32) -> bool {
        self.rejoin.target.is_some() && self.map.is_unwritten(region)
    }

    pub(super) fn copy_locked(&mut self, slot: u32, held: Held) {
        let zero = self.copies.slots[slot as usize]
            .as_ref()
            .is_some_and(|copy| copy.run.clone().all(|region| self.zeroes(region)));
        let Some(copy) = self.copies.slots[slot as usize].as_mut() else {
            self.unlock(held);
            return;
        };
        copy.held = Some(held);
        if copy.dead {
            self.copy_over(slot, false);
            return;
        }
        copy.stage = if zero { Stage::Zero } else { Stage::Read };
        self.copy_send(slot);
    }

    fn copy_send(&mut self, slot: u32) {
        let Some(copy) = self.copies.slots[slot as usize].as_ref() else {
            return;
        };
        let Some(leg) = copy.leg() else { return };
        // A source that lacks what was acknowledged would put old data over the only good copy (R29).
        if self.ready(leg) && !self.behind(leg) {
            if let Some(copy) = self.copies.slots[slot as usize].as_mut() {
                copy.sent = true;
            }
            self.send(leg, Purpose::Copy(slot));
        }
    }

    pub(super) fn copy_op(&self, slot: u32) -> Option<LegOp> {
        let copy = self.copies.slots.get(slot as usize)?.as_ref()?;
        let bytes = copy.piece.end - copy.piece.start;
        let begin = extent(self.geometry, copy.run.clone()).0 + copy.piece.start;
        let (copy_id, offset, len) = (CopyId(slot), DATA_START + begin, bytes as u32);
        match copy.stage {
            Stage::Locking => None,
            Stage::Read => Some(LegOp::CopyRead {
                copy: copy_id,
                offset,
                len,
            }),
            Stage::Write => Some(LegOp::CopyWrite {
                copy: copy_id,
                offset,
                len,
            }),
            Stage::Zero => Some(LegOp::Zero { offset, len: bytes }),
        }
    }

    pub(super) fn copy_done(&mut self, slot: u32, leg: Leg) {
        let Some(copy) = self.copies.slots[slot as usize].as_mut() else {
            return;
        };
        copy.sent = false;
        if copy.dead {
            self.copy_over(slot, false);
            return;
        }
        match copy.stage {
            Stage::Locking => {}
            Stage::Read => {
                copy.stage = Stage::Write;
                self.copy_send(slot);
            }
            Stage::Write | Stage::Zero => {
                let bytes = copy.piece.end - copy.piece.start;
                self.syncs[leg.index()].wrote();
                if self.rejoin.target.is_some() {
                    self.pace.copied(bytes);
                }
                self.copy_next(slot);
            }
        }
    }

    /// A piece is done.
    fn copy_next(&mut self, slot: u32) {
        let region = self.geometry.region_bytes();
        let Some(copy) = self.copies.slots[slot as usize].as_mut() else {
            return;
        };
        let total = extent(self.geometry, copy.run.clone()).1;
        if copy.next_piece(region, total) {
            self.copy_send(slot);
        } else {
            self.copy_over(slot, true);
        }
    }

    /// The session died with the command: sent again after the relogin, the lock stays.
    pub(super) fn copy_gone(&mut self, slot: u32, _leg: Leg) {
        let Some(copy) = self.copies.slots[slot as usize].as_mut() else {
            return;
        };
        copy.sent = false;
        if copy.dead {
            self.copy_over(slot, false);
        }
    }

    pub(super) fn copy_failed(&mut self, slot: u32, leg: Leg) {
        let region = self.geometry.region_bytes();
        let Some(copy) = self.copies.slots[slot as usize].as_mut() else {
            return;
        };
        copy.sent = false;
        if copy.dead {
            self.copy_over(slot, false);
            return;
        }
        if copy.stage != Stage::Read {
            self.copy_over(slot, false);
            self.lose(leg, LostWhy::WriteError);
            return;
        }
        self.links[leg.index()].read_errors += 1;
        if copy.swapped {
            // Unreadable on both: the guest learns it when it reads.
            self.block_unreadable(slot);
            self.copy_next(slot);
        } else if copy.narrow(region) {
            self.copy_send(slot);
        } else if self.rejoin.target.is_some() {
            let at = extent(self.geometry, copy.run.clone()).0 + copy.piece.start;
            self.rejoin.found_bad((at / region) as u32, at);
            self.block_unreadable(slot);
            self.copy_over(slot, false);
            self.fact(Fact::Blocked(RejoinBlock::SourceUnreadable));
        } else {
            // A write that was never acknowledged may take either value: the other leg's is as good. Where the other leg had
            // lost its cache it is not: then a flush must tell.
            copy.swapped = true;
            let source = copy.source;
            if self.boot_changed && source == self.sources.leg {
                self.flush_fails_once(source);
            }
            self.copy_send(slot);
        }
    }

    fn block_unreadable(&mut self, slot: u32) {
        let Some(copy) = self.copies.slots[slot as usize].as_ref() else {
            return;
        };
        self.out.event(Event::ReadFailed {
            offset: extent(self.geometry, copy.run.clone()).0 + copy.piece.start,
            len: (copy.piece.end - copy.piece.start) as u32,
        });
    }

    fn copy_over(&mut self, slot: u32, copied: bool) {
        let Some(copy) = self.copies.slots[slot as usize].take() else {
            return;
        };
        if copy.stage == Stage::Write || copy.stage == Stage::Read {
            self.out.push(Output::CopyFree { copy: CopyId(slot) });
        }
        if copied && !copy.dead {
            self.counters.copied_bytes += extent(self.geometry, copy.run.clone()).1;
            for region in copy.run.clone() {
                self.pending.remove(region);
                self.must.remove(region);
                self.repair.remove(region);
                self.map.touch(region, self.tick);
            }
        }
        if let Some(resync) = &mut self.copies.resync {
            resync.finish(self.now, copy.run.clone(), copied && !copy.dead);
        }
        if let Some(held) = copy.held {
            self.unlock(held);
        }
        if copied {
            for region in copy.run {
                self.unpark(region);
            }
        }
        self.pump_copies();
    }

    /// Everything under way is given up; what is left to copy is forgotten.
    pub(super) fn cancel_copies(&mut self) {
        self.copies.resync = None;
        self.copies.paused = false;
        self.copies.next = None;
        for slot in 0..self.copies.slots.len() {
            let Some(copy) = self.copies.slots[slot].as_mut() else {
                continue;
            };
            copy.dead = true;
            if copy.sent {
                continue;
            }
            if copy.stage == Stage::Locking {
                self.copies.slots[slot] = None;
                let mut granted = std::mem::take(&mut self.granted);
                self.locks.cancel(Owner::Copy(slot as u32), &mut granted);
                self.granted = granted;
                self.run_granted();
            } else {
                self.copy_over(slot as u32, false);
            }
        }
    }

    /// Pending and must-reconcile regions mean nothing any more: one leg is left, and its bits stay dirty.
    pub(super) fn forget_reconcile(&mut self) {
        self.pending.clear();
        self.must.clear();
        self.repair.clear();
        for region in self.parked.keys().copied().collect::<Vec<_>>() {
            self.unpark(region);
        }
    }

    pub(super) fn resend_copies(&mut self, leg: Leg) {
        for slot in 0..self.copies.slots.len() {
            let Some(copy) = self.copies.slots[slot].as_ref() else {
                continue;
            };
            if copy.leg() == Some(leg) && !copy.sent && !copy.dead {
                self.copy_send(slot as u32);
            }
        }
        self.pump_copies();
    }
}
