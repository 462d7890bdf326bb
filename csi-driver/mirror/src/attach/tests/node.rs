//! A node that attaches: carries out what its attach says, and keeps what its disk would.

use std::collections::VecDeque;
use std::time::Duration;

use twinsite_register::*;

use super::world::{VOLUME, Witness, World, key};
use crate::attach::Attach;
use crate::config::Config;
use crate::engine::{AttachEnd, Port, Served};
use crate::io::{
    AttachOrder, AttachRecord, CasResult, Input, LegDown, LegError, LegOp, Mode, MoveMode,
    MoveOrder, Output, RegisterError,
};
use crate::layout::*;
use crate::status::{Event, Refusal, StateName};

/// One node that attaches.
pub(crate) struct Node {
    pub(crate) id: u8,
    pub(crate) site: Site,
    pub(crate) attach: Option<Attach>,
    pub(crate) port: Port,
    pub(crate) inbox: VecDeque<Input>,
    pub(crate) end: Option<AttachEnd<Box<Served>>>,
    /// On its disk.
    pub(crate) record: AttachRecord,
    pub(crate) wanted: [bool; 2],
    pub(crate) up: [bool; 2],
    /// May it reach the leg?
    pub(crate) link: [bool; 2],
    pub(crate) said: Vec<String>,
    pub(crate) events: Vec<Event>,
    pub(crate) removed: bool,
    pub(crate) saves_held: bool,
    pub(crate) keys: u64,
}

impl Node {
    pub(crate) fn new(id: u8, site: Site, uid: u8) -> Self {
        Self {
            id,
            site,
            attach: None,
            port: Port::default(),
            inbox: VecDeque::new(),
            end: None,
            record: AttachRecord {
                uid: AttachmentUid([uid; 16]),
                keys: Vec::new(),
                n: None,
                stale: false,
                flush_owed: false,
            },
            wanted: [false; 2],
            up: [false; 2],
            link: [true; 2],
            said: Vec::new(),
            events: Vec::new(),
            removed: false,
            saves_held: false,
            keys: 0,
        }
    }

    pub(crate) fn order(&mut self) -> AttachOrder {
        self.keys += 1;
        let mut seed = [self.id; 32];
        seed[..8]
            .copy_from_slice(&(self.keys * 1000 + u64::from(self.record.uid.0[0])).to_le_bytes());
        AttachOrder {
            volume: VOLUME,
            uid: self.record.uid,
            key: key(self.site, u64::from(self.id) * 1000 + self.keys),
            seed,
            site: self.site,
            node: format!("node{}", self.id),
            mode: Mode::Writer,
            mv: None,
            record: self.record.clone(),
            shown: false,
            marks: Vec::new(),
            initialize: [None; 2],
            config: Config::default(),
        }
    }

    pub(crate) fn start(&mut self, world: &World, order: AttachOrder) {
        self.end = None;
        self.inbox.clear();
        self.up = [false; 2];
        self.attach = Some(Attach::start(world.now, vec![order], &mut self.port));
    }

    pub(crate) fn failover(&mut self, expect_seq: u64) -> AttachOrder {
        let mv = Some(MoveOrder {
            mode: MoveMode::Failover,
            expect_seq,
        });
        AttachOrder { mv, ..self.order() }
    }

    pub(crate) fn state(&self) -> Option<StateName> {
        self.attach.as_ref().map(Attach::state)
    }

    /// Carry out what waits in the port; answers go to the inbox.
    pub(crate) fn pump(&mut self, world: &mut World) {
        while let Some((_, output)) = self.port.pop() {
            self.carry_out(world, output);
        }
    }

    pub(crate) fn connect(&mut self, world: &World, leg: Leg) {
        let n = leg.index();
        if !self.wanted[n] || self.up[n] || !self.link[n] {
            return;
        }
        self.up[n] = true;
        self.inbox.push_back(Input::LegUp {
            leg,
            info: world.legs[n].info,
        });
    }

    pub(crate) fn carry_out(&mut self, world: &mut World, output: Output) {
        match output {
            Output::Connect { leg } => {
                self.said.push(format!("connect {leg}"));
                self.wanted[leg.index()] = true;
                self.connect(world, leg);
                if !self.up[leg.index()] {
                    self.inbox.push_back(Input::LegDown {
                        leg,
                        why: LegDown::Unreachable,
                    });
                }
            }
            Output::Disconnect { leg } => {
                self.said.push(format!("disconnect {leg}"));
                self.wanted[leg.index()] = false;
                self.up[leg.index()] = false;
                self.inbox.push_back(Input::LegDown {
                    leg,
                    why: LegDown::Closed,
                });
            }
            Output::Leg { leg, cmd, op, .. } => {
                self.said.push(format!("{leg} {}", describe(&op)));
                let result = if self.up[leg.index()] {
                    world.legs[leg.index()].execute(self.id, &op)
                } else {
                    Err(LegError::SessionGone)
                };
                self.inbox.push_back(Input::LegDone { leg, cmd, result });
            }
            Output::ReadRegister { id } => {
                self.said.push("read register".into());
                let result = match world.witness {
                    Witness::Down => Err(RegisterError::Unreachable),
                    Witness::Up | Witness::Mute | Witness::Echo | Witness::Stuck => {
                        Ok(world.register.clone().map(Box::new))
                    }
                };
                self.inbox.push_back(Input::RegisterRead { id, result });
            }
            Output::CasRegister { id, expected, new } => {
                self.said.push("cas".into());
                let result = match world.witness {
                    Witness::Up => {
                        if world.cas(&expected, &new) {
                            CasResult::Won
                        } else {
                            CasResult::Conflict
                        }
                    }
                    Witness::Echo => {
                        world.cas(&expected, &new);
                        CasResult::Conflict
                    }
                    Witness::Mute => {
                        world.cas(&expected, &new);
                        CasResult::Unknown
                    }
                    Witness::Down | Witness::Stuck => {
                        world.orphans.push((*expected, *new));
                        CasResult::Unknown
                    }
                };
                self.inbox.push_back(Input::RegisterCas { id, result });
            }
            Output::SaveRecord(record) => {
                self.said.push("save".into());
                if !self.saves_held {
                    self.record = record;
                    self.inbox.push_back(Input::RecordSaved);
                }
            }
            Output::ReadBeat => {
                let result = match world.witness {
                    Witness::Down => Err(RegisterError::Unreachable),
                    Witness::Up | Witness::Mute | Witness::Echo | Witness::Stuck => Ok(world.beat),
                };
                self.inbox.push_back(Input::BeatObject { result });
            }
            Output::RemoveDevice { why } => {
                self.said.push(format!("remove {why:?}"));
                self.removed = true;
            }
            Output::Event(event) => self.events.push(event),
            other => panic!("an attach never says {other:?}"),
        }
    }

