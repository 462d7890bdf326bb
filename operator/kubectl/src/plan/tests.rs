//! What each way of moving is called, by what was inspected; the screens are golden texts.

use twinsite_api::{Attachment, MirroredVolume};

use super::{Looked, Plan, Verdict, render};
use crate::fixture::golden;

fn plan(
    volume: &MirroredVolume,
    to: &str,
    inspected: Option<&twinsite_api::AttachmentStatus>,
) -> Plan {
    super::plan(&[Looked { volume, inspected }], "records", to)
}

fn volume(peer: &str, research: &str) -> MirroredVolume {
    serde_yaml::from_str(&format!(
        "
apiVersion: twinsite.io/v1alpha1
kind: MirroredVolume
metadata: {{name: records, namespace: rv}}
spec:
  sitePair: ctrc
  activeSite: medical
  capacity: 100Gi
  fsType: xfs
  claim: {{name: records}}
  legs: [{{site: medical, poolClass: ssd}}, {{site: research, poolClass: ssd}}]
status:
  legs: [{{site: medical, leg: A, state: Member}}, {{site: research, leg: B, {research}}}]
  conditions:
  - {{type: PeerReachable, status: \"{peer}\", reason: Asked, message: \"\", lastTransitionTime: 2026-11-28T06:00:00Z}}
"
    ))
    .unwrap()
}

fn inspected(
    members: &str,
    holder: &str,
    medical: &str,
    research: &str,
) -> twinsite_api::AttachmentStatus {
    let attachment: Attachment = serde_yaml::from_str(&format!(
        "
apiVersion: twinsite.io/v1alpha1
kind: Attachment
metadata: {{name: a}}
spec:
  volume: ts-000102030405060708090a0b0c0d0e0f
  sitePair: ctrc
  node: r1
  site: research
  mode: Inspect
  size: 100Gi
  legs: [{{leg: B, site: research, portals: [\"192.0.2.1:3260\"]}}]
status:
  state: Done
  register:
    registerId: 0a0b
    state: Live
    epoch: 17
    generation: 99aa
    members: {members}
    activeSite: {{name: medical, seq: 4, latched: false}}
    activeIndex: A
{holder}
  inspect:
    token: 17-1f2e3d4c5b6a79881f2e3d4c5b6a7988
    legs:
    - {{leg: A, {medical}}}
    - {{leg: B, {research}}}
"
    ))
    .unwrap();
    attachment.status.unwrap()
}

const AWAY: &str = "reachable: false";
const MEMBER: &str = "reachable: true, class: Usable, role: Member, epoch: 17, generation: 99aa, sbSeq: 4, moment: 17-99aa, beat: 9021, dirtyBytes: 0, node: m1";
const STALE: &str = "reachable: true, class: Stale, role: Member, epoch: 15, generation: 77aa, sbSeq: 9, moment: 15-77aa, beat: 8800, dirtyBytes: 0, node: m1";
const UNFINISHED: &str = "reachable: true, class: Stale, role: Target, epoch: 15, generation: 77aa, sbSeq: 9, beat: 8800, dirtyBytes: 0, node: m1";

#[test]
fn between_two_living_sites_a_planned_move_is_offered() {
    let status = inspected("[A, B]", "    holder: c1000001000a0000", MEMBER, MEMBER);
    let plan = plan(&volume("True", "state: Member"), "research", Some(&status));
    assert!(plan.token.is_none());
    golden("plan-planned.txt", &render(&plan));
}

#[test]
fn with_the_other_site_down_an_unplanned_move_of_a_member_loses_nothing() {
    let status = inspected("[A, B]", "    holder: c1000001000a0000", AWAY, MEMBER);
    let plan = plan(&volume("False", "state: Member"), "research", Some(&status));
    assert!(plan.token.is_none());
    golden("plan-unplanned.txt", &render(&plan));
}

#[test]
fn a_leg_that_lacks_writes_is_only_had_by_force_and_the_loss_is_named() {
    let status = inspected("[A]", "", AWAY, STALE);
    let plan = plan(
        &volume("False", "state: Outdated, dirtyBytes: 67108864"),
        "research",
        Some(&status),
    );
    let token = plan.token.clone().unwrap();
    assert_eq!((token.expect_epoch, token.inconsistent), (17, false));
    golden("plan-force.txt", &render(&plan));
}

#[test]
fn an_unfinished_copy_and_a_living_better_leg_are_said_loudly() {
    let status = inspected(
        "[A]",
        "    holder: c1000001000a0000",
        &MEMBER.replace("dirtyBytes: 0", "dirtyBytes: 1073741824"),
        UNFINISHED,
    );
    let plan = plan(
        &volume("False", "state: Resyncing"),
        "research",
        Some(&status),
    );
    assert!(plan.token.clone().unwrap().inconsistent);
    golden("plan-force-inconsistent.txt", &render(&plan));
}

#[test]
fn what_is_not_known_is_never_offered() {
    let volume = volume("False", "state: Member");
    for status in [
        None,
        Some(inspected("[A, B]", "", MEMBER, AWAY)),
        Some(twinsite_api::AttachmentStatus {
            message: Some("the leg's target refuses the login".to_owned()),
            ..Default::default()
        }),
    ] {
        let plan = plan(&volume, "research", status.as_ref());
        assert!(plan.token.is_none());
        for verdict in [&plan.planned, &plan.unplanned, &plan.force] {
            assert!(matches!(verdict, Verdict::Impossible { .. }), "{plan:?}");
        }
    }
}

#[test]
fn a_leg_without_a_superblock_cannot_be_forced() {
    let status = inspected(
        "[A]",
        "",
        AWAY,
        "reachable: true, message: no superblock of this volume",
    );
    let plan = plan(
        &volume("False", "state: Outdated"),
        "research",
        Some(&status),
    );
    assert!(matches!(plan.force, Verdict::Impossible { .. }));
    assert!(plan.token.is_none());
}

/// The operator says that the register is not to be believed.
fn rolled_back() -> MirroredVolume {
    let mut volume = volume("True", "state: Member");
    let stalled = "{type: Stalled, status: \"True\", reason: WitnessRolledBack, message: x, lastTransitionTime: 2026-11-28T06:00:00Z}";
    let conditions = &mut volume.status.as_mut().unwrap().conditions;
    conditions.push(serde_yaml::from_str(stalled).unwrap());
    volume
}

#[test]
fn two_copies_of_one_history_are_offered_together_for_a_new_register() {
    let status = inspected("[A, B]", "", MEMBER, MEMBER);
    let plan = plan(&rolled_back(), "research", Some(&status));
    assert!(plan.token.is_none() && plan.reseed.as_ref().unwrap().whole);
    let text = render(&plan);
    let token = &plan.reseed.unwrap().token;
    assert_eq!(*token, status.inspect.unwrap().reseed_token());
    golden("plan-reseed.txt", &text.replace(token, "TOKEN"));
}

#[test]
fn of_two_histories_the_later_one_is_offered_and_the_other_is_named() {
    let old = MEMBER.replace("epoch: 17", "epoch: 15");
    let status = inspected("[A, B]", "", MEMBER, &old);
    let reseed = plan(&rolled_back(), "research", Some(&status))
        .reseed
        .unwrap();
    assert_eq!(reseed.legs, [twinsite_api::LegIndex::A]);
    assert!(!reseed.whole && reseed.what[1].contains("leg B is at epoch 15"));
}

#[test]
fn a_copy_that_was_never_completed_makes_no_register() {
    let target = MEMBER.replace("role: Member", "role: Target");
    let status = inspected("[A, B]", "", AWAY, &target);
    assert!(
        plan(&rolled_back(), "research", Some(&status))
            .reseed
            .is_none()
    );
    let growing = MEMBER.replace("role: Member", "role: Growing");
    let candidate = MEMBER.replace("role: Member", "role: Candidate");
    let status = inspected("[A]", "", &growing, &candidate);
    let reseed = plan(&rolled_back(), "research", Some(&status))
        .reseed
        .unwrap();
    assert_eq!(reseed.legs, [twinsite_api::LegIndex::A]);
    let believed = inspected("[A, B]", "", MEMBER, MEMBER);
    let volume = volume("True", "state: Member");
    assert!(plan(&volume, "research", Some(&believed)).reseed.is_none());
}

/// Volumes of a group, each with what was found of its copies; nobody answers at the other site.
fn of_group(
    members: &str,
    research: [(&str, &str); 2],
) -> Vec<(MirroredVolume, twinsite_api::AttachmentStatus)> {
    let names = ["data", "journal"];
    let made = names.iter().zip(research).map(|(name, (known, found))| {
        let mut volume = volume("False", known);
        volume.metadata.name = Some((*name).to_owned());
        volume.spec.active_site = None;
        volume.spec.group = Some("ledger".to_owned());
        let status = volume.status.as_mut().unwrap();
        status.group = serde_yaml::from_str(
            "{id: tg-000102030405060708090a0b0c0d0e0f, volumes: [ts-000102030405060708090a0b0c0d0e0f, ts-000102030405060708090a0b0c0d0e10], onNoQuorum: Suspend}",
        )
        .unwrap();
        let left = "{type: InSync, status: \"False\", reason: Unreachable, message: x, lastTransitionTime: 2026-11-28T05:58:07Z}";
        status.conditions.push(serde_yaml::from_str(left).unwrap());
        (volume, inspected(members, "", AWAY, found))
    });
    made.collect()
}

fn plan_of_group(volumes: &[(MirroredVolume, twinsite_api::AttachmentStatus)]) -> Plan {
    let looked: Vec<Looked<'_>> = volumes
        .iter()
        .map(|(volume, inspected)| Looked {
            volume,
            inspected: Some(inspected),
        })
        .collect();
    super::plan(&looked, "ledger", "research")
}

#[test]
fn a_force_of_a_group_names_what_each_volume_loses() {
    let volumes = of_group(
        "[A]",
        [
            ("state: Outdated, dirtyBytes: 67108864", STALE),
            ("state: Outdated, dirtyBytes: 1048576", STALE),
        ],
    );
    let plan = plan_of_group(&volumes);
    let token = plan.token.clone().unwrap();
    assert_eq!((token.expect_epoch, token.inconsistent), (17, false));
    golden("plan-group-force.txt", &render(&plan));
}

#[test]
fn copies_of_a_group_that_are_not_of_one_moment_are_said_loudly() {
    let later = STALE.replace("15", "16");
    for other in [UNFINISHED, &later] {
        let volumes = of_group(
            "[A]",
            [
                ("state: Outdated, dirtyBytes: 67108864", STALE),
                ("state: Outdated", other),
            ],
        );
        let plan = plan_of_group(&volumes);
        assert!(plan.token.clone().unwrap().inconsistent);
        if other == UNFINISHED {
            golden("plan-group-mixed.txt", &render(&plan));
        }
    }
}

#[test]
fn a_group_is_forced_only_if_every_volume_of_it_was_looked_at() {
    let both = [("state: Outdated", STALE), ("state: Outdated", AWAY)];
    let volumes = of_group("[A]", both);
    let plan = plan_of_group(&volumes);
    assert!(
        matches!(&plan.force, Verdict::Impossible { why } if why.contains("journal: the leg at research does not answer")),
        "{plan:?}"
    );
    let volumes = of_group(
        "[A]",
        [("state: Outdated", STALE), ("state: Outdated", STALE)],
    );
    let plan = plan_of_group(&volumes[..1]);
    assert!(
        matches!(&plan.force, Verdict::Impossible { why } if why.contains("1 of the 2 volumes of MirrorGroup ledger")),
        "{plan:?}"
    );
    let mut volumes = volumes;
    let report = volumes[1].1.inspect.as_mut().unwrap();
    report.token = Some("18-aa".to_owned());
    let plan = plan_of_group(&volumes);
    assert!(plan.token.is_none());
    assert!(
        matches!(&plan.force, Verdict::Impossible { why } if why.contains("plan again")),
        "{plan:?}"
    );
}

#[test]
fn a_volume_of_a_group_moves_with_the_others() {
    let volumes = of_group(
        "[A, B]",
        [("state: Member", MEMBER), ("state: Member", MEMBER)],
    );
    let plan = plan_of_group(&volumes);
    assert!(plan.token.is_none() && plan.reseed.is_none());
    let text = render(&plan);
    assert!(
        text.contains(
            "All volumes of MirrorGroup ledger have one register and move as one: data, journal"
        ),
        "{text}"
    );
}

/// The witness shows a register that is not believed.
fn group_without_a_register(data: &str, journal: &str) -> Plan {
    let mut volumes = of_group(
        "[A, B]",
        [("state: Member", data), ("state: Member", journal)],
    );
    let stalled = "{type: Stalled, status: \"True\", reason: WitnessRolledBack, message: x, lastTransitionTime: 2026-11-28T06:00:00Z}";
    for (volume, _) in &mut volumes {
        let conditions = &mut volume.status.as_mut().unwrap().conditions;
        conditions.push(serde_yaml::from_str(stalled).unwrap());
    }
    plan_of_group(&volumes)
}

#[test]
fn a_reseed_of_a_group_is_offered_for_copies_that_every_volume_has() {
    let plan = group_without_a_register(MEMBER, MEMBER);
    let reseed = plan.reseed.as_ref().unwrap();
    // Nobody answers at the other site.
    assert_eq!(reseed.legs, [twinsite_api::LegIndex::B]);
    assert!(!reseed.whole && !reseed.inconsistent);
    assert!(
        reseed
            .what
            .iter()
            .any(|line| line == "journal: leg B runs alone, as it was at epoch 17")
    );
    let text = render(&plan);
    assert!(
        text.contains("failover rv/ledger --to research --mode reseed --legs B --token "),
        "{text}"
    );
    assert!(!text.contains("--inconsistent"), "{text}");
    let later = MEMBER.replace("17", "16");
    let plan = group_without_a_register(MEMBER, &later);
    assert!(plan.reseed.as_ref().unwrap().inconsistent);
    let text = render(&plan);
    assert!(
        text.contains("NOT OF ONE MOMENT") && text.contains(" --inconsistent"),
        "{text}"
    );
    assert!(
        group_without_a_register(MEMBER, UNFINISHED)
            .reseed
            .is_none()
    );
}
