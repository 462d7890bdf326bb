use super::*;
use crate::ids::{AttachmentUid, GroupId, KeyTag, Naa, RegisterId, VolumeId};
use crate::outcome::{Outcome, outcome};
use crate::value::Granted;

const A: Members = Members::only(Leg::A);
const B: Members = Members::only(Leg::B);

fn tx(n: u8) -> TxId {
    TxId([n; 16])
}
fn generation(n: u8) -> Gen {
    Gen([n; 16])
}
fn key(site: Site, n: u64) -> Key {
    Key::new(KeyTag::Writer(site), n)
}
fn stamp(site: Site, n: u8) -> Stamp {
    Stamp {
        key: key(site, n.into()),
        stamp_id: StampId([n; 16]),
        order: Order {
            n: n.into(),
            uid: AttachmentUid([n; 16]),
        },
    }
}
fn creating() -> Register {
    Register::create(Create {
        register_id: RegisterId([1; 16]),
        group: GroupId([2; 16]),
        volumes: vec![VolumeId([3; 16])],
        generation: generation(1),
        site: Site::A,
        txid: tx(1),
    })
    .unwrap()
}
fn pair() -> Register {
    creating().birth(Site::A, tx(2)).unwrap()
}
fn attach(site: Site, n: u8, membership: Membership) -> AttachChange {
    AttachChange {
        site,
        stamp: stamp(site, n),
        membership,
        moves: None,
    }
}
fn held() -> (Register, Running) {
    let register = pair()
        .attach(&attach(Site::A, 3, Membership::Keep), tx(3))
        .unwrap();
    let running = Running::of(&register, key(Site::A, 3));
    (register, running)
}
fn solo() -> (Register, Running) {
    let (register, running) = held();
    let register = register
        .shrink(&running, Leg::A, generation(4), tx(4))
        .unwrap();
    let running = Running::of(&register, running.key);
    (register, running)
}
fn force_b(register: &Register) -> Force {
    Force {
        expect_epoch: register.epoch,
        expect_txid: register.txid,
        leg: Leg::B,
        seen: LegSeed {
            epoch: Epoch(1),
            generation: generation(1),
            sb_seq: 9,
        },
        site: Site::B,
        generation: generation(50),
        who: "ann".into(),
        why: "site A burnt".into(),
    }
}
fn reseed(old: Option<&Register>) -> Reseed {
    Reseed {
        register_id: RegisterId([7; 16]),
        former: old.map(|o| o.register_id).into_iter().collect(),
        group: GroupId([2; 16]),
        volumes: vec![VolumeId([3; 16])],
        highest_epoch: Epoch(12),
        highest_seq: 4,
        highest_order: 6,
        members: SeedMembers::Alone {
            leg: Leg::A,
            seen: LegSeed {
                epoch: Epoch(12),
                generation: generation(9),
                sb_seq: 30,
            },
        },
        site: Site::A,
        generation: generation(60),
        txid: tx(60),
        who: "bob".into(),
        why: "witness lost".into(),
    }
}

#[test]
fn a_new_register_is_creating_at_epoch_zero_without_members() {
    let register = creating();
    assert_eq!(register.state, State::Creating);
    assert_eq!(register.epoch, Epoch::ZERO);
    assert_eq!(register.members, Members::NONE);
    assert_eq!(register.check(), Ok(()));
    let bad = |volumes| {
        Register::create(Create {
            register_id: RegisterId([1; 16]),
            group: GroupId::ZERO,
            volumes,
            generation: generation(1),
            site: Site::A,
            txid: tx(1),
        })
    };
    assert!(matches!(bad(vec![]), Err(Refusal::Argument(_))));
}

