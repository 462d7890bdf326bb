//! An initiator, a line and a target with a small disk behind it. All choices come from a seed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::super::*;
use crate::scsi::{
    Attribute, Cdb, Expected, Lun, Residual, ScsiOutcome, Sense, Status, TaskFunction, TaskResponse,
};

pub(super) const TARGET: &str = "iqn.2026-01.example:disk";
pub(super) const INITIATOR: &str = "iqn.2026-01.example:host";
pub(super) const BLOCK: usize = 512;
pub(super) const LUN: Lun = Lun(0);

/// xorshift64*.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

pub(super) fn initiator_config() -> InitiatorConfig {
    InitiatorConfig {
        initiator_name: INITIATOR.to_owned(),
        initiator_alias: None,
        kind: SessionKind::Normal {
            target: TARGET.to_owned(),
        },
        isid: [0x80, 1, 2, 3, 4, 5],
        chap: None,
        offer: Offer::default(),
        limits: InitiatorLimits::default(),
        random: [0xA5; 32],
    }
}

pub(super) fn target_config() -> TargetConfig {
    TargetConfig {
        targets: BTreeMap::from([(TARGET.to_owned(), TargetEntry::default())]),
        ..TargetConfig::default()
    }
}

pub(super) fn seed() -> ConnectionSeed {
    let mut random = [0x5A; 32];
    random[1] = 1;
    ConnectionSeed {
        random,
        tsih: 7,
        portal: Portal {
            address: "192.0.2.1:3260".to_owned(),
            group: 3,
        },
    }
}

/// One direction of the line.
#[derive(Debug, Default)]
pub(super) struct Line {
    bytes: BytesMut,
    /// Everything that went through.
    pub(super) seen: Vec<u8>,
    /// Byte places to flip a bit at.
    pub(super) flips: Vec<usize>,
}

impl Line {
    pub(super) fn put(&mut self, transmit: Transmit) {
        let from = self.seen.len();
        for piece in transmit.pieces {
            self.seen.extend_from_slice(&piece);
        }
        for flip in &self.flips {
            if (from..self.seen.len()).contains(flip) {
                self.seen[*flip] ^= 0x10;
            }
        }
        self.bytes.extend_from_slice(&self.seen[from..]);
    }

    fn take(&mut self, dice: &mut Dice, chunk: usize) -> Option<Bytes> {
        if self.bytes.is_empty() {
            return None;
        }
        let count = (1 + dice.below(chunk)).min(self.bytes.len());
        Some(self.bytes.split_to(count).freeze())
    }
}

#[derive(Debug)]
pub(super) struct Pair {
    pub(super) initiator: Initiator,
    pub(super) target: TargetSession,
    pub(super) now: Duration,
    pub(super) dice: Dice,
    pub(super) to_target: Line,
    pub(super) to_initiator: Line,
    /// Longest piece that the line gives at once.
    pub(super) chunk: usize,
    pub(super) disk: Vec<u8>,
    /// Commands given to the server and not answered.
    pub(super) open: Vec<TargetCommand>,
    pub(super) requests: Vec<(u64, TaskFunction)>,
    /// Answer at once; otherwise `answer_some` does.
    pub(super) eager: bool,
    pub(super) events: Vec<InitiatorEvent>,
    pub(super) closed: Option<CloseReason>,
    pub(super) login: Option<LoginInfo>,
}

impl Pair {
    pub(super) fn new(initiator: InitiatorConfig, target: TargetConfig, random: u64) -> Self {
        let now = Duration::from_secs(100);
        Self {
            initiator: Initiator::new(initiator, now),
            target: TargetSession::new(Arc::new(target), seed(), now),
            now,
            dice: Dice::new(random),
            to_target: Line::default(),
            to_initiator: Line::default(),
            chunk: 5000,
            disk: vec![0; 1 << 20],
            open: Vec::new(),
            requests: Vec::new(),
            eager: true,
            events: Vec::new(),
            closed: None,
            login: None,
        }
    }

