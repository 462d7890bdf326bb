//! The witness as a directory: for one machine and for tests.
//!
//! Every object is a folder with a numbered file per version; the highest number is the object.
//! A swap of version n writes a file aside, flushes it, and links it as n+1: the link fails if
//! somebody else was there first, so exactly one of two swaps of one version wins, between any
//! processes and without a lock that a stopped or killed process could leave behind. After a kill
//! at any instant the object is the old or the new version, whole, plus at most one file aside.
//!
//! ```text
//! <dir>/<pair>/registers/<id>/00000000000000000007   the object
//!                             00000000000000000006   the one before
//!                             .aside-<pid>-<n>       a write that never ended
//! ```
//!
//! The last [`KEPT`] versions stay, so that a swap that was held up between its read and its link
//! meets its own number taken. Should even more have gone by, it finds a higher number after its
//! link and answers *unknown*, and readers never look at its file.
//! A file starts with a line that holds length and CRC32C: a torn one is found and never used, and
//! never is the version before it taken instead.
//! Invariants: what was read was flushed to disk first, so that nothing seen is ever unseen.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::store::{
    Care, Condition, ObjectName, Pending, Store, StoreError, Version, Versioned, Written,
};

/// Versions of an object that stay beside the newest.
const KEPT: u64 = 64;
/// A file aside that is older belongs to a process that died.
const ASIDE_LIFE: Duration = Duration::from_secs(600);
/// How often a read starts again because the version it found was cleared away.
const MAX_READS: u32 = 16;
/// Requests to one directory that may be under way at once.
const MAX_REQUESTS: usize = 32;
/// Name and layout version at the head of every file.
const MAGIC: &str = "twinsite-witness-1";

static NEXT_ASIDE: AtomicU64 = AtomicU64::new(0);

/// A store in a directory.
#[derive(Clone, Debug)]
pub struct Directory {
    root: PathBuf,
    /// Requests under way. One on a file system that hangs cannot be taken back; without a bound each retry would hold one
    /// more thread of the runtime, until nothing else could be done there.
    slots: Arc<Semaphore>,
}

/// Why a directory cannot be a witness.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error(
        "the witness directory {path} is not there: create it, or mount the disk it should be on"
    )]
    Missing { path: PathBuf },
    #[error("the witness directory {path} must be an absolute path")]
    Relative { path: PathBuf },
    #[error("the witness directory {path} cannot be used")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Directory {
    /// A directory that need not be there now: while it is not, the witness is unreachable.
    pub fn at(root: &Path) -> Result<Self, DirectoryError> {
        let path = root.to_owned();
        if !root.is_absolute() {
            return Err(DirectoryError::Relative { path });
        }
        Ok(Self::new(path))
    }

    fn new(root: PathBuf) -> Self {
        let slots = Arc::new(Semaphore::new(MAX_REQUESTS));
        Self { root, slots }
    }

    /// Runs a request on a thread that may wait; not before there is a slot for it.
    async fn run<T: Send + 'static>(
        &self,
        request: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        let slot = slot.map_err(|error| error.to_string())?;
        let done = spawn_blocking(move || {
            let done = request();
            drop(slot);
            done
        });
        done.await.map_err(|error| error.to_string())
    }

    /// A directory that exists: one that does not may be a disk that is not mounted.
    pub fn open(root: &Path) -> Result<Self, DirectoryError> {
        let path = root.to_owned();
        if !root.is_absolute() {
            return Err(DirectoryError::Relative { path });
        }
        match fs::metadata(root) {
            Ok(meta) if meta.is_dir() => Ok(Self::new(path)),
            Ok(_) => Err(DirectoryError::Io {
                path,
                source: io::ErrorKind::NotADirectory.into(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(DirectoryError::Missing { path })
            }
            Err(source) => Err(DirectoryError::Io { path, source }),
        }
    }

    fn cell(&self, name: &ObjectName) -> Cell {
        Cell {
            root: self.root.clone(),
            path: self.root.join(name.as_str()),
        }
    }
}

impl Store for Directory {
    fn read<'a>(
        &'a self,
        name: &'a ObjectName,
        care: Care,
    ) -> Pending<'a, Result<Option<Versioned>, StoreError>> {
        let cell = self.cell(name);
        Box::pin(async move {
            match self.run(move || cell.read(care)).await {
                Ok(Ok(found)) => Ok(found.map(|(number, bytes)| Versioned {
                    bytes,
                    version: version(number),
                })),
                Ok(Err(ReadFailed::Io(error))) => Err(StoreError::Unreachable(error.to_string())),
                Ok(Err(ReadFailed::Torn(what))) => Err(StoreError::Corrupt {
                    name: name.to_string(),
                    what,
                }),
                Err(error) => Err(StoreError::Unreachable(error)),
            }
        })
    }

    fn write<'a>(
        &'a self,
        name: &'a ObjectName,
        bytes: Bytes,
        condition: Condition,
        care: Care,
    ) -> Pending<'a, Written> {
        let cell = self.cell(name);
        Box::pin(async move {
            let write = move || cell.write(&bytes, &condition, care);
            match self.run(write).await {
                Ok(Ok(written)) => written,
                Ok(Err(error)) => Written::Unknown(error.to_string()),
                Err(error) => Written::Unknown(error),
            }
        })
    }

    fn remove<'a>(&'a self, name: &'a ObjectName) -> Pending<'a, ()> {
        let path = self.root.join(name.as_str());
        Box::pin(async move {
            // Nobody reads a probe's objects; what stays is only untidy.
            let _removed = self.run(move || fs::remove_dir_all(path)).await;
        })
    }

    fn place(&self) -> String {
        self.root.display().to_string()
    }
}

/// One object.
struct Cell {
    root: PathBuf,
    path: PathBuf,
}

