//! Rejoin by regions: delta or full, Target, union, copy, map to the other leg, grow, step 10 (protocol 2.6).

use super::rules::Mistake;
use super::settle::SOURCE_BEHIND;
use super::state::{ALL, Leg, Phase, REGIONS, State};
use super::{Next, Regions};
use crate::table::Role;

impl Regions {
    pub(super) fn rejoin(&self, s: &State, out: &mut Next) {
        use Phase::*;
        let w = &s.writer;
        let x = usize::from(if w.set == 3 { w.source } else { w.set - 1 });
        let y = 1 - x;
        match w.phase {
            Solo => self.rejoin_begins(s, x, y, out),
            Target | Union | Copy | Need | MapToOther | GrowingSb | CandidateSb | Grow => {
                if !s.up(x) {
                    self.source_restarted(s, x, out);
                } else if s.up(y) {
                    self.rejoin_step(s, x, y, out);
                } else {
                    self.give_up(s, x, out);
                }
            }
            MemberSb if s.up(0) && s.up(1) => self.superblocks(s, out),
            NoBase if s.up(0) && s.up(1) => self.superblocks(s, out),
            _ => {}
        }
    }

    /// A base still there, a leg that was a member at it (or is a copy made from it), and no page number below the base.
    fn delta(&self, x: &Leg, y: &Leg) -> bool {
        let member_there = y.role == Role::Member && y.members == 3 && y.epoch == x.base;
        let copy_of_it = matches!(y.role, Role::Target | Role::Candidate) && y.base == x.base;
        let numbers =
            self.made(Mistake::DeltaNoNumber) || x.base_number.is_some_and(|n| y.number >= n);
        x.base != 0 && x.base_number.is_some() && (member_there || copy_of_it) && numbers
    }

    fn rejoin_begins(&self, s: &State, x: usize, y: usize, out: &mut Next) {
        if !s.reach(y) || !s.up(x) || s.register.epoch >= 7 {
            return;
        }
        let full = !self.delta(&s.legs[x], &s.legs[y]);
        Self::to(
            out,
            s,
            "rejoin 1-2: delta or full",
            (y as u8, full.into()),
            |t| {
                let w = &mut t.writer;
                (w.full, w.source, w.boot[y]) = (full, x as u8, s.legs[y].boot);
                w.phase = if self.made(Mistake::TargetAfterCopy) {
                    Phase::Union
                } else {
                    Phase::Target
                };
            },
        );
    }

    /// Before step 7 the rejoin is given up. Later Y may have what X lost: a won grow is followed by a shrink to Y (R40).
    fn source_restarted(&self, s: &State, x: usize, out: &mut Next) {
        if !s.reach(x) {
            return;
        }
        if matches!(
            s.writer.phase,
            Phase::GrowingSb | Phase::CandidateSb | Phase::Grow
        ) {
            let mut then = vec![];
            self.relogin_of_last(s, x, &mut then);
            for (_, t) in &mut then {
                t.writer.changed |= SOURCE_BEHIND;
            }
            out.append(&mut then);
        } else {
            self.give_up(s, x, out);
        }
    }

    fn give_up(&self, s: &State, x: usize, out: &mut Next) {
        Self::to(out, s, "rejoin given up", (x as u8, 0), |t| {
            t.legs[x].role = Role::Member;
            t.writer.phase = Phase::Solo;
            if let Some(p) = &mut t.writer.page {
                p.to = 1 << x;
                p.done &= p.to;
                if p.done >> x & 1 == 1 {
                    (t.writer.bits, t.writer.number) = (p.bits, p.number);
                    t.writer.page = None;
                }
            }
            for g in t.writer.writes.iter_mut().filter(|g| g.id != 0) {
                g.need = 1 << x;
            }
        });
    }

