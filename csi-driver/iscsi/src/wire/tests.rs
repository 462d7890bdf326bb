//! Each PDU against constant bytes, both ways, and against random headers.

use proptest::prelude::*;

use super::async_message::{AsyncMessage, event};
use super::data_in::{CollapsedStatus, DataIn};
use super::data_out::DataOut;
use super::login::{LoginRequest, LoginResponse, LoginStatus, Stage, Transit};
use super::logout::{LogoutReason, LogoutRequest, LogoutResponse};
use super::nop::{NopIn, NopOut};
use super::r2t::R2t;
use super::reject::{Reject, reason};
use super::scsi_command::ScsiCommand;
use super::scsi_response::ScsiResponse;
use super::task_management::{TaskManagementRequest, TaskManagementResponse, function, response};
use super::text::{TextRequest, TextResponse};
use super::*;
use crate::scsi::{Attribute, Lun, Residual, TaskResponse};

/// Twelve words of four bytes.
fn hex(text: &str) -> Header {
    let digits: Vec<u8> = text
        .bytes()
        .filter_map(|byte| char::from(byte).to_digit(16).map(|digit| digit as u8))
        .collect();
    let bytes: Vec<u8> = digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect();
    bytes.try_into().expect("96 hex digits")
}

macro_rules! check {
    ($pdu:expr, $emitted:expr, $parsed:expr, $wire:expr) => {
        let wire = hex($wire);
        assert_eq!($emitted, wire);
        assert_eq!($parsed(&wire), $pdu);
    };
}

#[test]
fn scsi_command_is_as_on_the_wire() {
    let pdu = ScsiCommand {
        immediate: false,
        last: true,
        read: false,
        write: true,
        attr: Attribute::Ordered,
        lun: Lun(0x0001_0000_0000_0000),
        itt: 0x0A0B_0C0D,
        expected_length: 0x1000,
        cmd_sn: 0x11,
        exp_stat_sn: 0x22,
        cdb: [0x2A, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0],
    };
    check!(
        Ok(pdu),
        pdu.emit(0x1000),
        ScsiCommand::parse,
        "01a20000 00001000 00010000 00000000 0a0b0c0d 00001000
         00000011 00000022 2a000000 01000000 08000000 00000000"
    );
    let mut reserved = pdu.emit(0);
    reserved[1] |= 0x07;
    assert!(ScsiCommand::parse(&reserved).is_err());
}

#[test]
fn scsi_response_is_as_on_the_wire() {
    let pdu = ScsiResponse {
        response: 0,
        status: 2,
        itt: 5,
        stat_sn: 6,
        exp_cmd_sn: 7,
        max_cmd_sn: 8,
        exp_data_sn: 9,
        residual: Residual::Overflow(512),
    };
    check!(
        Ok(pdu),
        pdu.emit(20),
        ScsiResponse::parse,
        "21840002 00000014 00000000 00000000 00000005 00000000
         00000006 00000007 00000008 00000009 00000000 00000200"
    );
    let mut both = pdu.emit(0);
    both[1] |= 0x06;
    assert!(ScsiResponse::parse(&both).is_err());
}

#[test]
fn data_out_is_as_on_the_wire() {
    let pdu = DataOut {
        last: true,
        lun: Lun(0x0002_0000_0000_0000),
        itt: 1,
        ttt: 0x77,
        exp_stat_sn: 3,
        data_sn: 4,
        offset: 0x2_0000,
    };
    check!(
        pdu,
        pdu.emit(0x2_0001),
        DataOut::parse,
        "05800000 00020001 00020000 00000000 00000001 00000077
         00000000 00000003 00000000 00000004 00020000 00000000"
    );
}

