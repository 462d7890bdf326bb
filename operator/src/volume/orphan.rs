//! What is left in this cluster of a volume whose MirroredVolume is gone here.
//!
//! The copy is served as long as the other cluster keeps the volume, or while nobody can say whether it does. Once both
//! have let go it is destroyed or put aside, as the policy said that stood on the volume (an annotation of the Leg).

use std::sync::Arc;

use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use twinsite_api::{
    Attachment, AttachmentMode, Claim, DeletionPolicy, GroupId, Leg, LegIndex, MirroredVolume,
    MirroredVolumeSpec, MirroredVolumeStatus, OnNoQuorum, Quantity, SitePair, VolumeGroup,
    VolumeId, VolumeLeg,
};
use twinsite_register::Class;

use super::situation::Situation;
use super::{Desired, Observed, Plan, Why, attachments, binding, copies, deletion, names};

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
    /// The PersistentVolume with the volume's name.
    pub persistent_volume: Option<Arc<PersistentVolume>>,
    /// The SitePair that the Leg names.
    pub pair: Option<Arc<SitePair>>,
    pub site: String,
    pub index: Option<LegIndex>,
    /// The Legs of its group that are left here, its own included, if it is of one.
    pub company: Vec<Arc<Leg>>,
}

impl Orphan {
    /// The claim that its PersistentVolume is bound to. Nothing else says whose pods use the volume: a claim of the volume's name
    /// may be somebody else's.
    fn claim(&self) -> Option<&str> {
        let spec = self.persistent_volume.as_ref()?.spec.as_ref()?;
        let claim = spec.claim_ref.as_ref()?;
        let is_here = claim.namespace.as_ref() == Some(&self.namespace);
        claim.name.as_deref().filter(|_| is_here)
    }

    /// The group that its Leg is of; one that does not say with which volumes is none, and its copy stays as it is.
    pub fn group(&self) -> Option<VolumeGroup> {
        let leg = self.leg.as_ref()?;
        let volumes = annotation(leg, names::GROUP_VOLUMES_ANNOTATION)?;
        let volumes = volumes.split(',').map(|id| id.parse().ok());
        Some(VolumeGroup {
            id: leg.spec.group?,
            volumes: volumes.collect::<Option<_>>()?,
            on_no_quorum: OnNoQuorum::default(),
        })
    }

    /// Of the volumes that share its register, the first of which something is left changes it.
    fn is_first(&self) -> bool {
        let first = self.company.iter().map(|leg| leg.spec.volume).min();
        first.is_none_or(|first| first == self.id)
    }

    /// The volume as if it were being deleted now. Without a claim its name is empty, and no pod is seen to use it.
    pub(crate) fn desired(&self) -> Desired {
        let left_of = self.group();
        let is_grouped = |leg: &Arc<Leg>| matches!(leg.spec.group, Some(GroupId::Group(_)));
        let is_known = left_of.is_some() || !self.leg.as_ref().is_some_and(is_grouped);
        // All of a group say so, or none is destroyed; one that is gone says nothing.
        let is_whole = left_of
            .as_ref()
            .is_none_or(|group| group.volumes.len() == self.company.len());
        let mut legs = self.leg.iter().chain(&self.company);
        let destroys = self.leg.is_some() && is_known && is_whole && legs.all(|leg| destroys(leg));
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
                group: left_of.as_ref().map(|group| group.id.to_string()),
                capacity: size,
                volume_mode: Default::default(),
                fs_type: None,
                access_modes: Vec::new(),
                claim: Claim {
                    name: self.claim().unwrap_or_default().to_owned(),
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
            left_of,
            pair: self.pair.clone(),
            site: self.site.clone(),
            index: self.index,
        }
    }
}

fn annotation<'a>(leg: &'a Leg, key: &str) -> Option<&'a String> {
    leg.metadata.annotations.as_ref()?.get(key)
}

