//! Rules of the target that an honest initiator never tries.

use super::super::*;
use super::pair::*;
use super::raw::*;
use crate::scsi::{Residual, TaskFunction, TaskResponse};
use crate::wire::data_out::DataOut;
use crate::wire::login::Stage;
use crate::wire::nop::NopOut;
use crate::wire::r2t::R2t;
use crate::wire::scsi_command::ScsiCommand;
use crate::wire::task_management::{TaskManagementRequest, function};
use crate::wire::{NO_TAG, opcode, u32_at};

fn data_out(itt: u32, ttt: u32, data_sn: u32, offset: u32, last: bool) -> DataOut {
    DataOut {
        last,
        lun: LUN,
        itt,
        ttt,
        exp_stat_sn: 0,
        data_sn,
        offset,
    }
}

/// The status, sense key and code of a CHECK CONDITION among these answers.
fn check_condition(raw: &mut Raw) -> Option<(u8, u8, u8)> {
    raw.answers().into_iter().find_map(|pdu| {
        let response = pdu.header[0] == opcode::SCSI_RESPONSE && pdu.header[3] == 0x02;
        let sense = pdu.data.concat();
        response.then(|| (sense[4] & 0x0F, sense[14], sense[15]))
    })
}

#[test]
fn commands_outside_the_window_are_ignored_in_silence() {
    let mut raw = Raw::logged_in(target_config(), "");
    for cmd_sn in [99, 100 + 128, 0, u32::MAX] {
        let command = ScsiCommand {
            cmd_sn,
            ..raw.next_command(7)
        };
        raw.send(&command.emit(0), &[]);
    }
    raw.cmd_sn = 100;
    assert_eq!(
        (raw.events.len(), raw.answers().len(), &raw.error),
        (0, 0, &None)
    );
    let command = raw.next_command(7);
    raw.send(&command.emit(0), &[]);
    assert_eq!(raw.commands().len(), 1);
    // The same number again.
    raw.send(&ScsiCommand { itt: 8, ..command }.emit(0), &[]);
    assert_eq!(raw.commands().len(), 0);
}

#[test]
fn commands_out_of_order_wait_for_the_missing_one_with_their_data() {
    let mut raw = Raw::logged_in(target_config(), "InitialR2T=No\0");
    let first = raw.next_command(1);
    let write = raw.next_write(2, 1024);
    let third = raw.next_command(3);
    raw.send(&third.emit(0), &[]);
    raw.send(
        &ScsiCommand {
            last: false,
            ..write
        }
        .emit(512),
        &[1; 512],
    );
    raw.send(&data_out(2, NO_TAG, 0, 512, true).emit(512), &[2; 512]);
    assert_eq!(raw.commands().len(), 0);
    raw.send(&first.emit(0), &[]);
    let commands = raw.commands();
    let opcodes: Vec<u8> = commands
        .iter()
        .map(|command| command.cdb.opcode())
        .collect();
    assert_eq!(opcodes, [0x00, 0x2A, 0x00]);
    assert_eq!(commands[1].data_out.concat(), [[1; 512], [2; 512]].concat());
}

#[test]
fn a_task_that_has_not_come_is_aborted_before_it_comes() {
    let mut raw = Raw::logged_in(target_config(), "");
    let missing = raw.next_command(1);
    let second = raw.next_command(2);
    raw.send(&second.emit(0), &[]);
    let abort = TaskManagementRequest {
        immediate: true,
        function: function::ABORT_TASK,
        lun: LUN,
        itt: 50,
        referenced_itt: 1,
        cmd_sn: raw.cmd_sn,
        exp_stat_sn: 0,
        ref_cmd_sn: missing.cmd_sn,
    };
    raw.send(&abort.emit(), &[]);
    let answers = raw.answers();
    assert_eq!((answers[0].header[0], answers[0].header[2]), (0x22, 0));
    let given: Vec<u8> = raw
        .commands()
        .iter()
        .map(|command| command.cdb.opcode())
        .collect();
    assert_eq!(given, [0x00]);
    raw.send(&missing.emit(0), &[]);
    assert_eq!(raw.commands().len(), 0);
    // A task that is long gone is not found.
    let gone = TaskManagementRequest {
        itt: 51,
        ref_cmd_sn: 90,
        ..abort
    };
    raw.send(&gone.emit(), &[]);
    assert_eq!(raw.answers()[0].header[2], 1);
}

