//! Pools that are opened and legs that are served from them.

use super::*;

#[test]
fn a_leg_grows_changes_its_access_and_never_shrinks() {
    let two = leg("a", "  pool: p1\n  size: 2Gi");
    let mut world = World::new(&[PAIR, &two]);
    world.settle("open pool p1 at /pool\nserve leg a from p1 with 2Gi");
    world.want(&[PAIR, &leg("a", "  pool: p1\n  size: 3Gi")]);
    world.settle("grow leg a to 3Gi");
    world.want(&[
        PAIR,
        &leg(
            "a",
            "  pool: p1\n  size: 3Gi\n  initiators: ['iqn.2026-11.io.twinsite:m1']",
        ),
    ]);
    world.settle("set access of leg a");
    world.want(&[PAIR, &two]);
    world.step("Leg/a waits: InvalidSpec: the leg has 3Gi and never shrinks: set spec.size back");
}

#[test]
fn a_leg_that_becomes_another_unit_is_served_anew() {
    let mut world = World::new(&[PAIR, &leg("a", "  pool: p1\n  size: 2Gi")]);
    world.settle("open pool p1 at /pool\nserve leg a from p1 with 2Gi");
    world.want(&[PAIR, &leg("a", "  pool: p1\n  size: 2Gi\n  lun: 3")]);
    world.settle("stop leg a\nserve leg a from p1 with 2Gi");
    world.want(&[
        &PAIR.replace("/pool", "/other"),
        &leg("a", "  pool: p1\n  size: 2Gi\n  lun: 3"),
    ]);
    world.settle("stop leg a\nclose pool p1\nopen pool p1 at /other\nserve leg a from p1 with 2Gi");
    world.want(&[PAIR.split("---").next().unwrap()]);
    world.settle("stop leg a\nclose pool p1");
}

#[test]
fn what_failed_is_tried_again_and_holds_nothing_else_up() {
    let mut world = World::new(&[PAIR, &leg("a", "  pool: p1\n  size: 2Gi"), &writer("w")]);
    world.step("open pool p1 at /pool\nopen w (w-uid) as Writer");
    world.observed.pools.get_mut("p1").unwrap().failed_at = Some(world.now);
    world.step("Leg/a waits: Pending: StoragePool p1 cannot be opened");
    world.later(5);
    world.step(
        "
open pool p1 at /pool
Leg/a waits: Pending: StoragePool p1 cannot be opened
",
    );
    world.step("serve leg a from p1 with 2Gi");
    let leg = world.observed.legs.get_mut("a").unwrap();
    (leg.served, leg.failed_at) = (false, Some(world.now));
    world.step("");
    world.later(5);
    world.settle("serve leg a from p1 with 2Gi");
}
