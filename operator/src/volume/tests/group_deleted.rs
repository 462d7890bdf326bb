//! A group whose copies go with it: in both clusters, together, or not at all.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use twinsite_api::{AttachmentMode, DeletionPolicy};
use twinsite_register::State;

use super::group_world::GroupWorld;
use super::same_text;

/// A group whose volumes say so; the first `count` of them.
fn doomed(count: usize) -> GroupWorld {
    let mut world = GroupWorld::running();
    for part in world.parts.iter_mut().take(count) {
        part.edit_both(|volume| volume.spec.deletion_policy = DeletionPolicy::Delete);
    }
    world.settle();
    world
}

fn delete(world: &mut GroupWorld, place: usize) {
    for part in &mut world.parts {
        let now = Timestamp::from_second(part.now).unwrap();
        if let Some(volume) = part.clusters[place].volume.as_mut() {
            volume.metadata.deletion_timestamp = Some(Time(now));
        }
        // The workload goes with it.
        part.clusters[place].workloads.clear();
        part.clusters[place].pods.clear();
    }
}

fn copies(world: &GroupWorld, place: usize) -> usize {
    let legs = world
        .parts
        .iter()
        .map(|part| part.clusters[place].legs.len());
    legs.sum()
}

fn is_forgotten(world: &GroupWorld, place: usize) -> bool {
    let mut parts = world.parts.iter();
    parts.all(|part| part.clusters[place].volume.is_none())
}

#[test]
fn the_copies_of_a_group_are_wiped_together_once_it_is_deleted_in_both_clusters() {
    let mut world = doomed(2);
    world.say("deleted at research");
    delete(&mut world, 1);
    world.settle();
    assert!(is_forgotten(&world, 1), "{}", world.transcript());
    assert_eq!((copies(&world, 0), copies(&world, 1)), (2, 2));
    assert_eq!(world.parts[0].register.as_ref().unwrap().state, State::Live);
    world.say("deleted at medical");
    delete(&mut world, 0);
    world.settle();
    assert!(is_forgotten(&world, 0), "{}", world.transcript());
    assert_eq!(
        (copies(&world, 0), copies(&world, 1)),
        (0, 0),
        "{}",
        world.transcript()
    );
    assert!(world.parts[0].register.is_none(), "{}", world.transcript());
    let left = world.parts.iter().flat_map(|part| &part.clusters);
    assert!(
        left.into_iter()
            .all(|cluster| cluster.attachments.is_empty())
    );
    same_text("group-delete", &world.transcript());
}

#[test]
fn a_group_of_which_one_volume_is_to_stay_keeps_all_its_copies() {
    for first in [0, 1] {
        let mut world = doomed(1);
        delete(&mut world, first);
        world.settle();
        delete(&mut world, 1 - first);
        world.settle();
        assert!(is_forgotten(&world, 0) && is_forgotten(&world, 1));
        let register = world.parts[0].register.clone().unwrap();
        assert_eq!(register.state, State::Live, "{}", world.transcript());
        let wiped = world.transcript().contains("mode=Wipe");
        assert!(!wiped, "{}", world.transcript());
    }
}

#[test]
fn nothing_is_wiped_while_the_other_cluster_keeps_one_volume_of_the_group() {
    let mut world = doomed(2);
    delete(&mut world, 1);
    // Somebody keeps one there: the group lives on at that site.
    let kept = &mut world.parts[1].clusters[1].volume;
    kept.as_mut().unwrap().metadata.deletion_timestamp = None;
    world.rounds(30);
    delete(&mut world, 0);
    world.rounds(60);
    let register = world.parts[0].register.clone().unwrap();
    assert_eq!(register.state, State::Live, "{}", world.transcript());
    assert_eq!((copies(&world, 0), copies(&world, 1)), (2, 2));
    // At last it goes too.
    delete(&mut world, 1);
    world.settle();
    assert!(world.parts[0].register.is_none(), "{}", world.transcript());
    assert_eq!((copies(&world, 0), copies(&world, 1)), (0, 0));
}

#[test]
fn a_site_that_was_away_wipes_its_copies_of_a_deleted_group_when_it_returns() {
    let mut world = doomed(2);
    delete(&mut world, 1);
    world.settle();
    world.each(|part| part.kill(1));
    world.settle();
    delete(&mut world, 0);
    world.settle();
    // Nobody knows whether the other cluster keeps it: forgotten here.
    assert!(is_forgotten(&world, 0), "{}", world.transcript());
    assert_eq!(world.parts[0].register.as_ref().unwrap().state, State::Live);
    world.each(|part| part.revive(1));
    world.settle();
    assert!(world.parts[0].register.is_none(), "{}", world.transcript());
    assert_eq!((copies(&world, 0), copies(&world, 1)), (0, 0));
}

#[test]
fn the_operator_killed_between_any_two_actions_wipes_a_group_as_a_whole() {
    for place in 0..2 {
        for after in 0..12 {
            let mut world = doomed(2);
            delete(&mut world, 1);
            world.dies_after = Some((place, after));
            world.settle();
            delete(&mut world, 0);
            world.settle();
            let died = format!("died at {place} after {after}");
            assert!(
                world.parts[0].register.is_none(),
                "{died}: {}",
                world.transcript()
            );
            assert_eq!((copies(&world, 0), copies(&world, 1)), (0, 0), "{died}");
        }
    }
}

/// A force that took the object of one volume away by hand leaves nobody who could say what becomes of its copies.
#[test]
fn a_volume_that_was_taken_out_by_hand_keeps_the_copies_of_the_others() {
    let mut world = doomed(1);
    delete(&mut world, 1);
    world.settle();
    delete(&mut world, 0);
    // The one that is to stay is gone before the other one is planned.
    world.parts[1].clusters[0].volume = None;
    world.settle();
    let register = world.parts[0].register.clone().unwrap();
    assert_eq!(register.state, State::Live, "{}", world.transcript());
    let wiped = world.transcript().contains("mode=Wipe");
    assert!(!wiped && !has_wipe(&world));
}

fn has_wipe(world: &GroupWorld) -> bool {
    let clusters = world.parts.iter().flat_map(|part| &part.clusters);
    let mut attachments = clusters.flat_map(|cluster| &cluster.attachments);
    attachments.any(|one| one.spec.mode == AttachmentMode::Wipe)
}
