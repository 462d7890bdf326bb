//! Between the sites: planned, by loss, by order, by force, and back.

use twinsite_api::{Failback, FailoverPolicy, FailoverState};
use twinsite_register::{Leg, Members};

use super::golden;
use super::world::{VOLUME, World};

fn edit_active(world: &mut World, site: &str) {
    world.edit_both(|volume| volume.spec.active_site = Some(site.to_owned()));
}

#[test]
fn an_edit_of_active_site_in_both_clusters_is_a_planned_move() {
    let mut world = World::running();
    edit_active(&mut world, "research");
    world.settle();
    assert!(world.serves(1) && !world.register.as_ref().unwrap().active.latched);
    let last = world.clusters[0]
        .volume
        .as_ref()
        .unwrap()
        .status
        .as_ref()
        .unwrap()
        .last_move
        .clone()
        .unwrap();
    assert_eq!(
        (last.mode.as_str(), last.to.as_str()),
        ("Planned", "research")
    );
    assert!(last.seconds.is_some(), "{last:?}");
    golden("planned-move", &world);
}

/// Lines of the transcript in which one of these stands, in order.
fn lines(world: &World, parts: &[&str]) -> Vec<String> {
    let text = world.transcript();
    let wanted = |line: &&str| parts.iter().any(|part| line.contains(part));
    text.lines().filter(wanted).map(str::to_owned).collect()
}

#[test]
fn the_pod_is_placed_at_the_other_site_before_it_ends_here_and_the_volume_is_let_go_at_once() {
    let mut world = World::running();
    // A kubelet says each 10 s which volumes it uses: neither end waits for that while nobody writes.
    world.kubelet_lag = 10;
    world.unheld = 0;
    edit_active(&mut world, "research");
    world.settle();
    assert!(world.serves(1), "{}", world.transcript());
    assert!(world.unheld <= 1, "{} s without a writer", world.unheld);
    assert_eq!(
        lines(&world, &["scale", "release="]),
        [
            "research: scale StatefulSet/records to 1",
            "medical: scale StatefulSet/records to 0",
            "medical: update Attachment ID-writer release=true",
        ],
        "{}",
        world.transcript()
    );
    let status = |place: usize| {
        world.clusters[place]
            .volume
            .as_ref()
            .unwrap()
            .status
            .as_ref()
    };
    let left = status(0).unwrap().leaving.is_some() || status(1).unwrap().awaited.is_some();
    assert!(!left, "nothing of the move is left");
}

#[test]
fn what_is_left_of_an_earlier_time_there_is_not_taken_for_a_pod_that_waits() {
    let mut world = World::running();
    world.kill(0);
    world.settle();
    edit_active(&mut world, "research");
    world.settle();
    // Its operator is the last to start: the old pod, its order and its VolumeAttachment are all still there.
    world.clusters[0].operator_up = false;
    world.revive(0);
    world.rounds(5);
    assert!(!world.clusters[0].pods.is_empty());
    edit_active(&mut world, "medical");
    world.clusters[0].operator_up = true;
    world.kubelet_lag = 5;
    world.unheld = 0;
    world.settle();
    assert!(world.serves(0), "{}", world.transcript());
    assert!(world.unheld <= 1, "{} s without a writer", world.unheld);
}

#[test]
fn a_site_that_is_lost_in_the_middle_of_a_move_leaves_the_volume_at_the_other() {
    for lost in 0..2 {
        for rounds in 0..12 {
            let mut world = World::running();
            world.kubelet_lag = 5;
            edit_active(&mut world, "research");
            world.rounds(rounds);
            world.kill(lost);
            world.settle();
            assert!(
                world.serves(1 - lost),
                "lost {lost} after {rounds}: {}",
                world.transcript()
            );
            world.revive(lost);
            world.settle();
            assert!(world.serves(0) != world.serves(1), "{}", world.transcript());
            assert_eq!(world.register.as_ref().unwrap().members, Members::BOTH);
        }
    }
}

#[test]
fn a_site_whose_operator_never_takes_the_move_up_stops_nothing() {
    let mut world = World::running();
    world.clusters[1].operator_up = false;
    world.unheld = 0;
    edit_active(&mut world, "research");
    world.rounds(60);
    assert!(
        world.serves(0) && world.unheld == 0,
        "{}",
        world.transcript()
    );
    world.clusters[1].operator_up = true;
    world.settle();
    assert!(world.serves(1), "{}", world.transcript());
}

