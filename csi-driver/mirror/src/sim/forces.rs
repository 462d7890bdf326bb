//! A person gives up what one site has: the other copies run from now on, of all volumes or of none.
//!
//! The person sees to it that the site which is given up is dark before the order and while it is tried; what is promised from
//! the change of the register on is what the forced copies had at that instant, and no link of the chain without the earlier ones.

use std::collections::VecDeque;

use twinsite_register::{Force, Gen, Key, KeyTag, Leg, LegSeed, Members, Register, TxId};

use super::birth::config;
use super::oracle::superblock;
use super::world::{Ev, Unit, World, volume_id};
use super::writer::{Conn, Guest, Machine, Writer};
use crate::oneshot::{Done, Failure, GroupOneShot, OneShotOrder, Task};

const TRIES: u32 = 3;

/// An order that is not over.
#[derive(Debug)]
pub(super) struct Forcing {
    orders: Vec<OneShotOrder>,
    leg: Leg,
    tries: u32,
}

/// The copies that were given up, until a person says that they may be written again.
#[derive(Debug)]
pub(super) struct Branch {
    pub(super) leg: Leg,
    /// By volume.
    numbers: Vec<u64>,
}

/// What came of the orders.
#[derive(Debug, Default)]
pub(super) struct Forced {
    pub(super) won: u32,
    pub(super) mixed: u32,
    pub(super) confirmed: u32,
    pub(super) again: u32,
}

impl World {
    /// Looks at what stands there, and orders.
    pub(super) fn force_by_hand(&mut self) {
        let register = self.witness.value.clone();
        if self.forcing.is_some() || self.branch.is_some() {
            return;
        }
        let leg = match register.members.sole() {
            Some(member) => member.other(),
            None => Leg::BOTH[self.rng.below(2) as usize],
        };
        let volumes = self.options.volumes();
        let seen = (0..volumes).map(|volume| {
            let sb = superblock(&self.targets[Unit { volume, leg }.index()])?;
            Some(LegSeed {
                epoch: sb.epoch,
                generation: sb.generation,
                sb_seq: sb.sb_seq,
            })
        });
        let Some(seen) = seen.collect::<Option<Vec<_>>>() else {
            return;
        };
        let generation = Gen(self.rng.bytes());
        let order = |(volume, seen): (usize, LegSeed)| {
            let force = Force {
                expect_epoch: register.epoch,
                expect_txid: register.txid,
                leg,
                seen,
                site: leg.site(),
                generation,
                inconsistent: false,
                who: "a person".into(),
                why: "the other site is dead".into(),
            };
            OneShotOrder {
                task: Task::Force(Box::new(force)),
                legs: Members::only(leg),
                volume: volume_id(volume),
                key: Key::new(KeyTag::Writer(leg.site()), 1),
                seed: [0; 32],
                site: leg.site(),
                node: "force".into(),
                marks: Vec::new(),
                config: config(),
            }
        };
        let orders = seen.into_iter().enumerate().map(order).collect();
        self.note(|| format!("FORCE {leg}, {} is given up", leg.other()));
        let running: Vec<u32> = self.writers.keys().copied().collect();
        for id in running {
            self.kill(id);
        }
        self.dark[leg.index()] = false;
        self.dark[leg.other().index()] = true;
        for volume in 0..volumes {
            let leg = leg.other();
            self.restart_target(Unit { volume, leg }.index());
        }
        if self.rng.chance(70) {
            let site = leg.site().index() as usize;
            self.witness_links[site] = true;
            self.links[site][leg.index()] = true;
            for volume in 0..volumes {
                self.target_up[Unit { volume, leg }.index()] = true;
            }
        }
        self.forcing = Some(Forcing {
            orders,
            leg,
            tries: 0,
        });
        self.try_force();
    }

    /// Once, or once more after a crash of the agent.
    fn try_force(&mut self) {
        let random = self.rng.next();
        let seed = self.rng.bytes();
        let Some(forcing) = &mut self.forcing else {
            return;
        };
        forcing.tries += 1;
        self.forced.again += u32::from(forcing.tries > 1);
        let site = forcing.leg.site();
        let mut orders = forcing.orders.clone();
        for order in &mut orders {
            order.key = Key::new(KeyTag::Writer(site), random);
            order.seed = seed;
        }
        let id = self.next_writer;
        self.next_writer += 1;
        let volumes = self.options.volumes();
        self.note(|| format!("ORDERS w{id} at {site}"));
        self.writers.insert(
            id,
            Writer {
                engine: Machine::Orders(Box::new(GroupOneShot::new(self.now, orders))),
                site,
                initiator: 210 + (id % 40) as u8,
                conns: Unit::all(volumes).map(|_| Conn::default()).collect(),
                inbox: VecDeque::new(),
                guests: (0..volumes).map(|_| Guest::default()).collect(),
                over: false,
                tick: None,
                answered: 0,
            },
        );
        self.start_orders(id);
    }

