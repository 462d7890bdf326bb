//! `MirroredVolume`: a volume that lives at two sites at once. What users write.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ChapRef, GroupId, LegIndex, Quantity, VolumeId};

/// A volume that lives at two sites at once.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "twinsite.io",
    version = "v1alpha1",
    kind = "MirroredVolume",
    plural = "mirroredvolumes",
    namespaced,
    shortname = "mv",
    category = "twinsite",
    doc = "A volume that lives at two sites at once: every write is on both before the application hears done.",
    status = "MirroredVolumeStatus",
    derive = "PartialEq",
    selectable = ".spec.sitePair",
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
    printcolumn(name = "Size", type_ = "string", json_path = ".spec.capacity"),
    printcolumn(name = "Resync", type_ = "string", json_path = ".status.resync"),
    printcolumn(
        name = "Node",
        type_ = "string",
        json_path = ".status.attached.node",
        priority = 1
    ),
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
    validation = Rule::new("self.volumeMode == oldSelf.volumeMode").message("volumeMode is immutable").field_path(".volumeMode"),
    validation = Rule::new("has(self.fsType) == has(oldSelf.fsType) && (!has(self.fsType) || self.fsType == oldSelf.fsType)").message("fsType is immutable").field_path(".fsType"),
    validation = Rule::new("self.accessModes == oldSelf.accessModes").message("accessModes are immutable").field_path(".accessModes"),
    validation = Rule::new("self.claim.name == oldSelf.claim.name").message("claim.name is immutable").field_path(".claim"),
    validation = Rule::new("quantity(self.capacity).compareTo(quantity(oldSelf.capacity)) >= 0").message("capacity only grows").field_path(".capacity"),
    validation = Rule::new("has(self.group) == has(oldSelf.group) && (!has(self.group) || self.group == oldSelf.group)").message("group is immutable").field_path(".group"),
    validation = Rule::new("has(self.group) != has(self.activeSite)").message("activeSite stands here, or in the group: exactly one of group and activeSite"),
    validation = Rule::new("!has(self.group) || (!has(self.workloads) && !has(self.failback) && !has(self.onNoQuorum))").message("failback, onNoQuorum and workloads of a volume in a group stand in the MirrorGroup"),
    validation = Rule::new("self.volumeMode != 'Block' || !has(self.fsType)").message("a Block volume has no fsType").field_path(".fsType"),
    validation = Rule::new("!has(self.activeSite) || self.legs.exists(l, l.site == self.activeSite)").message("a leg must stand at activeSite").field_path(".legs"),
)]
pub struct MirroredVolumeSpec {
    /// The SitePair between whose sites the volume is mirrored. Immutable.
    #[schemars(length(min = 1, max = 253))]
    pub site_pair: String,
    /// The site where the volume lives while all is well. Editing it is a planned move; after an
    /// unplanned one it does not bind until it names the actual site (see `status.activeSite.latched`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub active_site: Option<String>,
    /// What happens after an unplanned move once both legs are in sync again. Manual: it stays until
    /// somebody moves it. WhenInSync: it returns to `activeSite` by a planned move. Default Manual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failback: Option<Failback>,
    /// What happens to I/O while the writer cannot learn whether it still holds the membership.
    /// Suspend: it waits. Error: it fails after 30 s. Default Suspend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_no_quorum: Option<OnNoQuorum>,
    /// What uses the volume; scaled by the /scale subresource to `replicas` at the active site and to 0 at
    /// the other one. Leave `replicas` out of the workload itself in Git.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub workloads: Option<Vec<Workload>>,
    /// The MirrorGroup, in the same namespace, whose volumes fail and move as one, and which names this one in its spec.volumes. The
    /// four fields above then stand there. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub group: Option<String>,
    /// Size of the volume. It only grows.
    pub capacity: Quantity,
    /// Filesystem or Block. Immutable.
    #[serde(default)]
    pub volume_mode: VolumeMode,
    /// File system that is made once, before the first mount: ext4 or xfs. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 15))]
    pub fs_type: Option<String>,
    /// How pods may use the volume. Immutable.
    #[serde(default = "read_write_once_pod")]
    #[schemars(length(min = 1, max = 2))]
    pub access_modes: Vec<AccessMode>,
    /// The PersistentVolumeClaim that stands for the volume in this namespace.
    pub claim: Claim,
    /// What becomes of the data when the object is deleted in both clusters.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// The copies, one per site. Removing one makes the volume Solo, adding one is a full resync.
    #[schemars(length(min = 1, max = 2))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["site".into()]))]
    pub legs: Vec<VolumeLeg>,
}

