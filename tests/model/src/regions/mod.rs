//! The regions model: two regions of one map page, page numbers, base numbers, beats, volatile caches, a leg put back.
//!
//! One writer at a time (a new attach fences the old one at once) and a register that answers at once: what may go wrong
//! between writers is the business of `ordering`. Here every durable step of the data path is a step of its own: a page
//! transaction on each leg, data on each leg, superblocks leg by leg, each region of a reconcile and of a rejoin, beats,
//! boot ids, step 10. Leg B may be replaced by an older copy of itself while nobody has it open.
//!
//! Checked: I1, I4, I5, I6 (a leg that could be promoted is never half copied), I7 (no alarm without a rollback), I13, I15,
//! and after a rollback that nothing acknowledged is served older, except where protocol 2.9 names the gap.

mod attach;
mod check;
mod guest;
mod rejoin;
pub mod rules;
mod settle;
pub mod state;

use crate::made::Made;
use crate::search::{Live, Model, Step, step};
use crate::table::Role;
use rules::{Config, Mistake};
use state::{Leg, Phase, REGIONS, Register, State, WRITES, Writer};

type Next = Vec<(Step, State)>;

pub struct Regions {
    pub config: Config,
    mistakes: Made,
}

impl Regions {
    pub fn new(config: Config, flags: &[&str]) -> Result<Self, String> {
        let mistakes = Made::of(flags, rules::number)?;
        Ok(Self { config, mistakes })
    }

    fn made(&self, m: Mistake) -> bool {
        self.mistakes.is(m as usize)
    }

    fn volatile(&self) -> bool {
        self.config.power > 0
    }

    /// A step that changes `t` from a copy of `s`.
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

    fn store(&self, l: &mut Leg, region: usize, value: u8) {
        l.data[region] = value;
        if !self.volatile() {
            l.durable[region] = value;
        }
    }

    fn environment(&self, s: &State, out: &mut Next) {
        for x in 0..2usize {
            let n = x as u8;
            if s.reach(x) && s.cuts > 0 {
                Self::to(out, s, "cut leg", (n, 0), |t| {
                    t.away |= 1 << x;
                    t.cuts -= 1;
                });
            }
            if !s.reach(x) && s.heals > 0 {
                Self::to(out, s, "heal leg", (n, 0), |t| {
                    t.away &= !(1 << x);
                    t.heals -= 1;
                });
            }
            if s.power > 0 {
                Self::to(out, s, "target power cycle", (n, 0), |t| {
                    t.legs[x].data = t.legs[x].durable;
                    t.legs[x].boot += 1;
                    t.power -= 1;
                });
            }
        }
        if s.crashes > 0 && s.writer.phase != Phase::Down {
            Self::to(out, s, "writer crashes", (0, 0), |t| {
                t.writer = Writer::default();
                t.crashes -= 1;
            });
        }
        self.rollback(s, out);
    }

    /// Leg B is copied at any moment and put back while nobody has it open. Not explored: put back although no beat became
    /// durable on A since (named in 2.9 as not decidable).
    fn rollback(&self, s: &State, out: &mut Next) {
        if s.snapshots > 0 && s.snapshot.is_none() {
            Self::to(out, s, "leg B is copied", (0, 0), |t| {
                t.snapshot = Some(t.legs[1]);
                t.snapshots -= 1;
            });
        }
        let w = &s.writer;
        let open = w.phase != Phase::Down
            && (w.set == 3 || w.set == 2 || !matches!(w.phase, Phase::Solo | Phase::Down));
        if let Some(copy) = s.snapshot
            && !open
            && !s.rolled_back
            && copy != s.legs[1]
        {
            let newest = if self.config.beat_object {
                s.beat_object.1
            } else {
                s.legs[0].beat
            };
            let shown = match s.register.members {
                1 => true,
                2 => {
                    self.config.beat_object && copy.epoch == s.register.epoch && newest > copy.beat
                }
                _ => copy.epoch == s.register.epoch && newest > copy.beat,
            };
            if shown {
                Self::to(out, s, "the copy of leg B is put back", (0, 0), |t| {
                    t.legs[1] = copy;
                    t.rolled_back = true;
                    t.snapshot = None;
                });
            }
        }
    }
}

impl Model for Regions {
    type State = State;

    fn initial(&self) -> State {
        let solo = self.config.start == 1;
        let leg = Leg {
            data: [0; REGIONS],
            durable: [0; REGIONS],
            number: 1,
            bits: 0,
            role: Role::Member,
            epoch: 1,
            members: 3,
            base: 0,
            base_number: None,
            beat: 1,
            boot: 0,
            recorded_boot: 0,
        };
        let mut legs = [leg, leg];
        let mut history = [0; 8];
        (history[0], history[1]) = (3, 3);
        if solo {
            legs[0] = Leg {
                epoch: 2,
                members: 1,
                base: 1,
                base_number: Some(0),
                ..leg
            };
            history[2] = 1;
        }
        let epoch = if solo { 2 } else { 1 };
        let members = if solo { 1 } else { 3 };
        let c = &self.config;
        State {
            legs,
            register: Register {
                epoch,
                members,
                history,
            },
            writer: Writer {
                phase: if solo { Phase::Solo } else { Phase::Pair },
                set: members,
                epoch,
                number: 1,
                beat: 1,
                ..Writer::default()
            },
            away: 0,
            acked: [0; REGIONS],
            flushed: [0; REGIONS],
            observed: [0; REGIONS],
            issued: [(0, [0; REGIONS]); WRITES + 1],
            next_write: 1,
            beat_object: (epoch, 1),
            snapshot: None,
            rolled_back: false,
            alarmed: false,
            cuts: c.cuts,
            heals: c.heals,
            crashes: c.crashes,
            power: c.power,
            snapshots: c.snapshots,
            errors: c.errors,
            fault: 0,
        }
    }

    fn steps(&self, s: &State, out: &mut Next) {
        self.environment(s, out);
        match s.writer.phase {
            Phase::Down => self.begin(s, out),
            Phase::AttachSb => self.attach_superblocks(s, out),
            Phase::Equalise => self.equalise(s, out),
            _ => {
                self.guest(s, out);
                self.settle(s, out);
                self.rejoin(s, out);
            }
        }
    }

    fn violation(&self, s: &State) -> Option<&'static str> {
        self.verdict(s)
    }
}

impl Live for Regions {
    fn is_whole(&self, s: &State) -> bool {
        let w = &s.writer;
        let equal = !w.unsettled && w.pending == 0 && w.must_reconcile == 0;
        let whole = w.phase == Phase::Pair && equal && s.register.members == 3;
        // The bound on epochs ends the world.
        (whole && s.up(0) && s.up(1)) || s.register.epoch >= 6
    }

    fn is_judged(&self, s: &State) -> bool {
        s.away == 0
    }
}
