//! The operator, who starts writers, and everything that breaks.

use std::collections::VecDeque;
use std::time::Duration;

use twinsite_register::{AttachmentUid, Key, KeyTag, Members, Site, TxId};

use super::birth::config;
use super::rng::Rng;
use super::world::{Ev, Unit, World, volume_id};
use super::writer::{Conn, Guest, Machine, Writer};
use crate::engine::Engine;
use crate::group::Group;
use crate::io::{AttachOrder, AttachRecord, Input, Mode, MoveMode, MoveOrder};

impl World {
    pub(super) fn operate(&mut self) {
        self.at(Duration::from_millis(700), Ev::Operate);
        self.person();
        let site = self.witness.value.active.site;
        if !self.writers.values().any(|w| w.site == site) {
            let fresh = self.rng.chance(40);
            self.start(site, None, fresh);
        }
        if self.quiet {
            let stale: Vec<u32> = self
                .writers
                .iter()
                .filter(|(_, w)| w.site != site && !w.engine.is_order())
                .map(|(id, _)| *id)
                .collect();
            for id in stale {
                self.kill(id);
            }
        }
    }

    /// Start an attach; on the node of the last one at that site, or on a fresh one.
    pub(super) fn start(&mut self, site: Site, mv: Option<MoveOrder>, fresh: bool) -> u32 {
        let id = self.next_writer;
        self.next_writer += 1;
        self.attaches += 1;
        let base = 10 + site.index() * 100;
        let initiator = if fresh {
            base + 1 + (id % 90) as u8
        } else {
            base
        };
        let key = Key::new(KeyTag::Writer(site), self.rng.next());
        let uid = AttachmentUid(self.rng.bytes());
        let volumes = self.options.volumes();
        let seed = self.rng.bytes();
        let grouped = self.options.group > 0;
        let mut orders = Vec::new();
        for volume in 0..volumes {
            let own = if grouped {
                AttachmentUid(self.rng.bytes())
            } else {
                uid
            };
            orders.push(AttachOrder {
                volume: volume_id(volume),
                uid,
                key,
                seed,
                site,
                node: format!("n{initiator}"),
                mode: Mode::Writer,
                mv,
                record: AttachRecord::new(own),
                shown: false,
                marks: Vec::new(),
                initialize: [None, None],
                config: config(),
            });
        }
        self.note(|| format!("START w{id} at {site} node {initiator} {key:?} {mv:?}"));
        self.writers.insert(
            id,
            Writer {
                engine: if grouped {
                    Machine::Group(Box::new(Group::new(self.now)))
                } else {
                    Machine::Alone(Box::new(Engine::new(self.now)))
                },
                site,
                initiator,
                conns: Unit::all(volumes).map(|_| Conn::default()).collect(),
                inbox: VecDeque::new(),
                guests: (0..volumes).map(|_| Guest::default()).collect(),
                over: false,
                tick: None,
                answered: 0,
            },
        );
        let now = self.now;
        match &mut self.writers.get_mut(&id).unwrap().engine {
            Machine::Alone(engine) => {
                engine.handle(now, Input::Attach(Box::new(orders.remove(0))));
            }
            Machine::Group(group) => group.attach(now, orders).unwrap(),
            Machine::Orders(_) => unreachable!("a writer"),
        }
        self.drain(id);
        id
    }

    /// The machine dies. What its targets accepted is executed all the same.
    pub(super) fn kill(&mut self, writer: u32) {
        self.note(|| format!("KILL w{writer}"));
        self.writers.remove(&writer);
        self.check();
    }

    pub(super) fn fault(&mut self) {
        if self.quiet {
            return;
        }
        let next = self.rng.millis(200, 6_000);
        self.at(next, Ev::Fault);
        if self.options.forces && self.rng.chance(25) {
            return self.force_by_hand();
        }
        let site = self.rng.below(2) as usize;
        let leg = self.rng.below(2) as usize;
        // One unit: a leg of one volume of the group.
        let unit = self.rng.below(self.options.volumes() as u64) as usize * 2 + leg;
        match self.rng.below(100) {
            0..20 => {
                let up = &mut self.links[site][leg];
                *up = !*up;
                let up = *up;
                self.note(|| format!("LINK {site} -> leg {leg} {up}"));
                if !up {
                    self.break_sessions(|s, l| s.index() as usize == site && l.leg.index() == leg);
                }
            }
            20..32 => {
                let up = !self.witness_links[site];
                self.witness_links[site] = up;
                self.note(|| format!("WITNESS LINK {site} {up}"));
            }
            32..47 => {
                if let Some(&id) = self.writers.keys().nth(self.rng.below(2) as usize) {
                    self.kill(id);
                }
            }
            47..57 if self.options.moves => {
                let seq = self.witness.value.active.seq;
                let to = self.witness.value.active.site.other();
                if !self.writers.values().any(|w| w.site == to) {
                    let mv = MoveOrder {
                        mode: MoveMode::Failover,
                        expect_seq: seq,
                    };
                    self.start(to, Some(mv), false);
                }
            }
            57..62 => {
                let at = self.witness.value.active.site;
                if self.writers.values().filter(|w| w.site == at).count() == 1 {
                    self.start(at, None, true);
                }
            }
            62..66 => self.restart_target(unit),
            // A whole site loses its power, targets of all volumes.
            66..70 => {
                for volume in 0..self.options.volumes() {
                    self.restart_target(volume * 2 + leg);
                }
            }
            70..75 => {
                let up = !self.target_up[unit];
                self.note(|| format!("TARGET {unit} {up}"));
                if up {
                    self.target_up[unit] = true;
                } else {
                    self.restart_target(unit);
                    self.target_up[unit] = false;
                }
            }
            75..80 => {
                // An operator edits a free field.
                let txid = TxId(self.rng.bytes());
                let none = Members::NONE;
                if let Ok(edited) = self.witness.value.clone().rejoin(none, txid) {
                    let expected = self.witness.value.clone();
                    self.witness.cas(&expected, &edited);
                }
            }
            80..84 => {
                if let Some(&id) = self.writers.keys().next() {
                    self.note(|| format!("DETACH w{id}"));
                    self.input(id, 0, Input::Detach);
                }
            }
            _ => self.heal(),
        }
    }

    pub(super) fn restart_target(&mut self, leg: usize) {
        let boot = self.rng.next() | 1;
        let mut rng = Rng::new(boot);
        self.note(|| format!("RESTART target {leg}"));
        self.targets[leg].power_cycle(boot, || rng.chance(50));
        self.break_sessions(|_, l| l.index() == leg);
    }

    /// The line is cut, or the target restarts: sessions over it break and are found dead later.
    pub(super) fn break_sessions(&mut self, hit: impl Fn(Site, Unit) -> bool) {
        let mut found = Vec::new();
        for (&id, w) in &mut self.writers {
            for leg in Unit::all(self.options.volumes()) {
                let c = &mut w.conns[leg.index()];
                if let Some(conn) = c.up.filter(|_| hit(w.site, leg) && !c.broken) {
                    c.broken = true;
                    found.push((id, leg, conn));
                }
            }
        }
        for (writer, leg, conn) in found {
            let delay = self.rng.millis(1, 2500);
            self.at(delay, Ev::Dead { writer, leg, conn });
        }
    }
}
