//! Loss of a member, shrink, Solo, restarted targets (protocol 2.5).

use super::rules::Mistake;
use super::state::{Phase, REGIONS, State, Write};
use super::{Next, Regions};
use crate::table::Role;

/// `Writer::changed` above the two bits of the legs: the rollback alarm rose; the source of a grow lost acked writes.
pub(super) const ALARMED: u8 = 4;
pub(super) const SOURCE_BEHIND: u8 = 8;

impl Regions {
    pub(super) fn settle(&self, s: &State, out: &mut Next) {
        use Phase::*;
        match s.writer.phase {
            Pair => {
                self.reconcile(s, out);
                self.must_reconcile(s, out);
                self.member_lost(s, out);
            }
            MemberSb | NoBase => self.member_lost(s, out),
            Frozen => self.frozen(s, out),
            ShrinkBase | ShrinkMap | ShrinkSb => self.shrink_steps(s, out),
            Solo => self.last_member_restarted(s, out),
            _ => {}
        }
    }

    /// Unflushed writes, or dirty regions: then a restart of a volatile target loses something.
    fn owes(s: &State) -> bool {
        let w = &s.writer;
        (0..REGIONS).any(|r| s.flushed[r] < w.own[r]) || w.bits != 0 || w.page.is_some()
    }

    fn member_lost(&self, s: &State, out: &mut Next) {
        for d in 0..2usize {
            if s.up(d) {
                continue;
            }
            let restarted = s.reach(d);
            if restarted && !Self::owes(s) {
                Self::to(out, s, "relogin, nothing lost", (d as u8, 0), |t| {
                    t.writer.boot[d] = t.legs[d].boot;
                    t.legs[d].recorded_boot = t.legs[d].boot;
                });
            } else {
                Self::to(out, s, "freezes, wants solo", (1 - d as u8, 0), |t| {
                    t.writer.phase = Phase::Frozen;
                    t.writer.survivor = 1 - d as u8;
                    t.writer.todo = 0;
                });
            }
        }
    }

    fn frozen(&self, s: &State, out: &mut Next) {
        let w = &s.writer;
        let x = usize::from(w.survivor);
        let alarmed = w.changed & (ALARMED | SOURCE_BEHIND) != 0;
        if s.up(0) && s.up(1) && !alarmed && !self.made(Mistake::NoThaw) {
            Self::to(out, s, "thaws, resends", (0, 0), |t| self.thaw(s, t));
        }
        let both_restarted = s.away == 0 && !s.up(0) && !s.up(1);
        if both_restarted && !alarmed && !self.made(Mistake::BothRestartedHold) {
            Self::to(
                out,
                s,
                "both targets restarted: flushFail, reconciles from the local leg",
                (0, 0),
                |t| {
                    let w = &mut t.writer;
                    w.flush_fail = true;
                    w.boot = [s.legs[0].boot, s.legs[1].boot];
                    w.source = w.local;
                    w.pending = w.bits;
                    w.unsettled = true;
                    w.writes.iter_mut().for_each(|g| g.on = 0);
                    self.thaw(s, t);
                },
            );
        }
        let source_only =
            w.pending != 0 && w.changed & 3 != 0 && !self.made(Mistake::ShrinkNonSource);
        if s.up(x)
            && !both_restarted
            && !(source_only && w.survivor != w.source)
            && s.register.epoch < 7
        {
            Self::to(out, s, "shrink won", (w.survivor, 0), |t| {
                t.register.epoch += 1;
                t.register.members = 1 << x;
                t.register.history[usize::from(t.register.epoch)] = 1 << x;
                t.writer.phase = if self.made(Mistake::SbBeforeMap) {
                    Phase::ShrinkSb
                } else {
                    Phase::ShrinkBase
                };
            });
        }
        for r in
            (0..REGIONS).filter(|&r| w.writes[r].id != 0 && !w.writes[r].failed && s.errors > 0)
        {
            Self::to(
                out,
                s,
                "held write answered EIO",
                (w.writes[r].id, 0),
                |t| {
                    t.errors -= 1;
                    if self.made(Mistake::EioEnds) {
                        t.writer.writes[r] = Write::default();
                    } else {
                        t.writer.writes[r].failed = true;
                        t.writer.must_reconcile |= 1 << r;
                    }
                },
            );
        }
    }

    /// Back to where the loss was found: before the superblocks of step 9, before step 10, or steady.
    fn thaw(&self, s: &State, t: &mut State) {
        t.writer.phase = if s
            .legs
            .iter()
            .any(|l| l.role != Role::Member || l.epoch != s.writer.epoch)
        {
            t.writer.todo = 3;
            Phase::MemberSb
        } else {
            Phase::Pair
        };
    }

