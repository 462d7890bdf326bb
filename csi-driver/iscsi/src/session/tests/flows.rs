//! Commands, data in every form, windows, residuals.

use std::time::Duration;

use super::super::*;
use super::pair::*;
use crate::scsi::{Cdb, Code, Residual, SenseKey, Status, TaskFunction, TaskResponse};

/// Offers that lead to every way of moving write data.
fn offers() -> Vec<Offer> {
    let base = Offer {
        max_recv_segment: 8192,
        max_burst: 24 * 1024,
        first_burst: 12 * 1024,
        ..Offer::default()
    };
    let mut offers = vec![Offer::default(), base.clone()];
    for initial_r2t in [false, true] {
        for immediate_data in [false, true] {
            for digest in [DigestOffer::Never, DigestOffer::Require] {
                offers.push(Offer {
                    initial_r2t,
                    immediate_data,
                    header_digest: digest,
                    data_digest: digest,
                    max_outstanding_r2t: if immediate_data { 1 } else { 3 },
                    ..base.clone()
                });
            }
        }
    }
    offers
}

fn pair_with(offer: &Offer, random: u64) -> Pair {
    let initiator = InitiatorConfig {
        offer: offer.clone(),
        ..initiator_config()
    };
    let target = TargetConfig {
        offer: offer.clone(),
        ..target_config()
    };
    Pair::logged_in(initiator, target, random)
}

#[test]
fn what_is_written_is_read_back_with_every_kind_of_transfer() {
    for (at, offer) in offers().iter().enumerate() {
        for blocks in [1, 15, 16, 17, 24, 25, 48, 200] {
            let mut pair = pair_with(offer, at as u64 * 1000 + blocks as u64);
            let data = pattern(&mut pair.dice, 1, blocks * BLOCK);
            let whole = data.concat();
            pair.write(1, 3, data);
            pair.run();
            assert_eq!(
                pair.done(1),
                good(vec![], Residual::None),
                "{offer:?} {blocks}"
            );
            assert_eq!(pair.disk[3 * BLOCK..][..whole.len()], whole);
            pair.read(2, 3, blocks);
            pair.run();
            let outcome = pair.done(2);
            assert_eq!(outcome.data_in.concat(), whole, "{offer:?} {blocks}");
            assert_eq!(
                (outcome.status, outcome.residual),
                (Status::Good, Residual::None)
            );
        }
    }
}

#[test]
fn many_commands_at_once_with_answers_in_any_order_keep_their_data() {
    for random in 0..30 {
        let offer = &offers()[random as usize % offers().len()];
        let mut pair = pair_with(offer, random);
        pair.eager = false;
        let mut expected = Vec::new();
        for tag in 0..200 {
            let blocks = 1 + pair.dice.below(60);
            let data = pattern(&mut pair.dice, tag, blocks * BLOCK);
            expected.push((tag * 64, data.concat()));
            // Space for the longest between all.
            let lba = u32::try_from(tag).unwrap() * 8 % 1900;
            if tag % 2 == 0 {
                pair.write(tag, lba, data);
            } else {
                pair.read(tag, lba, blocks);
            }
        }
        let mut rounds = 0;
        while pair.initiator.open_commands() > 0 {
            pair.step();
            if pair.dice.below(3) == 0 {
                pair.answer_some();
            }
            rounds += 1;
            assert!(
                rounds < 1_000_000,
                "seed {random} hangs: {:?}",
                pair.dropped()
            );
        }
        pair.run();
        for tag in 0..200 {
            assert_eq!(
                pair.done(tag).status,
                Status::Good,
                "seed {random} tag {tag}"
            );
        }
        assert_eq!(pair.target.open_tasks(), 0);
        assert_eq!(pair.closed, None);
    }
}

#[test]
fn commands_beyond_the_window_wait_at_the_initiator() {
    let mut target = target_config();
    target.limits.queue_depth = 4;
    let mut initiator = initiator_config();
    initiator.limits.max_queued = 10;
    let mut pair = Pair::logged_in(initiator, target, 1);
    pair.eager = false;
    for tag in 0..14 {
        assert!(
            pair.initiator
                .submit(pair.now, tag, test_unit_ready())
                .is_ok(),
            "{tag}"
        );
    }
    assert!(
        pair.initiator
            .submit(pair.now, 99, test_unit_ready())
            .is_err()
    );
    pair.run();
    assert_eq!(pair.open.len(), 4);
    pair.answer_some();
    pair.run();
    assert_eq!(pair.open.len(), 4);
    pair.eager = true;
    pair.answer_all();
    pair.run();
    for tag in 0..14 {
        assert_eq!(pair.done(tag).status, Status::Good);
    }
}

