//! iSCSI initiator and target sessions and a SCSI device server, without sockets or clocks.
#![forbid(unsafe_code)]

pub mod chap;
mod digest;
mod login;
pub mod scsi;
mod serial;
pub mod session;
pub mod text;
pub mod wire;
