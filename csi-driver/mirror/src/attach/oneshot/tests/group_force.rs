//! Force of a group: every volume's leg, or none, and only copies that belong together.

use super::group::{End, Joint, OTHER};
use super::*;
use crate::attach::tests::world::Node;

/// Two volumes of one register whose leg B was left behind.
fn left_behind() -> [World; 2] {
    let mut worlds = [0, 1].map(|_| {
        let mut w = World::born();
        let mut n = Node::new(1, Site::A, 1);
        n.cut(Leg::B);
        n.serve(&mut w);
        w
    });
    for leg in Leg::BOTH {
        worlds[1].edit_sb(leg, |sb| sb.volume = OTHER);
    }
    let mut register = worlds[0].r().clone();
    register.volumes = vec![OTHER, VOLUME];
    worlds[0].set_register(register);
    worlds
}

fn seed(world: &World) -> LegSeed {
    let sb = world.sb(Leg::B);
    LegSeed {
        epoch: sb.epoch,
        generation: sb.generation,
        sb_seq: sb.sb_seq,
    }
}

/// What a person accepted of what stands there now.
fn forces(worlds: &[World; 2], edit: impl Fn(&mut Force)) -> Vec<OneShotOrder> {
    let register = worlds[0].r();
    let order_of = |(world, volume): (&World, VolumeId)| {
        let mut force = Force {
            expect_epoch: register.epoch,
            expect_txid: register.txid,
            leg: Leg::B,
            seen: seed(world),
            site: Site::B,
            generation: generation(50),
            inconsistent: false,
            who: "ann".into(),
            why: "site A burnt".into(),
        };
        edit(&mut force);
        OneShotOrder {
            site: Site::B,
            key: key(Site::B, 0x77),
            volume,
            ..order(Task::Force(Box::new(force)), only(Leg::B))
        }
    };
    worlds.iter().zip([VOLUME, OTHER]).map(order_of).collect()
}

fn forced() -> [End; 2] {
    [Ok(Done::Forced), Ok(Done::Forced)]
}

/// Neither a leg nor the register knows of it.
#[track_caller]
fn nothing_was_written(joint: &Joint, worlds: &[World; 2], before: &[Superblock; 2], r: &Register) {
    assert_eq!(joint.count("write"), 0, "{:?}", joint.said);
    assert_eq!([0, 1].map(|v: usize| worlds[v].sb(Leg::B)), *before);
    assert_eq!(worlds[0].r(), r);
}

fn standing(worlds: &[World; 2]) -> ([Superblock; 2], Register) {
    let superblocks = [0, 1].map(|v: usize| worlds[v].sb(Leg::B));
    (superblocks, worlds[0].r().clone())
}

#[track_caller]
fn is_granted(worlds: &[World; 2]) {
    let register = worlds[0].r();
    assert_eq!(register.members, only(Leg::B));
    assert_eq!(register.unconfirmed, only(Leg::A));
    assert_eq!(register.epoch, Epoch(3), "executed once");
    for (world, volume) in worlds.iter().zip([VOLUME, OTHER]) {
        let sb = world.sb(Leg::B);
        assert!(sb.awaits_register);
        let granted = register.granted_to(Leg::B, volume).unwrap();
        assert_eq!(granted.sb_seq, sb.sb_seq);
    }
}

#[test]
fn a_group_is_forced_as_a_whole_by_one_change_behind_all_fences() {
    let mut worlds = left_behind();
    let orders = forces(&worlds, |_| {});
    let mut joint = Joint::new(&worlds, orders, 9);
    assert_eq!(joint.end(&mut worlds), forced());
    is_granted(&worlds);
    assert_eq!(joint.count("cas"), 1);
    let said = &joint.said;
    let first = |what: &str| said.iter().position(|said| said.contains(what));
    let last = |what: &str| said.iter().rposition(|said| said.contains(what));
    // Everybody has looked before anybody fences, all fences hold before the register is read again, all was read behind them
    // before anybody writes, and all is durable before the register hears of it.
    assert!(last("1 B read") < last("cas") && first("B reserve") < first("write meta"));
    let again = said.iter().rposition(|said| said == "0 read register");
    assert!(last("B reserve") < again, "{said:?}");
    assert!(last("read full status").or(last("B read")) < first("write"));
    assert!(last("write meta") < first("cas"));
}

