//! CHAP and mutual CHAP (RFC 7143 section 12.1.3): secrets, algorithms, challenges and responses.
//!
//! A response is H(id || secret || challenge). Each end makes at most one `Challenge` per connection, from random bytes
//! that came in, and never answers a challenge that equals its own (reflection).
//!
//! Invariants: no secret is in a `Debug` form, an error or a log; responses are compared in constant time.
//! Not here: the order of the keys in a login (`crate::login`).

use std::fmt;
use std::hint::black_box;

use sha1::digest::Digest;
use thiserror::Error;

/// RFC 7143 asks for 96 bits where there is no IPsec.
pub const MIN_SECRET: usize = 12;
pub const MAX_SECRET: usize = 255;
/// Longest challenge that RFC 7143 allows.
pub(crate) const MAX_CHALLENGE: usize = 1024;
const LONGEST_HASH: usize = 32;

/// A CHAP secret. Its `Debug` form shows nothing of it.
#[derive(Clone)]
pub struct Secret(Box<[u8]>);

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SecretError {
    #[error("CHAP secret of {0} bytes: at least {MIN_SECRET} and at most {MAX_SECRET} are needed")]
    Length(usize),
    #[error("the CHAP secrets of the two directions are equal")]
    Same,
}

impl Secret {
    pub fn new(bytes: &[u8]) -> Result<Self, SecretError> {
        if (MIN_SECRET..=MAX_SECRET).contains(&bytes.len()) {
            Ok(Self(bytes.into()))
        } else {
            Err(SecretError::Length(bytes.len()))
        }
    }

    pub(crate) fn same_as(&self, other: &Self) -> bool {
        same_bytes(&self.0, &other.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Hash algorithms by their number in CHAP_A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Md5,
    Sha1,
    Sha256,
    Sha3_256,
}

impl Algorithm {
    /// Strongest first: the order in which one is offered and chosen.
    pub const ALL: [Self; 4] = [Self::Sha3_256, Self::Sha256, Self::Sha1, Self::Md5];

    pub fn number(self) -> u8 {
        match self {
            Self::Md5 => 5,
            Self::Sha1 => 6,
            Self::Sha256 => 7,
            Self::Sha3_256 => 8,
        }
    }

    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| u32::from(algorithm.number()) == number)
    }

    fn length(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 | Self::Sha3_256 => LONGEST_HASH,
        }
    }

    fn hash(self, id: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        fn run<D: Digest>(id: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
            let mut hash = D::new();
            hash.update([id]);
            hash.update(secret);
            hash.update(challenge);
            hash.finalize().to_vec()
        }
        match self {
            Self::Md5 => run::<md5::Md5>(id, secret, challenge),
            Self::Sha1 => run::<sha1::Sha1>(id, secret, challenge),
            Self::Sha256 => run::<sha2::Sha256>(id, secret, challenge),
            Self::Sha3_256 => run::<sha3::Sha3_256>(id, secret, challenge),
        }
    }
}

/// The challenge that this end sends to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Challenge {
    pub(crate) algorithm: Algorithm,
    pub(crate) id: u8,
    pub(crate) bytes: Vec<u8>,
}

impl Challenge {
    /// As long as the algorithm's hash, from fresh random bytes.
    pub(crate) fn new(algorithm: Algorithm, random: &[u8; LONGEST_HASH]) -> Self {
        Self {
            algorithm,
            id: random[LONGEST_HASH - 1] ^ random[0],
            bytes: random[..algorithm.length()].to_vec(),
        }
    }

    /// Whether `response` shows knowledge of the secret.
    pub(crate) fn verify(&self, secret: &Secret, response: &[u8]) -> bool {
        same_bytes(
            &self.algorithm.hash(self.id, &secret.0, &self.bytes),
            response,
        )
    }
}

/// The response to the peer's challenge.
pub(crate) fn respond(algorithm: Algorithm, id: u8, challenge: &[u8], secret: &Secret) -> Vec<u8> {
    algorithm.hash(id, &secret.0, challenge)
}

/// Compares without telling by the time taken where two values of equal length differ.
fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    let differing = a
        .iter()
        .zip(b)
        .fold(0, |differing, (a, b)| black_box(differing | (a ^ b)));
    a.len() == b.len() && differing == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"twelve bytes";

    fn secret() -> Secret {
        Secret::new(SECRET).unwrap()
    }

    fn check(algorithm: Algorithm, response: &str) {
        let challenge = Challenge {
            algorithm,
            id: 0x27,
            bytes: b"challenge".to_vec(),
        };
        let got = respond(algorithm, 0x27, b"challenge", &secret());
        let hex: String = got.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, response);
        assert!(challenge.verify(&secret(), &got));
        for bit in 0..got.len() * 8 {
            let mut bad = got.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!challenge.verify(&secret(), &bad));
        }
        assert!(!challenge.verify(&secret(), &got[..got.len() - 1]));
        assert!(!challenge.verify(&secret(), &[]));
        assert!(!challenge.verify(&Secret::new(b"another secret").unwrap(), &got));
    }

    // Expected values from an independent implementation (Python's hashlib).
    #[test]
    fn responses_are_those_of_other_implementations() {
        check(Algorithm::Md5, "fc5b88d7ea1e5e2ee3b3a70d8486a7c1");
        check(Algorithm::Sha1, "8511b4d6f4fc114a7bbb05cba17a402fe0a93968");
        check(
            Algorithm::Sha256,
            "55d4cee927be1c6e03a138970361c0f8ec77bfdcea4e9f86b4c7dc6e3df2c120",
        );
        check(
            Algorithm::Sha3_256,
            "614868768dc5f7ac27468c8a0b82a140c95d87f450d449783e39786026e9ada3",
        );
    }

    #[test]
    fn secrets_are_of_bounded_length_and_not_shown() {
        assert_eq!(
            Secret::new(b"eleven byte").err(),
            Some(SecretError::Length(11))
        );
        assert_eq!(Secret::new(&[1; 256]).err(), Some(SecretError::Length(256)));
        assert!(Secret::new(&[1; 255]).is_ok());
        assert_eq!(format!("{:?}", secret()), "Secret(..)");
    }

    #[test]
    fn algorithms_have_their_registered_numbers() {
        for (number, algorithm) in [
            (5, Some(Algorithm::Md5)),
            (6, Some(Algorithm::Sha1)),
            (7, Some(Algorithm::Sha256)),
            (8, Some(Algorithm::Sha3_256)),
            (4, None),
            (9, None),
        ] {
            assert_eq!(Algorithm::from_number(number), algorithm);
        }
    }

    #[test]
    fn a_challenge_is_as_long_as_the_hash() {
        for (algorithm, length) in [
            (Algorithm::Md5, 16),
            (Algorithm::Sha1, 20),
            (Algorithm::Sha256, 32),
            (Algorithm::Sha3_256, 32),
        ] {
            assert_eq!(Challenge::new(algorithm, &[5; 32]).bytes, vec![5; length]);
        }
    }
}
