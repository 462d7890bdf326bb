//! Attach by steps: read R and fence, wait for the CAS, superblocks, lease wait, reconcile. A crash, a cut or another writer
//! may come between any two of them. The decision itself is in `decide.rs`.

use super::check::RECONCILE_REVERTED;
use super::rules::Mistake;
use super::state::{Phase, QUEUE, State, Writer, has, legs_where};
use super::{Next, Ordering};
use crate::search::step;
use crate::table::{self, Act, Leg, Reg, Role};

impl Ordering {
    pub(super) fn writer(&self, s: &State, i: usize, out: &mut Next) {
        use Phase::*;
        match s.writers[i].phase {
            Absent | Dead => {}
            Off => self.begin(s, i, out),
            Attach => self.fence_and_decide(s, i, out),
            CasWait if s.register_links[i] == 1 => self.attach_outcome(s, i, out),
            CasWait => {}
            SbWrite => self.superblocks(s, i, out),
            Reconcile => self.reconcile(s, i, out),
            _ => self.serve(s, i, out),
        }
    }

    fn begin(&self, s: &State, i: usize, out: &mut Next) {
        let (w, n, site) = (s.writers[i], i as u8, self.site(i));
        let own = |k: u8| k == w.kept_key || k == w.key;
        let continues = (s.register_links[i] == 0 || own(s.register.holder))
            && (0..2).all(|x| s.leg_links[i][x] == 0 || own(s.legs[x].holder));
        if w.kept != 0 && !self.made(Mistake::ContinueStale) && !continues {
            let mut t = *s;
            let gone = &mut t.writers[i];
            (gone.kept, gone.kept_key, gone.phase) = (0, 0, Phase::Dead);
            out.push((step("removes its shown device", n, 0u8, 0u8), t));
            return;
        }
        let reach = legs_where(|x| s.leg_links[i][x] > 0);
        let held_by_other = (0..2).any(|x| {
            let h = s.legs[x].holder;
            has(reach, x) && h != 0 && self.site(usize::from(h - 1) % 4) != site
        });
        let r = self.register_seen(s, i);
        for moving in [false, true] {
            if moving && (s.moves == 0 || s.register.site == site) {
                continue;
            }
            let allowed = if self.made(Mistake::NoActive) && reach != 0 {
                Ok(if let Reg::Live(l) = r {
                    l.members & reach
                } else {
                    reach
                })
            } else {
                table::may_fence(site, moving, r, reach, held_by_other)
            };
            let Ok(legs) = allowed else { continue };
            if legs == 0 {
                continue;
            }
            let mut t = *s;
            let nw = &mut t.writers[i];
            *nw = Writer {
                phase: Phase::Attach,
                moving: moving.into(),
                todo: legs,
                attaching: 1,
                prior: legs,
                ..*nw
            };
            nw.fenced = 0;
            t.moves -= u8::from(moving);
            if self.made(Mistake::SbBeforeFence) || self.made(Mistake::CasBeforeFence) {
                let v = |x: usize| {
                    if has(legs, x) {
                        self.view(s, x)
                    } else {
                        Leg::Away
                    }
                };
                if let Act::Run { set, cas } =
                    table::decide(site, moving, r, v(0), v(1), self.behind(s, legs))
                {
                    let nw = &mut t.writers[i];
                    (nw.planned_set, nw.planned_cas) = (set, pack(cas) | 128);
                    nw.base = self.outcome_id(&s.register);
                }
            }
            let name = if moving {
                "begins takeover"
            } else {
                "begins attach"
            };
            out.push((step(name, n, legs, s.register_links[i]), t));
        }
    }

