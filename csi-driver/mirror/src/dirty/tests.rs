//! Gates, claims, clearing and counting of the dirty map.

use RegionState::{Clean, Dirty, Unwritten};

use super::*;
use crate::slab::Handle;

fn waiter(n: u64) -> Waiter {
    Handle::from_u64(n)
}

/// Four pages of 64 KiB regions on both legs, nothing written.
fn map() -> DirtyMap {
    let geometry = Geometry::new((4 * u64::from(REGIONS_PER_PAGE)) << 16, 16).unwrap();
    DirtyMap::new(
        geometry,
        Epoch(3),
        Members::BOTH,
        (0..4).map(|page| blank(page, 1)).collect(),
    )
}

fn blank(page: u32, number: u64) -> MapPage {
    MapPage::filled(page, number, Epoch(2), Unwritten)
}

/// Number and the first four regions of the page on its way to the legs.
fn under_way(map: &DirtyMap, page: u32) -> (u64, [RegionState; 4]) {
    let page = MapPage::parse(page, &**map.block(page).unwrap()).unwrap();
    assert_eq!(page.epoch, Epoch(3));
    (page.number, [0, 1, 2, 3].map(|slot| page.region(slot)))
}

fn gates(opened: &mut Opened) -> (Vec<u64>, Vec<u64>) {
    let names = |list: &mut Vec<Waiter>| list.drain(..).map(Handle::to_u64).collect();
    (names(&mut opened.gate1), names(&mut opened.gate2))
}

#[test]
fn a_cold_write_passes_gate_1_on_one_leg_and_gate_2_on_both() {
    let mut map = map();
    let mut opened = Opened::default();
    assert_eq!(map.claim(1, waiter(1), 1), Claim::Both);
    assert_eq!(
        map.start(),
        Some(Start {
            page: 0,
            legs: Members::BOTH
        })
    );
    assert_eq!(map.start(), None);
    assert_eq!(
        under_way(&map, 0),
        (2, [Unwritten, Dirty, Unwritten, Unwritten])
    );
    map.durable(0, Leg::B, &mut opened);
    assert_eq!(gates(&mut opened), (vec![1], vec![]));
    assert_eq!(map.claim(1, waiter(2), 1), Claim::Gate2);
    map.durable(0, Leg::A, &mut opened);
    assert_eq!(gates(&mut opened), (vec![], vec![1, 2]));
    assert_eq!(map.claim(1, waiter(3), 1), Claim::Hot);
    assert_eq!(map.start(), None);
}

#[test]
fn regions_that_come_during_a_transaction_share_the_next_one() {
    let mut map = map();
    let mut opened = Opened::default();
    map.claim(0, waiter(1), 1);
    map.start().unwrap();
    assert_eq!(map.claim(1, waiter(2), 1), Claim::Both);
    assert_eq!(map.claim(2, waiter(3), 1), Claim::Both);
    assert_eq!(map.claim(1, waiter(4), 1), Claim::Both);
    assert_eq!(map.start(), None, "one transaction in flight per page");
    assert_eq!(
        under_way(&map, 0),
        (2, [Dirty, Unwritten, Unwritten, Unwritten]),
        "later regions are not in it"
    );
    map.durable(0, Leg::A, &mut opened);
    map.durable(0, Leg::B, &mut opened);
    assert_eq!(gates(&mut opened), (vec![1], vec![1]));
    map.start().unwrap();
    assert_eq!(under_way(&map, 0), (3, [Dirty, Dirty, Dirty, Unwritten]));
    map.durable(0, Leg::A, &mut opened);
    assert_eq!(gates(&mut opened), (vec![2, 3, 4], vec![]));
}

#[test]
fn pages_are_independent() {
    let mut map = map();
    map.claim(0, waiter(1), 1);
    map.claim(REGIONS_PER_PAGE, waiter(1), 1);
    assert_eq!(map.start().unwrap().page, 0);
    assert_eq!(map.start().unwrap().page, 1);
}

