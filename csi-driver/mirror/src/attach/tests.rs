//! Attach against two legs with real reservation rules and a register, step by step.

mod random;
mod steps;
pub(crate) mod world;
