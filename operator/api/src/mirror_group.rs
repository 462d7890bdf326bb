//! `MirrorGroup`: volumes that fail, move and are consistent as one.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ActiveSite, Failback, GroupId, LastMove, MoveRecord, OnNoQuorum, Role, Workload};

/// Volumes of one namespace that share a register: they fail and move as one.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "twinsite.io",
    version = "v1alpha1",
    kind = "MirrorGroup",
    plural = "mirrorgroups",
    namespaced,
    shortname = "mg",
    category = "twinsite",
    doc = "Volumes that fail and move as one. A MirroredVolume joins by naming it in spec.group.",
    status = "MirrorGroupStatus",
    derive = "PartialEq",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Active",
        type_ = "string",
        json_path = ".status.activeSite.name"
    ),
    printcolumn(name = "Volumes", type_ = "string", json_path = ".status.volumes"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.sitePair == oldSelf.sitePair").message("sitePair is immutable").field_path(".sitePair"))]
pub struct MirrorGroupSpec {
    /// The SitePair of all volumes of the group. Immutable.
    #[schemars(length(min = 1, max = 253))]
    pub site_pair: String,
    /// The site where the group lives while all is well. Editing it is a planned move.
    #[schemars(length(min = 1, max = 63))]
    pub active_site: String,
    /// What happens after an unplanned move once all legs are in sync again.
    #[serde(default)]
    pub failback: Failback,
    /// What happens to I/O while the writer cannot learn whether it still holds the membership.
    #[serde(default)]
    pub on_no_quorum: OnNoQuorum,
    /// What uses the volumes; scaled to `replicas` at the active site and to 0 at the other one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub workloads: Vec<Workload>,
}

/// What this cluster knows of the group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MirrorGroupStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Identity of the group's register.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupId>,
    /// Names of the MirroredVolumes in the group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// Active or Standby.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Where the register says the group is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_site: Option<ActiveSite>,
    /// Epoch of the register.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Order of a move to this site.
    #[serde(default, rename = "move", skip_serializing_if = "Option::is_none")]
    pub move_: Option<MoveRecord>,
    /// The last move between the sites.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_move: Option<LastMove>,
    /// As of a MirroredVolume, for all volumes at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
