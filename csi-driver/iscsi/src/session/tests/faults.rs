//! Lost lines, broken bits, silent peers.

use std::time::Duration;

use super::super::*;
use super::pair::*;
use crate::scsi::{Code, Status};

fn with_digests(mut initiator: InitiatorConfig) -> InitiatorConfig {
    initiator.offer.header_digest = DigestOffer::Require;
    initiator.offer.data_digest = DigestOffer::Require;
    initiator
}

#[test]
fn a_silent_target_is_dropped_after_the_ping_time() {
    let mut pair = Pair::logged_in(initiator_config(), target_config(), 1);
    let start = pair.now;
    pair.initiator
        .handle_timeout(start + Duration::from_secs(1));
    assert!(pair.initiator.poll_transmit().is_some());
    let deadline = pair.initiator.deadline().unwrap();
    assert_eq!(deadline, start + Duration::from_secs(3));
    pair.initiator.handle_timeout(deadline);
    assert_eq!(
        pair.initiator.poll_event(),
        Some(InitiatorEvent::Dropped(DropReason::PingTimeout))
    );
    assert_eq!(pair.initiator.deadline(), None);
}

#[test]
fn a_silent_initiator_is_dropped_only_if_it_answered_a_ping_before() {
    let mut initiator = initiator_config();
    initiator.limits.ping_interval = None;
    let mut pair = Pair::logged_in(initiator.clone(), target_config(), 1);
    let mut now = pair.now;
    for _ in 0..100 {
        now += Duration::from_secs(10);
        pair.target.handle_timeout(now);
    }
    assert_eq!(pair.target.poll_event(), None);

    let mut pair = Pair::logged_in(initiator, target_config(), 1);
    pair.pass(pair.now + Duration::from_secs(15));
    assert_eq!(pair.closed, None);
    let mut now = pair.now;
    for _ in 0..3 {
        now += Duration::from_secs(10);
        pair.target.handle_timeout(now);
    }
    let closed = TargetEvent::Closed(CloseReason::PingTimeout);
    assert_eq!(pair.target.poll_event(), Some(closed));
}

#[test]
fn half_a_login_is_dropped_in_time_at_both_ends() {
    let mut pair = Pair::new(initiator_config(), target_config(), 1);
    let late = pair.now + Duration::from_secs(15);
    assert_eq!(pair.target.deadline(), Some(late));
    pair.target.handle_timeout(late - Duration::from_millis(1));
    assert_eq!(pair.target.poll_event(), None);
    pair.target.handle_timeout(late);
    let closed = TargetEvent::Closed(CloseReason::LoginTimeout);
    assert_eq!(pair.target.poll_event(), Some(closed));
    pair.initiator.handle_timeout(late);
    let dropped = InitiatorEvent::Dropped(DropReason::LoginTimeout);
    assert_eq!(pair.initiator.poll_event(), Some(dropped));
}

/// Where in a write of 4 KiB (header 52 bytes, data, digest) a bit is flipped, and what comes of it.
#[test]
fn a_broken_bit_on_the_way_to_the_target_never_reaches_the_disk() {
    for place in (0..52).chain([52, 60, 2000, 4147, 4148, 4151]) {
        let mut pair = Pair::logged_in(with_digests(initiator_config()), target_config(), 1);
        let data = pattern(&mut pair.dice, 1, 8 * BLOCK);
        pair.to_target.flips.push(pair.to_target.seen.len() + place);
        pair.write(1, 0, data);
        pair.run();
        assert!(pair.disk.iter().all(|byte| *byte == 0), "place {place}");
        assert!(pair.open.is_empty());
        if place >= 52 {
            // Reject ends the session of our initiator; the target goes on.
            let dropped = DropReason::Error(SessionError::Rejected { reason: 2 });
            assert_eq!(pair.dropped(), Some(&dropped), "place {place}");
            assert_eq!(pair.closed, None);
        } else {
            // A flipped length may make the target wait for more; time ends that.
            pair.pass(pair.now + Duration::from_secs(4));
            assert!(
                pair.closed.is_some() || pair.dropped().is_some(),
                "place {place}"
            );
        }
    }
}

