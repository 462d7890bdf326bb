//! Sessions: one TCP connection each, one struct per end, bytes and time in, events and bytes out.
//!
//! Both ends are driven alike, in this order: `handle_bytes` with whatever the socket gave (any split),
//! `handle_timeout` when `deadline` has passed, the calls that answer or submit; then `poll_event` until
//! `None`, then `poll_transmit` until `None` (or until the socket is full), then `deadline`.
//! `now` is the time since an arbitrary fixed origin and never goes back.
//!
//! Invariants: ErrorRecoveryLevel 0 and one connection per session; whatever a peer sends, memory stays
//! below the bounds of the limits in the config and nothing panics; after `Dropped` or `Closed` no
//! further event comes and no input has an effect.
//!
//! Not here: sockets, reconnecting, several paths (the agent); what commands mean (`crate::scsi`).

mod initiator;
mod params;
mod slices;
mod target;
mod transmit;

use thiserror::Error;

use crate::wire::frame::FrameError;

pub use initiator::{
    ChapInitiator, Command, DataDir, DiscoveredPortal, DiscoveredTarget, DropReason, Full,
    Initiator, InitiatorConfig, InitiatorEvent, InitiatorLimits, SessionKind, TaskManagement,
};
pub use params::{DigestOffer, Negotiated, Offer};
pub use target::{
    Account, Acl, Auth, CloseReason, ConnectionSeed, LoginInfo, LoginRefusal, Portal, Redirect,
    TargetCommand, TargetConfig, TargetEntry, TargetEvent, TargetLimits, TargetSession,
};
pub use transmit::Transmit;

/// Why a session cannot go on. The shell closes the connection.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SessionError {
    #[error("header digest does not match")]
    HeaderDigest,
    #[error("data digest does not match")]
    DataDigest,
    #[error("data segment of {length} bytes where at most {limit} are allowed")]
    SegmentTooLong { length: u32, limit: u32 },
    #[error("additional header segments of {length} bytes where at most {limit} are allowed")]
    HeaderTooLong { length: u32, limit: u32 },
    #[error("PDU of opcode {opcode:#04x} is not allowed here")]
    UnexpectedPdu { opcode: u8 },
    #[error("malformed PDU of opcode {opcode:#04x}: {what}")]
    Malformed { opcode: u8, what: &'static str },
    #[error("peer broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("peer rejected a PDU with reason {reason:#04x}")]
    Rejected { reason: u8 },
    #[error("login failed: {0}")]
    Login(String),
    #[error("the session is closed")]
    Closed,
}

impl From<FrameError> for SessionError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::HeaderDigest => Self::HeaderDigest,
            FrameError::SegmentTooLong { length, limit } => Self::SegmentTooLong { length, limit },
            FrameError::HeaderTooLong { length, limit } => Self::HeaderTooLong { length, limit },
        }
    }
}

#[cfg(test)]
mod tests;
