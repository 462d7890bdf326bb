//! The actions of a plan, in order, up to the first failure.
//!
//! Each is one request and guarded: by uid, by resourceVersion, by txid, or by being the same when it is done twice.

use std::fmt::Debug;

use k8s_openapi::{
    api::{
        core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod},
        storage::v1::VolumeAttachment,
    },
    jiff::Timestamp,
};
use kube::{
    Api, Resource, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    runtime::reflector::ObjectRef,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use twinsite_api::{Attachment, Leg, MirroredVolume};
use twinsite_register::GroupId;

use super::{
    register::{self, ChangeError},
    scale::{self, ScaleError},
    write,
};
use crate::{
    shell::{
        operator::Operator,
        watch::{RequestError, within},
    },
    volume::{self, Action, AttachmentChange, Desired, Failure, Observed, Plan, names},
};

#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Scale(#[from] ScaleError),
    #[error(transparent)]
    Register(#[from] ChangeError),
    #[error("it is not there any more")]
    Gone,
    #[error("the witness is not open")]
    NoWitness,
}

/// Carries a plan out; `Some`: what failed, and nothing after it was begun.
pub(super) async fn carry_out(
    operator: &Operator,
    desired: &Desired,
    observed: &Observed,
    plan: &Plan,
) -> Option<Failure> {
    for action in &plan.actions {
        let failure = one(operator, desired, observed, plan, action).await;
        if failure.is_some() {
            return failure;
        }
    }
    None
}

/// Carries one action of a plan out.
pub(super) async fn one(
    operator: &Operator,
    desired: &Desired,
    observed: &Observed,
    plan: &Plan,
    action: &Action,
) -> Option<Failure> {
    let done = step(operator, desired, observed, plan, action).await;
    operator.metrics.see_action(action, done.is_ok());
    done.err().map(|error| Failure {
        action: action.to_string(),
        error: twinsite_api::told(&error),
    })
}

async fn step(
    operator: &Operator,
    desired: &Desired,
    observed: &Observed,
    plan: &Plan,
    action: &Action,
) -> Result<(), StepError> {
    let client = || operator.client.clone();
    let namespace = desired.namespace();
    match action {
        Action::AddFinalizer => finalizer(operator, desired, Finalizer::On).await,
        Action::RemoveFinalizer => finalizer(operator, desired, Finalizer::Off).await,
        Action::ApplyLeg(leg) => apply(Api::<Leg>::all(client()), &**leg).await,
        Action::DeleteLeg { name, uid } => delete(Api::<Leg>::all(client()), name, uid).await,
        Action::ReleaseLeg { name, uid } => release(Api::<Leg>::all(client()), name, uid).await,
        Action::ApplyPersistentVolume(one) => {
            apply(Api::<PersistentVolume>::all(client()), &**one).await
        }
        Action::RebindPersistentVolume { name } => rebind(operator, name).await,
        Action::DeletePersistentVolume { name, uid } => {
            delete(Api::<PersistentVolume>::all(client()), name, uid).await
        }
        Action::ApplyClaim(claim) => {
            let api = Api::<PersistentVolumeClaim>::namespaced(client(), namespace);
            match observed.claim {
                Some(_) => apply(api, &**claim).await,
                // An apply would take over the one that somebody else has just made.
                None => create(api, claim).await,
            }
        }
        Action::DeleteClaim { name, uid } => {
            delete(
                Api::<PersistentVolumeClaim>::namespaced(client(), namespace),
                name,
                uid,
            )
            .await
        }
        Action::Scale { workload, replicas } => {
            Ok(scale::scale(operator, namespace, workload, *replicas).await?)
        }
        Action::RecordMove(_) => {
            let said = volume::status(desired, observed, plan, None, Timestamp::now());
            Ok(write::force_status(operator, &desired.volume, &said.status).await?)
        }
        Action::CreateAttachment(attachment) => {
            create(Api::<Attachment>::all(client()), attachment).await
        }
        Action::UpdateAttachment { name, uid, change } => {
            merge(
                Api::<Attachment>::all(client()),
                name,
                &changed(uid, change),
            )
            .await
        }
        Action::DeleteAttachment { name, uid } => {
            delete(Api::<Attachment>::all(client()), name, uid).await
        }
        Action::ReleaseAttachment { name, uid } => {
            release(Api::<Attachment>::all(client()), name, uid).await
        }
        Action::DeletePod { name, uid } => {
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                ..exactly(uid)
            };
            delete_with(Api::<Pod>::namespaced(client(), namespace), name, &params).await
        }
        Action::RestartPod { name, uid } => {
            delete(Api::<Pod>::namespaced(client(), namespace), name, uid).await
        }
        Action::DeleteVolumeAttachment { name, uid } => {
            delete(Api::<VolumeAttachment>::all(client()), name, uid).await
        }
        Action::ClearVolumeInUse { node, volumes } => clear_in_use(operator, node, volumes).await,
        Action::ChangeRegister { expect, change } => {
            let access = operator
                .links
                .witness(&desired.volume.spec.site_pair)
                .ok_or(StepError::NoWitness)?;
            let group = GroupId(desired.register_id().bytes());
            Ok(register::change(&access, group, *expect, change).await?)
        }
        Action::SeedRegister {
            replaced,
            seed,
            seen,
        } => {
            let access = operator
                .links
                .witness(&desired.volume.spec.site_pair)
                .ok_or(StepError::NoWitness)?;
            Ok(register::seed(&access, *replaced, seed, seen).await?)
        }
    }
}

