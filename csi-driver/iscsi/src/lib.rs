//! iSCSI initiator and target sessions and a SCSI device server, without sockets or clocks.
#![forbid(unsafe_code)]
pub mod scsi;
