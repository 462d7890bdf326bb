//! Reads, writes and their kin: what reaches the store and what comes back.

use bytes::Bytes;

use super::{A, BLOCK, BLOCKS, Lab, blocks_of, code, flat, key_and_code, read10, write10};
use crate::scsi::client::{self, Durability};
use crate::scsi::unit::{StoreError, StoreOp};
use crate::scsi::{Cdb, Code, Expected, Residual, SenseKey, Status};

pub(super) const LAST: u64 = BLOCKS as u64;

#[test]
fn every_length_of_read_and_write_reaches_the_same_blocks() {
    let writes: [&[u8]; 4] = [
        &[0x0A, 0, 0, 5, 2, 0],
        &[0x2A, 0, 0, 0, 0, 5, 0, 0, 2, 0],
        &[0xAA, 0, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0],
        &[0x8A, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0],
    ];
    let reads: [&[u8]; 4] = [
        &[0x08, 0, 0, 5, 2, 0],
        &[0x28, 0, 0, 0, 0, 5, 0, 0, 2, 0],
        &[0xA8, 0, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0],
        &[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0],
    ];
    let mut lab = Lab::new();
    for (byte, (write, read)) in writes.into_iter().zip(reads).enumerate() {
        let data = blocks_of(byte as u8 + 1, 2);
        assert_eq!(lab.send(A, write, &data).status, Status::Good);
        assert_eq!(lab.medium[5 * BLOCK..7 * BLOCK], data);
        assert_eq!(lab.medium[7 * BLOCK], 0);
        assert_eq!(lab.read_in(A, &Cdb::new(read)), data);
    }
}

#[test]
fn write_atomic_reaches_the_store_as_one_operation_or_is_refused() {
    let cdb = |lba: u8, boundary: u8, blocks: u8| {
        Cdb::new(&[
            0x9C, 0, 0, 0, 0, 0, 0, 0, 0, lba, 0, boundary, 0, blocks, 0, 0,
        ])
    };
    let mut lab = Lab::new();
    let data = blocks_of(3, 16);
    let outcome = lab.send(A, cdb(8, 0, 16).as_bytes(), &data);
    assert_eq!(outcome.status, Status::Good);
    assert_eq!(lab.medium[8 * BLOCK..24 * BLOCK], data);
    let whole = |op: &StoreOp| matches!(op, StoreOp::WriteAtomic { offset: 4096, data } if data.concat().len() == 8192);
    assert!(
        lab.asked.last().is_some_and(whole),
        "{:?}",
        lab.asked.last()
    );
    let asked = lab.asked.len();
    // Beside its grain, with a boundary, and with fewer data than it names.
    for (lba, boundary, blocks) in [(1, 0, 8), (8, 0, 7), (8, 8, 8)] {
        let data = blocks_of(4, usize::from(blocks));
        let outcome = lab.send(A, cdb(lba, boundary, blocks).as_bytes(), &data);
        assert_eq!(
            code(&outcome),
            Code::INVALID_FIELD_IN_CDB,
            "{lba} {boundary} {blocks}"
        );
    }
    let short = lab.send(A, cdb(8, 0, 16).as_bytes(), &blocks_of(4, 8));
    assert_eq!(code(&short), Code::INVALID_FIELD_IN_INFORMATION_UNIT);
    assert_eq!(lab.asked.len(), asked, "nothing of these reached the store");
}

#[test]
fn read_6_of_zero_blocks_is_256() {
    let mut lab = Lab::new();
    assert_eq!(
        lab.read_in(A, &Cdb::new(&[0x08, 0, 0, 0, 0, 0])).len(),
        256 * BLOCK
    );
}

