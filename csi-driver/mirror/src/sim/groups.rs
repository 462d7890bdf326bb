//! The sentences of protocol 2.10 about groups, one by one, in a world where only the test breaks something.

use std::time::Duration;

use twinsite_register::{Leg, Members, TxId};

use super::oracle::superblock;
use super::world::{Options, Unit, World};
use crate::io::LegOp;
use crate::layout::{MapPage, Role, SLOT_OFFSETS, Superblock, map_offset};
use crate::status::{Refusal, StateName};

const A: Leg = Leg::A;
const B: Leg = Leg::B;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

const fn unit(volume: usize, leg: Leg) -> Unit {
    Unit { volume, leg }
}

/// A group of these many volumes that has served for a while.
fn served(group: usize) -> World {
    served_from(7, group, false)
}

fn served_from(seed: u64, group: usize, volatile: bool) -> World {
    let mut world = World::new(
        seed,
        Options {
            volatile,
            faults: false,
            seconds: 10,
            moves: false,
            verify: false,
            group,
            forces: false,
        },
        false,
    );
    world.quiet = true;
    world.run(secs(5));
    assert_eq!(states(&world), vec![StateName::Synced; group]);
    world
}

fn states(world: &World) -> Vec<StateName> {
    let Some(w) = world.writers.values().next() else {
        return Vec::new();
    };
    let state = |volume| w.engine.status(world.now, volume).state;
    (0..world.options.volumes()).map(state).collect()
}

fn run_for(world: &mut World, time: Duration) {
    world.run(world.now + time);
}

/// One unit is gone: its target does not answer any more.
fn lose(world: &mut World, gone: Unit) {
    world.target_up[gone.index()] = false;
    world.break_sessions(|_, unit| unit == gone);
}

fn sb(world: &World, unit: Unit) -> Superblock {
    superblock(&world.targets[unit.index()]).unwrap()
}

/// Put this superblock into both slots.
fn put_sb(world: &mut World, unit: Unit, edit: impl Fn(&mut Superblock)) {
    let mut sb = sb(world, unit);
    edit(&mut sb);
    for _ in 0..2 {
        sb.sb_seq += 1;
        let slot = SLOT_OFFSETS[(sb.sb_seq % 2) as usize];
        let block = *sb.emit();
        world.targets[unit.index()].fake.blocks.insert(slot, block);
    }
}

/// Kill the writer and let the operator start another one at the same site.
fn start_again(world: &mut World) {
    let old: Vec<u32> = world.writers.keys().copied().collect();
    for id in old {
        world.kill(id);
    }
}

#[test]
fn a_group_attaches_with_one_request_and_one_place_in_the_order() {
    let world = served(3);
    let stamps: Vec<_> = world.witness.changes.iter().map(|r| r.stamp_id).collect();
    let landed = world.witness.value.landed;
    assert_eq!(world.witness.changes.len(), 2, "the stamp, then the land");
    assert_eq!((stamps[0], landed), (stamps[1], Members::BOTH));
    let order = world.witness.value.order;
    for unit in Unit::all(3) {
        let sb = sb(&world, unit);
        assert_eq!(
            (sb.order, sb.volume),
            (order, super::world::volume_id(unit.volume))
        );
        assert_eq!(sb.attach_key, world.witness.value.holder);
        assert_eq!(sb.group, world.witness.value.group);
    }
    // Its own record of every Attachment says the place.
    let w = world.writers.values().next().unwrap();
    for guest in &w.guests {
        let record = guest.record.as_ref().unwrap();
        assert_eq!(record.n, Some(order.n));
        assert_ne!(record.uid, order.uid);
    }
}

#[test]
fn a_leg_lost_to_one_volume_leaves_the_group_by_one_shrink_and_all_go_on() {
    let mut world = served(2);
    let (before, changes) = (world.witness.value.epoch.0, world.witness.changes.len());
    lose(&mut world, unit(0, B));
    run_for(&mut world, secs(8));
    assert_eq!(world.witness.value.epoch.0, before + 1);
    assert_eq!(world.witness.value.members, Members::only(A));
    assert_eq!(
        world.witness.changes.len(),
        changes + 2,
        "one shrink and one land for both"
    );
    for volume in 0..2 {
        let kept = sb(&world, unit(volume, A));
        assert_eq!((kept.members, kept.epoch.0), (Members::only(A), before + 1));
        assert!(kept.base.is_some(), "each volume has its own base");
    }
    let answered = world.answered();
    run_for(&mut world, secs(2));
    assert!(world.answered() > answered, "both go on with A");
}

