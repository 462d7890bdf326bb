//! What stands before the device: fence, verification, superblocks, lease.

use std::time::Duration;

use twinsite_register::*;

use super::A;
use super::world::*;
use crate::engine::AttachEnd;
use crate::io::*;
use crate::layout::*;
use crate::status::StateName;

#[test]
fn a_newborn_pair_is_attached_with_one_stamp_and_superblocks_in_both_slots() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let served = n.serve(&mut w);
    assert_eq!(served.running.members, Members::BOTH);
    assert_eq!(served.running.epoch, Epoch(1));
    assert_eq!(w.r().holder, Some(served.running.key));
    assert_eq!(
        w.r().order,
        Order {
            n: 1,
            uid: AttachmentUid([1; 16])
        }
    );
    assert_eq!(served.register.as_ref(), Some(w.r()));
    for leg in Leg::BOTH {
        let sb = w.sb(leg);
        assert!(w.slots_agree(leg), "R32");
        assert_eq!(sb.attach_key, Some(served.running.key));
        assert_eq!(
            (sb.role, sb.members, sb.epoch),
            (Role::Member, Members::BOTH, Epoch(1))
        );
        assert_eq!(sb.order.n, 1);
        assert_eq!(sb.node, "node1");
        assert_eq!(sb.boot_id, 0, "R39: a pair keeps the recorded boot id");
        assert_eq!(served.legs[leg.index()].as_ref().unwrap().superblock, sb);
        assert_eq!(w.legs[leg.index()].holder_key(), Some(served.running.key));
    }
    // R24: exactly one request.
    assert_eq!(n.count("cas"), 1);
    // Both legs were fenced and verified: no lease wait.
    assert_eq!(w.now, Duration::from_secs(1000));
    assert_eq!(n.record.keys, [served.running.key]);
    assert_eq!(n.record.n, Some(1));
}

#[test]
fn r5_r37_what_counts_is_what_stands_on_the_leg_after_the_fence() {
    let mut w = World::born();
    let mut old = Node::new(2, Site::A, 2);
    let old_served = old.serve(&mut w);
    let mut n = Node::new(1, Site::A, 3);
    let order = n.order();
    n.start(&w, order);
    // It has looked, and its keys are being written; meanwhile the old writer shrinks to A.
    n.run_until(&mut w, |n, _| n.count("save") == 1);
    let shrunk = w
        .r()
        .shrink(&old_served.running, Leg::A, generation(9), tx(9))
        .unwrap();
    w.set_register(shrunk);
    w.edit_sb(Leg::A, |sb| {
        sb.members = A;
        sb.epoch = Epoch(2);
        sb.generation = generation(9);
    });
    let AttachEnd::Served(served) = n.run(&mut w) else {
        panic!()
    };
    assert_eq!(served.running.members, A);
    assert_eq!(served.running.epoch, Epoch(2));
    for leg in ["A", "B"] {
        let fenced = n
            .said
            .iter()
            .rposition(|s| s == &format!("{leg} preempt"))
            .unwrap();
        assert!(fenced < n.at(&format!("{leg} read slot")));
    }
    let fence = n.at("A preempt");
    let reads: Vec<usize> = (0..n.said.len())
        .filter(|i| n.said[*i] == "read register")
        .collect();
    assert!(
        reads[0] < fence && fence < reads[1] && reads[1] < n.at("cas"),
        "{:?}",
        n.said
    );
}

#[test]
fn r26_a_fence_that_was_stolen_back_does_not_count() {
    let mut w = World::born();
    w.legs[0].info.own_target = false;
    let mut n = Node::new(1, Site::A, 1);
    let order = n.order();
    n.start(&w, order);
    n.run_until(&mut w, |n, _| n.state() == Some(StateName::Fence));
    n.run_until(&mut w, |_, w| {
        w.legs
            .iter()
            .all(|leg| leg.registered.len() == 2 && leg.holder.is_some())
    });
    w.steal(Leg::B, key(Site::B, 66));
    let AttachEnd::Served(served) = n.run(&mut w) else {
        panic!("{:?}", n.said)
    };
    assert_eq!(served.running.members, A);
    assert_eq!(w.legs[1].holder_key(), Some(key(Site::B, 66)));
    assert!(w.legs[1].writes.is_empty());
    // Only one leg was verified, so the lease of an old writer was waited out.
    assert!(w.now >= Duration::from_secs(1003));
}

