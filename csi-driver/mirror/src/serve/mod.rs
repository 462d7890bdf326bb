//! The serving phase of an engine: from the first beat to the end of the attach.
//!
//! One owner of all state; an input is applied mechanically first (a command is done, a page is durable, a gate opens), and
//! the facts that follow from it then move the state by the table in [`transitions`]. Nothing here waits: what is owed is in
//! the state, and `deadline` says when time alone changes it.
//!
//! ground rule: a guest write is acknowledged only when every leg that the register names as member, now or after any
//! request still under way, has it.
//!
//! | file | what |
//! |---|---|
//! | `state`, `transitions` | states, facts, the table |
//! | `guest`, `durable` | requests of the guest; flushes and syncs |
//! | `commands`, `link` | commands to legs; login, verification, loss |
//! | `register` | own requests and their outcome |
//! | `script`, `superblock` | what becomes durable in order |
//! | `equalise`, `copy`, `clear`, `beat` | reconcile, copies, clearing, beats |
//! | `rejoin`, `orders` | steps 0-3 of a rejoin; detach, expand, format |

mod beat;
mod clear;
mod commands;
mod copy;
mod durable;
mod equalise;
mod guest;
mod link;
mod orders;
mod register;
mod rejoin;
mod script;
mod state;
mod superblock;
#[cfg(test)]
mod tests;
mod transitions;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use twinsite_register::{Leg, Members, Order, Outcome, Register, Running, Stamp};

use crate::config::{Config, OnNoQuorum};
use crate::dirty::{DirtyMap, Opened};
use crate::engine::{IdSource, Port, ServeEnd, Served};
use crate::flush::{Mark, SyncTracker};
use crate::io::{
    AttachOrder, ControlError, DeviceInfo, GuestOp, Input, LegReply, Mode, Output, ReqId,
};
use crate::layout::{BEAT_OFFSET, Geometry, map_offset};
use crate::lease::Lease;
use crate::locks::{Held as LockHeld, Locks};
use crate::regions::RegionSet;
use crate::slab::{Handle, Slab};
use crate::status::{Condition, Counters, Event, LegRole, LegStatus, RejoinBlock, Status};
use commands::{Commands, Purpose};
use copy::{Copies, Sources};
use durable::Flush;
use guest::{Owner, Req};
use link::{LegLink, Link};
use orders::Orders;
use register::Requests;
use rejoin::Rejoin;
use script::{Scripts, Step, Write};
use state::{Ask, Fact, Policy, State, earliest};
use superblock::BaseNumbers;

/// Turns of the fact loop per input; more means two rows undo each other.
const MAX_TURNS: u32 = 10_000;

/// What follows from a state without any input.
enum Next {
    Fact(Fact),
    /// Something was done: look again.
    Again,
    Nothing,
}

/// The serving phase.
pub(crate) struct Serve {
    pub(crate) out: Port,
    order: AttachOrder,
    config: Config,
    place: Order,
    ids: IdSource,
    local: Leg,
    now: Duration,
    tick: u32,

    // Membership.
    running: Running,
    stamped: bool,
    /// The value of the register that this writer's requests are built on.
    register: Option<Register>,
    /// The last value read, whoever's it is.
    seen: Option<Register>,
    requests: Requests,
    state: State,
    since: Duration,
    policy: Policy,
    facts: VecDeque<Fact>,
    told: bool,
    frozen_since: Duration,
    /// `onNoQuorum: Error` took effect.
    failing: bool,
    end: Option<ServeEnd>,
    /// Holding leads to a new attach in place.
    reattach: bool,

    // Legs.
    links: [LegLink; 2],
    boot_before: [Option<u64>; 2],
    cmds: Commands,
    superblocks: [Option<crate::layout::Superblock>; 2],
    base: Option<BaseNumbers>,
    scripts: Scripts,
    beats: beat::Beats,
    flushed: u64,

    // Data.
    geometry: Geometry,
    map: DirtyMap,
    opened: Opened,
    locks: Locks<Owner>,
    granted: Vec<(Owner, LockHeld)>,
    reqs: Slab<Req>,
    waiting: VecDeque<(ReqId, GuestOp)>,
    bytes: u64,
    flushes: VecDeque<Flush>,
    /// The next flush answers EIO once.
    flush_fail: bool,
    syncs: [SyncTracker; 2],
    sync_wanted: [Option<Mark>; 2],
    lease: Lease,
    held_reads: Vec<(Handle, Leg)>,
    probing: [bool; 2],
    probe_at: Duration,
    last_cold: u32,

