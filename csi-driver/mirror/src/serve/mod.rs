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
//! | `frozen`, `grow`, `late` | what the table does when a member is lost, joins, or the register answers late |
//! | `take_over`, `time` | from attach to the device; timers and status |
//! | `guest`, `reads`, `discard`, `failed`, `again`, `durable` | requests of the guest; flushes and syncs |
//! | `commands`, `link` | commands to legs; login, verification, loss |
//! | `register` | own requests and their outcome |
//! | `script`, `superblock` | what becomes durable in order |
//! | `equalise`, `copy`, `pages`, `clear`, `beat` | reconcile, copies, clearing, beats |
//! | `rejoin`, `orders` | steps 0-3 of a rejoin; detach, expand, format |
//! | `verify` | comparing the legs while they are used |
//! | `joint` | where a volume of a group waits for the others |

mod again;
mod beat;
mod clear;
mod commands;
mod copy;
mod discard;
mod durable;
mod equalise;
mod failed;
mod frozen;
mod grow;
mod guest;
mod joint;
mod late;
mod link;
mod orders;
mod pages;
mod reads;
mod register;
mod rejoin;
mod script;
mod state;
mod superblock;
mod take_over;
#[cfg(test)]
mod tests;
mod time;
mod transitions;
mod verify;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use twinsite_register::{Leg, Members, Order, Register, Running};

use crate::config::Config;
use crate::dirty::{DirtyMap, Opened};
use crate::engine::{IdSource, Port, ServeEnd, Served};
use crate::flush::{Mark, SyncTracker};
use crate::io::{AttachOrder, ControlError, GuestOp, Input, LegReply, ReqId};
use crate::latency::{Pace, Slowness};
use crate::layout::Geometry;
use crate::lease::Lease;
use crate::locks::{Held as LockHeld, Locks};
use crate::regions::RegionSet;
use crate::slab::{Handle, Slab};
use crate::status::{Condition, Counters, RejoinBlock};
use commands::Commands;
use copy::{Copies, Sources};
use durable::Flush;
use guest::{Owner, Req};
use joint::Joint;
pub(crate) use joint::{Ids, Wish, graver};
use link::{LegLink, Link};
use orders::Orders;
use register::Requests;
use rejoin::Rejoin;
use script::Scripts;
pub(crate) use state::Ask;
use state::{Fact, Policy, State};
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
    /// The volume is one of a group.
    joint: Option<Joint>,
    /// Holding leads to a new attach in place.
    reattach: bool,

    // Legs.
    links: [LegLink; 2],
    /// No key is left on the last member.
    keys_gone: bool,
    cmds: Commands,
    superblocks: [Option<crate::layout::Superblock>; 2],
    base: Option<BaseNumbers>,
    scripts: Scripts,
    beats: beat::Beats,
    /// The higher beat block, and the legs that lack it: written after the last pending region.
    beat_owed: Option<(crate::layout::Beat, Members)>,
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
    /// Requests that start over when the legs are equal and the first beat is durable.
    delayed: Vec<Handle>,
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
    pace: Pace,
    slowness: Slowness,
    verify: verify::Verify,
}

impl Serve {
    /// Take over from attach. `generation` is above that of every command named before.
    pub(crate) fn new(now: Duration, served: Served, generation: u32, out: Port) -> Self {
        Self::assemble(now, served, generation, out, None)
    }

    /// The same for a volume of a group: what is said of the membership is said for all of its volumes.
    pub(crate) fn of_group(now: Duration, served: Served, generation: u32, out: Port) -> Self {
        Self::assemble(now, served, generation, out, Some(Joint::default()))
    }

