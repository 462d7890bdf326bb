//! The order of Attachments and what a shown device may follow.

use twinsite_register::*;

use super::world::*;
use crate::engine::AttachEnd;
use crate::io::*;
use crate::status::Refusal;

#[test]
fn r38_the_keys_are_on_disk_before_the_first_fence_and_the_place_before_the_request() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    n.saves_held = true;
    let order = n.order();
    n.start(&w, order);
    n.run_until(&mut w, |n, _| n.count("save") == 1);
    n.step(&mut w);
    for _ in 0..20 {
        n.step(&mut w);
    }
    assert!(n.never("put key"), "{:?}", n.said);
    n.give(&w, Input::RecordSaved);
    n.run_until(&mut w, |n, _| n.count("save") == 2);
    for _ in 0..20 {
        n.step(&mut w);
    }
    assert!(n.never("cas"));
    n.give(&w, Input::RecordSaved);
    n.run_until(&mut w, |n, _| n.count("cas") == 1);
    // And nothing is served before the record of the serving key is on disk.
    n.run_until(&mut w, |n, _| n.count("save") == 3);
    for _ in 0..20 {
        n.step(&mut w);
    }
    assert!(n.attach.is_some());
    n.give(&w, Input::RecordSaved);
    assert!(matches!(n.end, Some(AttachEnd::Served(_))));
}

#[test]
fn r38_an_attachment_that_was_passed_never_fences_again_also_after_a_restart() {
    let mut w = World::born();
    let mut old = Node::new(1, Site::A, 1);
    old.serve(&mut w);
    let mut new = Node::new(2, Site::A, 2);
    let served = new.serve(&mut w);
    assert_eq!(old.refused(&mut w), Refusal::OrderStale);
    assert!(old.record.stale, "persisted");
    old.said.clear();
    assert_eq!(old.refused(&mut w), Refusal::OrderStale);
    assert!(old.never("preempt") && old.never("put key"));
    // Without the register the superblocks would tell, but a uid that attached before does not even fence there.
    let mut old = Node::new(1, Site::A, 1);
    old.record.n = Some(1);
    old.record.keys = vec![key(Site::A, 1001)];
    w.witness = Witness::Down;
    assert_eq!(old.refused(&mut w), Refusal::WitnessNeeded);
    assert!(old.never("preempt"));
    assert!(
        w.legs
            .iter()
            .all(|leg| leg.holder_key() == Some(served.running.key))
    );
}

#[test]
fn r38_the_order_on_the_legs_counts_where_the_register_does_not_answer() {
    let mut w = World::born();
    w.witness = Witness::Down;
    let mut first = Node::new(1, Site::A, 1);
    let served = first.serve(&mut w);
    assert!(served.register.is_none());
    assert_eq!(
        w.sb(Leg::A).order,
        Order {
            n: 1,
            uid: AttachmentUid([1; 16])
        }
    );
    let mut second = Node::new(2, Site::A, 2);
    assert_eq!(second.serve(&mut w).place.n, 2);
    assert_eq!(first.refused(&mut w), Refusal::WitnessNeeded);
}

#[test]
fn r38_a_shown_device_goes_on_behind_its_own_key_only() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    n.serve(&mut w);
    n.crash();
    let order = AttachOrder {
        shown: true,
        ..n.order()
    };
    n.start(&w, order);
    let AttachEnd::Served(served) = n.run(&mut w) else {
        panic!("{:?}", n.said)
    };
    assert!(served.continued);
    assert!(!n.removed);

    // Somebody else served since, with the same uid even: another key holds the legs.
    n.crash();
    w.steal(Leg::A, key(Site::A, 99));
    let order = AttachOrder {
        shown: true,
        ..n.order()
    };
    n.said.clear();
    n.start(&w, order);
    assert!(matches!(
        n.run(&mut w),
        AttachEnd::Refused(Refusal::NotContinued)
    ));
    assert!(n.removed);
    assert!(n.never("preempt"), "found before the fence");
}

#[test]
fn r38_a_superblock_of_another_key_ends_a_shown_device_after_the_fence() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    n.serve(&mut w);
    n.crash();
    w.edit_sb(Leg::B, |sb| sb.attach_key = Some(key(Site::A, 99)));
    let order = AttachOrder {
        shown: true,
        ..n.order()
    };
    n.start(&w, order);
    assert!(matches!(
        n.run(&mut w),
        AttachEnd::Refused(Refusal::NotContinued)
    ));
    assert!(n.removed);
    assert_eq!(n.count("cas"), 1, "only the first attach stamped");
}

#[test]
fn r38_a_released_volume_is_not_continued() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let served = n.serve(&mut w);
    n.crash();
    let released = w.r().release(served.running.key, tx(9)).unwrap();
    w.set_register(released);
    let order = AttachOrder {
        shown: true,
        ..n.order()
    };
    n.start(&w, order);
    assert!(matches!(
        n.run(&mut w),
        AttachEnd::Refused(Refusal::NotContinued)
    ));
}

#[test]
fn a_device_served_without_the_register_goes_on_when_the_register_names_an_earlier_key_of_ours() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let first = n.serve(&mut w);
    n.crash();
    w.witness = Witness::Down;
    let order = AttachOrder {
        shown: true,
        ..n.order()
    };
    n.start(&w, order);
    assert!(matches!(n.run(&mut w), AttachEnd::Served(_)));
    assert_eq!(w.r().holder, Some(first.running.key));
    n.crash();
    w.witness = Witness::Up;
    let order = AttachOrder {
        shown: true,
        ..n.order()
    };
    n.start(&w, order);
    assert!(
        matches!(n.run(&mut w), AttachEnd::Served(_)),
        "{:?}",
        n.said
    );
    assert_eq!(n.record.keys.len(), 1);
    assert!(!n.removed);
}

#[test]
fn r38_a_later_attachment_that_only_the_legs_know_of_counts_too() {
    let mut w = World::born();
    let mut first = Node::new(1, Site::A, 1);
    first.serve(&mut w);
    w.witness = Witness::Down;
    let mut second = Node::new(2, Site::A, 2);
    let served = second.serve(&mut w);
    assert!(served.register.is_none());
    assert_eq!(served.place.n, 2);
    w.witness = Witness::Up;
    let stamp = w.r().stamp_id;
    assert_eq!(first.refused(&mut w), Refusal::OrderStale);
    assert!(first.record.stale);
    assert_eq!(w.r().stamp_id, stamp);
}
