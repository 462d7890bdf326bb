//! Life without trouble: birth, growth, changed specs, deletion.

use twinsite_api::{AttachmentMode, DeletionPolicy, SiteState};
use twinsite_register::{Leg, Members, State};

use super::golden;
use super::world::{VOLUME, World};

#[test]
fn the_same_yaml_in_both_clusters_becomes_one_volume_attached_at_its_active_site() {
    let mut world = World::new();
    world.apply_to_both(VOLUME);
    world.settle();
    assert!(world.serves(0) && !world.serves(1));
    assert_eq!(world.register.as_ref().unwrap().members, Members::BOTH);
    assert_eq!(
        world.told(1, "Ready"),
        "True AsDesired: can take the volume over"
    );
    golden("birth", &world);
}

#[test]
fn clusters_synced_minutes_apart_wait_for_each_other() {
    let mut world = World::new();
    world.apply_to(0, VOLUME);
    world.settle();
    assert!(world.register.is_none());
    assert!(
        world
            .told(0, "WaitingForLeg")
            .contains("has no MirroredVolume rv/records"),
        "{}",
        world.told(0, "WaitingForLeg")
    );
    world.apply_to(1, VOLUME);
    world.settle();
    assert!(world.serves(0));
}

#[test]
fn nothing_is_born_while_the_specs_differ() {
    let mut world = World::new();
    world.apply_to(0, VOLUME);
    world.apply_to(
        1,
        &VOLUME.replace("activeSite: medical", "activeSite: research"),
    );
    world.settle();
    assert!(world.register.is_none(), "{}", world.transcript());
    assert!(
        world
            .told(0, "Reconciling")
            .contains("the two clusters' specs differ in activeSite")
    );
}

#[test]
fn the_volume_grows_on_both_copies_first() {
    let mut world = World::running();
    world.edit_both(|volume| volume.spec.capacity = "4Gi".parse().unwrap());
    world.settle();
    let volume = world.clusters[1]
        .persistent_volume
        .as_ref()
        .unwrap()
        .spec
        .as_ref()
        .unwrap();
    assert_eq!(volume.capacity.as_ref().unwrap()["storage"].0, "4Gi");
    golden("expand", &world);
}

#[test]
fn the_volume_does_not_grow_with_one_copy_away() {
    let mut world = World::running();
    world.kill(1);
    world.rounds(3);
    world.edit(0, |volume| volume.spec.capacity = "4Gi".parse().unwrap());
    world.settle();
    assert!(
        world.told(0, "WaitingForLeg").starts_with("True"),
        "{}",
        world.transcript()
    );
    assert_eq!(
        world.clusters[0].attachments[0].spec.size.to_string(),
        "2Gi"
    );
    world.revive(1);
    world.edit(1, |volume| volume.spec.capacity = "4Gi".parse().unwrap());
    world.settle();
    assert_eq!(
        world.clusters[0].attachments[0].spec.size.to_string(),
        "4Gi"
    );
    assert_eq!(world.told(0, "WaitingForLeg"), "");
}

#[test]
fn a_copy_that_the_spec_gives_up_leaves_and_comes_back_when_it_is_named_again() {
    let mut world = World::running();
    world.edit_both(|volume| volume.spec.legs.retain(|leg| leg.site == "medical"));
    world.settle();
    let register = world.register.clone().unwrap();
    assert_eq!(
        (register.members, register.no_rejoin),
        (Members::only(Leg::A), Members::only(Leg::B))
    );
    assert!(world.clusters[1].legs.is_empty() && world.serves(0));
    world.edit_both(|volume| {
        let leg = serde_yaml::from_str("{site: research, poolClass: ssd}").unwrap();
        volume.spec.legs.push(leg);
    });
    world.settle();
    assert_eq!(world.register.as_ref().unwrap().members, Members::BOTH);
    golden("drop-and-add", &world);
}

#[test]
fn a_drained_site_gives_everything_away_and_takes_it_back() {
    let mut world = World::running();
    let set = |world: &mut World, state| {
        for cluster in &mut world.clusters {
            cluster.pair.spec.sites[0].state = state;
        }
    };
    set(&mut world, SiteState::Drained);
    world.settle();
    let register = world.register.clone().unwrap();
    assert!(world.serves(1), "{}", world.transcript());
    assert_eq!(
        (register.members, register.no_rejoin),
        (Members::only(Leg::B), Members::only(Leg::A))
    );
    set(&mut world, SiteState::Active);
    world.settle();
    assert!(world.serves(0));
    assert_eq!(world.register.as_ref().unwrap().members, Members::BOTH);
    golden("drain", &world);
}