    fn attach_outcome(&self, s: &State, i: usize, out: &mut Next) {
        let (w, n) = (s.writers[i], i as u8);
        let now = self.outcome_id(&s.register);
        let mut t = *s;
        let nw = &mut t.writers[i];
        if self.made(Mistake::GuessCas) || now == w.request {
            let won = if now == w.request {
                s.register
            } else {
                match s.requests.iter().find(|m| m.new.proposal == w.request) {
                    Some(m) => m.new,
                    None => return,
                }
            };
            (nw.epoch, nw.members, nw.seq, nw.todo) =
                (won.epoch, won.members, won.seq, won.members);
            (nw.phase, nw.stamped, nw.planned_cas, nw.earlier) = (Phase::SbWrite, 1, 0, 0);
            out.push((step("CAS won", n, won.members, won.epoch), t));
        } else if now != w.base {
            (nw.phase, nw.planned_cas) = (Phase::Attach, 0);
            out.push((step("CAS lost, decides again", n, 0u8, 0u8), t));
        } else if !s.open(w.request) {
            nw.phase = Phase::Attach;
            out.push((step("CAS not executed, decides again", n, 0u8, 0u8), t));
        }
    }

    /// Both slots at once. Own shrink: the map with every region dirty in memory goes first.
    fn superblocks(&self, s: &State, i: usize, out: &mut Next) {
        let (w, n) = (s.writers[i], i as u8);
        for x in (0..2usize).filter(|&x| has(w.todo, x)) {
            let mut t = *s;
            if !has(w.fenced, x) && w.attaching == 1 {
                // Only with `cas_before_fence`: the fence comes now.
                if s.leg_links[i][x] > 0 {
                    t.leg_links[i][x] = 2;
                    t.writers[i].boot[x] = s.legs[x].boot;
                    t.legs[x].holder = w.key;
                    t.legs[x].drop_commands(|_| true);
                    t.writers[i].fenced |= 1 << x;
                    out.push((step("fences late", n, x as u8, 0u8), t));
                }
                continue;
            }
            if !s.connected(i, x) {
                continue;
            }
            if !s.holds(i, x) {
                self.conflict(&mut t, i, x);
                out.push((step("superblock write conflicts", n, x as u8, 0u8), t));
                continue;
            }
            self.write_superblock(s, &mut t, i, x);
            out.push((step("writes superblock", n, x as u8, w.members), t));
        }
        if w.members == 3 {
            self.member_lost_in_attach(s, i, w.todo, out);
        }
        if w.todo == 0 || (self.made(Mistake::ServeBeforeSb) && w.members != 3) {
            let mut t = *s;
            if w.attaching == 1 {
                t.writers[i].phase = Phase::Reconcile;
            } else {
                self.begin_to_serve(&mut t, i);
            }
            out.push((step("superblocks done", n, 0u8, 0u8), t));
        }
    }

    fn write_superblock(&self, s: &State, t: &mut State, i: usize, x: usize) {
        let w = s.writers[i];
        let early_boot = self.made(Mistake::BootInStep6);
        let changed = s.legs[x].boot != s.legs[x].recorded_boot;
        if early_boot && w.attaching == 1 && w.members == 3 && changed {
            t.writers[i].new_boot |= 1 << x;
        }
        let other_dirty = s.legs[1 - x].dirty;
        let l = &mut t.legs[x];
        (l.role, l.epoch, l.members) = (Role::Member, w.epoch, w.members);
        (l.seq, l.site) = (w.seq, self.site(i));
        if self.config.continued {
            l.attach_key = w.key;
        }
        if w.members != 3 && w.attaching == 0 && !self.made(Mistake::SbBeforeMap) {
            l.dirty |= other_dirty | u8::from(w.write != 0 && w.stage == 2);
        }
        if w.attaching == 0 {
            l.recorded_boot = w.boot[x];
        } else if w.members != 3 || early_boot {
            l.recorded_boot = l.boot;
        }
        t.writers[i].todo &= !(1 << x);
    }

    fn member_lost_in_attach(&self, s: &State, i: usize, among: u8, out: &mut Next) {
        for x in (0..2usize).filter(|&x| has(among, x)) {
            if s.leg_links[i][x] == 0 && s.usable(i, 1 - x) {
                let mut t = *s;
                t.writers[i].phase = Phase::Frozen;
                t.writers[i].source = 1 - x as u8;
                out.push((step("member lost, freezes", i as u8, x as u8, 0u8), t));
            }
        }
    }

