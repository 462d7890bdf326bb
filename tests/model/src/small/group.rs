//! Two volumes, one register: they attach, shrink and grow as one (2.10).
//!
//! Each volume has its own superblocks and data on both legs; a leg of one volume may be cut alone. The decision is
//! `twinsite_mirror::activation` over the legs of all volumes. A volume acknowledges after its own superblock.
//! The copies of one site that a force may run together (2.17) never have a write without one that was acknowledged before it was
//! asked, on whatever volumes the two were: looked at in every state, since a person may order it in any.

use super::{Mistakes, NotShown, to};
use crate::made::Made;
use crate::search::{Model, Step};
use crate::table::{self, Act, Live, Reg, Role};

pub const MISTAKES: Mistakes = &[
    ("grow_when_one_is_ready", "2.10 grow"),
    ("usable_for_any_volume", "2.10 attach"),
    ("each_volume_alone_without_r", "2.10 attach"),
    ("served_before_all_superblocks", "2.10 attach"),
    ("answers_after_the_first_superblock", "2.10 shrink"),
    ("only_the_volume_that_lost_a_leg_shrinks", "2.10 shrink"),
    ("a_candidate_is_of_the_epoch_it_names", "2.17 force"),
    ("the_moment_is_not_asked", "2.17 force"),
];
pub const NOT_SHOWN: NotShown = &[
    (
        "served_before_all_superblocks",
        "without R volumes whose superblocks do not all say the same are refused",
    ),
    (
        "answers_after_the_first_superblock",
        "as served_before_all_superblocks; one volume alone is serve_before_sb of ordering",
    ),
    (
        "only_the_volume_that_lost_a_leg_shrinks",
        "a volume that goes on with both legs has every write on the one that R names",
    ),
];
const GROW_ONE: usize = 0;
const ANY_USABLE: usize = 1;
const EACH_ALONE: usize = 2;
const SERVE_EARLY: usize = 3;
const ACK_EARLY: usize = 4;
const SHRINK_ONE: usize = 5;
const ANY_CANDIDATE: usize = 6;
const ANY_MOMENT: usize = 7;

