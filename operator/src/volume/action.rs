//! What a plan consists of: flat actions that leave the shell no choices, each printed as one line.
//!
//! The shell carries them out in order, by their own client calls, and stops at the first failure; the next round plans anew.
//! A guard that fails (uid, txid, precondition) is a failure like any other. `*Attachment`s and pods are deleted with their
//! uid as precondition; [`Action::ChangeRegister`] is a compare-and-swap of the register with that txid.

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use twinsite_api::{
    Attachment, AttachmentLeg, Leaving, Leg, LegIndex, MoveOrder, MoveRecord, Quantity, Workload,
};
use twinsite_register::{Members, Naa, Reseed, SeedMembers, TxId, VolumeId};

/// What to do for one volume, and what is to be said about it.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// In this order.
    pub actions: Vec<Action>,
    /// The move record that the status carries from now on; written at [`Action::RecordMove`], before what follows it.
    pub move_record: Option<MoveRecord>,
    /// A planned move away, as the status carries it from now on.
    pub leaving: Option<Leaving>,
    /// The spec cannot be reached without a human: why.
    pub stalled: Option<Why>,
    /// What the plan waits for, most important first.
    pub waiting: Vec<Why>,
    /// What a person asked for and does not get as it is asked: nothing waits for it.
    pub refused: Vec<Why>,
    /// What the automatic policy found.
    pub policy: Option<Why>,
    /// The plan used the move permit of the observation.
    pub took_permit: bool,
    /// Plan again after this time even if nothing changes.
    pub requeue: Option<Duration>,
}

/// A word and a sentence: reason and message of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    pub word: &'static str,
    pub message: String,
}

impl Why {
    pub fn new(word: &'static str, message: impl Into<String>) -> Self {
        Self {
            word,
            message: message.into(),
        }
    }
}

/// One step.
#[derive(Clone, Debug)]
pub enum Action {
    /// Add [`super::names::VOLUME_FINALIZER`] to the MirroredVolume.
    AddFinalizer,
    /// Remove it: the object may go.
    RemoveFinalizer,
    /// Server-side apply.
    ApplyLeg(Box<Leg>),
    DeleteLeg {
        name: String,
        uid: String,
    },
    /// Take the agent's finalizer from a Leg that is being deleted: its node is not in the cluster any more.
    ReleaseLeg {
        name: String,
        uid: String,
    },
    /// Server-side apply.
    ApplyPersistentVolume(Box<PersistentVolume>),
    /// Null `spec.claimRef.uid` and `.resourceVersion`: the claim of this name is another object than the bound one.
    RebindPersistentVolume {
        name: String,
    },
    DeletePersistentVolume {
        name: String,
        uid: String,
    },
    /// Server-side apply.
    ApplyClaim(Box<PersistentVolumeClaim>),
    DeleteClaim {
        name: String,
        uid: String,
    },
    /// Set `spec.replicas` by the /scale subresource of a workload in the volume's namespace.
    Scale {
        workload: Workload,
        replicas: i32,
    },
    /// Write the status with `Plan::move_record` now, before the actions that follow.
    RecordMove(MoveRecord),
    /// Create if absent; an object of that name that is there already is no failure.
    CreateAttachment(Box<Attachment>),
    /// Change fields of the spec of an Attachment by server-side apply with force, whoever made it.
    UpdateAttachment {
        name: String,
        uid: String,
        change: AttachmentChange,
    },
    DeleteAttachment {
        name: String,
        uid: String,
    },
    /// Take the agent's finalizer from an Attachment whose node is lost: its writer is fenced, or the volume is being deleted here.
    ReleaseAttachment {
        name: String,
        uid: String,
    },
    /// Delete a pod without grace: its node is lost and its volume fenced.
    DeletePod {
        name: String,
        uid: String,
    },
    /// Delete a pod with its own grace: its device is dead, and a new pod gets a new one.
    RestartPod {
        name: String,
        uid: String,
    },
    DeleteVolumeAttachment {
        name: String,
        uid: String,
    },
    /// Take the volume out of `status.volumesInUse` of a lost node, so that Kubernetes does not wait to detach it.
    ClearVolumeInUse {
        node: String,
        volumes: Vec<String>,
    },
    /// Compare-and-swap of the register: the change applied to the value that carries this txid.
    ChangeRegister {
        expect: TxId,
        change: RegisterChange,
    },
    /// Make a register in place of one that is lost (`None`), or compare-and-swap over the one with this txid, which is below
    /// what was seen. Generation and txid are the shell's. `seen`: of each of its volumes.
    SeedRegister {
        replaced: Option<TxId>,
        seed: Box<Reseed>,
        seen: Vec<(VolumeId, SeedMembers)>,
    },
}

