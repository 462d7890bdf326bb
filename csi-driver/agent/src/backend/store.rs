//! Store operations of one logical unit on the reactor: one call in, one result out, whatever it takes in between.
//!
//! The owner chooses a token for each operation and hands every event with such a token to [`Store::handle`], until that gives
//! the result. Plain reads and writes are one ring operation; stable writes, clearing with FUA or on a file system that can not, and
//! saving reservations are several.
#![allow(unsafe_code, reason = "holes are found by lseek")]

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use twinsite_iscsi::scsi::{Extent, StoreError, StoreOp, StoreReply};

use super::backing::{Access, Backing, Medium};
#[cfg(feature = "test-hooks")]
use super::faults::{Admission, FaultLayer};
use super::grain::Grain;
use super::intent;
use super::pace::Pace;
use super::reservations::Reservations;
use super::syncs::{Started, Syncs};
use crate::reactor::{Clear, Context, Descriptor, Durability, Event, Token, Wait, boottime};

/// Bytes of one write of zeroes where the file system can not clear a range by itself.
const ZERO_PIECE: usize = 256 << 10;
const ZERO_PIECES: usize = 16;
/// Longer reads go through the ring even if they are cached: the thread has others to serve.
const AT_ONCE: usize = 1 << 20;
/// A write into the page cache that took longer has waited for something.
const NO_WAIT: Duration = Duration::from_millis(10);
const RING_AFTER_WAIT: Duration = Duration::from_secs(10);
/// Extents of one answer to `StoreOp::Map`; an initiator asks again for the rest.
const EXTENTS: usize = 64;

static ZEROES: [u8; ZERO_PIECE] = [0; ZERO_PIECE];

pub type StoreResult = Result<StoreReply, StoreError>;

/// A clear that takes more than one operation.
#[derive(Debug)]
struct Clearing {
    offset: u64,
    end: u64,
    fua: bool,
    how: Clear,
    step: ClearStep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClearStep {
    Kernel,
    Zeroes,
    Sync,
}

/// Whether plain writes are handed to the page cache by the data thread itself: half the CPU of a trip through the ring, whose
/// worker threads Linux uses for them on most file systems. Such a write waits when the cache is full of dirty pages, and for
/// ever when the disk hangs, so it is for threads that serve nothing but targets; after one that waited, writes go through the
/// ring for a while.
#[derive(Debug)]
enum Haste {
    Never,
    After(Duration),
}

impl Haste {
    fn allows(&self, now: Duration) -> bool {
        match self {
            Self::Never => false,
            Self::After(time) => now >= *time,
        }
    }

    fn took(&mut self, time: Duration, now: Duration) {
        if let Self::After(after) = self
            && time > NO_WAIT
        {
            *after = now + RING_AFTER_WAIT;
        }
    }
}

/// The store of one logical unit; belongs to the actor that owns the unit.
#[derive(Debug)]
pub struct Store {
    data: Descriptor,
    path: PathBuf,
    access: Access,
    size: u64,
    clearing: BTreeMap<Token, Clearing>,
    reservations: Option<Reservations>,
    /// What the file system said that it can not do: making a hole, zeroing a range.
    no_holes: bool,
    no_zero_range: bool,
    /// A write-back failed. Linux tells that once and counts the pages as clean; what they held may be lost, so no flush of this
    /// open file is good any more.
    lost_writes: bool,
    syncs: Syncs,
    /// Where writes that must be whole are written down; `None`: there are none.
    note: Option<PathBuf>,
    atomic: BTreeMap<Token, intent::Running>,
    /// A note could not be struck out: what is written now would be undone by it.
    stuck: bool,
    medium: Medium,
    haste: Haste,
    /// Only where every write is stable.
    grain: Option<Grain>,
    pace: Option<Pace>,
    #[cfg(feature = "test-hooks")]
    faults: FaultLayer,
}

impl Store {
    pub fn new(backing: Backing) -> io::Result<Self> {
        let reservations = backing
            .reservations
            .as_deref()
            .map(Reservations::new)
            .transpose()?;
        #[cfg(feature = "test-hooks")]
        let faults = {
            let mut faults = FaultLayer::default();
            if backing.volatile {
                faults.make_volatile(&backing.data)?;
            }
            faults
        };
        Ok(Self {
            syncs: Syncs::new(&backing.data),
            data: backing.data,
            path: backing.path,
            access: backing.access,
            size: backing.size,
            clearing: BTreeMap::new(),
            reservations,
            no_holes: false,
            no_zero_range: false,
            lost_writes: false,
            note: backing.reservations.as_deref().map(intent::note_of),
            atomic: BTreeMap::new(),
            stuck: false,
            medium: backing.medium,
            haste: Haste::Never,
            grain: None,
            pace: None,
            #[cfg(feature = "test-hooks")]
            faults,
        })
    }

