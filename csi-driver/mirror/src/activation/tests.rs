//! The activation table: its enumeration, and the rows that protect something by name.

mod enumeration;

use twinsite_register::{BeatObject, MAX_PARENTS, Parent, Register};

use super::*;
use crate::ids::{Epoch, Gen};
use crate::layout::{Role, Superblock};

pub(super) const EPOCH: u64 = 4;
pub(super) const SEQ: u64 = 2;

pub(super) fn generation(epoch: u64) -> Gen {
    Gen([epoch as u8; 16])
}
pub(super) const OTHER_GEN: Gen = Gen([0xee; 16]);

pub(super) fn sb(
    role: Role,
    epoch: u64,
    gen_ok: bool,
    members: u8,
    site: Site,
    seq: u64,
) -> SbView {
    SbView {
        role,
        epoch: Epoch(epoch),
        generation: if gen_ok { generation(epoch) } else { OTHER_GEN },
        members: Members::from_bits(members).unwrap(),
        site,
        seq,
        granted: false,
        awaits_register: false,
        register: RegisterIdView::Same,
        beat: BeatView::Fresh,
    }
}

/// `hist[n]` = members of epoch n as listed in the register; 0 = not listed any more.
pub(super) fn live(members: u8, site: Site, landed: u8, hist: [u8; 4]) -> LiveView {
    let mut parents = [None; MAX_PARENTS];
    let listed = (0..EPOCH).rev().filter(|&epoch| hist[epoch as usize] != 0);
    for (slot, epoch) in parents.iter_mut().zip(listed) {
        *slot = Some(Parent {
            epoch: Epoch(epoch),
            generation: generation(epoch),
            members: Members::from_bits(hist[epoch as usize]).unwrap(),
        });
    }
    LiveView {
        epoch: Epoch(EPOCH),
        generation: generation(EPOCH),
        members: Members::from_bits(members).unwrap(),
        site,
        seq: SEQ,
        landed: Members::from_bits(landed).unwrap(),
        parents,
    }
}

#[test]
fn the_first_part_of_the_table_says_which_legs_may_be_fenced() {
    use Refusal as W;
    let (a, b, both) = (Members::only(Leg::A), Members::only(Leg::B), Members::BOTH);
    let pair = RegView::Live(live(3, Site::A, 0, [0; 4]));
    let solo_a = RegView::Live(live(1, Site::A, 0, [0; 4]));
    let here = Site::A;
    let there = Site::B;
    let none = Members::NONE;
    let cases = [
        (
            here,
            Mv::None,
            RegView::Below,
            both,
            false,
            Err(W::WitnessBehind),
        ),
        (
            here,
            Mv::None,
            RegView::Absent,
            both,
            false,
            Err(W::RegisterMissing),
        ),
        (
            here,
            Mv::None,
            RegView::Creating,
            both,
            false,
            Err(W::Creating),
        ),
        (
            here,
            Mv::None,
            RegView::Tombstone,
            both,
            false,
            Err(W::Deleted),
        ),
        (
            here,
            Mv::None,
            RegView::Tombstone,
            none,
            false,
            Err(W::Deleted),
        ),
        (there, Mv::None, pair, both, false, Err(W::NotActive)),
        (there, Mv::None, pair, none, false, Err(W::NotActive)),
        (here, Mv::None, pair, none, false, Err(W::NoLeg)),
        (here, Mv::None, pair, both, false, Ok(both)),
        // With a readable register the holder does not matter: it may be fenced.
        (here, Mv::None, pair, both, true, Ok(both)),
        (here, Mv::None, pair, b, false, Ok(b)),
        (here, Mv::None, solo_a, both, false, Ok(a)),
        (here, Mv::None, solo_a, b, false, Err(W::WaitMember)),
        (there, Mv::Failover, pair, b, false, Ok(b)),
        (there, Mv::Planned, pair, b, false, Err(W::WaitMember)),
        (there, Mv::Planned, pair, both, false, Ok(both)),
        (there, Mv::Planned, solo_a, a, false, Ok(a)),
        (here, Mv::None, RegView::Unreadable, both, false, Ok(both)),
        (here, Mv::None, RegView::Unreadable, a, false, Ok(a)),
        (
            here,
            Mv::None,
            RegView::Unreadable,
            both,
            true,
            Err(W::WitnessNeeded),
        ),
        (
            there,
            Mv::Failover,
            RegView::Unreadable,
            both,
            false,
            Err(W::WitnessNeeded),
        ),
        (
            here,
            Mv::None,
            RegView::Unreadable,
            none,
            false,
            Err(W::NoLeg),
        ),
    ];
    for (n, (site, mv, r, reachable, held, expected)) in cases.into_iter().enumerate() {
        assert_eq!(
            may_fence(site, mv, &r, reachable, held),
            expected,
            "case {n}"
        );
    }
}

