//! The ordering model: one block, two legs, one register, two or three writers, every interleaving within bounds.
//!
//! Every compare-and-swap is a message: executed late, after its sender died, twice, or never; its answer may be lost (a
//! writer learns an outcome only by reading R). Reads and acts are separate steps. Links of every writer to every leg and to
//! the register are cut and healed, targets lose a volatile cache, guests write during a rejoin, an operator edits free fields,
//! an agent restarts behind a device that stays shown. A mistake (`rules.rs`) switches one rule off.
//!
//! Ground rule checked: a guest write is acknowledged only when every leg that R names, now or after any request still under
//! way, has it.
//!
//! Not here: several regions, page and base numbers (`regions`), the order per Attachment uid (`orders`), restored witness,
//! birth, delete, force (`lifecycle`), groups (`group`).

mod attach;
pub mod check;
pub mod config;
mod decide;
mod environment;
mod guest;
mod rejoin;
pub mod rules;
mod settle;
pub mod state;

use crate::made::Made;
use crate::search::{Model, Step};
use crate::table::{Leg, Reg, Sb};
use config::Config;
use rules::Mistake;
use state::{LegState, Phase, Register, Request, State, WRITERS, Writer, legs_where};

type Next = Vec<(Step, State)>;

pub struct Ordering {
    pub config: Config,
    pub mistakes: Made,
}

impl Ordering {
    pub fn new(config: Config, flags: &[&str]) -> Result<Self, String> {
        Ok(Self {
            config,
            mistakes: Made::of(flags, rules::number)?,
        })
    }

    fn made(&self, m: Mistake) -> bool {
        self.mistakes.is(m as usize)
    }

    fn site(&self, i: usize) -> u8 {
        self.config.sites[i]
    }

    /// What an outcome is read from: the proposed gen or stamp_id, not the transition id (R41).
    fn outcome_id(&self, r: &Register) -> u8 {
        if self.made(Mistake::OutcomeByTxid) {
            r.txid
        } else {
            r.proposal
        }
    }

    fn view(&self, s: &State, x: usize) -> Leg {
        let l = &s.legs[x];
        Leg::Sb(Sb::of(l.role, l.epoch, l.members, l.site, l.seq))
    }

    fn register_seen(&self, s: &State, i: usize) -> Reg {
        if s.register_links[i] == 1 {
            Reg::Live(s.live())
        } else {
            Reg::Unreadable
        }
    }

    /// Legs of `set` whose target lost a volatile cache since the recorded boot id while a region is dirty (2.8 Behind).
    fn behind(&self, s: &State, set: u8) -> u8 {
        if self.made(Mistake::BehindPair) || s.legs[0].dirty + s.legs[1].dirty == 0 {
            return 0;
        }
        set & legs_where(|x| s.legs[x].boot != s.legs[x].recorded_boot)
    }

    /// Puts a request on the wire; None when the bound of requests, txids or epochs is reached.
    fn send(&self, s: &State, new: Register) -> Option<State> {
        let mut t = *s;
        let free = t.requests.iter().position(|m| m.expected == 0)?;
        if s.next_txid > 28 || new.epoch > 7 {
            return None;
        }
        t.requests[free] = Request {
            expected: s.register.txid,
            expected_epoch: s.register.epoch,
            expected_members: s.register.members,
            new: Register {
                txid: s.next_txid,
                proposal: s.next_txid,
                ..new
            },
        };
        t.next_txid += 1;
        t.sort_requests();
        Some(t)
    }

    /// R with another member set, or the same one for a bump.
    fn next_epoch(&self, s: &State, set: u8) -> Register {
        let mut r = s.register;
        r.epoch += 1;
        r.members = set;
        if let Some(h) = r.history.get_mut(usize::from(r.epoch)) {
            *h = set;
        }
        r
    }

