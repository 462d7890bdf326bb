//! A leg that lacks what was acknowledged is not read, not copied from, and not taken for equal.

use super::bench::{A, B, Bench, ms};
use super::grow;
use super::rejoin::{self, Far};
use super::setup::{Setup, page};
use crate::config::Config;
use crate::io::{Format, Input, LegError, LegReply};
use crate::status::StateName;

fn volatile() -> Setup {
    Setup {
        volatile: true,
        ..Setup::pair()
    }
}

fn one_copy(setup: Setup) -> Setup {
    let config = Config {
        copies: 1,
        copy_max: 65536,
        ..setup.config
    };
    Setup { config, ..setup }
}

/// The target of a leg restarted, and its cache is gone.
fn restart(b: &mut Bench, leg: twinsite_register::Leg) {
    b.down(leg);
    b.infos[leg.index()].boot_id = Some(990 + leg.index() as u64);
    b.back(leg);
}

#[test]
fn r14_a_restart_is_seen_although_the_first_login_after_it_was_not_verified() {
    let mut b = Bench::served(volatile());
    b.written(0);
    b.down(B);
    b.infos[1].boot_id = Some(999);
    b.up(B);
    b.down(B);
    b.up(B);
    b.ok("B full status");
    assert_eq!(b.state(), StateName::Frozen);
}

#[test]
fn a_member_that_restarted_without_acknowledged_writes_is_not_read() {
    let mut b = Bench::served(volatile());
    b.written(0);
    restart(&mut b, A);
    assert_eq!(b.state(), StateName::Frozen);
    b.seen();
    b.read_at(0);
    b.check(&["B read 0+4096"]);
}

#[test]
fn r29_a_source_that_restarted_is_not_copied_from() {
    let mut b = Bench::raw(one_copy(Setup {
        pages: [page(5, &[1, 9]), page(5, &[1, 9])],
        ..volatile()
    }));
    b.quiet_beats = true;
    b.ok("A copy from 65536");
    restart(&mut b, A);
    assert_eq!(b.state(), StateName::Frozen);
    b.read_at(9 << 16);
    b.ok("B copy to 65536");
    assert!(b.open_lines().is_empty(), "{:?}", b.open_lines());
    b.read();
    assert!(b.seen().contains(&"cas e4 {B}".to_owned()));
}

#[test]
fn r39_a_source_that_restarts_beside_a_leg_that_did_before_is_kept_and_a_flush_fails() {
    let mut b = Bench::raw(Setup {
        pages: [page(5, &[1]), page(5, &[1])],
        boots: [100, 111],
        ..volatile()
    });
    b.quiet_beats = true;
    restart(&mut b, A);
    assert_eq!(b.state(), StateName::Synced);
    b.flush();
    let seen = b.settle();
    assert!(
        seen.contains(&"B copy to 65536+65536".to_owned()),
        "{seen:?}"
    );
    assert!(seen.contains(&"done 1 EIO".to_owned()), "{seen:?}");
}

/// Both targets restart under a write that one leg has answered: its cache is gone, so it is asked once more.
#[test]
fn r40_a_leg_that_restarted_is_asked_again_for_what_is_not_answered() {
    let mut b = Bench::served(volatile());
    b.written(0);
    b.write(0);
    b.ok("B write");
    restart(&mut b, B);
    restart(&mut b, A);
    assert_eq!(b.state(), StateName::Synced);
    let seen = b.settle();
    let again = seen.iter().filter(|line| *line == "B write 0+4096");
    assert_eq!(again.count(), 2, "{seen:?}");
}

#[test]
fn both_restarted_while_a_shrink_had_no_outcome_does_not_hang() {
    let mut b = Bench::served(volatile());
    b.written(0);
    restart(&mut b, B);
    b.read();
    assert_eq!(b.state(), StateName::ShrinkWait);
    restart(&mut b, A);
    b.edit(|register| register.active.latched = true);
    b.conflict();
    b.read();
    b.read();
    assert_eq!(b.state(), StateName::Synced);
    b.flush();
    let seen = b.settle();
    assert!(seen.contains(&"A copy from 0+65536".to_owned()), "{seen:?}");
    assert!(seen.contains(&"done 2 EIO".to_owned()), "{seen:?}");
}

#[test]
fn r29_boot_ids_are_recorded_again_after_both_restarted() {
    let mut b = Bench::served(volatile());
    b.written(0);
    b.down(A);
    b.down(B);
    b.infos[0].boot_id = Some(998);
    b.infos[1].boot_id = Some(999);
    b.back(A);
    b.back(B);
    assert_eq!(b.state(), StateName::Synced);
    let seen = b.settle();
    assert!(
        seen.contains(&"A sb Member{AB} e3".to_owned())
            && seen.contains(&"B sb Member{AB} e3".to_owned()),
        "{seen:?}"
    );
}