    // Reconcile, resync, clear.
    /// Regions of this attach that may differ: no read, no write before they are copied.
    pending: RegionSet,
    sources: Sources,
    /// A boot id had changed when this attach began, and regions were pending (R39).
    boot_changed: bool,
    /// Regions of writes that ended in an error (R45), and of sectors being rewritten.
    must: RegionSet,
    /// Those of them whose good copy is on the far leg.
    repair: RegionSet,
    parked: BTreeMap<u32, Vec<Handle>>,
    copies: Copies,
    sweep: Option<clear::Sweep>,
    next_sweep: Duration,
    /// Both superblocks of this epoch are durable with base none.
    clearable: bool,
    /// Boot ids and base none are recorded since the legs became equal.
    settled: bool,
    boot_dirty: bool,
    /// The superblocks of a grow are not known to be in both slots.
    slots_due: bool,
    rejoin: Rejoin,
    source_behind: bool,

    // The device and orders.
    shown: bool,
    continued: bool,
    stopping: bool,
    orders: Orders,
    discard_granularity: u32,
    conditions: BTreeSet<Condition>,
    counters: Counters,
}

impl Serve {
    /// Take over from attach. `generation` is above that of every command named before.
    pub(crate) fn new(now: Duration, served: Served, generation: u32, out: Port) -> Self {
        let config = served.order.config;
        let running = served.running;
        let set = served.set();
        // An expansion that was cut short: the smaller size is what both have.
        let geometry = set
            .iter()
            .filter_map(|leg| served.legs[leg.index()].as_ref())
            .map(|leg| leg.superblock.geometry)
            .min_by_key(|geometry| geometry.size())
            .expect("attach serves with at least one leg of the set");
        let hold = Policy::of(State::Equalise, running.members);
        let mut serve = Self {
            out,
            config,
            place: served.place,
            ids: served.ids.clone(),
            local: served.order.site.leg(),
            order: served.order.clone(),
            now,
            tick: Self::tick_of(now),
            running,
            stamped: served.register.is_some(),
            register: served.register.clone(),
            seen: None,
            requests: Requests::new(now + config.register_poll),
            state: State::Equalise,
            since: now,
            policy: hold,
            facts: VecDeque::new(),
            told: false,
            frozen_since: now,
            failing: false,
            end: None,
            reattach: false,
            links: [
                LegLink::new(None, Link::Down),
                LegLink::new(None, Link::Down),
            ],
            boot_before: [None; 2],
            cmds: Commands::new(generation),
            superblocks: [None, None],
            base: None,
            scripts: Scripts::new(),
            beats: beat::Beats::new(0, set),
            flushed: 0,
            geometry,
            map: DirtyMap::new(geometry, running.epoch, set, Vec::new()),
            opened: Opened::default(),
            locks: Locks::new(),
            granted: Vec::new(),
            reqs: Slab::new(generation),
            waiting: VecDeque::new(),
            bytes: 0,
            flushes: VecDeque::new(),
            flush_fail: false,
            syncs: [SyncTracker::default(); 2],
            sync_wanted: [None; 2],
            lease: Lease::new(now, config.t_lease),
            held_reads: Vec::new(),
            probing: [false; 2],
            probe_at: now,
            last_cold: u32::MAX,
            pending: RegionSet::new(),
            sources: Sources {
                leg: served.order.site.leg(),
                pages: Vec::new(),
            },
            boot_changed: false,
            must: RegionSet::new(),
            repair: RegionSet::new(),
            parked: BTreeMap::new(),
            copies: Copies::new(config.copies),
            sweep: None,
            next_sweep: now + config.sweep_interval,
            clearable: false,
            settled: false,
            boot_dirty: false,
            slots_due: false,
            rejoin: Rejoin::new(),
            source_behind: false,
            shown: false,
            continued: served.continued,
            stopping: false,
            orders: Orders::default(),
            discard_granularity: 0,
            conditions: BTreeSet::new(),
            counters: Counters::default(),
        };
        serve.take_over(served);
        serve.settle();
        serve
    }

