//! The serving states, what each asks of a guest write, and the facts that move one to another.

use std::time::Duration;

use twinsite_register::{Leg, Members, Outcome};

use crate::status::{LostWhy, RejoinBlock, StateName};

/// Where the serving phase is. The rows of protocol 2.18 are in `transitions.rs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Pages of a pair are made equal, and its beats if no region is pending (2.7 step 8).
    Equalise,
    /// The first beat is on its way to every leg of the set.
    FirstBeat,
    Synced,
    /// A member is lost; nothing was sent yet.
    Frozen,
    /// The shrink to this leg is sent.
    ShrinkWait(Leg),
    /// The lost leg is back while the shrink has no outcome: stamp and shrink are both open.
    ThawWait(Leg),
    /// Superblocks of a membership that was won.
    SbWrite(Won),
    Solo,
    RjTarget,
    RjBoth,
    RjNeed,
    /// SYNC, map, superblocks Growing and Candidate are being written; then the register is asked.
    Growing,
    /// Growing is given up before anything was sent: X becomes Member again.
    Ungrow,
    GrowWait,
    /// The grow is open and a bump beside it.
    BumpWait,
    Expand,
    Detach,
    /// About to go back to the decision: what is under way ends first, so that nothing old comes after something newer.
    Holding,
    /// This phase is over.
    Ended,
}

/// Which request was won.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Won {
    Shrink,
    Grow,
    Bump,
}

impl State {
    pub(super) const fn name(self) -> StateName {
        match self {
            Self::Equalise | Self::FirstBeat => StateName::Reconcile,
            Self::Synced => StateName::Synced,
            Self::Frozen => StateName::Frozen,
            Self::ShrinkWait(_) => StateName::ShrinkWait,
            Self::ThawWait(_) => StateName::ThawWait,
            Self::SbWrite(_) | Self::Ungrow => StateName::SbWrite,
            Self::Solo => StateName::Solo,
            Self::RjTarget => StateName::RjTarget,
            Self::RjBoth => StateName::RjBoth,
            Self::RjNeed => StateName::RjNeed,
            Self::Growing => StateName::Growing,
            Self::GrowWait => StateName::GrowWait,
            Self::BumpWait => StateName::BumpWait,
            Self::Expand => StateName::Expand,
            Self::Detach => StateName::Detach,
            Self::Holding => StateName::Decide,
            Self::Ended => StateName::Off,
        }
    }

    /// Nothing is sent any more.
    pub(super) const fn is_over(self) -> bool {
        matches!(self, Self::Holding | Self::Ended)
    }

    /// The copy to the target is over; what differs from now on is not copied in this rejoin.
    pub(super) const fn after_copy(self) -> bool {
        matches!(self, Self::Growing | Self::GrowWait | Self::BumpWait)
    }

    /// It is not known who the members are: no write is answered.
    pub(super) const fn frozen(self) -> bool {
        matches!(self, Self::Frozen | Self::ShrinkWait(_) | Self::ThawWait(_))
    }
}

/// Which guest requests are taken up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Admit {
    Nothing,
    Reads,
    All,
}

/// What a state asks of guest requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Policy {
    /// Where new writes go.
    pub(super) targets: Members,
    /// Who must have a new write, and a flush, before it is answered (R2).
    pub(super) need: Members,
    /// Writes and flushes may be answered.
    pub(super) answer: bool,
    pub(super) admit: Admit,
    /// Reads are answered under the lease only (R8).
    pub(super) lease: bool,
}

impl Policy {
    /// The columns of protocol 2.1 for a state with these members.
    pub(super) fn of(state: State, members: Members) -> Self {
        let both = Self {
            targets: Members::BOTH,
            need: Members::BOTH,
            answer: true,
            admit: Admit::All,
            lease: true,
        };
        let solo = Self {
            targets: members,
            need: members,
            lease: false,
            ..both
        };
        let hold = Self {
            answer: false,
            admit: Admit::Nothing,
            ..solo
        };
        match state {
            State::Equalise | State::FirstBeat | State::Ended => hold,
            // R8: another writer may serve already.
            State::Holding => Self {
                lease: true,
                ..hold
            },
            State::Synced | State::Expand => both,
            State::Frozen | State::ShrinkWait(_) | State::ThawWait(_) => Self {
                admit: Admit::Reads,
                answer: false,
                ..both
            },
            // R3: no answer before base numbers, map and superblock are durable on X.
            State::SbWrite(Won::Shrink | Won::Bump) => hold,
            State::SbWrite(Won::Grow) => both,
            State::Solo | State::RjTarget | State::Ungrow => solo,
            State::RjBoth => Self {
                targets: Members::BOTH,
                ..solo
            },
            // R21: from step 5 on a new write needs both legs, before step 6 is looked at.
            State::RjNeed | State::Growing | State::GrowWait | State::BumpWait => both,
            State::Detach if members == Members::BOTH => Self {
                admit: Admit::Nothing,
                ..both
            },
            State::Detach => Self {
                admit: Admit::Nothing,
                ..solo
            },
        }
    }
}

/// Own requests to the register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ask {
    LateStamp,
    Shrink { to: Leg, drop: bool },
    Thaw,
    Grow,
    Bump,
    Land,
    Release,
}

/// What a read of the register says to this writer when it has no request open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// Holder is our key, membership as we run.
    Mine,
    /// Never stamped, and the register is at the membership we run.
    UnstampedEqual,
    /// Never stamped, and the membership moved on.
    UnstampedAhead,
    /// Another holder, site, sequence or order; also deleted.
    Other,
    Below,
    Unreadable,
}

/// Something that the transition table knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fact {
    Equalised,
    FirstBeat,
    Lost(Leg, LostWhy),
    /// Members that are lost in another volume of the group are now others.
    Elsewhere,
    /// Relogin verified; nothing was lost by the leg.
    Back(Leg),
    /// A leg that is no member logged in.
    Reachable(Leg),
    /// RESERVATION CONFLICT or UNIT ATTENTION 2A/03..05.
    Conflict(Leg),
    Read(Standing),
    Outcome(Ask, Outcome),
    /// The script with this number is durable.
    ScriptDone(u32),
    /// All regions of the attach, and those of failed writes, are copied.
    Reconciled,
    /// Steps 1-3 of a rejoin are done.
    Targeted,
    /// A rejoin cannot go on.
    Blocked(RejoinBlock),
    RestSmall,
    /// No copy holds a region.
    CopyIdle,
    /// Step 6: nothing acknowledged from X alone is in flight to Y, and every region is clean in memory.
    Converged,
    DropLeg(Leg),
    Expand(u64),
    Drained,
    DrainTimeout,
    /// `onNoQuorum: Error`, frozen for too long.
    FrozenTooLong,
    /// All keys are gone from the last member.
    KeysGone(Leg),
}

/// The first of some timers; `None` = never.
pub(super) fn earliest(times: impl IntoIterator<Item = Option<Duration>>) -> Option<Duration> {
    times.into_iter().flatten().min()
}
