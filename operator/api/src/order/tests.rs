//! What a volume says becomes what an order says, and what is missing is named.

use super::*;
use crate::{LegTarget, VolumeLegState};

fn pair() -> SitePair {
    serde_yaml::from_str(
        r"
        apiVersion: twinsite.io/v1alpha1
        kind: SitePair
        metadata: {name: ctrc}
        spec:
          sites: [{name: medical}, {name: research}]
          pairSecret: twinsite-pair
          witness: {directory: {path: /srv/witness}}
        ",
    )
    .unwrap()
}

fn volume() -> MirroredVolume {
    serde_yaml::from_str(
        r#"
        apiVersion: twinsite.io/v1alpha1
        kind: MirroredVolume
        metadata: {name: records, namespace: rv}
        spec:
          sitePair: ctrc
          activeSite: medical
          onNoQuorum: Error
          capacity: 2Gi
          fsType: xfs
          claim: {name: records}
          legs: [{site: medical, poolClass: ssd}, {site: research, poolClass: ssd}]
        status:
          volumeId: ts-abab1402d96601b5a97768ff3951d0e5
          legs:
          - site: research
            leg: A
            state: New
            portals: ["192.0.2.21:3260"]
            target: {iqn: "iqn.2001-04.com.example:array", lun: 3, naa: naa.60060160aabbccdd0011223344556677,
                     chap: {authSecret: array}, array: true, cacheProtected: true, initialize: naa.60060160aabbccdd0011223344556677}
          - site: medical
            leg: B
            state: New
            portals: ["192.0.2.11:3260", "198.51.100.11:3260"]
            target: {iqn: "iqn.2026-11.io.twinsite:ts-abab1402d96601b5a97768ff3951d0e5.b",
                     naa: naa.6a64241c004ac5d8c6b295246082216c, chap: {pairSecret: twinsite-pair}}
        "#,
    )
    .unwrap()
}

fn order(volume: &MirroredVolume, mode: AttachmentMode) -> Result<AttachmentSpec, NotYet> {
    attachment(volume, &pair(), "medical", "m1", mode)
}

fn status(volume: &mut MirroredVolume) -> &mut crate::MirroredVolumeStatus {
    volume.status.as_mut().unwrap()
}

#[test]
fn a_writer_says_all_that_an_agent_needs() {
    let spec = order(&volume(), AttachmentMode::Writer).unwrap();
    let expected: AttachmentSpec = serde_yaml::from_str(
        r#"
        volume: ts-abab1402d96601b5a97768ff3951d0e5
        reference: rv/records
        sitePair: ctrc
        node: m1
        site: medical
        mode: Writer
        size: 2Gi
        fsType: xfs
        onNoQuorum: Error
        legs:
        - leg: A
          site: research
          portals: ["192.0.2.21:3260"]
          iqn: iqn.2001-04.com.example:array
          lun: 3
          naa: naa.60060160aabbccdd0011223344556677
          chap: {authSecret: array}
          array: true
          cacheProtected: true
          initialize: naa.60060160aabbccdd0011223344556677
        - leg: B
          site: medical
          portals: ["192.0.2.11:3260", "198.51.100.11:3260"]
          iqn: iqn.2026-11.io.twinsite:ts-abab1402d96601b5a97768ff3951d0e5.b
          naa: naa.6a64241c004ac5d8c6b295246082216c
          chap: {pairSecret: twinsite-pair}
        "#,
    )
    .unwrap();
    assert_eq!(spec, expected);
    assert_eq!(spec.own_index(), Some(LegIndex::B));
}

#[test]
fn the_object_is_named_by_volume_and_mode_and_waits_for_the_agent() {
    let object = object(
        &volume(),
        &pair(),
        "medical",
        "m1",
        AttachmentMode::Caretaker,
    )
    .unwrap();
    assert_eq!(
        object.name_any(),
        "ts-abab1402d96601b5a97768ff3951d0e5-caretaker"
    );
    assert_eq!(object.finalizers(), [AGENT_FINALIZER]);
    assert_eq!(
        leg_name(object.spec.volume, LegIndex::B),
        "ts-abab1402d96601b5a97768ff3951d0e5-b"
    );
}