#[test]
fn data_goes_to_the_store_as_it_came() {
    let mut lab = Lab::new();
    let pieces = vec![Bytes::from(vec![1; 300]), Bytes::from(vec![2; 724])];
    let before: Vec<*const u8> = pieces.iter().map(|piece| piece.as_ptr()).collect();
    lab.submit(
        A,
        &client::write16(1, 2, Durability::Cached),
        pieces,
        Expected::Out(1024),
    );
    let Some(StoreOp::Write {
        offset: 512,
        data,
        fua: false,
    }) = lab.asked.last()
    else {
        panic!("{:?}", lab.asked)
    };
    assert_eq!(
        data.iter().map(|piece| piece.as_ptr()).collect::<Vec<_>>(),
        before
    );
}

#[test]
fn the_smaller_of_both_lengths_is_moved_and_the_rest_is_the_residual() {
    // (blocks in the CDB, expected bytes, bytes moved, residual)
    let cases = [
        (1, 0, 0, Residual::Overflow(512)),
        (1, 512, 512, Residual::None),
        (1, 1024, 512, Residual::Underflow(512)),
        (2, 512, 512, Residual::Overflow(512)),
        (1, 10_000, 512, Residual::Underflow(9488)),
        (1, 200, 200, Residual::Overflow(312)),
        (3, 700, 700, Residual::Overflow(836)),
        (0, 0, 0, Residual::None),
        (0, 512, 0, Residual::Underflow(512)),
    ];
    for (blocks, expected, moved, residual) in cases {
        let mut lab = Lab::new();
        lab.send(A, &write10(0, 4), &blocks_of(b'a', 4));
        let cdb = Cdb::new(&write10(0, blocks));
        let data = vec![Bytes::from(vec![b'b'; expected as usize])];
        let task = lab.submit(A, &cdb, data, Expected::Out(expected));
        let outcome = lab.outcome(task);
        assert_eq!(
            (outcome.status, outcome.residual),
            (Status::Good, residual),
            "{blocks} {expected}"
        );
        assert!(
            lab.medium[..moved].iter().all(|byte| *byte == b'b'),
            "{blocks} {expected}"
        );
        assert!(
            lab.medium[moved..4 * BLOCK]
                .iter()
                .all(|byte| *byte == b'a'),
            "{blocks} {expected}"
        );

        let cdb = Cdb::new(&read10(0, blocks));
        let task = lab.submit(A, &cdb, Vec::new(), Expected::In(expected));
        let outcome = lab.outcome(task);
        assert_eq!(
            (outcome.status, outcome.residual),
            (Status::Good, residual),
            "{blocks} {expected}"
        );
        assert_eq!(flat(&outcome), lab.medium[..moved], "{blocks} {expected}");
    }
}

#[test]
fn a_verified_write_that_ends_inside_a_block_keeps_the_rest_of_it() {
    let mut lab = Lab::new();
    lab.send(A, &write10(0, 2), &blocks_of(b'a', 2));
    let cdb = Cdb::new(&[0x2E, 0x02, 0, 0, 0, 0, 0, 0, 2, 0]);
    let task = lab.submit(
        A,
        &cdb,
        vec![Bytes::from(vec![b'b'; 600])],
        Expected::Out(600),
    );
    assert_eq!(lab.outcome(task).status, Status::Good);
    assert_eq!(
        lab.medium[..1024],
        [vec![b'b'; 600], vec![b'a'; 424]].concat()
    );
    assert!(matches!(
        lab.asked.last(),
        Some(StoreOp::Read {
            offset: 0,
            len: 1024
        })
    ));
}

#[test]
fn a_write_announced_as_a_read_is_refused_and_a_read_announced_as_a_write_moves_nothing() {
    let mut lab = Lab::new();
    let task = lab.submit(A, &Cdb::new(&write10(0, 1)), Vec::new(), Expected::In(512));
    assert_eq!(
        code(&lab.outcome(task)),
        Code::INVALID_FIELD_IN_INFORMATION_UNIT
    );
    let data = vec![Bytes::from(blocks_of(1, 1))];
    let task = lab.submit(A, &Cdb::new(&read10(0, 1)), data, Expected::Out(512));
    let outcome = lab.outcome(task);
    assert_eq!(
        (outcome.status, outcome.residual),
        (Status::Good, Residual::Underflow(512))
    );
    assert!(outcome.data_in.is_empty());
}

