//! What a pair owes before it is in sync: equal pages and beats, pending regions, a leg that was rolled back.

use super::bench::{A, B, Bench, ms};
use super::setup::{Setup, page};
use crate::io::{LegError, Mode};
use crate::status::{Condition, Event, StateName};

#[test]
fn r42_pages_and_beats_of_equal_legs_are_made_equal_before_the_first_beat() {
    let mut b = Bench::raw(Setup {
        pages: [page(6, &[]), page(5, &[])],
        beats: [9, 8],
        ..Setup::pair()
    });
    b.check(&["A page 0 n6 []", "B page 0 n6 []"]);
    b.ok("A page");
    b.ok("B page");
    b.check(&["B beat 9"]);
    b.ok("B beat");
    b.check(&["A beat 10", "B beat 10"]);
    b.ok("A beat");
    b.ok("B beat");
    let seen = b.seen();
    assert!(seen.contains(&"show 4194304".to_owned()));
    assert_eq!(b.state(), StateName::Synced);
}

#[test]
fn r42_a_lower_beat_stays_lower_until_the_last_pending_region_is_copied_and_synced() {
    let mut b = Bench::raw(Setup {
        pages: [page(6, &[1]), page(5, &[2])],
        beats: [9, 8],
        ..Setup::pair()
    });
    b.check(&["A page 0 n6 [1, 2]", "B page 0 n6 [1, 2]"]);
    b.ok("A page");
    b.ok("B page");
    let seen = b.seen();
    assert!(seen.contains(&"show 4194304".to_owned()), "{seen:?}");
    b.ok("A copy from");
    b.wait(ms(2500));
    b.ok("B copy to");
    let seen = b.seen();
    assert!(!seen.iter().any(|line| line.contains(" beat ")), "{seen:?}");
    for name in ["A sync", "B sync"] {
        b.ok(name);
    }
    let seen = b.seen();
    assert!(seen.contains(&"B beat 9".to_owned()), "{seen:?}");
    b.ok("B beat 9");
    let seen = b.settle();
    let at = |line: &str| seen.iter().position(|l| l == line).unwrap_or(usize::MAX);
    assert!(at("B sb Member{AB} e3") < at("B beat 10"), "{seen:?}");
    assert!(at("A beat 10") < usize::MAX, "{seen:?}");
}

#[test]
fn a_pair_that_is_detached_or_shrunk_while_regions_are_pending_makes_no_beats_equal() {
    let setup = || Setup {
        pages: [page(6, &[1]), page(5, &[])],
        beats: [9, 8],
        ..Setup::pair()
    };
    let mut b = Bench::raw(setup());
    b.ok("A page");
    b.ok("B page");
    b.input(crate::io::Input::Detach);
    let seen = b.settle();
    assert!(seen.contains(&"detached".to_owned()), "{seen:?}");
    assert!(!seen.iter().any(|line| line.contains(" beat ")), "{seen:?}");

    let mut b = Bench::raw(setup());
    b.ok("A page");
    b.ok("B page");
    b.ok("A copy from");
    b.shrink_to_a();
    b.wait(ms(2100));
    assert!(
        b.open_lines().contains(&"A beat 11"),
        "{:?}",
        b.open_lines()
    );
}

#[test]
fn equal_legs_write_nothing_and_r33_a_beat_is_not_a_request_to_the_register() {
    let mut b = Bench::raw(Setup::pair());
    b.check(&["A beat 10", "B beat 10"]);
    b.ok("A beat");
    b.ok("B beat");
    assert!(
        !b.seen()
            .iter()
            .any(|line| line.contains("cas") || line.contains("read R"))
    );
}

/// Region 1 may differ; A is the source.
fn pending() -> Bench {
    let mut b = Bench::raw(Setup {
        pages: [page(5, &[1]), page(5, &[1])],
        ..Setup::pair()
    });
    b.quiet_beats = true;
    b.check(&["show 4194304", "A copy from 65536+65536"]);
    b
}