#[test]
fn no_volume_grows_before_all_have_copied_and_then_one_request_grows_all() {
    let mut world = served(2);
    lose(&mut world, unit(0, B));
    run_for(&mut world, secs(8));
    let before = world.witness.value.epoch.0;
    // Leg B of volume 1 was there all the time; it is copied, and waits.
    run_for(&mut world, secs(30));
    assert_eq!(world.witness.value.epoch.0, before);
    assert_eq!(states(&world), [StateName::Solo, StateName::RjTarget]);
    assert_eq!(sb(&world, unit(1, B)).role, Role::Target);
    world.target_up[unit(0, B).index()] = true;
    run_for(&mut world, secs(30));
    assert_eq!(states(&world), [StateName::Synced; 2]);
    assert_eq!(world.witness.value.epoch.0, before + 1, "one grow");
    assert_eq!(world.witness.value.landed, Members::BOTH);
    for unit in Unit::all(2) {
        let sb = sb(&world, unit);
        assert_eq!((sb.role, sb.members), (Role::Member, Members::BOTH));
    }
}

#[test]
fn an_attach_runs_on_the_legs_that_every_volume_can_use() {
    let mut world = served(2);
    let before = world.witness.value.epoch.0;
    start_again(&mut world);
    world.target_up[unit(1, B).index()] = false;
    run_for(&mut world, secs(20));
    assert_eq!(world.witness.value.members, Members::only(A));
    assert_eq!(world.witness.value.epoch.0, before + 1);
    for volume in 0..2 {
        assert_eq!(sb(&world, unit(volume, A)).members, Members::only(A));
    }
}

#[test]
fn legs_of_which_no_one_is_usable_for_all_volumes_are_not_even_fenced() {
    let mut world = served(2);
    start_again(&mut world);
    let holder = world.witness.value.holder;
    world.target_up[unit(0, A).index()] = false;
    world.target_up[unit(1, B).index()] = false;
    run_for(&mut world, secs(30));
    assert_eq!(world.witness.value.holder, holder, "nobody stamped");
    let tried = states(&world);
    assert!(
        !tried.contains(&StateName::Fence),
        "refused in Check: {tried:?}"
    );
    for alive in [unit(0, B), unit(1, A)] {
        let held = world.targets[alive.index()].fake.holder_key();
        assert_eq!(held.map(crate::io::Key::attach), holder, "{alive}");
    }
}

#[test]
fn caches_lost_at_different_sites_are_repaired_each_from_its_own_good_leg() {
    let mut decided = 0;
    for seed in 1..=12 {
        let mut world = served_from(seed, 2, true);
        let before = world.witness.value.epoch;
        for gone in [unit(0, A), unit(1, B)] {
            world.restart_target(gone.index());
            world.target_up[gone.index()] = false;
        }
        run_for(&mut world, secs(6));
        assert_eq!(
            states(&world),
            [StateName::Frozen; 2],
            "no leg is left for both"
        );
        world.heal();
        let again = |world: &World, volume: usize| {
            let text = format!(" {volume} State {{ from: Frozen, to: Decide }}");
            world.log.iter().any(|line| line.contains(&text))
        };
        // By chance a cache held nothing that was acknowledged, and the other leg leaves as it always does.
        let settled = |world: &World| states(world) == [StateName::Synced; 2];
        until(&mut world, |world| {
            (again(world, 0) && again(world, 1)) || settled(world)
        });
        if again(&world, 0) {
            decided += 1;
            until(&mut world, settled);
            // No leg left, and no flush was told a lie: what each volume promised is on both of its legs.
            assert_eq!(world.witness.value.epoch, before);
            run_for(&mut world, secs(20));
            assert!(settled(&world));
            assert_eq!(world.failed_flushes, [0, 0]);
        }
    }
    assert!(decided >= 3, "{decided}");
}

