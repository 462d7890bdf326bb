//! The chart: what it renders, what it refuses, and what its ServiceAccounts may do on a real API server.

mod helm;
mod reference;
mod render;
mod server;
