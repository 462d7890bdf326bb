//! The status of a MirrorGroup.

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::reflector::ObjectRef,
};
use serde_json::json;
use twinsite_api::{API_VERSION, MirrorGroup};

use super::{operator::Operator, own::VolumeKey, queue::Outcome, watch::within};
use crate::volume::{group, names};

/// One round of one group.
pub async fn reconcile(operator: &Operator, (namespace, name): &VolumeKey) -> Outcome {
    let Some(object) = operator
        .own
        .groups
        .store
        .get(&ObjectRef::new(name).within(namespace))
    else {
        return Outcome::Settled;
    };
    let members: Vec<String> = operator
        .own
        .volumes
        .store
        .state()
        .iter()
        .filter(|volume| {
            volume.spec.group.as_ref() == Some(name)
                && volume.namespace().as_ref() == Some(namespace)
        })
        .map(|volume| volume.name_any())
        .collect();
    let status = group::status(&object, &members, Timestamp::now());
    if object.status.as_ref() == Some(&status) {
        return Outcome::Settled;
    }
    let api: Api<MirrorGroup> = Api::namespaced(operator.client.clone(), namespace);
    let patch = json!({
        "apiVersion": API_VERSION,
        "kind": MirrorGroup::kind(&()),
        "metadata": { "name": name, "uid": object.uid() },
        "status": status,
    });
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    match within(api.patch_status(name, &params, &Patch::Apply(&patch))).await {
        Ok(_) => Outcome::Settled,
        Err(error) => {
            tracing::warn!(group = name, %error, "the status could not be written");
            Outcome::Failed
        }
    }
}
