//! Humans.

use super::*;

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
            sb_seq: 9,
            volume: None,
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
fn a_force_of_a_group_grants_a_superblock_of_every_volume_by_one_change() {
    let (solo, _) = solo();
    let own = solo.volumes[0];
    let other = VolumeId([0x77; 16]);
    let register = Register {
        volumes: vec![own, other],
        ..solo
    };
    let force = force_b(&register);
    let seen = |sb_seq| LegSeed {
        sb_seq,
        ..force.seen
    };
    let all = [(other, seen(20)), (own, seen(10))];
    let next = register.force_all(&force, &all, tx(50)).unwrap();
    assert_eq!(
        (next.epoch, next.members, next.unconfirmed),
        (Epoch(3), B, A)
    );
    let seqs = [own, other].map(|v| next.granted_to(Leg::B, v).map(|g| g.sb_seq));
    assert_eq!(seqs, [Some(10), Some(20)]);
    assert_eq!(next.check(), Ok(()));
    assert_eq!(Register::from_json(&next.to_json()).unwrap(), next);
    // Nothing of it speaks for one volume alone.
    let argument = |result: Result<Register, Refusal>| matches!(result, Err(Refusal::Argument(_)));
    assert!(argument(register.force(&force, tx(50))));
    assert!(argument(register.force_all(&force, &all[..1], tx(50))));
    let twice = [all[0], all[0]];
    assert!(argument(register.force_all(&force, &twice, tx(50))));
    let stranger = [all[0], (VolumeId([1; 16]), seen(1))];
    assert!(argument(register.force_all(&force, &stranger, tx(50))));
    assert!(argument(next.list(vec![own], tx(51))));
    // The land of the leg clears all of them.
    let held = next
        .attach(&attach(Site::B, 51, Membership::Keep), tx(51))
        .unwrap();
    let running = Running::of(&held, key(Site::B, 51));
    let landed = held.land(&running, B, tx(52)).unwrap();
    assert!(landed.granted.is_empty());
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
fn a_reseed_of_a_group_grants_the_same_legs_of_every_volume() {
    let own = reseed(None).volumes[0];
    let other = VolumeId([0x77; 16]);
    let of_two = Reseed {
        volumes: vec![own, other],
        ..reseed(None)
    };
    let seen = |epoch, sb_seq| LegSeed {
        epoch: Epoch(epoch),
        generation: generation(9),
        sb_seq,
    };
    let alone = |leg, sb_seq| SeedMembers::Alone {
        leg,
        seen: seen(12, sb_seq),
    };
    let all = [(other, alone(Leg::A, 40)), (own, alone(Leg::A, 30))];
    let next = Register::reseed_all(&of_two, &all, None).unwrap();
    assert_eq!((next.members, next.unconfirmed), (A, B));
    let seqs = [own, other].map(|v| next.granted_to(Leg::A, v).map(|g| g.sb_seq));
    assert_eq!(seqs, [Some(30), Some(40)]);
    assert_eq!(next.check(), Ok(()));
    let pair = |sb_seq| SeedMembers::Pair {
        a: seen(12, sb_seq),
        b: seen(12, sb_seq),
    };
    let pairs = [(own, pair(30)), (other, pair(40))];
    let next = Register::reseed_all(&of_two, &pairs, None).unwrap();
    assert_eq!((next.members, next.granted.len()), (Members::BOTH, 4));
    assert_eq!(next.check(), Ok(()));
    let refused = |all: &[(VolumeId, SeedMembers)]| {
        let result = Register::reseed_all(&of_two, all, None);
        matches!(result, Err(Refusal::Argument(_)))
    };
    // Fewer volumes, one twice, a stranger, other legs of one than of the other, a pair that is none.
    assert!(refused(&all[..1]));
    assert!(refused(&[all[0], all[0]]));
    assert!(refused(&[all[0], (VolumeId([1; 16]), alone(Leg::A, 1))]));
    assert!(refused(&[all[0], (own, alone(Leg::B, 30))]));
    assert!(refused(&[all[0], (own, pair(30))]));
    let unequal = SeedMembers::Pair {
        a: seen(12, 30),
        b: seen(11, 30),
    };
    assert!(refused(&[pairs[1], (own, unequal)]));
    assert!(
        Register::reseed(&of_two, None).is_err(),
        "of one volume only"
    );
    // A leg that leaves before it was landed takes its grants with it: nobody would ever land it.
    let held = next
        .attach(&attach(Site::A, 61, Membership::Keep), tx(61))
        .unwrap();
    let running = Running::of(&held, key(Site::A, 61));
    let alone = held
        .shrink(&running, Leg::A, generation(62), tx(62))
        .unwrap();
    assert!(alone.granted.iter().all(|granted| granted.leg == Leg::A));
    assert!(alone.lacks_land_of(A));
    let running = Running::of(&alone, key(Site::A, 61));
    let landed = alone.land(&running, A, tx(63)).unwrap();
    assert!(!landed.lacks_land_of(A));
    let mut twice = landed;
    twice.volumes = vec![own, own];
    assert_eq!(twice.check(), Err("a volume twice"));
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
