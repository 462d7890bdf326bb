//! A member is lost: shrink, thaw, the outcomes of both, errors of writes and syncs, lost caches, the lease.

use twinsite_register::{Key, KeyTag, Site};

use super::bench::{A, B, Bench, ms};
use super::setup::Setup;
use crate::config::{Config, OnNoQuorum};
use crate::io::{LegError, LegReply, Registrant};
use crate::status::{Event, LostWhy, StateName};

/// A hot write that B does not answer, and B is gone for good: Frozen, the register is being read.
fn frozen() -> Bench {
    let mut b = Bench::served(Setup::pair());
    b.written(0);
    b.write(0);
    b.ok("A write");
    b.down(B);
    b.wait(ms(2900));
    assert_eq!(b.state(), StateName::Synced);
    b.seen();
    b.wait(ms(200));
    assert_eq!(b.state(), StateName::Frozen);
    b.check(&["read R"]);
    b
}

fn shrinking() -> Bench {
    let mut b = frozen();
    b.read();
    b.check(&["cas e4 {A}"]);
    assert_eq!(b.state(), StateName::ShrinkWait);
    b
}

#[test]
fn r3_r32_after_a_shrink_base_map_and_both_slots_are_durable_before_the_answer() {
    let mut b = shrinking();
    b.win();
    b.check(&["A base e3 5"]);
    b.ok("A base");
    b.check(&["A page 0 n7 [0]"]);
    b.ok("A page");
    b.check(&["A sb Member{A} e4 base e3"]);
    b.ok("A sb");
    b.check(&["A sb Member{A} e4 base e3"]);
    b.ok("A sb");
    b.check(&["done 2", "cas land"]);
    assert_eq!(b.state(), StateName::Solo);
    b.write(4096);
    b.check(&["A write 4096+4096"]);
    b.ok("A write");
    b.check(&["done 3"]);
}

#[test]
fn r4_an_unknown_outcome_is_frozen_and_the_request_is_repeated_until_it_is_known() {
    let mut b = shrinking();
    let first = b.proposed().clone();
    b.no_answer();
    b.check(&["read R"]);
    b.read();
    b.check(&[]);
    b.wait(ms(250));
    b.check(&["cas e4 {A}", "read R"]);
    assert_eq!(*b.proposed(), first, "byte for byte");
    b.unreadable();
    b.wait(ms(6000));
    assert_eq!(b.state(), StateName::ShrinkWait);
    assert!(!b.seen().iter().any(|line| line.starts_with("done")));
    assert!(
        b.engine
            .status(b.now)
            .conditions
            .contains(&crate::status::Condition::MembershipUnknown)
    );
}

#[test]
fn r41_the_outcome_is_read_from_the_generation_although_a_free_field_was_edited_since() {
    let mut b = shrinking();
    b.win_silently();
    b.edit(|register| register.active.latched = true);
    b.wait(ms(3100));
    b.seen();
    b.read();
    b.check(&["A base e3 5"]);
    assert_eq!(b.state(), StateName::SbWrite);
}

#[test]
fn r41_an_edit_before_the_request_means_build_it_again_with_the_same_generation() {
    let mut b = shrinking();
    let first = b.proposed().generation;
    b.edit(|register| register.active.latched = true);
    b.conflict();
    b.check(&["read R"]);
    b.read();
    b.check(&["read R"]);
    b.read();
    b.check(&["cas e4 {A}"]);
    assert_eq!(b.proposed().generation, first);
    assert!(b.proposed().active.latched);
}

/// The line to B is back after another writer fenced it: its answer to READ FULL STATUS comes from a leg that would refuse a
/// read, and must not renew the lease under which a held read is answered.
#[test]
fn r27_who_is_registered_is_no_proof_that_reads_may_be_answered() {
    let mut b = Bench::served(Setup::pair());
    b.written(0);
    b.down(B);
    b.wait(ms(3_500));
    assert_eq!(b.state(), StateName::Frozen);
    b.seen();
    b.read_at(0);
    b.check(&["A read 0+4096"]);
    b.ok("A read");
    assert!(!b.seen().iter().any(|line| line.starts_with("done")));
    b.up(B);
    let foreign = Registrant {
        key: Key::new(KeyTag::Writer(Site::B), 77),
        holder: true,
        kind: 6,
    };
    b.reply("B full status", LegReply::FullStatus(vec![foreign]));
    let seen = b.seen();
    assert!(seen.contains(&"done 2 Superseded".to_owned()), "{seen:?}");
    assert_eq!(b.state(), StateName::Superseded);
}

