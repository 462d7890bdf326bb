//! The witnesses of this cluster's pairs: opened from their specs, claimed, shown life, read.
//!
//! Decides nothing: what a register or a silence means is the planners' affair. Not here: the stores themselves and the
//! rules of the register (`twinsite-witness`, `twinsite-register`).

pub mod access;
pub mod evidence;
pub mod marks;
pub mod open;
pub mod schedule;

pub use access::{Access, Claim, Content, Identity, Link, Reading, Told};
pub use schedule::Pace;
