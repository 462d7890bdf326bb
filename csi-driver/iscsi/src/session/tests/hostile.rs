//! Bytes that no honest peer sends: random, truncated, and recorded streams with changes. Nothing panics, nothing grows.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::*;
use super::pair::*;
use super::raw::*;
use super::storm::seeds;
use crate::chap::{Algorithm, Secret};
use crate::scsi::{Residual, TaskFunction, TaskResponse};
use crate::wire::login::Stage;

const HOST: &[u8] = b"secret of the host";
const DISK: &[u8] = b"secret of the disk";

/// Both ends with mutual CHAP, digests, and small segments, so that a recorded stream has every kind of PDU.
fn recorded() -> Pair {
    Pair::new(recorded_initiator(), chap_target(), 1)
}

fn recorded_initiator() -> InitiatorConfig {
    let secret = |bytes| Secret::new(bytes).unwrap();
    let mut initiator = initiator_config();
    initiator.chap = Some(
        ChapInitiator::mutual("host".to_owned(), secret(HOST), secret(DISK))
            .unwrap()
            .with_algorithms(&[Algorithm::Md5]),
    );
    initiator.offer.header_digest = DigestOffer::Prefer;
    initiator.offer.first_burst = 2048;
    initiator.offer.max_recv_segment = 1024;
    initiator
}

fn chap_target() -> TargetConfig {
    let secret = |bytes| Secret::new(bytes).unwrap();
    let mut target = target_config();
    target.offer.max_recv_segment = 1024;
    let account = Account {
        secret: secret(HOST),
        initiator: None,
    };
    target.targets.get_mut(TARGET).unwrap().auth = Auth::chap(
        [("host".to_owned(), account)].into(),
        Some(("disk".to_owned(), secret(DISK))),
    )
    .unwrap();
    target
}

/// Runs a session with every kind of PDU and gives what went each way.
fn streams() -> (Vec<u8>, Vec<u8>) {
    let mut pair = recorded();
    pair.run();
    let data = pattern(&mut pair.dice, 1, 16 * BLOCK);
    pair.write(1, 0, data);
    pair.read(2, 0, 16);
    pair.run();
    pair.eager = false;
    pair.read(3, 0, 4);
    let function = TaskFunction::AbortTask { tag: 3 };
    let request = TaskManagement { lun: LUN, function };
    pair.initiator.submit_task_management(pair.now, 9, request);
    pair.run();
    pair.answer_managements();
    pair.target
        .request_logout(std::time::Duration::from_secs(1));
    pair.pass(pair.now + std::time::Duration::from_secs(3));
    pair.initiator.logout(pair.now);
    pair.run();
    assert_eq!(pair.closed, Some(CloseReason::LoggedOut));
    (pair.to_target.seen, pair.to_initiator.seen)
}

/// Changes a stream in one of the ways in which peers go wrong.
fn mutate(dice: &mut Dice, stream: &[u8]) -> Vec<u8> {
    let mut out = stream.to_vec();
    for _ in 0..1 + dice.below(4) {
        if out.is_empty() {
            return out;
        }
        let at = dice.below(out.len());
        let len = (1 + dice.below(60)).min(out.len() - at);
        match dice.below(6) {
            0 => out[at] ^= 1 << dice.below(8),
            1 => out[at] = [0, 0xFF, 0x7F, 0x80][dice.below(4)],
            2 => {
                out.drain(at..at + len);
            }
            3 => {
                let copy = out[at..at + len].to_vec();
                let to = dice.below(out.len());
                out.splice(to..to, copy);
            }
            4 => out.truncate(at),
            _ => {
                for byte in &mut out[at..at + len] {
                    *byte = dice.next() as u8;
                }
            }
        }
    }
    out
}

