//! Writes that are done whole or not at all, whatever moment the power goes.
//!
//! What is to be written is first written down, with its place, in a file of its own; then it is written where it belongs; then the
//! note is struck out. Whoever opens the store finds the note and does what it says once more: before anything is served.
//!
//! Invariants: a note that is not struck out belongs to the last write of the store, and nothing else is written while there is
//! one (the unit runs such a write alone; after a note that could not be struck out the store takes no more writes).
//! A thread of its own carries out each: these commands are rare, and three syncs long.

use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::reactor::Descriptor;

const MAGIC: [u8; 16] = *b"twinsite intent1";
/// Magic, inode of the store, offset, length, checksum of what is before it and of the data.
const HEAD: usize = 16 + 8 + 8 + 4 + 4;
const LONGEST: u32 = 16 << 20;

/// How such a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// Nothing of it will come back.
    Failed,
    /// The note could not be struck out: it will be followed when the store is opened again.
    Stuck,
}

/// One under way: readable when it has ended.
#[derive(Debug)]
pub(super) struct Running {
    outcome: Arc<OnceLock<(Outcome, Option<io::Error>)>>,
    pub(super) ended: Descriptor,
}

impl Running {
    pub(super) fn outcome(&self) -> (Outcome, Option<&io::Error>) {
        match self.outcome.get() {
            Some((outcome, error)) => (*outcome, error.as_ref()),
            // The thread is gone without a word: what it did is not known.
            None => (Outcome::Stuck, None),
        }
    }
}

/// Where the note of a store lies: beside its reservations.
pub(super) fn note_of(reservations: &Path) -> PathBuf {
    let mut name = reservations.as_os_str().to_owned();
    name.push(".intent");
    name.into()
}

pub(super) fn begin(
    data: &Descriptor,
    note: &Path,
    offset: u64,
    pieces: &[Bytes],
) -> io::Result<Running> {
    // Opened anew: a failed write-back is told once to each open file, and the store must not miss it because this one was told.
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("/proc/self/fd/{}", data.raw()))?;
    let (note, bytes) = (note.to_owned(), pieces.concat());
    let outcome = Arc::new(OnceLock::new());
    let (ended, writer): (PipeReader, _) = io::pipe()?;
    let told = outcome.clone();
    let work = move || {
        let _ = told.set(write(&file, &note, offset, &bytes));
        // The other end becomes readable.
        drop(writer);
    };
    std::thread::Builder::new()
        .name("atomic-write".into())
        .spawn(work)?;
    Ok(Running {
        outcome,
        ended: OwnedFd::from(ended).into(),
    })
}

fn write(file: &File, note: &Path, offset: u64, bytes: &[u8]) -> (Outcome, Option<io::Error>) {
    let note = match write_down(file, note, offset, bytes) {
        Ok(note) => note,
        Err(error) => return (Outcome::Failed, Some(error)),
    };
    let written = file
        .write_all_at(bytes, offset)
        .and_then(|()| file.sync_data());
    match (strike_out(&note), written) {
        (Ok(()), Ok(())) => (Outcome::Done, None),
        (Ok(()), Err(error)) => (Outcome::Failed, Some(error)),
        (Err(error), _) => (Outcome::Stuck, Some(error)),
    }
}

fn head(inode: u64, offset: u64, bytes: &[u8]) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..16].copy_from_slice(&MAGIC);
    head[16..24].copy_from_slice(&inode.to_be_bytes());
    head[24..32].copy_from_slice(&offset.to_be_bytes());
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    head[32..36].copy_from_slice(&length.to_be_bytes());
    let sum = checksum(&head[..36], bytes);
    head[36..].copy_from_slice(&sum.to_be_bytes());
    head
}

/// FNV-1a, folded: it tells a note that was cut short, not one that was forged.
fn checksum(head: &[u8], bytes: &[u8]) -> u32 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in head.iter().chain(bytes) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    (hash ^ hash >> 32) as u32
}

fn write_down(file: &File, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<File> {
    let note = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    let head = head(file.metadata()?.ino(), offset, bytes);
    let written = note
        .write_all_at(&head, 0)
        .and_then(|()| note.write_all_at(bytes, HEAD as u64))
        .and_then(|()| note.sync_all())
        .and_then(|()| match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
            _ => Ok(()),
        });
    match written {
        Ok(()) => Ok(note),
        Err(error) => {
            // Half a note says nothing; a whole one that could not be synced might.
            strike_out(&note)?;
            Err(error)
        }
    }
}

