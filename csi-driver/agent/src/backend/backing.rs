//! An opened and locked file or block device with what is known about it; goes to the thread that will serve it.
#![allow(
    unsafe_code,
    reason = "sizes of devices and kinds of file systems have no safe form in std"
)]

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{BackendError, boot_id, intent, reservations};
use crate::reactor::{Descriptor, boottime};

const BLKGETSIZE64: libc::Ioctl = 0x8008_1272u32 as libc::Ioctl;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    ReadWrite,
    ReadOnly,
}

/// What a transfer may have to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Medium {
    /// A device, unless the page cache has it.
    Device,
    /// Nothing: the file is in memory.
    Memory,
}

impl Medium {
    /// Most bytes of one write into the page cache. Linux keeps what was written at once as one piece (a folio of up to 2 MiB), and
    /// every small write into it, and every write-back, goes over all blocks of the piece: after writes of 1 MiB a stable write of
    /// 4 KiB costs three times the CPU. Large writes want them large, but gain little from this size on. In memory there are no blocks.
    pub(super) const fn write_piece(self) -> usize {
        match self {
            Self::Device => 32 << 10,
            Self::Memory => usize::MAX,
        }
    }
}

/// A store that is ready to be served.
#[derive(Debug)]
pub struct Backing {
    pub(super) data: Descriptor,
    pub(super) path: PathBuf,
    pub(super) size: u64,
    /// Where reservations are kept; `None`: they do not outlive this process.
    pub(super) reservations: Option<PathBuf>,
    pub(super) boot_id: u64,
    pub(super) access: Access,
    pub(super) medium: Medium,
    #[cfg(feature = "test-hooks")]
    pub(super) volatile: bool,
}

