//! The shell of one writer: carries the outputs of a real engine out over real initiator sessions.
//!
//! It owes the engine what `twinsite_mirror::io` says: each command is answered exactly once, all of them before the leg is
//! down; both sessions of a leg live and die together; the ISID is fixed per (node, leg, session).
//!
//! Not here: the network, the witness, the guest (the world carries `Act`s out).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use twinsite_iscsi::scsi::ScsiOutcome;
use twinsite_iscsi::session::{
    Initiator, InitiatorConfig, InitiatorEvent, InitiatorLimits, Offer, SessionKind,
};
use twinsite_mirror::engine::Engine;
use twinsite_mirror::io::{
    CmdId, CopyId, DATA_START, GuestError, Input, Lane, Leg, LegDown, LegError, LegOp, LegReply,
    Output, ReqId, Session,
};
use twinsite_mirror::oneshot::{OneShot, OneShotOrder};

use twinsite_mirror::status::StateName;

use crate::network::ConnId;
use crate::random::Random;
use crate::scsi::{self, Questions};
use crate::target::target_name;

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

enum Purpose {
    Question,
    /// A TEST UNIT READY that takes the unit attention of the second session.
    Warm,
    Engine {
        cmd: CmdId,
        op: LegOp,
    },
}

struct Pending {
    session: usize,
    purpose: Purpose,
}

struct Slot {
    conn: ConnId,
    initiator: Initiator,
    logged_in: bool,
    warm: bool,
}

#[derive(Default)]
struct LegLink {
    wanted: bool,
    up: bool,
    slots: [Option<Slot>; 2],
    pending: BTreeMap<u64, Pending>,
    questions: Questions,
    retry_at: Option<Duration>,
    give_up_at: Option<Duration>,
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

    fn connect(&mut self, now: Duration, leg: usize) {
        let link = &mut self.legs[leg];
        link.retry_at = None;
        link.give_up_at = Some(now + scsi::CONNECT_TIMEOUT);
        link.questions = Questions::default();
        for session in 0..2 {
            self.acts.push_back(Act::Connect { leg, session });
        }
    }

    /// The connection is being opened: the login goes out when it is open.
    pub fn connecting(
        &mut self,
        now: Duration,
        leg: usize,
        session: usize,
        conn: ConnId,
        random: &mut Random,
    ) {
        let config = InitiatorConfig {
            initiator_name: self.name.clone(),
            initiator_alias: None,
            kind: SessionKind::Normal {
                target: target_name(leg),
            },
            isid: [0x80, 0, 0, self.node, leg as u8, session as u8],
            chap: None,
            offer: Offer::default(),
            limits: InitiatorLimits {
                login_timeout: Duration::from_secs(5),
                ..InitiatorLimits::default()
            },
            random: random.bytes(),
        };
        let slot = Slot {
            conn,
            initiator: Initiator::new(config, now),
            logged_in: false,
            warm: false,
        };
        self.legs[leg].slots[session] = Some(slot);
    }

    pub fn opened(&mut self, now: Duration, leg: usize, session: usize) {
        self.legs[leg].give_up_at = None;
        self.run(now, leg, session);
    }

    pub fn bytes(&mut self, now: Duration, leg: usize, session: usize, conn: ConnId, bytes: Bytes) {
        let Some(slot) = self.legs[leg].slots[session]
            .as_mut()
            .filter(|s| s.conn == conn)
        else {
            return;
        };
        // An error ends the session, which its events tell.
        let _ = slot.initiator.handle_bytes(now, bytes);
        self.run(now, leg, session);
    }

    pub fn closed(&mut self, now: Duration, leg: usize, session: usize, conn: ConnId) {
        if self.legs[leg].slots[session]
            .as_ref()
            .is_some_and(|s| s.conn == conn)
        {
            let why = if self.legs[leg].up {
                LegDown::SessionLost
            } else {
                LegDown::Unreachable
            };
            self.lose(now, leg, why);
        }
    }

    pub fn tick(&mut self, now: Duration) {
        for leg in 0..2 {
            for session in 0..2 {
                let Some(slot) = &mut self.legs[leg].slots[session] else {
                    continue;
                };
                if slot.initiator.deadline().is_some_and(|d| d <= now) {
                    slot.initiator.handle_timeout(now);
                    self.run(now, leg, session);
                }
            }
            if self.legs[leg].give_up_at.is_some_and(|t| t <= now) {
                self.lose(now, leg, LegDown::Unreachable);
            }
            if self.legs[leg].retry_at.is_some_and(|t| t <= now) {
                self.connect(now, leg);
            }
        }
        if self.core_deadline().is_some_and(|d| d <= now) {
            self.input(now, Input::Tick);
        }
    }

