//! One attach with its shell and its guest.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use twinsite_register::Site;

use super::target::Blocks;
use crate::engine::Engine;
use crate::io::{AttachRecord, CmdId, CopyId, Input, LegOp, ReqId};

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

pub(super) struct Writer {
    pub(super) engine: Engine,
    pub(super) site: Site,
    /// The node: a restart on it reinstates the sessions of the one before.
    pub(super) initiator: u8,
    pub(super) conns: [Conn; 2],
    pub(super) inbox: VecDeque<Input>,
    pub(super) asked: BTreeMap<ReqId, Asked>,
    /// What reads brought into the guest's buffers.
    pub(super) buffers: BTreeMap<ReqId, Blocks>,
    pub(super) copies: BTreeMap<CopyId, Blocks>,
    pub(super) next_req: u64,
    pub(super) shown: bool,
    pub(super) over: bool,
    pub(super) tick: Option<Duration>,
    pub(super) record: AttachRecord,
    pub(super) answered: u64,
}
