//! Writers.

use super::*;

#[test]
fn an_attach_replaces_any_holder_and_takes_its_place_in_the_order() {
    let (register, _) = held();
    assert_eq!(register.holder, Some(key(Site::A, 3)));
    assert_eq!(register.stamp_id, StampId([3; 16]));
    assert_eq!(
        register.order,
        Order {
            n: 3,
            uid: AttachmentUid([3; 16])
        }
    );
    assert_eq!(register.epoch, Epoch(1));
    let mut change = attach(Site::A, 4, Membership::Keep);
    change.stamp.key = change.stamp.key.session(5);
    let next = register.attach(&change, tx(4)).unwrap();
    assert_eq!(next.holder, Some(key(Site::A, 4)));
    assert_eq!(next.check(), Ok(()));
    assert_eq!(
        creating().attach(&change, tx(4)),
        Err(Refusal::State(State::Creating))
    );
}

#[test]
fn an_attachment_whose_place_was_passed_never_stamps_again() {
    let (register, _) = held();
    let register = register
        .attach(&attach(Site::A, 9, Membership::Keep), tx(9))
        .unwrap();
    let old = register.attach(&attach(Site::A, 3, Membership::Keep), tx(10));
    assert_eq!(old, Err(Refusal::OrderStale(9)));
    // The same Attachment comes back: same uid, its number stays.
    let mut again = attach(Site::A, 9, Membership::Keep);
    again.stamp.key = key(Site::A, 77);
    again.stamp.stamp_id = StampId([77; 16]);
    let back = register.attach(&again, tx(11)).unwrap();
    assert_eq!(back.order.n, 9);
    // Equal number of another uid: later is not proven, so it is refused.
    let mut equal = attach(Site::A, 9, Membership::Keep);
    equal.stamp.stamp_id = StampId([78; 16]);
    equal.stamp.order.uid = AttachmentUid([78; 16]);
    assert_eq!(register.attach(&equal, tx(11)), Err(Refusal::OrderStale(9)));
}

#[test]
fn an_attach_at_the_other_site_needs_a_move_in_the_same_request() {
    let (register, _) = held();
    let mut change = attach(
        Site::B,
        4,
        Membership::Shrink {
            to: Leg::B,
            generation: generation(4),
        },
    );
    assert_eq!(
        register.attach(&change, tx(4)),
        Err(Refusal::NotActive(Site::A))
    );
    change.moves = Some(Move {
        to: Site::B,
        kind: MoveKind::Unplanned,
    });
    let next = register.attach(&change, tx(4)).unwrap();
    assert_eq!(
        next.active,
        Active {
            site: Site::B,
            seq: 2,
            latched: true
        }
    );
    assert_eq!((next.epoch, next.members), (Epoch(2), B));
    assert_eq!(next.check(), Ok(()));
    change.moves = Some(Move {
        to: Site::B,
        kind: MoveKind::Planned,
    });
    assert!(!register.attach(&change, tx(4)).unwrap().active.latched);
    change.moves = Some(Move {
        to: Site::A,
        kind: MoveKind::Planned,
    });
    assert!(matches!(
        register.attach(&change, tx(4)),
        Err(Refusal::Argument(_))
    ));
    let mut back = attach(Site::A, 5, Membership::Keep);
    back.moves = Some(Move {
        to: Site::A,
        kind: MoveKind::Planned,
    });
    assert_eq!(
        register.attach(&back, tx(5)),
        Err(Refusal::AlreadyActive(Site::A))
    );
}

#[test]
fn a_shrink_takes_the_pair_to_one_leg_and_the_next_epoch() {
    let (register, running) = held();
    let register = register.land(&running, Members::BOTH, tx(30)).unwrap();
    let next = register
        .shrink(&running, Leg::A, generation(4), tx(4))
        .unwrap();
    assert_eq!(
        (next.epoch, next.generation, next.members),
        (Epoch(2), generation(4), A)
    );
    assert_eq!(next.landed, Members::NONE);
    assert_eq!(
        next.parents,
        [Parent {
            epoch: Epoch(1),
            generation: generation(1),
            members: Members::BOTH
        }]
    );
    let (solo, running) = solo();
    assert_eq!(
        solo.shrink(&running, Leg::A, generation(5), tx(5)),
        Err(Refusal::Members(A))
    );
    assert_eq!(
        solo.shrink(&running, Leg::B, generation(5), tx(5)),
        Err(Refusal::Members(A))
    );
    let used = register.shrink(&held().1, Leg::A, generation(1), tx(4));
    assert_eq!(used, Err(Refusal::Argument("a used generation")));
}

