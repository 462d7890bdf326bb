//! Everything at once, from a seed: reads and writes of all lengths, aborts, resets, answers in any order, a line that may break.
//!
//! Checked: each accepted tag and each function is answered once; data are those of their own command; a command is given to
//! the server at most once, and never after its abort was completed; at the end nothing is left open and the window is whole.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::super::*;
use super::pair::*;
use crate::scsi::{
    Attribute, Cdb, Expected, Lun, Residual, ScsiOutcome, Status, TaskFunction, TaskResponse,
};

const READ: u8 = 0xA8;
const WRITE: u8 = 0xAA;

#[derive(Debug, Default)]
struct Storm {
    /// Lengths of the commands submitted and not done.
    open: BTreeMap<u64, (usize, Lun)>,
    functions: BTreeMap<u64, TaskManagement>,
    given: BTreeSet<u64>,
    aborted: BTreeSet<u64>,
    next_tag: u64,
    done: usize,
}

fn cdb(opcode: u8, tag: u64) -> Cdb {
    let mut bytes = [0; 12];
    bytes[0] = opcode;
    bytes[2..10].copy_from_slice(&tag.to_be_bytes());
    Cdb::new(&bytes)
}

fn tag_of(command: &TargetCommand) -> u64 {
    u64::from_be_bytes(command.cdb.as_bytes()[2..10].try_into().unwrap())
}

/// The data of a command, the same on both ends.
fn data_of(tag: u64, length: usize) -> Vec<Bytes> {
    pattern(&mut Dice::new(tag), tag, length)
}

fn answer(command: &TargetCommand) -> ScsiOutcome {
    match command.expected {
        Expected::In(length) => good(data_of(tag_of(command), length as usize), Residual::None),
        Expected::Out(_) | Expected::None => good(vec![], Residual::None),
    }
}

impl Storm {
    fn submit(&mut self, pair: &mut Pair) {
        let tag = self.next_tag;
        self.next_tag += 1;
        let length = match pair.dice.below(4) {
            0 => pair.dice.below(64),
            1 => 4096,
            _ => pair.dice.below(30_000),
        };
        let write = pair.dice.below(2) == 0;
        let lun = Lun::from_number(pair.dice.below(2) as u16);
        let command = Command {
            lun,
            cdb: cdb(if write { WRITE } else { READ }, tag),
            data: if write {
                DataDir::Out(data_of(tag, length))
            } else {
                DataDir::In(length as u32)
            },
            attr: match pair.dice.below(8) {
                0 => Attribute::Ordered,
                1 => Attribute::HeadOfQueue,
                _ => Attribute::Simple,
            },
        };
        if pair.initiator.submit(pair.now, tag, command).is_ok() {
            self.open.insert(tag, (length, lun));
        }
    }

    fn manage(&mut self, pair: &mut Pair) {
        let tag = self.next_tag;
        self.next_tag += 1;
        let victims: Vec<u64> = self.open.keys().copied().collect();
        let function = match pair.dice.below(10) {
            0 => TaskFunction::LunReset,
            1 => TaskFunction::AbortTaskSet,
            _ if victims.is_empty() => return,
            _ => TaskFunction::AbortTask {
                tag: victims[pair.dice.below(victims.len())],
            },
        };
        let lun = match function {
            TaskFunction::AbortTask { tag } => self.open[&tag].1,
            _ => Lun::from_number(pair.dice.below(2) as u16),
        };
        let request = TaskManagement { lun, function };
        self.functions.insert(tag, request);
        pair.initiator
            .submit_task_management(pair.now, tag, request);
    }

