//! What the shell saw of one volume, in this cluster, at the witness and in the peer's cluster.
//!
//! Of a volume in a group: what is said of Legs and Attachments here, of Attachments there, of pods, VolumeAttachments, nodes, orders and
//! signs of life is said of all its volumes together (`group::join`), since what follows from it is decided for all of them at once.
//!
//! Everything here may be old by the time of the plan; what must not be acted on when it is old is guarded where it is
//! acted on (uid of an object, txid of a register, `expectSeq` of a move).
//! Lengths of time are by the observer's own monotonic clock, never differences of wall clocks of two machines.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::jiff::Timestamp;
use twinsite_api::{
    Attachment, Failover, Leg, MirroredVolume, MirroredVolumeStatus, SitePair, StoragePool,
    Workload, reason,
};
use twinsite_register::{Mark, Register};

use super::Why;
use crate::shell::odd::not_known;

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The StoragePools of this cluster.
    pub pools: Vec<Arc<StoragePool>>,
    /// The Legs of this volume in this cluster, and of those that share its register.
    pub legs: Vec<Arc<Leg>>,
    /// Names of pools of kind `device` that already carry a Leg of another volume.
    pub taken_pools: Vec<String>,
    /// The Attachments of this volume in this cluster, of every mode, and of those that share its register.
    pub attachments: Vec<Arc<Attachment>>,
    /// The PersistentVolume with the volume's name.
    pub persistent_volume: Option<Arc<PersistentVolume>>,
    /// The claim with the name of `spec.claim`, whoever made it.
    pub claim: Option<Arc<PersistentVolumeClaim>>,
    /// Pods of the namespace that use the claim and are not finished.
    pub pods: Vec<PodView>,
    /// VolumeAttachments of the PersistentVolume.
    pub volume_attachments: Vec<VolumeAttachmentView>,
    /// The workloads of the spec, in the order of the spec.
    pub workloads: Vec<WorkloadView>,
    /// The nodes of this cluster that run, or ran, an agent.
    pub nodes: Vec<NodeView>,
    /// The register of the volume.
    pub witness: Witness,
    /// The highest registers of this volume that this site saw.
    pub marks: Vec<Mark>,
    /// The peer's objects.
    pub peer: Peer,
    /// Signs of life at the witness.
    pub evidence: Evidence,
    /// Failover objects of either cluster that name this volume and are not over for it, oldest first.
    pub failovers: Vec<FailoverOrder>,
    /// Fields of the spec, or of its pair's, that this version does not know. It goes on without them, but begins nothing that
    /// cannot be taken back: no birth, no destruction, no order by which a copy may be given up.
    pub unknown: Vec<String>,
    /// The volumes of its group, this one included, as their people left them; empty: it is in none.
    pub company: Vec<Arc<MirroredVolume>>,
    /// The volumes of its group that are not being deleted; empty: it is in none, or all go.
    pub kept_by: Vec<String>,
    /// Whether an automatic move may begin now (see `policy::RateLimit`); the shell takes a permit when a plan uses it.
    pub move_permit: bool,
}

/// A Failover object and where it stands.
#[derive(Clone, Debug)]
pub struct FailoverOrder {
    pub object: Arc<Failover>,
    /// It was made in the peer's cluster.
    pub at_peer: bool,
}

/// A pod that uses the claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodView {
    pub name: String,
    pub uid: String,
    /// Where it was placed.
    pub node: Option<String>,
    /// It has a deletion timestamp.
    pub deleting: bool,
    /// Kind and name of its controller.
    pub owner: Option<(String, String)>,
}

impl PodView {
    /// Whether a workload made it, itself or, as a Deployment does, by a ReplicaSet.
    pub fn is_of(&self, workload: &Workload) -> bool {
        let Some((kind, name)) = &self.owner else {
            return false;
        };
        let of_its_set = || {
            let rest = name.strip_prefix(&workload.name);
            let hash = rest.and_then(|rest| rest.strip_prefix('-'));
            hash.is_some_and(|hash| !hash.contains('-'))
        };
        (*kind == workload.kind && *name == workload.name)
            || (workload.kind == "Deployment" && kind == "ReplicaSet" && of_its_set())
    }
}

/// A VolumeAttachment of the volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeAttachmentView {
    pub name: String,
    pub uid: String,
    pub node: String,
    pub attached: bool,
    pub deleting: bool,
}

