//! The one request: unknown, lost, edited, given up, released.

use std::time::Duration;

use twinsite_register::*;

use super::A;
use super::world::*;
use crate::attach::Release;
use crate::config::Config;
use crate::engine::{AttachEnd, Port};
use crate::io::*;
use crate::status::{Condition, Event, Refusal, StateName};

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
