//! Rejoin and grow, step by step, with guest writes going on (protocol 2.6).

use super::check::HEALTHY_WRITER_KILLED;
use super::guest::source_and_other;
use super::rules::Mistake;
use super::state::{Phase, State, Writer};
use super::{Next, Ordering};
use crate::search::step;
use crate::table::Role;

impl Ordering {
    pub(super) fn rejoin(&self, s: &State, i: usize, out: &mut Next) {
        use Phase::*;
        match s.writers[i].phase {
            Run if s.writers[i].members != 3 && self.config.rejoin => self.rejoin_begins(s, i, out),
            RjTarget | RjBoth | SawClean | RjNeed | LateSwitch => self.rejoin_copies(s, i, out),
            Growing | Candidate => self.grow_prepares(s, i, out),
            GrowWait | BumpWait if s.register_links[i] == 1 => self.grow_outcome(s, i, out),
            _ => {}
        }
    }

    /// Steps 0 to 3: fence the returning leg, mark it Target, take the union of the maps.
    fn rejoin_begins(&self, s: &State, i: usize, out: &mut Next) {
        let w = s.writers[i];
        let (x, y) = source_and_other(s, i);
        let r = &s.register;
        let ready = s.leg_links[i][y] > 0 && s.usable(i, x) && s.register_links[i] == 1;
        if !ready
            || r.holder != w.key
            || r.epoch != w.epoch
            || w.stamped != 1
            || s.legs[y].epoch > w.epoch
        {
            return;
        }
        let dirty =
            s.legs[x].dirty == 1 || (s.legs[y].dirty == 1 && !self.made(Mistake::DeltaNoUnion));
        let mut t = *s;
        t.leg_links[i][y] = 2;
        t.writers[i].boot[y] = s.legs[y].boot;
        let target = &mut t.legs[y];
        target.holder = w.key;
        if !self.made(Mistake::RejoinNoFence) {
            target.drop_commands(|_| true);
        }
        (target.role, target.epoch, target.members) = (Role::Target, w.epoch, 0);
        (target.seq, target.site) = (w.seq, self.site(i));
        (t.writers[i].phase, t.writers[i].clean) = (Phase::RjTarget, u8::from(!dirty));
        t.legs[x].dirty |= u8::from(dirty);
        out.push((
            step(
                "rejoin 1-3: fences, marks target, takes the union",
                i as u8,
                y as u8,
                dirty,
            ),
            t,
        ));
    }

    /// Steps 4 to 7a.
    fn rejoin_copies(&self, s: &State, i: usize, out: &mut Next) {
        use Phase::*;
        let (w, n) = (s.writers[i], i as u8);
        let (x, y) = source_and_other(s, i);
        let both = s.usable(i, x) && s.usable(i, y);
        let with = |f: &dyn Fn(&mut Writer)| {
            let mut t = *s;
            f(&mut t.writers[i]);
            t
        };
        if !s.usable(i, y) {
            let mut t = *s;
            self.begin_to_serve(&mut t, i);
            out.push((step("rejoin given up before 7", n, 0u8, 0u8), t));
        }
        if w.phase == RjTarget && s.usable(i, y) {
            let t = with(&|w| w.phase = RjBoth);
            out.push((
                step(
                    "rejoin 4: writes go to both, ack from the source",
                    n,
                    0u8,
                    0u8,
                ),
                t,
            ));
        }
        self.copy(s, i, out);
        if w.phase == RjBoth && self.made(Mistake::CleanBeforeBoth) && w.write == 0 && w.clean == 1
        {
            out.push((
                step("sees all clean", n, 0u8, 0u8),
                with(&|w| w.phase = SawClean),
            ));
        }
        if w.phase == SawClean {
            out.push((
                step("then completions need both", n, 0u8, 0u8),
                with(&|w| w.phase = LateSwitch),
            ));
        }
        if w.phase == RjBoth && !self.made(Mistake::CleanBeforeBoth) && w.copying == 0 {
            out.push((
                step("rejoin 5: completions need both", n, 0u8, 0u8),
                with(&|w| w.phase = RjNeed),
            ));
        }
        let quiet = w.write == 0 || w.need == 3;
        let copied = w.clean == 1 || self.made(Mistake::CasBeforeCopy);
        let ready = match w.phase {
            RjNeed => quiet && copied && w.copying == 0,
            LateSwitch => w.write == 0,
            _ => false,
        };
        if ready && both {
            let mut t = with(&|w| w.phase = Growing);
            t.legs[y].dirty = s.legs[x].dirty;
            for l in &mut t.legs {
                l.durable = l.data;
            }
            if !self.made(Mistake::NoWithdraw) {
                t.legs[x].role = Role::Growing;
            }
            out.push((
                step("rejoin 6-7a: sync, map copied, source growing", n, 0u8, 0u8),
                t,
            ));
        }
    }

