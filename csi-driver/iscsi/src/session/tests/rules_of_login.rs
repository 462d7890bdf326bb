//! Rules of login, text and logout that an honest initiator never tries.

use super::super::*;
use super::pair::*;
use super::raw::*;
use crate::scsi::Residual;
use crate::wire::NO_TAG;
use crate::wire::login::{LoginRequest, Stage};
use crate::wire::logout::{LogoutReason, LogoutRequest};
use crate::wire::scsi_command::ScsiCommand;
use crate::wire::text::{TextRequest, TextResponse};

#[test]
fn logout_of_another_connection_or_for_recovery_is_refused() {
    let mut raw = Raw::logged_in(target_config(), "");
    let logout = LogoutRequest {
        immediate: true,
        reason: LogoutReason::CloseConnection,
        itt: 9,
        cid: 5,
        cmd_sn: 100,
        exp_stat_sn: 0,
    };
    raw.send(&logout.emit(), &[]);
    let recovery = LogoutRequest {
        reason: LogoutReason::RemoveForRecovery,
        ..logout
    };
    raw.send(&recovery.emit(), &[]);
    let answers: Vec<u8> = raw.answers().iter().map(|pdu| pdu.header[2]).collect();
    assert_eq!(answers, [1, 2]);
    raw.send(&LogoutRequest { cid: 4, ..logout }.emit(), &[]);
    assert_eq!(raw.answers()[0].header[2], 0);
    assert_eq!(raw.events, [TargetEvent::Closed(CloseReason::LoggedOut)]);
}

fn text_request(more: bool, ttt: u32) -> TextRequest {
    TextRequest {
        immediate: true,
        last: !more,
        more,
        lun: LUN,
        itt: 6,
        ttt,
        cmd_sn: 100,
        exp_stat_sn: 0,
    }
}

#[test]
fn text_may_come_in_parts_and_targets_are_listed_for_a_normal_session() {
    let mut raw = Raw::logged_in(target_config(), "");
    raw.send(&text_request(true, NO_TAG).emit(9), b"SendTarge");
    let part = TextResponse::parse(&raw.answers()[0].header).unwrap();
    assert!(!part.last && !part.more && part.ttt != NO_TAG);
    raw.send(
        &text_request(false, part.ttt).emit(8),
        b"ts=\0X-a=1\0"[..8].as_ref(),
    );
    let error = SessionError::Protocol("text request is malformed");
    assert_eq!(raw.error, Some(error));

    let mut raw = Raw::logged_in(target_config(), "");
    raw.send(&text_request(true, NO_TAG).emit(9), b"SendTarge");
    let part = TextResponse::parse(&raw.answers()[0].header).unwrap();
    raw.send(&text_request(false, part.ttt).emit(10), b"ts=\0X-a=1\0");
    let answer = raw.answers().remove(0);
    let text = answer.data.concat();
    assert_eq!(
        String::from_utf8_lossy(&text),
        format!("TargetName={TARGET}\0TargetAddress=192.0.2.1:3260,3\0X-a=NotUnderstood\0")
    );
    // All is for discovery sessions.
    raw.send(&text_request(false, NO_TAG).emit(16), b"SendTargets=All\0");
    assert_eq!(raw.answers()[0].data.concat(), b"SendTargets=Reject\0");
    // A tag that was never given.
    raw.send(&text_request(false, 4711).emit(0), &[]);
    assert_eq!(raw.answers()[0].header[2], 0x09);
}

#[test]
fn a_segment_length_declared_anew_holds_from_then_on() {
    let mut raw = Raw::logged_in(target_config(), "");
    let text = b"MaxRecvDataSegmentLength=512\0";
    raw.send(&text_request(false, NO_TAG).emit(29), text);
    assert_eq!(raw.opcodes(), [0x24]);
    let read = ScsiCommand {
        read: true,
        expected_length: 1024,
        ..raw.next_command(1)
    };
    raw.send(&read.emit(0), &[]);
    let task = raw.commands()[0].task;
    let data = pattern(&mut Dice::new(1), 1, 1024);
    raw.session.respond(task, good(data, Residual::None));
    let lengths: Vec<u32> = raw.answers().iter().map(|pdu| pdu.data_len).collect();
    assert_eq!(lengths, [512, 512]);
}

/// The status of a login with these PDUs.
fn login_status(config: TargetConfig, pdus: &[(LoginRequest, &str)]) -> Option<(u8, u8)> {
    let mut raw = Raw::new(config);
    for (request, text) in pdus {
        raw.send(&request.emit(text.len() as u32), text.as_bytes());
    }
    let last = raw.answers().pop()?;
    Some((last.header[36], last.header[37]))
}

#[test]
fn a_login_that_names_a_session_is_answered_as_the_server_says() {
    let first = login_request(transit(Stage::Operational, Some(Stage::FullFeature)));
    let request = LoginRequest {
        tsih: 5,
        cid: 3,
        ..first
    };
    let ready = || {
        let mut raw = Raw::new(target_config());
        let names = names();
        raw.send(&request.emit(names.len() as u32), names.as_bytes());
        let [TargetEvent::LoginReady(info)] = &raw.events[..] else {
            panic!("{:?}", raw.events)
        };
        assert_eq!((info.joins, info.cid), (Some(5), 3));
        raw
    };
    for (why, detail) in [
        (LoginRefusal::NoSuchSession, 0x0A),
        (LoginRefusal::TooManySessions, 6),
    ] {
        let mut raw = ready();
        raw.session.refuse_login(NOW, why);
        assert_eq!(raw.answers()[0].header[36..38], [2, detail]);
    }
    let mut raw = ready();
    raw.session.keep_tsih();
    raw.session.accept_login(NOW);
    let header = raw.answers()[0].header;
    assert_eq!(
        (&header[14..16], &header[36..38]),
        (&[0, 5][..], &[0, 0][..])
    );
}

