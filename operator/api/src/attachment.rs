//! `Attachment`: open this mirror on this node, or do one thing with its legs. Internal.
//!
//! Everything that touches a leg is done by an agent on such an order, by iSCSI, never by the
//! operator. The uid of the object is the unit of order (protocol 2.7): once another Attachment has
//! attached, this one never attaches again. A removed Attachment is an order to detach.
//!
//! An agent does everything from this object and the SitePair it names; it needs nothing else.

mod status;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ChapRef, GroupId, LegIndex, OnNoQuorum, Quantity, Span, VolumeId, VolumeMode};

pub use status::{
    AttachmentLegStatus, AttachmentState, AttachmentStatus, Device, FormatState, InspectReport,
    InspectedLeg, LegMembership, RegisterView, Timings,
};

/// Order to an agent: open a mirror, or do one thing with its legs.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "twinsite.io",
    version = "v1alpha1",
    kind = "Attachment",
    plural = "attachments",
    shortname = "tatt",
    category = "twinsite",
    doc = "A mirror that an agent holds open, or one order about its legs. Internal: made by the CSI controller and the operator.",
    status = "AttachmentStatus",
    derive = "PartialEq",
    selectable = ".spec.node",
    selectable = ".spec.volume",
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.node"),
    printcolumn(name = "Engine", type_ = "string", json_path = ".status.engine"),
    printcolumn(name = "Device", type_ = "string", json_path = ".status.device.path"),
    printcolumn(name = "Resync", type_ = "string", json_path = ".status.resync"),
    printcolumn(
        name = "Volume",
        type_ = "string",
        json_path = ".spec.reference",
        priority = 1
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.reason",
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
    validation = Rule::new("self.volume == oldSelf.volume && self.mode == oldSelf.mode && self.node == oldSelf.node && self.site == oldSelf.site").message("volume, mode, node and site are immutable: another attachment is another object"),
    validation = Rule::new("(self.mode == 'Birth') == has(self.birth)").message("birth stands exactly with mode Birth").field_path(".birth"),
    validation = Rule::new("(self.mode == 'Reseed') == has(self.reseed)").message("reseed stands exactly with mode Reseed").field_path(".reseed"),
    validation = Rule::new("(self.mode == 'Force') == has(self.force)").message("force stands exactly with mode Force").field_path(".force"),
    validation = Rule::new("!has(self.release) || !self.release || self.mode == 'Writer'").message("only a Writer is released: it alone has a device that a node uses").field_path(".release"),
    validation = Rule::new("!has(self.move) || self.mode == 'Writer' || self.mode == 'Caretaker'").message("only a Writer or Caretaker can move a volume").field_path(".move"),
)]
pub struct AttachmentSpec {
    /// The volume.
    pub volume: VolumeId,
    /// What people call it: `namespace/name` of the MirroredVolume. For logs, metrics and messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 317))]
    pub reference: Option<String>,
    /// The group whose register decides about it. Left out: its own; a volume in a group names the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupId>,
    /// All volumes of the group, this one included; empty: it is in no group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub group_volumes: Vec<VolumeId>,
    /// The SitePair: its witness, pair secret and limits hold.
    #[schemars(length(min = 1, max = 253))]
    pub site_pair: String,
    /// The node whose agent does it.
    #[schemars(length(min = 1, max = 253))]
    pub node: String,
    /// The site of that node.
    #[schemars(length(min = 1, max = 63))]
    pub site: String,
    /// What to do.
    pub mode: AttachmentMode,
    /// The copies and how to reach them.
    #[schemars(length(min = 1, max = 2))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["leg".into()]))]
    pub legs: Vec<AttachmentLeg>,
    /// Bytes of data. Larger than what the legs record is an order to expand.
    pub size: Quantity,
    /// Logical block size of the device: 4096 or 512.
    #[serde(default = "block_4096")]
    #[schemars(extend("enum" = [512, 4096]))]
    pub block_size: u32,
    /// How the volume is shown; recorded on the legs at the first attach.
    #[serde(default)]
    pub volume_mode: VolumeMode,
    /// The file system it will have; recorded on the legs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 15))]
    pub fs_type: Option<String>,
    /// What happens to I/O while the membership is unknown.
    #[serde(default)]
    pub on_no_quorum: OnNoQuorum,
    /// Order of a move to this site, honoured only while the register's `active.seq` equals `expectSeq`.
    #[serde(default, rename = "move", skip_serializing_if = "Option::is_none")]
    pub move_: Option<MoveOrder>,
    /// The volume leaves this site: detach as soon as the node no longer uses the device, and do not open it again.
    #[serde(default, skip_serializing_if = "is_false")]
    pub release: bool,
    /// How the device is shown. Auto: ublk where the kernel has it, else FUSE and loop.
    #[serde(default)]
    pub front_end: FrontEnd,
    /// Legs that must leave the membership and not come back by themselves; the last member never leaves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1))]
    pub drop_legs: Vec<LegIndex>,
    /// Compare both copies while the volume is used; each new value is one comparison.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub verify: Option<String>,
    /// Bytes per second of copying and of comparing; left out: the SitePair's limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_resync_bytes_per_second: Option<Quantity>,
    /// How long a command to a leg may take before the leg is lost. 2s to 30s, default 3s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_timeout: Option<Span>,
    /// How long a writer may answer reads without having heard from both legs. Default 3s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Span>,
    /// Details of mode Birth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub birth: Option<BirthOrder>,
    /// Details of mode Reseed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reseed: Option<ReseedOrder>,
    /// Details of mode Force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<ForceOrder>,
}

