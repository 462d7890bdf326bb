//! Requests of the guest on two legs: gates, order, reads, flushes, clearing, limits.

use super::bench::{A, B, Bench, ms};
use super::setup::{Setup, page};
use crate::config::Config;
use crate::io::{GuestOp, LegError};
use crate::status::StateName;

#[test]
fn r1_r2_a_cold_write_waits_for_a_page_on_one_leg_then_for_data_and_page_on_both() {
    let mut b = Bench::served(Setup::pair());
    b.write(65536);
    b.check(&["A page 0 n6 [1]", "B page 0 n6 [1]"]);
    b.ok("B page");
    b.check(&["A write 65536+4096", "B write 65536+4096"]);
    b.ok("A write");
    b.ok("B write");
    b.check(&[]);
    b.ok("A page");
    b.check(&["done 1"]);
}

#[test]
fn r2_a_hot_write_is_answered_when_both_legs_have_it() {
    let mut b = Bench::served(Setup::pair());
    b.written(65536);
    b.write(69632);
    b.check(&["A write 69632+4096", "B write 69632+4096"]);
    b.ok("A write");
    b.check(&[]);
    b.ok("B write");
    b.check(&["done 2"]);
}

#[test]
fn cold_regions_of_one_page_share_a_transaction() {
    let mut b = Bench::served(Setup::pair());
    b.write(0);
    b.check(&["A page 0 n6 [0]", "B page 0 n6 [0]"]);
    b.write(65536);
    b.write(131072);
    b.check(&[]);
    b.ok("A page");
    b.ok("B page");
    b.check(&[
        "A write 0+4096",
        "B write 0+4096",
        "A page 0 n7 [0, 1, 2]",
        "B page 0 n7 [0, 1, 2]",
    ]);
}

#[test]
fn a_sequential_stream_marks_the_next_regions_with_its_own() {
    let setup = Setup::pair();
    let config = Config {
        predirty: 2,
        ..setup.config
    };
    let mut b = Bench::served(Setup { config, ..setup });
    b.written(0);
    b.write(65536);
    b.check(&["A page 0 n7 [0, 1, 2, 3]", "B page 0 n7 [0, 1, 2, 3]"]);
    b.settle();
    b.write(131072);
    b.check(&["A write 131072+4096", "B write 131072+4096"]);
}

#[test]
fn overlapping_writes_keep_their_order_on_each_leg() {
    let mut b = Bench::served(Setup::pair());
    b.written(0);
    b.write(0);
    b.write(0);
    b.check(&["A write 0+4096", "B write 0+4096"]);
    b.ok("A write");
    b.check(&[]);
    b.ok("B write");
    b.check(&["done 2", "A write 0+4096", "B write 0+4096"]);
}

#[test]
fn requests_beyond_the_permits_wait_and_beyond_the_queue_are_refused() {
    let setup = Setup::pair();
    let config = Config {
        max_requests: 1,
        max_queued: 1,
        ..setup.config
    };
    let mut b = Bench::served(Setup { config, ..setup });
    b.written(0);
    b.write(0);
    b.write(8192);
    b.write(16384);
    b.check(&["A write 0+4096", "B write 0+4096", "done 4 QueueFull"]);
    b.ok("A write");
    b.ok("B write");
    b.check(&["done 2", "A write 8192+4096", "B write 8192+4096"]);
}

#[test]
fn requests_outside_the_device_or_unaligned_are_invalid() {
    let mut b = Bench::served(Setup::pair());
    b.guest(GuestOp::Write {
        offset: 64 << 16,
        len: 512,
        fua: false,
    });
    b.guest(GuestOp::Read {
        offset: 100,
        len: 512,
    });
    b.guest(GuestOp::Read { offset: 0, len: 0 });
    b.guest(GuestOp::Read {
        offset: u64::MAX - 511,
        len: 512,
    });
    b.guest(GuestOp::Read {
        offset: 0,
        len: 2 << 20,
    });
    b.check(&[
        "done 1 Invalid",
        "done 2 Invalid",
        "done 3 Invalid",
        "done 4 Invalid",
        "done 5 Invalid",
    ]);
}

#[test]
fn r8_r27_reads_need_an_io_sent_within_the_lease_on_both_legs_when_they_return() {
    let mut b = Bench::served(Setup::pair());
    b.quiet_beats = false;
    b.written(0);
    b.read_at(0);
    b.check(&["A read 0+4096"]);
    // The lease ends while the read is under way: the event loop stood still.
    b.now += ms(2900);
    b.ok("A read");
    let seen = b.seen();
    assert!(!seen.contains(&"done 2".to_owned()), "{seen:?}");
    b.wait(ms(1000));
    b.settle();
    assert_eq!(b.state(), StateName::Synced);
    b.read_at(0);
    b.check(&["A read 0+4096"]);
    b.ok("A read");
    b.check(&["done 3"]);
}

#[test]
fn a_read_goes_to_the_local_leg_and_to_the_other_when_that_is_away() {
    let mut b = Bench::served(Setup::pair());
    b.written(0);
    b.read_at(4096);
    b.check(&["A read 4096+4096"]);
    b.down(A);
    b.check(&["B read 4096+4096"]);
}

#[test]
fn a_read_error_is_answered_from_the_other_member_which_rewrites_the_region() {
    let mut b = Bench::served(Setup::pair());
    b.written(0);
    b.read_at(65536);
    b.fail("A read", LegError::Medium);
    b.check(&["A read 65536+4096", "B read 65536+4096"]);
    b.ok("B read");
    b.check(&["done 2", "B copy from 65536+65536"]);
    b.ok("B copy from");
    b.check(&["A copy to 65536+65536"]);
}

