//! The activation table: which legs may run, and which one request to the register must succeed before they do.
//!
//! Looked up, never inferred: the register names the members, each leg carries the `(epoch, gen)` it was written for, and
//! [`decide`] is a total function of both. [`may_fence`] is asked before the first PREEMPT AND ABORT, because a fence by
//! somebody who cannot win stops a healthy writer. Inputs are small plain values ([`RegView`], [`LegView`]), so that the
//! engine and a model checker call the same functions.
//!
//! Invariants, enumerated in the tests: every combination of inputs matches exactly one [`Row`] (I16); the answer runs only
//! legs that the register (or without it the leg itself) names; with a readable register every answer that runs includes a
//! stamp (R24).
//! Not here: the order of Attachments (R38, `attach::order`), reading and fencing legs.

mod view;

pub use view::{BeatView, Fit, LegView, LiveView, RegView, RegisterIdView, SbView};

use crate::ids::{Epoch, Gen, Leg, Members, Site};
pub use crate::status::Refusal;

/// Was a move of the volume to this site ordered?
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Mv {
    /// No.
    None,
    /// The other site detached first: every member must be reachable.
    Planned,
    /// The other site is lost.
    Failover,
}

impl Mv {
    const fn is_none(self) -> bool {
        matches!(self, Self::None)
    }
}

/// Change of the membership in the one request of an attach.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Change {
    /// Members and epoch stay.
    Keep,
    /// The set becomes the members, epoch + 1.
    Shrink,
    /// Same members, epoch + 1: ends a grow that may still be under way (R20).
    Bump,
}

/// The one compare-and-swap of an attach; a stamp is always part of it (R24).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Cas {
    /// What happens to the membership.
    pub change: Change,
    /// The active site moves here, `seq` + 1.
    pub moves: bool,
}

/// The answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// These legs run once the request is won; `None`: the register is unreadable, a late stamp is owed.
    Run {
        /// The legs.
        set: Members,
        /// The request.
        cas: Option<Cas>,
    },
    /// Nothing runs.
    Refuse(Refusal),
}

/// The row of the table that matched, as numbered in the protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(
    missing_docs,
    reason = "the table in the protocol says what each row is"
)]
pub enum Row {
    T1,
    T2,
    T3,
    T4,
    T5,
    L1,
    L2,
    L3,
    L3b,
    L4,
    L5,
    L6,
    L7,
    L8,
    L9,
    L10,
    L11,
    U1,
    U2,
    U3,
    U4,
    U5,
}

/// A row and what it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Which row matched.
    pub row: Row,
    /// What to do.
    pub act: Act,
}

/// Part 1: which of the reachable legs may be fenced. `held_by_other`: a reachable leg is reserved by a key with the other
/// site's tag, which PERSISTENT RESERVE IN shows without a registration.
pub fn may_fence(
    site: Site,
    mv: Mv,
    register: &RegView,
    reachable: Members,
    held_by_other: bool,
) -> Result<Members, Refusal> {
    match register {
        RegView::Below => Err(Refusal::WitnessBehind),
        RegView::Absent => Err(Refusal::RegisterMissing),
        RegView::Creating => Err(Refusal::Creating),
        RegView::Tombstone => Err(Refusal::Deleted),
        RegView::Live(live) if live.site != site && mv.is_none() => Err(Refusal::NotActive),
        RegView::Live(_) | RegView::Unreadable if reachable.is_empty() => Err(Refusal::NoLeg),
        RegView::Live(live) => {
            let fence = live.members.and(reachable);
            let planned_short = mv == Mv::Planned && fence != live.members;
            if fence.is_empty() || planned_short {
                return Err(Refusal::WaitMember);
            }
            Ok(fence)
        }
        RegView::Unreadable if !mv.is_none() || held_by_other => Err(Refusal::WitnessNeeded),
        RegView::Unreadable => Ok(reachable),
    }
}

