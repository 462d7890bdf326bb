//! How a command ended, before its data is fitted to what the initiator expects.

use bytes::{Bytes, BytesMut};

use crate::scsi::{
    Code, Expected, Residual, ScsiOutcome, Sense, SenseFormat, SenseKey, Specific, Status,
};

/// Which way the data of a command goes, and how much of it the CDB means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meant {
    None,
    /// As much as the data in.
    In,
    /// So much in, of which only what is expected was fetched.
    Read(u64),
    Out(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) status: Status,
    pub(super) sense: Option<Sense>,
    pub(super) data_in: Vec<Bytes>,
}

impl Ended {
    pub(super) fn status(status: Status) -> Self {
        Self {
            status,
            sense: None,
            data_in: Vec::new(),
        }
    }

    pub(super) fn good() -> Self {
        Self::status(Status::Good)
    }

    pub(super) fn conflict() -> Self {
        Self::status(Status::ReservationConflict)
    }

    pub(super) fn check(sense: Sense) -> Self {
        Self {
            status: Status::CheckCondition,
            sense: Some(sense),
            data_in: Vec::new(),
        }
    }

    /// Parameter data, cut to the allocation length.
    pub(super) fn data(mut data: BytesMut, allocation: u64) -> Self {
        data.truncate(usize::try_from(allocation).unwrap_or(usize::MAX));
        Self {
            status: Status::Good,
            sense: None,
            data_in: vec![data.freeze()],
        }
    }

    /// Cuts the data to what is expected and says what is left over. A failed command moved nothing
    /// that counts: its residual is all of what was expected.
    pub(super) fn fit(
        mut self,
        meant: Meant,
        expected: Expected,
        format: SenseFormat,
    ) -> ScsiOutcome {
        if let Some(sense) = &mut self.sense {
            sense.format = format;
        }
        let done = matches!(self.status, Status::Good | Status::ConditionMet);
        let residual = match (done, meant, expected) {
            (false, ..) | (true, Meant::None, _) => Residual::of(0, expected.length()),
            (true, Meant::In, Expected::In(length)) => {
                Residual::of(length_of(&self.data_in), length)
            }
            (true, Meant::In, Expected::None) => Residual::of(length_of(&self.data_in), 0),
            (true, Meant::Read(meant), Expected::In(length)) => Residual::of(meant, length),
            (true, Meant::Read(meant), Expected::None) => Residual::of(meant, 0),
            (true, Meant::In | Meant::Read(_), Expected::Out(length)) => Residual::of(0, length),
            (true, Meant::Out(meant), Expected::Out(length)) => Residual::of(meant, length),
            (true, Meant::Out(meant), Expected::None) => Residual::of(meant, 0),
            (true, Meant::Out(_), Expected::In(length)) => Residual::of(0, length),
        };
        let room = match expected {
            Expected::In(length) => u64::from(length),
            Expected::None | Expected::Out(_) => 0,
        };
        cut(&mut self.data_in, room);
        ScsiOutcome {
            status: self.status,
            sense: self.sense,
            data_in: self.data_in,
            residual,
        }
    }
}

/// ILLEGAL REQUEST, INVALID FIELD IN CDB, pointing at a byte of it.
pub(super) fn bad_cdb(byte: u16) -> Sense {
    Sense::illegal(Code::INVALID_FIELD_IN_CDB).with_specific(Specific::CdbField { byte, bit: None })
}

/// ILLEGAL REQUEST, INVALID FIELD IN PARAMETER LIST, pointing at a byte of it.
pub(super) fn bad_list(byte: usize) -> Sense {
    let byte = u16::try_from(byte).unwrap_or(u16::MAX);
    Sense::illegal(Code::INVALID_FIELD_IN_PARAMETER_LIST)
        .with_specific(Specific::ListField { byte, bit: None })
}

pub(super) fn short_list() -> Sense {
    Sense::illegal(Code::PARAMETER_LIST_LENGTH_ERROR)
}

