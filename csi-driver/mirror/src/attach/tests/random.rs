//! Random interleavings: several attaching nodes, late commands, requests that execute after their sender died, cuts,
//! crashes, operator edits. A served node writes numbers to its legs; an acknowledged one must never be missing.

use std::time::Duration;

use twinsite_register::*;

use super::world::*;
use crate::attach::Attach;
use crate::engine::{AttachEnd, Served};
use crate::io::{Input, LegOp, Output, ReqId};
use crate::layout::*;

const STEPS: usize = 400;
const SEEDS: u64 = 150;

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A served node as far as this test needs it: it writes to its set, and any error stops it for ever.
struct Writer {
    served: Box<Served>,
    equal: bool,
}

struct Actor {
    node: Node,
    outbox: Vec<Output>,
    writer: Option<Writer>,
}

#[derive(Default, Debug)]
struct Tally {
    served: usize,
    pairs: usize,
    solos: usize,
    without_register: usize,
    refused: usize,
    superseded: usize,
    acked: usize,
    ghosts: usize,
    orphans: usize,
}

struct Sim {
    random: Random,
    world: World,
    actors: Vec<Actor>,
    /// Commands that a target accepted before their sender died: (initiator, leg, op).
    ghosts: Vec<(u8, Leg, LegOp)>,
    issued: u64,
    acked: u64,
    edits: u8,
    uids: u8,
    tally: Tally,
}

/// Answers and commands keep their order within a channel only.
fn channel(output: &Output) -> u8 {
    match output {
        Output::Connect { leg } | Output::Disconnect { leg } | Output::Leg { leg, .. } => {
            leg.index() as u8
        }
        Output::ReadRegister { .. } | Output::CasRegister { .. } => 2,
        _ => 3,
    }
}

