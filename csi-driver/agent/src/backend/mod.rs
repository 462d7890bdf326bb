//! What stands behind a logical unit: a file in a pool directory, any file, or a block device.
//!
//! **Write cache.** Reads and writes go through the page cache (WCE=1): a plain write is complete when the kernel has it, a
//! FUA write and SYNCHRONIZE CACHE when the medium has it (`fdatasync`, shared by those that wait: `syncs`).
//!
//! **Boot id.** It tells an initiator that completed writes without a flush may be gone. What the kernel has, a killed agent
//! does not lose; only the end of that kernel does. So the boot id is derived from the kernel's own boot id and the identity of
//! the store, and an agent that restarts on the same machine keeps it: no needless resync after an agent update. Two losses
//! are not seen by this and are seen otherwise: a write-back error is reported by the next `fdatasync` (the unit then fails
//! the SYNCHRONIZE CACHE), and a device that went away fails every command on descriptors that were open.
//!
//! **One owner.** A store is locked (`flock`) on the very descriptor that its I/O uses. The lock goes when the last operation
//! under way lets go of that descriptor, not when the process dies: while a write of a killed agent can still reach the file, its
//! successor does not get it. Without that, PREEMPT AND ABORT at the successor would fence nothing.
//!
//! Not here: what a command means (`twinsite_iscsi::scsi`); which legs exist (the objects of this node).

mod backing;
#[cfg(feature = "test-hooks")]
pub mod faults;
mod grain;
mod intent;
mod pace;
mod pool;
mod reservations;
mod store;
mod syncs;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

pub use backing::{Access, Backing};
pub use pool::{Capacity, Pool};
pub use store::{Store, StoreResult};

/// Why a pool or a store can not be used.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error("{0} has no pool marker: not mounted, or never made a pool")]
    NoMarker(PathBuf),
    #[error("the pool marker of {0} is damaged")]
    BadMarker(PathBuf),
    #[error("{0} is a pool already")]
    PoolExists(PathBuf),
    #[error("{0:?} can not be the name of a leg")]
    Name(String),
    #[error("leg {0} exists already")]
    LegExists(String),
    #[error("there is no leg {0}")]
    NoLeg(String),
    #[error("{path} has {found} bytes where {wanted} are wanted")]
    Size {
        path: PathBuf,
        found: u64,
        wanted: u64,
    },
    #[error("{0} is served by another process, or one of its writes has not ended")]
    Locked(PathBuf),
    #[error("{0} is neither a file nor a block device")]
    Kind(PathBuf),
    #[error("can not {what} {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl BackendError {
    fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}

/// The boot id of a store whose volatile state is the page cache: see the module header. Never 0, which means "unknown".
fn boot_id(kernel: &str, store: &str) -> u64 {
    // FNV-1a: the value must be the same for every build of the agent, which std's hasher does not promise.
    let hash = kernel
        .trim()
        .bytes()
        .chain([0])
        .chain(store.bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    hash.max(1)
}
