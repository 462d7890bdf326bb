//! From the words of the engine to SCSI commands, and back.

use std::time::Duration;

use bytes::Bytes;
use twinsite_iscsi::scsi::client::{
    self, BlockLimits, Capacity, Durability, FullStatus, Keys, Provisioning, ReservationStatus,
};
use twinsite_iscsi::scsi::{
    Attribute, Cdb, Code, PrOut, PrType, ScsiOutcome, SenseKey, Status, TargetAge,
};
use twinsite_iscsi::session::{Command, DataDir};
use twinsite_mirror::digest;
use twinsite_mirror::io::{Key, LegError, LegInfo, LegOp, LegReply, Naa, Registrant};

use crate::target::LUN;

const BLOCK: u64 = 4096;
/// Blocks of one WRITE SAME.
const SAME_BLOCKS: u64 = 16 * 1024;
static ZERO_BLOCK: [u8; BLOCK as usize] = [0; BLOCK as usize];

pub fn command(cdb: Cdb, data: DataDir) -> Command {
    Command {
        lun: LUN,
        cdb,
        data,
        attr: Attribute::Simple,
    }
}

fn read(offset: u64, len: u32) -> Command {
    command(
        client::read16(offset / BLOCK, len / BLOCK as u32),
        DataDir::In(len),
    )
}

fn write(offset: u64, data: Vec<Bytes>, fua: bool) -> Command {
    let len: u64 = data.iter().map(|b| b.len() as u64).sum();
    let durability = if fua {
        Durability::Stable
    } else {
        Durability::Cached
    };
    command(
        client::write16(offset / BLOCK, (len / BLOCK) as u32, durability),
        DataDir::Out(data),
    )
}

fn same(offset: u64, len: u64, unmap: bool) -> Command {
    let (lba, blocks) = (offset / BLOCK, (len / BLOCK).min(SAME_BLOCKS) as u32);
    let cdb = if unmap {
        client::write_same16_unmap(lba, blocks)
    } else {
        client::write_same16(lba, blocks)
    };
    command(cdb, DataDir::Out(vec![Bytes::from_static(&ZERO_BLOCK)]))
}

fn pr_in(cdb: Cdb) -> Command {
    command(cdb, DataDir::In(u32::from(client::ALLOCATION)))
}

fn pr_out(out: &PrOut) -> Command {
    let (cdb, list) = out.emit();
    command(cdb, DataDir::Out(vec![list]))
}

/// The command of an engine operation; `payload`: the bytes of a guest write or a copy. Long zeroing goes in several
/// commands: the rest is returned.
pub fn of_op(op: &LegOp, payload: Vec<Bytes>) -> (Command, Option<LegOp>) {
    let whole = |c: Command| (c, None);
    match op {
        LegOp::Identify => whole(command(client::read_capacity16(), DataDir::In(32))),
        LegOp::ReadData { offset, len, .. }
        | LegOp::ReadMeta { offset, len }
        | LegOp::CopyRead { offset, len, .. }
        | LegOp::Digest { offset, len, .. } => whole(read(*offset, *len)),
        LegOp::WriteData { offset, fua, .. } => whole(write(*offset, payload, *fua)),
        LegOp::CopyWrite { offset, .. } => whole(write(*offset, payload, false)),
        LegOp::WriteMeta { offset, block } => whole(write(
            *offset,
            vec![Bytes::copy_from_slice(&block[..])],
            true,
        )),
        LegOp::Sync => whole(command(client::synchronize_cache16(), DataDir::None)),
        LegOp::Discard { offset, len } => {
            let now = (*len).min(SAME_BLOCKS * BLOCK);
            let rest = (*len > now).then(|| LegOp::Discard {
                offset: offset + now,
                len: len - now,
            });
            (same(*offset, now, true), rest)
        }
        LegOp::Zero { offset, len } => {
            let now = (*len).min(SAME_BLOCKS * BLOCK);
            let rest = (*len > now).then(|| LegOp::Zero {
                offset: offset + now,
                len: len - now,
            });
            (same(*offset, now, false), rest)
        }
        LegOp::PrReadKeys => whole(pr_in(client::pr_read_keys())),
        LegOp::PrReadReservation => whole(pr_in(client::pr_read_reservation())),
        LegOp::PrReadFullStatus => whole(pr_in(client::pr_read_full_status())),
        LegOp::PrRegister { key, .. } => whole(pr_out(&PrOut::RegisterIgnore {
            new: key.to_u64(),
            aptpl: true,
        })),
        LegOp::PrUnregister { key, .. } => whole(pr_out(&PrOut::Register {
            key: key.to_u64(),
            new: 0,
            aptpl: true,
        })),
        LegOp::PrReserve { key } => whole(pr_out(&PrOut::Reserve {
            key: key.to_u64(),
            kind: PrType::ExclusiveAccessRegistrants,
        })),
        LegOp::PrPreemptAbort { key, victim, kind } => whole(pr_out(&PrOut::PreemptAbort {
            key: key.to_u64(),
            victim: victim.to_u64(),
            kind: PrType::from_code(*kind),
        })),
        LegOp::PrClear { key } => whole(pr_out(&PrOut::Clear { key: key.to_u64() })),
        LegOp::ReadTargetAge => whole(command(client::target_age(), DataDir::In(252))),
    }
}