#[test]
fn data_out_with_wrong_numbers_ends_the_command_and_gives_nothing_to_the_server() {
    // Two Data-Outs of 512 bytes: their DataSN, and whether the write may succeed.
    for (numbers, right) in [
        ([0, 1], true),
        ([0, 0], false),
        ([27, 28], false),
        ([u32::MAX, 0], false),
        ([1, 0], false),
    ] {
        let mut raw = Raw::logged_in(target_config(), "InitialR2T=Yes\0");
        let write = raw.next_write(1, 1024);
        raw.send(&write.emit(0), &[]);
        let r2t = R2t::parse(&raw.answers()[0].header);
        assert_eq!((r2t.offset, r2t.length, r2t.r2t_sn), (0, 1024, 0));
        raw.send(
            &data_out(1, r2t.ttt, numbers[0], 0, false).emit(512),
            &[3; 512],
        );
        raw.send(
            &data_out(1, r2t.ttt, numbers[1], 512, true).emit(512),
            &[3; 512],
        );
        assert_eq!(raw.commands().len(), usize::from(right), "{numbers:?}");
        if !right {
            assert_eq!(check_condition(&mut raw), Some((0x0B, 0x4B, 0x00)));
        }
        assert_eq!(raw.error, None);
        let next = raw.next_command(2);
        raw.send(&next.emit(0), &[]);
        assert_eq!(raw.commands().len(), 1);
    }
}

#[test]
fn unsolicited_data_that_were_not_agreed_end_the_command() {
    // Immediate data without leave.
    let mut raw = Raw::logged_in(target_config(), "ImmediateData=No\0");
    let write = raw.next_write(1, 1024);
    raw.send(&write.emit(512), &[0; 512]);
    assert_eq!(check_condition(&mut raw), Some((0x0B, 0x0C, 0x0C)));
    // Data-Outs announced without leave.
    let mut raw = Raw::logged_in(target_config(), "");
    let write = raw.next_write(1, 1024);
    raw.send(
        &ScsiCommand {
            last: false,
            ..write
        }
        .emit(0),
        &[],
    );
    assert_eq!(check_condition(&mut raw), Some((0x0B, 0x0C, 0x0C)));
    // More than the first burst.
    let mut raw = Raw::logged_in(target_config(), "InitialR2T=No\0FirstBurstLength=512\0");
    let write = raw.next_write(1, 2048);
    raw.send(
        &ScsiCommand {
            last: false,
            ..write
        }
        .emit(512),
        &[0; 512],
    );
    raw.send(&data_out(1, NO_TAG, 0, 512, true).emit(512), &[0; 512]);
    assert_eq!(check_condition(&mut raw), Some((0x0B, 0x0C, 0x0C)));
    // Data with a command that reads.
    let read = ScsiCommand {
        read: true,
        expected_length: 512,
        ..raw.next_command(2)
    };
    raw.send(&read.emit(4), &[0; 4]);
    assert_eq!(check_condition(&mut raw), Some((0x0B, 0x0C, 0x0C)));
    assert!(raw.commands().is_empty());
    assert_eq!(raw.session.open_tasks(), 0);
}

#[test]
fn data_out_of_no_task_is_ignored() {
    let mut raw = Raw::logged_in(target_config(), "");
    raw.send(&data_out(9, NO_TAG, 0, 0, true).emit(512), &[0; 512]);
    raw.send(&data_out(NO_TAG, 1, 0, 0, true).emit(512), &[0; 512]);
    assert_eq!((raw.answers().len(), &raw.error), (0, &None));
}

