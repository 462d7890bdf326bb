//! A group of volumes: born, moved, lost and found as one.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use twinsite_api::{AttachmentMode, FailoverState};
use twinsite_register::Members;

use super::group_world::GroupWorld;
use super::same_text;

#[test]
fn a_group_is_born_once_all_its_volumes_are_there_in_both_clusters() {
    let mut world = GroupWorld::new();
    world.apply_group(0);
    world.apply_volume(0, 0);
    world.settle();
    let waits = world.told(0, "Reconciling").remove(0);
    assert!(waits.contains("GroupIncomplete"), "{waits}");
    world.apply_volume(0, 1);
    world.settle();
    assert!(world.parts[0].register.is_none());
    world.apply_group(1);
    world.apply_volume(1, 1);
    world.settle();
    assert!(world.parts[0].register.is_none(), "{}", world.transcript());
    let waits = world.group_told(0, "Reconciling");
    assert!(waits.contains("lacks MirroredVolume"), "{waits}");
    world.apply_volume(1, 0);
    world.settle();
    assert!(world.serves(0), "{}", world.transcript());
    let register = world.parts[0].register.clone().unwrap();
    assert_eq!(register.volumes.len(), 2);
    for part in &world.parts {
        for cluster in &part.clusters {
            let is_birth = |one: &twinsite_api::Attachment| one.spec.mode == AttachmentMode::Birth;
            assert!(cluster.claim.is_some() && cluster.persistent_volume.is_some());
            assert!(!cluster.attachments.iter().any(is_birth));
            // Each volume tells what its own Attachment says.
            let volume = cluster.volume.as_ref().unwrap();
            let capacity = volume.status.as_ref().unwrap().capacity.clone();
            assert_eq!(capacity, Some(volume.spec.capacity.clone()));
        }
    }
    same_text("group-birth", &world.transcript());
}

#[test]
fn an_edit_of_the_groups_active_site_moves_all_its_volumes_at_once() {
    let mut world = GroupWorld::running();
    world.move_to("research");
    world.settle();
    assert!(world.serves(1), "{}", world.transcript());
    let text = world.transcript();
    let scales: Vec<&str> = text.lines().filter(|line| line.contains("scale")).collect();
    assert_eq!(scales.len(), 2, "{text}");
    same_text("group-planned-move", &text);
}

#[test]
fn the_loss_of_a_site_moves_all_its_volumes_and_they_are_in_sync_again_when_it_returns() {
    let mut world = GroupWorld::running();
    world.say("medical is dead");
    world.each(|part| part.kill(0));
    world.settle();
    assert!(world.serves(1), "{}", world.transcript());
    world.say("medical returns");
    world.each(|part| part.revive(0));
    world.settle();
    assert!(world.serves(1) && !world.serves_any(0));
    let register = world.parts[0].register.clone().unwrap();
    assert!(register.active.latched && register.members == Members::BOTH);
    same_text("group-site-loss", &world.transcript());
}

#[test]
fn no_part_of_a_group_moves_while_one_copy_is_not_served_or_one_beat_goes_on() {
    let mut world = GroupWorld::running();
    world.each(|part| part.kill(0));
    // The second volume's copy at the other site is not served.
    let broken = |world: &mut GroupWorld| {
        let leg = &mut world.parts[1].clusters[1].legs[0];
        leg.spec.node = "nowhere".to_owned();
        leg.status = None;
    };
    broken(&mut world);
    for _ in 0..40 {
        world.rounds(1);
        broken(&mut world);
        assert!(!world.serves_any(1));
        assert!(
            world
                .parts
                .iter()
                .all(|part| part.clusters[1].pods.is_empty())
        );
    }
    world.parts[1].clusters[1].legs[0].spec.node = "r1".to_owned();
    for _ in 0..30 {
        world.rounds(1);
        // One of its volumes is still written.
        world.parts[1].beat_at = world.parts[1].now;
        assert!(!world.serves_any(1));
    }
    world.settle();
    assert!(world.serves(1), "{}", world.transcript());
}

#[test]
fn the_operator_killed_between_any_two_actions_leaves_no_group_in_parts() {
    for place in 0..2 {
        for after in 0..12 {
            let mut world = GroupWorld::new();
            world.dies_after = Some((place, after));
            world.apply_to_both();
            world.settle();
            let died = format!("died at {place} after {after}");
            assert!(world.serves(0), "{died}: {}", world.transcript());
            world.dies_after = Some((place, after));
            world.move_to("research");
            world.settle();
            assert!(world.serves(1), "{died}: moved: {}", world.transcript());
            world.dies_after = Some((0, after));
            world.each(|part| part.kill(1));
            world.settle();
            assert!(world.serves(0), "{died}: lost: {}", world.transcript());
        }
    }
}

