//! Commands to one leg in a fixed order, each done before the next is sent.

use std::collections::VecDeque;

use crate::io::{Block, LegError, LegOp, LegReply};
use crate::script::{Fault, Script, Step};

/// Bytes of one command that zeroes.
const ZERO_CHUNK: u64 = 32 << 20;
/// Bytes of one command that unmaps.
const UNMAP_CHUNK: u64 = 1 << 30;

/// How a range comes to read as zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Zeroing {
    /// Written.
    Write,
    /// Unmapped: the leg says that it then reads zeros (LBPRZ=1).
    Unmap,
}

#[derive(Clone, Debug)]
enum Part {
    Op(LegOp),
    Zero { how: Zeroing, next: u64, end: u64 },
}

/// The commands still to send.
#[derive(Clone, Debug, Default)]
pub(super) struct Sequence {
    left: VecDeque<Part>,
    sent: Option<LegOp>,
}

impl Sequence {
    /// These blocks, durable one after the other.
    pub(super) fn blocks(blocks: Vec<(u64, Block)>) -> Self {
        let mut sequence = Self::default();
        for (offset, block) in blocks {
            sequence.push(LegOp::WriteMeta { offset, block });
        }
        sequence
    }

    pub(super) fn push(&mut self, op: LegOp) {
        self.left.push_back(Part::Op(op));
    }

    /// Bytes `start..end` read as zeros afterwards.
    pub(super) fn zero(&mut self, how: Zeroing, start: u64, end: u64) {
        self.left.push_back(Part::Zero {
            how,
            next: start,
            end,
        });
    }

    fn next(&mut self) -> Option<LegOp> {
        loop {
            match self.left.front_mut()? {
                Part::Op(op) => {
                    let op = op.clone();
                    self.left.pop_front();
                    return Some(op);
                }
                Part::Zero { next, end, .. } if *next >= *end => {
                    self.left.pop_front();
                }
                Part::Zero { how, next, end } => {
                    let offset = *next;
                    let chunk = match how {
                        Zeroing::Write => ZERO_CHUNK,
                        Zeroing::Unmap => UNMAP_CHUNK,
                    };
                    let len = chunk.min(*end - offset);
                    *next += len;
                    return Some(match how {
                        Zeroing::Write => LegOp::Zero { offset, len },
                        Zeroing::Unmap => LegOp::Discard { offset, len },
                    });
                }
            }
        }
    }
}

impl Script for Sequence {
    type Output = ();

    /// An empty sequence is answered by a SYNC, which is durable too.
    fn start(&mut self) -> LegOp {
        let op = self.next().unwrap_or(LegOp::Sync);
        self.sent = Some(op.clone());
        op
    }

    fn handle(&mut self, result: Result<LegReply, LegError>) -> Step<()> {
        match (result, &self.sent) {
            (Ok(LegReply::Done), _) => {
                self.sent = self.next();
                match &self.sent {
                    Some(op) => Step::Send(op.clone()),
                    None => Step::Done(()),
                }
            }
            (Err(LegError::Retry), Some(op)) => Step::Again(op.clone()),
            (Err(error), _) => Step::Failed(Fault::of(error)),
            (Ok(_), _) => Step::Failed(Fault::Leg),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_and_every_command_is_answered_before_the_next() {
        let mut sequence = Sequence::default();
        sequence.push(LegOp::Sync);
        sequence.zero(Zeroing::Write, 100, 100 + ZERO_CHUNK + 5);
        sequence.zero(Zeroing::Unmap, 7, 7);
        sequence.push(LegOp::PrReadKeys);
        assert_eq!(sequence.start(), LegOp::Sync);
        assert_eq!(
            sequence.handle(Err(LegError::Retry)),
            Step::Again(LegOp::Sync)
        );
        let first = LegOp::Zero {
            offset: 100,
            len: ZERO_CHUNK,
        };
        assert_eq!(sequence.handle(Ok(LegReply::Done)), Step::Send(first));
        let rest = LegOp::Zero {
            offset: 100 + ZERO_CHUNK,
            len: 5,
        };
        assert_eq!(sequence.handle(Ok(LegReply::Done)), Step::Send(rest));
        assert_eq!(
            sequence.handle(Ok(LegReply::Done)),
            Step::Send(LegOp::PrReadKeys)
        );
        assert_eq!(sequence.handle(Ok(LegReply::Done)), Step::Done(()));
    }

    #[test]
    fn errors_end_it() {
        for (error, fault) in [
            (LegError::Conflict, Fault::Taken),
            (LegError::Preempted, Fault::Taken),
            (LegError::NoSpace, Fault::Leg),
        ] {
            let mut sequence = Sequence::default();
            sequence.push(LegOp::Sync);
            sequence.start();
            assert_eq!(sequence.handle(Err(error)), Step::Failed(fault));
        }
    }
}