#[test]
fn a_tag_in_use_is_rejected() {
    let mut raw = Raw::logged_in(target_config(), "");
    for _ in 0..2 {
        let command = raw.next_command(7);
        raw.send(&command.emit(0), &[]);
    }
    let answers = raw.answers();
    assert_eq!((answers[0].header[0], answers[0].header[2]), (0x3F, 0x07));
    assert_eq!(raw.commands().len(), 1);
}

#[test]
fn a_bidirectional_command_is_refused() {
    let mut raw = Raw::logged_in(target_config(), "");
    let both = ScsiCommand {
        read: true,
        ..raw.next_write(1, 512)
    };
    raw.send(&both.emit(0), &[]);
    assert_eq!(check_condition(&mut raw), Some((0x05, 0x24, 0x00)));
}

#[test]
fn immediate_commands_go_beside_the_window_up_to_a_bound() {
    let mut config = target_config();
    config.limits.queue_depth = 1;
    let mut raw = Raw::logged_in(config, "");
    for itt in 0..17 {
        let command = ScsiCommand {
            immediate: true,
            cmd_sn: 100,
            ..raw.next_command(itt)
        };
        raw.send(&command.emit(0), &[]);
    }
    let answers = raw.answers();
    assert_eq!(
        (answers.len(), answers[0].header[0], answers[0].header[2]),
        (1, 0x3F, 0x06)
    );
    assert_eq!(raw.commands().len(), 16);
    raw.cmd_sn = 100;
    let ordinary = raw.next_command(77);
    raw.send(&ordinary.emit(0), &[]);
    assert_eq!(raw.commands().len(), 1);
}

#[test]
fn a_nop_out_comes_back_with_its_data() {
    let mut raw = Raw::logged_in(target_config(), "MaxRecvDataSegmentLength=512\0");
    let nop = NopOut {
        immediate: true,
        lun: LUN,
        itt: 3,
        ttt: NO_TAG,
        cmd_sn: 100,
        exp_stat_sn: 0,
    };
    raw.send(&nop.emit(600), &[8; 600]);
    raw.send(&NopOut { itt: NO_TAG, ..nop }.emit(0), &[]);
    let answers = raw.answers();
    assert_eq!(answers.len(), 1);
    assert_eq!((answers[0].header[0], answers[0].data_len), (0x20, 512));
    assert_eq!(u32_at(&answers[0].header, 16), 3);
    assert_eq!(answers[0].data.concat(), [8; 512]);
}

#[test]
fn status_numbers_count_only_status() {
    let mut raw = Raw::logged_in(target_config(), "InitialR2T=Yes\0");
    let write = raw.next_write(1, 512);
    raw.send(&write.emit(0), &[]);
    let r2t = raw.answers().remove(0);
    let ttt = u32_at(&r2t.header, 20);
    raw.send(&data_out(1, ttt, 0, 0, true).emit(512), &[0; 512]);
    let task = raw.commands()[0].task;
    raw.session.respond(task, good(vec![], Residual::None));
    let response = raw.answers().remove(0);
    // The R2T names the StatSN that the response then has.
    assert_eq!(u32_at(&r2t.header, 24), u32_at(&response.header, 24));
    assert_eq!(u32_at(&response.header, 36), 1);
    let command = raw.next_command(2);
    raw.send(&command.emit(0), &[]);
    let task = raw.commands()[0].task;
    raw.session.respond(task, good(vec![], Residual::None));
    let next = raw.answers().remove(0);
    assert_eq!(u32_at(&next.header, 24), u32_at(&response.header, 24) + 1);
    assert_eq!(u32_at(&next.header, 28), 102);
    assert_eq!(u32_at(&next.header, 32), 102 + 127);
}

