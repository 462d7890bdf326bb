//! Births of the volumes of a group.

use super::*;
use crate::attach::oneshot::GroupBirth;

const OTHER: VolumeId = VolumeId([0x77; 16]);

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

/// Carries the births out from this node, at most this many inputs far. The register is that of the first world.
fn run(worlds: &mut [World; 2], orders: Vec<OneShotOrder>, node: u8, limit: usize) -> GroupBirth {
    let mut births = GroupBirth::new(worlds[0].now, orders);
    go_on(&mut births, &mut VecDeque::new(), worlds, node, limit);
    births
}

fn go_on(
    births: &mut GroupBirth,
    inbox: &mut VecDeque<(usize, Input)>,
    worlds: &mut [World; 2],
    node: u8,
    limit: usize,
) {
    for _ in 0..limit {
        while let Some((volume, output)) = births.poll() {
            let input = match output {
                Output::Connect { leg } => {
                    let info = worlds[volume].legs[leg.index()].info;
                    Input::LegUp { leg, info }
                }
                Output::Disconnect { .. } => continue,
                Output::Leg { leg, cmd, op, .. } => {
                    let result = worlds[volume].legs[leg.index()].execute(node, &op);
                    Input::LegDone { leg, cmd, result }
                }
                Output::ReadRegister { id } => {
                    let result = Ok(worlds[0].register.clone().map(Box::new));
                    Input::RegisterRead { id, result }
                }
                Output::CasRegister { id, expected, new } => {
                    for (world, volume) in worlds.iter().zip([VOLUME, OTHER]) {
                        for leg in Leg::BOTH {
                            // Durable before it is live. A crash between the slots leaves one of them.
                            assert_eq!(world.sb(leg).volume, volume);
                        }
                    }
                    let won = worlds[0].cas(&expected, &new);
                    let result = if won {
                        CasResult::Won
                    } else {
                        CasResult::Conflict
                    };
                    Input::RegisterCas { id, result }
                }
                other => panic!("{other:?}"),
            };
            inbox.push_back((volume, input));
        }
        let Some((volume, input)) = inbox.pop_front() else {
            break;
        };
        births.handle(worlds[0].now, volume, &input);
    }
}

#[test]
fn the_register_of_a_group_is_live_once_both_legs_of_every_volume_are_born() {
    let mut worlds = unborn_pair();
    let births = run(&mut worlds, orders(5), 9, 10_000);
    for volume in 0..2 {
        assert_eq!(births.end(volume), Some(&Ok(Done::Born { live: true })));
    }
    assert_eq!(
        (worlds[0].r().state, worlds[0].r().members),
        (State::Live, Members::BOTH)
    );
}

#[test]
fn a_birth_of_a_group_that_crashed_anywhere_is_finished_by_the_same_orders() {
    for crash in (1..200).step_by(3) {
        let mut worlds = unborn_pair();
        let first = run(&mut worlds, orders(5), 9, crash);
        let was_live = worlds[0].r().state == State::Live;
        drop(first);
        let again = run(&mut worlds, orders(6), 8, 10_000);
        let end = again.end(0).cloned().unwrap();
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
        drop(run(&mut worlds, orders(5), 9, 10_000));
        let live = worlds[0].register.clone();
        // All of it is done but the request, which is still on its way when the next node begins.
        let mut creating = creating();
        creating.volumes = vec![VOLUME, OTHER];
        worlds[0].register = Some(creating);
        let mut births = GroupBirth::new(worlds[0].now, orders(6));
        let mut inbox = VecDeque::new();
        go_on(&mut births, &mut inbox, &mut worlds, 8, late);
        worlds[0].register.clone_from(&live);
        go_on(&mut births, &mut inbox, &mut worlds, 8, 10_000);
        let ends = [births.end(0).cloned(), births.end(1).cloned()];
        assert!(
            ends.iter().all(Option::is_some),
            "executed after {late}: {ends:?}"
        );
        changed += usize::from(ends == [Some(Err(Failure::Changed)), Some(Err(Failure::Changed))]);
        assert_eq!(worlds[0].register, live, "executed after {late}");
    }
    assert!(changed > 0, "it was never late enough");
}

#[test]
fn what_hinders_one_birth_of_a_group_hinders_all_and_nothing_is_live() {
    let mut worlds = unborn_pair();
    let foreign = worlds[1].legs[0].info.naa;
    let mut stranger = crate::attach::tests::world::superblock(Leg::A, &creating(), foreign);
    stranger.volume = VolumeId([0x55; 16]);
    for slot in SLOT_OFFSETS {
        worlds[1].legs[0].blocks.insert(slot, *stranger.emit());
        stranger.sb_seq += 1;
    }
    let births = run(&mut worlds, orders(5), 9, 10_000);
    assert_eq!(births.end(1), Some(&Err(Failure::ForeignData(Leg::A))));
    assert_eq!(
        births.end(0),
        Some(&Err(Failure::Changed)),
        "tried again with the other one"
    );
    assert_eq!(worlds[0].r().state, State::Creating);
}

#[test]
fn volumes_that_are_not_those_of_the_register_are_not_born() {
    let mut worlds = unborn_pair();
    let births = run(&mut worlds, orders(5)[..1].to_vec(), 9, 10_000);
    assert_eq!(births.end(0), Some(&Err(Failure::OtherVolumes)));
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