#[test]
fn a_birth_names_the_active_site_and_carries_no_move() {
    let mut volume = volume();
    status(&mut volume).move_ = Some(record(MoveMode::Planned));
    let spec = order(&volume, AttachmentMode::Birth).unwrap();
    let birth = spec.birth.unwrap();
    assert_eq!(
        (birth.active_site.as_str(), birth.create_register),
        ("medical", true)
    );
    assert_eq!(spec.move_, None);
}

fn record(mode: MoveMode) -> crate::MoveRecord {
    crate::MoveRecord {
        mode,
        expect_seq: 4,
        ordered_at: None,
        reason: None,
        by_person: false,
    }
}

#[test]
fn a_move_record_goes_into_what_opens_the_volume() {
    let mut volume = volume();
    status(&mut volume).move_ = Some(record(MoveMode::Planned));
    for (mode, expected) in [
        (AttachmentMode::Writer, Some(4)),
        (AttachmentMode::Caretaker, Some(4)),
        (AttachmentMode::Inspect, None),
        (AttachmentMode::Wipe, None),
    ] {
        let spec = order(&volume, mode).unwrap();
        assert_eq!(spec.move_.map(|order| order.expect_seq), expected);
    }
}

#[test]
fn a_writer_is_released_once_its_workloads_go_down_for_a_move() {
    let mut volume = volume();
    for (down, mode, released) in [
        (false, AttachmentMode::Writer, false),
        (true, AttachmentMode::Writer, true),
        (true, AttachmentMode::Caretaker, false),
    ] {
        status(&mut volume).leaving = Some(crate::Leaving {
            to: "research".to_owned(),
            expect_seq: 4,
            overlap: true,
            down,
            since: None,
        });
        assert_eq!(order(&volume, mode).unwrap().release, released);
    }
    status(&mut volume).leaving = None;
    assert!(!order(&volume, AttachmentMode::Writer).unwrap().release);
}

#[test]
fn what_is_missing_is_named() {
    let mut nameless = volume();
    status(&mut nameless).volume_id = None;
    assert_eq!(
        order(&nameless, AttachmentMode::Writer),
        Err(NotYet::VolumeId)
    );
    let mut grouped = volume();
    grouped.spec.group = Some("records".to_owned());
    assert_eq!(
        order(&grouped, AttachmentMode::Writer),
        Err(NotYet::Grouped("records".to_owned()))
    );
    let other = attachment(&volume(), &pair(), "medicla", "m1", AttachmentMode::Writer);
    assert!(other.unwrap_err().to_string().contains("chart value"));
    let mut twice = volume();
    status(&mut twice).legs[0].leg = Some(LegIndex::B);
    assert!(matches!(
        order(&twice, AttachmentMode::Writer),
        Err(NotYet::SameIndex(..))
    ));
}

#[test]
fn a_leg_that_is_not_known_holds_up_all_but_a_failover_and_the_orders_about_single_legs() {
    type Take = fn(&mut VolumeLegStatus);
    let take: [(Lacks, Take); 3] = [
        (Lacks::Index, |leg| leg.leg = None),
        (Lacks::Portals, |leg| leg.portals.clear()),
        (Lacks::Target, |leg| leg.target = None),
    ];
    for (lacks, take) in take {
        let mut volume = volume();
        take(&mut status(&mut volume).legs[0]);
        let missing = NotYet::Leg {
            site: "research".to_owned(),
            lacks,
        };
        for mode in [
            AttachmentMode::Writer,
            AttachmentMode::Caretaker,
            AttachmentMode::Birth,
        ] {
            assert_eq!(order(&volume, mode), Err(missing.clone()), "{mode:?}");
        }
        for mode in [AttachmentMode::Wipe, AttachmentMode::Inspect] {
            assert_eq!(order(&volume, mode).unwrap().legs.len(), 1, "{mode:?}");
        }
        status(&mut volume).move_ = Some(record(MoveMode::Failover));
        let spec = order(&volume, AttachmentMode::Writer).unwrap();
        assert_eq!(spec.own_index(), Some(LegIndex::B));
    }
    let mut none = volume();
    status(&mut none).legs.clear();
    let nothing = order(&none, AttachmentMode::Inspect);
    assert!(matches!(
        nothing,
        Err(NotYet::Leg {
            lacks: Lacks::Entry,
            ..
        })
    ));
}

