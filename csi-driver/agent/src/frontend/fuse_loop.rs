//! The front end for every kernel: a FUSE mount with one file and a loop device over it.
//!
//! ```text
//!   file system -> /dev/loopN -> FUSE file -> this thread -> events -> owner of the volume
//!                                    ^--------------- answers, on the owner's thread
//! ```
//! Three threads at most: `reader` for the life of the device, `setup` and `removal` for the moments in which a
//! child process configures the loop device.
//!
//! Invariants: no thread of this process ever touches the mount or the loop device (see `apart`); after
//! [`Removal::Abort`] the kernel answers everything with EIO even if nobody reads any more.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use bytes::Bytes;

use super::fuse::abi::{self, Answer, FILE_NAME, FILE_NODE, Op, Request};
use super::fuse::device::{self, Channel, ReadBuffer, Stop, Woken};
use super::leftovers::unmount;
use super::loop_device::{CONTROL, LoopDevice};
use super::{
    BLOCK_SIZE, DeviceSpec, Events, Frontend, FrontendError, FrontendEvent, GuestErrno, GuestId,
    GuestOp, GuestReply, GuestRequest, Removal,
};

/// A volume shown through FUSE and a loop device.
pub struct FuseLoop {
    shared: Arc<Shared>,
}

struct Shared {
    channel: Mutex<Option<Arc<Channel>>>,
    stop: Stop,
    size: AtomicU64,
    block: u32,
    mount_point: PathBuf,
    device: Mutex<Binding>,
    events: Events,
}

/// Where the loop device is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Binding {
    /// `setup` is at it; it undoes its work when it finds `Removed` at the end.
    Coming,
    Bound(LoopDevice),
    Removed,
}

impl FuseLoop {
    /// Mounts the device file below `run_dir` and begins to set up the loop device; [`FrontendEvent::Shown`] or
    /// [`FrontendEvent::ShowFailed`] follows. Requests may come before `Shown` and have to be answered.
    pub fn show(spec: &DeviceSpec, run_dir: &Path, events: Events) -> Result<Self, FrontendError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if spec.name.is_empty() || spec.name.starts_with('.') || !spec.name.bytes().all(plain) {
            return Err(FrontendError::BadName {
                name: spec.name.clone(),
            });
        }
        if !Path::new(CONTROL).exists() {
            return Err(FrontendError::NoKernelSupport { path: CONTROL });
        }
        let mount_point = run_dir.join(&spec.name);
        fs::create_dir_all(&mount_point).map_err(|source| FrontendError::Folder {
            path: mount_point.clone(),
            source,
        })?;
        let channel = Arc::new(Channel::open()?);
        let stop = Stop::new().map_err(|source| FrontendError::Thread { source })?;
        channel
            .mount(&mount_point, &format!("twinsite:{}", spec.name))
            .map_err(|source| FrontendError::Mount {
                path: mount_point.clone(),
                source,
            })?;
        let shared = Arc::new(Shared {
            channel: Mutex::new(Some(channel.clone())),
            stop,
            size: AtomicU64::new(spec.size),
            block: spec.discard_granularity.max(BLOCK_SIZE),
            mount_point,
            device: Mutex::new(Binding::Coming),
            events,
        });
        // From here on a drop takes the mount away again.
        let this = Self { shared };
        let (reader, setup) = (this.shared.clone(), this.shared.clone());
        spawn("frontend-read", move || reader.read_all(&channel))?;
        spawn("frontend-setup", move || setup.set_up())?;
        Ok(this)
    }

    fn channel(&self) -> Option<Arc<Channel>> {
        lock(&self.shared.channel).clone()
    }
}

impl Frontend for FuseLoop {
    fn complete(&mut self, id: GuestId, result: Result<GuestReply, GuestErrno>) {
        let Some(channel) = self.channel() else {
            return;
        };
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
        self.shared.size.store(size, Ordering::Release);
        let Binding::Bound(device) = *lock(&self.shared.device) else {
            return;
        };
        let shared = self.shared.clone();
        let resized = spawn("frontend-resize", move || {
            match device.update_capacity(&shared.file()) {
                Ok(()) => (shared.events)(FrontendEvent::Resized { size }),
                Err(error) => (shared.events)(FrontendEvent::ResizeFailed(error)),
            }
        });
        if let Err(error) = resized {
            (self.shared.events)(FrontendEvent::ResizeFailed(error));
        }
    }

    fn remove(&mut self, how: Removal) {
        self.shared.clone().remove(how);
    }
}

impl Drop for FuseLoop {
    fn drop(&mut self) {
        self.shared.clone().remove(Removal::Abort);
    }
}

impl Shared {
    fn file(&self) -> PathBuf {
        self.mount_point
            .join(FILE_NAME.to_str().expect("plain letters"))
    }