    /// Go on after another decision, with the requests of the guest that were held.
    pub(crate) fn resume(&mut self, now: Duration, served: Served) {
        self.advance(now);
        self.running = served.running;
        self.stamped = served.register.is_some();
        self.register.clone_from(&served.register);
        self.requests = Requests::new(now + self.config.register_poll);
        self.place = served.place;
        self.ids = served.ids.clone();
        self.order = served.order.clone();
        self.end = None;
        self.facts.clear();
        self.scripts = Scripts::new();
        self.superblocks = [None, None];
        self.base = None;
        self.rejoin = Rejoin::new();
        self.syncs = [SyncTracker::default(); 2];
        self.sync_wanted = [None; 2];
        self.lease.void();
        (self.settled, self.clearable, self.failing) = (false, false, false);
        self.pending.clear();
        self.must.clear();
        self.repair.clear();
        self.state = State::Equalise;
        self.since = now;
        self.apply_policy();
        self.take_over(served);
        self.restart_guests();
        for flush in &mut self.flushes {
            flush.restart(self.running.members, &self.syncs);
        }
        self.settle();
    }

    /// What attach read from the legs becomes the state to serve from.
    fn take_over(&mut self, served: Served) {
        let set = served.set();
        for leg in Leg::BOTH {
            let connected = served.connected[leg.index()];
            let member = set.contains(leg);
            let link = match (connected, member) {
                (Some(_), true) => Link::Ready,
                (Some(_), false) => Link::Reachable,
                (None, _) => Link::Down,
            };
            let of_set = served.legs[leg.index()].as_ref();
            self.links[leg.index()] = LegLink::new(connected.or(of_set.map(|leg| leg.info)), link);
            self.superblocks[leg.index()] = of_set.map(|leg| leg.superblock.clone());
            if let Some(of_set) = of_set
                && let (Some(base), Some(numbers)) = (of_set.superblock.base, &of_set.base_numbers)
            {
                self.base = Some(BaseNumbers {
                    base,
                    numbers: numbers.clone(),
                    on: leg,
                });
            }
            if connected.is_none() && member {
                let limit = self.now + self.config.t_cmd;
                self.links[leg.index()].note_deadline(limit);
            }
        }
        let mut unit = 0;
        let all_discard = set.iter().all(|leg| {
            self.links[leg.index()].info.is_some_and(|info| {
                unit = unit.max(info.discard_granularity);
                info.discard_zeroes && info.discard_granularity > 0
            })
        });
        self.discard_granularity = if all_discard { unit } else { 0 };
        let mut legs = served.legs;
        match (set.sole(), &mut legs) {
            (None, [Some(a), Some(b)]) => {
                let equal = equalise::equalise(self.geometry, self.local, [&*a, &*b]);
                self.equalise(equal);
            }
            (Some(x), legs) => {
                let leg = legs[x.index()]
                    .take()
                    .expect("attach gives every leg of the set");
                if leg.restarted && (self.continued || self.shown) {
                    self.flush_will_fail(x);
                }
                self.map = DirtyMap::new(self.geometry, self.running.epoch, set, leg.pages);
                let known = served.beat_object.map_or(0, |object| object.beat);
                self.beats = beat::Beats::new(leg.beat.map_or(0, |beat| beat.beat).max(known), set);
                self.state = State::FirstBeat;
                self.apply_policy();
                self.beat_now();
            }
            (None, _) => unreachable!("attach gives every leg of the set"),
        }
    }

    fn equalise(&mut self, equal: equalise::Equal) {
        let mut writes = VecDeque::new();
        for &page in &equal.writes {
            for leg in Leg::BOTH {
                let block = equal.pages[page as usize].emit();
                writes.push_back(Write {
                    leg,
                    offset: map_offset(page),
                    block,
                });
            }
        }
        if let Some(beat) = &equal.beat {
            for &leg in &equal.beat_to {
                writes.push_back(Write {
                    leg,
                    offset: BEAT_OFFSET,
                    block: beat.emit(),
                });
            }
        }
        let number = equal.beat.map_or(0, |beat| beat.beat);
        self.beats = beat::Beats::new(number, Members::BOTH);
        self.map = DirtyMap::new(
            self.geometry,
            self.running.epoch,
            Members::BOTH,
            equal.pages,
        );
        self.pending = equal.pending;
        self.sources = Sources {
            leg: equal.source,
            pages: equal.other_pages,
        };
        self.boot_changed = equal.boot_changed;
        if let Some(leg) = equal.rolled_back {
            // The higher beat and the higher pages are on the other leg, which is the source; this one leaves at once.
            self.raise(Condition::LegDamaged(leg));
            self.sources = Sources {
                leg: leg.other(),
                pages: Vec::new(),
            };
            self.orders.rolled_back = Some(leg);
        }
        self.start_script(vec![Step::Write(writes)]);
    }

