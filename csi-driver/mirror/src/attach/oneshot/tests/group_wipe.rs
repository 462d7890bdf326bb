//! Wipe of the volumes of a group that was deleted.

use super::group::{Joint, OTHER};
use super::*;

/// Two volumes under one tombstone.
fn deleted() -> [World; 2] {
    let mut worlds = [World::born(), World::born()];
    let mut register = worlds[0].r().clone();
    register.volumes = vec![VOLUME, OTHER];
    worlds[0].set_register(register);
    tombstone(&mut worlds[0]);
    for leg in Leg::BOTH {
        worlds[1].edit_sb(leg, |sb| sb.volume = OTHER);
    }
    worlds
}

fn wipes(node: u64) -> Vec<OneShotOrder> {
    let of = |volume| OneShotOrder {
        volume,
        key: key(Site::A, 0x2000 + node),
        ..order(Task::Wipe, Members::BOTH)
    };
    vec![of(VOLUME), of(OTHER)]
}

fn is_blank(world: &World, leg: Leg) -> bool {
    let fake = &world.legs[leg.index()];
    SLOT_OFFSETS.iter().all(|at| fake.block(*at) == [0; BLOCK])
}

#[test]
fn a_group_is_wiped_when_the_legs_of_every_volume_are() {
    let mut worlds = deleted();
    let mut joint = Joint::new(&worlds, wipes(1), 9);
    let wiped = Ok(Done::Wiped);
    assert_eq!(joint.end(&mut worlds), [wiped.clone(), wiped.clone()]);
    for world in &worlds {
        assert!(Leg::BOTH.into_iter().all(|leg| is_blank(world, leg)));
    }
    // Again, as after a crash before the register heard of it.
    let again = Joint::new(&worlds, wipes(2), 8).end(&mut worlds);
    assert_eq!(again, [wiped.clone(), wiped]);
}

#[test]
fn i18_what_one_volume_must_keep_is_kept_and_no_volume_is_told_wiped() {
    let mut worlds = deleted();
    worlds[1].edit_sb(Leg::A, |sb| sb.register_id = RegisterName([9; 16]));
    let before = worlds[1].sb(Leg::A);
    let mut joint = Joint::new(&worlds, wipes(1), 9);
    let ends = joint.end(&mut worlds);
    assert_eq!(
        ends,
        [Err(Failure::Companion), Err(Failure::ForeignData(Leg::A))]
    );
    assert_eq!(worlds[1].sb(Leg::A), before);
    // The tombstone speaks of every volume: what may go is gone.
    assert!(is_blank(&worlds[0], Leg::A) && is_blank(&worlds[0], Leg::B));
    // A person mended it: the same orders again.
    worlds[1].edit_sb(Leg::A, |sb| sb.register_id = RegisterName([0x23; 16]));
    let again = Joint::new(&worlds, wipes(2), 8).end(&mut worlds);
    assert_eq!(again, [Ok(Done::Wiped), Ok(Done::Wiped)]);
}

#[test]
fn a_wipe_of_fewer_volumes_than_the_register_names_does_not_stand_for_the_leg() {
    let mut worlds = deleted();
    let mut joint = Joint::new(&worlds, wipes(1)[..1].to_vec(), 9);
    joint.go_on(&mut worlds, 20_000);
    assert_eq!(joint.told(0), Some(Err(Failure::OtherVolumes)));
    assert!(!is_blank(&worlds[1], Leg::A));
    // Nor is one volume wiped by an order that does not know of the group.
    let mut worlds = deleted();
    let alone = Run::new(&mut worlds[0], order(Task::Wipe, Members::BOTH)).end();
    assert_eq!(alone, Err(Failure::OtherVolumes));
    assert!(!is_blank(&worlds[0], Leg::A));
}

#[test]
fn a_wipe_of_a_group_that_crashed_anywhere_is_finished_by_the_same_orders() {
    for crash in (0..120).step_by(3) {
        let mut worlds = deleted();
        Joint::new(&worlds, wipes(1), 9).go_on(&mut worlds, crash);
        let again = Joint::new(&worlds, wipes(2), 8).end(&mut worlds);
        assert_eq!(again, [Ok(Done::Wiped), Ok(Done::Wiped)], "after {crash}");
    }
}

#[test]
fn r43_a_register_that_came_back_to_life_behind_the_fences_is_not_wiped_in_any_volume() {
    let mut worlds = deleted();
    let mut alive = World::born().r().clone();
    alive.volumes = vec![VOLUME, OTHER];
    let mut joint = Joint::new(&worlds, wipes(1), 9);
    joint.until(&mut worlds, "0 A reserve");
    worlds[0].register = Some(alive);
    let ends = joint.end(&mut worlds);
    assert!(ends.iter().all(Result::is_err), "{ends:?}");
    assert_eq!(joint.count("write") + joint.count("zero"), 0);
}
