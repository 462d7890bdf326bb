//! Legs that are lost, late, slow or full.

use std::time::Duration;

use twinsite_register::*;

use super::A;
use super::world::*;
use crate::engine::AttachEnd;
use crate::io::*;
use crate::status::{Refusal, StateName};

#[test]
fn a_member_lost_while_superblocks_are_written_is_dropped_by_a_shrink() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let order = n.order();
    n.start(&w, order);
    n.run_until(&mut w, |n, _| n.state() == Some(StateName::SbWrite));
    n.cut(Leg::B);
    let AttachEnd::Served(served) = n.run(&mut w) else {
        panic!("{:?}", n.said)
    };
    assert_eq!(
        (served.running.members, served.running.epoch),
        (A, Epoch(2))
    );
    assert_eq!(n.count("cas"), 2);
    assert!(w.slots_agree(Leg::A));
    assert_eq!(w.sb(Leg::A).members, A);
}

#[test]
fn a_member_that_cannot_be_written_stays_out_though_it_answers() {
    let mut w = World::born();
    w.legs[1].faults.push(("write meta", LegError::NoSpace));
    let mut n = Node::new(1, Site::A, 1);
    let served = n.serve(&mut w);
    assert_eq!(served.running.members, A);
    assert!(w.legs[1].writes.is_empty());
    assert!(served.connected[1].is_some());
}

#[test]
fn the_only_leg_is_waited_for_and_written_anew() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    n.cut(Leg::B);
    let order = n.order();
    n.start(&w, order);
    n.run_until(&mut w, |n, _| n.state() == Some(StateName::SbWrite));
    n.run_until(&mut w, |n, _| n.count("A write slot") == 1);
    n.cut(Leg::A);
    n.run_until(&mut w, |n, _| !n.up[0] && n.inbox.is_empty());
    assert_eq!(n.state(), Some(StateName::SbWrite));
    w.advance(Duration::from_secs(7));
    w.legs[0].restart(99);
    n.heal(Leg::A);
    let AttachEnd::Served(served) = n.run(&mut w) else {
        panic!("{:?}", n.said)
    };
    assert_eq!(served.running.members, A);
    let sb = w.sb(Leg::A);
    assert_eq!((sb.boot_id, sb.epoch), (99, Epoch(2)));
    assert!(w.slots_agree(Leg::A));
    assert_eq!(sb.base.unwrap().epoch, Epoch(1));
    assert_eq!(n.count("cas"), 1);
}

#[test]
fn the_only_leg_may_go_and_come_back_in_the_lease_wait() {
    let mut w = World::born();
    w.legs[0].info.own_target = false;
    let mut n = Node::new(1, Site::A, 1);
    n.cut(Leg::B);
    let order = n.order();
    n.start(&w, order);
    n.run_until(&mut w, |n, _| n.state() == Some(StateName::LeaseWait));
    n.cut(Leg::A);
    n.run_until(&mut w, |n, _| n.inbox.is_empty());
    w.advance(Duration::from_secs(6));
    n.give(&w, Input::Tick);
    assert!(n.attach.is_some(), "not served without the leg");
    n.heal(Leg::A);
    assert!(matches!(n.run(&mut w), AttachEnd::Served(_)));
    // Taken by another one meanwhile: superseded.
    n.crash();
    let order = n.order();
    w.put_beat(Leg::A, 0, 0);
    n.start(&w, order);
    n.run_until(&mut w, |n, _| n.state() == Some(StateName::LeaseWait));
    n.cut(Leg::A);
    n.run_until(&mut w, |n, _| n.inbox.is_empty());
    w.steal(Leg::A, key(Site::B, 66));
    n.heal(Leg::A);
    assert!(matches!(n.run(&mut w), AttachEnd::Superseded));
}

#[test]
fn a_leg_that_comes_late_is_taken_up_at_the_next_round() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    n.cut(Leg::B);
    let order = n.order();
    n.start(&w, order);
    n.run_until(&mut w, |n, _| n.state() == Some(StateName::Fence));
    n.heal(Leg::B);
    let AttachEnd::Served(served) = n.run(&mut w) else {
        panic!()
    };
    assert_eq!(served.running.members, Members::BOTH);
    assert_eq!(w.r().epoch, Epoch(1));
}

#[test]
fn every_command_has_a_limit_and_a_leg_that_hangs_is_away() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let order = n.order();
    n.start(&w, order);
    n.run_until(&mut w, |n, _| n.count("B read slot") == 1);
    // The answer never comes.
    n.inbox
        .retain(|input| !matches!(input, Input::LegDone { leg: Leg::B, .. }));
    n.link[1] = false;
    n.run_until(&mut w, |n, _| n.count("disconnect B") == 1);
    assert_eq!(w.now, Duration::from_secs(1003));
    let AttachEnd::Served(served) = n.run(&mut w) else {
        panic!()
    };
    assert_eq!(served.running.members, A);
}

