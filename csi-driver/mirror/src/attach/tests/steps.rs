use std::time::Duration;

use twinsite_register::*;

use super::world::*;
use crate::attach::{Attach, Release};
use crate::config::Config;
use crate::engine::{AttachEnd, Port};
use crate::io::*;
use crate::layout::*;
use crate::status::{Condition, Event, Refusal, StateName};

const A: Members = Members::only(Leg::A);
const B: Members = Members::only(Leg::B);

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
fn r4_nothing_is_written_while_the_outcome_is_unknown() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let order = n.order();
    n.start(&w, order);
    w.witness = Witness::Stuck;
    n.run_until(&mut w, |n, _| n.count("cas") == 4);
    assert_eq!(n.state(), Some(StateName::CasWait));
    assert!(n.never("write"));
    let (expected, new) = w.orphans[0].clone();
    assert!(
        w.orphans
            .iter()
            .all(|o| *o == (expected.clone(), new.clone())),
        "byte for byte"
    );
    assert!(w.cas(&expected, &new));
    w.witness = Witness::Up;
    let AttachEnd::Served(served) = n.run(&mut w) else {
        panic!()
    };
    assert_eq!(served.register, Some(new));
}

#[test]
fn an_outcome_unknown_for_five_seconds_is_told_and_taken_back() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let order = n.order();
    n.start(&w, order);
    w.witness = Witness::Stuck;
    n.run_until(&mut w, |n, _| {
        n.events
            .contains(&Event::Raised(Condition::MembershipUnknown))
    });
    assert_eq!(w.now, Duration::from_secs(1005));
    w.witness = Witness::Up;
    n.run(&mut w);
    assert!(
        n.events
            .contains(&Event::Cleared(Condition::MembershipUnknown))
    );
}

#[test]
fn r41_a_lost_answer_is_found_by_reading_whatever_an_operator_edited_since() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let order = n.order();
    n.start(&w, order);
    w.witness = Witness::Mute;
    n.run_until(&mut w, |n, _| n.count("cas") == 1);
    w.edit_register(40);
    let AttachEnd::Served(served) = n.run(&mut w) else {
        panic!()
    };
    assert_eq!(n.count("cas"), 1);
    assert_eq!(served.register.unwrap().txid, tx(40));
}

#[test]
fn r41_an_edit_before_the_request_makes_it_be_built_again_with_the_same_ids() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    n.cut(Leg::B);
    let order = n.order();
    n.start(&w, order);
    w.witness = Witness::Stuck;
    n.run_until(&mut w, |n, _| n.count("cas") == 1);
    w.edit_register(40);
    w.witness = Witness::Up;
    let AttachEnd::Served(_) = n.run(&mut w) else {
        panic!()
    };
    let (_, first) = w.orphans[0].clone();
    assert_eq!(w.r().generation, first.generation);
    assert_eq!(w.r().stamp_id, first.stamp_id);
    assert_ne!(w.r().txid, first.txid);
    // The first copy can no longer execute (R25).
    let (expected, new) = w.orphans[0].clone();
    assert!(!w.cas(&expected, &new));
}

#[test]
fn a_lost_request_is_decided_again_and_a_later_attachment_wins() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let order = n.order();
    n.start(&w, order);
    w.witness = Witness::Stuck;
    n.run_until(&mut w, |n, _| n.count("cas") == 1);
    w.witness = Witness::Up;
    // Another Attachment attaches whole: it fences us and stamps.
    let mut other = Node::new(2, Site::A, 2);
    let served = other.serve(&mut w);
    assert_eq!(served.place.n, 1, "neither knew of the other");
    assert!(matches!(n.run(&mut w), AttachEnd::Refused(_)));
    assert_eq!(w.r().holder, Some(served.running.key));
    for leg in &w.legs {
        assert_eq!(
            leg.holder_key(),
            Some(served.running.key),
            "it is not fenced back"
        );
    }
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
fn without_the_register_a_whole_pair_runs_and_owes_a_late_stamp() {
    let mut w = World::born();
    w.witness = Witness::Down;
    let mut n = Node::new(1, Site::A, 1);
    let served = n.serve(&mut w);
    assert!(served.register.is_none());
    assert_eq!(served.running.members, Members::BOTH);
    assert_eq!(
        (served.running.epoch, served.running.generation),
        (Epoch(1), generation(1))
    );
    assert_eq!(served.place.n, 1);
    assert_eq!(w.sb(Leg::B).attach_key, Some(served.running.key));
    assert!(n.never("cas"));
}

#[test]
fn r12_without_the_register_a_lone_pair_does_not_run_and_is_written_nothing() {
    let mut w = World::born();
    w.witness = Witness::Down;
    let mut n = Node::new(1, Site::A, 1);
    n.cut(Leg::B);
    assert_eq!(n.refused(&mut w), Refusal::WitnessNeeded);
    assert!(n.never("write"));
    // The reservation stays (R30).
    assert!(w.legs[0].holder_key().is_some());
    assert!(n.never("unregister") && n.never("clear"));
}

