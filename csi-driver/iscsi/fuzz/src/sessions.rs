//! One end of a session against bytes that no honest peer sends, in every stage from the first login PDU on.
//!
//! An input is: mode, number of honest exchanges before, length of the pieces, then the stream.

use std::time::Duration;

use bytes::Bytes;
use twinsite_iscsi::session::{InitiatorEvent, SessionError};

use crate::choices::Choices;
use crate::peers::{MAX_BACKLOG, MAX_TASKS, Mode, Pair, serve};

struct Opening<'a> {
    pair: Pair,
    /// Time that passes with each piece.
    pause: Duration,
    chunk: usize,
    stream: &'a [u8],
}

fn open(data: &[u8]) -> Opening<'_> {
    let mut choices = Choices(data);
    let [mode, steps, long] = choices.array();
    let mut pair = Pair::new(Mode(mode));
    if mode & 0x80 != 0 {
        pair.submit(0);
    }
    for _ in 0..steps & 15 {
        pair.step();
    }
    if mode & 0x40 != 0 {
        pair.submit(100);
        pair.initiator.discover(pair.now);
    }
    Opening {
        pair,
        pause: Duration::from_millis(u64::from(mode >> 4 & 3) * 700),
        chunk: 1 + usize::from(long) * 4,
        stream: choices.0,
    }
}

pub fn target_session(data: &[u8]) {
    let Opening {
        mut pair,
        pause,
        chunk,
        stream,
    } = open(data);
    for piece in stream.chunks(chunk) {
        let alive = pair
            .target
            .handle_bytes(pair.now, Bytes::copy_from_slice(piece));
        assert!(
            pair.target.open_tasks() <= MAX_TASKS,
            "{} tasks",
            pair.target.open_tasks()
        );
        assert!(pair.target.transmit_backlog() <= MAX_BACKLOG + 64 * 1024);
        serve(&mut pair.target, pair.now);
        pair.now += pause;
        if pair.target.deadline().is_some_and(|at| at <= pair.now) {
            pair.target.handle_timeout(pair.now);
            serve(&mut pair.target, pair.now);
        }
        while pair.target.poll_transmit().is_some() {}
        if alive.is_err() {
            let after = pair
                .target
                .handle_bytes(pair.now, Bytes::from_static(&[0; 48]));
            assert_eq!(after, Err(SessionError::Closed));
            assert_eq!(pair.target.poll_event(), None);
            return;
        }
    }
    pair.target.close();
    serve(&mut pair.target, pair.now);
}

pub fn initiator_session(data: &[u8]) {
    let Opening {
        mut pair,
        pause,
        chunk,
        stream,
    } = open(data);
    let mut tags = Vec::new();
    for piece in stream.chunks(chunk) {
        let alive = pair
            .initiator
            .handle_bytes(pair.now, Bytes::copy_from_slice(piece));
        assert!(pair.initiator.open_commands() <= 6);
        pair.now += pause;
        if pair.initiator.deadline().is_some_and(|at| at <= pair.now) {
            pair.initiator.handle_timeout(pair.now);
        }
        while let Some(event) = pair.initiator.poll_event() {
            if let InitiatorEvent::Done { tag, outcome } = event {
                assert!(!tags.contains(&tag), "command {tag} ends twice");
                tags.push(tag);
                let length: usize = outcome.data_in.iter().map(Bytes::len).sum();
                assert!(length <= 2048, "more data than was asked for");
            }
        }
        while pair.initiator.poll_transmit().is_some() {}
        if alive.is_err() {
            assert_eq!(pair.initiator.open_commands(), 0);
            let after = pair
                .initiator
                .handle_bytes(pair.now, Bytes::from_static(&[0; 48]));
            assert!(after.is_err());
            return;
        }
    }
    pair.initiator.logout(pair.now);
}
