//! Random bytes for ids that name requests and registers.

use std::{fs::File, io::Read as _};

/// Bytes that nobody else has.
///
/// # Panics
/// Without a random source no id can be trusted to be new, and nothing may be written.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .expect("every Linux has /dev/urandom");
    bytes
}