#[test]
fn data_in_is_as_on_the_wire() {
    let plain = DataIn {
        last: false,
        acknowledge: false,
        itt: 1,
        exp_cmd_sn: 2,
        max_cmd_sn: 3,
        data_sn: 4,
        offset: 8192,
        status: None,
    };
    check!(
        Ok(plain),
        plain.emit(8192),
        DataIn::parse,
        "25000000 00002000 00000000 00000000 00000001 ffffffff
         00000000 00000002 00000003 00000004 00002000 00000000"
    );
    let collapsed = DataIn {
        last: true,
        status: Some(CollapsedStatus {
            status: 0,
            stat_sn: 9,
            residual: Residual::Underflow(0x100),
        }),
        ..plain
    };
    check!(
        Ok(collapsed),
        collapsed.emit(4),
        DataIn::parse,
        "25830000 00000004 00000000 00000000 00000001 ffffffff
         00000009 00000002 00000003 00000004 00002000 00000100"
    );
    let mut not_last = collapsed.emit(4);
    not_last[1] &= !0x80;
    assert!(DataIn::parse(&not_last).is_err());
}

#[test]
fn r2t_is_as_on_the_wire() {
    let pdu = R2t {
        lun: Lun(0x0001_0000_0000_0000),
        itt: 1,
        ttt: 2,
        stat_sn: 3,
        exp_cmd_sn: 4,
        max_cmd_sn: 5,
        r2t_sn: 6,
        offset: 0x4_0000,
        length: 0x10_0000,
    };
    check!(
        pdu,
        pdu.emit(),
        R2t::parse,
        "31800000 00000000 00010000 00000000 00000001 00000002
         00000003 00000004 00000005 00000006 00040000 00100000"
    );
}

#[test]
fn nop_out_and_nop_in_are_as_on_the_wire() {
    let out = NopOut {
        immediate: true,
        lun: Lun(0),
        itt: NO_TAG,
        ttt: 0x55,
        cmd_sn: 6,
        exp_stat_sn: 7,
    };
    check!(
        out,
        out.emit(0),
        NopOut::parse,
        "40800000 00000000 00000000 00000000 ffffffff 00000055
         00000006 00000007 00000000 00000000 00000000 00000000"
    );
    let answer = NopIn {
        lun: Lun(0),
        itt: 9,
        ttt: NO_TAG,
        stat_sn: 1,
        exp_cmd_sn: 2,
        max_cmd_sn: 3,
    };
    check!(
        answer,
        answer.emit(5),
        NopIn::parse,
        "20800000 00000005 00000000 00000000 00000009 ffffffff
         00000001 00000002 00000003 00000000 00000000 00000000"
    );
}

#[test]
fn task_management_is_as_on_the_wire() {
    let request = TaskManagementRequest {
        immediate: true,
        function: function::ABORT_TASK,
        lun: Lun(0x0001_0000_0000_0000),
        itt: 0x20,
        referenced_itt: 0x10,
        cmd_sn: 4,
        exp_stat_sn: 5,
        ref_cmd_sn: 3,
    };
    check!(
        request,
        request.emit(),
        TaskManagementRequest::parse,
        "42810000 00000000 00010000 00000000 00000020 00000010
         00000004 00000005 00000003 00000000 00000000 00000000"
    );
    let answer = TaskManagementResponse {
        response: response::TASK_NOT_FOUND,
        itt: 0x20,
        stat_sn: 1,
        exp_cmd_sn: 2,
        max_cmd_sn: 3,
    };
    check!(
        answer,
        answer.emit(),
        TaskManagementResponse::parse,
        "22800100 00000000 00000000 00000000 00000020 00000000
         00000001 00000002 00000003 00000000 00000000 00000000"
    );
}

#[test]
fn task_management_responses_keep_their_numbers() {
    for (code, word) in [
        (0, TaskResponse::Complete),
        (1, TaskResponse::TaskNotFound),
        (2, TaskResponse::LunNotFound),
        (5, TaskResponse::NotSupported),
        (7, TaskResponse::Succeeded),
        (255, TaskResponse::Rejected),
    ] {
        assert_eq!(response::to_task_response(code), word);
        assert_eq!(response::from_task_response(word), code);
    }
    assert_eq!(response::to_task_response(4), TaskResponse::NotSupported);
    assert_eq!(response::to_task_response(0x80), TaskResponse::Rejected);
}