#[test]
fn a_move_back_before_kubernetes_has_detached_the_old_pod_waits_for_a_new_one() {
    let mut world = World::running();
    world.kubelet_lag = 10;
    edit_active(&mut world, "research");
    while !world.serves(1) {
        world.rounds(1);
    }
    assert!(!world.clusters[0].volume_attachments.is_empty());
    edit_active(&mut world, "medical");
    world.unheld = 0;
    world.settle();
    assert!(world.serves(0), "{}", world.transcript());
    assert!(world.unheld <= 1, "{} s without a writer", world.unheld);
}

#[test]
fn a_stranger_on_the_claim_does_not_stand_for_a_pod_that_does_not_use_it() {
    let mut world = World::new();
    let two = "workloads: [{apiVersion: apps/v1, kind: StatefulSet, name: records}, {apiVersion: apps/v1, kind: Deployment, name: web}]";
    world.apply_to_both(&VOLUME.replace(
        "workloads: [{apiVersion: apps/v1, kind: StatefulSet, name: records}]",
        two,
    ));
    for cluster in &mut world.clusters {
        let (records, replicas) = cluster.workloads[0].clone();
        let web = twinsite_api::Workload {
            kind: "Deployment".to_owned(),
            name: "web".to_owned(),
            ..records
        };
        cluster.workloads.push((web, replicas));
    }
    world.settle();
    assert!(world.serves(0));
    let mut stranger = world.clusters[0].pods[0].clone();
    stranger.name = "backup".to_owned();
    stranger.owner = Some(("Job".to_owned(), "backup".to_owned()));
    world.clusters[0].pods.push(stranger);
    edit_active(&mut world, "research");
    for _ in 0..60 {
        world.rounds(1);
        let up = |place: usize| world.clusters[place].workloads[1].1 > 0;
        assert!(!(up(0) && up(1)), "{}", world.transcript());
    }
    assert!(world.serves(1), "{}", world.transcript());
}

#[test]
fn pods_that_could_run_without_the_volume_are_placed_only_after_it_was_let_go() {
    let mut world = World::new();
    // Two replicas, of which one uses the volume.
    world.apply_to_both(&VOLUME.replace("name: records}]", "name: records, replicas: 2}]"));
    world.settle();
    assert!(world.serves(0));
    world.kubelet_lag = 10;
    edit_active(&mut world, "research");
    for _ in 0..60 {
        world.rounds(1);
        let up = |place: usize| world.clusters[place].workloads[0].1 > 0;
        assert!(!(up(0) && up(1)), "{}", world.transcript());
    }
    assert!(world.serves(1), "{}", world.transcript());
}

#[test]
fn a_move_that_is_taken_back_before_the_pod_ends_disturbs_nothing() {
    let mut world = World::running();
    world.kubelet_lag = 10;
    world.unheld = 0;
    edit_active(&mut world, "research");
    world.rounds(5);
    assert_eq!(world.clusters[1].workloads[0].1, 1, "it is placed there");
    edit_active(&mut world, "medical");
    world.settle();
    assert!(
        world.serves(0) && world.unheld == 0,
        "{}",
        world.transcript()
    );
    assert_eq!(world.clusters[1].workloads[0].1, 0);
    assert!(world.clusters[1].pods.is_empty() && world.clusters[1].attachments.is_empty());
}

#[test]
fn a_site_that_places_no_pod_gets_the_volume_all_the_same_after_a_while() {
    let mut world = World::running();
    for node in &mut world.clusters[1].nodes {
        // Its agent serves the leg; no pod fits.
        node.volume_in_use = false;
    }
    world.kubelet_lag = 1000;
    edit_active(&mut world, "research");
    world.rounds(25);
    assert!(world.serves(0), "not before its time");
    world.rounds(15);
    assert_eq!(
        world.clusters[0].workloads[0].1,
        0,
        "{}",
        world.transcript()
    );
}

#[test]
fn a_site_lost_while_the_other_one_waits_for_it_is_taken_over() {
    let mut world = World::running();
    world.kubelet_lag = 10;
    edit_active(&mut world, "research");
    world.rounds(4);
    assert!(!world.clusters[1].pods.is_empty() && world.serves(0));
    world.kill(0);
    world.settle();
    assert!(world.serves(1), "{}", world.transcript());
    let status = world.clusters[1].volume.as_ref().unwrap().status.as_ref();
    let last = status.unwrap().last_move.as_ref().unwrap();
    assert_eq!(last.mode, "Unplanned");
}

#[test]
fn a_move_waits_until_both_specs_agree() {
    let mut world = World::running();
    world.edit(0, |volume| {
        volume.spec.active_site = Some("research".to_owned())
    });
    world.settle();
    assert!(world.serves(0), "Git reached one cluster only");
    assert!(
        world.told(0, "Reconciling").contains("both must agree"),
        "{}",
        world.told(0, "Reconciling")
    );
    world.edit(1, |volume| {
        volume.spec.active_site = Some("research".to_owned())
    });
    world.settle();
    assert!(world.serves(1));
}

