//! PersistentVolume and claim of the volume in this cluster.
//!
//! Both stand at both sites once the register lives, so that a move creates nothing. A claim that somebody else made is
//! never taken over; one that the spec says a chart makes (`claim.create: false`) is bound and left alone. A volume that
//! the CSI driver provisioned has its PersistentVolume from there.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, ObjectReference, PersistentVolume, PersistentVolumeClaim,
    PersistentVolumeClaimSpec, PersistentVolumeSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource;
use kube::api::ObjectMeta;
use twinsite_api::{AccessMode, Quantity, VolumeMode, reason};

use super::situation::{self, Situation};
use super::{Action, Plan, Why, names};

/// Word for a claim that is not ours.
pub(super) const CLAIM_TAKEN: &str = "ClaimTaken";

pub(super) fn plan(situation: &Situation<'_>, plan: &mut Plan) {
    if is_provisioned(situation) || situation.live().is_none() {
        return;
    }
    if let Some(other) = handle_of_another(situation) {
        let text = format!(
            "a PersistentVolume {} is there and is not ours ({other}): remove it",
            situation.id
        );
        return plan.stall(reason::INVALID_SPEC, text);
    }
    // First: a PersistentVolume that names the claim would bind it.
    if let Some(why) = refused(situation) {
        return plan.stall(why.word, why.message);
    }
    let size = size(situation);
    let volume = persistent_volume(situation, &size);
    match situation.seen.persistent_volume.as_deref() {
        Some(there) if there.metadata.deletion_timestamp.is_some() => {
            plan.wait(
                reason::PENDING,
                "the PersistentVolume is being deleted; it is made again when it is gone",
            );
        }
        Some(there) if covers(there, &volume) => rebind(situation, there, plan),
        _ => plan.act(Action::ApplyPersistentVolume(Box::new(volume))),
    }
    claim(situation, &size, plan);
}

/// The CSI driver's provisioner makes the PersistentVolume at the site where a claim asked for it.
pub(super) fn is_provisioned(situation: &Situation<'_>) -> bool {
    let labels = situation.desired.volume.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(names::PROVISIONER_LABEL))
        .is_some_and(|by| by == names::PROVISIONER_CSI)
}

fn handle_of_another(situation: &Situation<'_>) -> Option<String> {
    let csi = situation
        .seen
        .persistent_volume
        .as_ref()?
        .spec
        .as_ref()?
        .csi
        .as_ref();
    match csi {
        Some(csi)
            if csi.driver == names::CSI_DRIVER && csi.volume_handle == situation.id.to_string() =>
        {
            None
        }
        Some(csi) => Some(format!(
            "driver {}, handle {}",
            csi.driver, csi.volume_handle
        )),
        None => Some("no CSI volume".to_owned()),
    }
}

fn requested(quantity: Option<&resource::Quantity>) -> Option<Quantity> {
    quantity?.0.parse().ok()
}

/// What pods can use: the spec's capacity once the volume has it, before that what it had.
fn size(situation: &Situation<'_>) -> Quantity {
    let wanted = &situation.spec().capacity;
    let there = situation
        .seen
        .persistent_volume
        .as_ref()
        .and_then(|volume| volume.spec.as_ref());
    let had = there.and_then(|spec| requested(spec.capacity.as_ref()?.get("storage")));
    match had {
        Some(had) if had.bytes() < wanted.bytes() && !has_grown(situation) => had,
        Some(had) if had.bytes() > wanted.bytes() => had,
        _ => wanted.clone(),
    }
}

/// The engine of the attached volume shows the wanted size; detached: the superblocks have it only after the next attach.
fn has_grown(situation: &Situation<'_>) -> bool {
    let open = super::copies::open_attachment(situation);
    let size = open.and_then(|(attachment, _)| attachment.status.as_ref()?.size);
    size.is_some_and(|size| size >= situation.spec().capacity.bytes())
}

fn modes(situation: &Situation<'_>) -> Vec<String> {
    let text = |mode: &AccessMode| format!("{mode:?}");
    situation.spec().access_modes.iter().map(text).collect()
}