#[test]
fn what_a_leg_says_while_another_volume_still_drains_is_not_lost() {
    let mut world = served(2);
    lose(&mut world, unit(0, B));
    until(&mut world, |world| {
        states(world) == [StateName::Solo, StateName::RjTarget]
    });
    // Volume 0 finds its last member without any key: all are attached anew, when volume 1 has come to rest, too.
    let id = *world.writers.keys().next().unwrap();
    let keyless = &mut world.targets[unit(0, A).index()].fake;
    keyless.registered.clear();
    keyless.holder = None;
    world.break_sessions(|_, at| at == unit(0, A));
    let says = |world: &World, text: &str| world.log.iter().any(|line| line.contains(text));
    until(&mut world, |world| says(world, "session to 0A dead"));
    // A command of volume 1 is never answered: it ends by its time.
    world.writers.get_mut(&id).unwrap().conns[unit(1, A).index()].broken = true;
    until(&mut world, |world| {
        says(world, " 0 State { from: Solo, to: Decide }")
    });
    let held = world.now;
    // Meanwhile the other leg of volume 0 is back.
    world.target_up[unit(0, B).index()] = true;
    until(&mut world, |world| {
        world.writers[&id].conns[unit(0, B).index()].up.is_some()
    });
    assert!(
        world.now < held + secs(2),
        "it is back before the attach begins"
    );
    for _ in 0..60 {
        run_for(&mut world, secs(1));
        if states(&world) == [StateName::Synced; 2] {
            assert!(world.writers.contains_key(&id), "the same writer went on");
            return;
        }
    }
    panic!("it never takes part: {:?}", states(&world));
}

#[test]
fn a_cache_lost_at_one_site_by_one_volume_drops_that_leg_for_all() {
    let mut world = served_from(7, 2, true);
    let before = world.witness.value.epoch.0;
    world.restart_target(unit(0, A).index());
    until(&mut world, |world| {
        world.witness.value.members == Members::only(B)
    });
    assert_eq!(world.witness.value.epoch.0, before + 1);
    until(&mut world, |world| states(world) == [StateName::Synced; 2]);
}

#[test]
fn one_volume_that_is_growing_at_the_epoch_bumps_the_group() {
    let mut world = served(2);
    lose(&mut world, unit(0, B));
    run_for(&mut world, secs(8));
    start_again(&mut world);
    let before = world.witness.value.epoch.0;
    put_sb(&mut world, unit(1, A), |sb| sb.role = Role::Growing);
    run_for(&mut world, secs(10));
    assert_eq!(world.witness.value.epoch.0, before + 1);
    assert_eq!(world.witness.value.members, Members::only(A));
    assert_eq!(sb(&world, unit(1, A)).role, Role::Member);
    assert_eq!(sb(&world, unit(0, A)).epoch.0, before + 1);
}

#[test]
fn a_leg_that_must_not_rejoin_does_not_in_any_volume() {
    let mut world = served(2);
    lose(&mut world, unit(0, B));
    run_for(&mut world, secs(8));
    let expected = world.witness.value.clone();
    let edited = expected
        .clone()
        .rejoin(Members::only(B), TxId([9; 16]))
        .unwrap();
    assert!(world.witness.cas(&expected, &edited));
    let before = world.witness.value.epoch.0;
    world.heal();
    run_for(&mut world, secs(40));
    assert_eq!(world.witness.value.epoch.0, before);
    assert_eq!(states(&world), [StateName::Solo; 2]);
}

#[test]
fn an_order_to_drop_a_leg_through_one_volume_drops_it_for_all() {
    let mut world = served(2);
    let id = *world.writers.keys().next().unwrap();
    world.input(id, 1, crate::io::Input::DropLeg(B));
    run_for(&mut world, secs(10));
    assert_eq!(world.witness.value.members, Members::only(A));
    assert_eq!(world.witness.value.no_rejoin, Members::only(B));
    assert_eq!(states(&world), [StateName::Solo; 2]);
}