#[test]
fn r23_a_writer_bases_a_request_only_on_its_own_stamp_and_membership() {
    let (register, running) = held();
    let other = register
        .attach(&attach(Site::A, 5, Membership::Keep), tx(5))
        .unwrap();
    let refused = |r: &Register| {
        r.shrink(&running, Leg::A, generation(8), tx(8))
            .unwrap_err()
    };
    assert_eq!(
        refused(&other),
        Refusal::NotMine(NotMine::Holder(Some(key(Site::A, 5))))
    );
    let released = register.release(running.key, tx(6)).unwrap();
    assert_eq!(refused(&released), Refusal::NotMine(NotMine::Holder(None)));
    let shrunk = register
        .shrink(&running, Leg::B, generation(7), tx(7))
        .unwrap();
    assert_eq!(
        refused(&shrunk),
        Refusal::NotMine(NotMine::Membership(Epoch(2)))
    );
    let tomb = released.tombstone(generation(9), tx(9)).unwrap();
    assert_eq!(
        refused(&tomb),
        Refusal::NotMine(NotMine::State(State::Tombstone))
    );
    let moved = Register {
        active: Active {
            site: Site::B,
            seq: 2,
            latched: true,
        },
        ..register.clone()
    };
    assert_eq!(
        refused(&moved),
        Refusal::NotMine(NotMine::Active(Site::B, 2))
    );
    // Free fields may differ.
    let edited = register.unlatch(tx(10)).unwrap();
    assert!(
        edited
            .shrink(&running, Leg::A, generation(8), tx(8))
            .is_ok()
    );
}

#[test]
fn a_dropped_leg_does_not_rejoin_until_the_operator_says_so() {
    let (register, running) = held();
    let dropped = register
        .drop_leg(&running, Leg::B, generation(4), tx(4))
        .unwrap();
    assert_eq!((dropped.members, dropped.no_rejoin), (A, B));
    let running = Running::of(&dropped, running.key);
    assert_eq!(
        dropped.grow(&running, generation(5), tx(5)),
        Err(Refusal::MustNotJoin(Leg::B))
    );
    assert_eq!(
        dropped.drop_leg(&running, Leg::A, generation(5), tx(5)),
        Err(Refusal::Members(A))
    );
    let allowed = dropped.rejoin(Members::NONE, tx(6)).unwrap();
    let grown = allowed.grow(&running, generation(5), tx(7)).unwrap();
    assert_eq!((grown.epoch, grown.members), (Epoch(3), Members::BOTH));
    assert_eq!(allowed.rejoin(A, tx(7)), Err(Refusal::Leg(Leg::A)));
}

#[test]
fn a_grow_starts_from_one_leg_and_a_bump_keeps_it() {
    let (register, running) = solo();
    let grown = register.grow(&running, generation(5), tx(5)).unwrap();
    assert_eq!((grown.epoch, grown.members), (Epoch(3), Members::BOTH));
    let bumped = register.bump(&running, generation(6), tx(6)).unwrap();
    assert_eq!(
        (bumped.epoch, bumped.members, bumped.generation),
        (Epoch(3), A, generation(6))
    );
    let (pair, running) = held();
    assert_eq!(
        pair.grow(&running, generation(5), tx(5)),
        Err(Refusal::Members(Members::BOTH))
    );
    assert_eq!(
        pair.bump(&running, generation(5), tx(5)),
        Err(Refusal::Members(Members::BOTH))
    );
    let bump = attach(
        Site::A,
        9,
        Membership::Bump {
            generation: generation(9),
        },
    );
    assert_eq!(register.attach(&bump, tx(9)).unwrap().epoch, Epoch(3));
    assert_eq!(
        pair.attach(&bump, tx(9)),
        Err(Refusal::Members(Members::BOTH))
    );
}

