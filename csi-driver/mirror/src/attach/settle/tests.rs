//! What is written to the legs that will run, and in which order.

use twinsite_register::*;

use super::*;
use crate::attach::tests::world::{Node, SIZE, World, generation, key, superblock, tx};
use crate::layout::{BASE_OFFSET, HISTORY_OFFSET, MAP_OFFSET, SLOT_OFFSETS};

fn body(leg: Leg, register: &Register, number: u64) -> Body {
    let page = MapPage::filled(0, number, Epoch(1), RegionState::Clean);
    Body {
        superblock: superblock(leg, register, Naa([0x61; 16])),
        beat: None,
        pages: vec![page],
        base_numbers: None,
    }
}

fn pair() -> Register {
    crate::attach::tests::world::newborn()
}

fn running(register: &Register) -> (Register, Running) {
    let own = key(Site::A, 1);
    let register = Register {
        holder: Some(own),
        ..register.clone()
    };
    let running = Running::of(&register, own);
    (register, running)
}

fn shrunk() -> Register {
    let (register, running) = running(&pair());
    register
        .shrink(&running, Leg::A, generation(2), tx(22))
        .unwrap()
}

struct Case<'a> {
    set: Members,
    register: Option<&'a Register>,
    granted: bool,
}

fn run(case: &Case<'_>, body: &Body, other: Option<&Body>) -> Settled {
    let world = World::born();
    let order = Node::new(1, Site::A, 1).order();
    let settlement = Settlement {
        order: &order,
        place: Order {
            n: 7,
            uid: AttachmentUid([1; 16]),
        },
        set: case.set,
        register: case.register,
        granted: case.granted,
        other_damaged: false,
        keep_boot: false,
        why: "test",
    };
    settle(&settlement, Leg::A, body, &world.legs[0].info, other)
}

fn places(settled: &Settled) -> Vec<&'static str> {
    settled
        .blocks
        .iter()
        .map(|(offset, _)| match *offset {
            at if SLOT_OFFSETS.contains(&at) => "slot",
            at if at >= BASE_OFFSET => "base",
            at if at >= MAP_OFFSET => "page",
            at if at >= HISTORY_OFFSET => "history",
            _ => "other",
        })
        .collect()
}

const A: Members = Members::only(Leg::A);

#[test]
fn r3_base_numbers_then_pages_then_both_slots_of_a_set_of_one() {
    let register = shrunk();
    let case = Case {
        set: A,
        register: Some(&register),
        granted: false,
    };
    let settled = run(&case, &body(Leg::A, &pair(), 9), None);
    assert_eq!(places(&settled), ["base", "slot", "slot", "history"]);
    assert_eq!(
        settled.body.base_numbers,
        Some(vec![8]),
        "own number minus one"
    );
    let base = settled.body.superblock.base.unwrap();
    assert_eq!((base.epoch, base.generation), (Epoch(1), generation(1)));
    assert_eq!(base.crc, base_crc([&settled.blocks[0].1[..]]));
    let sb = Superblock::parse(&settled.blocks[2].1[..]).unwrap();
    assert_eq!(sb, settled.body.superblock);
    assert_eq!((sb.sb_seq, sb.members, sb.epoch), (4, A, Epoch(2)));
    assert_eq!(sb.parents, register.parents);
    let damaged = run(&case, &body(Leg::A, &pair(), 0), None);
    assert_eq!(
        places(&damaged),
        ["base", "page", "slot", "slot", "history"]
    );
}

#[test]
fn a_pair_keeps_base_and_boot_id_and_touches_no_page() {
    let register = pair();
    let mut leg = body(Leg::A, &register, 0);
    leg.superblock.boot_id = 77;
    leg.superblock.base = Some(Base {
        epoch: Epoch(1),
        generation: generation(9),
        crc: 5,
    });
    let case = Case {
        set: Members::BOTH,
        register: Some(&register),
        granted: false,
    };
    let settled = run(&case, &leg, None);
    assert_eq!(places(&settled), ["slot", "slot", "history"]);
    assert_eq!(settled.body.superblock.boot_id, 77, "R39");
    assert_eq!(settled.body.superblock.base, leg.superblock.base);
}