#[test]
fn what_speaks_against_one_volume_of_a_group_leaves_all_as_they_are_and_fences_nobody() {
    type Edit = fn(&mut Superblock);
    let edits: [(Edit, Failure); 3] = [
        (
            |sb| sb.volume = VolumeId([9; 16]),
            Failure::ForeignData(Leg::B),
        ),
        (|sb| sb.role = Role::New, Failure::NeverJoined(Leg::B)),
        (|sb| sb.sb_seq += 2, Failure::Changed),
    ];
    for (edit, expected) in edits {
        let mut worlds = left_behind();
        let orders = forces(&worlds, |_| {});
        worlds[1].edit_sb(Leg::B, edit);
        let (before, r) = standing(&worlds);
        let mut joint = Joint::new(&worlds, orders, 9);
        let ends = joint.end(&mut worlds);
        assert_eq!(ends, [Err(Failure::Companion), Err(expected)]);
        nothing_was_written(&joint, &worlds, &before, &r);
        assert_eq!(joint.count("reserve") + joint.count("preempt"), 0);
    }
}

#[test]
fn what_changes_behind_the_fence_of_one_volume_stops_all() {
    // The superblock of one, after it was looked at.
    let mut worlds = left_behind();
    let orders = forces(&worlds, |_| {});
    let mut joint = Joint::new(&worlds, orders, 9);
    joint.until(&mut worlds, "1 B reserve");
    worlds[1].edit_sb(Leg::B, |sb| sb.clean = true);
    let (before, r) = standing(&worlds);
    let ends = joint.end(&mut worlds);
    assert_eq!(ends, [Err(Failure::Companion), Err(Failure::Changed)]);
    nothing_was_written(&joint, &worlds, &before, &r);

    // The register.
    let mut worlds = left_behind();
    let orders = forces(&worlds, |_| {});
    let mut joint = Joint::new(&worlds, orders, 9);
    joint.until(&mut worlds, "1 B reserve");
    worlds[0].edit_register(98);
    let (before, r) = standing(&worlds);
    let ends = joint.end(&mut worlds);
    assert!(ends.contains(&Err(Failure::Changed)), "{ends:?}");
    nothing_was_written(&joint, &worlds, &before, &r);
}

#[test]
fn a_plan_of_an_earlier_register_forces_nothing() {
    let mut worlds = left_behind();
    let orders = forces(&worlds, |force| force.expect_txid = tx(99));
    let (before, r) = standing(&worlds);
    let mut joint = Joint::new(&worlds, orders, 9);
    let ends = joint.end(&mut worlds);
    assert!(ends.contains(&Err(Failure::WrongState)), "{ends:?}");
    nothing_was_written(&joint, &worlds, &before, &r);
    assert_eq!(joint.count("reserve"), 0);
}

#[test]
fn a_force_of_a_group_that_crashed_anywhere_is_finished_by_the_same_orders() {
    let steps = {
        let mut worlds = left_behind();
        let orders = forces(&worlds, |_| {});
        let mut joint = Joint::new(&worlds, orders, 9);
        let mut steps = 0;
        while joint.step(&mut worlds) {
            steps += 1;
        }
        steps
    };
    for crash in 0..steps {
        let mut worlds = left_behind();
        let orders = forces(&worlds, |_| {});
        let mut first = Joint::new(&worlds, orders.clone(), 9);
        first.go_on(&mut worlds, crash);
        drop(first);
        let again = Joint::new(&worlds, orders, 8).end(&mut worlds);
        assert_eq!(again, forced(), "after {crash}");
        is_granted(&worlds);
    }
}