    /// The file was grown.
    pub fn set_size(&mut self, size: u64) {
        self.size = size;
    }

    /// The data thread may itself do plain writes, see [`Haste`].
    pub fn write_at_once(&mut self) {
        self.haste = Haste::After(Duration::ZERO);
    }

    /// The data thread may itself sync one stable write as long as this holds: all that is served lies on one disk.
    pub fn sync_at_once(&mut self, one_disk: Arc<AtomicBool>) {
        self.syncs.sync_at_once(one_disk);
    }

    #[cfg(test)]
    pub(crate) fn syncs_at_once(&self) -> bool {
        self.syncs.may_sync_at_once()
    }

    /// All writes of this store are stable one by one, so what it has in the page cache is kept in the size in which it is used. What
    /// somebody else wrote in large pieces comes back in that size. See [`Medium::write_piece`] and [`Grain`].
    pub fn all_is_stable(&mut self) {
        if self.medium == Medium::Device {
            self.data.forget_cached(0, 0);
            self.grain = Some(Grain::default());
        }
    }

    /// Limits the bytes read and written in a second. To be called before the first operation.
    pub fn set_rate(&mut self, bytes_per_second: Option<u64>) {
        debug_assert!(self.pace.is_none(), "operations may wait in the old one");
        self.pace = bytes_per_second.map(Pace::new);
    }

    #[cfg(feature = "test-hooks")]
    pub fn faults(&mut self) -> &mut FaultLayer {
        &mut self.faults
    }

    /// Begins an operation. Some answer at once; all others give their result by [`Self::handle`].
    pub fn submit(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        op: StoreOp,
    ) -> Option<StoreResult> {
        #[cfg(feature = "test-hooks")]
        {
            let admission = self.faults.admit(cx, token, op);
            self.admitted(cx, token, admission)
        }
        #[cfg(not(feature = "test-hooks"))]
        self.pass(cx, token, op)
    }

    /// Takes in an event of an operation; gives its result if that was the last of its events.
    pub fn handle(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        event: Event,
    ) -> Option<StoreResult> {
        let result = match event {
            Event::Alarm => self.wake(cx, token)?,
            event => self.advance(cx, token, event)?,
        };
        #[cfg(feature = "test-hooks")]
        let result = self.faults.finish(token, result);
        Some(result)
    }

    /// The time of an operation that was held back has come.
    fn wake(&mut self, cx: &mut Context<'_>, token: Token) -> Option<StoreResult> {
        match self.syncs.starts(cx, token) {
            Some(Started::Runs) => return None,
            Some(Started::Ended(result)) => return self.advance(cx, token, Event::Done(result)),
            None => {}
        }
        if let Some(result) = self.syncs.served(token) {
            return self.advance(cx, token, Event::Done(result));
        }
        if let Some(op) = self.pace.as_mut().and_then(|pace| pace.release(token)) {
            return self.begin(cx, token, op);
        }
        #[cfg(feature = "test-hooks")]
        {
            let admission = self.faults.release(token);
            self.admitted(cx, token, admission)
        }
        #[cfg(not(feature = "test-hooks"))]
        None
    }

    /// Begins an operation as soon as its turn has come.
    fn pass(&mut self, cx: &mut Context<'_>, token: Token, op: StoreOp) -> Option<StoreResult> {
        let op = match &mut self.pace {
            None => op,
            Some(pace) => pace.admit(cx, token, op)?,
        };
        self.begin(cx, token, op)
    }