#[test]
fn without_the_register_a_solo_runs_only_with_the_other_leg_in_reach() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    n.cut(Leg::B);
    n.serve(&mut w);
    n.crash();
    w.witness = Witness::Down;
    let mut second = Node::new(2, Site::A, 2);
    let served = second.serve(&mut w);
    assert_eq!(served.running.members, A);
    second.crash();
    let mut third = Node::new(3, Site::A, 3);
    third.cut(Leg::B);
    assert_eq!(third.refused(&mut w), Refusal::WitnessNeeded);
}

#[test]
fn r28_without_the_register_a_leg_held_by_the_other_site_is_not_fenced() {
    let mut w = World::born();
    w.witness = Witness::Down;
    w.steal(Leg::B, key(Site::B, 66));
    let mut n = Node::new(1, Site::A, 1);
    assert_eq!(n.refused(&mut w), Refusal::WitnessNeeded);
    assert!(n.never("put key") && n.never("preempt"));
}

#[test]
fn r17_a_register_below_a_mark_starts_no_fence() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let mark = Mark {
        register_id: w.r().register_id,
        epoch: Epoch(2),
        seq: 1,
    };
    let order = AttachOrder {
        marks: vec![mark],
        ..n.order()
    };
    n.start(&w, order);
    assert!(matches!(
        n.run(&mut w),
        AttachEnd::Refused(Refusal::WitnessBehind)
    ));
    assert!(n.never("put key") && n.never("save") && n.never("cas"));
    assert!(
        n.events
            .contains(&Event::Raised(Condition::WitnessRolledBack))
    );
}

#[test]
fn r17_a_leg_ahead_of_the_register_is_found_after_the_fence_and_nothing_is_written() {
    let mut w = World::born();
    w.edit_sb(Leg::B, |sb| sb.epoch = Epoch(2));
    let mut n = Node::new(1, Site::A, 1);
    assert_eq!(n.refused(&mut w), Refusal::WitnessBehind);
    assert!(n.never("cas") && n.never("write"));
}

#[test]
fn registers_that_are_not_live_are_refused_without_a_fence() {
    for (register, why) in [
        (None, Refusal::RegisterMissing),
        (
            Some(newborn().tombstone(generation(9), tx(9)).unwrap()),
            Refusal::Deleted,
        ),
    ] {
        let mut w = World::born();
        w.register = register;
        let mut n = Node::new(1, Site::A, 1);
        assert_eq!(n.refused(&mut w), why);
        assert!(n.never("put key"));
    }
}

#[test]
fn the_other_site_attaches_only_under_a_move_record_of_this_sequence() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::B, 1);
    assert_eq!(n.refused(&mut w), Refusal::NotActive);
    assert!(n.never("put key"));
    let order = n.failover(7);
    n.start(&w, order);
    assert!(matches!(
        n.run(&mut w),
        AttachEnd::Refused(Refusal::NotActive)
    ));
    let order = n.failover(1);
    n.start(&w, order);
    let AttachEnd::Served(served) = n.run(&mut w) else {
        panic!()
    };
    assert_eq!(
        w.r().active,
        Active {
            site: Site::B,
            seq: 2,
            latched: true
        }
    );
    assert_eq!((served.running.site, served.running.seq), (Site::B, 2));
    assert_eq!(w.sb(Leg::A).active_site, Site::B);
    assert_eq!(w.sb(Leg::A).active_seq, 2);
    // And its next attach needs no move any more, the old record is spent.
    n.crash();
    let order = n.failover(1);
    n.start(&w, order);
    assert!(matches!(n.run(&mut w), AttachEnd::Served(_)));
    assert_eq!(w.r().active.seq, 2);
}

#[test]
fn a_failover_waits_for_the_lost_sites_leg_only_a_second_and_a_half() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::B, 1);
    n.cut(Leg::A);
    let order = n.failover(1);
    n.start(&w, order);
    let AttachEnd::Served(served) = n.run(&mut w) else {
        panic!()
    };
    assert_eq!(served.running.members, B);
    assert_eq!(w.now, Duration::from_millis(1_001_500));
}

#[test]
fn a_planned_move_needs_every_member_and_no_holder() {
    let planned = |n: &mut Node| {
        let mv = Some(MoveOrder {
            mode: MoveMode::Planned,
            expect_seq: 1,
        });
        AttachOrder { mv, ..n.order() }
    };
    let mut w = World::born();
    let mut old = Node::new(2, Site::A, 2);
    let old_served = old.serve(&mut w);
    let mut n = Node::new(1, Site::B, 3);
    let order = planned(&mut n);
    n.start(&w, order);
    assert!(matches!(
        n.run(&mut w),
        AttachEnd::Refused(Refusal::HolderActive)
    ));
    assert!(n.never("put key"));
    let released = w.r().release(old_served.running.key, tx(8)).unwrap();
    w.set_register(released);
    n.cut(Leg::A);
    let order = planned(&mut n);
    n.start(&w, order);
    assert!(matches!(
        n.run(&mut w),
        AttachEnd::Refused(Refusal::WaitMember)
    ));
    n.heal(Leg::A);
    let order = planned(&mut n);
    n.start(&w, order);
    assert!(matches!(n.run(&mut w), AttachEnd::Served(_)));
    assert!(!w.r().active.latched);
}

