//! Block front ends: what shows a volume to this machine as a block device.
//!
//! A front end turns what the kernel asks of the device into [`GuestRequest`]s and carries the answers back. It has
//! a thread of its own only where the kernel's interface needs one; what it has to say goes through the [`Events`]
//! it was given, which the owner of the volume points at its inbox. Answers are given from the owner's thread and
//! never block.
//!
//! Invariants: every request is answered at most once by [`Frontend::complete`]; the bytes of a write are a private
//! copy that nobody changes any more; nothing here keeps a page cache below the file system.
//! Not here: what an answer means (the mirror engine), who decides that a device is shown (`volume`).

mod apart;
pub mod fuse;
mod fuse_loop;
mod leftovers;
mod loop_device;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

pub use fuse_loop::FuseLoop;
pub use leftovers::{Cleared, clear_leftovers};

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

/// What a front end tells the owner of the volume.
#[derive(Debug)]
pub enum FrontendEvent {
    Request(GuestRequest),
    /// The device is there and answers; `path` is its block device node.
    Shown {
        path: PathBuf,
    },
    ShowFailed(FrontendError),
    Resized {
        size: u64,
    },
    ResizeFailed(FrontendError),
    /// The kernel's side went away: removed by us, or by somebody else behind our back.
    Gone,
}

/// Where a front end puts its events; called from its threads, must not block.
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
    /// Answers one request. An id that is not open any more is ignored.
    fn complete(&mut self, id: GuestId, result: Result<GuestReply, GuestErrno>);
    /// Announces a larger size; the outcome comes as an event.
    fn resize(&mut self, size: u64);
    /// Takes the device down in the background; `Gone` comes when it is.
    fn remove(&mut self, how: Removal);
}

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
    #[error("the loop device was not set up within {seconds} s")]
    Slow { seconds: u64 },
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
}