#[test]
fn a_request_that_is_executed_while_the_orders_come_again_is_found_by_all() {
    let mut late_for_some = 0;
    for late in 1..80 {
        let mut worlds = left_behind();
        let before = worlds[0].register.clone();
        let orders = forces(&worlds, |_| {});
        assert_eq!(
            Joint::new(&worlds, orders.clone(), 9).end(&mut worlds),
            forced()
        );
        let after = worlds[0].register.clone();
        worlds[0].register = before;
        let mut again = Joint::new(&worlds, orders.clone(), 8);
        again.go_on(&mut worlds, late);
        worlds[0].register = after;
        let ends = again.end(&mut worlds);
        assert_eq!(ends[0].is_ok(), ends[1].is_ok(), "{late}: {ends:?}");
        late_for_some += usize::from(ends[0].is_err());
        assert_eq!(Joint::new(&worlds, orders, 7).end(&mut worlds), forced());
        is_granted(&worlds);
    }
    assert!(late_for_some > 0);
}

#[test]
fn the_answer_of_the_request_may_be_lost() {
    let mut worlds = left_behind();
    worlds[0].witness = Witness::Mute;
    let orders = forces(&worlds, |_| {});
    let mut joint = Joint::new(&worlds, orders, 9);
    assert_eq!(joint.end(&mut worlds), forced());
    is_granted(&worlds);
}

#[test]
fn copies_that_are_not_of_one_moment_are_forced_only_by_a_word_for_that() {
    type Edit = fn(&mut Superblock);
    let edits: [Edit; 3] = [
        // A rejoin was under way in one of them.
        |sb| (sb.role, sb.members, sb.epoch) = (Role::Target, Members::NONE, Epoch(2)),
        // One had finished it, and no grow was won.
        |sb| (sb.role, sb.members, sb.epoch) = (Role::Candidate, Members::NONE, Epoch(2)),
        // One left earlier.
        |sb| (sb.epoch, sb.generation) = (Epoch::ZERO, generation(77)),
    ];
    for (n, edit) in edits.into_iter().enumerate() {
        for both in [false, true] {
            let worlds = || {
                let mut worlds = left_behind();
                let r = worlds[0].r().clone();
                for world in &mut worlds[usize::from(!both)..] {
                    world.edit_sb(Leg::B, edit);
                    if n < 2 {
                        world.edit_sb(Leg::B, |sb| sb.generation = r.generation);
                    }
                }
                worlds
            };
            if both && n == 2 {
                // Both left then.
                let mut worlds = worlds();
                let orders = forces(&worlds, |_| {});
                assert_eq!(Joint::new(&worlds, orders, 9).end(&mut worlds), forced());
                continue;
            }
            let mut refused = worlds();
            let orders = forces(&refused, |_| {});
            let (before, r) = standing(&refused);
            let mut joint = Joint::new(&refused, orders, 9);
            let ends = joint.end(&mut refused);
            let why = [
                Err(Failure::Incomplete(Leg::B)),
                Err(Failure::Mixed(VOLUME, OTHER)),
                Err(Failure::Mixed(VOLUME, VOLUME)),
            ];
            assert!(ends.iter().any(|end| why.contains(end)), "{n} {ends:?}");
            nothing_was_written(&joint, &refused, &before, &r);
            assert_eq!(joint.count("reserve"), 0, "{n}");
            let mut taken = worlds();
            let orders = forces(&taken, |force| force.inconsistent = true);
            let ends = Joint::new(&taken, orders, 9).end(&mut taken);
            assert_eq!(ends, forced(), "{n}");
            is_granted(&taken);
        }
    }
}

