//! The store of one leg: sparse blocks, a volatile cache if it has one, and everything that disks do wrong.
//!
//! An operation takes effect when it completes, not when it is sent: a power cut before that leaves it undone, or torn at a
//! block boundary. Reservations are files of their own and always durable (the unit asks for that).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use twinsite_iscsi::scsi::{StoreError, StoreOp, StoreReply};

use crate::random::Random;

pub const BLOCK: u64 = 4096;
static ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];

#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// By block number; absent = zeros. `None` in the cache = zeros that are not durable yet.
    durable: BTreeMap<u64, Bytes>,
    cache: BTreeMap<u64, Option<Bytes>>,
    pub volatile: bool,
    pub reservations: Bytes,
    pub faults: DiskFaults,
    /// Blocks of metadata that a power cut tore.
    pub torn: u64,
}

/// Everything durable of a disk at some moment.
#[derive(Clone, Debug)]
pub struct Snapshot(BTreeMap<u64, Bytes>);

impl Snapshot {
    pub fn block(&self, block: u64) -> Bytes {
        self.0
            .get(&block)
            .cloned()
            .unwrap_or(Bytes::from_static(&ZEROS))
    }
}

/// What the disk does wrong at the moment.
#[derive(Clone, Debug, Default)]
pub struct DiskFaults {
    /// No answer before this time.
    pub hangs_until: Duration,
    /// Every operation takes this much longer until then.
    pub slow: Duration,
    pub slow_until: Duration,
    pub full_until: Duration,
    /// Reads and writes of data fail until then.
    pub broken_until: Duration,
    /// Blocks that cannot be read until they are written.
    pub bad_blocks: BTreeSet<u64>,
    /// FLUSH fails until then.
    pub flush_fails_until: Duration,
    /// What becomes of the next write of data that is answered well.
    pub lie: Option<Lie>,
}

/// A write that is answered well and is not where it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    Lost,
    /// It is at this byte instead.
    Misdirected(u64),
}

impl Disk {
    pub fn new(volatile: bool) -> Self {
        Self {
            volatile,
            ..Self::default()
        }
    }

    /// How long an operation sent now takes.
    pub fn service(&self, now: Duration, random: &mut Random) -> Duration {
        let base = random.between(Duration::from_micros(40), Duration::from_micros(400));
        let slow = if now < self.faults.slow_until {
            self.faults.slow
        } else {
            Duration::ZERO
        };
        let hang = self.faults.hangs_until.saturating_sub(now);
        base + slow + hang
    }

    pub fn complete(&mut self, now: Duration, op: &StoreOp) -> Result<StoreReply, StoreError> {
        let f = &mut self.faults;
        match op {
            StoreOp::Read { offset, len } => {
                if now < f.broken_until && *offset >= twinsite_mirror::io::DATA_START {
                    return Err(StoreError::Hardware);
                }
                let blocks = offset / BLOCK..(offset + len).div_ceil(BLOCK);
                if blocks.clone().any(|b| f.bad_blocks.contains(&b)) {
                    return Err(StoreError::Medium);
                }
                Ok(StoreReply::Data(self.read(*offset, *len)))
            }
            StoreOp::Write { offset, data, fua } => {
                if now < f.broken_until && *offset >= twinsite_mirror::io::DATA_START {
                    return Err(StoreError::Medium);
                }
                if now < f.full_until && *offset >= twinsite_mirror::io::DATA_START {
                    return Err(StoreError::NoSpace);
                }
                let is_data = *offset >= twinsite_mirror::io::DATA_START;
                match if is_data { f.lie.take() } else { None } {
                    Some(Lie::Lost) => return Ok(StoreReply::Done),
                    Some(Lie::Misdirected(to)) => {
                        self.write(to, data, *fua);
                        return Ok(StoreReply::Done);
                    }
                    None => {}
                }
                self.write(*offset, data, *fua);
                Ok(StoreReply::Done)
            }
            StoreOp::Flush => {
                if now < f.flush_fails_until {
                    return Err(StoreError::Hardware);
                }
                self.flush();
                Ok(StoreReply::Done)
            }
            StoreOp::Discard { offset, len } | StoreOp::WriteZeros { offset, len, .. } => {
                let blocks = *offset / BLOCK..(offset + len) / BLOCK;
                self.faults.bad_blocks.retain(|b| !blocks.contains(b));
                self.zero(blocks.start, blocks.end);
                Ok(StoreReply::Done)
            }
            StoreOp::Map { .. } | StoreOp::WriteAtomic { .. } => Err(StoreError::Unsupported),
            StoreOp::SavePr(bytes) => {
                self.reservations = bytes.clone();
                Ok(StoreReply::Done)
            }
        }
    }

