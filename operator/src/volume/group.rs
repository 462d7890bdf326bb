//! MirrorGroup: what is said of one while the operator does not plan for groups.
//!
//! The agents open a group when all its volumes are ordered together (docs/groups.md). An operator that plans volume by volume would open
//! them one by one, and they would then not be consistent with each other: nothing is made for them, and both the group and its
//! volumes say so.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use twinsite_api::{
    GroupId, MirrorGroup, MirrorGroupStatus, condition, condition_type, set_condition,
};

/// Word for it.
pub(crate) const UNSUPPORTED: &str = "GroupsUnsupported";

/// Status of a group; `volumes` are the names of the MirroredVolumes that name it.
pub fn status(group: &MirrorGroup, volumes: &[String], now: Timestamp) -> MirrorGroupStatus {
    let mut status = group.status.clone().unwrap_or_default();
    let namespace = group.metadata.namespace.as_deref().unwrap_or("");
    let name = group.metadata.name.as_deref().unwrap_or("");
    status.observed_generation = group.metadata.generation;
    status.group = Some(GroupId::of_group(&group.spec.site_pair, namespace, name));
    status.volumes = volumes.to_vec();
    status.volumes.sort();
    let text = "groups of volumes are not planned by this version of the operator: nothing is made for them; give each volume its own activeSite instead, or order the group from the agents yourself (docs/groups.md)";
    for (type_, value) in [
        (condition_type::READY, false),
        (condition_type::RECONCILING, false),
        (condition_type::STALLED, true),
    ] {
        let generation = group.metadata.generation;
        set_condition(
            &mut status.conditions,
            condition(type_, Some(value), UNSUPPORTED, text, generation, Time(now)),
        );
    }
    status
}
