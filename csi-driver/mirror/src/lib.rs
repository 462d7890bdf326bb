//! The mirror engine: two legs, one device, no acknowledged write lost.
//!
//! A pure state machine: time, ids and answers come in as [`io::Input`], what is to be done goes out as [`io::Output`].
//! Start at [`engine::Engine`] for the call order, [`group::Group`] for several volumes that are one, and at [`io`] for what the shell owes.
#![forbid(unsafe_code)]

pub mod activation;
pub mod config;
pub mod digest;
pub mod engine;
pub mod fence;
pub mod group;
pub mod ids;
pub mod io;
pub mod layout;
pub mod status;

mod attach;
mod dirty;
#[cfg(test)]
mod fake_leg;
mod flush;
mod latency;
mod lease;
mod locks;
mod rate;
mod regions;
mod resync;
mod script;
mod serve;
#[cfg(test)]
mod sim;
mod slab;

pub use attach::oneshot;