    #[cfg(feature = "test-hooks")]
    fn admitted(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        admission: Admission,
    ) -> Option<StoreResult> {
        match admission {
            Admission::Go(op) => {
                let result = self.pass(cx, token, op)?;
                Some(self.faults.finish(token, result))
            }
            Admission::Answer(result) => Some(result),
            Admission::Held => None,
        }
    }

    fn begin(&mut self, cx: &mut Context<'_>, token: Token, op: StoreOp) -> Option<StoreResult> {
        match op {
            StoreOp::Read { offset, len } => {
                let Ok(len) = usize::try_from(len) else {
                    return Some(Err(StoreError::Hardware));
                };
                if len <= AT_ONCE {
                    let wait = match self.medium {
                        Medium::Device => Wait::Never,
                        Medium::Memory => Wait::Memory,
                    };
                    match self.data.read_now(offset, len, wait) {
                        Ok(None) => {}
                        Ok(Some(bytes)) => return Some(Ok(StoreReply::Data(vec![bytes]))),
                        Err(error) => return Some(Err(self.failed(&error))),
                    }
                }
                cx.read(&self.data, offset, len, token);
            }
            _ if self.access == Access::ReadOnly
                && !matches!(
                    op,
                    StoreOp::Map { .. } | StoreOp::SavePr(_) | StoreOp::Flush
                ) =>
            {
                return Some(Err(StoreError::ReadOnly));
            }
            StoreOp::Write { .. }
            | StoreOp::WriteAtomic { .. }
            | StoreOp::WriteZeros { .. }
            | StoreOp::Discard { .. }
                if self.stuck =>
            {
                return Some(Err(StoreError::Medium));
            }
            StoreOp::Flush
            | StoreOp::Write { fua: true, .. }
            | StoreOp::WriteAtomic { .. }
            | StoreOp::WriteZeros { fua: true, .. }
                if self.lost_writes =>
            {
                return Some(Err(StoreError::Medium));
            }
            StoreOp::Write { offset, data, fua } => {
                let in_memory = self.medium == Medium::Memory;
                let len: usize = data.iter().map(Bytes::len).sum();
                let grain = self.grain.as_mut();
                let small = grain.and_then(|grain| grain.write(offset, len as u64));
                if fua && !in_memory {
                    self.syncs.begin(token, offset..offset + len as u64);
                } else {
                    self.syncs.leave();
                }
                if !in_memory && !self.haste.allows(cx.now()) {
                    cx.write(&self.data, offset, data, Durability::Cached, token);
                    return None;
                }
                let started = boottime();
                if let Some(std::ops::Range { start, end }) = small {
                    self.data.forget_cached(start, end - start);
                }
                let result = self.data.write_now(offset, data, self.medium.write_piece());
                self.haste.took(boottime() - started, cx.now());
                return self.written(cx, token, &result);
            }
            StoreOp::WriteAtomic { offset, data } => {
                let Some(note) = &self.note else {
                    return Some(Err(StoreError::Unsupported));
                };
                match intent::begin(&self.data, note, offset, &data) {
                    Ok(running) => {
                        cx.readable(&running.ended, token);
                        self.atomic.insert(token, running);
                    }
                    Err(error) => return Some(Err(self.failed(&error))),
                }
            }
            StoreOp::Flush => self.syncs.flush(cx, token),
            StoreOp::Discard { offset, len } => {
                self.clear(cx, token, offset, len, false, Clear::Punch)
            }
            StoreOp::WriteZeros { offset, len, fua } => {
                self.clear(cx, token, offset, len, fua, Clear::Zero)
            }
            StoreOp::Map { offset, len } => return Some(self.map(offset, len)),
            StoreOp::SavePr(state) => match &mut self.reservations {
                // Without a place to keep them, reservations last as long as this process, as without APTPL.
                None => return Some(Ok(StoreReply::Done)),
                Some(reservations) => {
                    if !reservations.save(cx, token, state) {
                        return Some(Err(StoreError::Hardware));
                    }
                }
            },
        }
        None
    }