#[test]
fn logins_that_break_a_rule_are_refused_with_its_status() {
    let first = login_request(transit(Stage::Operational, Some(Stage::FullFeature)));
    let names = names();
    let check = |request: LoginRequest, text: &str, status: (u8, u8)| {
        assert_eq!(
            login_status(target_config(), &[(request, text)]),
            Some(status),
            "{text}"
        );
    };
    check(first, "TargetName=a\0", (2, 7));
    check(first, &format!("InitiatorName={INITIATOR}\0"), (2, 7));
    check(first, &format!("{names}SessionType=Normal\0"), (2, 0));
    check(first, "InitiatorName=me\0TargetName=a\0", (2, 0));
    check(first, &names.replace("Normal", "Other"), (2, 9));
    check(first, &format!("{names}MaxBurstLength=1\0"), (2, 0));
    check(
        first,
        &format!("{names}MaxBurstLength=512\0MaxBurstLength=512\0"),
        (2, 0),
    );
    check(first, "no pair", (2, 0));
    let discovery = format!("InitiatorName={INITIATOR}\0SessionType=Discovery\0");
    check(LoginRequest { tsih: 5, ..first }, &discovery, (2, 0x0A));
    check(
        LoginRequest {
            version_min: 1,
            ..first
        },
        &names,
        (2, 5),
    );

    let stay = login_request(transit(Stage::Operational, None));
    let check2 = |second: LoginRequest, text: &str, status: (u8, u8)| {
        let pdus = [(stay, &names[..]), (second, text)];
        assert_eq!(login_status(target_config(), &pdus), Some(status), "{text}");
    };
    check2(stay, "InitiatorAlias=x\0", (2, 0));
    check2(stay, "InitiatorName=iqn.2026-01.example:other\0", (2, 0));
    check2(stay, "TargetName=iqn.2026-01.example:other\0", (2, 0));
    check2(stay, "SessionType=Discovery\0", (2, 0));
    check2(stay, &names, (0, 0));
    check2(LoginRequest { itt: 2, ..stay }, "", (2, 0x0B));
    check2(
        LoginRequest {
            isid: [1; 6],
            ..stay
        },
        "",
        (2, 0x0B),
    );
    check2(LoginRequest { cid: 9, ..stay }, "", (2, 0x0B));
    check2(login_request(transit(Stage::Security, None)), "", (2, 0));
}

#[test]
fn the_answer_to_the_names_tells_the_portal_group_and_unknown_keys_are_not_understood() {
    let mut raw = Raw::new(target_config());
    let request = login_request(transit(Stage::Security, Some(Stage::Operational)));
    let text = names() + "AuthMethod=CHAP,None\0X-com.example.a=1\0TargetAlias=x\0";
    raw.send(&request.emit(text.len() as u32), text.as_bytes());
    let answer = raw.answers().remove(0);
    assert_eq!(answer.header[1], 0x81);
    assert_eq!(
        String::from_utf8_lossy(&answer.data.concat()),
        "X-com.example.a=NotUnderstood\0TargetAlias=Reject\0TargetPortalGroupTag=3\0AuthMethod=None\0"
    );
}

#[test]
fn login_text_may_come_in_parts() {
    let mut raw = Raw::new(target_config());
    let text = names() + "MaxBurstLength=8192\0";
    let mut part = login_request(transit(Stage::Operational, None));
    part.transit.more = true;
    let (head, tail) = text.as_bytes().split_at(21);
    raw.send(&part.emit(head.len() as u32), head);
    let answer = raw.answers().remove(0);
    assert_eq!(
        (answer.header[1], answer.data_len, answer.header[36]),
        (0x04, 0, 0)
    );
    let rest = login_request(transit(Stage::Operational, Some(Stage::FullFeature)));
    raw.send(&rest.emit(tail.len() as u32), tail);
    let Some(TargetEvent::LoginReady(info)) = raw.events.pop() else {
        panic!("{:?}", raw.error);
    };
    assert_eq!(info.negotiated.max_burst, 8192);
}

#[test]
fn a_pdu_before_the_login_is_answered_ends_the_session() {
    let mut raw = Raw::new(target_config());
    let request = login_request(transit(Stage::Operational, Some(Stage::FullFeature)));
    let text = names();
    raw.send(&request.emit(text.len() as u32), text.as_bytes());
    let command = raw.next_command(1);
    raw.send(&command.emit(0), &[]);
    assert!(raw.error.is_some());
    assert_eq!(raw.commands(), []);
    raw.session.accept_login(NOW);
    assert_eq!(raw.answers(), []);
}

#[test]
fn a_command_before_the_login_is_refused() {
    let mut raw = Raw::new(target_config());
    let command = raw.next_command(1);
    raw.send(&command.emit(0), &[]);
    assert_eq!(
        raw.error,
        Some(SessionError::UnexpectedPdu { opcode: 0x01 })
    );
}
