//! Cuts the byte stream into PDUs: header, additional header segments, data, padding, digests.
//!
//! Bytes come in any split. Data segments go out as slices of what came in, so a large segment is never
//! copied; small chunks are gathered into one buffer, so that a peer that trickles bytes pins little.
//!
//! Invariants: a length beyond the limits is an error as soon as the header is there, so the framer never
//! holds more than one PDU of the allowed size and one chunk; after an error it gives nothing more.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

use super::{HEADER, Header, ahs_length, data_segment_length};
use crate::digest::Digest;

/// Chunks below this are copied together while a PDU is incomplete.
const SMALL_CHUNK: usize = 1024;
const DIGEST: usize = 4;

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    #[error("header digest does not match")]
    HeaderDigest,
    #[error("data segment of {length} bytes where at most {limit} are allowed")]
    SegmentTooLong { length: u32, limit: u32 },
    #[error("additional header segments of {length} bytes where at most {limit} are allowed")]
    HeaderTooLong { length: u32, limit: u32 },
}

/// Which lengths are allowed and which digests are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    pub max_segment: u32,
    pub max_ahs: u32,
    pub header_digest: bool,
    pub data_digest: bool,
}

/// One PDU. Additional header segments are checked and left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pdu {
    pub header: Header,
    /// The data segment without padding.
    pub data: Vec<Bytes>,
    pub data_len: u32,
    /// The data digest, if there is one, matches.
    pub intact: bool,
}

#[derive(Debug)]
enum Stage {
    Header,
    /// The header is there; additional segments and the digest are awaited.
    Extension(Header),
    Data(Header),
    Failed(FrameError),
}

#[derive(Debug)]
pub struct Framer {
    framing: Framing,
    stage: Stage,
    /// Bytes not yet consumed: `head`, then `rest`, then `tail`; `len` in all.
    head: Bytes,
    rest: VecDeque<Bytes>,
    tail: BytesMut,
    len: usize,
}

impl Framer {
    pub fn new(framing: Framing) -> Self {
        Self {
            framing,
            stage: Stage::Header,
            head: Bytes::new(),
            rest: VecDeque::new(),
            tail: BytesMut::new(),
            len: 0,
        }
    }

    /// Holds from the next PDU on.
    pub fn set_framing(&mut self, framing: Framing) {
        self.framing = framing;
    }

    /// Bytes held that are not yet part of a PDU given out.
    pub fn buffered(&self) -> usize {
        self.len
    }

    pub fn push(&mut self, bytes: Bytes) {
        if matches!(self.stage, Stage::Failed(_)) {
            return;
        }
        self.len += bytes.len();
        let whole = bytes.len() >= SMALL_CHUNK || matches!(self.stage, Stage::Header);
        if self.len == bytes.len() && whole {
            self.head = bytes;
        } else if bytes.len() < SMALL_CHUNK {
            self.tail.extend_from_slice(&bytes);
        } else {
            self.seal_tail();
            self.rest.push_back(bytes);
        }
    }

    /// The next whole PDU.
    pub fn next_pdu(&mut self) -> Result<Option<Pdu>, FrameError> {
        loop {
            match self.stage {
                Stage::Header => {
                    if self.len < HEADER {
                        self.release_head();
                        return Ok(None);
                    }
                    let header = self.take_header();
                    self.check_lengths(&header)?;
                    self.stage = if header[4] == 0 && !self.framing.header_digest {
                        Stage::Data(header)
                    } else {
                        Stage::Extension(header)
                    };
                }
                Stage::Extension(header) => {
                    let digest = if self.framing.header_digest {
                        DIGEST
                    } else {
                        0
                    };
                    if self.len < ahs_length(&header) as usize + digest {
                        return Ok(None);
                    }
                    self.take_extension(&header)?;
                    self.stage = Stage::Data(header);
                }
                Stage::Data(header) => {
                    let length = data_segment_length(&header) as usize;
                    if self.len < length + self.trailer(length) {
                        return Ok(None);
                    }
                    self.stage = Stage::Header;
                    return Ok(Some(self.take_data(header)));
                }
                Stage::Failed(error) => return Err(error),
            }
        }
    }