fn strike_out(note: &File) -> io::Result<()> {
    note.write_all_at(&[0; HEAD], 0)?;
    note.sync_data()
}

/// Does what the note says, if it says anything of this store.
pub(super) fn follow(file: &File, path: &Path) -> io::Result<()> {
    let mut note = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(note) => note,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut head = [0; HEAD];
    if note.read_exact(&mut head).is_err() || head[..16] != MAGIC {
        return Ok(());
    }
    let number = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().unwrap_or_default());
    let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap_or_default());
    let (inode, offset, length) = (number(16), number(24), word(32));
    let mut bytes = vec![0; length.min(LONGEST) as usize];
    let whole = length <= LONGEST && note.read_exact(&mut bytes).is_ok();
    if whole && inode == file.metadata()?.ino() && checksum(&head[..36], &bytes) == word(36) {
        tracing::warn!(note = %path.display(), offset, length, "a write that a crash had cut short is done now");
        file.write_all_at(&bytes, offset)?;
        file.sync_data()?;
    }
    strike_out(&note)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Lab {
        folder: tempfile::TempDir,
        file: File,
    }

    impl Lab {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("disk");
            std::fs::write(&path, vec![1; 65536]).expect("written");
            let file = File::options()
                .read(true)
                .write(true)
                .open(path)
                .expect("opens");
            Self { folder, file }
        }

        fn note(&self) -> PathBuf {
            self.folder.path().join("disk.pr.intent")
        }

        fn content(&self) -> Vec<u8> {
            std::fs::read(self.folder.path().join("disk")).expect("read")
        }
    }

    #[test]
    fn a_write_cut_short_is_done_when_the_store_is_opened() {
        let lab = Lab::new();
        write_down(&lab.file, &lab.note(), 4096, &[7; 8192]).expect("written down");
        // The crash left the first half.
        lab.file.write_all_at(&[7; 4096], 4096).expect("written");
        follow(&lab.file, &lab.note()).expect("followed");
        assert!(lab.content()[4096..12288].iter().all(|byte| *byte == 7));
        assert!(lab.content()[12288..].iter().all(|byte| *byte == 1));
        // Once: what is written later stays.
        lab.file.write_all_at(&[9; 8192], 4096).expect("written");
        follow(&lab.file, &lab.note()).expect("nothing to follow");
        assert!(lab.content()[4096..12288].iter().all(|byte| *byte == 9));
    }

    #[test]
    fn half_a_note_and_the_note_of_another_file_say_nothing() {
        for damage in [20u64, 36, HEAD as u64 + 5000] {
            let lab = Lab::new();
            let note = write_down(&lab.file, &lab.note(), 0, &[7; 8192]).expect("written down");
            note.write_all_at(&[0xAA], damage).expect("damaged");
            follow(&lab.file, &lab.note()).expect("looked at");
            assert_eq!(lab.content(), vec![1; 65536], "at {damage}");
        }
        let lab = Lab::new();
        write_down(&lab.file, &lab.note(), 0, &[7; 8192]).expect("written down");
        let other = lab.folder.path().join("other");
        std::fs::write(&other, vec![2; 65536]).expect("written");
        let file = File::options().write(true).open(&other).expect("opens");
        follow(&file, &lab.note()).expect("looked at");
        assert_eq!(std::fs::read(&other).expect("read"), vec![2; 65536]);
    }

    #[test]
    fn nothing_is_left_to_follow_after_a_write() {
        let lab = Lab::new();
        assert_eq!(
            write(&lab.file, &lab.note(), 0, &[7; 4096]).0,
            Outcome::Done
        );
        lab.file.write_all_at(&[8; 4096], 0).expect("written");
        follow(&lab.file, &lab.note()).expect("looked at");
        assert_eq!(lab.content()[..4096], [8; 4096]);
        // A write that fails comes back never.
        let read_only = File::open(lab.folder.path().join("disk")).expect("opens");
        assert_eq!(
            write(&read_only, &lab.note(), 0, &[7; 4096]).0,
            Outcome::Failed
        );
        follow(&lab.file, &lab.note()).expect("looked at");
        assert_eq!(lab.content()[..4096], [8; 4096]);
    }
}
