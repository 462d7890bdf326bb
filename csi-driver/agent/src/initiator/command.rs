//! One command of the mirror as SCSI commands, and their answers as one reply.
//!
//! A command that is larger than what the LUN takes at once is sent in parts, all at the same time; the mirror orders
//! commands only by their completion, and the reply is given when the last part ended.
//! Invariants: a reply is `Ok` only if every part moved every byte it was asked to.

use bytes::Bytes;
use twinsite_iscsi::scsi::client::{self, Durability, FullStatus, Keys, ReservationStatus};
use twinsite_iscsi::scsi::{Cdb, PrOut, PrType, Residual, ScsiOutcome, TargetAge};
use twinsite_iscsi::session::DataDir;
use twinsite_mirror::digest::digests;
use twinsite_mirror::io::{
    self, CmdId, CopyId, Key, LegError, LegOp, LegReply, Registrant, ReqId, Session,
};

use super::identify::Limits;
use super::outcome::verdict;

/// Where the bytes of a read go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    Request(ReqId),
    Copy(CopyId),
}

/// Bytes that a read brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    pub destination: Destination,
    /// Byte offset on the LUN.
    pub offset: u64,
    /// Together as long as what was asked for.
    pub pieces: Vec<Bytes>,
}

/// How the answer is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Nothing,
    Data(Destination, u64),
    Meta,
    /// Of blocks of so many bytes.
    Digests(u32),
    Keys,
    Reservation,
    FullStatus,
    Age,
}

/// A command of the mirror that is under way.
#[derive(Debug)]
pub(super) struct Open {
    pub cmd: CmdId,
    expect: Expect,
    parts_left: u32,
    error: Option<LegError>,
    data: PartData,
}

/// Data of the parts; one part is by far the most frequent.
#[derive(Debug)]
enum PartData {
    One(Vec<Bytes>),
    Several(Vec<Vec<Bytes>>),
}

/// A SCSI command to be sent.
#[derive(Debug)]
pub(super) struct Part {
    pub cdb: Cdb,
    pub data: DataDir,
}

/// The ready command: which session, what is open, what is sent.
pub(super) struct Built {
    pub session: Session,
    pub open: Open,
    pub parts: Vec<Part>,
}

/// One block of zeros, which WRITE SAME repeats.
static ZEROS: [u8; 4096] = [0; 4096];

/// Builds the command. `payload` is what the op writes, empty for one that does not.
/// `Err`: the LUN cannot take it (an offset between blocks, a block size nobody has).
pub(super) fn build(
    cmd: CmdId,
    op: LegOp,
    session: Session,
    payload: Vec<Bytes>,
    limits: Limits,
) -> Result<Built, LegError> {
    use LegOp as O;
    let blocks = Blocks(limits);
    let (session, expect, parts) = match op {
        O::ReadData { req, offset, len } => {
            let expect = Expect::Data(Destination::Request(req), offset);
            (session, expect, blocks.reads(offset, len)?)
        }
        O::CopyRead { copy, offset, len } => {
            let expect = Expect::Data(Destination::Copy(copy), offset);
            (session, expect, blocks.reads(offset, len)?)
        }
        O::ReadMeta { offset, len } => (session, Expect::Meta, blocks.reads(offset, len)?),
        O::Digest { offset, len, block } => {
            (session, Expect::Digests(block), blocks.reads(offset, len)?)
        }
        O::WriteData {
            offset, len, fua, ..
        } => {
            let how = if fua {
                Durability::Stable
            } else {
                Durability::Cached
            };
            (
                session,
                Expect::Nothing,
                blocks.writes(offset, len, how, payload)?,
            )
        }
        O::CopyWrite { offset, len, .. } => {
            let parts = blocks.writes(offset, len, Durability::Cached, payload)?;
            (session, Expect::Nothing, parts)
        }
        O::WriteMeta { offset, block } => {
            let block = vec![Bytes::from_owner(BlockOwner(block))];
            let len = io::BLOCK as u32;
            let parts = blocks.writes(offset, len, Durability::Stable, block)?;
            (session, Expect::Nothing, parts)
        }
        O::Sync => {
            let part = Part {
                cdb: client::synchronize_cache16(),
                data: DataDir::None,
            };
            (session, Expect::Nothing, vec![part])
        }
        O::Discard { offset, len } => {
            let parts = blocks.same(offset, len, client::write_same16_unmap)?;
            (session, Expect::Nothing, parts)
        }
        O::Zero { offset, len } => {
            let parts = blocks.same(offset, len, client::write_same16)?;
            (session, Expect::Nothing, parts)
        }
        O::PrReadKeys => answered(Expect::Keys, client::pr_read_keys()),
        O::PrReadReservation => answered(Expect::Reservation, client::pr_read_reservation()),
        O::PrReadFullStatus => answered(Expect::FullStatus, client::pr_read_full_status()),
        O::ReadTargetAge => answered(Expect::Age, client::target_age()),
        O::PrRegister { key, session } => {
            let new = key.to_u64();
            reserve_out(session, PrOut::RegisterIgnore { new, aptpl: true })
        }
        O::PrUnregister { key, session } => {
            let key = key.to_u64();
            let (new, aptpl) = (0, true);
            reserve_out(session, PrOut::Register { key, new, aptpl })
        }
        O::PrReserve { key } => {
            let kind = PrType::ExclusiveAccessRegistrants;
            let key = key.to_u64();
            reserve_out(Session::Data, PrOut::Reserve { key, kind })
        }
        O::PrPreemptAbort { key, victim, kind } => {
            let kind = PrType::from_code(kind);
            let (key, victim) = (key.to_u64(), victim.to_u64());
            reserve_out(Session::Data, PrOut::PreemptAbort { key, victim, kind })
        }
        O::PrClear { key } => {
            let key = key.to_u64();
            reserve_out(Session::Data, PrOut::Clear { key })
        }
        // Asked for in several steps: `identify`.
        O::Identify => return Err(LegError::Refused(5, 0x20, 0)),
    };
    let data = if parts.len() == 1 {
        PartData::One(Vec::new())
    } else {
        PartData::Several(vec![Vec::new(); parts.len()])
    };
    let parts_left = u32::try_from(parts.len()).unwrap_or(u32::MAX);
    let open = Open {
        cmd,
        expect,
        parts_left,
        error: None,
        data,
    };
    Ok(Built {
        session,
        open,
        parts,
    })
}

