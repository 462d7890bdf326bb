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
use std::ffi::CString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use slab::Slab;

use super::address::Peer;
use super::gather::Gather;
use super::{ActorId, Clear, Descriptor, Durability, Event, OpId, Token};

/// Completions nobody waits for (those of cancel requests).
const UNOWNED: u64 = u64::MAX;
/// Room for completions; beyond it the kernel keeps them and hands them over at the next entry.
const COMPLETIONS: u32 = 4096;
/// Only the agent's user reads what the agent writes.
const NEW_FILE_MODE: libc::mode_t = 0o600;

struct Op {
    actor: ActorId,
    token: Token,
    serial: u64,
    kind: Kind,
}

/// What a sync makes stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SyncScope {
    /// File data and what is needed to find it.
    Data,
    /// As much of that as belongs to these bytes.
    Range { offset: u64, len: u32 },
    /// Also names: what a directory needs.
    Everything,
}

/// What is under way, with everything the kernel may touch.
pub(super) enum Kind {
    /// Wakes the thread; belongs to the reactor itself.
    Bell {
        bell: Descriptor,
        counter: Box<[u8; 8]>,
    },
    /// Wakes the thread at this time; belongs to the ring.
    Clock {
        at: Duration,
        time: Box<types::Timespec>,
    },
    Accept {
        listener: Descriptor,
        peer: Box<Peer>,
    },
    Connect {
        socket: Descriptor,
        peer: Box<Peer>,
    },
    Receive {
        socket: Descriptor,
        buffer: BytesMut,
    },
    Send {
        socket: Descriptor,
        header: Box<libc::msghdr>,
        gather: Gather,
    },
    Read {
        file: Descriptor,
        offset: u64,
        end: u64,
        buffer: BytesMut,
    },
    Write {
        file: Descriptor,
        offset: u64,
        gather: Gather,
        durability: Durability,
    },
    Sync {
        file: Descriptor,
        scope: SyncScope,
    },
    Clear {
        file: Descriptor,
        offset: u64,
        len: u64,
        how: Clear,
    },
    Readable {
        fd: Descriptor,
    },
    Open {
        path: CString,
        flags: i32,
    },
    Rename {
        from: CString,
        to: CString,
        exchange: bool,
    },
}

impl Kind {
    pub(super) fn accept(listener: Descriptor) -> Self {
        Self::Accept {
            listener,
            peer: Box::new(Peer::empty()),
        }
    }

    pub(super) fn connect(socket: Descriptor, address: &SocketAddr) -> Self {
        Self::Connect {
            socket,
            peer: Box::new(Peer::from_address(address)),
        }
    }

    pub(super) fn send(socket: Descriptor, pieces: Vec<Bytes>) -> Self {
        // SAFETY: a message header of zeroes is valid: no name, no vector, no control data.
        let header = Box::new(unsafe { std::mem::zeroed::<libc::msghdr>() });
        Self::Send {
            socket,
            header,
            gather: Gather::new(pieces),
        }
    }

    pub(super) fn read(file: Descriptor, offset: u64, len: usize) -> Self {
        Self::Read {
            file,
            offset,
            end: offset + len as u64,
            buffer: BytesMut::with_capacity(len),
        }
    }
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

/// Builds the submission entry of what is left of an operation.
fn entry(kind: &mut Kind) -> squeue::Entry {
    match kind {
        Kind::Bell { bell, counter } => {
            opcode::Read::new(types::Fd(bell.raw()), counter.as_mut_ptr(), 8).build()
        }
        Kind::Clock { time, .. } => opcode::Timeout::new(&raw const **time)
            .flags(types::TimeoutFlags::ABS | types::TimeoutFlags::BOOTTIME)
            .build(),
        Kind::Accept { listener, peer } => opcode::Accept::new(
            types::Fd(listener.raw()),
            (&raw mut peer.storage).cast(),
            &raw mut peer.len,
        )
        .flags(libc::SOCK_CLOEXEC)
        .build(),
        Kind::Connect { socket, peer } => opcode::Connect::new(
            types::Fd(socket.raw()),
            (&raw const peer.storage).cast(),
            peer.len,
        )
        .build(),
        Kind::Receive { socket, buffer } => {
            let room = buffer.spare_capacity_mut();
            opcode::Recv::new(
                types::Fd(socket.raw()),
                room.as_mut_ptr().cast(),
                length(room.len()),
            )
            .build()
        }
        Kind::Send {
            socket,
            header,
            gather,
        } => {
            let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
            let vector = gather.vector();
            header.msg_iov = vector.as_mut_ptr();
            header.msg_iovlen = vector.len();
            opcode::SendMsg::new(types::Fd(socket.raw()), &raw const **header)
                .flags(flags.cast_unsigned())
                .build()
        }
        Kind::Read {
            file,
            offset,
            end,
            buffer,
        } => {
            let left = usize::try_from(*end - *offset).expect("a read fits in memory");
            opcode::Read::new(
                types::Fd(file.raw()),
                buffer.spare_capacity_mut().as_mut_ptr().cast(),
                length(left),
            )
            .offset(*offset)
            .build()
        }
        Kind::Write {
            file,
            offset,
            gather,
            durability,
        } => {
            let flags = match durability {
                Durability::Cached => 0,
                Durability::Stable => libc::RWF_DSYNC,
            };
            let vector = gather.vector();
            opcode::Writev::new(types::Fd(file.raw()), vector.as_ptr(), length(vector.len()))
                .offset(*offset)
                .rw_flags(flags)
                .build()
        }
        Kind::Sync { file, scope } => {
            let flags = match scope {
                SyncScope::Data | SyncScope::Range { .. } => types::FsyncFlags::DATASYNC,
                SyncScope::Everything => types::FsyncFlags::empty(),
            };
            let entry = opcode::Fsync::new(types::Fd(file.raw()))
                .flags(flags)
                .build();
            match *scope {
                SyncScope::Range { offset, len } => of_range(entry, offset, len),
                SyncScope::Data | SyncScope::Everything => entry,
            }
        }
        Kind::Clear {
            file,
            offset,
            len,
            how,
        } => {
            let mode = libc::FALLOC_FL_KEEP_SIZE
                | match how {
                    Clear::Punch => libc::FALLOC_FL_PUNCH_HOLE,
                    Clear::Zero => libc::FALLOC_FL_ZERO_RANGE,
                };
            opcode::Fallocate::new(types::Fd(file.raw()), *len)
                .offset(*offset)
                .mode(mode)
                .build()
        }
        Kind::Open { path, flags } => opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr())
            .flags(*flags | libc::O_CLOEXEC)
            .mode(NEW_FILE_MODE)
            .build(),
        Kind::Rename { from, to, exchange } => opcode::RenameAt::new(
            types::Fd(libc::AT_FDCWD),
            from.as_ptr(),
            types::Fd(libc::AT_FDCWD),
            to.as_ptr(),
        )
        .flags(if *exchange { libc::RENAME_EXCHANGE } else { 0 })
        .build(),
        Kind::Readable { fd } => {
            opcode::PollAdd::new(types::Fd(fd.raw()), u32::from(libc::POLLIN.cast_unsigned()))
                .build()
        }
    }
}