fn source(input: &Input) -> u8 {
    match input {
        Input::LegUp { leg, .. } | Input::LegDown { leg, .. } | Input::LegDone { leg, .. } => {
            leg.index() as u8
        }
        Input::RegisterRead { .. } | Input::RegisterCas { .. } => 2,
        _ => 3,
    }
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut world = World::born();
        for leg in &mut world.legs {
            leg.info.own_target = !random.one_in(3);
        }
        let sites = [Site::A, Site::B, Site::A];
        let actors = sites
            .into_iter()
            .enumerate()
            .map(|(n, site)| Actor {
                node: Node::new(n as u8 + 1, site, n as u8 + 1),
                outbox: Vec::new(),
                writer: None,
            })
            .collect();
        let mut sim = Self {
            random,
            world,
            actors,
            ghosts: Vec::new(),
            issued: 0,
            acked: 0,
            edits: 100,
            uids: 10,
            tally: Tally::default(),
        };
        match seed % 3 {
            1 => sim.begin_growing(),
            2 => {
                sim.begin_solo();
            }
            _ => {}
        }
        sim
    }

    fn begin_solo(&mut self) -> Running {
        let mut first = Node::new(9, Site::A, 9);
        first.cut(Leg::B);
        let served = first.serve(&mut self.world);
        served.running
    }

    /// A rejoin stands before its grow, which is sent and may execute at any time; then its writer died.
    fn begin_growing(&mut self) {
        let running = self.begin_solo();
        self.world.edit_sb(Leg::A, |sb| sb.role = Role::Growing);
        let a = self.world.sb(Leg::A);
        self.world.edit_sb(Leg::B, |sb| {
            sb.role = Role::Candidate;
            sb.members = Members::NONE;
            sb.epoch = a.epoch;
            sb.generation = a.generation;
            sb.base = a.base;
        });
        let before = self.world.r().clone();
        let grow = before.grow(&running, generation(90), tx(90)).unwrap();
        self.world.orphans.push((before, grow));
    }

    fn step(&mut self) {
        let who = self.random.below(self.actors.len());
        match self.random.below(100) {
            0..70 => {
                // A burst of one node: mostly it gets somewhere before another one acts.
                for _ in 0..self.random.below(24) {
                    if self.random.one_in(2) {
                        self.execute(who);
                    } else {
                        self.deliver(who);
                    }
                }
            }
            70..80 => self.write(who),
            80..86 => self.order(who),
            86..92 => self.time(),
            92..93 => self.crash(who),
            93..95 => self.link(who),
            95..97 => self.witness(),
            97..99 => self.orphan_or_ghost(),
            _ => self.edit(),
        }
    }

    fn collect(&mut self, who: usize) {
        let actor = &mut self.actors[who];
        while let Some((_, output)) = actor.node.port.pop() {
            actor.outbox.push(output);
        }
    }

    fn execute(&mut self, who: usize) {
        self.collect(who);
        let actor = &mut self.actors[who];
        if actor.outbox.is_empty() {
            return;
        }
        let at = self.random.below(actor.outbox.len());
        let wanted = channel(&actor.outbox[at]);
        let first = actor
            .outbox
            .iter()
            .position(|o| channel(o) == wanted)
            .unwrap();
        let output = actor.outbox.remove(first);
        if let Output::Connect { leg } = &output {
            // Session reinstatement ends what the old session had under way (R15).
            let id = actor.node.id;
            self.ghosts
                .retain(|(initiator, at, _)| *initiator != id || at != leg);
        }
        actor.node.carry_out(&mut self.world, output);
    }

    fn deliver(&mut self, who: usize) {
        let actor = &mut self.actors[who];
        for leg in Leg::BOTH {
            if actor.node.attach.is_some() {
                actor.node.connect(&self.world, leg);
            }
        }
        if actor.node.inbox.is_empty() {
            return;
        }
        let at = self.random.below(actor.node.inbox.len());
        let wanted = source(&actor.node.inbox[at]);
        let first = actor
            .node
            .inbox
            .iter()
            .position(|i| source(i) == wanted)
            .unwrap();
        let input = actor.node.inbox.remove(first).unwrap();
        self.give(who, input);
    }

    fn give(&mut self, who: usize, input: Input) {
        let actor = &mut self.actors[who];
        actor.node.give(&self.world, input);
        match actor.node.end.take() {
            None => {}
            Some(AttachEnd::Served(served)) => {
                self.tally.served += 1;
                self.tally.without_register += usize::from(served.register.is_none());
                let pair = served.running.members == Members::BOTH;
                self.tally.pairs += usize::from(pair);
                self.tally.solos += usize::from(!pair);
                if let Some(register) = &served.register {
                    assert_eq!(register.holder, Some(served.running.key));
                    assert_eq!(register.members, served.running.members);
                }
                actor.writer = Some(Writer {
                    served,
                    equal: !pair,
                });
            }
            Some(AttachEnd::Refused(_)) => self.tally.refused += 1,
            Some(AttachEnd::Superseded) => self.tally.superseded += 1,
            Some(AttachEnd::Off { .. }) => {}
        }
    }

    /// One guest write by whoever was served: to every leg of its set, acknowledged if all took it.
    fn write(&mut self, who: usize) {
        let actor = &mut self.actors[who];
        let Some(writer) = &mut actor.writer else {
            return;
        };
        let set = writer.served.running.members;
        let id = actor.node.id;
        if !writer.equal {
            // Reconcile: the local leg is the source.
            let data = self.world.legs[actor.node.site.leg().index()].data;
            let other = actor.node.site.leg().other();
            let op = LegOp::WriteData {
                req: ReqId(data),
                skip: 0,
                offset: DATA_OFFSET,
                len: 512,
                fua: true,
            };
            let reached = actor.node.link.iter().all(|up| *up);
            if !reached || self.world.legs[other.index()].execute(id, &op).is_err() {
                actor.writer = None;
                return;
            }
            writer.equal = true;
        }
        self.issued += 1;
        let op = LegOp::WriteData {
            req: ReqId(self.issued),
            skip: 0,
            offset: DATA_OFFSET,
            len: 512,
            fua: true,
        };
        let mut took = true;
        for leg in set.iter() {
            let reached = actor.node.link[leg.index()];
            took &= reached && self.world.legs[leg.index()].execute(id, &op).is_ok();
        }
        if took {
            self.acked = self.issued;
            self.tally.acked += 1;
        } else {
            actor.writer = None;
        }
    }

    fn order(&mut self, who: usize) {
        let fresh = self.random.one_in(3);
        self.uids = self.uids.wrapping_add(1).max(10);
        let actor = &mut self.actors[who];
        if actor.node.attach.is_some() || (actor.writer.is_some() && !self.random.one_in(8)) {
            return;
        }
        if fresh || actor.node.record.stale {
            let keys = actor.node.keys;
            let (id, site, link) = (actor.node.id, actor.node.site, actor.node.link);
            actor.node = Node::new(id, site, self.uids);
            actor.node.link = link;
            actor.node.keys = keys;
        }
        actor.writer = None;
        actor.outbox.clear();
        let register = self.world.r().clone();
        let order = if register.active.site == actor.node.site {
            actor.node.order()
        } else if self.random.one_in(2) {
            actor.node.failover(register.active.seq)
        } else {
            return;
        };
        actor.node.start(&self.world, order);
    }

    fn time(&mut self) {
        let by = [5, 50, 200, 200, 900, 1600, 3600][self.random.below(7)];
        self.world.advance(Duration::from_millis(by));
        for who in 0..self.actors.len() {
            let due = self.actors[who]
                .node
                .attach
                .as_ref()
                .and_then(Attach::deadline);
            if due.is_some_and(|at| at <= self.world.now) {
                self.give(who, Input::Tick);
            }
        }
    }

    fn crash(&mut self, who: usize) {
        self.collect(who);
        let actor = &mut self.actors[who];
        for output in actor.outbox.drain(..) {
            match output {
                Output::Leg { leg, op, .. } if actor.node.up[leg.index()] => {
                    self.ghosts.push((actor.node.id, leg, op));
                }
                Output::CasRegister { expected, new, .. } => {
                    self.world.orphans.push((*expected, *new))
                }
                Output::SaveRecord(record) if self.random.one_in(2) => actor.node.record = record,
                _ => {}
            }
        }
        actor.node.crash();
        actor.writer = None;
    }

    fn link(&mut self, who: usize) {
        let leg = Leg::BOTH[self.random.below(2)];
        let actor = &mut self.actors[who];
        if actor.node.link[leg.index()] {
            actor.node.cut(leg);
        } else {
            actor.node.heal(leg);
        }
    }

    fn witness(&mut self) {
        let states = [
            Witness::Up,
            Witness::Up,
            Witness::Down,
            Witness::Mute,
            Witness::Stuck,
        ];
        self.world.witness = states[self.random.below(states.len())];
    }

    fn orphan_or_ghost(&mut self) {
        if !self.world.orphans.is_empty() && self.random.one_in(2) {
            let at = self.random.below(self.world.orphans.len());
            // A request may execute twice: it stays in the list every other time.
            let (expected, new) = if self.random.one_in(2) {
                self.world.orphans[at].clone()
            } else {
                self.world.orphans.remove(at)
            };
            self.tally.orphans += usize::from(self.world.cas(&expected, &new));
        } else if !self.ghosts.is_empty() {
            let at = self.random.below(self.ghosts.len());
            let (initiator, leg, op) = self.ghosts.remove(at);
            let done = self.world.legs[leg.index()].execute(initiator, &op);
            self.tally.ghosts += usize::from(done.is_ok());
        }
    }

    fn edit(&mut self) {
        self.edits = self.edits.wrapping_add(1).max(100);
        if self.world.r().txid != tx(self.edits) {
            self.world.edit_register(self.edits);
        }
    }

    /// Changes whenever something that [`Self::check`] looks at does.
    fn looks(&self) -> (usize, usize, u64, usize) {
        let world = &self.world;
        let writes = world
            .legs
            .iter()
            .map(|leg| leg.writes.len() + leg.log.len())
            .sum();
        (writes, world.history.len(), self.issued, self.tally.served)
    }

    fn check(&self) {
        let r = self.world.r();
        for leg in r.members.iter() {
            let has = self.world.legs[leg.index()].data;
            assert!(
                has >= self.acked,
                "I1: {leg} has {has}, acknowledged {}",
                self.acked
            );
        }
        let sbs = Leg::BOTH.map(|leg| self.world.sb(leg));
        for leg in Leg::BOTH {
            let (own, other) = (&sbs[leg.index()], &sbs[leg.other().index()]);
            let alone = own.role == Role::Member && own.members == Members::only(leg);
            let pair = own.role == Role::Member
                && other.role == Role::Member
                && (own.members, other.members) == (Members::BOTH, Members::BOTH)
                && (own.epoch, own.generation) == (other.epoch, other.generation);
            let has = self.world.legs[leg.index()].data;
            assert!(!(alone || pair) || has >= self.acked, "I13: {leg} {own:?}");
        }
        for pair in self.world.history.windows(2) {
            assert!(
                pair[0].epoch <= pair[1].epoch && pair[0].active.seq <= pair[1].active.seq,
                "I8"
            );
            assert!(
                pair[0].epoch < pair[1].epoch
                    || (pair[0].members, pair[0].generation)
                        == (pair[1].members, pair[1].generation),
                "I3"
            );
        }
        for actor in &self.actors {
            let Some(writer) = &actor.writer else {
                continue;
            };
            let running = &writer.served.running;
            let stamped = writer.served.register.is_some();
            let holds = running.members.iter().all(|leg| {
                self.world.legs[leg.index()]
                    .holder_key()
                    .is_some_and(|k| k.same_attach(running.key))
            });
            assert!(
                !stamped || !holds || r.may_expect(running).is_ok(),
                "I14: R changed under a stamped writer that nobody fenced: {running:?} {r:?}"
            );
        }
    }
}

