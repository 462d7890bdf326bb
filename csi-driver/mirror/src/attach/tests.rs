//! Attach against two legs with real reservation rules and a register, step by step.

use twinsite_register::{Leg, Members};

mod again;
mod fences;
mod legs;
mod node;
mod order;
mod random;
mod requests;
mod table;
pub(crate) mod world;

const A: Members = Members::only(Leg::A);
const B: Members = Members::only(Leg::B);