/// What an agent does with a volume.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum AttachmentMode {
    /// Hold the mirror open and show its device.
    Writer,
    /// Hold the mirror open without a device: resync, or clear a dead holder.
    Caretaker,
    /// Initialise both legs of a new volume. One-shot.
    Birth,
    /// Read the superblocks of the legs and report them; preempts nobody, writes nothing. One-shot.
    Inspect,
    /// Erase the legs of a volume whose register is a tombstone. One-shot.
    Wipe,
    /// Write a new register identity to the legs after the witness was lost. One-shot.
    Reseed,
    /// Fence the one leg and make the register name it alone, as a person accepted. One-shot.
    Force,
}

impl AttachmentMode {
    /// Whether it ends by itself.
    pub const fn is_one_shot(self) -> bool {
        !matches!(self, Self::Writer | Self::Caretaker)
    }
}

/// One copy and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentLeg {
    /// Which copy: the index of its site.
    pub leg: LegIndex,
    /// The site it stands at.
    #[schemars(length(min = 1, max = 63))]
    pub site: String,
    /// Addresses `host:port`, best first.
    #[schemars(length(min = 1, max = 8), inner(length(min = 3, max = 260)))]
    pub portals: Vec<String>,
    /// iSCSI name of the target. Left out: our own target's name for this leg.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 4, max = 223))]
    pub iqn: Option<String>,
    /// Logical unit number there.
    #[serde(default)]
    #[schemars(range(min = 0, max = 16383))]
    pub lun: u16,
    /// NAA name that the LUN must have. Left out: our own target's name for this leg.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 20, max = 36),
        regex(pattern = r"^naa\.[0-9a-f]{16}([0-9a-f]{16})?$")
    )]
    pub naa: Option<String>,
    /// Credentials of the login. Left out: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chap: Option<ChapRef>,
    /// A LUN of an array of another make: the stricter rules for foreign arrays hold.
    #[serde(default)]
    pub array: bool,
    /// The array's write cache survives a power cut.
    #[serde(default)]
    pub cache_protected: bool,
    /// NAA name of a LUN that may be initialised although it is not empty or not ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 20, max = 36),
        regex(pattern = r"^naa\.[0-9a-f]{16}([0-9a-f]{16})?$")
    )]
    pub initialize: Option<String>,
}

/// Order of a move to the agent's site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MoveOrder {
    /// Planned: the old site has detached. Failover: it is down.
    pub mode: MoveMode,
    /// The register's `active.seq` that the order is about: another one makes it void.
    pub expect_seq: u64,
    /// A person ordered it. A failover without one is refused while the old writer is still heard of.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_person: bool,
}

/// How a volume moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MoveMode {
    Planned,
    Failover,
}

/// How a device is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FrontEnd {
    #[default]
    Auto,
    Ublk,
    FuseLoop,
    /// Not at all: the mirror runs for tests and benchmarks.
    None,
}

