//! Rows of the table as an attach carries them out.

use std::time::Duration;

use twinsite_register::*;

use super::world::*;
use super::{A, B};
use crate::engine::AttachEnd;
use crate::io::*;
use crate::layout::*;
use crate::status::{Condition, Event, Refusal, StateName};

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

/// B went on alone, A waits with what it had, and B is put back to a copy of then: two equal halves of an old pair.
#[test]
fn r17_without_the_register_legs_below_a_mark_do_not_run() {
    let mut w = World::born();
    let register_id = w.r().register_id;
    w.witness = Witness::Down;
    let attach = |w: &mut World, epoch| {
        let mut n = Node::new(1, Site::A, 1);
        let mark = Mark {
            register_id,
            epoch: Epoch(epoch),
            seq: 1,
        };
        let order = AttachOrder {
            marks: vec![mark],
            ..n.order()
        };
        n.start(w, order);
        let end = n.run(w);
        (n, end)
    };
    let (below, end) = attach(&mut w, 2);
    assert!(matches!(end, AttachEnd::Refused(Refusal::WitnessNeeded)));
    assert!(below.never("write"));
    let (_, end) = attach(&mut w, 1);
    assert!(matches!(end, AttachEnd::Served(_)));
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
    assert_ne!(
        w.sb(Leg::A).boot_id,
        4711,
        "an agent that dies now must see it"
    );
    n.crash();
    n.serve(&mut w);
    assert_eq!(w.sb(Leg::A).boot_id, 4711, "another device is owed nothing");
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
fn a_beat_below_the_object_is_a_rolled_back_leg() {
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
    w.put_beat(Leg::B, 1, 10);
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
        inconsistent: false,
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
