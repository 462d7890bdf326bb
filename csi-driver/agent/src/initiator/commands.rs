//! The mirror's commands on the two sessions of a leg: those given to a session, and those that wait for room there.
//!
//! Invariants: a command that was taken in comes out of `ended` exactly once; metadata overtakes guest data that waits.
//! Not here: what a command is in SCSI (`command`), when the sessions are up (`link`).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use slab::Slab;
use twinsite_iscsi::scsi::{Attribute, Cdb, Lun, Residual, ScsiOutcome, Status};
use twinsite_iscsi::session::{Command, DataDir};
use twinsite_mirror::io::{CmdId, Lane, LegError, LegOp, LegReply, Session as Which};

use super::command::{Arrived, Open, Part, build};
use super::identify::Limits;
use super::session::Session;

/// Commands given to a session and not answered.
pub(super) const IN_FLIGHT: usize = 128;
/// Commands that wait; the engine's own bounds are far below.
const MAX_WAITING: usize = 16 << 10;
/// A tag is the part's number and the command's place; the upper bits are for others.
const PART_SHIFT: u32 = 32;

/// The end of a command.
#[derive(Debug)]
pub(super) struct Ended {
    pub cmd: CmdId,
    pub result: Result<LegReply, LegError>,
    pub arrived: Option<Arrived>,
}

pub(super) struct Commands {
    lun: Lun,
    pub limits: Limits,
    open: Slab<Open>,
    in_flight: [usize; 2],
    waiting: [VecDeque<Waiting>; 2],
    waiting_meta: VecDeque<Waiting>,
    pub ended: VecDeque<Ended>,
}

struct Waiting {
    tag: u64,
    part: Part,
}

impl Commands {
    pub(super) fn new(lun: Lun) -> Self {
        Self {
            lun,
            limits: Limits {
                block_size: 512,
                transfer: u32::MAX,
                write_same: u32::MAX,
            },
            open: Slab::new(),
            in_flight: [0; 2],
            waiting: [VecDeque::new(), VecDeque::new()],
            waiting_meta: VecDeque::new(),
            ended: VecDeque::new(),
        }
    }

    pub(super) fn begin(
        &mut self,
        now: Duration,
        sessions: &mut [Session; 2],
        (cmd, op): (CmdId, LegOp),
        lane: Lane,
        payload: Vec<Bytes>,
    ) {
        let session = match lane {
            Lane::Meta | Lane::Guest => Which::Data,
            Lane::Resync => Which::Resync,
        };
        match build(cmd, op, session, payload, self.limits) {
            Ok(built) => {
                let key = self.open.insert(built.open) as u64;
                for (n, part) in built.parts.into_iter().enumerate() {
                    let tag = (n as u64) << PART_SHIFT | key;
                    let to = built.session;
                    self.send_or_wait(now, sessions, to, lane, Waiting { tag, part });
                }
            }
            Err(error) => self.end(cmd, Err(error)),
        }
    }

    /// A command ends that never was one, or whose session is gone.
    pub(super) fn end(&mut self, cmd: CmdId, result: Result<LegReply, LegError>) {
        let arrived = None;
        self.ended.push_back(Ended {
            cmd,
            result,
            arrived,
        });
    }

    fn send_or_wait(
        &mut self,
        now: Duration,
        sessions: &mut [Session; 2],
        to: Which,
        lane: Lane,
        part: Waiting,
    ) {
        let n = to as usize;
        if self.in_flight[n] < IN_FLIGHT && self.waiting[n].is_empty() {
            return self.send(now, sessions, n, part);
        }
        let queue = if lane == Lane::Meta && to == Which::Data {
            &mut self.waiting_meta
        } else {
            &mut self.waiting[n]
        };
        debug_assert!(queue.len() < MAX_WAITING, "the engine bounds its requests");
        queue.push_back(part);
        self.refill(now, sessions, n);
    }

    fn send(&mut self, now: Duration, sessions: &mut [Session; 2], n: usize, waiting: Waiting) {
        let Waiting { tag, part } = waiting;
        let command = self.command(part.cdb, part.data);
        if sessions[n].submit(now, tag, command) {
            self.in_flight[n] += 1;
        } else {
            // It never left, so it was not executed.
            self.part_answered(tag, busy());
        }
    }

    fn refill(&mut self, now: Duration, sessions: &mut [Session; 2], n: usize) {
        while self.in_flight[n] < IN_FLIGHT {
            let meta = (n == Which::Data as usize)
                .then(|| self.waiting_meta.pop_front())
                .flatten();
            let Some(next) = meta.or_else(|| self.waiting[n].pop_front()) else {
                return;
            };
            self.send(now, sessions, n, next);
        }
    }

    pub(super) fn command(&self, cdb: Cdb, data: DataDir) -> Command {
        Command {
            lun: self.lun,
            cdb,
            data,
            attr: Attribute::Simple,
        }
    }

    /// The answer to a tag of ours on session `n`.
    pub(super) fn answered(
        &mut self,
        now: Duration,
        sessions: &mut [Session; 2],
        n: usize,
        tag: u64,
        outcome: ScsiOutcome,
    ) {
        self.in_flight[n] = self.in_flight[n].saturating_sub(1);
        self.part_answered(tag, outcome);
        self.refill(now, sessions, n);
    }

    fn part_answered(&mut self, tag: u64, outcome: ScsiOutcome) {
        let (key, part) = (tag as u32 as usize, (tag >> PART_SHIFT) as usize);
        let Some(open) = self.open.get_mut(key) else {
            return;
        };
        if let Some((result, arrived)) = open.answered(part, outcome) {
            let cmd = self.open.remove(key).cmd;
            self.ended.push_back(Ended {
                cmd,
                result,
                arrived,
            });
        }
    }

    /// Both sessions are gone.
    pub(super) fn fail_all(&mut self) {
        self.in_flight = [0; 2];
        self.waiting_meta.clear();
        self.waiting.iter_mut().for_each(VecDeque::clear);
        let open: Vec<_> = self.open.drain().map(Open::lost).collect();
        for (cmd, error) in open {
            self.end(cmd, Err(error));
        }
    }
}

/// What a part counts as that its session did not take.
fn busy() -> ScsiOutcome {
    ScsiOutcome {
        status: Status::Busy,
        sense: None,
        data_in: Vec::new(),
        residual: Residual::None,
    }
}