/// The leg that goes by order fails a write of the other volume before the register is asked: it goes by order all the same.
#[test]
fn an_order_to_drop_a_leg_holds_although_another_volume_lost_it_for_a_graver_reason() {
    let mut world = served(2);
    let id = *world.writers.keys().next().unwrap();
    let at = unit(0, B).index();
    while !world.targets[at]
        .accepted
        .values()
        .any(|accepted| matches!(accepted.op, LegOp::WriteData { .. }))
    {
        run_for(&mut world, Duration::from_micros(20));
    }
    let faults = &mut world.targets[at].fake.faults;
    faults.push(("write", crate::io::LegError::Medium));
    world.input(id, 1, crate::io::Input::DropLeg(B));
    run_for(&mut world, secs(10));
    let lost = |line: &String| line.contains(" 0 LegLost") && line.contains("WriteError");
    assert!(world.log.iter().any(lost), "the write failed in time");
    assert_eq!(world.witness.value.members, Members::only(A));
    assert_eq!(world.witness.value.no_rejoin, Members::only(B));
    assert_eq!(states(&world), [StateName::Solo; 2]);
}

#[test]
fn one_volume_that_another_writer_took_ends_the_group() {
    let mut world = served(2);
    let thief = crate::io::Key::new(
        twinsite_register::KeyTag::Writer(twinsite_register::Site::B),
        77,
    );
    let fake = &mut world.targets[unit(1, A).index()].fake;
    let own = fake
        .registered
        .values()
        .find(|key| key.session_number() == 0)
        .copied()
        .unwrap();
    let steps = [
        LegOp::PrRegister {
            key: thief,
            session: crate::io::Session::Data,
        },
        LegOp::PrPreemptAbort {
            key: thief,
            victim: own,
            kind: 6,
        },
    ];
    for op in steps {
        fake.execute(200, &op).unwrap();
    }
    let id = *world.writers.keys().next().unwrap();
    until(&mut world, |world| !world.writers.contains_key(&id));
    assert!(
        world
            .log
            .iter()
            .any(|line| line.contains("REMOVED 0 Superseded"))
    );
    assert!(
        world
            .log
            .iter()
            .any(|line| line.contains("REMOVED 1 Superseded"))
    );
}

#[test]
fn a_detach_of_the_group_releases_once_all_volumes_are_out() {
    let mut world = served(2);
    let id = *world.writers.keys().next().unwrap();
    let changes = world.witness.changes.len();
    world.input(id, 0, crate::io::Input::Detach);
    run_for(&mut world, Duration::from_millis(600));
    assert!(!world.writers.contains_key(&id));
    assert_eq!(world.witness.changes.len(), changes + 1, "one release");
    assert_eq!(world.witness.value.holder, None);
    for unit in Unit::all(2) {
        assert!(sb(&world, unit).clean, "{unit} was idle and clean");
    }
}

#[test]
fn a_group_is_not_opened_with_fewer_volumes_than_the_register_names() {
    let mut world = served(2);
    let old: Vec<u32> = world.writers.keys().copied().collect();
    for id in old {
        world.kill(id);
    }
    let holder = world.witness.value.holder;
    world.options.group = 1;
    let site = world.witness.value.active.site;
    let id = world.start(site, None, true);
    until(&mut world, |world| !world.writers.contains_key(&id));
    assert_eq!(world.witness.value.holder, holder);
    let refused = format!("w{id} REFUSED {:?}", Refusal::OtherVolumes);
    assert!(world.log.iter().any(|line| line.contains(&refused)));
    let fenced =
        |line: &String| line.contains("PrPreemptAbort") && line.contains(&format!("w{id} "));
    assert!(!world.log.iter().any(fenced));
}

#[test]
fn no_device_is_shown_before_all_can_be() {
    let mut world = served(3);
    start_again(&mut world);
    // The last one has to wait for its leg, which is there only late.
    lose(&mut world, unit(2, A));
    lose(&mut world, unit(2, B));
    let shown = |world: &World| -> Vec<bool> {
        let writers = world.writers.values();
        writers
            .flat_map(|w| w.guests.iter().map(|guest| guest.shown))
            .collect()
    };
    for step in 0..40_000 {
        if step == 3_000 {
            world.heal();
        }
        run_for(&mut world, Duration::from_millis(1));
        let shown = shown(&world);
        assert!(!shown.contains(&true) || shown == [true; 3], "{shown:?}");
        if shown == [true; 3] {
            return;
        }
    }
    panic!("never shown: {:?}", states(&world));
}

