//! A script sends commands to one leg, one at a time, and ends with a result.
//!
//! Fencing, reading and writing the head of a leg are scripts; who runs one puts a time limit on every command.

use crate::io::{LegError, LegOp, LegReply};

/// What a script wants after an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step<T> {
    /// Send this at once.
    Send(LegOp),
    /// Send this after a short pause: the leg was busy.
    Again(LegOp),
    /// Over.
    Done(T),
    /// Over without success.
    Failed(Fault),
}

/// Why a script failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// RESERVATION CONFLICT or UNIT ATTENTION 2A/03..05: another writer has the leg.
    Taken,
    /// The leg failed, or answered what it must not.
    Leg,
    /// No key is registered any more: the target lost its reservations, nobody has the leg.
    Unreserved,
}

impl Fault {
    /// What an error that no retry mends means.
    pub(crate) const fn of(error: LegError) -> Self {
        match error {
            LegError::Conflict | LegError::Preempted => Self::Taken,
            LegError::Retry
            | LegError::SessionGone
            | LegError::Medium
            | LegError::Hardware
            | LegError::NoSpace
            | LegError::Refused(..) => Self::Leg,
        }
    }
}

/// One command at a time on one leg.
pub(crate) trait Script {
    /// What the script results in.
    type Output;

    /// The first command.
    fn start(&mut self) -> LegOp;

    /// The answer to the command that was last given.
    fn handle(&mut self, result: Result<LegReply, LegError>) -> Step<Self::Output>;
}
