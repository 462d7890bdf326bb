//! One treatment record: 1024 bytes, self-checking, and the reading back of a machine's file.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic `TREATREC` |
//! | 8 | 8 | record number, from 1, little endian |
//! | 16 | 1 | machine |
//! | 17 | 3 | zero |
//! | 20 | 4 | CRC32C of the whole record with this field as zero |
//! | 24 | 1000 | payload derived from machine and number |
//!
//! Invariant: record n of a machine lies at byte (n - 1) x 1024 of its file, so a torn or missing record shows.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Bytes of one record.
pub const SIZE: usize = 1024;
const MAGIC: &[u8; 8] = b"TREATREC";
const CRC: std::ops::Range<usize> = 20..24;

/// The bytes of record `number` of `machine`.
#[must_use]
pub fn emit(machine: u8, number: u64) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    bytes[16] = machine;
    let mut word = number ^ (u64::from(machine) << 56) ^ 0x9E37_79B9_7F4A_7C15;
    for chunk in bytes[24..].chunks_mut(8) {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
    }
    let crc = crc32c::crc32c(&bytes);
    bytes[CRC].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The file of a machine below the mount point.
#[must_use]
pub fn path(directory: &Path, machine: u8) -> PathBuf {
    directory.join(format!("machine-{machine}.rec"))
}

/// How many records at the head of the machine's file are whole and in order. A missing file holds none.
///
/// # Errors
/// The file cannot be read: that is a loss too, and the caller says so.
pub fn count(directory: &Path, machine: u8) -> io::Result<u64> {
    let mut file = match File::open(path(directory, machine)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let mut number = 0;
    for record in bytes.chunks_exact(SIZE) {
        if record != emit(machine, number + 1) {
            break;
        }
        number += 1;
    }
    Ok(number)
}

/// What reading back found, machine by machine.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Records told to the ledger.
    pub acknowledged: u64,
    /// Whole records found in the files.
    pub found: u64,
    /// Acknowledged records that are not there.
    pub lost: u64,
    /// Whole records found, per machine.
    pub by_machine: Vec<u64>,
}

/// Compares the files below `directory` with the last acknowledged number of each machine.
///
/// # Errors
/// A machine's file cannot be read.
pub fn verify(directory: &Path, acknowledged: &[u64]) -> io::Result<Verdict> {
    let mut verdict = Verdict::default();
    for (machine, &acked) in acknowledged.iter().enumerate() {
        let machine = u8::try_from(machine).map_err(io::Error::other)?;
        let found = count(directory, machine)?;
        verdict.acknowledged += acked;
        verdict.found += found;
        verdict.lost += acked.saturating_sub(found);
        verdict.by_machine.push(found);
    }
    Ok(verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_two_machines_and_two_numbers_differ() {
        assert_ne!(emit(1, 1), emit(2, 1));
        assert_ne!(emit(1, 1), emit(1, 2));
    }

    #[test]
    fn a_damaged_record_ends_the_count() {
        let directory = tempfile::tempdir().unwrap();
        let mut bytes: Vec<u8> = (1..=3).flat_map(|n| emit(0, n)).collect();
        std::fs::write(path(directory.path(), 0), &bytes).unwrap();
        assert_eq!(count(directory.path(), 0).unwrap(), 3);
        bytes[SIZE + 100] ^= 1;
        std::fs::write(path(directory.path(), 0), &bytes).unwrap();
        assert_eq!(count(directory.path(), 0).unwrap(), 1);
    }

    #[test]
    fn an_acknowledged_record_that_is_missing_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (1..=2).flat_map(|n| emit(0, n)).collect();
        std::fs::write(path(directory.path(), 0), bytes).unwrap();
        let verdict = verify(directory.path(), &[3, 0]).unwrap();
        assert_eq!(
            (verdict.acknowledged, verdict.found, verdict.lost),
            (3, 2, 1)
        );
    }
}
