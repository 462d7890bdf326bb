//! Comparing the legs of a pair while a guest writes.

use std::slice::from_ref;

use super::bench::{A, B, Bench, ms};
use super::setup::{Setup, page};
use crate::config::Config;
use crate::io::{Input, LegError, VerifyOrder};
use crate::sim::Rng;
use crate::status::{Event, StateName, VerifyPhase, VerifyStatus, VerifyStop};

const CHUNK: u64 = 256 << 10;

fn bench(volume: u64, chunks: u32) -> Bench {
    let setup = Setup::pair();
    let config = Config {
        resync_bytes_per_second: Some(u64::from(chunks) * CHUNK * 10),
        ..setup.config
    };
    Bench::served(Setup {
        size: volume,
        config,
        ..setup
    })
}

fn begin(b: &mut Bench, from: u64) {
    b.input(Input::Verify(VerifyOrder::Begin { from }));
}

fn verify(b: &Bench) -> VerifyStatus {
    b.engine.status(b.now).verify.expect("a verify was ordered")
}

fn reported(b: &Bench) -> Vec<(u64, u64)> {
    b.events
        .iter()
        .filter_map(|event| match event {
            Event::LegsDiffer { offset, len } => Some((*offset, *len)),
            _ => None,
        })
        .collect()
}

#[test]
fn legs_that_are_equal_are_read_once_and_nothing_is_locked_or_written() {
    let mut b = bench(2 * CHUNK, 8);
    begin(&mut b, 0);
    b.check(&[
        "order Ok(())",
        "A digest 0+262144 by 262144",
        "B digest 0+262144 by 262144",
        "A digest 262144+262144 by 262144",
        "B digest 262144+262144 by 262144",
    ]);
    assert_eq!(b.settle(), [""; 0]);
    let told = verify(&b);
    assert_eq!(
        (told.phase, told.position, told.total_bytes),
        (VerifyPhase::Done, 2 * CHUNK, 2 * CHUNK)
    );
    assert_eq!((told.chunks, told.locked, told.differing.bytes), (2, 0, 0));
}

#[test]
fn a_block_that_differs_is_found_under_the_lock_and_left_as_it_is() {
    let mut b = bench(2 * CHUNK, 8);
    b.contents[B.index()].insert(65, 7);
    begin(&mut b, 0);
    let lines = b.settle();
    assert!(lines.contains(&"A digest 262144+262144 by 4096".to_owned()));
    assert!(
        lines
            .iter()
            .all(|line| !line.contains("copy") && !line.contains("write")),
        "{lines:?}"
    );
    let told = verify(&b);
    assert_eq!(told.phase, VerifyPhase::Done);
    assert_eq!(
        (told.chunks, told.locked, told.differing.bytes),
        (2, 1, 4096)
    );
    assert_eq!(told.differing.ranges, from_ref(&(65 * 4096..66 * 4096)));
    assert_eq!(reported(&b), [(65 * 4096, 4096)]);
    assert_eq!(b.contents[B.index()].get(&65), Some(&7), "not repaired");
}

#[test]
fn a_write_that_is_on_one_leg_only_is_no_difference() {
    let mut b = bench(CHUNK, 8);
    b.written(0);
    b.write(0);
    b.ok("A write");
    begin(&mut b, 0);
    b.seen();
    b.ok("A digest");
    b.ok("B digest");
    // A write was under way: looked at again, without the lock.
    b.check(&["A digest 0+262144 by 262144", "B digest 0+262144 by 262144"]);
    b.ok("B write");
    b.settle();
    assert_eq!((verify(&b).locked, reported(&b)), (0, vec![]));
}

#[test]
fn a_write_that_begins_between_the_two_answers_is_noted() {
    let mut b = bench(CHUNK, 8);
    b.written(0);
    begin(&mut b, 0);
    b.ok("A digest");
    b.write(0);
    b.ok("A write");
    b.ok("B write");
    b.seen();
    b.ok("B digest");
    b.check(&["A digest 0+262144 by 262144", "B digest 0+262144 by 262144"]);
    b.settle();
    assert_eq!((verify(&b).locked, reported(&b)), (0, vec![]));
}

#[test]
fn under_the_lock_no_write_begins_and_none_is_under_way() {
    let mut b = bench(CHUNK, 8);
    b.written(0);
    b.contents[B.index()].insert(5, 77);
    let under_way = b.write(0);
    begin(&mut b, 0);
    for _ in 0..3 {
        b.ok("A digest");
        b.ok("B digest");
    }
    // Three looks: now it waits for the write.
    b.ok("A write");
    assert!(!b.open_lines().iter().any(|line| line.contains("digest")));
    b.seen();
    b.ok("B write");
    assert_eq!(
        b.seen(),
        [
            format!("done {under_way}"),
            "A digest 0+262144 by 4096".to_owned(),
            "B digest 0+262144 by 4096".to_owned(),
        ]
    );
    let later = b.write(8192);
    let read = b.read_at(8192);
    assert_eq!(
        b.seen(),
        ["A read 8192+4096"; 0],
        "the read waits behind the write"
    );
    b.ok("A digest");
    b.ok("B digest");
    assert_eq!(reported(&b), [(5 * 4096, 4096)]);
    let lines = b.settle();
    for id in [later, read] {
        assert!(lines.contains(&format!("done {id}")), "{lines:?}");
    }
}