fn volume_mode(situation: &Situation<'_>) -> String {
    format!("{:?}", situation.spec().volume_mode)
}

fn storage(size: &Quantity) -> BTreeMap<String, resource::Quantity> {
    BTreeMap::from([("storage".to_owned(), resource::Quantity(size.to_string()))])
}

fn metadata(situation: &Situation<'_>, name: String) -> ObjectMeta {
    let (namespace, volume) = (situation.desired.namespace(), situation.desired.name());
    ObjectMeta {
        name: Some(name),
        labels: Some(names::labels(situation.id, namespace, volume)),
        annotations: Some(names::annotations(namespace, volume)),
        ..ObjectMeta::default()
    }
}

fn persistent_volume(situation: &Situation<'_>, size: &Quantity) -> PersistentVolume {
    let spec = situation.spec();
    let claim_class = situation
        .seen
        .claim
        .as_ref()
        .and_then(|claim| claim.spec.as_ref()?.storage_class_name.clone());
    let is_block = spec.volume_mode == VolumeMode::Block;
    PersistentVolume {
        metadata: metadata(situation, names::persistent_volume(situation.id)),
        spec: Some(PersistentVolumeSpec {
            access_modes: Some(modes(situation)),
            capacity: Some(storage(size)),
            claim_ref: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("PersistentVolumeClaim".to_owned()),
                namespace: Some(situation.desired.namespace().to_owned()),
                name: Some(spec.claim.name.clone()),
                ..ObjectReference::default()
            }),
            csi: Some(CSIPersistentVolumeSource {
                driver: names::CSI_DRIVER.to_owned(),
                volume_handle: situation.id.to_string(),
                fs_type: (!is_block).then(|| spec.fs_type.clone()).flatten(),
                ..CSIPersistentVolumeSource::default()
            }),
            persistent_volume_reclaim_policy: Some("Retain".to_owned()),
            storage_class_name: Some(
                claim_class.unwrap_or_else(|| names::STORAGE_CLASS.to_owned()),
            ),
            volume_mode: Some(volume_mode(situation)),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    }
}

/// Whether what is there already says all that we want to say.
fn covers(there: &PersistentVolume, wanted: &PersistentVolume) -> bool {
    let (Some(have), Some(want)) = (&there.spec, &wanted.spec) else {
        return false;
    };
    let has_labels = |have: &Option<BTreeMap<String, String>>,
                      want: &Option<BTreeMap<String, String>>| {
        let have = have.clone().unwrap_or_default();
        want.iter()
            .flatten()
            .all(|(key, value)| have.get(key) == Some(value))
    };
    let capacity = |spec: &PersistentVolumeSpec| {
        requested(spec.capacity.as_ref().and_then(|all| all.get("storage")))
    };
    let reference = |spec: &PersistentVolumeSpec| {
        let to = spec.claim_ref.clone().unwrap_or_default();
        (to.namespace, to.name)
    };
    has_labels(&there.metadata.labels, &wanted.metadata.labels)
        && capacity(have) == capacity(want)
        && reference(have) == reference(want)
        && have.access_modes == want.access_modes
        && have.persistent_volume_reclaim_policy == want.persistent_volume_reclaim_policy
        && have.storage_class_name == want.storage_class_name
}

/// The claim was deleted and made again, or the cluster was rebuilt: the PersistentVolume waits for the old one for ever.
fn rebind(situation: &Situation<'_>, there: &PersistentVolume, plan: &mut Plan) {
    let bound = there
        .spec
        .as_ref()
        .and_then(|spec| spec.claim_ref.as_ref()?.uid.clone());
    let claim = situation
        .seen
        .claim
        .as_ref()
        .and_then(|claim| claim.metadata.uid.clone());
    if bound.is_some() && bound != claim {
        plan.act(Action::RebindPersistentVolume {
            name: names::persistent_volume(situation.id),
        });
    }
}