    fn rejoin_step(&self, s: &State, x: usize, y: usize, out: &mut Next) {
        use Phase::*;
        let w = &s.writer;
        let base = s.legs[x].base;
        match w.phase {
            Target => Self::to(out, s, "rejoin 2b: superblock Target", (y as u8, 0), |t| {
                let keep = !w.full || self.made(Mistake::FullKeepsBase);
                let l = &mut t.legs[y];
                (l.role, l.epoch, l.members) = (Role::Target, w.epoch, 0);
                (l.base, l.base_number) = (if keep { base } else { 0 }, None);
                t.writer.phase = Union;
            }),
            Union if w.page.is_none() => {
                Self::to(out, s, "rejoin 3: union on the source", (x as u8, 0), |t| {
                    let other = if self.made(Mistake::DeltaNoUnion) {
                        0
                    } else {
                        s.legs[y].bits
                    };
                    let union = if w.full { ALL } else { s.legs[x].bits | other };
                    if union != s.legs[x].bits {
                        (t.legs[x].bits, t.legs[x].number) = (union, s.legs[x].number + 1);
                    }
                    let w = &mut t.writer;
                    (w.bits, w.number) = (union, t.legs[x].number);
                    (w.copied, w.phase) = (!union & ALL, Copy);
                })
            }
            Copy => {
                self.copy_regions(s, x, y, out);
                Self::to(out, s, "rejoin 5: completions need both", (0, 0), |t| {
                    t.writer.phase = Need
                });
            }
            Need => {
                self.copy_regions(s, x, y, out);
                let old = w.writes.iter().any(|g| g.id != 0 && g.need != 3);
                if w.copied == ALL && !old {
                    Self::to(out, s, "rejoin 6: SYNC both", (0, 0), |t| {
                        for l in t
                            .legs
                            .iter_mut()
                            .filter(|_| !self.made(Mistake::NoSyncBeforeGrow))
                        {
                            l.durable = l.data;
                        }
                        t.writer.phase = MapToOther;
                    });
                }
            }
            MapToOther if w.page.is_none() => Self::to(
                out,
                s,
                "rejoin 6b: map and beat to the other leg",
                (y as u8, 0),
                |t| {
                    if !self.made(Mistake::MapNotCopied) {
                        (t.legs[y].number, t.legs[y].bits) = (s.legs[x].number, s.legs[x].bits);
                    }
                    t.legs[y].beat = s.legs[x].beat;
                    t.writer.phase = GrowingSb;
                },
            ),
            GrowingSb => Self::to(out, s, "rejoin 7a: superblock Growing", (x as u8, 0), |t| {
                t.legs[x].role = Role::Growing;
                t.writer.phase = CandidateSb;
            }),
            CandidateSb => Self::to(
                out,
                s,
                "rejoin 7b: superblock Candidate",
                (y as u8, 0),
                |t| {
                    let l = &mut t.legs[y];
                    (l.role, l.epoch, l.base, l.base_number) =
                        (Role::Candidate, w.epoch, base, None);
                    t.writer.phase = Grow;
                },
            ),
            Grow => Self::to(out, s, "rejoin 8: grow won", (0, 0), |t| {
                t.register.epoch += 1;
                t.register.members = 3;
                t.register.history[usize::from(t.register.epoch)] = 3;
                let w = &mut t.writer;
                (w.phase, w.set, w.todo, w.epoch) = (MemberSb, 3, 3, t.register.epoch);
                w.beating = 0;
                if w.changed & SOURCE_BEHIND != 0 && !self.made(Mistake::SourceStays) {
                    (w.phase, w.survivor, w.todo) = (Frozen, y as u8, 0);
                }
            }),
            _ => {}
        }
    }

    fn copy_regions(&self, s: &State, x: usize, y: usize, out: &mut Next) {
        let w = &s.writer;
        for r in (0..REGIONS).filter(|&r| w.copied >> r & 1 == 0 && w.writes[r].id == 0) {
            Self::to(out, s, "rejoin 4: region copied", (y as u8, r as u8), |t| {
                let value = s.legs[x].data[r];
                self.store(&mut t.legs[y], r, value);
                t.writer.copied |= 1 << r;
            });
        }
    }

    /// Steps 9 and 10.
    fn superblocks(&self, s: &State, out: &mut Next) {
        let w = &s.writer;
        let ten = w.phase == Phase::NoBase;
        for x in (0..2usize).filter(|&x| w.todo >> x & 1 == 1) {
            let name = if ten {
                "step 10: base none on leg"
            } else {
                "rejoin 9: superblock Member on leg"
            };
            Self::to(out, s, name, (x as u8, 0), |t| {
                let l = &mut t.legs[x];
                if ten {
                    (l.base, l.base_number) = (0, None);
                } else {
                    (l.role, l.epoch, l.members) = (Role::Member, w.epoch, 3);
                    l.recorded_boot = w.boot[x];
                }
                t.writer.todo &= !(1 << x);
            });
        }
        if w.todo == 0 {
            let (name, next, todo) = if ten {
                ("step 10 done", Phase::Pair, 0)
            } else {
                ("rejoin 9 done", Phase::NoBase, 3)
            };
            Self::to(out, s, name, (0, 0), |t| {
                (t.writer.phase, t.writer.todo) = (next, todo)
            });
        }
    }
}