#[test]
fn login_is_as_on_the_wire() {
    let request = LoginRequest {
        transit: Transit {
            more: false,
            current: Stage::Operational,
            next: Some(Stage::FullFeature),
        },
        version_max: 0,
        version_min: 0,
        isid: [0x40, 1, 2, 3, 4, 5],
        tsih: 0x1234,
        itt: 7,
        cid: 1,
        cmd_sn: 2,
        exp_stat_sn: 3,
    };
    check!(
        Ok(request),
        request.emit(0x30),
        LoginRequest::parse,
        "43870000 00000030 40010203 04051234 00000007 00010000
         00000002 00000003 00000000 00000000 00000000 00000000"
    );
    let answer = LoginResponse {
        transit: Transit {
            more: false,
            current: Stage::Security,
            next: None,
        },
        version_max: 0,
        version_active: 0,
        isid: [0x40, 1, 2, 3, 4, 5],
        tsih: 0,
        itt: 7,
        stat_sn: 1,
        exp_cmd_sn: 2,
        max_cmd_sn: 3,
        status: LoginStatus::MOVED_TEMPORARILY,
    };
    check!(
        Ok(answer),
        answer.emit(4),
        LoginResponse::parse,
        "23000000 00000004 40010203 04050000 00000007 00000000
         00000001 00000002 00000003 01010000 00000000 00000000"
    );
}

#[test]
fn login_flags_that_contradict_are_refused() {
    for flags in [
        0x0C, // current stage is the full feature phase
        0x08, // reserved current stage
        0x82, // reserved next stage
        0x84, // next stage before the current one
        0x85, // next stage equal to the current one
        0xC7, // continues and transits
    ] {
        let mut header = [0; HEADER];
        header[0] = 0x43;
        header[1] = flags;
        assert!(LoginRequest::parse(&header).is_err(), "{flags:#04x}");
        assert!(LoginResponse::parse(&header).is_err(), "{flags:#04x}");
        header[36] = 2;
        assert!(LoginResponse::parse(&header).is_ok(), "{flags:#04x}");
    }
}

#[test]
fn text_is_as_on_the_wire() {
    let request = TextRequest {
        immediate: false,
        last: true,
        more: false,
        lun: Lun(0),
        itt: 1,
        ttt: NO_TAG,
        cmd_sn: 2,
        exp_stat_sn: 3,
    };
    check!(
        Ok(request),
        request.emit(16),
        TextRequest::parse,
        "04800000 00000010 00000000 00000000 00000001 ffffffff
         00000002 00000003 00000000 00000000 00000000 00000000"
    );
    let answer = TextResponse {
        last: false,
        more: true,
        lun: Lun(0),
        itt: 1,
        ttt: 9,
        stat_sn: 4,
        exp_cmd_sn: 5,
        max_cmd_sn: 6,
    };
    check!(
        Ok(answer),
        answer.emit(512),
        TextResponse::parse,
        "24400000 00000200 00000000 00000000 00000001 00000009
         00000004 00000005 00000006 00000000 00000000 00000000"
    );
    let mut both = answer.emit(0);
    both[1] = 0xC0;
    assert!(TextResponse::parse(&both).is_err());
}

#[test]
fn logout_is_as_on_the_wire() {
    let request = LogoutRequest {
        immediate: true,
        reason: LogoutReason::CloseConnection,
        itt: 1,
        cid: 2,
        cmd_sn: 3,
        exp_stat_sn: 4,
    };
    check!(
        Ok(request),
        request.emit(),
        LogoutRequest::parse,
        "46810000 00000000 00000000 00000000 00000001 00020000
         00000003 00000004 00000000 00000000 00000000 00000000"
    );
    let answer = LogoutResponse {
        response: 1,
        itt: 1,
        stat_sn: 2,
        exp_cmd_sn: 3,
        max_cmd_sn: 4,
        time2wait: 5,
        time2retain: 6,
    };
    check!(
        answer,
        answer.emit(),
        LogoutResponse::parse,
        "26800100 00000000 00000000 00000000 00000001 00000000
         00000002 00000003 00000004 00000000 00050006 00000000"
    );
}