    fn assemble(
        now: Duration,
        served: Served,
        generation: u32,
        out: Port,
        joint: Option<Joint>,
    ) -> Self {
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
            joint,
            reattach: false,
            links: [
                LegLink::new(None, Link::Down),
                LegLink::new(None, Link::Down),
            ],
            keys_gone: false,
            cmds: Commands::new(generation),
            superblocks: [None, None],
            base: None,
            scripts: Scripts::new(),
            beats: beat::Beats::new(0, set),
            beat_owed: None,
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
            delayed: Vec::new(),
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
            pace: Pace::new(now, config.resync_bytes_per_second),
            slowness: Slowness::new(now, config.slow_leg),
            verify: verify::Verify::new(),
        };
        let owed = served.continued && served.order.record.flush_owed;
        serve.take_over(served);
        if owed && !serve.flush_failure_owed() {
            serve.flush_fails_once(serve.local);
        }
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
        let owed = self.order.record.flush_owed;
        self.order = served.order.clone();
        self.order.record.flush_owed |= owed;
        self.end = None;
        if let Some(joint) = &mut self.joint {
            *joint = Joint::default();
        }
        self.facts.clear();
        self.scripts = Scripts::new();
        self.superblocks = [None, None];
        self.base = None;
        self.rejoin = Rejoin::new();
        self.syncs = [SyncTracker::default(); 2];
        self.sync_wanted = [None; 2];
        self.lease.void();
        (self.settled, self.clearable, self.failing) = (false, false, false);
        (self.keys_gone, self.source_behind, self.sweep) = (false, false, None);
        self.orders.rolled_back = None;
        self.pending.clear();
        self.must.clear();
        self.repair.clear();
        self.state = State::Equalise;
        self.since = now;
        self.apply_policy();
        self.take_over(served);
        self.lower(Condition::MembershipUnknown);
        self.last_member_seen();
        self.restart_guests();
        for flush in &mut self.flushes {
            flush.restart(self.running.members, &self.syncs);
        }
        self.settle();
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
            Input::Verify(order) => self.order_verify(order),
            Input::RecordSaved => {
                self.out.record_saved();
            }
            Input::Tick | Input::Attach(_) | Input::BeatObject { .. } => {}
        }
        self.timers();
        self.settle();
        if self.verify.is_running() {
            self.verify_turn();
            self.settle();
        }
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
                        self.keep_owed();
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
            State::Equalise if !self.scripts.running() && !self.waits_to_show() => {
                Next::Fact(Fact::Equalised)
            }
            State::Synced | State::Solo | State::Expand if detach => {
                self.rejoin_failed(RejoinBlock::GivenUp);
                self.fail_orders(ControlError::Interrupted);
                self.begin_detach();
                Next::Again
            }
            State::Solo | State::FirstBeat if self.keys_gone => {
                self.keys_gone = false;
                self.running
                    .members
                    .sole()
                    .map_or(Next::Again, |x| Next::Fact(Fact::KeysGone(x)))
            }
            State::Synced => self.follows_synced(),
            State::Solo
                if self.boot_dirty
                    && self.boot_may_be_recorded()
                    && !self.scripts.running()
                    && !self.rejoin.is_preparing() =>
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
                if self.rest_is_small() && self.may_switch() {
                    return Next::Fact(Fact::RestSmall);
                }
                self.pump_copies();
                Next::Nothing
            }
            State::RjBoth if self.copies.idle() => Next::Fact(Fact::CopyIdle),
            // A grow that is won takes the old boot id away.
            State::RjNeed if self.converged() && self.boot_may_be_recorded() => {
                Next::Fact(Fact::Converged)
            }
            // In a group what is connected and fenced is looked at when all volumes have come so far: what a leg says meanwhile
            // must not get lost.
            State::Holding if self.joint.is_none() && self.is_held() => {
                self.held();
                Next::Nothing
            }
            State::Detach => self.detach_ready().map_or(Next::Nothing, Next::Fact),
            _ => Next::Nothing,
        }
    }

    fn follows_synced(&mut self) -> Next {
        let equal = self.pending.is_empty() && self.must.is_empty();
        if !self.settled && equal && !self.scripts.running() {
            if self.boot_may_be_recorded() {
                return Next::Fact(Fact::Reconciled);
            }
            // The record may take its time: a flush does not wait for it.
            self.try_flushes();
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

    fn cmds_forget_deadlines(&mut self, leg: Leg) {
        self.cmds.forget_deadlines(leg);
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