#[test]
fn an_automatic_failover_is_refused_while_the_own_target_sees_the_holder() {
    let mut w = World::born();
    let mut old = Node::new(2, Site::A, 2);
    let old_served = old.serve(&mut w);
    w.advance(Duration::from_secs(60));
    w.legs[1]
        .last
        .insert(old_served.running.key, w.now - Duration::from_secs(3));
    let automatic = |n: &mut Node| {
        let mode = MoveMode::Automatic {
            detect_after: Duration::from_secs(5),
        };
        AttachOrder {
            mv: Some(MoveOrder {
                mode,
                expect_seq: 1,
            }),
            ..n.order()
        }
    };
    let mut n = Node::new(1, Site::B, 3);
    n.cut(Leg::A);
    let order = automatic(&mut n);
    n.start(&w, order);
    assert!(matches!(
        n.run(&mut w),
        AttachEnd::Refused(Refusal::HolderActive)
    ));
    assert!(n.never("put key"));
    // The target restarted a moment ago: it has seen nobody, and that is no evidence.
    w.legs[1].restart(5);
    let order = automatic(&mut n);
    n.start(&w, order);
    assert!(matches!(
        n.run(&mut w),
        AttachEnd::Refused(Refusal::HolderActive)
    ));
    w.advance(Duration::from_secs(10));
    let order = automatic(&mut n);
    n.start(&w, order);
    assert!(matches!(n.run(&mut w), AttachEnd::Served(_)));
}

#[test]
fn r20_a_growing_leg_at_the_registers_epoch_is_bumped() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    n.cut(Leg::B);
    let served = n.serve(&mut w);
    n.crash();
    // A rejoin got as far as a grow that may still execute.
    w.edit_sb(Leg::A, |sb| sb.role = Role::Growing);
    let grow = w.r().grow(&served.running, generation(30), tx(30)).unwrap();
    let before = w.r().clone();
    let mut second = Node::new(2, Site::A, 2);
    let served = second.serve(&mut w);
    assert_eq!(
        (served.running.members, served.running.epoch),
        (A, Epoch(3))
    );
    assert!(!w.cas(&before, &grow), "the late grow is dead");
    let sb = w.sb(Leg::A);
    assert_eq!((sb.role, sb.members), (Role::Member, A));
    // The base of the rejoin survives: it was written on this leg.
    assert_eq!(sb.base.unwrap().epoch, Epoch(1));
}

#[test]
fn r19_the_leg_that_lost_its_cache_with_dirty_regions_leaves() {
    let mut w = World::born();
    for leg in Leg::BOTH {
        w.legs[leg.index()].info.volatile_cache = true;
        let boot = w.legs[leg.index()].info.boot_id.unwrap();
        w.edit_sb(leg, |sb| sb.boot_id = boot);
    }
    w.legs[1].restart(4711);
    let mut clean = Node::new(1, Site::A, 1);
    assert_eq!(
        clean.serve(&mut w).running.members,
        Members::BOTH,
        "clean maps: no matter"
    );
    clean.crash();
    let mut page = w.page(Leg::A);
    page.number += 1;
    page.set_region(3, RegionState::Dirty);
    w.put_page(Leg::A, &page);
    let mut n = Node::new(2, Site::A, 2);
    let served = n.serve(&mut w);
    assert_eq!(
        (served.running.members, served.running.epoch),
        (A, Epoch(2))
    );
    assert!(n.at("cas") < n.at("A write base"));
}

#[test]
fn r40_a_last_member_that_lost_its_cache_is_told() {
    let mut w = World::born();
    w.legs[0].info.volatile_cache = true;
    let mut n = Node::new(1, Site::A, 1);
    n.cut(Leg::B);
    n.serve(&mut w);
    n.crash();
    let order = AttachOrder {
        shown: true,
        ..n.order()
    };
    n.start(&w, order);
    let AttachEnd::Served(served) = n.run(&mut w) else {
        panic!()
    };
    assert!(!served.legs[0].as_ref().unwrap().restarted);
    n.crash();
    w.legs[0].restart(4711);
    let order = AttachOrder {
        shown: true,
        ..n.order()
    };
    n.start(&w, order);
    let AttachEnd::Served(served) = n.run(&mut w) else {
        panic!()
    };
    assert!(served.legs[0].as_ref().unwrap().restarted);
    assert_eq!(w.sb(Leg::A).boot_id, 4711);
}

