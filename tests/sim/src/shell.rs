//! The shell of one writer: carries the outputs of a real engine out over real initiator sessions.
//!
//! It owes the engine what `twinsite_mirror::io` says: each command is answered exactly once, all of them before the leg is
//! down; both sessions of a leg live and die together; the ISID is fixed per (node, leg, session).
//!
//! Not here: how a leg is logged into and lost (`sessions`), the network, the witness, the guest (the world carries `Act`s out).

mod sessions;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use twinsite_iscsi::scsi::ScsiOutcome;
use twinsite_mirror::engine::Engine;
use twinsite_mirror::io::{
    CmdId, CopyId, DATA_START, GuestError, Input, Lane, Leg, LegDown, LegError, LegOp, LegReply,
    Output, ReqId, Session,
};
use twinsite_mirror::oneshot::{OneShot, OneShotOrder};
use twinsite_mirror::status::StateName;

use crate::network::ConnId;
use crate::scsi;
use sessions::{LegLink, Purpose};

/// What the world must do for a writer.
pub enum Act {
    Connect {
        leg: usize,
        session: usize,
    },
    Send(ConnId, Bytes),
    Close(ConnId),
    /// Everything else the engine said.
    Engine(Output),
    Done {
        id: ReqId,
        result: Result<(), GuestError>,
    },
}

/// The bytes of a guest request.
pub struct Buffer {
    pub offset: u64,
    pub data: Vec<Bytes>,
    pub answer: BTreeMap<u64, Bytes>,
}

pub struct Shell {
    name: String,
    node: u8,
    pub engine: Engine,
    /// Takes the place of the engine as long as it runs.
    pub one_shot: Option<OneShot>,
    /// The last state of the engine that was counted.
    pub noted: StateName,
    legs: [LegLink; 2],
    buffers: BTreeMap<ReqId, Buffer>,
    /// Buffers whose request is done, kept until no command names them.
    copies: BTreeMap<CopyId, Vec<Bytes>>,
    next_tag: u64,
    /// Answers to commands for a leg that is gone, and after them that it is.
    late: VecDeque<(usize, CmdId, String)>,
    down: VecDeque<(usize, LegDown)>,
    settling: bool,
    /// Print every command and answer.
    pub trace: bool,
    pub acts: VecDeque<Act>,
    pub commands: u64,
}

fn leg_of(x: usize) -> Leg {
    if x == 0 { Leg::A } else { Leg::B }
}

impl Shell {
    pub fn new(now: Duration, node: u8) -> Self {
        Self {
            name: format!("iqn.2026-01.io.twinsite:node-{node}"),
            node,
            engine: Engine::new(now),
            one_shot: None,
            noted: StateName::Off,
            legs: Default::default(),
            buffers: BTreeMap::new(),
            copies: BTreeMap::new(),
            next_tag: 1,
            late: VecDeque::new(),
            down: VecDeque::new(),
            settling: false,
            trace: false,
            acts: VecDeque::new(),
            commands: 0,
        }
    }

    /// A process that carries out one order to legs.
    pub fn of_order(now: Duration, node: u8, order: OneShotOrder) -> Self {
        let mut shell = Self::new(now, node);
        shell.one_shot = Some(OneShot::new(now, order));
        shell.drain(now);
        shell.settle(now);
        shell
    }

    fn handle(&mut self, now: Duration, input: Input) {
        match &mut self.one_shot {
            Some(one_shot) => one_shot.handle(now, &input),
            None => self.engine.handle(now, input),
        }
    }

    fn core_deadline(&self) -> Option<Duration> {
        match &self.one_shot {
            Some(one_shot) => one_shot.deadline(),
            None => self.engine.deadline(),
        }
    }

    /// One input, then all outputs, as the engine asks.
    pub fn input(&mut self, now: Duration, input: Input) {
        self.handle(now, input);
        self.drain(now);
        self.settle(now);
    }

    /// Commands that met a dead leg are answered, and then the leg is down.
    fn settle(&mut self, now: Duration) {
        if self.settling {
            return;
        }
        self.settling = true;
        let mut turns = 0;
        loop {
            if let Some((leg, cmd, what)) = self.late.pop_front() {
                let result = Err(LegError::SessionGone);
                self.handle(
                    now,
                    Input::LegDone {
                        leg: leg_of(leg),
                        cmd,
                        result,
                    },
                );
                turns += 1;
                assert!(
                    turns < 10_000,
                    "the engine sends to a dead leg for ever: {what}"
                );
            } else if let Some((leg, why)) = self.down.pop_front() {
                self.handle(
                    now,
                    Input::LegDown {
                        leg: leg_of(leg),
                        why,
                    },
                );
            } else {
                break;
            }
            self.drain(now);
        }
        self.settling = false;
    }

    pub fn guest(
        &mut self,
        now: Duration,
        id: ReqId,
        op: twinsite_mirror::io::GuestOp,
        offset: u64,
        data: Vec<Bytes>,
    ) {
        self.buffers.insert(
            id,
            Buffer {
                offset,
                data,
                answer: BTreeMap::new(),
            },
        );
        self.input(now, Input::Guest { id, op });
    }

