//! What is said of a volume: status, conditions and events, from the same observation as the plan.

use k8s_openapi::jiff::Timestamp;
use twinsite_api::MirroredVolumeStatus;

use super::{Desired, Observed, Plan};

/// What is to be written into the status, and the events of what changed since the last one.
#[derive(Clone, Debug, Default)]
pub struct Status {
    pub status: MirroredVolumeStatus,
    pub events: Vec<Event>,
}

/// Something that changed: an event on the MirroredVolume and, where it says so, on the claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub warning: bool,
    /// CamelCase.
    pub reason: &'static str,
    pub note: String,
    pub on_claim: bool,
}

/// An action that could not be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The action's line.
    pub action: String,
    /// What the API server or witness answered.
    pub error: String,
}

/// The status after a plan was carried out, or as far as it was.
pub fn status(
    desired: &Desired,
    _observed: &Observed,
    plan: &Plan,
    _failure: Option<&Failure>,
    _now: Timestamp,
) -> Status {
    let mut status = desired.volume.status.clone().unwrap_or_default();
    status.volume_id = Some(desired.id());
    status.move_ = plan.move_record.clone();
    Status {
        status,
        events: Vec::new(),
    }
}
