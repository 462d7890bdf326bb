//! Decided again with the fences held, and attached in place.

use std::time::Duration;

use twinsite_register::*;

use super::world::*;
use super::{A, B};
use crate::attach::Attach;
use crate::engine::AttachEnd;
use crate::io::*;
use crate::status::StateName;

/// Put a served attach back to Decide, as the serving phase does.
fn decide_again(n: &mut Node, w: &World, served: &crate::engine::Served, shown: bool) {
    n.inbox.clear();
    n.end = None;
    n.attach = Some(Attach::decide_again(
        w.now,
        vec![held(served, shown)],
        &mut n.port,
    ));
}

#[test]
fn a_leg_lost_before_the_first_beat_is_decided_again_with_the_fences_held() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let mut served = n.serve(&mut w);
    n.cut(Leg::B);
    served.connected[1] = None;
    n.said.clear();
    decide_again(&mut n, &w, &served, false);
    let AttachEnd::Served(again) = n.run(&mut w) else {
        panic!("{:?}", n.said)
    };
    assert_eq!((again.running.members, again.running.epoch), (A, Epoch(2)));
    assert_eq!(again.running.key, served.running.key);
    assert!(n.never("A put key"));
    assert_ne!(w.r().stamp_id, served.register.unwrap().stamp_id);
}

#[test]
fn behind_a_shown_device_a_writer_waits_for_the_member_and_ends_when_the_volume_moved() {
    let mut w = World::born();
    w.witness = Witness::Down;
    let mut n = Node::new(1, Site::A, 1);
    let served = n.serve(&mut w);
    // Meanwhile R was shrunk to B by an old request.
    let moved = {
        let old = Running {
            ..Running::of(w.r(), key(Site::A, 4))
        };
        let stamped = Register {
            holder: Some(old.key),
            ..w.r().clone()
        };
        stamped
            .shrink(&old, Leg::B, generation(44), tx(44))
            .unwrap()
    };
    w.set_register(moved);
    w.witness = Witness::Up;
    let mut lost = served.clone();
    n.cut(Leg::B);
    lost.connected[1] = None;
    decide_again(&mut n, &w, &lost, true);
    n.run_until(&mut w, |n, w| {
        w.now > Duration::from_secs(1100) || n.attach.is_none()
    });
    assert_eq!(
        n.state(),
        Some(StateName::Decide),
        "it waits, and no budget ends it"
    );
    n.heal(Leg::B);
    let AttachEnd::Served(again) = n.run(&mut w) else {
        panic!("{:?}", n.said)
    };
    assert_eq!(again.running.members, B);

    // The volume is active elsewhere: superseded.
    let mut w2 = w;
    let elsewhere = Register {
        active: Active {
            site: Site::B,
            seq: 2,
            latched: true,
        },
        txid: tx(77),
        ..w2.r().clone()
    };
    w2.set_register(elsewhere);
    decide_again(&mut n, &w2, &again, true);
    assert!(matches!(n.run(&mut w2), AttachEnd::Superseded));
}

#[test]
fn a_target_that_lost_every_key_is_attached_in_place_with_a_new_one() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    n.cut(Leg::B);
    let served = n.serve(&mut w);
    w.legs[0].registered.clear();
    w.legs[0].holder = None;
    n.end = None;
    n.attach = Some(Attach::reattach(
        w.now,
        vec![held(&served, true)],
        &mut n.port,
    ));
    let AttachEnd::Served(again) = n.run(&mut w) else {
        panic!("{:?}", n.said)
    };
    assert_ne!(again.running.key, served.running.key);
    assert_eq!(again.running.members, A);
    assert_eq!(w.r().holder, Some(again.running.key));
    assert_eq!(w.legs[0].holder_key(), Some(again.running.key));
    assert!(!n.removed);
    // Had another one served since, the device would end.
    w.legs[0].registered.clear();
    w.legs[0].holder = None;
    let other = Register {
        holder: Some(key(Site::A, 5)),
        txid: tx(78),
        ..w.r().clone()
    };
    w.set_register(other);
    n.end = None;
    n.attach = Some(Attach::reattach(
        w.now,
        vec![held(&again, true)],
        &mut n.port,
    ));
    assert!(matches!(n.run(&mut w), AttachEnd::Superseded));
}

#[test]
fn a_detach_while_the_fences_are_held_releases_what_the_register_names() {
    let mut w = World::born();
    let mut n = Node::new(1, Site::A, 1);
    let served = n.serve(&mut w);
    decide_again(&mut n, &w, &served, true);
    n.run_until(&mut w, |n, _| n.state() == Some(StateName::CasWait));
    n.give(&w, Input::Detach);
    let AttachEnd::Off { release } = n.run(&mut w) else {
        panic!()
    };
    assert_eq!(release.unwrap().holder, Some(served.running.key));
}
