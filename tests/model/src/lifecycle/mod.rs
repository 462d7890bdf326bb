//! The lifecycle model: birth, format, order of Attachments, detach, a restored witness, force, delete, reseed.
//!
//! Attach has two steps (fence; decide with compare-and-swap and superblocks), birth and wipe four (read R, fence, read R
//! again, zero leg by leg), everything else is one: what may happen between the smaller steps is the business of
//! `ordering`. The class of a register is `twinsite_register::classify`, the decision `twinsite_mirror::activation`.
//!
//! Checked: nobody serves a leg older than acknowledged; live data is never zeroed, wiped or formatted again (I18, R34); a lost
//! branch is not overwritten before a human confirmed (R44); an old Attachment never fences a newer one (R38).

mod executor;
pub mod rules;
pub mod state;
mod witness;
mod writer;

use crate::made::Made;
use crate::search::{Model, Step, step};
use crate::table::Role;
use rules::{Config, Mistake};
use state::{EPOCHS, Executor, Leg, Life, Phase, Register, Sb, State, WRITERS, Writer};

type Next = Vec<(Step, State)>;

const FAULTS: &[&str] = &[
    "",
    "birth zeroed live data (I18)",
    "wiped a volume that was not deleted (I18)",
    "mkfs over a file system that was mounted (R34)",
    "a lost branch was overwritten before a human confirmed (R44)",
    "an old Attachment fenced a newer one (R38)",
    "deleted under a running writer",
    "after a reseed nothing may attach: only another human leads out",
];
const ZEROED: u8 = 1;
const WIPED: u8 = 2;
const MKFS_AGAIN: u8 = 3;
const BRANCH_OVERWRITTEN: u8 = 4;
const OLD_FENCED_NEW: u8 = 5;
const DELETED_IN_USE: u8 = 6;
const RESEED_REFUSED: u8 = 7;

pub struct Lifecycle {
    pub config: Config,
    mistakes: Made,
}

impl Lifecycle {
    pub fn new(config: Config, flags: &[&str]) -> Result<Self, String> {
        let mistakes = Made::of(flags, rules::number)?;
        Ok(Self { config, mistakes })
    }

    fn made(&self, m: Mistake) -> bool {
        self.mistakes.is(m as usize)
    }

    fn writers(&self) -> usize {
        if self.config.uids > 1 { WRITERS } else { 2 }
    }

    /// Writers 0 and 2 live at A, 1 at B.
    fn site(i: usize) -> u8 {
        u8::from(i == 1)
    }

    fn to(
        out: &mut Next,
        s: &State,
        name: &'static str,
        args: (u8, u8),
        f: impl FnOnce(&mut State),
    ) {
        let mut t = *s;
        f(&mut t);
        out.push((step(name, args.0, args.1, 0u8), t));
    }

    /// Can the site reach the leg? Its own always.
    fn reach(s: &State, site: u8, x: usize) -> bool {
        usize::from(site) == x || !s.no_peer
    }

    fn readable(s: &State, site: u8) -> bool {
        s.no_register >> site & 1 == 0
    }

    fn environment(&self, s: &State, out: &mut Next) {
        for site in 0..2u8 {
            let cut = !Self::readable(s, site);
            if (cut && s.heals > 0) || (!cut && s.cuts > 0) {
                let name = if cut {
                    "heal register of site"
                } else {
                    "cut register of site"
                };
                Self::to(out, s, name, (site, 0), |t| {
                    t.no_register ^= 1 << site;
                    if cut { t.heals -= 1 } else { t.cuts -= 1 }
                });
            }
        }
        if (s.no_peer && s.heals > 0) || (!s.no_peer && s.cuts > 0) {
            let name = if s.no_peer {
                "heal link of the sites"
            } else {
                "cut link of the sites"
            };
            Self::to(out, s, name, (0, 0), |t| {
                t.no_peer = !s.no_peer;
                if s.no_peer { t.heals -= 1 } else { t.cuts -= 1 }
            });
        }
        for i in 0..self.writers() {
            self.crash(s, i, out);
        }
        for x in 0..2usize {
            let (key, write) = s.legs[x].delayed;
            if key != 0 {
                let accepted = s.legs[x].holder == key || s.legs[x].holder == 0;
                let name = if accepted {
                    "delayed write applied"
                } else {
                    "delayed write: conflict"
                };
                Self::to(out, s, name, (x as u8, write), |t| {
                    t.legs[x].delayed = (0, 0);
                    if accepted {
                        t.legs[x].data = write;
                    }
                });
            }
        }
    }