enum ReadFailed {
    Io(io::Error),
    Torn(String),
}

impl From<io::Error> for ReadFailed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Cell {
    fn read(&self, care: Care) -> Result<Option<(u64, Bytes)>, ReadFailed> {
        for _ in 0..MAX_READS {
            let Some(number) = self.newest()? else {
                // A witness disk that is not mounted is not a witness without the object.
                self.must_be_there()?;
                return Ok(None);
            };
            let bytes = match fs::read(self.path.join(file_name(number))) {
                Ok(bytes) => bytes,
                // Cleared away since it was listed, so there are newer ones.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            if care == Care::Durable {
                // The writer may have died between its link and this flush.
                File::open(&self.path)?.sync_all()?;
            }
            let payload = unwrap(&bytes)
                .map_err(|what| ReadFailed::Torn(format!("version {number}: {what}")))?;
            return Ok(Some((number, Bytes::copy_from_slice(payload))));
        }
        Err(io::Error::other("others keep writing the object").into())
    }

    fn write(&self, bytes: &[u8], condition: &Condition, care: Care) -> io::Result<Written> {
        self.must_be_there()?;
        let newest = self.newest()?;
        let number = match (condition, newest) {
            (Condition::Absent, None) => 1,
            (Condition::Any, newest) => newest.map_or(1, |number| number + 1),
            (Condition::Unchanged(at), Some(number)) if *at == version(number) => number + 1,
            (Condition::Absent | Condition::Unchanged(_), _) => return Ok(Written::Refused),
        };
        self.make_folder(care)?;
        let aside = Aside::write(&self.path, bytes, care)?;
        match fs::hard_link(&aside.path, self.path.join(file_name(number))) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Without a condition the other one came last, which is as good.
                return Ok(if *condition == Condition::Any {
                    Written::Done
                } else {
                    Written::Refused
                });
            }
            Err(error) => return Err(error),
        }
        if care == Care::Durable {
            File::open(&self.path)?.sync_all()?;
        }
        let newest = self.newest()?;
        self.clear_old(newest.unwrap_or(number));
        if newest == Some(number) || *condition == Condition::Any {
            return Ok(Written::Done);
        }
        Ok(Written::Unknown("overtaken by a later version".to_owned()))
    }

    fn must_be_there(&self) -> io::Result<()> {
        if fs::exists(&self.root)? {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the witness directory is gone",
        ))
    }

    /// The highest number in the folder.
    fn newest(&self) -> io::Result<Option<u64>> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut newest = None;
        for entry in entries {
            newest = newest.max(number_of(&entry?.file_name()));
        }
        Ok(newest)
    }

    fn make_folder(&self, care: Care) -> io::Result<()> {
        if fs::exists(&self.path)? {
            return Ok(());
        }
        fs::create_dir_all(&self.path)?;
        if care == Care::Durable {
            for folder in self
                .path
                .ancestors()
                .skip(1)
                .take_while(|folder| folder.starts_with(&self.root))
            {
                File::open(folder)?.sync_all()?;
            }
        }
        Ok(())
    }

    /// Clears old versions and files of dead processes away, as far as that works.
    fn clear_old(&self, newest: u64) {
        let Ok(entries) = fs::read_dir(&self.path) else {
            return;
        };
        for entry in entries.flatten() {
            let dead = match number_of(&entry.file_name()) {
                Some(number) => number + KEPT < newest,
                None => {
                    let modified = entry.metadata().and_then(|meta| meta.modified());
                    modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > ASIDE_LIFE))
                }
            };
            if dead {
                let _untidy = fs::remove_file(entry.path());
            }
        }
    }
}

/// A whole, flushed file under a name that nobody reads; goes when dropped.
struct Aside {
    path: PathBuf,
}

impl Aside {
    fn write(folder: &Path, payload: &[u8], care: Care) -> io::Result<Self> {
        let serial = NEXT_ASIDE.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!(".aside-{}-{serial}", std::process::id()));
        // Left by a dead process that had the same id.
        let _absent = fs::remove_file(&path);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)?;
        let aside = Self { path };
        file.write_all(&wrap(payload))?;
        if care == Care::Durable {
            file.sync_all()?;
        }
        Ok(aside)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        let _untidy = fs::remove_file(&self.path);
    }
}

fn version(number: u64) -> Version {
    Version(number.to_string())
}

fn file_name(number: u64) -> String {
    format!("{number:020}")
}

fn number_of(name: &OsStr) -> Option<u64> {
    let name = name.to_str()?;
    (name.len() == 20 && name.bytes().all(|b| b.is_ascii_digit())).then(|| name.parse().ok())?
}

fn wrap(payload: &[u8]) -> Vec<u8> {
    let mut file = format!(
        "{MAGIC} {} {:08x}\n",
        payload.len(),
        crc32c::crc32c(payload)
    )
    .into_bytes();
    file.extend_from_slice(payload);
    file
}

fn unwrap(file: &[u8]) -> Result<&[u8], String> {
    let end = file
        .iter()
        .position(|b| *b == b'\n')
        .ok_or("no first line")?;
    let (head, payload) = (&file[..end], &file[end + 1..]);
    let head = std::str::from_utf8(head).map_err(|_| "no first line")?;
    let mut words = head.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(format!("it does not start with {MAGIC}"));
    }
    let length: Option<usize> = words.next().and_then(|word| word.parse().ok());
    if length != Some(payload.len()) {
        return Err("its length is wrong".to_owned());
    }
    let crc = words
        .next()
        .and_then(|word| u32::from_str_radix(word, 16).ok());
    if crc != Some(crc32c::crc32c(payload)) {
        return Err("its checksum is wrong".to_owned());
    }
    Ok(payload)
}
