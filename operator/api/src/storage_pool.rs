//! `StoragePool`: where legs of a site live. The only kind that carries addresses and credentials.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Storage at one site, for legs.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "twinsite.io",
    version = "v1alpha1",
    kind = "StoragePool",
    plural = "storagepools",
    shortname = "tpool",
    category = "twinsite",
    doc = "Storage at one site, for legs. Cluster-scoped; addresses and credentials live here only.",
    status = "StoragePoolStatus",
    derive = "PartialEq",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    printcolumn(name = "Site", type_ = "string", json_path = ".spec.site"),
    printcolumn(name = "Class", type_ = "string", json_path = ".spec.class"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.node.name"),
    printcolumn(name = "Free", type_ = "string", json_path = ".status.free"),
    printcolumn(
        name = "Capacity",
        type_ = "string",
        json_path = ".status.capacity",
        priority = 1
    ),
    printcolumn(name = "Legs", type_ = "integer", json_path = ".status.legs"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.node) != has(self.array)").message("exactly one of node and array"),
    validation = Rule::new("self.site == oldSelf.site").message("site is immutable").field_path(".site"),
    validation = Rule::new("has(self.node) == has(oldSelf.node)").message("a pool does not change between node and array"),
)]
pub struct StoragePoolSpec {
    /// The site this pool is at; a cluster of another site ignores it.
    #[schemars(length(min = 1, max = 63))]
    pub site: String,
    /// What a leg asks for with `poolClass`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub class: Option<String>,
    /// Namespaces whose volumes may have legs here; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63)))]
    pub allowed_namespaces: Vec<String>,
    /// Disks of a node, served by our own target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeBackend>,
    /// LUNs of an iSCSI array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<ArrayBackend>,
    /// Addresses `host:port` at which the legs are reached, best first; one per path. An IPv6 address
    /// stands in brackets.
    #[schemars(length(min = 1, max = 8), inner(length(min = 3, max = 260)))]
    pub portals: Vec<String>,
}

/// A directory or block device of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.directory) != has(self.device)").message("exactly one of directory and device"))]
pub struct NodeBackend {
    /// Name of the node whose agent serves the pool.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Absolute path of a folder that holds a file per leg and the pool's marker file. A folder without
    /// the marker is a disk that is not mounted, and is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub directory: Option<String>,
    /// Absolute path of a block device that is one leg as a whole, by a stable name such as
    /// `/dev/disk/by-id/...`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub device: Option<String>,
}

/// An iSCSI array of any make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArrayBackend {
    /// iSCSI name of the array's target.
    #[schemars(length(min = 4, max = 223))]
    pub iqn: String,
    /// Secret in the release namespace with keys `username`, `password` and, for mutual CHAP,
    /// `mutualUsername`, `mutualPassword`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub auth_secret: Option<String>,
    /// True: the array's write cache survives a power cut. A volatile cache without it is refused.
    #[serde(default)]
    pub cache_protected: bool,
}

/// What the agent of the pool's node, or the qualification of the array, found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoragePoolStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Bytes that the pool's file system has in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_bytes: Option<u64>,
    /// Bytes that are free there now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// The same for people, rounded: `1.8Ti`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<String>,
    /// What is free for people, rounded: `12.3Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free: Option<String>,
    /// Legs served from here.
    #[serde(default)]
    pub legs: u32,
    /// Identity written into the marker file when the pool was set up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marker: Option<String>,
    /// When this was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
    /// Ready, with the reason if the pool serves nothing: True also in the cluster of the other site, with the reason
    /// OtherSite; Unknown with the reason AgentSilent when nothing was heard of its agent. Accepted at its own site.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
