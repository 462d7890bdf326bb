//! Header and data digests: CRC32C over a header with its additional segments, or over data with its pad bytes.

/// A digest under way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Digest(u32);

impl Digest {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0 = crc32c::crc32c_append(self.0, bytes);
    }

    /// The four bytes as they stand on the wire.
    pub(crate) fn wire(self) -> [u8; 4] {
        self.0.to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], wire: [u8; 4]) {
        let mut whole = Digest::default();
        whole.update(bytes);
        assert_eq!(whole.wire(), wire);
        let (a, b) = bytes.split_at(bytes.len() / 3);
        let mut parts = Digest::default();
        parts.update(a);
        parts.update(b);
        assert_eq!(parts.wire(), wire);
    }

    // The examples of RFC 7143 appendix A.4.
    #[test]
    fn standard_examples_come_out() {
        check(&[0; 32], [0xAA, 0x36, 0x91, 0x8A]);
        check(&[0xFF; 32], [0x43, 0xAB, 0xA8, 0x62]);
        let up: Vec<u8> = (0..32).collect();
        check(&up, [0x4E, 0x79, 0xDD, 0x46]);
        let down: Vec<u8> = (0..32).rev().collect();
        check(&down, [0x5C, 0xDB, 0x3F, 0x11]);
        let mut read = [0; 48];
        read[0] = 0x01;
        read[1] = 0xC0;
        read[16] = 0x14;
        read[22] = 0x04;
        read[27] = 0x14;
        read[31] = 0x18;
        read[32] = 0x28;
        read[40] = 0x02;
        check(&read, [0x56, 0x3A, 0x96, 0xD9]);
    }
}
