//! From the CDB of a block command to a job: addresses, lengths, flags, and what of the data counts
//! (SBC-3 5).
//!
//! Residual rule: with an expected length that differs from the CDB's, the smaller of both is moved and
//! the command is good. A write that then ends inside a block keeps the rest of that block.
//!
//! Not here: reservations, unit attentions, readiness (the unit asks them first), SANITIZE.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::config::{MAX_COMPARE_BLOCKS, MAX_SAME_BLOCKS, MAX_UNMAP_DESCRIPTORS, UnitConfig};
use super::ended::{
    Ended, Meant, bad_cdb, bad_list, cut, joined, length_of, short_list, write_protected,
};
use super::job::Job;
use super::lba_map::{LbaMap, lba_status};
use super::opcodes::Kind;
use super::report::out_of_range;
use super::store::StoreOp;
use super::tasks::{Lock, Plan};
use crate::scsi::{Cdb, Code, Expected, Sense, SenseKey};

/// Pieces of a fill: large enough to be few, small enough to be made quickly.
const FILL_PIECE: usize = 64 * 1024;

/// What of the unit's state a block command depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Medium<'a> {
    pub(super) config: &'a UnitConfig,
    /// WCE = 0: every write is on stable storage before its status.
    pub(super) write_through: bool,
    pub(super) protected: bool,
}

/// The stretch of blocks a CDB names.
#[derive(Clone, Copy, Debug)]
struct Extent {
    lba: u64,
    blocks: u64,
}

/// A command that ends without the store, or a plan for the store.
pub(super) type Planned = Result<Plan, (Ended, Meant)>;

