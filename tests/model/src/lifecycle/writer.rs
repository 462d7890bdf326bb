//! Attach under the order rule, format and first mount, writes, shrink, rejoin, detach.

use super::rules::Mistake;
use super::state::{EPOCHS, Life, Phase, Register, Sb, State, Writer};
use super::witness::next_txid;
use super::{BRANCH_OVERWRITTEN, Lifecycle, MKFS_AGAIN, Next, OLD_FENCED_NEW};
use crate::table::{self, Act, Cas, Leg, Reg, Role};
use twinsite_mirror::activation::RegisterIdView;

impl Lifecycle {
    /// Every leg of the set is reachable and holds the reservation of this writer.
    pub(super) fn whole(&self, s: &State, i: usize) -> bool {
        let w = &s.writers[i];
        (0..2).all(|x| {
            w.set >> x & 1 == 0 || (Self::reach(s, Self::site(i), x) && s.legs[x].holder == w.key)
        })
    }

    pub(super) fn writer(&self, s: &State, i: usize, out: &mut Next) {
        match s.writers[i].phase {
            Phase::Off => self.fence(s, i, out),
            Phase::Fenced => self.decide(s, i, out),
            Phase::Serving | Phase::Frozen => self.serve(s, i, out),
        }
    }

    /// The order rule of 2.7: N = highest order of R and of the superblocks read so far.
    fn order_allows(&self, s: &State, i: usize, legs: u8) -> bool {
        let w = &s.writers[i];
        let newest = self.newest_order(s, i, legs);
        self.made(Mistake::NoOrder) || w.n == 0 || newest.1 == uid(i) || newest.0 < w.n
    }

    fn newest_order(&self, s: &State, i: usize, legs: u8) -> (u8, u8) {
        let of_r = if Self::readable(s, Self::site(i)) {
            s.register.order
        } else {
            (0, 0)
        };
        let of_legs = (0..2)
            .filter(|x| legs >> x & 1 == 1)
            .filter_map(|x| s.legs[x].sb)
            .map(|sb| sb.order);
        of_legs.chain([of_r]).max().unwrap_or((0, 0))
    }

    fn fence(&self, s: &State, i: usize, out: &mut Next) {
        let (w, site) = (s.writers[i], Self::site(i));
        if w.stale || s.next_key >= 7 || (self.config.start == 0 && s.register.id == 0) {
            return;
        }
        let r = self.class(s, site, 0);
        let reach = (0..2)
            .filter(|&x| Self::reach(s, site, x))
            .fold(0, |m, x| m | 1u8 << x);
        let held = |x: usize| s.legs[x].holder;
        let other = (0..2).any(|x| reach >> x & 1 == 1 && held(x) != 0 && held(x) & 1 != site);
        // Without R a uid with an n fences only behind its own last key.
        let own = (0..2).all(|x| reach >> x & 1 == 0 || held(x) == w.key);
        if r == Reg::Unreadable && w.n != 0 && !own && !self.made(Mistake::NoOrder) {
            return;
        }
        if !self.order_allows(s, i, 0) {
            Self::to(out, s, "order is stale", (i as u8, 0), |t| {
                t.writers[i].stale = true
            });
            return;
        }
        for moving in [false, true] {
            if moving && (s.moves == 0 || !matches!(r, Reg::Live(l) if l.site != site)) {
                continue;
            }
            let Ok(legs) = table::may_fence(site, moving, r, reach, other) else {
                continue;
            };
            if legs == 0 {
                continue;
            }
            Self::to(
                out,
                s,
                if moving {
                    "takeover: fences"
                } else {
                    "attach: fences"
                },
                (i as u8, legs),
                |t| {
                    let key = s.next_key * 2 + site;
                    t.next_key += 1;
                    t.moves -= u8::from(moving);
                    for x in (0..2).filter(|x| legs >> x & 1 == 1) {
                        t.legs[x].holder = key;
                    }
                    t.writers[i] = Writer {
                        phase: Phase::Fenced,
                        set: legs,
                        key,
                        moving,
                        n: w.n,
                        ..Writer::default()
                    };
                    // Named in docs/evidence.md: a writer that attached without R and is not stamped yet, and a site that saw
                    // nothing since a restored witness was backed up.
                    let newer = |v: &Writer| {
                        v.phase == Phase::Serving && v.stamped && v.n > w.n && v.set & legs != 0
                    };
                    if w.n != 0 && !s.restored && s.writers.iter().any(newer) {
                        t.fault = OLD_FENCED_NEW;
                    }
                },
            );
        }
    }

