//! What an open volume is told: to drop a leg, to grow, to compare its copies, where its legs are.

use super::*;

#[test]
fn orders_to_an_open_volume_go_one_at_a_time() {
    let mut world = World::new(&[PAIR, &writer("w")]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Writer");
    let more = attachment("w", "  mode: Writer\n  size: 3Gi\n  dropLegs: [B]");
    world.want(&[PAIR, &more]);
    world.step("");
    world.opened("w");
    world.step("drop leg B of w");
    world.step("");
    world.volume("w").dropped = vec![LegIndex::B];
    world.volume("w").order = OrderSeen::None;
    world.step("expand w to 3221225472");
    world.volume("w").order = OrderSeen::FailedAt(world.now);
    world.step("");
    world.later(5);
    world.step("expand w to 3221225472");
    world.volume("w").order = OrderSeen::None;
    world.volume("w").size = Some(3 << 30);
    world.step("");
    world.want(&[PAIR, &writer("w")]);
    world.step("Attachment/w waits: InvalidSpec: the volume has 3221225472 bytes and never shrinks: set spec.size back");
}

#[test]
fn a_drop_that_the_order_came_with_is_given_and_one_that_holds_is_not_repeated() {
    let drop = attachment("w", "  mode: Caretaker\n  size: 2Gi\n  dropLegs: [B]");
    let mut world = World::new(&[PAIR, &drop]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Caretaker");
    world.opened("w");
    world.step("drop leg B of w");
    world.volume("w").order = OrderSeen::None;
    world.volume("w").dropped = vec![LegIndex::B];
    world.step("");
    // It came back, and the order still stands.
    world.volume("w").dropped.clear();
    world.step("drop leg B of w");
}

#[test]
fn a_verify_begins_once_for_each_order_when_the_copies_are_in_sync_and_goes_on_by_itself() {
    let asked = attachment("w", "  mode: Writer\n  size: 2Gi\n  verify: monday");
    let mut world = World::new(&[PAIR, &asked]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Writer");
    world.opened("w");
    // Not in sync.
    world.step("");
    world.volume("w").verify.ready = true;
    world.step("verify w for monday");
    world.volume("w").order = OrderSeen::None;
    world.volume("w").verify.answered = Some("monday".to_owned());
    world.step("");
    world.volume("w").verify.waits = Some("monday".to_owned());
    world.step("go on with the verify of w");
    world.volume("w").order = OrderSeen::None;
    world.volume("w").verify.waits = Some("sunday".to_owned());
    world.step("");
    world.volume("w").verify.waits = Some("by hand".to_owned());
    world.step("go on with the verify of w");
    world.volume("w").order = OrderSeen::None;
    let again = attachment("w", "  mode: Writer\n  size: 2Gi\n  verify: tuesday");
    world.want(&[PAIR, &again]);
    world.step("verify w for tuesday");
}

#[test]
fn an_open_volume_learns_of_new_addresses() {
    let mut world = World::new(&[PAIR, &writer("w")]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Writer");
    world.opened("w");
    world.step("");
    world.want(&[
        PAIR,
        &writer("w").replace("portals: ['", "portals: ['192.0.2.9:3260', '"),
    ]);
    world.step("readdress the legs of w");
    world.step("");
}
