//! The status of a volume, written when it says something new, and its events.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;
use twinsite_api::{API_VERSION, MirroredVolume, MirroredVolumeStatus};

use crate::{
    shell::{
        events::{News, Tone},
        operator::Operator,
        watch::{RequestError, within},
    },
    volume::{Desired, Event, names},
};

/// Times that only say when something was last seen are written anew after this many seconds.
const STALE: i64 = 60;

/// Writes the status if it says something new.
pub(super) async fn status(
    operator: &Operator,
    volume: &MirroredVolume,
    status: &MirroredVolumeStatus,
) -> Result<(), RequestError> {
    if volume
        .status
        .as_ref()
        .is_some_and(|old| !says_more(old, status))
    {
        return Ok(());
    }
    force_status(operator, volume, status).await
}

/// Writes the status.
pub(super) async fn force_status(
    operator: &Operator,
    volume: &MirroredVolume,
    status: &MirroredVolumeStatus,
) -> Result<(), RequestError> {
    let namespace = volume.namespace().unwrap_or_default();
    let api: Api<MirroredVolume> = Api::namespaced(operator.client.clone(), &namespace);
    let patch = json!({
        "apiVersion": API_VERSION,
        "kind": MirroredVolume::kind(&()),
        // An object that was deleted and made again is another one.
        "metadata": { "name": volume.name_any(), "uid": volume.uid() },
        "status": status,
    });
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    operator.metrics.status_writes.inc();
    within(api.patch_status(&volume.name_any(), &params, &Patch::Apply(&patch))).await?;
    Ok(())
}

fn says_more(old: &MirroredVolumeStatus, new: &MirroredVolumeStatus) -> bool {
    let timeless = |status: &MirroredVolumeStatus| {
        let mut status = status.clone();
        status
            .legs
            .iter_mut()
            .for_each(|leg| leg.observed_at = None);
        status
    };
    if timeless(old) != timeless(new) {
        return true;
    }
    old.legs
        .iter()
        .zip(&new.legs)
        .any(|(old, new)| match (&old.observed_at, &new.observed_at) {
            (Some(old), Some(new)) => new.0.as_second() - old.0.as_second() >= STALE,
            (None, Some(_)) => true,
            (_, None) => false,
        })
}

/// An event on the volume and, if it concerns pods, on the claim.
pub(super) fn tell(operator: &Operator, desired: &Desired, event: &Event) {
    let tone = if event.warning {
        Tone::Warning
    } else {
        Tone::Normal
    };
    let news = |regarding| News {
        regarding,
        tone,
        reason: event.reason.to_owned(),
        note: event.note.clone(),
    };
    operator.events.tell(news(desired.volume.object_ref(&())));
    if event.on_claim {
        operator.events.tell(news(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("PersistentVolumeClaim".to_owned()),
            namespace: Some(desired.namespace().to_owned()),
            name: Some(desired.volume.spec.claim.name.clone()),
            uid: operator
                .own
                .claim_uid(desired.namespace(), &desired.volume.spec.claim.name),
            ..ObjectReference::default()
        }));
    }
}
