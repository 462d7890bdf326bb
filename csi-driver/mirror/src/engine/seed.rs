//! The ids an attach makes: generations, stamps, transaction ids, keys.
//!
//! They must never repeat, over all writers and all time. The shell gives 32 random bytes with the attach order; the stream
//! here is xoshiro256** over them, so a run replays from its inputs.

use twinsite_register::{Gen, Key, KeyTag, Site, StampId, TxId};

/// A stream of ids.
#[derive(Clone, Debug)]
pub(crate) struct IdSource {
    state: [u64; 4],
}

impl IdSource {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        let mut state = [0; 4];
        for (word, bytes) in state.iter_mut().zip(seed.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        // The all-zero state would stay zero for ever.
        state[0] |= u64::from(state == [0; 4]);
        Self { state }
    }

    fn next(&mut self) -> u64 {
        let s = &mut self.state;
        let out = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }

    fn id(&mut self) -> [u8; 16] {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.next().to_le_bytes());
        id[8..].copy_from_slice(&self.next().to_le_bytes());
        id
    }

    pub(crate) fn generation(&mut self) -> Gen {
        Gen(self.id())
    }

    pub(crate) fn stamp(&mut self) -> StampId {
        StampId(self.id())
    }

    pub(crate) fn txid(&mut self) -> TxId {
        TxId(self.id())
    }

    /// A new key for a re-attach in place (2.14).
    pub(crate) fn key(&mut self, site: Site) -> Key {
        Key::new(KeyTag::Writer(site), self.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_replay_from_the_seed() {
        let mut a = IdSource::new([7; 32]);
        let mut b = IdSource::new([7; 32]);
        let first = a.txid();
        assert_eq!(first, b.txid());
        assert_ne!(first, a.txid());
        assert_ne!(IdSource::new([0; 32]).generation().0, [0; 16]);
    }
}