#[test]
fn data_that_the_session_did_not_gather_is_an_error_not_a_short_write() {
    let mut lab = Lab::new();
    let task = lab.submit(
        A,
        &Cdb::new(&write10(0, 1)),
        vec![Bytes::from(vec![1; 100])],
        Expected::Out(512),
    );
    assert_eq!(
        key_and_code(&lab.outcome(task)),
        (SenseKey::AbortedCommand, Code::NOT_ENOUGH_DATA)
    );
    assert_eq!(lab.medium[0], 0);
}

#[test]
fn addresses_beyond_the_end_are_refused_by_every_block_command() {
    let opcodes10 = [0x28u8, 0x2A, 0x2E, 0x2F, 0x34, 0x35, 0x41];
    let opcodes16 = [0x88u8, 0x8A, 0x8B, 0x8E, 0x8F, 0x90, 0x91, 0x93];
    let mut lab = Lab::new();
    for (lba, blocks) in [(LAST, 1u8), (LAST - 1, 2), (LAST + 1, 0), (0xFFFF_FFFF, 1)] {
        for opcode in opcodes10 {
            let [a, b, c, d] = (lba as u32).to_be_bytes();
            let outcome = lab.run(A, &[opcode, 0, a, b, c, d, 0, 0, blocks, 0]);
            assert_eq!(
                code(&outcome),
                Code::LBA_OUT_OF_RANGE,
                "{opcode:#x} {lba} {blocks}"
            );
        }
    }
    for (lba, blocks) in [
        (LAST, 1u32),
        (1 << 63, 1),
        (u64::MAX, 0),
        (u64::MAX, u32::MAX),
        (LAST + 1, 0),
    ] {
        for opcode in opcodes16 {
            let mut cdb = [0; 16];
            cdb[0] = opcode;
            cdb[2..10].copy_from_slice(&lba.to_be_bytes());
            cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
            assert_eq!(
                code(&lab.run(A, &cdb)),
                Code::LBA_OUT_OF_RANGE,
                "{opcode:#x} {lba} {blocks}"
            );
        }
    }
    assert_eq!(lab.run(A, &read10(BLOCKS as u32, 0)).status, Status::Good);
}

#[test]
fn transfers_beyond_the_advertised_limit_are_refused() {
    let mut lab = Lab::new();
    assert_eq!(lab.read_in(A, &client::read16(0, 2048)).len(), 1 << 20);
    let task = lab.submit(
        A,
        &client::read16(0, 2049),
        Vec::new(),
        Expected::In(2049 * 512),
    );
    assert_eq!(code(&lab.outcome(task)), Code::INVALID_FIELD_IN_CDB);
}

#[test]
fn protection_information_and_naca_are_refused() {
    let mut lab = Lab::new();
    for opcode in [0x28, 0x2A, 0x2E, 0x2F, 0x41] {
        assert_eq!(
            code(&lab.run(A, &[opcode, 0x20, 0, 0, 0, 0, 0, 0, 1, 0])),
            Code::INVALID_FIELD_IN_CDB
        );
    }
    assert_eq!(
        code(&lab.run(A, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0x04])),
        Code::INVALID_FIELD_IN_CDB
    );
}