/// What happens after an unplanned move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Failback {
    #[default]
    Manual,
    WhenInSync,
}

/// What happens to I/O while the membership is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnNoQuorum {
    #[default]
    Suspend,
    Error,
}

/// How the volume is shown to pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VolumeMode {
    #[default]
    Filesystem,
    Block,
}

/// How pods may use the volume: one node at a time in every case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessMode {
    ReadWriteOncePod,
    ReadWriteOnce,
}

/// What becomes of the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// The legs stay where they are.
    #[default]
    Retain,
    /// The legs are wiped once the object is gone in both clusters.
    Delete,
}

/// A workload that uses the volume, in the volume's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Such as `apps/v1`.
    #[schemars(length(min = 1, max = 253))]
    pub api_version: String,
    /// Such as `StatefulSet`: any kind with a /scale subresource.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// How many replicas run at the active site.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,
}

/// The claim that pods name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Name of the PersistentVolumeClaim. Immutable.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// True: the operator makes the claim. False: it adopts one that a chart or a
    /// volumeClaimTemplate makes.
    #[serde(default = "yes")]
    pub create: bool,
}

/// One copy of the volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.pool) != has(self.poolClass)").message("exactly one of pool and poolClass"),
    validation = Rule::new("!has(self.lun) || has(self.pool)").message("a LUN is named together with its pool"),
)]
pub struct VolumeLeg {
    /// The site of this copy. Immutable: it is what tells the legs apart.
    #[schemars(length(min = 1, max = 63))]
    pub site: String,
    /// Name of the StoragePool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub pool: Option<String>,
    /// Any pool of this class at the site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub pool_class: Option<String>,
    /// The LUN of an array pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lun: Option<LunRef>,
}

/// A LUN of an array.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LunRef {
    /// Logical unit number.
    #[schemars(range(min = 0, max = 16383))]
    pub number: u16,
    /// NAA id of the LUN, such as `naa.6006...`: only a LUN with exactly this id is ever initialised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 20, max = 36),
        regex(pattern = r"^naa\.[0-9a-f]{16}([0-9a-f]{16})?$")
    )]
    pub initialize: Option<String>,
}

/// What this cluster knows of the volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MirroredVolumeStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Identity of the volume at both sites; also volumeHandle and name of the PersistentVolume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_id: Option<VolumeId>,
    /// The group that it is in: with whom it is opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<VolumeGroup>,
    /// Active or Standby: Ready means that this site can do this role now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Where the register says the volume is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_site: Option<ActiveSite>,
    /// Epoch of the register.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Order of a move to this site; an attaching agent honours it only while the register's
    /// `active.seq` equals `expectSeq`.
    #[serde(default, rename = "move", skip_serializing_if = "Option::is_none")]
    pub move_: Option<MoveRecord>,
    /// A planned move away from this site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving: Option<Leaving>,
    /// A pod of this site is placed and waits for the volume, before the other site has let go of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaited: Option<Awaited>,
    /// Where the volume is attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached: Option<Attached>,
    /// The device that the pods of this cluster have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<PodDevice>,
    /// The copies as last seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub legs: Vec<VolumeLegStatus>,
    /// How much of a resync is done, for people: `35%`. Left out: none runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resync: Option<String>,
    /// The last move between the sites.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_move: Option<LastMove>,
    /// The comparison of the copies under way, or the last one; ordered by the annotation `twinsite.io/verify`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<crate::VerifyReport>,
    /// Size that pods can use now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Quantity>,
    /// Ready, Reconciling, Stalled, InSync, FailoverReady, Degraded, SplitBrain, LegsDiffer, PeerReachable, WitnessReachable,
    /// and RequestRefused while an annotation asks for what is not done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// The group of a volume, as orders to agents name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeGroup {
    /// Whose register decides.
    pub id: GroupId,
    /// All its volumes, this one included.
    pub volumes: Vec<VolumeId>,
    /// The group's onNoQuorum.
    #[serde(default)]
    pub on_no_quorum: OnNoQuorum,
}

/// What this site is for a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Role {
    Active,
    Standby,
}

