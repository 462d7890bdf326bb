//! Bad input and bad days, but for lost nodes ([`super::lost_nodes`]) and a new register ([`super::reseed`]).

use k8s_openapi::{api::core::v1::PersistentVolumeClaim, jiff::Timestamp};
use twinsite_api::{AttachmentMode, DeletionPolicy, MirroredVolume};
use twinsite_register::{Leg, Mark, Members};

use super::golden;
use super::world::{VOLUME, World};
use crate::volume::{Observed, Reach, Status, names, plan, status};

#[test]
fn a_cluster_rebuilt_from_git_adopts_its_full_copies() {
    let mut world = World::running();
    let before = world.register.clone().unwrap();
    world.rebuild(0);
    world.settle();
    assert!(world.serves(0), "{}", world.transcript());
    assert_eq!(
        world.register.as_ref().unwrap().register_id,
        before.register_id
    );
    golden("rebuilt", &world);
}

#[test]
fn both_clusters_rebuilt_at_once_adopt_too() {
    let mut world = World::running();
    let before = world.register.clone().unwrap();
    world.rebuild(0);
    world.rebuild(1);
    world.settle();
    assert!(world.serves(0), "{}", world.transcript());
    assert_eq!(
        world.register.as_ref().unwrap().register_id,
        before.register_id
    );
}

#[test]
fn a_witness_that_lost_its_register_stops_everything_but_what_runs() {
    let mut world = World::running();
    world.register = None;
    world.settle();
    assert!(
        world.told(0, "Stalled").starts_with("True RegisterMissing"),
        "{}",
        world.transcript()
    );
    assert!(
        world.clusters[0]
            .attachments
            .iter()
            .all(|attachment| attachment.spec.mode != AttachmentMode::Birth)
    );
    assert_eq!(world.clusters[0].pods.len(), 1);
}

#[test]
fn a_witness_that_lost_its_register_after_a_failover_leaves_the_pods_where_they_are() {
    let mut world = World::running();
    world.kill(0);
    world.settle();
    world.revive(0);
    world.settle();
    assert!(world.serves(1), "{}", world.transcript());
    world.register = None;
    world.settle();
    for place in 0..2 {
        assert!(
            world
                .told(place, "Stalled")
                .starts_with("True RegisterMissing"),
            "{}",
            world.transcript()
        );
    }
    assert_eq!(world.clusters[1].pods.len(), 1, "{}", world.transcript());
}

#[test]
fn a_restored_witness_is_not_believed() {
    let mut world = World::running();
    let old = world.register.clone();
    world.kill(1);
    world.settle();
    world.revive(1);
    world.settle();
    assert!(world.register.as_ref().unwrap().epoch > old.as_ref().unwrap().epoch);
    world.register = old;
    world.settle();
    for place in 0..2 {
        assert!(
            world
                .told(place, "Stalled")
                .starts_with("True WitnessRolledBack"),
            "{}",
            world.transcript()
        );
    }
}

#[test]
fn with_the_witness_away_the_local_site_goes_on() {
    let mut world = World::running();
    world.witness_up = false;
    world.settle();
    assert_eq!(world.clusters[0].pods.len(), 1);
    assert!(
        world.told(0, "Ready").starts_with("True"),
        "{}",
        world.transcript()
    );
    assert!(
        world
            .told(0, "WitnessReachable")
            .starts_with("False Unreachable")
    );
    world.witness_up = true;
    world.settle();
    assert!(world.serves(0));
}

#[test]
fn the_operator_killed_between_any_two_actions_loses_nothing() {
    for place in 0..2 {
        for after in 0..8 {
            let mut world = World::new();
            world.dies_after = Some((place, after));
            world.apply_to_both(VOLUME);
            world.settle();
            assert!(
                world.serves(0),
                "died at {place} after {after}: {}",
                world.transcript()
            );
            world.dies_after = Some((place, after));
            world.edit_both(|volume| volume.spec.active_site = Some("research".to_owned()));
            world.settle();
            assert!(
                world.serves(1),
                "moved; died at {place} after {after}: {}",
                world.transcript()
            );
        }
    }
}