/// A metadata block as bytes, without a copy.
struct BlockOwner(io::Block);

impl AsRef<[u8]> for BlockOwner {
    fn as_ref(&self) -> &[u8] {
        &self.0[..]
    }
}

fn answered(expect: Expect, cdb: Cdb) -> (Session, Expect, Vec<Part>) {
    let data = DataDir::In(client::ALLOCATION.into());
    (Session::Data, expect, vec![Part { cdb, data }])
}

fn reserve_out(session: Session, order: PrOut) -> (Session, Expect, Vec<Part>) {
    let (cdb, list) = order.emit();
    let data = DataDir::Out(vec![list]);
    (session, Expect::Nothing, vec![Part { cdb, data }])
}

/// Byte ranges as block ranges that the LUN takes.
struct Blocks(Limits);

impl Blocks {
    fn split(&self, offset: u64, len: u64, most: u64) -> Result<Vec<(u64, u32)>, LegError> {
        let block = u64::from(self.0.block_size);
        let refused = LegError::Refused(5, 0x21, 0);
        if !(512..=4096).contains(&block)
            || !offset.is_multiple_of(block)
            || !len.is_multiple_of(block)
            || len == 0
        {
            return Err(refused);
        }
        let (first, all, most) = (offset / block, len / block, most.clamp(1, u32::MAX.into()));
        (0..all.div_ceil(most))
            .map(|n| {
                let count = most.min(all - n * most);
                Ok((first + n * most, u32::try_from(count).map_err(|_| refused)?))
            })
            .collect()
    }

    fn transfer(&self) -> u64 {
        u64::from(self.0.transfer / self.0.block_size.max(1))
    }

    fn reads(&self, offset: u64, len: u32) -> Result<Vec<Part>, LegError> {
        let ranges = self.split(offset, len.into(), self.transfer())?;
        let part = |(lba, count): (u64, u32)| Part {
            cdb: client::read16(lba, count),
            data: DataDir::In(count * self.0.block_size),
        };
        Ok(ranges.into_iter().map(part).collect())
    }

    fn writes(
        &self,
        offset: u64,
        len: u32,
        how: Durability,
        payload: Vec<Bytes>,
    ) -> Result<Vec<Part>, LegError> {
        let ranges = self.split(offset, len.into(), self.transfer())?;
        if let [(lba, count)] = ranges[..] {
            let cdb = client::write16(lba, count, how);
            let data = DataDir::Out(payload);
            return Ok(vec![Part { cdb, data }]);
        }
        let mut rest = payload;
        let part = |(lba, count): (u64, u32)| Part {
            cdb: client::write16(lba, count, how),
            data: DataDir::Out(take_front(&mut rest, (count * self.0.block_size) as usize)),
        };
        Ok(ranges.into_iter().map(part).collect())
    }

