//! One MirrorGroup with all its volumes: one round, as `shell::volume` of a volume that is in none.

use std::{sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::reflector::ObjectRef,
};
use serde_json::json;
use twinsite_api::{API_VERSION, MirrorGroup, MirrorGroupStatus};

use super::{
    events::{News, Tone},
    odd::Odd,
    operator::Operator,
    own::{VolumeKey, id_of},
    queue::Outcome,
    volume,
    watch::{RequestError, within},
};
use crate::volume::{
    Status,
    group::{self, Group, Plans},
    names,
};

/// How often a group is looked at of which a volume cannot be read.
const AT_LEAST: Duration = Duration::from_secs(60);

/// One round of one group.
pub async fn reconcile(operator: &Operator, key: &VolumeKey) -> Outcome {
    let (namespace, name) = key;
    let reference = ObjectRef::new(name).within(namespace);
    let object = operator.own.groups.store.get(&reference);
    let volumes = operator.own.volumes_of_group(key);
    if let Some(object) = &object
        && let Err(error) = keep(operator, object, !volumes.is_empty()).await
    {
        tracing::warn!(group = name, %error, "its finalizer could not be written");
        return Outcome::Failed;
    }
    let Some(first) = volumes.first() else {
        return match object {
            Some(object) => alone(operator, key, &object).await,
            None => Outcome::Settled,
        };
    };
    let pair = first.spec.site_pair.clone();
    let register = object
        .as_ref()
        .map_or_else(|| id_of(first).into(), |object| object.id());
    if operator.is_gathering(&pair, register) {
        return Outcome::Again(volume::GATHERING);
    }
    let group = volume::observe_group(operator, key, object.clone(), &pair, volumes).await;
    let now = Timestamp::now();
    let plans = group::plan(&group, now);
    for (one, plan) in group.volumes.iter().zip(&plans.plans) {
        if !plan.is_empty() {
            tracing::info!(group = name, volume = %one.desired.reference(), "plan:\n{plan}");
        }
        if plan.took_permit {
            operator.permits.take();
        }
    }
    let (failure, written, said) = volume::carry_out_group(operator, &group, &plans).await;
    let told = match &object {
        Some(object) => tell(operator, object, &group, &plans, &said).await,
        None => Ok(()),
    };
    if let Err(error) = &told
        && error.code() != Some(404)
    {
        tracing::warn!(group = name, %error, "the status could not be written");
        return Outcome::Failed;
    }
    volume::round_of(&plans.plans, failure, written)
}

/// A group without a volume says so.
async fn alone(operator: &Operator, key: &VolumeKey, object: &Arc<MirrorGroup>) -> Outcome {
    let group = Group {
        namespace: key.0.clone(),
        name: key.1.clone(),
        object: Some(Arc::clone(object)),
        twin: None,
        unreadable: volume::unreadable_group(operator, &key.0, &key.1, Some(object), &[]),
        volumes: Vec::new(),
    };
    // Of one that was never read nobody says that it is gone.
    let done = match hides_one(&operator.own.volumes.odd, object) {
        true => Outcome::Again(AT_LEAST),
        false => Outcome::Settled,
    };
    let plans = group::plan(&group, Timestamp::now());
    match tell(operator, object, &group, &plans, &[]).await {
        Ok(()) => done,
        Err(error) if error.code() == Some(404) => Outcome::Settled,
        Err(error) => {
            tracing::warn!(group = key.1, %error, "the status could not be written");
            Outcome::Failed
        }
    }
}

/// Whether one of the group's volumes is there, and was never read.
fn hides_one(odd: &Odd, object: &MirrorGroup) -> bool {
    let namespace = object.namespace().unwrap_or_default();
    let mut volumes = object.spec.volumes.iter();
    volumes.any(|name| odd.unreadable(&namespace, name).is_some())
}

