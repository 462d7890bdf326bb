//! Finds and clears what an earlier run of the agent left behind when it was killed: FUSE mounts without a server,
//! loop devices over them, and ublk devices.
//!
//! Only mounts of our type below the folder given are touched, and only loop devices whose backing file lies on one
//! of them, or is one of ours that nobody serves any more. A file system that is still mounted on such a loop device keeps it (every access gives EIO); the loop
//! device then goes with the last user.
//!
//! A child that was binding a loop device when its agent died may finish that one call before it dies too. It holds a
//! shared lock on a file of the folder meanwhile; clearing waits for that lock.
#![allow(unsafe_code, reason = "umount2 has no safe form in std")]

use std::ffi::CString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::FrontendError;
use super::fuse::device::FS_TYPE;
use super::loop_device::{LoopDevice, has_our_name};
use super::ublk;

/// What was found and taken away.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cleared {
    pub mounts: Vec<PathBuf>,
    /// Block devices: of ublk, and loop devices.
    pub devices: Vec<PathBuf>,
}

impl Cleared {
    fn unmounted(&mut self, at: PathBuf) {
        // Not empty only if it is not the folder we made.
        let _ = fs::remove_dir(&at);
        self.mounts.push(at);
    }
}

/// Clears the leftovers of earlier runs that used `run_dir`. To be called before the first device is shown, by the
/// only agent that uses this folder.
pub fn clear_leftovers(run_dir: &Path) -> Result<Cleared, FrontendError> {
    let mut cleared = Cleared::default();
    if !run_dir.exists() {
        return Ok(cleared);
    }
    cleared.devices.extend(ublk::clear(run_dir));
    let mounts = mounts_below(run_dir)?;
    // Nobody serves them any more. Whoever still waits for an answer gets an error, a dying child above all.
    let mut there = Vec::new();
    for at in mounts {
        if abort(&at) {
            cleared.unmounted(at);
        } else {
            there.push(at);
        }
    }
    let _lock = wait_for_children(&lock_file(run_dir))?;
    for device in bound_loops()? {
        match device.detach(run_dir) {
            Ok(true) => cleared.devices.push(device.path()),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(device = %device.path().display(), %error, "cannot detach a stale device")
            }
        }
    }
    for at in there {
        match unmount(&at) {
            Ok(()) => cleared.unmounted(at),
            Err(error) => {
                tracing::warn!(at = %at.display(), %error, "cannot unmount a stale device file")
            }
        }
    }
    Ok(cleared)
}

/// How long a dying child is waited for.
const CHILD_LIMIT: Duration = Duration::from_secs(10);

pub(super) fn lock_file(run_dir: &Path) -> PathBuf {
    run_dir.join(".devices.lock")
}

fn wait_for_children(path: &Path) -> Result<File, FrontendError> {
    let cannot = |source| FrontendError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::create(path).map_err(cannot)?;
    let end = Instant::now() + CHILD_LIMIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < end => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(cannot(error.into())),
        }
    }
}

/// Takes a mount out of the tree at once; what still uses it ends on its own.
pub(super) fn unmount(at: &Path) -> io::Result<()> {
    umount2(at, libc::MNT_DETACH)
}

/// Ends the connection of a mount, which stays in the tree while it is in use: busy is an error that comes after that. One that
/// nobody uses any more, since its loop device is gone already, goes with its connection.
pub(super) fn abort(at: &Path) -> bool {
    umount2(at, libc::MNT_FORCE).is_ok()
}

fn umount2(at: &Path, flags: i32) -> io::Result<()> {
    let name = CString::new(at.as_os_str().as_bytes())?;
    // SAFETY: a string that outlives the call. With either flag it does not wait for the server of the mount.
    let failed = unsafe { libc::umount2(name.as_ptr(), flags | libc::UMOUNT_NOFOLLOW) != 0 };
    if failed {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Loop devices whose backing file has the name that ours have.
fn bound_loops() -> Result<Vec<LoopDevice>, FrontendError> {
    let blocks = Path::new("/sys/block");
    let read = |source| FrontendError::Read {
        path: blocks.to_owned(),
        source,
    };
    let mut bound = Vec::new();
    for entry in fs::read_dir(blocks).map_err(read)? {
        let name = entry.map_err(read)?.file_name();
        let Some(number) = name
            .to_str()
            .and_then(|name| name.strip_prefix("loop")?.parse().ok())
        else {
            continue;
        };
        // Absent unless it is bound.
        let backing = fs::read(blocks.join(&name).join("loop/backing_file"));
        if backing.is_ok_and(|line| has_our_name(&line)) {
            bound.push(LoopDevice { number });
        }
    }
    Ok(bound)
}

fn mounts_below(run_dir: &Path) -> Result<Vec<PathBuf>, FrontendError> {
    let path = Path::new("/proc/self/mountinfo");
    let list = fs::read_to_string(path).map_err(|source| FrontendError::Read {
        path: path.to_owned(),
        source,
    })?;
    // The newest mount over one point is last in the list and has to go first.
    Ok(list
        .lines()
        .rev()
        .filter_map(our_mount)
        .filter(|at| at.starts_with(run_dir))
        .collect())
}

/// The mount point of a mountinfo line, if the mount is one of ours.
fn our_mount(line: &str) -> Option<PathBuf> {
    let (before, after) = line.split_once(" - ")?;
    if after.split(' ').next()? != FS_TYPE {
        return None;
    }
    Some(PathBuf::from(unescape(before.split(' ').nth(4)?)))
}

/// mountinfo writes blanks and backslashes as three octal digits.
fn unescape(text: &str) -> std::ffi::OsString {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        let value =
            octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(value.unwrap_or(bytes[at]));
        at += if value.is_some() { 4 } else { 1 };
    }
    std::ffi::OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_mounts_are_told_from_others() {
        let ours = "31 28 0:40 / /run/tw\\040in/v1 rw,nosuid shared:3 - fuse.twinsite twinsite:v1 rw,user_id=0";
        assert_eq!(our_mount(ours), Some(PathBuf::from("/run/tw in/v1")));
        assert_eq!(
            our_mount("31 28 0:40 / /run/x rw - fuse.sshfs host:/ rw"),
            None
        );
        assert_eq!(our_mount("31 28 0:40 / /run/x rw"), None);
        assert_eq!(our_mount(""), None);
    }
}
