//! What the engine reports: a snapshot for status and metrics, and events worth a line in a log.

use std::ops::Range;
use std::time::Duration;

use twinsite_register::{Epoch, Leg, Members, Site};

use crate::io::LegDown;

/// Name of the engine state of protocol 2.1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum StateName {
    Off,
    Check,
    Fence,
    Decide,
    CasWait,
    SbWrite,
    LeaseWait,
    Reconcile,
    Synced,
    Frozen,
    ShrinkWait,
    ThawWait,
    Solo,
    RjTarget,
    RjBoth,
    RjNeed,
    Growing,
    GrowWait,
    BumpWait,
    Expand,
    Detach,
    Superseded,
    Refused,
    /// A one-shot order: birth, wipe, inspect, reseed.
    OneShot,
}

/// Why an attach was refused; the rows of 2.8 and the order rule.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Refusal {
    NoLeg,
    NotActive,
    WitnessBehind,
    WitnessNeeded,
    WaitMember,
    MemberDamaged,
    RegisterMissing,
    Creating,
    Deleted,
    OrderStale,
    /// The holder still writes: automatic failover refused.
    HolderActive,
    /// The whole budget of the attach went by, or five rounds of fencing.
    TimedOut,
    /// A leg carries software features this one does not know.
    UnknownFormat,
    /// A shown device may not be continued (R38).
    NotContinued,
    /// Where a leg should be, another LUN answers: the order is wrong, and running on the other leg alone would hide it.
    OtherLun,
    /// The register is of other volumes than those that are to be opened: a group is opened as a whole or not at all.
    OtherVolumes,
}

/// How a leg stands to the membership.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LegRole {
    Member,
    Resyncing,
    Outdated,
    Unreachable,
    Unknown,
}

/// Where a rejoin or a reconcile stands.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Progress {
    pub total_bytes: u64,
    pub left_bytes: u64,
    pub bytes_per_second: u64,
    pub eta: Option<Duration>,
    /// All of the volume, not only what the maps say.
    pub full: bool,
}

impl Progress {
    pub fn percent(&self) -> u8 {
        if self.total_bytes == 0 {
            return 100;
        }
        let done = self.total_bytes.saturating_sub(self.left_bytes);
        u8::try_from(u128::from(done) * 100 / u128::from(self.total_bytes)).unwrap_or(100)
    }
}

/// Why a comparison of the legs ended before its end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum VerifyStop {
    /// One leg is left; it goes on when both are members again.
    MemberLost,
    Detached,
    Superseded,
    /// The attach is decided anew.
    Undecided,
    /// By an order.
    Ordered,
}

/// How far a comparison of the legs is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum VerifyPhase {
    #[default]
    Running,
    Done,
    Stopped(VerifyStop),
}

/// Bytes of the volume with something wrong about them: all are counted, the first [`LISTED`] ranges are named.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Findings {
    pub bytes: u64,
    /// In order; ranges that touch are one.
    pub ranges: Vec<Range<u64>>,
}

/// Ranges that are named.
pub const LISTED: usize = 64;

impl Findings {
    /// Says whether it could be named.
    pub fn add(&mut self, range: Range<u64>) -> bool {
        self.bytes += range.end.saturating_sub(range.start);
        let at = self.ranges.partition_point(|known| known.end < range.start);
        let full = self.ranges.len() >= LISTED;
        match self.ranges.get_mut(at) {
            Some(known) if known.start <= range.end => {
                known.start = known.start.min(range.start);
                known.end = known.end.max(range.end);
                let end = known.end;
                if let Some(next) = self.ranges.get(at + 1).filter(|next| next.start <= end) {
                    self.ranges[at].end = end.max(next.end);
                    self.ranges.remove(at + 1);
                }
                true
            }
            _ if full => false,
            _ => {
                self.ranges.insert(at, range);
                true
            }
        }
    }
}

/// A comparison of the legs (protocol 2.11).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VerifyStatus {
    pub phase: VerifyPhase,
    /// First byte of this run.
    pub from: u64,
    /// Everything from there to here was compared.
    pub position: u64,
    /// Size of the volume.
    pub total_bytes: u64,
    pub bytes_per_second: u64,
    pub eta: Option<Duration>,
    pub chunks: u64,
    /// Chunks that had to be compared under the lock.
    pub locked: u64,
    /// Bytes of blocks that are not the same on both legs.
    pub differing: Findings,
    /// Bytes that could not be compared, because a leg cannot read them.
    pub unreadable: Findings,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LegStatus {
    pub role: LegRole,
    pub connected: bool,
    pub commands_in_flight: u32,
    pub read_errors: u64,
}

/// A snapshot of the engine.
#[derive(Clone, PartialEq, Debug)]
pub struct Status {
    pub state: StateName,
    pub since: Duration,
    pub epoch: Epoch,
    pub members: Members,
    pub active: Option<(Site, u64)>,
    /// Our stamp is in the register.
    pub stamped: bool,
    pub device_shown: bool,
    pub size: u64,
    pub legs: [LegStatus; 2],
    pub dirty_bytes: u64,
    /// Regions of this attach not yet reconciled.
    pub pending_bytes: u64,
    pub resync: Option<Progress>,
    /// Of the run under way, or of the last one of this attach.
    pub verify: Option<VerifyStatus>,
    /// When a rejoin is next tried, and why the last one ended.
    pub rejoin_at: Option<Duration>,
    pub rejoin_blocked: Option<RejoinBlock>,
    pub refusal: Option<Refusal>,
    pub conditions: Vec<Condition>,
    pub counters: Counters,
}

