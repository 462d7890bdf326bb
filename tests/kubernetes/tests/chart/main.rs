//! The chart: what it renders, what it refuses, and what its ServiceAccounts may do on a real API server; and the plugin on
//! two of them.

#![allow(clippy::unwrap_used, reason = "a test may fail so")]

mod accounts;
mod alerts;
mod helm;
mod kstatus;
mod plugin;
mod reference;
mod release;
mod render;
mod server;
mod witness;
