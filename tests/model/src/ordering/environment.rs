//! Steps that nobody orders: links cut and healed, crashes and restarts, leases running out, operator edits, the witness
//! executing, refusing or losing a request, targets accepting and applying writes or losing power.

use super::check::SEQ_WENT_BACK;
use super::rules::Mistake;
use super::state::{Command, Phase, QUEUE, REQUESTS, Request, State, Writer};
use super::{Next, Ordering};
use crate::search::step;

impl Ordering {
    pub(super) fn links_and_crashes(&self, s: &State, i: usize, out: &mut Next) {
        let n = i as u8;
        for x in 0..2usize {
            let local = usize::from(self.site(i)) == x;
            if s.leg_links[i][x] > 0 && s.cuts > 0 && (!local || self.config.local_cut) {
                let mut t = *s;
                t.leg_links[i][x] = 0;
                t.cuts -= 1;
                out.push((step("cut leg", n, x as u8, 0u8), t));
            }
            if s.leg_links[i][x] == 0 && s.heals > 0 {
                let mut t = *s;
                t.leg_links[i][x] = 1;
                t.heals -= 1;
                out.push((step("heal leg", n, x as u8, 0u8), t));
            }
        }
        if s.register_links[i] == 1 && s.cuts > 0 {
            let mut t = *s;
            t.register_links[i] = 0;
            t.cuts -= 1;
            out.push((step("cut witness", n, 0u8, 0u8), t));
        }
        if s.register_links[i] == 0 && s.heals > 0 {
            let mut t = *s;
            t.register_links[i] = 1;
            t.heals -= 1;
            out.push((step("heal witness", n, 0u8, 0u8), t));
        }
        let w = &s.writers[i];
        if s.crashes > 0 && w.phase.alive() {
            let mut t = *s;
            t.writers[i] = self.crashed(w);
            t.crashes -= 1;
            out.push((step("crash", n, 0u8, 0u8), t));
        }
        if w.phase == Phase::Dead && s.heals > 0 {
            let mut t = *s;
            t.writers[i] = Writer {
                phase: Phase::Off,
                key: w.key + 4,
                kept: w.kept,
                kept_key: w.kept_key,
                ..Writer::default()
            };
            t.heals -= 1;
            for x in 0..2 {
                t.leg_links[i][x] = t.leg_links[i][x].min(1);
            }
            out.push((step("restart", n, 0u8, 0u8), t));
        }
        if w.lease == 1 && (0..2).any(|x| !s.usable(i, x)) {
            let mut t = *s;
            t.writers[i].lease = 0;
            out.push((step("lease expires", n, 0u8, 0u8), t));
        }
    }

    /// A shown device (configuration `cont`) keeps the write in flight; the next agent resends it.
    fn crashed(&self, w: &Writer) -> Writer {
        let kept = match (self.config.continued, w.write) {
            (false, _) => 0,
            (true, 0) => w.kept,
            (true, write) => write,
        };
        let kept_key = if kept != 0 && w.kept_key == 0 {
            w.key
        } else {
            w.kept_key
        };
        Writer {
            kept,
            kept_key,
            ..w.dead()
        }
    }

    pub(super) fn operator_edit(&self, s: &State, out: &mut Next) {
        if s.edits > 0 && s.next_txid < 28 {
            let mut t = *s;
            t.edits -= 1;
            t.register.txid = s.next_txid;
            t.next_txid += 1;
            out.push((step("operator writes note or latched", 0u8, 0u8, 0u8), t));
        }
    }

    /// Perhaps late, perhaps twice, perhaps never.
    pub(super) fn witness(&self, s: &State, out: &mut Next) {
        for k in 0..REQUESTS {
            let m = s.requests[k];
            if m.expected == 0 {
                continue;
            }
            let hit = if self.made(Mistake::CasEpochOnly) {
                (m.expected_epoch, m.expected_members) == (s.register.epoch, s.register.members)
            } else {
                m.expected == s.register.txid
            };
            let mut t = *s;
            if hit {
                t.register = m.new;
                if m.new.seq < s.register.seq {
                    t.fault = SEQ_WENT_BACK;
                }
                if self.config.duplicates {
                    out.push((
                        step(
                            "witness executes (copy stays)",
                            k as u8,
                            m.new.epoch,
                            m.new.members,
                        ),
                        t,
                    ));
                }
            }
            t.requests[k] = Request::default();
            t.sort_requests();
            let name = if hit {
                "witness executes"
            } else {
                "witness refuses"
            };
            out.push((step(name, k as u8, m.new.epoch, m.new.members), t));
            if hit {
                let mut t = *s;
                t.requests[k] = Request::default();
                t.sort_requests();
                out.push((step("request lost", k as u8, m.new.epoch, m.new.members), t));
            }
        }
    }

    pub(super) fn target(&self, s: &State, x: usize, out: &mut Next) {
        let leg = x as u8;
        if s.power > 0 {
            let mut t = *s;
            t.power -= 1;
            let l = &mut t.legs[x];
            l.data = l.durable;
            l.boot += 1;
            l.drop_commands(|_| true);
            out.push((step("target power cycle", leg, 0u8, 0u8), t));
        }
        for k in 0..QUEUE {
            let c = s.legs[x].queue[k];
            if c.write == 0 {
                continue;
            }
            let mut without = *s;
            without.legs[x].queue[k] = Command::default();
            without.legs[x].drop_commands(|_| false);
            let sender = (0..self.config.sites.len())
                .find(|&i| s.writers[i].key == c.key && s.writers[i].phase.alive());
            if c.accepted == 0 {
                if s.legs[x].holder == c.key {
                    let mut t = *s;
                    t.legs[x].queue[k].accepted = 1;
                    t.legs[x].drop_commands(|_| false);
                    out.push((step("leg accepts write", leg, c.write, 0u8), t));
                } else {
                    let mut t = without;
                    if let Some(i) = sender.filter(|&i| s.connected(i, x)) {
                        self.conflict(&mut t, i, x);
                    }
                    out.push((step("leg: reservation conflict", leg, c.write, 0u8), t));
                }
            } else {
                let mut t = without;
                t.legs[x].data = c.write;
                if self.config.power == 0 {
                    t.legs[x].durable = c.write;
                }
                if let Some(i) =
                    sender.filter(|&i| s.connected(i, x) && s.writers[i].write == c.write)
                {
                    t.writers[i].applied |= 1 << x;
                }
                out.push((step("leg applies write", leg, c.write, 0u8), t));
            }
            if sender.is_none_or(|i| s.leg_links[i][x] == 0) {
                out.push((step("net drops write", leg, c.write, 0u8), without));
            }
        }
    }

    /// RESERVATION CONFLICT on a member: superseded (R16).
    pub(super) fn conflict(&self, t: &mut State, i: usize, x: usize) {
        if self.made(Mistake::ZombieRereg) {
            t.legs[x].holder = t.writers[i].key;
        } else {
            t.writers[i] = t.writers[i].dead();
        }
    }
}
