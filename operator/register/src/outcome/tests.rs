//! What a read says of a request whose answer was lost.

use super::*;
use crate::ids::{AttachmentUid, GroupId, KeyTag, Leg, RegisterId, StampId, TxId, VolumeId};
use crate::transition::{AttachChange, Create, Membership, Stamp};
use crate::value::Order;

fn tx(n: u8) -> TxId {
    TxId([n; 16])
}
fn stamp(n: u8) -> Stamp {
    Stamp {
        key: Key::new(KeyTag::Writer(Site::A), n.into()),
        stamp_id: StampId([n; 16]),
        order: Order {
            n: n.into(),
            uid: AttachmentUid([n; 16]),
        },
    }
}
fn attached(n: u8, register: &Register, membership: Membership) -> Register {
    let change = AttachChange {
        site: Site::A,
        stamp: stamp(n),
        membership,
        moves: None,
    };
    register.attach(&change, tx(n)).unwrap()
}
fn held() -> (Register, Running) {
    let register = Register::create(Create {
        register_id: RegisterId([1; 16]),
        group: GroupId([2; 16]),
        volumes: vec![VolumeId([3; 16])],
        generation: Gen([1; 16]),
        site: Site::A,
        txid: tx(1),
    })
    .unwrap()
    .birth(Site::A, tx(2))
    .unwrap();
    let register = attached(3, &register, Membership::Keep);
    let running = Running::of(&register, stamp(3).key);
    (register, running)
}

#[test]
fn r41_an_operators_edit_after_a_won_request_does_not_make_it_lost() {
    let (expected, running) = held();
    let proposed = expected
        .shrink(&running, Leg::A, Gen([4; 16]), tx(4))
        .unwrap();
    let edited = proposed.unlatch(tx(5)).unwrap();
    assert_ne!(edited.txid, proposed.txid);
    assert_eq!(outcome(&expected, &proposed, &edited), Outcome::Won);
    // The same for a stamp.
    let again = Stamp {
        stamp_id: StampId([9; 16]),
        ..stamp(3)
    };
    let proposed = expected.thaw(&running, &again, tx(4)).unwrap();
    let edited = proposed.rejoin(Members::NONE, tx(5)).unwrap();
    assert_eq!(outcome(&expected, &proposed, &edited), Outcome::Won);
}

#[test]
fn an_unchanged_register_means_unknown_and_an_edited_one_means_build_again() {
    let (expected, running) = held();
    let proposed = expected
        .shrink(&running, Leg::A, Gen([4; 16]), tx(4))
        .unwrap();
    assert_eq!(outcome(&expected, &proposed, &expected), Outcome::Unknown);
    let edited = expected.rejoin(Members::NONE, tx(5)).unwrap();
    assert_eq!(outcome(&expected, &proposed, &edited), Outcome::Free);
    // Built again: same generation, new transaction id.
    let again = edited
        .shrink(&running, Leg::A, Gen([4; 16]), tx(6))
        .unwrap();
    assert_eq!(outcome(&edited, &again, &again), Outcome::Won);
}

#[test]
fn a_request_that_was_won_before_another_attach_is_won_and_superseded() {
    let (expected, running) = held();
    let proposed = expected
        .shrink(&running, Leg::A, Gen([4; 16]), tx(4))
        .unwrap();
    let taken = attached(9, &proposed, Membership::Keep);
    assert_eq!(
        outcome(&expected, &proposed, &taken),
        Outcome::WonSuperseded
    );
}