/// A workload as its /scale subresource shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadView {
    pub workload: Workload,
    /// `spec.replicas`; `None`: there is no such object, or it has no /scale, see `trouble`.
    pub replicas: Option<i32>,
    /// `status.replicas`: pods that still exist.
    pub running: Option<i32>,
    /// Why it could not be read.
    pub trouble: Option<String>,
}

/// A node of this cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    pub name: String,
    /// Its agent is there and the node is Ready.
    pub ready: bool,
    /// For how long neither kubelet's lease nor the agent gave a sign of life; `None`: it does.
    pub silent_for: Option<Duration>,
    /// `status.volumesInUse` names this volume.
    pub volume_in_use: bool,
    /// The Node object is gone.
    pub gone: bool,
    /// Nothing was heard of its agent for so long that it is not there.
    pub agent_silent: bool,
}

/// What was read of the register.
#[derive(Clone, Debug, Default)]
pub struct Witness {
    /// Whether the last read was answered.
    pub reach: Reach,
    /// The answer of the last read that was answered. It is the present state only while `reach` says so.
    pub register: Reading,
}

/// A register as read.
#[derive(Clone, Debug, Default)]
pub enum Reading {
    /// Not read since the start of this process.
    #[default]
    Unknown,
    /// The witness says that there is none.
    Absent,
    Found(Arc<Register>),
}

/// Whether another party answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Nobody asked yet, or there is nobody to ask.
    #[default]
    Unknown,
    Answers,
    /// It did not answer the last time, or what it answered cannot be used.
    Silent {
        /// When it last answered.
        last: Option<Timestamp>,
        /// What happened, in words.
        why: String,
        /// It answers; only what it says of this volume cannot be used.
        of_volume: bool,
    },
}

/// What the peer's cluster shows.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    pub reach: Reach,
    /// Its objects, as last seen while it answered.
    pub volume: Option<Arc<MirroredVolume>>,
    pub pair: Option<Arc<SitePair>>,
    /// Of this volume alone.
    pub legs: Vec<Arc<Leg>>,
    pub attachments: Vec<Arc<Attachment>>,
    /// What its cluster lacks of the group; nothing is agreed with it before it has that.
    pub lacks: Option<String>,
    /// The volumes of the group that its cluster keeps, or of which nobody can say that it does not.
    pub keeps: Vec<String>,
    /// The volumes of the group there, as last seen; empty: it is in none.
    pub company: Vec<Arc<MirroredVolume>>,
}

/// Signs of life, aged by the observer's own clock while the witness answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// For how long the liveness object of the other site has not changed; `None`: not known.
    pub site_still_for: Option<Duration>,
    /// For how long the volume's beat object has not changed; `None`: not known.
    pub beat_still_for: Option<Duration>,
}

impl Peer {
    /// What its MirroredVolume said when it was last seen.
    pub fn status(&self) -> Option<&MirroredVolumeStatus> {
        self.volume.as_ref()?.status.as_ref()
    }
}

impl Reach {
    pub const fn answers(&self) -> bool {
        matches!(self, Self::Answers)
    }
}

impl Witness {
    /// The register, only if the witness answers now.
    pub fn current(&self) -> Option<&Register> {
        match &self.register {
            Reading::Found(register) if self.reach.answers() => Some(register),
            _ => None,
        }
    }

    /// Why the register is not known now, while it does not answer.
    pub fn trouble(&self) -> &str {
        match &self.reach {
            Reach::Silent {
                of_volume: true,
                why,
                ..
            } => why,
            _ => "the witness does not answer",
        }
    }

    /// The register as last read, however long ago.
    pub fn last(&self) -> Option<&Register> {
        match &self.register {
            Reading::Found(register) => Some(register),
            _ => None,
        }
    }
}

impl Observed {
    /// Why nothing may be begun that cannot be taken back.
    pub fn not_understood(&self) -> Option<Why> {
        let fields = self.unknown.join(", ");
        (!fields.is_empty()).then(|| {
            Why::new(
                reason::UNKNOWN_FIELDS,
                format!(
                    "{}; until then the volume is neither made nor destroyed here, and no copy is given up",
                    not_known(&fields)
                ),
            )
        })
    }

    pub fn node(&self, name: &str) -> Option<&NodeView> {
        self.nodes.iter().find(|node| node.name == name)
    }
}
