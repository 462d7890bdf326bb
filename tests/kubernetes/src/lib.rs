//! Whole-system tests on real clusters: the programs of Kubernetes itself, built from its published Go modules.
//!
//! [`programs`] has the binaries (a cache by version, built when absent); [`control_plane`] an etcd with an API server on loopback,
//! which is enough for everything that needs no kubelet. Whole clusters are [`site`]s with [`node`]s, each a [`machine`] of its
//! own on this kernel, joined by a [`network`] that can be cut, all of it in a [`world`] that goes with its first process.
//! [`image`] makes container images without a container engine.
//!
//! Invariant: whatever is started here ends with the process that started it, also when that one is killed, and only
//! processes that were started here are ever signalled.

pub mod certificates;
pub mod clusters;
pub mod control_plane;
pub mod demo;
pub mod image;
pub mod images;
pub mod install;
pub mod journal;
mod leftovers;
pub mod machine;
pub mod network;
pub mod node;
pub mod process_group;
pub mod programs;
pub mod site;
pub mod world;