/// Details of a birth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BirthOrder {
    /// The site where the volume will be active first.
    #[schemars(length(min = 1, max = 63))]
    pub active_site: String,
    /// Create the register if there is none. False: somebody else has.
    #[serde(default = "yes")]
    pub create_register: bool,
}

/// Details of a reseed, as a person accepted them after a plan.
///
/// Of a group there is one such order per volume, on one node; all but `expect` is alike in all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReseedOrder {
    /// The new register_id: 32 hex digits.
    #[schemars(length(min = 32, max = 32))]
    pub register_id: String,
    /// Legs that get it. The others of `spec.legs` are only fenced, if they answer.
    #[schemars(length(min = 1, max = 2))]
    pub legs: Vec<LegIndex>,
    /// Every register_id that it replaces: 32 hex digits each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 32, max = 32)))]
    pub former: Vec<String>,
    /// What the plan saw on these legs: one that shows another history is not written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub expect: Vec<ExpectedLeg>,
    /// Highest epoch known anywhere when the order was made.
    #[serde(default)]
    pub highest_epoch: u64,
    /// Highest move known anywhere when the order was made.
    #[serde(default)]
    pub highest_seq: u64,
    /// The person accepted copies of a group that are not of one moment.
    #[serde(default, skip_serializing_if = "is_false")]
    pub inconsistent: bool,
}

/// The history of a leg, as a plan saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExpectedLeg {
    pub leg: LegIndex,
    /// Epoch of its superblock.
    pub epoch: u64,
    /// Its generation: 32 hex digits.
    #[schemars(length(min = 32, max = 32))]
    pub generation: String,
}

/// Details of a force, as a person accepted them after a plan: the register and the superblock must still be these.
///
/// Of a group there is one such order per volume, on one node, and all name the group, its volumes and the same register
/// (`expectEpoch`, `expectTxid`), person and acceptance; the superblock is that of their own volume. They are carried out together, by
/// one change of the register, or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ForceOrder {
    /// Epoch of the register that the plan was about.
    pub expect_epoch: u64,
    /// Its transaction id: 32 hex digits.
    #[schemars(length(min = 32, max = 32))]
    pub expect_txid: String,
    /// Epoch of the leg's superblock.
    pub epoch: u64,
    /// Its generation: 32 hex digits.
    #[schemars(length(min = 32, max = 32))]
    pub generation: String,
    /// Its sequence number.
    pub sb_seq: u64,
    /// Who forces, for the note in the register.
    #[schemars(length(min = 1, max = 512))]
    pub who: String,
    /// The person accepted a copy that is a mix of old and new, or copies of a group that are not of one moment.
    #[serde(default, skip_serializing_if = "is_false")]
    pub inconsistent: bool,
}

impl AttachmentSpec {
    /// Whose register decides about the volume.
    pub fn group_id(&self) -> GroupId {
        self.group.unwrap_or(GroupId::Volume(self.volume))
    }

    /// What people call the volume.
    pub fn display_name(&self) -> String {
        self.reference
            .clone()
            .unwrap_or_else(|| self.volume.to_string())
    }

    pub fn leg(&self, index: LegIndex) -> Option<&AttachmentLeg> {
        self.legs.iter().find(|leg| leg.leg == index)
    }

    /// Index of the agent's own site: that of the leg that stands there, or the one that the only
    /// leg, at the other site, does not have.
    pub fn own_index(&self) -> Option<LegIndex> {
        let own = self.legs.iter().find(|leg| leg.site == self.site);
        match (own, self.legs.as_slice()) {
            (Some(own), _) => Some(own.leg),
            (None, [only]) => Some(only.leg.other()),
            (None, _) => None,
        }
    }

    /// The target's iSCSI name of a leg.
    pub fn target_name(&self, leg: &AttachmentLeg) -> String {
        leg.iqn
            .clone()
            .unwrap_or_else(|| self.volume.leg_iqn(leg.leg))
    }

    /// The NAA name that the LUN of a leg must have, as text.
    pub fn naa_text(&self, leg: &AttachmentLeg) -> String {
        leg.naa
            .clone()
            .unwrap_or_else(|| self.volume.leg_naa_text(leg.leg))
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
const fn is_false(value: &bool) -> bool {
    !*value
}

const fn block_4096() -> u32 {
    4096
}

const fn yes() -> bool {
    true
}
