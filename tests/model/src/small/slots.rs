//! Torn and unreadable superblock slots, a leg that is put back, and `landed` (R32).
//!
//! One writer, two legs, each superblock written slot by slot. A crash may tear the slot under way, one slot of one leg may
//! become unreadable, one leg may be replaced by a copy of itself of an earlier epoch once the register says that it landed. The decision
//! is `twinsite_mirror::activation`; the test of the site's mark is in its caller. Not here: beats and page numbers, which tell
//! a copy of the same epoch (`regions`).

use super::{Mistakes, NotShown, to};
use crate::made::Made;
use crate::search::{Model, Step};
use crate::table::{self, Act, Live, Reg, Role};

pub const MISTAKES: Mistakes = &[
    ("one_slot", "R32"),
    ("same_slot_twice", "R32"),
    ("no_landed", "R32 landed"),
    ("marks_are_not_asked_without_r", "R17"),
];
pub const NOT_SHOWN: NotShown = &[(
    "one_slot",
    "the site's mark refuses what the other slot shows: fails together with marks_are_not_asked_without_r",
)];
const ONE_SLOT: usize = 0;
const SAME_SLOT: usize = 1;
const NO_LANDED: usize = 2;
const NO_MARKS: usize = 3;

const EPOCHS: u8 = 5;
const WRITES: u8 = 2;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Sb {
    seq: u8,
    role: Role,
    epoch: u8,
    members: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Slot {
    Bad,
    Good(Sb),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Leg {
    slots: [Slot; 2],
    data: u8,
}

/// What follows once all superblocks are written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Then {
    Serve(u8),
    Copy,
    Grow,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Phase {
    Off,
    Serve(u8),
    /// Slots still to be written, and what, by leg.
    Write([u8; 2], [Option<(Role, u8, u8)>; 2], Then),
    Copy,
    Grow,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    legs: [Leg; 2],
    epoch: u8,
    members: u8,
    landed: u8,
    history: [u8; 8],
    phase: Phase,
    /// Source of a rejoin.
    x: usize,
    away: u8,
    no_register: bool,
    acked: u8,
    copy: Option<(usize, Leg)>,
    copies: u8,
    cuts: u8,
    heals: u8,
    crashes: u8,
    bad: u8,
    witness_cuts: u8,
    served_old: bool,
    dead: bool,
}

pub struct Slots(pub(super) Made);

impl Slots {
    fn newest(&self, leg: &Leg) -> Option<Sb> {
        let seen = |slot: &Slot| match slot {
            Slot::Good(sb) => Some(*sb),
            Slot::Bad => None,
        };
        leg.slots.iter().filter_map(seen).max_by_key(|sb| sb.seq)
    }

    fn place(&self, seq: u8) -> usize {
        if self.0.is(SAME_SLOT) {
            0
        } else {
            usize::from(seq % 2)
        }
    }

    fn write(&self, t: &mut State, legs: [Option<(Role, u8, u8)>; 2], then: Then) {
        let each = if self.0.is(ONE_SLOT) { 1 } else { 2 };
        t.phase = Phase::Write(legs.map(|l| if l.is_some() { each } else { 0 }), legs, then);
    }

    fn member(t: &State, set: u8) -> [Option<(Role, u8, u8)>; 2] {
        [0, 1].map(|x| (set >> x & 1 == 1).then_some((Role::Member, t.epoch, set)))
    }

    fn next_epoch(t: &mut State, members: u8) {
        t.epoch += 1;
        (t.members, t.landed) = (members, 0);
        t.history[usize::from(t.epoch)] = members;
    }

    fn writing(
        &self,
        s: &State,
        left: [u8; 2],
        what: [Option<(Role, u8, u8)>; 2],
        then: Then,
        out: &mut Vec<(Step, State)>,
    ) {
        for x in 0..2usize {
            let (Some((role, epoch, members)), true) = (what[x], left[x] > 0) else {
                continue;
            };
            if s.away >> x & 1 == 1 {
                continue;
            }
            // The writer goes on from what it knows; a leg whose slots are all gone starts anew.
            let seq = self.newest(&s.legs[x]).map_or(0, |sb| sb.seq) + 1;
            let sb = Sb {
                seq,
                role,
                epoch,
                members,
            };
            to(out, s, "slot written", (x, seq.into()), |t| {
                t.legs[x].slots[self.place(seq)] = Slot::Good(sb);
                let mut left = left;
                left[x] -= 1;
                t.phase = Phase::Write(left, what, then);
            });
            if s.crashes > 0 {
                to(out, s, "power cut tears the slot", (x, seq.into()), |t| {
                    t.legs[x].slots[self.place(seq)] = Slot::Bad;
                    t.crashes -= 1;
                    t.phase = Phase::Off;
                });
            }
        }
        if left == [0, 0] {
            to(out, s, "superblocks durable", (0, 0), |t| match then {
                Then::Serve(set) => t.phase = Phase::Serve(set),
                Then::Copy => t.phase = Phase::Copy,
                Then::Grow => t.phase = Phase::Grow,
            });
        }
    }

    fn serving(&self, s: &State, set: u8, out: &mut Vec<(Step, State)>) {
        let reach = set & !s.away;
        if reach == set && s.acked < WRITES {
            to(out, s, "write acknowledged", (set.into(), 0), |t| {
                t.acked += 1;
                for x in (0..2).filter(|x| set >> x & 1 == 1) {
                    t.legs[x].data = t.acked;
                }
            });
        }
        let mine = !s.no_register && s.members == set;
        if mine && s.landed != set {
            to(out, s, "land", (set.into(), 0), |t| t.landed = set);
        }
        if set == 3 && (reach == 1 || reach == 2) && mine && s.epoch < EPOCHS {
            to(out, s, "shrink won", (reach.into(), 0), |t| {
                Self::next_epoch(t, reach);
                let sbs = Self::member(t, reach);
                self.write(t, sbs, Then::Serve(reach));
            });
        }
        if (set == 1 || set == 2) && s.away == 0 && mine && s.epoch < EPOCHS {
            let x = usize::from(set - 1);
            to(out, s, "rejoin: Target", (1 - x, 0), |t| {
                t.x = x;
                let mut sbs = [None; 2];
                sbs[1 - x] = Some((Role::Target, t.epoch, 0));
                self.write(t, sbs, Then::Copy);
            });
        }
    }

    fn attach(&self, s: &State, out: &mut Vec<(Step, State)>) {
        let view = |x: usize| {
            if s.away >> x & 1 == 1 {
                return table::Leg::Away;
            }
            self.newest(&s.legs[x]).map_or(table::Leg::Bad, |sb| {
                table::Leg::Sb(table::Sb::of(sb.role, sb.epoch, sb.members, 0, 1))
            })
        };
        let register = if s.no_register {
            Reg::Unreadable
        } else {
            Reg::Live(Live {
                epoch: s.epoch,
                members: s.members,
                site: 0,
                seq: 1,
                landed: if self.0.is(NO_LANDED) { 0 } else { s.landed },
                history: s.history,
                granted: [None; 2],
            })
        };
        // The site saw every register that its own agent made: without R nothing below that runs.
        let newest = [0, 1]
            .iter()
            .filter(|x| s.away >> **x & 1 == 0)
            .filter_map(|x| self.newest(&s.legs[*x]))
            .map(|sb| sb.epoch)
            .max();
        if s.no_register && !self.0.is(NO_MARKS) && newest.is_none_or(|epoch| epoch < s.epoch) {
            return;
        }
        let Act::Run { set, cas } = table::decide(0, false, register, view(0), view(1), 0) else {
            if s.away == 0 && !s.no_register && s.copy.is_none() && s.copies == 1 && s.bad == 1 {
                // Nothing but a torn slot happened: a human must not be needed.
                to(out, s, "refused for ever", (0, 0), |t| t.dead = true);
            }
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
                // What differs is dirty, and the source is any of the two: beats are not here.
                let data = s.legs[source].data;
                for x in (0..2).filter(|x| set >> x & 1 == 1) {
                    t.legs[x].data = data;
                }
                t.served_old |= data < s.acked;
                let epoch = if s.no_register {
                    self.newest(&s.legs[source]).map_or(0, |sb| sb.epoch)
                } else {
                    t.epoch
                };
                let sbs = [0, 1].map(|x| (set >> x & 1 == 1).then_some((Role::Member, epoch, set)));
                self.write(t, sbs, Then::Serve(set));
            });
        }
    }

    fn faults(&self, s: &State, out: &mut Vec<(Step, State)>) {
        for x in 0..2usize {
            if s.away >> x & 1 == 0 && s.cuts > 0 {
                to(out, s, "cut leg", (x, 0), |t| {
                    t.away |= 1 << x;
                    t.cuts -= 1;
                });
            }
            if s.away >> x & 1 == 1 && s.heals > 0 {
                to(out, s, "heal leg", (x, 0), |t| {
                    t.away &= !(1 << x);
                    t.heals -= 1;
                });
            }
            for k in 0..2usize {
                if s.bad > 0 && matches!(s.legs[x].slots[k], Slot::Good(_)) {
                    to(out, s, "slot becomes unreadable", (x, k), |t| {
                        t.legs[x].slots[k] = Slot::Bad;
                        t.bad -= 1;
                    });
                }
            }
            if s.copies > 0 && s.copy.is_none() {
                to(out, s, "leg is copied", (x, 0), |t| {
                    t.copy = Some((x, s.legs[x]));
                    t.copies -= 1;
                });
            }
        }
        if let Some((x, leg)) = s.copy
            && s.phase == Phase::Off
            && s.landed >> x & 1 == 1
            && self.newest(&leg).is_some_and(|sb| sb.epoch < s.epoch)
        {
            to(out, s, "the copy is put back", (x, 0), |t| {
                t.legs[x] = leg;
                t.copy = None;
            });
        }
        if s.crashes > 0 && s.phase != Phase::Off {
            to(out, s, "writer crashes", (0, 0), |t| {
                t.phase = Phase::Off;
                t.crashes -= 1;
            });
        }
        if s.no_register || s.witness_cuts > 0 {
            to(out, s, "line to the witness", (0, 0), |t| {
                t.no_register = !s.no_register;
                t.witness_cuts -= u8::from(t.no_register);
            });
        }
    }
}

