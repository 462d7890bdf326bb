//! Fences: what is aborted, what is waited for, and that nothing of a victim reaches the store later.

use std::time::Duration;

use bytes::Bytes;

use super::{A, B, BLOCK, BLOCKS, C, Lab, blocks_of, code, port, read10, write10};
use crate::scsi::client;
use crate::scsi::unit::StoreOp;
use crate::scsi::{
    Cdb, Code, Expected, NexusId, PrOut, PrType, Status, TargetAge, TaskFunction, TaskKey,
    TaskResponse,
};

const KA: u64 = 0xA100_0000_0000_AA01;
const KB: u64 = 0xB100_0000_0000_BB01;
const EARO: PrType = PrType::ExclusiveAccessRegistrants;

/// A writes under type 6, B is registered; operations are held from now on.
fn fenced_pair() -> Lab {
    let mut lab = Lab::new();
    for (nexus, new) in [(A, KA), (B, KB)] {
        assert_eq!(
            lab.reserve_out(nexus, PrOut::RegisterIgnore { new, aptpl: true }),
            Status::Good
        );
    }
    assert_eq!(
        lab.reserve_out(
            A,
            PrOut::Reserve {
                key: KA,
                kind: EARO
            }
        ),
        Status::Good
    );
    lab.hold = true;
    lab
}

fn write(lab: &mut Lab, nexus: NexusId, lba: u32, byte: u8) -> TaskKey {
    let data = vec![Bytes::from(blocks_of(byte, 1))];
    lab.submit(
        nexus,
        &Cdb::new(&write10(lba, 1)),
        data,
        Expected::Out(BLOCK as u32),
    )
}

fn fence() -> PrOut {
    PrOut::PreemptAbort {
        key: KB,
        victim: KA,
        kind: Some(EARO),
    }
}

#[test]
fn preempt_and_abort_is_answered_when_nothing_of_the_victim_is_under_way() {
    let mut lab = fenced_pair();
    let first = write(&mut lab, A, 0, 1);
    let second = write(&mut lab, A, 1, 2);
    let own = write(&mut lab, B, 2, 3);
    let fence = lab.submit_reserve_out(B, fence());
    let late = write(&mut lab, A, 3, 4);
    // The new state is saved; the victim's two writes are still at the store.
    let save = lab
        .held
        .iter()
        .position(|(_, op)| matches!(op, StoreOp::SavePr(_)))
        .expect("saved");
    let save = lab.held.remove(save).expect("there");
    lab.held.push_front(save);
    lab.release();
    assert_eq!(lab.aborted, [first, second, late]);
    assert_eq!(lab.gathering, [A]);
    assert!(!lab.done.contains_key(&fence));
    lab.release();
    assert!(!lab.done.contains_key(&fence));
    let too_late = write(&mut lab, A, 4, 5);
    lab.release();
    assert_eq!(lab.outcome(fence).status, Status::Good);
    lab.release_all();
    assert_eq!(
        lab.outcome(own).status,
        Status::Good,
        "tasks of others go on"
    );
    // What came between and after: attention first, then conflict; nothing reaches the store.
    assert_eq!(code(&lab.outcome(too_late)), Code::REGISTRATIONS_PREEMPTED);
    let after = write(&mut lab, A, 5, 6);
    assert_eq!(lab.outcome(after).status, Status::ReservationConflict);
    assert!(lab.held.is_empty());
    assert_eq!(lab.medium[3 * BLOCK..6 * BLOCK], blocks_of(0, 3));
}

#[test]
fn a_victim_that_fills_the_task_set_cannot_keep_the_fence_out() {
    let mut lab = fenced_pair();
    let writes: Vec<TaskKey> = (0..64).map(|lba| write(&mut lab, A, lba, 1)).collect();
    let over = write(&mut lab, B, 64, 2);
    assert_eq!(lab.outcome(over).status, Status::TaskSetFull);
    let fence = lab.submit_reserve_out(B, fence());
    lab.held.rotate_right(1);
    lab.release();
    assert_eq!(lab.aborted, writes);
    lab.release_all();
    assert_eq!(lab.outcome(fence).status, Status::Good);
}

#[test]
fn a_long_command_of_the_victim_stops_at_its_present_step() {
    let mut lab = fenced_pair();
    let data = vec![Bytes::from(blocks_of(7, 1))];
    let same = Cdb::new(&[0x41, 0, 0, 0, 0, 0, 0, 0x0F, 0xFF, 0]);
    let long = lab.submit(A, &same, data, Expected::Out(BLOCK as u32));
    let fence = lab.submit_reserve_out(B, fence());
    lab.held.rotate_left(1);
    lab.release();
    assert_eq!(lab.aborted, [long]);
    assert!(lab.done.is_empty());
    lab.release();
    assert_eq!(lab.outcome(fence).status, Status::Good);
    assert!(lab.held.is_empty());
    assert_eq!(lab.medium[2048 * BLOCK..], vec![0; (BLOCKS - 2048) * BLOCK]);
}