#[test]
fn a_source_that_restarts_before_step_5_gives_the_rejoin_up() {
    let mut b = Bench::served(one_copy(volatile()));
    for region in 0..4 {
        b.written(region << 16);
    }
    b.shrink_to_a();
    let far = Far {
        page: page(8, &[]),
        ..rejoin::far(&b)
    };
    rejoin::join(&mut b, &far);
    b.ok("B sb Target");
    b.ok("B sb Target");
    b.ok("A copy from");
    b.ok("B copy to");
    assert_eq!(b.state(), StateName::RjTarget);
    restart(&mut b, A);
    assert_eq!(
        b.state(),
        StateName::Solo,
        "B may have what A had only in its cache"
    );
}

#[test]
fn r45_a_write_that_fails_on_x_while_a_grow_is_open_is_copied_before_it_is_read() {
    for x_first in [false, true] {
        let mut b = grow::grow_wait();
        b.write(0);
        if !x_first {
            b.ok("B write");
        }
        b.fail("A write", LegError::Medium);
        if x_first {
            b.ok("B write");
        }
        let seen = b.seen();
        assert!(seen.contains(&"done 2 EIO".to_owned()), "{seen:?}");
        b.win();
        let seen = b.settle();
        assert_eq!(b.state(), StateName::Synced, "{seen:?}");
        assert!(
            seen.contains(&"A copy from 0+65536".to_owned())
                && seen.contains(&"B copy to 0+65536".to_owned()),
            "{seen:?}"
        );
    }
}

#[test]
fn a_grow_that_is_won_while_y_is_lost_writes_its_superblocks_when_y_is_back() {
    let mut b = grow::grow_wait();
    b.win_silently();
    b.down(B);
    assert_eq!(b.state(), StateName::BumpWait);
    b.win_silently();
    b.wait(ms(3010));
    b.seen();
    b.read();
    assert_eq!(b.state(), StateName::Frozen);
    b.back(B);
    assert_eq!(b.state(), StateName::Synced);
    let seen = b.settle();
    let both = |leg: &str| {
        seen.iter()
            .filter(|line| **line == format!("{leg} sb Member{{AB}} e5"))
            .count()
    };
    assert_eq!((both("A"), both("B")), (2, 2), "{seen:?}");
}

#[test]
fn a_target_that_was_lost_before_gets_its_whole_time_as_a_member() {
    let setup = Setup::pair();
    let config = Config {
        rest_small: 1 << 20,
        ..setup.config
    };
    let mut b = Bench::served(Setup { config, ..setup });
    b.written(0);
    b.write(0);
    b.ok("A write");
    b.wait(ms(3100));
    b.settle();
    assert_eq!(b.state(), StateName::Solo);
    rejoin::target(&mut b);
    b.settle();
    assert_eq!(b.state(), StateName::Synced);
    b.down(B);
    b.wait(ms(2500));
    assert_eq!(b.state(), StateName::Synced);
}

#[test]
fn the_last_member_whose_verification_failed_is_logged_in_to_again() {
    let mut b = Bench::served(Setup::solo(A));
    b.written(0);
    b.down(A);
    b.write(0);
    b.up(A);
    b.seen();
    b.fail("A full status", LegError::Medium);
    b.check(&["A disconnect", "A connect"]);
    b.up(A);
    b.ok("A full status");
    b.check(&["A full status", "A write 0+4096"]);
}

#[test]
fn all_keys_gone_from_x_in_a_rejoin_attaches_in_place() {
    let mut b = rejoin::solo();
    rejoin::target(&mut b);
    b.down(A);
    b.up(A);
    b.reply("A full status", LegReply::FullStatus(Vec::new()));
    b.down(B);
    assert!(
        matches!(b.state(), StateName::Decide | StateName::Check),
        "{:?}",
        b.state()
    );
}

#[test]
fn r8_a_read_that_returns_while_another_decision_is_due_needs_the_lease() {
    let mut b = Bench::raw(Setup {
        unstamped: true,
        ..Setup::pair()
    });
    b.quiet_beats = true;
    b.polls = false;
    b.ok("A beat");
    b.ok("B beat");
    b.settle();
    b.edit(|register| {
        register.epoch = twinsite_register::Epoch(4);
        register.generation = twinsite_register::Gen([6; 16]);
        register.members = twinsite_register::Members::only(B);
    });
    b.wait(ms(9900));
    b.read_at(0);
    b.wait(ms(200));
    b.seen();
    b.now += ms(800);
    b.read();
    assert_eq!(b.state(), StateName::Decide);
    b.ok("A read 0+4096");
    assert!(!b.seen().iter().any(|line| line.starts_with("done")));
}

