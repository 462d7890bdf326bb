//! What may run side by side and what waits.

use bytes::Bytes;

use super::{A, B, BLOCK, Lab, blocks_of, read10, write10};
use crate::scsi::unit::{OpId, StoreOp, StoreReply};
use crate::scsi::{Attribute, Cdb, Expected, Status, TaskKey};

fn write(lab: &mut Lab, lba: u32, byte: u8) -> TaskKey {
    let data = vec![Bytes::from(blocks_of(byte, 1))];
    lab.submit(
        A,
        &Cdb::new(&write10(lba, 1)),
        data,
        Expected::Out(BLOCK as u32),
    )
}

fn compare_and_write(lab: &mut Lab, lba: u8, from: u8, to: u8) -> TaskKey {
    let cdb = Cdb::new(&[0x89, 0, 0, 0, 0, 0, 0, 0, 0, lba, 0, 0, 0, 1, 0, 0]);
    let data = vec![
        Bytes::from(blocks_of(from, 1)),
        Bytes::from(blocks_of(to, 1)),
    ];
    lab.submit(B, &cdb, data, Expected::Out(2 * BLOCK as u32))
}

#[test]
fn plain_reads_and_writes_run_side_by_side() {
    let mut lab = Lab::new();
    lab.hold = true;
    write(&mut lab, 0, 1);
    write(&mut lab, 0, 2);
    lab.submit(A, &Cdb::new(&read10(0, 1)), Vec::new(), Expected::In(512));
    assert_eq!(lab.held.len(), 3);
}

#[test]
fn nothing_comes_between_the_compare_and_the_write() {
    let mut lab = Lab::new();
    lab.hold = true;
    let swap = compare_and_write(&mut lab, 0, 0, 5);
    let overlapping = write(&mut lab, 0, 9);
    let elsewhere = write(&mut lab, 1, 8);
    let reader = lab.submit(A, &Cdb::new(&read10(0, 1)), Vec::new(), Expected::In(512));
    assert_eq!(
        lab.held.len(),
        2,
        "the compare's read and the write elsewhere"
    );
    lab.release();
    lab.release();
    assert_eq!(lab.outcome(elsewhere).status, Status::Good);
    assert_eq!(lab.held.len(), 1, "the swap's write");
    lab.release();
    assert_eq!(lab.outcome(swap).status, Status::Good);
    assert_eq!(lab.held.len(), 2);
    lab.release_all();
    assert_eq!(lab.outcome(overlapping).status, Status::Good);
    assert_eq!(lab.outcome(reader).status, Status::Good);
}

#[test]
fn of_two_compare_and_writes_on_one_block_one_wins() {
    let mut lab = Lab::new();
    lab.hold = true;
    let first = compare_and_write(&mut lab, 4, 0, 1);
    let second = compare_and_write(&mut lab, 4, 0, 2);
    lab.release_all();
    assert_eq!(lab.outcome(first).status, Status::Good);
    assert_eq!(lab.outcome(second).status, Status::CheckCondition);
    assert_eq!(lab.medium[4 * BLOCK], 1);
}

#[test]
fn a_compare_and_write_waits_for_writes_before_it() {
    let mut lab = Lab::new();
    lab.hold = true;
    write(&mut lab, 0, 7);
    let swap = compare_and_write(&mut lab, 0, 7, 8);
    assert_eq!(lab.held.len(), 1);
    lab.release_all();
    assert_eq!(lab.outcome(swap).status, Status::Good);
    assert_eq!(lab.medium[0], 8);
}

#[test]
fn an_ordered_task_divides_the_others_and_head_of_queue_passes_it() {
    let mut lab = Lab::new();
    lab.hold = true;
    write(&mut lab, 0, 1);
    let cdb = Cdb::new(&write10(1, 1));
    let data = || vec![Bytes::from(blocks_of(2, 1))];
    let ordered = lab.submit_as(
        A,
        Attribute::Ordered,
        &cdb,
        data(),
        Expected::Out(BLOCK as u32),
    );
    write(&mut lab, 2, 3);
    assert_eq!(lab.held.len(), 1);
    lab.submit_as(
        A,
        Attribute::HeadOfQueue,
        &Cdb::new(&read10(0, 1)),
        Vec::new(),
        Expected::In(512),
    );
    assert_eq!(lab.held.len(), 2);
    lab.release();
    lab.release();
    assert_eq!(lab.held.len(), 1, "now the ordered one alone");
    lab.release();
    assert_eq!(lab.outcome(ordered).status, Status::Good);
    assert_eq!(lab.held.len(), 1, "then the one behind it");
    lab.release_all();
    assert_eq!(lab.medium[2 * BLOCK], 3);
}

#[test]
fn more_tasks_than_the_limit_get_task_set_full() {
    let mut lab = Lab::new();
    lab.hold = true;
    for lba in 0..64 {
        write(&mut lab, lba, 1);
    }
    let over = write(&mut lab, 64, 1);
    assert_eq!(lab.outcome(over).status, Status::TaskSetFull);
    lab.release();
    let fits = write(&mut lab, 64, 1);
    lab.release_all();
    assert_eq!(lab.outcome(fits).status, Status::Good);
}

#[test]
fn a_long_queue_behind_one_task_starts_in_order_and_without_recursion() {
    let mut config = super::config();
    config.task_limit = 20_000;
    let mut lab = Lab::with(config);
    lab.hold = true;
    let swap = compare_and_write(&mut lab, 0, 0, 5);
    let ready = Cdb::new(&[0; 6]);
    let mut queue = Vec::new();
    let ordered = lab.submit_as(A, Attribute::Ordered, &ready, Vec::new(), Expected::None);
    for _ in 0..1000 {
        queue.push(lab.submit(A, &ready, Vec::new(), Expected::None));
    }
    assert!(lab.done.is_empty());
    lab.release_all();
    assert_eq!(lab.outcome(swap).status, Status::Good);
    assert_eq!(lab.outcome(ordered).status, Status::Good);
    for task in queue {
        assert_eq!(lab.outcome(task).status, Status::Good);
    }
}

#[test]
fn answers_to_unknown_and_past_operations_are_ignored() {
    let mut lab = Lab::new();
    lab.hold = true;
    let task = write(&mut lab, 0, 1);
    let (op, _) = lab.held[0].clone();
    lab.unit
        .handle_store(lab.now, OpId(op.0 + 1), Ok(StoreReply::Done));
    lab.unit
        .handle_store(lab.now, OpId(u64::MAX), Ok(StoreReply::Done));
    lab.pump();
    assert!(lab.done.is_empty());
    lab.release();
    assert_eq!(lab.outcome(task).status, Status::Good);
    let next = write(&mut lab, 0, 2);
    lab.unit.handle_store(lab.now, op, Ok(StoreReply::Done));
    lab.pump();
    assert!(
        !lab.done.contains_key(&next),
        "the old id does not name the new task"
    );
    assert!(matches!(lab.held.front(), Some((_, StoreOp::Write { .. }))));
}