#[test]
fn birth_makes_both_legs_members_of_epoch_one_with_the_generation_they_were_born_with() {
    let register = pair();
    assert_eq!(register.state, State::Live);
    assert_eq!(
        (register.epoch, register.generation),
        (Epoch(1), generation(1))
    );
    assert_eq!(register.members, Members::BOTH);
    assert_eq!(
        register.active,
        Active {
            site: Site::A,
            seq: 1,
            latched: false
        }
    );
    assert_eq!(register.txid, tx(2));
    assert_eq!(
        register.birth(Site::A, tx(9)),
        Err(Refusal::State(State::Live))
    );
    assert_eq!(
        creating().birth(Site::A, tx(1)),
        Err(Refusal::Argument("a used transaction id"))
    );
}

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
fn the_operators_edits_touch_only_their_own_field() {
    let (register, running) = held();
    let latched = Register {
        active: Active {
            latched: true,
            ..register.active
        },
        ..register.clone()
    };
    let edited = latched.unlatch(tx(5)).unwrap();
    assert!(!edited.active.latched);
    assert!(latched.same_but_free(&edited));
    let two = vec![VolumeId([3; 16]), VolumeId([4; 16])];
    assert_eq!(
        register.list(two.clone(), tx(5)),
        Err(Refusal::Held(running.key))
    );
    let free = register.release(running.key, tx(5)).unwrap();
    assert_eq!(free.list(two.clone(), tx(6)).unwrap().volumes, two);
    assert!(matches!(
        free.list(vec![], tx(6)),
        Err(Refusal::Argument(_))
    ));
    assert!(matches!(
        creating().unlatch(tx(6)),
        Err(Refusal::State(State::Creating))
    ));
}

#[test]
fn a_tombstone_needs_a_released_volume_and_is_buried_when_both_legs_are_wiped_or_retired() {
    let (register, running) = held();
    assert_eq!(
        register.tombstone(generation(5), tx(5)),
        Err(Refusal::Held(running.key))
    );
    let tomb = register
        .release(running.key, tx(5))
        .unwrap()
        .tombstone(generation(5), tx(6))
        .unwrap();
    assert_eq!(
        (tomb.state, tomb.epoch, tomb.members),
        (State::Tombstone, Epoch(2), Members::NONE)
    );
    assert_eq!(tomb.check(), Ok(()));
    assert!(!tomb.is_buried());
    let half = tomb.wiped(Leg::A, tx(7)).unwrap();
    assert!(!half.is_buried());
    let naa = Naa([8; 16]);
    let buried = half.retire(Leg::B, naa, "ann", tx(8)).unwrap();
    assert!(buried.is_buried());
    assert!(buried.is_retired(Leg::B, naa));
    assert_eq!(
        tomb.tombstone(generation(6), tx(9)),
        Err(Refusal::State(State::Tombstone))
    );
    assert_eq!(
        pair().wiped(Leg::A, tx(9)),
        Err(Refusal::State(State::Live))
    );
    let unborn = creating().tombstone(generation(5), tx(5)).unwrap();
    assert_eq!((unborn.epoch, unborn.parents.len()), (Epoch(1), 0));
    assert_eq!(unborn.check(), Ok(()));
}

#[test]
fn a_member_is_never_retired_and_a_retired_leg_of_a_live_volume_does_not_count_as_landed() {
    let (register, _) = solo();
    assert_eq!(
        register.retire(Leg::A, Naa([8; 16]), "ann", tx(9)),
        Err(Refusal::Leg(Leg::A))
    );
    let retired = register.retire(Leg::B, Naa([8; 16]), "ann", tx(9)).unwrap();
    assert_eq!(retired.landed, Members::NONE);
    assert!(!retired.is_retired(Leg::B, Naa([9; 16])));
    assert!(
        creating()
            .retire(Leg::B, Naa([8; 16]), "ann", tx(9))
            .is_err()
    );
}