#[test]
fn a_victim_whose_session_is_gone_is_waited_for_all_the_same() {
    let mut lab = fenced_pair();
    write(&mut lab, A, 0, 1);
    lab.unit.nexus_removed(lab.now, A);
    lab.pump();
    assert!(lab.aborted.is_empty(), "nobody is there to be told");
    let fence = lab.submit_reserve_out(B, fence());
    lab.held.rotate_left(1);
    lab.release();
    assert!(lab.done.is_empty());
    lab.release();
    assert_eq!(lab.outcome(fence).status, Status::Good);
}

#[test]
fn a_reservation_waits_for_writes_that_it_forbids() {
    let mut lab = Lab::new();
    assert_eq!(
        lab.reserve_out(
            B,
            PrOut::RegisterIgnore {
                new: KB,
                aptpl: false
            }
        ),
        Status::Good
    );
    lab.hold = true;
    let stranger = write(&mut lab, A, 0, 1);
    let reserve = lab.submit_reserve_out(
        B,
        PrOut::Reserve {
            key: KB,
            kind: EARO,
        },
    );
    assert!(!lab.done.contains_key(&reserve));
    lab.release();
    assert_eq!(lab.outcome(stranger).status, Status::Good);
    assert_eq!(lab.outcome(reserve).status, Status::Good);
}

#[test]
fn abort_task_waits_for_the_operation_and_then_the_task_has_no_status() {
    let mut lab = Lab::new();
    lab.hold = true;
    let task = write(&mut lab, A, 0, 1);
    let tag = lab.manage(A, TaskFunction::AbortTask { tag: task.tag });
    assert_eq!(lab.aborted, [task]);
    assert!(lab.functions.is_empty());
    lab.release();
    assert_eq!(lab.functions, [(tag, TaskResponse::Complete)]);
    assert!(lab.done.is_empty());
    let tag = lab.manage(A, TaskFunction::AbortTask { tag: task.tag });
    assert_eq!(lab.functions.pop(), Some((tag, TaskResponse::TaskNotFound)));
    let other = write(&mut lab, A, 0, 1);
    let tag = lab.manage(B, TaskFunction::AbortTask { tag: other.tag });
    assert_eq!(
        lab.functions.pop(),
        Some((tag, TaskResponse::TaskNotFound)),
        "only one's own"
    );
}

#[test]
fn abort_task_set_ends_ones_own_and_clear_task_set_everybodys() {
    let mut lab = Lab::new();
    lab.hold = true;
    let mine = write(&mut lab, A, 0, 1);
    let theirs = write(&mut lab, B, 1, 2);
    let tag = lab.manage(A, TaskFunction::AbortTaskSet);
    assert_eq!(
        (lab.aborted.clone(), lab.gathering.clone()),
        (vec![mine], vec![A])
    );
    lab.release();
    assert_eq!(lab.functions, [(tag, TaskResponse::Complete)]);
    let tag = lab.manage(A, TaskFunction::ClearTaskSet);
    assert_eq!(lab.aborted, [mine, theirs]);
    lab.release();
    assert_eq!(lab.functions.pop(), Some((tag, TaskResponse::Complete)));
    lab.hold = false;
    assert_eq!(code(&lab.run(B, &[0; 6])), Code::COMMANDS_CLEARED);
    assert_eq!(lab.run(A, &[0; 6]).status, Status::Good);
}

#[test]
fn lun_reset_ends_all_tasks_releases_reserve_6_and_tells_everybody() {
    let mut lab = Lab::new();
    lab.run(A, &[0x16, 0, 0, 0, 0, 0]);
    lab.hold = true;
    let mine = write(&mut lab, A, 0, 1);
    let tag = lab.manage(B, TaskFunction::LunReset);
    assert_eq!(lab.aborted, [mine]);
    assert_eq!(lab.gathering, [A, B]);
    assert!(lab.functions.is_empty());
    lab.release();
    assert_eq!(lab.functions, [(tag, TaskResponse::Complete)]);
    lab.hold = false;
    for nexus in [A, B] {
        assert_eq!(code(&lab.run(nexus, &[0; 6])), Code::BUS_DEVICE_RESET);
        assert_eq!(lab.run(nexus, &[0; 6]).status, Status::Good);
    }
}

#[test]
fn persistent_reservations_survive_a_lun_reset() {
    let mut lab = fenced_pair();
    lab.hold = false;
    lab.login(C);
    lab.manage(B, TaskFunction::LunReset);
    assert_eq!(code(&lab.run(C, &read10(0, 1))), Code::BUS_DEVICE_RESET);
    assert_eq!(
        lab.run(C, &read10(0, 1)).status,
        Status::ReservationConflict
    );
}

