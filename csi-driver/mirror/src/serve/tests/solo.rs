//! The last member: its restarts, its keys, what it answers meanwhile.

use super::bench::{A, Bench, ms};
use super::rejoin::solo;
use super::setup::Setup;
use crate::io::LegReply;
use crate::status::StateName;

#[test]
fn r40_the_last_member_restarted_with_unflushed_writes_fails_one_flush() {
    let mut b = Bench::served(Setup {
        volatile: true,
        ..Setup::pair()
    });
    b.hold_records = true;
    b.written(0);
    b.shrink_to_a();
    b.written(0);
    b.down(A);
    b.infos[0].boot_id = Some(777);
    b.up(A);
    b.seen();
    b.ok("A full status");
    let recorded = "A sb Member{A} e4 base e3".to_owned();
    let seen = b.settle();
    assert!(
        !seen.contains(&recorded),
        "an agent that dies now must find the old boot id: {seen:?}"
    );
    assert_eq!(b.state(), StateName::Solo);
    b.flush();
    let seen = b.settle();
    assert!(seen.contains(&"done 3 EIO".to_owned()), "{seen:?}");
    assert!(seen.contains(&recorded), "the new boot id: {seen:?}");
    b.written(0);
    b.flush();
    assert!(b.settle().contains(&"done 5".to_owned()));
}

#[test]
fn the_last_member_is_never_removed_and_io_waits_for_it() {
    let mut b = solo();
    b.write(0);
    b.seen();
    b.down(A);
    b.wait(ms(60_000));
    assert_eq!(b.state(), StateName::Solo);
    assert!(!b.seen().iter().any(|line| line.starts_with("done")));
    assert!(
        b.engine
            .status(b.now)
            .conditions
            .contains(&crate::status::Condition::LegLost)
    );
    b.back(A);
    assert!(b.seen().contains(&"A write 0+4096".to_owned()));
    assert!(
        !b.engine
            .status(b.now)
            .conditions
            .contains(&crate::status::Condition::LegLost)
    );
}

#[test]
fn bits_are_never_cleared_in_solo() {
    let mut b = solo();
    b.written(4 << 16);
    let dirty = b.engine.status(b.now).dirty_bytes;
    b.wait(ms(600_000));
    b.settle();
    assert_eq!(b.engine.status(b.now).dirty_bytes, dirty);
}

#[test]
fn solo_reads_need_no_lease() {
    let mut b = solo();
    b.wait(ms(50_000));
    b.read_at(0);
    b.ok("A read");
    b.check(&["A read 0+4096", "done 2"]);
}

#[test]
fn all_keys_gone_from_the_last_member_attaches_in_place_with_a_new_key() {
    let mut b = solo();
    b.write(0);
    b.down(A);
    b.up(A);
    b.seen();
    b.reply("A full status", LegReply::FullStatus(Vec::new()));
    assert_eq!(b.state(), StateName::Check);
    assert!(
        !b.seen()
            .iter()
            .any(|line| line.starts_with("done") || line.starts_with("remove"))
    );
}