#[test]
fn a_dropped_leg_is_not_waited_for_and_its_page_alone_opens_no_gate_2() {
    let mut map = map();
    let mut opened = Opened::default();
    map.claim(0, waiter(1), 1);
    map.start().unwrap();
    map.durable(0, Leg::B, &mut opened);
    assert_eq!(gates(&mut opened), (vec![1], vec![]));
    map.drop_leg(Leg::B, &mut opened);
    assert_eq!(
        gates(&mut opened),
        (vec![], vec![]),
        "A does not have the page yet"
    );
    map.durable(0, Leg::A, &mut opened);
    assert_eq!(gates(&mut opened).1, [1]);
}

#[test]
fn a_clear_takes_what_is_old_and_idle_and_a_later_write_is_cold() {
    let mut map = map();
    let mut opened = Opened::default();
    for region in 0..4 {
        map.claim(region, waiter(1), region);
    }
    map.start().unwrap();
    assert_eq!(
        map.clear(0, 9, |_| false),
        0,
        "not while a transaction is in flight"
    );
    map.durable(0, Leg::A, &mut opened);
    map.durable(0, Leg::B, &mut opened);
    assert_eq!(map.dirty_regions(), 4);
    assert_eq!(map.clear(0, 3, |region| region == 1), 2);
    assert_eq!(map.oldest(0), Some(1));
    map.start().unwrap();
    assert_eq!(under_way(&map, 0), (3, [Clean, Dirty, Clean, Dirty]));
    assert_eq!(
        map.claim(0, waiter(7), 9),
        Claim::Both,
        "forgotten before the page is written"
    );
    map.durable(0, Leg::A, &mut opened);
    map.durable(0, Leg::B, &mut opened);
    map.start().unwrap();
    assert_eq!(under_way(&map, 0), (4, [Dirty, Dirty, Clean, Dirty]));
}

#[test]
fn a_joining_leg_gets_each_page_under_its_number_and_every_later_transaction() {
    let geometry = Geometry::new(1 << 20, 16).unwrap();
    let mut map = DirtyMap::new(geometry, Epoch(3), Members::only(Leg::A), vec![blank(0, 7)]);
    let mut opened = Opened::default();
    map.claim(0, waiter(1), 1);
    map.start().unwrap();
    map.join(0, Leg::B);
    assert_eq!(map.start(), None, "under the page's transaction lock");
    map.durable(0, Leg::A, &mut opened);
    map.claim(1, waiter(2), 1);
    assert_eq!(
        map.start(),
        Some(Start {
            page: 0,
            legs: Members::only(Leg::B)
        })
    );
    assert_eq!(under_way(&map, 0).0, 8);
    assert!(!map.joined(Leg::B));
    map.durable(0, Leg::B, &mut opened);
    assert!(map.joined(Leg::B));
    assert_eq!(
        map.start(),
        Some(Start {
            page: 0,
            legs: Members::BOTH
        })
    );
    assert_eq!(under_way(&map, 0).0, 9);
}

#[test]
fn a_forced_page_is_written_with_a_new_number() {
    let mut map = map();
    map.force(2);
    assert_eq!(map.start().unwrap().page, 2);
    assert_eq!(under_way(&map, 2).0, 2);
}

#[test]
fn gate_1_opens_once_even_if_the_leg_that_opened_it_goes() {
    let mut map = map();
    let mut opened = Opened::default();
    map.claim(0, waiter(1), 1);
    map.start().unwrap();
    map.durable(0, Leg::B, &mut opened);
    map.drop_leg(Leg::B, &mut opened);
    map.durable(0, Leg::A, &mut opened);
    assert_eq!(gates(&mut opened), (vec![1], vec![1]));
}

#[test]
fn bits_beyond_the_end_of_the_volume_are_not_counted() {
    let geometry = Geometry::new(3 << 16, 16).unwrap();
    let map = DirtyMap::new(
        geometry,
        Epoch(3),
        Members::BOTH,
        vec![MapPage::filled(0, 1, Epoch(1), Dirty)],
    );
    assert_eq!(map.dirty_regions(), 3);
    assert_eq!(map.dirty_set().iter().collect::<Vec<_>>(), [0, 1, 2]);
}
