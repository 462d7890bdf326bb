//! From step 5 of a rejoin on: both legs take writes, the register is asked, and every way in which that can end.

use twinsite_register::Members;

use super::bench::{B, Bench, ms};
use super::rejoin::{solo, target};
use crate::io::LegError;
use crate::status::StateName;

#[test]
fn r21_r10_from_step_5_a_write_needs_both_and_then_sync_map_beat_and_superblocks_follow_in_order() {
    let mut b = solo();
    target(&mut b);
    b.quiet_beats = false;
    b.write(4 << 16);
    b.check(&["A page 0 n8 [0, 4]"]);
    b.ok("A page");
    b.check(&["A write 262144+4096", "B write 262144+4096"]);
    b.ok("A write");
    b.check(&[]);
    b.ok("B write");
    b.check(&["done 2"]);
    b.ok("A copy from");
    b.ok("B copy to");
    b.check(&["B copy to 0+65536", "A sync", "B sync"]);
    assert_eq!(b.state(), StateName::Growing);
    b.ok("A sync");
    b.ok("B sync");
    b.check(&["B page 0 n8 [0, 4]"]);
    b.write(8 << 16);
    b.check(&[]);
    b.ok("B page");
    let seen = b.seen();
    assert_eq!(
        seen[..2],
        ["A page 0 n9 [0, 4, 8]", "B page 0 n9 [0, 4, 8]"],
        "from its page on to both"
    );
    assert!(
        seen[2].starts_with("A beat") && seen[3].starts_with("B beat"),
        "{seen:?}"
    );
    b.ok("A page");
    b.ok("B page");
    b.ok("A write");
    b.ok("B write");
    b.ok("A beat");
    b.ok("B beat");
    let seen = b.seen();
    assert_eq!(seen.last().unwrap(), "A sb Growing{A} e4 base e3");
    b.ok("A sb");
    b.ok("A sb");
    b.check(&["A sb Growing{A} e4 base e3", "B sb Candidate{} e4 base e3"]);
    b.ok("B sb");
    b.ok("B sb");
    b.check(&["B sb Candidate{} e4 base e3", "read R"]);
    b.read();
    b.check(&["cas e5 {AB}"]);
    assert_eq!(b.state(), StateName::GrowWait);
    b.win();
    b.check(&["A sb Member{AB} e5 base e3", "B sb Member{AB} e5 base e3"]);
    b.quiet_beats = true;
    let seen = b.settle();
    assert_eq!(b.state(), StateName::Synced);
    let expected = [
        "A sb Member{AB} e5 base e3",
        "B sb Member{AB} e5 base e3",
        "cas land",
        "A sync",
        "B sync",
        "A sb Member{AB} e5",
        "B sb Member{AB} e5",
    ];
    let firsts: Vec<&str> = seen
        .iter()
        .map(String::as_str)
        .filter(|line| expected.contains(line))
        .collect();
    assert_eq!(firsts, expected);
    b.wait(ms(62_000));
    b.settle();
    assert_eq!(b.engine.status(b.now).dirty_bytes, 0);
}

/// The engine has sent its grow.
pub(super) fn grow_wait() -> Bench {
    let mut b = solo();
    target(&mut b);
    while b.state() != StateName::Growing {
        let name = b.open_lines()[0].to_owned();
        b.ok(&name);
    }
    while !b.open_lines().is_empty() {
        let name = b.open_lines()[0].to_owned();
        b.ok(&name);
    }
    b.read();
    assert_eq!(b.state(), StateName::GrowWait);
    b.seen();
    b
}

#[test]
fn r40_a_flush_from_step_5_on_needs_both_legs() {
    let mut b = solo();
    target(&mut b);
    b.write(0);
    b.ok("A copy from");
    b.ok("B copy to");
    b.ok("A write");
    b.ok("B write");
    b.seen();
    b.flush();
    b.ok("A sync");
    b.ok("A sync");
    assert!(!b.seen().contains(&"done 3".to_owned()));
    b.ok("B sync");
    b.ok("B sync");
    assert!(b.seen().contains(&"done 3".to_owned()));
}

#[test]
fn y_lost_before_the_grow_is_dropped_and_x_serves_alone() {
    let mut b = solo();
    target(&mut b);
    b.write(4 << 16);
    b.ok("A page");
    b.ok("A write");
    b.seen();
    b.down(B);
    b.check(&["done 2"]);
    assert_eq!(b.state(), StateName::Solo);
    b.ok("A copy from");
    b.up(B);
    b.wait(ms(4000));
    assert!(b.open_lines().is_empty(), "backoff");
    b.wait(ms(1500));
    assert_eq!(b.open_lines(), ["B register Data"]);
}

#[test]
fn y_lost_while_growing_and_nothing_sent_x_becomes_member_again() {
    let mut b = solo();
    target(&mut b);
    while b.state() != StateName::Growing {
        let name = b.open_lines()[0].to_owned();
        b.ok(&name);
    }
    b.seen();
    b.down(B);
    b.check(&["A sb Member{A} e4 base e3"]);
    b.settle();
    assert_eq!(b.state(), StateName::Solo);
}

#[test]
fn r20_y_lost_with_a_grow_open_is_ended_by_a_bump() {
    let mut b = grow_wait();
    b.down(B);
    b.check(&["cas e5 {A}"]);
    assert_eq!(b.state(), StateName::BumpWait);
    b.no_answer();
    b.win();
    b.check(&["read R", "A sb Member{A} e5 base e3"]);
    b.settle();
    assert_eq!(b.state(), StateName::Solo);
}

#[test]
fn a_grow_that_is_executed_before_the_bump_is_followed_by_a_shrink() {
    let mut b = grow_wait();
    b.down(B);
    b.win_silently();
    b.no_answer();
    b.seen();
    b.read();
    assert_eq!(b.state(), StateName::Frozen);
    b.read();
    assert!(b.seen().contains(&"cas e6 {A}".to_owned()));
}

#[test]
fn r11_no_grow_leaves_if_an_operator_said_no_meanwhile() {
    let mut b = solo();
    target(&mut b);
    while b.state() != StateName::Growing {
        let name = b.open_lines()[0].to_owned();
        b.ok(&name);
    }
    while !b.open_lines().is_empty() {
        let name = b.open_lines()[0].to_owned();
        b.ok(&name);
    }
    b.seen();
    b.edit(|register| register.no_rejoin = Members::only(B));
    b.read();
    b.check(&["B disconnect", "B connect", "A sb Member{A} e4 base e3"]);
    b.settle();
    assert_eq!(b.state(), StateName::Solo);
}

#[test]
fn a_conflict_from_y_gives_the_rejoin_up_and_one_from_x_is_superseded() {
    let mut b = solo();
    target(&mut b);
    b.ok("A copy from");
    b.fail("B copy to", LegError::Conflict);
    assert_eq!(b.state(), StateName::Solo);
    assert!(b.seen().contains(&"B disconnect".to_owned()));

    let mut b = solo();
    target(&mut b);
    b.fail("A copy from", LegError::Conflict);
    assert_eq!(b.state(), StateName::Superseded);
}
