//! What each fuzz target does with its input; the targets themselves are one line each.
//!
//! Besides "no panic" every target checks what must hold for any input: bounds, one end per command, accesses inside the
//! medium, and that what was accepted survives its own encoding.
#![forbid(unsafe_code)]

mod answers;
mod choices;
mod decoders;
mod layout;
pub mod peers;
mod register;
mod sessions;
mod unit;

pub use answers::answers;
pub use decoders::{frame, pdu, text};
pub use layout::layout;
pub use register::register;
pub use sessions::{initiator_session, target_session};
pub use unit::logical_unit;
