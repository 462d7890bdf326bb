//! What one state of the ordering model holds: two legs, one register, requests under way, two or three writers.
//!
//! Everything is a small number so that a state is a few hundred bytes and hashes quickly. Member sets are bit masks:
//! 1 = {A}, 2 = {B}, 3 = {A, B}. Guest writes are numbered from 1; the content of a leg is the number of its last write.

use crate::table::{Live, Role};

pub const WRITERS: usize = 3;
pub const QUEUE: usize = 3;
pub const REQUESTS: usize = 3;

/// Where a writer stands. The names follow the engine states of protocol 2.1; a rejoin is split finer, because guest writes
/// go on between its steps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum Phase {
    /// No such writer in this configuration.
    #[default]
    Absent,
    Off,
    /// Crashed or superseded.
    Dead,
    Attach,
    CasWait,
    SbWrite,
    Reconcile,
    /// Synced or Solo, by `Writer::members`.
    Run,
    Frozen,
    ShrinkWait,
    ThawWait,
    RjTarget,
    RjBoth,
    /// Steps 5 and 6: completions need both legs.
    RjNeed,
    /// Step 7a done.
    Growing,
    /// Step 7b done.
    Candidate,
    GrowWait,
    BumpWait,
    /// Only with `clean_before_both`: saw every region clean, the switch of step 5 comes after it.
    SawClean,
    LateSwitch,
}

impl Phase {
    pub fn alive(self) -> bool {
        !matches!(self, Self::Off | Self::Dead | Self::Absent)
    }

    pub fn serves(self) -> bool {
        use Phase::*;
        matches!(
            self,
            Run | RjTarget
                | RjBoth
                | RjNeed
                | Growing
                | Candidate
                | GrowWait
                | BumpWait
                | SawClean
                | LateSwitch
                | Frozen
        )
    }
}

/// A guest write on its way to a leg. `write` 0 = empty slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Command {
    pub write: u8,
    pub key: u8,
    pub accepted: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LegState {
    /// Last write in the cache of the target, and on its medium.
    pub data: u8,
    pub durable: u8,
    pub dirty: u8,
    pub role: Role,
    pub epoch: u8,
    pub members: u8,
    pub seq: u8,
    pub site: u8,
    /// Key that holds the reservation.
    pub holder: u8,
    /// Epoch in the beat block, written when serving starts.
    pub served: u8,
    /// Boot id of the target, and the one its superblock records.
    pub boot: u8,
    pub recorded_boot: u8,
    pub attach_key: u8,
    pub queue: [Command; QUEUE],
}

impl LegState {
    pub fn drop_commands(&mut self, mut which: impl FnMut(&Command) -> bool) {
        for c in &mut self.queue {
            if which(c) {
                *c = Command::default();
            }
        }
        self.queue.sort_by(|a, b| b.cmp(a));
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Register {
    pub txid: u8,
    /// Stands for the proposed gen, or for a stamp the stamp_id: what an outcome is read from (R41).
    pub proposal: u8,
    pub epoch: u8,
    pub members: u8,
    pub site: u8,
    pub seq: u8,
    pub holder: u8,
    pub history: [u8; 8],
}

/// A compare-and-swap on its way to the witness. `expected` (a txid) 0 = empty slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Request {
    pub expected: u8,
    pub expected_epoch: u8,
    pub expected_members: u8,
    pub new: Register,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Writer {
    pub phase: Phase,
    pub moving: u8,
    /// Legs fenced; legs still to fence, or superblocks still to write.
    pub fenced: u8,
    pub todo: u8,
    pub epoch: u8,
    pub members: u8,
    pub seq: u8,
    /// The guest write in flight: number, 1 = bit to be set, 2 = data, legs it was sent to, applied on, needed from.
    pub write: u8,
    pub stage: u8,
    pub sent: u8,
    pub applied: u8,
    pub need: u8,
    pub key: u8,
    /// Surviving leg of a shrink, or source of a rejoin.
    pub source: u8,
    /// Own last request, and the one before (grow, shrink) that may still be open.
    pub request: u8,
    pub earlier: u8,
    pub lease: u8,
    /// Region of the rejoin copied; 1 + the value the copy read, 0 = no copy under way.
    pub clean: u8,
    pub copying: u8,
    pub attaching: u8,
    /// 0 never stamped, 1 stamped, 2 late stamp under way.
    pub stamped: u8,
    /// Last write acknowledged by this writer since it serves (volatile caches only).
    pub own: u8,
    /// Decision taken too early (`sb_before_fence`, `cas_before_fence`).
    pub planned_set: u8,
    pub planned_cas: u8,
    /// Value the own request was built on.
    pub base: u8,
    /// Members at the decision: whose lease may still run.
    pub prior: u8,
    /// Legs whose boot change was seen in step 6 (`boot_in_step6`).
    pub new_boot: u8,
    /// Write in flight at the crash behind a device that stayed shown, and the key of that attach.
    pub kept: u8,
    pub kept_key: u8,
    pub boot: [u8; 2],
}

impl Writer {
    pub fn dead(self) -> Self {
        Self {
            phase: Phase::Dead,
            key: self.key,
            ..Self::default()
        }
    }
}

/// Link writer to leg: 0 cut, 1 no session, 2 session. Writer to register: 0 or 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    pub legs: [LegState; 2],
    pub register: Register,
    pub requests: [Request; REQUESTS],
    pub writers: [Writer; WRITERS],
    pub leg_links: [[u8; 2]; WRITERS],
    pub register_links: [u8; WRITERS],
    pub acked: u8,
    pub flushed: u8,
    pub next_write: u8,
    pub next_txid: u8,
    pub observed: u8,
    pub cuts: u8,
    pub heals: u8,
    pub crashes: u8,
    pub moves: u8,
    pub power: u8,
    pub edits: u8,
    /// A violation found while taking a step (index into `check::VIOLATIONS`).
    pub fault: u8,
}

impl State {
    pub fn connected(&self, i: usize, x: usize) -> bool {
        self.leg_links[i][x] == 2 && self.writers[i].boot[x] == self.legs[x].boot
    }

    pub fn holds(&self, i: usize, x: usize) -> bool {
        self.legs[x].holder == self.writers[i].key
    }

    /// Connected and not fenced: commands of this writer are executed.
    pub fn usable(&self, i: usize, x: usize) -> bool {
        self.connected(i, x) && self.holds(i, x)
    }

    pub fn live(&self) -> Live {
        let r = &self.register;
        Live {
            epoch: r.epoch,
            members: r.members,
            site: r.site,
            seq: r.seq,
            landed: 0,
            granted: [None; 2],
            history: r.history,
        }
    }

    /// Can the request that proposes this value still be executed?
    pub fn open(&self, proposal: u8) -> bool {
        self.requests.iter().any(|m| m.new.proposal == proposal)
    }

    pub fn sort_requests(&mut self) {
        self.requests.sort_by(|a, b| b.cmp(a));
    }
}

pub fn has(set: u8, x: usize) -> bool {
    set >> x & 1 == 1
}

/// The legs of {A, B} for which `f` holds.
pub fn legs_where(f: impl Fn(usize) -> bool) -> u8 {
    (0..2).filter(|&x| f(x)).fold(0, |m, x| m | 1 << x)
}
