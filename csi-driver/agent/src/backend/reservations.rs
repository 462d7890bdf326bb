//! Saves reservation state so that a crash leaves the old state or the new one, and no answer before the new one is durable.
//!
//! Two files take turns: the spare one is written and synced, then they exchange names. The room of both is taken when the leg
//! is made, and neither is ever cut short, so that a fence can be recorded on a disk that has become full.
#![allow(unsafe_code, reason = "fallocate has no safe form in std")]

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::BackendError;
use crate::reactor::{Context, Descriptor, Durability, Event, Open, Token};

/// What both files hold room for: the largest state is 128 ports with names of 223 bytes.
const ROOM: u64 = 64 << 10;
/// Before the state: these bytes and its length, since the file may be longer.
const MAGIC: [u8; 12] = *b"twinsite pr1";
const HEAD: usize = MAGIC.len() + 4;

/// Saves that may wait for the one under way; a unit has one or two.
const WAITING_SAVES: usize = 64;

/// Where a save is: each step begins when the one before has succeeded.
#[derive(Debug)]
enum Step {
    OpenFile,
    Write(Descriptor),
    SyncFile,
    Exchange,
    Rename,
    OpenDirectory,
    SyncDirectory,
}

#[derive(Debug)]
pub(super) struct Reservations {
    target: CString,
    fresh: CString,
    directory: CString,
    current: Option<(Token, Step)>,
    waiting: VecDeque<(Token, Bytes)>,
    state: Bytes,
}

impl Reservations {
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let fresh = spare(path);
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        Ok(Self {
            target: CString::new(path.as_os_str().as_bytes())?,
            fresh: CString::new(fresh.as_os_str().as_bytes())?,
            directory: CString::new(directory.as_os_str().as_bytes())?,
            current: None,
            waiting: VecDeque::new(),
            state: Bytes::new(),
        })
    }

    /// `false`: too many saves wait.
    pub(super) fn save(&mut self, cx: &mut Context<'_>, token: Token, state: Bytes) -> bool {
        if self.waiting.len() >= WAITING_SAVES {
            return false;
        }
        self.waiting.push_back((token, state));
        if self.current.is_none() {
            self.begin(cx);
        }
        true
    }

    pub(super) fn is_current(&self, token: Token) -> bool {
        self.current
            .as_ref()
            .is_some_and(|(current, _)| *current == token)
    }

    /// The result of the step under way; gives the result of the save when that was the last one.
    pub(super) fn handle(&mut self, cx: &mut Context<'_>, event: Event) -> Option<io::Result<()>> {
        let (token, step) = self.current.take()?;
        match self.next(cx, token, step, event) {
            Ok(Some(step)) => {
                self.current = Some((token, step));
                None
            }
            Ok(None) => {
                self.begin(cx);
                Some(Ok(()))
            }
            Err(error) => {
                self.begin(cx);
                Some(Err(error))
            }
        }
    }

    fn next(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        step: Step,
        event: Event,
    ) -> io::Result<Option<Step>> {
        let next = match (step, event) {
            (Step::OpenFile, Event::Opened(file)) => {
                let file = file?;
                let pieces = vec![head(self.state.len()), self.state.clone()];
                cx.write(&file, 0, pieces, Durability::Cached, token);
                Step::Write(file)
            }
            (Step::Write(file), Event::Written(result)) => {
                result?;
                cx.sync_names(&file, token);
                Step::SyncFile
            }
            (Step::SyncFile, Event::Done(result)) => {
                result?;
                cx.exchange(self.fresh.clone(), self.target.clone(), token);
                Step::Exchange
            }
            // The first save, or a file system that does not know how: the room is taken anew with each save then.
            (Step::Exchange, Event::Done(Err(error)))
                if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) =>
            {
                cx.rename(self.fresh.clone(), self.target.clone(), token);
                Step::Rename
            }
            (Step::Exchange | Step::Rename, Event::Done(result)) => {
                result?;
                cx.open(self.directory.clone(), Open::Directory, token);
                Step::OpenDirectory
            }
            (Step::OpenDirectory, Event::Opened(directory)) => {
                cx.sync_names(&directory?, token);
                Step::SyncDirectory
            }
            (Step::SyncDirectory, Event::Done(result)) => {
                result?;
                return Ok(None);
            }
            (step, event) => unreachable!("{event:?} is no answer to {step:?}"),
        };
        Ok(Some(next))
    }

    fn begin(&mut self, cx: &mut Context<'_>) {
        if let Some((token, state)) = self.waiting.pop_front() {
            self.state = state;
            cx.open(self.fresh.clone(), Open::Write, token);
            self.current = Some((token, Step::OpenFile));
        }
    }
}

/// The other file of the pair.
pub(super) fn spare(path: &Path) -> PathBuf {
    let mut spare = path.as_os_str().to_owned();
    spare.push(".new");
    spare.into()
}

/// Makes both files, if they are not there, and takes their room.
pub(super) fn take_room(path: &Path) -> Result<(), BackendError> {
    for path in [path, &spare(path)] {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(BackendError::io("make", path))?;
        let room = libc::off_t::try_from(ROOM).unwrap_or_default();
        // SAFETY: no pointers; the descriptor is open.
        let rc = unsafe { libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, 0, room) };
        if rc != 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EOPNOTSUPP) {
                return Err(BackendError::io("take room for", path)(error));
            }
        }
        file.sync_all().map_err(BackendError::io("sync", path))?;
    }
    Ok(())
}

fn head(length: usize) -> Bytes {
    let length = u32::try_from(length).expect("a state has a bound");
    [&MAGIC[..], &length.to_be_bytes()].concat().into()
}

/// The state in a file; one without a head was written before there was any.
pub(super) fn state_in(mut bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    let Some(length) = bytes.strip_prefix(&MAGIC).map(|rest| rest.first_chunk()) else {
        return Ok(bytes);
    };
    let length = length.map_or(usize::MAX, |length| u32::from_be_bytes(*length) as usize);
    if bytes.len() < HEAD || length > bytes.len() - HEAD {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.drain(..HEAD);
    bytes.truncate(length);
    Ok(bytes)
}
