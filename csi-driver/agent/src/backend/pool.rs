//! A pool: a directory with a marker file, and legs as sparse files in it.
//!
//! ```text
//! DIR/twinsite-pool      "twinsite-pool 1" and the pool's random id: the directory is served only while it is there
//! DIR/legs/NAME.img      data of a leg, its whole size from the start
//! DIR/legs/NAME.pr       persistent reservations of the leg
//! ```
//! Invariants: a leg file has its full size from the moment it has its name (it is made under another name and linked), it is
//! never truncated, and nothing is ever made in a directory without a marker: a disk that is not mounted is not an empty pool.
#![allow(unsafe_code, reason = "free space is read by statvfs")]

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::backing::{Access, Backing, follow_note, kernel_boot_id, lock, medium_of, reserve_room};
use super::{BackendError, boot_id, intent, reservations};

const MARKER: &str = "twinsite-pool";
const LEGS: &str = "legs";
const FORMAT: &str = "twinsite-pool 1";
const LONGEST_NAME: usize = 200;
/// How often the name of a leg in the making may turn out to be another file's.
const FRESH_TRIES: u32 = 4;

/// An opened pool.
#[derive(Debug, Clone)]
pub struct Pool {
    directory: PathBuf,
    id: String,
}

/// Space of the file system that holds a pool, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    pub total: u64,
    pub free: u64,
}