#[test]
fn a_copy_that_leaves_is_dropped_but_never_the_own_one_and_never_the_last() {
    let writer = |volume: &MirroredVolume, pair: &SitePair, site| {
        attachment(volume, pair, site, "n", AttachmentMode::Writer)
            .unwrap()
            .drop_legs
    };
    let mut removed = volume();
    removed.spec.legs.truncate(1);
    assert_eq!(writer(&removed, &pair(), "medical"), [LegIndex::A]);
    status(&mut removed)
        .legs
        .retain(|leg| leg.site == "medical");
    assert_eq!(writer(&removed, &pair(), "medical"), []);

    let mut drained = pair();
    drained.spec.sites[1].state = SiteState::Drained;
    assert_eq!(writer(&volume(), &drained, "medical"), [LegIndex::A]);
    assert_eq!(writer(&volume(), &drained, "research"), []);
    let inspect = attachment(&volume(), &drained, "medical", "n", AttachmentMode::Inspect);
    assert_eq!(inspect.unwrap().drop_legs, []);
}

#[test]
fn a_target_is_read_without_what_has_a_default() {
    let leg: VolumeLegStatus =
        serde_yaml::from_str("{site: a, state: Member, target: {iqn: iqn.x, naa: naa.6}}").unwrap();
    assert_eq!(leg.state, VolumeLegState::Member);
    assert_eq!(
        leg.target,
        Some(LegTarget {
            iqn: "iqn.x".to_owned(),
            naa: "naa.6".to_owned(),
            ..LegTarget::default()
        })
    );
}

#[test]
fn a_comparison_is_asked_for_by_whoever_opens_the_volume_until_it_has_ended() {
    let asked = |volume: &MirroredVolume, mode| {
        attachment(volume, &pair(), "medical", "n", mode)
            .unwrap()
            .verify
    };
    let mut volume = volume();
    assert_eq!(asked(&volume, AttachmentMode::Writer), None);
    let annotations = volume.metadata.annotations.get_or_insert_default();
    annotations.insert(VERIFY_ANNOTATION.to_owned(), "monday".to_owned());
    for mode in [AttachmentMode::Writer, AttachmentMode::Caretaker] {
        assert_eq!(asked(&volume, mode).as_deref(), Some("monday"));
    }
    assert_eq!(asked(&volume, AttachmentMode::Inspect), None);
    let report = |state: &str| {
        serde_json::from_value(serde_json::json!({
            "request": "monday", "state": state, "startedAt": "2026-11-28T04:00:00Z", "totalBytes": 1, "comparedBytes": 1,
            "percent": 100, "chunks": 1, "differingBytes": 0,
        }))
        .unwrap()
    };
    status(&mut volume).verify = Some(report("Waiting"));
    assert!(asked(&volume, AttachmentMode::Writer).is_some());
    status(&mut volume).verify = Some(report("Done"));
    assert_eq!(asked(&volume, AttachmentMode::Writer), None);
    let annotations = volume.metadata.annotations.get_or_insert_default();
    annotations.insert(VERIFY_ANNOTATION.to_owned(), "x".repeat(65));
    assert_eq!(asked(&volume, AttachmentMode::Writer), None);
}
