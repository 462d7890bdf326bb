//! The volume grows: capacity, `size_new`, zeros in the new range, its pages, `size`, and only then the kernel (2.17). Killed, or
//! a leg lost, at any step; what goes on begins again with the zeros; a rejoin copies the fields, and bytes up to the size.
//!
//! Sizes are 0 (before) and 1 (after). Not here: membership without the register, two writers (`ordering`), a leg that is put
//! back from a copy (the engine then gives no expansion in that attach, `size_in_doubt`).

use super::{Mistakes, NotShown, to};
use crate::made::Made;
use crate::search::{Model, Step};

pub const MISTAKES: Mistakes = &[
    ("told_after_one_leg", "2.17 expand"),
    ("undone_although_one_leg_has_it", "2.17 expand"),
    ("candidate_keeps_its_size", "2.17 expand"),
    ("capacity_is_not_asked", "2.17 expand"),
    ("grows_in_solo", "2.18 expand"),
    ("size_before_pages", "2.17 expand"),
    ("bytes_are_not_zeroed", "2.17 expand"),
    ("size_is_made_before_the_zeros", "2.17 expand"),
];
pub const NOT_SHOWN: NotShown = &[(
    "undone_although_one_leg_has_it",
    "nobody was told of a size that only one leg has: the order is lost, no byte is",
)];
const TOLD_AFTER_ONE: usize = 0;
const UNDONE: usize = 1;
const CANDIDATE_KEEPS: usize = 2;
const NO_CAPACITY: usize = 3;
const IN_SOLO: usize = 4;
const SIZE_BEFORE_PAGES: usize = 5;
const NOT_ZEROED: usize = 6;
const MADE_EARLY: usize = 7;