#[test]
fn a_member_lost_while_superblocks_are_written_is_dropped_by_a_shrink() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let order = n.order();
    n.start(&w, order);
    n.run_until(&mut w, |n, _| n.state() == Some(StateName::SbWrite));
    n.cut(Leg::B);
    let AttachEnd::Served(served) = n.run(&mut w) else {
        panic!("{:?}", n.said)
    };
    assert_eq!(
        (served.running.members, served.running.epoch),
        (A, Epoch(2))
    );
    assert_eq!(n.count("cas"), 2);
    assert!(w.slots_agree(Leg::A));
    assert_eq!(w.sb(Leg::A).members, A);
}

#[test]
fn a_member_that_cannot_be_written_stays_out_though_it_answers() {
    let mut w = World::born();
    w.legs[1].faults.push(("write meta", LegError::NoSpace));
    let mut n = Node::new(1, Site::A, 1);
    let served = n.serve(&mut w);
    assert_eq!(served.running.members, A);
    assert!(w.legs[1].writes.is_empty());
    assert!(served.connected[1].is_some());
}

#[test]
fn the_only_leg_is_waited_for_and_written_anew() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    n.cut(Leg::B);
    let order = n.order();
    n.start(&w, order);
    n.run_until(&mut w, |n, _| n.state() == Some(StateName::SbWrite));
    n.run_until(&mut w, |n, _| n.count("A write slot") == 1);
    n.cut(Leg::A);
    n.run_until(&mut w, |n, _| !n.up[0] && n.inbox.is_empty());
    assert_eq!(n.state(), Some(StateName::SbWrite));
    w.advance(Duration::from_secs(7));
    w.legs[0].restart(99);
    n.heal(Leg::A);
    let AttachEnd::Served(served) = n.run(&mut w) else {
        panic!("{:?}", n.said)
    };
    assert_eq!(served.running.members, A);
    let sb = w.sb(Leg::A);
    assert_eq!((sb.boot_id, sb.epoch), (99, Epoch(2)));
    assert!(w.slots_agree(Leg::A));
    assert_eq!(sb.base.unwrap().epoch, Epoch(1));
    assert_eq!(n.count("cas"), 1);
}

#[test]
fn the_only_leg_may_go_and_come_back_in_the_lease_wait() {
    let mut w = World::born();
    w.legs[0].info.own_target = false;
    let mut n = Node::new(1, Site::A, 1);
    n.cut(Leg::B);
    let order = n.order();
    n.start(&w, order);
    n.run_until(&mut w, |n, _| n.state() == Some(StateName::LeaseWait));
    n.cut(Leg::A);
    n.run_until(&mut w, |n, _| n.inbox.is_empty());
    w.advance(Duration::from_secs(6));
    n.give(&w, Input::Tick);
    assert!(n.attach.is_some(), "not served without the leg");
    n.heal(Leg::A);
    assert!(matches!(n.run(&mut w), AttachEnd::Served(_)));
    // Taken by another one meanwhile: superseded.
    n.crash();
    let order = n.order();
    w.put_beat(Leg::A, 0, 0);
    n.start(&w, order);
    n.run_until(&mut w, |n, _| n.state() == Some(StateName::LeaseWait));
    n.cut(Leg::A);
    n.run_until(&mut w, |n, _| n.inbox.is_empty());
    w.steal(Leg::A, key(Site::B, 66));
    n.heal(Leg::A);
    assert!(matches!(n.run(&mut w), AttachEnd::Superseded));
}

#[test]
fn a_leg_lost_under_an_open_request_waits_for_the_outcome() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let order = n.order();
    n.start(&w, order);
    w.witness = Witness::Stuck;
    n.run_until(&mut w, |n, _| n.count("cas") == 1);
    n.cut(Leg::B);
    for _ in 0..10 {
        n.step(&mut w);
    }
    assert_eq!(n.state(), Some(StateName::CasWait));
    w.witness = Witness::Up;
    let AttachEnd::Served(served) = n.run(&mut w) else {
        panic!("{:?}", n.said)
    };
    assert_eq!((served.running.members, w.r().epoch), (A, Epoch(2)));
}

#[test]
fn a_leg_that_the_register_names_by_now_is_fenced_before_the_table_is_asked() {
    let mut w = World::born();
    let mut first = Node::new(2, Site::A, 2);
    first.cut(Leg::B);
    let served = first.serve(&mut w);
    let mut n = Node::new(1, Site::A, 3);
    let order = n.order();
    n.start(&w, order);
    // Only A is a member, so only A may be fenced; then the grow of the old writer is executed.
    n.run_until(&mut w, |n, _| n.state() == Some(StateName::Fence));
    assert!(n.never("B put key"));
    let grown = w.r().grow(&served.running, generation(40), tx(40)).unwrap();
    w.set_register(grown);
    w.edit_sb(Leg::B, |sb| {
        sb.role = Role::Candidate;
        sb.members = Members::NONE;
        sb.epoch = Epoch(2);
        sb.generation = served.running.generation;
    });
    let AttachEnd::Served(served) = n.run(&mut w) else {
        panic!("{:?}", n.said)
    };
    assert_eq!(served.running.members, Members::BOTH);
    assert!(n.at("B put key") < n.at("B read slot"));
    // After the second fence the first leg was verified and read again.
    assert_eq!(n.count("A full status"), 3);
}