    /// Takes what the pair has seen since.
    fn watch(&mut self, pair: &mut Pair) {
        for command in &pair.open {
            let tag = tag_of(command);
            if self.given.insert(tag) {
                assert!(!self.aborted.contains(&tag), "given after its abort: {tag}");
                if let Expected::Out(length) = command.expected {
                    let data = data_of(tag, length as usize).concat();
                    assert_eq!(command.data_out.concat(), data, "{tag}");
                }
            }
        }
        for event in std::mem::take(&mut pair.events) {
            match event {
                InitiatorEvent::Done { tag, outcome } => {
                    let (length, _) = self.open.remove(&tag).expect("done once");
                    self.done += 1;
                    match outcome.status {
                        Status::Good if !outcome.data_in.is_empty() => {
                            assert_eq!(outcome.data_in.concat(), data_of(tag, length).concat());
                        }
                        Status::Good => {}
                        Status::TaskAborted => {
                            self.aborted.insert(tag);
                        }
                        other => panic!("{tag}: {other:?}"),
                    }
                }
                InitiatorEvent::TmfDone { tag, .. } => {
                    assert!(
                        self.functions.remove(&tag).is_some(),
                        "function answered once"
                    );
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// The server does one thing.
    fn serve(pair: &mut Pair) {
        if !pair.requests.is_empty() && pair.dice.below(4) == 0 {
            let (request, function) = pair.requests.remove(0);
            let response = match function {
                TaskFunction::AbortTask { tag } => {
                    let before = pair.open.len();
                    pair.open.retain(|open| open.task != tag);
                    if pair.open.len() < before {
                        TaskResponse::Complete
                    } else {
                        TaskResponse::TaskNotFound
                    }
                }
                // A server that resets a unit forgets its commands. Which unit, the test server does not know here: it
                // answers what is there first, as a unit may.
                _ if pair.dice.below(3) == 0 => TaskResponse::NotSupported,
                _ => {
                    for command in std::mem::take(&mut pair.open) {
                        let outcome = answer(&command);
                        pair.target.respond(command.task, outcome);
                    }
                    TaskResponse::Complete
                }
            };
            pair.target.respond_task_management(request, response);
        } else if !pair.open.is_empty() {
            let at = pair.dice.below(pair.open.len());
            let command = pair.open.remove(at);
            let outcome = answer(&command);
            pair.target.respond(command.task, outcome);
        }
    }
}

fn pair_of(random: u64) -> Pair {
    let mut dice = Dice::new(random);
    let mut offer = || {
        let digest = [DigestOffer::Allow, DigestOffer::Prefer][dice.below(2)];
        Offer {
            header_digest: digest,
            data_digest: digest,
            max_recv_segment: [512, 4096, 8192, 256 << 10][dice.below(4)],
            max_burst: [4096, 20_000, 1 << 20][dice.below(3)],
            first_burst: [512, 8192, 256 << 10][dice.below(3)],
            initial_r2t: dice.below(2) == 0,
            immediate_data: dice.below(2) == 0,
            max_outstanding_r2t: 1 + dice.below(4) as u16,
            ..Offer::default()
        }
    };
    let mut initiator = initiator_config();
    initiator.offer = offer();
    let mut target = target_config();
    target.offer = offer();
    target.limits.queue_depth = 1 + dice.below(40) as u16;
    target.limits.max_solicited = [1, 50_000, 32 << 20][dice.below(3)];
    initiator.limits.max_in_flight = 1 + dice.below(60);
    let mut pair = Pair::logged_in(initiator, target, random);
    pair.eager = false;
    pair.chunk = [700, 5000, 100_000][dice.below(3)];
    pair
}

fn run(random: u64, breaks: bool) {
    let mut pair = pair_of(random);
    let mut storm = Storm::default();
    for _ in 0..400 {
        match pair.dice.below(12) {
            0..=4 => storm.submit(&mut pair),
            5 => storm.manage(&mut pair),
            6..=8 => Storm::serve(&mut pair),
            _ => {
                pair.step();
            }
        }
        storm.watch(&mut pair);
    }
    if breaks {
        pair.target.close();
        pair.run();
        assert!(matches!(pair.closed, Some(CloseReason::Local)));
        assert_eq!(pair.target.open_tasks(), 0);
        return;
    }
    let mut rounds = 0;
    while !storm.open.is_empty() || !storm.functions.is_empty() {
        Storm::serve(&mut pair);
        pair.step();
        storm.watch(&mut pair);
        rounds += 1;
        assert!(
            rounds < 500_000,
            "hangs with {} open, {} functions, target {}",
            storm.open.len(),
            storm.functions.len(),
            pair.target.open_tasks()
        );
    }
    // What the server holds now was aborted: its answers go nowhere.
    while !pair.open.is_empty() {
        Storm::serve(&mut pair);
    }
    pair.run();
    storm.watch(&mut pair);
    assert_eq!(pair.target.open_tasks(), 0);
    assert_eq!(pair.initiator.open_commands(), 0);
    assert!(storm.done > 50, "{}", storm.done);
    // The window is whole again: one more command than ever may be open goes through.
    for tag in 0..41 {
        let tag = 1_000_000 + tag;
        pair.initiator
            .submit(pair.now, tag, test_unit_ready())
            .unwrap();
        pair.run();
        pair.answer_all();
        pair.run();
        assert_eq!(pair.done(tag).status, Status::Good);
    }
}

/// How many seeds: more when `SEEDS` says so.
pub(super) fn seeds(usual: u64) -> u64 {
    std::env::var("SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok())
        .unwrap_or(usual)
}

#[test]
fn whatever_happens_every_command_is_answered_once() {
    for random in 0..seeds(40) {
        let run = std::panic::catch_unwind(|| run(random, false));
        assert!(run.is_ok(), "seed {random}");
    }
}

#[test]
fn a_session_that_ends_in_the_middle_leaves_nothing() {
    for random in 1000..1000 + seeds(20) {
        let run = std::panic::catch_unwind(|| run(random, true));
        assert!(run.is_ok(), "seed {random}");
    }
}