#[test]
fn land_is_for_members_and_takes_their_grant_away() {
    let (register, running) = solo();
    assert_eq!(register.land(&running, A, tx(5)).unwrap().landed, A);
    assert_eq!(register.land(&running, B, tx(5)), Err(Refusal::Members(B)));
    assert_eq!(
        register.land(&running, Members::NONE, tx(5)),
        Err(Refusal::Members(Members::NONE))
    );
    let forced = register.force(&force_b(&register), tx(50)).unwrap();
    let held = forced
        .attach(&attach(Site::B, 51, Membership::Keep), tx(51))
        .unwrap();
    assert_eq!(held.granted.len(), 1);
    let running = Running::of(&held, key(Site::B, 51));
    assert!(held.land(&running, B, tx(52)).unwrap().granted.is_empty());
}

#[test]
fn a_release_is_for_the_holder_only_whatever_the_epoch() {
    let (register, running) = held();
    assert_eq!(
        register
            .release(running.key.session(2), tx(5))
            .unwrap()
            .holder,
        None
    );
    assert_eq!(solo().0.release(running.key, tx(5)).unwrap().holder, None);
    assert_eq!(
        register.release(key(Site::A, 99), tx(5)),
        Err(Refusal::NotMine(NotMine::Holder(Some(running.key))))
    );
    let released = register.release(running.key, tx(5)).unwrap();
    assert!(released.release(running.key, tx(6)).is_err());
}

#[test]
fn a_thaw_keeps_the_attach_and_makes_a_new_stamp() {
    let (register, running) = held();
    let mut again = stamp(Site::A, 3);
    assert_eq!(
        register.thaw(&running, &again, tx(6)),
        Err(Refusal::Argument("a used stamp id"))
    );
    again.stamp_id = StampId([90; 16]);
    let thawed = register.thaw(&running, &again, tx(6)).unwrap();
    assert_eq!(thawed.stamp_id, StampId([90; 16]));
    assert_eq!(thawed.epoch, register.epoch);
    let foreign = stamp(Site::A, 8);
    assert!(matches!(
        register.thaw(&running, &foreign, tx(6)),
        Err(Refusal::Argument(_))
    ));
    let taken = register
        .attach(&attach(Site::A, 8, Membership::Keep), tx(8))
        .unwrap();
    assert!(matches!(
        taken.thaw(&running, &again, tx(9)),
        Err(Refusal::NotMine(_))
    ));
}

#[test]
fn a_late_stamp_replaces_another_holder_but_no_other_membership_site_or_later_order() {
    let (register, _) = held();
    let mine = key(Site::A, 8);
    let running = Running {
        key: mine,
        ..Running::of(&register, mine)
    };
    let late = register
        .late_stamp(&running, &stamp(Site::A, 8), tx(8))
        .unwrap();
    assert_eq!(late.holder, Some(mine));
    let (shrunk, _) = solo();
    assert_eq!(
        shrunk.late_stamp(&running, &stamp(Site::A, 8), tx(8)),
        Err(Refusal::NotMine(NotMine::Membership(Epoch(2))))
    );
    let moved = Register {
        active: Active {
            site: Site::B,
            seq: 2,
            latched: false,
        },
        ..register.clone()
    };
    assert_eq!(
        moved.late_stamp(&running, &stamp(Site::A, 8), tx(8)),
        Err(Refusal::NotMine(NotMine::Active(Site::B, 2)))
    );
    let later = register
        .attach(&attach(Site::A, 9, Membership::Keep), tx(9))
        .unwrap();
    assert_eq!(
        later.late_stamp(&running, &stamp(Site::A, 8), tx(10)),
        Err(Refusal::OrderStale(9))
    );
}

#[test]
fn numbers_at_the_end_of_their_range_are_refused() {
    let (register, running) = held();
    let last = Register {
        epoch: Epoch(u64::MAX),
        ..register.clone()
    };
    let running_last = Running {
        epoch: Epoch(u64::MAX),
        ..running
    };
    assert_eq!(
        last.shrink(&running_last, Leg::A, generation(9), tx(9)),
        Err(Refusal::Exhausted)
    );
    let mut moved = attach(Site::B, 9, Membership::Keep);
    moved.moves = Some(Move {
        to: Site::B,
        kind: MoveKind::Planned,
    });
    let last = Register {
        active: Active {
            seq: u64::MAX,
            ..register.active
        },
        ..register
    };
    assert_eq!(last.attach(&moved, tx(9)), Err(Refusal::Exhausted));
}