pub(super) fn write_protected() -> Sense {
    Sense::new(SenseKey::DataProtect, Code::WRITE_PROTECTED)
}

pub(super) fn length_of(pieces: &[Bytes]) -> u64 {
    pieces.iter().map(|piece| piece.len() as u64).sum()
}

/// Keeps the first `length` bytes of a gather list.
pub(super) fn cut(pieces: &mut Vec<Bytes>, length: u64) {
    let mut left = length;
    pieces.retain_mut(|piece| {
        let keep = (piece.len() as u64).min(left);
        piece.truncate(keep as usize);
        left -= keep;
        keep > 0
    });
}

/// The `length` bytes of a gather list from `offset` on, sharing its memory.
pub(super) fn part(pieces: &[Bytes], offset: u64, length: u64) -> Vec<Bytes> {
    let mut skip = offset;
    let mut left = length;
    let mut out = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let size = piece.len() as u64;
        if skip >= size {
            skip -= size;
            continue;
        }
        let take = (size - skip).min(left);
        if take == 0 {
            break;
        }
        out.push(piece.slice(skip as usize..(skip + take) as usize));
        skip = 0;
        left -= take;
    }
    out
}

/// One contiguous piece of a gather list; parameter lists are short.
pub(super) fn joined(pieces: &[Bytes]) -> Bytes {
    match pieces {
        [] => Bytes::new(),
        [one] => one.clone(),
        many => many
            .iter()
            .fold(BytesMut::new(), |mut all, piece| {
                all.extend_from_slice(piece);
                all
            })
            .freeze(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces() -> Vec<Bytes> {
        vec![
            Bytes::from_static(b"abc"),
            Bytes::new(),
            Bytes::from_static(b"defgh"),
            Bytes::from_static(b"i"),
        ]
    }

    #[test]
    fn a_gather_list_is_cut_and_taken_in_parts() {
        for (length, want) in [
            (0, ""),
            (2, "ab"),
            (3, "abc"),
            (5, "abcde"),
            (9, "abcdefghi"),
            (99, "abcdefghi"),
        ] {
            let mut all = pieces();
            cut(&mut all, length);
            assert_eq!(&joined(&all)[..], want.as_bytes());
        }
        assert_eq!(&joined(&part(&pieces(), 2, 3))[..], b"cde");
        assert_eq!(&joined(&part(&pieces(), 8, 9))[..], b"i");
        assert_eq!(&joined(&part(&pieces(), 9, 9))[..], b"");
        assert_eq!(&joined(&part(&pieces(), 0, 0))[..], b"");
    }

    #[test]
    fn residuals_are_counted_both_ways() {
        let read = |expected| {
            let ended = Ended::data(BytesMut::from(&[7; 10][..]), 10);
            let outcome = ended.fit(Meant::In, expected, SenseFormat::Fixed);
            (length_of(&outcome.data_in), outcome.residual)
        };
        assert_eq!(read(Expected::In(10)), (10, Residual::None));
        assert_eq!(read(Expected::In(4)), (4, Residual::Overflow(6)));
        assert_eq!(read(Expected::In(14)), (10, Residual::Underflow(4)));
        assert_eq!(read(Expected::None), (0, Residual::Overflow(10)));
        assert_eq!(read(Expected::Out(5)), (0, Residual::Underflow(5)));
        let write = |meant, expected| {
            Ended::good()
                .fit(Meant::Out(meant), expected, SenseFormat::Fixed)
                .residual
        };
        assert_eq!(write(10, Expected::Out(10)), Residual::None);
        assert_eq!(write(10, Expected::Out(4)), Residual::Overflow(6));
        assert_eq!(write(4, Expected::Out(10)), Residual::Underflow(6));
        assert_eq!(write(4, Expected::None), Residual::Overflow(4));
        let failed = Ended::conflict().fit(Meant::Out(4), Expected::Out(8), SenseFormat::Fixed);
        assert_eq!(failed.residual, Residual::Underflow(8));
    }
}