/// A sync of a part of the file; the crate's builder has no fields for it.
fn of_range(mut entry: squeue::Entry, offset: u64, len: u32) -> squeue::Entry {
    // The kernel's layout of an entry (`struct io_uring_sqe`).
    const OFFSET: usize = 8;
    const LENGTH: usize = 24;
    let bytes = (&raw mut entry).cast::<u8>();
    // SAFETY: an entry is these 64 bytes (`repr(C)` around the kernel's structure), both places lie within it, and any value of
    // them is valid.
    unsafe {
        bytes.add(OFFSET).cast::<u64>().write_unaligned(offset);
        bytes.add(LENGTH).cast::<u32>().write_unaligned(len);
    }
    entry
}

impl Kind {
    /// Takes in a result; `true`: there is more to do, submit it again.
    fn goes_on(&mut self, result: i32) -> bool {
        if let Self::Bell { .. } = self {
            return result >= 0;
        }
        let Ok(count) = usize::try_from(result) else {
            return false;
        };
        match self {
            Self::Read {
                offset,
                end,
                buffer,
                ..
            } => {
                // SAFETY: the kernel has filled `count` bytes of the spare capacity that was passed to it.
                unsafe { buffer.advance_mut(count) };
                *offset += count as u64;
                count > 0 && *offset < *end
            }
            Self::Write { offset, gather, .. } => {
                gather.advance(count);
                *offset += count as u64;
                count > 0 && !gather.is_done()
            }
            Self::Send { gather, .. } => {
                gather.advance(count);
                count > 0 && !gather.is_done()
            }
            Self::Receive { buffer, .. } => {
                // SAFETY: the kernel has filled `count` bytes of the spare capacity that was passed to it.
                unsafe { buffer.advance_mut(count) };
                false
            }
            Self::Bell { .. }
            | Self::Clock { .. }
            | Self::Accept { .. }
            | Self::Connect { .. }
            | Self::Sync { .. }
            | Self::Clear { .. }
            | Self::Readable { .. }
            | Self::Open { .. }
            | Self::Rename { .. } => false,
        }
    }

    fn finish(self, result: i32) -> Event {
        let outcome = if result < 0 {
            Err(io::Error::from_raw_os_error(-result))
        } else {
            Ok(())
        };
        match self {
            Self::Bell { .. }
            | Self::Clock { .. }
            | Self::Sync { .. }
            | Self::Clear { .. }
            | Self::Readable { .. }
            | Self::Rename { .. } => Event::Done(outcome),
            Self::Open { .. } => Event::Opened(outcome.map(|()| {
                // SAFETY: a non-negative result of open is a new descriptor that nobody else owns.
                unsafe { OwnedFd::from_raw_fd(result) }.into()
            })),
            Self::Accept { peer, .. } => Event::Accepted(outcome.map(|()| {
                // SAFETY: a non-negative result of accept is a new descriptor that nobody else owns.
                let socket = unsafe { OwnedFd::from_raw_fd(result) };
                (socket.into(), peer.address())
            })),
            Self::Connect { .. } => Event::Connected(outcome),
            Self::Receive { buffer, .. } => Event::Received(
                buffer,
                outcome.map(|()| usize::try_from(result).unwrap_or(0)),
            ),
            Self::Send { gather, .. } => Event::Sent(outcome.and_then(|()| whole(&gather))),
            Self::Read {
                buffer,
                offset,
                end,
                ..
            } => Event::Read(outcome.and_then(|()| {
                if offset == end {
                    Ok(buffer.freeze())
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                }
            })),
            Self::Write { gather, .. } => Event::Written(outcome.and_then(|()| whole(&gather))),
        }
    }
}

/// An operation that made no progress without an error must not look like a success.
fn whole(gather: &Gather) -> io::Result<()> {
    if gather.is_done() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// The kernel takes 32-bit lengths; a longer operation is continued like any partial one.
fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(1 << 30)
}
