//! `Leg`: serve this LUN from this pool. Internal: made by the operator, or by a person on bare metal.
//!
//! An agent does everything from this object and the StoragePool it names; it needs nothing else.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ChapRef, GroupId, LegIndex, Quantity, VolumeId};

/// Order to an agent: serve one copy of a volume.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "twinsite.io",
    version = "v1alpha1",
    kind = "Leg",
    plural = "legs",
    category = "twinsite",
    doc = "One copy of a volume, served by the agent of a node. Internal: made by the operator.",
    status = "LegStatus",
    derive = "PartialEq",
    selectable = ".spec.node",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    printcolumn(name = "Site", type_ = "string", json_path = ".spec.site"),
    printcolumn(name = "Leg", type_ = "string", json_path = ".spec.leg"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.node"),
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.pool"),
    printcolumn(name = "Size", type_ = "string", json_path = ".spec.size"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.volume == oldSelf.volume && self.leg == oldSelf.leg && self.pool == oldSelf.pool").message("volume, leg and pool are immutable: another pool is another Leg"),
    validation = Rule::new("quantity(self.size).compareTo(quantity(oldSelf.size)) >= 0").message("size only grows").field_path(".size"),
)]
pub struct LegSpec {
    /// The volume this is a copy of. Immutable.
    pub volume: VolumeId,
    /// The group whose register decides about it. Left out: its own; a volume in a group names the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupId>,
    /// Which copy: the index of the site. Immutable.
    pub leg: LegIndex,
    /// The site it stands at.
    #[schemars(length(min = 1, max = 63))]
    pub site: String,
    /// The SitePair it belongs to: its pair secret gives the CHAP credentials.
    #[schemars(length(min = 1, max = 253))]
    pub site_pair: String,
    /// The StoragePool that holds it. Immutable.
    #[schemars(length(min = 1, max = 253))]
    pub pool: String,
    /// The node whose agent serves it.
    #[schemars(length(min = 1, max = 253))]
    pub node: String,
    /// Bytes of data. The LUN is 128 MiB larger: the head belongs to the mirror.
    pub size: Quantity,
    /// Logical block size: 4096 or 512.
    #[serde(default = "block_4096")]
    #[schemars(extend("enum" = [512, 4096]))]
    pub block_size: u32,
    /// iSCSI name of the target. Left out: derived from volume and leg.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 4, max = 223))]
    pub iqn: Option<String>,
    /// Logical unit number there.
    #[serde(default)]
    #[schemars(range(min = 0, max = 16383))]
    pub lun: u16,
    /// NAA name of the LUN. Left out: derived from volume and leg.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 20, max = 36),
        regex(pattern = r"^naa\.[0-9a-f]{16}([0-9a-f]{16})?$")
    )]
    pub naa: Option<String>,
    /// Credentials that initiators must show. Left out: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chap: Option<ChapRef>,
    /// iSCSI names that may log in. Empty: any that shows the credentials.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 4, max = 223)))]
    pub initiators: Vec<String>,
    /// What becomes of the file when this object goes away.
    #[serde(default)]
    pub removal: LegRemoval,
}

/// What becomes of a leg's file when its Leg goes away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LegRemoval {
    /// It stays.
    #[default]
    Retain,
    /// It is removed, if its superblocks were wiped before (a Wipe attachment does that).
    DeleteWiped,
}

/// What the serving agent says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LegStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pending, Serving, Failed or Stopped. Pending also when nothing was heard of its agent.
    #[serde(default)]
    pub state: LegState,
    /// Why, in a sentence that says what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Addresses at which it is served.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub portals: Vec<String>,
    /// iSCSI name of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iqn: Option<String>,
    /// Logical unit number there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lun: Option<u16>,
    /// NAA name of the LUN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub naa: Option<String>,
    /// Bytes of data that are served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Bytes that its file takes in the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocated_bytes: Option<u64>,
    /// Random per start of the target, in hex: another one means that a volatile cache may have lost writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Initiators that are logged in.
    #[serde(default)]
    pub sessions: u32,
    /// Milliseconds since the last command from another site's writer; left out: none since the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_foreign_command_age: Option<u64>,
    /// When this was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
    /// Ready, with the reason if it is not served; Unknown with the reason AgentSilent when nothing was heard of its agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Whether a leg is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LegState {
    #[default]
    Pending,
    Serving,
    Failed,
    Stopped,
}

const fn block_4096() -> u32 {
    4096
}

impl LegSpec {
    /// Whose register decides about the volume.
    pub fn group_id(&self) -> GroupId {
        self.group.unwrap_or(GroupId::Volume(self.volume))
    }

    /// The target's iSCSI name.
    pub fn target_name(&self) -> String {
        self.iqn
            .clone()
            .unwrap_or_else(|| self.volume.leg_iqn(self.leg))
    }

    /// The LUN's NAA name, as text.
    pub fn naa_text(&self) -> String {
        self.naa
            .clone()
            .unwrap_or_else(|| self.volume.leg_naa_text(self.leg))
    }
}
