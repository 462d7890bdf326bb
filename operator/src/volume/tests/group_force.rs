//! A group of which only copies are left that lack writes: what a person may order, and what is refused.

use twinsite_api::{AttachmentMode, FailoverState};
use twinsite_register::{Leg, Members};

use super::super::{names, token};
use super::group_world::GroupWorld;
use super::same_text;

/// Research took writes alone, then died; medical has older copies of all volumes.
fn behind() -> GroupWorld {
    let mut world = GroupWorld::running();
    world.move_to("research");
    world.settle();
    world.each(|part| part.data_up = false);
    world.rounds(3);
    let register = world.parts[0].register.clone().unwrap();
    assert_eq!(register.members, Members::only(Leg::B));
    world.each(|part| part.kill(1));
    world.each(|part| part.data_up = true);
    world.settle();
    assert!(!world.serves_any(0));
    world
}

/// As the command of a plan orders it.
fn order(world: &mut GroupWorld, name: &str, inconsistent: bool) {
    let register = world.parts[0].register.clone().unwrap();
    let (epoch, token) = (register.epoch, token(&register));
    world.parts[0].failovers.clear();
    world.parts[0].order(
        0,
        &format!(
            "to: medical, mode: Force, volumes: {{namespace: rv, names: [{name}]}}, \
             force: {{expectEpoch: {epoch}, token: {token}, inconsistent: {inconsistent}}}"
        ),
    );
    world.settle();
}

fn state(world: &GroupWorld) -> FailoverState {
    let status = world.parts[0].failovers[0].1.status.clone().unwrap();
    assert_eq!(status.volumes.len(), 2, "{status:?}");
    status.state
}

fn has(world: &GroupWorld, mode: AttachmentMode) -> bool {
    let mut attachments = world
        .parts
        .iter()
        .flat_map(|part| &part.clusters[0].attachments);
    attachments.any(|one| one.spec.mode == mode)
}

#[test]
fn a_force_of_a_group_runs_all_its_copies_after_a_second_look_at_each() {
    let mut world = behind();
    order(&mut world, "ledger", false);
    assert!(world.serves(0), "{}", world.transcript());
    assert_eq!(state(&world), FailoverState::Done);
    assert!(!has(&world, AttachmentMode::Force));
    let register = world.parts[0].register.clone().unwrap();
    assert_eq!(register.unconfirmed, Members::only(Leg::B));
    world.each(|part| part.revive(1));
    world.settle();
    let told = world.group_told(0, "SplitBrain");
    assert!(told.starts_with("True LostBranch"), "{told}");
    let epoch = world.parts[0].register.as_ref().unwrap().epoch;
    let volume = world.parts[1].clusters[0].volume.as_mut().unwrap();
    let word = (names::CONFIRM_ANNOTATION.to_owned(), format!("B@{epoch}"));
    volume.metadata.annotations = Some([word].into());
    world.settle();
    let register = world.parts[0].register.clone().unwrap();
    assert_eq!(register.members, Members::BOTH, "{}", world.transcript());
    same_text("group-force", &world.transcript());
}

#[test]
fn an_order_that_names_one_volume_forces_its_group() {
    let mut world = behind();
    order(&mut world, "data", false);
    assert!(world.serves(0), "{}", world.transcript());
    assert_eq!(state(&world), FailoverState::Done);
}

#[test]
fn copies_that_are_not_of_one_moment_run_together_only_by_a_person_who_accepts_it() {
    for (role, moment) in [("Member", "0-06"), ("Target", "1-07")] {
        let mut world = behind();
        (world.parts[1].role, world.parts[1].moment) = (role, moment);
        let before = world.parts[0].register.clone();
        order(&mut world, "ledger", false);
        assert_eq!(state(&world), FailoverState::Failed);
        assert_eq!(world.parts[0].register, before);
        assert!(!has(&world, AttachmentMode::Force) && !world.serves_any(0));
        let status = world.parts[0].failovers[0].1.status.clone().unwrap();
        for volume in &status.volumes {
            let why = volume.message.as_deref().unwrap_or_default();
            assert!(why.contains("only force.inconsistent runs"), "{why}");
            assert!(
                why.contains(&format!("rv/{}", world.parts[1].name)),
                "{why}"
            );
        }
        // Nothing of the refusal stays at the group.
        let told = world.group_told(0, "Stalled");
        assert!(told.starts_with("False"), "{told}");
        order(&mut world, "ledger", true);
        assert!(world.serves(0), "{}", world.transcript());
    }
}

#[test]
fn a_group_of_which_one_copy_does_not_answer_is_not_forced() {
    let mut world = behind();
    let register = world.parts[0].register.clone();
    // Of the second volume.
    world.parts[1].others_serve = [false, false];
    order(&mut world, "ledger", false);
    assert_eq!(state(&world), FailoverState::Failed);
    assert_eq!(world.parts[0].register, register);
    assert!(!has(&world, AttachmentMode::Force));
}

#[test]
fn a_force_of_a_group_with_an_old_token_fails_and_touches_nothing() {
    let mut world = behind();
    let before = world.parts[0].register.clone();
    world.parts[0].order(0, "to: medical, mode: Force, volumes: {namespace: rv, names: [ledger]}, force: {expectEpoch: 1, token: 1-00}");
    world.settle();
    assert_eq!(state(&world), FailoverState::Failed);
    assert_eq!(world.parts[0].register, before);
    assert!(!has(&world, AttachmentMode::Inspect) && !has(&world, AttachmentMode::Force));
}

#[test]
fn the_operator_killed_between_any_two_actions_forces_a_group_as_a_whole() {
    for after in 0..8 {
        let mut world = behind();
        world.dies_after = Some((0, after));
        order(&mut world, "ledger", false);
        assert!(
            world.serves(0),
            "died after {after}: {}",
            world.transcript()
        );
        assert_eq!(state(&world), FailoverState::Done);
        assert!(!has(&world, AttachmentMode::Force), "died after {after}");
    }
}

#[test]
fn a_force_that_the_agent_cannot_carry_out_ends_and_one_that_it_tries_again_goes_on() {
    let mut world = behind();
    world.parts[0].fails_to_force = Some("OtherHistory");
    let before = world.parts[0].register.clone();
    order(&mut world, "ledger", false);
    assert_eq!(state(&world), FailoverState::Failed);
    let status = world.parts[0].failovers[0].1.status.clone().unwrap();
    for volume in &status.volumes {
        let why = volume.message.as_deref().unwrap_or_default();
        assert!(why.contains("it is OtherHistory"), "{why}");
    }
    assert_eq!(world.parts[0].register, before);
    assert!(!has(&world, AttachmentMode::Force));
    world.parts[0].fails_to_force = Some("Taken");
    order(&mut world, "ledger", false);
    assert_eq!(state(&world), FailoverState::Running);
    world.parts[0].fails_to_force = None;
    world.settle();
    assert!(world.serves(0), "{}", world.transcript());
}
