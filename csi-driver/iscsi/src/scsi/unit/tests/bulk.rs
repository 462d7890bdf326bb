//! Commands that change blocks without plain data: compare and write, or, repeat, unmap, copy.

use super::blocks::LAST;
use super::{A, BLOCK, BLOCKS, Lab, blocks_of, code, key_and_code, write10};
use crate::scsi::client;
use crate::scsi::unit::{StoreError, StoreOp};
use crate::scsi::{Cdb, Code, Expected, SenseKey, Status};

#[test]
fn compare_and_write_writes_only_over_what_it_was_told() {
    let caw = |blocks: u8| [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, blocks, 0, 0];
    let mut lab = Lab::new();
    let data = [blocks_of(0, 2), blocks_of(7, 2)].concat();
    assert_eq!(lab.send(A, &caw(2), &data).status, Status::Good);
    assert_eq!(lab.medium[3 * BLOCK..5 * BLOCK], blocks_of(7, 2));
    // Now it reads 7: the first byte that differs is named.
    let mut data = [blocks_of(7, 2), blocks_of(9, 2)].concat();
    data[BLOCK + 5] = 8;
    let outcome = lab.send(A, &caw(2), &data);
    assert_eq!(
        key_and_code(&outcome),
        (SenseKey::Miscompare, Code::MISCOMPARE_DURING_VERIFY)
    );
    assert_eq!(
        outcome.sense.and_then(|sense| sense.information),
        Some(BLOCK as u64 + 5)
    );
    assert_eq!(lab.medium[3 * BLOCK..5 * BLOCK], blocks_of(7, 2));
}

#[test]
fn compare_and_write_of_a_wrong_size_is_refused() {
    let mut lab = Lab::new();
    let cdb = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0];
    for blocks in [2, 3, 5] {
        let outcome = lab.send(A, &cdb, &blocks_of(0, blocks));
        assert_eq!(code(&outcome), Code::INVALID_FIELD_IN_INFORMATION_UNIT);
    }
    let mut small = super::config();
    small.max_transfer = 4 * 512;
    let mut lab = Lab::with(small);
    let cdb = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0];
    assert_eq!(
        code(&lab.send(A, &cdb, &blocks_of(0, 6))),
        Code::INVALID_FIELD_IN_CDB
    );
}

#[test]
fn orwrite_sets_bits_and_clears_none() {
    let mut lab = Lab::new();
    lab.send(A, &write10(1, 2), &blocks_of(0xA0, 2));
    let mut cdb = [0; 16];
    cdb[0] = 0x8B;
    cdb[9] = 1;
    cdb[13] = 2;
    assert_eq!(lab.send(A, &cdb, &blocks_of(0x05, 2)).status, Status::Good);
    assert_eq!(lab.medium[BLOCK..3 * BLOCK], blocks_of(0xA5, 2));
}

#[test]
fn write_same_repeats_zeroes_or_unmaps() {
    let same = |flags: u8, blocks: u8| [0x93, flags, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, blocks, 0, 0];
    let mut lab = Lab::new();
    let mut pattern = blocks_of(3, 1);
    pattern[0] = 9;
    assert_eq!(lab.send(A, &same(0, 5), &pattern).status, Status::Good);
    assert_eq!(lab.medium[2 * BLOCK..7 * BLOCK], pattern.repeat(5));
    assert_eq!(
        lab.send(A, &same(0, 1), &blocks_of(0, 1)).status,
        Status::Good
    );
    assert_eq!(
        lab.asked.last(),
        Some(&StoreOp::WriteZeros {
            offset: 1024,
            len: 512,
            fua: false
        })
    );
    assert_eq!(
        lab.send(A, &same(0x08, 2), &blocks_of(0, 1)).status,
        Status::Good
    );
    assert_eq!(
        lab.asked.last(),
        Some(&StoreOp::Discard {
            offset: 1024,
            len: 1024
        })
    );
    // NDOB: no data; without data and with UNMAP likewise.
    assert_eq!(lab.run(A, &same(0x01, 2)).status, Status::Good);
    assert_eq!(
        lab.asked.last(),
        Some(&StoreOp::WriteZeros {
            offset: 1024,
            len: 1024,
            fua: false
        })
    );
    let task = lab.submit(A, &Cdb::new(&same(0x08, 3)), Vec::new(), Expected::None);
    assert_eq!(lab.outcome(task).status, Status::Good);
    assert_eq!(
        lab.asked.last(),
        Some(&StoreOp::Discard {
            offset: 1024,
            len: 1536
        })
    );
    // UNMAP deallocates whatever the block holds, as peers do.
    lab.send(A, &same(0, 2), &pattern);
    assert_eq!(lab.send(A, &same(0x08, 2), &pattern).status, Status::Good);
    assert_eq!(lab.medium[2 * BLOCK..4 * BLOCK], blocks_of(0, 2));
    // ANCHOR is not offered; the data is one block; zero blocks reach to the end.
    assert_eq!(
        code(&lab.send(A, &same(0x10, 2), &pattern)),
        Code::INVALID_FIELD_IN_CDB
    );
    assert_eq!(
        code(&lab.send(A, &same(0x18, 2), &pattern)),
        Code::INVALID_FIELD_IN_CDB
    );
    assert_eq!(
        code(&lab.send(A, &same(0, 2), &blocks_of(1, 2))),
        Code::INVALID_FIELD_IN_INFORMATION_UNIT
    );
    assert_eq!(
        lab.send(A, &same(0x08, 0), &blocks_of(0, 1)).status,
        Status::Good
    );
    let rest = StoreOp::Discard {
        offset: 1024,
        len: (BLOCK * (BLOCKS - 2)) as u64,
    };
    assert_eq!(lab.asked.last(), Some(&rest));
}