    fn advance(&mut self, cx: &mut Context<'_>, token: Token, event: Event) -> Option<StoreResult> {
        if let Some(reservations) = &mut self.reservations
            && reservations.is_current(token)
        {
            let result = reservations.handle(cx, event)?;
            return Some(
                result
                    .map(|()| StoreReply::Done)
                    .map_err(|error| self.failed(&error)),
            );
        }
        let event = match event {
            Event::Done(result) if self.syncs.is_running(token) => {
                self.syncs.ended(cx, token, &result);
                Event::Done(result)
            }
            event => event,
        };
        if !self.clearing.is_empty() && self.clearing.contains_key(&token) {
            return self.go_on_clearing(cx, token, event);
        }
        if let Some(running) = self.atomic.remove(&token) {
            return Some(self.atomic_ended(&running));
        }
        Some(match event {
            Event::Read(Ok(bytes)) => Ok(StoreReply::Data(vec![bytes])),
            Event::Written(result) => return self.written(cx, token, &result),
            Event::Done(Ok(())) => Ok(StoreReply::Done),
            Event::Done(Err(error)) => Err(self.flush_failed(&error)),
            Event::Read(Err(error)) => Err(self.failed(&error)),
            other => unreachable!("no store operation ends in {other:?}"),
        })
    }

    /// A write has reached the page cache, or failed; a stable one is not done yet.
    fn written(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        result: &io::Result<()>,
    ) -> Option<StoreResult> {
        let stable = self.syncs.is_writing(token);
        match result {
            Ok(()) if stable => {
                self.syncs.written(cx, token);
                None
            }
            Ok(()) => Some(Ok(StoreReply::Done)),
            Err(error) => {
                self.syncs.give_up(token);
                let failed = self.failed(error);
                // No space, no right to write: the write itself was refused, nothing older was lost by that.
                if stable && !matches!(failed, StoreError::NoSpace | StoreError::ReadOnly) {
                    return Some(Err(self.flush_failed(error)));
                }
                Some(Err(failed))
            }
        }
    }

    fn atomic_ended(&mut self, running: &intent::Running) -> StoreResult {
        let (outcome, error) = running.outcome();
        match outcome {
            intent::Outcome::Done => return Ok(StoreReply::Done),
            intent::Outcome::Failed => {}
            intent::Outcome::Stuck => {
                tracing::error!(path = %self.path.display(), "the note of a write could not be struck out: no more is written until the file is opened anew");
                self.stuck = true;
            }
        }
        Err(error.map_or(StoreError::Hardware, |error| self.failed(error)))
    }

    fn clear(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        offset: u64,
        len: u64,
        fua: bool,
        how: Clear,
    ) {
        let mut clearing = Clearing {
            offset,
            end: offset + len,
            fua,
            how,
            step: ClearStep::Kernel,
        };
        let by_writing = match how {
            Clear::Punch => self.no_holes,
            Clear::Zero => self.no_zero_range,
        };
        self.syncs.leave();
        if by_writing {
            self.write_zeroes(cx, token, &mut clearing);
        } else {
            cx.clear(&self.data, offset, len, how, token);
        }
        self.clearing.insert(token, clearing);
    }

    fn go_on_clearing(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        event: Event,
    ) -> Option<StoreResult> {
        let mut clearing = self.clearing.remove(&token)?;
        let (Event::Done(result) | Event::Written(result)) = event else {
            unreachable!("no clear ends in {event:?}");
        };
        match (clearing.step, result) {
            (ClearStep::Kernel, Err(error)) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                match clearing.how {
                    Clear::Punch => self.no_holes = true,
                    Clear::Zero => self.no_zero_range = true,
                }
                self.write_zeroes(cx, token, &mut clearing);
            }
            (ClearStep::Sync, Err(error)) => return Some(Err(self.flush_failed(&error))),
            (_, Err(error)) => return Some(Err(self.failed(&error))),
            (ClearStep::Zeroes, Ok(())) if clearing.offset < clearing.end => {
                self.write_zeroes(cx, token, &mut clearing);
            }
            (ClearStep::Kernel | ClearStep::Zeroes, Ok(())) if clearing.fua => {
                clearing.step = ClearStep::Sync;
                self.syncs.flush(cx, token);
            }
            (_, Ok(())) => return Some(Ok(StoreReply::Done)),
        }
        self.clearing.insert(token, clearing);
        None
    }