/// Feeds a target and answers all that it gives out; checks its bounds.
fn feed_target(dice: &mut Dice, stream: &[u8]) {
    let mut target = TargetSession::new(Arc::new(chap_target()), seed(), NOW);
    let mut rest = stream;
    while !rest.is_empty() {
        let (head, tail) = rest.split_at((1 + dice.below(700)).min(rest.len()));
        rest = tail;
        let alive = target
            .handle_bytes(NOW, Bytes::copy_from_slice(head))
            .is_ok();
        let backlog = target.transmit_backlog();
        assert!(backlog <= 2 << 20, "{backlog}");
        assert!(target.open_tasks() <= 128 + 16);
        while let Some(event) = target.poll_event() {
            match event {
                TargetEvent::LoginReady(_) => target.accept_login(NOW),
                TargetEvent::Command(command) => {
                    let length = command.expected.length() as usize;
                    if length <= 64 * BLOCK && command.cdb.as_bytes().len() >= 10 {
                        let data = vec![Bytes::from(vec![0; length])];
                        target.respond(command.task, good(data, Residual::None));
                    }
                }
                TargetEvent::TaskManagement { request, .. } => {
                    target.respond_task_management(request, TaskResponse::Complete);
                }
                TargetEvent::Closed(_) => {}
            }
        }
        while target.poll_transmit().is_some() {}
        if !alive {
            return;
        }
    }
}

fn feed_initiator(dice: &mut Dice, stream: &[u8]) {
    let mut initiator = Initiator::new(recorded_initiator(), NOW);
    for tag in 0..3 {
        let data = pattern(dice, tag, 16 * BLOCK);
        let write = command(rw_cdb(0x2A, 0, 16), DataDir::Out(data));
        initiator.submit(NOW, tag * 2, write).unwrap();
        let read = command(rw_cdb(0x28, 0, 16), DataDir::In(16 * BLOCK as u32));
        initiator.submit(NOW, tag * 2 + 1, read).unwrap();
    }
    let mut rest = stream;
    while !rest.is_empty() {
        let (head, tail) = rest.split_at((1 + dice.below(700)).min(rest.len()));
        rest = tail;
        let alive = initiator
            .handle_bytes(NOW, Bytes::copy_from_slice(head))
            .is_ok();
        while let Some(event) = initiator.poll_event() {
            if let InitiatorEvent::Done { outcome, .. } = event {
                let length: usize = outcome.data_in.iter().map(Bytes::len).sum();
                assert!(length <= 16 * BLOCK);
            }
        }
        while initiator.poll_transmit().is_some() {}
        if !alive {
            assert_eq!(initiator.open_commands(), 0);
            return;
        }
    }
}

#[test]
fn recorded_streams_with_changes_break_neither_end() {
    let (to_target, to_initiator) = streams();
    for number in 0..seeds(4000) {
        let run = std::panic::catch_unwind(|| {
            let mut dice = Dice::new(number);
            feed_target(
                &mut dice,
                &mutate(&mut Dice::new(number + 1_000_000), &to_target),
            );
            feed_initiator(
                &mut dice,
                &mutate(&mut Dice::new(number + 2_000_000), &to_initiator),
            );
        });
        assert!(run.is_ok(), "seed {number}");
    }
}

#[test]
fn streams_cut_at_every_place_leave_both_ends_waiting() {
    let (to_target, to_initiator) = streams();
    for cut in 0..to_target.len().min(3000) {
        feed_target(&mut Dice::new(cut as u64), &to_target[..cut]);
    }
    for cut in 0..to_initiator.len().min(3000) {
        feed_initiator(&mut Dice::new(cut as u64), &to_initiator[..cut]);
    }
}

#[test]
fn a_peer_that_is_not_logged_in_holds_little() {
    // Text without end, in PDUs of the longest kind.
    let mut raw = Raw::new(target_config());
    let mut part = login_request(transit(Stage::Operational, None));
    part.transit.more = true;
    let mut sent = 0;
    while raw.error.is_none() && raw.events.is_empty() {
        raw.send(&part.emit(8192), &[b'a'; 8192]);
        sent += 8192;
        assert!(sent <= 64 * 1024, "text grows without end");
    }
    assert_eq!(raw.answers().pop().unwrap().header[36..38], [2, 0]);
    // One exchange after the other without end.
    let mut raw = Raw::new(target_config());
    let stay = login_request(transit(Stage::Operational, None));
    let names = names();
    raw.send(&stay.emit(names.len() as u32), names.as_bytes());
    for _ in 0..100 {
        raw.send(&stay.emit(0), &[]);
    }
    assert_eq!(raw.error, Some(SessionError::Closed));
    assert!(raw.answers().len() < 40);
    // A segment longer than a login may have.
    let mut raw = Raw::new(target_config());
    raw.send(&stay.emit(8193), &[]);
    assert_eq!(
        raw.error,
        Some(SessionError::SegmentTooLong {
            length: 8193,
            limit: 8192
        })
    );
}

