//! `SitePair`: two sites that mirror each other, the same object in both clusters.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{LegIndex, Quantity, Span, WitnessSpec};

/// Two sites that mirror each other, and what holds for all volumes between them.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "twinsite.io",
    version = "v1alpha1",
    kind = "SitePair",
    plural = "sitepairs",
    shortname = "sp",
    category = "twinsite",
    doc = "Two sites that mirror each other. Cluster-scoped, the same object in both clusters.",
    status = "SitePairStatus",
    derive = "PartialEq",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(name = "Here", type_ = "string", json_path = ".status.site"),
    // A column shows the first of what its path finds, so each site has one.
    printcolumn(name = "Site", type_ = "string", json_path = ".spec.sites[0].name"),
    printcolumn(name = "Other", type_ = "string", json_path = ".spec.sites[1].name"),
    printcolumn(
        name = "Peer",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='PeerReachable')].status"
    ),
    printcolumn(
        name = "Witness",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='WitnessReachable')].status"
    ),
    printcolumn(
        name = "Failover",
        type_ = "string",
        json_path = ".spec.failover.policy",
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
    validation = Rule::new("self.sites.filter(s, has(s.state) && s.state != 'Active').size() <= 1").message("at most one site may be Drained").field_path(".sites"),
    validation = Rule::new("self.sites.all(s, oldSelf.sites.exists(o, o.name == s.name))").message("the names of the sites are immutable").field_path(".sites"),
    validation = Rule::new("!has(self.witness.site) || self.sites.exists(s, s.name == self.witness.site)").message("witness.site must be one of the sites").field_path(".witness"),
)]
pub struct SitePairSpec {
    /// Exactly two sites. Their order means nothing: a site's index comes from its first claim at the witness.
    #[schemars(length(min = 2, max = 2))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub sites: Vec<Site>,
    /// Secret in the release namespace with key `kubeconfig`: read-only access to `twinsite.io` in the
    /// peer cluster. The same name in both clusters, other content. Left out: no peer is read (bare metal).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub peer_kubeconfig_secret: Option<String>,
    /// Secret in the release namespace with key `key`: one key shared by both sites, from which the
    /// CHAP credentials of pool legs are derived. Left out: pool legs are served without CHAP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub pair_secret: Option<String>,
    /// Where the register lives, which decides membership and active site.
    pub witness: WitnessSpec,
    /// What happens when a site stops showing signs of life.
    #[serde(default)]
    pub failover: FailoverSettings,
    /// What happens when a node inside a living site is lost.
    #[serde(default)]
    pub node_loss: NodeLoss,
    /// Limits of copying, for all volumes of the pair.
    #[serde(default)]
    pub resync: Resync,
}

/// One site of a pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Site {
    /// Name of the site, claimed once at the witness by one cluster.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
    /// Active, or Drained for planned work: everything moves away, then legs there leave the
    /// membership and do not rejoin until the site is Active again.
    #[serde(default)]
    pub state: SiteState,
}

/// Whether a site takes part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SiteState {
    #[default]
    Active,
    Drained,
}

/// What happens when a site stops showing signs of life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailoverSettings {
    /// Manual: a person makes a Failover object. Observe: say what Automatic would do. Automatic:
    /// move volumes whose legs our own target serves.
    #[serde(default)]
    pub policy: FailoverPolicy,
    /// How long the signs of life of the active site and the volume must stand still.
    #[serde(default = "five_seconds")]
    pub detect_after: Span,
}

/// Who orders an unplanned move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailoverPolicy {
    #[default]
    Manual,
    Observe,
    Automatic,
}

/// What happens when a node inside a living site is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeLoss {
    /// Fence: the volume is fenced and its pod may start elsewhere. Kubernetes: leave it to the
    /// cluster's own time-outs of about 11 minutes.
    #[serde(default)]
    pub policy: NodeLossPolicy,
    /// How long a node must be silent.
    #[serde(default = "twenty_seconds")]
    pub detect_after: Span,
}

/// Who frees a volume of a lost node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NodeLossPolicy {
    #[default]
    Fence,
    Kubernetes,
}

/// Limits of copying.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resync {
    /// Bytes per second and volume; left out: as fast as the foreground allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes_per_second: Option<Quantity>,
}

/// What this cluster knows of the pair.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SitePairStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The site that this cluster is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Claims of site names, as read from the witness.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<SiteClaim>,
    /// When the peer's API last answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_seen_at: Option<Time>,
    /// Ready, SiteClaimed, PeerReachable, WitnessReachable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A site's claim of its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SiteClaim {
    /// Name of the site.
    pub name: String,
    /// The index it got with its first claim, for ever.
    pub index: LegIndex,
    /// Identity of the claimant: the UID of its kube-system namespace, or a random id on bare metal.
    pub claimant: String,
}

fn five_seconds() -> Span {
    Span::seconds(5)
}

fn twenty_seconds() -> Span {
    Span::seconds(20)
}

impl Default for FailoverSettings {
    fn default() -> Self {
        Self {
            policy: FailoverPolicy::default(),
            detect_after: five_seconds(),
        }
    }
}

impl Default for NodeLoss {
    fn default() -> Self {
        Self {
            policy: NodeLossPolicy::default(),
            detect_after: twenty_seconds(),
        }
    }
}
