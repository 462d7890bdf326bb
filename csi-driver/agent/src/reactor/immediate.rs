//! Transfers that are done at once, by a system call of their own, when that is known not to wait: no trip through the ring.
//!
//! The caller decides what may be done so: a send takes what the socket has room for, a read what is cached; a read or write
//! that may wait ([`Wait::Memory`]) is for files that live in memory only.
#![allow(
    unsafe_code,
    reason = "sendmsg, preadv2 and pwritev2 take raw vectors, posix_fadvise has no safe form in std"
)]

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

/// The beginning of a vector.
fn at_most(vector: &mut [libc::iovec], most: usize) -> &mut [libc::iovec] {
    let (mut left, mut count) = (most, 0);
    while left > 0
        && let Some(piece) = vector.get_mut(count)
    {
        piece.iov_len = piece.iov_len.min(left);
        left -= piece.iov_len;
        count += 1;
    }
    &mut vector[..count]
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

    /// Takes what the page cache holds of a stretch out of it, but what is not written back yet; no length: up to the end.
    pub fn forget_cached(&self, offset: u64, len: u64) {
        if let (Ok(offset), Ok(len)) = (offset.try_into(), len.try_into()) {
            // SAFETY: no pointers. It is advice: where it is not followed the pages stay.
            unsafe { libc::posix_fadvise(self.raw(), offset, len, libc::POSIX_FADV_DONTNEED) };
        }
    }

    /// Waits until the data of all writes that have ended are stable.
    pub fn sync_now(&self) -> io::Result<()> {
        // SAFETY: no pointers.
        match unsafe { libc::fdatasync(self.raw()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Writes all pieces to a file, `most` bytes at a time.
    pub fn write_now(&self, mut offset: u64, pieces: Vec<Bytes>, most: usize) -> io::Result<()> {
        let mut gather = Gather::new(pieces);
        while !gather.is_done() {
            let vector = at_most(gather.vector(), most);
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn a_write_in_parts_of_any_size_arrives_whole() {
        let pieces: Vec<Bytes> = [5, 1, 100, 7]
            .iter()
            .enumerate()
            .map(|(n, len)| Bytes::from(vec![n as u8; *len]))
            .collect();
        let whole = pieces.concat();
        for most in [1, 2, 6, 64, 113, usize::MAX] {
            let file = tempfile::tempfile().expect("a file");
            let seen = file.try_clone().expect("the same file");
            Descriptor::from(file)
                .write_now(3, pieces.clone(), most)
                .expect("writes");
            let mut bytes = vec![0xff; 3 + whole.len()];
            seen.read_exact_at(&mut bytes, 0).expect("reads");
            assert_eq!((&bytes[..3], &bytes[3..]), (&[0; 3][..], &whole[..]));
        }
    }
}