/// What the answer to an engine operation means. Data of guest reads and copies are the caller's.
pub fn reply(op: &LegOp, outcome: &ScsiOutcome) -> Result<LegReply, LegError> {
    check(outcome)?;
    let data = || outcome.data_in.concat();
    let broken = LegError::Refused(0xff, 0, 0);
    match op {
        LegOp::ReadMeta { .. } => Ok(LegReply::Meta(data())),
        LegOp::Digest { block, .. } => {
            let pieces = outcome.data_in.iter().map(|piece| &piece[..]);
            Ok(LegReply::Digests(digest::digests(*block, pieces)))
        }
        LegOp::PrReadKeys => {
            let keys = Keys::parse(&data()).map_err(|_| broken)?;
            Ok(LegReply::Keys(
                keys.keys.into_iter().map(Key::from_u64).collect(),
            ))
        }
        LegOp::PrReadReservation => {
            let status = ReservationStatus::parse(&data()).map_err(|_| broken)?;
            Ok(LegReply::Reservation(
                status
                    .reservation
                    .map(|r| (Key::from_u64(r.key), r.kind.code())),
            ))
        }
        LegOp::PrReadFullStatus => {
            let status = FullStatus::parse(&data()).map_err(|_| broken)?;
            let registrant = |r: client::Registrant| Registrant {
                key: Key::from_u64(r.key),
                holder: r.holds.is_some(),
                kind: r.holds.map_or(0, PrType::code),
            };
            Ok(LegReply::FullStatus(
                status.registrants.into_iter().map(registrant).collect(),
            ))
        }
        LegOp::ReadTargetAge => {
            let age = TargetAge::parse(&data()).ok_or(broken)?;
            Ok(LegReply::Age(twinsite_mirror::io::TargetAge {
                boot_id: age.boot_id,
                uptime: age.uptime,
                last_foreign: age.foreign_command,
            }))
        }
        _ => Ok(LegReply::Done),
    }
}