#[test]
fn a_force_runs_exactly_the_superblock_that_the_plan_saw() {
    let (register, _) = solo();
    let force = force_b(&register);
    let next = register.force(&force, tx(50)).unwrap();
    assert_eq!((next.epoch, next.members), (Epoch(3), B));
    assert_eq!(
        next.active,
        Active {
            site: Site::B,
            seq: 2,
            latched: true
        }
    );
    assert_eq!(
        next.granted,
        [Granted {
            leg: Leg::B,
            sb_epoch: Epoch(1),
            sb_gen: generation(1),
            sb_seq: 9
        }]
    );
    assert_eq!(next.unconfirmed, A);
    assert_eq!(next.holder, None);
    assert!(next.note[0].forced);
    assert_eq!(next.check(), Ok(()));
    let edited = register.unlatch(tx(40)).unwrap();
    assert_eq!(
        edited.force(&force, tx(50)),
        Err(Refusal::PlanStale(Epoch(2)))
    );
    assert!(matches!(
        creating().force(&force, tx(50)),
        Err(Refusal::State(_))
    ));
    // The lost branch joins only after a human confirmed.
    let held = next
        .attach(&attach(Site::B, 51, Membership::Keep), tx(51))
        .unwrap();
    let running = Running::of(&held, key(Site::B, 51));
    assert_eq!(
        held.grow(&running, generation(52), tx(52)),
        Err(Refusal::MustNotJoin(Leg::A))
    );
    let confirmed = held.confirm(Leg::A, "ann", tx(53)).unwrap();
    assert!(confirmed.grow(&running, generation(52), tx(54)).is_ok());
    assert_eq!(
        held.confirm(Leg::B, "ann", tx(53)),
        Err(Refusal::Leg(Leg::B))
    );
}

#[test]
fn a_reseed_starts_a_new_register_far_above_everything_known() {
    let (old, _) = held();
    let next = Register::reseed(&reseed(Some(&old)), Some(&old)).unwrap();
    assert_eq!(next.epoch, Epoch(1012));
    assert_eq!((next.active.seq, next.order.n), (5, 7));
    assert_eq!(next.former, [RegisterId([1; 16])]);
    assert_eq!((next.members, next.unconfirmed), (A, B));
    assert_eq!(next.granted[0].sb_seq, 30);
    assert_eq!(next.check(), Ok(()));
    let without_former = Reseed {
        former: vec![],
        ..reseed(None)
    };
    assert!(Register::reseed(&without_former, Some(&old)).is_err());
    assert!(Register::reseed(&without_former, None).is_ok());
    let low = Reseed {
        highest_epoch: Epoch(11),
        ..reseed(None)
    };
    assert!(Register::reseed(&low, None).is_err());
    let high = Register {
        epoch: Epoch(13),
        ..old.clone()
    };
    assert!(Register::reseed(&reseed(Some(&old)), Some(&high)).is_err());
    let seen = |n| LegSeed {
        epoch: Epoch(12),
        generation: generation(n),
        sb_seq: 30,
    };
    let unequal = Reseed {
        members: SeedMembers::Pair {
            a: seen(9),
            b: seen(8),
        },
        ..reseed(None)
    };
    assert!(Register::reseed(&unequal, None).is_err());
    let equal = Reseed {
        members: SeedMembers::Pair {
            a: seen(9),
            b: seen(9),
        },
        ..reseed(None)
    };
    let next = Register::reseed(&equal, None).unwrap();
    assert_eq!(
        (next.members, next.unconfirmed, next.granted.len()),
        (Members::BOTH, Members::NONE, 2)
    );
    // Every Attachment that came before is older.
    let stale = next.attach(&attach(Site::A, 7, Membership::Keep), tx(61));
    assert_eq!(stale, Err(Refusal::OrderStale(7)));
}

