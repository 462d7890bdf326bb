//! What is left in this cluster of a volume whose MirroredVolume is gone here.
//!
//! The copy is served as long as the other cluster keeps the volume, or while nobody can say whether it does. Once both
//! have let go it is destroyed or put aside, as the policy said that stood on the volume (an annotation of the Leg).

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use twinsite_api::{
    AttachmentMode, Claim, DeletionPolicy, Leg, LegIndex, MirroredVolume, MirroredVolumeSpec,
    MirroredVolumeStatus, Quantity, SitePair, VolumeId, VolumeLeg,
};
use twinsite_register::Class;

use super::situation::Situation;
use super::{Action, Desired, Observed, Plan, attachments, binding, deletion, names};

/// What is known of a volume without its object: what stands on its Leg, or on its PersistentVolume.
#[derive(Clone, Debug)]
pub struct Orphan {
    pub id: VolumeId,
    /// From label or annotation [`names::NAMESPACE_LABEL`].
    pub namespace: String,
    /// From label or annotation [`names::NAME_LABEL`].
    pub name: String,
    /// The Leg of this cluster, if there is one.
    pub leg: Option<Arc<Leg>>,
    /// The SitePair that the Leg names.
    pub pair: Option<Arc<SitePair>>,
    pub site: String,
    pub index: Option<LegIndex>,
}

impl Orphan {
    /// The volume as if it were being deleted now.
    pub(crate) fn desired(&self) -> Desired {
        let annotation = self.leg.as_ref().and_then(|leg| {
            leg.metadata
                .annotations
                .as_ref()?
                .get(names::DELETION_ANNOTATION)
        });
        let destroys =
            annotation.is_some_and(|policy| *policy == format!("{:?}", DeletionPolicy::Delete));
        let pair = self
            .pair
            .as_ref()
            .and_then(|pair| pair.metadata.name.clone())
            .unwrap_or_default();
        let size = self
            .leg
            .as_ref()
            .map_or_else(|| Quantity::from_bytes(0), |leg| leg.spec.size.clone());
        let mut volume = MirroredVolume::new(
            &self.name,
            MirroredVolumeSpec {
                site_pair: self
                    .leg
                    .as_ref()
                    .map_or(pair, |leg| leg.spec.site_pair.clone()),
                active_site: Some(self.site.clone()),
                failback: None,
                on_no_quorum: None,
                workloads: None,
                group: None,
                capacity: size,
                volume_mode: Default::default(),
                fs_type: None,
                access_modes: Vec::new(),
                claim: Claim {
                    name: self.name.clone(),
                    create: false,
                },
                deletion_policy: if destroys {
                    DeletionPolicy::Delete
                } else {
                    DeletionPolicy::Retain
                },
                legs: vec![VolumeLeg {
                    site: self.site.clone(),
                    pool: self.leg.as_ref().map(|leg| leg.spec.pool.clone()),
                    pool_class: None,
                    lun: None,
                }],
            },
        );
        volume.metadata.namespace = Some(self.namespace.clone());
        volume.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        volume.status = Some(MirroredVolumeStatus {
            volume_id: Some(self.id),
            ..MirroredVolumeStatus::default()
        });
        Desired {
            volume: Arc::new(volume),
            group: None,
            pair: self.pair.clone(),
            site: self.site.clone(),
            index: self.index,
        }
    }
}

/// What to do with the remains. `seen` is as of a volume: the peer's object of the same name, the register, what is
/// attached.
pub fn plan(orphan: &Orphan, seen: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let desired = orphan.desired();
    let situation = match Situation::of(&desired, seen, now) {
        Ok(situation) if situation.id == orphan.id => situation,
        Ok(_) => {
            plan.stall(
                twinsite_api::reason::INVALID_SPEC,
                "the labels name another volume than the object: left alone",
            );
            return plan;
        }
        Err(why) => {
            plan.stall(why.word, why.message);
            return plan;
        }
    };
    attachments::lost_nodes(&situation, &mut plan);
    for mode in [
        AttachmentMode::Caretaker,
        AttachmentMode::Birth,
        AttachmentMode::Inspect,
    ] {
        if let Some(there) = situation.attachment(mode) {
            attachments::delete(there, &mut plan);
        }
    }
    if let Some(wipe) = situation.attachment(AttachmentMode::Wipe)
        && situation.class.is_some()
        && situation.tombstone().is_none()
    {
        attachments::delete(wipe, &mut plan);
    }
    if claim_is_gone(seen) {
        binding::remove_volume(&situation, &mut plan);
    }
    copy(&situation, &mut plan);
    plan
}

/// The PersistentVolume's claim is gone, or another one of that name is there.
fn claim_is_gone(seen: &Observed) -> bool {
    let bound = seen
        .persistent_volume
        .as_ref()
        .and_then(|volume| volume.spec.as_ref()?.claim_ref.as_ref()?.uid.clone());
    let claim = seen
        .claim
        .as_ref()
        .filter(|claim| claim.metadata.deletion_timestamp.is_none());
    match (bound, claim.and_then(|claim| claim.metadata.uid.clone())) {
        (Some(bound), Some(claim)) => bound != claim,
        (None, Some(_)) => false,
        (_, None) => true,
    }
}

fn copy(situation: &Situation<'_>, plan: &mut Plan) {
    if situation.leg_object().is_none() {
        return;
    }
    let destroys = situation.spec().deletion_policy == DeletionPolicy::Delete;
    let twin_is_gone = deletion::twin_is_gone(situation) == Some(true);
    match situation.class {
        Some(Class::Tombstone) => {
            if let Some(why) = deletion::destroy(situation, plan) {
                plan.wait(why.word, why.message);
            }
        }
        Some(Class::Creating | Class::Live | Class::Absent) if twin_is_gone && destroys => {
            if let Some(why) = deletion::destroy(situation, plan) {
                plan.wait(why.word, why.message);
            }
        }
        // One that is only going may still be destroyed with what is here.
        Some(Class::Live | Class::Absent)
            if twin_is_gone && situation.seen.peer.volume.is_none() =>
        {
            match deletion::attached(situation) {
                Some(why) => plan.wait(why.word, why.message),
                // The file stays, since it was not wiped: a volume of the same name adopts it.
                None => {
                    if let Some(leg) = situation
                        .leg_object()
                        .filter(|leg| leg.metadata.deletion_timestamp.is_none())
                    {
                        plan.act(Action::DeleteLeg {
                            name: super::situation::name(&leg.metadata),
                            uid: super::situation::uid(&leg.metadata),
                        });
                    }
                }
            }
        }
        _ => plan.wait(
            twinsite_api::reason::PENDING,
            format!("the copy is served for {}", situation.other_site),
        ),
    }
}