/// What changes in an Attachment. What is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttachmentChange {
    pub legs: Option<Vec<AttachmentLeg>>,
    pub size: Option<Quantity>,
    pub drop_legs: Option<Vec<LegIndex>>,
    pub move_order: Option<MoveOrder>,
    /// The move that it orders is not wanted any more, or done.
    pub withdraw_move: bool,
    /// Compare the copies.
    pub verify: Option<String>,
    pub release: Option<bool>,
}

/// A transition of the register that an operator may send (protocol 2.3); random ids are the shell's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterChange {
    /// The spec names the actual site again.
    Unlatch,
    /// A person moved the volume: the spec does not bind until it names the site.
    Latch,
    /// Set which legs must not rejoin.
    NoRejoin(Members),
    /// The volume is deleted.
    Tombstone,
    /// The leg of a deleted volume is wiped.
    Wiped(LegIndex),
    /// Both legs of a deleted volume are wiped or given up: take the register away.
    Bury,
    /// A person gave up the lost branch on this leg.
    Confirm { leg: LegIndex, who: String },
    /// A person gave up this LUN for ever.
    Retire {
        leg: LegIndex,
        naa: Naa,
        who: String,
    },
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }

    pub(crate) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub(crate) fn wait(&mut self, word: &'static str, message: impl Into<String>) {
        let why = Why::new(word, message);
        if !self.waiting.contains(&why) {
            self.waiting.push(why);
        }
    }

    pub(crate) fn refuse(&mut self, word: &'static str, message: impl Into<String>) {
        let why = Why::new(word, message);
        if !self.refused.contains(&why) {
            self.refused.push(why);
        }
    }

    /// The first thing that needs a human is told; it is the one that hides the others.
    pub(crate) fn stall(&mut self, word: &'static str, message: impl Into<String>) {
        if self.stalled.is_none() {
            self.stalled = Some(Why::new(word, message));
        }
    }

    /// Plan again after this time at the latest.
    pub(crate) fn again(&mut self, after: Duration) {
        self.requeue = Some(self.requeue.map_or(after, |known| known.min(after)));
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for action in &self.actions {
            writeln!(f, "{action}")?;
        }
        for (what, why) in self
            .stalled
            .iter()
            .map(|why| ("stalled", why))
            .chain(self.waiting.iter().map(|why| ("waiting", why)))
            .chain(self.refused.iter().map(|why| ("refused", why)))
            .chain(self.policy.iter().map(|why| ("policy", why)))
        {
            writeln!(f, "{what}: {}: {}", why.word, why.message)?;
        }
        if let Some(after) = self.requeue {
            writeln!(f, "again after {after:?}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddFinalizer => f.write_str("add finalizer"),
            Self::RemoveFinalizer => f.write_str("remove finalizer"),
            Self::ApplyLeg(leg) => {
                let spec = &leg.spec;
                let name = leg.metadata.name.as_deref().unwrap_or("");
                write!(
                    f,
                    "apply Leg {name} pool={} node={} size={}",
                    spec.pool, spec.node, spec.size
                )
            }
            Self::DeleteLeg { name, .. } => write!(f, "delete Leg {name}"),
            Self::ReleaseLeg { name, .. } => write!(f, "release Leg {name} of a node that is gone"),
            Self::ApplyPersistentVolume(volume) => {
                write!(
                    f,
                    "apply PersistentVolume {}",
                    volume.metadata.name.as_deref().unwrap_or("")
                )
            }
            Self::RebindPersistentVolume { name } => write!(f, "rebind PersistentVolume {name}"),
            Self::DeletePersistentVolume { name, .. } => {
                write!(f, "delete PersistentVolume {name}")
            }
            Self::ApplyClaim(claim) => write!(
                f,
                "apply claim {}",
                claim.metadata.name.as_deref().unwrap_or("")
            ),
            Self::DeleteClaim { name, .. } => write!(f, "delete claim {name}"),
            Self::Scale { workload, replicas } => {
                write!(f, "scale {}/{} to {replicas}", workload.kind, workload.name)
            }
            Self::RecordMove(record) => {
                write!(
                    f,
                    "record move {:?} expectSeq={} ",
                    record.mode, record.expect_seq
                )?;
                write!(f, "({})", record.reason.as_deref().unwrap_or(""))
            }
            Self::CreateAttachment(attachment) => {
                let spec = &attachment.spec;
                let name = attachment.metadata.name.as_deref().unwrap_or("");
                write!(
                    f,
                    "create Attachment {name} mode={:?} node={}",
                    spec.mode, spec.node
                )?;
                if let Some(order) = &spec.move_ {
                    write!(f, " move={:?}@{}", order.mode, order.expect_seq)?;
                }
                for leg in &spec.drop_legs {
                    write!(f, " drop={leg}")?;
                }
                Ok(())
            }
            Self::UpdateAttachment { name, change, .. } => {
                write!(f, "update Attachment {name}{change}")
            }
            Self::DeleteAttachment { name, .. } => write!(f, "delete Attachment {name}"),
            Self::ReleaseAttachment { name, .. } => {
                write!(f, "release Attachment {name} of a lost node")
            }
            Self::DeletePod { name, .. } => write!(f, "delete pod {name} at once"),
            Self::RestartPod { name, .. } => write!(f, "restart pod {name}"),
            Self::DeleteVolumeAttachment { name, .. } => {
                write!(f, "delete VolumeAttachment {name}")
            }
            Self::ClearVolumeInUse { node, volumes } => {
                let volume = volumes.join(", ");
                write!(f, "clear volumesInUse of {node}: {volume}")
            }
            Self::ChangeRegister { change, .. } => write!(f, "register: {change}"),
            Self::SeedRegister { replaced, seed, .. } => {
                let over = if replaced.is_some() {
                    "over"
                } else {
                    "in place of"
                };
                write!(
                    f,
                    "register: seed {over} the old one, above epoch {}",
                    seed.highest_epoch
                )?;
                match &seed.members {
                    SeedMembers::Pair { .. } => f.write_str(" with both copies"),
                    SeedMembers::Alone { leg, .. } => write!(f, " with copy {leg} alone"),
                }
            }
        }
    }
}