#[test]
fn a_fence_has_ten_seconds() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let order = n.order();
    n.start(&w, order);
    n.run_until(&mut w, |n, _| n.count("B put key") == 1);
    n.inbox
        .retain(|input| !matches!(input, Input::LegDone { leg: Leg::B, .. }));
    n.link[1] = false;
    n.run_until(&mut w, |n, _| n.count("disconnect B") == 1);
    assert_eq!(w.now, Duration::from_secs(1010));
    assert!(matches!(n.run(&mut w), AttachEnd::Served(_)));
}

#[test]
fn a_leg_stolen_in_every_round_ends_the_attach() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let order = n.order();
    n.start(&w, order);
    for thief in 0..20 {
        if !n.run_until(&mut w, |n, _| n.state() == Some(StateName::Fence)) {
            break;
        }
        n.run_until(&mut w, |n, _| {
            n.state() != Some(StateName::Fence) || n.attach.is_none()
        });
        for leg in Leg::BOTH {
            w.steal(leg, key(Site::A, 500 + thief));
        }
    }
    assert!(matches!(n.end, Some(AttachEnd::Refused(_))), "{:?}", n.said);
}

#[test]
fn a_target_that_loses_its_reservations_before_the_device_is_shown_is_fenced_once_more() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    n.cut(Leg::B);
    let order = n.order();
    n.start(&w, order);
    n.run_until(&mut w, |n, _| n.state() == Some(StateName::SbWrite));
    n.cut(Leg::A);
    n.run_until(&mut w, |n, _| n.inbox.is_empty());
    w.legs[0].registered.clear();
    w.legs[0].holder = None;
    n.heal(Leg::A);
    let AttachEnd::Served(served) = n.run(&mut w) else {
        panic!("{:?}", n.said)
    };
    assert_eq!(w.legs[0].holder_key(), Some(served.running.key));
    assert_eq!(n.count("A put key"), 4, "two sessions, twice");
    assert_eq!(w.r().epoch, Epoch(2));
}

#[test]
fn a_leg_that_answers_with_errors_is_not_hammered() {
    let mut w = World::born();
    for _ in 0..10_000 {
        w.legs[0].faults.push(("write meta", LegError::NoSpace));
    }
    let mut n = Node::new(1, Site::A, 1);
    n.cut(Leg::B);
    assert_eq!(n.refused(&mut w), Refusal::WaitMember);
    assert_eq!(w.now, Duration::from_secs(1040));
    assert!(n.count("connect A") < 90, "{}", n.count("connect A"));
}

#[test]
fn a_leg_that_was_hung_up_on_is_wanted_back_for_a_rejoin() {
    let mut w = World::born();
    w.legs[1].faults.push(("full status", LegError::Hardware));
    w.legs[1].faults.push(("full status", LegError::Hardware));
    let mut n = Node::new(1, Site::A, 1);
    let served = n.serve(&mut w);
    assert_eq!(served.running.members, A);
    n.pump(&mut w);
    let last = n.said.iter().rfind(|said| said.contains("connect B"));
    assert_eq!(last.map(String::as_str), Some("connect B"));
}

#[test]
fn a_session_that_is_back_before_the_next_round_costs_no_member() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let order = n.order();
    n.start(&w, order);
    n.run_until(&mut w, |n, _| n.state() == Some(StateName::SbWrite));
    n.cut(Leg::B);
    n.heal(Leg::B);
    let AttachEnd::Served(served) = n.run(&mut w) else {
        panic!("{:?}", n.said)
    };
    assert_eq!(served.running.members, Members::BOTH);
    assert_eq!(w.r().epoch, Epoch(1));
    assert!(n.never("disconnect B"), "the shell logs in again by itself");
}

#[test]
fn a_round_begins_when_nothing_of_ours_is_under_way() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let order = n.order();
    n.start(&w, order);
    n.run_until(&mut w, |n, _| n.count("A write slot") == 1);
    n.cut(Leg::B);
    let AttachEnd::Served(_) = n.run(&mut w) else {
        panic!("{:?}", n.said)
    };
    let nth = |what: &str, nth: usize| {
        let all = n.said.iter().enumerate().filter(|(_, s)| *s == what);
        all.map(|(at, _)| at).nth(nth).unwrap()
    };
    // Fence, first round, second round: the old list of writes ended before the second round.
    assert!(nth("A write history", 0) < nth("A full status", 2));
    assert_eq!(n.count("A write history"), 2);
}
