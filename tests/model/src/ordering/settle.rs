//! Loss of a member: frozen, shrink, thaw, and what an unknown outcome turns out to be (protocol 2.5).

use super::guest::source_and_other;
use super::rules::Mistake;
use super::state::{Phase, State};
use super::{Next, Ordering};
use crate::search::step;

impl Ordering {
    pub(super) fn settle(&self, s: &State, i: usize, out: &mut Next) {
        match s.writers[i].phase {
            Phase::Run if s.writers[i].members == 3 => {
                for d in 0..2usize {
                    if !s.connected(i, d) && s.connected(i, 1 - d) {
                        let mut t = *s;
                        (t.writers[i].phase, t.writers[i].source) = (Phase::Frozen, 1 - d as u8);
                        out.push((step("freezes, wants solo", i as u8, 1 - d as u8, 0u8), t));
                    }
                }
            }
            Phase::Frozen => self.frozen(s, i, out),
            Phase::ShrinkWait | Phase::ThawWait if s.register_links[i] == 1 => {
                self.outcome(s, i, out)
            }
            _ => {}
        }
    }

    fn frozen(&self, s: &State, i: usize, out: &mut Next) {
        let (w, n) = (s.writers[i], i as u8);
        let adopt = self.made(Mistake::AdoptHolder);
        let readable = s.register_links[i] == 1;
        let r = &s.register;
        let mine = w.stamped == 1 && r.holder == w.key;
        let mut t = *s;
        if s.connected(i, 0) && s.connected(i, 1) {
            let nw = &mut t.writers[i];
            if w.attaching == 1 {
                (nw.phase, nw.todo) = (Phase::SbWrite, 3);
            } else {
                nw.phase = Phase::Run;
            }
            out.push((step("thaws, nothing sent", n, 0u8, 0u8), t));
        } else if readable
            && r.epoch == w.epoch
            && r.seq == w.seq
            && w.attaching == 0
            && (mine || adopt)
        {
            if let Some(mut t) = self.send(s, self.next_epoch(s, 1 << w.source)) {
                let nw = &mut t.writers[i];
                (nw.phase, nw.request, nw.base) =
                    (Phase::ShrinkWait, s.next_txid, self.outcome_id(r));
                out.push((step("sends CAS shrink to", n, w.source, 0u8), t));
            }
        } else if readable && w.attaching == 1 {
            let nw = &mut t.writers[i];
            (nw.phase, nw.todo) = (Phase::Attach, 0);
            nw.fenced = w.members & !(1 << (1 - w.source));
            out.push((step("attach: member lost, decides again", n, 0u8, 0u8), t));
        } else if readable && w.stamped == 1 && r.holder != w.key {
            t.writers[i] = w.dead();
            out.push((step("R has another holder: superseded", n, 0u8, 0u8), t));
        } else if readable && w.stamped != 2 {
            self.decide_again(&mut t, i, 1 << w.source);
            out.push((step("R moved: decides again", n, 0u8, 0u8), t));
        }
    }

    /// The fences are held; the write in flight is given up (nothing of it was acknowledged).
    fn decide_again(&self, t: &mut State, i: usize, fenced: u8) {
        let w = &mut t.writers[i];
        (w.phase, w.fenced, w.todo, w.attaching) = (Phase::Attach, fenced, 0, 1);
        (w.prior, w.lease, w.write) = (w.members, 0, 0);
    }

    fn outcome(&self, s: &State, i: usize, out: &mut Next) {
        let (w, n) = (s.writers[i], i as u8);
        let (x, y) = source_and_other(s, i);
        let shrinking = w.phase == Phase::ShrinkWait;
        let guess = self.made(Mistake::GuessCas) && shrinking;
        let now = self.outcome_id(&s.register);
        let mut t = *s;
        let nw = &mut t.writers[i];
        if now == w.request && !shrinking {
            nw.phase = Phase::Run;
            out.push((step("stamp won, thaws", n, 0u8, 0u8), t));
        } else if now == w.request || (!shrinking && now == w.earlier) || guess {
            (nw.epoch, nw.members, nw.todo) = (w.epoch + 1, 1 << w.source, 1 << w.source);
            (nw.phase, nw.attaching) = (Phase::SbWrite, 0);
            let name = if guess {
                "guesses that the CAS won"
            } else {
                "CAS shrink won"
            };
            out.push((step(name, n, w.source, 0u8), t));
        } else if now != w.base {
            let fenced = w.members & if s.connected(i, y) { 3 } else { 1 << x };
            self.decide_again(&mut t, i, fenced);
            out.push((step("CAS lost, decides again", n, 0u8, 0u8), t));
        } else if shrinking && !s.open(w.request) {
            nw.phase = Phase::Frozen;
            out.push((step("shrink not executed, again", n, 0u8, 0u8), t));
        } else if !shrinking && self.config.edits > 0 && !s.open(w.request) && !s.open(w.earlier) {
            nw.phase = Phase::Frozen;
            out.push((step("neither can execute any more, again", n, 0u8, 0u8), t));
        } else if shrinking
            && s.connected(i, 0)
            && s.leg_links[i][1] > 0
            && s.leg_links[i][0] > 0
            && (s.register.holder == w.key || self.made(Mistake::AdoptHolder))
        {
            // The link is back: a stamp on the same expected value goes before the thaw (R24).
            let mut r = s.register;
            r.holder = w.key;
            if let Some(mut t) = self.send(s, r) {
                let nw = &mut t.writers[i];
                (nw.phase, nw.earlier, nw.request) = (Phase::ThawWait, w.request, s.next_txid);
                out.push((step("link is back, sends stamp", n, 0u8, 0u8), t));
            }
        }
    }
}
