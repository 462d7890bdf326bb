//! The store operations of one command, one at a time.
//!
//! A job is stepped with the reply to its last operation and says what comes next. It holds at most one
//! operation under way, so a command is stopped by not stepping it again.
//!
//! Not here: failed operations (the unit ends the command), range locks (`tasks`).

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::config::STEP_BYTES;
use super::ended::{Ended, cut, joined, length_of, part};
use super::lba_map::LbaMap;
use super::store::{Intent, StoreOp, StoreReply};
use crate::scsi::{Code, Sense, SenseKey};

#[derive(Debug)]
pub(super) enum Job {
    /// Read, and give the first `keep` bytes to the initiator.
    Read {
        offset: u64,
        len: u64,
        keep: u64,
    },
    /// One operation; the command is good when it is done.
    One(Option<StoreOp>),
    /// Several, in order.
    Sequence(VecDeque<StoreOp>),
    /// A write that ends inside a block: the rest of that block is read and written back, then compared
    /// with the medium if it is to be verified.
    Patch {
        offset: u64,
        data: Vec<Bytes>,
        block: u64,
        fua: bool,
        verify: bool,
    },
    /// The same block over and over; `piece` is a whole number of them that divides `STEP_BYTES`.
    Fill {
        offset: u64,
        left: u64,
        piece: Bytes,
        fua: bool,
    },
    /// Fills everything from 0 to `size`, several times.
    Overwrite {
        at: u64,
        size: u64,
        passes: VecDeque<Bytes>,
    },
    /// Read and throw away: the medium is readable.
    Scan {
        offset: u64,
        left: u64,
    },
    /// Compare `data` with the medium, after `before` and, if it is equal, before `after`.
    Compare {
        before: Option<Box<StoreOp>>,
        offset: u64,
        data: Vec<Bytes>,
        done: u64,
        after: Option<Box<StoreOp>>,
    },
    /// Read, OR `data` onto it, write back.
    Or {
        offset: u64,
        data: Vec<Bytes>,
        fua: bool,
    },
    /// GET LBA STATUS.
    Map(Box<LbaMap>),
    Copy(VecDeque<Segment>),
}

/// One stretch of an extended copy, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) len: u64,
}

#[derive(Debug)]
pub(super) enum Step {
    Store(StoreOp),
    End(Ended),
}

/// What an operation is to a failure of the store.
pub(super) fn intent(op: &StoreOp) -> Intent {
    match op {
        StoreOp::Read { .. } | StoreOp::Map { .. } => Intent::Read,
        StoreOp::Write { .. }
        | StoreOp::WriteAtomic { .. }
        | StoreOp::Flush
        | StoreOp::Discard { .. }
        | StoreOp::WriteZeros { .. }
        | StoreOp::SavePr(_) => Intent::Write,
    }
}

impl Job {
    pub(super) fn write(offset: u64, data: Vec<Bytes>, fua: bool) -> Self {
        Self::One(Some(StoreOp::Write { offset, data, fua }))
    }

    /// A write, compared with the medium afterwards if it is to be verified.
    pub(super) fn write_all(offset: u64, data: Vec<Bytes>, fua: bool, verify: bool) -> Self {
        if !verify {
            return Self::write(offset, data, fua);
        }
        let before = Some(Box::new(StoreOp::Write {
            offset,
            data: data.clone(),
            fua,
        }));
        Self::Compare {
            before,
            offset,
            data,
            done: 0,
            after: None,
        }
    }

    pub(super) fn flush() -> Self {
        Self::One(Some(StoreOp::Flush))
    }

    pub(super) fn start(&mut self) -> Step {
        match self {
            Self::Read { offset, len, .. } => read(*offset, *len),
            Self::One(op) => op.take().map_or(Step::End(Ended::good()), Step::Store),
            Self::Sequence(ops) => ops
                .pop_front()
                .map_or(Step::End(Ended::good()), Step::Store),
            Self::Patch {
                offset,
                data,
                block,
                ..
            } => {
                let whole = length_of(data) / *block * *block;
                read(*offset + whole, *block)
            }
            Self::Fill {
                offset,
                left,
                piece,
                fua,
            } => fill(offset, left, piece, *fua),
            Self::Overwrite { at, size, passes } => overwrite(at, *size, passes),
            Self::Scan { offset, left } => scan(*offset, *left),
            Self::Compare { before, .. } if before.is_some() => self.start_before(),
            Self::Compare {
                offset,
                data,
                done,
                after,
                ..
            } => compare_next(*offset, data, *done, after),
            Self::Or { offset, data, .. } => read(*offset, length_of(data)),
            Self::Map(map) => map.start(),
            Self::Copy(segments) => copy_read(segments),
        }
    }

