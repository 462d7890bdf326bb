//! The control device of the ublk driver: adds, starts, stops and removes devices.
//!
//! Each command is one entry of a small ring and is waited for; adding and setting up take microseconds, starting waits
//! for the first reads to be answered and stopping for the last ones, so these two run beside the data thread.
#![allow(
    unsafe_code,
    reason = "io_uring entries with pointers have no safe form"
)]

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue, opcode, types};

use super::abi;

pub(super) const NODE: &str = "/dev/ublk-control";
/// The first kernel that ends a device at once when its server lets go of the queue (Linux 6.7) and can remove it without
/// waiting (6.9).
const OLDEST: (u32, u32) = (6, 9);

pub(super) struct Control {
    ring: IoUring<Entry128, cqueue::Entry>,
    file: File,
}

impl Control {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self {
            ring: IoUring::<Entry128, cqueue::Entry>::builder().build(2)?,
            file: OpenOptions::new().read(true).write(true).open(NODE)?,
        })
    }

    /// Whether this kernel has what is used here.
    pub(super) fn is_sufficient(&mut self) -> io::Result<bool> {
        let mut features = [0; 8];
        self.run(abi::GET_FEATURES, u32::MAX, Some(&mut features), 0)?;
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        Ok(u64::from_le_bytes(features) & abi::FLAG_USER_COPY != 0 && version(&release) >= OLDEST)
    }

    /// A new device of ours; its number.
    pub(super) fn add(&mut self, depth: u16, ours: u64) -> io::Result<u32> {
        let mut info = abi::info(depth, ours);
        self.run(abi::ADD_DEV, u32::MAX, Some(&mut info), 0)?;
        Ok(abi::info_device(&info))
    }

    pub(super) fn set_params(&mut self, device: u32, size: u64, discard: u32) -> io::Result<()> {
        let mut params = abi::params(size, discard);
        self.run(abi::SET_PARAMS, device, Some(&mut params), 0)
    }

    /// Makes the block device; its first reads have to be answered meanwhile.
    pub(super) fn start(&mut self, device: u32) -> io::Result<()> {
        let ours = std::process::id();
        self.run(abi::START_DEV, device, None, ours.into())
    }

    /// Takes the block device away; what it holds is written out first if the queue is still served, else it fails.
    pub(super) fn stop(&mut self, device: u32) -> io::Result<()> {
        self.run(abi::STOP_DEV, device, None, 0)
    }

    /// Gives the number back as soon as nobody holds the character device.
    pub(super) fn remove(&mut self, device: u32) -> io::Result<()> {
        self.run(abi::DEL_DEV_ASYNC, device, None, 0)
    }

    pub(super) fn resize(&mut self, device: u32, size: u64) -> io::Result<()> {
        self.run(abi::UPDATE_SIZE, device, None, size / abi::SECTOR)
    }

    /// The mark that a device was added with.
    pub(super) fn ours(&mut self, device: u32) -> io::Result<u64> {
        let mut info = [0; abi::INFO_SIZE];
        self.run(abi::GET_DEV_INFO, device, Some(&mut info), 0)?;
        Ok(abi::info_ours(&info))
    }

    fn run(
        &mut self,
        command: u32,
        device: u32,
        buffer: Option<&mut [u8]>,
        data: u64,
    ) -> io::Result<()> {
        let place = buffer.map(|bytes| {
            let len = u16::try_from(bytes.len()).expect("buffers of a few dozen bytes");
            (bytes.as_mut_ptr() as u64, len)
        });
        let entry = opcode::UringCmd80::new(types::Fd(self.file.as_raw_fd()), command)
            .cmd(abi::control(device, place, data))
            .build();
        // SAFETY: the buffer outlives the command, which is waited for below.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)?;
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The command may still write into the buffer: there is no way to go on.
                Err(error) => panic!("waiting for a ublk command: {error}"),
            }
            if let Some(done) = self.ring.completion().next() {
                return match done.result() {
                    0.. => Ok(()),
                    error => Err(io::Error::from_raw_os_error(-error)),
                };
            }
        }
    }
}

fn version(release: &str) -> (u32, u32) {
    let mut parts = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// Numbers of all devices of the driver.
pub(super) fn devices() -> Vec<u32> {
    let entries = fs::read_dir("/sys/class/ublk-char").into_iter().flatten();
    entries
        .flatten()
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_prefix("ublkc")?
                .parse()
                .ok()
        })
        .collect()
}

pub(super) fn block_node(device: u32) -> io::Result<PathBuf> {
    let name = format!("ublkb{device}");
    node(&name, Path::new("/sys/block"), libc::S_IFBLK)
}

pub(super) fn char_node(device: u32) -> io::Result<PathBuf> {
    let name = format!("ublkc{device}");
    node(&name, Path::new("/sys/class/ublk-char"), libc::S_IFCHR)
}

/// The node of a device below `/dev`, made where nobody else does (a container without devtmpfs).
fn node(name: &str, class: &Path, kind: libc::mode_t) -> io::Result<PathBuf> {
    let path = Path::new("/dev").join(name);
    if path.exists() {
        return Ok(path);
    }
    let numbers = fs::read_to_string(class.join(name).join("dev"))?;
    let (major, minor) = numbers
        .trim()
        .split_once(':')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
        .ok_or_else(|| io::Error::other(format!("{name} has the numbers {numbers:?}")))?;
    let text = CString::new(path.as_os_str().as_encoded_bytes())?;
    // SAFETY: a string that outlives the call.
    let made = unsafe { libc::mknod(text.as_ptr(), kind | 0o600, libc::makedev(major, minor)) };
    let error = io::Error::last_os_error();
    if made < 0 && error.kind() != io::ErrorKind::AlreadyExists {
        return Err(error);
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_apart_by_number_not_by_text() {
        assert_eq!(version("6.12.69+deb12-cloud-amd64\n"), (6, 12));
        assert!(version("6.12.1") > version("6.9"));
        assert_eq!(version("strange"), (0, 0));
    }
}