    /// The region is held from before the read until the write is durable (R36).
    fn copy(&self, s: &State, i: usize, out: &mut Next) {
        use Phase::*;
        let (w, n) = (s.writers[i], i as u8);
        let (x, y) = source_and_other(s, i);
        let unlocked = self.made(Mistake::CopyNolock);
        let idle = w.write == 0 || w.sent == 0 || unlocked;
        let held = s
            .legs
            .iter()
            .any(|l| l.queue.iter().any(|c| c.key == w.key))
            && !unlocked;
        if matches!(w.phase, RjTarget | RjBoth | RjNeed)
            && w.clean == 0
            && w.copying == 0
            && s.usable(i, x)
            && s.usable(i, y)
            && idle
            && !(w.phase == RjNeed && w.write != 0)
            && !held
        {
            let mut t = *s;
            t.writers[i].copying = s.legs[x].data + 1;
            out.push((
                step("copy: reads the region", n, x as u8, s.legs[x].data),
                t,
            ));
        }
        if w.copying != 0 && s.usable(i, y) {
            let mut t = *s;
            (t.legs[y].data, t.legs[y].durable) = (w.copying - 1, w.copying - 1);
            (t.writers[i].copying, t.writers[i].clean) = (0, 1);
            out.push((
                step("copy: writes the region", n, y as u8, w.copying - 1),
                t,
            ));
        }
    }

    /// Steps 7b and 8, or giving up while nothing was sent.
    fn grow_prepares(&self, s: &State, i: usize, out: &mut Next) {
        let (w, n) = (s.writers[i], i as u8);
        let (x, y) = source_and_other(s, i);
        let mut t = *s;
        if w.phase == Phase::Growing && s.usable(i, y) {
            (t.legs[y].role, t.legs[y].epoch) = (Role::Candidate, w.epoch);
            t.writers[i].phase = Phase::Candidate;
            out.push((step("rejoin 7b: candidate", n, 0u8, 0u8), t));
        }
        let r = &s.register;
        if w.phase == Phase::Candidate
            && s.register_links[i] == 1
            && r.epoch == w.epoch
            && r.holder == w.key
            && let Some(mut t) = self.send(s, self.next_epoch(s, 3))
        {
            let nw = &mut t.writers[i];
            (nw.phase, nw.request, nw.base) = (Phase::GrowWait, s.next_txid, self.outcome_id(r));
            out.push((step("rejoin 8: sends CAS grow", n, 0u8, 0u8), t));
        }
        if !s.connected(i, y) && s.usable(i, x) {
            let mut t = *s;
            let nw = &mut t.writers[i];
            (nw.phase, nw.todo, nw.attaching, nw.copying) = (Phase::SbWrite, w.members, 0, 0);
            out.push((step("grow given up, nothing sent", n, 0u8, 0u8), t));
        }
    }

    fn grow_outcome(&self, s: &State, i: usize, out: &mut Next) {
        let (w, n) = (s.writers[i], i as u8);
        let (x, y) = source_and_other(s, i);
        let bumping = w.phase == Phase::BumpWait;
        let now = self.outcome_id(&s.register);
        let mut t = *s;
        let nw = &mut t.writers[i];
        if now == w.request && bumping {
            (nw.epoch, nw.todo, nw.phase, nw.attaching) =
                (w.epoch + 1, w.members, Phase::SbWrite, 0);
            out.push((step("bump won: solo again", n, 0u8, 0u8), t));
        } else if now == w.request || (bumping && now == w.earlier) {
            (nw.epoch, nw.members, nw.todo) = (w.epoch + 1, 3, 3);
            (nw.phase, nw.attaching, nw.source) = (Phase::SbWrite, 0, x as u8);
            if self.made(Mistake::CasBeforeCopy) {
                t.legs[y].data = s.legs[x].data;
            }
            out.push((step("rejoin 9: grow won", n, 0u8, 0u8), t));
        } else if now != w.base {
            if self.made(Mistake::OutcomeByTxid) && s.register.holder == w.key {
                (nw.phase, nw.todo, nw.attaching) = (Phase::SbWrite, w.members, 0);
                out.push((
                    step(
                        "foreign txid: takes the grow for not executed, solo again",
                        n,
                        0u8,
                        0u8,
                    ),
                    t,
                ));
                return;
            }
            *nw = w.dead();
            if s.register.holder == w.key {
                t.fault = HEALTHY_WRITER_KILLED;
            }
            out.push((step("grow lost to another: superseded", n, 0u8, 0u8), t));
        } else if bumping && self.config.edits > 0 && !s.open(w.request) && !s.open(w.earlier) {
            nw.phase = Phase::Candidate;
            out.push((step("neither can execute any more, again", n, 0u8, 0u8), t));
        } else if !bumping && !s.connected(i, y) {
            if self.made(Mistake::UngrowByRead) {
                (nw.phase, nw.todo, nw.attaching) = (Phase::SbWrite, w.members, 0);
                out.push((step("grow not seen in R: solo again", n, 0u8, 0u8), t));
                return;
            }
            let mut r = self.next_epoch(s, w.members);
            r.holder = w.key;
            if let Some(mut t) = self.send(s, r) {
                let nw = &mut t.writers[i];
                (nw.phase, nw.earlier, nw.request) = (Phase::BumpWait, w.request, s.next_txid);
                out.push((step("wants out, sends bump", n, 0u8, 0u8), t));
            }
        } else if !bumping && !s.open(w.request) {
            nw.phase = Phase::Candidate;
            out.push((step("grow not executed, again", n, 0u8, 0u8), t));
        }
    }
}