#[test]
fn a_move_without_a_workload_is_carried_by_a_caretaker() {
    let mut world = World::new();
    world.apply_to_both(&VOLUME.replace(
        "  workloads: [{apiVersion: apps/v1, kind: StatefulSet, name: records}]\n",
        "",
    ));
    for cluster in &mut world.clusters {
        cluster.workloads.clear();
    }
    world.settle();
    edit_active(&mut world, "research");
    world.settle();
    let register = world.register.clone().unwrap();
    assert_eq!(
        (register.active.site.leg(), register.holder),
        (Leg::B, None),
        "{}",
        world.transcript()
    );
}

#[test]
fn a_dead_site_loses_its_volume_and_git_does_not_drag_it_back() {
    let mut world = World::running();
    world.kill(0);
    world.rounds(4);
    assert!(!world.serves(1), "too early");
    world.settle();
    assert!(world.serves(1));
    assert!(world.register.as_ref().unwrap().active.latched);
    world.revive(0);
    world.settle();
    assert!(
        world.serves(1) && world.clusters[0].pods.is_empty(),
        "{}",
        world.transcript()
    );
    assert_eq!(world.register.as_ref().unwrap().members, Members::BOTH);
    golden("site-loss", &world);
    // First way out of the latch: Git accepts what happened.
    edit_active(&mut world, "research");
    world.settle();
    assert!(!world.register.as_ref().unwrap().active.latched && world.serves(1));
    edit_active(&mut world, "medical");
    world.settle();
    assert!(world.serves(0));
}

#[test]
fn a_site_that_returns_when_git_already_wants_it_back_starts_with_new_pods() {
    let mut world = World::running();
    world.kill(0);
    world.settle();
    edit_active(&mut world, "research");
    world.settle();
    // Its old pod and the order of before are still there, and its operator is the last to start.
    world.clusters[0].operator_up = false;
    world.revive(0);
    world.rounds(5);
    edit_active(&mut world, "medical");
    world.rounds(10);
    world.rounds(60);
    assert!(world.serves(1), "nobody has taken the move up there");
    world.clusters[0].operator_up = true;
    world.settle();
    assert!(world.serves(0), "{}", world.transcript());
}

#[test]
fn failback_returns_the_volume_once_both_copies_are_in_sync() {
    let mut world = World::running();
    world.edit_both(|volume| volume.spec.failback = Some(Failback::WhenInSync));
    world.settle();
    world.kill(0);
    world.settle();
    assert!(world.serves(1));
    world.revive(0);
    world.settle();
    assert!(world.serves(0), "{}", world.transcript());
    assert!(!world.register.as_ref().unwrap().active.latched);
}

#[test]
fn manual_and_observe_move_nothing_and_observe_says_what_it_would_do() {
    for policy in [FailoverPolicy::Manual, FailoverPolicy::Observe] {
        let mut world = World::running();
        for cluster in &mut world.clusters {
            cluster.pair.spec.failover.policy = policy;
        }
        world.kill(0);
        world.settle();
        assert!(!world.serves(1));
        let advised = world
            .told(1, "AutomaticFailover")
            .starts_with("True WouldFailOver");
        assert_eq!(
            advised,
            policy == FailoverPolicy::Observe,
            "{}",
            world.transcript()
        );
    }
}

#[test]
fn only_the_link_between_the_sites_cut_moves_nothing() {
    let mut world = World::running();
    (world.link_up, world.data_up) = (false, false);
    world.settle();
    assert!(world.serves(0) && !world.serves(1));
    (world.link_up, world.data_up) = (true, true);
    world.settle();
    assert_eq!(world.register.as_ref().unwrap().members, Members::BOTH);
}

#[test]
fn an_unplanned_order_does_not_wait_for_the_policy() {
    let mut world = World::running();
    for cluster in &mut world.clusters {
        cluster.pair.spec.failover.policy = FailoverPolicy::Manual;
    }
    world.kill(0);
    world.rounds(2);
    world.order(1, "to: research, mode: Unplanned, volumes: {all: true}");
    world.settle();
    assert!(world.serves(1));
    let mut orders = world.clusters[1]
        .attachments
        .iter()
        .filter_map(|attachment| attachment.spec.move_.as_ref());
    assert!(orders.all(|order| order.by_person), "a person's word");
    assert_eq!(
        world.failovers[0].1.status.as_ref().unwrap().state,
        FailoverState::Done,
        "{}",
        world.transcript()
    );
    golden("unplanned-order", &world);
}