#[test]
fn unmap_discards_its_ranges_neighbours_at_once() {
    let mut lab = Lab::new();
    lab.send(A, &write10(0, 16), &blocks_of(1, 16));
    let (cdb, list) = client::unmap(&[(0, 1), (1, 2), (3, 0), (8, 1)]);
    assert_eq!(lab.send(A, cdb.as_bytes(), &list).status, Status::Good);
    let discards = [
        StoreOp::Discard {
            offset: 0,
            len: 1536,
        },
        StoreOp::Discard {
            offset: 4096,
            len: 512,
        },
    ];
    assert_eq!(lab.asked[lab.asked.len() - 2..], discards);
    assert_eq!(
        lab.medium[..4 * BLOCK],
        [blocks_of(0, 3), blocks_of(1, 1)].concat()
    );

    let send = |lab: &mut Lab, ranges: &[(u64, u32)]| {
        let (cdb, list) = client::unmap(ranges);
        lab.send(A, cdb.as_bytes(), &list)
    };
    assert_eq!(send(&mut lab, &[]).status, Status::Good);
    assert_eq!(send(&mut lab, &[(LAST, 0)]).status, Status::Good);
    assert_eq!(code(&send(&mut lab, &[(LAST, 1)])), Code::LBA_OUT_OF_RANGE);
    assert_eq!(
        code(&send(&mut lab, &[(u64::MAX, 2)])),
        Code::LBA_OUT_OF_RANGE
    );
    assert_eq!(
        code(&send(&mut lab, &[(0, 0); 257])),
        Code::INVALID_FIELD_IN_PARAMETER_LIST
    );
    let (cdb, list) = client::unmap(&[(0, 1)]);
    assert_eq!(
        code(&lab.send(A, cdb.as_bytes(), &list[..20])),
        Code::PARAMETER_LIST_LENGTH_ERROR
    );
}

#[test]
fn get_lba_status_tells_holes_from_data() {
    let mut lab = Lab::new();
    lab.send(A, &write10(2, 3), &blocks_of(1, 3));
    let status = |lba: u8| Cdb::new(&[0x9E, 0x12, 0, 0, 0, 0, 0, 0, 0, lba, 0, 0, 1, 0, 0, 0]);
    let data = lab.read_in(A, &status(1));
    assert_eq!(data[..8], [0, 0, 0, 52, 0, 0, 0, 0]);
    assert_eq!(
        data[8..24],
        [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 0]
    );
    assert_eq!(
        data[24..40],
        [0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0]
    );
    assert_eq!(
        data[40..56],
        [0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0x0F, 0xFB, 1, 0, 0, 0]
    );
    lab.fail = Some(StoreError::Unsupported);
    let data = lab.read_in(A, &status(1));
    assert_eq!(
        data[8..],
        [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0x0F, 0xFF, 0, 0, 0, 0]
    );
}

#[test]
fn extended_copy_copies_within_the_unit() {
    let mut lab = Lab::new();
    let data: Vec<u8> = (0..8 * BLOCK).map(|at| (at / BLOCK) as u8 + 1).collect();
    lab.send(A, &write10(0, 8), &data);
    let copy = |list_id: u8, usage: u8, blocks: u8, to: u16| {
        let mut target = vec![0xE4, 0, 0, 0, 1, 3, 0, 16];
        target.extend_from_slice(&super::config().naa);
        target.extend_from_slice(&[0, 0, 0, 0, 0, 0, 2, 0]);
        let mut segment = vec![2, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0, blocks];
        segment.extend_from_slice(&[0; 8]);
        segment.extend_from_slice(&u64::from(to).to_be_bytes());
        let head = [
            list_id,
            usage << 3,
            0,
            32,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            28,
            0,
            0,
            0,
            0,
        ];
        [&head[..], &target, &segment].concat()
    };
    let send = |lab: &mut Lab, list: &[u8]| {
        lab.send(
            A,
            &[
                0x83,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                list.len() as u8,
                0,
                0,
            ],
            list,
        )
    };
    assert_eq!(send(&mut lab, &copy(7, 0, 8, 100)).status, Status::Good);
    assert_eq!(lab.medium[100 * BLOCK..108 * BLOCK], data);
    // Its result is there once.
    let status = Cdb::new(&[0x84, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0]);
    assert_eq!(
        lab.read_in(A, &status),
        [0, 0, 0, 8, 1, 0, 1, 0, 0, 0, 0, 0]
    );
    assert_eq!(
        code(&lab.run(A, status.as_bytes())),
        Code::INVALID_FIELD_IN_CDB
    );
    // Beyond the end, an unknown target, a cut list.
    assert_eq!(
        send(&mut lab, &copy(7, 2, 8, 4095))
            .sense
            .map(|sense| sense.key),
        Some(SenseKey::CopyAborted)
    );
    let mut unknown = copy(7, 2, 8, 100);
    unknown[24] ^= 1;
    assert_eq!(
        code(&send(&mut lab, &unknown)),
        Code::COPY_TARGET_NOT_REACHABLE
    );
    let whole = copy(7, 2, 8, 100);
    for cut in 1..whole.len() {
        assert_eq!(
            code(&send(&mut lab, &whole[..cut])),
            Code::PARAMETER_LIST_LENGTH_ERROR
        );
    }
}
