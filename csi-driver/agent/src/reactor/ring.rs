//! The io_uring of one thread and the operations under way on it.
//!
//! Invariants: everything the kernel may read or write for an operation lives in its [`Op`] (on the heap, so growing the table
//! moves none of it) from submission until its last completion; an `Op` is taken out of the table nowhere else. Partial reads,
//! writes and sends are continued here, so that an actor sees whole results.
#![allow(
    unsafe_code,
    reason = "submission entries carry raw pointers to buffers that the operation table owns"
)]

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use slab::Slab;

use super::operation::{Kind, entry};
use super::{ActorId, Descriptor, Event, OpId, Token};

/// Completions nobody waits for (those of cancel requests).
const UNOWNED: u64 = u64::MAX;
/// Room for completions; beyond it the kernel keeps them and hands them over at the next entry.
const COMPLETIONS: u32 = 4096;

struct Op {
    actor: ActorId,
    token: Token,
    serial: u64,
    kind: Kind,
}

pub(super) struct Ring {
    uring: IoUring,
    ops: Slab<Op>,
    next_serial: u64,
    /// Entries that found the submission queue full.
    backlog: VecDeque<squeue::Entry>,
    /// When clocks will wake the thread. They stay in the ring: a time limit for each wait costs a message of 4 KiB a
    /// twentieth of its time.
    clocks: BTreeSet<Duration>,
}

impl Ring {
    pub(super) fn new(entries: u32, bell: Descriptor) -> io::Result<Self> {
        let uring = IoUring::builder()
            // A forked child must not keep the ring, and with it all files of its operations, alive.
            .dontfork()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(COMPLETIONS.max(entries))
            .build(entries)?;
        let mut ring = Self {
            uring,
            ops: Slab::new(),
            next_serial: 0,
            backlog: VecDeque::new(),
            clocks: BTreeSet::new(),
        };
        ring.start(
            ActorId(u32::MAX),
            Token(0),
            Kind::Bell {
                bell,
                counter: Box::new([0; 8]),
            },
        );
        Ok(ring)
    }

    pub(super) fn start(&mut self, actor: ActorId, token: Token, kind: Kind) -> OpId {
        let serial = self.next_serial;
        self.next_serial += 1;
        let index = self.ops.insert(Op {
            actor,
            token,
            serial,
            kind,
        });
        self.submit_op(index);
        OpId {
            index: u32::try_from(index).expect("fewer than 2^32 operations fit in memory"),
            serial,
        }
    }

    /// Asks the kernel to give an operation up; it still completes, once.
    pub(super) fn cancel(&mut self, id: OpId) {
        if self
            .ops
            .get(id.index as usize)
            .is_some_and(|op| op.serial == id.serial)
        {
            self.push(
                opcode::AsyncCancel::new(u64::from(id.index))
                    .build()
                    .user_data(UNOWNED),
            );
        }
    }

    fn submit_op(&mut self, index: usize) {
        let entry = entry(&mut self.ops[index].kind).user_data(index as u64);
        self.push(entry);
    }

    fn push(&mut self, entry: squeue::Entry) {
        if !self.backlog.is_empty() || !self.try_push(&entry) {
            self.backlog.push_back(entry);
            self.drain_backlog();
        }
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: an entry is only built from an operation in `ops` (or is a cancel without pointers), which outlives it.
        unsafe { self.uring.submission().push(entry).is_ok() }
    }

    fn drain_backlog(&mut self) {
        while let Some(entry) = self.backlog.front().cloned() {
            if !self.try_push(&entry) {
                // Makes room; an error here (completion queue over-full) leaves the entries for the next turn.
                if self.uring.submit().is_err() || !self.try_push(&entry) {
                    return;
                }
            }
            self.backlog.pop_front();
        }
    }

    /// Submits everything and looks for completions.
    pub(super) fn look(&mut self) -> io::Result<()> {
        self.drain_backlog();
        Self::entered(self.uring.submit())
    }

    /// Submits everything and sleeps until a completion is there or this time has come (`None`: without limit). It may wake
    /// earlier without a completion, for a time that was waited for before.
    pub(super) fn sleep(&mut self, until: Option<Duration>) -> io::Result<()> {
        if let Some(at) = until
            && self.clocks.first().is_none_or(|first| at < *first)
        {
            self.clocks.insert(at);
            let time = Box::new(types::Timespec::from(at));
            self.start(ActorId(u32::MAX), Token(0), Kind::Clock { at, time });
        }
        self.drain_backlog();
        Self::entered(self.uring.submit_and_wait(1))
    }

    /// As [`Self::sleep`], for a while, once.
    fn wait(&mut self, limit: Duration) -> io::Result<()> {
        self.drain_backlog();
        let time = types::Timespec::from(limit);
        let args = types::SubmitArgs::new().timespec(&time);
        Self::entered(self.uring.submitter().submit_with_args(1, &args))
    }

    fn entered(result: io::Result<usize>) -> io::Result<()> {
        match result {
            Ok(_) => Ok(()),
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    #[cfg(test)]
    pub(super) fn under_way(&self) -> usize {
        self.ops.len()
    }

    pub(super) fn has_completions(&mut self) -> bool {
        !self.uring.completion().is_empty()
    }

    /// The next finished operation.
    pub(super) fn next(&mut self) -> Option<(ActorId, Token, Event)> {
        loop {
            let completion: cqueue::Entry = self.uring.completion().next()?;
            if completion.user_data() == UNOWNED {
                continue;
            }
            let index = usize::try_from(completion.user_data())
                .expect("user data is an index of the table");
            let result = completion.result();
            if result == -libc::EINTR || self.ops[index].kind.goes_on(result) {
                self.submit_op(index);
                continue;
            }
            let op = self.ops.remove(index);
            if let Kind::Clock { at, .. } = op.kind {
                self.clocks.remove(&at);
                continue;
            }
            return Some((op.actor, op.token, op.kind.finish(result)));
        }
    }

    /// Takes out what has ended and tells nobody.
    fn reap(&mut self) {
        for completion in self.uring.completion() {
            if completion.user_data() != UNOWNED {
                let index = usize::try_from(completion.user_data())
                    .expect("user data is an index of the table");
                self.ops.remove(index);
            }
        }
    }

    /// Gives up everything and waits until the kernel has let go of every buffer.
    /// What a hung device still holds at the end of `limit` is leaked: its memory may be written to at any later time.
    pub(super) fn close(mut self, limit: Duration) {
        for (index, _) in &self.ops {
            self.backlog.push_back(
                opcode::AsyncCancel::new(index as u64)
                    .build()
                    .user_data(UNOWNED),
            );
        }
        let end = super::boottime() + limit;
        loop {
            self.reap();
            let now = super::boottime();
            if self.ops.is_empty() || now >= end || self.wait(end - now).is_err() {
                break;
            }
        }
        if !self.ops.is_empty() {
            tracing::error!(
                operations = self.ops.len(),
                "operations did not end: their buffers are leaked"
            );
            std::mem::forget(self);
        }
    }
}