#[test]
fn the_loss_of_a_member_ends_it_where_it_was_and_it_goes_on_from_there() {
    let mut b = bench(4 * CHUNK, 1);
    begin(&mut b, 0);
    b.ok("A digest");
    b.ok("B digest");
    b.wait(ms(120));
    b.ok("A digest");
    b.down(B);
    for _ in 0..32 {
        b.wait(ms(100));
        b.settle();
    }
    assert_eq!(b.state(), StateName::Solo);
    let told = verify(&b);
    assert_eq!(told.phase, VerifyPhase::Stopped(VerifyStop::MemberLost));
    assert_eq!((told.position, told.chunks), (CHUNK, 1));
    assert_eq!(reported(&b), []);
    begin(&mut b, CHUNK);
    assert!(b.seen().contains(&"order Err(WaitingForLeg)".to_owned()));
    // Its locks are gone with it.
    b.written(CHUNK);
}

#[test]
fn a_session_that_comes_back_in_time_is_asked_again() {
    let mut b = bench(CHUNK, 8);
    begin(&mut b, 0);
    b.ok("A digest");
    b.down(B);
    b.wait(ms(500));
    b.back(B);
    b.settle();
    let told = verify(&b);
    assert_eq!((told.phase, told.chunks), (VerifyPhase::Done, 1));
}

#[test]
fn answers_from_before_a_leg_lost_its_cache_are_not_compared() {
    let setup = Setup::pair();
    let mut b = Bench::served(Setup {
        volatile: true,
        size: CHUNK,
        ..setup
    });
    b.written(0);
    b.contents[B.index()].clear();
    begin(&mut b, 0);
    b.ok("A digest");
    b.ok("B digest");
    // Under the lock: A answers, and B comes back without what was in its cache.
    b.ok("A digest");
    b.infos[B.index()].boot_id = Some(201);
    b.down(B);
    b.back(B);
    b.settle();
    assert_eq!(b.state(), StateName::Solo);
    assert_eq!(reported(&b), []);
    assert_eq!(
        verify(&b).phase,
        VerifyPhase::Stopped(VerifyStop::MemberLost)
    );
}

#[test]
fn a_detach_ends_it_and_does_not_wait_for_it() {
    let mut b = bench(4 * CHUNK, 1);
    b.contents[B.index()].insert(5, 77);
    begin(&mut b, 0);
    b.ok("A digest");
    b.ok("B digest");
    // The chunk is held, and a guest waits for it.
    b.write(0);
    b.input(Input::Detach);
    let lines = b.settle();
    assert!(lines.contains(&"detached".to_owned()), "{lines:?}");
    assert!(b.events.contains(&Event::VerifyEnded {
        stop: Some(VerifyStop::Detached),
        position: 0,
        differing: 0,
        unreadable: 0
    }));
}

#[test]
fn what_a_leg_cannot_read_is_reported_and_the_leg_stays() {
    let mut b = bench(CHUNK, 8);
    begin(&mut b, 0);
    for _ in 0..2 {
        b.ok("A digest");
        b.fail("B digest", LegError::Medium);
    }
    b.settle();
    let told = verify(&b);
    assert_eq!(told.unreadable.ranges, from_ref(&(0..CHUNK)));
    assert_eq!((told.differing.bytes, told.phase), (0, VerifyPhase::Done));
    assert_eq!(b.state(), StateName::Synced);
    assert!(
        b.events
            .iter()
            .any(|event| matches!(event, Event::VerifyUnreadable { leg, .. } if *leg == B))
    );
}

#[test]
fn a_region_whose_write_failed_is_compared_after_its_copy_and_not_before() {
    let mut b = bench(2 * CHUNK, 8);
    b.written(0);
    b.write(0);
    // No room on either leg; on A some of it was written.
    b.contents[A.index()].insert(0, 99);
    b.fail("A write", LegError::NoSpace);
    b.fail("B write", LegError::NoSpace);
    begin(&mut b, 0);
    let looks = |b: &Bench, line: &str| b.open_lines().iter().any(|open| open.contains(line));
    assert!(looks(&b, "copy from 0+65536") && !looks(&b, "digest 0+"));
    assert!(looks(&b, "digest 262144+262144"));
    b.settle();
    let told = verify(&b);
    assert_eq!((told.phase, told.chunks), (VerifyPhase::Done, 2));
    assert_eq!(reported(&b), []);
    assert_eq!(b.contents[B.index()].get(&0), Some(&99));
}