    fn same(&self, offset: u64, len: u64, cdb: fn(u64, u32) -> Cdb) -> Result<Vec<Part>, LegError> {
        let ranges = self.split(offset, len, self.0.write_same.into())?;
        let zeros = Bytes::from_static(&ZEROS[..self.0.block_size as usize]);
        let part = |(lba, count): (u64, u32)| Part {
            cdb: cdb(lba, count),
            data: DataDir::Out(vec![zeros.clone()]),
        };
        Ok(ranges.into_iter().map(part).collect())
    }
}

/// The first `len` bytes of the pieces, which lose them.
pub(crate) fn take_front(pieces: &mut Vec<Bytes>, len: usize) -> Vec<Bytes> {
    let (mut taken, mut left) = (Vec::new(), len);
    let mut whole = 0;
    for piece in pieces.iter_mut() {
        if left == 0 {
            break;
        }
        if piece.len() <= left {
            left -= piece.len();
            taken.push(piece.clone());
            whole += 1;
        } else {
            taken.push(piece.split_to(left));
            left = 0;
        }
    }
    pieces.drain(..whole);
    taken
}

impl Open {
    /// Takes the answer to one part; gives the reply when it was the last one.
    pub(super) fn answered(
        &mut self,
        part: usize,
        outcome: ScsiOutcome,
    ) -> Option<(Result<LegReply, LegError>, Option<Arrived>)> {
        let result = verdict(&outcome).and_then(|()| match outcome.residual {
            // The variable answers are mostly shorter than what there was room for.
            Residual::Underflow(_) if !self.may_be_short() => Err(LegError::Hardware),
            _ => Ok(()),
        });
        match result {
            Ok(()) => self.keep(part, outcome.data_in),
            Err(error) => self.error = Some(self.error.map_or(error, |first| worse(first, error))),
        }
        self.part_ended()
    }

    /// The session is gone; whatever part of it was not answered may or may not have been executed.
    pub(super) fn lost(self) -> (CmdId, LegError) {
        (self.cmd, LegError::SessionGone)
    }

    fn may_be_short(&self) -> bool {
        !matches!(
            self.expect,
            Expect::Nothing | Expect::Data(..) | Expect::Meta | Expect::Digests(_)
        )
    }

    fn keep(&mut self, part: usize, data: Vec<Bytes>) {
        match &mut self.data {
            PartData::One(kept) => *kept = data,
            PartData::Several(parts) => {
                if let Some(kept) = parts.get_mut(part) {
                    *kept = data;
                }
            }
        }
    }

    fn part_ended(&mut self) -> Option<(Result<LegReply, LegError>, Option<Arrived>)> {
        self.parts_left = self.parts_left.saturating_sub(1);
        if self.parts_left > 0 {
            return None;
        }
        if let Some(error) = self.error {
            return Some((Err(error), None));
        }
        let pieces = match std::mem::replace(&mut self.data, PartData::One(Vec::new())) {
            PartData::One(pieces) => pieces,
            PartData::Several(parts) => parts.concat(),
        };
        Some(match self.expect {
            Expect::Nothing => (Ok(LegReply::Done), None),
            Expect::Data(destination, offset) => {
                let arrived = Arrived {
                    destination,
                    offset,
                    pieces,
                };
                (Ok(LegReply::Done), Some(arrived))
            }
            Expect::Meta => (Ok(LegReply::Meta(pieces.concat())), None),
            Expect::Digests(block) => {
                let digests = digests(block, pieces.iter().map(|piece| &piece[..]));
                (Ok(LegReply::Digests(digests)), None)
            }
            other => {
                let reply = parse(other, &pieces.concat());
                if reply.is_none() {
                    tracing::warn!(expected = ?other, "the answer of a LUN cannot be read");
                }
                (reply.ok_or(LegError::Hardware), None)
            }
        })
    }
}

/// Of the errors of several parts the one that tells most: a lost reservation before all, a retry last.
fn worse(first: LegError, second: LegError) -> LegError {
    let rank = |error| match error {
        LegError::Conflict | LegError::Preempted => 0,
        LegError::Retry => 2,
        _ => 1,
    };
    if rank(second) < rank(first) {
        second
    } else {
        first
    }
}

