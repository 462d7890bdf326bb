//! Attach by the activation table, equalise, reconcile by regions (protocol 2.7 steps 4 to 8, 2.9).

use super::check::{FALSE_ALARM, REFUSED_WITHOUT_CAUSE};
use super::rules::Mistake;
use super::settle::ALARMED;
use super::state::{Leg, Phase, REGIONS, State, Writer};
use super::{Next, Regions};
use crate::table::{self, Act, Live, Reg, Role, Sb};

impl Regions {
    pub(super) fn begin(&self, s: &State, out: &mut Next) {
        let behind = if self.volatile() && s.union_bits() != 0 && s.away == 0 {
            (0..2)
                .filter(|&x| s.legs[x].boot != s.legs[x].recorded_boot)
                .fold(0, |m, x| m | 1u8 << x)
        } else {
            0
        };
        for local in 0..2u8 {
            let live = Live {
                epoch: s.register.epoch,
                members: s.register.members,
                site: local,
                seq: 1,
                landed: 0,
                granted: [None; 2],
                history: s.register.history,
            };
            let (a, b) = (self.view(s, 0), self.view(s, 1));
            let refused = |x: usize| s.reach(x) && self.below_beat_object(s, x);
            if (refused(0) || refused(1)) && !s.rolled_back {
                Self::to(out, s, "leg refused as Damaged", (local, 0), |t| {
                    t.fault = REFUSED_WITHOUT_CAUSE
                });
            }
            let Act::Run { set, cas } = table::decide(local, false, Reg::Live(live), a, b, behind)
            else {
                continue;
            };
            if s.register.epoch >= 7 {
                continue;
            }
            Self::to(out, s, "attaches, CAS won", (local, set), |t| {
                t.writer = Writer {
                    phase: Phase::AttachSb,
                    set,
                    local,
                    todo: set,
                    boot: [s.legs[0].boot, s.legs[1].boot],
                    unsettled: set == 3,
                    ..Writer::default()
                };
                if cas.shrink || cas.bump {
                    t.register.epoch += 1;
                    t.register.members = set;
                    t.register.history[usize::from(t.register.epoch)] = set;
                }
                t.writer.epoch = t.register.epoch;
            });
        }
    }

    fn view(&self, s: &State, x: usize) -> table::Leg {
        if !s.reach(x) {
            return table::Leg::Away;
        }
        if self.below_beat_object(s, x) {
            return table::Leg::Bad;
        }
        let l = &s.legs[x];
        table::Leg::Sb(Sb::of(l.role, l.epoch, l.members, 0, 1))
    }

    /// Row L5: a leg that R names and whose beat is behind the beat object.
    fn below_beat_object(&self, s: &State, x: usize) -> bool {
        s.register.members >> x & 1 == 1
            && s.legs[x].epoch == s.register.epoch
            && self.rolled_back_by_object(s, x)
    }

    /// The object is written when a beat is on every member, so even one below proves a rollback (`beat_object_slack`).
    /// Judged by the epoch of the superblock: after the shrink R does not name the leg any more, its base is still to come.
    pub(super) fn rolled_back_by_object(&self, s: &State, x: usize) -> bool {
        let l = &s.legs[x];
        let slack = u8::from(self.made(Mistake::BeatObjectSlack));
        let (epoch, beat) = s.beat_object;
        l.role == Role::Member && l.epoch == epoch && l.beat + slack < beat
    }

    pub(super) fn attach_superblocks(&self, s: &State, out: &mut Next) {
        let w = &s.writer;
        for x in (0..2usize).filter(|&x| w.todo >> x & 1 == 1) {
            if !s.up(x) {
                Self::to(
                    out,
                    s,
                    "member lost in attach, decides again",
                    (x as u8, 0),
                    |t| t.writer = Writer::default(),
                );
                continue;
            }
            Self::to(out, s, "attach: superblock on leg", (x as u8, w.set), |t| {
                if w.set != 3 {
                    self.base_of_one(s, x, &mut t.legs[x]);
                    t.legs[x].recorded_boot = t.legs[x].boot;
                }
                let l = &mut t.legs[x];
                (l.role, l.epoch, l.members) = (Role::Member, w.epoch, w.set);
                t.writer.todo &= !(1 << x);
            });
        }
        if w.todo == 0 {
            let one = usize::from(w.set.max(1) - 1).min(1);
            Self::to(out, s, "attach: superblocks done", (w.set, 0), |t| {
                let l = s.legs[one];
                if w.set == 3 {
                    self.choose_source(s, t);
                } else {
                    t.writer.phase = Phase::Solo;
                    (t.writer.bits, t.writer.number, t.writer.beat) = (l.bits, l.number, l.beat);
                }
            });
        }
    }

    /// 2.5 step 4 for an attach of one leg: a base still there is kept if it was written here. A leg that was found damaged
    /// gets none: it returns by a full resync (row L5).
    fn base_of_one(&self, s: &State, x: usize, l: &mut Leg) {
        let alone = l.role == Role::Growing || (l.role == Role::Member && l.members != 3);
        let other_damaged = s.reach(1 - x) && self.rolled_back_by_object(s, 1 - x);
        if other_damaged && !self.made(Mistake::DamagedDelta) {
            (l.base, l.base_number) = (0, None);
        } else if !alone {
            let last_pair = (0..s.register.epoch)
                .rev()
                .find(|&e| s.register.history[usize::from(e)] == 3);
            self.new_base(l, last_pair.unwrap_or(0));
        }
    }