#[test]
fn the_operator_killed_between_any_two_actions_of_a_loss_and_a_return_loses_nothing() {
    for place in 0..2 {
        for after in 0..8 {
            let mut world = World::running();
            let is_at = |world: &World, site: usize, day: &str| {
                assert!(
                    world.serves(site),
                    "{day}; died at {place} after {after}: {}",
                    world.transcript()
                );
            };
            world.dies_after = Some((place, after));
            world.kill(0);
            world.settle();
            is_at(&world, 1, "lost");
            world.dies_after = Some((place, after));
            world.revive(0);
            world.settle();
            is_at(&world, 1, "back");
            let register = world.register.as_ref().unwrap();
            assert_eq!(register.members, Members::BOTH, "{}", world.transcript());
            world.dies_after = Some((place, after));
            let order = "to: medical, mode: Planned, volumes: {namespace: rv, names: [records]}";
            world.order(0, order);
            world.settle();
            is_at(&world, 0, "moved back");
        }
    }
}

fn claim(text: &str) -> PersistentVolumeClaim {
    serde_yaml::from_str(text).unwrap()
}

#[test]
fn a_claim_of_another_is_never_taken() {
    let mut world = World::new();
    world.clusters[0].claim = Some(claim(
        "{metadata: {name: records, uid: theirs}, spec: {accessModes: [ReadWriteOnce]}}",
    ));
    world.apply_to_both(VOLUME);
    world.settle();
    assert!(
        world.told(0, "Stalled").starts_with("True ClaimTaken"),
        "{}",
        world.transcript()
    );
    assert!(
        world.clusters[0]
            .claim
            .as_ref()
            .unwrap()
            .metadata
            .labels
            .is_none()
    );
    // The other site is not held up by it.
    assert!(world.told(1, "Stalled").starts_with("False"));
}

#[test]
fn a_claim_that_a_chart_makes_is_adopted() {
    let mut world = World::new();
    world.clusters[0].claim = Some(claim(
        "{metadata: {name: records, uid: theirs}, spec: {accessModes: [ReadWriteOncePod], storageClassName: fast}}",
    ));
    world.clusters[1].claim = Some(claim(
        "{metadata: {name: records, uid: theirs}, spec: {accessModes: [ReadWriteOncePod], storageClassName: fast}}",
    ));
    world.apply_to_both(&VOLUME.replace(
        "claim: {name: records}",
        "claim: {name: records, create: false}",
    ));
    world.settle();
    assert!(world.serves(0), "{}", world.transcript());
    let volume = world.clusters[0]
        .persistent_volume
        .as_ref()
        .unwrap()
        .spec
        .as_ref()
        .unwrap();
    assert_eq!(volume.storage_class_name.as_deref(), Some("fast"));
}

#[test]
fn a_claim_that_was_made_anew_is_bound_again() {
    let mut world = World::running();
    world.clusters[1].claim = None;
    world.settle();
    let bound = world.clusters[1]
        .persistent_volume
        .as_ref()
        .unwrap()
        .spec
        .as_ref()
        .unwrap()
        .claim_ref
        .as_ref()
        .unwrap()
        .uid
        .clone();
    assert_eq!(
        bound,
        world.clusters[1].claim.as_ref().unwrap().metadata.uid
    );
}

#[test]
fn two_clusters_configured_as_one_site_do_nothing_at_the_second() {
    let world = World::running();
    let (desired, observed) = world.observe(1);
    let mut desired = desired.unwrap();
    desired.index = None;
    let planned = plan(&desired, &observed, Timestamp::UNIX_EPOCH);
    assert!(planned.actions.is_empty() && planned.stalled.unwrap().word == "ClaimedByAnother");
}

#[test]
fn an_operator_that_starts_while_the_witness_is_away_says_so_and_stops_nothing() {
    let mut world = World::running();
    world.witness_up = false;
    let (desired, observed) = world.observe(0);
    let mut desired = desired.unwrap();
    desired.index = None;
    let now = Timestamp::UNIX_EPOCH;
    let planned = plan(&desired, &observed, now);
    assert!(planned.actions.is_empty() && planned.stalled.is_none());
    let said = status(&desired, &observed, &planned, None, now);
    let told = |type_: &str| {
        said.status
            .conditions
            .iter()
            .find(|told| told.type_ == type_)
            .map(|told| told.status.clone())
    };
    assert_eq!(
        (told("Ready").as_deref(), told("Stalled").as_deref()),
        (Some("Unknown"), Some("False"))
    );
}

