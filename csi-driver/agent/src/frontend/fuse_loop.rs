//! The front end for every kernel: a FUSE mount with one file and a loop device over it.
//!
//! ```text
//!   file system -> /dev/loopN -> FUSE file -> owner of the volume
//! ```
//! Threads of its own exist only for the moments in which a child process configures the loop device.
//!
//! Invariants: no thread of this process ever touches the mount or the loop device (see `apart`); after
//! [`Removal::Abort`] the kernel answers everything with EIO by itself; the mount point goes last, since by its path
//! the leftovers of a killed agent are known.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use twinsite_api::FrontEnd;

use super::apart;
use super::fuse::abi::{self, Answer, FILE_NAME, FILE_NODE, Op, Request};
use super::fuse::device::{Channel, ReadBuffer};
use super::leftovers::{abort, lock_file, unmount};
use super::loop_device::{CONTROL, LoopDevice};
use super::{
    BLOCK_SIZE, DeviceSpec, Ended, Events, Frontend, FrontendError, FrontendEvent, GuestErrno,
    GuestId, GuestOp, GuestReply, GuestRequest, Removal, beside,
};
use crate::reactor::Descriptor;

/// A volume shown through FUSE and a loop device.
pub struct FuseLoop {
    channel: Option<Channel>,
    buffer: ReadBuffer,
    face: Face,
    shared: Arc<Shared>,
}

/// The file as the kernel sees it.
#[derive(Debug, Clone, Copy)]
struct Face {
    size: u64,
    /// Bytes; 0: a discard is answered with "not supported", and the kernel stops asking.
    discard_granularity: u32,
}

/// What the owner and the threads beside it both see.
struct Shared {
    mount_point: PathBuf,
    lock_file: PathBuf,
    binding: Mutex<Binding>,
    removing: AtomicBool,
    mounted: AtomicBool,
    events: Events,
}

/// Where the loop device is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Binding {
    /// `set_up` is at it; it undoes its work when it finds `Removed` at the end.
    Coming,
    Bound(LoopDevice),
    Removed,
}

impl FuseLoop {
    /// Mounts the device file below `run_dir` and begins to set up the loop device; [`FrontendEvent::Shown`] or
    /// [`FrontendEvent::ShowFailed`] follows.
    pub fn show(spec: &DeviceSpec, run_dir: &Path, events: Events) -> Result<Self, FrontendError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if spec.name.is_empty() || spec.name.starts_with('.') || !spec.name.bytes().all(plain) {
            let name = spec.name.clone();
            return Err(FrontendError::BadName { name });
        }
        if !Path::new(CONTROL).exists() {
            return Err(FrontendError::NoKernelSupport { path: CONTROL });
        }
        let mount_point = run_dir.join(&spec.name);
        fs::create_dir_all(&mount_point).map_err(|source| FrontendError::Folder {
            path: mount_point.clone(),
            source,
        })?;
        apart::never_wait_for_ourselves();
        let channel = Channel::open()?;
        channel
            .mount(&mount_point, &format!("twinsite:{}", spec.name))
            .map_err(|source| FrontendError::Mount {
                path: mount_point.clone(),
                source,
            })?;
        // From here on a drop takes the mount away again.
        let this = Self {
            channel: Some(channel),
            buffer: ReadBuffer::default(),
            face: Face {
                size: spec.size,
                discard_granularity: spec.discard_granularity,
            },
            shared: Arc::new(Shared {
                mount_point,
                lock_file: lock_file(run_dir),
                binding: Mutex::new(Binding::Coming),
                removing: AtomicBool::new(false),
                mounted: AtomicBool::new(true),
                events,
            }),
        };
        let shared = this.shared.clone();
        beside("frontend-setup", move || shared.set_up())?;
        Ok(this)
    }
}

impl Frontend for FuseLoop {
    fn kind(&self) -> FrontEnd {
        FrontEnd::FuseLoop
    }

    fn descriptor(&self) -> Option<Descriptor> {
        Some(self.channel.as_ref()?.descriptor().clone())
    }

    fn take(&mut self, limit: usize, into: &mut Vec<GuestRequest>) -> Result<(), Ended> {
        let Some(channel) = &self.channel else {
            return Ok(());
        };
        for _ in 0..limit {
            match channel.read(&mut self.buffer) {
                Ok(Some(bytes)) => into.extend(answer_or_pass(channel, bytes, self.face)),
                Ok(None) => return Ok(()),
                Err(_) if self.shared.removing.load(Ordering::Acquire) => {
                    self.channel = None;
                    return Ok(());
                }
                Err(error) => {
                    let at = self.shared.mount_point.display();
                    tracing::error!(%at, %error, "the device file was taken away");
                    self.channel = None;
                    return Err(Ended);
                }
            }
        }
        Ok(())
    }

    fn complete(&mut self, id: GuestId, result: Result<GuestReply, GuestErrno>) {
        let Some(channel) = &self.channel else { return };
        match result {
            Ok(GuestReply::Done) => channel.answer(&Answer::done(id.0)),
            Ok(GuestReply::Wrote(len)) => channel.answer(&Answer::wrote(id.0, len)),
            Ok(GuestReply::Data(pieces)) => {
                let len: usize = pieces.iter().map(Bytes::len).sum();
                match u32::try_from(len) {
                    Ok(len) => channel.answer_with(&Answer::data(id.0, len), &pieces),
                    Err(_) => channel.answer(&Answer::error(id.0, libc::EIO)),
                }
            }
            Err(errno) => channel.answer(&Answer::error(id.0, errno.raw())),
        }
    }

