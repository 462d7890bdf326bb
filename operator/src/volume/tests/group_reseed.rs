//! A group whose register the witness lost, or shows as it was: made anew of the copies of all its volumes, or of none.

use twinsite_api::{AttachmentMode, FailoverState, InspectReport};
use twinsite_register::{Leg, Members, RegisterId};

use super::group_world::GroupWorld;
use super::same_text;

/// A witness that was restored from a backup of an earlier epoch.
fn rolled_back() -> GroupWorld {
    let mut world = GroupWorld::running();
    let old = world.parts[0].register.clone();
    world.each(|part| part.kill(1));
    world.settle();
    world.each(|part| part.revive(1));
    world.settle();
    world.parts[0].register = old;
    world.settle();
    let told = world.group_told(0, "Stalled");
    assert!(told.contains("WitnessRolledBack"), "{told}");
    world
}

fn token(world: &GroupWorld) -> String {
    let reports: Vec<InspectReport> = world.parts.iter().map(|part| part.report()).collect();
    InspectReport::reseed_token_of(&reports.iter().collect::<Vec<_>>())
}

fn order(world: &mut GroupWorld, legs: &str, token: &str, inconsistent: bool) {
    world.parts[0].failovers.clear();
    world.parts[0].order(
        0,
        &format!(
            "to: medical, mode: Reseed, volumes: {{namespace: rv, names: [ledger]}}, \
             reseed: {{legs: [{legs}], token: {token}, inconsistent: {inconsistent}}}"
        ),
    );
    // Each order has its own register.
    let uid = world.parts[0].uid();
    world.parts[0].failovers[0].1.metadata.uid = Some(uid);
    world.settle();
}

fn state(world: &GroupWorld) -> FailoverState {
    let status = world.parts[0].failovers[0].1.status.clone().unwrap();
    assert_eq!(status.volumes.len(), 2, "{status:?}");
    status.state
}

fn has(world: &GroupWorld, mode: AttachmentMode) -> bool {
    let clusters = world.parts.iter().flat_map(|part| &part.clusters);
    let mut attachments = clusters.flat_map(|cluster| &cluster.attachments);
    attachments.any(|one| one.spec.mode == mode)
}

fn id(world: &GroupWorld) -> Option<RegisterId> {
    world.parts[0].register.as_ref().map(|it| it.register_id)
}

#[test]
fn a_group_gets_one_new_register_of_the_copies_of_all_its_volumes() {
    let mut world = rolled_back();
    let old = world.parts[0].register.clone().unwrap();
    let token = token(&world);
    order(&mut world, "A, B", &token, false);
    let new = world.parts[0].register.clone().unwrap();
    assert_ne!(new.register_id, old.register_id, "{}", world.transcript());
    assert!(new.former.contains(&old.register_id) && new.epoch.0 > 1000);
    assert_eq!((new.members, new.volumes.len()), (Members::BOTH, 2));
    assert_eq!(state(&world), FailoverState::Done);
    assert!(world.serves(0), "{}", world.transcript());
    assert!(!has(&world, AttachmentMode::Reseed));
    same_text("group-reseed", &world.transcript());
}

#[test]
fn a_lost_register_of_a_group_is_made_again_of_one_sites_copies() {
    let mut world = GroupWorld::running();
    world.parts[0].register = None;
    world.settle();
    world.each(|part| part.kill(1));
    world.settle();
    let token = token(&world);
    order(&mut world, "A", &token, false);
    assert!(world.serves(0), "{}", world.transcript());
    let register = world.parts[0].register.clone().unwrap();
    assert_eq!(register.members, Members::only(Leg::A));
    assert_eq!(register.granted.len(), 2, "of each volume");
    world.each(|part| part.revive(1));
    world.settle();
    let told = world.group_told(0, "SplitBrain");
    assert!(told.starts_with("True LostBranch"), "{told}");
}

#[test]
fn copies_that_are_not_of_one_moment_make_a_register_only_by_a_persons_word() {
    let mut world = rolled_back();
    world.parts[1].moment = "0-06";
    let before = id(&world);
    let token = token(&world);
    order(&mut world, "A, B", &token, false);
    assert_eq!(state(&world), FailoverState::Failed);
    let status = world.parts[0].failovers[0].1.status.clone().unwrap();
    let why = status.volumes[0].message.clone().unwrap();
    assert!(why.contains("not of one moment"), "{why}");
    assert_eq!(id(&world), before);
    assert_eq!(
        world.parts[0].clusters[0].pods.len(),
        1,
        "what runs goes on"
    );
    order(&mut world, "A, B", &token, true);
    assert!(world.serves(0), "{}", world.transcript());
    assert_ne!(id(&world), before);
}

#[test]
fn a_reseed_of_a_group_by_another_plan_fails_and_touches_nothing() {
    let mut world = rolled_back();
    let before = id(&world);
    order(&mut world, "A, B", "00", false);
    assert_eq!(
        state(&world),
        FailoverState::Failed,
        "{}",
        world.transcript()
    );
    assert_eq!(id(&world), before);
    assert_eq!(
        world.parts[0].clusters[0].pods.len(),
        1,
        "what runs goes on"
    );
    assert!(!has(&world, AttachmentMode::Reseed));
}

#[test]
fn the_operator_killed_between_any_two_actions_makes_one_register_of_a_group() {
    for after in 0..10 {
        let mut world = rolled_back();
        let token = token(&world);
        world.dies_after = Some((0, after));
        order(&mut world, "A, B", &token, false);
        assert!(
            world.serves(0),
            "died after {after}: {}",
            world.transcript()
        );
        assert_eq!(state(&world), FailoverState::Done, "died after {after}");
    }
}
