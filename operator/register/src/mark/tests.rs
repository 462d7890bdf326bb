//! Which register a mark or a superblock lets one believe.

use super::*;
use crate::ids::{GroupId, Site, TxId, VolumeId};
use crate::transition::Create;

fn creating() -> Register {
    Register::create(Create {
        register_id: RegisterId([1; 16]),
        group: GroupId([2; 16]),
        volumes: vec![VolumeId([3; 16])],
        generation: Gen([4; 16]),
        site: Site::A,
        txid: TxId([1; 16]),
    })
    .unwrap()
}
fn live() -> Register {
    creating().birth(Site::A, TxId([2; 16])).unwrap()
}
fn mark(id: u8, epoch: u64, seq: u64) -> Mark {
    Mark {
        register_id: RegisterId([id; 16]),
        epoch: Epoch(epoch),
        seq,
    }
}
fn superblock(id: u8, epoch: u64, seq: u64) -> SbMark {
    SbMark {
        register_id: RegisterId([id; 16]),
        epoch: Epoch(epoch),
        generation: Gen([4; 16]),
        seq,
        unformatted: true,
    }
}

#[test]
fn a_register_at_or_above_every_mark_is_believed() {
    assert_eq!(classify(None, &[mark(1, 5, 5)], &[]), Class::Absent);
    assert_eq!(classify(Some(&live()), &[], &[]), Class::Live);
    assert_eq!(
        classify(Some(&live()), &[mark(1, 1, 1)], &[superblock(1, 1, 1)]),
        Class::Live
    );
    assert_eq!(
        classify(Some(&creating()), &[mark(1, 0, 0)], &[]),
        Class::Creating
    );
}

#[test]
fn r17_a_register_below_a_mark_or_superblock_is_not_believed() {
    let below = |marks: &[Mark], sbs: &[SbMark]| classify(Some(&live()), marks, sbs);
    assert_eq!(
        below(&[mark(1, 2, 1)], &[]),
        Class::Below(Below::Epoch(Epoch(2)))
    );
    assert_eq!(below(&[mark(1, 1, 2)], &[]), Class::Below(Below::Seq(2)));
    assert_eq!(
        below(&[], &[superblock(1, 2, 1)]),
        Class::Below(Below::Epoch(Epoch(2)))
    );
    let other = Class::Below(Below::OtherRegister(RegisterId([1; 16])));
    assert_eq!(below(&[mark(9, 0, 0)], &[]), other);
    assert_eq!(below(&[], &[superblock(9, 1, 1)]), other);
}

#[test]
fn a_mark_of_a_register_that_a_reseed_replaced_is_older_and_not_below() {
    let reseeded = Register {
        former: vec![RegisterId([9; 16])],
        ..live()
    };
    assert_eq!(
        classify(
            Some(&reseeded),
            &[mark(9, 77, 77)],
            &[superblock(9, 50, 50)]
        ),
        Class::Live
    );
}

#[test]
fn r43_below_is_found_before_creating_and_tombstone() {
    let restored = classify(Some(&creating()), &[mark(1, 3, 1)], &[]);
    assert_eq!(restored, Class::Below(Below::Epoch(Epoch(3))));
    let tomb = live().tombstone(Gen([7; 16]), TxId([7; 16])).unwrap();
    assert_eq!(classify(Some(&tomb), &[], &[]), Class::Tombstone);
    // The tombstone of an earlier volume of the same name.
    let other = Class::Below(Below::OtherRegister(RegisterId([1; 16])));
    assert_eq!(classify(Some(&tomb), &[], &[superblock(8, 1, 1)]), other);
}

#[test]
fn only_the_superblock_of_this_very_birth_may_be_ahead_of_a_creating_register() {
    let class = |sb: SbMark| classify(Some(&creating()), &[], &[sb]);
    assert_eq!(class(superblock(1, 1, 0)), Class::Creating);
    assert_eq!(class(superblock(1, 1, 1)), Class::Creating);
    assert_eq!(
        class(superblock(1, 2, 1)),
        Class::Below(Below::Epoch(Epoch(2)))
    );
    let formatted = SbMark {
        unformatted: false,
        ..superblock(1, 1, 1)
    };
    assert_eq!(class(formatted), Class::Below(Below::Epoch(Epoch(1))));
    let other_gen = SbMark {
        generation: Gen([5; 16]),
        ..superblock(1, 1, 1)
    };
    assert_eq!(class(other_gen), Class::Below(Below::Epoch(Epoch(1))));
}

#[test]
fn a_mark_rises_by_field_and_starts_anew_after_a_reseed() {
    assert_eq!(mark(1, 7, 0).raised(&live()), mark(1, 7, 1));
    let reseeded = Register {
        register_id: RegisterId([9; 16]),
        ..live()
    };
    assert_eq!(mark(1, 7, 7).raised(&reseeded), mark(9, 1, 1));
}

#[test]
fn r17_what_was_seen_rises_with_a_believed_register_and_by_nothing_else() {
    let at = |epoch, seq| {
        let mut register = live();
        (register.epoch, register.active.seq) = (Epoch(epoch), seq);
        register
    };
    assert_eq!(Mark::after(&[], &at(5, 2)), Ok(mark(1, 5, 2)));
    assert_eq!(Mark::after(&[mark(1, 5, 2)], &at(7, 2)), Ok(mark(1, 7, 2)));
    let below = Mark::after(&[mark(1, 7, 2)], &at(6, 3));
    assert_eq!(below, Err(Below::Epoch(Epoch(7))));
    // Places that disagree all count.
    let two = [mark(1, 5, 4), mark(1, 7, 2)];
    assert!(Mark::after(&two, &at(6, 4)).is_err());
    assert_eq!(Mark::after(&two, &at(7, 4)), Ok(mark(1, 7, 4)));
}

#[test]
fn two_that_keep_marks_know_the_higher_of_each_field_of_one_register() {
    assert_eq!(mark(1, 5, 4).joined(mark(1, 9, 2)), mark(1, 9, 4));
    assert_eq!(mark(1, 5, 4).joined(mark(2, 9, 9)), mark(1, 5, 4));
}
