//! CHAP and mutual CHAP (RFC 7143 section 12.1.3).

use std::fmt;

use thiserror::Error;

/// RFC 7143 asks for 96 bits where there is no IPsec.
pub const MIN_SECRET: usize = 12;
pub const MAX_SECRET: usize = 255;

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
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
