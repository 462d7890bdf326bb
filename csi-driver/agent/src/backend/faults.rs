//! Faults on purpose, in front of a store: slow, full, broken, hanging, lying about FUA, losing its cache.
//!
//! Compiled with the feature `test-hooks` only. A volatile cache holds completed writes in the memory of this process until a
//! flush or FUA write: killing the process is then the power cut of the device, so such a store has a random boot id per start
//! (`Backing::with_volatile_cache`).
//! Not here: how a test reaches it (`target::ServerHandle::set_faults`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use bytes::Bytes;
use twinsite_iscsi::scsi::{StoreError, StoreOp, StoreReply};

use super::pace::bytes_of;
use super::store::StoreResult;
use crate::reactor::{Context, Descriptor, Token};

/// The unit of the volatile cache.
const BLOCK: u64 = 512;

/// What is wrong with a store. The default is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// Every operation takes this much longer.
    pub service_time: Duration,
    pub ranges: Vec<FaultRange>,
    /// FUA writes are treated as plain ones.
    pub ignore_fua: bool,
    /// Flushes do nothing and say that they did.
    pub ignore_flush: bool,
}

/// A part of the store that fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultRange {
    pub offset: u64,
    pub len: u64,
    pub on: FaultOn,
    pub effect: Effect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultOn {
    Reads,
    /// Writes, discards, zeroes.
    Changes,
    Flushes,
    Everything,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Fail(StoreError),
    /// No answer until the faults are set anew.
    Hang,
}

pub(super) enum Admission {
    Go(StoreOp),
    Answer(StoreResult),
    Held,
}

/// The faults of one store and the operations they hold back.
#[derive(Debug, Default)]
pub struct FaultLayer {
    faults: Faults,
    delayed: BTreeMap<Token, StoreOp>,
    hung: BTreeMap<Token, StoreOp>,
    cache: Option<Cache>,
    patches: BTreeMap<Token, u64>,
}

/// Completed writes that the device has not got.
#[derive(Debug)]
struct Cache {
    file: File,
    blocks: BTreeMap<u64, Bytes>,
}

impl FaultLayer {
    /// Replaces the faults; what hung is looked at again under the new ones.
    pub fn set(&mut self, cx: &mut Context<'_>, faults: Faults) {
        self.faults = faults;
        for (token, op) in std::mem::take(&mut self.hung) {
            self.delayed.insert(token, op);
            cx.alarm(cx.now(), token);
        }
    }

    pub(super) fn make_volatile(&mut self, data: &Descriptor) -> io::Result<()> {
        let file = File::from(data.as_fd().try_clone_to_owned()?);
        self.cache = Some(Cache {
            file,
            blocks: BTreeMap::new(),
        });
        Ok(())
    }

    pub(super) fn admit(&mut self, cx: &mut Context<'_>, token: Token, op: StoreOp) -> Admission {
        let due = cx.now() + self.faults.service_time;
        if due > cx.now() {
            self.delayed.insert(token, op);
            cx.alarm(due, token);
            return Admission::Held;
        }
        self.judge(token, op)
    }

    /// The time of a delayed operation has come.
    pub(super) fn release(&mut self, token: Token) -> Admission {
        match self.delayed.remove(&token) {
            Some(op) => self.judge(token, op),
            None => Admission::Held,
        }
    }

    fn judge(&mut self, token: Token, op: StoreOp) -> Admission {
        let (offset, len) = extent_of(&op);
        let hit = self.faults.ranges.iter().find(|range| {
            range.on.covers(&op) && offset < range.offset + range.len && range.offset < offset + len
        });
        match hit.map(|range| range.effect) {
            Some(Effect::Fail(error)) => return Admission::Answer(Err(error)),
            Some(Effect::Hang) => {
                self.hung.insert(token, op);
                return Admission::Held;
            }
            None => {}
        }
        if self.faults.ignore_flush && op == StoreOp::Flush {
            return Admission::Answer(Ok(StoreReply::Done));
        }
        let op = match op {
            StoreOp::Write { offset, data, fua } => StoreOp::Write {
                offset,
                data,
                fua: fua && !self.faults.ignore_fua,
            },
            other => other,
        };
        match &mut self.cache {
            None => Admission::Go(op),
            Some(cache) => cache.pass(token, op, &mut self.patches),
        }
    }

