//! The record-and-verify workload: what a treatment centre's server writes, and how its loss is noticed.
//!
//! Each of eight machines appends numbered treatment records to a file of its own and calls fsync for each. Only then is
//! the number told to the [`ledger`], which lives in another process outside both sites. After any disaster
//! [`record::verify`] compares the files with the ledger: a number that was told and is not there is a lost write.

pub mod ledger;
pub mod record;
pub mod room;

/// How many radiation machines write at once.
pub const MACHINES: u8 = 8;
