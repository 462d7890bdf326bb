//! Reseed of a group: the copies of every volume that a person names get the id of the new register, or none does.

use super::group::{End, Joint, OTHER};
use super::*;

const NEW: RegisterName = RegisterName([0x77; 16]);

/// Two volumes whose register is lost.
fn lost() -> [World; 2] {
    let mut worlds = [World::born(), World::born()];
    for leg in Leg::BOTH {
        worlds[1].edit_sb(leg, |sb| sb.volume = OTHER);
    }
    worlds[0].register = None;
    worlds
}

/// What a person accepted of what stands there now.
fn reseeds(worlds: &[World; 2], chosen: Members, inconsistent: bool) -> Vec<OneShotOrder> {
    let of = |(world, volume): (&World, VolumeId)| {
        let seen = |leg| {
            let sb = world.sb(leg);
            (sb.epoch, sb.generation)
        };
        let task = Task::Reseed(Reseeding {
            register_id: NEW,
            chosen,
            expect: Leg::BOTH.map(|leg| chosen.contains(leg).then(|| seen(leg))),
            inconsistent,
        });
        OneShotOrder {
            volume,
            ..order(task, Members::BOTH)
        }
    };
    worlds.iter().zip([VOLUME, OTHER]).map(of).collect()
}

/// What the superblocks may be granted, as they say it themselves.
fn seeds(worlds: &[World; 2], chosen: Members) -> [End; 2] {
    [0, 1].map(|volume: usize| {
        let legs = Leg::BOTH.map(|leg| {
            let sb = worlds[volume].sb(leg);
            assert_eq!(sb.register_id == NEW, chosen.contains(leg), "{volume}{leg}");
            assert_eq!(sb.awaits_register, chosen.contains(leg), "{volume}{leg}");
            chosen.contains(leg).then_some(LegSeed {
                epoch: sb.epoch,
                generation: sb.generation,
                sb_seq: sb.sb_seq,
            })
        });
        Ok(Done::Reseeded { legs })
    })
}

#[test]
fn the_copies_of_every_volume_of_a_group_get_the_new_id_and_say_what_may_be_granted() {
    for chosen in [only(Leg::A), Members::BOTH] {
        let mut worlds = lost();
        let mut joint = Joint::new(&worlds, reseeds(&worlds, chosen, false), 9);
        let ends = joint.end(&mut worlds);
        assert_eq!(ends, seeds(&worlds, chosen));
        // The copy that is not named is fenced: somebody may run on it.
        for volume in 0..2 {
            assert!(joint.count(&format!("{volume} B reserve")) > 0);
        }
        // Again, as after a crash before the register was made.
        let again = reseeds(&worlds, chosen, false);
        let mut joint = Joint::new(&worlds, again, 8);
        assert_eq!(joint.end(&mut worlds), seeds(&worlds, chosen));
        assert_eq!(joint.count("write"), 0);
    }
}

#[test]
fn what_speaks_against_a_copy_of_one_volume_leaves_those_of_all_as_they_are() {
    let mut worlds = lost();
    let orders = reseeds(&worlds, only(Leg::A), false);
    worlds[1].edit_sb(Leg::A, |sb| sb.epoch = Epoch(2));
    let before = [0, 1].map(|volume: usize| worlds[volume].sb(Leg::A));
    let mut joint = Joint::new(&worlds, orders, 9);
    let ends = joint.end(&mut worlds);
    let why = Err(Failure::OtherHistory(Leg::A));
    assert_eq!(ends, [Err(Failure::Companion), why]);
    assert_eq!(
        [0, 1].map(|volume: usize| worlds[volume].sb(Leg::A)),
        before
    );
    assert_eq!(joint.count("write") + joint.count("reserve"), 0);
}