    /// Waits out the lease of a writer whose legs could not all be fenced (R8), then makes the legs equal (R9).
    fn reconcile(&self, s: &State, i: usize, out: &mut Next) {
        let (w, n) = (s.writers[i], i as u8);
        let unfenced = if self.made(Mistake::LeaseByMembers) {
            w.prior & !w.fenced != 0
        } else {
            w.fenced != 3 && (0..2).all(|x| !has(w.members, x) || s.legs[x].served != w.epoch)
        };
        let leased = (0..self.config.sites.len())
            .any(|j| j != i && s.writers[j].lease == 1 && s.writers[j].phase.alive());
        if unfenced && leased && !self.made(Mistake::NoLease) {
            return;
        }
        let mut t = *s;
        if w.members != 3 || self.made(Mistake::NoReconcile) {
            self.begin_to_serve(&mut t, i);
            out.push((step("serves", n, w.members, w.epoch), t));
            return;
        }
        if s.usable(i, 0) && s.usable(i, 1) {
            let dirty = s.legs[0].dirty + s.legs[1].dirty > 0;
            let source = if dirty {
                self.copy_from_source(s, &mut t, i)
            } else {
                0
            };
            for l in &mut t.legs {
                l.recorded_boot = l.boot;
            }
            self.begin_to_serve(&mut t, i);
            let name = if dirty {
                "reconciles and serves"
            } else {
                "serves, clean"
            };
            out.push((step(name, n, source as u8, w.epoch), t));
        }
        self.member_lost_in_attach(s, i, 3, out);
    }

    /// The local leg, unless its boot id changed and the other's did not (R29).
    fn copy_from_source(&self, s: &State, t: &mut State, i: usize) -> usize {
        let local = usize::from(self.site(i));
        let changed = |x: usize| {
            if self.made(Mistake::BootInStep6) {
                has(s.writers[i].new_boot, x)
            } else {
                s.legs[x].boot != s.legs[x].recorded_boot
            }
        };
        let other_way = !self.made(Mistake::FreeSource) && changed(local) && !changed(1 - local);
        let source = if other_way { 1 - local } else { local };
        let (from, to) = (s.legs[source].data, s.legs[1 - source].data);
        if self.config.power > 0 && !(changed(0) && changed(1)) && from < s.acked && to >= s.acked {
            t.fault = RECONCILE_REVERTED;
        }
        for l in &mut t.legs {
            (l.data, l.durable) = (from, from);
        }
        source
    }

    pub(super) fn begin_to_serve(&self, t: &mut State, i: usize) {
        let members = t.writers[i].members;
        for x in (0..2).filter(|&x| has(members, x)) {
            t.legs[x].served = t.writers[i].epoch;
        }
        let lease = self.made(Mistake::LeaseOnState) || (0..2).all(|x| t.usable(i, x));
        let w = &mut t.writers[i];
        (w.phase, w.attaching, w.lease) = (Phase::Run, 0, lease.into());
        (w.clean, w.copying, w.new_boot) = (0, 0, 0);
        if w.kept != 0 {
            if w.write == 0 {
                (w.write, w.stage, w.sent, w.applied, w.need) = (w.kept, 1, 0, 0, members);
            }
            (w.kept, w.kept_key) = (0, 0);
        }
    }

    /// Is there room for one more command on both legs?
    pub(super) fn room(&self, s: &State) -> bool {
        !s.legs.iter().any(|l| l.queue[QUEUE - 1].write != 0)
    }
}

pub(super) fn pack(cas: table::Cas) -> u8 {
    u8::from(cas.stamp)
        | u8::from(cas.shrink) << 1
        | u8::from(cas.bump) << 2
        | u8::from(cas.moves) << 3
}

pub(super) fn unpack(bits: u8) -> table::Cas {
    let bit = |k: u8| bits >> k & 1 == 1;
    table::Cas {
        stamp: bit(0),
        shrink: bit(1),
        bump: bit(2),
        moves: bit(3),
    }
}
