//! What the models tell the activation decision, and what it answers.
//!
//! Leg index: 0 = A, 1 = B. Member sets are bit masks: 1 = {A}, 2 = {B}, 3 = {A, B}.

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Role {
    New,
    Member,
    Growing,
    Candidate,
    Target,
}

/// What is known of one leg after the fence.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Leg {
    /// Not reached, or the fence did not complete.
    Away,
    /// No valid slot, or the identity is wrong.
    Bad,
    Sb {
        role: Role,
        epoch: u8,
        gen_ok: bool,
        members: u8,
        site: u8,
        seq: u8,
    },
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

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Why {
    NoLeg,
    NotActive,
    WitnessBehind,
    WitnessNeeded,
    WaitMember,
    MemberDamaged,
    RegisterMissing,
    Creating,
    Deleted,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Act {
    Run { set: u8, cas: Cas },
    Refuse(Why),
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

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fit {
    Away,
    Bad,
    Usable,
    Damaged,
    Stale,
    Ahead,
}

fn fit(r: &Live, x: u8, l: Leg) -> Fit {
    match l {
        Leg::Away => Fit::Away,
        Leg::Bad => Fit::Bad,
        Leg::Sb {
            role,
            epoch,
            gen_ok,
            seq,
            ..
        } => {
            let named = r.members & (1 << x) != 0;
            if epoch > r.epoch || seq > r.seq || (epoch == r.epoch && !gen_ok) {
                return Fit::Ahead;
            }
            if !named {
                return Fit::Stale;
            }
            let part = matches!(role, Role::Member | Role::Growing | Role::Candidate);
            let since = (epoch + 1..=r.epoch).all(|e| r.history[usize::from(e)] & (1 << x) != 0);
            let own = role == Role::Candidate || r.history[usize::from(epoch)] & (1 << x) != 0;
            let landed = r.landed & (1 << x) != 0 && (epoch < r.epoch || role == Role::Candidate);
            let candidate_now = role == Role::Candidate && epoch == r.epoch;
            if part && gen_ok && since && own && !landed && !candidate_now {
                Fit::Usable
            } else {
                Fit::Damaged
            }
        }
    }
}

fn lone(x: u8, l: Leg) -> bool {
    matches!(l, Leg::Sb { role: Role::Member, members, .. } if members == 1 << x)
}

fn pair(l: Leg) -> bool {
    matches!(
        l,
        Leg::Sb {
            role: Role::Member,
            members: 3,
            ..
        }
    )
}

fn same(a: Leg, b: Leg) -> bool {
    match (a, b) {
        (
            Leg::Sb {
                epoch: e,
                gen_ok: g,
                ..
            },
            Leg::Sb {
                epoch: f,
                gen_ok: h,
                ..
            },
        ) => e == f && g == h,
        _ => false,
    }
}

fn newest_site(a: Leg, b: Leg) -> Option<u8> {
    let order = |l: Leg| match l {
        Leg::Sb {
            epoch, seq, site, ..
        } => Some((seq, epoch, site)),
        _ => None,
    };
    [order(a), order(b)]
        .into_iter()
        .flatten()
        .max_by_key(|o| (o.0, o.1))
        .map(|o| o.2)
}

fn older(other: Leg, e: u8) -> bool {
    match other {
        Leg::Away | Leg::Bad => false,
        Leg::Sb { role, epoch, .. } => {
            epoch < e || (epoch == e && matches!(role, Role::Target | Role::New))
        }
    }
}

/// Part 1 of protocol 2.8: the legs to fence, or why not.
pub fn may_fence(
    site: u8,
    moving: bool,
    r: Reg,
    reach: u8,
    held_by_other: bool,
) -> Result<u8, Why> {
    if reach == 0 {
        return Err(Why::NoLeg);
    }
    match r {
        Reg::Live(l) if l.site != site && !moving => Err(Why::NotActive),
        Reg::Live(l) if l.members & reach == 0 => Err(Why::WaitMember),
        Reg::Live(l) => Ok(l.members & reach),
        Reg::Unreadable if moving || held_by_other => Err(Why::WitnessNeeded),
        Reg::Unreadable => Ok(reach),
        Reg::Absent => Err(Why::RegisterMissing),
        Reg::Creating => Err(Why::Creating),
        Reg::Tombstone => Err(Why::Deleted),
        Reg::Below => Err(Why::WitnessBehind),
    }
}

/// Part 2 of protocol 2.8, with the fences held. `behind`: legs whose volatile cache was lost while a region is dirty.
pub fn decide(site: u8, moving: bool, r: Reg, a: Leg, b: Leg, behind: u8) -> Act {
    match r {
        Reg::Tombstone => Act::Refuse(Why::Deleted),
        Reg::Creating => Act::Refuse(Why::Creating),
        Reg::Absent => Act::Refuse(Why::RegisterMissing),
        Reg::Below => Act::Refuse(Why::WitnessBehind),
        _ if a == Leg::Away && b == Leg::Away => Act::Refuse(Why::NoLeg),
        Reg::Live(l) => decide_by(site, moving, &l, a, b, behind),
        Reg::Unreadable => decide_without(site, moving, a, b),
    }
}

fn decide_by(site: u8, moving: bool, l: &Live, a: Leg, b: Leg, behind: u8) -> Act {
    let f = [fit(l, 0, a), fit(l, 1, b)];
    if f.contains(&Fit::Ahead) {
        return Act::Refuse(Why::WitnessBehind);
    }
    if l.site != site && !moving {
        return Act::Refuse(Why::NotActive);
    }
    let cas = Cas {
        stamp: true,
        moves: l.site != site,
        ..Cas::default()
    };
    let usable = (0..2)
        .filter(|&x| f[x] == Fit::Usable)
        .fold(0u8, |m, x| m | 1 << x);
    if usable == 0 {
        let away = (0..2).any(|x| l.members & (1 << x) != 0 && f[x] == Fit::Away);
        return Act::Refuse(if away {
            Why::WaitMember
        } else {
            Why::MemberDamaged
        });
    }
    if usable == 3 && (behind == 1 || behind == 2) {
        return Act::Run {
            set: 3 & !behind,
            cas: Cas {
                shrink: true,
                ..cas
            },
        };
    }
    if usable != l.members {
        return Act::Run {
            set: usable,
            cas: Cas {
                shrink: true,
                ..cas
            },
        };
    }
    let growing =
        |l: Leg, e: u8| matches!(l, Leg::Sb { role: Role::Growing, epoch, .. } if epoch == e);
    let bump = usable != 3 && growing(if usable == 2 { b } else { a }, l.epoch);
    Act::Run {
        set: usable,
        cas: Cas { bump, ..cas },
    }
}

fn decide_without(site: u8, moving: bool, a: Leg, b: Leg) -> Act {
    if moving {
        return Act::Refuse(Why::WitnessNeeded);
    }
    if newest_site(a, b).is_some_and(|s| s != site) {
        return Act::Refuse(Why::NotActive);
    }
    if pair(a) && pair(b) && same(a, b) {
        return Act::without_cas(3);
    }
    for (x, l, o) in [(0u8, a, b), (1, b, a)] {
        if let (true, Leg::Sb { epoch, .. }) = (lone(x, l), l) {
            if !lone(1 - x, o) && older(o, epoch) {
                return Act::without_cas(1 << x);
            }
        }
    }
    Act::Refuse(Why::WitnessNeeded)
}