    fn view(&self, s: &State, r: &Register, x: usize) -> Leg {
        let Some(sb) = s.legs[x].sb else {
            return Leg::Bad;
        };
        let register = if sb.register == r.id {
            RegisterIdView::Same
        } else if r.former >> sb.register & 1 == 1 {
            RegisterIdView::Former
        } else {
            RegisterIdView::Other
        };
        let listed = r.gens.get(usize::from(sb.epoch)).copied().unwrap_or(0);
        Leg::Sb(table::Sb {
            gen_ok: sb.epoch > r.epoch || listed == sb.generation,
            sb_seq: sb.sb_seq,
            register,
            awaits_register: sb.awaits && !self.made(Mistake::NamedRunsWithoutR),
            ..table::Sb::of(sb.role, sb.epoch, sb.members, sb.site, sb.seq)
        })
    }

    /// Everything in reach, nobody attached, and what a person named may not run.
    pub(super) fn is_stranded(&self, s: &State) -> bool {
        let r = &s.register;
        let named = r.granted.iter().any(Option::is_some);
        if r.life != Life::Live || !named || s.writers.iter().any(|w| w.phase != Phase::Off) {
            return false;
        }
        let view = |x: usize| self.view(s, r, x);
        let live = Reg::Live(super::witness::live(r));
        let act = table::decide(r.site, false, live, view(0), view(1), 0);
        act == Act::Refuse(table::Refusal::MemberDamaged)
    }

    fn decide(&self, s: &State, i: usize, out: &mut Next) {
        let (w, site) = (s.writers[i], Self::site(i));
        let off = |t: &mut State, stale: bool| {
            t.writers[i] = Writer {
                n: w.n,
                key: w.key,
                stale,
                ..Writer::default()
            }
        };
        let held = (0..2).filter(|&x| {
            w.set >> x & 1 == 1 && Self::reach(s, site, x) && s.legs[x].holder == w.key
        });
        let seen = held.fold(0, |m, x| m | 1u8 << x);
        if !self.order_allows(s, i, seen) {
            Self::to(out, s, "order is stale", (i as u8, 0), |t| off(t, true));
            return;
        }
        let r = self.class(s, site, if self.made(Mistake::NoMarks) { 0 } else { seen });
        let view = |x: usize| {
            if seen >> x & 1 == 1 {
                self.view(s, &s.register, x)
            } else {
                Leg::Away
            }
        };
        let mut act = table::decide(site, w.moving, r, view(0), view(1), 0);
        if r == Reg::Unreadable && self.made(Mistake::AloneWithoutR) {
            let alone = |x: usize| matches!(view(x), Leg::Sb(sb) if sb.role == Role::Member && sb.members == 1 << x);
            if alone(usize::from(site)) {
                act = Act::without_cas(1 << site);
            }
        }
        let n = if w.n == 0 {
            self.newest_order(s, i, seen).0 + 1
        } else {
            w.n
        };
        match act {
            Act::Refuse(_) => Self::to(out, s, "attach refused", (i as u8, 0), |t| off(t, false)),
            Act::Run { set, cas } if cas == Cas::default() => {
                Self::to(out, s, "attaches without R", (i as u8, set), |t| {
                    let newest = (0..2)
                        .filter_map(|x| s.legs[x].sb)
                        .max_by_key(|sb| (sb.seq, sb.epoch));
                    let sb = newest.expect("a leg that runs without R has a superblock");
                    self.serve_with(t, i, set, sb.epoch, sb.seq, n, false);
                });
            }
            Act::Run { set, cas } => {
                if s.register.epoch + 1 >= EPOCHS as u8 {
                    return;
                }
                Self::to(out, s, "attaches, CAS won", (i as u8, set), |t| {
                    if cas.shrink || cas.bump {
                        self.next_epoch(t, set);
                    }
                    let r = &mut t.register;
                    if cas.moves {
                        (r.site, r.seq) = (site, r.seq + 1);
                    }
                    (r.holder, r.order, r.txid) = (w.key, (n, uid(i)), next_txid(s));
                    for x in (0..2).filter(|x| set >> x & 1 == 1) {
                        r.granted[x] = None;
                    }
                    let (epoch, seq) = (r.epoch, r.seq);
                    self.serve_with(t, i, set, epoch, seq, n, true);
                });
            }
        }
    }

