//! Guest writes, reads, flush and clear, page transactions and beats (protocol 2.4).

use super::check::STALE_READ;
use super::rules::Mistake;
use super::state::{ALL, Page, Phase, REGIONS, State, Write};
use super::{Next, Regions};

impl Regions {
    /// Legs that a page transaction begun now goes to.
    fn page_legs(s: &State) -> u8 {
        use Phase::*;
        let w = &s.writer;
        match w.phase {
            GrowingSb | CandidateSb | Grow | MemberSb | NoBase => 3,
            _ => w.set,
        }
    }

    /// Legs that a write begun now goes to and needs.
    fn write_legs(s: &State) -> u8 {
        use Phase::*;
        match s.writer.phase {
            Need | MapToOther | GrowingSb | CandidateSb | Grow | MemberSb | NoBase => 3,
            _ => s.writer.set,
        }
    }

    fn holds_io(s: &State) -> bool {
        use Phase::*;
        matches!(s.writer.phase, Frozen | ShrinkBase | ShrinkMap | ShrinkSb)
    }

    pub(super) fn guest(&self, s: &State, out: &mut Next) {
        let w = &s.writer;
        let clearing = w.page.is_some_and(|p| p.bits & w.bits != w.bits);
        if !Self::holds_io(s) {
            for r in 0..REGIONS {
                let idle = w.writes[r].id == 0 && (w.pending | w.must_reconcile) >> r & 1 == 0;
                if idle && !clearing && s.next_write <= self.config.writes {
                    Self::to(out, s, "guest write begins", (s.next_write, r as u8), |t| {
                        t.issued[usize::from(s.next_write)] = (r as u8, s.acked);
                        t.writer.writes[r] = Write {
                            id: s.next_write,
                            on: 0,
                            need: Self::write_legs(s),
                            failed: false,
                        };
                        t.next_write += 1;
                    });
                }
                if idle {
                    self.read(s, r, out);
                }
            }
            self.data(s, out);
            self.flush(s, out);
            self.clear(s, out);
            self.beat(s, out);
        }
        self.page(s, out);
    }

    fn page(&self, s: &State, out: &mut Next) {
        let w = &s.writer;
        let Some(p) = w.page else {
            let wanted = (0..REGIONS)
                .filter(|&r| w.writes[r].id != 0)
                .fold(0, |m, r| m | 1u8 << r)
                & !w.bits;
            if wanted != 0 && !Self::holds_io(s) && !self.made(Mistake::NoWil) {
                Self::to(
                    out,
                    s,
                    "page transaction begins",
                    (w.number + 1, wanted),
                    |t| {
                        let to = Self::page_legs(s);
                        t.writer.page = Some(Page {
                            number: w.number + 1,
                            bits: w.bits | wanted,
                            to,
                            done: 0,
                        });
                    },
                );
            }
            return;
        };
        for d in (0..2usize).filter(|&d| (p.to & !p.done) >> d & 1 == 1 && s.up(d)) {
            if Self::holds_io(s) && s.writer.phase != Phase::Frozen {
                continue;
            }
            Self::to(out, s, "page durable on leg", (d as u8, p.number), |t| {
                (t.legs[d].number, t.legs[d].bits) = (p.number, p.bits);
                let done = p.done | 1 << d;
                t.writer.page = Some(Page { done, ..p });
                if done == p.to {
                    t.writer.page = None;
                    (t.writer.bits, t.writer.number) = (p.bits, p.number);
                }
            });
        }
    }

    fn data(&self, s: &State, out: &mut Next) {
        let w = &s.writer;
        for r in 0..REGIONS {
            let g = w.writes[r];
            if g.id == 0 || w.pending >> r & 1 == 1 {
                continue;
            }
            let settled_bit = w.bits >> r & 1 == 1;
            let joined = w.page.is_some_and(|p| p.bits >> r & 1 == 1 && p.done != 0);
            let gate_1 = settled_bit || joined || self.made(Mistake::NoWil);
            let gate_2 = settled_bit
                || self.made(Mistake::NoWil)
                || (joined && self.made(Mistake::AckBeforeBothPages));
            for d in (0..2usize).filter(|&d| (g.need & !g.on) >> d & 1 == 1 && s.up(d) && gate_1) {
                Self::to(out, s, "write durable on leg", (d as u8, g.id), |t| {
                    self.store(&mut t.legs[d], r, g.id);
                    t.writer.writes[r].on |= 1 << d;
                    if g.need != 3 {
                        t.writer.copied &= !(1 << r);
                    }
                });
            }
            if g.on & g.need == g.need && g.need != 0 && gate_2 && !g.failed {
                Self::to(out, s, "ACK", (g.id, r as u8), |t| {
                    t.acked[r] = g.id;
                    t.writer.own[r] = g.id;
                    t.writer.writes[r] = Write::default();
                });
            }
        }
    }

