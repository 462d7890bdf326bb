//! One attach with its shell and the guests of its volumes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use twinsite_register::Site;

use super::target::Blocks;
use crate::engine::Engine;
use crate::group::Group;
use crate::io::{AttachRecord, CmdId, CopyId, Input, LegOp, Output, ReqId};
use crate::oneshot::{Done, Failure, GroupOneShot};
use crate::status::Status;

/// What decides: the engine of a volume alone, or of a group.
pub(super) enum Machine {
    Alone(Box<Engine>),
    Group(Box<Group>),
    /// Orders to the legs of all volumes, and no writer at all.
    Orders(Box<GroupOneShot>),
}

impl Machine {
    pub(super) fn handle(&mut self, now: Duration, volume: usize, input: Input) {
        match self {
            Self::Alone(engine) => engine.handle(now, input),
            Self::Group(group) => group.handle(now, volume, input),
            Self::Orders(orders) => orders.handle(now, volume, &input),
        }
    }

    pub(super) fn poll(&mut self) -> Option<(usize, Output)> {
        match self {
            Self::Alone(engine) => engine.poll().map(|output| (0, output)),
            Self::Group(group) => group.poll(),
            Self::Orders(orders) => orders.poll(),
        }
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        match self {
            Self::Alone(engine) => engine.deadline(),
            Self::Group(group) => group.deadline(),
            Self::Orders(orders) => orders.deadline(),
        }
    }

    pub(super) fn status(&self, now: Duration, volume: usize) -> Status {
        match self {
            Self::Alone(engine) => engine.status(now),
            Self::Group(group) => group.status(now, volume),
            Self::Orders(_) => Status::off(),
        }
    }

    pub(super) const fn is_order(&self) -> bool {
        matches!(self, Self::Orders(_))
    }

    /// How orders ended, once they did for all volumes.
    pub(super) fn ends(&self, volumes: usize) -> Option<Vec<Result<Done, Failure>>> {
        match self {
            Self::Orders(orders) => (0..volumes).map(|v| orders.end(v).cloned()).collect(),
            Self::Alone(_) | Self::Group(_) => None,
        }
    }
}

/// Sessions to one leg.
#[derive(Debug, Default)]
pub(super) struct Conn {
    pub(super) want: bool,
    /// Number of the connection that is logged in.
    pub(super) up: Option<u64>,
    /// A message was lost, or the line was cut: it will be noticed.
    pub(super) broken: bool,
    pub(super) open: BTreeMap<CmdId, LegOp>,
    pub(super) login: bool,
}

/// What the guest has asked.
#[derive(Debug)]
pub(super) enum Asked {
    Write {
        blocks: Blocks,
        fua: bool,
    },
    /// Blocks and what each must at least show.
    Read(Blocks),
    /// What was acknowledged when it was asked, and the number of failed flushes before.
    Flush {
        acked: Blocks,
        failed: u64,
    },
}

/// The user of one volume.
#[derive(Debug, Default)]
pub(super) struct Guest {
    pub(super) asked: BTreeMap<ReqId, Asked>,
    /// What reads brought into its buffers.
    pub(super) buffers: BTreeMap<ReqId, Blocks>,
    pub(super) copies: BTreeMap<CopyId, Blocks>,
    pub(super) next_req: u64,
    pub(super) shown: bool,
    pub(super) record: Option<AttachRecord>,
}

pub(super) struct Writer {
    pub(super) engine: Machine,
    pub(super) site: Site,
    /// The node: a restart on it reinstates the sessions of the one before.
    pub(super) initiator: u8,
    /// By unit.
    pub(super) conns: Vec<Conn>,
    pub(super) inbox: VecDeque<(usize, Input)>,
    /// By volume.
    pub(super) guests: Vec<Guest>,
    pub(super) over: bool,
    pub(super) tick: Option<Duration>,
    pub(super) answered: u64,
}