fn claim(situation: &Situation<'_>, size: &Quantity, plan: &mut Plan) {
    let wanted = &situation.spec().claim;
    let Some(there) = situation.seen.claim.as_deref() else {
        if wanted.create {
            plan.act(Action::ApplyClaim(Box::new(claim_object(situation, size))));
        } else {
            plan.wait(
                reason::PENDING,
                format!(
                    "claim {} is made by its own chart; it is not there yet",
                    wanted.name
                ),
            );
        }
        return;
    };
    if there.metadata.deletion_timestamp.is_some() {
        return plan.wait(
            reason::PENDING,
            format!("claim {} is being deleted", wanted.name),
        );
    }
    let resources = there.spec.clone().and_then(|spec| spec.resources);
    let request = resources.and_then(|resources| requested(resources.requests?.get("storage")));
    let is_ours = is_ours(situation, there);
    if wanted.create && is_ours && request.is_some_and(|request| request.bytes() < size.bytes()) {
        plan.act(Action::ApplyClaim(Box::new(claim_object(situation, size))));
    }
}

/// Why the claim that is there cannot be this volume's.
fn refused(situation: &Situation<'_>) -> Option<Why> {
    let wanted = &situation.spec().claim;
    let there = situation.seen.claim.as_deref()?;
    let spec = there.spec.clone().unwrap_or_default();
    let bound_to = spec.volume_name.as_deref().filter(|name| !name.is_empty());
    let is_bound_here = bound_to == Some(situation.id.to_string().as_str());
    let taken = |text: String| Some(Why::new(CLAIM_TAKEN, text));
    if let Some(other) = bound_to.filter(|_| !is_bound_here) {
        return taken(format!(
            "claim {} is bound to {other}: name another claim, or remove it",
            wanted.name
        ));
    }
    if wanted.create && !is_ours(situation, there) && !is_bound_here {
        return taken(format!(
            "a claim {} is there and was not made by this volume: remove it, name another one, or set claim.create to false to adopt it",
            wanted.name
        ));
    }
    if spec.volume_mode.as_deref().unwrap_or("Filesystem") != volume_mode(situation) {
        return taken(format!(
            "claim {} has another volumeMode than the volume: make it anew",
            wanted.name
        ));
    }
    None
}

pub(super) fn is_ours(situation: &Situation<'_>, claim: &PersistentVolumeClaim) -> bool {
    let labels = claim.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(names::VOLUME_LABEL))
        .is_some_and(|id| *id == situation.id.to_string())
}

fn claim_object(situation: &Situation<'_>, size: &Quantity) -> PersistentVolumeClaim {
    let mut metadata = metadata(situation, situation.spec().claim.name.clone());
    metadata.namespace = Some(situation.desired.namespace().to_owned());
    PersistentVolumeClaim {
        metadata,
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(modes(situation)),
            resources: Some(VolumeResourceRequirements {
                requests: Some(storage(size)),
                limits: None,
            }),
            storage_class_name: Some(names::STORAGE_CLASS.to_owned()),
            volume_mode: Some(volume_mode(situation)),
            volume_name: Some(situation.id.to_string()),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

/// The PersistentVolume goes, if it is ours and nothing is attached by it.
pub(super) fn remove_volume(situation: &Situation<'_>, plan: &mut Plan) {
    let Some(volume) = situation.seen.persistent_volume.as_deref() else {
        return;
    };
    let labels = volume.metadata.labels.as_ref();
    let is_ours = labels
        .and_then(|labels| labels.get(names::VOLUME_LABEL))
        .is_some_and(|id| *id == situation.id.to_string());
    let is_used = !situation.seen.volume_attachments.is_empty()
        || situation
            .attachment(twinsite_api::AttachmentMode::Writer)
            .is_some();
    if is_ours && !is_used && volume.metadata.deletion_timestamp.is_none() {
        plan.act(Action::DeletePersistentVolume {
            name: situation::name(&volume.metadata),
            uid: situation::uid(&volume.metadata),
        });
    }
}