#[test]
fn r16_whoever_is_preempted_after_the_decision_is_superseded() {
    for stop in ["A write slot", "B write slot"] {
        let mut w = World::born();
        let mut n = Node::new(1, Site::A, 1);
        let order = n.order();
        n.start(&w, order);
        n.run_until(&mut w, |n, _| n.state() == Some(StateName::SbWrite));
        let leg = if stop.starts_with('A') {
            Leg::A
        } else {
            Leg::B
        };
        w.steal(leg, key(Site::B, 66));
        assert!(matches!(n.run(&mut w), AttachEnd::Superseded));
        let after = n
            .said
            .iter()
            .rposition(|s| s.starts_with("disconnect"))
            .unwrap();
        assert_eq!(after, n.said.len() - 1, "nothing is sent afterwards");
        assert_eq!(w.legs[leg.index()].holder_key(), Some(key(Site::B, 66)));
    }
}

#[test]
fn a_leg_that_is_away_leaves_by_the_shrink_of_the_attach() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    n.cut(Leg::B);
    let served = n.serve(&mut w);
    assert_eq!(
        (served.running.members, served.running.epoch),
        (A, Epoch(2))
    );
    let sb = w.sb(Leg::A);
    assert_eq!(
        (sb.members, sb.epoch, sb.generation),
        (A, Epoch(2), w.r().generation)
    );
    let base = sb.base.unwrap();
    assert_eq!((base.epoch, base.generation), (Epoch(1), generation(1)));
    assert_eq!(served.legs[0].as_ref().unwrap().base_numbers, Some(vec![0]));
    assert!(served.legs[1].is_none());
    assert_eq!(sb.boot_id, 0x61 + 1000);
    // R3: base numbers before the superblock, the request before both.
    assert!(n.at("cas") < n.at("A write base"));
    assert!(n.at("A write base") < n.at("A write slot"));
    assert!(n.never("B "));
    // The login limit of 5 s was waited out; the own target saw nobody, so no lease on top.
    assert_eq!(w.now, Duration::from_secs(1005));
}

#[test]
fn r8_the_lease_of_the_old_writer_is_waited_out_unless_its_silence_is_proven() {
    for (quiet_for, own_target, expected_wait_ms) in
        [(1, true, 3500), (4, true, 0), (4, false, 3500)]
    {
        let mut w = World::born();
        w.legs[0].info.own_target = own_target;
        let mut old = Node::new(2, Site::A, 2);
        old.serve(&mut w);
        let mut n = Node::new(1, Site::A, 3);
        n.cut(Leg::B);
        let order = n.order();
        w.advance(Duration::from_secs(100));
        n.start(&w, order);
        n.run_until(&mut w, |n, _| n.state() == Some(StateName::Fence));
        // The old writer's last command.
        for at in w.legs[0].last.values_mut() {
            *at = w.now - Duration::from_secs(quiet_for);
        }
        n.run_until(&mut w, |n, _| {
            n.state() == Some(StateName::LeaseWait) || n.end.is_some()
        });
        let before = w.now;
        let AttachEnd::Served(_) = n.run(&mut w) else {
            panic!("{:?}", n.said)
        };
        let waited = w.now - before;
        assert_eq!(
            waited,
            Duration::from_millis(expected_wait_ms),
            "{quiet_for} {own_target}"
        );
    }
}

#[test]
fn r26_an_epoch_in_which_somebody_served_needs_no_second_wait_but_its_register_value_alone_does() {
    let serve = |beat_epoch: u64| {
        let mut w = World::born();
        w.legs[0].info.own_target = false;
        let mut first = Node::new(2, Site::A, 2);
        first.cut(Leg::B);
        first.serve(&mut w);
        assert_eq!(w.r().epoch, Epoch(2));
        w.put_beat(Leg::A, beat_epoch, 5);
        let mut n = Node::new(1, Site::A, 3);
        n.cut(Leg::B);
        let start = w.now;
        n.serve(&mut w);
        w.now - start
    };
    // The epoch is Solo(A), so the away leg is not even waited for.
    assert_eq!(serve(2), Duration::ZERO);
    assert_eq!(serve(1), Duration::from_millis(3500));
}

#[test]
fn r26_a_leg_on_which_a_stranger_is_registered_does_not_count_as_fenced() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let order = n.order();
    n.start(&w, order);
    n.run_until(&mut w, |n, _| n.state() == Some(StateName::Fence));
    n.run_until(&mut w, |_, w| {
        w.legs
            .iter()
            .all(|leg| leg.registered.len() == 2 && leg.holder.is_some())
    });
    // In the middle of a fence of its own: not yet the holder, but no longer kept out.
    let stranger = (50, Session::Data);
    w.legs[1].registered.insert(stranger, key(Site::B, 66));
    let AttachEnd::Served(served) = n.run(&mut w) else {
        panic!("{:?}", n.said)
    };
    assert_eq!(served.running.members, A);
    assert!(w.legs[1].writes.is_empty());
}