#[test]
fn a_peer_that_reads_no_answers_is_dropped() {
    let mut config = target_config();
    config.limits.max_backlog = 100_000;
    let mut raw = Raw::logged_in(config, "");
    let mut header = [0; 48];
    header[0] = 0x40;
    header[19] = 1;
    header[6] = 0x10;
    for _ in 0..1000 {
        raw.send(&header, &[0; 4096]);
        if raw.error.is_some() {
            break;
        }
    }
    assert_eq!(
        raw.error,
        Some(SessionError::Protocol("answers are not read"))
    );
    assert!(raw.session.transmit_backlog() < 110_000);
}

/// Headers that look like PDUs of every kind with odd values in them.
fn odd_header() -> impl Strategy<Value = [u8; 48]> {
    let opcode = prop::sample::select(vec![
        0x00, 0x40, 0x01, 0x41, 0x02, 0x42, 0x43, 0x04, 0x44, 0x05, 0x06, 0x46, 0x10, 0x20, 0x21,
        0x22, 0x23, 0x24, 0x25, 0x26, 0x31, 0x32, 0x3F,
    ]);
    let word = prop::sample::select(vec![0u32, 1, 2, 99, 100, 101, 102, 512, 0xFFFF, u32::MAX]);
    (
        opcode,
        any::<u8>(),
        any::<u8>(),
        prop::collection::vec(word, 10),
        0u32..64,
    )
        .prop_map(|(opcode, flags, reason, words, length)| {
            let mut header = [0; 48];
            header[0] = opcode;
            header[1] = flags;
            header[2] = reason;
            header[7] = length as u8;
            for (slot, word) in header[8..].chunks_exact_mut(4).zip(words) {
                slot.copy_from_slice(&word.to_be_bytes());
            }
            header
        })
}

fn wire(headers: &[[u8; 48]]) -> Vec<u8> {
    let mut out = Vec::new();
    for header in headers {
        out.extend(header);
        out.resize(out.len() + usize::from(header[7]).next_multiple_of(4), 0x41);
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn odd_pdus_break_no_target(headers in prop::collection::vec(odd_header(), 1..40), keys in 0..2usize) {
        let keys = ["", "InitialR2T=No\0FirstBurstLength=512\0"][keys];
        let mut raw = Raw::logged_in(target_config(), keys);
        for header in &headers {
            let data = vec![0x41; usize::from(header[7])];
            raw.send(header, &data);
            for command in raw.commands() {
                if command.task % 2 == 0 {
                    raw.session.respond(command.task, good(vec![Bytes::from_static(&[0; 600])], Residual::None));
                }
            }
            prop_assert!(raw.session.open_tasks() <= 144);
        }
        raw.answers();
    }

    #[test]
    fn odd_pdus_break_no_initiator(headers in prop::collection::vec(odd_header(), 1..40), seed in any::<u64>()) {
        let mut pair = Pair::logged_in(initiator_config(), target_config(), seed);
        pair.write(1, 0, vec![Bytes::from(vec![0; 2 << 20])]);
        pair.read(2, 0, 1);
        while pair.initiator.poll_transmit().is_some() {}
        let _ = pair.initiator.handle_bytes(pair.now, Bytes::from(wire(&headers)));
        prop_assert!(pair.initiator.open_commands() <= 2);
    }

    #[test]
    fn random_bytes_break_neither_end_at_any_stage(
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        steps in 0usize..30,
        seed in any::<u64>(),
    ) {
        let mut pair = recorded();
        pair.dice = Dice::new(seed);
        pair.chunk = 300;
        for _ in 0..steps {
            pair.step();
        }
        let _ = pair.target.handle_bytes(pair.now, Bytes::from(bytes.clone()));
        let _ = pair.initiator.handle_bytes(pair.now, Bytes::from(bytes));
    }
}