    fn fail<T>(&mut self, error: FrameError) -> Result<T, FrameError> {
        self.stage = Stage::Failed(error);
        self.head = Bytes::new();
        self.rest.clear();
        self.tail.clear();
        self.len = 0;
        Err(error)
    }

    fn check_lengths(&mut self, header: &Header) -> Result<(), FrameError> {
        let (length, limit) = (data_segment_length(header), self.framing.max_segment);
        if length > limit {
            return self.fail(FrameError::SegmentTooLong { length, limit });
        }
        let (length, limit) = (ahs_length(header), self.framing.max_ahs);
        if length > limit {
            return self.fail(FrameError::HeaderTooLong { length, limit });
        }
        Ok(())
    }

    /// Bytes behind a data segment: padding to four bytes and the digest.
    fn trailer(&self, length: usize) -> usize {
        if length == 0 {
            return 0;
        }
        let digest = if self.framing.data_digest { DIGEST } else { 0 };
        length.next_multiple_of(4) - length + digest
    }

    fn take_header(&mut self) -> Header {
        let mut header = [0; HEADER];
        self.take(HEADER, |at, chunk| {
            header[at..at + chunk.len()].copy_from_slice(chunk);
        });
        header
    }

    fn take_extension(&mut self, header: &Header) -> Result<(), FrameError> {
        let mut digest = Digest::default();
        if self.framing.header_digest {
            digest.update(header);
        }
        let checked = self.framing.header_digest;
        self.take(ahs_length(header) as usize, |_, chunk| {
            if checked {
                digest.update(chunk);
            }
        });
        if checked && self.take_digest() != digest.wire() {
            return self.fail(FrameError::HeaderDigest);
        }
        Ok(())
    }

    fn take_data(&mut self, header: Header) -> Pdu {
        let data_len = data_segment_length(&header);
        let length = data_len as usize;
        let mut pdu = Pdu {
            header,
            data: Vec::new(),
            data_len,
            intact: true,
        };
        if length == 0 {
            return pdu;
        }
        self.take_slices(length, &mut pdu.data);
        let mut pad = Digest::default();
        if self.framing.data_digest {
            for piece in &pdu.data {
                pad.update(piece);
            }
        }
        let checked = self.framing.data_digest;
        self.take(length.next_multiple_of(4) - length, |_, chunk| {
            if checked {
                pad.update(chunk);
            }
        });
        if checked {
            pdu.intact = self.take_digest() == pad.wire();
        }
        pdu
    }

    fn take_digest(&mut self) -> [u8; DIGEST] {
        let mut digest = [0; DIGEST];
        self.take(DIGEST, |at, chunk| {
            digest[at..at + chunk.len()].copy_from_slice(chunk);
        });
        digest
    }

    /// Consumes `count` bytes that are known to be there, showing them chunk by chunk.
    fn take(&mut self, count: usize, mut see: impl FnMut(usize, &[u8])) {
        let mut done = 0;
        while done < count {
            self.refill();
            let step = self.head.len().min(count - done);
            see(done, &self.head[..step]);
            self.head.advance(step);
            done += step;
        }
        self.len -= count;
    }

    /// Consumes `count` bytes that are known to be there as slices.
    fn take_slices(&mut self, count: usize, out: &mut Vec<Bytes>) {
        let mut left = count;
        while left > 0 {
            self.refill();
            let step = self.head.len().min(left);
            out.push(self.head.split_to(step));
            left -= step;
        }
        self.len -= count;
    }

    fn refill(&mut self) {
        while self.head.is_empty() {
            if self.rest.is_empty() {
                self.seal_tail();
            }
            match self.rest.pop_front() {
                Some(next) => self.head = next,
                // Callers ask for bytes that `len` says are there.
                None => unreachable!("framer length and chunks disagree"),
            }
        }
    }

    fn seal_tail(&mut self) {
        if !self.tail.is_empty() {
            self.rest.push_back(self.tail.split().freeze());
        }
    }

    /// Copies the start of a header aside, so that it does not pin the receive buffer until the rest comes.
    fn release_head(&mut self) {
        if self.rest.is_empty() && self.tail.is_empty() {
            self.tail.extend_from_slice(&self.head);
            self.head = Bytes::new();
        }
    }
}

#[cfg(test)]
mod tests;