    /// A write may still be on its way to one leg of the writer.
    fn crash(&self, s: &State, i: usize, out: &mut Next) {
        let w = s.writers[i];
        if s.crashes == 0 || w.phase == Phase::Off {
            return;
        }
        let gone = |t: &mut State| {
            t.crashes -= 1;
            t.writers[i] = Writer {
                n: w.n,
                key: w.key,
                stale: w.stale,
                shown: w.phase != Phase::Fenced,
                ..Writer::default()
            };
        };
        Self::to(out, s, "writer crashes", (i as u8, 0), gone);
        for x in 0..2usize {
            let sent = w.phase == Phase::Serving
                && w.fs == 3
                && w.set >> x & 1 == 1
                && s.legs[x].delayed.0 == 0;
            if sent && s.next_write <= self.config.writes && s.legs[x].holder == w.key {
                Self::to(
                    out,
                    s,
                    "writer crashes, a write on its way to leg",
                    (i as u8, x as u8),
                    |t| {
                        gone(t);
                        t.legs[x].delayed = (w.key, s.next_write);
                        t.next_write += 1;
                    },
                );
            }
        }
    }

    /// Each site's operator keeps the highest register it believed.
    fn raise_marks(&self, t: &mut State) {
        for site in 0..2u8 {
            let r = t.register;
            if Self::readable(t, site)
                && r.id != 0
                && !matches!(self.class(t, site, 0), crate::table::Reg::Below)
            {
                let (id, epoch, seq) = t.marks[usize::from(site)];
                t.marks[usize::from(site)] = if id == r.id {
                    (id, epoch.max(r.epoch), seq.max(r.seq))
                } else {
                    (r.id, r.epoch, r.seq)
                };
            }
        }
    }
}

impl Model for Lifecycle {
    type State = State;

    fn initial(&self) -> State {
        let c = &self.config;
        let solo = c.start == 1;
        let mut register = Register::default();
        let leg = Leg {
            sb: None,
            data: 0,
            holder: 0,
            delayed: (0, 0),
            lost: false,
        };
        let mut legs = [leg, leg];
        let mut writers = [Writer::default(); WRITERS];
        if c.start != 0 {
            let epoch = if solo { 2 } else { 1 };
            let mut history = [0; EPOCHS];
            let mut gens = [0; EPOCHS];
            (history[1], gens[1]) = (3, 1);
            (history[usize::from(epoch)], gens[usize::from(epoch)]) = (c.start, epoch);
            register = Register {
                life: Life::Live,
                id: 1,
                epoch,
                members: c.start,
                site: 0,
                seq: 1,
                holder: 2,
                order: (1, 1),
                txid: 1,
                history,
                gens,
                ..register
            };
            let pair = Sb {
                role: Role::Member,
                epoch: 1,
                generation: 1,
                members: 3,
                site: 0,
                seq: 1,
                sb_seq: 1,
                register: 1,
                format: 2,
                order: (1, 1),
                awaits: false,
            };
            let first = Sb {
                epoch,
                generation: epoch,
                members: c.start,
                ..pair
            };
            legs = [
                Leg {
                    sb: Some(first),
                    holder: 2,
                    data: u8::from(solo),
                    ..leg
                },
                Leg {
                    sb: Some(pair),
                    holder: 2,
                    ..leg
                },
            ];
            let serving = Phase::Serving;
            writers[0] = Writer {
                phase: serving,
                set: c.start,
                epoch,
                seq: 1,
                key: 2,
                n: 1,
                stamped: true,
                fs: 3,
                ..writers[0]
            };
        }
        // An earlier volume of the same name was deleted: what a backup of the witness may hold.
        let earlier = Register {
            life: Life::Tombstone,
            id: 3,
            epoch: 3,
            txid: 30,
            ..Register::default()
        };
        let mark = if c.start == 0 {
            (0, 0, 0)
        } else {
            (1, register.epoch, 1)
        };
        State {
            register,
            backup: (c.restores > 0 && c.deletes > 0).then_some(earlier),
            restored: false,
            marks: [mark; 2],
            legs,
            writers,
            executors: [Executor::default(); 2],
            no_register: 0,
            no_peer: false,
            next_key: 2,
            next_write: if solo { 2 } else { 1 },
            next_gen: 3,
            acked: u8::from(solo),
            mounted: c.start != 0,
            deleted: false,
            cuts: c.cuts,
            heals: c.heals,
            crashes: c.crashes,
            moves: c.moves,
            forces: c.forces,
            restores: c.restores,
            deletes: c.deletes,
            losses: c.losses,
            lost_register: None,
            fault: 0,
        }
    }

    fn steps(&self, s: &State, out: &mut Next) {
        self.environment(s, out);
        self.witness_steps(s, out);
        for i in 0..self.writers() {
            self.writer(s, i, out);
        }
        for e in 0..2 {
            self.executor(s, e, out);
        }
        for (_, t) in out.iter_mut() {
            self.raise_marks(t);
        }
    }

    fn violation(&self, s: &State) -> Option<&'static str> {
        if s.fault != 0 {
            return Some(FAULTS[usize::from(s.fault)]);
        }
        if self.is_stranded(s) {
            return Some("what a person named may not run: only another human leads out");
        }
        for i in 0..self.writers() {
            let w = &s.writers[i];
            if w.phase != Phase::Serving || !self.whole(s, i) {
                continue;
            }
            if (0..2).any(|x| w.set >> x & 1 == 1 && s.legs[x].data < s.acked) {
                return Some("a writer serves a leg older than acknowledged");
            }
        }
        None
    }
}