    fn read(&self, s: &State, r: usize, out: &mut Next) {
        let w = &s.writer;
        let from = if w.set == 3 {
            usize::from(w.local)
        } else {
            usize::from(w.set - 1)
        };
        if self.volatile() || !s.up(from) || (w.set == 3 && !s.up(1 - from)) {
            return;
        }
        let value = s.legs[from].data[r];
        // After a rollback only acknowledged values are promised (module header).
        let promised = if s.rolled_back {
            s.acked[r]
        } else {
            s.acked[r].max(s.observed[r])
        };
        if value < promised {
            Self::to(
                out,
                s,
                "guest reads an old value",
                (from as u8, value),
                |t| t.fault = STALE_READ,
            );
        } else if value > promised {
            Self::to(out, s, "guest reads", (from as u8, value), |t| {
                t.observed[r] = value
            });
        }
    }

    /// SYNCHRONIZE CACHE on every member, from step 5 of a rejoin on both legs (R40).
    fn flush(&self, s: &State, out: &mut Next) {
        let w = &s.writer;
        let legs = if self.made(Mistake::FlushSourceOnly) {
            w.set
        } else {
            Self::write_legs(s)
        };
        let held = w.pending != 0 && !self.made(Mistake::FlushPending);
        if !self.volatile() || held || (0..2).any(|d| legs >> d & 1 == 1 && !s.up(d)) {
            return;
        }
        if w.flush_fail {
            Self::to(out, s, "FLUSH answers EIO", (0, 0), |t| {
                t.writer.flush_fail = false;
                for r in 0..REGIONS {
                    t.writer.own[r] = w.own[r].min(s.flushed[r]);
                }
            });
        } else if (0..REGIONS).any(|r| s.flushed[r] < w.own[r]) {
            Self::to(out, s, "FLUSH done", (0, 0), |t| {
                for d in (0..2).filter(|d| legs >> d & 1 == 1) {
                    t.legs[d].durable = t.legs[d].data;
                }
                for r in 0..REGIONS {
                    t.flushed[r] = s.flushed[r].max(w.own[r]);
                }
            });
        }
    }

    fn clear(&self, s: &State, out: &mut Next) {
        let w = &s.writer;
        let solo = w.phase == Phase::Solo && self.made(Mistake::ClearInSolo);
        let based = s.legs.iter().any(|l| l.base != 0) && !self.made(Mistake::ClearWithBase);
        let busy = w.writes.iter().any(|g| g.id != 0) || w.page.is_some();
        let pair = w.phase == Phase::Pair && !based && s.up(0) && s.up(1);
        if (!pair && !solo)
            || busy
            || w.pending | w.must_reconcile != 0
            || w.unsettled
            || w.bits == 0
        {
            return;
        }
        Self::to(
            out,
            s,
            "clear: SYNC, page transaction begins",
            (w.number + 1, 0),
            |t| {
                for l in &mut t.legs {
                    if !self.made(Mistake::ClearUnflushed) {
                        l.durable = l.data;
                    }
                }
                t.writer.page = Some(Page {
                    number: w.number + 1,
                    bits: w.bits & !ALL,
                    to: w.set,
                    done: 0,
                });
            },
        );
    }

    /// Beat n+1 on all members when n is on all; then the beat object.
    fn beat(&self, s: &State, out: &mut Next) {
        let w = &s.writer;
        let early = self.made(Mistake::EarlyBeats);
        if w.beat > self.config.beats
            || (w.unsettled && !early)
            || !matches!(w.phase, Phase::Pair | Phase::Solo)
        {
            return;
        }
        for d in (0..2usize).filter(|&d| (w.set & !w.beating) >> d & 1 == 1 && s.up(d)) {
            Self::to(out, s, "beat durable on leg", (d as u8, w.beat + 1), |t| {
                t.legs[d].beat = w.beat + 1;
                t.writer.beating |= 1 << d;
                if t.writer.beating == w.set {
                    (t.writer.beating, t.writer.beat) = (0, w.beat + 1);
                    if self.config.beat_object {
                        t.beat_object = (w.epoch, w.beat + 1);
                    }
                }
            });
        }
    }
}