#[test]
fn a_region_whose_write_fails_while_a_chunk_waits_for_it_is_compared_after_its_copy() {
    let mut b = bench(CHUNK, 8);
    b.written(0);
    b.contents[B.index()].insert(5, 77);
    b.write(0);
    begin(&mut b, 0);
    for _ in 0..3 {
        b.ok("A digest");
        b.ok("B digest");
    }
    b.contents[B.index()].insert(5, 0);
    b.contents[A.index()].insert(0, 99);
    b.fail("A write", LegError::NoSpace);
    b.fail("B write", LegError::NoSpace);
    b.settle();
    assert_eq!(
        (verify(&b).phase, reported(&b)),
        (VerifyPhase::Done, vec![])
    );
}

#[test]
fn one_run_at_a_time_and_an_order_ends_it() {
    let mut b = bench(4 * CHUNK, 1);
    begin(&mut b, 0);
    begin(&mut b, 0);
    assert!(b.seen().contains(&"order Err(Busy)".to_owned()));
    b.input(Input::Verify(VerifyOrder::Stop));
    b.settle();
    assert_eq!(verify(&b).phase, VerifyPhase::Stopped(VerifyStop::Ordered));
    begin(&mut b, 3 * CHUNK + 4096);
    b.settle();
    let told = verify(&b);
    assert_eq!((told.from, told.chunks), (3 * CHUNK, 1));
}

#[test]
fn it_keeps_to_the_limit_of_a_resync() {
    let mut b = bench(64 * CHUNK, 1);
    begin(&mut b, 0);
    b.settle();
    let mut waited = 0;
    while verify(&b).phase == VerifyPhase::Running {
        b.wait(ms(10));
        b.settle();
        waited += 10;
    }
    assert!(
        (6000..6800).contains(&waited),
        "10 chunks a second: {waited}"
    );
    assert!(verify(&b).eta.is_none());
}

#[test]
fn the_reconcile_goes_first() {
    let setup = Setup::pair();
    let mut b = Bench::raw(Setup {
        pages: [page(5, &[3]), page(5, &[3])],
        size: 8 * CHUNK,
        ..setup
    });
    b.quiet_beats = true;
    while b.state() != StateName::Synced {
        let first = b.open_lines()[0].to_owned();
        b.ok(&first);
    }
    begin(&mut b, 0);
    assert!(
        !b.open_lines().iter().any(|line| line.contains("digest")),
        "{:?}",
        b.open_lines()
    );
    b.settle();
    assert_eq!(verify(&b).phase, VerifyPhase::Done);
    assert_eq!(reported(&b), []);
}

/// Random writes, answered in random order, with a session lost now and then, and one block that was changed behind our back.
#[test]
fn writes_that_overlap_never_make_a_difference_and_one_that_is_there_is_found() {
    const BLOCKS: u64 = 2 * CHUNK / 4096;
    for seed in 1..=40 {
        let mut rng = Rng::new(seed);
        let mut b = bench(2 * CHUNK, 64);
        let bad = rng.below(BLOCKS);
        b.contents[B.index()].insert(bad, u64::MAX);
        let (mut runs, mut down) = (0, false);
        for _ in 0..4_000 {
            if verify_is_over(&b) && !down && b.state() == StateName::Synced {
                begin(&mut b, 0);
                runs += 1;
            }
            match rng.below(100) {
                0..30 => {
                    let block = rng.below(BLOCKS);
                    if block != bad {
                        b.write(block * 4096);
                    }
                }
                30..31 if !down && rng.chance(20) => {
                    b.down(B);
                    down = true;
                }
                31..34 => b.wait(ms(rng.below(30))),
                34..60 if down => {
                    b.back(B);
                    down = false;
                }
                _ => {
                    let open = b.open_lines();
                    if !open.is_empty() {
                        let line = open[rng.below(open.len() as u64) as usize].to_owned();
                        b.ok(&line);
                    }
                }
            }
            b.seen();
            let wrong = reported(&b)
                .into_iter()
                .find(|&(offset, _)| offset != bad * 4096);
            assert_eq!(wrong, None, "seed {seed}: block {bad} is the one");
        }
        if down {
            b.back(B);
        }
        b.settle();
        assert!(runs > 3, "seed {seed}");
        assert!(
            !reported(&b).is_empty(),
            "seed {seed}: block {bad} was not found in {runs} runs"
        );
    }
}

fn verify_is_over(b: &Bench) -> bool {
    b.engine
        .status(b.now)
        .verify
        .is_none_or(|told| told.phase != VerifyPhase::Running)
}