    fn next_epoch(&self, t: &mut State, set: u8) {
        let generation = t.next_gen;
        t.next_gen += 1;
        let r = &mut t.register;
        r.epoch += 1;
        r.members = set;
        r.history[usize::from(r.epoch)] = set;
        r.gens[usize::from(r.epoch)] = generation;
    }

    /// Superblocks of the set, reconcile, serve.
    #[allow(
        clippy::too_many_arguments,
        reason = "one place that turns an attach into serving"
    )]
    fn serve_with(
        &self,
        t: &mut State,
        i: usize,
        set: u8,
        epoch: u8,
        seq: u8,
        n: u8,
        stamped: bool,
    ) {
        let site = Self::site(i);
        self.superblocks(t, set, set, epoch, site, seq, (n, uid(i)));
        if set == 3 {
            let newest = t.legs[0].data.max(t.legs[1].data);
            t.legs.iter_mut().for_each(|l| l.data = newest);
        }
        let w = &mut t.writers[i];
        (w.phase, w.set, w.epoch, w.seq, w.n, w.stamped, w.fs) =
            (Phase::Serving, set, epoch, seq, n, stamped, 0);
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of a superblock")]
    fn superblocks(
        &self,
        t: &mut State,
        legs: u8,
        members: u8,
        epoch: u8,
        site: u8,
        seq: u8,
        order: (u8, u8),
    ) {
        let r = t.register;
        for (_, l) in t
            .legs
            .iter_mut()
            .enumerate()
            .filter(|(x, _)| legs >> x & 1 == 1)
        {
            let old = l.sb;
            let generation = if r.epoch == epoch {
                r.gens[usize::from(epoch)]
            } else {
                old.map_or(0, |o| o.generation)
            };
            l.sb = Some(Sb {
                role: Role::Member,
                epoch,
                generation,
                members,
                site,
                seq,
                sb_seq: old.map_or(0, |o| o.sb_seq) + 1,
                register: old.map_or(r.id, |o| o.register),
                format: old.map_or(0, |o| o.format),
                order,
                awaits: false,
            });
        }
    }

    fn serve(&self, s: &State, i: usize, out: &mut Next) {
        let (w, site, n) = (s.writers[i], Self::site(i), i as u8);
        let r = &s.register;
        let superseded = |t: &mut State| {
            t.writers[i] = Writer {
                n: w.n,
                key: w.key,
                ..Writer::default()
            }
        };
        let class = self.class(s, site, w.set);
        let fenced = (0..2)
            .any(|x| w.set >> x & 1 == 1 && Self::reach(s, site, x) && s.legs[x].holder != w.key);
        let moved = matches!(class, Reg::Live(_))
            && (r.seq != w.seq || (w.stamped && r.holder != w.key && r.holder != 0));
        if fenced || moved {
            Self::to(out, s, "superseded", (n, 0), superseded);
            return;
        }
        let is_live = matches!(class, Reg::Live(_));
        if is_live && !w.stamped && r.epoch == w.epoch && r.order.0 <= w.n {
            Self::to(out, s, "late stamp", (n, 0), |t| {
                (t.register.holder, t.register.order, t.register.txid) =
                    (w.key, (w.n, uid(i)), next_txid(s));
                t.writers[i].stamped = true;
            });
        } else if is_live && !w.stamped {
            Self::to(out, s, "R is ahead: decides again", (n, 0), |t| {
                t.writers[i].phase = Phase::Fenced
            });
        }
        if !self.whole(s, i) {
            let survivor = w.set & if site == 0 { 1 } else { 2 };
            let mine = is_live
                && w.stamped
                && r.holder == w.key
                && r.epoch == w.epoch
                && r.epoch + 1 < EPOCHS as u8;
            if w.set == 3 && survivor != 0 && mine {
                Self::to(out, s, "shrink won", (n, survivor), |t| {
                    self.next_epoch(t, survivor);
                    t.register.txid = next_txid(s);
                    let (epoch, seq) = (t.register.epoch, t.register.seq);
                    self.superblocks(t, survivor, survivor, epoch, site, seq, (w.n, uid(i)));
                    (t.writers[i].set, t.writers[i].epoch) = (survivor, epoch);
                });
            }
            return;
        }
        self.format(s, i, out);
        if w.fs == 3 && s.next_write <= self.config.writes {
            Self::to(out, s, "write acknowledged", (n, s.next_write), |t| {
                for x in (0..2).filter(|x| w.set >> x & 1 == 1) {
                    t.legs[x].data = s.next_write;
                }
                t.acked = s.next_write;
                t.next_write += 1;
            });
        }
        let can_grow = is_live
            && w.stamped
            && r.holder == w.key
            && r.epoch == w.epoch
            && r.epoch + 1 < EPOCHS as u8;
        if w.set != 3 && can_grow {
            self.rejoin(s, i, out);
        }
        Self::to(out, s, "detaches", (n, 0), |t| {
            superseded(t);
            if Self::readable(s, site) && r.holder == w.key {
                (t.register.holder, t.register.txid) = (0, next_txid(s));
            }
            if self.made(Mistake::ReleaseReservation) {
                for x in (0..2).filter(|x| w.set >> x & 1 == 1) {
                    t.legs[x].holder = 0;
                }
            }
        });
    }

    /// none, started on every member, mkfs, done on every member, first mount.
    fn format(&self, s: &State, i: usize, out: &mut Next) {
        let (w, n) = (s.writers[i], i as u8);
        let seen = |x: usize| {
            if w.set >> x & 1 == 1 {
                s.legs[x].sb.map_or(0, |sb| sb.format)
            } else {
                0
            }
        };
        let mark = |t: &mut State, legs: u8, format: u8| {
            for (_, l) in t
                .legs
                .iter_mut()
                .enumerate()
                .filter(|(x, _)| legs >> x & 1 == 1)
            {
                if let Some(sb) = &mut l.sb {
                    sb.format = format;
                    sb.sb_seq += 1;
                }
            }
        };
        let late = self.made(Mistake::FormatTwoValued);
        match w.fs {
            0 if seen(0).max(seen(1)) == 2 => Self::to(out, s, "mounts", (n, 0), |t| {
                t.writers[i].fs = 3;
                t.mounted = true;
            }),
            0 => Self::to(out, s, "format: started on every member", (n, 0), |t| {
                mark(t, w.set, 1);
                t.writers[i].fs = 1;
            }),
            1 => Self::to(out, s, "mkfs", (n, 0), |t| {
                t.writers[i].fs = 2;
                if s.mounted {
                    t.fault = MKFS_AGAIN;
                }
            }),
            2 if late => Self::to(out, s, "first mount, the mark comes later", (n, 0), |t| {
                t.writers[i].fs = 3;
                t.mounted = true;
            }),
            2 => Self::to(out, s, "format: done, first mount", (n, 0), |t| {
                mark(
                    t,
                    if self.made(Mistake::FormatOneLeg) {
                        1
                    } else {
                        w.set
                    },
                    2,
                );
                t.writers[i].fs = 3;
                t.mounted = true;
            }),
            3 if late && seen(0).max(seen(1)) != 2 => {
                Self::to(out, s, "format: done, late", (n, 0), |t| mark(t, w.set, 2))
            }
            _ => {}
        }
    }

    /// Fence, copy, grow in one step; a leg of a lost branch only after a human confirmed.
    fn rejoin(&self, s: &State, i: usize, out: &mut Next) {
        let (w, site) = (s.writers[i], Self::site(i));
        let x = usize::from(w.set - 1);
        let y = 1 - x;
        let allowed = s.register.unconfirmed >> y & 1 == 0 || self.made(Mistake::RejoinUnconfirmed);
        if !Self::reach(s, site, y) || s.legs[y].sb.is_none() || !allowed {
            return;
        }
        Self::to(
            out,
            s,
            "rejoin: copied, grow won",
            (i as u8, y as u8),
            |t| {
                if s.legs[y].lost {
                    t.fault = BRANCH_OVERWRITTEN;
                }
                t.legs[y].holder = w.key;
                t.legs[y].data = s.legs[x].data;
                if let (Some(from), Some(to)) = (s.legs[x].sb, &mut t.legs[y].sb) {
                    (to.format, to.register) = (from.format, from.register);
                }
                self.next_epoch(t, 3);
                t.register.txid = next_txid(s);
                t.register.unconfirmed &= !(1 << y);
                let (epoch, seq) = (t.register.epoch, t.register.seq);
                self.superblocks(t, 3, 3, epoch, site, seq, (w.n, uid(i)));
                (t.writers[i].set, t.writers[i].epoch) = (3, epoch);
            },
        );
    }
}

fn uid(i: usize) -> u8 {
    i as u8 + 1
}