impl Medium<'_> {
    pub(super) fn plan(
        self,
        kind: Kind,
        cdb: &Cdb,
        data: Vec<Bytes>,
        expected: Expected,
    ) -> Planned {
        let planned = match kind {
            Kind::Read => self.read(cdb, expected),
            Kind::Write => self.write(cdb, data, expected, false),
            Kind::WriteVerify => self.write(cdb, data, expected, true),
            Kind::Verify => self.verify(cdb, data, expected),
            Kind::CompareAndWrite => self.compare_and_write(cdb, data, expected),
            Kind::OrWrite => self.or_write(cdb, data, expected),
            Kind::WriteAtomic => self.write_atomic(cdb, data, expected),
            Kind::SyncCache => self.sync_cache(cdb),
            Kind::Prefetch => self.extent(cdb).map(|_| Err((Ended::good(), Meant::None))),
            Kind::WriteSame => self.write_same(cdb, data, expected),
            Kind::Unmap => self.unmap(cdb, &data),
            Kind::LbaStatus => self.lba_status(cdb),
            _ => Err(Sense::illegal(Code::INVALID_OPERATION_CODE)),
        };
        planned.unwrap_or_else(|sense| Err((Ended::check(sense), Meant::None)))
    }

    fn block(self) -> u64 {
        self.config.block()
    }

    /// The blocks a CDB names, all of which exist.
    fn extent(self, cdb: &Cdb) -> Result<Extent, Sense> {
        let (lba, blocks) = match cdb.opcode() >> 5 {
            0 => (cdb.field_at(1, 3) & 0x1F_FFFF, cdb.field_at(4, 1)),
            1 | 2 => (cdb.field_at(2, 4), cdb.field_at(7, 2)),
            5 => (cdb.field_at(2, 4), cdb.field_at(6, 4)),
            _ => (cdb.field_at(2, 8), cdb.field_at(10, 4)),
        };
        let six = cdb.opcode() >> 5 == 0;
        // In READ(6) and WRITE(6) zero means 256.
        let blocks = if six && blocks == 0 { 256 } else { blocks };
        if !six && cdb.byte(1) & 0xE0 != 0 {
            return Err(bad_cdb(1));
        }
        self.within(Extent { lba, blocks })
    }

    fn within(self, extent: Extent) -> Result<Extent, Sense> {
        match extent.lba.checked_add(extent.blocks) {
            Some(end) if end <= self.config.blocks() => Ok(extent),
            _ => Err(out_of_range(extent.lba)),
        }
    }

    /// Only so much data moves in one command.
    fn transfer(self, cdb: &Cdb) -> Result<Extent, Sense> {
        let extent = self.extent(cdb)?;
        if extent.blocks > self.config.max_transfer_blocks() {
            return Err(bad_cdb(if cdb.opcode() >> 5 == 4 { 10 } else { 7 }));
        }
        Ok(extent)
    }

    fn writable(self) -> Result<(), Sense> {
        if self.protected {
            Err(write_protected())
        } else {
            Ok(())
        }
    }

    fn fua(self, cdb: &Cdb) -> bool {
        self.write_through || (cdb.opcode() >> 5 != 0 && cdb.bit(1, 3))
    }

    fn lock(self, extent: Extent, exclusive: bool) -> Option<Lock> {
        let block = self.block();
        Some(Lock {
            start: extent.lba * block,
            end: (extent.lba + extent.blocks) * block,
            exclusive,
        })
    }

    fn read(self, cdb: &Cdb, expected: Expected) -> Result<Planned, Sense> {
        let extent = self.transfer(cdb)?;
        let total = extent.blocks * self.block();
        let meant = Meant::Read(total);
        let keep = match expected {
            Expected::In(length) => total.min(u64::from(length)),
            Expected::None | Expected::Out(_) => 0,
        };
        if keep == 0 {
            return Ok(Err((Ended::good(), meant)));
        }
        let len = keep.next_multiple_of(self.block());
        let job = Job::Read {
            offset: extent.lba * self.block(),
            len,
            keep,
        };
        Ok(Ok(Plan::new(job, self.lock(extent, false), meant)))
    }

    fn write(
        self,
        cdb: &Cdb,
        data: Vec<Bytes>,
        expected: Expected,
        verify: bool,
    ) -> Result<Planned, Sense> {
        self.writable()?;
        // BYTCHK: 0 verifies, 1 compares; comparing does for both.
        if verify && cdb.bit(1, 2) {
            return Err(bad_cdb(1));
        }
        let extent = self.transfer(cdb)?;
        let total = extent.blocks * self.block();
        let meant = Meant::Out(total);
        let data = take(data, total, expected)?;
        let length = length_of(&data);
        if length == 0 {
            return Ok(Err((Ended::good(), meant)));
        }
        let offset = extent.lba * self.block();
        let fua = if verify {
            self.write_through
        } else {
            self.fua(cdb)
        };
        let ragged = !length.is_multiple_of(self.block());
        let job = match ragged {
            true => Job::Patch {
                offset,
                data,
                block: self.block(),
                fua,
                verify,
            },
            false => Job::write_all(offset, data, fua, verify),
        };
        Ok(Ok(Plan::new(
            job,
            self.lock(extent, ragged || verify),
            meant,
        )))
    }

    fn verify(self, cdb: &Cdb, data: Vec<Bytes>, expected: Expected) -> Result<Planned, Sense> {
        let extent = self.extent(cdb)?;
        let offset = extent.lba * self.block();
        let total = extent.blocks * self.block();
        let lock = self.lock(extent, false);
        match cdb.byte(1) >> 1 & 0x03 {
            0 => Ok(Ok(Plan::new(
                Job::Scan {
                    offset,
                    left: total,
                },
                lock,
                Meant::None,
            ))),
            1 => {
                self.transfer(cdb)?;
                let mut data = take(data, total, expected)?;
                let whole = length_of(&data) / self.block() * self.block();
                cut(&mut data, whole);
                let job = Job::Compare {
                    before: None,
                    offset,
                    data,
                    done: 0,
                    after: None,
                };
                Ok(Ok(Plan::new(job, lock, Meant::Out(total))))
            }
            3 => {
                self.transfer(cdb)?;
                let block = self.one_block(data, expected)?;
                let data = vec![block; extent.blocks as usize];
                let job = Job::Compare {
                    before: None,
                    offset,
                    data,
                    done: 0,
                    after: None,
                };
                Ok(Ok(Plan::new(job, lock, Meant::Out(self.block()))))
            }
            _ => Err(bad_cdb(1)),
        }
    }

    fn compare_and_write(
        self,
        cdb: &Cdb,
        mut data: Vec<Bytes>,
        expected: Expected,
    ) -> Result<Planned, Sense> {
        self.writable()?;
        if cdb.byte(1) & 0xE0 != 0 {
            return Err(bad_cdb(1));
        }
        let blocks = cdb.field_at(13, 1);
        if blocks > MAX_COMPARE_BLOCKS.min(self.config.max_transfer_blocks() / 2) {
            return Err(bad_cdb(13));
        }
        let extent = self.within(Extent {
            lba: cdb.field_at(2, 8),
            blocks,
        })?;
        let total = blocks * self.block();
        let meant = Meant::Out(2 * total);
        if blocks == 0 && expected.length() > 0 {
            // More blocks than the one byte can say: writing nothing must not look like success.
            return Err(bad_cdb(13));
        }
        if expected != Expected::Out(2 * total as u32) && blocks > 0 || length_of(&data) < 2 * total
        {
            return Err(bad_information_unit());
        }
        if blocks == 0 {
            return Ok(Err((Ended::good(), meant)));
        }
        let offset = extent.lba * self.block();
        let write = super::ended::part(&data, total, total);
        cut(&mut data, total);
        let after = Some(Box::new(StoreOp::Write {
            offset,
            data: write,
            fua: self.fua(cdb),
        }));
        let job = Job::Compare {
            before: None,
            offset,
            data,
            done: 0,
            after,
        };
        Ok(Ok(Plan::new(job, self.lock(extent, true), meant)))
    }

    fn or_write(self, cdb: &Cdb, data: Vec<Bytes>, expected: Expected) -> Result<Planned, Sense> {
        self.writable()?;
        let extent = self.transfer(cdb)?;
        let total = extent.blocks * self.block();
        let meant = Meant::Out(total);
        let mut data = take(data, total, expected)?;
        let whole = length_of(&data) / self.block() * self.block();
        cut(&mut data, whole);
        if whole == 0 {
            return Ok(Err((Ended::good(), meant)));
        }
        let job = Job::Or {
            offset: extent.lba * self.block(),
            data,
            fua: self.fua(cdb),
        };
        Ok(Ok(Plan::new(job, self.lock(extent, true), meant)))
    }

    /// Always on stable storage, whatever FUA says. Nothing else runs in the unit meanwhile: one such write at a time is
    /// written down before it is done.
    fn write_atomic(
        self,
        cdb: &Cdb,
        data: Vec<Bytes>,
        expected: Expected,
    ) -> Result<Planned, Sense> {
        if !self.config.atomic_writes {
            return Err(Sense::illegal(Code::INVALID_OPERATION_CODE));
        }
        self.writable()?;
        let (protection, boundary) = (cdb.byte(1) & 0xE0, cdb.field_at(10, 2));
        if protection != 0 || boundary != 0 {
            return Err(bad_cdb(if protection != 0 { 1 } else { 10 }));
        }
        let extent = self.within(Extent {
            lba: cdb.field_at(2, 8),
            blocks: cdb.field_at(12, 2),
        })?;
        let grain = 1 << self.config.block_size.per_physical_exponent();
        if !extent.lba.is_multiple_of(grain) {
            return Err(bad_cdb(2));
        }
        if !extent.blocks.is_multiple_of(grain) || extent.blocks > self.config.max_atomic_blocks() {
            return Err(bad_cdb(12));
        }
        let total = extent.blocks * self.block();
        let data = take(data, total, expected)?;
        if length_of(&data) != total {
            // A part of it would not be what was to be written at one stroke.
            return Err(bad_information_unit());
        }
        if total == 0 {
            return Ok(Err((Ended::good(), Meant::Out(0))));
        }
        let offset = extent.lba * self.block();
        let job = Job::One(Some(StoreOp::WriteAtomic { offset, data }));
        let all = Extent {
            lba: 0,
            blocks: self.config.blocks(),
        };
        Ok(Ok(Plan::new(job, self.lock(all, true), Meant::Out(total))))
    }

    /// Everything is flushed, whatever the range; IMMED changes nothing but when we could have answered.
    fn sync_cache(self, cdb: &Cdb) -> Result<Planned, Sense> {
        self.extent(cdb)?;
        Ok(Ok(Plan::new(Job::flush(), None, Meant::None)))
    }

    fn write_same(self, cdb: &Cdb, data: Vec<Bytes>, expected: Expected) -> Result<Planned, Sense> {
        const ANCHOR_PBDATA_LBDATA: u8 = 0x16;
        self.writable()?;
        let unmap = cdb.bit(1, 3);
        let no_data = cdb.opcode() == 0x93 && cdb.bit(1, 0);
        if cdb.byte(1) & ANCHOR_PBDATA_LBDATA != 0 || (unmap && !self.config.thin) {
            return Err(bad_cdb(1));
        }
        let mut extent = self.extent(cdb)?;
        if extent.blocks == 0 {
            extent.blocks = self.config.blocks() - extent.lba;
        }
        if extent.blocks > MAX_SAME_BLOCKS {
            return Err(bad_cdb(if cdb.opcode() == 0x93 { 10 } else { 7 }));
        }
        let no_data = no_data || (unmap && expected.length() == 0);
        let block = if no_data {
            None
        } else {
            Some(self.one_block(data, expected)?)
        };
        // Peers deallocate whatever the block holds, and initiators rely on it: the range then reads as zeros (LBPRZ).
        let discard = unmap && self.config.discard_zeroes;
        let meant = if no_data {
            Meant::None
        } else {
            Meant::Out(self.block())
        };
        if extent.blocks == 0 {
            return Ok(Err((Ended::good(), meant)));
        }
        let offset = extent.lba * self.block();
        let len = extent.blocks * self.block();
        let fua = self.write_through;
        let zero = discard
            || block
                .as_ref()
                .is_none_or(|block| block.iter().all(|byte| *byte == 0));
        let job = match block.filter(|_| !zero) {
            Some(block) => Job::Fill {
                offset,
                left: len,
                piece: repeated(&block),
                fua,
            },
            None if discard => Job::One(Some(StoreOp::Discard { offset, len })),
            None => Job::One(Some(StoreOp::WriteZeros { offset, len, fua })),
        };
        Ok(Ok(Plan::new(job, self.lock(extent, false), meant)))
    }

    fn unmap(self, cdb: &Cdb, data: &[Bytes]) -> Result<Planned, Sense> {
        if !self.config.thin {
            return Err(Sense::illegal(Code::INVALID_OPERATION_CODE));
        }
        self.writable()?;
        if cdb.bit(1, 0) {
            return Err(bad_cdb(1));
        }
        let declared = cdb.field_at(7, 2);
        let meant = Meant::Out(declared);
        if declared == 0 {
            return Ok(Err((Ended::good(), meant)));
        }
        let list = joined(data);
        let list = list.get(..declared as usize).ok_or(short_list())?;
        let ranges = self.unmap_ranges(list)?;
        let (Some(first), Some(last)) = (
            ranges.iter().map(|range| range.lba).min(),
            ranges.iter().map(|range| range.lba + range.blocks).max(),
        ) else {
            return Ok(Err((Ended::good(), meant)));
        };
        let block = self.block();
        let ops: VecDeque<StoreOp> = ranges
            .iter()
            .map(|range| StoreOp::Discard {
                offset: range.lba * block,
                len: range.blocks * block,
            })
            .collect();
        let lock = self.lock(
            Extent {
                lba: first,
                blocks: last - first,
            },
            false,
        );
        Ok(Ok(Plan::new(Job::Sequence(ops), lock, meant)))
    }

    /// The ranges of an UNMAP list, neighbours joined, empty ones left out.
    fn unmap_ranges(self, list: &[u8]) -> Result<Vec<Extent>, Sense> {
        const HEAD: usize = 8;
        if list.len() < HEAD {
            return Err(short_list());
        }
        let length = usize::from(u16::from_be_bytes([list[2], list[3]]));
        let descriptors = list[HEAD..]
            .get(..length)
            .ok_or(short_list())?
            .chunks_exact(16);
        if descriptors.len() as u64 > MAX_UNMAP_DESCRIPTORS {
            return Err(bad_list(2));
        }
        let mut ranges: Vec<Extent> = Vec::new();
        let mut total = 0u64;
        for (place, descriptor) in descriptors.enumerate() {
            let number = |from: usize, to: usize| {
                descriptor[from..to]
                    .iter()
                    .fold(0u64, |value, byte| value << 8 | u64::from(*byte))
            };
            let range = self.within(Extent {
                lba: number(0, 8),
                blocks: number(8, 12),
            })?;
            total += range.blocks;
            if total > self.config.max_unmap_blocks() {
                return Err(bad_list(HEAD + 16 * place + 8));
            }
            match ranges.last_mut() {
                _ if range.blocks == 0 => {}
                Some(last) if last.lba + last.blocks == range.lba => last.blocks += range.blocks,
                _ => ranges.push(range),
            }
        }
        Ok(ranges)
    }

    fn lba_status(self, cdb: &Cdb) -> Result<Planned, Sense> {
        let first = cdb.field_at(2, 8);
        let allocation = cdb.field_at(10, 4);
        let blocks = self.config.blocks();
        if first >= blocks {
            return Err(out_of_range(first));
        }
        let block = self.block();
        if !self.config.thin {
            let data = lba_status(&[], first, blocks, block, allocation);
            return Ok(Err((Ended::data(data, allocation), Meant::In)));
        }
        Ok(Ok(Plan::new(
            Job::Map(Box::new(LbaMap::new(first, blocks, block, allocation))),
            None,
            Meant::In,
        )))
    }

    /// The data of a command that takes exactly one block.
    fn one_block(self, data: Vec<Bytes>, expected: Expected) -> Result<Bytes, Sense> {
        if expected != Expected::Out(self.config.block_size.bytes())
            || length_of(&data) != self.block()
        {
            return Err(bad_information_unit());
        }
        Ok(joined(&data))
    }
}

/// What of the data out counts: the smaller of what the CDB and the initiator say. The session must have
/// gathered that much.
fn take(mut data: Vec<Bytes>, total: u64, expected: Expected) -> Result<Vec<Bytes>, Sense> {
    let want = match expected {
        Expected::Out(length) => total.min(u64::from(length)),
        Expected::None => 0,
        Expected::In(_) if total == 0 => 0,
        Expected::In(_) => return Err(bad_information_unit()),
    };
    if length_of(&data) < want {
        return Err(Sense::new(SenseKey::AbortedCommand, Code::NOT_ENOUGH_DATA));
    }
    cut(&mut data, want);
    Ok(data)
}

/// INVALID FIELD IN COMMAND INFORMATION UNIT: the transport announced another transfer than the CDB.
fn bad_information_unit() -> Sense {
    Sense::illegal(Code::INVALID_FIELD_IN_INFORMATION_UNIT)
}

/// As many copies of a block as make a piece of a fill.
pub(super) fn repeated(block: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(FILL_PIECE);
    while out.len() + block.len() <= FILL_PIECE {
        out.extend_from_slice(block);
    }
    out.freeze()
}