#[test]
fn a_base_written_on_this_leg_is_kept_with_its_numbers() {
    let register = shrunk();
    let mut leg = body(Leg::A, &pair(), 9);
    leg.superblock.base = Some(Base {
        epoch: Epoch(1),
        generation: generation(9),
        crc: 5,
    });
    leg.base_numbers = Some(vec![3]);
    let case = Case {
        set: A,
        register: Some(&register),
        granted: false,
    };
    let settled = run(&case, &leg, None);
    assert_eq!(places(&settled), ["slot", "slot", "history"]);
    assert_eq!(settled.body.superblock.base, leg.superblock.base);
    assert_eq!(settled.body.base_numbers, Some(vec![3]));
    // One that was only copied here is replaced by the last epoch of the other leg.
    leg.base_numbers = None;
    let settled = run(&case, &leg, None);
    assert_eq!(
        settled.body.superblock.base.unwrap().generation,
        generation(1)
    );
}

#[test]
fn a_shrink_that_never_reached_the_superblock_still_gets_its_base_and_a_later_solo_none() {
    // Two bumps after the shrink; the superblock is of the pair yet.
    let (register, running) = running(&shrunk());
    let bumped = register.bump(&running, generation(3), tx(23)).unwrap();
    let case = Case {
        set: A,
        register: Some(&bumped),
        granted: false,
    };
    let settled = run(&case, &body(Leg::A, &pair(), 9), None);
    assert_eq!(settled.body.superblock.base.unwrap().epoch, Epoch(1));
    // A superblock of the Solo without a base (its numbers are damaged, say): pages went on since, so none.
    let settled = run(&case, &body(Leg::A, &shrunk(), 9), None);
    assert_eq!(settled.body.superblock.base, None);
    assert_eq!(places(&settled), ["slot", "slot", "history"]);
}

#[test]
fn r44_a_granted_leg_has_no_base_and_a_granted_target_is_all_dirty() {
    let register = shrunk();
    let case = Case {
        set: A,
        register: Some(&register),
        granted: true,
    };
    let mut leg = body(Leg::A, &pair(), 9);
    leg.superblock.base = Some(Base {
        epoch: Epoch(1),
        generation: generation(9),
        crc: 5,
    });
    leg.base_numbers = Some(vec![3]);
    let member = run(&case, &leg, None);
    assert_eq!(member.body.superblock.base, None);
    assert!(!member.body.pages[0].any_dirty(64));
    leg.superblock.role = Role::Target;
    let target = run(&case, &leg, None);
    assert_eq!(target.body.pages[0].dirty(64).count(), 64);
    assert_eq!(target.body.pages[0].number, 10);
    assert_eq!(target.body.superblock.role, Role::Member);
}

#[test]
fn a_damaged_page_becomes_all_dirty_and_its_base_number_lets_nothing_pass_unknown() {
    let register = shrunk();
    let case = Case {
        set: A,
        register: Some(&register),
        granted: false,
    };
    let damaged = body(Leg::A, &pair(), 0);
    let alone = run(&case, &damaged, None);
    assert_eq!(alone.body.base_numbers, Some(vec![u64::MAX]), "a full copy");
    assert_eq!(alone.body.pages[0].number, 1);
    assert_eq!(alone.body.pages[0].dirty(64).count(), 64);
    let other = body(Leg::B, &pair(), 12);
    let known = run(&case, &damaged, Some(&other));
    assert_eq!(known.body.base_numbers, Some(vec![12]));
    assert_eq!(known.body.pages[0].number, 13);
    let both = run(&case, &damaged, Some(&body(Leg::B, &pair(), 0)));
    assert_eq!(both.body.base_numbers, Some(vec![u64::MAX]));
}

#[test]
fn without_the_register_membership_and_sequence_stay_and_our_place_is_written() {
    let solo = shrunk();
    let case = Case {
        set: A,
        register: None,
        granted: false,
    };
    let settled = run(&case, &body(Leg::A, &solo, 9), None);
    let sb = &settled.body.superblock;
    assert_eq!(
        (sb.epoch, sb.generation, sb.members),
        (Epoch(2), generation(2), A)
    );
    assert_eq!(sb.order.n, 7);
    assert_eq!(sb.attach_key, Some(key(Site::A, 1001)));
}

#[test]
fn the_longest_lease_stays_recorded() {
    // The writer before had 30 s; until this attach has waited it out, a third one must not see our 3 s only.
    let register = pair();
    let mut leg = body(Leg::A, &register, 9);
    leg.superblock.lease_ms = 30_000;
    let case = Case {
        set: Members::BOTH,
        register: Some(&register),
        granted: false,
    };
    assert_eq!(run(&case, &leg, None).body.superblock.lease_ms, 30_000);
    leg.superblock.lease_ms = 1;
    assert_eq!(run(&case, &leg, None).body.superblock.lease_ms, 3000);
    assert_eq!(leg.superblock.geometry.size(), SIZE);
}