#[test]
fn a_lost_node_is_fenced_for_all_volumes_and_the_pod_starts_on_another() {
    let mut world = GroupWorld::running();
    world.say("node m1 is silent");
    for second in 0..60 {
        world.each(|part| {
            let node = &mut part.clusters[0].nodes[0];
            (node.ready, node.silent_for) = (false, Some(Duration::from_secs(second)));
        });
        world.rounds(1);
    }
    assert!(world.serves(0), "{}", world.transcript());
    let pods = &world.parts[0].clusters[0].pods;
    assert_eq!(pods[0].node.as_deref(), Some("m2"));
    same_text("group-node-loss", &world.transcript());
}

/// A site returns to a group that no pod uses any more.
fn back_without_a_pod() -> GroupWorld {
    let mut world = GroupWorld::running();
    world.each(|part| part.kill(1));
    world.settle();
    for group in world.groups.iter_mut().flatten() {
        group.spec.workloads[0].replicas = 0;
    }
    world.settle();
    world.each(|part| part.revive(1));
    world
}

#[test]
fn a_copy_that_was_away_is_rebuilt_without_a_pod_by_one_set_of_caretakers() {
    let mut world = back_without_a_pod();
    world.settle();
    let register = world.parts[0].register.clone().unwrap();
    assert_eq!(register.members, Members::BOTH, "{}", world.transcript());
    let caretakers: Vec<bool> = world
        .parts
        .iter()
        .map(|part| {
            let mut attachments = part.clusters[0].attachments.iter();
            attachments.any(|one| one.spec.mode == AttachmentMode::Caretaker)
        })
        .collect();
    assert!(caretakers.iter().all(|one| *one == caretakers[0]));
}

#[test]
fn no_caretaker_is_made_beside_one_that_goes() {
    let mut world = back_without_a_pod();
    let caretaker = |one: &twinsite_api::Attachment| one.spec.mode == AttachmentMode::Caretaker;
    let has = |world: &GroupWorld, at: usize| {
        let mut there = world.parts[at].clusters[0].attachments.iter();
        there.any(caretaker)
    };
    for _ in 0..40 {
        world.rounds(1);
        if has(&world, 0) && has(&world, 1) {
            break;
        }
    }
    assert!(has(&world, 0) && has(&world, 1), "{}", world.transcript());
    // The first has ended a round before the second.
    world.parts[0].clusters[0]
        .attachments
        .retain(|one| !caretaker(one));
    let now = Timestamp::from_second(world.parts[1].now).unwrap();
    for one in &mut world.parts[1].clusters[0].attachments {
        one.metadata.deletion_timestamp = Some(Time(now));
    }
    world.rounds(1);
    assert!(!has(&world, 0), "{}", world.transcript());
    world.settle();
    let register = world.parts[0].register.clone().unwrap();
    assert_eq!(register.members, Members::BOTH, "{}", world.transcript());
}

/// The API server would refuse it in each round, and nothing after it would be done.
#[test]
fn no_finalizer_is_asked_for_a_volume_that_its_group_keeps_from_deletion() {
    let mut world = GroupWorld::running();
    let now = Timestamp::from_second(world.parts[1].now).unwrap();
    let volume = world.parts[1].clusters[0].volume.as_mut().unwrap();
    volume.metadata.finalizers = Some(vec!["foregroundDeletion".to_owned()]);
    volume.metadata.deletion_timestamp = Some(Time(now));
    world.settle();
    let text = world.transcript();
    assert!(!text.contains("add finalizer"), "{text}");
    assert!(world.serves(0));
}

#[test]
fn an_order_about_one_volume_moves_the_group() {
    let mut world = GroupWorld::running();
    world.parts[0].order(
        1,
        "to: research, mode: Planned, volumes: {namespace: rv, names: [data]}",
    );
    world.settle();
    assert!(world.serves(1), "{}", world.transcript());
    let status = world.parts[0].failovers[0].1.status.clone().unwrap();
    assert_eq!(status.state, FailoverState::Done, "{status:?}");
    assert_eq!(status.volumes.len(), 2);
}

#[test]
fn a_volume_is_not_deleted_alone_and_the_group_waits_for_none_that_is_gone() {
    let mut world = GroupWorld::running();
    let going = |world: &mut GroupWorld, place: usize, at: usize| {
        let part = &mut world.parts[at];
        let now = Timestamp::from_second(part.now).unwrap();
        let volume = part.clusters[place].volume.as_mut().unwrap();
        volume.metadata.deletion_timestamp = Some(Time(now));
    };
    going(&mut world, 0, 1);
    world.settle();
    let told = world.told(0, "Reconciling").remove(1);
    assert!(told.contains("not deleted alone: delete"), "{told}");
    assert!(world.serves(0));
    // A cluster that is about to lose one of them takes part in no planned move.
    world.move_to("research");
    world.settle();
    assert!(world.serves(0) && !world.serves_any(1));
    going(&mut world, 0, 0);
    world.rounds(3);
    assert!(
        world
            .parts
            .iter()
            .all(|part| part.clusters[0].volume.is_none())
    );
}

