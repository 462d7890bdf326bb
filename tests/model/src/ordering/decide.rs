//! Fence, verify, decide, and what the decision leads to: nothing, superblocks without R, or a compare-and-swap.

use super::attach::unpack;
use super::rules::Mistake;
use super::state::{Phase, State, has, legs_where};
use super::{Next, Ordering};
use crate::search::step;
use crate::table::{self, Act, Cas, Leg, Reg, Role};

impl Ordering {
    pub(super) fn fence_and_decide(&self, s: &State, i: usize, out: &mut Next) {
        let (w, n) = (s.writers[i], i as u8);
        for x in (0..2usize).filter(|&x| has(w.todo, x)) {
            let mut t = *s;
            t.writers[i].todo &= !(1 << x);
            if s.leg_links[i][x] == 0 {
                out.push((step("fence fails", n, x as u8, 0u8), t));
                continue;
            }
            t.leg_links[i][x] = 2;
            t.writers[i].boot[x] = s.legs[x].boot;
            t.writers[i].fenced |= 1 << x;
            t.legs[x].holder = w.key;
            let no_abort = self.made(Mistake::NoAbort);
            t.legs[x].drop_commands(|c| !no_abort || c.accepted == 0);
            out.push((step("fences", n, x as u8, 0u8), t));
        }
        let early = self.made(Mistake::CasBeforeFence) && w.planned_cas != 0 && w.fenced == 0;
        if w.todo == 0 || early {
            self.decide(s, i, early, out);
        }
    }

    fn decide(&self, s: &State, i: usize, early: bool, out: &mut Next) {
        let (w, n) = (s.writers[i], i as u8);
        for x in 0..2 {
            if has(w.fenced, x) && s.connected(i, x) && !s.holds(i, x) {
                let mut t = *s;
                self.conflict(&mut t, i, x);
                out.push((step("is fenced out", n, x as u8, 0u8), t));
                return;
            }
        }
        let seen = legs_where(|x| has(w.fenced, x) && s.connected(i, x));
        let v = |x: usize| {
            if has(seen, x) {
                self.view(s, x)
            } else {
                Leg::Away
            }
        };
        let r = self.register_seen(s, i);
        let named = if s.register_links[i] == 1 {
            s.register.members
        } else {
            3
        };
        let mut t = *s;
        if !self.may_continue(s, i, seen & named) {
            t.writers[i] = w.dead();
            out.push((
                step("removes its shown device after the fence", n, 0u8, 0u8),
                t,
            ));
            return;
        }
        let moving = if self.made(Mistake::NoActive) {
            s.register_links[i] == 1
        } else {
            w.moving == 1
        };
        let mut act = table::decide(self.site(i), moving, r, v(0), v(1), self.behind(s, seen));
        if w.planned_cas != 0 {
            if early && w.planned_cas & 127 == 0 {
                return;
            }
            act = Act::Run {
                set: w.planned_set,
                cas: unpack(w.planned_cas & 127),
            };
        }
        if self.made(Mistake::PromoteWithoutR) && r == Reg::Unreadable {
            let set =
                seen & legs_where(|x| s.legs[x].role == Role::Member && has(s.legs[x].members, x));
            if set == 1 || set == 2 {
                act = Act::without_cas(set);
            }
        }
        if self.made(Mistake::Repair) {
            self.repair(s, i, out);
        }
        // A fence counts only if it still holds when the superblocks are read after the last fence (R26).
        if !self.made(Mistake::FenceNotVerified) {
            t.writers[i].fenced = seen;
        }
        match act {
            Act::Refuse(_) => {
                t.writers[i] = w.dead();
                out.push((step("refuses", n, 0u8, 0u8), t));
            }
            Act::Run { set, cas } if cas == Cas::default() => {
                let newest = (0..2)
                    .filter(|&x| has(set, x))
                    .map(|x| s.legs[x])
                    .max_by_key(|l| l.seq);
                let newest = newest.expect("a run set is never empty");
                let nw = &mut t.writers[i];
                nw.epoch = newest.epoch + u8::from(newest.members != set);
                (nw.members, nw.seq, nw.todo) = (set, newest.seq, set);
                (nw.phase, nw.stamped, nw.prior) = (Phase::SbWrite, 0, set);
                out.push((step("attaches without R", n, set, 0u8), t));
            }
            Act::Run { set, cas } => self.attach_by_cas(&t, i, set, cas, out),
        }
    }

