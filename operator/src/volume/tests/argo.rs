//! What Argo CD shows of a volume from round to round, and of groups and orders.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use twinsite_api::{AttachmentMode, AttachmentState};

use super::group_world::GroupWorld;
use super::world::{VOLUME, World};
use crate::argo::Argo;
use crate::volume::{plan, status};

/// What is shown at a site in these rounds, each word once for as long as it stays.
fn shown(argo: &Argo, world: &mut World, place: usize, rounds: usize) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut last = None;
    for _ in 0..rounds {
        world.rounds(1);
        let Some(volume) = world.clusters[place].volume.clone() else {
            break;
        };
        if last.as_ref() == Some(&volume) {
            continue;
        }
        let word = argo.word(&volume);
        if words.last() != Some(&word) {
            words.push(word);
        }
        last = Some(volume);
    }
    words
}

fn now(argo: &Argo, world: &World, place: usize) -> (String, String) {
    argo.health(world.clusters[place].volume.as_ref().unwrap())
}

#[test]
fn a_volume_is_under_way_until_its_site_can_do_its_role() {
    let Some(argo) = Argo::new() else { return };
    for place in 0..2 {
        let mut world = World::new();
        world.apply_to_both(VOLUME);
        assert_eq!(now(&argo, &world, place).0, "Progressing");
        let words = shown(&argo, &mut world, place, 60);
        assert_eq!(words, ["Progressing", "Healthy"], "{}", world.transcript());
    }
}

#[test]
fn the_loss_of_a_site_is_healthy_at_the_other_once_it_serves() {
    let Some(argo) = Argo::new() else { return };
    let mut world = World::running();
    world.kill(0);
    let words = shown(&argo, &mut world, 1, 60);
    assert_eq!(words, ["Healthy"], "{}", world.transcript());
    world.revive(0);
    let words = shown(&argo, &mut world, 0, 60);
    assert_eq!(words, ["Progressing", "Healthy"], "{}", world.transcript());
}

#[test]
fn an_edit_that_was_not_looked_at_is_under_way() {
    let Some(argo) = Argo::new() else { return };
    let mut world = World::running();
    assert_eq!(now(&argo, &world, 0).0, "Healthy");
    world.edit(0, |_| {});
    let said = now(&argo, &world, 0);
    assert_eq!(said.1, "The last edit was not looked at yet");
    assert_eq!(said.0, "Progressing");
    world.settle();
    assert_eq!(now(&argo, &world, 0).0, "Healthy");
    let volume = world.clusters[0].volume.as_mut().unwrap();
    volume.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    assert_eq!(now(&argo, &world, 0).1, "Being deleted");
}

#[test]
fn what_waits_for_a_person_is_degraded_and_says_why() {
    let Some(argo) = Argo::new() else { return };
    let mut world = World::running();
    world.register = None;
    world.settle();
    let (word, message) = now(&argo, &world, 0);
    assert_eq!(word, "Degraded");
    assert!(message.starts_with("RegisterMissing: "), "{message}");
}

#[test]
fn a_copy_that_lacks_writes_is_degraded_and_one_that_is_rebuilt_is_under_way() {
    let Some(argo) = Argo::new() else { return };
    let mut world = World::running();
    world.data_up = false;
    world.settle();
    assert_eq!(now(&argo, &world, 0).0, "Healthy", "{}", world.transcript());
    let (word, message) = now(&argo, &world, 1);
    assert_eq!(word, "Degraded", "{}", world.transcript());
    assert!(message.starts_with("Outdated: "), "{message}");
    // As it stands while the copy goes on.
    let mut volume = world.clusters[1].volume.clone().unwrap();
    let status = volume.status.as_mut().unwrap();
    for condition in &mut status.conditions {
        if condition.type_ == "InSync" {
            condition.reason = "Resyncing".to_owned();
            condition.message = "the copy at research lacks writes: it is being rebuilt".to_owned();
        }
    }
    let (word, message) = argo.health(&volume);
    assert_eq!(word, "Progressing");
    assert!(message.ends_with("it is being rebuilt"), "{message}");
}

#[test]
fn a_group_is_judged_as_its_volumes_are() {
    let Some(argo) = Argo::new() else { return };
    let mut world = GroupWorld::running();
    for place in 0..2 {
        let group = world.groups[place].as_ref().unwrap();
        assert_eq!(argo.word(group), "Healthy", "{}", world.transcript());
    }
    world.each(|one| one.register = None);
    world.settle();
    let (word, message) = argo.health(world.groups[0].as_ref().unwrap());
    assert_eq!(word, "Degraded", "{}", world.transcript());
    assert!(message.starts_with("RegisterMissing: "), "{message}");
}

#[test]
fn an_order_is_done_or_failed_with_its_reason() {
    let Some(argo) = Argo::new() else { return };
    let mut world = World::running();
    world.order(
        1,
        "to: research, mode: Planned, volumes: {namespace: rv, names: [records]}",
    );
    let order = |world: &World| argo.health(&world.failovers[0].1);
    assert_eq!(order(&world).0, "Progressing");
    world.rounds(1);
    assert_eq!(order(&world).0, "Progressing", "{}", world.transcript());
    world.settle();
    assert_eq!(order(&world).0, "Healthy", "{}", world.transcript());

    let mut world = World::running();
    world.order(
        1,
        "to: research, mode: Planned, volumes: {namespace: rv, names: [nothing]}",
    );
    world.settle();
    let (word, message) = argo.health(&world.failovers[0].1);
    assert_eq!(word, "Degraded");
    assert!(
        message.starts_with("Failed: the order names no volume"),
        "{message}"
    );
}

#[test]
fn a_volume_whose_io_waits_is_degraded() {
    let Some(argo) = Argo::new() else { return };
    let mut world = World::running();
    let writer = world.clusters[0]
        .attachments
        .iter_mut()
        .find(|one| one.spec.mode == AttachmentMode::Writer)
        .unwrap();
    let said = writer.status.as_mut().unwrap();
    said.state = AttachmentState::Suspended;
    said.reason = Some("WitnessNeeded".to_owned());
    said.message = Some("a copy is lost and the witness is silent".to_owned());
    let (desired, seen) = world.observe(0);
    let (desired, at) = (desired.unwrap(), Timestamp::from_second(world.now).unwrap());
    let planned = plan(&desired, &seen, at);
    let volume = world.clusters[0].volume.as_mut().unwrap();
    volume.status = Some(status(&desired, &seen, &planned, None, at).status);
    let (word, message) = now(&argo, &world, 0);
    assert_eq!(word, "Degraded", "{}", world.transcript());
    assert!(
        message.starts_with("WitnessNeeded: I/O waits: "),
        "{message}"
    );
}
