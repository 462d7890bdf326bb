//! What one cluster does about one MirroredVolume.
//!
//! `observe -> validate -> plan -> apply -> status`: the shell observes and applies; this module is the pure middle.
//! [`plan`] is total: any objects, however broken, give a plan, perhaps one that only says what is wrong. Planning again
//! after everything was carried out gives no actions.
//!
//! What every plan keeps:
//! - no spec of an object that people or Git write is touched; workloads are scaled by /scale only;
//! - workloads never run at two sites by our hand: up only at the site that the register names, or under a move record
//!   that names the register's present `active.seq`;
//! - a Leg goes only when the register is a tombstone or the leg was dropped; a PersistentVolume only when nothing is attached;
//! - a volume is born only if no register, no mark and no word of the peer says that it ever lived;
//! - what keeps the local site going never needs the peer.
//!
//! Not here: clients, watches, the witness (`shell`); when an automatic move is right (`policy`); what a Failover object
//! says of itself (`failover`).

mod action;
mod desired;
pub mod names;
mod observed;
mod status;

use k8s_openapi::jiff::Timestamp;

pub use action::{Action, AttachmentChange, Plan, RegisterChange, Why};
pub use desired::Desired;
pub use observed::{
    Evidence, FailoverOrder, NodeView, Observed, Peer, PodView, Reach, Reading,
    VolumeAttachmentView, Witness, WorkloadView,
};
pub use status::{Event, Failure, Status, status};

/// What to do now.
pub fn plan(_desired: &Desired, _observed: &Observed, _now: Timestamp) -> Plan {
    Plan::default()
}