    pub(super) fn new_base(&self, l: &mut Leg, epoch: u8) {
        if l.base == 0 || l.base_number.is_none() {
            let below = if self.made(Mistake::BaseTwoBelow) {
                2
            } else {
                1
            };
            (l.base, l.base_number) = (epoch, Some(l.number.saturating_sub(below)));
        }
    }

    /// Gap alarm, then the source of the reconcile by 2.9.
    fn choose_source(&self, s: &State, t: &mut State) {
        let [a, b] = &s.legs;
        let limit = if self.made(Mistake::AlarmAt1) {
            1
        } else if self.made(Mistake::AlarmAt3) {
            3
        } else {
            2
        };
        let gap = |p: u8, q: u8| p.abs_diff(q) >= limit;
        let w = &mut t.writer;
        w.phase = Phase::Equalise;
        w.todo = 3;
        let by_beat = match a.beat.cmp(&b.beat) {
            std::cmp::Ordering::Greater => Some(0),
            std::cmp::Ordering::Less => Some(1),
            std::cmp::Ordering::Equal => None,
        };
        let by_number = match a.number.cmp(&b.number) {
            std::cmp::Ordering::Greater => Some(0),
            std::cmp::Ordering::Less => Some(1),
            std::cmp::Ordering::Equal => None,
        };
        if gap(a.beat, b.beat) || gap(a.number, b.number) {
            if !s.rolled_back {
                t.fault = FALSE_ALARM;
            }
            t.alarmed = true;
            t.writer.survivor = by_beat.or(by_number).unwrap_or(0);
            t.writer.phase = Phase::Frozen;
            t.writer.todo = 0;
            t.writer.changed |= ALARMED;
            return;
        }
        let changed = |l: &Leg| self.volatile() && l.boot != l.recorded_boot;
        w.changed = u8::from(changed(a)) | u8::from(changed(b)) << 1;
        let by_boot = match w.changed {
            1 => Some(1),
            2 => Some(0),
            _ => None,
        };
        let direction = if self.made(Mistake::FreeDirection) {
            None
        } else {
            by_beat.or(by_number)
        };
        w.source = by_boot.or(direction).unwrap_or(w.local);
        w.pending = s.legs[usize::from(w.source)].bits;
    }

    /// Pages first, leg by leg; beats with them only in the variant that this model refutes (`early_beats`).
    pub(super) fn equalise(&self, s: &State, out: &mut Next) {
        let w = &s.writer;
        let [a, b] = &s.legs;
        if !s.up(0) || !s.up(1) {
            Self::to(
                out,
                s,
                "member lost in attach, decides again",
                (0, 0),
                |t| t.writer = Writer::default(),
            );
            return;
        }
        let union = s.union_bits();
        let number = a.number.max(b.number);
        for x in (0..2usize).filter(|&x| w.todo >> x & 1 == 1 && !self.made(Mistake::NoEqualise)) {
            Self::to(
                out,
                s,
                "equalise: page and beat of leg",
                (x as u8, number),
                |t| {
                    (t.legs[x].number, t.legs[x].bits) = (number, union);
                    if self.made(Mistake::EarlyBeats) {
                        t.legs[x].beat = a.beat.max(b.beat);
                    }
                    t.writer.todo &= !(1 << x);
                },
            );
        }
        if w.todo == 0 || self.made(Mistake::NoEqualise) {
            Self::to(out, s, "serves, regions pending", (w.source, union), |t| {
                let w = &mut t.writer;
                w.phase = Phase::Pair;
                w.todo = 0;
                (w.bits, w.number, w.beat) = (union, number, a.beat.max(b.beat));
                if !self.made(Mistake::LocalMapOnly) {
                    w.pending = union;
                }
            });
        }
    }

    /// Pending regions one by one; after the last: SYNC, boot ids, beats equal, then step 10.
    pub(super) fn reconcile(&self, s: &State, out: &mut Next) {
        let w = &s.writer;
        let (from, to) = (usize::from(w.source), usize::from(1 - w.source));
        if !s.up(0) || !s.up(1) {
            return;
        }
        for r in (0..REGIONS).filter(|&r| w.pending >> r & 1 == 1) {
            Self::to(
                out,
                s,
                "reconcile: region copied from leg",
                (w.source, r as u8),
                |t| {
                    let value = s.legs[from].data[r];
                    self.store(&mut t.legs[to], r, value);
                    t.writer.pending &= !(1 << r);
                },
            );
        }
        if w.unsettled && w.pending == 0 {
            Self::to(
                out,
                s,
                "last region copied: SYNC, boot ids, beats, step 10",
                (0, 0),
                |t| {
                    let beat = t.legs[0].beat.max(t.legs[1].beat);
                    for l in &mut t.legs {
                        l.durable = l.data;
                        l.recorded_boot = l.boot;
                        if !self.made(Mistake::EarlyBeats) && !self.made(Mistake::NoEqualise) {
                            l.beat = beat;
                        }
                    }
                    let w = &mut t.writer;
                    (w.unsettled, w.changed, w.phase, w.todo) = (false, 0, Phase::NoBase, 3);
                },
            );
        }
    }
}