    fn start_before(&mut self) -> Step {
        match self {
            Self::Compare { before, .. } => {
                let before = before.take();
                before.map_or(Step::End(Ended::good()), |op| Step::Store(*op))
            }
            _ => Step::End(Ended::good()),
        }
    }

    /// The last operation is done.
    pub(super) fn resume(&mut self, reply: StoreReply) -> Step {
        match self {
            Self::Read { len, keep, .. } => match data_of(reply, *len) {
                Ok(mut data) => {
                    cut(&mut data, *keep);
                    Step::End(Ended {
                        data_in: data,
                        ..Ended::good()
                    })
                }
                Err(wrong) => wrong,
            },
            Self::One(_) | Self::Sequence(_) => self.start(),
            Self::Patch {
                offset,
                data,
                block,
                fua,
                verify,
            } => match data_of(reply, *block) {
                Ok(last) => {
                    let inside = length_of(data) % *block;
                    let mut data = std::mem::take(data);
                    data.extend(part(&last, inside, *block - inside));
                    *self = Self::write_all(*offset, data, *fua, *verify);
                    self.start()
                }
                Err(wrong) => wrong,
            },
            Self::Fill {
                offset,
                left,
                piece,
                fua,
            } => fill(offset, left, piece, *fua),
            Self::Overwrite { at, size, passes } => overwrite(at, *size, passes),
            Self::Scan { offset, left } => {
                let step = STEP_BYTES.min(*left);
                if let Err(wrong) = data_of(reply, step) {
                    return wrong;
                }
                *offset += step;
                *left -= step;
                scan(*offset, *left)
            }
            Self::Compare {
                offset,
                data,
                done,
                after,
                ..
            } => {
                if let StoreReply::Data(medium) = reply {
                    let step = compare_step(data, *done);
                    let medium = match data_of(StoreReply::Data(medium), step) {
                        Ok(medium) => medium,
                        Err(wrong) => return wrong,
                    };
                    if let Some(at) = first_difference(&part(data, *done, step), &medium) {
                        return Step::End(Ended::check(miscompare(*done + at)));
                    }
                    *done += step;
                }
                compare_next(*offset, data, *done, after)
            }
            Self::Or { offset, data, fua } => match data_of(reply, length_of(data)) {
                Ok(medium) => {
                    let op = StoreOp::Write {
                        offset: *offset,
                        data: vec![or(&medium, data)],
                        fua: *fua,
                    };
                    *self = Self::One(None);
                    Step::Store(op)
                }
                Err(wrong) => wrong,
            },
            Self::Map(map) => map.resume(reply),
            Self::Copy(segments) => copy_resume(segments, reply),
        }
    }

    /// Steps taken so far and in all, in 65536ths, for the long jobs of SANITIZE.
    pub(super) fn progress(&self, total: u64) -> u16 {
        let left = match self {
            Self::Overwrite { at, size, passes } => {
                (*size - *at) + *size * (passes.len() as u64).saturating_sub(1)
            }
            Self::Sequence(ops) => ops.iter().map(length).sum(),
            _ => 0,
        };
        let done = u128::from(total.saturating_sub(left)) * 0xFFFF / u128::from(total.max(1));
        u16::try_from(done).unwrap_or(u16::MAX)
    }
}

fn length(op: &StoreOp) -> u64 {
    match op {
        StoreOp::Read { len, .. }
        | StoreOp::Discard { len, .. }
        | StoreOp::WriteZeros { len, .. }
        | StoreOp::Map { len, .. } => *len,
        StoreOp::Write { data, .. } | StoreOp::WriteAtomic { data, .. } => length_of(data),
        StoreOp::Flush | StoreOp::SavePr(_) => 0,
    }
}

fn read(offset: u64, len: u64) -> Step {
    if len == 0 {
        Step::End(Ended::good())
    } else {
        Step::Store(StoreOp::Read { offset, len })
    }
}

/// The data of a reply, which must be all that was asked for.
fn data_of(reply: StoreReply, len: u64) -> Result<Vec<Bytes>, Step> {
    match reply {
        StoreReply::Data(data) if length_of(&data) == len => Ok(data),
        StoreReply::Data(_) | StoreReply::Extents(_) | StoreReply::Done => {
            Err(Step::End(Ended::check(Sense::new(
                SenseKey::HardwareError,
                Code::INTERNAL_TARGET_FAILURE,
            ))))
        }
    }
}

fn fill(offset: &mut u64, left: &mut u64, piece: &Bytes, fua: bool) -> Step {
    let step = STEP_BYTES.min(*left);
    if step == 0 {
        return Step::End(Ended::good());
    }
    let size = piece.len() as u64;
    let mut data = vec![piece.clone(); step.div_ceil(size) as usize];
    cut(&mut data, step);
    let op = StoreOp::Write {
        offset: *offset,
        data,
        fua,
    };
    *offset += step;
    *left -= step;
    Step::Store(op)
}