#[test]
fn r23_another_holder_means_superseded_and_nothing_is_sent() {
    let mut b = frozen();
    b.edit(|register| register.holder = Some(Key::new(KeyTag::Writer(Site::A), 77)));
    b.read();
    b.check(&[
        "done 2 Superseded",
        "remove Superseded",
        "A disconnect",
        "B disconnect",
    ]);
    assert_eq!(b.state(), StateName::Superseded);
    b.write(0);
    b.check(&["done 3 NotShown"]);
    b.wait(ms(60_000));
    b.check(&[]);
}

#[test]
fn a_shrink_that_lost_means_superseded() {
    let mut b = shrinking();
    b.edit(|register| {
        register.holder = Some(Key::new(KeyTag::Writer(Site::B), 77));
        register.active.seq += 1;
        register.active.site = Site::B;
    });
    b.conflict();
    b.read();
    b.check(&[
        "read R",
        "done 2 Superseded",
        "remove Superseded",
        "A disconnect",
        "B disconnect",
    ]);
}

#[test]
fn a_shrink_that_was_won_before_another_attach_took_over_means_superseded() {
    let mut b = shrinking();
    b.win_silently();
    b.edit(|register| register.holder = Some(Key::new(KeyTag::Writer(Site::A), 77)));
    b.wait(ms(3100));
    b.seen();
    b.read();
    b.check(&[
        "done 2 Superseded",
        "remove Superseded",
        "A disconnect",
        "B disconnect",
    ]);
}

#[test]
fn a_leg_that_is_back_before_anything_was_sent_gets_what_it_missed() {
    let mut b = frozen();
    b.back(B);
    assert_eq!(b.state(), StateName::Synced);
    b.check(&["B full status", "B write 0+4096"]);
    b.ok("B write");
    b.check(&["done 2"]);
}

#[test]
fn r24_a_leg_that_is_back_while_the_shrink_is_unknown_ends_it_by_a_stamp() {
    let mut b = shrinking();
    b.back(B);
    b.check(&["B full status", "B write 0+4096"]);
    b.ok("B write");
    b.check(&[]);
    b.no_answer();
    b.read();
    b.check(&["read R", "cas stamp"]);
    assert_eq!(b.state(), StateName::ThawWait);
    b.win();
    b.check(&["done 2"]);
    assert_eq!(b.state(), StateName::Synced);
}

#[test]
fn a_shrink_that_is_executed_before_the_stamp_wins() {
    let mut b = shrinking();
    b.back(B);
    b.seen();
    b.win_silently();
    b.wait(ms(3100));
    b.seen();
    b.read();
    assert_eq!(b.state(), StateName::SbWrite);
    b.check(&["A base e3 5"]);
}

#[test]
fn a_leg_lost_during_the_thaw_freezes_again() {
    let mut b = shrinking();
    b.back(B);
    b.no_answer();
    b.read();
    assert_eq!(b.state(), StateName::ThawWait);
    b.down(B);
    b.wait(ms(3100));
    b.seen();
    b.win_silently();
    b.read();
    assert_eq!(b.state(), StateName::Frozen);
}

#[test]
fn both_legs_lost_is_held_and_the_first_one_back_is_kept() {
    let mut b = Bench::served(Setup::pair());
    b.written(0);
    b.write(0);
    b.down(A);
    b.down(B);
    b.wait(ms(3100));
    b.seen();
    b.read();
    b.check(&[]);
    assert_eq!(b.state(), StateName::Frozen);
    b.back(B);
    b.read();
    assert!(b.seen().contains(&"cas e4 {B}".to_owned()));
}

#[test]
fn r16_a_conflict_on_a_member_means_superseded_at_once() {
    for error in [LegError::Conflict, LegError::Preempted] {
        let mut b = Bench::served(Setup::pair());
        b.written(0);
        b.write(0);
        b.seen();
        b.fail("B write", error);
        b.check(&[
            "done 2 Superseded",
            "remove Superseded",
            "A disconnect",
            "B disconnect",
        ]);
        b.up(B);
        b.wait(ms(100_000));
        b.check(&[]);
    }
}

