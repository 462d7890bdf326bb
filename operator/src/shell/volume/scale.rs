//! Workloads by their /scale subresource, whatever their kind.

use std::{collections::HashMap, sync::Mutex};

use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind, TypeMeta},
    discovery,
};
use serde_json::json;
use twinsite_api::Workload;

use crate::{
    shell::{
        operator::Operator,
        watch::{RequestError, within},
    },
    volume::{Desired, WorkloadView, names},
};

/// Kinds that were asked for, so that each is looked up once.
#[derive(Debug, Default)]
pub struct Kinds(Mutex<HashMap<(String, String), ApiResource>>);

/// More kinds than anybody uses: the map is emptied rather than let grow.
const MOST_KINDS: usize = 256;

#[derive(Debug, thiserror::Error)]
pub(super) enum ScaleError {
    #[error("{0:?} is no apiVersion")]
    Version(String),
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl Kinds {
    async fn find(&self, client: &Client, workload: &Workload) -> Result<ApiResource, ScaleError> {
        let key = (workload.api_version.clone(), workload.kind.clone());
        let lock = || {
            self.0
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        if let Some(known) = lock().get(&key) {
            return Ok(known.clone());
        }
        let types = TypeMeta {
            api_version: workload.api_version.clone(),
            kind: workload.kind.clone(),
        };
        let kind = GroupVersionKind::try_from(types)
            .map_err(|_| ScaleError::Version(workload.api_version.clone()))?;
        let (resource, _) = within(discovery::pinned_kind(client, &kind)).await?;
        let mut kinds = lock();
        if kinds.len() >= MOST_KINDS {
            kinds.clear();
        }
        kinds.insert(key, resource.clone());
        Ok(resource)
    }
}

/// The workloads of a volume as they are.
pub(super) async fn workloads(operator: &Operator, desired: &Desired) -> Vec<WorkloadView> {
    let mut views = Vec::new();
    for workload in desired.volume.spec.workloads.iter().flatten() {
        views.push(view(operator, desired.namespace(), workload).await);
    }
    views
}

async fn view(operator: &Operator, namespace: &str, workload: &Workload) -> WorkloadView {
    let mut view = WorkloadView {
        workload: workload.clone(),
        replicas: None,
        running: None,
        trouble: None,
    };
    match read(operator, namespace, workload).await {
        Ok(scale) => {
            view.replicas = Some(scale.spec.and_then(|spec| spec.replicas).unwrap_or(0));
            view.running = scale.status.map(|status| status.replicas);
        }
        Err(error) => view.trouble = Some(error.to_string()),
    }
    view
}

async fn api(
    operator: &Operator,
    namespace: &str,
    workload: &Workload,
) -> Result<Api<DynamicObject>, ScaleError> {
    let resource = operator.kinds.find(&operator.client, workload).await?;
    Ok(Api::namespaced_with(
        operator.client.clone(),
        namespace,
        &resource,
    ))
}

async fn read(
    operator: &Operator,
    namespace: &str,
    workload: &Workload,
) -> Result<k8s_openapi::api::autoscaling::v1::Scale, ScaleError> {
    let api = api(operator, namespace, workload).await?;
    Ok(within(api.get_scale(&workload.name)).await?)
}

/// Sets `spec.replicas`.
pub(super) async fn scale(
    operator: &Operator,
    namespace: &str,
    workload: &Workload,
    replicas: i32,
) -> Result<(), ScaleError> {
    let api = api(operator, namespace, workload).await?;
    let patch = json!({ "spec": { "replicas": replicas } });
    let params = PatchParams {
        field_manager: Some(names::FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    within(api.patch_scale(&workload.name, &params, &Patch::Merge(&patch))).await?;
    Ok(())
}