#[test]
fn r44_a_lost_branch_that_certifies_itself_does_not_run_alone_without_the_register() {
    // Forced to B at epoch 5; A comes back with Solo(A) of epoch 4 and no witness.
    let a = LegView::Sb(sb(Role::Member, 4, true, 1, Site::A, 2));
    let alone = decide(
        Site::A,
        Mv::None,
        &RegView::Unreadable,
        &[a, LegView::Away],
        Members::NONE,
    );
    assert_eq!(
        (alone.row, alone.act),
        (Row::U5, Act::Refuse(Refusal::WitnessNeeded))
    );
    let b = LegView::Sb(sb(Role::Member, 5, true, 2, Site::B, 3));
    let both = decide(
        Site::A,
        Mv::None,
        &RegView::Unreadable,
        &[a, b],
        Members::NONE,
    );
    assert_eq!(both.row, Row::U2);
}

#[test]
fn r44_a_leg_that_a_person_named_stops_every_attach_without_the_register() {
    let decide = |a, b| {
        let r = RegView::Unreadable;
        decide(Site::A, Mv::None, &r, &[a, b], Members::NONE).row
    };
    let pair = sb(Role::Member, 4, true, 3, Site::A, 1);
    let named = SbView {
        awaits_register: true,
        ..pair
    };
    assert_eq!(decide(LegView::Sb(pair), LegView::Sb(pair)), Row::U3);
    assert_eq!(decide(LegView::Sb(named), LegView::Sb(pair)), Row::U5);
    assert_eq!(decide(LegView::Sb(pair), LegView::Sb(named)), Row::U5);
    let alone = sb(Role::Member, 5, true, 1, Site::A, 1);
    assert_eq!(decide(LegView::Sb(alone), LegView::Sb(pair)), Row::U4);
    assert_eq!(decide(LegView::Sb(alone), LegView::Sb(named)), Row::U5);
}

#[test]
fn r44_a_granted_superblock_runs_whatever_its_history_until_it_lands() {
    let seen = sb(Role::Member, 1, false, 3, Site::A, 1);
    let r = RegView::Live(live(1, Site::A, 0, [0; 4]));
    let row = |granted| {
        let leg = LegView::Sb(SbView { granted, ..seen });
        decide(Site::A, Mv::None, &r, &[leg, LegView::Away], Members::NONE).row
    };
    assert_eq!((row(false), row(true)), (Row::L11, Row::L8));
}

#[test]
fn r44_a_grant_is_of_exactly_one_superblock_of_one_volume() {
    use twinsite_register::{Create, Granted, GroupId, Naa, RegisterId, TxId, VolumeId};
    let create = Create {
        register_id: RegisterId([1; 16]),
        group: GroupId([2; 16]),
        volumes: vec![VolumeId([3; 16])],
        generation: generation(1),
        site: Site::A,
        txid: TxId([4; 16]),
    };
    let born = Register::create(create).unwrap();
    let mut register = born.birth(Site::A, TxId([5; 16])).unwrap();
    let geometry = crate::layout::Geometry::for_new(4 << 20).unwrap();
    let volume = register.volumes[0];
    let forced = Superblock::born(&register, volume, Leg::B, geometry, Naa([4; 16]));
    let granted = |register: &Register, sb: &Superblock| {
        SbView::of(sb, Some(register), BeatView::Fresh).granted
    };
    assert!(!granted(&register, &forced));
    let grant = Granted {
        leg: Leg::B,
        sb_epoch: forced.epoch,
        sb_gen: forced.generation,
        sb_seq: forced.sb_seq,
        volume: None,
    };
    register.granted = vec![grant];
    assert!(granted(&register, &forced));
    // Another write to the same leg, and it is no longer the superblock that the human saw.
    let edits: [fn(&mut Superblock); 4] = [
        |sb| sb.sb_seq += 1,
        |sb| sb.generation = OTHER_GEN,
        |sb| sb.epoch = Epoch(EPOCH),
        |sb| sb.leg = Leg::A,
    ];
    for edit in edits {
        let mut other = forced.clone();
        edit(&mut other);
        assert!(!granted(&register, &other), "{other:?}");
    }
    // In a group each volume has its own.
    let own = VolumeId([7; 16]);
    register.volumes = vec![forced.volume, own];
    register.granted = vec![Granted {
        volume: Some(own),
        ..grant
    }];
    assert!(!granted(&register, &forced));
    let of_volume = Superblock {
        volume: own,
        ..forced
    };
    assert!(granted(&register, &of_volume));
}