/// Things an operator must know as long as they hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Condition {
    /// A request to the register has had no outcome for more than 5 s.
    MembershipUnknown,
    /// The last member is gone: I/O waits for it.
    LegLost,
    /// The register is older than what was seen: alarm, a human reseeds.
    WitnessRolledBack,
    /// The register has not answered lately.
    WitnessUnreachable,
    /// A leg was rolled back or is not what the register says.
    LegDamaged(Leg),
    /// A leg is blank or carries foreign data.
    ForeignData(Leg),
    /// A leg of a lost branch waits for a human.
    LostBranch(Leg),
    /// The last member has blocks that it cannot read and the other leg does not have: no rejoin ends well before the guest
    /// writes there.
    SourceUnreadable,
}

/// Why no rejoin is tried.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RejoinBlock {
    NoRejoin,
    Retired,
    LostBranch,
    ForeignData,
    TooSmall,
    FenceFailed,
    LegLost,
    WitnessUnreachable,
    WitnessRolledBack,
    /// The source cannot read a region that must be copied.
    SourceUnreadable,
    /// The leg carries a later epoch or active sequence than the register.
    LegAhead,
    /// Detach, drop leg or expand came first.
    GivenUp,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    pub reads: u64,
    pub writes: u64,
    pub flushes: u64,
    pub discards: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
    /// Writes whose data had to wait for a page of the dirty map (gate 1).
    pub cold_writes: u64,
    pub page_transactions: u64,
    pub regions_cleared: u64,
    pub copied_bytes: u64,
    pub retries: u64,
    pub read_repairs: u64,
    /// Reads held because the lease had run out.
    pub lease_holds: u64,
    pub flush_failures: u64,
}

/// Why a member was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LostWhy {
    Session(LegDown),
    Timeout,
    WriteError,
    SyncFailed,
    /// Restarted with a volatile cache while unflushed writes existed (R14).
    Restarted,
    RolledBack,
    Dropped,
    NotRegistered,
    /// Much slower than the other one for long.
    Slow,
}

/// Something happened; told once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    State {
        from: StateName,
        to: StateName,
    },
    LegLost {
        leg: Leg,
        why: LostWhy,
    },
    LegBack {
        leg: Leg,
    },
    /// The membership is now this.
    Membership {
        epoch: Epoch,
        members: Members,
    },
    RejoinStarted {
        leg: Leg,
        full: bool,
    },
    RejoinEnded {
        leg: Leg,
        why: RejoinBlock,
    },
    Superseded,
    /// The next flush fails once: a restart may have lost writes that were not flushed (R40).
    FlushWillFail {
        leg: Leg,
    },
    ReadRepaired {
        leg: Leg,
        offset: u64,
        len: u32,
    },
    ReadFailed {
        offset: u64,
        len: u32,
    },
    VerifyBegan {
        from: u64,
    },
    /// A block that is not the same on both legs; only of those that the status names.
    LegsDiffer {
        offset: u64,
        len: u64,
    },
    /// A chunk that a leg cannot read.
    VerifyUnreadable {
        leg: Leg,
        offset: u64,
        len: u64,
    },
    VerifyEnded {
        stop: Option<VerifyStop>,
        position: u64,
        differing: u64,
        unreadable: u64,
    },
    Raised(Condition),
    Cleared(Condition),
    /// No row of the transition table for this event in this state; told once per entry of the state.
    Ignored {
        state: StateName,
        what: &'static str,
    },
}

impl Status {
    /// An engine that was never attached.
    pub fn off() -> Self {
        let leg = LegStatus {
            role: LegRole::Unknown,
            connected: false,
            commands_in_flight: 0,
            read_errors: 0,
        };
        Self {
            state: StateName::Off,
            since: Duration::ZERO,
            epoch: Epoch::ZERO,
            members: Members::NONE,
            active: None,
            stamped: false,
            device_shown: false,
            size: 0,
            legs: [leg; 2],
            dirty_bytes: 0,
            pending_bytes: 0,
            resync: None,
            verify: None,
            rejoin_at: None,
            rejoin_blocked: None,
            refusal: None,
            conditions: Vec::new(),
            counters: Counters::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_that_touch_are_one_range_and_the_list_is_bounded() {
        let mut found = Findings::default();
        for (from, to) in [(8, 9), (0, 1), (2, 3), (1, 2), (9, 10)] {
            assert!(found.add(from..to));
        }
        assert_eq!((found.bytes, &found.ranges[..]), (5, &[0..3, 8..10][..]));
        for n in 0..200 {
            found.add(100 + 2 * n..101 + 2 * n);
        }
        assert_eq!((found.bytes, found.ranges.len()), (205, LISTED));
        assert!(!found.add(1000..1001) && found.add(10..11));
    }
}