    /// Take one input.
    pub(crate) fn handle(&mut self, now: Duration, input: Input) {
        self.advance(now);
        match input {
            Input::Guest { id, op } => self.guest(id, op),
            Input::LegDone { leg, cmd, result } => self.leg_done(leg, cmd, result),
            Input::LegUp { leg, info } => self.leg_up(leg, info),
            Input::LegDown { leg, why } => self.leg_down(leg, why),
            Input::RegisterRead { id, result } => self.register_read(id, result),
            Input::RegisterCas { id, result } => self.cas_done(id, result),
            Input::Detach => self.order_detach(),
            Input::DropLeg(leg) => self.fact(Fact::DropLeg(leg)),
            Input::Expand { size } => self.fact(Fact::Expand(size)),
            Input::SetFormat { format, fs_type } => self.order_format(format, fs_type),
            Input::Tick | Input::Attach(_) | Input::RecordSaved | Input::BeatObject { .. } => {}
        }
        self.timers();
        self.settle();
    }

    /// While attach decides again, only the fate of our commands matters.
    pub(crate) fn handle_held(&mut self, now: Duration, input: &Input) {
        self.advance(now);
        match input {
            Input::Guest { id, op } => self.guest(*id, *op),
            Input::LegDone { leg, cmd, result } => self.leg_done(*leg, *cmd, result.clone()),
            Input::LegDown { leg, .. } => self.forget_commands(*leg),
            _ => {}
        }
        self.facts.clear();
    }

    pub(crate) fn take_end(&mut self) -> Option<ServeEnd> {
        self.end.take()
    }

    pub(crate) fn is_shown(&self) -> bool {
        self.shown
    }

    /// The attach ended without serving again: everything the guest has open fails.
    pub(crate) fn abandon(&mut self, error: crate::io::GuestError) {
        self.state = State::Ended;
        self.fail_guests(error, true);
    }

    fn advance(&mut self, now: Duration) {
        self.now = now;
        self.tick = Self::tick_of(now);
        self.lease.turn(now);
    }

    fn fact(&mut self, fact: Fact) {
        self.facts.push_back(fact);
    }

    /// Apply facts until none is left and none follows from the state as it is.
    fn settle(&mut self) {
        for _ in 0..MAX_TURNS {
            let fact = match self.facts.pop_front() {
                Some(Fact::ScriptDone(number)) if number != self.scripts.number => continue,
                Some(fact) => fact,
                None => match self.follows() {
                    Next::Fact(fact) => fact,
                    Next::Again => continue,
                    Next::Nothing => {
                        self.check();
                        return;
                    }
                },
            };
            self.apply(fact);
        }
        unreachable!("the transition table has a cycle in {:?}", self.state);
    }

    /// What is true of the present state and acted on there.
    fn follows(&mut self) -> Next {
        let detach = self.orders.detach.is_some();
        match self.state {
            State::Equalise if !self.scripts.running() => Next::Fact(Fact::Equalised),
            State::Synced | State::Solo | State::Expand if detach => {
                self.rejoin_failed(RejoinBlock::GivenUp);
                self.fail_orders(ControlError::Interrupted);
                self.begin_detach();
                Next::Again
            }
            State::Synced => self.follows_synced(),
            State::Solo
                if self.boot_dirty && !self.scripts.running() && !self.rejoin.is_preparing() =>
            {
                self.write_boot();
                Next::Again
            }
            State::Solo => {
                self.try_rejoin();
                Next::Nothing
            }
            State::RjTarget | State::RjBoth | State::RjNeed | State::Growing if detach => {
                Next::Fact(Fact::Blocked(RejoinBlock::GivenUp))
            }
            State::RjTarget => {
                let small = self.copies.resync.as_ref().is_some_and(|resync| {
                    resync.left_bytes() <= self.config.rest_small || resync.passes() > 0
                });
                if small {
                    return Next::Fact(Fact::RestSmall);
                }
                self.pump_copies();
                Next::Nothing
            }
            State::RjBoth if self.copies.idle() => Next::Fact(Fact::CopyIdle),
            State::RjNeed if self.converged() => Next::Fact(Fact::Converged),
            State::Holding if self.cmds.in_flight == [0; 2] => {
                self.held();
                Next::Nothing
            }
            State::Detach => self.detach_ready().map_or(Next::Nothing, Next::Fact),
            _ => Next::Nothing,
        }
    }