    pub(super) fn logged_in(initiator: InitiatorConfig, target: TargetConfig, random: u64) -> Self {
        let mut pair = Self::new(initiator, target, random);
        pair.run();
        assert!(
            matches!(pair.events.first(), Some(InitiatorEvent::LoggedIn { .. })),
            "{:?} {:?}",
            pair.events,
            pair.closed
        );
        pair.events.clear();
        pair
    }

    /// Lets everything happen that needs no time.
    pub(super) fn run(&mut self) {
        while self.step() {}
    }

    /// One move of each direction. `false`: nothing moved.
    pub(super) fn step(&mut self) -> bool {
        let mut moved = false;
        while let Some(transmit) = self.initiator.poll_transmit() {
            self.to_target.put(transmit);
        }
        while let Some(transmit) = self.target.poll_transmit() {
            self.to_initiator.put(transmit);
        }
        if let Some(bytes) = self.to_target.take(&mut self.dice, self.chunk) {
            moved = true;
            let _ = self.target.handle_bytes(self.now, bytes);
        }
        if let Some(bytes) = self.to_initiator.take(&mut self.dice, self.chunk) {
            moved = true;
            let _ = self.initiator.handle_bytes(self.now, bytes);
        }
        while let Some(event) = self.target.poll_event() {
            moved = true;
            self.serve(event);
        }
        while let Some(event) = self.initiator.poll_event() {
            moved = true;
            self.events.push(event);
        }
        moved
    }

    /// Lets time pass to the next deadline of either end, but not beyond `until`.
    pub(super) fn pass(&mut self, until: Duration) {
        self.run();
        while self.now < until {
            let deadlines = [self.initiator.deadline(), self.target.deadline()];
            let next = deadlines.into_iter().flatten().min().unwrap_or(until);
            self.now = next.clamp(self.now, until);
            self.initiator.handle_timeout(self.now);
            self.target.handle_timeout(self.now);
            self.run();
        }
    }

    fn serve(&mut self, event: TargetEvent) {
        match event {
            TargetEvent::LoginReady(info) => {
                self.login = Some(info);
                self.target.accept_login(self.now);
            }
            TargetEvent::Command(command) => {
                self.open.push(command);
                if self.eager {
                    self.answer_all();
                }
            }
            TargetEvent::TaskManagement {
                request, function, ..
            } => {
                self.requests.push((request, function));
                if self.eager {
                    self.answer_managements();
                }
            }
            TargetEvent::Closed(reason) => self.closed = Some(reason),
        }
    }

    pub(super) fn answer_managements(&mut self) {
        for (request, function) in std::mem::take(&mut self.requests) {
            match function {
                TaskFunction::AbortTask { tag } => self.open.retain(|open| open.task != tag),
                _ => self.open.clear(),
            }
            self.target
                .respond_task_management(request, TaskResponse::Complete);
        }
    }

    pub(super) fn answer_all(&mut self) {
        for command in std::mem::take(&mut self.open) {
            self.answer(command);
        }
    }

    /// Answers one open command, any of them.
    pub(super) fn answer_some(&mut self) {
        if !self.open.is_empty() {
            let at = self.dice.below(self.open.len());
            let command = self.open.remove(at);
            self.answer(command);
        }
    }