#[test]
fn notes_are_bounded_cut_at_a_character_and_forced_ones_stay() {
    let (register, _) = solo();
    let mut register = register.force(&force_b(&register), tx(50)).unwrap();
    for n in 0..30 {
        register.push_note("who", &format!("{n} {}", "é".repeat(400)), false);
    }
    assert_eq!(register.note.len(), 17);
    assert!(register.note[0].forced);
    assert!(register.note[1].why.starts_with("14 "));
    assert!(register.note[1].why.len() <= 512);
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

/// Random histories: whatever is proposed and accepted, the invariants hold and the outcome of the winner is Won.
#[test]
fn invariants_hold_over_random_histories() {
    let seed = 0x5eed_0001;
    println!("seed {seed:#x}");
    let mut state: u64 = seed;
    let mut random = move |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % n
    };
    let mut accepted = [0u32; 17];
    for _ in 0..400 {
        let mut register = creating();
        let mut fresh = 100u64;
        let mut memberships = std::collections::BTreeMap::new();
        for _ in 0..60 {
            fresh += 1;
            let mut id = [0; 16];
            id[..8].copy_from_slice(&fresh.to_le_bytes());
            id[15] = 1;
            let txid = TxId(id);
            let new_gen = Gen(id);
            let leg = Leg::BOTH[random(2) as usize];
            let site = Leg::BOTH[random(2) as usize].site();
            let running = Running::of(&register, register.holder.unwrap_or(key(Site::A, 1)));
            let stamp = Stamp {
                key: key(site, fresh),
                stamp_id: StampId(id),
                order: Order {
                    n: register.order.n + random(2),
                    uid: AttachmentUid(id),
                },
            };
            let membership = match random(3) {
                0 => Membership::Keep,
                1 => Membership::Shrink {
                    to: leg,
                    generation: new_gen,
                },
                _ => Membership::Bump {
                    generation: new_gen,
                },
            };
            let moves = (random(2) == 0).then_some(Move {
                to: site,
                kind: MoveKind::Unplanned,
            });
            let kind = random(17);
            let proposed = match kind {
                0 => register.birth(site, txid),
                1 | 2 => register.attach(
                    &AttachChange {
                        site,
                        stamp,
                        membership,
                        moves,
                    },
                    txid,
                ),
                3 => register.shrink(&running, leg, new_gen, txid),
                4 | 5 => register.grow(&running, new_gen, txid),
                6 => register.bump(&running, new_gen, txid),
                7 => register.drop_leg(&running, leg, new_gen, txid),
                8 => register.land(&running, Members::only(leg), txid),
                9 => register.release(running.key, txid),
                10 => register.thaw(
                    &running,
                    &Stamp {
                        key: running.key,
                        ..stamp
                    },
                    txid,
                ),
                11 => register.rejoin(Members::NONE, txid),
                12 if random(8) == 0 => register.tombstone(new_gen, txid),
                12 => register.unlatch(txid),
                13 if random(4) == 0 => register.force(
                    &Force {
                        expect_epoch: register.epoch,
                        expect_txid: register.txid,
                        leg,
                        generation: new_gen,
                        ..force_b(&register)
                    },
                    txid,
                ),
                13 => register.confirm(leg, "ann", txid),
                14 => register.retire(leg, Naa(id), "ann", txid),
                15 => register.wiped(leg, txid),
                _ => register.late_stamp(
                    &running,
                    &Stamp {
                        key: running.key,
                        ..stamp
                    },
                    txid,
                ),
            };
            let Ok(next) = proposed else { continue };
            accepted[kind as usize] += 1;
            assert_eq!(next.check(), Ok(()), "{register:?} -> {next:?}");
            assert_ne!(next.txid, register.txid);
            assert!(next.epoch >= register.epoch, "I8");
            assert!(next.active.seq >= register.active.seq, "I8");
            assert!(next.order.n >= register.order.n);
            let same = memberships
                .entry(next.epoch)
                .or_insert((next.members, next.generation));
            assert!(
                next.epoch == Epoch(1) && next.parents.is_empty()
                    || *same == (next.members, next.generation),
                "I3"
            );
            if let (Some(from), Some(to)) = (register.members.sole(), next.members.sole()) {
                assert!(
                    from == to || kind == 13,
                    "Solo of the other leg without force"
                );
            }
            assert_eq!(
                outcome(&register, &next, &next),
                Outcome::Won,
                "{register:?} -> {next:?}"
            );
            assert_eq!(outcome(&register, &next, &register), Outcome::Unknown);
            let round_trip = Register::from_json(&next.to_json()).unwrap();
            assert_eq!(round_trip, next);
            register = next;
        }
    }
    println!("accepted by kind: {accepted:?}");
    assert!(
        accepted.iter().all(|&n| n > 0),
        "a transition was never accepted: {accepted:?}"
    );
}