    pub(crate) fn give(&mut self, world: &World, input: Input) {
        if let Some(attach) = &mut self.attach {
            self.end = attach
                .handle(world.now, 0, &input, &mut self.port)
                .map(AttachEnd::alone);
            if self.end.is_some() {
                self.attach = None;
            }
        }
    }

    /// One step: an answer is taken in, or nothing is left to do. True = something happened.
    pub(crate) fn step(&mut self, world: &mut World) -> bool {
        self.pump(world);
        for leg in Leg::BOTH {
            self.connect(world, leg);
        }
        let Some(input) = self.inbox.pop_front() else {
            return false;
        };
        self.give(world, input);
        self.pump(world);
        true
    }

    /// Until `stop` holds after a step; false if it never does.
    pub(crate) fn run_until(
        &mut self,
        world: &mut World,
        stop: impl Fn(&Self, &World) -> bool,
    ) -> bool {
        for _ in 0..20_000 {
            if stop(self, world) {
                return true;
            }
            if self.attach.is_none() {
                return false;
            }
            if !self.step(world) {
                let Some(at) = self.attach.as_ref().and_then(Attach::deadline) else {
                    panic!("nothing to wait for in {:?}: {:?}", self.state(), self.said);
                };
                let by = at.saturating_sub(world.now).max(Duration::from_millis(1));
                world.advance(by);
                self.give(world, Input::Tick);
            }
        }
        panic!(
            "no end: {:?} {:?}",
            self.state(),
            &self.said[self.said.len().saturating_sub(50)..]
        );
    }

    pub(crate) fn run(&mut self, world: &mut World) -> AttachEnd<Box<Served>> {
        self.run_until(world, |node, _| node.attach.is_none());
        self.pump(world);
        self.end.clone().unwrap()
    }

    pub(crate) fn attach(&mut self, world: &mut World) -> AttachEnd<Box<Served>> {
        let order = self.order();
        self.start(world, order);
        self.run(world)
    }

    pub(crate) fn serve(&mut self, world: &mut World) -> Box<Served> {
        match self.attach(world) {
            AttachEnd::Served(served) => served,
            other => panic!("{other:?}: {:?}", self.said),
        }
    }

    pub(crate) fn refused(&mut self, world: &mut World) -> Refusal {
        match self.attach(world) {
            AttachEnd::Refused(why) => why,
            other => panic!("{other:?}: {:?}", self.said),
        }
    }

    /// The process dies; what it sent and was not executed stays.
    pub(crate) fn crash(&mut self) {
        self.attach = None;
        self.inbox.clear();
        while self.port.pop().is_some() {}
        self.up = [false; 2];
        self.wanted = [false; 2];
    }

    /// The link to a leg is cut, or heals.
    pub(crate) fn cut(&mut self, leg: Leg) {
        self.link[leg.index()] = false;
        if self.up[leg.index()] {
            self.up[leg.index()] = false;
            self.inbox.push_back(Input::LegDown {
                leg,
                why: LegDown::SessionLost,
            });
        }
    }

    pub(crate) fn heal(&mut self, leg: Leg) {
        self.link[leg.index()] = true;
    }

    /// Index of the first thing said that starts with this.
    pub(crate) fn at(&self, what: &str) -> usize {
        self.said
            .iter()
            .position(|said| said.starts_with(what))
            .unwrap_or_else(|| panic!("never said {what:?}: {:?}", self.said))
    }

    pub(crate) fn never(&self, what: &str) -> bool {
        !self.said.iter().any(|said| said.contains(what))
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.said.iter().filter(|said| said.contains(what)).count()
    }
}

fn describe(op: &LegOp) -> String {
    let name = crate::fake_leg::name(op);
    match op {
        LegOp::WriteMeta { offset, .. } => {
            let place = match *offset {
                at if SLOT_OFFSETS.contains(&at) => "slot",
                at if at >= BASE_OFFSET => "base",
                at if at >= MAP_OFFSET => "page",
                at if at >= HISTORY_OFFSET => "history",
                _ => "beat",
            };
            format!("write {place}")
        }
        LegOp::PrRegister { .. } => "put key".into(),
        LegOp::ReadMeta { offset, .. } if SLOT_OFFSETS.contains(offset) => "read slot".into(),
        _ => name.into(),
    }
}