#[test]
fn a_leg_that_comes_late_is_taken_up_at_the_next_round() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    n.cut(Leg::B);
    let order = n.order();
    n.start(&w, order);
    n.run_until(&mut w, |n, _| n.state() == Some(StateName::Fence));
    n.heal(Leg::B);
    let AttachEnd::Served(served) = n.run(&mut w) else {
        panic!()
    };
    assert_eq!(served.running.members, Members::BOTH);
    assert_eq!(w.r().epoch, Epoch(1));
}

#[test]
fn newer_software_on_a_leg_is_refused_and_never_overwritten() {
    let mut w = World::born();
    let mut newer = *w.sb(Leg::B).emit();
    newer[16] = 1;
    let mut zeroed = newer;
    zeroed[8..12].fill(0);
    newer[8..12].copy_from_slice(&crc32c::crc32c(&zeroed).to_le_bytes());
    w.legs[1].blocks.insert(SLOT_OFFSETS[0], newer);
    let mut n = Node::new(1, Site::A, 1);
    assert_eq!(n.refused(&mut w), Refusal::UnknownFormat);
    assert!(n.never("write") && n.never("cas"));
    let mut w = World::born();
    w.edit_sb(Leg::B, |sb| sb.ro_compat = 1);
    assert_eq!(
        Node::new(1, Site::A, 1).refused(&mut w),
        Refusal::UnknownFormat
    );
}

#[test]
fn a_lun_that_is_not_this_leg_is_no_member_and_is_never_written() {
    let edits: [fn(&mut World); 5] = [
        |w| w.legs[1].info.naa = Naa([9; 16]),
        |w| w.edit_sb(Leg::B, |sb| sb.volume = VolumeId([9; 16])),
        |w| w.edit_sb(Leg::B, |sb| sb.leg = Leg::A),
        |w| w.legs[1].info.capacity -= 512,
        |w| w.legs[1].blocks.retain(|at, _| !SLOT_OFFSETS.contains(at)),
    ];
    for (n, edit) in edits.iter().enumerate() {
        let mut w = World::born();
        edit(&mut w);
        let mut node = Node::new(1, Site::A, 1);
        let served = node.serve(&mut w);
        assert_eq!(served.running.members, A, "edit {n}");
        assert!(w.legs[1].writes.is_empty(), "edit {n}");
        assert!(
            node.events
                .contains(&Event::Raised(Condition::LegDamaged(Leg::B)))
        );
    }
}

#[test]
fn a_slot_that_cannot_be_read_is_answered_by_the_other_and_a_page_is_dirty() {
    let mut w = World::born();
    w.legs[0].bad_blocks.insert(SLOT_OFFSETS[0]);
    w.legs[0].bad_blocks.insert(map_offset(0));
    w.legs[0].bad_blocks.insert(BEAT_OFFSET);
    let mut n = Node::new(1, Site::A, 1);
    let served = n.serve(&mut w);
    assert_eq!(served.running.members, Members::BOTH);
    let leg = served.legs[0].as_ref().unwrap();
    assert_eq!(leg.pages[0].region(0), RegionState::Dirty);
    assert_eq!(leg.pages[0].number, 0);
    assert!(leg.beat.is_none());
    assert!(w.slots_agree(Leg::A));
}

#[test]
fn a_beat_more_than_one_below_the_object_is_a_rolled_back_leg() {
    let mut w = World::born();
    w.put_beat(Leg::A, 1, 10);
    w.put_beat(Leg::B, 1, 7);
    w.beat = Some(BeatObject {
        epoch: Epoch(1),
        beat: 10,
    });
    let mut n = Node::new(1, Site::A, 1);
    assert_eq!(n.serve(&mut w).running.members, A);
    let mut w = World::born();
    w.put_beat(Leg::A, 1, 10);
    w.put_beat(Leg::B, 1, 9);
    w.beat = Some(BeatObject {
        epoch: Epoch(1),
        beat: 10,
    });
    assert_eq!(
        Node::new(1, Site::A, 1).serve(&mut w).running.members,
        Members::BOTH
    );
}

#[test]
fn r44_a_granted_target_runs_all_dirty_and_without_a_base() {
    let mut w = World::born();
    w.edit_sb(Leg::B, |sb| {
        sb.role = Role::Target;
        sb.members = Members::NONE;
        sb.base = Some(Base {
            epoch: Epoch(1),
            generation: generation(1),
            crc: 1,
        });
    });
    let seen = w.sb(Leg::B);
    let force = Force {
        expect_epoch: w.r().epoch,
        expect_txid: w.r().txid,
        leg: Leg::B,
        seen: LegSeed {
            epoch: seen.epoch,
            generation: seen.generation,
            sb_seq: seen.sb_seq,
        },
        site: Site::B,
        generation: generation(50),
        who: "ann".into(),
        why: "site A burnt".into(),
    };
    let forced = w.r().force(&force, tx(50)).unwrap();
    w.set_register(forced);
    let mut n = Node::new(1, Site::B, 1);
    n.cut(Leg::A);
    let served = n.serve(&mut w);
    assert_eq!(served.running.members, B);
    let leg = served.legs[1].as_ref().unwrap();
    assert!(leg.superblock.base.is_none());
    assert_eq!(leg.pages[0].dirty(64).count(), 64);
    assert_eq!(w.page(Leg::B).dirty(64).count(), 64);
    assert_eq!(w.sb(Leg::B).role, Role::Member);
}