    pub fn take_buffer(&mut self, id: ReqId) -> Option<Buffer> {
        self.buffers.remove(&id)
    }

    fn drain(&mut self, now: Duration) {
        loop {
            let next = match &mut self.one_shot {
                Some(one_shot) => one_shot.poll(),
                None => self.engine.poll(),
            };
            let Some(output) = next else { break };
            match output {
                Output::Connect { leg } => {
                    let link = &mut self.legs[leg.index()];
                    link.wanted = true;
                    if link.slots.iter().all(Option::is_none) && link.retry_at.is_none() {
                        self.connect(now, leg.index());
                    }
                }
                Output::Disconnect { leg } => {
                    self.legs[leg.index()].wanted = false;
                    self.lose(now, leg.index(), LegDown::Closed);
                }
                Output::Leg { leg, cmd, op, lane } => self.submit(now, leg.index(), cmd, op, lane),
                Output::CopyFree { copy } => {
                    self.copies.remove(&copy);
                }
                Output::GuestDone { id, result } => self.acts.push_back(Act::Done { id, result }),
                other => self.acts.push_back(Act::Engine(other)),
            }
        }
    }

    fn submit(&mut self, now: Duration, leg: usize, cmd: CmdId, op: LegOp, lane: Lane) {
        if self.trace {
            println!(
                "{now:?} {} leg {leg} {cmd:?} {lane:?} {}",
                self.name,
                format!("{op:?}").chars().take(100).collect::<String>()
            );
        }
        let session = match (&op, lane) {
            (LegOp::PrRegister { session, .. } | LegOp::PrUnregister { session, .. }, _) => {
                usize::from(*session == Session::Resync)
            }
            (_, Lane::Resync) => 1,
            (_, Lane::Meta | Lane::Guest) => 0,
        };
        if !self.legs[leg].up {
            self.late.push_back((leg, cmd, format!("{op:?}")));
            self.settle(now);
            return;
        }
        self.start(now, leg, session, cmd, op);
    }

    fn start(&mut self, now: Duration, leg: usize, session: usize, cmd: CmdId, op: LegOp) {
        let payload = match &op {
            LegOp::WriteData { req, skip, len, .. } => {
                let buffer = self
                    .buffers
                    .get(req)
                    .expect("the buffer of a guest write lives until its commands ended");
                scsi::cut(&buffer.data, u64::from(*skip), u64::from(*len))
            }
            LegOp::CopyWrite { copy, .. } => self
                .copies
                .get(copy)
                .cloned()
                .expect("a copy is read before it is written"),
            _ => vec![],
        };
        let (command, _) = scsi::of_op(&op, payload);
        self.send(now, leg, session, Purpose::Engine { cmd, op }, command);
    }

    fn done(&mut self, now: Duration, leg: usize, tag: u64, outcome: ScsiOutcome) {
        let Some(pending) = self.legs[leg].pending.remove(&tag) else {
            return;
        };
        match pending.purpose {
            Purpose::Question => {
                match scsi::check(&outcome) {
                    Ok(()) => self.legs[leg].questions.answer(&outcome.data_in.concat()),
                    Err(LegError::Retry | LegError::Preempted) => {}
                    Err(_) => self.legs[leg].questions.refused(),
                }
                self.ask(now, leg);
            }
            Purpose::Warm => {
                if let Some(slot) = &mut self.legs[leg].slots[1] {
                    slot.warm = true;
                }
                self.maybe_up(now, leg);
            }
            Purpose::Engine { cmd, op } => self.answer(now, leg, pending.session, cmd, op, outcome),
        }
    }

    fn answer(
        &mut self,
        now: Duration,
        leg: usize,
        session: usize,
        cmd: CmdId,
        op: LegOp,
        outcome: ScsiOutcome,
    ) {
        let mut result = scsi::reply(&op, &outcome);
        if result.is_ok() {
            if let (_, Some(rest)) = scsi::of_op(&op, vec![Bytes::new()]) {
                self.start(now, leg, session, cmd, rest);
                return;
            }
            match &op {
                LegOp::ReadData { req, offset, .. } => {
                    if let Some(buffer) = self.buffers.get_mut(req) {
                        let at = offset - DATA_START - buffer.offset;
                        buffer.answer.insert(at, outcome.data_in.concat().into());
                    }
                }
                LegOp::CopyRead { copy, .. } => {
                    self.copies.insert(*copy, outcome.data_in);
                }
                LegOp::Identify => result = Ok(LegReply::Identity(self.legs[leg].questions.info())),
                _ => {}
            }
        }
        if self.trace {
            println!(
                "{now:?} {} leg {leg} {cmd:?} -> {}",
                self.name,
                format!("{result:?}").chars().take(100).collect::<String>()
            );
        }
        self.input(
            now,
            Input::LegDone {
                leg: leg_of(leg),
                cmd,
                result,
            },
        );
    }
}