#[test]
fn asynchronous_message_is_as_on_the_wire() {
    let pdu = AsyncMessage {
        lun: Lun(0x0001_0000_0000_0000),
        stat_sn: 1,
        exp_cmd_sn: 2,
        max_cmd_sn: 3,
        event: event::LOGOUT_REQUEST,
        vendor_code: 0,
        parameters: [4, 5, 6],
    };
    check!(
        pdu,
        pdu.emit(0),
        AsyncMessage::parse,
        "32800000 00000000 00010000 00000000 ffffffff 00000000
         00000001 00000002 00000003 01000004 00050006 00000000"
    );
}

#[test]
fn reject_is_as_on_the_wire() {
    let pdu = Reject {
        reason: reason::DATA_DIGEST,
        stat_sn: 1,
        exp_cmd_sn: 2,
        max_cmd_sn: 3,
        data_sn: 4,
    };
    check!(
        pdu,
        pdu.emit(48),
        Reject::parse,
        "3f800200 00000030 00000000 00000000 ffffffff 00000000
         00000001 00000002 00000003 00000004 00000000 00000000"
    );
}

macro_rules! stable {
    ($header:expr, $parsed:expr, |$pdu:ident| $emitted:expr, |$again:ident| $reparsed:expr) => {
        if let Ok($pdu) = $parsed {
            let $again = $emitted;
            prop_assert_eq!($reparsed, Ok($pdu));
            prop_assert_eq!(data_segment_length(&$again), data_segment_length($header));
        }
    };
}

proptest! {
    #[test]
    fn whatever_parses_is_emitted_and_parsed_alike(bytes in prop::collection::vec(any::<u8>(), 48)) {
        let header: &Header = &bytes.try_into().unwrap();
        let len = data_segment_length(header);
        stable!(header, ScsiCommand::parse(header), |pdu| pdu.emit(len), |again| ScsiCommand::parse(&again));
        stable!(header, ScsiResponse::parse(header).map(|pdu| match pdu.residual {
            Residual::None => ScsiResponse { residual: Residual::None, ..pdu },
            _ => pdu,
        }), |pdu| pdu.emit(len), |again| ScsiResponse::parse(&again));
        stable!(header, DataIn::parse(header), |pdu| pdu.emit(len), |again| DataIn::parse(&again));
        stable!(header, LoginRequest::parse(header), |pdu| pdu.emit(len), |again| LoginRequest::parse(&again));
        stable!(header, LoginResponse::parse(header), |pdu| pdu.emit(len), |again| LoginResponse::parse(&again));
        stable!(header, TextRequest::parse(header), |pdu| pdu.emit(len), |again| TextRequest::parse(&again));
        stable!(header, TextResponse::parse(header), |pdu| pdu.emit(len), |again| TextResponse::parse(&again));
        if let Ok(pdu) = LogoutRequest::parse(header) {
            prop_assert_eq!(LogoutRequest::parse(&pdu.emit()), Ok(pdu));
        }
        prop_assert_eq!(DataOut::parse(&DataOut::parse(header).emit(len)), DataOut::parse(header));
        prop_assert_eq!(R2t::parse(&R2t::parse(header).emit()), R2t::parse(header));
        prop_assert_eq!(NopOut::parse(&NopOut::parse(header).emit(len)), NopOut::parse(header));
        prop_assert_eq!(NopIn::parse(&NopIn::parse(header).emit(len)), NopIn::parse(header));
        prop_assert_eq!(Reject::parse(&Reject::parse(header).emit(len)), Reject::parse(header));
        prop_assert_eq!(AsyncMessage::parse(&AsyncMessage::parse(header).emit(len)), AsyncMessage::parse(header));
        prop_assert_eq!(LogoutResponse::parse(&LogoutResponse::parse(header).emit()), LogoutResponse::parse(header));
        prop_assert_eq!(
            TaskManagementRequest::parse(&TaskManagementRequest::parse(header).emit()),
            TaskManagementRequest::parse(header)
        );
        prop_assert_eq!(
            TaskManagementResponse::parse(&TaskManagementResponse::parse(header).emit()),
            TaskManagementResponse::parse(header)
        );
    }
}