    fn follows_synced(&mut self) -> Next {
        if let Some(leg) = self.orders.rolled_back.take() {
            self.lose(leg, crate::status::LostWhy::RolledBack);
            return Next::Again;
        }
        let equal = self.pending.is_empty() && self.must.is_empty();
        if !self.settled && equal && !self.scripts.running() {
            return Next::Fact(Fact::Reconciled);
        }
        self.try_format();
        Next::Nothing
    }

    /// Step 6: nothing acknowledged, or to be acknowledged, from X alone is in flight, and nothing is left to copy.
    fn converged(&self) -> bool {
        let done = self
            .copies
            .resync
            .as_ref()
            .is_some_and(crate::resync::Resync::is_done);
        done && self.copies.idle()
            && !self
                .reqs
                .iter()
                .any(|(_, req)| req.is_write() && req.older(Members::BOTH))
    }

    /// What the new state asks of guest requests.
    fn apply_policy(&mut self) {
        let before = self.policy;
        self.policy = Policy::of(self.state, self.running.members);
        if self.policy == before || self.state.is_over() {
            return;
        }
        if self.policy.answer {
            self.answer_all();
        } else if self.policy.admit != before.admit {
            self.admit_waiting();
        }
    }

    // --- Pages --------------------------------------------------------------------------------------------------------

    /// Send the page transactions that may start.
    fn start_pages(&mut self) {
        if self.state.is_over() {
            return;
        }
        while let Some(start) = self.map.start() {
            self.counters.page_transactions += 1;
            for leg in start.legs.iter() {
                if self.ready(leg) {
                    self.send(leg, Purpose::Page(start.page));
                }
            }
        }
    }

    fn page_durable(&mut self, page: u32, leg: Leg) {
        let mut opened = std::mem::take(&mut self.opened);
        self.map.durable(page, leg, &mut opened);
        self.opened = opened;
        self.open_gates();
        self.start_pages();
        self.union_progress();
        if self.scripts.running() {
            self.run_script();
        }
    }

    /// Tell the writes at the gates that opened.
    fn open_gates(&mut self) {
        let mut opened = std::mem::take(&mut self.opened);
        for at in opened.gate1.drain(..) {
            self.gate1(at);
        }
        for at in opened.gate2.drain(..) {
            self.gate2(at);
        }
        // Nothing opens a gate from within: the buffers go back for reuse.
        self.opened = opened;
    }

    fn resend_pages(&mut self, leg: Leg) {
        for page in self.map.pages_in_flight() {
            if self.map.waits_for(page).contains(leg) && !self.cmds.has(leg, Purpose::Page(page)) {
                self.send(leg, Purpose::Page(page));
            }
        }
    }

    /// A write went to a region that was not dirty: mark the next ones of a sequential stream with it.
    fn cold(&mut self, region: u32) {
        let sequential = self.last_cold.checked_add(1) == Some(region);
        self.last_cold = region;
        if sequential {
            let end = (region + 1 + self.config.predirty).min(self.geometry.regions() as u32);
            self.map.mark_dirty(region + 1..end);
        }
    }

    /// The leg is ready: everything that waits for it goes out.
    fn resume_leg(&mut self, leg: Leg) {
        if !self.ready(leg) || self.state.is_over() {
            return;
        }
        self.resend_pages(leg);
        self.resend_jobs(leg);
        self.resend_beat(leg);
        self.resend_guests(leg);
        self.resend_copies(leg);
        self.pump_sync(leg);
    }

    // --- Late stamp ---------------------------------------------------------------------------------------------------

    /// The register answers for the first time, at our membership: both legs must still be ours.
    fn check_late_stamp(&mut self) {
        if !self.requests.open.is_empty() || self.orders.stamp_checks.is_some() {
            return;
        }
        let set = self.running.members;
        if set.iter().any(|leg| !self.ready(leg)) {
            // A leg is away: decide with the fences held instead.
            self.fact(Fact::Read(state::Standing::UnstampedAhead));
            return;
        }
        self.orders.stamp_checks = Some(set);
        for leg in set.iter() {
            self.send(leg, Purpose::Verify);
        }
    }

