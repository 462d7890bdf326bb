//! Saves reservation state so that a crash leaves the old state or the new one, and no answer before the new one is durable.

use std::collections::VecDeque;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::reactor::{Context, Descriptor, Durability, Event, Open, Token};

/// Saves that may wait for the one under way; a unit has one or two.
const WAITING_SAVES: usize = 64;

/// Where a save is: each step begins when the one before has succeeded.
#[derive(Debug)]
enum Step {
    OpenFile,
    Write(Descriptor),
    SyncFile,
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
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        Ok(Self {
            target: CString::new(path.as_os_str().as_bytes())?,
            fresh: CString::new(fresh.as_bytes())?,
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
                cx.write(
                    &file,
                    0,
                    vec![self.state.clone()],
                    Durability::Cached,
                    token,
                );
                Step::Write(file)
            }
            (Step::Write(file), Event::Written(result)) => {
                result?;
                cx.sync_names(&file, token);
                Step::SyncFile
            }
            (Step::SyncFile, Event::Done(result)) => {
                result?;
                cx.rename(self.fresh.clone(), self.target.clone(), token);
                Step::Rename
            }
            (Step::Rename, Event::Done(result)) => {
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
            cx.open(self.fresh.clone(), Open::Truncate, token);
            self.current = Some((token, Step::OpenFile));
        }
    }
}