#[test]
fn r16_a_missing_registration_after_a_relogin_is_a_lost_leg_and_a_foreign_holder_is_superseded() {
    let mut b = Bench::served(Setup::pair());
    b.down(B);
    b.up(B);
    let key = b.key;
    b.reply(
        "B full status",
        LegReply::FullStatus(vec![Registrant {
            key,
            holder: true,
            kind: 6,
        }]),
    );
    assert_eq!(b.state(), StateName::Frozen);
    assert!(
        !b.open_lines().iter().any(|line| line.contains("register")),
        "never registered again"
    );

    let mut b = Bench::served(Setup::pair());
    b.down(B);
    b.up(B);
    let other = Key::new(KeyTag::Writer(Site::B), 5);
    b.reply(
        "B full status",
        LegReply::FullStatus(vec![Registrant {
            key: other,
            holder: true,
            kind: 6,
        }]),
    );
    assert_eq!(b.state(), StateName::Superseded);
}

#[test]
fn r15_nothing_is_resent_before_the_relogin_was_verified() {
    let mut b = Bench::served(Setup::pair());
    b.written(0);
    b.write(0);
    b.down(B);
    b.seen();
    b.up(B);
    b.check(&["B full status"]);
    b.ok("B full status");
    b.check(&["B write 0+4096"]);
}

#[test]
fn r14_r19_a_restart_that_lost_unflushed_writes_shrinks_before_any_flush_is_answered() {
    let mut b = Bench::served(Setup {
        volatile: true,
        ..Setup::pair()
    });
    b.written(0);
    b.flush();
    b.ok("A sync");
    b.down(B);
    b.infos[1].boot_id = Some(999);
    b.up(B);
    b.seen();
    b.ok("B full status");
    b.check(&["read R"]);
    assert!(b.events.iter().any(|event| matches!(
        event,
        Event::LegLost {
            leg: B,
            why: LostWhy::Restarted
        }
    )));
    b.read();
    b.check(&["cas e4 {A}"]);
    b.settle();
    assert!(b.engine.status(b.now).members == twinsite_register::Members::only(A));
}

#[test]
fn a_restart_that_lost_nothing_is_only_recorded() {
    let mut b = Bench::served(Setup {
        volatile: true,
        ..Setup::pair()
    });
    b.written(0);
    b.flush();
    b.settle();
    b.down(B);
    b.infos[1].boot_id = Some(999);
    b.up(B);
    b.seen();
    b.ok("B full status");
    let seen = b.settle();
    assert_eq!(b.state(), StateName::Synced);
    assert!(seen.contains(&"B sb Member{AB} e3".to_owned()), "{seen:?}");
}

#[test]
fn both_targets_restarted_is_no_shrink_but_a_failed_flush_and_a_reconcile() {
    let mut b = Bench::served(Setup {
        volatile: true,
        ..Setup::pair()
    });
    b.written(0);
    b.down(A);
    b.down(B);
    b.infos[0].boot_id = Some(998);
    b.infos[1].boot_id = Some(999);
    b.up(A);
    b.up(B);
    b.ok("A full status");
    b.ok("B full status");
    assert_eq!(b.state(), StateName::Synced);
    b.flush();
    let seen = b.settle();
    assert!(
        seen.contains(&"A copy from 0+65536".to_owned())
            && seen.contains(&"B copy to 0+65536".to_owned())
    );
    assert!(seen.contains(&"done 2 EIO".to_owned()), "{seen:?}");
    b.flush();
    b.settle();
    b.flush();
    assert!(b.settle().contains(&"done 4".to_owned()));
}

#[test]
fn a_write_error_on_one_leg_shrinks_and_on_both_is_an_error_to_the_guest() {
    let mut b = Bench::served(Setup::pair());
    b.written(0);
    b.write(0);
    b.seen();
    b.fail("B write", LegError::NoSpace);
    assert_eq!(
        b.state(),
        StateName::Synced,
        "the other leg's answer tells whose fault it is"
    );
    b.ok("A write");
    assert_eq!(b.state(), StateName::Frozen);
    b.settle();
    assert_eq!(b.state(), StateName::Solo);

    let mut b = Bench::served(Setup::pair());
    b.written(0);
    b.write(0);
    b.seen();
    b.fail("B write", LegError::NoSpace);
    b.fail("A write", LegError::NoSpace);
    b.check(&["done 2 NoSpace", "A copy from 0+65536"]);
    assert_eq!(b.state(), StateName::Synced);
}

