//! `Failover`: one order to move volumes, made by a person, never edited, kept as a record.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{LastMove, LegIndex};

/// One order to move volumes to a site.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "twinsite.io",
    version = "v1alpha1",
    kind = "Failover",
    plural = "failovers",
    shortname = "fo",
    category = "twinsite",
    doc = "One order to move volumes to a site: one-shot, immutable, an audit record. Not kept in Git.",
    status = "FailoverStatus",
    derive = "PartialEq",
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "To", type_ = "string", json_path = ".spec.to"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Seconds", type_ = "number", json_path = ".status.seconds"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].message",
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
    validation = Rule::new("self == oldSelf").message("a Failover is immutable: make another one"),
    validation = Rule::new("(self.mode == 'Force') == has(self.force)").message("force stands exactly with mode Force").field_path(".force"),
    validation = Rule::new("(self.mode == 'Reseed') == has(self.reseed)").message("reseed stands exactly with mode Reseed").field_path(".reseed"),
    validation = Rule::new("!(self.mode in ['Force', 'Reseed']) || (has(self.volumes.names) && self.volumes.names.size() == 1)").message("a Force or Reseed names one volume or group").field_path(".volumes"),
)]
pub struct FailoverSpec {
    /// The SitePair of the volumes.
    #[schemars(length(min = 1, max = 253))]
    pub site_pair: String,
    /// The site to move to.
    #[schemars(length(min = 1, max = 63))]
    pub to: String,
    /// Planned: both sites are up. Unplanned: the other one is down, nothing waits for detectAfter.
    /// Force: data of the other branch is given up, as `kubectl twinsite plan` said. Reseed: the witness lost the register,
    /// or was restored from a backup; a new one is made from the copies.
    pub mode: FailoverMode,
    /// Which volumes.
    pub volumes: VolumeSelection,
    /// What a person read in the plan of a Force and accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<ForceToken>,
    /// What a person read in the plan of a Reseed and accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reseed: Option<ReseedToken>,
}

/// How volumes move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailoverMode {
    Planned,
    Unplanned,
    Force,
    Reseed,
}

/// Which volumes: exactly one of all, names or selector.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.all) && self.all, has(self.names), has(self.selector)].filter(x, x).size() == 1").message("exactly one of all: true, names and selector"),
    validation = Rule::new("!has(self.names) || has(self.namespace)").message("names need their namespace"),
)]
pub struct VolumeSelection {
    /// All volumes of the pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
    /// Namespace of `names`, or of what the selector looks at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// MirroredVolumes, or MirrorGroups, by name; a volume and a group of one name are both meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 253)))]
    pub names: Option<Vec<String>>,
    /// MirroredVolumes by label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// What a person read in a plan and accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ForceToken {
    /// Epoch of the register that the plan was about.
    pub expect_epoch: u64,
    /// Token that the plan printed.
    #[schemars(length(min = 1, max = 128))]
    pub token: String,
    /// Accept a copy that was never completed, or copies of a group that are not of one moment.
    #[serde(default)]
    pub inconsistent: bool,
}

/// What a person read in a plan of a reseed and accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReseedToken {
    /// The copies that are valid: both, if they are equal; else one, and what only the other one has is given up.
    #[schemars(length(min = 1, max = 2))]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub legs: Vec<LegIndex>,
    /// Token that the plan printed: it stands for exactly these copies.
    #[schemars(length(min = 1, max = 128))]
    pub token: String,
    /// Accept copies of a group that are not of one moment.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inconsistent: bool,
}

/// How far the order is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailoverStatus {
    /// Pending, Running, Done or Failed.
    #[serde(default)]
    pub state: FailoverState,
    /// Each volume of the order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<FailoverVolume>,
    /// From the order to the last first write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Ready, with the reason of a failure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// How far an order, or one volume of it, is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailoverState {
    #[default]
    Pending,
    Running,
    Done,
    Failed,
}

/// One volume of an order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailoverVolume {
    /// Namespace of the volume.
    pub namespace: String,
    /// Name of the volume or group.
    pub name: String,
    /// How far it is.
    #[serde(default)]
    pub state: FailoverState,
    /// What happened when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<LastMove>,
    /// Why it failed or what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
