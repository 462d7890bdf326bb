//! How much CPU the two session ends take per command, without sockets: an initiator and a target joined by memory.
//!
//! `cargo run --release -p twinsite-iscsi --example session_speed [digests]`

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use twinsite_iscsi::scsi::{Attribute, Cdb, Lun, Residual, ScsiOutcome, Status};
use twinsite_iscsi::session::{
    Command, ConnectionSeed, DataDir, DigestOffer, Initiator, InitiatorConfig, InitiatorEvent,
    InitiatorLimits, Offer, Portal, SessionKind, TargetConfig, TargetEntry, TargetEvent,
    TargetSession, Transmit,
};

const IQN: &str = "iqn.2026-01.example:speed";
const NOW: Duration = Duration::ZERO;
/// What one receive gives at most.
const RECEIVE: usize = 256 * 1024;

struct Ends {
    initiator: Initiator,
    target: TargetSession,
    in_initiator: Duration,
    in_target: Duration,
}

fn main() {
    let digest = if std::env::args().any(|arg| arg == "digests") {
        DigestOffer::Require
    } else {
        DigestOffer::Never
    };
    for (name, bytes, write, depth, rounds) in [
        ("4k read  QD1 ", 4096, false, 1, 200_000),
        ("4k read  QD32", 4096, false, 32, 400_000),
        ("4k write QD1 ", 4096, true, 1, 200_000),
        ("4k write QD32", 4096, true, 32, 400_000),
        ("128k read  QD32", 128 * 1024, false, 32, 20_000),
        ("128k write QD32", 128 * 1024, true, 32, 20_000),
        ("1M write QD8 (R2T)", 1024 * 1024, true, 8, 2_000),
    ] {
        let mut ends = log_in(digest);
        run(&mut ends, bytes, write, depth, rounds / 10);
        (ends.in_initiator, ends.in_target) = (Duration::ZERO, Duration::ZERO);
        run(&mut ends, bytes, write, depth, rounds);
        let per = |spent: Duration| spent.as_nanos() as f64 / f64::from(rounds);
        println!(
            "{name:20} initiator {:7.0} ns  target {:7.0} ns per command",
            per(ends.in_initiator),
            per(ends.in_target)
        );
    }
}

fn log_in(digest: DigestOffer) -> Ends {
    let offer = Offer {
        header_digest: digest,
        data_digest: digest,
        ..Offer::default()
    };
    let initiator = InitiatorConfig {
        initiator_name: "iqn.2026-01.example:host".to_owned(),
        initiator_alias: None,
        kind: SessionKind::Normal {
            target: IQN.to_owned(),
        },
        isid: [0x80, 0, 0, 0, 0, 1],
        chap: None,
        offer: offer.clone(),
        limits: InitiatorLimits::default(),
        random: [1; 32],
    };
    let config = TargetConfig {
        targets: [(IQN.to_owned(), TargetEntry::default())].into(),
        offer,
        ..TargetConfig::default()
    };
    let seed = ConnectionSeed {
        random: [2; 32],
        tsih: 1,
        portal: Portal {
            address: "127.0.0.1:3260".to_owned(),
            group: 1,
        },
    };
    let mut ends = Ends {
        initiator: Initiator::new(initiator, NOW),
        target: TargetSession::new(Arc::new(config), seed, NOW),
        in_initiator: Duration::ZERO,
        in_target: Duration::ZERO,
    };
    let block = Bytes::new();
    while !matches!(
        ends.initiator.poll_event(),
        Some(InitiatorEvent::LoggedIn { .. })
    ) {
        turn(&mut ends, &block);
    }
    ends
}

fn run(ends: &mut Ends, bytes: usize, write: bool, depth: u32, rounds: u32) {
    let block = Bytes::from(vec![7; bytes]);
    let (mut sent, mut done) = (0, 0);
    while done < rounds {
        let start = Instant::now();
        while sent < rounds && sent - done < depth {
            let command = command(write, &block);
            if ends
                .initiator
                .submit(NOW, u64::from(sent), command)
                .is_err()
            {
                unreachable!("the queue is longer than the depth");
            }
            sent += 1;
        }
        ends.in_initiator += start.elapsed();
        turn(ends, &block);
        let start = Instant::now();
        while let Some(event) = ends.initiator.poll_event() {
            match event {
                InitiatorEvent::Done { outcome, .. } => {
                    assert_eq!(outcome.status, Status::Good);
                    done += 1;
                }
                other => unreachable!("{other:?}"),
            }
        }
        ends.in_initiator += start.elapsed();
    }
}

fn command(write: bool, block: &Bytes) -> Command {
    let opcode = if write { 0x2A } else { 0x28 };
    Command {
        lun: Lun(0),
        cdb: Cdb::new(&[opcode, 0, 0, 0, 0, 0, 0, 0, 8, 0]),
        data: if write {
            DataDir::Out(vec![block.clone()])
        } else {
            DataDir::In(block.len() as u32)
        },
        attr: Attribute::Simple,
    }
}

/// One trip there and back.
fn turn(ends: &mut Ends, block: &Bytes) {
    let start = Instant::now();
    let sent: Vec<Transmit> = std::iter::from_fn(|| ends.initiator.poll_transmit()).collect();
    ends.in_initiator += start.elapsed();
    for bytes in receive(sent) {
        let start = Instant::now();
        ends.target.handle_bytes(NOW, bytes).expect("target");
        ends.in_target += start.elapsed();
    }
    let start = Instant::now();
    while let Some(event) = ends.target.poll_event() {
        match event {
            TargetEvent::LoginReady(_) => ends.target.accept_login(NOW),
            TargetEvent::Command(command) => {
                let read = command.data_out.is_empty();
                let outcome = ScsiOutcome {
                    status: Status::Good,
                    sense: None,
                    data_in: if read {
                        vec![block.clone()]
                    } else {
                        Vec::new()
                    },
                    residual: Residual::None,
                };
                ends.target.respond(command.task, outcome);
            }
            other => unreachable!("{other:?}"),
        }
    }
    let sent: Vec<Transmit> = std::iter::from_fn(|| ends.target.poll_transmit()).collect();
    ends.in_target += start.elapsed();
    for bytes in receive(sent) {
        let start = Instant::now();
        ends.initiator.handle_bytes(NOW, bytes).expect("initiator");
        ends.in_initiator += start.elapsed();
    }
}

/// What a socket does: all bytes in new buffers.
fn receive(sent: Vec<Transmit>) -> Vec<Bytes> {
    let mut all = BytesMut::with_capacity(sent.iter().map(|transmit| transmit.len).sum());
    for piece in sent.iter().flat_map(|transmit| &transmit.pieces) {
        all.extend_from_slice(piece);
    }
    let mut rest = all.freeze();
    let mut buffers = Vec::new();
    while !rest.is_empty() {
        buffers.push(rest.split_to(rest.len().min(RECEIVE)));
    }
    buffers
}
