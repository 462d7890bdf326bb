//! A comparison of the copies that a person asks for: ordered of whoever holds the volume open, and what it found is told.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use twinsite_api::{
    AttachmentMode, ByteRange, VERIFY_ANNOTATION, VerifyReport, VerifyState, condition_type,
};

use super::world::World;

fn ask(world: &mut World, request: &str) {
    world.edit(0, |volume| {
        let annotations = volume.metadata.annotations.get_or_insert_default();
        annotations.insert(VERIFY_ANNOTATION.to_owned(), request.to_owned());
    });
}

/// The agent of the writer tells of this comparison.
fn tell(world: &mut World, at: i64, differing: u64, state: VerifyState) {
    let at = Time(Timestamp::from_second(1_000_000_000 + at).unwrap());
    let report = VerifyReport {
        request: "monday".to_owned(),
        state,
        reason: None,
        started_at: at.clone(),
        ended_at: (state == VerifyState::Done).then_some(at),
        total_bytes: 1 << 30,
        compared_bytes: 1 << 30,
        percent: 100,
        bytes_per_second: None,
        eta_seconds: None,
        chunks: 4096,
        differing_bytes: differing,
        differing: (differing > 0)
            .then_some(ByteRange {
                offset: 8192,
                length: differing,
            })
            .into_iter()
            .collect(),
        unreadable_bytes: 0,
        unreadable: Vec::new(),
    };
    for attachment in &mut world.clusters[0].attachments {
        if attachment.spec.mode == AttachmentMode::Writer
            && let Some(status) = &mut attachment.status
        {
            status.verify = Some(report.clone());
        }
    }
}

#[test]
fn an_annotation_orders_it_once_and_what_differs_is_an_alarm_until_a_whole_one_is_clean() {
    let mut world = World::running();
    ask(&mut world, "monday");
    world.settle();
    let ordered = |world: &World| {
        let writers = world.clusters[0].attachments.iter();
        writers
            .filter(|attachment| attachment.spec.mode == AttachmentMode::Writer)
            .filter_map(|attachment| attachment.spec.verify.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(ordered(&world), ["monday"]);
    assert!(world.transcript().contains(" verify=monday"));
    assert_eq!(world.condition(0, condition_type::LEGS_DIFFER), None);

    tell(&mut world, 1, 4096, VerifyState::Done);
    world.settle();
    assert_eq!(
        world.told(0, condition_type::LEGS_DIFFER),
        "True Verified: all compared: 4096 bytes differ, at 8192+4096"
    );
    // The next one takes the alarm back at its end and not before.
    tell(&mut world, 2, 0, VerifyState::Running);
    world.settle();
    let told = world.told(0, condition_type::LEGS_DIFFER);
    assert!(told.starts_with("True"), "{told}");
    tell(&mut world, 2, 0, VerifyState::Done);
    world.settle();
    let told = world.told(0, condition_type::LEGS_DIFFER);
    assert!(told.starts_with("False"), "{told}");
}

#[test]
fn an_annotation_that_is_no_request_or_is_taken_away_orders_nothing() {
    let mut world = World::running();
    let before = world.transcript();
    ask(&mut world, &"x".repeat(65));
    world.settle();
    assert_eq!(world.transcript(), before);
    ask(&mut world, "monday");
    world.settle();
    let before = world.transcript();
    world.edit(0, |volume| volume.metadata.annotations = None);
    world.settle();
    assert_eq!(world.transcript(), before);
}

#[test]
fn what_another_node_found_earlier_is_no_news() {
    let mut world = World::running();
    ask(&mut world, "monday");
    world.settle();
    tell(&mut world, 5, 4096, VerifyState::Done);
    world.settle();
    for (at, state) in [(1, VerifyState::Done), (2, VerifyState::Waiting)] {
        tell(&mut world, at, 0, state);
        world.settle();
        let told = world.told(0, condition_type::LEGS_DIFFER);
        assert!(told.starts_with("True"), "{told}");
    }
    tell(&mut world, 6, 0, VerifyState::Done);
    world.settle();
    let told = world.told(0, condition_type::LEGS_DIFFER);
    assert!(told.starts_with("False"), "{told}");
}