    fn flush(&mut self) {
        for (block, content) in std::mem::take(&mut self.cache) {
            Self::put(&mut self.durable, block, content);
        }
    }

    fn put(durable: &mut BTreeMap<u64, Bytes>, block: u64, content: Option<Bytes>) {
        match content {
            Some(bytes) => {
                durable.insert(block, bytes);
            }
            None => {
                durable.remove(&block);
            }
        }
    }

    fn zero(&mut self, from: u64, to: u64) {
        if !self.volatile {
            let gone: Vec<u64> = self.durable.range(from..to).map(|(b, _)| *b).collect();
            gone.iter().for_each(|b| {
                self.durable.remove(b);
            });
            return;
        }
        let held = self.durable.range(from..to).map(|(b, _)| *b);
        let cached = self.cache.range(from..to).map(|(b, _)| *b);
        let blocks: BTreeSet<u64> = held.chain(cached).collect();
        for block in blocks {
            self.cache.insert(block, None);
        }
    }

    fn write(&mut self, offset: u64, data: &[Bytes], fua: bool) {
        let mut block = offset / BLOCK;
        self.faults.bad_blocks.retain(|b| *b != block);
        let whole: Bytes = match data {
            [one] => one.clone(),
            many => many.concat().into(),
        };
        let mut rest = whole;
        while rest.len() >= BLOCK as usize {
            let content = rest.split_to(BLOCK as usize);
            // Never keep a network buffer alive for one block of it.
            let content = if content[16..].iter().all(|b| *b == 0) && content[..16] == ZEROS[..16] {
                None
            } else {
                Some(Bytes::copy_from_slice(&content))
            };
            if self.volatile && !fua {
                self.cache.insert(block, content);
            } else {
                self.cache.remove(&block);
                Self::put(&mut self.durable, block, content);
            }
            block += 1;
        }
    }

    pub fn read(&self, offset: u64, len: u64) -> Vec<Bytes> {
        (offset / BLOCK..(offset + len).div_ceil(BLOCK))
            .map(|b| self.block(b))
            .collect()
    }

    pub fn block(&self, block: u64) -> Bytes {
        match self.cache.get(&block) {
            Some(Some(bytes)) => bytes.clone(),
            Some(None) => Bytes::from_static(&ZEROS),
            None => self
                .durable
                .get(&block)
                .cloned()
                .unwrap_or(Bytes::from_static(&ZEROS)),
        }
    }

    /// What is there after a power cut that takes the whole cache.
    pub fn durable_block(&self, block: u64) -> Bytes {
        let held = self.durable.get(&block).cloned();
        held.unwrap_or(Bytes::from_static(&ZEROS))
    }

    /// Writes a block past the unit: how a leg is born before a run.
    pub fn put_block(&mut self, offset: u64, content: &[u8]) {
        self.durable
            .insert(offset / BLOCK, Bytes::copy_from_slice(content));
    }

    /// The power goes: of the cache each block survives or not; of a write under way each block.
    pub fn power_cut(&mut self, under_way: &[StoreOp], random: &mut Random) {
        for (block, content) in std::mem::take(&mut self.cache) {
            if random.chance(1, 3) {
                Self::put(&mut self.durable, block, content);
            }
        }
        for op in under_way {
            if let StoreOp::Write { offset, data, .. } = op {
                let whole = data.concat();
                for (k, content) in whole.chunks_exact(BLOCK as usize).enumerate() {
                    if random.chance(1, 2) {
                        self.put_torn(offset / BLOCK + k as u64, content, random);
                    }
                }
            }
        }
    }

    /// A block of metadata may be torn inside (its checksum tells); sectors of data are whole.
    fn put_torn(&mut self, block: u64, content: &[u8], random: &mut Random) {
        let torn = block * BLOCK < twinsite_mirror::io::DATA_START && random.chance(1, 4);
        let mut bytes = content.to_vec();
        if torn {
            self.torn += 1;
            let half = 512 * (1 + random.below(7) as usize);
            bytes[half..].copy_from_slice(
                &self
                    .durable
                    .get(&block)
                    .cloned()
                    .unwrap_or(Bytes::from_static(&ZEROS))[half..],
            );
        }
        self.durable.insert(block, bytes.into());
    }

    /// One bit of this block is another one from now on.
    pub fn rot(&mut self, block: u64) {
        let mut bytes = self.block(block).to_vec();
        bytes[100] ^= 4;
        self.durable.insert(block, bytes.into());
    }

    /// A copy of everything durable, to be put back later. Reservations are kept elsewhere.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.durable.clone())
    }

    pub fn put_back(&mut self, snapshot: Snapshot) {
        self.durable = snapshot.0;
        self.cache.clear();
    }
}