#[test]
fn commands_are_given_out_in_the_order_of_their_numbers() {
    for random in 0..20 {
        let mut pair = Pair::logged_in(initiator_config(), target_config(), random);
        pair.eager = false;
        pair.chunk = 60;
        for tag in 0..50 {
            pair.read(tag, u32::try_from(tag).unwrap(), 1);
        }
        pair.run();
        let lbas: Vec<u8> = pair
            .open
            .iter()
            .map(|command| command.cdb.as_bytes()[5])
            .collect();
        assert_eq!(lbas, (0..50).collect::<Vec<u8>>());
    }
}

#[test]
fn an_ordered_command_waits_for_those_before_and_holds_those_behind() {
    let offer = Offer {
        initial_r2t: true,
        immediate_data: false,
        max_recv_segment: 8192,
        ..Offer::default()
    };
    let mut pair = pair_with(&offer, 5);
    pair.eager = false;
    let data = pattern(&mut pair.dice, 1, 64 * BLOCK);
    pair.write(1, 0, data);
    let mut ordered = test_unit_ready();
    ordered.attr = crate::scsi::Attribute::Ordered;
    pair.initiator.submit(pair.now, 2, ordered).unwrap();
    pair.initiator
        .submit(pair.now, 3, test_unit_ready())
        .unwrap();
    pair.run();
    let opcodes: Vec<u8> = pair
        .open
        .iter()
        .map(|command| command.cdb.opcode())
        .collect();
    assert_eq!(opcodes, [0x2A, 0x00, 0x00]);
    assert_eq!(pair.open[1].attr, crate::scsi::Attribute::Ordered);
}

#[test]
fn residuals_are_told_both_ways() {
    let mut pair = Pair::logged_in(initiator_config(), target_config(), 2);
    pair.disk[..4 * BLOCK].fill(9);
    // (blocks in the CDB, bytes expected)
    for (tag, blocks, expected, residual) in [
        (1, 2, 4 * BLOCK, Residual::Underflow(1024)),
        (2, 4, 2 * BLOCK, Residual::Overflow(1024)),
        (3, 0, BLOCK, Residual::Underflow(512)),
        (4, 3, 3 * BLOCK, Residual::None),
    ] {
        let read = command(rw_cdb(0x28, 0, blocks), DataDir::In(expected as u32));
        pair.initiator.submit(pair.now, tag, read).unwrap();
        pair.run();
        let outcome = pair.done(tag);
        assert_eq!(outcome.data_in.concat().len(), expected.min(blocks * BLOCK));
        assert_eq!((outcome.status, outcome.residual), (Status::Good, residual));
        let data = pattern(&mut pair.dice, tag, expected);
        let write = command(rw_cdb(0x2A, 8, blocks), DataDir::Out(data));
        pair.initiator.submit(pair.now, tag, write).unwrap();
        pair.run();
        assert_eq!(pair.done(tag).residual, residual);
    }
}