pub fn check(outcome: &ScsiOutcome) -> Result<(), LegError> {
    match outcome.status {
        Status::Good | Status::ConditionMet => Ok(()),
        Status::ReservationConflict => Err(LegError::Conflict),
        Status::Busy | Status::TaskSetFull | Status::AcaActive | Status::TaskAborted => {
            Err(LegError::Retry)
        }
        Status::CheckCondition => {
            let Some(sense) = outcome.sense else {
                return Err(LegError::Hardware);
            };
            Err(match sense.key {
                SenseKey::UnitAttention => match sense.code {
                    Code::RESERVATIONS_PREEMPTED
                    | Code::RESERVATIONS_RELEASED
                    | Code::REGISTRATIONS_PREEMPTED => LegError::Preempted,
                    _ => LegError::Retry,
                },
                SenseKey::MediumError => LegError::Medium,
                SenseKey::HardwareError | SenseKey::NotReady => LegError::Hardware,
                SenseKey::AbortedCommand => LegError::Retry,
                SenseKey::DataProtect if sense.code == Code::SPACE_ALLOCATION_FAILED => {
                    LegError::NoSpace
                }
                _ => LegError::Refused(0, sense.code.asc, sense.code.ascq),
            })
        }
    }
}

pub fn inquiry() -> Command {
    command(client::inquiry(96), DataDir::In(96))
}

/// The questions asked right after a login, in this order, and what the answers say.
#[derive(Clone, Debug, Default)]
pub struct Questions {
    pub asked: usize,
    naa: [u8; 16],
    unmap_granularity: u32,
    zeroes: bool,
    age: Option<TargetAge>,
    volatile: bool,
    capacity: Option<Capacity>,
}

impl Questions {
    /// The next question; `None`: all are answered.
    pub fn next(&self) -> Option<Command> {
        let vpd = |page: u8| command(client::vpd(page, 0xfc), DataDir::In(0xfc));
        match self.asked {
            0 => Some(inquiry()),
            1 => Some(vpd(0x83)),
            2 => Some(vpd(0xb0)),
            3 => Some(vpd(0xb2)),
            4 => Some(command(client::target_age(), DataDir::In(252))),
            // MODE SENSE(6), no block descriptors, caching page.
            5 => Some(command(
                Cdb::new(&[0x1a, 0x08, 0x08, 0, 0xff, 0]),
                DataDir::In(0xff),
            )),
            6 => Some(command(client::read_capacity16(), DataDir::In(32))),
            _ => None,
        }
    }

    /// The unit does not tell, also because somebody else has it reserved: a cache that is not told about is volatile.
    pub fn refused(&mut self) {
        if self.asked == 5 {
            self.volatile = true;
        }
        self.asked += 1;
    }

    /// Takes an answer with status GOOD.
    pub fn answer(&mut self, data: &[u8]) {
        match self.asked {
            1 => self.naa = client::naa(data).ok().flatten().unwrap_or_default(),
            2 => {
                self.unmap_granularity = BlockLimits::parse(data)
                    .unwrap_or_default()
                    .unmap_granularity
            }
            3 => {
                self.zeroes =
                    Provisioning::parse(data).is_ok_and(|p| p.zeroes && p.write_same16_unmap)
            }
            4 => self.age = TargetAge::parse(data),
            5 => self.volatile = data.get(6).is_some_and(|b| b & 0x04 != 0),
            6 => self.capacity = Capacity::parse(data).ok(),
            _ => {}
        }
        self.asked += 1;
    }

    pub fn info(&self) -> LegInfo {
        let (blocks, block) = self.capacity.map_or((0, 4096), |c| (c.blocks, c.block));
        LegInfo {
            naa: Naa(self.naa),
            capacity: blocks * u64::from(block),
            block_size: block,
            volatile_cache: self.volatile,
            boot_id: self.age.map(|a| a.boot_id),
            own_target: self.age.is_some(),
            discard_zeroes: self.zeroes,
            discard_granularity: self.unmap_granularity * block,
        }
    }
}

/// How long a connection attempt may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(1000);

/// These bytes of a list of pieces, without a copy.
pub fn cut(data: &[Bytes], skip: u64, len: u64) -> Vec<Bytes> {
    let (mut at, end) = (0u64, skip + len);
    let mut out = vec![];
    for piece in data {
        let next = at + piece.len() as u64;
        if next > skip && at < end {
            let from = skip.saturating_sub(at) as usize;
            let to = (end.min(next) - at) as usize;
            out.push(piece.slice(from..to));
        }
        at = next;
    }
    out
}
