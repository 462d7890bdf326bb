//! What happened in a real run, and whether it may happen: an independent judge of the promise.
//!
//! A history is a file of JSON lines, one [`event::Event`] each, written by whoever saw it: an application that issued a
//! write and heard its answer, a reader that read back. [`check::check`] knows nothing of legs, epochs or registers; it
//! looks only at what applications were told and what they read.
//!
//! Not here: who writes the events of the demo (`workload::ledger`, `demo::stage`).

pub mod check;
pub mod event;

pub use check::{Verdict, Violation, check};
pub use event::{Event, History};