fn destroys(leg: &Leg) -> bool {
    annotation(leg, names::DELETION_ANNOTATION)
        .is_some_and(|policy| *policy == format!("{:?}", DeletionPolicy::Delete))
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
        if let Some(there) = situation.attachment(mode)
            && !clears_the_holder(&situation, there)
        {
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
    copy(&situation, orphan.is_first(), &mut plan);
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

/// Both clusters have let go, and the policy destroys.
fn is_destroyed(situation: &Situation<'_>) -> bool {
    deletion::destroys(situation) && deletion::twin_is_gone(situation) == Some(true)
}

/// The caretaker by which a dead holder is cleared before the copy is destroyed, until it has attached.
fn clears_the_holder(situation: &Situation<'_>, there: &Attachment) -> bool {
    there.spec.mode == AttachmentMode::Caretaker
        && is_destroyed(situation)
        && !super::situation::is_open(there)
        && situation
            .live()
            .is_some_and(|register| register.holder.is_some() && situation.is_active(register))
}

/// Why a copy that is put aside has to be served on. A holder that has long given no sign of life opens nothing any more, and the
/// copy stays as it left it.
fn is_needed(situation: &Situation<'_>) -> Option<Why> {
    let is_dead = deletion::beat_is_still(situation);
    deletion::in_use(situation).or_else(|| deletion::held(situation).filter(|_| !is_dead))
}

/// Whether what becomes of the remains depends on how long the beat has stood still, so that it is worth reading often: the holder may be
/// dead, or its node lost.
pub fn wants_beat(seen: &Observed) -> bool {
    let twin = seen.peer.volume.as_ref();
    let is_let_go = twin.is_none_or(|twin| twin.metadata.deletion_timestamp.is_some());
    let register = seen.witness.last();
    let is_held = register.is_some_and(|register| register.holder.is_some());
    let mut attachments = seen.attachments.iter();
    (is_let_go && is_held) || attachments.any(|one| !one.spec.mode.is_one_shot())
}

fn copy(situation: &Situation<'_>, first: bool, plan: &mut Plan) {
    if situation.leg_object().is_none() {
        return;
    }
    let is_destroyed = is_destroyed(situation);
    let twin_is_gone = deletion::twin_is_gone(situation) == Some(true);
    match situation.class {
        Some(Class::Tombstone) => {
            if let Some(why) = deletion::destroy(situation, first, plan) {
                plan.wait(why.word, why.message);
            }
        }
        Some(Class::Creating | Class::Live | Class::Absent) if is_destroyed => {
            if let Some(why) = deletion::destroy(situation, first, plan) {
                plan.wait(why.word, why.message);
            }
        }
        // One that is only going may still be destroyed with what is here.
        Some(Class::Live | Class::Absent)
            if twin_is_gone && situation.seen.peer.volume.is_none() =>
        {
            match is_needed(situation) {
                Some(why) => plan.wait(why.word, why.message),
                // The file stays, since it was not wiped: a volume of the same name adopts it.
                None => {
                    if let Some(leg) = situation.leg_object() {
                        copies::remove(situation, leg, plan);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn orphan(persistent_volume: Option<&str>) -> Orphan {
        Orphan {
            id: VolumeId::of("ctrc", "rv", "records"),
            namespace: "rv".to_owned(),
            name: "records".to_owned(),
            leg: None,
            persistent_volume: persistent_volume
                .map(|text| Arc::new(serde_yaml::from_str(text).unwrap())),
            pair: None,
            site: "medical".to_owned(),
            index: None,
            company: Vec::new(),
        }
    }

    /// Pods of what is returned are those that a lost node is let go with.
    fn claim(persistent_volume: Option<&str>) -> String {
        orphan(persistent_volume)
            .desired()
            .volume
            .spec
            .claim
            .name
            .clone()
    }

    #[test]
    fn a_claim_that_happens_to_have_the_volumes_name_is_a_strangers() {
        let bound = |namespace: &str| {
            format!(
                "{{metadata: {{name: pv}}, spec: {{claimRef: {{namespace: {namespace}, name: x-0}}}}}}"
            )
        };
        assert_eq!(claim(Some(&bound("rv"))), "x-0");
        assert_eq!(claim(Some(&bound("elsewhere"))), "");
        assert_eq!(claim(Some("{metadata: {name: pv}, spec: {}}")), "");
        assert_eq!(claim(None), "");
    }
}