#[test]
fn anything_else_is_lost() {
    let (expected, running) = held();
    let shrink = expected
        .shrink(&running, Leg::A, Gen([4; 16]), tx(4))
        .unwrap();
    let other = expected
        .shrink(&running, Leg::B, Gen([5; 16]), tx(5))
        .unwrap();
    assert_eq!(outcome(&expected, &shrink, &other), Outcome::Lost);
    let taken = attached(9, &expected, Membership::Keep);
    assert_eq!(outcome(&expected, &shrink, &taken), Outcome::Lost);
    let released = expected.release(running.key, tx(6)).unwrap();
    assert_eq!(outcome(&expected, &shrink, &released), Outcome::Lost);
    // Of two own requests on one expected value, exactly one is won.
    let again = Stamp {
        stamp_id: StampId([9; 16]),
        ..stamp(3)
    };
    let thaw = expected.thaw(&running, &again, tx(7)).unwrap();
    assert_eq!(outcome(&expected, &shrink, &thaw), Outcome::Lost);
    assert_eq!(outcome(&expected, &thaw, &shrink), Outcome::Lost);
    // A reseeded register shows nothing of ours, whatever its fields.
    let reseeded = Register {
        register_id: RegisterId([8; 16]),
        ..shrink.clone()
    };
    assert_eq!(outcome(&expected, &shrink, &reseeded), Outcome::Lost);
}

#[test]
fn a_release_is_over_as_soon_as_the_holder_is_another() {
    let (expected, running) = held();
    let release = expected.release(running.key, tx(6)).unwrap();
    let taken = attached(9, &expected, Membership::Keep);
    assert_eq!(outcome(&expected, &release, &taken), Outcome::Won);
    let edited = expected.unlatch(tx(8)).unwrap();
    assert_eq!(outcome(&expected, &release, &edited), Outcome::Free);
}

#[test]
fn a_land_is_won_when_its_legs_show_as_landed() {
    let (expected, running) = held();
    let land = expected.land(&running, Members::BOTH, tx(6)).unwrap();
    assert_eq!(outcome(&expected, &land, &land), Outcome::Won);
    let noted = Register {
        txid: tx(7),
        ..land.clone()
    };
    assert_eq!(outcome(&expected, &land, &noted), Outcome::Won);
    let edited = expected.unlatch(tx(8)).unwrap();
    assert_eq!(outcome(&expected, &land, &edited), Outcome::Free);
}

#[test]
fn every_free_field_and_no_other_is_free() {
    use crate::ids::Naa;
    use crate::value::{Active, Granted, Note, Parent, Retired};
    let (base, _) = held();
    let free: [fn(&mut Register); 10] = [
        |r| r.txid = tx(99),
        |r| {
            r.note.push(Note {
                who: "w".into(),
                why: "y".into(),
                forced: false,
            })
        },
        |r| r.landed = Members::BOTH,
        |r| r.active.latched = true,
        |r| r.volumes.push(VolumeId([9; 16])),
        |r| {
            r.granted.push(Granted {
                leg: Leg::A,
                sb_epoch: Epoch(1),
                sb_gen: Gen([1; 16]),
                sb_seq: 1,
                volume: None,
            })
        },
        |r| r.unconfirmed = Members::only(Leg::B),
        |r| r.no_rejoin = Members::only(Leg::B),
        |r| {
            r.retired.push(Retired {
                leg: Leg::B,
                naa: Naa([1; 16]),
            })
        },
        |r| r.former.push(RegisterId([5; 16])),
    ];
    for (n, edit) in free.iter().enumerate() {
        let mut other = base.clone();
        edit(&mut other);
        assert_ne!(other, base, "edit {n}");
        assert!(base.same_but_free(&other), "edit {n}");
    }
    let bound: [fn(&mut Register); 11] = [
        |r| r.register_id = RegisterId([9; 16]),
        |r| r.group = GroupId([9; 16]),
        |r| r.state = State::Tombstone,
        |r| r.epoch = Epoch(9),
        |r| r.generation = Gen([9; 16]),
        |r| r.members = Members::only(Leg::A),
        |r| {
            r.active = Active {
                site: Site::B,
                ..r.active
            }
        },
        |r| r.active.seq += 1,
        |r| r.holder = None,
        |r| r.order.n += 1,
        |r| {
            r.parents.push(Parent {
                epoch: Epoch(0),
                generation: Gen([9; 16]),
                members: Members::BOTH,
            })
        },
    ];
    for (n, edit) in bound.iter().enumerate() {
        let mut other = base.clone();
        edit(&mut other);
        assert!(!base.same_but_free(&other), "edit {n}");
    }
}