#[test]
fn data_in_is_cut_to_segments_and_bursts_of_the_initiator() {
    let mut raw = Raw::logged_in(
        target_config(),
        "MaxRecvDataSegmentLength=1024\0MaxBurstLength=2560\0",
    );
    let read = ScsiCommand {
        read: true,
        expected_length: 6000,
        ..raw.next_command(1)
    };
    raw.send(&read.emit(0), &[]);
    let task = raw.commands()[0].task;
    let data = pattern(&mut Dice::new(1), 1, 5632);
    raw.session.respond(task, good(data, Residual::None));
    let seen: Vec<(u32, u8, u32)> = raw
        .answers()
        .iter()
        .map(|pdu| (pdu.data_len, pdu.header[1], u32_at(&pdu.header, 40)))
        .collect();
    assert_eq!(
        seen,
        [
            (1024, 0x00, 0),
            (1024, 0x00, 1024),
            (512, 0x80, 2048),
            (1024, 0x00, 2560),
            (1024, 0x00, 3584),
            (512, 0x80, 4608),
            (512, 0x83, 5120),
        ]
    );
}

#[test]
fn unknown_opcodes_and_snacks_are_rejected_and_logins_end_the_session() {
    let mut raw = Raw::logged_in(target_config(), "");
    let mut header = [0; 48];
    header[0] = 0x1C;
    raw.send(&header, &[]);
    header[0] = 0x10;
    raw.send(&header, &[]);
    let reasons: Vec<(u8, u8)> = raw
        .answers()
        .iter()
        .map(|pdu| (pdu.header[0], pdu.header[2]))
        .collect();
    assert_eq!(reasons, [(0x3F, 0x05), (0x3F, 0x03)]);
    let login = login_request(transit(Stage::Operational, None));
    raw.send(&login.emit(0), &[]);
    assert_eq!(
        raw.error,
        Some(SessionError::UnexpectedPdu { opcode: 0x03 })
    );
    assert_eq!(raw.opcodes(), [0x3F]);
    assert!(matches!(
        raw.events[..],
        [TargetEvent::Closed(CloseReason::Error(_))]
    ));
}

#[test]
fn task_management_that_needs_no_server_is_answered_at_once() {
    let mut raw = Raw::logged_in(target_config(), "");
    for (function, answer) in [
        (function::TASK_REASSIGN, 4),
        (9, 5),
        (12, 5),
        (0x7F, 5),
        (0, 5),
    ] {
        let request = TaskManagementRequest {
            immediate: true,
            function,
            lun: LUN,
            itt: 50,
            referenced_itt: NO_TAG,
            cmd_sn: 100,
            exp_stat_sn: 0,
            ref_cmd_sn: 0,
        };
        raw.send(&request.emit(), &[]);
        assert_eq!(raw.answers()[0].header[2], answer, "{function}");
    }
    assert!(raw.events.is_empty());
}

#[test]
fn task_management_under_way_is_bounded() {
    let mut raw = Raw::logged_in(target_config(), "");
    let request = TaskManagementRequest {
        immediate: true,
        function: function::LUN_RESET,
        lun: LUN,
        itt: 50,
        referenced_itt: NO_TAG,
        cmd_sn: 100,
        exp_stat_sn: 0,
        ref_cmd_sn: 0,
    };
    for itt in 0..17 {
        raw.send(&TaskManagementRequest { itt, ..request }.emit(), &[]);
    }
    let answers = raw.answers();
    assert_eq!((answers.len(), answers[0].header[2]), (1, 255));
    let events = std::mem::take(&mut raw.events);
    assert_eq!(events.len(), 16);
    for event in events {
        let TargetEvent::TaskManagement {
            request, function, ..
        } = event
        else {
            panic!("{event:?}");
        };
        assert_eq!(function, TaskFunction::LunReset);
        raw.session
            .respond_task_management(request, TaskResponse::Complete);
    }
    assert_eq!(raw.opcodes().len(), 16);
}
