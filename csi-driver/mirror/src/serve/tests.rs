//! Scripted runs of the serving states: literal inputs, literal outputs.
//!
//! [`Bench`] gives an engine that serves what the test made up and prints its outputs as short lines: `A sb Member{AB} e2`,
//! `B page 0 n3 dirty 1`, `A write 0+4096`, `cas e2 {A}`. A command is answered by the beginning of its line.

mod behind;
mod bench;
mod conditions;
mod detach;
mod frozen;
mod grow;
mod guest;
mod lines;
mod orders;
mod pair;
mod rejoin;
mod setup;
mod solo;
mod verify;
mod without;

pub(super) use setup::{Setup, served};