#[test]
fn a_pod_forced_onto_the_standby_site_moves_nothing() {
    let mut world = World::running();
    world.clusters[1].workloads.push((
        serde_yaml::from_str("{apiVersion: v1, kind: Deployment, name: by-hand}").unwrap(),
        1,
    ));
    world.settle();
    assert!(world.serves(0), "{}", world.transcript());
    assert_eq!(world.register.as_ref().unwrap().members, Members::BOTH);
}

#[test]
fn several_pools_that_could_hold_a_full_copy_need_a_person() {
    let mut world = World::running();
    let mut second = world.clusters[0].pools[0].clone();
    second.metadata.name = Some("pool-new".to_owned());
    second.spec.portals = vec!["192.0.2.9:3260".to_owned()];
    world.clusters[0].pools.push(second);
    // The peer remembers at which address the copy was.
    world.rebuild(0);
    world.settle();
    assert_eq!(world.clusters[0].legs[0].spec.pool, "pool-m1");
    // Nobody remembers.
    world.rebuild(0);
    world.rebuild(1);
    world.settle();
    assert!(world.clusters[0].legs.is_empty());
    assert!(
        world.told(0, "Stalled").contains("name the one that does"),
        "{}",
        world.transcript()
    );
}

#[test]
fn a_mark_of_a_register_that_is_gone_prevents_a_birth() {
    let mut world = World::new();
    let register = World::running().register.unwrap();
    world.clusters[0].marks = vec![Mark::of(&register)];
    world.apply_to_both(VOLUME);
    world.settle();
    assert!(
        world.register.is_none() && world.told(0, "Stalled").starts_with("True RegisterMissing")
    );
}

#[test]
fn what_the_witness_or_the_peer_says_of_one_volume_and_cannot_be_used_is_told_at_that_volume() {
    let of_volume = |why: &str| Reach::Silent {
        last: None,
        why: why.to_owned(),
        of_volume: true,
    };
    let mut world = World::running();
    let now = Timestamp::from_second(world.now).unwrap();
    let say = |world: &World, change: &dyn Fn(&mut Observed)| {
        let (desired, mut seen) = world.observe(1);
        let desired = desired.unwrap();
        change(&mut seen);
        let planned = plan(&desired, &seen, now);
        status(&desired, &seen, &planned, None, now)
    };
    let lines = |said: &Status, word: &str| {
        let events = said.events.iter();
        let told = events.filter(|event| event.reason == word);
        told.map(|event| event.note.clone()).collect::<Vec<_>>()
    };
    let unusable = "the register cannot be used: it is no register";
    let bad_register = |seen: &mut Observed| seen.witness.reach = of_volume(unusable);
    let said = say(&world, &bad_register);
    assert_eq!(lines(&said, "Unreadable"), [unusable]);
    let told = |type_: &str| super::world::told(&said.status.conditions, type_);
    assert_eq!(told("Ready"), format!("Unknown WitnessNeeded: {unusable}"));
    assert_eq!(
        told("WitnessReachable"),
        format!("False Unreadable: {unusable}")
    );
    // A state that lasts is told once, and its end.
    let volume = world.clusters[1].volume.as_mut().unwrap();
    volume.status = Some(said.status.clone());
    assert!(say(&world, &bad_register).events.is_empty());
    let said = say(&world, &|_| {});
    assert_eq!(lines(&said, "Readable"), ["the register can be used again"]);

    let volume = world.clusters[1].volume.as_mut().unwrap();
    volume.status = Some(said.status);
    let odd = "it answers, but its Leg cannot be read";
    let said = say(&world, &|seen| seen.peer.reach = of_volume(odd));
    assert_eq!(lines(&said, "Unreadable"), [odd]);
    // That one of them is away is told at the SitePair.
    let said = say(&world, &|seen| {
        seen.peer.reach = Reach::Silent {
            last: None,
            why: odd.to_owned(),
            of_volume: false,
        };
    });
    assert!(lines(&said, "Unreadable").is_empty());
}

#[test]
fn a_copy_whose_lun_was_given_up_is_not_promised_to_be_rebuilt() {
    let mut world = World::running();
    world.kill(1);
    world.settle();
    assert!(world.told(0, "InSync").contains("rebuilt by itself"));
    let naa = world.clusters[1].legs[0].spec.naa_text();
    world.edit(0, |volume| {
        let annotations = volume.metadata.annotations.get_or_insert_default();
        annotations.insert(names::RETIRE_ANNOTATION.to_owned(), format!("B={naa}"));
    });
    world.settle();
    let told = world.told(0, "InSync");
    assert!(told.contains("its LUN was given up for good"), "{told}");
}

