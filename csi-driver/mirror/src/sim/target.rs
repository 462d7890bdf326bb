//! A leg: reservations and metadata by [`FakeLeg`], data as a version per block, behind a volatile cache.

use std::collections::BTreeMap;

use crate::digest::digests;
use crate::fake_leg::FakeLeg;
use crate::io::{BLOCK, DATA_START, LegError, LegOp, LegReply, Session};

/// Contents of blocks, by block number; absent = never written.
pub(super) type Blocks = BTreeMap<u64, u64>;

/// A command that the target has taken.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    /// Who sent it and on which connection.
    pub(super) writer: u32,
    pub(super) conn: u64,
    pub(super) initiator: u8,
    pub(super) cmd: crate::io::CmdId,
    pub(super) op: LegOp,
    /// Versions to write, for data commands.
    pub(super) payload: Blocks,
}

#[derive(Debug)]
pub(super) struct Target {
    pub(super) fake: FakeLeg,
    /// What reads see.
    pub(super) cache: Blocks,
    /// What survives a power cut.
    pub(super) durable: Blocks,
    pub(super) accepted: BTreeMap<u64, Accepted>,
    pub(super) volatile: bool,
}

const fn session(op: &LegOp) -> Session {
    match op {
        LegOp::PrRegister { session, .. } | LegOp::PrUnregister { session, .. } => *session,
        LegOp::CopyRead { .. } | LegOp::CopyWrite { .. } | LegOp::Digest { .. } => Session::Resync,
        _ => Session::Data,
    }
}

pub(super) fn blocks_of(offset: u64, len: u64) -> std::ops::Range<u64> {
    let start = (offset - DATA_START) / BLOCK as u64;
    start..start + len / BLOCK as u64
}

impl Target {
    pub(super) fn new(fake: FakeLeg, volatile: bool) -> Self {
        Self {
            fake,
            cache: Blocks::new(),
            durable: Blocks::new(),
            accepted: BTreeMap::new(),
            volatile,
        }
    }

    /// Execute a command that was accepted: the answer, and what a read saw.
    pub(super) fn execute(&mut self, accepted: &Accepted) -> (Result<LegReply, LegError>, Blocks) {
        let before = self.fake.registered.clone();
        let result = self.fake.execute(accepted.initiator, &accepted.op);
        if result.is_err() {
            return (result, Blocks::new());
        }
        let mut seen = Blocks::new();
        match &accepted.op {
            LegOp::ReadData { offset, len, .. } | LegOp::CopyRead { offset, len, .. } => {
                for block in blocks_of(*offset, u64::from(*len)) {
                    seen.insert(block, self.cache.get(&block).copied().unwrap_or(0));
                }
            }
            LegOp::Digest { offset, len, block } => {
                let version = |block| self.cache.get(&block).copied().unwrap_or(0);
                let versions: Vec<u8> = blocks_of(*offset, u64::from(*len))
                    .flat_map(|block| version(block).to_le_bytes())
                    .collect();
                let digests = digests(*block / BLOCK as u32 * 8, [&versions[..]]);
                return (Ok(LegReply::Digests(digests)), seen);
            }
            LegOp::WriteData { fua, .. } => self.write(&accepted.payload, *fua),
            LegOp::CopyWrite { .. } => self.write(&accepted.payload, false),
            LegOp::Zero { offset, len } | LegOp::Discard { offset, len }
                if *offset >= DATA_START =>
            {
                // Sparse: only blocks that were ever written are looked at.
                let range = blocks_of(*offset, *len);
                let zeroes: Blocks = self
                    .cache
                    .range(range)
                    .map(|(&block, _)| (block, 0))
                    .collect();
                self.write(&zeroes, false);
            }
            LegOp::Sync => self.durable = self.cache.clone(),
            LegOp::PrPreemptAbort { .. } | LegOp::PrClear { .. } => {
                // ABORT: what the victims had under way never reaches the store any more (R6).
                let gone = |a: &Accepted| {
                    let nexus = (a.initiator, session(&a.op));
                    before.contains_key(&nexus) && !self.fake.registered.contains_key(&nexus)
                };
                self.accepted.retain(|_, a| !gone(a));
            }
            _ => {}
        }
        (result, seen)
    }

    fn write(&mut self, blocks: &Blocks, fua: bool) {
        for (&block, &version) in blocks {
            self.cache.insert(block, version);
            if fua || !self.volatile {
                self.durable.insert(block, version);
            }
        }
    }

    /// A login of this initiator ends the commands of its earlier sessions (R15).
    pub(super) fn reinstate(&mut self, initiator: u8, conn: u64) {
        self.accepted
            .retain(|_, a| a.initiator != initiator || a.conn == conn);
    }

    /// Power cut: commands are gone, and each write of the cache that was not synced may be.
    pub(super) fn power_cycle(&mut self, boot_id: u64, mut lost: impl FnMut() -> bool) {
        self.accepted.clear();
        let cache = std::mem::take(&mut self.cache);
        for (block, version) in cache {
            if self.durable.get(&block) != Some(&version) && !lost() {
                self.durable.insert(block, version);
            }
        }
        self.cache = self.durable.clone();
        self.fake.restart(boot_id);
    }
}
