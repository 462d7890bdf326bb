//! What the models tell the activation decision: it is `twinsite_mirror::activation` itself, not a copy.
//!
//! A model keeps epochs, members and sites as small numbers; this file builds the views that the real functions take.
//! Leg index: 0 = A, 1 = B. Member sets are bit masks: 1 = {A}, 2 = {B}, 3 = {A, B}. Generations follow from epochs, since
//! no model makes two generations of one epoch except where it says so (`gen_ok`).

pub use twinsite_mirror::activation::Refusal;
use twinsite_mirror::activation::{
    self, BeatView, Change, LegView, LiveView, Mv, RegView, RegisterIdView, SbView,
};
use twinsite_mirror::ids::{Epoch, Gen, Members, Site};
pub use twinsite_mirror::layout::Role;
use twinsite_register::{MAX_PARENTS, Parent};

/// What is known of one leg after the fence.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Leg {
    /// Not reached, or the fence did not complete.
    Away,
    /// No valid slot, or the identity is wrong.
    Bad,
    Sb(Sb),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Sb {
    pub role: Role,
    pub epoch: u8,
    pub gen_ok: bool,
    pub members: u8,
    pub site: u8,
    pub seq: u8,
    pub sb_seq: u8,
    pub register: RegisterIdView,
    pub beat_behind: bool,
    pub awaits_register: bool,
}

impl Sb {
    pub fn of(role: Role, epoch: u8, members: u8, site: u8, seq: u8) -> Self {
        let register = RegisterIdView::Same;
        Self {
            role,
            epoch,
            gen_ok: true,
            members,
            site,
            seq,
            sb_seq: 0,
            register,
            beat_behind: false,
            awaits_register: false,
        }
    }
}

/// `history[e]` = members of epoch e as listed in R, the current epoch included; 0 = not listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Live {
    pub epoch: u8,
    pub members: u8,
    pub site: u8,
    pub seq: u8,
    pub landed: u8,
    pub history: [u8; 8],
    /// Leg by leg: (epoch, sb_seq) that a human granted.
    pub granted: [Option<(u8, u8)>; 2],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Reg {
    Unreadable,
    Absent,
    Creating,
    Tombstone,
    Below,
    Live(Live),
}

/// Which compare-and-swap must be won before the superblocks are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub struct Cas {
    pub stamp: bool,
    pub shrink: bool,
    pub bump: bool,
    pub moves: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    Run { set: u8, cas: Cas },
    Refuse(Refusal),
}

impl Act {
    pub const fn without_cas(set: u8) -> Self {
        Self::Run {
            set,
            cas: Cas {
                stamp: false,
                shrink: false,
                bump: false,
                moves: false,
            },
        }
    }
}

/// Part 1 of protocol 2.8: the legs to fence, or why not. A move of the models is planned and unplanned at once, so it asks
/// as the unplanned one, which may do more.
pub fn may_fence(
    site: u8,
    moving: bool,
    r: Reg,
    reach: u8,
    held_by_other: bool,
) -> Result<u8, Refusal> {
    activation::may_fence(
        site_of(site),
        mv(moving),
        &register(r),
        members(reach),
        held_by_other,
    )
    .map(bits)
}

/// Part 2 of protocol 2.8, with the fences held. `behind`: legs whose volatile cache was lost while a region is dirty.
pub fn decide(site: u8, moving: bool, r: Reg, a: Leg, b: Leg, behind: u8) -> Act {
    let legs = [leg(r, 0, a), leg(r, 1, b)];
    let decision = activation::decide(
        site_of(site),
        mv(moving),
        &register(r),
        &legs,
        members(behind),
    );
    act_of(decision.act)
}

fn act_of(act: activation::Act) -> Act {
    match act {
        activation::Act::Refuse(why) => Act::Refuse(why),
        activation::Act::Run { set, cas: None } => Act::without_cas(bits(set)),
        activation::Act::Run {
            set,
            cas: Some(cas),
        } => Act::Run {
            set: bits(set),
            cas: Cas {
                stamp: true,
                shrink: cas.change == Change::Shrink,
                bump: cas.change == Change::Bump,
                moves: cas.moves,
            },
        },
    }
}

/// Part 2 for the volumes of a group (2.10).
pub fn decide_all(site: u8, moving: bool, r: Reg, volumes: &[[Leg; 2]], behind: u8) -> Act {
    let both = |l: &[Leg; 2]| [leg(r, 0, l[0]), leg(r, 1, l[1])];
    let legs: Vec<_> = volumes.iter().map(both).collect();
    let decision = activation::decide_all(
        site_of(site),
        mv(moving),
        &register(r),
        &legs,
        members(behind),
    );
    act_of(decision.act)
}

fn mv(moving: bool) -> Mv {
    if moving { Mv::Failover } else { Mv::None }
}

fn site_of(index: u8) -> Site {
    if index == 0 { Site::A } else { Site::B }
}

fn members(mask: u8) -> Members {
    Members::from_bits(mask).expect("a mask of two legs")
}

fn bits(set: Members) -> u8 {
    set.bits()
}

fn generation(epoch: u8, ok: bool) -> Gen {
    Gen([if ok { epoch } else { 0xee }; 16])
}

fn leg(r: Reg, x: usize, l: Leg) -> LegView {
    match l {
        Leg::Away => LegView::Away,
        Leg::Bad => LegView::Bad,
        Leg::Sb(s) => LegView::Sb(SbView {
            role: s.role,
            epoch: Epoch(s.epoch.into()),
            generation: generation(s.epoch, s.gen_ok),
            members: members(s.members),
            site: site_of(s.site),
            seq: s.seq.into(),
            granted: s.gen_ok && granted(r, x) == Some((s.epoch, s.sb_seq)),
            register: s.register,
            beat: if s.beat_behind {
                BeatView::Behind
            } else {
                BeatView::Fresh
            },
            awaits_register: s.awaits_register,
        }),
    }
}

fn granted(r: Reg, x: usize) -> Option<(u8, u8)> {
    match r {
        Reg::Live(l) => l.granted[x],
        Reg::Unreadable | Reg::Absent | Reg::Creating | Reg::Tombstone | Reg::Below => None,
    }
}

fn register(r: Reg) -> RegView {
    let l = match r {
        Reg::Unreadable => return RegView::Unreadable,
        Reg::Absent => return RegView::Absent,
        Reg::Creating => return RegView::Creating,
        Reg::Tombstone => return RegView::Tombstone,
        Reg::Below => return RegView::Below,
        Reg::Live(l) => l,
    };
    let mut parents = [None; MAX_PARENTS];
    let listed = (0..l.epoch)
        .rev()
        .filter(|&e| l.history[usize::from(e)] != 0);
    for (slot, epoch) in parents.iter_mut().zip(listed) {
        let was = members(l.history[usize::from(epoch)]);
        *slot = Some(Parent {
            epoch: Epoch(epoch.into()),
            generation: generation(epoch, true),
            members: was,
        });
    }
    RegView::Live(LiveView {
        epoch: Epoch(l.epoch.into()),
        generation: generation(l.epoch, true),
        members: members(l.members),
        site: site_of(l.site),
        seq: l.seq.into(),
        landed: members(l.landed),
        parents,
    })
}