    fn attach_by_cas(&self, s: &State, i: usize, set: u8, cas: Cas, out: &mut Next) {
        let (w, n) = (s.writers[i], i as u8);
        let no_bump = self.made(Mistake::UngrowByRead);
        let mut r = s.register;
        if cas.shrink || (cas.bump && !no_bump) {
            r = self.next_epoch(s, set);
        }
        if cas.moves {
            (r.site, r.seq) = (self.site(i), r.seq + 1);
        }
        r.holder = w.key;
        let stamp_only = cas
            == Cas {
                stamp: true,
                ..Cas::default()
            };
        let stamp_and_bump = cas
            == Cas {
                stamp: true,
                bump: true,
                ..Cas::default()
            };
        if (self.made(Mistake::NoStamp) && stamp_only) || (no_bump && stamp_and_bump) {
            let mut t = *s;
            let nw = &mut t.writers[i];
            (nw.epoch, nw.members, nw.seq) = (s.register.epoch, set, s.register.seq);
            (nw.todo, nw.phase, nw.stamped) = (set, Phase::SbWrite, 1);
            out.push((step("attaches by reading R only", n, set, 0u8), t));
            return;
        }
        let Some(mut t) = self.send(s, r) else { return };
        if w.planned_cas != 0 {
            for m in t.requests.iter_mut().filter(|m| m.new.txid == s.next_txid) {
                m.expected = w.base;
            }
            t.sort_requests();
        }
        let nw = &mut t.writers[i];
        (nw.request, nw.phase) = (s.next_txid, Phase::CasWait);
        (nw.base, nw.prior) = (self.outcome_id(&s.register), s.register.members);
        out.push((
            step("sends CAS attach", n, set, super::attach::pack(cas)),
            t,
        ));
    }

    /// A shown device may be continued only behind its own last key (R38).
    fn may_continue(&self, s: &State, i: usize, legs: u8) -> bool {
        let w = &s.writers[i];
        let own = |k: u8| k == w.kept_key || k == w.key;
        w.kept == 0
            || self.made(Mistake::ContinueStale)
            || ((s.register_links[i] == 0 || own(s.register.holder))
                && (0..2).all(|x| !has(legs, x) || own(s.legs[x].attach_key)))
    }

    /// The first design: grow back at once because no superblock shows the shrink (R22).
    fn repair(&self, s: &State, i: usize, out: &mut Next) {
        let w = s.writers[i];
        let pair = |x: usize| {
            s.legs[x].members == 3 && s.legs[x].role == Role::Member && s.connected(i, x)
        };
        let behind_r =
            s.legs[0].epoch == s.legs[1].epoch && s.legs[0].epoch + 1 == s.register.epoch;
        if s.register_links[i] == 0
            || s.register.members == 3
            || w.fenced != 3
            || !pair(0)
            || !pair(1)
            || !behind_r
        {
            return;
        }
        let mut r = self.next_epoch(s, 3);
        r.holder = w.key;
        if w.moving == 1 && s.register.site != self.site(i) {
            (r.site, r.seq) = (self.site(i), r.seq + 1);
        }
        if let Some(mut t) = self.send(s, r) {
            let nw = &mut t.writers[i];
            (nw.request, nw.phase) = (s.next_txid, Phase::CasWait);
            (nw.base, nw.prior) = (self.outcome_id(&s.register), 3);
            out.push((step("sends CAS repair", i as u8, 3u8, 0u8), t));
        }
    }
}