#[test]
fn a_failed_sync_is_a_lost_leg() {
    let mut b = Bench::served(Setup::pair());
    b.written(0);
    b.flush();
    b.seen();
    b.ok("A sync");
    b.fail("B sync", LegError::Medium);
    assert_eq!(b.state(), StateName::Frozen);
    b.check(&["read R"]);
}

#[test]
fn a_command_without_an_answer_ends_the_session_and_is_a_lost_leg() {
    let mut b = Bench::served(Setup::pair());
    b.written(0);
    b.write(0);
    b.ok("A write");
    b.seen();
    b.wait(ms(3100));
    b.check(&["B disconnect", "B connect", "read R"]);
    assert_eq!(b.state(), StateName::Frozen);
}

#[test]
fn r45_error_answers_leave_regions_that_are_copied_before_they_are_read_or_cleared() {
    let setup = Setup::pair();
    let config = Config {
        on_no_quorum: OnNoQuorum::Error,
        ..setup.config
    };
    let mut b = Bench::served(Setup { config, ..setup });
    b.written(0);
    b.write(0);
    b.ok("A write");
    b.down(B);
    b.wait(ms(3100));
    b.seen();
    b.unreadable();
    b.wait(ms(29_000));
    assert!(!b.seen().iter().any(|line| line.contains("EIO")));
    b.wait(ms(1500));
    assert!(b.seen().contains(&"done 2 EIO".to_owned()));
    b.write(8192);
    assert!(b.seen().contains(&"done 3 EIO".to_owned()));
    b.back(B);
    assert_eq!(b.state(), StateName::Synced);
    assert!(
        !b.seen().iter().any(|line| line.starts_with("B write")),
        "no new command with that buffer"
    );
    b.read_at(0);
    b.check(&[]);
    b.ok("A copy from");
    b.ok("B copy to");
    assert!(b.seen().contains(&"A read 0+4096".to_owned()));
}

#[test]
fn suspend_waits_for_ever() {
    let mut b = frozen();
    b.unreadable();
    b.wait(ms(600_000));
    assert!(!b.seen().iter().any(|line| line.starts_with("done")));
}

#[test]
fn a_register_below_what_was_seen_is_an_alarm_and_no_request() {
    let mut b = frozen();
    b.register.epoch = twinsite_register::Epoch(2);
    b.read();
    b.check(&[]);
    assert_eq!(b.state(), StateName::Frozen);
    let status = b.engine.status(b.now);
    assert!(
        status
            .conditions
            .contains(&crate::status::Condition::WitnessRolledBack)
    );
}

#[test]
fn a_base_that_was_written_on_the_leg_that_stays_is_kept() {
    let base = crate::layout::Base {
        epoch: twinsite_register::Epoch(2),
        generation: super::setup::OLD,
        crc: 7,
    };
    let mut b = Bench::raw(Setup {
        base: Some((A, base, vec![4])),
        pages: [super::setup::page(5, &[1]), super::setup::page(5, &[1])],
        ..Setup::pair()
    });
    b.quiet_beats = true;
    b.ok("A copy from");
    b.down(B);
    b.wait(ms(3100));
    b.seen();
    b.read();
    b.win();
    let seen = b.seen();
    assert!(
        seen.contains(&"A page 0 n6 [1]".to_owned())
            && !seen.iter().any(|line| line.contains("base e3")),
        "{seen:?}"
    );
    b.ok("A page");
    b.check(&["A sb Member{A} e4 base e2"]);
}

#[test]
fn a_tombstone_means_superseded() {
    let mut b = frozen();
    b.edit(|register| {
        register.state = twinsite_register::State::Tombstone;
        register.members = twinsite_register::Members::NONE;
        register.holder = None;
    });
    b.read();
    assert_eq!(b.state(), StateName::Superseded);
}

#[test]
fn a_leg_that_is_slow_for_half_a_minute_leaves_by_a_shrink_and_not_again_for_ten_minutes() {
    let mut b = Bench::served(Setup::pair());
    b.written(0);
    let slow_second = |b: &mut Bench| {
        b.write(0);
        b.ok("A write");
        b.wait(ms(1600));
        b.ok("B write");
        b.settle();
    };
    let mut seconds = 0;
    while b.state() == StateName::Synced {
        slow_second(&mut b);
        seconds += 2;
        assert!(seconds < 60, "the leg stays");
    }
    assert!(seconds > 28, "{seconds}");
    assert_eq!(b.state(), StateName::Solo);
    assert!(b.events.contains(&Event::LegLost {
        leg: B,
        why: LostWhy::Slow
    }));
}
