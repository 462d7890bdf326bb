//! Transfers that are done at once, by a system call of their own, when that is known not to wait: no trip through the ring.
//!
//! The caller decides what may be done so: a send takes what the socket has room for, a read what is cached; a read or write
//! that may wait ([`Wait::Memory`]) is for files that live in memory only.
#![allow(unsafe_code, reason = "sendmsg, preadv2 and pwritev2 take raw vectors")]

use std::io;

use bytes::{BufMut, Bytes, BytesMut};

use super::Descriptor;
use super::gather::Gather;

/// What a read of a file may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Nothing: only what is in the page cache.
    Never,
    /// A copy: the file system has no device behind it.
    Memory,
}

impl Descriptor {
    /// Sends what the socket takes now and gives back the rest, empty if all went. An error shows in the send of the rest.
    pub(super) fn send_now(&self, pieces: Vec<Bytes>) -> Vec<Bytes> {
        let mut gather = Gather::new(pieces);
        while !gather.is_done() {
            let vector = gather.vector();
            // SAFETY: a message header of zeroes is valid: no name, no vector, no control data.
            let mut header = unsafe { std::mem::zeroed::<libc::msghdr>() };
            header.msg_iov = vector.as_mut_ptr();
            header.msg_iovlen = vector.len();
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: the vector points into pieces that `gather` owns until after the call.
            let sent = unsafe { libc::sendmsg(self.raw(), &raw const header, flags) };
            match usize::try_from(sent) {
                Ok(sent) if sent > 0 => gather.advance(sent),
                _ => break,
            }
        }
        gather.into_rest()
    }

    /// Reads a whole range, or gives `None` where that would have to wait or is not possible in this way.
    pub fn read_now(&self, offset: u64, len: usize, wait: Wait) -> io::Result<Option<Bytes>> {
        let mut buffer = BytesMut::with_capacity(len);
        while buffer.len() < len {
            let at = offset + buffer.len() as u64;
            let room = &mut buffer.spare_capacity_mut()[..];
            let left = len.min(room.len());
            let vector = libc::iovec {
                iov_base: room.as_mut_ptr().cast(),
                iov_len: left,
            };
            let flags = match wait {
                Wait::Never => libc::RWF_NOWAIT,
                Wait::Memory => 0,
            };
            let at = libc::off_t::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
            // SAFETY: the vector names spare capacity of `buffer`, which lives through the call.
            let read = unsafe { libc::preadv2(self.raw(), &raw const vector, 1, at, flags) };
            match usize::try_from(read) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                // SAFETY: the kernel has filled `read` bytes of the spare capacity.
                Ok(read) => unsafe { buffer.advance_mut(read) },
                Err(_) => {
                    let error = io::Error::last_os_error();
                    return match error.raw_os_error() {
                        Some(libc::EAGAIN | libc::EOPNOTSUPP) => Ok(None),
                        Some(libc::EINTR) => continue,
                        _ => Err(error),
                    };
                }
            }
            if wait == Wait::Never && buffer.len() < len {
                return Ok(None);
            }
        }
        Ok(Some(buffer.freeze()))
    }

    /// Writes all pieces to a file in memory.
    pub fn write_now(&self, mut offset: u64, pieces: Vec<Bytes>) -> io::Result<()> {
        let mut gather = Gather::new(pieces);
        while !gather.is_done() {
            let vector = gather.vector();
            let count = libc::c_int::try_from(vector.len()).unwrap_or(libc::c_int::MAX);
            let at = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
            // SAFETY: the vector points into pieces that `gather` owns until after the call.
            let written = unsafe { libc::pwritev2(self.raw(), vector.as_ptr(), count, at, 0) };
            match usize::try_from(written) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    gather.advance(written);
                    offset += written as u64;
                }
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.raw_os_error() != Some(libc::EINTR) {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }
}