#[test]
fn every_command_has_a_limit_and_a_leg_that_hangs_is_away() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let order = n.order();
    n.start(&w, order);
    n.run_until(&mut w, |n, _| n.count("B read slot") == 1);
    // The answer never comes.
    n.inbox
        .retain(|input| !matches!(input, Input::LegDone { leg: Leg::B, .. }));
    n.link[1] = false;
    n.run_until(&mut w, |n, _| n.count("disconnect B") == 1);
    assert_eq!(w.now, Duration::from_secs(1003));
    let AttachEnd::Served(served) = n.run(&mut w) else {
        panic!()
    };
    assert_eq!(served.running.members, A);
}

#[test]
fn a_fence_has_ten_seconds() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let order = n.order();
    n.start(&w, order);
    n.run_until(&mut w, |n, _| n.count("B put key") == 1);
    n.inbox
        .retain(|input| !matches!(input, Input::LegDone { leg: Leg::B, .. }));
    n.link[1] = false;
    n.run_until(&mut w, |n, _| n.count("disconnect B") == 1);
    assert_eq!(w.now, Duration::from_secs(1010));
    assert!(matches!(n.run(&mut w), AttachEnd::Served(_)));
}

#[test]
fn an_attach_ends_after_forty_seconds_whatever_it_waits_for() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let order = n.order();
    n.start(&w, order);
    w.witness = Witness::Stuck;
    assert!(matches!(
        n.run(&mut w),
        AttachEnd::Refused(Refusal::TimedOut)
    ));
    assert_eq!(w.now, Duration::from_secs(1040));
    // What it sent may still execute; the next attach deals with it.
    let (expected, new) = w.orphans[0].clone();
    assert!(w.cas(&expected, &new));
    w.witness = Witness::Up;
    assert!(matches!(n.attach(&mut w), AttachEnd::Served(_)));
}

#[test]
fn a_leg_stolen_in_every_round_ends_the_attach() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let order = n.order();
    n.start(&w, order);
    for thief in 0..20 {
        if !n.run_until(&mut w, |n, _| n.state() == Some(StateName::Fence)) {
            break;
        }
        n.run_until(&mut w, |n, _| {
            n.state() != Some(StateName::Fence) || n.attach.is_none()
        });
        for leg in Leg::BOTH {
            w.steal(leg, key(Site::A, 500 + thief));
        }
    }
    assert!(matches!(n.end, Some(AttachEnd::Refused(_))), "{:?}", n.said);
}

#[test]
fn a_detach_ends_an_attach_and_names_what_must_be_released() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let order = n.order();
    n.start(&w, order);
    n.run_until(&mut w, |n, _| n.state() == Some(StateName::Fence));
    n.give(&w, Input::Detach);
    assert!(matches!(n.end, Some(AttachEnd::Off { release: None })));

    // Under an open request its outcome comes first.
    let order = n.order();
    n.crash();
    n.start(&w, order);
    w.witness = Witness::Stuck;
    n.run_until(&mut w, |n, _| n.state() == Some(StateName::CasWait));
    n.give(&w, Input::Detach);
    assert!(n.end.is_none());
    let (expected, new) = w.orphans[0].clone();
    assert!(w.cas(&expected, &new));
    w.witness = Witness::Up;
    let AttachEnd::Off { release } = n.run(&mut w) else {
        panic!()
    };
    assert_eq!(release.as_deref(), Some(w.r()));
    assert!(n.never("write"));
}

#[test]
fn a_release_is_repeated_until_the_register_no_longer_names_the_key() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let served = n.serve(&mut w);
    let config = Config::default();
    let mut port = Port::default();
    w.witness = Witness::Down;
    let own = served.running.key.session(1);
    let mut r = Release::start(w.now, own, served.ids.clone(), &config, &mut port);
    assert!(!release(&mut w, &mut r, &mut port));
    assert_eq!(r.deadline(), Some(w.now + Duration::from_secs(10)));
    w.witness = Witness::Up;
    w.advance(Duration::from_secs(10));
    r.handle(w.now, &Input::Tick, &config, &mut port);
    assert!(release(&mut w, &mut r, &mut port));
    assert_eq!(w.r().holder, None);
    // A key that another one took over needs no release.
    let mut other = Node::new(2, Site::A, 2);
    let taken = other.serve(&mut w);
    let mut r = Release::start(w.now, own, served.ids.clone(), &config, &mut port);
    assert!(release(&mut w, &mut r, &mut port));
    assert_eq!(w.r().holder, Some(taken.running.key));
}