/// Where a volume is in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActiveSite {
    /// Name of the site.
    pub name: String,
    /// Number of moves between the sites so far.
    pub seq: u64,
    /// An unplanned move that the spec has not accepted yet.
    pub latched: bool,
}

/// Order of a move to this site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MoveRecord {
    /// Planned or Failover.
    pub mode: crate::MoveMode,
    /// The register's `active.seq` that the order is about.
    pub expect_seq: u64,
    /// When it was ordered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordered_at: Option<Time>,
    /// Who or what ordered it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A person ordered it by a Failover object: the agent does not ask whether the old writer looks dead.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_person: bool,
}

/// What device pods have: it dies with the agent that shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodDevice {
    /// Name of their node.
    pub node: String,
    /// Key of the attach that shows the device.
    pub key: String,
    /// UIDs of the pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<String>,
}

/// A planned move away, from the site that lets go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Leaving {
    /// The site that is to have it.
    pub to: String,
    /// The register's `active.seq` that this is about.
    pub expect_seq: u64,
    /// Every pod of the workloads uses the volume: the other site may place its pods before they are gone here, since
    /// they cannot start without it.
    pub overlap: bool,
    /// The workloads are being taken down, and the volume is let go as soon as nothing uses it.
    pub down: bool,
    /// Since when the other site has taken the move up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// A pod that waits for the volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Awaited {
    /// The register's `active.seq` that this is about.
    pub expect_seq: u64,
    /// Where it was placed.
    pub node: String,
}

/// Where a volume is attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attached {
    /// Name of the site.
    pub site: String,
    /// Name of the node there.
    pub node: String,
}

/// One copy as last seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeLegStatus {
    /// The site of this copy.
    pub site: String,
    /// Index of the site, as claimed at the witness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leg: Option<LegIndex>,
    /// Member, Resyncing, Outdated, Unreachable or New.
    pub state: VolumeLegState,
    /// Bytes in which this copy may differ from the other one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty_bytes: Option<u64>,
    /// How much of a resync is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resync_percent: Option<u8>,
    /// Speed of a resync.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resync_bytes_per_second: Option<u64>,
    /// When a resync will be done at this speed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<u64>,
    /// Addresses of the leg.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub portals: Vec<String>,
    /// What an initiator must know besides: names and credentials. Left out: it is not served yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<LegTarget>,
    /// When this was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
    /// Who saw it: a node, or the peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_by: Option<String>,
}

/// How a copy is reached, besides its portals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LegTarget {
    /// iSCSI name of the target.
    pub iqn: String,
    /// Logical unit number there.
    #[serde(default)]
    pub lun: u16,
    /// NAA name that the LUN must have.
    pub naa: String,
    /// Credentials of the login. Left out: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chap: Option<ChapRef>,
    /// A LUN of an array of another make.
    #[serde(default)]
    pub array: bool,
    /// The array's write cache survives a power cut.
    #[serde(default)]
    pub cache_protected: bool,
    /// NAA name of a LUN that may be initialised although it is not empty or not ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initialize: Option<String>,
}

/// What a copy is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VolumeLegState {
    /// It has every acknowledged write.
    Member,
    /// It is being rebuilt.
    Resyncing,
    /// It lacks writes and waits for its rebuild.
    Outdated,
    /// It does not answer.
    Unreachable,
    /// It was never part of the volume.
    New,
}

/// The last move between the sites: what happened when.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastMove {
    /// Where the volume was.
    pub from: String,
    /// Where it is now.
    pub to: String,
    /// Planned, Unplanned or Force.
    pub mode: String,
    /// Who or what ordered it.
    pub reason: String,
    /// When the loss was detected or the order was given.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::instant::precisely"
    )]
    pub detected_at: Option<Time>,
    /// When the old writer was fenced.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::instant::precisely"
    )]
    pub fenced_at: Option<Time>,
    /// When the register named this site.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::instant::precisely"
    )]
    pub promoted_at: Option<Time>,
    /// When the first write was acknowledged.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::instant::precisely"
    )]
    pub first_write_at: Option<Time>,
    /// From detection to the first write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

fn read_write_once_pod() -> Vec<AccessMode> {
    vec![AccessMode::ReadWriteOncePod]
}

const fn one() -> i32 {
    1
}

const fn yes() -> bool {
    true
}