    /// A machine of orders begins with what it says by itself.
    fn start_orders(&mut self, writer: u32) {
        self.outputs(writer);
        self.drain(writer);
    }

    pub(super) fn end_orders(&mut self, writer: u32) {
        let volumes = self.options.volumes();
        let w = self.writers.get_mut(&writer).filter(|w| !w.over);
        if let Some(w) = w
            && let Some(ends) = w.engine.ends(volumes)
        {
            w.over = true;
            self.orders_ended(&ends);
        }
    }

    /// The orders of this agent have ended for every volume.
    fn orders_ended(&mut self, ends: &[Result<Done, Failure>]) {
        self.note(|| format!("ORDERS ended {ends:?}"));
        let mixed = |end: &Result<Done, Failure>| {
            matches!(end, Err(Failure::Mixed(..) | Failure::Incomplete(_)))
        };
        self.forced.mixed += u32::from(ends.iter().any(mixed));
        let can_help = |end: &Result<Done, Failure>| {
            matches!(
                end,
                Err(Failure::Unreachable(_) | Failure::WitnessUnreachable | Failure::Taken(_))
            )
        };
        if !ends.iter().any(can_help) {
            self.end_force();
        }
    }

    fn end_force(&mut self) {
        if let Some(forcing) = self.forcing.take() {
            let late = self.rng.millis(200, 20_000);
            let leg = forcing.leg.other();
            self.at(late, Ev::Light { leg });
        }
    }

    /// What the person does while the operator looks around.
    pub(super) fn person(&mut self) {
        let orders = |w: &Writer| w.engine.is_order();
        if let Some(forcing) = &self.forcing
            && !self.writers.values().any(orders)
        {
            if forcing.tries < TRIES && !self.quiet {
                self.try_force();
            } else {
                self.end_force();
            }
        }
        let Some(branch) = &self.branch else {
            return;
        };
        let leg = branch.leg;
        if !self.quiet && !self.rng.chance(6) {
            return;
        }
        let txid = TxId(self.rng.bytes());
        let expected = self.witness.value.clone();
        match expected.confirm(leg, "a person", txid) {
            Ok(confirmed) => {
                self.note(|| format!("CONFIRM {leg}"));
                assert!(self.witness.cas(&expected, &confirmed));
                self.forced.confirmed += 1;
                self.branch = None;
            }
            Err(why) => panic!("the lost branch of {leg} is not known: {why}"),
        }
    }

    /// The register was changed: if by a force, other copies count from here on.
    pub(super) fn note_force(&mut self, before: &Register) {
        let register = self.witness.value.clone();
        let (Some(leg), true) = (register.unconfirmed.sole(), before.unconfirmed.is_empty()) else {
            return;
        };
        let forced = leg.other();
        self.forced.won += 1;
        self.lost[leg.index()] = Some(before.epoch);
        let number = |volume| {
            superblock(&self.targets[Unit { volume, leg }.index()]).map_or(0, |sb| sb.sb_seq)
        };
        self.branch = Some(Branch {
            leg,
            numbers: (0..self.options.volumes()).map(number).collect(),
        });
        self.check_links(forced);
        for volume in 0..self.options.volumes() {
            let leg = forced;
            let target = &self.targets[Unit { volume, leg }.index()];
            for (block, known) in &mut self.oracles[volume].blocks {
                let kept = target.cache.get(block).copied().unwrap_or(0);
                let durable = target.durable.get(block).copied().unwrap_or(0);
                known.acked = known.acked.min(kept);
                known.read = known.read.min(kept);
                known.flushed = known.flushed.min(durable);
            }
        }
        self.give_up_links(forced);
    }

    /// Nobody writes to what was given up before a person says so (R44).
    pub(super) fn check_branch(&self) {
        let Some(branch) = &self.branch else {
            return;
        };
        for (volume, number) in branch.numbers.iter().enumerate() {
            let leg = branch.leg;
            let sb = superblock(&self.targets[Unit { volume, leg }.index()]);
            let now = sb.map_or(0, |sb| sb.sb_seq);
            assert_eq!(now, *number, "R44: {volume}{leg} was written unconfirmed");
        }
    }

    pub(super) fn light(&mut self, leg: Leg) {
        let given_up = self.forcing.as_ref().map(|forcing| forcing.leg.other());
        if given_up != Some(leg) {
            self.note(|| format!("LIGHT {leg}"));
            self.dark[leg.index()] = false;
        }
    }
}
