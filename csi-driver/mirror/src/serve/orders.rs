//! Orders of the agent to a serving engine: detach, expand, format, and the bookkeeping of drop leg.
//!
//! A detach stops new requests at once and then waits for a state that it may begin in: an open request to the register is
//! settled first, a rejoin is given up. Whatever hangs, it is over after the drain time: bits stay dirty then, and the next
//! attach reconciles. The reservation and the registrations stay (R30).

use std::collections::VecDeque;
use std::time::Duration;

use twinsite_register::{Leg, Members, Outcome};

use super::Serve;
use super::commands::Purpose;
use super::guest::Kind;
use super::script::{Step, Write};
use super::state::{Ask, Fact, State, earliest};
use super::superblock::Slots;
use crate::engine::ServeEnd;
use crate::io::{ControlError, Format, FsType, GuestError, Output, RemoveWhy};
use crate::layout::{Geometry, MapPage, RegionState, map_offset};
use crate::status::LostWhy;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Not in a state to begin yet.
    Waiting,
    Draining,
    Syncing,
    Clearing,
    Marking,
    Releasing,
    Asked,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Detaching {
    stage: Stage,
    /// Then it is over, however far it is.
    deadline: Duration,
}

/// Orders under way.
#[derive(Debug, Default)]
pub(super) struct Orders {
    pub(super) detach: Option<Detaching>,
    expand: Option<u64>,
    /// What the expansion adds is zeroed and mapped on both legs: the superblocks with the new size are being written.
    sizing: bool,
    /// An `OrderDone` is owed.
    owed: bool,
    /// The bytes that an expansion adds were zeroed on both legs.
    zeroed: bool,
    /// The leg that is to go for good: by order, also if a graver reason takes it out first.
    dropping: Option<Leg>,
    pub(super) identified: Members,
    format: Option<(Format, FsType)>,
    formatting: bool,
    /// Legs whose READ FULL STATUS a late stamp waits for.
    pub(super) stamp_checks: Option<Members>,
    /// A leg that was rolled back leaves as soon as the pair serves (2.9, R19).
    pub(super) rolled_back: Option<Leg>,
}

impl Orders {
    pub(super) fn deadline(&self) -> Option<Duration> {
        earliest([self.detach.map(|detach| detach.deadline)])
    }
}

impl Serve {
    pub(super) fn order_timers(&mut self) {
        if self
            .orders
            .detach
            .is_some_and(|detach| detach.deadline <= self.now)
        {
            self.fact(Fact::DrainTimeout);
        }
    }

    // --- Detach -------------------------------------------------------------------------------------------------------

    pub(super) fn order_detach(&mut self) {
        if self.orders.detach.is_some() || self.state == State::Ended {
            return;
        }
        self.stopping = true;
        for (id, _) in std::mem::take(&mut self.waiting) {
            self.out.push(Output::GuestDone {
                id,
                result: Err(GuestError::NotShown),
            });
        }
        self.orders.detach = Some(Detaching {
            stage: Stage::Waiting,
            deadline: self.now + self.config.drain,
        });
        if matches!(
            self.state,
            State::Equalise | State::FirstBeat | State::Holding
        ) {
            // Nothing was served: only the stamp is given back.
            self.end_off();
        }
    }

    pub(super) fn begin_detach(&mut self) {
        self.cancel_script();
        self.fail_format();
        self.sweep = None;
        self.stage(Stage::Draining, self.config.drain);
        self.enter(State::Detach);
    }

    fn stage(&mut self, stage: Stage, limit: Duration) {
        self.orders.detach = Some(Detaching {
            stage,
            deadline: self.now + limit,
        });
    }

    /// Is the present stage over?
    pub(super) fn detach_ready(&mut self) -> Option<Fact> {
        let over = match self.orders.detach?.stage {
            Stage::Draining => self.reqs.is_empty() && self.flushes.is_empty(),
            Stage::Clearing => self.sweep.is_none() && self.map.is_quiet(),
            Stage::Releasing => self.requests.open.is_empty(),
            Stage::Waiting | Stage::Syncing | Stage::Marking | Stage::Asked => false,
        };
        over.then_some(Fact::Drained)
    }