/// What is done to the legs, one after the other.
const SIZE_NEW: u8 = 1;
const ZEROS: u8 = 2;
const PAGES: u8 = 3;
const SIZE: u8 = 4;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Leg {
    capacity: u8,
    size: u8,
    size_new: u8,
    /// Pages of the new range are written.
    pages: bool,
    /// The new range holds bytes of an earlier growth that was given up, or of whatever was on the disk.
    stale: bool,
    /// Last guest write of the new range.
    data: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Phase {
    Off,
    /// Serves this set; the next entry to Synced looks at the fields.
    Serve(u8),
    /// One of [`SIZE_NEW`] to [`SIZE`].
    Expand(u8),
    /// The other leg is copied to.
    Copy,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    legs: [Leg; 2],
    members: u8,
    phase: Phase,
    /// Steps of this stage done, by leg.
    done: u8,
    shown: u8,
    told: u8,
    acked: u8,
    away: u8,
    looked: bool,
    cuts: u8,
    crashes: u8,
    orders: u8,
}

pub struct Expand(pub(super) Made);

impl Expand {
    fn serves(&self, t: &mut State, set: u8) {
        t.phase = Phase::Serve(set);
        t.looked = false;
        t.done = 0;
    }

    fn serving(&self, s: &State, set: u8, out: &mut Vec<(Step, State)>) {
        let whole = set & s.away == 0;
        if whole && s.shown == 1 && s.acked < 2 {
            to(out, s, "write in the new range", (set.into(), 0), |t| {
                t.acked += 1;
                for x in (0..2).filter(|x| set >> x & 1 == 1) {
                    t.legs[x].data = t.acked;
                }
            });
        }
        if !whole && set == 3 && s.away != 3 {
            let x = usize::from(s.away & 1);
            to(out, s, "shrink won, fields stay", (x, 0), |t| {
                t.members = 1 << x;
                self.serves(t, 1 << x);
            });
        }
        if whole && set == 3 && !s.looked {
            self.resume(s, out);
        }
        let room = s.legs.iter().all(|l| l.capacity == 1) || self.0.is(NO_CAPACITY);
        let may = set == 3 || self.0.is(IN_SOLO);
        let done = (0..2).all(|x| set >> x & 1 == 0 || s.legs[x].size == 1);
        if whole && may && (set != 3 || (s.looked && room)) && s.orders > 0 && !done {
            to(out, s, "expand is ordered", (set.into(), 0), |t| {
                t.orders -= 1;
                t.phase = Phase::Expand(SIZE_NEW);
            });
        }
        if set != 3 && s.away == 0 {
            to(out, s, "rejoin begins", (0, 0), |t| t.phase = Phase::Copy);
        }
    }

    /// At the entry to Synced: finished if one leg has the size or both meant it and have room; else undone.
    fn resume(&self, s: &State, out: &mut Vec<(Step, State)>) {
        let [a, b] = &s.legs;
        let has = a.size.max(b.size) == 1 && !self.0.is(UNDONE);
        let meant = a.size_new == 1 && b.size_new == 1 && a.capacity == 1 && b.capacity == 1;
        let finished = a.size == 1 && b.size == 1;
        if finished {
            to(out, s, "both have the size", (0, 0), |t| {
                t.looked = true;
                (t.shown, t.told) = (1, 1);
            });
        } else if has || meant {
            to(out, s, "the expansion goes on", (0, 0), |t| {
                t.looked = true;
                t.phase = Phase::Expand(SIZE_NEW);
            });
        } else {
            to(out, s, "the expansion is undone", (0, 0), |t| {
                t.looked = true;
                for l in &mut t.legs {
                    (l.size_new, l.size) = (0, 0);
                }
            });
        }
    }

    fn expanding(&self, s: &State, stage: u8, out: &mut Vec<(Step, State)>) {
        let set = s.members;
        if set & s.away != 0 {
            if s.away != 3 && set == 3 {
                let x = usize::from(s.away & 1);
                to(out, s, "shrink won, fields stay", (x, 0), |t| {
                    t.members = 1 << x;
                    if self.0.is(MADE_EARLY) {
                        (t.legs[x].size, t.legs[x].size_new) = (1, 0);
                    }
                    self.serves(t, 1 << x);
                });
            }
            return;
        }
        let order = if self.0.is(SIZE_BEFORE_PAGES) {
            [SIZE_NEW, ZEROS, SIZE, PAGES]
        } else {
            [SIZE_NEW, ZEROS, PAGES, SIZE]
        };
        for x in (0..2usize).filter(|x| set >> x & 1 == 1 && s.done >> x & 1 == 0) {
            to(out, s, "expand: leg", (x, stage.into()), |t| {
                let l = &mut t.legs[x];
                match order[usize::from(stage) - 1] {
                    SIZE_NEW => l.size_new = 1,
                    ZEROS if self.0.is(NOT_ZEROED) => {}
                    ZEROS => (l.stale, l.data) = (false, 0),
                    PAGES => l.pages = true,
                    _ => (l.size, l.size_new) = (1, 0),
                }
                t.done |= 1 << x;
                let all = t.done == set;
                if all && stage < SIZE {
                    (t.phase, t.done) = (Phase::Expand(stage + 1), 0);
                } else if stage == SIZE && (all || self.0.is(TOLD_AFTER_ONE)) {
                    (t.shown, t.told) = (1, 1);
                    if all {
                        self.serves(t, set);
                        t.looked = true;
                    }
                }
            });
        }
    }
}

impl Model for Expand {
    type State = State;

    fn initial(&self) -> State {
        State {
            legs: [Leg {
                stale: true,
                ..Leg::default()
            }; 2],
            members: 3,
            phase: Phase::Serve(3),
            done: 0,
            shown: 0,
            told: 0,
            acked: 0,
            away: 0,
            looked: true,
            cuts: 3,
            crashes: 3,
            orders: 2,
        }
    }

    fn steps(&self, s: &State, out: &mut Vec<(Step, State)>) {
        for x in 0..2usize {
            if s.legs[x].capacity == 0 {
                to(out, s, "LUN grows", (x, 0), |t| t.legs[x].capacity = 1);
            }
            if s.away >> x & 1 == 1 {
                to(out, s, "heal leg", (x, 0), |t| t.away &= !(1 << x));
            } else if s.cuts > 0 {
                to(out, s, "cut leg", (x, 0), |t| {
                    t.away |= 1 << x;
                    t.cuts -= 1;
                });
            }
        }
        if s.crashes > 0 && s.phase != Phase::Off {
            to(out, s, "writer crashes", (0, 0), |t| {
                (t.phase, t.shown, t.done) = (Phase::Off, 0, 0);
                t.crashes -= 1;
            });
        }
        match s.phase {
            Phase::Off => {
                let reach = s.members & !s.away;
                if reach == 0 {
                    return;
                }
                // The device has the size that every leg of the set has.
                to(out, s, "attaches", (reach.into(), 0), |t| {
                    t.members = reach;
                    t.shown = (0..2)
                        .filter(|x| reach >> x & 1 == 1)
                        .map(|x| s.legs[x].size)
                        .min()
                        .unwrap_or(0);
                    t.told = t.told.max(t.shown);
                    self.serves(t, reach);
                    if t.shown < s.told {
                        t.told = 9;
                    }
                });
            }
            Phase::Serve(set) => self.serving(s, set, out),
            Phase::Expand(stage) => self.expanding(s, stage, out),
            Phase::Copy if s.away == 0 => {
                let x = usize::from(s.members - 1);
                let from = s.legs[x];
                if s.legs[1 - x].capacity < from.size && !self.0.is(NO_CAPACITY) {
                    to(out, s, "leg is too small", (1 - x, 0), |t| {
                        t.phase = Phase::Serve(s.members)
                    });
                    return;
                }
                to(out, s, "copied, grow won", (1 - x, 0), |t| {
                    let l = &mut t.legs[1 - x];
                    let own = *l;
                    *l = Leg {
                        capacity: l.capacity,
                        ..from
                    };
                    if from.size == 0 {
                        (l.stale, l.data) = (own.stale, own.data);
                    }
                    if self.0.is(CANDIDATE_KEEPS) {
                        (l.size, l.size_new) = (own.size, own.size_new);
                    }
                    t.members = 3;
                    self.serves(t, 3);
                });
            }
            Phase::Copy => to(out, s, "rejoin is given up", (0, 0), |t| {
                t.phase = Phase::Serve(s.members)
            }),
        }
    }

    fn violation(&self, s: &State) -> Option<&'static str> {
        if s.told == 9 {
            return Some("the device is smaller than it was told to be");
        }
        let Phase::Serve(set) = s.phase else {
            return None;
        };
        let members = || (0..2).filter(|x| set >> x & 1 == 1).map(|x| &s.legs[x]);
        if members().any(|l| l.size > l.capacity) {
            return Some("a leg is to hold more than its LUN has");
        }
        if s.shown == 1 && members().any(|l| l.data < s.acked) {
            return Some("a member lacks a write of the new range");
        }
        if members().any(|l| l.size == 1 && !l.pages) {
            return Some("a leg has the size and no pages for it");
        }
        if members().any(|l| l.size == 1 && l.stale) {
            return Some("a leg has the size and bytes behind it that nobody zeroed");
        }
        None
    }
}
