//! Block front ends: what shows a volume to this machine as a block device.
//!
//! A front end turns what the kernel asks of the device into [`GuestRequest`]s and carries the answers back, all on the
//! thread of the volume's owner, which waits for [`Frontend::descriptor`] in its own loop: no request changes threads.
//! What takes longer (setting a device up, taking it down) runs beside it and is told through [`Events`].
//!
//! Call order: show; then whenever the descriptor is readable, [`Frontend::take`] until it gives fewer than asked for;
//! [`Frontend::complete`] for each request. Requests come before `Shown` already: they must be answered, or `Shown`
//! never comes.
//!
//! Invariants: the bytes of a write are a private copy that nobody changes any more; nothing here keeps a page cache
//! below the file system; no call of this trait blocks.
//! Not here: what an answer means (the mirror engine), who decides that a device is shown (`volume`).

mod apart;
pub mod fuse;
mod fuse_loop;
mod leftovers;
mod loop_device;
#[cfg(test)]
mod trial;
mod ublk;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use twinsite_api::FrontEnd;

use crate::reactor::Descriptor;

pub use fuse_loop::FuseLoop;
pub use leftovers::{Cleared, clear_leftovers};
pub use ublk::{Ublk, available as ublk_available};

/// One request of the guest, unique while it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestId(pub u64);

/// What the guest asks for; offsets and lengths in bytes of the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestOp {
    Read {
        offset: u64,
        len: u32,
    },
    Write {
        offset: u64,
        data: Bytes,
        fua: bool,
    },
    Flush,
    /// The content becomes unimportant; a later read gives zeros.
    Discard {
        offset: u64,
        len: u64,
    },
    /// The content becomes zeros.
    Zero {
        offset: u64,
        len: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestRequest {
    pub id: GuestId,
    pub op: GuestOp,
}

/// A good answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestReply {
    /// To Flush, Discard and Zero.
    Done,
    /// To Write, with the length written, which is always the whole length.
    Wrote(u32),
    /// To Read, in pieces that together have the length asked for.
    Data(Vec<Bytes>),
}

/// A bad answer, as the kernel names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestErrno {
    Io,
    NoSpace,
    /// The range or the alignment is not one this device has.
    Invalid,
    NotSupported,
}

impl GuestErrno {
    fn raw(self) -> i32 {
        match self {
            Self::Io => libc::EIO,
            Self::NoSpace => libc::ENOSPC,
            Self::Invalid => libc::EINVAL,
            Self::NotSupported => libc::EOPNOTSUPP,
        }
    }
}

/// What a front end tells the owner of the volume beside the requests.
#[derive(Debug)]
pub enum FrontendEvent {
    /// The device is there and answers; `path` is its block device node.
    Shown {
        path: PathBuf,
    },
    ShowFailed(FrontendError),
    Resized {
        size: u64,
    },
    ResizeFailed(FrontendError),
    /// The device was taken down, as [`Frontend::remove`] said.
    Gone,
}

/// Where a front end puts its events; called from threads of its own, must not block.
pub type Events = Arc<dyn Fn(FrontendEvent) + Send + Sync>;

/// How a device goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// The kernel may still write out what it holds while the device is taken down.
    Orderly,
    /// Everything, queued or new, is EIO from now on.
    Abort,
}

/// What to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSpec {
    /// Used in paths and in `mount` listings: letters, digits, `-`, `_` and `.` only.
    pub name: String,
    pub size: u64,
    /// Bytes; 0 when discard is not offered.
    pub discard_granularity: u32,
}

/// Logical block size of every device we show.
pub const BLOCK_SIZE: u32 = 4096;

/// A device that is shown or on its way to be.
pub trait Frontend: Send {
    /// How it shows the device.
    fn kind(&self) -> FrontEnd;
    /// Readable when there are requests, or when the device has gone. `None` after [`Frontend::remove`].
    fn descriptor(&self) -> Option<Descriptor>;
    /// Takes at most `limit` requests that wait.
    fn take(&mut self, limit: usize, into: &mut Vec<GuestRequest>) -> Result<(), Ended>;
    /// Answers one request. An id that is not open any more is ignored.
    fn complete(&mut self, id: GuestId, result: Result<GuestReply, GuestErrno>);
    /// Announces a larger size; the outcome comes as an event.
    fn resize(&mut self, size: u64);
    /// Takes the device down in the background; `Gone` comes when it is.
    fn remove(&mut self, how: Removal);
}

/// The kernel's side of the device is gone, taken away by somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the device was taken away")]
pub struct Ended;

#[derive(Debug, thiserror::Error)]
pub enum FrontendError {
    #[error(
        "no {path}: the kernel module is missing or the device is not passed into this container"
    )]
    NoKernelSupport { path: &'static str },
    #[error("the name {name:?} cannot be used in a path")]
    BadName { name: String },
    #[error("cannot make the folder {path} to mount on")]
    Folder {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot mount the device file at {path}")]
    Mount {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot start a thread for the device")]
    Thread { source: std::io::Error },
    #[error("cannot set up a loop device, step {step}")]
    Loop {
        step: &'static str,
        source: std::io::Error,
    },
    #[error("ublk: cannot {step}")]
    Ublk {
        step: &'static str,
        source: std::io::Error,
    },
    #[error("the loop device was not set up within {seconds} s")]
    Slow { seconds: u64 },
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
}

/// Runs what takes longer beside the data thread.
fn beside(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), FrontendError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map(drop)
        .map_err(|source| FrontendError::Thread { source })
}