    pub(super) fn detach_drained(&mut self) {
        let Some(detach) = self.orders.detach else {
            return;
        };
        let limit = self.config.t_cmd * 2;
        match detach.stage {
            Stage::Draining => {
                self.cancel_copies();
                self.stage(Stage::Syncing, limit);
                self.start_script(vec![Step::Sync(self.running.members)]);
            }
            Stage::Clearing => {
                self.stage(Stage::Marking, limit);
                let members = self.running.members;
                let equal = self.pending.is_empty();
                let beat = members.iter().next().filter(|_| equal);
                let beat = beat.map(Step::JoinBeat);
                let clean = self.map.dirty_regions() == 0;
                let mut steps: Vec<Step> = beat.into_iter().collect();
                steps.extend(
                    self.superblock_steps(members, Slots::One, "detach", |_, _, sb| {
                        sb.clean = clean
                    }),
                );
                self.start_script(steps);
            }
            // The group releases when all its volumes are out.
            Stage::Releasing if self.joint.is_some() => self.end_off(),
            Stage::Releasing => {
                self.stage(Stage::Asked, self.config.register_timeout);
                if self.stamped {
                    self.want(Ask::Release);
                }
                if !self.requests.is_open(|ask| ask == Ask::Release) {
                    self.end_off();
                }
            }
            Stage::Waiting | Stage::Syncing | Stage::Marking | Stage::Asked => {}
        }
    }

    pub(super) fn detach_step(&mut self) {
        let Some(detach) = self.orders.detach else {
            return;
        };
        match detach.stage {
            Stage::Syncing => {
                self.stage(Stage::Clearing, self.config.t_cmd * 2);
                self.clear_everything();
            }
            Stage::Marking => self.stage(Stage::Releasing, self.config.register_timeout),
            Stage::Waiting
            | Stage::Draining
            | Stage::Clearing
            | Stage::Releasing
            | Stage::Asked => {}
        }
    }