    /// READ(10), WRITE(10), and TEST UNIT READY; what else there is has no sense.
    pub(super) fn answer(&mut self, command: TargetCommand) {
        let cdb = command.cdb.as_bytes();
        let outcome = match command.cdb.opcode() {
            0x00 => good(Vec::new(), Residual::of(0, command.expected.length())),
            0x28 | 0x2A => {
                let lba = u32::from_be_bytes(cdb[2..6].try_into().unwrap()) as usize;
                let blocks = u16::from_be_bytes(cdb[7..9].try_into().unwrap()) as usize;
                let (from, meant) = (lba * BLOCK, blocks * BLOCK);
                let expected = command.expected.length();
                let moved = meant.min(expected as usize);
                let residual = Residual::of(meant as u64, expected);
                match command.expected {
                    Expected::Out(_) => {
                        let data = command.data_out.concat();
                        assert_eq!(data.len(), expected as usize);
                        self.disk[from..from + moved].copy_from_slice(&data[..moved]);
                        good(Vec::new(), residual)
                    }
                    Expected::In(_) => {
                        let data = Bytes::copy_from_slice(&self.disk[from..from + moved]);
                        good(self.pieces(data), residual)
                    }
                    Expected::None => good(Vec::new(), residual),
                }
            }
            _ => ScsiOutcome {
                status: Status::CheckCondition,
                sense: Some(Sense::illegal(crate::scsi::Code::INVALID_OPERATION_CODE)),
                data_in: Vec::new(),
                residual: Residual::of(0, command.expected.length()),
            },
        };
        self.target.respond(command.task, outcome);
    }

    fn pieces(&mut self, mut data: Bytes) -> Vec<Bytes> {
        let mut pieces = Vec::new();
        while !data.is_empty() {
            let count = (1 + self.dice.below(40_000)).min(data.len());
            pieces.push(data.split_to(count));
        }
        pieces
    }

    /// The outcome of this tag, which must be there.
    pub(super) fn done(&mut self, tag: u64) -> ScsiOutcome {
        let at = self
            .events
            .iter()
            .position(
                |event| matches!(event, InitiatorEvent::Done { tag: done, .. } if *done == tag),
            )
            .unwrap_or_else(|| {
                panic!(
                    "no outcome of {tag} in {:?}, closed {:?}",
                    self.events, self.closed
                )
            });
        let InitiatorEvent::Done { outcome, .. } = self.events.remove(at) else {
            unreachable!();
        };
        outcome
    }

    pub(super) fn write(&mut self, tag: u64, lba: u32, data: Vec<Bytes>) {
        let length: usize = data.iter().map(Bytes::len).sum();
        let command = command(rw_cdb(0x2A, lba, length / BLOCK), DataDir::Out(data));
        self.initiator.submit(self.now, tag, command).unwrap();
    }

    pub(super) fn read(&mut self, tag: u64, lba: u32, blocks: usize) {
        let command = command(
            rw_cdb(0x28, lba, blocks),
            DataDir::In((blocks * BLOCK) as u32),
        );
        self.initiator.submit(self.now, tag, command).unwrap();
    }

    pub(super) fn dropped(&self) -> Option<&DropReason> {
        self.events.iter().find_map(|event| match event {
            InitiatorEvent::Dropped(reason) => Some(reason),
            _ => None,
        })
    }
}

pub(super) fn good(data_in: Vec<Bytes>, residual: Residual) -> ScsiOutcome {
    ScsiOutcome {
        status: Status::Good,
        sense: None,
        data_in,
        residual,
    }
}

pub(super) fn command(cdb: Cdb, data: DataDir) -> Command {
    Command {
        lun: LUN,
        cdb,
        data,
        attr: Attribute::Simple,
    }
}

pub(super) fn rw_cdb(opcode: u8, lba: u32, blocks: usize) -> Cdb {
    let [a, b, c, d] = lba.to_be_bytes();
    let [e, f] = (blocks as u16).to_be_bytes();
    Cdb::new(&[opcode, 0, a, b, c, d, 0, e, f, 0])
}

pub(super) fn test_unit_ready() -> Command {
    command(Cdb::new(&[0; 6]), DataDir::None)
}

/// Bytes that differ by place and tag, in random pieces.
pub(super) fn pattern(dice: &mut Dice, tag: u64, length: usize) -> Vec<Bytes> {
    let mut data: Bytes = (0..length)
        .map(|at| (at as u64 ^ (at as u64 >> 8) ^ tag.wrapping_mul(37)) as u8)
        .collect();
    let mut pieces = Vec::new();
    while !data.is_empty() {
        let count = (1 + dice.below(30_000)).min(data.len());
        pieces.push(data.split_to(count));
    }
    pieces
}
