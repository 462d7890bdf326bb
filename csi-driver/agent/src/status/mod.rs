//! What the agent says about its objects: composed here, written as files beside them.
//!
//! ```text
//! <objects>/status/leg-<name>.yaml          kind, name and status, as `kubectl get -o yaml` would show them
//! <objects>/status/attachment-<name>.yaml
//! <objects>/status/storagepool-<name>.yaml
//! <objects>/status/sitepair-<name>.yaml
//! <objects>/status/problems.yaml            what cannot be read, file by file
//! ```
//! Files are replaced in one step. A reader that looks at any time sees a whole status.

mod attachment;
mod folder;
mod storage;
mod words;

pub use attachment::{VolumeView, attachment_status, io_waits};
pub use folder::{StatusFolder, now};
pub use storage::{LegView, PairView, PoolView, leg_status, pair_status, pool_status};
pub(crate) use words::refusal;