    /// The outcome of the release.
    pub(super) fn released(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Unknown => {}
            Outcome::Free => self.stage(Stage::Releasing, self.config.register_timeout),
            Outcome::Won | Outcome::WonSuperseded | Outcome::Lost => self.end_off(),
        }
    }

    /// Out, however far the detach came. The engine repeats the release if the register may still name our key.
    pub(super) fn end_off(&mut self) {
        self.cancel_script();
        self.cancel_copies();
        self.enter(State::Ended);
        self.fail_guests(GuestError::Io, true);
        self.fail_format();
        self.fail_orders(ControlError::Interrupted);
        if self.shown {
            self.shown = false;
            self.out.push(Output::RemoveDevice {
                why: RemoveWhy::Detached,
            });
        }
        for leg in Leg::BOTH {
            self.out.push(Output::Disconnect { leg });
        }
        let key = self.running.key;
        let release = self
            .register
            .clone()
            .filter(|register| register.holder == Some(key))
            .map(Box::new);
        self.end = Some(ServeEnd::Off { release });
    }

    // --- Expand -------------------------------------------------------------------------------------------------------

    pub(super) fn expand(&mut self, size: u64) {
        let shift = self.geometry.region_shift();
        let refusal = if self.orders.owed || self.scripts.running() || !self.settled {
            Some(ControlError::Busy)
        } else if size < self.geometry.size() || Geometry::new(size, shift).is_err() {
            Some(ControlError::Shrink)
        } else if Leg::BOTH.into_iter().any(|leg| !self.ready(leg)) {
            Some(ControlError::WaitingForLeg)
        } else {
            None
        };
        if let Some(error) = refusal {
            self.out.push(Output::OrderDone { result: Err(error) });
            return;
        }
        self.orders.owed = true;
        self.begin_expand(size);
    }

    fn begin_expand(&mut self, size: u64) {
        self.orders.expand = Some(size);
        self.orders.identified = Members::NONE;
        for leg in Leg::BOTH {
            self.send(leg, Purpose::Identify);
        }
    }

    pub(super) fn identify_failed(&mut self) {
        self.fail_expansion(ControlError::Interrupted);
    }

    /// The expansion is given up; the answer that is owed may be that of a drop which came in beside it.
    fn fail_expansion(&mut self, error: ControlError) {
        self.forget_expansion();
        if self.orders.dropping.is_none() && std::mem::take(&mut self.orders.owed) {
            self.out.push(Output::OrderDone { result: Err(error) });
        }
    }

    /// Superblocks that are written from here on mean the new size and do not have it, whatever is on the legs by now: a leg
    /// that joins meanwhile gets what the device has, and the rest is zeroed on both when the pair is whole again.
    fn forget_expansion(&mut self) {
        let size = self.orders.expand.take();
        if let Some(size) = size
            && std::mem::take(&mut self.orders.sizing)
        {
            self.only_mean(size);
        }
    }

    /// No superblock has more than the device; what they mean to have is this.
    fn only_mean(&mut self, size: u64) {
        for sb in self.superblocks.iter_mut().flatten() {
            sb.geometry = self.geometry;
            sb.size_new = size;
        }
    }

    /// A device goes on, or begins, with less than a leg says: an expansion was cut short there, and is as one that was given up.
    pub(super) fn keep_size(&mut self) {
        let legs = self.superblocks.iter().flatten();
        let largest = legs.map(|sb| sb.geometry.size()).max();
        if let Some(size) = largest.filter(|&size| size > self.geometry.size()) {
            self.only_mean(size);
        }
    }

    /// The capacity of both legs is known.
    pub(super) fn expand_identified(&mut self) {
        let Some(size) = self.orders.expand else {
            return;
        };
        if self.orders.identified != Members::BOTH
            || self.state != State::Synced
            || self.scripts.running()
        {
            return;
        }
        let enough = |leg: Leg| {
            self.links[leg.index()]
                .info
                .is_some_and(|info| info.capacity >= Self::lun_bytes(size))
        };
        let Ok(geometry) = Geometry::new(size, self.geometry.region_shift()) else {
            return;
        };
        if !Leg::BOTH.into_iter().all(enough) {
            self.fail_expansion(ControlError::TooSmall);
            return;
        }
        let mut steps =
            self.superblock_steps(Members::BOTH, Slots::One, "expand begins", |_, _, sb| {
                sb.size_new = size;
            });
        let epoch = self.running.epoch;
        let state = self.new_region_state();
        self.orders.zeroed = state.is_some();
        self.orders.sizing = false;
        // Nobody ever used what lies behind the smaller of the two sizes, but an earlier growth may have been cut short, or
        // given up with a lost branch. What the map copies anyway begins with the next page: the last one is in use and says
        // nothing of what lies behind.
        let next_page = self.geometry.region_at(self.geometry.pages(), 0);
        let last = next_page << self.geometry.region_shift();
        let (kind, end) = match state {
            Some(_) => (Kind::Discard, size),
            None => (Kind::Zero, size.min(last)),
        };
        steps.push(Step::Zeroes {
            kind,
            next: self.geometry.size(),
            end,
        });
        steps.push(Step::Sync(Members::BOTH));
        let state = state.unwrap_or(RegionState::Dirty);
        let mut writes = VecDeque::new();
        for page in self.geometry.pages()..geometry.pages() {
            for leg in Leg::BOTH {
                let block = MapPage::filled(page, 1, epoch, state).emit();
                writes.push_back(Write {
                    leg,
                    offset: map_offset(page),
                    block,
                });
            }
        }
        steps.push(Step::Write(writes));
        self.enter(State::Expand);
        self.start_script(steps);
    }

    /// Unwritten only where both legs read zeros (I12): once they were told to, if they do then.
    fn new_region_state(&self) -> Option<RegionState> {
        let zeroes = |leg: Leg| {
            self.links[leg.index()]
                .info
                .is_some_and(|info| info.discard_zeroes)
        };
        Leg::BOTH
            .into_iter()
            .all(zeroes)
            .then_some(RegionState::Unwritten)
    }

    /// Zeros and map are durable on both, then the size: the device grows.
    pub(super) fn expand_step(&mut self) {
        let Some(size) = self.orders.expand else {
            return;
        };
        let Ok(geometry) = Geometry::new(size, self.geometry.region_shift()) else {
            return;
        };
        if !std::mem::replace(&mut self.orders.sizing, true) {
            // Made only now: whatever cuts the expansion short before writes superblocks of the old size.
            let steps =
                self.superblock_steps(Members::BOTH, Slots::Both, "expanded", |_, _, sb| {
                    sb.geometry = geometry;
                    sb.size_new = 0;
                });
            self.start_script(steps);
            return;
        }
        self.orders.expand = None;
        self.orders.sizing = false;
        let old = self.geometry.regions() as u32;
        let state = if self.orders.zeroed {
            RegionState::Unwritten
        } else {
            RegionState::Dirty
        };
        self.map.grow(geometry, Members::BOTH, state);
        self.geometry = geometry;
        self.enter(State::Synced);
        if state == RegionState::Dirty {
            let new = old..geometry.regions() as u32;
            self.map.mark_dirty(new.clone());
            for region in new {
                self.must.insert(region);
            }
            self.copies.resync = None;
            self.reconcile(true);
        }
        self.out.push(Output::Resize { size });
        if std::mem::take(&mut self.orders.owed) {
            self.out.push(Output::OrderDone { result: Ok(()) });
        }
        self.start_pages();
    }

    /// An expansion that was cut short: finished if one leg has the size, or both meant it; else undone with the next
    /// superblocks (2.17).
    pub(super) fn resume_expand(&mut self) {
        if self.orders.expand.is_some() {
            return;
        }
        let sizes = |leg: Leg| {
            self.superblocks[leg.index()]
                .as_ref()
                .map(|sb| (sb.geometry.size(), sb.size_new))
        };
        let (Some(a), Some(b)) = (sizes(Leg::A), sizes(Leg::B)) else {
            return;
        };
        let size = a.0.max(b.0);
        let meant = if a.1 == b.1 { a.1 } else { 0 };
        let wanted = size.max(meant);
        if wanted > self.geometry.size() {
            self.begin_expand(wanted);
        }
    }

    /// Synced again: an expansion that was interrupted is finished, or nothing of it stays.
    pub(super) fn decide_expansion(&mut self) {
        match self.orders.expand {
            // The capacity was asked for before.
            Some(size) => self.begin_expand(size),
            None => self.resume_expand(),
        }
        let meant = |leg: Leg| {
            let sb = self.superblocks[leg.index()].as_ref();
            sb.is_some_and(|sb| sb.size_new != 0)
        };
        let equal = self.pending.is_empty() && self.must.is_empty();
        let left = Leg::BOTH.into_iter().any(meant) && !self.expanding();
        if left && equal && !self.scripts.running() {
            self.settle_pair();
        }
    }

    pub(super) fn expanding(&self) -> bool {
        self.orders.expand.is_some()
    }

    pub(super) fn owe_order(&mut self) {
        self.orders.owed = true;
    }

    /// A leg leaves by order, and the answer is owed.
    pub(super) fn drop_leg(&mut self, leg: Leg) {
        self.owe_order();
        self.orders.dropping = Some(leg);
        self.lose(leg, LostWhy::Dropped);
    }

    pub(super) fn is_dropped(&self, leg: Leg) -> bool {
        self.orders.dropping == Some(leg) || self.lost(leg) == Some(LostWhy::Dropped)
    }

    pub(super) fn order_done(&mut self) {
        self.orders.dropping = None;
        if std::mem::take(&mut self.orders.owed) {
            self.out.push(Output::OrderDone { result: Ok(()) });
        }
    }

    pub(super) fn order_owed(&self) -> bool {
        self.orders.owed
    }

    pub(super) fn fail_orders(&mut self, error: ControlError) {
        self.forget_expansion();
        self.orders.dropping = None;
        if std::mem::take(&mut self.orders.owed) {
            self.out.push(Output::OrderDone { result: Err(error) });
        }
    }

    // --- Format -------------------------------------------------------------------------------------------------------

    pub(super) fn order_format(&mut self, format: Format, fs_type: FsType) {
        let refusal = if self.state != State::Synced {
            Some(ControlError::WaitingForLeg)
        } else if self.orders.format.is_some() {
            Some(ControlError::Busy)
        } else {
            None
        };
        match refusal {
            Some(error) => self.out.push(Output::FormatRecorded { result: Err(error) }),
            None => self.orders.format = Some((format, fs_type)),
        }
    }

    /// Write the format record, in both slots of every member (R34), as soon as no other superblock is being written.
    pub(super) fn try_format(&mut self) {
        let Some((format, fs_type)) = self.orders.format else {
            return;
        };
        if self.orders.formatting || self.scripts.running() {
            return;
        }
        self.orders.formatting = true;
        let steps = self.superblock_steps(Members::BOTH, Slots::Both, "format", |_, _, sb| {
            sb.format = format;
            sb.fs_type = fs_type;
        });
        self.start_script(steps);
    }

    /// Was it the format record that became durable?
    pub(super) fn finish_format(&mut self) -> bool {
        if !std::mem::take(&mut self.orders.formatting) {
            return false;
        }
        self.orders.format = None;
        self.out.push(Output::FormatRecorded { result: Ok(()) });
        true
    }

    pub(super) fn fail_format(&mut self) {
        self.orders.formatting = false;
        if self.orders.format.take().is_some() {
            self.out.push(Output::FormatRecorded {
                result: Err(ControlError::Interrupted),
            });
        }
    }
}
