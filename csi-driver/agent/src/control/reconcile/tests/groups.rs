//! Several volumes that are opened as one.

use super::*;

const JOURNAL: &str = "ts-000102030405060708090a0b0c0d0e0f";

const DATA: &str = "ts-ff0102030405060708090a0b0c0d0e0f";

/// An Attachment of the group of two volumes.
fn of_group(name: &str, volume: &str, rest: &str) -> String {
    attachment(
        name,
        &format!(
            "  mode: Writer\n  size: 2Gi\n  group: tg-aa0102030405060708090a0b0c0d0e0f\n  groupVolumes: [{JOURNAL}, {DATA}]\n{rest}"
        ),
    )
    .replace(&format!("  volume: {JOURNAL}"), &format!("  volume: {volume}"))
}

fn pair_of_group() -> [String; 2] {
    [of_group("j", JOURNAL, ""), of_group("d", DATA, "")]
}

#[test]
fn a_group_is_opened_when_there_is_an_attachment_for_each_volume() {
    let [j, d] = pair_of_group();
    let mut world = World::new(&[PAIR, &j]);
    world.settle("open pool p1 at /pool");
    world.step(&format!("Attachment/j waits: Pending: volume {DATA} of the group has no Attachment on this node: the volumes of a group are opened together, when there is one for each"));
    world.want(&[PAIR, &j, &d]);
    world.settle("open j and d together as Writer");
    world.step("");
}

#[test]
fn a_group_is_detached_when_the_last_of_its_attachments_is_gone() {
    let [j, d] = pair_of_group();
    let mut world = World::new(&[PAIR, &j, &d]);
    world.settle("open pool p1 at /pool\nopen j and d together as Writer");
    for seen in world.observed.volumes.values_mut() {
        seen.phase = Phase::Open;
    }
    world.want(&[PAIR, &d]);
    world.step("");
    world.want(&[PAIR]);
    world.settle("detach d\ndetach j");
}

#[test]
fn a_group_that_comes_waits_as_a_whole_for_the_other_site_to_let_go() {
    let moving = |name, volume| of_group(name, volume, "  move: {mode: Planned, expectSeq: 1}");
    let mut world = World::new(&[PAIR, &moving("j", JOURNAL), &moving("d", DATA)]);
    // What is known of one of them holds for both: they have one register.
    world.desired.held_elsewhere.insert("d".to_owned());
    let waits = |name: &str| {
        format!(
            "Attachment/{name} waits: HeldElsewhere: the other site still holds the volume: it is taken as soon as that lets go"
        )
    };
    world.step(&format!(
        "open pool p1 at /pool\n{}\n{}",
        waits("d"),
        waits("j")
    ));
    world.desired.held_elsewhere.clear();
    world.settle("open j and d together as Writer");
}

#[test]
fn a_group_that_leaves_is_detached_once_the_node_uses_none_of_its_volumes() {
    let leaves = |name, volume| of_group(name, volume, "  release: true");
    let [j, d] = pair_of_group();
    let mut world = World::new(&[PAIR, &j, &d]);
    world.settle("open pool p1 at /pool\nopen j and d together as Writer");
    for seen in world.observed.volumes.values_mut() {
        seen.phase = Phase::Open;
    }
    world.want(&[PAIR, &leaves("j", JOURNAL), &leaves("d", DATA)]);
    world.desired.unused.insert("j".to_owned());
    world.step("");
    world.desired.unused.insert("d".to_owned());
    world.settle("detach d\ndetach j");
    for name in ["d", "j"] {
        world.over(name, Over::Detached);
    }
    world.later(3600);
    let stays = "waits: NotActive: the volume leaves this site: it is not opened here any more";
    world.step(&format!("Attachment/d {stays}\nAttachment/j {stays}"));
}