fn overwrite(at: &mut u64, size: u64, passes: &mut VecDeque<Bytes>) -> Step {
    if *at == size {
        *at = 0;
        passes.pop_front();
    }
    let mut left = size - *at;
    match passes.front() {
        Some(piece) => fill(at, &mut left, piece, false),
        None => Step::End(Ended::good()),
    }
}

fn scan(offset: u64, left: u64) -> Step {
    read(offset, STEP_BYTES.min(left))
}

fn compare_step(data: &[Bytes], done: u64) -> u64 {
    STEP_BYTES.min(length_of(data) - done)
}

fn compare_next(offset: u64, data: &[Bytes], done: u64, after: &mut Option<Box<StoreOp>>) -> Step {
    match compare_step(data, done) {
        0 => after
            .take()
            .map_or(Step::End(Ended::good()), |op| Step::Store(*op)),
        step => read(offset + done, step),
    }
}

fn miscompare(at: u64) -> Sense {
    Sense::new(SenseKey::Miscompare, Code::MISCOMPARE_DURING_VERIFY).with_information(at)
}

/// Where two gather lists of the same length first differ.
fn first_difference(left: &[Bytes], right: &[Bytes]) -> Option<u64> {
    let (mut left, mut right) = (left.iter(), right.iter());
    let (mut a, mut b): (&[u8], &[u8]) = (&[], &[]);
    let mut at = 0;
    loop {
        while a.is_empty() {
            a = left.next()?;
        }
        while b.is_empty() {
            b = right.next()?;
        }
        let step = a.len().min(b.len());
        if a[..step] != b[..step] {
            let inside = a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(0);
            return Some(at + inside as u64);
        }
        at += step as u64;
        a = &a[step..];
        b = &b[step..];
    }
}

fn or(medium: &[Bytes], data: &[Bytes]) -> Bytes {
    let mut out = BytesMut::with_capacity(length_of(medium) as usize);
    medium.iter().for_each(|piece| out.extend_from_slice(piece));
    let data = joined(data);
    out.iter_mut()
        .zip(data.iter())
        .for_each(|(to, from)| *to |= from);
    out.freeze()
}

fn copy_read(segments: &VecDeque<Segment>) -> Step {
    match segments.front() {
        Some(segment) => read(segment.from, STEP_BYTES.min(segment.len)),
        None => Step::End(Ended::good()),
    }
}

fn copy_resume(segments: &mut VecDeque<Segment>, reply: StoreReply) -> Step {
    let Some(segment) = segments.front_mut() else {
        return Step::End(Ended::good());
    };
    let step = STEP_BYTES.min(segment.len);
    if matches!(reply, StoreReply::Data(_)) {
        return match data_of(reply, step) {
            Ok(data) => Step::Store(StoreOp::Write {
                offset: segment.to,
                data,
                fua: false,
            }),
            Err(wrong) => wrong,
        };
    }
    segment.from += step;
    segment.to += step;
    segment.len -= step;
    if segment.len == 0 {
        segments.pop_front();
    }
    copy_read(segments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn the_first_difference_is_found_across_pieces() {
        let left = [bytes("ab"), bytes("cdef")];
        assert_eq!(
            first_difference(&left, &[bytes("abc"), bytes(""), bytes("def")]),
            None
        );
        assert_eq!(
            first_difference(&left, &[bytes("abc"), bytes("dxf")]),
            Some(4)
        );
        assert_eq!(first_difference(&left, &[bytes("xbcdef")]), Some(0));
        assert_eq!(first_difference(&[], &[]), None);
    }

    #[test]
    fn a_fill_ends_with_the_rest_of_a_step() {
        let mut job = Job::Fill {
            offset: 4096,
            left: STEP_BYTES + 4096,
            piece: Bytes::from(vec![7; 65536]),
            fua: true,
        };
        let mut seen = Vec::new();
        let mut step = job.start();
        while let Step::Store(StoreOp::Write { offset, data, fua }) = step {
            seen.push((offset, length_of(&data), fua));
            step = job.resume(StoreReply::Done);
        }
        assert_eq!(
            seen,
            [(4096, STEP_BYTES, true), (4096 + STEP_BYTES, 4096, true)]
        );
    }

    #[test]
    fn a_short_reply_of_the_store_is_a_hardware_error() {
        let mut job = Job::Read {
            offset: 0,
            len: 4096,
            keep: 4096,
        };
        job.start();
        let Step::End(ended) = job.resume(StoreReply::Data(vec![bytes("short")])) else {
            panic!("ended")
        };
        assert_eq!(
            ended.sense.map(|sense| sense.key),
            Some(SenseKey::HardwareError)
        );
    }
}