impl Pool {
    /// Makes a directory a pool. Once; on purpose; never as a side effect of serving.
    pub fn init(directory: &Path) -> Result<Self, BackendError> {
        let legs = directory.join(LEGS);
        fs::create_dir_all(&legs).map_err(BackendError::io("make", &legs))?;
        let id = random_id()?;
        let marker = directory.join(MARKER);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&marker)
            .map_err(|error| match error.kind() {
                ErrorKind::AlreadyExists => BackendError::PoolExists(directory.into()),
                _ => BackendError::io("make", &marker)(error),
            })?;
        writeln!(file, "{FORMAT}\nid {id}").map_err(BackendError::io("write", &marker))?;
        file.sync_all().map_err(BackendError::io("sync", &marker))?;
        sync_directory(directory)?;
        Ok(Self {
            directory: directory.into(),
            id,
        })
    }

    /// Opens a pool; refused when the marker is missing.
    pub fn open(directory: &Path) -> Result<Self, BackendError> {
        let marker = directory.join(MARKER);
        let text = fs::read_to_string(&marker).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => {
                BackendError::NoMarker(directory.into())
            }
            _ => BackendError::io("read", &marker)(error),
        })?;
        let mut lines = text.lines();
        let id = match (
            lines.next(),
            lines.next().and_then(|line| line.strip_prefix("id ")),
        ) {
            (Some(FORMAT), Some(id)) if id.len() == 32 => id.to_owned(),
            _ => return Err(BackendError::BadMarker(directory.into())),
        };
        Ok(Self {
            directory: directory.into(),
            id,
        })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Makes the leg: a sparse file of this size. Fails if the name is taken.
    pub fn create_leg(&self, name: &str, size: u64) -> Result<(), BackendError> {
        let path = self.leg_path(name)?;
        self.check_marker()?;
        let fresh = self.fresh_path(name);
        let file = fresh_file(&fresh)?;
        file.set_len(size)
            .map_err(BackendError::io("grow", &fresh))?;
        file.sync_all().map_err(BackendError::io("sync", &fresh))?;
        // The link is what O_EXCL would be, and gives the name to a file that is whole already.
        let linked = fs::hard_link(&fresh, &path);
        fs::remove_file(&fresh).map_err(BackendError::io("remove", &fresh))?;
        linked.map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => BackendError::LegExists(name.into()),
            _ => BackendError::io("make", &path)(error),
        })?;
        let reservations = self.reservations_path(name);
        if let Err(error) = reservations::take_room(&reservations) {
            // The name is ours since the link: a leg that could not be fenced is none.
            for path in [&reservations, &reservations::spare(&reservations), &path] {
                let _ = fs::remove_file(path);
            }
            return Err(error);
        }
        sync_directory(&self.directory.join(LEGS))
    }

    /// Opens and locks a leg of exactly this size.
    pub fn open_leg(&self, name: &str, size: u64) -> Result<Backing, BackendError> {
        let (file, path) = self.open_locked(name)?;
        let found = file
            .metadata()
            .map_err(BackendError::io("inspect", &path))?
            .len();
        if found != size {
            return Err(BackendError::Size {
                path,
                found,
                wanted: size,
            });
        }
        let reservations = self.reservations_path(name);
        reserve_room(&reservations);
        follow_note(&file, &reservations)?;
        let medium = medium_of(&file);
        Ok(Backing {
            data: file.into(),
            path,
            size,
            reservations: Some(reservations),
            boot_id: boot_id(&kernel_boot_id()?, &self.id),
            access: Access::ReadWrite,
            medium,
            #[cfg(feature = "test-hooks")]
            volatile: false,
        })
    }

    /// Grows a leg, also while it is served (tell the server then); a smaller size is refused.
    pub fn grow_leg(&self, name: &str, size: u64) -> Result<(), BackendError> {
        let path = self.leg_path(name)?;
        let file = self.open_file(name, &path)?;
        let found = file
            .metadata()
            .map_err(BackendError::io("inspect", &path))?
            .len();
        if size < found {
            return Err(BackendError::Size {
                path,
                found,
                wanted: size,
            });
        }
        file.set_len(size)
            .map_err(BackendError::io("grow", &path))?;
        file.sync_all().map_err(BackendError::io("sync", &path))
    }

    /// Removes a leg that nobody serves, with its reservations. A leg that is gone already is no error.
    pub fn delete_leg(&self, name: &str) -> Result<(), BackendError> {
        match self.open_locked(name) {
            Ok((_locked, path)) => {
                fs::remove_file(&path).map_err(BackendError::io("remove", &path))?;
            }
            Err(BackendError::NoLeg(_)) => {}
            Err(error) => return Err(error),
        }
        let reservations = self.reservations_path(name);
        let spare = reservations::spare(&reservations);
        let note = intent::note_of(&reservations);
        for path in [reservations, spare, note, self.fresh_path(name)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(BackendError::io("remove", &path)(error));
                }
                _ => {}
            }
        }
        sync_directory(&self.directory.join(LEGS))
    }

    /// Names and sizes of the legs, in order of name.
    pub fn legs(&self) -> Result<Vec<(String, u64)>, BackendError> {
        self.check_marker()?;
        let folder = self.directory.join(LEGS);
        let mut legs = Vec::new();
        for entry in fs::read_dir(&folder).map_err(BackendError::io("list", &folder))? {
            let entry = entry.map_err(BackendError::io("list", &folder))?;
            let file_name = entry.file_name();
            let Some(name) = file_name
                .to_str()
                .and_then(|name| name.strip_suffix(".img"))
            else {
                continue;
            };
            let size = entry
                .metadata()
                .map_err(BackendError::io("inspect", entry.path()))?
                .len();
            legs.push((name.to_owned(), size));
        }
        legs.sort();
        Ok(legs)
    }

    pub fn capacity(&self) -> Result<Capacity, BackendError> {
        let failed = BackendError::io("measure", &self.directory);
        let path = CString::new(self.directory.as_os_str().as_bytes())
            .map_err(|_| BackendError::NoMarker(self.directory.clone()))?;
        // SAFETY: `statvfs` is plain old data, zeroes are valid.
        let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: the path is a live C string and `stat` a live structure to fill in.
        if unsafe { libc::statvfs(path.as_ptr(), &raw mut stat) } != 0 {
            return Err(failed(std::io::Error::last_os_error()));
        }
        Ok(Capacity {
            total: stat.f_blocks * stat.f_frsize,
            free: stat.f_bavail * stat.f_frsize,
        })
    }

    fn open_locked(&self, name: &str) -> Result<(File, PathBuf), BackendError> {
        let path = self.leg_path(name)?;
        let file = self.open_file(name, &path)?;
        lock(&file, &path)?;
        Ok((file, path))
    }

    fn open_file(&self, name: &str, path: &Path) -> Result<File, BackendError> {
        self.check_marker()?;
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|error| match error.kind() {
                ErrorKind::NotFound => BackendError::NoLeg(name.into()),
                _ => BackendError::io("open", path)(error),
            })
    }

    /// The disk may have been unmounted since, or another one mounted in its place.
    fn check_marker(&self) -> Result<(), BackendError> {
        if Self::open(&self.directory)?.id == self.id {
            Ok(())
        } else {
            Err(BackendError::BadMarker(self.directory.clone()))
        }
    }

    /// The name of a leg while it is made.
    fn fresh_path(&self, name: &str) -> PathBuf {
        self.directory.join(LEGS).join(format!(".{name}.new"))
    }

    fn reservations_path(&self, name: &str) -> PathBuf {
        self.directory.join(LEGS).join(format!("{name}.pr"))
    }

    fn leg_path(&self, name: &str) -> Result<PathBuf, BackendError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let fine = !name.is_empty()
            && name.len() <= LONGEST_NAME
            && !name.starts_with('.')
            && name.chars().all(plain);
        if !fine {
            return Err(BackendError::Name(name.into()));
        }
        Ok(self.directory.join(LEGS).join(format!("{name}.img")))
    }
}

/// An empty, locked file of this name. What an earlier making left under it is emptied, unless it is a finished leg already: that
/// has both names when its maker was killed between the link and the removal of the first name.
fn fresh_file(path: &Path) -> Result<File, BackendError> {
    for _ in 0..FRESH_TRIES {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(BackendError::io("make", path))?;
        lock(&file, path)?;
        let found = file.metadata().map_err(BackendError::io("inspect", path))?;
        let named = fs::metadata(path).is_ok_and(|named| named.ino() == found.ino());
        match (named, found.nlink()) {
            (true, 1) => {
                file.set_len(0).map_err(BackendError::io("make", path))?;
                return Ok(file);
            }
            (true, _) => fs::remove_file(path).map_err(BackendError::io("remove", path))?,
            // Another maker has finished in between.
            (false, _) => {}
        }
    }
    Err(BackendError::Locked(path.into()))
}

fn sync_directory(path: &Path) -> Result<(), BackendError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(BackendError::io("sync", path))
}

pub(super) fn random_id() -> Result<String, BackendError> {
    let path = "/dev/urandom";
    let mut bytes = [0; 16];
    File::open(path)
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(BackendError::io("read", path))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