impl Model for Slots {
    type State = State;

    fn initial(&self) -> State {
        let sb = |seq| {
            Slot::Good(Sb {
                seq,
                role: Role::Member,
                epoch: 1,
                members: 3,
            })
        };
        let leg = Leg {
            slots: [sb(2), sb(1)],
            data: 0,
        };
        let mut history = [0; 8];
        (history[0], history[1]) = (3, 3);
        State {
            legs: [leg; 2],
            epoch: 1,
            members: 3,
            landed: 3,
            history,
            phase: Phase::Serve(3),
            x: 0,
            away: 0,
            no_register: false,
            acked: 0,
            copy: None,
            copies: 1,
            cuts: 1,
            heals: 1,
            crashes: 1,
            bad: 1,
            witness_cuts: 1,
            served_old: false,
            dead: false,
        }
    }

    fn steps(&self, s: &State, out: &mut Vec<(Step, State)>) {
        self.faults(s, out);
        match s.phase {
            Phase::Off => self.attach(s, out),
            Phase::Serve(set) => self.serving(s, set, out),
            Phase::Write(left, what, then) => self.writing(s, left, what, then, out),
            Phase::Copy if s.away == 0 => to(out, s, "copied and synced", (0, 0), |t| {
                t.legs[1 - s.x].data = s.legs[s.x].data;
                let mut sbs = [Some((Role::Growing, t.epoch, 1 << s.x)); 2];
                sbs[1 - s.x] = Some((Role::Candidate, t.epoch, 0));
                self.write(t, sbs, Then::Grow);
            }),
            Phase::Grow if !s.no_register && s.members == 1 << s.x => {
                to(out, s, "grow won", (0, 0), |t| {
                    Self::next_epoch(t, 3);
                    let sbs = Self::member(t, 3);
                    self.write(t, sbs, Then::Serve(3));
                });
            }
            Phase::Copy | Phase::Grow => {}
        }
    }

    fn violation(&self, s: &State) -> Option<&'static str> {
        let old = |set: u8| (0..2).any(|x| set >> x & 1 == 1 && s.legs[x].data < s.acked);
        match s.phase {
            _ if s.served_old => Some("a leg older than acknowledged was the source"),
            _ if s.dead => Some("a torn slot alone needs a human"),
            Phase::Serve(set) if old(set) => Some("a writer serves a leg older than acknowledged"),
            _ => None,
        }
    }
}