    /// Canonical form: requests that can no longer succeed are dropped, transition ids are renumbered (only equality matters).
    fn normalise(&self, s: &mut State) {
        if !self.made(Mistake::CasEpochOnly) {
            let txid = s.register.txid;
            for m in s.requests.iter_mut().filter(|m| m.expected != txid) {
                *m = Request::default();
            }
        }
        for w in &mut s.writers {
            use Phase::*;
            let waiting = matches!(
                w.phase,
                CasWait | ShrinkWait | ThawWait | GrowWait | BumpWait
            ) || w.stamped == 2;
            if !waiting {
                w.request = 0;
            }
            if !waiting && w.planned_cas == 0 {
                w.base = 0;
            }
            if !matches!(w.phase, ThawWait | BumpWait) {
                w.earlier = 0;
            }
            if !matches!(w.phase, Attach | CasWait | SbWrite | Reconcile | Frozen) {
                w.prior = 0;
                w.fenced = 0;
            }
            if w.write == 0 {
                (w.stage, w.sent, w.applied, w.need) = (0, 0, 0, 0);
            }
        }
        renumber(s);
        s.sort_requests();
    }
}

fn renumber(s: &mut State) {
    let mut used = 0u32;
    visit_ids(s, |id| used |= 1 << *id);
    used |= 1;
    s.next_txid = used.count_ones() as u8;
    visit_ids(s, |id| *id = (used & ((1 << *id) - 1)).count_ones() as u8);
}

fn visit_ids(s: &mut State, mut f: impl FnMut(&mut u8)) {
    f(&mut s.register.txid);
    f(&mut s.register.proposal);
    for m in &mut s.requests {
        f(&mut m.expected);
        f(&mut m.new.txid);
        f(&mut m.new.proposal);
    }
    for w in &mut s.writers {
        f(&mut w.request);
        f(&mut w.earlier);
        f(&mut w.base);
    }
}

impl Model for Ordering {
    type State = State;

    fn initial(&self) -> State {
        let members = self.config.start;
        let leg = |x: u8| {
            let member = members >> x & 1 == 1;
            LegState {
                data: 0,
                durable: 0,
                dirty: u8::from(members != 3),
                role: crate::table::Role::Member,
                epoch: u8::from(member),
                members: if member { members } else { 3 },
                seq: 1,
                site: 0,
                holder: 1,
                served: 1,
                boot: 0,
                recorded_boot: 0,
                attach_key: u8::from(self.config.continued),
                queue: Default::default(),
            }
        };
        let mut writers = [Writer::default(); WRITERS];
        for (i, w) in writers.iter_mut().enumerate().take(self.config.sites.len()) {
            *w = Writer {
                phase: Phase::Off,
                key: i as u8 + 1,
                ..Writer::default()
            };
        }
        let running = Writer {
            phase: Phase::Run,
            epoch: 1,
            members,
            seq: 1,
            lease: 1,
            stamped: 1,
            ..writers[0]
        };
        writers[0] = running;
        let mut history = [0; 8];
        (history[0], history[1]) = (3, members);
        let mut leg_links = [[1; 2]; WRITERS];
        leg_links[0] = [2; 2];
        let c = &self.config;
        State {
            legs: [leg(0), leg(1)],
            register: Register {
                txid: 1,
                proposal: 1,
                epoch: 1,
                members,
                site: 0,
                seq: 1,
                holder: 1,
                history,
            },
            requests: Default::default(),
            writers,
            leg_links,
            register_links: [1; WRITERS],
            acked: 0,
            flushed: 0,
            next_write: 1,
            next_txid: 2,
            observed: 0,
            cuts: c.cuts,
            heals: c.heals,
            crashes: c.crashes,
            moves: c.moves,
            power: c.power,
            edits: c.edits,
            fault: 0,
        }
    }

    fn steps(&self, s: &State, out: &mut Next) {
        let writers = self.config.sites.len();
        for i in 0..writers {
            self.links_and_crashes(s, i, out);
        }
        self.operator_edit(s, out);
        self.witness(s, out);
        for x in 0..2 {
            self.target(s, x, out);
        }
        for i in 0..writers {
            self.writer(s, i, out);
        }
        for (_, t) in out.iter_mut() {
            self.normalise(t);
        }
    }

    fn violation(&self, s: &State) -> Option<&'static str> {
        match self.verdict(s) {
            0 => None,
            v => Some(check::VIOLATIONS[usize::from(v)]),
        }
    }
}