    fn set_up(&self) {
        let attached = LoopDevice::attach(&self.file());
        let mut binding = lock(&self.device);
        match (attached, *binding) {
            (Ok(device), Binding::Coming) => {
                *binding = Binding::Bound(device);
                drop(binding);
                (self.events)(FrontendEvent::Shown {
                    path: device.path(),
                });
            }
            (Ok(device), _) => {
                drop(binding);
                self.detach(device);
            }
            (Err(error), Binding::Coming) => {
                drop(binding);
                (self.events)(FrontendEvent::ShowFailed(error));
            }
            (Err(_), _) => {}
        }
    }

    fn detach(&self, device: LoopDevice) {
        if let Err(error) = device.detach() {
            tracing::warn!(device = %device.path().display(), %error, "cannot detach the loop device");
        }
    }

    fn remove(self: Arc<Self>, how: Removal) {
        let before = std::mem::replace(&mut *lock(&self.device), Binding::Removed);
        if how == Removal::Abort {
            self.disconnect();
        }
        if before == Binding::Removed {
            return;
        }
        let shared = self.clone();
        let spawned = spawn("frontend-remove", move || {
            if let Binding::Bound(device) = before {
                shared.detach(device);
            }
            shared.disconnect();
            (shared.events)(FrontendEvent::Gone);
        });
        if spawned.is_err() {
            // Without a thread the loop device stays for `clear_leftovers`; its file gives EIO.
            self.disconnect();
        }
    }

    /// Ends the connection: the kernel fails what is open, and all that comes.
    fn disconnect(&self) {
        if lock(&self.channel).take().is_none() {
            return;
        }
        self.stop.set();
        match unmount(&self.mount_point) {
            Ok(()) => {
                let _ = fs::remove_dir(&self.mount_point);
            }
            Err(error) => {
                tracing::warn!(at = %self.mount_point.display(), %error, "cannot unmount the device file")
            }
        }
    }

    fn read_all(&self, channel: &Channel) {
        let mut buffer = ReadBuffer::default();
        loop {
            match channel.read(&mut buffer) {
                Ok(Some(bytes)) => self.take(channel, bytes),
                Ok(None) => match device::wait(channel, &self.stop) {
                    Ok(Woken::Request) => {}
                    Ok(Woken::Stopped) => return,
                    Err(error) => return self.lost(&error),
                },
                Err(error) => return self.lost(&error),
            }
        }
    }

    /// The connection ended under us: somebody unmounted or aborted it.
    fn lost(&self, error: &io::Error) {
        if lock(&self.channel).take().is_some() {
            tracing::error!(at = %self.mount_point.display(), %error, "the device file was taken away");
            (self.events)(FrontendEvent::Gone);
        }
    }

    fn take(&self, channel: &Channel, bytes: &[u8]) {
        let Request { unique, node, op } = match abi::parse(bytes) {
            Ok(request) => request,
            Err(error) => {
                return tracing::error!(%error, "the kernel sent a request that cannot be read");
            }
        };
        let size = || self.size.load(Ordering::Acquire);
        let guest = |op| {
            (self.events)(FrontendEvent::Request(GuestRequest {
                id: GuestId(unique),
                op,
            }))
        };
        match op {
            Op::Read { offset, len } => guest(GuestOp::Read { offset, len }),
            Op::Write { offset, data } => {
                guest(GuestOp::Write {
                    offset,
                    data: Bytes::copy_from_slice(data),
                    fua: false,
                });
            }
            Op::Fsync => guest(GuestOp::Flush),
            Op::Punch { offset, len } => guest(GuestOp::Discard { offset, len }),
            Op::Zero { offset, len } => guest(GuestOp::Zero { offset, len }),
            Op::Init {
                major,
                minor,
                max_readahead,
                flags,
            } => {
                channel.answer(&Answer::init(unique, major, minor, max_readahead, flags));
            }
            Op::Lookup { name } if name == FILE_NAME.to_bytes() => {
                channel.answer(&Answer::entry(unique, size()))
            }
            Op::Lookup { .. } => channel.answer(&Answer::error(unique, libc::ENOENT)),
            Op::GetAttributes | Op::SetAttributes => {
                channel.answer(&Answer::attributes(unique, node, size()))
            }
            Op::Open if node == FILE_NODE => channel.answer(&Answer::opened(unique)),
            Op::Open => channel.answer(&Answer::error(unique, libc::EISDIR)),
            Op::StatFs => channel.answer(&Answer::statfs(unique, size(), self.block)),
            Op::Acknowledge => channel.answer(&Answer::done(unique)),
            Op::Silent => {}
            Op::Unsupported { .. } => channel.answer(&Answer::error(unique, libc::ENOSYS)),
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), FrontendError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map(drop)
        .map_err(|source| FrontendError::Thread { source })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
