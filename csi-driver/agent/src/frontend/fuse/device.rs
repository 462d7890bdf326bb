//! The FUSE descriptor and its mount: requests are read here, answers written.
//!
//! Invariants: the descriptor is close-on-exec and never blocks; dropping a [`Channel`] (and what waits for its
//! descriptor) ends the connection, after which the kernel answers every open and new request with an error by itself.
#![allow(unsafe_code, reason = "mount has no safe form in std")]

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use bytes::Bytes;

use super::super::FrontendError;
use super::abi::{Answer, MAX_IO, WRITE_HEAD};
use crate::reactor::Descriptor;

pub const DEVICE: &str = "/dev/fuse";
/// How our mounts are told from others in a mount list.
pub const FS_TYPE: &str = "fuse.twinsite";

/// One connection to the kernel.
#[derive(Debug)]
pub struct Channel {
    file: File,
    /// The same open file, for waiting.
    descriptor: Descriptor,
}

impl Channel {
    pub fn open() -> Result<Self, FrontendError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(DEVICE)
            .map_err(|_| FrontendError::NoKernelSupport { path: DEVICE })?;
        let descriptor = file
            .try_clone()
            .map_err(|_| FrontendError::NoKernelSupport { path: DEVICE })?
            .into();
        Ok(Self { file, descriptor })
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

    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
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