    fn write_zeroes(&mut self, cx: &mut Context<'_>, token: Token, clearing: &mut Clearing) {
        clearing.step = ClearStep::Zeroes;
        let mut pieces = Vec::new();
        let begin = clearing.offset;
        while pieces.len() < ZERO_PIECES && clearing.offset < clearing.end {
            let left = usize::try_from(clearing.end - clearing.offset).unwrap_or(ZERO_PIECE);
            let len = left.min(ZERO_PIECE);
            pieces.push(Bytes::from_static(&ZEROES[..len]));
            clearing.offset += len as u64;
        }
        cx.write(&self.data, begin, pieces, Durability::Cached, token);
    }

    /// Finds holes by `lseek`. It reads metadata only, which may block for a moment; GET LBA STATUS is rare. A file in memory has
    /// no extents: `lseek` looks at each of its pages, for seconds in a large one, so all of it counts as mapped.
    fn map(&self, offset: u64, len: u64) -> StoreResult {
        let end = (offset + len).min(self.size);
        if self.medium == Medium::Memory {
            let len = end.saturating_sub(offset);
            let mapped = true;
            let all = Extent {
                offset,
                len,
                mapped,
            };
            return Ok(StoreReply::Extents(vec![all]));
        }
        let mut extents = Vec::new();
        let mut at = offset;
        while at < end && extents.len() < EXTENTS {
            let data = self.seek(at, libc::SEEK_DATA)?.unwrap_or(end).min(end);
            if data > at {
                extents.push(Extent {
                    offset: at,
                    len: data - at,
                    mapped: false,
                });
            }
            if data >= end {
                break;
            }
            let hole = self.seek(data, libc::SEEK_HOLE)?.unwrap_or(end).min(end);
            extents.push(Extent {
                offset: data,
                len: hole - data,
                mapped: true,
            });
            at = hole;
        }
        Ok(StoreReply::Extents(extents))
    }

    /// The next place of this kind, `None` if there is none up to the end of the file.
    fn seek(&self, from: u64, whence: i32) -> Result<Option<u64>, StoreError> {
        let from = i64::try_from(from).map_err(|_| StoreError::Hardware)?;
        // SAFETY: no pointers; the file position that it moves is used by nobody.
        let at = unsafe { libc::lseek(self.data.raw(), from, whence) };
        if let Ok(at) = u64::try_from(at) {
            return Ok(Some(at));
        }
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::ENXIO) => Ok(None),
            // A block device has no map.
            Some(libc::EINVAL) => Err(StoreError::Unsupported),
            _ => Err(StoreError::Medium),
        }
    }

    /// A write-back failed: see `lost_writes`.
    fn flush_failed(&mut self, error: &io::Error) -> StoreError {
        if !self.lost_writes {
            self.lost_writes = true;
            tracing::error!(path = %self.path.display(), %error, "what was written and not flushed may be lost: every flush fails until the file is opened anew; see to the disk, then restart the agent");
        }
        self.failed(error)
    }

    fn failed(&self, error: &io::Error) -> StoreError {
        tracing::warn!(path = %self.path.display(), %error, "store operation failed");
        if error.kind() == io::ErrorKind::UnexpectedEof {
            // The file is shorter than what is served: what was there is gone.
            return StoreError::Medium;
        }
        match error.raw_os_error() {
            Some(libc::EIO | libc::EUCLEAN | libc::ENODATA | libc::EILSEQ) => StoreError::Medium,
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => StoreError::NoSpace,
            Some(libc::EROFS | libc::EPERM | libc::EBADF) => StoreError::ReadOnly,
            Some(libc::ENODEV | libc::ENXIO | libc::ESHUTDOWN | libc::ENOENT) => StoreError::Gone,
            Some(libc::EOPNOTSUPP) => StoreError::Unsupported,
            _ => StoreError::Hardware,
        }
    }
}