#[test]
fn no_interleaving_of_attaches_loses_an_acknowledged_write() {
    let seeds = match std::env::var("TWINSITE_SEED") {
        Ok(seed) => {
            let seed = seed.parse().unwrap();
            seed..seed + 1
        }
        Err(_) => {
            let seeds = std::env::var("TWINSITE_SEEDS")
                .ok()
                .and_then(|n| n.parse().ok());
            0..seeds.unwrap_or(SEEDS)
        }
    };
    let mut total = Tally::default();
    for seed in seeds {
        let run = std::panic::catch_unwind(|| {
            let mut sim = Sim::new(seed);
            let mut seen = (0, 0, 0, 0);
            for _ in 0..STEPS {
                sim.step();
                let looks = sim.looks();
                if looks != seen {
                    sim.check();
                    seen = looks;
                }
                // The history was looked at; only its end matters from here on.
                let keep = sim.world.history.len().saturating_sub(1);
                sim.world.history.drain(..keep);
            }
            sim.tally
        });
        let tally = match run {
            Ok(tally) => tally,
            Err(panic) => {
                println!("replay with TWINSITE_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        };
        total.served += tally.served;
        total.pairs += tally.pairs;
        total.solos += tally.solos;
        total.without_register += tally.without_register;
        total.refused += tally.refused;
        total.superseded += tally.superseded;
        total.acked += tally.acked;
        total.ghosts += tally.ghosts;
        total.orphans += tally.orphans;
    }
    println!("{total:?}");
    if std::env::var("TWINSITE_SEED").is_err() {
        for (what, n) in [
            ("pairs", total.pairs),
            ("solos", total.solos),
            ("served without the register", total.without_register),
            ("refused", total.refused),
            ("superseded", total.superseded),
            ("acknowledged", total.acked),
            ("late commands", total.ghosts),
            ("late requests", total.orphans),
        ] {
            assert!(n > 10, "{what} hardly ever happened: {total:?}");
        }
    }
}
