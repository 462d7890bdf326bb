//! Whole-system tests on real clusters: the programs of Kubernetes itself, built from its published Go modules.
//!
//! [`programs`] has the binaries (a cache by version, built when absent); [`control_plane`] an etcd with an API server on loopback,
//! which is enough for everything that needs no kubelet.
//!
//! Invariant: whatever is started here ends with the process that started it, also when that one is killed, and only
//! processes that were started here are ever signalled.

pub mod certificates;
pub mod control_plane;
pub mod group;
pub mod programs;