/// Part 2, after the fences. `behind`: legs that lost a volatile cache since their recorded boot id while some region is
/// dirty in the union of both maps ([`is_behind`]).
pub fn decide(
    site: Site,
    mv: Mv,
    register: &RegView,
    legs: &[LegView; 2],
    behind: Members,
) -> Decision {
    decide_all(site, mv, register, std::slice::from_ref(legs), behind)
}

/// The same for the volumes of a group, which run on one set of legs (2.10): a leg is usable if it is so for every volume,
/// and Ahead, Away, Growing or behind if it is so for any.
pub fn decide_all(
    site: Site,
    mv: Mv,
    register: &RegView,
    volumes: &[[LegView; 2]],
    behind: Members,
) -> Decision {
    let refuse = |row, why| Decision {
        row,
        act: Act::Refuse(why),
    };
    let away = |legs: &[LegView; 2]| legs.iter().all(|leg| *leg == LegView::Away);
    let none = volumes.iter().any(away);
    match register {
        RegView::Below => refuse(Row::T4, Refusal::WitnessBehind),
        RegView::Tombstone => refuse(Row::T1, Refusal::Deleted),
        RegView::Creating => refuse(Row::T2, Refusal::Creating),
        RegView::Absent => refuse(Row::T3, Refusal::RegisterMissing),
        RegView::Live(_) | RegView::Unreadable if none => refuse(Row::T5, Refusal::NoLeg),
        RegView::Live(live) => with_register(site, mv, live, volumes, behind),
        RegView::Unreadable => without_register(site, mv, volumes),
    }
}

/// The class of a leg for all volumes: what speaks against it in one of them does in all. What time may mend comes before
/// what it does not.
fn common_fit(live: &LiveView, leg: Leg, volumes: &[[LegView; 2]]) -> Fit {
    let fits = volumes.iter().map(|legs| live.fit(leg, &legs[leg.index()]));
    let gravity = |fit: &Fit| match fit {
        Fit::Usable => 0,
        Fit::Stale => 1,
        Fit::Damaged => 2,
        Fit::Bad => 3,
        Fit::Away => 4,
        Fit::Ahead => 5,
    };
    fits.max_by_key(gravity).unwrap_or(Fit::Away)
}

fn with_register(
    site: Site,
    mv: Mv,
    live: &LiveView,
    volumes: &[[LegView; 2]],
    behind: Members,
) -> Decision {
    let refuse = |row, why| Decision {
        row,
        act: Act::Refuse(why),
    };
    let fit = |leg: Leg| common_fit(live, leg, volumes);
    let fits = |wanted: Fit| -> Members {
        Leg::BOTH
            .into_iter()
            .filter(|&leg| fit(leg) == wanted)
            .collect()
    };
    if !fits(Fit::Ahead).is_empty() {
        return refuse(Row::L1, Refusal::WitnessBehind);
    }
    if live.site != site && mv.is_none() {
        return refuse(Row::L2, Refusal::NotActive);
    }
    let pair = live.members == Members::BOTH;
    let moves = live.site != site;
    let run = |row, set, change| Decision {
        row,
        act: Act::Run {
            set,
            cas: Some(Cas { change, moves }),
        },
    };
    let usable = fits(Fit::Usable);
    if usable.is_empty() {
        let away = !live.members.and(fits(Fit::Away)).is_empty();
        return match (pair, away) {
            (true, true) => refuse(Row::L6, Refusal::WaitMember),
            (true, false) => refuse(Row::L7, Refusal::MemberDamaged),
            (false, true) => refuse(Row::L10, Refusal::WaitMember),
            (false, false) => refuse(Row::L11, Refusal::MemberDamaged),
        };
    }
    if usable != live.members {
        let row = if fits(Fit::Away).is_empty() {
            Row::L5
        } else {
            Row::L4
        };
        return run(row, usable, Change::Shrink);
    }
    let growing = |leg: Leg| {
        volumes
            .iter()
            .any(|legs| live.is_growing(&legs[leg.index()]))
    };
    match usable.sole() {
        None => match behind.sole() {
            // R19: it lacks acknowledged writes, so it leaves before anything else is acknowledged.
            Some(lagging) => run(Row::L3b, Members::only(lagging.other()), Change::Shrink),
            None => run(Row::L3, usable, Change::Keep),
        },
        Some(leg) if growing(leg) => run(Row::L9, usable, Change::Bump),
        Some(_) => run(Row::L8, usable, Change::Keep),
    }
}

