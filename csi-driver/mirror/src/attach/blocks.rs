//! Writing a list of metadata blocks to one leg, each durable before the next is sent.

use std::collections::VecDeque;

use crate::io::{Block, LegError, LegOp, LegReply};
use crate::script::{Fault, Script, Step};

/// The blocks still to write, in order.
#[derive(Clone, Debug)]
pub(super) struct BlockWriter {
    left: VecDeque<(u64, Block)>,
    sent: LegOp,
}

impl BlockWriter {
    /// At least one block. An empty list is answered by a SYNC, which is durable too.
    pub(super) fn new(blocks: Vec<(u64, Block)>) -> Self {
        let mut left = VecDeque::from(blocks);
        let sent = left
            .pop_front()
            .map_or(LegOp::Sync, |(offset, block)| LegOp::WriteMeta {
                offset,
                block,
            });
        Self { left, sent }
    }
}

impl Script for BlockWriter {
    type Output = ();

    fn start(&mut self) -> LegOp {
        self.sent.clone()
    }

    fn handle(&mut self, result: Result<LegReply, LegError>) -> Step<()> {
        match result {
            Ok(LegReply::Done) => match self.left.pop_front() {
                Some((offset, block)) => {
                    self.sent = LegOp::WriteMeta { offset, block };
                    Step::Send(self.sent.clone())
                }
                None => Step::Done(()),
            },
            Ok(_) => Step::Failed(Fault::Leg),
            Err(LegError::Retry) => Step::Again(self.sent.clone()),
            Err(error) => Step::Failed(Fault::of(error)),
        }
    }
}
