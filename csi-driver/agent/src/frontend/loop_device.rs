//! Loop devices over the file of a FUSE mount of ours: set up, resized, taken down, each in a child (see `apart`).
//!
//! Direct I/O and 4096-byte blocks: no page cache between the file system and the volume, so nothing stale can be
//! read after another writer took over and came back.
//!
//! A device is only ever taken down after a look at its backing file under the same open descriptor, which keeps the
//! number from being freed meanwhile: a number that somebody else got is left alone. The kernel names a backing file by
//! its path as this process sees it; for a mount that was taken out of the tree, or that lives in another container, only
//! [`FILE_NAME`] is left of it. Such a device is taken down if nobody serves its file any more: it gives errors to
//! everybody by then.
#![allow(unsafe_code, reason = "ioctl has no safe form in std")]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::apart::{self, Apart, ChoreError, ChoreResult};
use super::fuse::abi::FILE_NAME;
use super::{BLOCK_SIZE, FrontendError};

pub(super) const CONTROL: &str = "/dev/loop-control";
const CONTROL_NODE: &CStr = c"/dev/loop-control";
/// How often another process may take the free number before us.
const ATTEMPTS: u32 = 16;
/// Setting up reads nothing from the legs, so it is quick or it is broken.
const LIMIT: Duration = Duration::from_secs(10);
/// Taking down may write out what the kernel holds; the connection is cut after that.
const DOWN_LIMIT: Duration = Duration::from_secs(5);

const LOOP_MAJOR: u32 = 7;
const STEPS: [&str; 8] = [
    "open the device file",
    "open loop-control",
    "find a free number",
    "open the loop device",
    "configure",
    "set the capacity",
    "take the lock file",
    "read the name of the backing file",
];
const OPEN_FILE: u32 = 0;
const OPEN_CONTROL: u32 = 1;
const FREE_NUMBER: u32 = 2;
const OPEN_LOOP: u32 = 3;
const CONFIGURE: u32 = 4;
const CAPACITY: u32 = 5;
const LOCK: u32 = 6;
const BACKING: u32 = 7;