#[test]
fn a_volume_that_is_ready_shows_no_device_before_the_last_one_is() {
    let mut world = served(3);
    start_again(&mut world);
    // A page of the last volume reached one leg only: it has something to make equal.
    let torn = &mut world.targets[unit(2, A).index()].fake;
    let mut page = MapPage::parse(0, &torn.block(map_offset(0))[..]).unwrap();
    page.number += 1;
    torn.blocks.insert(map_offset(0), *page.emit());
    let mut steps = 0;
    while states(&world).get(2) != Some(&StateName::Reconcile) {
        run_for(&mut world, Duration::from_micros(20));
        steps += 1;
        assert!(steps < 2_000_000, "{:?}", states(&world));
    }
    // One command of the last volume is never answered: it takes its time to find out.
    let id = *world.writers.keys().next().unwrap();
    world.writers.get_mut(&id).unwrap().conns[unit(2, A).index()].broken = true;
    let shown = |world: &World| -> Vec<bool> {
        let guests = world.writers.values().flat_map(|w| w.guests.iter());
        guests.map(|guest| guest.shown).collect()
    };
    for _ in 0..40_000 {
        run_for(&mut world, Duration::from_millis(1));
        let shown = shown(&world);
        assert!(!shown.contains(&true) || shown == [true; 3], "{shown:?}");
        if shown == [true; 3] {
            return;
        }
    }
    panic!("never shown: {:?}", states(&world));
}

/// Site A burns down after it had gone on alone: a person takes what B had when it left, of both volumes.
#[test]
fn a_group_that_is_forced_goes_on_from_one_moment_and_fills_the_lost_branch_anew() {
    let mut world = served(2);
    lose(&mut world, unit(0, B));
    lose(&mut world, unit(1, B));
    run_for(&mut world, secs(8));
    assert_eq!(states(&world), [StateName::Solo; 2]);
    let (before, link) = (world.witness.value.epoch.0, world.chain.acknowledged);
    world.heal();
    world.force_by_hand();
    run_for(&mut world, secs(2));
    assert_eq!(world.forced.won, 1);
    assert_eq!(world.witness.value.epoch.0, before + 1);
    let kept = world.chain.acknowledged;
    assert!(
        kept < link,
        "{link} was acknowledged by A alone, B has {kept}"
    );
    run_for(&mut world, secs(90));
    assert_eq!(states(&world), [StateName::Synced; 2]);
    assert_eq!(world.witness.value.active.site, B.site());
    assert!(world.witness.value.granted.is_empty());
    for unit in Unit::all(2) {
        let sb = sb(&world, unit);
        assert_eq!((sb.role, sb.members), (Role::Member, Members::BOTH));
        assert!(!sb.awaits_register, "{unit}");
    }
}

#[test]
fn a_group_is_not_forced_onto_copies_of_which_one_is_being_filled_again() {
    let mut world = served(2);
    lose(&mut world, unit(0, B));
    until(&mut world, |world| {
        superblock(&world.targets[unit(1, B).index()]).is_some_and(|sb| sb.role == Role::Target)
    });
    run_for(&mut world, Duration::from_millis(300));
    assert_eq!(sb(&world, unit(0, B)).role, Role::Member, "it left whole");
    let (members, epoch) = (world.witness.value.members, world.witness.value.epoch);
    world.heal();
    world.force_by_hand();
    let kept = [0, 1].map(|volume| sb(&world, unit(volume, B)));
    run_for(&mut world, secs(2));
    assert_eq!((world.forced.won, world.forced.mixed), (0, 1));
    assert_eq!(world.witness.value.members, members);
    assert_eq!(world.witness.value.epoch, epoch);
    assert_eq!([0, 1].map(|volume| sb(&world, unit(volume, B))), kept);
    until(&mut world, |world| states(world) == [StateName::Synced; 2]);
}

fn until(world: &mut World, done: impl Fn(&World) -> bool) {
    for _ in 0..20_000 {
        if done(world) {
            return;
        }
        run_for(world, Duration::from_millis(1));
    }
    for line in &world.log {
        eprintln!("{line}");
    }
    panic!("it never came: {:?}", states(world));
}
