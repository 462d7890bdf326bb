//! The control plane of a node: what is wanted becomes what is done.
//!
//! ```text
//! objects ──► reconcile(desired, observed) ──► actions ──► apply ──► data path
//!                        ▲                                              │
//!                        └──────────── observed ◄── events ◄────────────┘
//! ```
//! One task owns all of it; it decides in one pure function and does in another. It runs on tokio, the
//! data path does not: they talk by orders and events, and no order waits for I/O.

mod apply;
pub mod board;
pub mod durable;
mod hear;
mod log;
pub mod marks;
pub mod node;
pub mod order;
pub mod reconcile;
pub mod records;
pub mod requests;
mod say;
pub mod secrets;
pub mod socket;
pub mod storage;
mod together;
pub mod verifies;
pub mod volumes;
pub mod witnesses;