#[test]
fn sense_comes_with_check_condition() {
    let mut pair = Pair::logged_in(initiator_config(), target_config(), 2);
    let unknown = command(
        Cdb::new(&[0xC1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        DataDir::In(64),
    );
    pair.initiator.submit(pair.now, 1, unknown).unwrap();
    pair.run();
    let outcome = pair.done(1);
    assert_eq!(outcome.status, Status::CheckCondition);
    let sense = outcome.sense.unwrap();
    assert_eq!(
        (sense.key, sense.code),
        (SenseKey::IllegalRequest, Code::INVALID_OPERATION_CODE)
    );
    assert_eq!(outcome.residual, Residual::Underflow(64));
}

#[test]
fn data_go_through_without_a_copy_at_either_end() {
    let mut pair = Pair::logged_in(initiator_config(), target_config(), 2);
    let data = bytes::Bytes::from(vec![7; 8 * BLOCK]);
    pair.write(1, 0, vec![data.clone()]);
    let transmit = pair.initiator.poll_transmit().unwrap();
    assert_eq!(transmit.pieces.len(), 2);
    assert_eq!(transmit.pieces[1].as_ptr(), data.as_ptr());
    let wire = bytes::Bytes::from(transmit.pieces.concat());
    pair.target.handle_bytes(pair.now, wire.clone()).unwrap();
    let Some(TargetEvent::Command(command)) = pair.target.poll_event() else {
        panic!("no command");
    };
    assert_eq!(command.data_out[0].as_ptr(), wire[48..].as_ptr());
}

#[test]
fn a_write_longer_than_the_target_holds_is_refused_before_its_data_are_asked_for() {
    let mut target = target_config();
    target.limits.max_write = 64 * 1024;
    let mut pair = Pair::logged_in(initiator_config(), target, 3);
    let data = pattern(&mut pair.dice, 1, 600 * 1024);
    pair.write(1, 0, data);
    pair.run();
    let outcome = pair.done(1);
    assert_eq!(outcome.sense.unwrap().code, Code::INVALID_FIELD_IN_CDB);
    pair.read(2, 0, 1);
    pair.run();
    assert_eq!(pair.done(2).status, Status::Good);
}

#[test]
fn solicited_data_stay_below_the_bound_of_the_session_and_all_writes_end() {
    let mut target = target_config();
    target.limits.max_solicited = 100 * 1024;
    target.offer.initial_r2t = true;
    target.offer.immediate_data = false;
    target.offer.max_burst = 32 * 1024;
    let mut pair = Pair::logged_in(initiator_config(), target, 3);
    for tag in 0..20 {
        let data = pattern(&mut pair.dice, tag, 160 * 1024);
        pair.write(tag, 0, data);
    }
    pair.run();
    for tag in 0..20 {
        assert_eq!(pair.done(tag).status, Status::Good);
    }
}

#[test]
fn abort_of_a_given_task_ends_it_and_its_late_answer_is_dropped() {
    let mut pair = Pair::logged_in(initiator_config(), target_config(), 4);
    pair.eager = false;
    pair.read(1, 0, 1);
    pair.read(2, 1, 1);
    pair.run();
    let victim = pair.open.remove(0);
    let function = TaskFunction::AbortTask { tag: 1 };
    let request = TaskManagement { lun: LUN, function };
    pair.initiator.submit_task_management(pair.now, 10, request);
    pair.run();
    let (id, seen) = pair.requests[0];
    assert_eq!(seen, TaskFunction::AbortTask { tag: victim.task });
    pair.answer(victim.clone());
    pair.run();
    assert!(pair.events.is_empty());
    pair.target
        .respond_task_management(id, TaskResponse::Complete);
    pair.answer(victim);
    pair.run();
    assert_eq!(pair.done(1).status, Status::TaskAborted);
    let response = TaskResponse::Complete;
    assert_eq!(pair.events, [InitiatorEvent::TmfDone { tag: 10, response }]);
    pair.answer_all();
    pair.run();
    assert_eq!(pair.done(2).status, Status::Good);
    assert_eq!(pair.target.open_tasks(), 0);
}

#[test]
fn an_abort_that_the_server_refuses_lets_the_answer_through() {
    let mut pair = Pair::logged_in(initiator_config(), target_config(), 4);
    pair.eager = false;
    pair.read(1, 0, 1);
    pair.run();
    let function = TaskFunction::AbortTask { tag: 1 };
    let request = TaskManagement { lun: LUN, function };
    pair.initiator.submit_task_management(pair.now, 10, request);
    pair.run();
    pair.answer_all();
    let (id, _) = pair.requests[0];
    pair.target
        .respond_task_management(id, TaskResponse::TaskNotFound);
    pair.run();
    assert_eq!(pair.done(1).status, Status::Good);
    let response = TaskResponse::TaskNotFound;
    assert_eq!(pair.events, [InitiatorEvent::TmfDone { tag: 10, response }]);
}

#[test]
fn abort_of_a_write_whose_data_are_missing_ends_at_the_session() {
    let offer = Offer {
        initial_r2t: true,
        immediate_data: false,
        ..Offer::default()
    };
    let mut pair = pair_with(&offer, 4);
    let data = pattern(&mut pair.dice, 1, 64 * BLOCK);
    pair.write(1, 0, data);
    // The command reaches the target, its R2T does not come back yet.
    while let Some(transmit) = pair.initiator.poll_transmit() {
        for piece in transmit.pieces {
            pair.target.handle_bytes(pair.now, piece).unwrap();
        }
    }
    let function = TaskFunction::AbortTask { tag: 1 };
    let request = TaskManagement { lun: LUN, function };
    pair.initiator.submit_task_management(pair.now, 10, request);
    pair.run();
    assert_eq!(pair.done(1).status, Status::TaskAborted);
    assert!(pair.requests.is_empty() && pair.open.is_empty());
    pair.read(2, 0, 1);
    pair.run();
    assert_eq!(pair.done(2).status, Status::Good);
    assert_eq!(pair.target.open_tasks(), 0);
}

#[test]
fn a_reset_of_the_unit_ends_all_its_tasks_and_no_others() {
    let mut pair = Pair::logged_in(initiator_config(), target_config(), 4);
    pair.eager = false;
    for tag in 0..5 {
        pair.read(tag, 0, 1);
    }
    let mut other = test_unit_ready();
    other.lun = crate::scsi::Lun::from_number(1);
    pair.initiator.submit(pair.now, 5, other).unwrap();
    let function = TaskFunction::LunReset;
    let request = TaskManagement { lun: LUN, function };
    pair.initiator.submit_task_management(pair.now, 10, request);
    pair.read(6, 0, 1);
    pair.run();
    assert_eq!(pair.open.len(), 7);
    let (id, _) = pair.requests[0];
    pair.target
        .respond_task_management(id, TaskResponse::Complete);
    pair.answer_all();
    pair.run();
    for tag in 0..5 {
        assert_eq!(pair.done(tag).status, Status::TaskAborted);
    }
    assert_eq!(pair.done(5).status, Status::Good);
    assert_eq!(pair.done(6).status, Status::Good);
}

#[test]
fn functions_that_are_not_there_say_so() {
    let mut pair = Pair::logged_in(initiator_config(), target_config(), 4);
    let function = TaskFunction::QueryTaskSet;
    let request = TaskManagement { lun: LUN, function };
    pair.initiator.submit_task_management(pair.now, 10, request);
    let function = TaskFunction::AbortTask { tag: 77 };
    let request = TaskManagement { lun: LUN, function };
    pair.initiator.submit_task_management(pair.now, 11, request);
    pair.run();
    let done = |tag, response| InitiatorEvent::TmfDone { tag, response };
    assert!(pair.events.contains(&done(10, TaskResponse::NotSupported)));
    assert!(pair.events.contains(&done(11, TaskResponse::TaskNotFound)));
}

#[test]
fn discarded_tasks_open_a_closed_window_again() {
    let mut target = target_config();
    target.limits.queue_depth = 1;
    let mut pair = Pair::logged_in(initiator_config(), target, 4);
    pair.eager = false;
    pair.read(1, 0, 1);
    pair.read(2, 0, 1);
    pair.run();
    assert_eq!(pair.open.len(), 1);
    let first = pair.open.remove(0);
    pair.target.discard(first.task);
    pair.run();
    assert_eq!(pair.open.len(), 1);
}

#[test]
fn logout_ends_the_session_at_both_ends() {
    let mut pair = Pair::logged_in(initiator_config(), target_config(), 4);
    pair.initiator.logout(pair.now);
    pair.run();
    assert_eq!(pair.events, [InitiatorEvent::LoggedOut]);
    assert_eq!(pair.closed, Some(CloseReason::LoggedOut));
    assert!(
        pair.initiator
            .submit(pair.now, 1, test_unit_ready())
            .is_err()
    );
}

#[test]
fn a_target_that_drains_asks_for_a_logout() {
    let mut pair = Pair::logged_in(initiator_config(), target_config(), 4);
    pair.target.request_logout(Duration::from_secs(10));
    pair.run();
    let within = Duration::from_secs(10);
    assert_eq!(pair.events, [InitiatorEvent::LogoutRequested { within }]);
}

#[test]
fn idle_ends_ping_each_other_and_stay() {
    let mut pair = Pair::logged_in(initiator_config(), target_config(), 4);
    let from = pair.to_target.seen.len();
    pair.pass(pair.now + Duration::from_secs(100));
    assert_eq!((pair.closed.as_ref(), pair.dropped()), (None, None));
    let pings = pair.to_target.seen[from..]
        .chunks(48)
        .filter(|header| header[0] == 0x40)
        .count();
    assert!(pings >= 99, "{pings}");

    let mut initiator = initiator_config();
    initiator.limits.ping_interval = None;
    let mut pair = Pair::logged_in(initiator, target_config(), 4);
    pair.pass(pair.now + Duration::from_secs(100));
    assert_eq!((pair.closed.as_ref(), pair.dropped()), (None, None));
}