#[test]
fn the_command_of_a_broken_data_segment_ends_with_a_crc_error() {
    let mut pair = Pair::logged_in(with_digests(initiator_config()), target_config(), 1);
    let data = pattern(&mut pair.dice, 1, 8 * BLOCK);
    let from = pair.to_initiator.seen.len();
    pair.to_target.flips.push(pair.to_target.seen.len() + 100);
    pair.write(1, 0, data);
    pair.run();
    let answers = &pair.to_initiator.seen[from..];
    assert_eq!((answers[0], answers[2]), (0x3F, 0x02));
    // Behind the Reject with its digests: SCSI Response, CHECK CONDITION, ABORTED COMMAND 47/05.
    let response = &answers[52 + 48 + 4..];
    assert_eq!((response[0], response[3]), (0x21, 0x02));
    let sense = &response[52 + 2..];
    assert_eq!((sense[2] & 0x0F, sense[12], sense[13]), (0x0B, 0x47, 0x05));
    assert_eq!(Code::PROTOCOL_CRC_ERROR, Code::new(0x47, 0x05));
}

#[test]
fn a_broken_bit_on_the_way_back_ends_the_session_and_gives_no_data() {
    for place in [0, 20, 47, 48, 51, 52, 1000, 52 + 4096, 52 + 4099] {
        let mut pair = Pair::logged_in(with_digests(initiator_config()), target_config(), 1);
        pair.to_initiator
            .flips
            .push(pair.to_initiator.seen.len() + place);
        pair.read(1, 0, 8);
        pair.run();
        pair.pass(pair.now + Duration::from_secs(4));
        let outcome = pair
            .events
            .iter()
            .any(|event| matches!(event, InitiatorEvent::Done { .. }));
        assert!(!outcome, "place {place}");
        assert!(pair.dropped().is_some(), "place {place}");
    }
}

#[test]
fn a_line_lost_at_any_byte_leaves_no_half_write() {
    let mut lost = 0;
    for cut in (0..9000).step_by(97) {
        let mut initiator = initiator_config();
        initiator.offer.first_burst = 2048;
        initiator.offer.max_recv_segment = 1024;
        let mut target = target_config();
        target.offer.max_recv_segment = 1024;
        let mut pair = Pair::logged_in(initiator, target, cut);
        let start = pair.to_target.seen.len();
        let data = pattern(&mut pair.dice, 1, 16 * BLOCK);
        pair.write(1, 0, data.clone());
        while pair.to_target.seen.len() < start + cut as usize && pair.step() {}
        // The line is gone: the server closes the session and its tasks with it.
        pair.target.close();
        let written = pair.disk[..16 * BLOCK] == data.concat();
        let untouched = pair.disk.iter().all(|byte| *byte == 0);
        assert!(written || untouched, "cut at {cut}");
        lost += u32::from(untouched);
        assert_eq!(pair.target.open_tasks(), 0);
        assert!(
            pair.target
                .handle_bytes(pair.now, vec![0; 48].into())
                .is_err()
        );
    }
    assert!(lost > 0);
}

#[test]
fn a_new_session_of_the_same_port_goes_on_after_the_old_one_was_closed() {
    let mut first = Pair::logged_in(initiator_config(), target_config(), 1);
    first.eager = false;
    let data = pattern(&mut first.dice, 1, 8 * BLOCK);
    first.write(1, 0, data);
    first.run();
    let old = first.login.clone().unwrap();
    let mut second = Pair::new(initiator_config(), target_config(), 2);
    second.run();
    let new = second.login.clone().unwrap();
    assert_eq!(
        (&old.initiator, old.isid, &old.target, old.portal_group),
        (&new.initiator, new.isid, &new.target, new.portal_group)
    );
    first.target.close();
    // An answer of the store that comes now goes nowhere.
    first.answer_all();
    assert_eq!(first.target.poll_transmit(), None);
    let closed = TargetEvent::Closed(CloseReason::Local);
    assert_eq!(first.target.poll_event(), Some(closed));
    assert_eq!(first.target.poll_event(), None);
    second.events.clear();
    second.read(2, 0, 1);
    second.run();
    assert_eq!(second.done(2).status, Status::Good);
}
