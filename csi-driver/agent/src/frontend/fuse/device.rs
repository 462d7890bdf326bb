//! The FUSE descriptor and its mount: requests are read here, answers written.
//!
//! Invariants: the descriptor is close-on-exec and never blocks; dropping the last owner of a [`Channel`] ends the
//! connection, after which the kernel answers every open and new request with an error by itself.
#![allow(
    unsafe_code,
    reason = "mount, writev and poll have no safe form in std"
)]

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use bytes::Bytes;

use super::super::FrontendError;
use super::abi::{Answer, MAX_IO, WRITE_HEAD};

pub const DEVICE: &str = "/dev/fuse";
/// How our mounts are told from others in a mount list.
pub const FS_TYPE: &str = "fuse.twinsite";

/// One connection to the kernel.
#[derive(Debug)]
pub struct Channel {
    file: File,
}

impl Channel {
    pub fn open() -> Result<Self, FrontendError> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(DEVICE)
            .map(|file| Self { file })
            .map_err(|_| FrontendError::NoKernelSupport { path: DEVICE })
    }

    /// Mounts the connection at an existing folder.
    pub fn mount(&self, at: &Path, source: &str) -> io::Result<()> {
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
            self.file.as_raw_fd()
        );
        let (source, fs_type) = (CString::new(source)?, CString::new(FS_TYPE)?);
        let (at, options) = (
            CString::new(at.as_os_str().as_bytes())?,
            CString::new(options)?,
        );
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOATIME;
        // SAFETY: four strings that outlive the call.
        let failed = unsafe {
            libc::mount(
                source.as_ptr(),
                at.as_ptr(),
                fs_type.as_ptr(),
                flags,
                options.as_ptr().cast(),
            ) != 0
        };
        if failed {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.file.as_fd()
    }

    /// One request, or `None` when there is none now. An error says that the connection is over.
    pub fn read<'a>(&self, buffer: &'a mut ReadBuffer) -> io::Result<Option<&'a [u8]>> {
        loop {
            match (&self.file).read(buffer.room()) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                Ok(len) => return Ok(Some(buffer.filled(len))),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(None),
                    // ENOENT: the request was taken back while it was being read.
                    Some(libc::EINTR | libc::ENOENT) => {}
                    _ => return Err(error),
                },
            }
        }
    }

    /// Sends an answer. A request that the kernel has given up is not an error.
    pub fn answer(&self, answer: &Answer) {
        self.send((&self.file).write(answer.bytes()));
    }

    /// Sends an answer with data, gathered from its pieces.
    pub fn answer_with(&self, answer: &Answer, data: &[Bytes]) {
        const PIECES: usize = 64;
        if data.len() < PIECES {
            let mut slices = [IoSlice::new(&[]); PIECES];
            slices[0] = IoSlice::new(answer.bytes());
            for (slice, piece) in slices[1..].iter_mut().zip(data) {
                *slice = IoSlice::new(piece);
            }
            self.send((&self.file).write_vectored(&slices[..=data.len()]));
        } else {
            let whole = [answer.bytes(), &data.concat()].concat();
            self.send((&self.file).write(&whole));
        }
    }

    fn send(&self, result: io::Result<usize>) {
        if let Err(error) = result
            && !matches!(
                error.raw_os_error(),
                Some(libc::ENOENT | libc::ENODEV | libc::EPERM)
            )
        {
            tracing::error!(%error, "the kernel refused an answer on the device file");
        }
    }
}

/// Room for one request, laid out so that the data of a write begins on a page.
pub struct ReadBuffer {
    bytes: Box<[u8]>,
    begin: usize,
}

const PAGE: usize = 4096;

impl Default for ReadBuffer {
    fn default() -> Self {
        let bytes = vec![0; MAX_IO as usize + 2 * PAGE].into_boxed_slice();
        let data = bytes.as_ptr().align_offset(PAGE) + PAGE;
        Self {
            bytes,
            begin: data.min(2 * PAGE - 1) - WRITE_HEAD,
        }
    }
}

impl ReadBuffer {
    fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.begin..]
    }

    fn filled(&self, len: usize) -> &[u8] {
        &self.bytes[self.begin..self.begin + len]
    }
}

/// Wakes a thread that waits in [`wait`].
#[derive(Debug)]
pub struct Stop {
    event: OwnedFd,
}

impl Stop {
    pub fn new() -> io::Result<Self> {
        // SAFETY: a fresh descriptor that nobody else owns.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { event })
    }

    pub fn set(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes, as an eventfd takes them. It can only fail when it is set already.
        unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    Request,
    Stopped,
}

/// Waits until the channel has a request or ended (both are found by reading), or `stop` is set.
pub fn wait(channel: &Channel, stop: &Stop) -> io::Result<Woken> {
    let poll = |fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let mut polls = [poll(channel.file.as_raw_fd()), poll(stop.event.as_raw_fd())];
    loop {
        // SAFETY: two valid entries.
        if unsafe { libc::poll(polls.as_mut_ptr(), 2, -1) } >= 0 {
            return Ok(if polls[1].revents != 0 {
                Woken::Stopped
            } else {
                Woken::Request
            });
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
