//! Orders to the volumes of a group; births.

use super::*;
use crate::attach::oneshot::GroupOneShot;

pub(super) const OTHER: VolumeId = VolumeId([0x77; 16]);

/// A register of two volumes, and the blank legs of both.
fn unborn_pair() -> [World; 2] {
    let mut worlds = [unborn(), unborn()];
    let mut register = creating();
    register.volumes = vec![VOLUME, OTHER];
    worlds[0].register = Some(register);
    worlds
}

fn orders(seed: u8) -> Vec<OneShotOrder> {
    let of = |volume| OneShotOrder {
        volume,
        key: key(Site::A, 0x1000 + u64::from(seed)),
        seed: [seed; 32],
        ..order(birth(), Members::BOTH)
    };
    vec![of(VOLUME), of(OTHER)]
}

/// Orders to two volumes under way, by a node of this number. The register is that of the first world.
pub(super) struct Joint {
    orders: GroupOneShot,
    inbox: VecDeque<(usize, Input)>,
    /// Commands, with the number of the volume before them.
    pub(super) said: Vec<String>,
    node: u8,
}

pub(super) type End = Result<Done, Failure>;

impl Joint {
    pub(super) fn new(worlds: &[World; 2], orders: Vec<OneShotOrder>, node: u8) -> Self {
        Self {
            orders: GroupOneShot::new(worlds[0].now, orders),
            inbox: VecDeque::new(),
            said: Vec::new(),
            node,
        }
    }

    fn carry_out(&mut self, worlds: &mut [World; 2], volume: usize, output: Output) {
        let input = match output {
            Output::Connect { leg } => {
                let info = worlds[volume].legs[leg.index()].info;
                Input::LegUp { leg, info }
            }
            Output::Disconnect { .. } => return,
            Output::Leg { leg, cmd, op, .. } => {
                self.said.push(format!("{volume} {leg} {}", name(&op)));
                let result = worlds[volume].legs[leg.index()].execute(self.node, &op);
                Input::LegDone { leg, cmd, result }
            }
            Output::ReadRegister { id } => {
                self.said.push(format!("{volume} read register"));
                let result = match worlds[0].witness {
                    Witness::Down => Err(RegisterError::Unreachable),
                    _ => Ok(worlds[0].register.clone().map(Box::new)),
                };
                Input::RegisterRead { id, result }
            }
            Output::ReadBeat => Input::BeatObject {
                result: Ok(worlds[volume].beat),
            },
            Output::CasRegister { id, expected, new } => {
                self.said.push("cas".into());
                for (world, volume) in worlds.iter().zip([VOLUME, OTHER]) {
                    for leg in Leg::BOTH {
                        // Durable before it is told. A crash between the slots leaves one of them.
                        assert_eq!(world.sb(leg).volume, volume);
                    }
                }
                let won = worlds[0].cas(&expected, &new);
                let result = match worlds[0].witness {
                    Witness::Mute => CasResult::Unknown,
                    _ if won => CasResult::Won,
                    _ => CasResult::Conflict,
                };
                Input::RegisterCas { id, result }
            }
            other => panic!("{other:?}"),
        };
        self.inbox.push_back((volume, input));
    }

    /// One input; false when nothing is left to do.
    pub(super) fn step(&mut self, worlds: &mut [World; 2]) -> bool {
        while let Some((volume, output)) = self.orders.poll() {
            self.carry_out(worlds, volume, output);
        }
        if let Some((volume, input)) = self.inbox.pop_front() {
            self.orders.handle(worlds[0].now, volume, &input);
            return true;
        }
        let Some(at) = self.orders.deadline() else {
            return false;
        };
        let by = at - worlds[0].now;
        for world in worlds.iter_mut() {
            world.advance(by);
        }
        self.orders.handle(worlds[0].now, 0, &Input::Tick);
        true
    }

    pub(super) fn until(&mut self, worlds: &mut [World; 2], said: &str) {
        while !self.said.iter().any(|s| s == said) {
            assert!(self.step(worlds), "never said {said}: {:?}", self.said);
        }
    }

    /// At most this many inputs far.
    pub(super) fn go_on(&mut self, worlds: &mut [World; 2], limit: usize) {
        for _ in 0..limit {
            if !self.step(worlds) {
                return;
            }
        }
    }

    pub(super) fn end(&mut self, worlds: &mut [World; 2]) -> [End; 2] {
        self.go_on(worlds, 20_000);
        [0, 1].map(|volume| self.told(volume).expect("an end"))
    }

