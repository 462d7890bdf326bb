//! SCSI without a transport: the words both ends share, the device server of one logical unit, and
//! what an initiator needs to build commands and read answers.
//!
//! `LogicalUnit` (`unit`) is the device server: commands of every nexus go in, store operations and
//! statuses come out. `client` is the other end: CDB constructors and response parsers.
//!
//! Not here: PDUs, sessions and data gathering (`crate::session`); sockets and files (the agent).

pub mod client;
mod pr;
mod sense;
mod target_age;
mod types;
mod unit;

pub use pr::{PrOut, PrType};
pub use sense::{Code, Sense, SenseFormat, SenseKey, Specific};
pub use target_age::TargetAge;
pub use types::{
    Attribute, Cdb, Expected, Lun, NexusId, Residual, ScsiOutcome, Status, TaskFunction, TaskKey,
    TaskResponse, TransportId,
};
pub use unit::{
    BlockSize, Extent, LogicalUnit, OpId, PrState, PrStateError, StoreError, StoreOp, StoreReply,
    UnitConfig, UnitOutput, absent_unit,
};
