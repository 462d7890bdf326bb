//! What an agent says of an [`Attachment`](super::Attachment), and what an inspection found.
//!
//! Everything but the state may be missing: an agent writes what it knows by now. Not here: what the words of `state` and
//! `reason` follow from (the agent), which condition types there are ([`crate::condition_type`]).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::FrontEnd;
use crate::{ActiveSite, LegIndex, VerifyReport};

/// What the agent says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How far it is.
    #[serde(default)]
    pub state: AttachmentState,
    /// State of the engine, such as `Synced`, `Solo(A)`, `Frozen`, `LeaseWait`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// One word for a refusal, failure or wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same in a sentence that says what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Order number of this Attachment in the register: once another has a higher one, it never attaches again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<u64>,
    /// Key of the attach that serves, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The block device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// The register as the agent last read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub register: Option<RegisterView>,
    /// The copies as this agent sees them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub legs: Vec<AttachmentLegStatus>,
    /// Bytes in which the copies may differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty_bytes: Option<u64>,
    /// How much of a resync is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resync_percent: Option<u8>,
    /// The same for people: `35%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resync: Option<String>,
    /// Bytes copied by the resync so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resync_copied_bytes: Option<u64>,
    /// Speed of the resync.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resync_bytes_per_second: Option<u64>,
    /// When the resync will be done at this speed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<u64>,
    /// The comparison of the copies under way, or the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<VerifyReport>,
    /// Whether the volume has its file system, as recorded on the legs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<FormatState>,
    /// Size of the volume in bytes, as recorded on the legs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// When this attach came to each step, for the account of a move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
    /// What mode Inspect found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inspect: Option<InspectReport>,
    /// When this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
    /// Ready, Attached, InSync, Degraded, WitnessReachable, LegLost, MembershipUnknown, SplitBrain, LegsDiffer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// How far an attachment is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AttachmentState {
    /// Not begun: something it needs is missing.
    #[default]
    Pending,
    /// On the way to the device.
    Attaching,
    /// The mirror is open.
    Attached,
    /// The mirror is open, I/O waits.
    Suspended,
    /// On the way out.
    Detaching,
    /// Detached cleanly.
    Detached,
    /// Not attached; see reason. Tried again where waiting can help.
    Refused,
    /// Another writer took over: it never attaches again.
    Superseded,
    /// A one-shot order is done.
    Done,
    /// It cannot be done; see reason.
    Failed,
}

/// A block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Such as `/dev/ublkb3` or `/dev/loop7`.
    pub path: String,
    /// Major number.
    #[serde(default)]
    pub major: u32,
    /// Minor number.
    #[serde(default)]
    pub minor: u32,
    /// Bytes that it shows.
    pub size: u64,
    /// How it is shown.
    pub front_end: FrontEnd,
}

/// The register as an agent last read it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegisterView {
    /// Identity of the register, in hex.
    pub register_id: String,
    /// Creating, Live or Tombstone.
    pub state: String,
    /// Ordered number of the membership.
    pub epoch: u64,
    /// Random id that goes with the epoch, in hex.
    pub generation: String,
    /// Legs that have every acknowledged write.
    pub members: Vec<LegIndex>,
    /// Where the volume is in use; the name is left out if no leg of this order stands there.
    pub active_site: ActiveSite,
    /// Index of that site.
    pub active_index: LegIndex,
    /// Key of the attach that holds it, in hex; left out: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// Legs of a lost branch that wait for a human.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unconfirmed: Vec<LegIndex>,
    /// Legs that must not rejoin.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_rejoin: Vec<LegIndex>,
    /// When it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_at: Option<Time>,
}

/// One copy as an agent sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentLegStatus {
    /// Which copy.
    pub leg: LegIndex,
    /// Its site.
    pub site: String,
    /// Member, Resyncing, Outdated, Unreachable or New.
    pub state: LegMembership,
    /// The portal in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub portal: Option<String>,
    /// Why it is not a member, or what is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Bytes in which it may differ from the other copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty_bytes: Option<u64>,
}

/// What a copy is good for.
pub type LegMembership = crate::VolumeLegState;

/// Whether a volume has its file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FormatState {
    None,
    Started,
    Done,
}

/// When an attach came to each step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timings {
    /// The order was read.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::instant::precisely"
    )]
    pub ordered_at: Option<Time>,
    /// The fences held.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::instant::precisely"
    )]
    pub fenced_at: Option<Time>,
    /// The register took the attach.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::instant::precisely"
    )]
    pub promoted_at: Option<Time>,
    /// The device was shown.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::instant::precisely"
    )]
    pub served_at: Option<Time>,
    /// The first write was acknowledged.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::instant::precisely"
    )]
    pub first_write_at: Option<Time>,
}

/// What mode Inspect found: the ground of a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InspectReport {
    /// Each leg that was asked.
    pub legs: Vec<InspectedLeg>,
    /// Token of a force that is based on this report: epoch and txid of the register.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// One leg as its superblock tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InspectedLeg {
    /// Which copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leg: Option<LegIndex>,
    /// Whether it answered.
    pub reachable: bool,
    /// Its class against the register, such as Usable, Stale, Ahead, Bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Role in its superblock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Epoch of its superblock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Generation of its superblock, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<String>,
    /// Sequence number of its superblock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sb_seq: Option<u64>,
    /// The register that its superblock was written for, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub register_id: Option<String>,
    /// How often the volume had moved when its superblock was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Until which membership it had every write, in a form of the agent's own: copies of the volumes of a group are of one moment
    /// if this is equal. Left out: it is a copy that was not completed, or has no data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moment: Option<String>,
    /// Beat of its last writer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beat: Option<u64>,
    /// Bytes that its map says may differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty_bytes: Option<u64>,
    /// Node of the last writer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Why it cannot be used, if it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl InspectReport {
    /// Token of a reseed that is based on this report: it stands for the history that each copy has. A clean detach changes
    /// neither epoch nor generation, so that a plan can be made while the volume is still open.
    pub fn reseed_token(&self) -> String {
        let mut legs: Vec<&InspectedLeg> = self.legs.iter().collect();
        legs.sort_by_key(|leg| leg.leg);
        let parts = legs.into_iter().map(|leg| {
            format!(
                "{:?} {} {:?} {:?} {:?} {:?}",
                leg.leg, leg.reachable, leg.role, leg.register_id, leg.epoch, leg.generation
            )
        });
        crate::id::fingerprint(&parts.collect::<Vec<_>>())
    }

    /// The same for reports of all volumes of a register, in their order.
    pub fn reseed_token_of(reports: &[&Self]) -> String {
        match reports {
            [only] => only.reseed_token(),
            all => {
                let tokens: Vec<String> = all.iter().map(|one| one.reseed_token()).collect();
                crate::id::fingerprint(&tokens)
            }
        }
    }

    pub fn leg(&self, index: LegIndex) -> Option<&InspectedLeg> {
        self.legs.iter().find(|leg| leg.leg == Some(index))
    }
}