fn parse(expect: Expect, answer: &[u8]) -> Option<LegReply> {
    Some(match expect {
        Expect::Keys => {
            let keys = Keys::parse(answer).ok()?.keys;
            LegReply::Keys(keys.into_iter().map(Key::from_u64).collect())
        }
        Expect::Reservation => {
            let held = ReservationStatus::parse(answer).ok()?.reservation;
            LegReply::Reservation(held.map(|held| (Key::from_u64(held.key), held.kind.code())))
        }
        Expect::FullStatus => {
            let registrant = |entry: client::Registrant| Registrant {
                key: Key::from_u64(entry.key),
                holder: entry.holds.is_some(),
                kind: entry.holds.map_or(0, PrType::code),
            };
            let all = FullStatus::parse(answer).ok()?.registrants;
            LegReply::FullStatus(all.into_iter().map(registrant).collect())
        }
        Expect::Age => {
            let age = TargetAge::parse(answer)?;
            LegReply::Age(io::TargetAge {
                boot_id: age.boot_id,
                uptime: age.uptime,
                last_foreign: age.foreign_command,
            })
        }
        Expect::Nothing | Expect::Data(..) | Expect::Meta | Expect::Digests(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use twinsite_iscsi::scsi::Status;

    use super::*;

    const LIMITS: Limits = Limits {
        block_size: 4096,
        transfer: 8192,
        write_same: 4,
    };

    fn good(data_in: Vec<Bytes>) -> ScsiOutcome {
        ScsiOutcome {
            status: Status::Good,
            sense: None,
            data_in,
            residual: Residual::None,
        }
    }

    fn failed(status: Status) -> ScsiOutcome {
        ScsiOutcome {
            status,
            ..good(Vec::new())
        }
    }

    fn built(op: LegOp, payload: Vec<Bytes>) -> Built {
        build(CmdId(1), op, Session::Data, payload, LIMITS).unwrap_or_else(|_| panic!("builds"))
    }

    #[test]
    fn a_large_read_is_asked_for_in_parts_and_arrives_in_order() {
        let op = LegOp::ReadData {
            req: ReqId(7),
            offset: 40960,
            len: 20480,
        };
        let Built {
            mut open, parts, ..
        } = built(op, Vec::new());
        let cdbs: Vec<_> = parts.iter().map(|part| part.cdb).collect();
        let want = [
            client::read16(10, 2),
            client::read16(12, 2),
            client::read16(14, 1),
        ];
        assert_eq!(cdbs, want);
        assert!(
            open.answered(2, good(vec![Bytes::from_static(b"c")]))
                .is_none()
        );
        assert!(
            open.answered(0, good(vec![Bytes::from_static(b"a")]))
                .is_none()
        );
        let (reply, arrived) = open
            .answered(1, good(vec![Bytes::from_static(b"b")]))
            .unwrap();
        assert_eq!(reply, Ok(LegReply::Done));
        assert_eq!(arrived.unwrap().pieces.concat(), b"abc");
    }

    #[test]
    fn a_large_write_takes_each_byte_to_its_place() {
        let op = LegOp::WriteData {
            req: ReqId(7),
            skip: 0,
            offset: 0,
            len: 12288,
            fua: true,
        };
        let whole: Vec<u8> = (0..12288u32).map(|n| (n / 4096) as u8).collect();
        let payload = vec![
            Bytes::copy_from_slice(&whole[..5000]),
            Bytes::copy_from_slice(&whole[5000..]),
        ];
        let parts = built(op, payload).parts;
        let sent: Vec<Vec<u8>> = parts
            .iter()
            .map(|part| match &part.data {
                DataDir::Out(pieces) => pieces.concat(),
                _ => Vec::new(),
            })
            .collect();
        assert_eq!(sent, [whole[..8192].to_vec(), whole[8192..].to_vec()]);
    }

    #[test]
    fn a_reservation_conflict_of_one_part_is_the_answer() {
        let op = LegOp::Zero {
            offset: 0,
            len: 4096 * 9,
        };
        let Built {
            mut open, parts, ..
        } = built(op, Vec::new());
        assert_eq!(parts.len(), 3);
        assert!(open.answered(0, failed(Status::Busy)).is_none());
        assert!(
            open.answered(1, failed(Status::ReservationConflict))
                .is_none()
        );
        let (reply, _) = open.answered(2, good(Vec::new())).unwrap();
        assert_eq!(reply, Err(LegError::Conflict));
    }

    #[test]
    fn a_short_transfer_is_no_success() {
        let op = LegOp::ReadMeta {
            offset: 65536,
            len: 4096,
        };
        let mut open = built(op, Vec::new()).open;
        let mut outcome = good(vec![Bytes::from_static(&ZEROS)]);
        outcome.residual = Residual::Underflow(1);
        assert_eq!(
            open.answered(0, outcome).unwrap().0,
            Err(LegError::Hardware)
        );
    }

    #[test]
    fn ranges_between_blocks_are_refused() {
        for (offset, len) in [(1, 4096), (0, 4095), (0, 0), (512, 4096)] {
            let op = LegOp::Zero { offset, len };
            let result = build(CmdId(1), op, Session::Data, Vec::new(), LIMITS);
            assert!(result.is_err(), "{offset} {len}");
        }
    }
}