#[test]
fn deleting_in_one_cluster_forgets_there_and_disturbs_nobody() {
    let mut world = World::running();
    let time = world.time();
    world.edit(1, |volume| {
        volume.metadata.deletion_timestamp = Some(time.clone())
    });
    world.settle();
    assert!(world.clusters[1].volume.is_none() && world.clusters[1].persistent_volume.is_none());
    assert_eq!(world.clusters[1].legs.len(), 1, "the copy is served on");
    assert!(world.serves(0));
    assert_eq!(world.register.as_ref().unwrap().members, Members::BOTH);
    // And back again: adopted.
    world.apply_to(1, VOLUME);
    world.settle();
    assert_eq!(
        world.told(1, "Ready"),
        "True AsDesired: can take the volume over"
    );
}

fn delete_both(world: &mut World, policy: DeletionPolicy) {
    world.edit_both(|volume| volume.spec.deletion_policy = policy);
    world.settle();
    let time = world.time();
    world.edit_both(|volume| volume.metadata.deletion_timestamp = Some(time.clone()));
}

#[test]
fn a_volume_with_policy_delete_is_wiped_once_nothing_uses_it() {
    let mut world = World::running();
    delete_both(&mut world, DeletionPolicy::Delete);
    world.rounds(10);
    assert!(world.clusters[0].volume.is_some(), "its pod still runs");
    for cluster in &mut world.clusters {
        cluster.workloads[0].1 = 0;
    }
    world.settle();
    assert!(world.register.is_none(), "{}", world.transcript());
    for cluster in &world.clusters {
        assert!(
            cluster.volume.is_none() && cluster.legs.is_empty() && cluster.attachments.is_empty(),
            "{}",
            world.transcript()
        );
    }
    golden("delete", &world);
}

#[test]
fn a_retained_volume_is_put_aside_and_adopted_later() {
    let mut world = World::running();
    for cluster in &mut world.clusters {
        cluster.workloads[0].1 = 0;
    }
    delete_both(&mut world, DeletionPolicy::Retain);
    for cluster in &mut world.clusters {
        cluster.workloads[0].1 = 0;
    }
    world.settle();
    let before = world.register.clone().unwrap();
    assert_eq!(before.state, State::Live);
    assert!(
        world.clusters.iter().all(|cluster| cluster.legs.is_empty()),
        "{}",
        world.transcript()
    );
    world.apply_to_both(VOLUME);
    world.settle();
    let after = world.register.clone().unwrap();
    assert_eq!(
        after.register_id, before.register_id,
        "adopted, not born again"
    );
    assert!(world.serves(0));
}

#[test]
fn a_copy_that_was_away_at_the_deletion_is_wiped_when_it_returns() {
    let mut world = World::running();
    for cluster in &mut world.clusters {
        cluster.workloads[0].1 = 0;
    }
    delete_both(&mut world, DeletionPolicy::Delete);
    // Both objects are going; research dies before it did anything about it.
    world.clusters[0].workloads[0].1 = 0;
    world.rounds(1);
    world.kill(1);
    world.settle();
    world.revive(1);
    world.settle();
    assert!(
        world
            .clusters
            .iter()
            .all(|cluster| cluster.volume.is_none() && cluster.legs.is_empty()),
        "{}",
        world.transcript()
    );
    assert!(world.register.is_none(), "{}", world.transcript());
}

#[test]
fn a_volume_from_the_provisioner_gets_neither_volume_nor_claim() {
    let mut world = World::new();
    let text = VOLUME.replace(
        "metadata: {",
        "metadata: {labels: {twinsite.io/provisioner: csi}, ",
    );
    world.apply_to_both(&text.replace(
        "claim: {name: records}",
        "claim: {name: records, create: false}",
    ));
    world.settle();
    assert!(world.register.is_some());
    for cluster in &world.clusters {
        assert!(cluster.persistent_volume.is_none() && cluster.claim.is_none());
    }
}

#[test]
fn without_a_workload_a_caretaker_rebuilds_and_goes() {
    let mut world = World::new();
    world.apply_to_both(&VOLUME.replace(
        "  workloads: [{apiVersion: apps/v1, kind: StatefulSet, name: records}]\n",
        "",
    ));
    for cluster in &mut world.clusters {
        cluster.workloads.clear();
    }
    world.settle();
    assert!(world.register.as_ref().unwrap().holder.is_none());
    // A pod came and went while the other copy was away.
    let register = world.register.clone().unwrap();
    let generation = world.generation();
    world.register = Some(twinsite_register::Register {
        epoch: twinsite_register::Epoch(2),
        generation,
        members: Members::only(Leg::A),
        parents: vec![twinsite_register::Parent {
            epoch: register.epoch,
            generation: register.generation,
            members: register.members,
        }],
        ..register
    });
    world.settle();
    assert_eq!(
        world.register.as_ref().unwrap().members,
        Members::BOTH,
        "{}",
        world.transcript()
    );
    assert!(world.clusters.iter().all(|cluster| {
        cluster
            .attachments
            .iter()
            .all(|a| a.spec.mode != AttachmentMode::Caretaker)
    }));
    golden("caretaker", &world);
}
