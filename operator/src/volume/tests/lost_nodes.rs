//! A node or an agent that is lost: what is fenced, let go and started anew, also of a volume that is being deleted.

use std::{sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use twinsite_api::{AttachmentMode, AttachmentState, DeletionPolicy, NodeLossPolicy};

use super::golden;
use super::world::World;
use crate::volume::{Action, Observed, Plan, orphan, plan};

#[test]
fn a_lost_node_is_fenced_and_its_pod_starts_on_another() {
    let mut world = World::running();
    world.say("-- node m1 is silent");
    for second in 0..60 {
        let node = &mut world.clusters[0].nodes[0];
        (node.ready, node.silent_for) = (false, Some(Duration::from_secs(second)));
        world.rounds(1);
    }
    assert!(world.serves(0), "{}", world.transcript());
    assert_eq!(world.clusters[0].pods[0].node.as_deref(), Some("m2"));
    golden("node-loss", &world);
}

#[test]
fn the_pod_whose_device_died_with_its_agent_starts_anew_once() {
    let mut world = World::running();
    let before = world.clusters[0].pods[0].uid.clone();
    let key = |world: &World| {
        let status = world.clusters[0].volume.as_ref().unwrap().status.clone();
        status.unwrap().device.unwrap().key
    };
    let old = key(&world);
    // The agent comes up again and attaches with another key.
    let writer = world.clusters[0]
        .attachments
        .iter_mut()
        .find(|attachment| attachment.spec.mode == AttachmentMode::Writer)
        .unwrap();
    writer.status.as_mut().unwrap().state = AttachmentState::Pending;
    world.settle();
    assert!(world.serves(0), "{}", world.transcript());
    let pod = world.clusters[0].pods[0].uid.clone();
    assert_ne!(pod, before, "{}", world.transcript());
    assert_ne!(key(&world), old);
    world.settle();
    assert_eq!(world.clusters[0].pods[0].uid, pod, "once is enough");
}

#[test]
fn a_node_whose_writer_beats_is_not_lost() {
    let mut world = World::running();
    // Kubelet and agent are cut off from the API server; the writer goes on.
    let node = &mut world.clusters[0].nodes[0];
    node.ready = false;
    for second in 0..60 {
        world.beat_at = world.now;
        world.clusters[0].nodes[0].silent_for = Some(Duration::from_secs(second));
        world.beat_at = world.now;
        world.rounds(1);
        world.beat_at = world.now;
    }
    assert!(world.serves(0), "{}", world.transcript());
    assert_eq!(world.clusters[0].pods[0].node.as_deref(), Some("m1"));
}

/// The plan for a volume whose node is lost and already fenced, and of which this is seen.
fn behind_the_fence(see: impl FnOnce(&mut Observed)) -> Plan {
    let mut world = World::running();
    world.clusters[0].nodes[0].silent_for = Some(Duration::from_secs(30));
    let (desired, mut seen) = world.observe(0);
    seen.attachments.clear();
    see(&mut seen);
    let now = Timestamp::from_second(world.now).unwrap();
    plan(&desired.unwrap(), &seen, now)
}

#[test]
fn what_kubernetes_still_attaches_to_a_lost_node_is_left_to_it_until_it_is_attached() {
    for attached in [true, false] {
        // The new pod was placed on the lost node too: nobody has told the scheduler yet.
        let planned = behind_the_fence(|seen| seen.volume_attachments[0].attached = attached);
        let mut actions = planned.actions.iter();
        let is_taken = actions.any(|one| matches!(one, Action::DeleteVolumeAttachment { .. }));
        assert_eq!(is_taken, attached, "{planned}");
    }
}

/// Kubernetes took the volume for attached to the node, and made no VolumeAttachment for a minute: the pod waited as long.
#[test]
fn a_pod_that_is_placed_on_the_lost_node_again_is_taken_away_though_nothing_is_attached_there() {
    for (node, goes) in [("m1", true), ("m2", false)] {
        let planned = behind_the_fence(|seen| {
            seen.volume_attachments.clear();
            seen.pods[0].node = Some(node.to_owned());
        });
        let mut actions = planned.actions.iter();
        let is_taken = actions.any(|one| matches!(one, Action::DeletePod { .. }));
        assert_eq!(is_taken, goes, "{planned}");
    }
}

#[test]
fn with_policy_kubernetes_a_lost_node_is_left_alone() {
    let mut world = World::running();
    world.clusters[0].pair.spec.node_loss.policy = NodeLossPolicy::Kubernetes;
    let node = &mut world.clusters[0].nodes[0];
    (node.ready, node.silent_for) = (false, Some(Duration::from_secs(600)));
    world.rounds(40);
    assert_eq!(world.clusters[0].pods[0].node.as_deref(), Some("m1"));
}

/// What Kubernetes does about it comes late, by its own time-outs or by a taint of a person, and must be enough.
#[test]
fn with_policy_kubernetes_the_pod_starts_on_another_node_once_kubernetes_gives_the_first_one_up() {
    let mut world = World::running();
    world.clusters[0].pair.spec.node_loss.policy = NodeLossPolicy::Kubernetes;
    let node = &mut world.clusters[0].nodes[0];
    (node.ready, node.silent_for) = (false, Some(Duration::from_secs(600)));
    world.rounds(40);
    // The pod is deleted without grace, and its volume detached by force.
    let now = world.time();
    let cluster = &mut world.clusters[0];
    cluster.pods.clear();
    cluster.volume_attachments.clear();
    for one in &mut cluster.attachments {
        one.metadata.deletion_timestamp = Some(now.clone());
    }
    world.rounds(40);
    assert!(world.serves(0), "{}", world.transcript());
    let mut writers = world.clusters[0].attachments.iter();
    let writer = writers.find(|one| one.spec.mode == AttachmentMode::Writer);
    assert_eq!(writer.unwrap().spec.node, "m2", "{}", world.transcript());
}

#[test]
fn a_caretaker_whose_node_is_lost_is_followed_by_one_of_another_node() {
    for policy in [NodeLossPolicy::Fence, NodeLossPolicy::Kubernetes] {
        let mut world = World::running();
        world.clusters[0].pair.spec.node_loss.policy = policy;
        world.kill(1);
        world.settle();
        world.edit(0, |volume| volume.spec.workloads = None);
        world.clusters[0].workloads[0].1 = 0;
        world.settle();
        let caretaker = |world: &World| {
            let mut all = world.clusters[0].attachments.iter();
            let there = all.find(|one| one.spec.mode == AttachmentMode::Caretaker);
            there.map(|one| one.spec.node.clone())
        };
        assert_eq!(
            caretaker(&world).as_deref(),
            Some("m1"),
            "{}",
            world.transcript()
        );
        for second in 0..60 {
            let node = &mut world.clusters[0].nodes[0];
            (node.ready, node.silent_for) = (false, Some(Duration::from_secs(second)));
            world.rounds(1);
        }
        assert_eq!(
            caretaker(&world).as_deref(),
            Some("m2"),
            "{}",
            world.transcript()
        );
    }
}

/// Nobody of this cluster opens the volume any more, so that no fence would ever come.
#[test]
fn a_node_that_is_lost_does_not_keep_a_volume_from_its_deletion() {
    for policy in [DeletionPolicy::Retain, DeletionPolicy::Delete] {
        let mut world = World::running();
        for second in 0..300 {
            let node = &mut world.clusters[0].nodes[0];
            // Kubernetes calls it Ready longer than it takes to be lost.
            (node.ready, node.silent_for) = (second < 50, Some(Duration::from_secs(second)));
            if second == 3 {
                let now = world.time();
                world.edit_both(|volume| {
                    volume.spec.deletion_policy = policy;
                    volume.metadata.deletion_timestamp = Some(now.clone());
                });
                for cluster in &mut world.clusters {
                    cluster.workloads[0].1 = 0;
                }
            }
            world.rounds(1);
        }
        for cluster in &world.clusters {
            assert!(cluster.volume.is_none(), "{}", world.transcript());
            let writers = cluster.attachments.iter();
            let writers = writers.filter(|one| one.spec.mode == AttachmentMode::Writer);
            assert_eq!(writers.count(), 0, "{policy:?}: {}", world.transcript());
            assert!(cluster.volume_attachments.is_empty());
            assert!(
                cluster.legs.is_empty(),
                "{policy:?}: {}",
                world.transcript()
            );
        }
        assert!(
            caretakers(&world) <= 1,
            "{policy:?}: {}",
            world.transcript()
        );
    }
}

/// How many were made.
fn caretakers(world: &World) -> usize {
    let text = world.transcript();
    text.matches("create Attachment ID-caretaker").count()
}

#[test]
fn what_is_left_of_a_forgotten_volume_is_destroyed_although_its_holder_died() {
    let mut world = World::running();
    let delete = |world: &mut World, place: usize| {
        let now = world.time();
        world.edit(place, |volume| {
            volume.metadata.deletion_timestamp = Some(now.clone());
        });
    };
    world.edit_both(|volume| volume.spec.deletion_policy = DeletionPolicy::Delete);
    world.settle();
    delete(&mut world, 0);
    world.settle();
    assert!(world.clusters[0].volume.is_none() && world.serves(0));
    for second in 0..300 {
        let node = &mut world.clusters[0].nodes[0];
        (node.ready, node.silent_for) = (second < 50, Some(Duration::from_secs(second)));
        if second == 3 {
            delete(&mut world, 1);
            for cluster in &mut world.clusters {
                cluster.workloads[0].1 = 0;
            }
        }
        world.rounds(1);
    }
    for cluster in &world.clusters {
        assert!(cluster.volume.is_none() && cluster.attachments.is_empty());
        assert!(cluster.legs.is_empty(), "{}", world.transcript());
    }
    assert!(world.register.is_none(), "{}", world.transcript());
    assert_eq!(caretakers(&world), 1, "{}", world.transcript());
}

#[test]
fn a_caretaker_that_clears_a_dead_holder_for_what_is_left_stays_until_it_has_attached() {
    let mut world = World::running();
    world.edit_both(|volume| volume.spec.deletion_policy = DeletionPolicy::Delete);
    world.settle();
    for cluster in &mut world.clusters {
        cluster.volume = None;
    }
    let (_, mut seen) = world.observe(0);
    let left = world.orphan(0, &seen);
    let mut caretaker = (*seen.attachments[0]).clone();
    caretaker.spec.mode = AttachmentMode::Caretaker;
    for (state, goes) in [
        (AttachmentState::Pending, false),
        (AttachmentState::Attached, true),
    ] {
        caretaker.status.as_mut().unwrap().state = state;
        seen.attachments = vec![Arc::new(caretaker.clone())];
        let now = Timestamp::from_second(world.now).unwrap();
        let planned = orphan::plan(&left, &seen, now);
        let mut actions = planned.actions.iter();
        let is_deleted = actions.any(|one| matches!(one, Action::DeleteAttachment { .. }));
        assert_eq!(is_deleted, goes, "{state:?}: {planned}");
    }
}

#[test]
fn the_beat_of_what_is_left_is_watched_as_long_as_somebody_may_hold_it() {
    let mut world = World::running();
    let (_, mut seen) = world.observe(0);
    assert!(orphan::wants_beat(&seen), "a writer is ordered here");
    seen.attachments.clear();
    assert!(!orphan::wants_beat(&seen), "the other cluster keeps it");
    seen.peer.volume = None;
    assert!(orphan::wants_beat(&seen), "the register has a holder");
    world.register.as_mut().unwrap().holder = None;
    let (_, mut seen) = world.observe(0);
    seen.attachments.clear();
    seen.peer.volume = None;
    assert!(!orphan::wants_beat(&seen));
}

/// The copy of research is given up in the spec; its node has gone silent, and then a person deletes the Node.
#[test]
fn a_leg_whose_node_never_returns_goes_with_the_node_object_and_says_so_before() {
    let mut world = World::running();
    let silent = |world: &mut World, gone: bool| {
        let node = &mut world.clusters[1].nodes[0];
        (node.ready, node.agent_silent, node.gone) = (false, true, gone);
        node.silent_for = (!gone).then(|| Duration::from_secs(600));
    };
    silent(&mut world, false);
    world.edit_both(|volume| volume.spec.legs.retain(|leg| leg.site == "medical"));
    world.settle();
    let leg = world.clusters[1].legs[0].clone();
    assert!(
        leg.metadata.deletion_timestamp.is_some(),
        "{}",
        world.transcript()
    );
    let told = world.told(1, "Reconciling");
    assert!(told.contains("kubectl delete node r1"), "{told}");
    silent(&mut world, true);
    world.settle();
    assert!(world.clusters[1].legs.is_empty(), "{}", world.transcript());
    let told = world.told(1, "Reconciling");
    assert!(told.starts_with("False"), "{told}");
}

#[test]
fn a_leg_of_a_member_is_not_let_go_of_because_somebody_deleted_it() {
    let mut world = World::running();
    let node = &mut world.clusters[1].nodes[0];
    (node.ready, node.agent_silent, node.gone) = (false, true, true);
    let now = world.time();
    world.clusters[1].legs[0].metadata.deletion_timestamp = Some(now);
    let (desired, seen) = world.observe(1);
    let now = Timestamp::from_second(world.now).unwrap();
    let planned = plan(&desired.unwrap(), &seen, now);
    let mut actions = planned.actions.iter();
    let lets_go = actions.any(|one| matches!(one, Action::ReleaseLeg { .. }));
    assert!(!lets_go, "{planned}");
}

#[test]
fn a_volume_on_a_node_that_is_lost_is_not_said_to_be_attached_and_well() {
    for policy in [NodeLossPolicy::Fence, NodeLossPolicy::Kubernetes] {
        let mut world = World::running();
        assert_eq!(world.told(0, "Ready"), "True AsDesired: attached on m1");
        world.clusters[0].pair.spec.node_loss.policy = policy;
        // Nobody else can fence, so that it lasts.
        world.clusters[0].nodes[1].ready = false;
        let node = &mut world.clusters[0].nodes[0];
        (node.ready, node.silent_for) = (false, Some(Duration::from_secs(60)));
        world.rounds(30);
        let told = world.told(0, "Ready");
        assert!(told.starts_with("False NodeLost: node m1"), "{told}");
        let says = match policy {
            NodeLossPolicy::Fence => "its pod starts on another node of medical",
            NodeLossPolicy::Kubernetes => "by Kubernetes alone",
        };
        assert!(told.contains(says), "{told}");
        let event = "medical: event NodeLost node m1";
        assert_eq!(
            world.transcript().matches(event).count(),
            1,
            "{}",
            world.transcript()
        );
    }
    // The agent alone: kubelet lives, and the node is not lost.
    let mut world = World::running();
    world.clusters[0].nodes[0].agent_silent = true;
    world.rounds(1);
    let told = world.told(0, "Ready");
    assert!(
        told.starts_with("Unknown AgentSilent: attached on m1, of whose agent nothing is heard"),
        "{told}"
    );
}