    pub(super) fn told(&self, volume: usize) -> Option<End> {
        self.orders.end(volume).cloned()
    }

    pub(super) fn count(&self, what: &str) -> usize {
        self.said.iter().filter(|said| said.contains(what)).count()
    }
}

fn run(worlds: &mut [World; 2], orders: Vec<OneShotOrder>, node: u8) -> [End; 2] {
    Joint::new(worlds, orders, node).end(worlds)
}

#[test]
fn the_register_of_a_group_is_live_once_both_legs_of_every_volume_are_born() {
    let mut worlds = unborn_pair();
    let born = Ok(Done::Born { live: true });
    assert_eq!(run(&mut worlds, orders(5), 9), [born.clone(), born]);
    assert_eq!(
        (worlds[0].r().state, worlds[0].r().members),
        (State::Live, Members::BOTH)
    );
}

#[test]
fn a_birth_of_a_group_that_crashed_anywhere_is_finished_by_the_same_orders() {
    for crash in (1..200).step_by(3) {
        let mut worlds = unborn_pair();
        Joint::new(&worlds, orders(5), 9).go_on(&mut worlds, crash);
        let was_live = worlds[0].r().state == State::Live;
        let [end, _] = run(&mut worlds, orders(6), 8);
        // Once it is live there is nothing left to be born.
        assert_eq!(end.is_ok(), !was_live, "after {crash}: {end:?}");
        assert_eq!(worlds[0].r().state, State::Live, "after {crash}");
    }
}

#[test]
fn a_birth_whose_earlier_request_is_executed_late_ends_for_every_volume() {
    let mut changed = 0;
    for late in 1..120 {
        let mut worlds = unborn_pair();
        assert!(run(&mut worlds, orders(5), 9)[0].is_ok());
        let live = worlds[0].register.clone();
        // All of it is done but the request, which is still on its way when the next node begins.
        let mut creating = creating();
        creating.volumes = vec![VOLUME, OTHER];
        worlds[0].register = Some(creating);
        let mut births = Joint::new(&worlds, orders(6), 8);
        births.go_on(&mut worlds, late);
        worlds[0].register.clone_from(&live);
        let ends = births.end(&mut worlds);
        let agree = ends[0].is_ok() == ends[1].is_ok();
        assert!(agree, "executed after {late}: {ends:?}");
        changed += usize::from(ends.contains(&Err(Failure::Changed)));
        assert_eq!(worlds[0].register, live, "executed after {late}");
    }
    assert!(changed > 0, "it was never late enough");
}

#[test]
fn what_hinders_one_birth_of_a_group_hinders_all_and_nothing_is_written() {
    let mut worlds = unborn_pair();
    let foreign = worlds[1].legs[0].info.naa;
    let mut stranger = crate::attach::tests::world::superblock(Leg::A, &creating(), foreign);
    stranger.volume = VolumeId([0x55; 16]);
    for slot in SLOT_OFFSETS {
        worlds[1].legs[0].blocks.insert(slot, *stranger.emit());
        stranger.sb_seq += 1;
    }
    let mut births = Joint::new(&worlds, orders(5), 9);
    let ends = births.end(&mut worlds);
    assert_eq!(ends[1], Err(Failure::ForeignData(Leg::A)));
    assert_eq!(
        ends[0],
        Err(Failure::Companion),
        "tried again with the other one"
    );
    assert_eq!(births.count("write") + births.count("zero"), 0);
    assert_eq!(worlds[0].r().state, State::Creating);
}

#[test]
fn volumes_that_are_not_those_of_the_register_are_not_born() {
    let mut worlds = unborn_pair();
    let mut births = Joint::new(&worlds, orders(5)[..1].to_vec(), 9);
    births.go_on(&mut worlds, 10_000);
    assert_eq!(births.told(0), Some(Err(Failure::OtherVolumes)));
    assert_eq!(worlds[0].r().state, State::Creating);
    // Nor is one of them alone, by an order that does not know of the group.
    let mut world = unborn();
    let mut register = creating();
    register.volumes = vec![VOLUME, OTHER];
    world.register = Some(register);
    let mut alone = Run::new(&mut world, order(birth(), Members::BOTH));
    assert_eq!(alone.end(), Err(Failure::OtherVolumes));
    assert_eq!(alone.count("write"), 0);
}
