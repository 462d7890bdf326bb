//! Served without the register (rows U3, U4): the late stamp.

use twinsite_register::{AttachmentUid, Key, KeyTag, Order, Site};

use super::bench::{A, B, Bench, ms};
use super::setup::Setup;
use crate::io::Input;
use crate::io::LegReply;
use crate::status::StateName;

/// Serving without the register, which still has an older holder and order.
fn unstamped() -> Bench {
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
        register.holder = Some(Key::new(KeyTag::Writer(Site::A), 1));
        register.order = Order {
            n: 0,
            uid: AttachmentUid([4; 16]),
        };
    });
    assert_eq!(b.state(), StateName::Synced);
    assert!(!b.engine.status(b.now).stamped);
    b
}

#[test]
fn r24_when_the_register_answers_both_legs_are_verified_and_then_it_is_stamped() {
    let mut b = unstamped();
    b.wait(ms(10_000));
    b.seen();
    b.read();
    b.check(&["A full status", "B full status"]);
    b.ok("A full status");
    b.check(&[]);
    b.ok("B full status");
    b.check(&["cas stamp"]);
    b.win();
    assert!(b.engine.status(b.now).stamped);
}

#[test]
fn a_foreign_key_on_a_leg_is_no_stamp() {
    let mut b = unstamped();
    b.wait(ms(10_000));
    b.read();
    let LegReply::FullStatus(mut registrants) = b.own() else {
        unreachable!()
    };
    registrants[0].key = Key::new(KeyTag::Writer(Site::B), 9);
    b.ok("A full status");
    b.reply("B full status", LegReply::FullStatus(registrants));
    assert!(!b.seen().iter().any(|line| line.starts_with("cas stamp")));
}

#[test]
fn a_register_that_is_ahead_holds_all_io_and_decides_again() {
    let mut b = unstamped();
    b.edit(|register| {
        register.parents.insert(
            0,
            twinsite_register::Parent {
                epoch: register.epoch,
                generation: register.generation,
                members: register.members,
            },
        );
        register.epoch = twinsite_register::Epoch(4);
        register.generation = twinsite_register::Gen([6; 16]);
        register.members = twinsite_register::Members::only(A);
    });
    b.write(0);
    b.wait(ms(2500));
    b.settle();
    b.wait(ms(8000));
    b.settle();
    let seen = b.seen();
    assert!(
        !seen.iter().any(|line| line.starts_with("remove")),
        "{seen:?}"
    );
}

#[test]
fn what_is_under_way_ends_before_the_legs_are_read_for_another_decision() {
    let mut b = unstamped();
    b.edit(|register| {
        register.epoch = twinsite_register::Epoch(4);
        register.generation = twinsite_register::Gen([6; 16]);
    });
    b.wait(ms(9900));
    b.seen();
    b.write(0);
    b.check(&["A page 0 n6 [0]", "B page 0 n6 [0]"]);
    b.wait(ms(200));
    b.read();
    b.check(&["read R"]);
    assert_eq!(b.state(), StateName::Decide);
    b.ok("A page");
    b.check(&[]);
    b.ok("B page");
    let seen = b.seen();
    assert_eq!(seen, ["A ReadTargetAge", "B ReadTargetAge"]);
    assert!(
        !seen.iter().any(|line| line.contains("write")),
        "no data either: {seen:?}"
    );
}

#[test]
fn another_site_or_a_later_order_means_superseded() {
    for edit in 0..2 {
        let mut b = unstamped();
        b.edit(|register| {
            if edit == 0 {
                register.active.site = Site::B;
                register.active.seq += 1;
            } else {
                register.order = Order {
                    n: 7,
                    uid: AttachmentUid([6; 16]),
                };
            }
        });
        b.wait(ms(10_000));
        b.read();
        assert_eq!(b.state(), StateName::Superseded);
    }
}

#[test]
fn a_leg_lost_without_the_register_is_frozen_until_it_answers_and_then_decided_with_the_fences_held()
 {
    let mut b = unstamped();
    b.down(B);
    b.wait(ms(3100));
    assert_eq!(b.state(), StateName::Frozen);
    b.unreadable();
    assert_eq!(b.state(), StateName::Frozen);
    b.wait(ms(10_100));
    b.read();
    assert!(
        matches!(b.state(), StateName::Decide | StateName::CasWait),
        "{:?}",
        b.state()
    );
    let _ = B;
}

#[test]
fn an_order_is_over_when_another_decision_is_needed() {
    let mut b = unstamped();
    b.input(Input::DropLeg(B));
    assert_eq!(b.state(), StateName::Frozen);
    b.read();
    assert_ne!(b.state(), StateName::Frozen);
    assert!(b.seen().contains(&"order Err(Interrupted)".to_owned()));
}