#[test]
fn a_format_that_was_cut_short_by_another_decision_is_not_recorded() {
    let mut b = Bench::raw(Setup {
        unstamped: true,
        ..Setup::pair()
    });
    b.quiet_beats = true;
    b.polls = false;
    b.ok("A beat");
    b.ok("B beat");
    b.settle();
    b.edit(|register| {
        register.epoch = twinsite_register::Epoch(4);
        register.generation = twinsite_register::Gen([6; 16]);
    });
    b.wait(ms(9900));
    b.input(Input::SetFormat {
        format: Format::Done,
        fs_type: [0; 15],
    });
    b.wait(ms(200));
    b.seen();
    b.read();
    let seen = b.seen();
    assert!(
        seen.contains(&"format Err(Interrupted)".to_owned()),
        "{seen:?}"
    );
}

#[test]
fn a_read_after_a_pause_renews_the_lease_at_once() {
    let mut b = Bench::served(Setup::pair());
    b.wait(ms(5000));
    b.now += ms(900);
    b.read_at(0);
    b.ok("A read 0+4096");
    assert!(b.seen().contains(&"done 1".to_owned()));
}

#[test]
fn r40_the_record_says_what_is_owed_before_a_boot_id_is_written_again() {
    let mut b = Bench::served(volatile());
    b.written(0);
    b.hold_records = true;
    b.down(A);
    b.down(B);
    b.infos[0].boot_id = Some(998);
    b.infos[1].boot_id = Some(999);
    b.back(A);
    b.back(B);
    let seen = b.settle();
    assert!(
        seen.contains(&"B copy to 0+65536".to_owned()),
        "the regions are equal: {seen:?}"
    );
    assert!(!seen.iter().any(|line| line.contains(" sb ")), "{seen:?}");
    b.input(Input::RecordSaved);
    let seen = b.settle();
    assert!(seen.contains(&"A sb Member{AB} e3".to_owned()), "{seen:?}");
}

#[test]
fn r40_a_flush_fails_although_the_record_cannot_be_saved() {
    let mut b = Bench::served(volatile());
    b.written(0);
    b.hold_records = true;
    b.down(A);
    b.down(B);
    b.infos[0].boot_id = Some(998);
    b.infos[1].boot_id = Some(999);
    b.back(A);
    b.back(B);
    b.flush();
    let seen = b.settle();
    assert!(seen.contains(&"done 2 EIO".to_owned()), "{seen:?}");
    assert!(
        seen.contains(&"A sb Member{AB} e3".to_owned()),
        "told, so nothing is owed: {seen:?}"
    );
}

#[test]
fn r40_an_agent_that_goes_on_finds_in_its_record_that_a_flush_must_fail() {
    let mut b = Bench::served(Setup {
        owed: true,
        ..Setup::pair()
    });
    assert!(b.owed);
    b.flush();
    let seen = b.settle();
    assert!(seen.contains(&"done 1 EIO".to_owned()), "{seen:?}");
    assert!(!b.owed, "told once");
    b.flush();
    let seen = b.settle();
    assert!(seen.contains(&"done 2".to_owned()), "{seen:?}");
}

#[test]
fn when_both_fail_a_sync_one_stays_and_the_flush_fails_even_if_its_next_sync_is_good() {
    let mut b = Bench::served(volatile());
    b.written(0);
    b.flush();
    b.fail("A sync", LegError::Medium);
    b.fail("B sync", LegError::Medium);
    assert_eq!(b.state(), StateName::Frozen);
    let seen = b.settle();
    assert_eq!(b.state(), StateName::Solo, "{seen:?}");
    assert!(seen.contains(&"cas e4 {A}".to_owned()), "{seen:?}");
    assert!(seen.contains(&"done 2 EIO".to_owned()), "{seen:?}");
}

#[test]
fn when_each_leg_failed_a_write_the_local_one_stays_and_is_asked_again() {
    let mut b = Bench::served(Setup::pair());
    b.written(0);
    b.written(1 << 16);
    b.write(0);
    b.write(1 << 16);
    b.ok("B write 0");
    b.fail("A write 0", LegError::Medium);
    b.ok("A write 65536");
    b.fail("B write 65536", LegError::Medium);
    assert_eq!(b.state(), StateName::Frozen);
    let seen = b.settle();
    assert_eq!(b.state(), StateName::Solo, "{seen:?}");
    assert!(
        seen.contains(&"done 3".to_owned()) && seen.contains(&"done 4".to_owned()),
        "{seen:?}"
    );
}