#[test]
fn a_reset_during_a_fence_drops_the_answer_but_not_the_change() {
    let mut lab = fenced_pair();
    write(&mut lab, A, 0, 1);
    let fence = lab.submit_reserve_out(B, fence());
    let reset = lab.manage(A, TaskFunction::LunReset);
    assert!(lab.aborted.contains(&fence));
    lab.release_all();
    assert_eq!(lab.functions, [(reset, TaskResponse::Complete)]);
    lab.hold = false;
    let keys = client::Keys::parse(&lab.read_in(B, &client::pr_read_keys())).expect("keys");
    assert_eq!(keys.keys, [KB]);
    assert_eq!(lab.unit.tasks(), 0);
}

#[test]
fn queries_tell_whether_a_task_is_there() {
    let mut lab = Lab::new();
    lab.hold = true;
    let task = write(&mut lab, A, 0, 1);
    let mut ask = |function| {
        lab.manage(A, function);
        lab.functions.pop().map(|(_, response)| response)
    };
    assert_eq!(
        ask(TaskFunction::QueryTask { tag: task.tag }),
        Some(TaskResponse::Succeeded)
    );
    assert_eq!(
        ask(TaskFunction::QueryTask { tag: 9999 }),
        Some(TaskResponse::Complete)
    );
    assert_eq!(
        ask(TaskFunction::QueryTaskSet),
        Some(TaskResponse::Succeeded)
    );
    assert_eq!(
        ask(TaskFunction::ClearAca),
        Some(TaskResponse::NotSupported)
    );
}

#[test]
fn commands_of_a_new_session_wait_for_those_of_the_one_it_replaces() {
    let mut lab = Lab::new();
    lab.hold = true;
    write(&mut lab, A, 0, 1);
    lab.unit.nexus_removed(lab.now, A);
    let again = NexusId(60);
    lab.unit.nexus_added(lab.now, again, port(A));
    let attention = lab.submit(again, &Cdb::new(&[0; 6]), Vec::new(), Expected::None);
    let resent = write(&mut lab, again, 0, 2);
    assert!(lab.done.is_empty());
    assert_eq!(lab.held.len(), 1, "the old write alone is at the store");
    lab.release();
    assert_eq!(code(&lab.outcome(attention)), Code::NEXUS_LOSS);
    lab.release();
    assert_eq!(lab.outcome(resent).status, Status::Good);
    assert_eq!(lab.medium[0], 2);
}

fn age(lab: &mut Lab, nexus: NexusId) -> TargetAge {
    TargetAge::parse(&lab.read_in(nexus, &client::target_age())).expect("page C0h")
}

#[test]
fn page_c0_counts_commands_of_other_attaches_only() {
    let mut lab = Lab::new();
    let quiet = age(&mut lab, B);
    assert_eq!(
        (quiet.boot_id, quiet.uptime),
        (0xB007, Duration::from_secs(900))
    );
    assert_eq!(quiet.foreign_command, None, "nobody is registered");
    lab.login(C);
    for (nexus, new) in [(A, KA), (B, KB), (C, KB ^ 0x03)] {
        lab.reserve_out(nexus, PrOut::RegisterIgnore { new, aptpl: false });
    }
    lab.run(A, &read10(0, 1));
    lab.now += Duration::from_secs(5);
    lab.run(C, &read10(0, 1));
    lab.now += Duration::from_millis(1500);
    // C is the same attach as B in another session: its read does not count.
    assert_eq!(
        age(&mut lab, B).foreign_command,
        Some(Duration::from_millis(6500))
    );
    assert_eq!(
        lab.unit.foreign_command_age(lab.now, KB),
        Some(Duration::from_millis(6500))
    );
    // A plan's key does not count either.
    lab.reserve_out(
        C,
        PrOut::RegisterIgnore {
            new: 0xC1 << 56 | 7,
            aptpl: false,
        },
    );
    lab.run(C, &read10(0, 1));
    assert_eq!(
        age(&mut lab, B).foreign_command,
        Some(Duration::from_millis(6500))
    );
    // A logout does not make a command younger or forgotten.
    lab.unit.nexus_removed(lab.now, A);
    lab.now += Duration::from_secs(1);
    assert_eq!(
        age(&mut lab, B).foreign_command,
        Some(Duration::from_millis(7500))
    );
    assert!(!age(&mut lab, B).frozen);
}

#[test]
fn page_c0_is_frozen_when_preempt_and_abort_completed() {
    let mut lab = fenced_pair();
    lab.hold = false;
    lab.run(A, &read10(0, 1));
    lab.now += Duration::from_secs(3);
    lab.hold = true;
    write(&mut lab, A, 0, 1);
    lab.now += Duration::from_secs(2);
    let fence = lab.submit_reserve_out(B, fence());
    lab.now += Duration::from_secs(4);
    lab.release_all();
    assert_eq!(lab.outcome(fence).status, Status::Good);
    lab.hold = false;
    lab.now += Duration::from_secs(100);
    lab.run(A, &read10(0, 1));
    let seen = age(&mut lab, B);
    assert_eq!(
        (seen.foreign_command, seen.frozen),
        (Some(Duration::from_secs(6)), true)
    );
    assert_eq!(seen.uptime, Duration::from_secs(1009));
    // Another attach sees its own view.
    assert!(!age(&mut lab, A).frozen);
}