/// Volumes of a group whose superblocks do not all say the same need the witness: one of them may have been shrunk alone
/// in its superblock only, and which it was nobody else can say.
fn without_register(site: Site, mv: Mv, volumes: &[[LegView; 2]]) -> Decision {
    let refuse = |row, why| Decision {
        row,
        act: Act::Refuse(why),
    };
    if !mv.is_none() {
        return refuse(Row::U1, Refusal::WitnessNeeded);
    }
    let newest = volumes
        .iter()
        .flatten()
        .filter_map(LegView::superblock)
        .max_by_key(|sb| (sb.seq, sb.epoch));
    if newest.is_some_and(|sb| sb.site != site) {
        return refuse(Row::U2, Refusal::NotActive);
    }
    // What a person decided stands in the register only: the superblocks still say what was before, and an attach by their
    // word would change the very one that was granted (R44).
    let named = |view: &LegView| view.superblock().is_some_and(|sb| sb.awaits_register);
    if volumes.iter().flatten().any(named) {
        return refuse(Row::U5, Refusal::WitnessNeeded);
    }
    let run = |row, set| Decision {
        row,
        act: Act::Run { set, cas: None },
    };
    if all_same(volumes.iter().map(pair_of)) {
        return run(Row::U3, Members::BOTH);
    }
    for leg in Leg::BOTH {
        if all_same(volumes.iter().map(|legs| alone_of(leg, legs))) {
            return run(Row::U4, Members::only(leg));
        }
    }
    // R12: half a pair, Growing and Candidate never run alone by their own word.
    refuse(Row::U5, Refusal::WitnessNeeded)
}

/// Does every volume name a membership, and the same one?
fn all_same(named: impl IntoIterator<Item = Option<(Epoch, Gen)>>) -> bool {
    let mut named = named.into_iter();
    let first = named.next().flatten();
    first.is_some() && named.all(|other| other == first)
}

/// The membership of two legs that are an equal pair.
fn pair_of(legs: &[LegView; 2]) -> Option<(Epoch, Gen)> {
    let [LegView::Sb(a), LegView::Sb(b)] = legs else {
        return None;
    };
    let same = (a.epoch, a.generation) == (b.epoch, b.generation);
    (a.is_pair() && b.is_pair() && same).then_some((a.epoch, a.generation))
}

/// The membership of a leg that certifies itself while the other one shows that nothing newer is there.
fn alone_of(leg: Leg, legs: &[LegView; 2]) -> Option<(Epoch, Gen)> {
    let (LegView::Sb(own), LegView::Sb(other)) = (&legs[leg.index()], &legs[leg.other().index()])
    else {
        return None;
    };
    let alone =
        own.is_alone(leg) && !other.is_alone(leg.other()) && other.shows_older_than(own.epoch);
    alone.then_some((own.epoch, own.generation))
}

/// Does this leg lack writes of its volatile cache that a dirty region stands for? Clean maps on both: a restart does not
/// matter. A boot id that was never recorded proves nothing here (as a copy source such a leg still comes last, R29).
pub const fn is_behind(
    recorded: u64,
    current: Option<u64>,
    volatile_cache: bool,
    any_dirty: bool,
) -> bool {
    recorded != 0 && any_dirty && boot_changed(recorded, current, volatile_cache)
}

/// Counts the boot id as changed? Without a volatile cache never; unknown with one: yes.
pub const fn boot_changed(recorded: u64, current: Option<u64>, volatile_cache: bool) -> bool {
    let same = match current {
        Some(current) => recorded != 0 && current == recorded,
        None => false,
    };
    volatile_cache && !same
}

#[cfg(test)]
mod tests;