#[test]
fn copies_of_two_moments_are_named_only_by_a_word_for_that() {
    let mixed = || {
        let mut worlds = lost();
        worlds[1].edit_sb(Leg::A, |sb| sb.epoch = Epoch(2));
        worlds
    };
    let mut worlds = mixed();
    let mut joint = Joint::new(&worlds, reseeds(&worlds, only(Leg::A), false), 9);
    let ends = joint.end(&mut worlds);
    assert!(
        ends.contains(&Err(Failure::Mixed(VOLUME, OTHER))),
        "{ends:?}"
    );
    assert_eq!(joint.count("write") + joint.count("reserve"), 0);
    let orders = reseeds(&worlds, only(Leg::A), true);
    let ends = Joint::new(&worlds, orders, 9).end(&mut worlds);
    assert_eq!(ends, seeds(&worlds, only(Leg::A)));
}

/// One that was put back from a backup: what it says of the time since is not what happened.
fn below(worlds: &mut [World; 2], orders: &mut [OneShotOrder]) {
    let mut old = World::born().r().clone();
    old.volumes = vec![VOLUME, OTHER];
    let change = AttachChange {
        site: Site::A,
        stamp: Stamp {
            key: key(Site::A, 5),
            stamp_id: StampId([5; 16]),
            order: Order {
                n: 1,
                uid: AttachmentUid([5; 16]),
            },
        },
        membership: Membership::Shrink {
            to: Leg::A,
            generation: generation(5),
        },
        moves: None,
    };
    let old = old.attach(&change, tx(5)).unwrap();
    for order in orders {
        order.marks = vec![Mark {
            epoch: Epoch(7),
            ..Mark::of(&old)
        }];
    }
    worlds[0].register = Some(old);
}

#[test]
fn a_reseed_of_a_group_that_crashed_anywhere_is_finished_by_the_same_orders() {
    for (crash, is_below) in (0..90).flat_map(|crash| [(crash, false), (crash, true)]) {
        let mut worlds = lost();
        let mut orders = reseeds(&worlds, Members::BOTH, false);
        if is_below {
            below(&mut worlds, &mut orders);
        }
        Joint::new(&worlds, orders.clone(), 9).go_on(&mut worlds, crash);
        let again = Joint::new(&worlds, orders, 8).end(&mut worlds);
        let context = format!("after {crash}, below {is_below}");
        assert_eq!(again, seeds(&worlds, Members::BOTH), "{context}");
    }
}

#[test]
fn a_register_that_comes_back_behind_the_fences_stops_the_reseed_of_all_volumes() {
    let mut worlds = lost();
    let mut alive = World::born().r().clone();
    alive.volumes = vec![VOLUME, OTHER];
    let mut joint = Joint::new(&worlds, reseeds(&worlds, only(Leg::A), false), 9);
    joint.until(&mut worlds, "1 A reserve");
    worlds[0].register = Some(alive);
    let ends = joint.end(&mut worlds);
    assert!(ends.contains(&Err(Failure::Changed)), "{ends:?}");
    assert_eq!(joint.count("write"), 0);
}

#[test]
fn r44_after_a_reseed_no_volume_of_the_group_runs_before_its_register_is_there() {
    let mut worlds = lost();
    let orders = reseeds(&worlds, Members::BOTH, false);
    let ends = Joint::new(&worlds, orders, 9).end(&mut worlds);
    assert!(ends.iter().all(Result::is_ok), "{ends:?}");
    worlds[0].witness = Witness::Down;
    let mut blind = crate::attach::tests::world::Node::new(3, Site::A, 3);
    assert_eq!(
        blind.refused(&mut worlds[0]),
        crate::status::Refusal::WitnessNeeded
    );
}

#[test]
fn a_copy_that_answers_of_one_volume_only_hinders_no_reseed_of_the_others() {
    let mut worlds = lost();
    let mut orders = reseeds(&worlds, only(Leg::A), false);
    orders[1].legs = only(Leg::A);
    let ends = Joint::new(&worlds, orders, 9).end(&mut worlds);
    assert_eq!(ends, seeds(&worlds, only(Leg::A)));
}
