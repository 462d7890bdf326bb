//! The one queue of a ublk device: requests come as completions of a ring of its own, whose descriptor is readable when
//! there are some; data is copied by pread and pwrite on the character device.
//!
//! All of it happens on the thread that made the queue: the driver takes commands from no other. Dropping the queue ends
//! the device's I/O: the kernel answers everything with EIO.
#![allow(
    unsafe_code,
    reason = "a mapping of the driver and io_uring entries have no safe form"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use io_uring::{IoUring, opcode, types};

use super::abi::{self, DESCRIPTOR_SIZE, Descriptor};

pub(super) const DEPTH: u16 = 128;

pub(super) struct Queue {
    ring: IoUring,
    device: File,
    descriptors: Mapping,
}

/// What the driver did with a tag.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// There is a request.
    Request(u16, Descriptor),
    /// The driver stops; the tag is not used any more.
    Ended,
}

impl Queue {
    /// Opens the character device and offers every tag to the driver.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let device = OpenOptions::new().read(true).write(true).open(path)?;
        let descriptors = Mapping::new(&device)?;
        let mut this = Self {
            ring: IoUring::new(DEPTH.into())?,
            device,
            descriptors,
        };
        for tag in 0..DEPTH {
            this.push(abi::FETCH, tag, 0)?;
        }
        this.ring.submit()?;
        Ok(this)
    }

    /// Readable when there are turns.
    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        // SAFETY: the ring keeps its descriptor open during the call.
        let ring = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        ring.try_clone_to_owned()
    }

    pub(super) fn next(&mut self) -> Option<Turn> {
        let done = self.ring.completion().next()?;
        let tag = u16::try_from(done.user_data()).unwrap_or(0);
        Some(match done.result() {
            0 => Turn::Request(tag, self.descriptors.read(tag)),
            abi::ABORTED => Turn::Ended,
            error => {
                tracing::error!(tag, error, "the ublk driver refused a command");
                Turn::Ended
            }
        })
    }

    /// The bytes of a write, in a buffer of their own.
    pub(super) fn data(&self, tag: u16, len: u64) -> io::Result<Bytes> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let mut buffer = BytesMut::zeroed(len);
        self.device.read_exact_at(&mut buffer, abi::data_at(tag))?;
        Ok(buffer.freeze())
    }

    /// Gives the bytes of a read to the driver.
    pub(super) fn give(&self, tag: u16, pieces: &[Bytes]) -> io::Result<u64> {
        let mut at = 0;
        for piece in pieces {
            self.device.write_all_at(piece, abi::data_at(tag) + at)?;
            at += piece.len() as u64;
        }
        Ok(at)
    }

    /// Ends a request (bytes done, or a negative error number) and offers the tag again.
    pub(super) fn answer(&mut self, tag: u16, result: i32) -> io::Result<()> {
        self.push(abi::COMMIT_AND_FETCH, tag, result)?;
        self.ring.submit().map(drop)
    }

    fn push(&mut self, command: u32, tag: u16, result: i32) -> io::Result<()> {
        let entry = opcode::UringCmd16::new(types::Fd(self.device.as_raw_fd()), command)
            .cmd(abi::io(tag, result))
            .build()
            .user_data(tag.into());
        // SAFETY: the command carries no pointer.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)
    }
}

/// The request descriptors of the queue, which the driver writes and we read.
struct Mapping {
    at: *const u8,
    len: usize,
}

// SAFETY: the mapping belongs to its holder alone and is only read.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(device: &File) -> io::Result<Self> {
        let len = (usize::from(DEPTH) * DESCRIPTOR_SIZE).next_multiple_of(4096);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                device.as_raw_fd(),
                abi::descriptors_at(0).cast_signed(),
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            at: at.cast_const().cast(),
            len,
        })
    }

    fn read(&self, tag: u16) -> Descriptor {
        let at = usize::from(tag.min(DEPTH - 1)) * DESCRIPTOR_SIZE;
        // SAFETY: inside the mapping; the driver has written it before it completed the command and leaves it alone now.
        let bytes = unsafe {
            self.at
                .add(at)
                .cast::<[u8; DESCRIPTOR_SIZE]>()
                .read_volatile()
        };
        Descriptor::parse(&bytes)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` and unmapped once.
        unsafe { libc::munmap(self.at.cast_mut().cast(), self.len) };
    }
}
