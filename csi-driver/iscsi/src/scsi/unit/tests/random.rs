//! The seeded random numbers of the tests: SplitMix64.

pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Bytes that are often zero, so that commands often pass their first checks.
    pub(super) fn byte(&mut self) -> u8 {
        if self.below(3) == 0 {
            self.next() as u8
        } else {
            0
        }
    }
}
