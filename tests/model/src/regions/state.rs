//! State of the regions model: two legs with maps, numbers, beats and bases; one writer; an oracle.

use crate::table::Role;

pub const REGIONS: usize = 2;
/// All regions of the one page.
pub const ALL: u8 = (1 << REGIONS) - 1;
/// Largest number of guest writes; sizes the oracle.
pub const WRITES: usize = 4;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Leg {
    /// Last write of each region, in the cache and on the medium.
    pub data: [u8; REGIONS],
    pub durable: [u8; REGIONS],
    /// The map page: number and dirty bits. Metadata is FUA, so it has no cached form.
    pub number: u8,
    pub bits: u8,
    pub role: Role,
    pub epoch: u8,
    pub members: u8,
    /// Last epoch in which the other leg was a member; 0 = none.
    pub base: u8,
    /// Number block beside the base; `None` where this leg only copied the field.
    pub base_number: Option<u8>,
    pub beat: u8,
    pub boot: u8,
    pub recorded_boot: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Phase {
    #[default]
    Down,
    /// Superblocks of an attach, leg by leg.
    AttachSb,
    /// Page and beat made equal, leg by leg.
    Equalise,
    /// Pair; `pending` regions may still be copied behind it.
    Pair,
    Frozen,
    /// Shrink won: base numbers, map, superblock on the survivor.
    ShrinkBase,
    ShrinkMap,
    ShrinkSb,
    Solo,
    /// Superblock Target on the returning leg, then the union on the source.
    Target,
    Union,
    /// Step 4: writes to the source, regions copied.
    Copy,
    /// Steps 5 and 6: completions need both.
    Need,
    /// Step 6b.
    MapToOther,
    GrowingSb,
    CandidateSb,
    /// Step 8: the register decides.
    Grow,
    /// Step 9.
    MemberSb,
    /// Step 10: base = none on both, then clear.
    NoBase,
}

/// A guest write of one region: number (0 = none), legs that have the data, legs it needs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Write {
    pub id: u8,
    pub on: u8,
    pub need: u8,
    /// Answered with EIO: the guest is not waiting, the region is must-reconcile.
    pub failed: bool,
}

/// One page transaction: number, bits, legs it goes to, legs on which it is durable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Page {
    pub number: u8,
    pub bits: u8,
    pub to: u8,
    pub done: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Writer {
    pub phase: Phase,
    pub set: u8,
    pub epoch: u8,
    /// Source of a reconcile or of a rejoin; survivor of a shrink.
    pub source: u8,
    pub local: u8,
    pub todo: u8,
    /// Dirty in memory, and the page number they were written with.
    pub bits: u8,
    pub number: u8,
    pub page: Option<Page>,
    pub pending: u8,
    pub must_reconcile: u8,
    pub writes: [Write; REGIONS],
    /// Regions of a rejoin that are equal on both legs.
    pub copied: u8,
    pub full: bool,
    /// Beat under way: legs that have it.
    pub beat: u8,
    pub beating: u8,
    /// Last acknowledged write of each region since this attach: what its FLUSH is about.
    pub own: [u8; REGIONS],
    pub flush_fail: bool,
    /// Boot ids as of the login, and legs whose boot id had changed at the attach.
    pub boot: [u8; 2],
    pub changed: u8,
    /// Attached, and the step after the last pending region (SYNC, boot ids, beats equal) is still to come.
    pub unsettled: bool,
    /// Survivor of the shrink under way.
    pub survivor: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Register {
    pub epoch: u8,
    pub members: u8,
    pub history: [u8; 8],
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct State {
    pub legs: [Leg; 2],
    pub register: Register,
    pub writer: Writer,
    pub away: u8,
    pub acked: [u8; REGIONS],
    pub flushed: [u8; REGIONS],
    pub observed: [u8; REGIONS],
    /// Region of each write and what was acknowledged when it was issued.
    pub issued: [(u8, [u8; REGIONS]); WRITES + 1],
    pub next_write: u8,
    /// Epoch, and highest beat known to be on every member.
    pub beat_object: (u8, u8),
    /// A copy of leg B taken earlier, and whether it was put back.
    pub snapshot: Option<Leg>,
    pub rolled_back: bool,
    pub alarmed: bool,
    pub cuts: u8,
    pub heals: u8,
    pub crashes: u8,
    pub power: u8,
    pub snapshots: u8,
    pub errors: u8,
    pub fault: u8,
}

impl State {
    pub fn reach(&self, x: usize) -> bool {
        self.away >> x & 1 == 0
    }

    pub fn union_bits(&self) -> u8 {
        self.legs[0].bits | self.legs[1].bits
    }

    /// Reachable, and the target did not restart since the login.
    pub fn up(&self, x: usize) -> bool {
        self.reach(x) && self.writer.boot[x] == self.legs[x].boot
    }
}
