//! The serving writer: relogin, guest writes, reads, flush, clear, and learning that it was superseded.

use super::rules::Mistake;
use super::state::{Command, Phase, State, has};
use super::{Next, Ordering};
use crate::search::step;

/// The source leg of a Solo or a rejoin (for a pair the survivor of the last shrink), and the other one.
pub(super) fn source_and_other(s: &State, i: usize) -> (usize, usize) {
    let w = &s.writers[i];
    let x = if w.members == 3 {
        usize::from(w.source)
    } else {
        usize::from(w.members - 1)
    };
    (x, 1 - x)
}

impl Ordering {
    pub(super) fn serve(&self, s: &State, i: usize, out: &mut Next) {
        self.relogin(s, i, out);
        self.guest_write(s, i, out);
        self.lease_and_reads(s, i, out);
        self.flush_and_clear(s, i, out);
        self.learn_from_register(s, i, out);
        self.settle(s, i, out);
        self.rejoin(s, i, out);
    }

    /// After a cut or a target restart; the old session is ended first (R15).
    fn relogin(&self, s: &State, i: usize, out: &mut Next) {
        let w = s.writers[i];
        if !matches!(
            w.phase,
            Phase::Run | Phase::Frozen | Phase::RjTarget | Phase::RjBoth
        ) {
            return;
        }
        for x in 0..2usize {
            let restarted = w.boot[x] != s.legs[x].boot;
            let gone = s.leg_links[i][x] == 1 || (s.leg_links[i][x] == 2 && restarted);
            // Other legs come back by a rejoin only; a restarted member leaves by a shrink first (R19).
            if !gone
                || !has(w.members, x)
                || !s.holds(i, x)
                || (restarted && !self.made(Mistake::MemberBehind))
            {
                continue;
            }
            let mut t = *s;
            t.leg_links[i][x] = 2;
            t.writers[i].boot[x] = s.legs[x].boot;
            t.writers[i].sent &= !(1 << x) | w.applied;
            if restarted {
                t.legs.iter_mut().for_each(|l| l.dirty = 1);
            }
            if !self.made(Mistake::NoReinstate) {
                t.legs[x].drop_commands(|c| c.key == w.key);
            }
            out.push((step("relogin", i as u8, x as u8, 0u8), t));
        }
    }

    fn guest_write(&self, s: &State, i: usize, out: &mut Next) {
        use Phase::*;
        let (w, n) = (s.writers[i], i as u8);
        let (x, _) = source_and_other(s, i);
        if w.write == 0 {
            let takes = matches!(
                w.phase,
                Run | RjTarget
                    | RjBoth
                    | RjNeed
                    | Growing
                    | Candidate
                    | GrowWait
                    | SawClean
                    | LateSwitch
            );
            if takes && w.copying == 0 && s.next_write <= self.config.writes && self.room(s) {
                let both = w.members == 3
                    || matches!(
                        w.phase,
                        RjNeed | Growing | Candidate | GrowWait | LateSwitch
                    );
                let mut t = *s;
                let nw = &mut t.writers[i];
                (nw.write, nw.stage, nw.sent, nw.applied) = (s.next_write, 1, 0, 0);
                nw.need = if both { 3 } else { 1 << x };
                t.next_write += 1;
                out.push((step("guest write begins", n, s.next_write, 0u8), t));
            }
        } else if w.stage == 1 {
            self.dirty_bit(s, i, out);
        } else if w.stage == 2 {
            self.data(s, i, x, out);
        }
    }

    fn dirty_bit(&self, s: &State, i: usize, out: &mut Next) {
        let (w, n) = (s.writers[i], i as u8);
        if self.made(Mistake::NoWil) {
            let mut t = *s;
            t.writers[i].stage = 2;
            out.push((step("skips the dirty bit", n, w.write, 0u8), t));
            return;
        }
        for d in (0..2usize).filter(|&d| has(w.members, d) && s.usable(i, d)) {
            let mut t = *s;
            t.legs[d].dirty = 1;
            t.writers[i].stage = 2;
            out.push((step("dirty bit durable on leg", n, d as u8, w.write), t));
        }
    }

    fn data(&self, s: &State, i: usize, x: usize, out: &mut Next) {
        use Phase::*;
        let (w, n) = (s.writers[i], i as u8);
        let targets = match w.phase {
            Run | Frozen | ShrinkWait | ThawWait => w.members,
            RjTarget => 1 << x,
            _ => 3,
        };
        let held = matches!(w.phase, Frozen | ShrinkWait | ThawWait)
            || (w.copying != 0 && !self.made(Mistake::CopyNolock));
        for d in (0..2usize).filter(|&d| has(targets & !w.sent, d) && s.connected(i, d) && !held) {
            let mut t = *s;
            if let Some(free) = t.legs[d].queue.iter_mut().find(|c| c.write == 0) {
                *free = Command {
                    write: w.write,
                    key: w.key,
                    accepted: 0,
                };
                t.legs[d].drop_commands(|_| false);
                t.writers[i].sent |= 1 << d;
                out.push((step("sends write to leg", n, d as u8, w.write), t));
            }
        }
        let need = match w.phase {
            Run => w.members,
            RjTarget | RjBoth | SawClean => 1 << x,
            RjNeed | Growing | Candidate | GrowWait | BumpWait | LateSwitch => w.need,
            _ => 0,
        };
        if need != 0 && w.applied & need == need {
            self.acknowledge(s, i, "ACK", out);
        }
        if self.made(Mistake::AckOne) && w.applied != 0 && w.phase == Run {
            self.acknowledge(s, i, "ACK after one leg", out);
        }
        if self.made(Mistake::AckBeforeCas)
            && matches!(w.phase, Frozen | ShrinkWait)
            && has(w.applied, usize::from(w.source))
        {
            self.acknowledge(s, i, "ACK before the CAS", out);
        }
    }