/// Put a served attach back to Decide, as the serving phase does.
fn decide_again(n: &mut Node, w: &World, served: &crate::engine::Served, shown: bool) {
    n.inbox.clear();
    n.end = None;
    n.attach = Some(Attach::decide_again(
        w.now,
        held(served, shown),
        &mut n.port,
    ));
}

#[test]
fn a_leg_lost_before_the_first_beat_is_decided_again_with_the_fences_held() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let mut served = n.serve(&mut w);
    n.cut(Leg::B);
    served.connected[1] = None;
    n.said.clear();
    decide_again(&mut n, &w, &served, false);
    let AttachEnd::Served(again) = n.run(&mut w) else {
        panic!("{:?}", n.said)
    };
    assert_eq!((again.running.members, again.running.epoch), (A, Epoch(2)));
    assert_eq!(again.running.key, served.running.key);
    assert!(n.never("A put key"));
    assert_ne!(w.r().stamp_id, served.register.unwrap().stamp_id);
}

#[test]
fn behind_a_shown_device_a_writer_waits_for_the_member_and_ends_when_the_volume_moved() {
    let mut w = World::born();
    w.witness = Witness::Down;
    let mut n = Node::new(1, Site::A, 1);
    let served = n.serve(&mut w);
    // Meanwhile R was shrunk to B by an old request.
    let moved = {
        let old = Running {
            ..Running::of(w.r(), key(Site::A, 4))
        };
        let stamped = Register {
            holder: Some(old.key),
            ..w.r().clone()
        };
        stamped
            .shrink(&old, Leg::B, generation(44), tx(44))
            .unwrap()
    };
    w.set_register(moved);
    w.witness = Witness::Up;
    let mut lost = served.clone();
    n.cut(Leg::B);
    lost.connected[1] = None;
    decide_again(&mut n, &w, &lost, true);
    n.run_until(&mut w, |n, w| {
        w.now > Duration::from_secs(1100) || n.attach.is_none()
    });
    assert_eq!(
        n.state(),
        Some(StateName::Decide),
        "it waits, and no budget ends it"
    );
    n.heal(Leg::B);
    let AttachEnd::Served(again) = n.run(&mut w) else {
        panic!("{:?}", n.said)
    };
    assert_eq!(again.running.members, B);

    // The volume is active elsewhere: superseded.
    let mut w2 = w;
    let elsewhere = Register {
        active: Active {
            site: Site::B,
            seq: 2,
            latched: true,
        },
        txid: tx(77),
        ..w2.r().clone()
    };
    w2.set_register(elsewhere);
    decide_again(&mut n, &w2, &again, true);
    assert!(matches!(n.run(&mut w2), AttachEnd::Superseded));
}

#[test]
fn a_target_that_lost_every_key_is_attached_in_place_with_a_new_one() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    n.cut(Leg::B);
    let served = n.serve(&mut w);
    w.legs[0].registered.clear();
    w.legs[0].holder = None;
    n.end = None;
    n.attach = Some(Attach::reattach(w.now, held(&served, true), &mut n.port));
    let AttachEnd::Served(again) = n.run(&mut w) else {
        panic!("{:?}", n.said)
    };
    assert_ne!(again.running.key, served.running.key);
    assert_eq!(again.running.members, A);
    assert_eq!(w.r().holder, Some(again.running.key));
    assert_eq!(w.legs[0].holder_key(), Some(again.running.key));
    assert!(!n.removed);
    // Had another one served since, the device would end.
    w.legs[0].registered.clear();
    w.legs[0].holder = None;
    let other = Register {
        holder: Some(key(Site::A, 5)),
        txid: tx(78),
        ..w.r().clone()
    };
    w.set_register(other);
    n.end = None;
    n.attach = Some(Attach::reattach(w.now, held(&again, true), &mut n.port));
    assert!(matches!(n.run(&mut w), AttachEnd::Superseded));
}

#[test]
fn a_target_that_loses_its_reservations_before_the_device_is_shown_is_fenced_once_more() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    n.cut(Leg::B);
    let order = n.order();
    n.start(&w, order);
    n.run_until(&mut w, |n, _| n.state() == Some(StateName::SbWrite));
    n.cut(Leg::A);
    n.run_until(&mut w, |n, _| n.inbox.is_empty());
    w.legs[0].registered.clear();
    w.legs[0].holder = None;
    n.heal(Leg::A);
    let AttachEnd::Served(served) = n.run(&mut w) else {
        panic!("{:?}", n.said)
    };
    assert_eq!(w.legs[0].holder_key(), Some(served.running.key));
    assert_eq!(n.count("A put key"), 4, "two sessions, twice");
    assert_eq!(w.r().epoch, Epoch(2));
}

#[test]
fn a_leg_that_answers_with_errors_is_not_hammered() {
    let mut w = World::born();
    for _ in 0..10_000 {
        w.legs[0].faults.push(("write meta", LegError::NoSpace));
    }
    let mut n = Node::new(1, Site::A, 1);
    n.cut(Leg::B);
    assert_eq!(n.refused(&mut w), Refusal::WaitMember);
    assert_eq!(w.now, Duration::from_secs(1040));
    assert!(n.count("connect A") < 90, "{}", n.count("connect A"));
}

