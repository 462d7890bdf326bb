//! One operation: what the kernel may touch for it, its entry in the submission queue, and what its results mean.
//!
//! Invariants: a pointer in an entry leads into the [`Kind`] that it was built of, to memory on the heap. A partial read, write or
//! send goes on with what is left.
//! Not here: the table of operations ([`super::ring`]).
#![allow(
    unsafe_code,
    reason = "submission entries carry raw pointers to buffers that the operation owns"
)]

use std::ffi::CString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use io_uring::{opcode, squeue, types};

use super::address::Peer;
use super::gather::Gather;
use super::{Clear, Descriptor, Durability, Event};

/// Only the agent's user reads what the agent writes.
const NEW_FILE_MODE: libc::mode_t = 0o600;

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

/// Builds the submission entry of what is left of an operation.
pub(super) fn entry(kind: &mut Kind) -> squeue::Entry {
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
    pub(super) fn goes_on(&mut self, result: i32) -> bool {
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

    pub(super) fn finish(self, result: i32) -> Event {
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