#[test]
fn r9_a_pending_region_is_copied_before_its_first_read_or_write_and_others_are_served() {
    let mut b = pending();
    b.read_at(65536);
    b.write(65536);
    b.check(&[]);
    b.read_at(0);
    b.check(&["A read 0+4096"]);
    b.ok("A copy from");
    b.check(&["B copy to 65536+65536"]);
    b.ok("B copy to");
    let seen = b.seen();
    assert!(seen.contains(&"A read 65536+4096".to_owned()), "{seen:?}");
    b.ok("A read 65536");
    let seen = b.seen();
    assert!(
        seen.contains(&"A write 65536+4096".to_owned()),
        "the write waits for the read: {seen:?}"
    );
}

#[test]
fn r39_flush_is_held_and_the_boot_id_not_written_until_the_last_pending_region_is_copied() {
    let mut b = pending();
    b.flush();
    b.check(&[]);
    b.ok("A copy from");
    b.ok("B copy to");
    b.check(&["B copy to 65536+65536", "A sync", "B sync"]);
    b.ok("A sync");
    b.ok("B sync");
    b.check(&["done 1", "A sb Member{AB} e3", "B sb Member{AB} e3"]);
}

#[test]
fn r29_a_leg_that_restarted_is_not_the_source_and_r39_a_shrink_may_only_keep_the_source() {
    // B restarted: A is the source although B's beat is higher.
    let mut b = Bench::raw(Setup {
        pages: [page(5, &[1]), page(5, &[1])],
        beats: [9, 10],
        boots: [100, 111],
        volatile: true,
        ..Setup::pair()
    });
    b.quiet_beats = true;
    assert!(
        b.open_lines().contains(&"A copy from 65536+65536"),
        "{:?}",
        b.open_lines()
    );
    // A, the source, is lost: hold.
    b.down(A);
    b.wait(ms(3100));
    b.seen();
    b.read();
    b.check(&[]);
    assert_eq!(b.state(), StateName::Frozen);
    b.wait(ms(60_000));
    b.read();
    assert!(!b.seen().iter().any(|line| line.starts_with("cas")));

    // The leg that is not the source may go.
    let mut b = Bench::raw(Setup {
        pages: [page(5, &[1]), page(5, &[1])],
        boots: [100, 111],
        volatile: true,
        ..Setup::pair()
    });
    b.quiet_beats = true;
    b.ok("A copy from");
    b.down(B);
    b.wait(ms(3100));
    b.seen();
    b.read();
    b.check(&["cas e4 {A}"]);
}

#[test]
fn the_higher_beat_then_the_higher_page_then_the_local_leg_is_the_source() {
    let source = |beats: [u64; 2], pages: [u64; 2]| {
        let mut b = Bench::raw(Setup {
            pages: [page(pages[0], &[1]), page(pages[1], &[1])],
            beats,
            ..Setup::pair()
        });
        b.quiet_beats = true;
        while !b.open_lines().iter().any(|line| line.contains("copy")) {
            let name = b.open_lines()[0].to_owned();
            b.ok(&name);
        }
        b.open_lines()
            .iter()
            .find(|line| line.contains("copy from"))
            .unwrap()[..1]
            .to_owned()
    };
    assert_eq!(source([9, 10], [5, 5]), "B");
    assert_eq!(source([10, 9], [5, 6]), "A");
    assert_eq!(source([9, 9], [5, 6]), "B");
    assert_eq!(source([9, 9], [5, 5]), "A");
}

#[test]
fn a_gap_of_two_is_a_leg_that_was_rolled_back_and_leaves() {
    let mut b = Bench::raw(Setup {
        pages: [page(5, &[]), page(7, &[3])],
        ..Setup::pair()
    });
    assert!(
        b.engine
            .status(b.now)
            .conditions
            .contains(&Condition::LegDamaged(A))
    );
    b.quiet_beats = true;
    assert_eq!(b.state(), StateName::Frozen);
    let before = b.seen();
    let hides = |line: &String| line.contains(" page ") || line.contains(" beat ");
    assert!(
        !before.iter().any(hides),
        "the gap stays to be seen: {before:?}"
    );
    b.read();
    assert!(b.seen().contains(&"cas e4 {B}".to_owned()));
}

#[test]
fn a_leg_lost_before_the_first_beat_goes_back_to_the_decision_with_the_fences_held() {
    let mut b = Bench::raw(Setup::pair());
    b.ok("A beat");
    b.down(B);
    b.wait(ms(3100));
    assert!(!b.seen().iter().any(|line| line.starts_with("show")));
    assert!(
        matches!(b.state(), StateName::Decide | StateName::Check),
        "{:?}",
        b.state()
    );
}