    /// Lays what only the volatile cache has over data read from the store.
    pub(super) fn finish(&mut self, token: Token, result: StoreResult) -> StoreResult {
        let Some(offset) = self.patches.remove(&token) else {
            return result;
        };
        match (result, &self.cache) {
            (Ok(StoreReply::Data(pieces)), Some(cache)) => {
                let mut bytes = pieces.concat();
                cache.patch(offset, &mut bytes);
                Ok(StoreReply::Data(vec![bytes.into()]))
            }
            (result, _) => result,
        }
    }
}

impl Cache {
    fn pass(&mut self, token: Token, op: StoreOp, patches: &mut BTreeMap<Token, u64>) -> Admission {
        match op {
            StoreOp::Read { offset, .. } => {
                patches.insert(token, offset);
                Admission::Go(op)
            }
            StoreOp::Write {
                offset,
                data,
                fua: false,
            } => {
                let whole = Bytes::from(data.concat());
                for at in (0..whole.len()).step_by(BLOCK as usize) {
                    let end = whole.len().min(at + BLOCK as usize);
                    self.blocks.insert(offset + at as u64, whole.slice(at..end));
                }
                Admission::Answer(Ok(StoreReply::Done))
            }
            StoreOp::Write {
                offset,
                ref data,
                fua: true,
            } => {
                let len = data.iter().map(|piece| piece.len() as u64).sum::<u64>();
                self.forget(offset, len);
                Admission::Go(op)
            }
            StoreOp::Discard { offset, len } | StoreOp::WriteZeros { offset, len, .. } => {
                self.forget(offset, len);
                Admission::Go(op)
            }
            StoreOp::WriteAtomic { offset, ref data } => {
                let len = data.iter().map(|piece| piece.len() as u64).sum::<u64>();
                self.forget(offset, len);
                Admission::Go(op)
            }
            StoreOp::Flush => match self.destage() {
                Ok(()) => Admission::Go(op),
                Err(_) => Admission::Answer(Err(StoreError::Medium)),
            },
            StoreOp::Map { .. } | StoreOp::SavePr(_) => Admission::Go(op),
        }
    }

    fn forget(&mut self, offset: u64, len: u64) {
        let gone: Vec<u64> = self
            .blocks
            .range(offset..offset + len)
            .map(|(at, _)| *at)
            .collect();
        for at in gone {
            self.blocks.remove(&at);
        }
    }

    fn destage(&mut self) -> io::Result<()> {
        for (at, block) in std::mem::take(&mut self.blocks) {
            self.file.write_all_at(&block, at)?;
        }
        Ok(())
    }

    fn patch(&self, offset: u64, bytes: &mut [u8]) {
        for (at, block) in self.blocks.range(offset..offset + bytes.len() as u64) {
            let from = (at - offset) as usize;
            let len = block.len().min(bytes.len() - from);
            bytes[from..from + len].copy_from_slice(&block[..len]);
        }
    }
}

impl FaultOn {
    fn covers(self, op: &StoreOp) -> bool {
        match self {
            Self::Everything => true,
            Self::Reads => matches!(op, StoreOp::Read { .. }),
            Self::Flushes => matches!(op, StoreOp::Flush),
            Self::Changes => matches!(
                op,
                StoreOp::Write { .. }
                    | StoreOp::WriteAtomic { .. }
                    | StoreOp::Discard { .. }
                    | StoreOp::WriteZeros { .. }
            ),
        }
    }
}

/// Where an operation works; a flush and the like work everywhere.
fn extent_of(op: &StoreOp) -> (u64, u64) {
    match op {
        StoreOp::Read { offset, len }
        | StoreOp::Discard { offset, len }
        | StoreOp::WriteZeros { offset, len, .. }
        | StoreOp::Map { offset, len } => (*offset, *len),
        StoreOp::Write { offset, .. } | StoreOp::WriteAtomic { offset, .. } => {
            (*offset, bytes_of(op))
        }
        StoreOp::Flush | StoreOp::SavePr(_) => (0, u64::MAX),
    }
}