#[test]
fn a_group_that_ended_is_tried_again_as_a_whole() {
    let [j, d] = pair_of_group();
    let mut world = World::new(&[PAIR, &j, &d]);
    world.settle("open pool p1 at /pool\nopen j and d together as Writer");
    let over = |how| Phase::Over {
        how,
        at: Duration::ZERO,
    };
    world.observed.volumes.get_mut("j").unwrap().phase = over(Over::Refused);
    // The other one has not ended yet.
    world.now = RETRY;
    assert_eq!(
        reconcile(&world.desired, &world.observed, world.now).actions,
        []
    );
    world.observed.volumes.get_mut("d").unwrap().phase = over(Over::Refused);
    world.now = Duration::from_secs(1);
    assert_eq!(
        reconcile(&world.desired, &world.observed, world.now).actions,
        []
    );
    world.now = RETRY;
    world.settle("close j\nclose d\nopen j and d together as Writer");
    // One that a later one has passed holds the others back.
    world.observed.volumes.get_mut("j").unwrap().phase = over(Over::Refused);
    world.observed.volumes.get_mut("d").unwrap().phase = over(Over::Never);
    world.now = RETRY * 3;
    let never = "Pending: Attachment d of the group will never attach again: remove all Attachments of the group and make new ones";
    world.step(&format!(
        "Attachment/j waits: {never}\nAttachment/d waits: {never}"
    ));
}

#[test]
fn orders_that_cannot_be_those_of_one_group_say_why() {
    let [j, d] = pair_of_group();
    let waits = |manifests: &[&str]| -> String {
        let mut all = vec![PAIR];
        all.extend(manifests);
        let world = World::new(&all);
        let plan = reconcile(&world.desired, &world.observed, world.now);
        let opens = plan
            .actions
            .iter()
            .any(|action| matches!(action, Action::OpenGroup { .. } | Action::Open { .. }));
        assert!(!opens, "nothing is opened");
        let texts: Vec<String> = plan.waits.iter().map(Wait::to_string).collect();
        texts.join("\n")
    };
    let text = waits(&[&j, &d.replace("  node: m1", "  node: m2")]);
    assert!(
        text.contains("is for node m2: all volumes of a group are opened on one node"),
        "{text}"
    );
    let text = waits(&[
        &j,
        &of_group("d", DATA, "  move: {mode: Failover, expectSeq: 3}"),
    ]);
    assert!(text.contains("differ in spec.move"), "{text}");
    let text = waits(&[&j, &d, &of_group("e", DATA, "")]);
    assert!(text.contains("has two Attachments"), "{text}");
    let force = |name, volume, epoch, seq| {
        let details = format!(
            "  force: {{expectEpoch: {epoch}, expectTxid: '{}', epoch: 1, generation: '{}', sbSeq: {seq}, who: ann}}\n",
            "01".repeat(16),
            "02".repeat(16)
        );
        of_group(name, volume, &details)
            .replace("  mode: Writer", "  mode: Force")
            .replace(
                "  - {leg: B, site: research, portals: ['127.0.0.1:3261']}\n",
                "",
            )
    };
    let text = waits(&[&force("j", JOURNAL, 2, 4), &force("d", DATA, 3, 4)]);
    assert!(text.contains("differ in spec.force"), "{text}");
    let text = waits(&[
        &j.replace(&format!(", {DATA}]"), "]")
            .replace(&format!("[{JOURNAL}"), &format!("[{DATA}")),
        &d,
    ]);
    assert!(
        text.contains("spec.groupVolumes names every volume of the group once"),
        "{text}"
    );
    let text = waits(&[&j.replace("  group: tg-aa0102030405060708090a0b0c0d0e0f\n", "")]);
    assert!(text.contains("name the group in spec.group"), "{text}");
    let array = "portals: ['127.0.0.1:3261'], array: true, iqn: iqn.2001-05.com.example:x, naa: naa.6006000000000001}";
    let text = waits(&[&j.replace("portals: ['127.0.0.1:3261']}", array), &d]);
    assert!(text.contains("our own target only"), "{text}");
}

#[test]
fn a_volume_of_a_group_is_inspected_alone() {
    let j = of_group("j", JOURNAL, "").replace("  mode: Writer", "  mode: Inspect");
    let mut world = World::new(&[PAIR, &j]);
    world.settle("open pool p1 at /pool\nopen j (j-uid) as Inspect");
}