#[test]
fn a_caretaker_shows_no_device() {
    let mut b = Bench::raw(Setup {
        mode: Mode::Caretaker,
        ..Setup::pair()
    });
    let seen = b.settle();
    assert!(!seen.iter().any(|line| line.starts_with("show")));
    assert_eq!(b.state(), StateName::Synced);
    b.read_at(0);
    b.check(&["done 1 NotShown"]);
    let _ = B;
}

/// Region 1 of one bad block: 16 blocks are copied one by one.
fn narrowed(b: &mut Bench, bad_on_b_too: bool) -> Vec<String> {
    b.fail("A copy from 65536+131072", LegError::Medium);
    b.ok("A copy from 65536+65536");
    b.ok("B copy to 65536+65536");
    b.fail("A copy from 131072+65536", LegError::Medium);
    for block in 0..16u64 {
        let at = 131_072 + block * 4096;
        let (read, write) = (
            format!("A copy from {at}+4096"),
            format!("B copy to {at}+4096"),
        );
        if block != 5 {
            b.ok(&read);
            b.ok(&write);
            continue;
        }
        b.fail(&read, LegError::Medium);
        let other = format!("B copy from {at}+4096");
        if bad_on_b_too {
            b.fail(&other, LegError::Medium);
        } else {
            b.ok(&other);
            b.ok(&format!("A copy to {at}+4096"));
        }
    }
    b.seen()
}

fn two_regions() -> Bench {
    let mut b = Bench::raw(Setup {
        pages: [page(5, &[1, 2]), page(5, &[1, 2])],
        ..Setup::pair()
    });
    b.quiet_beats = true;
    b
}

#[test]
fn only_the_block_that_the_source_cannot_read_is_taken_from_the_other_leg() {
    let mut b = two_regions();
    narrowed(&mut b, false);
    let seen = b.settle();
    assert!(seen.contains(&"A sb Member{AB} e3".to_owned()), "{seen:?}");
    assert_eq!(b.engine.status(b.now).pending_bytes, 0);
}

#[test]
fn only_the_block_that_neither_leg_can_read_stays_uncopied() {
    let mut b = two_regions();
    narrowed(&mut b, true);
    let bad = Event::ReadFailed {
        offset: 131_072 + 5 * 4096,
        len: 4096,
    };
    let told: Vec<_> = b
        .events
        .iter()
        .filter(|event| matches!(event, Event::ReadFailed { .. }))
        .collect();
    assert_eq!(told, [&bad]);
    b.settle();
    assert_eq!(b.engine.status(b.now).pending_bytes, 0);
    b.read_at(131_072 + 5 * 4096);
    b.fail("A read", LegError::Medium);
    b.fail("B read", LegError::Medium);
    b.check(&["A read 151552+4096", "B read 151552+4096", "done 1 EIO"]);
}

#[test]
fn r39_a_block_that_only_the_leg_without_its_cache_can_read_fails_a_flush() {
    let mut b = Bench::raw(Setup {
        pages: [page(5, &[1, 2]), page(5, &[1, 2])],
        boots: [100, 111],
        volatile: true,
        ..Setup::pair()
    });
    b.quiet_beats = true;
    narrowed(&mut b, false);
    b.flush();
    let seen = b.settle();
    assert!(seen.contains(&"done 1 EIO".to_owned()), "{seen:?}");
}

/// A command that took almost as long as the lease proves what was true when it was sent, not when it was answered.
#[test]
fn r27_the_lease_runs_from_the_send_of_a_slow_command() {
    let mut b = Bench::served(Setup::pair());
    b.written(0);
    // Nothing but the write renews it.
    b.quiet_beats = false;
    b.write(0);
    for _ in 0..29 {
        b.wait(ms(100));
    }
    b.ok("A write");
    b.ok("B write");
    b.seen();
    let before = b.read_at(0);
    b.ok("A read");
    assert!(b.seen().contains(&format!("done {before}")));
    let after = b.read_at(0);
    b.wait(ms(100));
    b.wait(ms(50));
    b.ok("A read");
    assert!(!b.seen().contains(&format!("done {after}")));
}
