//! `MirrorGroup`: volumes that fail, move and are consistent as one.
//!
//! The list of volumes is fixed when the group is made: one register names them all from its birth on. What a volume has in common with
//! the others stands here and is lent to it ([`MirrorGroup::lend`]), so that planners read one volume as they read any.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema, ResourceExt as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ActiveSite, Failback, GroupId, LastMove, MirroredVolume, MoveRecord, OnNoQuorum, Role,
    VolumeId, Workload,
};

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
    doc = "Volumes that fail and move as one. It names them, and each of them names it in spec.group.",
    status = "MirrorGroupStatus",
    derive = "PartialEq",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(name = "Role", type_ = "string", json_path = ".status.role"),
    printcolumn(
        name = "Active",
        type_ = "string",
        json_path = ".status.activeSite.name"
    ),
    printcolumn(
        name = "InSync",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='InSync')].status"
    ),
    printcolumn(name = "Volumes", type_ = "string", json_path = ".spec.volumes"),
    printcolumn(
        name = "Epoch",
        type_ = "integer",
        json_path = ".status.epoch",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.sitePair == oldSelf.sitePair").message("sitePair is immutable").field_path(".sitePair"),
    validation = Rule::new("self.volumes.all(v, v in oldSelf.volumes) && oldSelf.volumes.all(v, v in self.volumes)").message("volumes are fixed when the group is made: make another group").field_path(".volumes"),
    validation = Rule::new("self.volumes.all(v, self.volumes.exists_one(w, w == v))").message("each volume is named once").field_path(".volumes"),
)]
pub struct MirrorGroupSpec {
    /// The SitePair of all volumes of the group. Immutable.
    #[schemars(length(min = 1, max = 253))]
    pub site_pair: String,
    /// The site where the group lives while all is well. Editing it is a planned move.
    #[schemars(length(min = 1, max = 63))]
    pub active_site: String,
    /// Names of the MirroredVolumes of the group, all in its namespace; each names the group in spec.group. The group is made when all
    /// of them are there. Immutable.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 253)))]
    pub volumes: Vec<String>,
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
    /// Each volume in a word.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub volumes: Vec<GroupVolume>,
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

/// One volume of a group, as its own status says more of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupVolume {
    /// Name of the MirroredVolume.
    pub name: String,
    /// Its identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_id: Option<VolumeId>,
    /// Its condition Ready: True, False or Unknown.
    pub ready: String,
    /// What it waits for, or what is wrong with it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl MirrorGroup {
    /// The identity that follows from the names: the same in both clusters.
    pub fn id(&self) -> GroupId {
        let namespace = self.namespace().unwrap_or_default();
        GroupId::of_group(&self.spec.site_pair, &namespace, &self.name_any())
    }

    /// The volumes of the group, in the order in which they are dealt with everywhere.
    pub fn volume_ids(&self) -> Vec<VolumeId> {
        let namespace = self.namespace().unwrap_or_default();
        let of = |name: &String| VolumeId::of(&self.spec.site_pair, &namespace, name);
        let mut ids: Vec<VolumeId> = self.spec.volumes.iter().map(of).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The volume with what stands in its group: it reads like one that is in none.
    pub fn lend(&self, volume: &MirroredVolume) -> MirroredVolume {
        let mut volume = volume.clone();
        let (spec, group) = (&mut volume.spec, &self.spec);
        spec.active_site = Some(group.active_site.clone());
        spec.failback = Some(group.failback);
        spec.on_no_quorum = Some(group.on_no_quorum);
        spec.workloads = Some(group.workloads.clone());
        volume
    }
}