#[test]
fn a_read_error_on_both_members_is_an_error_to_the_guest() {
    let mut b = Bench::served(Setup::pair());
    b.written(0);
    b.read_at(65536);
    b.fail("A read", LegError::Medium);
    b.fail("B read", LegError::Medium);
    b.check(&["A read 65536+4096", "B read 65536+4096", "done 2 EIO"]);
    assert_eq!(b.state(), StateName::Synced);
}

#[test]
fn busy_is_retried_under_the_same_name_and_is_not_a_lost_leg() {
    let mut b = Bench::served(Setup::pair());
    b.written(0);
    b.write(0);
    b.ok("A write");
    b.seen();
    b.fail("B write", LegError::Retry);
    b.check(&[]);
    b.wait(ms(25));
    b.check(&["B write 0+4096"]);
    b.ok("B write");
    b.check(&["done 2"]);
}

#[test]
fn a_flush_syncs_what_was_written_since_the_last_one_and_no_more() {
    let mut b = Bench::served(Setup::pair());
    b.flush();
    b.check(&["done 1"]);
    b.written(0);
    b.flush();
    b.check(&["A sync", "B sync"]);
    b.flush();
    b.check(&[]);
    b.ok("A sync");
    b.ok("B sync");
    b.check(&["done 3", "done 4"]);
    b.flush();
    b.check(&["done 5"]);
}

#[test]
fn a_flush_waits_for_a_sync_that_was_sent_after_the_last_write() {
    let mut b = Bench::served(Setup::pair());
    b.written(0);
    b.flush();
    b.write(4096);
    b.ok("A write");
    b.ok("B write");
    b.flush();
    b.check(&[
        "A sync",
        "B sync",
        "A write 4096+4096",
        "B write 4096+4096",
        "done 3",
    ]);
    b.ok("A sync");
    b.ok("B sync");
    b.check(&["A sync", "B sync", "done 2"]);
}

#[test]
fn a_write_with_fua_needs_no_sync() {
    let mut b = Bench::served(Setup::pair());
    b.written(0);
    b.flush();
    b.settle();
    b.guest(GuestOp::Write {
        offset: 0,
        len: 4096,
        fua: true,
    });
    b.check(&["A write 0+4096 fua", "B write 0+4096 fua"]);
    b.settle();
    b.flush();
    b.check(&["done 4"]);
}

#[test]
fn a_discard_sets_the_bit_first_and_zeroes_what_is_below_the_granularity() {
    let mut b = Bench::served(Setup {
        discard: 8192,
        ..Setup::pair()
    });
    b.guest(GuestOp::Discard {
        offset: 4096,
        len: 24576,
    });
    b.check(&["A page 0 n6 [0]", "B page 0 n6 [0]"]);
    b.ok("A page");
    b.ok("B page");
    b.check(&["A zero 4096+4096", "B zero 4096+4096"]);
    b.ok("A zero");
    b.ok("B zero");
    b.check(&["A discard 8192+16384", "B discard 8192+16384"]);
    b.ok("A discard");
    b.ok("B discard");
    b.check(&["A zero 24576+4096", "B zero 24576+4096"]);
    b.ok("A zero");
    b.ok("B zero");
    b.check(&["done 1"]);
}

#[test]
fn r13_a_region_is_cleared_after_a_sync_and_not_if_it_was_written_meanwhile() {
    let mut b = Bench::served(Setup::pair());
    b.written(0);
    b.written(65536);
    b.wait(ms(58_000));
    b.settle();
    b.write(65536);
    b.settle();
    b.wait(ms(3500));
    let seen = b.seen();
    assert!(
        seen.contains(&"A sync".to_owned()) && !seen.iter().any(|line| line.contains("page")),
        "{seen:?}"
    );
    b.ok("A sync");
    b.check(&[]);
    b.ok("B sync");
    b.check(&["A page 0 n8 [1]", "B page 0 n8 [1]"]);
    b.settle();
    b.write(0);
    b.check(&["A page 0 n9 [0, 1]", "B page 0 n9 [0, 1]"]);
}

#[test]
fn the_dirty_budget_clears_the_longest_idle_regions_early() {
    let setup = Setup::pair();
    let config = Config {
        dirty_budget: 2 << 16,
        ..setup.config
    };
    let mut b = Bench::served(Setup { config, ..setup });
    for region in 0..4 {
        b.written(region << 16);
        b.wait(ms(1100));
        b.settle();
    }
    b.wait(ms(3000));
    b.settle();
    assert_eq!(b.engine.status(b.now).dirty_bytes, 2 << 16);
    b.write(3 << 16);
    b.check(&["A write 196608+4096", "B write 196608+4096"]);
}

#[test]
fn beats_go_to_both_legs_every_two_seconds_one_at_a_time() {
    let mut b = Bench::raw(Setup {
        pages: [page(5, &[]), page(5, &[])],
        ..Setup::pair()
    });
    b.check(&["A beat 10", "B beat 10"]);
    b.ok("A beat");
    b.check(&[]);
    b.ok("B beat");
    assert!(b.seen().contains(&"show 4194304".to_owned()));
    b.settle();
    b.wait(ms(2100));
    let seen = b.seen();
    assert!(seen.contains(&"B beat 11".to_owned()), "{seen:?}");
    b.ok("A beat");
    b.wait(ms(1000));
    assert!(
        !b.seen().iter().any(|line| line.contains("beat 12")),
        "B does not have beat 11 yet"
    );
    let _ = B;
}