#[test]
fn a_candidate_whose_grow_was_won_is_of_the_moment_of_the_members() {
    let mut worlds = left_behind();
    // {A} 2 grew to {AB} 3, one leg B learned of it, and then B was lost again.
    let alone = worlds[0].r().clone();
    let running = Running::of(&alone, alone.holder.unwrap());
    let grown = alone.grow(&running, generation(61), tx(61)).unwrap();
    let running = Running::of(&grown, grown.holder.unwrap());
    let again = grown
        .shrink(&running, Leg::A, generation(62), tx(62))
        .unwrap();
    worlds[0].set_register(again);
    worlds[0].edit_sb(Leg::B, |sb| {
        (sb.role, sb.members, sb.epoch) = (Role::Candidate, Members::NONE, alone.epoch);
        sb.generation = alone.generation;
    });
    worlds[1].edit_sb(Leg::B, |sb| {
        (sb.members, sb.epoch) = (Members::BOTH, grown.epoch);
        sb.generation = grown.generation;
    });
    let orders = forces(&worlds, |_| {});
    assert_eq!(Joint::new(&worlds, orders, 9).end(&mut worlds), forced());
}

#[test]
fn a_leg_that_was_put_back_within_its_epoch_is_not_of_the_moment_of_the_others() {
    // B itself is the last member, and its witnessed beat is above what stands on it in one volume.
    let mut worlds = left_behind();
    let register = worlds[0].r().clone();
    let own = Force {
        expect_epoch: register.epoch,
        expect_txid: register.txid,
        leg: Leg::A,
        seen: seed(&worlds[0]),
        site: Site::A,
        generation: generation(50),
        inconsistent: false,
        who: "ann".into(),
        why: String::new(),
    };
    let orders = |worlds: &[World; 2], inconsistent| -> Vec<OneShotOrder> {
        let of = |(world, volume): (&World, VolumeId)| {
            let sb = world.sb(Leg::A);
            let force = Force {
                seen: LegSeed {
                    epoch: sb.epoch,
                    generation: sb.generation,
                    sb_seq: sb.sb_seq,
                },
                inconsistent,
                ..own.clone()
            };
            OneShotOrder {
                volume,
                ..order(Task::Force(Box::new(force)), only(Leg::A))
            }
        };
        worlds.iter().zip([VOLUME, OTHER]).map(of).collect()
    };
    let beat = BeatObject {
        epoch: register.epoch,
        beat: 90,
    };
    worlds[1].beat = Some(beat);
    let block = Beat {
        volume: OTHER,
        epoch: register.epoch,
        attach_key: None,
        beat: 7,
        flushed: 0,
    };
    worlds[1].legs[0].blocks.insert(BEAT_OFFSET, *block.emit());
    let ends = Joint::new(&worlds, orders(&worlds, false), 9).end(&mut worlds);
    assert!(
        ends.contains(&Err(Failure::Mixed(VOLUME, OTHER))),
        "{ends:?}"
    );
    let ends = Joint::new(&worlds, orders(&worlds, true), 9).end(&mut worlds);
    assert_eq!(ends, forced());
}

#[test]
fn orders_that_are_not_one_decision_are_not_carried_out() {
    let mut worlds = left_behind();
    let edits: [fn(&mut OneShotOrder); 4] = [
        |order| order.volume = VOLUME,
        |order| order.task = Task::Wipe,
        |order| {
            if let Task::Force(force) = &mut order.task {
                force.inconsistent = true;
            }
        },
        |order| {
            if let Task::Force(force) = &mut order.task {
                force.generation = generation(51);
            }
        },
    ];
    for edit in edits {
        let mut orders = forces(&worlds, |_| {});
        edit(&mut orders[1]);
        let mut joint = Joint::new(&worlds, orders, 9);
        let ends = joint.end(&mut worlds);
        let differ = Err(Failure::OrdersDiffer);
        assert_eq!(ends, [differ.clone(), differ]);
        assert_eq!(joint.count("B "), 0, "not even looked at");
    }
    // Nor is one volume of the two.
    let one = forces(&worlds, |_| {}).remove(0);
    let mut run = Run::new(&mut worlds[0], one.clone());
    assert_eq!(run.end(), Err(Failure::OtherVolumes));
    let mut joint = Joint::new(&worlds, vec![one], 9);
    joint.go_on(&mut worlds, 10_000);
    assert_eq!(joint.told(0), Some(Err(Failure::OtherVolumes)));
}