impl Backing {
    /// Opens any file or block device. A regular file is made, or grown, when `size` is given and it is smaller.
    /// Reservations of a file are kept beside it as `<file>.pr`.
    pub fn open(path: &Path, size: Option<u64>, access: Access) -> Result<Self, BackendError> {
        let device = std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device());
        let mut options = OpenOptions::new();
        options.read(true).write(access == Access::ReadWrite);
        if device {
            // An exclusive claim: refused while the device is mounted or claimed by another driver.
            options.custom_flags(libc::O_EXCL);
        } else if size.is_some() && access == Access::ReadWrite {
            options.create(true).mode(0o600);
        }
        let file = options.open(path).map_err(BackendError::io("open", path))?;
        lock(&file, path)?;
        let found = size_of_store(&file, path)?;
        if let Some(wanted) = size
            && !device
            && found < wanted
            && access == Access::ReadWrite
        {
            file.set_len(wanted)
                .map_err(BackendError::io("grow", path))?;
        }
        let usable = size_of_store(&file, path)?;
        if let Some(wanted) = size
            && usable < wanted
        {
            return Err(BackendError::Size {
                path: path.into(),
                found: usable,
                wanted,
            });
        }
        let reservations = (!device).then(|| {
            let mut name = path.as_os_str().to_owned();
            name.push(".pr");
            PathBuf::from(name)
        });
        if let (Some(path), Access::ReadWrite) = (&reservations, access) {
            follow_note(&file, path)?;
        }
        let medium = medium_of(&file);
        let identity = path.canonicalize().unwrap_or_else(|_| path.into());
        Ok(Self {
            data: file.into(),
            path: path.into(),
            size: size.unwrap_or(usable),
            reservations,
            boot_id: boot_id(&kernel_boot_id()?, &identity.to_string_lossy()),
            access,
            medium,
            #[cfg(feature = "test-hooks")]
            volatile: false,
        })
    }

    /// Keeps reservations in this file (for a block device, which has no place of its own).
    pub fn with_reservations(mut self, path: PathBuf) -> Result<Self, BackendError> {
        reserve_room(&path);
        if self.access == Access::ReadWrite {
            follow_note(&self.data, &path)?;
        }
        self.reservations = Some(path);
        Ok(self)
    }

    /// Whether writes can be kept whole through a crash: there is a place to write them down.
    pub fn keeps_writes_whole(&self) -> bool {
        self.reservations.is_some() && self.access == Access::ReadWrite
    }

    /// A device whose cache is lost when this process ends.
    #[cfg(feature = "test-hooks")]
    pub fn with_volatile_cache(mut self) -> Result<Self, BackendError> {
        self.volatile = true;
        self.boot_id = boot_id(&super::pool::random_id()?, "volatile");
        Ok(self)
    }

    /// What a disk that hangs would stop: `None` if there is none behind this.
    pub fn disk(&self) -> io::Result<Option<u64>> {
        if self.medium == Medium::Memory {
            return Ok(None);
        }
        let meta = File::from(self.data.as_fd().try_clone_to_owned()?).metadata()?;
        let device = meta.file_type().is_block_device();
        Ok(Some(if device { meta.rdev() } else { meta.dev() }))
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn boot_id(&self) -> u64 {
        self.boot_id
    }

    pub fn access(&self) -> Access {
        self.access
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was last saved as reservation state; empty if nothing ever was.
    pub fn saved_reservations(&self) -> Result<Vec<u8>, BackendError> {
        let Some(path) = &self.reservations else {
            return Ok(Vec::new());
        };
        match std::fs::read(path).and_then(reservations::state_in) {
            Ok(state) => Ok(state),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(BackendError::io("read", path)(error)),
        }
    }
}

/// Finishes the write that a crash cut short, if it was one that must be whole.
pub(super) fn follow_note(data: &impl AsFd, reservations: &Path) -> Result<(), BackendError> {
    let note = intent::note_of(reservations);
    let failed = BackendError::io("follow", &note);
    let owned = data.as_fd().try_clone_to_owned();
    owned
        .and_then(|file| intent::follow(&file.into(), &note))
        .map_err(failed)
}

/// For a leg that was made before its reservations had room of their own: without it they are kept as long as there is room.
pub(super) fn reserve_room(reservations: &Path) {
    if let Err(error) = reservations::take_room(reservations) {
        tracing::warn!(path = %reservations.display(), %error, "no room is set aside for reservations: a fence fails when the disk is full");
    }
}

/// The kernel lets go of a file a moment after the last operation on it was reported; that moment is waited for.
const LOCK_PATIENCE: Duration = Duration::from_millis(200);

pub(super) fn lock(file: &File, path: &Path) -> Result<(), BackendError> {
    let end = boottime() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if boottime() < end => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => return Err(BackendError::Locked(path.into())),
            Err(TryLockError::Error(source)) => {
                return Err(BackendError::io("lock", path)(source));
            }
        }
    }
}

pub(super) fn kernel_boot_id() -> Result<String, BackendError> {
    let path = "/proc/sys/kernel/random/boot_id";
    std::fs::read_to_string(path).map_err(BackendError::io("read", path))
}

pub(super) fn medium_of(file: &File) -> Medium {
    // SAFETY: `statfs` is plain old data, zeroes are valid.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is a live structure for the call to fill in.
    let rc = unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut stat) };
    if rc == 0 && stat.f_type == libc::TMPFS_MAGIC {
        Medium::Memory
    } else {
        Medium::Device
    }
}

fn size_of_store(file: &File, path: &Path) -> Result<u64, BackendError> {
    let meta = file.metadata().map_err(BackendError::io("inspect", path))?;
    if meta.is_file() {
        return Ok(meta.len());
    }
    if !meta.file_type().is_block_device() {
        return Err(BackendError::Kind(path.into()));
    }
    let mut size = 0u64;
    // SAFETY: BLKGETSIZE64 writes one u64 to the address passed, which is live.
    let rc = unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &raw mut size) };
    if rc == 0 {
        Ok(size)
    } else {
        Err(BackendError::io("size", path)(io::Error::last_os_error()))
    }
}