    /// R45: the region of an unfinished write is copied from the local leg before it is read or cleared.
    fn must_reconcile(&self, s: &State, out: &mut Next) {
        let w = &s.writer;
        let local = usize::from(w.local);
        for r in (0..REGIONS).filter(|&r| w.must_reconcile >> r & 1 == 1) {
            if s.up(0) && s.up(1) && w.bits >> r & 1 == 1 && w.pending >> r & 1 == 0 {
                Self::to(
                    out,
                    s,
                    "unfinished write: region copied from the local leg",
                    (r as u8, 0),
                    |t| {
                        let value = s.legs[local].data[r];
                        self.store(&mut t.legs[1 - local], r, value);
                        t.writer.must_reconcile &= !(1 << r);
                        t.writer.writes[r] = Write::default();
                    },
                );
            }
        }
    }

    fn shrink_steps(&self, s: &State, out: &mut Next) {
        use Phase::*;
        let w = &s.writer;
        let x = usize::from(w.survivor);
        if !s.up(x) {
            if s.reach(x) {
                self.relogin_of_last(s, x, out);
            }
            return;
        }
        let in_flight = (0..REGIONS)
            .filter(|&r| w.writes[r].id != 0)
            .fold(0u8, |m, r| m | 1 << r);
        match w.phase {
            ShrinkBase => Self::to(
                out,
                s,
                "base number on the survivor",
                (w.survivor, 0),
                |t| {
                    if w.changed & ALARMED != 0 && !self.made(Mistake::DamagedDelta) {
                        (t.legs[x].base, t.legs[x].base_number) = (0, None);
                    } else {
                        self.new_base(&mut t.legs[x], w.epoch);
                    }
                    t.writer.phase = ShrinkMap;
                },
            ),
            ShrinkMap => Self::to(out, s, "map on the survivor", (w.survivor, 0), |t| {
                let page = w.page.unwrap_or_default();
                t.legs[x].bits |= w.bits | page.bits | in_flight;
                t.legs[x].number = t.legs[x].number.max(page.number);
                let w = &mut t.writer;
                w.page = None;
                (w.bits, w.number) = (t.legs[x].bits, t.legs[x].number);
                if self.made(Mistake::SbBeforeMap) {
                    self.solo(t, x);
                } else {
                    w.phase = ShrinkSb;
                }
            }),
            _ => Self::to(out, s, "superblock of the solo", (w.survivor, 0), |t| {
                if self.made(Mistake::SbBeforeMap) {
                    self.new_base(&mut t.legs[x], w.epoch);
                }
                let l = &mut t.legs[x];
                (l.role, l.epoch, l.members) = (Role::Member, s.register.epoch, 1 << x);
                l.recorded_boot = w.boot[x];
                t.writer.epoch = s.register.epoch;
                if self.made(Mistake::SbBeforeMap) {
                    t.writer.phase = ShrinkMap;
                } else {
                    self.solo(t, x);
                }
            }),
        }
    }

    fn solo(&self, t: &mut State, x: usize) {
        let w = &mut t.writer;
        (w.phase, w.set, w.pending, w.must_reconcile) = (Phase::Solo, 1 << x, 0, 0);
        (w.beat, w.beating, w.changed, w.unsettled) = (t.legs[x].beat, 0, 0, false);
        for g in &mut w.writes {
            if g.failed {
                *g = Write::default();
            } else if g.id != 0 {
                g.need = 1 << x;
            }
        }
    }

    fn last_member_restarted(&self, s: &State, out: &mut Next) {
        let x = usize::from(s.writer.set - 1);
        if !s.up(x) && s.reach(x) {
            self.relogin_of_last(s, x, out);
        }
    }

    /// R40: the last member lacks acked writes: the next FLUSH answers EIO once; what it did not keep is written again only
    /// if the guest was not answered yet.
    pub(super) fn relogin_of_last(&self, s: &State, x: usize, out: &mut Next) {
        Self::to(
            out,
            s,
            "last member restarted: flushFail, new boot id",
            (x as u8, 0),
            |t| {
                t.writer.boot[x] = s.legs[x].boot;
                t.legs[x].recorded_boot = s.legs[x].boot;
                for g in &mut t.writer.writes {
                    g.on &= !(1 << x);
                }
                if Self::owes(s) && !self.made(Mistake::NoFlushFail) {
                    t.writer.flush_fail = true;
                }
            },
        );
    }
}