#[test]
fn a_leg_that_was_hung_up_on_is_wanted_back_for_a_rejoin() {
    let mut w = World::born();
    w.legs[1].faults.push(("full status", LegError::Hardware));
    w.legs[1].faults.push(("full status", LegError::Hardware));
    let mut n = Node::new(1, Site::A, 1);
    let served = n.serve(&mut w);
    assert_eq!(served.running.members, A);
    n.pump(&mut w);
    let last = n.said.iter().rfind(|said| said.contains("connect B"));
    assert_eq!(last.map(String::as_str), Some("connect B"));
}

#[test]
fn a_tick_that_comes_late_or_is_overtaken_changes_nothing() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let order = n.order();
    n.start(&w, order);
    w.witness = Witness::Stuck;
    n.run_until(&mut w, |n, _| n.count("cas") == 1 && n.inbox.is_empty());
    // Something else comes in after the deadline and before its tick.
    w.advance(Duration::from_secs(4));
    n.give(&w, Input::RecordSaved);
    n.pump(&mut w);
    w.witness = Witness::Up;
    assert!(matches!(n.run(&mut w), AttachEnd::Served(_)));
    assert!(w.now < Duration::from_secs(1010));
}

#[test]
fn a_detach_while_the_fences_are_held_releases_what_the_register_names() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let served = n.serve(&mut w);
    decide_again(&mut n, &w, &served, true);
    n.run_until(&mut w, |n, _| n.state() == Some(StateName::CasWait));
    n.give(&w, Input::Detach);
    let AttachEnd::Off { release } = n.run(&mut w) else {
        panic!()
    };
    assert_eq!(release.unwrap().holder, Some(served.running.key));
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

#[test]
fn a_session_that_is_back_before_the_next_round_costs_no_member() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let order = n.order();
    n.start(&w, order);
    n.run_until(&mut w, |n, _| n.state() == Some(StateName::SbWrite));
    n.cut(Leg::B);
    n.heal(Leg::B);
    let AttachEnd::Served(served) = n.run(&mut w) else {
        panic!("{:?}", n.said)
    };
    assert_eq!(served.running.members, Members::BOTH);
    assert_eq!(w.r().epoch, Epoch(1));
    assert!(n.never("disconnect B"), "the shell logs in again by itself");
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
fn r41_a_refusal_is_no_proof_that_the_request_was_not_executed() {
    let mut w = World::born();
    w.witness = Witness::Echo;
    let mut n = Node::new(1, Site::A, 1);
    let served = n.serve(&mut w);
    assert_eq!(n.count("cas"), 1);
    assert_eq!(served.register.as_ref(), Some(w.r()));
}

#[test]
fn r41_a_refusal_because_of_an_edit_is_answered_by_the_same_request_and_no_new_round() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let order = n.order();
    n.start(&w, order);
    // The register was read for the decision, and is edited before the request arrives.
    n.run_until(&mut w, |n, _| n.count("read register") == 2);
    w.edit_register(40);
    assert!(matches!(n.run(&mut w), AttachEnd::Served(_)));
    assert_eq!(n.count("cas"), 2);
    assert_eq!(n.count("A read slot"), 2, "one round");
}

#[test]
fn r26_r37_an_attach_that_stamped_between_verification_and_read_is_not_stamped_over() {
    let mut w = World::born();
    let mut early = Node::new(3, Site::A, 3);
    let order = early.order();
    early.start(&w, order);
    // Its fences are verified and everything on the legs is read; only the register is not.
    early.run_until(&mut w, |n, _| {
        n.count("A read meta") == 2 && n.count("B read meta") == 2
    });
    let mut late = Node::new(1, Site::A, 1);
    let served = late.serve(&mut w);
    let AttachEnd::Refused(_) = early.run(&mut w) else {
        panic!("{:?}", early.said)
    };
    assert_eq!(w.r().holder, Some(served.running.key));
    assert!(early.never("cas"));
    assert!(
        w.legs
            .iter()
            .all(|leg| leg.holder_key() == Some(served.running.key))
    );
}

#[test]
fn a_round_begins_when_nothing_of_ours_is_under_way() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let order = n.order();
    n.start(&w, order);
    n.run_until(&mut w, |n, _| n.count("A write slot") == 1);
    n.cut(Leg::B);
    let AttachEnd::Served(_) = n.run(&mut w) else {
        panic!("{:?}", n.said)
    };
    let nth = |what: &str, nth: usize| {
        let all = n.said.iter().enumerate().filter(|(_, s)| *s == what);
        all.map(|(at, _)| at).nth(nth).unwrap()
    };
    // Fence, first round, second round: the old list of writes ended before the second round.
    assert!(nth("A write history", 0) < nth("A full status", 2));
    assert_eq!(n.count("A write history"), 2);
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