#[test]
fn an_unplanned_order_against_a_living_writer_is_held() {
    let mut world = World::running();
    world.order(1, "to: research, mode: Unplanned, volumes: {all: true}");
    world.settle();
    assert!(world.serves(0) && !world.serves(1));
    assert!(
        world.told(1, "Reconciling").contains("still beats"),
        "{}",
        world.transcript()
    );
}

#[test]
fn a_planned_order_moves_and_latches_what_the_spec_does_not_name() {
    let mut world = World::running();
    world.order(
        1,
        "to: research, mode: Planned, volumes: {namespace: rv, names: [records]}",
    );
    world.settle();
    assert!(
        world.serves(1) && world.register.as_ref().unwrap().active.latched,
        "{}",
        world.transcript()
    );
    assert_eq!(
        world.failovers[0].1.status.as_ref().unwrap().state,
        FailoverState::Done
    );
    // Third way out of the latch: another planned order.
    world.order(0, "to: medical, mode: Planned, volumes: {all: true}");
    world.settle();
    assert!(
        world.serves(0) && !world.register.as_ref().unwrap().active.latched,
        "{}",
        world.transcript()
    );
    golden("planned-order", &world);
}

/// Research took a write alone, then died; medical has an older copy.
fn behind() -> World {
    let mut world = World::running();
    edit_active(&mut world, "research");
    world.settle();
    world.data_up = false;
    world.rounds(3);
    assert_eq!(
        world.register.as_ref().unwrap().members,
        Members::only(Leg::B)
    );
    world.kill(1);
    world.data_up = true;
    world.settle();
    world
}

#[test]
fn a_copy_that_lacks_writes_is_not_promoted_by_anything_but_a_force() {
    let mut world = behind();
    assert!(!world.serves(0));
    world.order(0, "to: medical, mode: Unplanned, volumes: {all: true}");
    world.settle();
    assert!(
        !world.serves(0)
            && world
                .told(0, "Reconciling")
                .contains("lacks acknowledged writes"),
        "{}",
        world.transcript()
    );
}

#[test]
fn a_force_runs_the_copy_that_is_left_after_a_second_look() {
    let mut world = behind();
    let register = world.register.clone().unwrap();
    let token = super::super::token(&register);
    world.order(
        0,
        &format!(
            "to: medical, mode: Force, volumes: {{namespace: rv, names: [records]}}, force: {{expectEpoch: {}, token: {token}}}",
            register.epoch
        ),
    );
    world.settle();
    assert!(world.serves(0), "{}", world.transcript());
    assert_eq!(
        world.register.as_ref().unwrap().unconfirmed,
        Members::only(Leg::B)
    );
    world.revive(1);
    world.settle();
    assert!(
        world.told(0, "SplitBrain").starts_with("True LostBranch"),
        "{}",
        world.transcript()
    );
    assert_eq!(
        world.register.as_ref().unwrap().members,
        Members::only(Leg::A),
        "not before a person confirms"
    );
    let epoch = world.register.as_ref().unwrap().epoch;
    world.edit(0, |volume| {
        let word = (
            super::super::names::CONFIRM_ANNOTATION.to_owned(),
            format!("B@{epoch}"),
        );
        volume.metadata.annotations = Some([word].into());
    });
    world.settle();
    assert_eq!(world.register.as_ref().unwrap().members, Members::BOTH);
    golden("force", &world);
}

#[test]
fn a_force_with_an_old_token_fails_and_touches_nothing() {
    let mut world = behind();
    world.order(0, "to: medical, mode: Force, volumes: {namespace: rv, names: [records]}, force: {expectEpoch: 1, token: 1-00}");
    let before = world.register.clone();
    world.settle();
    assert_eq!(world.register, before);
    assert_eq!(
        world.failovers[0].1.status.as_ref().unwrap().state,
        FailoverState::Failed
    );
}

#[test]
fn with_policy_manual_a_dead_site_is_told_with_the_command_that_moves_the_volume() {
    let mut world = World::running();
    for cluster in &mut world.clusters {
        cluster.pair.spec.failover.policy = FailoverPolicy::Manual;
    }
    world.settle();
    assert_eq!(world.told(1, "AutomaticFailover"), "");
    world.kill(0);
    world.settle();
    let told = world.told(1, "AutomaticFailover");
    assert!(
        told.starts_with("True PersonNeeded: no sign of life of medical"),
        "{told}"
    );
    let command = "kubectl twinsite failover rv/records --to research --mode unplanned";
    assert!(told.contains(command), "{told}");
    let event = "research: event FailoverAdvised no sign of life";
    assert_eq!(
        world.transcript().matches(event).count(),
        1,
        "{}",
        world.transcript()
    );
    assert!(!world.serves(1), "a person moves it, or nobody");
    // It is back.
    world.revive(0);
    world.settle();
    assert_eq!(world.told(1, "AutomaticFailover"), "");
}