#[test]
fn a_volume_whose_twin_object_is_gone_keeps_the_group_where_it_is() {
    let mut world = GroupWorld::running();
    world.parts[1].clusters[1].volume = None;
    world.move_to("research");
    world.settle();
    assert!(
        world.serves(0) && !world.serves_any(1),
        "{}",
        world.transcript()
    );
    let told = world.group_told(0, "Reconciling");
    assert!(told.contains("lacks MirroredVolume"), "{told}");
    // The cluster that lacks it takes nothing over either.
    world.each(|part| part.kill(0));
    world.rounds(60);
    assert!(!world.serves_any(1));
    let told = world.group_told(1, "Stalled");
    assert!(told.contains("GroupIncomplete"), "{told}");
    world.apply_volume(1, 1);
    world.settle();
    assert!(world.serves(1), "{}", world.transcript());
}

#[test]
fn a_volume_that_the_group_does_not_name_is_told_so_and_so_is_one_without_a_group() {
    let mut world = GroupWorld::running();
    for place in 0..2 {
        let group = world.groups[place].as_mut().unwrap();
        // Admission keeps the list; this is what a volume that joins later sees.
        group.spec.volumes.retain(|name| name != "data");
    }
    world.settle();
    let at = usize::from(world.parts[0].name != "data");
    let told = world.told(0, "Stalled").remove(at);
    assert!(
        told.contains("does not name this volume: its list is fixed"),
        "{told}"
    );
    let told = world.group_told(0, "Stalled");
    assert!(told.contains("OtherVolumes"), "{told}");
    assert!(
        world.parts[0].clusters[0].pods.len() == 1,
        "what runs goes on"
    );
    world.groups = [None, None];
    world.settle();
    let told = world.told(1, "Stalled").remove(0);
    assert!(told.contains("MirrorGroup rv/ledger"), "{told}");
}

/// Nobody of this cluster opens the group any more, so that no fence would ever come.
#[test]
fn a_node_that_is_lost_while_the_group_is_being_deleted_keeps_nothing() {
    for lost_first in [true, false] {
        let mut world = GroupWorld::running();
        let delete = |world: &mut GroupWorld| {
            world.each(|part| {
                let now = Timestamp::from_second(part.now).unwrap();
                let volume = part.clusters[0].volume.as_mut().unwrap();
                volume.metadata.deletion_timestamp = Some(Time(now));
            });
        };
        if !lost_first {
            delete(&mut world);
        }
        for second in 0..200 {
            world.each(|part| {
                let node = &mut part.clusters[0].nodes[0];
                (node.ready, node.silent_for) = (false, Some(Duration::from_secs(second)));
            });
            if lost_first && second == 3 {
                delete(&mut world);
            }
            world.rounds(1);
        }
        for part in &world.parts {
            let cluster = &part.clusters[0];
            assert!(cluster.volume.is_none());
            let left: Vec<_> = cluster.attachments.iter().collect();
            assert!(left.is_empty(), "{left:?}\n{}", world.transcript());
            assert!(cluster.volume_attachments.is_empty());
            // The copies stay, and name their group.
            let group = part.clusters[1].legs[0].spec.group.map(|id| id.to_string());
            assert!(group.is_some_and(|id| id.starts_with("tg-")));
        }
    }
}

#[test]
fn what_a_person_says_on_any_volume_of_the_group_is_heard() {
    use super::super::names::{CONFIRM_ANNOTATION, RETIRE_ANNOTATION};
    for at in 0..2 {
        let mut world = GroupWorld::running();
        world.each(|part| part.kill(1));
        world.settle();
        let annotate = |world: &mut GroupWorld, key: &str, text: &str| {
            let volume = world.parts[at].clusters[0].volume.as_mut().unwrap();
            let annotations = volume.metadata.annotations.get_or_insert_default();
            annotations.insert(key.to_owned(), text.to_owned());
        };
        let naa = world.parts[at].id().leg_naa_text(twinsite_api::LegIndex::B);
        annotate(&mut world, RETIRE_ANNOTATION, &format!("B={naa}"));
        annotate(&mut world, CONFIRM_ANNOTATION, "nonsense");
        world.settle();
        let register = world.parts[0].register.clone().unwrap();
        assert_eq!(register.retired.len(), 1, "{at}: {}", world.transcript());
        let told = world.told(0, "RequestRefused").remove(0);
        assert!(told.contains("must be <leg>@<epoch>"), "{told}");
        let name = world.parts[at].name;
        assert!(told.contains(&format!("rv/{name}")), "{told}");
    }
}

#[test]
fn a_group_without_a_volume_says_so_until_it_is_deleted() {
    let mut world = GroupWorld::new();
    world.apply_group(0);
    world.settle();
    let told = world.group_told(0, "Stalled");
    assert!(told.starts_with("True GroupIncomplete"), "{told}");
    let now = Timestamp::from_second(world.parts[0].now).unwrap();
    let group = world.groups[0].as_mut().unwrap();
    group.metadata.deletion_timestamp = Some(Time(now));
    world.settle();
    let told = world.group_told(0, "Stalled");
    assert!(told.starts_with("Unknown"), "{told}");
    world.apply_to_both();
    world.settle();
    assert!(world.serves(0), "{}", world.transcript());
    let told = world.group_told(0, "Stalled");
    assert!(told.starts_with("False"), "{told}");
}