const LOOP_CLR_FD: libc::c_ulong = 0x4C01;
const LOOP_GET_STATUS64: libc::c_ulong = 0x4C05;
const LOOP_SET_CAPACITY: libc::c_ulong = 0x4C07;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_config` of `linux/loop.h`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

#[repr(C)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// A loop device by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LoopDevice {
    pub number: u32,
}

impl LoopDevice {
    pub(super) fn path(self) -> PathBuf {
        PathBuf::from(format!("/dev/loop{}", self.number))
    }

    /// Binds a free loop device to `file`, holding `lock_file` meanwhile (see `leftovers`).
    pub(super) fn attach(file: &Path, lock_file: &Path) -> Result<Self, FrontendError> {
        let (name, lock) = (c_path(file), c_path(lock_file));
        outcome(LIMIT, move || attach_in_child(&name, &lock)).map(|number| Self { number })
    }

    /// Makes the kernel look at the size of the file again.
    pub(super) fn update_capacity(self, file: &Path) -> Result<(), FrontendError> {
        let (name, node) = (c_path(file), c_path(&self.path()));
        outcome(LIMIT, move || {
            let file = open(&name, libc::O_RDWR, OPEN_FILE)?;
            let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
            // SAFETY: room for one stat. It refreshes the size that the kernel remembers for the file.
            check(unsafe { libc::fstat(file, stat.as_mut_ptr()) }, OPEN_FILE)?;
            let device = open(&node, libc::O_RDWR, OPEN_LOOP)?;
            ioctl(device, LOOP_SET_CAPACITY, CAPACITY)?;
            Ok(0)
        })
        .map(drop)
    }

    /// Unbinds, if the device is bound to a file below `folder` or to one of ours that nobody serves; whether it was.
    /// A device that is still mounted or open goes by itself when its last user leaves.
    pub(super) fn detach(self, folder: &Path) -> Result<bool, FrontendError> {
        let node = c_path(&self.path());
        let sysfs = c_path(Path::new(&format!(
            "/sys/block/loop{}/loop/backing_file",
            self.number
        )));
        let mut folder = folder.as_os_str().as_bytes().to_vec();
        folder.push(b'/');
        let done = outcome(DOWN_LIMIT, move || {
            let device = open(&node, libc::O_RDWR, OPEN_LOOP)?;
            let mut room = [0u8; libc::PATH_MAX as usize];
            let backing = match read_name(&sysfs, &mut room) {
                Ok(name) => name,
                // Not bound any more.
                Err(ChoreError {
                    errno: libc::ENOENT,
                    ..
                }) => return Ok(0),
                Err(error) => return Err(error),
            };
            let ours = backing.starts_with(&folder) || (has_our_name(backing) && unserved(device));
            if !ours {
                return Ok(0);
            }
            match ioctl(device, LOOP_CLR_FD, CONFIGURE) {
                Err(ChoreError {
                    errno: libc::ENXIO, ..
                }) => Ok(0),
                other => other.map(|_| 1),
            }
        })?;
        Ok(done == 1)
    }
}

/// Whether a backing file has the name that ours have, whatever is left of its path.
pub(super) fn has_our_name(path: &[u8]) -> bool {
    let path = path.strip_suffix(b"\n").unwrap_or(path);
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    path.rsplit(|byte| *byte == b'/').next() == Some(FILE_NAME.to_bytes())
}

/// Whether the server of the backing file is gone: the kernel asks it for the attributes.
fn unserved(device: RawFd) -> bool {
    let mut info = std::mem::MaybeUninit::<LoopInfo64>::uninit();
    // SAFETY: room for one loop_info64, which the kernel fills.
    let asked = unsafe { libc::ioctl(device, LOOP_GET_STATUS64 as _, info.as_mut_ptr()) };
    matches!(
        check(asked, BACKING),
        Err(ChoreError {
            errno: libc::ENOTCONN | libc::ECONNABORTED,
            ..
        })
    )
}

/// The first line of a file, without an allocation.
fn read_name<'a>(path: &CStr, room: &'a mut [u8]) -> Result<&'a [u8], ChoreError> {
    let file = open(path, libc::O_RDONLY, BACKING)?;
    // SAFETY: as much room as is said.
    let read = unsafe { libc::read(file, room.as_mut_ptr().cast(), room.len()) };
    let length = usize::try_from(read).unwrap_or(0);
    check(if read < 0 { -1 } else { 0 }, BACKING)?;
    Ok(&room[..length])
}

fn outcome(limit: Duration, chore: impl FnOnce() -> ChoreResult) -> Result<u32, FrontendError> {
    match apart::run(limit, chore) {
        Ok(Apart::Answered(Ok(value))) => Ok(value),
        Ok(Apart::Answered(Err(ChoreError { step, errno }))) => Err(FrontendError::Loop {
            step: usize::try_from(step)
                .ok()
                .and_then(|step| STEPS.get(step))
                .unwrap_or(&"start"),
            source: io::Error::from_raw_os_error(errno),
        }),
        Ok(Apart::TimedOut) => Err(FrontendError::Slow {
            seconds: limit.as_secs(),
        }),
        Err(source) => Err(FrontendError::Loop {
            step: "start",
            source,
        }),
    }
}

fn attach_in_child(file: &CStr, lock: &CStr) -> ChoreResult {
    let lock = open(lock, libc::O_RDWR | libc::O_CREAT, LOCK)?;
    // SAFETY: our own descriptor. The lock goes with this process.
    check(unsafe { libc::flock(lock, libc::LOCK_SH) }, LOCK)?;
    let backing = open(file, libc::O_RDWR | libc::O_DIRECT, OPEN_FILE)?;
    let control = open(CONTROL_NODE, libc::O_RDWR, OPEN_CONTROL)?;
    let mut config = LoopConfig {
        fd: backing.unsigned_abs(),
        block_size: BLOCK_SIZE,
        info: LoopInfo64 {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            sizelimit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: LO_FLAGS_DIRECT_IO,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // Shown by losetup; cut to what fits, its last byte stays zero.
    for (to, from) in config.info.file_name[..63].iter_mut().zip(file.to_bytes()) {
        *to = *from;
    }
    let mut last = ChoreError {
        step: FREE_NUMBER,
        errno: libc::EBUSY,
    };
    for _ in 0..ATTEMPTS {
        let number = ioctl(control, LOOP_CTL_GET_FREE, FREE_NUMBER)?.unsigned_abs();
        let device = open_loop(number)?;
        // SAFETY: a whole loop_config that outlives the call.
        let configured = unsafe { libc::ioctl(device, LOOP_CONFIGURE as _, &raw const config) };
        match check(configured, CONFIGURE) {
            Ok(_) => return Ok(number),
            Err(error) if error.errno == libc::EBUSY => last = error,
            Err(error) => return Err(error),
        }
        // SAFETY: our own descriptor.
        unsafe { libc::close(device) };
    }
    Err(last)
}

/// Opens `/dev/loopN`, making the node where nobody else does (a container without devtmpfs).
fn open_loop(number: u32) -> Result<RawFd, ChoreError> {
    let mut room = [0u8; 24];
    let node = loop_node(number, &mut room);
    match open(node, libc::O_RDWR, OPEN_LOOP) {
        Err(ChoreError {
            errno: libc::ENOENT,
            ..
        }) => {
            let device = libc::makedev(LOOP_MAJOR, number);
            // SAFETY: a string that outlives the call.
            let made = unsafe { libc::mknod(node.as_ptr(), libc::S_IFBLK | 0o600, device) };
            check(made, OPEN_LOOP)?;
            open(node, libc::O_RDWR, OPEN_LOOP)
        }
        other => other,
    }
}

/// "/dev/loopN" without an allocation.
fn loop_node(number: u32, room: &mut [u8; 24]) -> &CStr {
    const STEM: &[u8] = b"/dev/loop";
    room.fill(0);
    room[..STEM.len()].copy_from_slice(STEM);
    let digits = number.checked_ilog10().unwrap_or(0) as usize + 1;
    let mut rest = number;
    for at in (STEM.len()..STEM.len() + digits).rev() {
        room[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    CStr::from_bytes_until_nul(room).unwrap_or(c"/dev/null")
}

fn open(path: &CStr, flags: i32, step: u32) -> Result<RawFd, ChoreError> {
    // SAFETY: a string that outlives the call.
    let fd = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, 0o600) };
    check(fd, step)
}

/// A request without an argument.
fn ioctl(fd: RawFd, request: libc::c_ulong, step: u32) -> Result<i32, ChoreError> {
    // SAFETY: none of the requests used here takes a pointer.
    check(unsafe { libc::ioctl(fd, request as _, 0) }, step)
}

fn check(result: i32, step: u32) -> Result<i32, ChoreError> {
    if result < 0 {
        // SAFETY: the address of this thread's errno.
        let errno = unsafe { *libc::__errno_location() };
        Err(ChoreError { step, errno })
    } else {
        Ok(result)
    }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named_without_allocation() {
        let mut room = [0; 24];
        assert_eq!(loop_node(0, &mut room), c"/dev/loop0");
        assert_eq!(loop_node(9, &mut room), c"/dev/loop9");
        assert_eq!(loop_node(10, &mut room), c"/dev/loop10");
        assert_eq!(loop_node(u32::MAX, &mut room), c"/dev/loop4294967295");
    }

    #[test]
    fn a_backing_file_is_known_after_its_mount_is_gone() {
        for ours in [&b"/run/v1/dev\n"[..], b"/run/v1/dev (deleted)\n", b"/dev\n"] {
            assert!(has_our_name(ours));
        }
        assert!(!has_our_name(b"/srv/disk.img\n") && !has_our_name(b""));
    }

    #[test]
    fn the_configuration_has_the_size_the_kernel_reads() {
        assert_eq!(size_of::<LoopInfo64>(), 232);
        assert_eq!(size_of::<LoopConfig>(), 304);
    }
}
