//! When an Attachment is opened, waits, is tried again, and ends.

use super::*;

#[test]
fn a_removed_attachment_is_detached_and_then_forgotten() {
    let mut world = World::new(&[PAIR, &writer("w")]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Writer");
    world.opened("w");
    world.want(&[PAIR]);
    world.settle("detach w");
    world.over("w", Over::Detached);
    world.settle("close w\nforget w (w-uid)");
}

#[test]
fn an_attachment_put_back_with_another_uid_waits_for_the_end_of_the_first() {
    let again = writer("w").replace("w-uid", "new-uid");
    let mut world = World::new(&[PAIR, &writer("w")]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Writer");
    world.want(&[PAIR, &again]);
    world.settle("detach w");
    world.over("w", Over::Never);
    world.settle("close w\nforget w (w-uid)\nopen w (new-uid) as Writer");
}

#[test]
fn a_refused_attach_is_tried_again_after_five_seconds_or_at_once_with_a_new_order() {
    let mut world = World::new(&[PAIR, &writer("w")]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Writer");
    world.over("w", Over::Refused);
    world.step("");
    assert_eq!(
        reconcile(&world.desired, &world.observed, world.now).wake_at,
        Some(RETRY)
    );
    world.later(5);
    world.settle("close w\nopen w (w-uid) as Writer");
    world.over("w", Over::Refused);
    let moving = attachment(
        "w",
        "  mode: Writer\n  size: 2Gi\n  move: {mode: Failover, expectSeq: 1}",
    );
    world.want(&[PAIR, &moving]);
    world.settle("close w\nopen w (w-uid) as Writer");
}

#[test]
fn what_an_order_names_and_is_not_there_yet_is_looked_for_again_at_once() {
    let mut world = World::new(&[PAIR, &writer("w")]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Writer");
    world.over("w", Over::Waiting);
    world.step("");
    assert_eq!(
        reconcile(&world.desired, &world.observed, world.now).wake_at,
        Some(world.now + AGAIN)
    );
    world.now += AGAIN;
    world.settle("close w\nopen w (w-uid) as Writer");
}

#[test]
fn one_that_may_never_attach_again_is_left_alone() {
    let mut world = World::new(&[PAIR, &writer("w")]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Writer");
    world.over("w", Over::Never);
    world.later(3600);
    world.step("");
    let birth = attachment(
        "w",
        "  mode: Birth\n  size: 2Gi\n  birth: {activeSite: medical}",
    );
    let mut world = World::new(&[PAIR, &birth]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Birth");
    world.over("w", Over::Done);
    world.later(3600);
    world.step("");
}

#[test]
fn a_volume_has_one_attachment_on_a_node() {
    let mut world = World::new(&[PAIR, &writer("w1"), &writer("w2")]);
    world.step(
        "
open pool p1 at /pool
open w1 (w1-uid) as Writer
Attachment/w2 waits: AlreadyAttached: the volume is held by Attachment w1 on this node: remove one of the two, a volume has one writer
",
    );
    world.opened("w1");
    world.want(&[PAIR, &writer("w0"), &writer("w1")]);
    world.step(
        "Attachment/w0 waits: AlreadyAttached: the volume is held by Attachment w1 on this node: remove one of the two, a volume has one writer",
    );
    world.want(&[PAIR, &writer("w0")]);
    world.step(
        "
detach w1
Attachment/w0 waits: AlreadyAttached: the volume is held by Attachment w1 on this node: remove one of the two, a volume has one writer
",
    );
    world.over("w1", Over::Detached);
    world.settle("close w1\nforget w1 (w1-uid)\nopen w0 (w0-uid) as Writer");
}

#[test]
fn a_volume_is_looked_at_beside_its_writer_on_the_same_node() {
    let inspect = |name: &str| attachment(name, "  mode: Inspect\n  size: 2Gi");
    let mut world = World::new(&[PAIR, &writer("w")]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Writer");
    world.opened("w");
    world.want(&[PAIR, &writer("w"), &inspect("i")]);
    world.settle("open i (i-uid) as Inspect");
    world.want(&[PAIR, &writer("w"), &inspect("i"), &inspect("j")]);
    world.step(
        "Attachment/j waits: AlreadyAttached: the volume is held by Attachment i on this node: remove one of the two, a volume has one writer",
    );
}

#[test]
fn a_birth_that_is_done_makes_room_for_the_writer() {
    let birth = attachment(
        "birth",
        "  mode: Birth\n  size: 2Gi\n  birth: {activeSite: medical}",
    );
    let mut world = World::new(&[PAIR, &birth, &writer("w")]);
    world.step(
        "
open pool p1 at /pool
open birth (birth-uid) as Birth
Attachment/w waits: AlreadyAttached: the volume is held by Attachment birth on this node: remove one of the two, a volume has one writer
",
    );
    world.over("birth", Over::Done);
    world.settle("open w (w-uid) as Writer");
}

#[test]
fn one_that_was_detached_by_hand_stays_so_until_it_is_let_go() {
    let mut world = World::new(&[PAIR, &writer("w")]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Writer");
    world.opened("w");
    world.desired.held.insert("w".to_owned());
    world.settle("detach w");
    world.over("w", Over::Detached);
    world.settle("close w");
    world.later(3600);
    world.step("");
    world.desired.held.clear();
    world.settle("open w (w-uid) as Writer");
}

#[test]
fn a_volume_that_leaves_is_detached_once_the_node_does_not_use_it_and_is_not_opened_again() {
    let mut world = World::new(&[PAIR, &writer("w")]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Writer");
    world.opened("w");
    let leaves = attachment("w", "  mode: Writer\n  size: 2Gi\n  release: true");
    world.want(&[PAIR, &leaves]);
    world.step("");
    world.desired.unused.insert("w".to_owned());
    world.settle("detach w");
    world.over("w", Over::Detached);
    world.later(3600);
    world.step("Attachment/w waits: NotActive: the volume leaves this site: it is not opened here any more");
    // It stays after all: its next user finds a device.
    world.desired.unused.clear();
    world.want(&[PAIR, &writer("w")]);
    world.settle("close w\nopen w (w-uid) as Writer");
    world.opened("w");
    world.want(&[PAIR]);
    world.settle("detach w");
}

#[test]
fn a_volume_that_comes_is_not_opened_before_the_other_site_has_let_go() {
    let moving = attachment(
        "w",
        "  mode: Writer\n  size: 2Gi\n  move: {mode: Planned, expectSeq: 1}",
    );
    let waits = "Attachment/w waits: HeldElsewhere: the other site still holds the volume: it is taken as soon as that lets go";
    let mut world = World::new(&[PAIR, &moving]);
    world.desired.held_elsewhere.insert("w".to_owned());
    world.step(&format!("open pool p1 at /pool\n{waits}"));
    world.later(3600);
    world.step(waits);
    world.desired.held_elsewhere.clear();
    world.settle("open w (w-uid) as Writer");
    // The other site was quicker and attached again: no five seconds pass once it lets go.
    world.over("w", Over::Refused);
    world.desired.held_elsewhere.insert("w".to_owned());
    world.settle("close w");
    world.desired.held_elsewhere.clear();
    world.settle("open w (w-uid) as Writer");
    // One that can never attach again says so, and does not wait.
    world.over("w", Over::Never);
    world.desired.held_elsewhere.insert("w".to_owned());
    world.step("");
}

#[test]
fn nothing_attaches_before_the_claim_of_the_site_was_tried() {
    let mut world = World::new(&[PAIR, &writer("w")]);
    world.desired.untried.insert("ctrc".to_owned());
    world.step(
        "
open pool p1 at /pool
Attachment/w waits: Pending: the witness is asked whose the site's name is
",
    );
    world.desired.untried.clear();
    world.settle("open w (w-uid) as Writer");
}

#[test]
fn one_whose_device_was_taken_away_attaches_again() {
    let mut world = World::new(&[PAIR, &writer("w")]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Writer");
    world.opened("w");
    world.over("w", Over::Detached);
    world.step("");
    world.later(5);
    world.settle("close w\nopen w (w-uid) as Writer");
}