    fn resize(&mut self, size: u64) {
        self.face.size = size;
        let Binding::Bound(device) = *lock(&self.shared.binding) else {
            return;
        };
        let shared = self.shared.clone();
        let begun = beside("frontend-resize", move || {
            (shared.events)(match device.update_capacity(&shared.file()) {
                Ok(()) => FrontendEvent::Resized { size },
                Err(error) => FrontendEvent::ResizeFailed(error),
            });
        });
        if let Err(error) = begun {
            (self.shared.events)(FrontendEvent::ResizeFailed(error));
        }
    }

    fn remove(&mut self, how: Removal) {
        if how == Removal::Abort && self.channel.take().is_some() {
            self.shared.abort();
        }
        if self.shared.removing.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = self.shared.clone();
        if let Err(error) = beside("frontend-remove", move || shared.take_down()) {
            // The loop device and the mount stay for `clear_leftovers`; they give EIO.
            tracing::error!(%error, "cannot take the device down");
            self.channel = None;
            self.shared.abort();
        }
    }
}

impl Drop for FuseLoop {
    fn drop(&mut self) {
        self.remove(Removal::Abort);
    }
}

/// Answers what concerns the file itself; gives back what the guest asks of the volume.
fn answer_or_pass(channel: &Channel, bytes: &[u8], face: Face) -> Option<GuestRequest> {
    let size = face.size;
    let Request { unique, node, op } = match abi::parse(bytes) {
        Ok(request) => request,
        Err(error) => {
            tracing::error!(%error, "the kernel sent a request that cannot be read");
            return None;
        }
    };
    let answer = match op {
        Op::Read { offset, len } => return guest(unique, GuestOp::Read { offset, len }),
        Op::Write { offset, data } => {
            let data = Bytes::copy_from_slice(data);
            let fua = false;
            return guest(unique, GuestOp::Write { offset, data, fua });
        }
        Op::Fsync => return guest(unique, GuestOp::Flush),
        Op::Punch { .. } if face.discard_granularity == 0 => {
            Answer::error(unique, libc::EOPNOTSUPP)
        }
        Op::Punch { offset, len } => return guest(unique, GuestOp::Discard { offset, len }),
        Op::Zero { offset, len } => return guest(unique, GuestOp::Zero { offset, len }),
        Op::Silent => return None,
        Op::Init {
            major,
            minor,
            max_readahead,
            flags,
        } => Answer::init(unique, major, minor, max_readahead, flags),
        Op::Lookup { name } if name == FILE_NAME.to_bytes() => Answer::entry(unique, size),
        Op::Lookup { .. } => Answer::error(unique, libc::ENOENT),
        Op::GetAttributes | Op::SetAttributes => Answer::attributes(unique, node, size),
        Op::Open if node == FILE_NODE => Answer::opened(unique),
        Op::Open => Answer::error(unique, libc::EISDIR),
        Op::StatFs => Answer::statfs(unique, size, face.discard_granularity.max(BLOCK_SIZE)),
        Op::Acknowledge => Answer::done(unique),
        Op::Unsupported { .. } => Answer::error(unique, libc::ENOSYS),
    };
    channel.answer(&answer);
    None
}

fn guest(unique: u64, op: GuestOp) -> Option<GuestRequest> {
    let id = GuestId(unique);
    Some(GuestRequest { id, op })
}

impl Shared {
    fn file(&self) -> PathBuf {
        self.mount_point
            .join(FILE_NAME.to_str().expect("plain letters"))
    }

    fn set_up(&self) {
        let attached = LoopDevice::attach(&self.file(), &self.lock_file);
        let mut binding = lock(&self.binding);
        match (attached, *binding) {
            (Ok(device), Binding::Coming) => {
                *binding = Binding::Bound(device);
                drop(binding);
                let path = device.path();
                (self.events)(FrontendEvent::Shown { path });
            }
            (Ok(device), _) => {
                drop(binding);
                self.detach(device);
                self.unmount();
            }
            (Err(error), Binding::Coming) => {
                drop(binding);
                (self.events)(FrontendEvent::ShowFailed(error));
            }
            (Err(_), _) => {}
        }
    }

    fn take_down(&self) {
        let before = std::mem::replace(&mut *lock(&self.binding), Binding::Removed);
        if let Binding::Bound(device) = before {
            self.detach(device);
        }
        self.unmount();
        (self.events)(FrontendEvent::Gone);
    }

    fn detach(&self, device: LoopDevice) {
        if let Err(error) = device.detach(&self.mount_point) {
            let device = device.path();
            tracing::warn!(device = %device.display(), %error, "cannot detach the loop device");
        }
    }

    /// Fails everything that is open and that will come, also while somebody still waits for the descriptor.
    fn abort(&self) {
        if self.mounted.load(Ordering::Acquire) && abort(&self.mount_point) {
            self.mounted.store(false, Ordering::Release);
            self.remove_mount_point();
        }
    }

    /// Not empty only if it is not the folder we made.
    fn remove_mount_point(&self) {
        let _ = fs::remove_dir(&self.mount_point);
    }

    fn unmount(&self) {
        if !self.mounted.swap(false, Ordering::AcqRel) {
            return;
        }
        match unmount(&self.mount_point) {
            Ok(()) => self.remove_mount_point(),
            Err(error) => {
                let at = self.mount_point.display();
                tracing::warn!(%at, %error, "cannot unmount the device file");
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