impl fmt::Display for AttachmentChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(legs) = &self.legs {
            for leg in legs {
                write!(f, " leg {}={}", leg.leg, leg.portals.join(","))?;
            }
        }
        if let Some(size) = &self.size {
            write!(f, " size={size}")?;
        }
        if let Some(drop) = &self.drop_legs {
            let names: Vec<String> = drop.iter().map(ToString::to_string).collect();
            write!(f, " drop=[{}]", names.join(","))?;
        }
        if let Some(order) = &self.move_order {
            write!(f, " move={:?}@{}", order.mode, order.expect_seq)?;
        }
        if self.withdraw_move {
            f.write_str(" move=none")?;
        }
        if let Some(verify) = &self.verify {
            write!(f, " verify={verify}")?;
        }
        if let Some(release) = self.release {
            write!(f, " release={release}")?;
        }
        Ok(())
    }
}

impl fmt::Display for RegisterChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlatch => f.write_str("unlatch"),
            Self::Latch => f.write_str("latch"),
            Self::NoRejoin(legs) => write!(f, "no rejoin of {legs}"),
            Self::Tombstone => f.write_str("tombstone"),
            Self::Wiped(leg) => write!(f, "leg {leg} is wiped"),
            Self::Bury => f.write_str("bury"),
            Self::Confirm { leg, who } => write!(f, "confirm lost branch {leg} ({who})"),
            Self::Retire { leg, naa, who } => write!(f, "retire leg {leg} {naa} ({who})"),
        }
    }
}
