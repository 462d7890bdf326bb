//! Takes consecutive runs of bytes out of a list of buffers without copying.

use bytes::Bytes;

/// A place in a list of buffers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    piece: usize,
    offset: usize,
}

impl Place {
    /// The next `count` bytes as slices, or fewer if the list ends before; the place moves behind them.
    pub(crate) fn take<'a>(
        &'a mut self,
        pieces: &'a [Bytes],
        count: usize,
    ) -> impl Iterator<Item = Bytes> + 'a {
        let mut left = count;
        std::iter::from_fn(move || {
            while left > 0 {
                let piece = pieces.get(self.piece)?;
                let step = (piece.len() - self.offset).min(left);
                let slice = piece.slice(self.offset..self.offset + step);
                self.offset += step;
                left -= step;
                if self.offset == piece.len() {
                    self.piece += 1;
                    self.offset = 0;
                }
                if step > 0 {
                    return Some(slice);
                }
            }
            None
        })
    }
}

/// Bytes in all buffers.
pub(crate) fn total(pieces: &[Bytes]) -> usize {
    pieces.iter().map(Bytes::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_follow_each_other_across_buffers() {
        let pieces = [
            Bytes::from_static(b"abc"),
            Bytes::new(),
            Bytes::from_static(b"defg"),
        ];
        assert_eq!(total(&pieces), 7);
        let mut place = Place::default();
        let mut next = |count| -> Vec<u8> { place.take(&pieces, count).flatten().collect() };
        assert_eq!(next(2), b"ab");
        assert_eq!(next(3), b"cde");
        assert_eq!(next(0), b"");
        assert_eq!(next(9), b"fg");
        assert_eq!(next(1), b"");
    }
}
