//! The pieces of one gathered write or send, and how far the kernel has got with them.

use bytes::{Buf, Bytes};

/// Linux refuses longer vectors.
const MAX_VECTOR: usize = 1024;

/// Pieces in order; [`Gather::advance`] drops what was taken.
#[derive(Debug)]
pub(super) struct Gather {
    pieces: Vec<Bytes>,
    first: usize,
    vector: Vec<libc::iovec>,
}

impl Gather {
    pub(super) fn new(pieces: Vec<Bytes>) -> Self {
        let mut gather = Self {
            pieces,
            first: 0,
            vector: Vec::new(),
        };
        gather.skip_empty();
        gather
    }

    pub(super) fn is_done(&self) -> bool {
        self.first == self.pieces.len()
    }

    /// The vector of what is left, up to the kernel's limit. It points into the pieces and stays where it is until the next call.
    pub(super) fn vector(&mut self) -> &mut [libc::iovec] {
        self.vector.clear();
        self.vector.extend(
            self.pieces[self.first..]
                .iter()
                .take(MAX_VECTOR)
                .map(|piece| libc::iovec {
                    iov_base: piece.as_ptr().cast_mut().cast(),
                    iov_len: piece.len(),
                }),
        );
        &mut self.vector
    }

    /// The kernel took `taken` bytes.
    pub(super) fn advance(&mut self, mut taken: usize) {
        while taken > 0 && self.first < self.pieces.len() {
            let piece = &mut self.pieces[self.first];
            let step = taken.min(piece.len());
            piece.advance(step);
            taken -= step;
            self.skip_empty();
        }
    }

    /// What was not taken.
    pub(super) fn into_rest(mut self) -> Vec<Bytes> {
        self.pieces.split_off(self.first)
    }

    fn skip_empty(&mut self) {
        while self.pieces.get(self.first).is_some_and(Bytes::is_empty) {
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_progress_leaves_exactly_the_rest() {
        let mut gather = Gather::new(vec![
            Bytes::new(),
            Bytes::from_static(b"abc"),
            Bytes::new(),
            Bytes::from_static(b"defg"),
        ]);
        assert_eq!(
            gather
                .vector()
                .iter()
                .map(|v| v.iov_len)
                .collect::<Vec<_>>(),
            [3, 0, 4]
        );
        gather.advance(2);
        assert_eq!(
            gather
                .vector()
                .iter()
                .map(|v| v.iov_len)
                .collect::<Vec<_>>(),
            [1, 0, 4]
        );
        gather.advance(4);
        assert_eq!(
            gather
                .vector()
                .iter()
                .map(|v| v.iov_len)
                .collect::<Vec<_>>(),
            [1]
        );
        assert!(!gather.is_done());
        gather.advance(1);
        assert!(gather.is_done());
    }
}
