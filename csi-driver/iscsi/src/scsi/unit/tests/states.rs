//! Modes, removable media, SANITIZE, size changes.

use super::{A, B, BLOCK, BLOCKS, Lab, blocks_of, code, config, key_and_code, read10, write10};
use crate::scsi::client::{self, Capacity};
use crate::scsi::unit::{StoreError, StoreOp};
use crate::scsi::{Cdb, Code, Lun, SenseFormat, SenseKey, Specific, Status, TaskFunction};

fn select_control(lab: &mut Lab, d_sense: u8, swp: u8) -> Status {
    let list = [
        0, 0, 0, 0, 0x0A, 0x0A, d_sense, 0x10, swp, 0, 0, 0, 0xFF, 0xFF, 0, 0,
    ];
    lab.send(A, &[0x15, 0x10, 0, 0, 16, 0], &list).status
}

#[test]
fn software_write_protect_stops_writes_and_tells_the_other_nexus() {
    let mut lab = Lab::new();
    assert_eq!(select_control(&mut lab, 0, 0x08), Status::Good);
    assert_eq!(code(&lab.run(B, &[0; 6])), Code::MODE_PARAMETERS_CHANGED);
    assert_eq!(lab.run(A, &[0; 6]).status, Status::Good);
    assert_eq!(
        lab.read_in(B, &Cdb::new(&[0x1A, 0x08, 0x0A, 0, 255, 0]))[2],
        0x90
    );
    for cdb in [
        &write10(0, 1)[..],
        &[0x2E, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        &[0x41, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        &[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0],
        &[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
        &[0x8B, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
        &[0x48, 0x02, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        assert_eq!(
            key_and_code(&lab.run(A, cdb)),
            (SenseKey::DataProtect, Code::WRITE_PROTECTED),
            "{cdb:x?}"
        );
    }
    assert_eq!(lab.run(A, &read10(0, 1)).status, Status::Good);
    assert_eq!(select_control(&mut lab, 0, 0), Status::Good);
    assert_eq!(
        lab.send(A, &write10(0, 1), &blocks_of(1, 1)).status,
        Status::Good
    );
}

#[test]
fn d_sense_changes_the_sense_format_until_a_reset() {
    let format = |lab: &mut Lab| {
        lab.run(A, &read10(u32::MAX, 1))
            .sense
            .map(|sense| sense.format)
    };
    let mut lab = Lab::new();
    assert_eq!(format(&mut lab), Some(SenseFormat::Fixed));
    select_control(&mut lab, 0x04, 0);
    assert_eq!(format(&mut lab), Some(SenseFormat::Descriptor));
    lab.manage(A, TaskFunction::LunReset);
    assert_eq!(format(&mut lab), Some(SenseFormat::Fixed));
}

#[test]
fn a_read_only_unit_says_so() {
    let mut config = config();
    config.read_only = true;
    let mut lab = Lab::with(config);
    assert_eq!(
        lab.read_in(A, &Cdb::new(&[0x1A, 0x08, 0x0A, 0, 255, 0]))[2],
        0x90
    );
    assert_eq!(
        key_and_code(&lab.run(A, &write10(0, 1))),
        (SenseKey::DataProtect, Code::WRITE_PROTECTED)
    );
}

#[test]
fn a_removable_medium_is_ejected_and_loaded_unless_prevented() {
    let eject = [0x1B, 0, 0, 0, 0x02, 0];
    let load = [0x1B, 0, 0, 0, 0x03, 0];
    let prevent = |on: u8| [0x1E, 0, 0, 0, on, 0];
    let mut config = config();
    config.removable = true;
    let mut lab = Lab::with(config);
    assert_eq!(lab.run(A, &prevent(1)).status, Status::Good);
    for nexus in [A, B] {
        assert_eq!(
            code(&lab.run(nexus, &eject)),
            Code::MEDIUM_REMOVAL_PREVENTED
        );
    }
    assert_eq!(lab.run(A, &prevent(0)).status, Status::Good);
    assert_eq!(lab.run(A, &eject).status, Status::Good);
    assert_eq!(lab.asked.last(), Some(&StoreOp::Flush));
    for cdb in [
        &[0; 6][..],
        &read10(0, 1),
        &write10(0, 1),
        &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        assert_eq!(
            key_and_code(&lab.run(A, cdb)),
            (SenseKey::NotReady, Code::MEDIUM_NOT_PRESENT)
        );
    }
    assert_eq!(lab.run(A, &[0x12, 0, 0, 0, 36, 0]).status, Status::Good);
    lab.run(A, &prevent(1));
    assert_eq!(code(&lab.run(A, &load)), Code::MEDIUM_REMOVAL_PREVENTED);
    lab.unit.nexus_removed(lab.now, A);
    assert_eq!(
        lab.run(B, &load).status,
        Status::Good,
        "prevention fell with its nexus"
    );
    assert_eq!(lab.run(B, &read10(0, 1)).status, Status::Good);
    // Stopping without ejecting, and power conditions, leave it ready.
    for byte in [0x00, 0x01, 0x04, 0x12, 0x32] {
        assert_eq!(lab.run(B, &[0x1B, 0, 0, 0, byte, 0]).status, Status::Good);
        assert_eq!(lab.run(B, &[0; 6]).status, Status::Good);
    }
}

#[test]
fn a_fixed_medium_cannot_be_ejected() {
    let mut lab = Lab::new();
    assert_eq!(
        code(&lab.run(A, &[0x1B, 0, 0, 0, 0x02, 0])),
        Code::INVALID_FIELD_IN_CDB
    );
    assert_eq!(
        code(&lab.run(A, &[0x1E, 0, 0, 0, 0x01, 0])),
        Code::INVALID_FIELD_IN_CDB
    );
}

fn overwrite(pattern: &[u8], flags: u8) -> (Vec<u8>, Vec<u8>) {
    let length = pattern.len() as u16;
    let list = [&[flags, 0][..], &length.to_be_bytes(), pattern].concat();
    let [high, low] = (length + 4).to_be_bytes();
    (vec![0x48, 0x01, 0, 0, 0, 0, 0, high, low, 0], list)
}

#[test]
fn sanitize_overwrite_fills_each_block_from_its_start() {
    let mut lab = Lab::new();
    let (cdb, list) = overwrite(&[1, 2, 3], 0x01);
    assert_eq!(lab.send(A, &cdb, &list).status, Status::Good);
    let block: Vec<u8> = [1, 2, 3].into_iter().cycle().take(BLOCK).collect();
    assert_eq!(lab.medium, block.repeat(BLOCKS));
    // Two passes, the first inverted.
    let (cdb, list) = overwrite(&[0xF0; 512], 0x82);
    lab.asked.clear();
    assert_eq!(lab.send(A, &cdb, &list).status, Status::Good);
    let first = |op: &StoreOp| match op {
        StoreOp::Write { data, .. } => data[0][0],
        other => panic!("{other:?}"),
    };
    assert_eq!(
        lab.asked.iter().map(first).collect::<Vec<_>>(),
        [0x0F, 0x0F, 0xF0, 0xF0]
    );
}

#[test]
fn sanitize_refuses_bad_lists_and_reserved_bits() {
    let mut lab = Lab::new();
    for length in [0, 1, 4, 517] {
        let cdb = [
            0x48,
            0x01,
            0,
            0,
            0,
            0,
            0,
            (length >> 8) as u8,
            length as u8,
            0,
        ];
        assert_eq!(
            code(&lab.send(A, &cdb, &vec![1; length])),
            Code::INVALID_FIELD_IN_CDB,
            "{length}"
        );
    }
    let (cdb, list) = overwrite(&[7; 512], 0x00);
    assert_eq!(
        code(&lab.send(A, &cdb, &list)),
        Code::INVALID_FIELD_IN_PARAMETER_LIST
    );
    let (cdb, mut list) = overwrite(&[7; 512], 0x01);
    list[2] = 0;
    assert_eq!(
        code(&lab.send(A, &cdb, &list)),
        Code::INVALID_FIELD_IN_PARAMETER_LIST
    );
    for byte in 1..7 {
        let mut cdb = [0x48, 0x02, 0, 0, 0, 0, 0, 0, 0, 0];
        cdb[byte] |= 0x40;
        assert_eq!(
            code(&lab.run(A, &cdb)),
            Code::INVALID_FIELD_IN_CDB,
            "{byte}"
        );
    }
    assert_eq!(
        code(&lab.run(A, &[0x48, 0x03, 0, 0, 0, 0, 0, 0, 0, 0])),
        Code::INVALID_FIELD_IN_CDB
    );
    assert_eq!(
        code(&lab.send(A, &[0x48, 0x1F, 0, 0, 0, 0, 0, 0, 8, 0], &[0; 8])),
        Code::INVALID_FIELD_IN_CDB
    );
}

#[test]
fn sanitize_goes_on_through_aborts_resets_and_logout_and_shows_its_progress() {
    let mut lab = Lab::new();
    lab.hold = true;
    let (cdb, list) = overwrite(&[9; 512], 0x01);
    let task = lab.submit(
        A,
        &Cdb::new(&cdb),
        vec![bytes::Bytes::copy_from_slice(&list)],
        crate::scsi::Expected::Out(list.len() as u32),
    );
    let outcome = lab.run(B, &[0; 6]);
    assert_eq!(
        key_and_code(&outcome),
        (SenseKey::NotReady, Code::NOT_READY_SANITIZE_IN_PROGRESS)
    );
    for cdb in [
        &read10(0, 1)[..],
        &[0x1B, 0, 0, 0, 0x02, 0],
        &[0x5F, 6, 0, 0, 0, 0, 0, 0, 24, 0],
    ] {
        assert_eq!(code(&lab.run(B, cdb)), Code::NOT_READY_SANITIZE_IN_PROGRESS);
    }
    assert_eq!(lab.run(B, &[0x12, 0, 0, 0, 36, 0]).status, Status::Good);
    lab.manage(A, TaskFunction::AbortTask { tag: task.tag });
    lab.manage(B, TaskFunction::LunReset);
    assert_eq!(lab.functions.len(), 2, "both answered at once");
    assert_eq!(lab.aborted, [task]);
    lab.unit.nexus_removed(lab.now, A);
    lab.release();
    assert_eq!(code(&lab.run(B, &[0; 6])), Code::BUS_DEVICE_RESET);
    let sense = lab.read_in(B, &Cdb::new(&[0x03, 0, 0, 0, 18, 0]));
    assert_eq!((sense[2], sense[12], sense[13]), (2, 0x04, 0x1B));
    let progress = lab.run(B, &[0; 6]).sense.and_then(|sense| sense.specific);
    assert_eq!(
        progress,
        Some(Specific::Progress(0xFFFF)),
        "the last step is under way"
    );
    lab.release_all();
    assert_eq!(lab.run(B, &[0; 6]).status, Status::Good);
    assert!(lab.medium.iter().all(|byte| *byte == 9));
}

#[test]
fn an_immediate_sanitize_is_answered_before_it_is_done() {
    let mut lab = Lab::new();
    lab.hold = true;
    assert_eq!(
        lab.run(A, &[0x48, 0x82, 0, 0, 0, 0, 0, 0, 0, 0]).status,
        Status::Good
    );
    assert_eq!(
        code(&lab.run(A, &[0; 6])),
        Code::NOT_READY_SANITIZE_IN_PROGRESS
    );
    lab.release_all();
    assert_eq!(lab.run(A, &[0; 6]).status, Status::Good);
    let erased = (BLOCK * BLOCKS) as u64;
    assert!(lab.asked.contains(&StoreOp::Discard {
        offset: 0,
        len: erased
    }));
}

#[test]
fn a_failed_sanitize_keeps_the_medium_closed_until_the_failure_mode_is_left() {
    let mut lab = Lab::new();
    lab.fail = Some(StoreError::Medium);
    lab.run(A, &[0x48, 0x02, 0, 0, 0, 0, 0, 0, 0, 0]);
    lab.fail = None;
    assert_eq!(
        key_and_code(&lab.run(A, &read10(0, 1))),
        (SenseKey::MediumError, Code::SANITIZE_FAILED)
    );
    // AUSE was 0: only another SANITIZE helps.
    assert_eq!(
        code(&lab.run(A, &[0x48, 0x1F, 0, 0, 0, 0, 0, 0, 0, 0])),
        Code::INVALID_FIELD_IN_CDB
    );
    lab.fail = Some(StoreError::Medium);
    lab.run(A, &[0x48, 0x22, 0, 0, 0, 0, 0, 0, 0, 0]);
    lab.fail = None;
    assert_eq!(
        lab.run(A, &[0x48, 0x1F, 0, 0, 0, 0, 0, 0, 0, 0]).status,
        Status::Good
    );
    assert_eq!(lab.run(A, &read10(0, 1)).status, Status::Good);
}

#[test]
fn a_new_size_is_told_and_served() {
    let mut lab = Lab::new();
    lab.unit.set_size((2 * BLOCK * BLOCKS) as u64);
    lab.medium.resize(2 * BLOCK * BLOCKS, 0);
    for nexus in [A, B] {
        assert_eq!(code(&lab.run(nexus, &[0; 6])), Code::CAPACITY_CHANGED);
    }
    let capacity = Capacity::parse(&lab.read_in(A, &client::read_capacity16())).expect("capacity");
    assert_eq!(capacity.blocks, 2 * BLOCKS as u64);
    assert_eq!(lab.run(A, &read10(BLOCKS as u32, 1)).status, Status::Good);
    lab.unit.set_luns(vec![Lun::from_number(0)]);
    assert_eq!(code(&lab.run(A, &[0; 6])), Code::REPORTED_LUNS_CHANGED);
}
