//! A deterministic world around whole engines: two legs, a register, writers at both sites, and faults.
//!
//! Every message is late by a random time; a compare-and-swap may be executed late, never or twice; sessions break and
//! their accepted commands are executed afterwards; targets lose volatile caches; writers die, are replaced and superseded.
//! An oracle knows for each block what was acknowledged, flushed and read, and the invariants of protocol 2.16 are looked
//! at after each step. A failure prints its seed: `MIRROR_SEED=n cargo test -p twinsite-mirror sim` runs that one alone
//! with its log, `MIRROR_SEEDS=n` the first n.

mod birth;
mod chain;
mod checks;
mod faults;
mod forces;
mod groups;
mod guests;
mod oracle;
mod rng;
mod target;
mod tests;
mod wires;
mod witness;
mod world;
mod writer;

pub(crate) use rng::Rng;
