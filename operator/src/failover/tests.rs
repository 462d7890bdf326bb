//! Which volumes an order names, and what it says of each.

use super::*;
use k8s_openapi::jiff::Timestamp;
use serde_yaml::from_str;
use twinsite_api::VolumeSelection;
use twinsite_register::{Create, Gen, GroupId, RegisterId, Site, TxId};

fn volume(text: &str) -> MirroredVolume {
    let base = "{apiVersion: twinsite.io/v1alpha1, kind: MirroredVolume, metadata: {name: records, namespace: rv, labels: {tier: gold}}, \
                spec: {sitePair: ctrc, activeSite: medical, capacity: 2Gi, claim: {name: records}, legs: [{site: medical, poolClass: ssd}]}}";
    let mut volume: MirroredVolume = from_str(base).unwrap();
    if !text.is_empty() {
        volume.status = Some(from_str(text).unwrap());
    }
    volume
}

fn order(spec: &str) -> Failover {
    from_str(&format!(
        "{{apiVersion: twinsite.io/v1alpha1, kind: Failover, metadata: {{name: now, creationTimestamp: '2026-11-28T04:00:00Z'}}, \
         spec: {{sitePair: ctrc, to: research, {spec}}}}}"
    ))
    .unwrap()
}

fn now() -> Timestamp {
    Timestamp::from_second(1_795_838_500).unwrap()
}

fn register() -> Register {
    let create = Create {
        register_id: RegisterId([1; 16]),
        group: GroupId([2; 16]),
        volumes: vec![twinsite_register::VolumeId([2; 16])],
        generation: Gen([3; 16]),
        site: Site::A,
        txid: TxId([4; 16]),
    };
    let created = Register::create(create).unwrap();
    created.birth(Site::A, TxId([5; 16])).unwrap()
}

fn selection(text: &str) -> VolumeSelection {
    from_str(text).unwrap()
}

#[test]
fn a_volume_is_named_by_all_by_name_or_by_label() {
    let volume = volume("");
    let named = |text: &str| {
        let mut order = order("mode: Planned, volumes: {all: true}");
        order.spec.volumes = selection(text);
        selects(&order, &volume)
    };
    assert!(named("{all: true}"));
    assert!(named("{all: true, namespace: rv}"));
    assert!(!named("{all: true, namespace: other}"));
    assert!(named("{namespace: rv, names: [records]}"));
    assert!(!named("{namespace: rv, names: [images]}"));
    assert!(named("{selector: {matchLabels: {tier: gold}}}"));
    assert!(!named("{selector: {matchLabels: {tier: tin}}}"));
    assert!(named(
        "{selector: {matchExpressions: [{key: tier, operator: In, values: [gold, tin]}]}}"
    ));
    assert!(!named(
        "{selector: {matchExpressions: [{key: tier, operator: NotIn, values: [gold]}]}}"
    ));
    assert!(named(
        "{selector: {matchExpressions: [{key: other, operator: DoesNotExist}]}}"
    ));
    assert!(!named(
        "{selector: {matchExpressions: [{key: tier, operator: Newer}]}}"
    ));
    let mut elsewhere = order("mode: Planned, volumes: {all: true}");
    elsewhere.spec.site_pair = "another".to_owned();
    assert!(!selects(&elsewhere, &volume));
}

#[test]
fn the_name_of_a_group_names_its_volumes() {
    let mut volume = volume("");
    volume.spec.group = Some("ledger".to_owned());
    let named = |name: &str, namespace: &str| {
        let text = format!("mode: Planned, volumes: {{namespace: {namespace}, names: [{name}]}}");
        selects(&order(&text), &volume)
    };
    assert!(named("ledger", "rv") && named("records", "rv"));
    assert!(!named("ledger", "other") && !named("images", "rv"));
}

#[test]
fn a_force_that_its_volumes_cannot_carry_out_has_failed_and_is_not_done_later() {
    let force = order(
        "mode: Force, volumes: {namespace: rv, names: [records]}, force: {expectEpoch: 4, token: TOKEN}",
    );
    let register = register();
    let said = |message: &str| {
        let mut order = force.clone();
        let token = token(&register);
        let accepted = order.spec.force.as_mut().unwrap();
        (accepted.expect_epoch, accepted.token) = (register.epoch.0, token);
        let stalled = format!(
            "{{conditions: [{{type: Stalled, status: 'True', reason: MemberDamaged, message: '{message}', lastTransitionTime: '2026-11-28T04:00:00Z'}}]}}"
        );
        let view = VolumeView {
            volume: Arc::new(volume(&stalled)),
            register: Some(Arc::new(register.clone())),
            to: Some(LegIndex::B),
        };
        status(&order, &[view], now())
    };
    let failed = said("Failover now: the copy does not answer");
    assert_eq!(failed.state, FailoverState::Failed);
    let other = said("Failover another: the copy does not answer");
    assert_eq!(other.state, FailoverState::Running);
}

#[test]
fn an_order_that_names_nothing_has_failed_and_says_so() {
    let status = status(&order("mode: Planned, volumes: {all: true}"), &[], now());
    assert_eq!(status.state, FailoverState::Failed);
    assert!(
        status.conditions[0].message.contains("names no volume"),
        "{:?}",
        status.conditions
    );
}

#[test]
fn what_is_over_is_never_taken_up_again() {
    let mut done = order("mode: Planned, volumes: {all: true}");
    done.status = Some(
        from_str("{state: Running, volumes: [{namespace: rv, name: records, state: Done}]}")
            .unwrap(),
    );
    assert!(is_over(&done, "rv", "records"));
    assert!(!is_over(&done, "rv", "images"));
    let view = VolumeView {
        volume: Arc::new(volume("")),
        register: None,
        to: Some(LegIndex::B),
    };
    assert_eq!(status(&done, &[view], now()).state, FailoverState::Done);
}

#[test]
fn a_volume_tells_what_its_move_waits_for() {
    let waits = "{conditions: [{type: Reconciling, status: 'True', reason: Moving, message: waits for research, lastTransitionTime: '2026-11-28T04:00:00Z'}]}";
    let view = VolumeView {
        volume: Arc::new(volume(waits)),
        register: None,
        to: Some(LegIndex::B),
    };
    let status = status(
        &order("mode: Planned, volumes: {all: true}"),
        &[view],
        now(),
    );
    assert_eq!(status.state, FailoverState::Running);
    assert_eq!(
        status.volumes[0].message.as_deref(),
        Some("waits for research")
    );
}
