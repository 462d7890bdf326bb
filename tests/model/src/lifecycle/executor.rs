//! Birth executors and wipes: read R, fence, read R again, zero leg by leg (protocol 2.17).

use super::rules::Mistake;
use super::state::{Executor, Life, Phase, Sb, State};
use super::witness::next_txid;
use super::{Lifecycle, Next, WIPED, ZEROED};
use crate::table::{Reg, Role};

impl Lifecycle {
    pub(super) fn executor(&self, s: &State, e: usize, out: &mut Next) {
        let x = s.executors[e];
        let site = e as u8;
        let n = e as u8;
        if self.config.start != 0 && self.config.deletes == 0 && !s.restored {
            return;
        }
        let both = (0..2).all(|l| Self::reach(s, site, l));
        if x.step != 0 && s.crashes > 0 {
            Self::to(out, s, "executor crashes", (n, 0), |t| {
                t.executors[e] = Executor::default();
                t.crashes -= 1;
            });
        }
        match x.step {
            0 if s.next_key < 7 => {
                let wipes = match self.class(s, site, 0) {
                    Reg::Creating if both => false,
                    Reg::Tombstone if s.legs.iter().any(|l| l.sb.is_some()) => true,
                    _ => return,
                };
                Self::to(out, s, "executor reads R", (n, u8::from(wipes)), |t| {
                    t.executors[e] = Executor {
                        step: 1,
                        wipes,
                        read: s.register,
                        key: s.next_key * 2 + site,
                        done: 0,
                    };
                    t.next_key += 1;
                });
            }
            1 => Self::to(out, s, "executor fences", (n, 0), |t| {
                for l in (0..2).filter(|&l| Self::reach(s, site, l)) {
                    t.legs[l].holder = x.key;
                }
                t.executors[e].step = 2;
            }),
            2 => self.reads_again(s, e, out),
            3 => self.zeroes(s, e, out),
            _ => {}
        }
    }

    fn reads_again(&self, s: &State, e: usize, out: &mut Next) {
        let (x, site) = (s.executors[e], e as u8);
        let skip = self.made(if x.wipes {
            Mistake::WipeNoReread
        } else {
            Mistake::BirthNoReread
        });
        let seen = (0..2)
            .filter(|&l| Self::reach(s, site, l))
            .fold(0, |m, l| m | 1u8 << l);
        let same = Self::readable(s, site) && s.register == x.read;
        let class = self.class(s, site, seen);
        let good = same
            && matches!(
                (x.wipes, class),
                (true, Reg::Tombstone) | (false, Reg::Creating)
            );
        let name = if good || skip {
            "executor reads R again"
        } else {
            "executor stops"
        };
        Self::to(out, s, name, (e as u8, 0), |t| {
            if good || skip {
                t.executors[e].step = 3;
            } else {
                t.executors[e] = Executor::default();
            }
        });
    }

    fn zeroes(&self, s: &State, e: usize, out: &mut Next) {
        let (x, site) = (s.executors[e], e as u8);
        let stop = |out: &mut Next| {
            Self::to(out, s, "executor stops", (e as u8, 0), |t| {
                t.executors[e] = Executor::default()
            })
        };
        for l in (0..2usize).filter(|l| x.done >> l & 1 == 0) {
            if !Self::reach(s, site, l) {
                if x.wipes {
                    stop(out);
                }
                continue;
            }
            if s.legs[l].holder != x.key {
                stop(out);
                continue;
            }
            if x.wipes {
                let ours = s.legs[l]
                    .sb
                    .is_some_and(|sb| sb.register == x.read.id && sb.epoch < x.read.epoch);
                if s.legs[l].sb.is_some() && (ours || self.made(Mistake::WipeAnyRegister)) {
                    Self::to(out, s, "wipes leg", (l as u8, 0), |t| {
                        (t.legs[l].sb, t.legs[l].data) = (None, 0);
                        t.executors[e].done |= 1 << l;
                        let in_use = s
                            .writers
                            .iter()
                            .any(|w| w.phase == Phase::Serving && w.set >> l & 1 == 1);
                        if !s.deleted || in_use {
                            t.fault = WIPED;
                        }
                    });
                } else {
                    Self::to(
                        out,
                        s,
                        "leg is not of this volume: left",
                        (l as u8, 0),
                        |t| t.executors[e].done |= 1 << l,
                    );
                }
                continue;
            }
            let birth = Sb {
                role: Role::Member,
                epoch: 1,
                generation: x.read.gens[0],
                members: 3,
                site: 0,
                seq: 1,
                sb_seq: 1,
                register: x.read.id,
                format: 0,
                order: (0, 0),
                awaits: false,
            };
            match s.legs[l].sb {
                Some(sb) if sb == birth => {
                    Self::to(out, s, "leg is born already", (l as u8, 0), |t| {
                        t.executors[e].done |= 1 << l
                    });
                }
                Some(_) if !self.made(Mistake::BirthIgnoresSb) => stop(out),
                _ => Self::to(out, s, "zeroes leg, birth superblock", (l as u8, 0), |t| {
                    (t.legs[l].sb, t.legs[l].data) = (Some(birth), 0);
                    t.executors[e].done |= 1 << l;
                    if s.mounted {
                        t.fault = ZEROED;
                    }
                }),
            }
        }
        if x.done == 3 {
            let good = !x.wipes && Self::readable(s, site) && s.register == x.read;
            Self::to(
                out,
                s,
                if good {
                    "birth: R is live"
                } else {
                    "executor done"
                },
                (e as u8, 0),
                |t| {
                    t.executors[e] = Executor::default();
                    if good {
                        let r = &mut t.register;
                        (r.life, r.epoch, r.members, r.seq) = (Life::Live, 1, 3, 1);
                        (r.history[1], r.gens[1]) = (3, r.gens[0]);
                        r.txid = next_txid(s);
                    }
                },
            );
        }
    }
}