const VOLUMES: usize = 2;
const EPOCHS: u8 = 5;
const WRITES: u8 = 2;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Leg {
    role: Role,
    epoch: u8,
    members: u8,
    data: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Phase {
    Off,
    /// Superblocks of this set, volume by volume: written, and those that may answer.
    Superblocks(u8),
    Serve(u8),
    /// Volumes whose other leg is complete (step 7 done).
    Rejoin(u8),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    legs: [[Leg; 2]; VOLUMES],
    epoch: u8,
    members: u8,
    history: [u8; 8],
    phase: Phase,
    /// Volumes whose superblocks are written.
    done: u8,
    /// Volumes that go on with both legs although the group shrank.
    stays: u8,
    x: usize,
    away: [u8; VOLUMES],
    acked: [u8; VOLUMES],
    /// Of which volume each acknowledged write was, in their order, from the lowest bit on.
    order: u8,
    /// Legs of a volume that are an older copy of themselves: their beat shows it.
    damaged: [u8; VOLUMES],
    damages: u8,
    no_register: bool,
    cuts: u8,
    heals: u8,
    crashes: u8,
    witness_cuts: u8,
    served_old: bool,
}

pub struct Group(pub(super) Made);

impl Group {
    fn next_epoch(t: &mut State, members: u8) {
        t.epoch += 1;
        t.members = members;
        t.history[usize::from(t.epoch)] = members;
    }

    fn view(s: &State, v: usize, x: usize) -> table::Leg {
        if s.away[v] >> x & 1 == 1 {
            return table::Leg::Away;
        }
        let l = s.legs[v][x];
        table::Leg::Sb(table::Sb {
            beat_behind: s.damaged[v] >> x & 1 == 1,
            ..table::Sb::of(l.role, l.epoch, l.members, 0, 1)
        })
    }

    fn write(s: &State, set: u8, volumes: u8, out: &mut Vec<(Step, State)>) {
        for v in (0..VOLUMES).filter(|v| volumes >> v & 1 == 1) {
            let set = if s.stays >> v & 1 == 1 { 3 } else { set };
            if set & s.away[v] == 0 && s.acked[v] < WRITES {
                to(out, s, "write acknowledged", (v, set.into()), |t| {
                    t.order |= (v as u8) << t.acked.iter().sum::<u8>();
                    t.acked[v] += 1;
                    for x in (0..2).filter(|x| set >> x & 1 == 1) {
                        t.legs[v][x].data = t.acked[v];
                    }
                });
            }
        }
    }

    fn superblocks(&self, s: &State, set: u8, out: &mut Vec<(Step, State)>) {
        let epoch = if s.no_register && s.members != set {
            s.legs[0][usize::from(set == 2)].epoch
        } else {
            s.epoch
        };
        for v in (0..VOLUMES).filter(|v| s.done >> v & 1 == 0) {
            let stays = s.stays >> v & 1 == 1;
            if set & s.away[v] == 0 {
                to(out, s, "superblocks of volume", (v, set.into()), |t| {
                    for x in (0..2).filter(|x| set >> x & 1 == 1 && !stays) {
                        let l = &mut t.legs[v][x];
                        (l.role, l.epoch, l.members) = (Role::Member, epoch, set);
                    }
                    t.done |= 1 << v;
                    if t.done == 3 {
                        t.phase = Phase::Serve(set);
                    }
                });
            }
        }
        let early = self.0.is(SERVE_EARLY) || self.0.is(ACK_EARLY);
        let may = if early && s.done != 0 { 3 } else { s.done };
        Self::write(s, set, may, out);
    }

    fn serving(&self, s: &State, set: u8, out: &mut Vec<(Step, State)>) {
        Self::write(s, set, 3, out);
        let lost = (0..VOLUMES).fold(0, |m, v| m | s.away[v]) & set;
        let mine = !s.no_register && s.members == set && s.epoch < EPOCHS;
        if set == 3 && (lost == 1 || lost == 2) && mine {
            to(out, s, "shrink won", ((3 - lost).into(), 0), |t| {
                Self::next_epoch(t, 3 - lost);
                (t.phase, t.done) = (Phase::Superblocks(3 - lost), 0);
                if self.0.is(SHRINK_ONE) {
                    t.stays = (0..VOLUMES)
                        .filter(|v| s.away[*v] & lost == 0)
                        .fold(0, |m, v| m | 1 << v);
                }
            });
        }
        if set != 3 && s.away == [0; VOLUMES] && mine {
            to(out, s, "rejoin: Targets", (set.into(), 0), |t| {
                t.x = usize::from(set - 1);
                for legs in &mut t.legs {
                    let l = &mut legs[1 - t.x];
                    (l.role, l.epoch, l.members) = (Role::Target, t.epoch, 0);
                }
                (t.phase, t.stays) = (Phase::Rejoin(0), 0);
            });
        }
    }

    fn rejoin(&self, s: &State, ready: u8, out: &mut Vec<(Step, State)>) {
        let x = s.x;
        for v in 0..VOLUMES {
            if ready >> v & 1 == 1 {
                Self::write(s, 3, 1 << v, out);
                if s.away[v] >> (1 - x) & 1 == 1 {
                    to(out, s, "joining leg lost, on with the other", (v, 0), |t| {
                        t.legs[v][x].role = Role::Member;
                        t.phase = Phase::Rejoin(ready & !(1 << v));
                    });
                }
                continue;
            }
            Self::write(s, 1 << x, 1 << v, out);
            if s.away[v] == 0 {
                to(out, s, "copied, step 7 done", (v, 0), |t| {
                    t.legs[v][1 - x].data = s.legs[v][x].data;
                    t.damaged[v] &= !(1 << (1 - x));
                    let l = &mut t.legs[v];
                    (l[x].role, l[x].epoch, l[x].members) = (Role::Growing, s.epoch, 1 << x);
                    (l[1 - x].role, l[1 - x].epoch) = (Role::Candidate, s.epoch);
                    t.phase = Phase::Rejoin(ready | 1 << v);
                });
            }
        }
        let enough = ready == 3 || (self.0.is(GROW_ONE) && ready != 0);
        if enough && !s.no_register && s.members == 1 << x && s.epoch < EPOCHS {
            to(out, s, "grow won", (ready.into(), 0), |t| {
                Self::next_epoch(t, 3);
                (t.phase, t.done) = (Phase::Superblocks(3), 0);
            });
        }
    }

    fn decide(&self, s: &State) -> Option<(u8, table::Cas)> {
        let register = if s.no_register {
            Reg::Unreadable
        } else {
            Reg::Live(Live {
                epoch: s.epoch,
                members: s.members,
                site: 0,
                seq: 1,
                landed: 0,
                history: s.history,
                granted: [None; 2],
            })
        };
        let legs = [0, 1].map(|v| [Self::view(s, v, 0), Self::view(s, v, 1)]);
        let alone = |v: usize| table::decide(0, false, register, legs[v][0], legs[v][1], 0);
        let act = if self.0.is(ANY_USABLE) && !s.no_register {
            match (alone(0), alone(1)) {
                (Act::Run { set: a, cas }, Act::Run { set: b, .. }) => Act::Run { set: a | b, cas },
                (run @ Act::Run { .. }, _) | (_, run) => run,
            }
        } else if self.0.is(EACH_ALONE) && s.no_register {
            match (alone(0), alone(1)) {
                (Act::Run { set: a, cas }, Act::Run { set: b, .. }) => Act::Run { set: a | b, cas },
                (refuse, _) => refuse,
            }
        } else {
            table::decide_all(0, false, register, &legs, 0)
        };
        match act {
            Act::Run { set, cas } => Some((set, cas)),
            Act::Refuse(_) => None,
        }
    }

    /// Until which epoch the copy had every write of its volume, by its superblock and the register.
    fn moment(&self, s: &State, v: usize, x: usize) -> Option<u8> {
        let leg = s.legs[v][x];
        let begin = match leg.role {
            _ if s.damaged[v] >> x & 1 == 1 => return None,
            Role::Candidate if self.0.is(ANY_CANDIDATE) => return Some(leg.epoch),
            Role::New | Role::Target => return None,
            Role::Candidate => leg.epoch + 1,
            Role::Member | Role::Growing => leg.epoch,
        };
        let named = |e: &u8| s.history[usize::from(*e)] >> x & 1 == 1;
        (begin..=s.epoch).take_while(named).last()
    }

    /// Are the copies of this site of one moment?
    fn may_be_forced(&self, s: &State, x: usize) -> bool {
        let moment = self.moment(s, 0, x);
        let same = (0..VOLUMES).all(|v| self.moment(s, v, x) == moment);
        (moment.is_some() && same) || self.0.is(ANY_MOMENT)
    }

    /// Behind the first acknowledged write that these copies lack they have none.
    fn is_a_cut(s: &State, x: usize) -> bool {
        let mut passed = [0; VOLUMES];
        let mut lacks = false;
        for n in 0..s.acked.iter().sum::<u8>() {
            let v = usize::from(s.order >> n & 1);
            passed[v] += 1;
            let has = s.legs[v][x].data >= passed[v];
            if has && lacks {
                return false;
            }
            lacks |= !has;
        }
        true
    }

    fn attach(&self, s: &State, out: &mut Vec<(Step, State)>) {
        let Some((set, cas)) = self.decide(s) else {
            return;
        };
        if s.epoch >= EPOCHS {
            return;
        }
        for source in (0..2usize).filter(|x| set >> x & 1 == 1) {
            to(out, s, "attaches", (set.into(), source), |t| {
                if cas.shrink || cas.bump {
                    Self::next_epoch(t, set);
                }
                for v in 0..VOLUMES {
                    let data = s.legs[v][source].data;
                    for x in (0..2).filter(|x| set >> x & 1 == 1) {
                        t.legs[v][x].data = data;
                    }
                    t.served_old |= data < s.acked[v];
                }
                (t.phase, t.done, t.stays) = (Phase::Superblocks(set), 0, 0);
            });
        }
    }
}

impl Model for Group {
    type State = State;

    fn initial(&self) -> State {
        let leg = Leg {
            role: Role::Member,
            epoch: 1,
            members: 3,
            data: 0,
        };
        let mut history = [0; 8];
        (history[0], history[1]) = (3, 3);
        State {
            legs: [[leg; 2]; VOLUMES],
            epoch: 1,
            members: 3,
            history,
            phase: Phase::Serve(3),
            done: 3,
            stays: 0,
            x: 0,
            away: [0; VOLUMES],
            acked: [0; VOLUMES],
            order: 0,
            damaged: [0; VOLUMES],
            damages: 1,
            no_register: false,
            cuts: 2,
            heals: 2,
            crashes: 2,
            witness_cuts: 1,
            served_old: false,
        }
    }

    fn steps(&self, s: &State, out: &mut Vec<(Step, State)>) {
        for v in 0..VOLUMES {
            for x in 0..2usize {
                if s.away[v] >> x & 1 == 0 && s.cuts > 0 {
                    to(out, s, "cut leg of volume", (x, v), |t| {
                        t.away[v] |= 1 << x;
                        t.cuts -= 1;
                    });
                }
                if s.away[v] >> x & 1 == 1 && s.heals > 0 {
                    to(out, s, "heal leg of volume", (x, v), |t| {
                        t.away[v] &= !(1 << x);
                        t.heals -= 1;
                    });
                }
            }
        }
        // Beats need the register's beat object or the other leg: here the register is in reach for good.
        if s.damages > 0 && s.phase == Phase::Off && !s.no_register && s.witness_cuts == 0 {
            for v in 0..VOLUMES {
                to(out, s, "leg B of volume is put back", (v, 0), |t| {
                    t.legs[v][1].data = 0;
                    t.damaged[v] |= 2;
                    t.damages -= 1;
                });
            }
        }
        if s.crashes > 0 && s.phase != Phase::Off {
            to(out, s, "writer crashes", (0, 0), |t| {
                (t.phase, t.stays) = (Phase::Off, 0);
                t.crashes -= 1;
            });
        }
        if s.no_register || s.witness_cuts > 0 {
            to(out, s, "line to the witness", (0, 0), |t| {
                t.no_register = !s.no_register;
                t.witness_cuts -= u8::from(t.no_register);
            });
        }
        match s.phase {
            Phase::Off => self.attach(s, out),
            Phase::Superblocks(set) => self.superblocks(s, set, out),
            Phase::Serve(set) => self.serving(s, set, out),
            Phase::Rejoin(ready) => self.rejoin(s, ready, out),
        }
    }

    fn violation(&self, s: &State) -> Option<&'static str> {
        if (0..2).any(|x| self.may_be_forced(s, x) && !Self::is_a_cut(s, x)) {
            return Some("copies that a force may run have a write without an earlier one");
        }
        let Phase::Serve(set) = s.phase else {
            return s
                .served_old
                .then_some("a leg older than acknowledged was the source");
        };
        let old = |v: usize| (0..2).any(|x| set >> x & 1 == 1 && s.legs[v][x].data < s.acked[v]);
        (s.served_old || (0..VOLUMES).any(old))
            .then_some("a volume of the group is served older than acknowledged")
    }
}