    fn late_stamp_checked(&mut self, leg: Leg, own: bool) {
        let Some(left) = self.orders.stamp_checks else {
            return;
        };
        if !own {
            self.orders.stamp_checks = None;
            self.lose(leg, crate::status::LostWhy::NotRegistered);
            return;
        }
        let left = left.without(leg);
        self.orders.stamp_checks = Some(left).filter(|left| !left.is_empty());
        if left.is_empty() {
            self.late_stamp();
        }
    }

    fn late_stamp(&mut self) {
        if !matches!(self.state, State::Synced | State::Solo) {
            return;
        }
        let Some(register) = self.seen.clone() else {
            return;
        };
        let stamp = self.stamp();
        let txid = self.ids.txid();
        if let Ok(proposed) = register.late_stamp(&self.running, &stamp, txid) {
            self.request(Ask::LateStamp, register, proposed);
        }
    }

    fn late_stamp_outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Unknown => {}
            Outcome::Won => {
                self.stamped = true;
                self.out.event(Event::Membership {
                    epoch: self.running.epoch,
                    members: self.running.members,
                });
                if self.state == State::Frozen {
                    self.read_register_fresh();
                } else {
                    self.land();
                }
            }
            Outcome::Free => self.read_register_fresh(),
            // Another site or sequence is found by standing() when the register is read again after the decision.
            Outcome::Lost | Outcome::WonSuperseded => {
                let moved = self.seen.as_ref().is_some_and(|seen| {
                    (seen.active.site, seen.active.seq) != (self.running.site, self.running.seq)
                });
                let standing = if moved {
                    state::Standing::Other
                } else {
                    state::Standing::UnstampedAhead
                };
                self.fact(Fact::Read(standing));
            }
        }
    }

    fn stamp(&mut self) -> Stamp {
        Stamp {
            key: self.running.key,
            stamp_id: self.ids.stamp(),
            order: self.place,
        }
    }

    // --- Boot ids -----------------------------------------------------------------------------------------------------

    /// The target restarted and lost nothing that matters: its superblock names the new boot.
    fn record_boot(&mut self, leg: Leg) {
        if self.running.members == Members::BOTH {
            // After the last pending region, with the superblocks that say so (R39).
            self.settled = false;
        } else if self.running.members.contains(leg) {
            self.boot_dirty = true;
        }
    }

    fn write_boot(&mut self) {
        self.boot_dirty = false;
        let members = self.running.members;
        let steps = self.superblock_steps(
            members,
            superblock::Slots::One,
            "boot id",
            |serve, leg, sb| {
                sb.boot_id = serve.boot_now(leg);
            },
        );
        self.start_script(steps);
    }

    fn boot_recorded(&mut self) {
        self.boot_dirty = false;
    }

    fn cmds_forget_deadlines(&mut self, leg: Leg) {
        self.cmds.forget_deadlines(leg);
    }

    // --- Device -------------------------------------------------------------------------------------------------------

    fn show(&mut self) {
        if self.order.mode == Mode::Caretaker || self.shown {
            return;
        }
        self.shown = true;
        let Some(sb) = self
            .running
            .members
            .iter()
            .find_map(|leg| self.superblocks[leg.index()].as_ref())
        else {
            return;
        };
        let block_size = Leg::BOTH
            .into_iter()
            .filter_map(|leg| self.links[leg.index()].info)
            .map(|info| info.block_size)
            .max()
            .unwrap_or(512);
        // Any member done = done; else any started = mkfs again.
        let format = self
            .running
            .members
            .iter()
            .filter_map(|leg| self.superblocks[leg.index()].as_ref())
            .map(|sb| sb.format)
            .max()
            .unwrap_or_default();
        let info = DeviceInfo {
            size: self.geometry.size(),
            block_size,
            discard_granularity: self.discard_granularity,
            io_max: self.config.io_max,
            format,
            fs_type: sb.fs_type,
            continued: self.continued,
        };
        self.out.push(Output::ShowDevice(info));
    }

    // --- Time ---------------------------------------------------------------------------------------------------------

    fn timers(&mut self) {
        if self.state == State::Ended {
            return;
        }
        self.command_timers();
        if self.state == State::Holding {
            return;
        }
        self.link_timers();
        self.request_timers();
        self.beat_timer();
        self.sweep_timer();
        self.probe_timer();
        self.order_timers();
        if self.copies.next.is_some_and(|at| at <= self.now) {
            self.pump_copies();
        }
        if let Some(at) = self.frozen_limit()
            && at <= self.now
        {
            self.fact(Fact::FrozenTooLong);
        }
    }

    fn frozen_limit(&self) -> Option<Duration> {
        let errors =
            self.config.on_no_quorum == OnNoQuorum::Error && self.state.frozen() && !self.failing;
        errors.then(|| self.frozen_since + self.config.frozen_error)
    }

    /// The lease is renewed by any I/O; without one, a read on both legs each second.
    fn probe_timer(&mut self) {
        if !self.policy.lease || self.probe_at > self.now {
            return;
        }
        self.probe_at = self.now + self.config.lease_renew;
        let fresh = self
            .lease
            .from()
            .is_some_and(|from| from + self.config.lease_renew > self.now);
        if fresh && self.held_reads.is_empty() {
            return;
        }
        for leg in Leg::BOTH {
            if self.ready(leg) && !self.probing[leg.index()] {
                self.probing[leg.index()] = true;
                self.send(leg, Purpose::Probe);
            }
        }
    }

    /// When time alone changes something.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        if self.state == State::Ended {
            return None;
        }
        if self.state == State::Holding {
            return earliest([self.cmds.deadline(Leg::A), self.cmds.deadline(Leg::B)]);
        }
        let rejoin = (self.state == State::Solo)
            .then_some(self.rejoin.at)
            .flatten()
            .filter(|at| *at > self.now);
        earliest([
            self.cmds.retry_at(),
            self.cmds.deadline(Leg::A),
            self.cmds.deadline(Leg::B),
            self.links[0].deadline().filter(|_| self.in_use(Leg::A)),
            self.links[1].deadline().filter(|_| self.in_use(Leg::B)),
            self.requests.deadline(self.config.register_timeout),
            self.beats.deadline(),
            (self.sweep.is_none() && self.may_clear()).then_some(self.next_sweep),
            self.policy.lease.then_some(self.probe_at),
            self.copies.next,
            self.frozen_limit(),
            self.orders.deadline(),
            rejoin,
        ])
    }

    fn identified(&mut self, leg: Leg, reply: LegReply) {
        if let LegReply::Identity(info) = reply {
            self.links[leg.index()].info = Some(info);
            self.orders.identified = self.orders.identified.with(leg);
            self.expand_identified();
        } else {
            self.identify_failed();
        }
    }

    /// A snapshot.
    pub(crate) fn status(&self, now: Duration) -> Status {
        let role = |leg: Leg| {
            let link = &self.links[leg.index()];
            if self.running.members.contains(leg) {
                if link.ready() {
                    LegRole::Member
                } else {
                    LegRole::Unreachable
                }
            } else if self.rejoin.target == Some(leg) {
                LegRole::Resyncing
            } else if link.link == Link::Down {
                LegRole::Unreachable
            } else {
                LegRole::Outdated
            }
        };
        let leg = |leg: Leg| LegStatus {
            role: role(leg),
            connected: self.links[leg.index()].link != Link::Down,
            commands_in_flight: self.cmds.in_flight[leg.index()],
            read_errors: self.links[leg.index()].read_errors,
        };
        let region = self.geometry.region_bytes();
        Status {
            state: self.state.name(),
            since: self.since.min(now),
            epoch: self.running.epoch,
            members: self.running.members,
            active: Some((self.running.site, self.running.seq)),
            stamped: self.stamped,
            device_shown: self.shown,
            size: self.geometry.size(),
            legs: Leg::BOTH.map(leg),
            dirty_bytes: u64::from(self.map.dirty_regions()) * region,
            pending_bytes: u64::from(self.pending.len() + self.must.len()) * region,
            resync: self
                .copies
                .resync
                .as_ref()
                .map(crate::resync::Resync::progress),
            rejoin_at: self.rejoin.at,
            rejoin_blocked: self.rejoin.blocked,
            refusal: None,
            conditions: self.conditions.iter().copied().collect(),
            counters: self.counters,
        }
    }

    /// Broken invariants stop the engine before it acknowledges anything more.
    fn check(&self) {
        debug_assert!(
            self.requests.open.len() <= 2,
            "at most two own requests are open"
        );
        debug_assert!(
            self.state != State::Synced || self.running.members == Members::BOTH,
            "Synced runs both legs"
        );
    }
}