#[test]
fn a_member_is_not_given_up_and_whoever_asked_for_it_is_told() {
    let mut world = World::running();
    let naa = world.clusters[1].legs[0].spec.naa_text();
    let say = |world: &mut World, place: usize, text: Option<&str>| {
        world.edit(place, |volume| {
            let annotations = volume.metadata.annotations.get_or_insert_default();
            annotations.remove(names::RETIRE_ANNOTATION);
            annotations
                .extend(text.map(|text| (names::RETIRE_ANNOTATION.to_owned(), text.to_owned())));
        });
        world.settle();
    };
    let retire = format!("B={naa}");
    say(&mut world, 0, Some(&retire));
    let told = world.told(0, "RequestRefused");
    assert!(
        told.starts_with("True StillMember: annotation on MirroredVolume rv/records"),
        "{told}"
    );
    assert!(
        told.contains("take the leg at research out of spec.legs in both clusters"),
        "{told}"
    );
    let command = "kubectl -n rv annotate mirroredvolume records twinsite.io/retire-leg-";
    assert!(told.contains(command), "{told}");
    let event = "medical: event RequestRefused annotation on MirroredVolume";
    assert_eq!(
        world.transcript().matches(event).count(),
        1,
        "{}",
        world.transcript()
    );
    // A person's mistake is not work under way.
    assert!(world.told(0, "Reconciling").starts_with("False"));
    assert!(world.register.as_ref().unwrap().retired.is_empty());

    // In the other cluster it would never be heard.
    say(&mut world, 0, None);
    assert_eq!(world.told(0, "RequestRefused"), "");
    say(&mut world, 1, Some(&retire));
    let told = world.told(1, "RequestRefused");
    assert!(
        told.starts_with("True NotActive") && told.contains("in the cluster of medical only"),
        "{told}"
    );
    // Git says it in both.
    say(&mut world, 0, Some(&retire));
    assert_eq!(world.told(1, "RequestRefused"), "");
    // Once the copy has left it is done.
    world.edit_both(|volume| volume.spec.legs.retain(|leg| leg.site == "medical"));
    world.settle();
    assert_eq!(
        world.told(0, "RequestRefused"),
        "",
        "{}",
        world.transcript()
    );
    assert_eq!(world.register.as_ref().unwrap().retired.len(), 1);
    // The next copy is another LUN: by the old name it would be kept out for ever, in whatever pool it stands.
    world.edit_both(|volume| {
        volume.metadata.annotations = None;
        let legs: MirroredVolume = serde_yaml::from_str(VOLUME).unwrap();
        volume.spec.legs = legs.spec.legs;
    });
    world.settle();
    let new = world.clusters[1].legs[0].spec.naa_text();
    assert_ne!(new, naa);
    let target = |place: usize| {
        let status = world.clusters[place]
            .volume
            .as_ref()
            .unwrap()
            .status
            .clone()
            .unwrap();
        let leg = status
            .legs
            .into_iter()
            .find(|leg| leg.site == "research")
            .unwrap();
        leg.target.unwrap().naa
    };
    assert_eq!(
        (target(0), target(1)),
        (new.clone(), new),
        "{}",
        world.transcript()
    );
    assert!(
        world.told(0, "InSync").starts_with("True"),
        "{}",
        world.transcript()
    );
    // The word of then is not about the copy of now: nobody is told to give that one up, and it is wiped like any other.
    say(&mut world, 0, Some(&retire));
    assert_eq!(world.told(0, "RequestRefused"), "");
    world.edit_both(|volume| volume.spec.deletion_policy = DeletionPolicy::Delete);
    world.settle();
    let time = world.time();
    world.edit_both(|volume| volume.metadata.deletion_timestamp = Some(time.clone()));
    for cluster in &mut world.clusters {
        cluster.workloads[0].1 = 0;
    }
    // Its agents take their time.
    let ready = |world: &mut World, ready| {
        for node in &mut world.clusters[1].nodes {
            node.ready = ready;
        }
    };
    ready(&mut world, false);
    world.rounds(10);
    let landed = world.register.as_ref().unwrap().landed;
    assert_eq!(landed, Members::only(Leg::A), "{}", world.transcript());
    ready(&mut world, true);
    world.settle();
    assert!(world.register.is_none(), "{}", world.transcript());
}