    pub fn deadline(&self) -> Option<Duration> {
        let links = self.legs.iter().flat_map(|l| {
            let sessions = l
                .slots
                .iter()
                .flatten()
                .filter_map(|s| s.initiator.deadline());
            sessions.chain(l.retry_at).chain(l.give_up_at)
        });
        links.chain(self.core_deadline()).min()
    }

    /// Takes events and bytes of a session.
    fn run(&mut self, now: Duration, leg: usize, session: usize) {
        while let Some(event) = self.legs[leg].slots[session]
            .as_mut()
            .and_then(|s| s.initiator.poll_event())
        {
            match event {
                InitiatorEvent::LoggedIn { .. } => {
                    if let Some(slot) = &mut self.legs[leg].slots[session] {
                        slot.logged_in = true;
                    }
                    if session == 0 {
                        self.ask(now, leg);
                    } else {
                        let c = scsi::inquiry();
                        self.send(now, leg, session, Purpose::Warm, c);
                    }
                }
                InitiatorEvent::Done { tag, outcome } => self.done(now, leg, tag, outcome),
                InitiatorEvent::Dropped(_) | InitiatorEvent::LoggedOut => {
                    let why = if self.legs[leg].up {
                        LegDown::SessionLost
                    } else {
                        LegDown::Unreachable
                    };
                    self.lose(now, leg, why);
                    return;
                }
                _ => {}
            }
        }
        self.flush(leg, session);
    }

    fn flush(&mut self, leg: usize, session: usize) {
        let Some(slot) = &mut self.legs[leg].slots[session] else {
            return;
        };
        while let Some(t) = slot.initiator.poll_transmit() {
            let bytes = if t.pieces.len() == 1 {
                t.pieces[0].clone()
            } else {
                t.pieces.concat().into()
            };
            self.acts.push_back(Act::Send(slot.conn, bytes));
        }
    }

    fn ask(&mut self, now: Duration, leg: usize) {
        match self.legs[leg].questions.next() {
            Some(command) => self.send(now, leg, 0, Purpose::Question, command),
            None => self.maybe_up(now, leg),
        }
    }

    fn maybe_up(&mut self, now: Duration, leg: usize) {
        let link = &mut self.legs[leg];
        let warm = link.slots[1].as_ref().is_some_and(|s| s.warm);
        if link.questions.next().is_none() && warm && !link.up {
            link.up = true;
            let info = link.questions.info();
            self.input(
                now,
                Input::LegUp {
                    leg: leg_of(leg),
                    info,
                },
            );
        }
    }

    fn send(
        &mut self,
        now: Duration,
        leg: usize,
        session: usize,
        purpose: Purpose,
        command: twinsite_iscsi::session::Command,
    ) {
        let tag = self.next_tag;
        self.next_tag += 1;
        self.commands += 1;
        let Some(slot) = &mut self.legs[leg].slots[session] else {
            return;
        };
        if slot.initiator.submit(now, tag, command).is_ok() {
            self.legs[leg]
                .pending
                .insert(tag, Pending { session, purpose });
        } else if let Purpose::Engine { cmd, .. } = purpose {
            self.input(
                now,
                Input::LegDone {
                    leg: leg_of(leg),
                    cmd,
                    result: Err(LegError::Retry),
                },
            );
        }
        self.flush(leg, session);
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

    /// Both sessions end; every open command is answered, then the leg is down.
    fn lose(&mut self, now: Duration, leg: usize, why: LegDown) {
        let link = &mut self.legs[leg];
        let had = link.slots.iter().any(Option::is_some) || link.up || link.give_up_at.is_some();
        for slot in link.slots.iter_mut().filter_map(Option::take) {
            self.acts.push_back(Act::Close(slot.conn));
        }
        link.up = false;
        link.give_up_at = None;
        link.retry_at = None;
        let pending = std::mem::take(&mut link.pending);
        if link.wanted {
            link.retry_at = Some(now + Duration::from_millis(200));
        }
        for (_, p) in pending {
            if let Purpose::Engine { cmd, op } = p.purpose {
                self.late.push_back((leg, cmd, format!("{op:?}")));
            }
        }
        if had {
            self.down.push_back((leg, why));
        }
        self.settle(now);
    }

    pub fn connections(&self) -> Vec<ConnId> {
        self.legs
            .iter()
            .flat_map(|l| l.slots.iter().flatten().map(|s| s.conn))
            .collect()
    }
}
