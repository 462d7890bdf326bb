//! `twinsite-csi`: CSI v1.13 for mirrored volumes.
//!
//! | process | services | talks to |
//! |---|---|---|
//! | `twinsite-csi controller` | Identity, Controller | the objects: a Kubernetes API, or a folder |
//! | `twinsite-csi node` | Identity, Node, kubelet's Registration | the agent of its node, by its unix socket |
//!
//! A call is: parse, take the volume (or ABORTED), observe, one step, answer. Nothing here carries data or decides which site
//! a volume is at: the agent does the one, the register the other. A restart of either process stops no I/O.
//!
//! Invariants: one operation per volume at a time, and one that was begun is finished although its caller has gone; every
//! call gives the same answer however often it is made; secrets are dropped on arrival; every wait ends before the call's
//! deadline.

pub mod calls;
pub mod capability;
pub mod controller;
pub mod http;
pub mod identity;
pub mod inflight;
pub mod mount;
pub mod node;
pub mod proto;
pub mod registration;
pub mod serve;

/// Name of the driver.
pub const DRIVER: &str = "csi.twinsite.io";
/// Label of topology: the site of a cluster.
pub const TOPOLOGY: &str = "topology.twinsite.io/site";
/// Key in the publish context: the Attachment whose device it is.
pub const CONTEXT_ATTACHMENT: &str = "attachment";
/// Key in volume and publish contexts: the file system that the volume has.
pub const CONTEXT_FS_TYPE: &str = "fsType";