#[test]
fn r32_an_older_superblock_of_a_landed_leg_is_damage() {
    let old = LegView::Sb(sb(Role::Member, 3, true, 3, Site::A, 2));
    let decide = |landed| {
        let r = RegView::Live(live(1, Site::A, landed, [0, 0, 0, 3]));
        decide(Site::A, Mv::None, &r, &[old, LegView::Away], Members::NONE).row
    };
    assert_eq!(decide(0), Row::L8);
    assert_eq!(decide(1), Row::L11);
}

#[test]
fn r19_the_one_leg_that_lost_its_cache_leaves_by_the_shrink_of_the_attach() {
    let member = LegView::Sb(sb(Role::Member, 4, true, 3, Site::A, 2));
    let r = RegView::Live(live(3, Site::A, 0, [0; 4]));
    let set = |behind| match decide(Site::A, Mv::None, &r, &[member, member], behind).act {
        Act::Run {
            set,
            cas: Some(cas),
        } => (set, cas.change),
        other => panic!("{other:?}"),
    };
    assert_eq!(set(Members::NONE), (Members::BOTH, Change::Keep));
    assert_eq!(set(Members::BOTH), (Members::BOTH, Change::Keep));
    assert_eq!(
        set(Members::only(Leg::A)),
        (Members::only(Leg::B), Change::Shrink)
    );
    assert_eq!(
        set(Members::only(Leg::B)),
        (Members::only(Leg::A), Change::Shrink)
    );
}

#[test]
fn r14_a_changed_boot_id_counts_only_with_a_volatile_cache_and_a_dirty_region() {
    assert!(is_behind(7, Some(8), true, true));
    assert!(!is_behind(7, Some(7), true, true));
    assert!(!is_behind(7, Some(8), false, true));
    assert!(!is_behind(7, Some(8), true, false));
    assert!(is_behind(7, None, true, true));
    assert!(!is_behind(0, Some(8), true, true));
    // As a source, a leg of which nothing was recorded still comes last.
    assert!(boot_changed(0, Some(8), true));
    assert!(!boot_changed(0, Some(8), false));
}

#[test]
fn a_member_whose_beat_is_below_the_object_was_rolled_back() {
    use crate::ids::VolumeId;
    let mut superblock = crate::layout::tests::superblock(6);
    superblock.epoch = Epoch(4);
    let at = |epoch, beat| BeatObject {
        epoch: Epoch(epoch),
        beat,
    };
    let block = |epoch, beat| Beat {
        volume: VolumeId::ZERO,
        epoch: Epoch(epoch),
        attach_key: None,
        beat,
        flushed: 0,
    };
    use crate::layout::Beat;
    let view =
        |b: Option<Beat>, o: Option<BeatObject>| BeatView::of(&superblock, b.as_ref(), o.as_ref());
    assert_eq!(view(Some(block(4, 8)), Some(at(4, 10))), BeatView::Behind);
    assert_eq!(view(Some(block(4, 9)), Some(at(4, 10))), BeatView::Behind);
    assert_eq!(view(Some(block(4, 10)), Some(at(4, 10))), BeatView::Fresh);
    assert_eq!(view(Some(block(4, 11)), Some(at(4, 10))), BeatView::Fresh);
    // Copied between the superblock of the epoch and its first beat: the object shows that the beat came.
    assert_eq!(view(Some(block(3, 1)), Some(at(4, 10))), BeatView::Behind);
    // The last beat before a shrink, told after it.
    assert_eq!(view(Some(block(3, 10)), Some(at(4, 10))), BeatView::Fresh);
    assert_eq!(view(Some(block(4, 1)), Some(at(3, 10))), BeatView::Fresh);
    assert_eq!(view(None, Some(at(4, 10))), BeatView::Fresh);
    assert_eq!(view(Some(block(4, 1)), None), BeatView::Fresh);
    // The superblock was written in a later epoch, after a decision that saw this object.
    assert_eq!(view(Some(block(3, 1)), Some(at(3, 10))), BeatView::Fresh);
    assert_eq!(
        view(Some(block(4, u64::MAX)), Some(at(4, u64::MAX))),
        BeatView::Fresh
    );
}