    fn acknowledge(&self, s: &State, i: usize, name: &'static str, out: &mut Next) {
        let w = s.writers[i];
        let mut t = *s;
        (t.writers[i].write, t.writers[i].stage) = (0, 0);
        t.acked = w.write;
        if self.config.power > 0 {
            t.writers[i].own = w.write;
        }
        if w.applied != 3 {
            t.writers[i].clean = 0;
        }
        // Gate 2: the page is durable on every member.
        for d in (0..2).filter(|&d| has(w.members & w.applied, d) && !self.made(Mistake::NoWil)) {
            t.legs[d].dirty = 1;
        }
        out.push((step(name, i as u8, w.write, w.applied), t));
    }

    fn lease_and_reads(&self, s: &State, i: usize, out: &mut Next) {
        use Phase::*;
        let (w, n) = (s.writers[i], i as u8);
        if !self.config.reads {
            return;
        }
        let both = w.members == 3
            || matches!(
                w.phase,
                RjNeed | Growing | Candidate | GrowWait | BumpWait | LateSwitch
            );
        if w.lease == 0 && both && s.usable(i, 0) && s.usable(i, 1) {
            let mut t = *s;
            t.writers[i].lease = 1;
            out.push((step("an I/O on both legs renews the lease", n, 0u8, 0u8), t));
        }
        if w.phase == Run && w.write == 0 {
            let (x, _) = source_and_other(s, i);
            let from = if w.members == 3 {
                usize::from(self.site(i))
            } else {
                x
            };
            if s.usable(i, from)
                && (w.members != 3 || w.lease == 1)
                && s.legs[from].data > s.observed
            {
                let mut t = *s;
                t.observed = s.legs[from].data;
                out.push((step("guest reads", n, from as u8, s.legs[from].data), t));
            }
        }
    }

    fn flush_and_clear(&self, s: &State, i: usize, out: &mut Next) {
        let (w, n) = (s.writers[i], i as u8);
        let members_usable = (0..2).all(|d| !has(w.members, d) || s.usable(i, d));
        if w.phase != Phase::Run || w.write != 0 || !members_usable {
            return;
        }
        if self.config.power > 0 && s.flushed < w.own {
            let mut t = *s;
            for d in (0..2).filter(|&d| has(w.members, d)) {
                t.legs[d].durable = s.legs[d].data;
            }
            t.flushed = w.own;
            out.push((step("guest FLUSH done", n, w.own, 0u8), t));
        }
        let dirty = s.legs[0].dirty + s.legs[1].dirty > 0;
        let in_flight = s
            .legs
            .iter()
            .any(|l| l.queue.iter().any(|c| c.key == w.key));
        let matters = self.config.power > 0 || s.crashes > 0;
        if w.members == 3 && dirty && !in_flight && s.legs[0].epoch == s.legs[1].epoch && matters {
            let local = usize::from(self.site(i));
            let mut t = *s;
            if self.made(Mistake::MemberBehind) {
                t.legs[1 - local].data = s.legs[local].data;
            }
            for l in &mut t.legs {
                l.dirty = 0;
                if !self.made(Mistake::ClearUnflushed) {
                    l.durable = l.data;
                }
            }
            out.push((step("clears the bit", n, 0u8, 0u8), t));
        }
    }

    /// R is read every 10 s: superseded, or (attached without R) stamp as soon as it answers.
    fn learn_from_register(&self, s: &State, i: usize, out: &mut Next) {
        use Phase::*;
        let (w, n) = (s.writers[i], i as u8);
        if s.register_links[i] == 0 {
            return;
        }
        let r = &s.register;
        let moved = r.seq != w.seq || (w.stamped == 1 && r.holder != w.key && r.holder != 0);
        let waits = matches!(w.phase, GrowWait | BumpWait | ShrinkWait | ThawWait);
        let blind = [Mistake::NoActive, Mistake::NoStamp, Mistake::UngrowByRead]
            .iter()
            .any(|m| self.made(*m));
        if moved && !waits && !blind {
            let mut t = *s;
            t.writers[i] = w.dead();
            out.push((step("reads R: superseded", n, r.epoch, r.site), t));
        }
        if w.phase == Run && w.stamped == 0 && r.seq == w.seq {
            if r.epoch == w.epoch {
                let mut new = *r;
                new.holder = w.key;
                if let Some(mut t) = self.send(s, new) {
                    (t.writers[i].stamped, t.writers[i].request) = (2, s.next_txid);
                    out.push((step("sends late stamp", n, 0u8, 0u8), t));
                }
            } else {
                let mut t = *s;
                let nw = &mut t.writers[i];
                (nw.phase, nw.fenced, nw.todo, nw.attaching) = (Attach, w.members, 0, 1);
                (nw.write, nw.prior, nw.lease) = (0, w.members, 0);
                out.push((step("R is ahead: decides again", n, 0u8, 0u8), t));
            }
        }
        let now = self.outcome_id(r);
        if w.stamped == 2 && now == w.request {
            let mut t = *s;
            t.writers[i].stamped = 1;
            out.push((step("late stamp won", n, 0u8, 0u8), t));
        }
        if w.stamped == 2 && self.config.edits > 0 && now != w.request && !s.open(w.request) {
            let mut t = *s;
            t.writers[i].stamped = 0;
            out.push((
                step("late stamp cannot execute any more, again", n, 0u8, 0u8),
                t,
            ));
        }
    }
}
