//! A new register made of copies that a person names, of one volume (groups: `group_reseed`).

use twinsite_api::{AttachmentMode, FailoverState};
use twinsite_register::{Leg, Members};

use super::golden;
use super::world::World;

/// A witness that was restored from a backup of an earlier epoch.
fn rolled_back() -> World {
    let mut world = World::running();
    let old = world.register.clone();
    world.kill(1);
    world.settle();
    world.revive(1);
    world.settle();
    world.register = old;
    world.settle();
    world
}

fn reseed(world: &mut World, legs: &str, token: &str) {
    world.order(
        0,
        &format!(
            "to: medical, mode: Reseed, volumes: {{namespace: rv, names: [records]}}, reseed: {{legs: [{legs}], token: {token}}}"
        ),
    );
    world.settle();
}

#[test]
fn a_reseed_makes_a_new_register_of_copies_that_nobody_has_open() {
    let mut world = rolled_back();
    let old = world.register.clone().unwrap();
    let token = world.report().reseed_token();
    reseed(&mut world, "A, B", &token);
    let new = world.register.clone().unwrap();
    assert_ne!(new.register_id, old.register_id, "{}", world.transcript());
    assert!(new.former.contains(&old.register_id) && new.epoch.0 > 1000);
    assert_eq!(new.members, Members::BOTH);
    assert!(world.serves(0), "{}", world.transcript());
    assert_eq!(
        world.failovers[0].1.status.as_ref().unwrap().state,
        FailoverState::Done
    );
    golden("reseed", &world);
}

#[test]
fn a_lost_register_is_made_again_of_one_copy_and_the_other_waits_for_a_person() {
    let mut world = World::running();
    world.register = None;
    world.settle();
    world.kill(1);
    world.settle();
    let token = world.report().reseed_token();
    reseed(&mut world, "A", &token);
    assert!(world.serves(0), "{}", world.transcript());
    world.revive(1);
    world.settle();
    let register = world.register.as_ref().unwrap();
    assert_eq!(register.members, Members::only(Leg::A));
    assert_eq!(register.unconfirmed, Members::only(Leg::B));
    assert!(
        world.told(0, "SplitBrain").starts_with("True LostBranch"),
        "{}",
        world.transcript()
    );
}

#[test]
fn a_reseed_waits_for_a_silent_site_that_still_shows_signs_of_life() {
    let mut world = rolled_back();
    world.link_up = false;
    world.settle();
    let token = world.report().reseed_token();
    let before = world.register.as_ref().unwrap().register_id;
    world.order(
        0,
        &format!(
            "to: medical, mode: Reseed, volumes: {{namespace: rv, names: [records]}}, reseed: {{legs: [A, B], token: {token}}}"
        ),
    );
    world.rounds(30);
    let id = |world: &World| world.register.as_ref().unwrap().register_id;
    assert_eq!(id(&world), before, "{}", world.transcript());
    world.kill(1);
    world.rounds(40);
    // Both copies were named, and one is gone: the order has to be made anew.
    assert_eq!(id(&world), before);
    assert!(
        world.clusters[0]
            .attachments
            .iter()
            .all(|attachment| attachment.spec.mode != AttachmentMode::Writer),
        "{}",
        world.transcript()
    );
}

#[test]
fn a_copy_that_grows_makes_a_register_alone() {
    let mut world = World::running();
    world.register = None;
    world.settle();
    world.role = "Growing";
    let token = world.report().reseed_token();
    reseed(&mut world, "A, B", &token);
    assert!(world.register.is_none(), "{}", world.transcript());
    reseed(&mut world, "A", &token);
    let register = world.register.as_ref();
    assert_eq!(
        register.map(|register| register.members),
        Some(Members::only(Leg::A)),
        "{}",
        world.transcript()
    );
}

#[test]
fn a_reseed_by_another_plan_fails_and_touches_nothing() {
    let mut world = rolled_back();
    reseed(&mut world, "A, B", "00");
    assert_eq!(
        world.failovers[0].1.status.as_ref().unwrap().state,
        FailoverState::Failed,
        "{}",
        world.transcript()
    );
    assert!(world.register.as_ref().unwrap().epoch.0 < 1000);
    assert_eq!(world.clusters[0].pods.len(), 1, "what runs goes on");
    assert!(
        world.told(0, "Stalled").contains("WitnessRolledBack"),
        "{}",
        world.transcript()
    );
}

#[test]
fn a_reseed_of_a_register_that_is_believed_is_refused() {
    let mut world = World::running();
    let before = world.register.clone();
    let token = world.report().reseed_token();
    reseed(&mut world, "A, B", &token);
    assert_eq!(world.register, before);
    assert!(world.serves(0));
    assert_eq!(
        world.failovers[0].1.status.as_ref().unwrap().state,
        FailoverState::Failed
    );
}
