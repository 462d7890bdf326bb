//! One-shot orders against legs with real reservation rules.

mod birth;
mod group;
mod group_force;
mod group_reseed;
mod group_wipe;
mod others;
mod wipe;

use std::collections::VecDeque;

use twinsite_register::{RegisterId as RegisterName, *};

use super::*;
use crate::attach::tests::world::{SIZE, VOLUME, Witness, World, generation, key, tx};
use crate::config::Config;
use crate::fake_leg::name;
use crate::io::{LegDown, LegError, RegisterError};
use crate::layout::*;

/// Runs one order to its end; `between` is called before every command to a leg.
pub(super) struct Run<'a> {
    pub(super) world: &'a mut World,
    shot: OneShot,
    inbox: VecDeque<Input>,
    up: [bool; 2],
    pub(super) link: [bool; 2],
    pub(super) said: Vec<String>,
    pub(super) initiator: u8,
}

impl<'a> Run<'a> {
    pub(super) fn new(world: &'a mut World, order: OneShotOrder) -> Self {
        let shot = OneShot::new(world.now, order);
        let initiator = 9;
        Self {
            world,
            shot,
            inbox: VecDeque::new(),
            up: [false; 2],
            link: [true; 2],
            said: vec![],
            initiator,
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Connect { leg } => {
                if self.link[leg.index()] {
                    self.up[leg.index()] = true;
                    let info = self.world.legs[leg.index()].info;
                    self.inbox.push_back(Input::LegUp { leg, info });
                } else {
                    self.inbox.push_back(Input::LegDown {
                        leg,
                        why: LegDown::Unreachable,
                    });
                }
            }
            Output::Disconnect { leg } => {
                self.up[leg.index()] = false;
                self.inbox.push_back(Input::LegDown {
                    leg,
                    why: LegDown::Closed,
                });
            }
            Output::Leg { leg, cmd, op, .. } => {
                self.said.push(format!("{leg} {}", name(&op)));
                let result = if self.up[leg.index()] {
                    self.world.legs[leg.index()].execute(self.initiator, &op)
                } else {
                    Err(LegError::SessionGone)
                };
                self.inbox.push_back(Input::LegDone { leg, cmd, result });
            }
            Output::ReadRegister { id } => {
                self.said.push("read register".into());
                let result = match self.world.witness {
                    Witness::Down => Err(RegisterError::Unreachable),
                    _ => Ok(self.world.register.clone().map(Box::new)),
                };
                self.inbox.push_back(Input::RegisterRead { id, result });
            }
            Output::ReadBeat => {
                let result = Ok(self.world.beat);
                self.inbox.push_back(Input::BeatObject { result });
            }
            Output::CasRegister { id, expected, new } => {
                self.said.push("cas".into());
                let won = self.world.cas(&expected, &new);
                let result = match self.world.witness {
                    Witness::Mute => CasResult::Unknown,
                    _ if won => CasResult::Won,
                    _ => CasResult::Conflict,
                };
                self.inbox.push_back(Input::RegisterCas { id, result });
            }
            other => panic!("{other:?}"),
        }
    }

    /// One input; false when the order is over.
    fn step(&mut self) -> bool {
        while let Some(output) = self.shot.poll() {
            self.carry_out(output);
        }
        if self.shot.end().is_some() {
            return false;
        }
        match self.inbox.pop_front() {
            Some(input) => self.shot.handle(self.world.now, &input),
            None => {
                let at = self.shot.deadline().expect("something to wait for");
                assert!(at > self.world.now, "a deadline in the past is no wait");
                let by = at - self.world.now;
                self.world.advance(by);
                self.shot.handle(self.world.now, &Input::Tick);
            }
        }
        true
    }

    pub(super) fn until(&mut self, said: &str) {
        while !self.said.iter().any(|s| s == said) {
            assert!(
                self.step(),
                "never said {said}: {:?} {:?}",
                self.said,
                self.shot.end()
            );
        }
    }

    pub(super) fn end(&mut self) -> Result<Done, Failure> {
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps < 10_000, "no end: {:?}", self.said);
        }
        while let Some(output) = self.shot.poll() {
            self.carry_out(output);
        }
        self.shot.end().cloned().unwrap()
    }

    pub(super) fn count(&self, what: &str) -> usize {
        self.said.iter().filter(|said| said.contains(what)).count()
    }
}

pub(super) fn order(task: Task, legs: Members) -> OneShotOrder {
    OneShotOrder {
        task,
        legs,
        volume: VOLUME,
        key: key(Site::A, 0x1234),
        seed: [5; 32],
        site: Site::A,
        node: "m1".into(),
        marks: vec![],
        config: Config::default(),
    }
}

pub(super) fn birth() -> Task {
    Task::Birth {
        size: SIZE,
        initialize: [None; 2],
    }
}

pub(super) fn creating() -> Register {
    Register::create(Create {
        register_id: RegisterName([0x23; 16]),
        group: GroupId([0x22; 16]),
        volumes: vec![VOLUME],
        generation: generation(1),
        site: Site::A,
        txid: tx(1),
    })
    .unwrap()
}

/// Two blank legs under a Creating register.
pub(super) fn unborn() -> World {
    let mut world = World::born();
    for leg in &mut world.legs {
        leg.blocks.clear();
        leg.blocks.insert(1 << 30, [7; BLOCK]);
    }
    world.register = Some(creating());
    world
}

pub(super) fn only(leg: Leg) -> Members {
    Members::only(leg)
}

pub(super) fn tombstone(w: &mut World) {
    let tomb = w.r().tombstone(generation(9), tx(9)).unwrap();
    w.set_register(tomb);
}