/// The group is there as long as one of its volumes is: without it nothing is known of them.
async fn keep(
    operator: &Operator,
    object: &MirrorGroup,
    has_volumes: bool,
) -> Result<(), RequestError> {
    let is_held = object
        .finalizers()
        .iter()
        .any(|held| held == names::VOLUME_FINALIZER);
    let is_going = object.metadata.deletion_timestamp.is_some();
    let wanted = !is_going || has_volumes || hides_one(&operator.own.volumes.odd, object);
    if is_held == wanted || (is_going && !is_held) {
        return Ok(());
    }
    let mut finalizers: Vec<String> = object.finalizers().to_vec();
    finalizers.retain(|held| held != names::VOLUME_FINALIZER);
    if wanted {
        finalizers.push(names::VOLUME_FINALIZER.to_owned());
    }
    let patch = json!({ "metadata": {
        "uid": object.uid(),
        "resourceVersion": object.resource_version(),
        "finalizers": finalizers,
    } });
    let params = PatchParams {
        field_manager: Some(names::FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<MirrorGroup> = Api::namespaced(operator.client.clone(), &namespace);
    match within(api.patch(&object.name_any(), &params, &Patch::Merge(&patch))).await {
        Err(error) if error.code() == Some(404) => Ok(()),
        done => done.map(drop),
    }
}

async fn tell(
    operator: &Operator,
    object: &MirrorGroup,
    group: &Group,
    plans: &Plans,
    said: &[Status],
) -> Result<(), RequestError> {
    let (status, events) = group::status(object, group, plans, said, Timestamp::now());
    for event in events {
        operator.events.tell(News {
            regarding: object.object_ref(&()),
            tone: if event.warning {
                Tone::Warning
            } else {
                Tone::Normal
            },
            reason: event.reason.to_owned(),
            note: event.note,
        });
    }
    write(operator, object, &status).await
}

async fn write(
    operator: &Operator,
    object: &MirrorGroup,
    status: &MirrorGroupStatus,
) -> Result<(), RequestError> {
    if object.status.as_ref() == Some(status) {
        return Ok(());
    }
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<MirrorGroup> = Api::namespaced(operator.client.clone(), &namespace);
    let patch = json!({
        "apiVersion": API_VERSION,
        "kind": MirrorGroup::kind(&()),
        "metadata": { "name": object.name_any(), "uid": object.uid() },
        "status": status,
    });
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    within(api.patch_status(&object.name_any(), &params, &Patch::Apply(&patch))).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use twinsite_api::{MirroredVolume, Seen};

    use super::*;
    use kube::runtime::watcher::Event;

    #[test]
    fn a_group_is_kept_for_a_volume_that_cannot_be_read() {
        let group: MirrorGroup = serde_json::from_value(json!({
            "apiVersion": "twinsite.io/v1alpha1", "kind": "MirrorGroup",
            "metadata": {"name": "ledger", "namespace": "rv"},
            "spec": {"sitePair": "ctrc", "activeSite": "medical", "volumes": ["journal", "data"]},
        }))
        .unwrap();
        let seen = |namespace: &str| -> Seen<MirroredVolume> {
            serde_json::from_value(json!({
                "apiVersion": "twinsite.io/v1alpha1", "kind": "MirroredVolume",
                "metadata": {"name": "data", "namespace": namespace, "uid": "1"},
                "spec": {
                    "sitePair": "ctrc", "group": "ledger", "capacity": "1Gi", "claim": {"name": "data"},
                    "volumeMode": "OfTomorrow", "legs": [{"site": "medical", "pool": "m1"}],
                },
            }))
            .unwrap()
        };
        let odd = Odd::default();
        assert!(!hides_one(&odd, &group));
        odd.sort(Event::Apply(seen("elsewhere")), |_| None);
        assert!(!hides_one(&odd, &group));
        odd.sort(Event::Apply(seen("rv")), |_| None);
        assert!(hides_one(&odd, &group));
        odd.sort(Event::Delete(seen("rv")), |_| None);
        assert!(!hides_one(&odd, &group));
    }
}
