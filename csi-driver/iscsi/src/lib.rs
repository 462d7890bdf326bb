//! iSCSI initiator and target sessions and a SCSI device server, without sockets or clocks.
#![forbid(unsafe_code)]

pub mod chap;
pub mod scsi;
pub mod session;
