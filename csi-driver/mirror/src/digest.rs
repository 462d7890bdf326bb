//! What two legs are compared by: one number per block, so that the bytes need not travel together.
//!
//! Every step is a bijection of the state for a given word and of the word for a given state, in four lanes that do not wait
//! for each other. So two blocks of one length that differ in one lane only (a flipped bit, a torn word) never have the same
//! digest, and others have with a chance of 2^-64. It finds damage; it is no defence against somebody who wants to be missed.

/// Digests of the blocks of a range, from its bytes as they come.
#[derive(Clone, Debug)]
struct Digester {
    block: usize,
    /// Bytes of the present block so far.
    filled: usize,
    lanes: [u64; 4],
    /// Bytes that do not fill a stride yet.
    carry: [u8; STRIDE],
    done: Vec<u64>,
}

/// Four words.
const STRIDE: usize = 32;
/// Odd, with their bits well spread.
const FACTORS: [u64; 4] = [
    0x9e37_79b9_7f4a_7c15,
    0xbf58_476d_1ce4_e5b9,
    0x94d0_49bb_1331_11eb,
    0xd6e8_feb8_6659_fd93,
];

const fn mix(state: u64, word: u64, factor: u64) -> u64 {
    let mixed = (state ^ word).wrapping_mul(factor);
    mixed ^ (mixed >> 29)
}

impl Digester {
    /// `block`: bytes that one number stands for, at least 1; the last block of a range may be shorter.
    fn new(block: u32) -> Self {
        Self {
            block: block.max(1) as usize,
            filled: 0,
            lanes: FACTORS,
            carry: [0; STRIDE],
            done: Vec::new(),
        }
    }

    /// The next bytes of the range.
    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.block - self.filled;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.absorb(now);
            self.filled += now.len();
            if self.filled == self.block {
                self.end_block();
            }
            bytes = later;
        }
    }

    /// Of every block, in order.
    fn finish(mut self) -> Vec<u64> {
        if self.filled > 0 {
            self.end_block();
        }
        self.done
    }

    fn absorb(&mut self, mut bytes: &[u8]) {
        let held = self.filled % STRIDE;
        if held > 0 {
            let take = (STRIDE - held).min(bytes.len());
            self.carry[held..held + take].copy_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if held + take < STRIDE {
                return;
            }
            let full = self.carry;
            self.stride(&full);
        }
        let (strides, rest) = bytes.as_chunks::<STRIDE>();
        for stride in strides {
            self.stride(stride);
        }
        self.carry[..rest.len()].copy_from_slice(rest);
    }

    fn stride(&mut self, bytes: &[u8; STRIDE]) {
        let (words, _) = bytes.as_chunks::<8>();
        for ((lane, word), factor) in self.lanes.iter_mut().zip(words).zip(FACTORS) {
            *lane = mix(*lane, u64::from_le_bytes(*word), factor);
        }
    }

    fn end_block(&mut self) {
        let held = self.filled % STRIDE;
        if held > 0 {
            let mut last = [0; STRIDE];
            last[..held].copy_from_slice(&self.carry[..held]);
            self.stride(&last);
        }
        let length = self.filled as u64;
        let digest = self
            .lanes
            .iter()
            .fold(length, |all, lane| mix(all, *lane, FACTORS[0]));
        self.done.push(digest);
        (self.filled, self.lanes) = (0, FACTORS);
    }
}

/// Digests of a range that is at hand in pieces.
pub fn digests<'a>(block: u32, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u64> {
    let mut digester = Digester::new(block);
    for piece in pieces {
        digester.update(piece);
    }
    digester.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|n| (n * 7 % 251) as u8).collect()
    }

    #[test]
    fn the_same_bytes_have_the_same_digests_however_they_come() {
        let all = bytes(3 * 4096 + 512);
        let whole = digests(4096, [&all[..]]);
        assert_eq!(whole.len(), 4);
        for cut in [1, 7, 31, 32, 33, 512, 4095, 4097] {
            assert_eq!(digests(4096, all.chunks(cut)), whole, "pieces of {cut}");
        }
        assert_eq!(digests(4096, []), [0_u64; 0]);
    }

    #[test]
    fn every_flipped_bit_of_a_block_is_seen_and_only_in_its_block() {
        let mut all = bytes(2 * 4096);
        let before = digests(4096, [&all[..]]);
        for bit in 0..4096 * 8 {
            all[4096 + bit / 8] ^= 1 << (bit % 8);
            let after = digests(4096, [&all[..]]);
            assert_eq!(after[0], before[0]);
            assert_ne!(after[1], before[1], "bit {bit}");
            all[4096 + bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn swapped_blocks_words_and_lengths_are_told_apart() {
        let all = bytes(64);
        let swapped = [&all[8..16], &all[..8], &all[16..]].concat();
        assert_ne!(digests(64, [&all[..]]), digests(64, [&swapped[..]]));
        assert_ne!(digests(64, [&[0; 64][..]]), digests(64, [&[0; 32][..]]));
        let halves = digests(32, [&all[..]]);
        assert_ne!(halves[0], halves[1]);
    }
}
