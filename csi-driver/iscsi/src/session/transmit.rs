//! What goes to the socket: headers gathered with payloads, nothing copied that is large.
//!
//! Headers, digests, padding and small payloads are written one behind the other into shared blocks; large payloads are
//! queued as they are. A queued PDU is never split between two digest settings.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::digest::Digest;
use crate::wire::Header;

/// A run of bytes for the socket, to be sent in this order with one gathered send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transmit {
    pub pieces: Vec<Bytes>,
    /// Sum of the pieces' lengths.
    pub len: usize,
}

/// Most pieces and bytes in one `Transmit`: a send that a socket takes in a few steps.
const MAX_PIECES: usize = 128;
const MAX_BYTES: usize = 1024 * 1024;
/// Payloads up to this are copied beside their header: cheaper than one more piece.
const COPY_BELOW: usize = 256;
/// Headers are written into blocks of this size.
const BLOCK: usize = 16 * 1024;
/// What one PDU writes into a block besides its payload: header, padding, two digests.
const OVERHEAD: usize = 48 + 3 + 8;

#[derive(Debug)]
pub(crate) struct TransmitQueue {
    pieces: VecDeque<Bytes>,
    /// The unfinished last piece.
    block: BytesMut,
    len: usize,
    header_digest: bool,
    data_digest: bool,
}

impl TransmitQueue {
    pub(crate) fn new() -> Self {
        Self {
            pieces: VecDeque::new(),
            block: BytesMut::new(),
            len: 0,
            header_digest: false,
            data_digest: false,
        }
    }

    /// Holds from the next PDU on.
    pub(crate) fn set_digests(&mut self, header: bool, data: bool) {
        self.header_digest = header;
        self.data_digest = data;
    }

    /// Bytes queued.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Queues a PDU without data.
    pub(crate) fn push(&mut self, header: &Header) {
        self.header(header);
    }

    /// Queues a PDU with data from one buffer.
    pub(crate) fn push_data(&mut self, header: &Header, data: Bytes) {
        self.push_pieces(header, std::iter::once(data));
    }

    /// Queues a PDU whose data segment is these pieces together.
    pub(crate) fn push_pieces(&mut self, header: &Header, data: impl Iterator<Item = Bytes>) {
        self.header(header);
        let mut digest = Digest::default();
        let mut length = 0;
        for piece in data {
            if self.data_digest {
                digest.update(&piece);
            }
            length += piece.len();
            self.payload(piece);
        }
        if length == 0 {
            return;
        }
        let pad = &[0; 3][..length.next_multiple_of(4) - length];
        self.write(pad);
        if self.data_digest {
            digest.update(pad);
            self.write(&digest.wire());
        }
    }

    /// The next run of bytes.
    pub(crate) fn poll(&mut self) -> Option<Transmit> {
        if self.pieces.is_empty() && self.block.is_empty() {
            return None;
        }
        let mut out = Transmit {
            pieces: Vec::with_capacity((self.pieces.len() + 1).min(MAX_PIECES)),
            len: 0,
        };
        while out.pieces.len() < MAX_PIECES && out.len < MAX_BYTES {
            if self.pieces.is_empty() {
                self.seal();
            }
            let Some(piece) = self.pieces.pop_front() else {
                break;
            };
            out.len += piece.len();
            out.pieces.push(piece);
        }
        self.len -= out.len;
        Some(out)
    }

    fn header(&mut self, header: &Header) {
        if self.block.capacity() - self.block.len() < OVERHEAD {
            self.seal();
            self.block.reserve(BLOCK);
        }
        self.write(header);
        if self.header_digest {
            let mut digest = Digest::default();
            digest.update(header);
            self.write(&digest.wire());
        }
    }

    fn payload(&mut self, piece: Bytes) {
        if piece.len() <= COPY_BELOW {
            self.write(&piece);
        } else {
            self.seal();
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        self.block.extend_from_slice(bytes);
    }

    fn seal(&mut self) {
        if !self.block.is_empty() {
            self.pieces.push_back(self.block.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(queue: &mut TransmitQueue) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(transmit) = queue.poll() {
            let bytes = transmit.pieces.concat();
            assert_eq!(bytes.len(), transmit.len);
            out.extend(bytes);
        }
        assert_eq!(queue.len(), 0);
        out
    }

    #[test]
    fn headers_are_joined_and_large_payloads_are_not_copied() {
        let mut queue = TransmitQueue::new();
        let payload = Bytes::from(vec![7; 4096]);
        queue.push(&[1; 48]);
        queue.push_data(&[2; 48], payload.clone());
        queue.push_data(&[3; 48], Bytes::from_static(b"abcde"));
        assert_eq!(queue.len(), 48 + 48 + 4096 + 48 + 8);
        let transmit = queue.poll().unwrap();
        let lengths: Vec<usize> = transmit.pieces.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [96, 4096, 56]);
        assert_eq!(transmit.pieces[1].as_ptr(), payload.as_ptr());
        assert_eq!(&transmit.pieces[2][48..], b"abcde\0\0\0");
        assert_eq!(queue.poll(), None);
    }

    #[test]
    fn digests_cover_header_and_padded_data() {
        let mut queue = TransmitQueue::new();
        queue.set_digests(true, true);
        queue.push_pieces(
            &[0; 48],
            [Bytes::from_static(b"ab"), Bytes::from_static(b"c")].into_iter(),
        );
        queue.push(&[0; 48]);
        let out = drain(&mut queue);
        let header_sum = crc32c::crc32c(&[0; 48]).to_le_bytes();
        assert_eq!(out.len(), 52 + 8 + 52);
        assert_eq!(out[48..52], header_sum);
        assert_eq!(&out[52..56], b"abc\0");
        assert_eq!(out[56..60], crc32c::crc32c(b"abc\0").to_le_bytes());
        assert_eq!(out[108..], header_sum);
    }

    #[test]
    fn a_transmit_is_bounded() {
        let mut queue = TransmitQueue::new();
        for _ in 0..1000 {
            queue.push_data(&[0; 48], Bytes::from(vec![1; 300]));
        }
        let first = queue.poll().unwrap();
        assert_eq!(first.pieces.len(), MAX_PIECES);
        let rest = drain(&mut queue);
        assert_eq!(first.len + rest.len(), 1000 * 348);
        let big = Bytes::from(vec![0; 3 * MAX_BYTES / 4]);
        for _ in 0..4 {
            queue.push_data(&[0; 48], big.clone());
        }
        assert!(queue.poll().unwrap().len < 2 * MAX_BYTES);
    }
}