fn params() -> PatchParams {
    PatchParams {
        field_manager: Some(names::FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

async fn apply<K>(api: Api<K>, object: &K) -> Result<(), StepError>
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + Debug,
{
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    within(api.patch(&object.name_any(), &params, &Patch::Apply(object))).await?;
    Ok(())
}

async fn merge<K>(api: Api<K>, name: &str, patch: &Value) -> Result<(), StepError>
where
    K: Clone + DeserializeOwned + Debug,
{
    within(api.patch(name, &params(), &Patch::Merge(patch))).await?;
    Ok(())
}

/// Somebody who was quicker made the same one.
async fn create<K>(api: Api<K>, object: &K) -> Result<(), StepError>
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + Debug,
{
    let params = PostParams {
        field_manager: Some(names::FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    match within(api.create(&params, object)).await {
        Err(error) if error.code() != Some(409) => Err(error.into()),
        _ => Ok(()),
    }
}

fn exactly(uid: &str) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    }
}

async fn delete<K>(api: Api<K>, name: &str, uid: &str) -> Result<(), StepError>
where
    K: Clone + DeserializeOwned + Debug,
{
    delete_with(api, name, &exactly(uid)).await
}

async fn delete_with<K>(api: Api<K>, name: &str, params: &DeleteParams) -> Result<(), StepError>
where
    K: Clone + DeserializeOwned + Debug,
{
    match within(api.delete(name, params)).await {
        Err(error) if error.code() != Some(404) => Err(error.into()),
        _ => Ok(()),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Finalizer {
    On,
    Off,
}

async fn finalizer(
    operator: &Operator,
    desired: &Desired,
    wanted: Finalizer,
) -> Result<(), StepError> {
    let volume = &desired.volume;
    let mut finalizers: Vec<String> = volume.finalizers().to_vec();
    finalizers.retain(|name| name != names::VOLUME_FINALIZER);
    if wanted == Finalizer::On {
        finalizers.push(names::VOLUME_FINALIZER.to_owned());
    }
    // Of exactly this state of the object: others keep finalizers in the same list.
    let patch = json!({ "metadata": {
        "uid": volume.uid(),
        "resourceVersion": volume.resource_version(),
        "finalizers": finalizers,
    } });
    let api: Api<MirroredVolume> = Api::namespaced(operator.client.clone(), desired.namespace());
    let done = merge(api, desired.name(), &patch).await;
    match wanted {
        Finalizer::On => done,
        Finalizer::Off => or_gone(done),
    }
}

/// What is gone was let go of.
fn or_gone(done: Result<(), StepError>) -> Result<(), StepError> {
    match done {
        Err(StepError::Request(error)) if error.code() == Some(404) => Ok(()),
        done => done,
    }
}

async fn rebind(operator: &Operator, name: &str) -> Result<(), StepError> {
    let volumes: Api<PersistentVolume> = Api::all(operator.client.clone());
    let volume = within(volumes.get_opt(name))
        .await?
        .ok_or(StepError::Gone)?;
    let bound = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.claim_ref.as_ref());
    let (Some(namespace), Some(claim)) = (
        bound.and_then(|bound| bound.namespace.as_deref()),
        bound.and_then(|bound| bound.name.as_deref()),
    ) else {
        return Ok(());
    };
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(operator.client.clone(), namespace);
    let claim = within(claims.get_opt(claim)).await?;
    match unbound(&volume, claim.as_ref()) {
        Some(patch) => merge(volumes, name, &patch).await,
        None => Ok(()),
    }
}

/// Takes a volume from a claim that is gone, or was made anew; `None`: its claim is there.
///
/// Both as they are now. Our copies of the two kinds come by watches of their own, and one that has just been bound to a new claim looks as
/// if its claim were gone: taken from it then, the claim would count as lost for ever.
fn unbound(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Option<Value> {
    let bound = volume.spec.as_ref()?.claim_ref.as_ref()?.uid.as_ref()?;
    let is_there = claim.is_some_and(|claim| claim.metadata.uid.as_ref() == Some(bound));
    (!is_there).then(|| {
        json!({
            "metadata": { "resourceVersion": volume.metadata.resource_version },
            "spec": { "claimRef": { "uid": null, "resourceVersion": null } },
        })
    })
}

async fn release<K>(api: Api<K>, name: &str, uid: &str) -> Result<(), StepError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    // As it is now: its deletion, ordered a moment ago, has changed it.
    let known = within(api.get_opt(name)).await?;
    let Some(known) = known.filter(|known| known.uid().as_deref() == Some(uid)) else {
        return Ok(());
    };
    let finalizers: Vec<&String> = known
        .finalizers()
        .iter()
        .filter(|name| *name != names::AGENT_FINALIZER)
        .collect();
    let patch = json!({ "metadata": {
        "uid": uid,
        "resourceVersion": known.resource_version(),
        "finalizers": finalizers,
    } });
    // Its agent may have let go of it meanwhile, too.
    or_gone(merge(api, name, &patch).await)
}

fn changed(uid: &str, change: &AttachmentChange) -> Value {
    let mut spec = serde_json::Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            spec.insert(name.to_owned(), value);
        }
    };
    set("legs", change.legs.as_ref().map(|legs| json!(legs)));
    set("size", change.size.as_ref().map(|size| json!(size)));
    set(
        "dropLegs",
        change.drop_legs.as_ref().map(|legs| json!(legs)),
    );
    let withdrawn = change.withdraw_move.then_some(Value::Null);
    let order = change.move_order.as_ref().map(|order| json!(order));
    set("move", order.or(withdrawn));
    set("verify", change.verify.as_ref().map(|asked| json!(asked)));
    set("release", change.release.map(|release| json!(release)));
    json!({ "metadata": { "uid": uid }, "spec": spec })
}

async fn clear_in_use(
    operator: &Operator,
    node: &str,
    volumes: &[String],
) -> Result<(), StepError> {
    let known = operator
        .own
        .nodes
        .store
        .get(&ObjectRef::new(node))
        .ok_or(StepError::Gone)?;
    let used = known
        .status
        .as_ref()
        .and_then(|status| status.volumes_in_use.clone());
    let rest: Vec<String> = used
        .unwrap_or_default()
        .into_iter()
        .filter(|name| !volumes.contains(name))
        .collect();
    let patch = json!({
        "metadata": { "resourceVersion": known.resource_version() },
        "status": { "volumesInUse": rest },
    });
    let api: Api<Node> = Api::all(operator.client.clone());
    within(api.patch_status(node, &params(), &Patch::Merge(&patch)))
        .await
        .map_err(StepError::from)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_taken_only_from_a_claim_that_is_not_there() {
        let volume = |uid: &str| -> PersistentVolume {
            serde_json::from_value(json!({
                "metadata": { "name": "ts-1", "resourceVersion": "7" },
                "spec": { "claimRef": { "namespace": "rv", "name": "records", "uid": uid } },
            }))
            .unwrap()
        };
        let claim = |uid: &str| -> PersistentVolumeClaim {
            serde_json::from_value(json!({ "metadata": { "name": "records", "uid": uid } }))
                .unwrap()
        };
        let patch = json!({
            "metadata": { "resourceVersion": "7" },
            "spec": { "claimRef": { "uid": null, "resourceVersion": null } },
        });
        let (old, new) = (volume("old"), claim("new"));
        assert_eq!(unbound(&old, Some(&new)), Some(patch.clone()));
        assert_eq!(unbound(&old, None), Some(patch));
        assert_eq!(unbound(&volume("new"), Some(&new)), None);
        assert_eq!(unbound(&PersistentVolume::default(), None), None);
    }

    #[test]
    fn an_object_that_is_gone_is_let_go_of() {
        let answered = |code: u16| {
            let status = serde_json::from_value(json!({ "status": "Failure", "code": code }));
            let error = kube::Error::Api(Box::new(status.unwrap()));
            or_gone(Err(RequestError::from(error).into()))
        };
        assert!(answered(404).is_ok());
        assert!(answered(409).is_err());
        assert!(or_gone(Ok(())).is_ok());
    }
}