#[test]
fn fua_and_a_write_cache_turned_off_reach_the_store() {
    let fua_of = |lab: &Lab| match lab.asked.last() {
        Some(StoreOp::Write { fua, .. } | StoreOp::WriteZeros { fua, .. }) => *fua,
        other => panic!("{other:?}"),
    };
    let mut lab = Lab::new();
    lab.send(A, &write10(0, 1), &blocks_of(1, 1));
    assert!(!fua_of(&lab));
    lab.send(
        A,
        client::write16(0, 1, Durability::Stable).as_bytes(),
        &blocks_of(1, 1),
    );
    assert!(fua_of(&lab));
    // MODE SELECT: WCE off, which flushes.
    let page = [&[0, 0, 0, 0, 0x08, 0x12, 0][..], &[0; 17]].concat();
    assert_eq!(
        lab.send(A, &[0x15, 0x10, 0, 0, 24, 0], &page).status,
        Status::Good
    );
    assert_eq!(lab.asked.last(), Some(&StoreOp::Flush));
    lab.send(A, &write10(0, 1), &blocks_of(1, 1));
    assert!(fua_of(&lab));
    lab.send(A, &[0x41, 0, 0, 0, 0, 0, 0, 0, 1, 0], &blocks_of(0, 1));
    assert!(fua_of(&lab));
}

#[test]
fn verify_reads_or_compares_as_bytchk_says() {
    let verify = |bytchk: u8, blocks: u8| [0x2F, bytchk << 1, 0, 0, 0, 0, 0, 0, blocks, 0];
    let mut lab = Lab::new();
    lab.send(A, &write10(0, 3), &blocks_of(4, 3));
    assert_eq!(lab.run(A, &verify(0, 3)).status, Status::Good);
    assert_eq!(
        lab.send(A, &verify(1, 3), &blocks_of(4, 3)).status,
        Status::Good
    );
    assert_eq!(
        lab.send(A, &verify(3, 3), &blocks_of(4, 1)).status,
        Status::Good
    );
    let mut wrong = blocks_of(4, 3);
    wrong[2 * BLOCK] = 5;
    assert_eq!(
        lab.send(A, &verify(1, 3), &wrong)
            .sense
            .map(|sense| sense.key),
        Some(SenseKey::Miscompare)
    );
    assert_eq!(
        lab.send(A, &verify(3, 3), &blocks_of(5, 1))
            .sense
            .map(|sense| sense.key),
        Some(SenseKey::Miscompare)
    );
    assert_eq!(code(&lab.run(A, &verify(2, 3))), Code::INVALID_FIELD_IN_CDB);
    lab.fail = Some(StoreError::Medium);
    assert_eq!(
        key_and_code(&lab.run(A, &verify(0, 3))),
        (SenseKey::MediumError, Code::UNRECOVERED_READ_ERROR)
    );
}

#[test]
fn a_long_verify_takes_several_steps() {
    let mut lab = Lab::new();
    assert_eq!(
        lab.run(A, &[0x2F, 0, 0, 0, 0, 0, 0, 0x0F, 0xFF, 0]).status,
        Status::Good
    );
    let reads: Vec<u64> = lab
        .asked
        .iter()
        .filter_map(|op| match op {
            StoreOp::Read { len, .. } => Some(*len),
            _ => None,
        })
        .collect();
    assert_eq!(reads, [1 << 20, (4095 - 2048) * 512]);
}

#[test]
fn store_failures_become_sense_data() {
    let cases = [
        (StoreError::Medium, SenseKey::MediumError, Code::WRITE_ERROR),
        (
            StoreError::NoSpace,
            SenseKey::DataProtect,
            Code::SPACE_ALLOCATION_FAILED,
        ),
        (
            StoreError::ReadOnly,
            SenseKey::DataProtect,
            Code::WRITE_PROTECTED,
        ),
        (
            StoreError::Gone,
            SenseKey::NotReady,
            Code::NOT_READY_INTERVENTION,
        ),
        (
            StoreError::Hardware,
            SenseKey::HardwareError,
            Code::INTERNAL_TARGET_FAILURE,
        ),
    ];
    for (error, key, code) in cases {
        let mut lab = Lab::new();
        lab.fail = Some(error);
        let outcome = lab.send(A, &write10(0, 1), &blocks_of(1, 1));
        assert_eq!(key_and_code(&outcome), (key, code));
        assert_eq!(outcome.residual, Residual::Underflow(512));
    }
}
