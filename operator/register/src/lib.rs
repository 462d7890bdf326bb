//! The register: the compare-and-swap record at the witness that decides membership and active site.
//!
//! One register per group of volumes. It is read linearizably, changed only by comparing and swapping the whole value, and
//! holds no beats, leases or positions. This crate is the value ([`Register`]), the transitions that may be proposed
//! ([`transition`]), how a writer learns what became of its request ([`outcome`]) and when a register that was read may
//! not be believed ([`mark`]). It has no clock, no randomness and no I/O: backends are `twinsite-witness`, ids come in.
//!
//! Invariants, tested over random histories: `epoch` and `active.seq` never decrease, an epoch has one
//! `{members, gen}` for ever, Solo(A) becomes Solo(B) only by force, and every new value carries a new `txid`.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod beat;
mod ids;
pub mod mark;
pub mod outcome;
pub mod transition;
mod value;

pub use beat::BeatObject;
pub use ids::{
    AttachmentUid, BadHex, Epoch, Gen, GroupId, Key, KeyTag, Leg, Members, Naa, RegisterId, Site,
    StampId, TxId, VolumeId,
};
pub use mark::{Below, Class, Mark, SbMark, classify};
pub use outcome::{NotMine, Outcome, Running, outcome};
pub use transition::{
    AttachChange, Create, Force, LegSeed, Membership, Move, MoveKind, Refusal, Reseed, SeedMembers,
    Stamp,
};
pub use value::{
    Active, FormatError, Granted, MAX_FORMER, MAX_NOTES, MAX_PARENTS, MAX_RETIRED, MAX_TEXT,
    MAX_VOLUMES, Note, Order, Parent, Register, Retired, State, VERSION,
};
