//! What is written to the API server: statuses, and finalizers taken off.
//!
//! A status goes by server-side apply to /status and names the uid of its object, so that it never lands on another one
//! of the same name. A finalizer goes by a merge patch on the version that was seen. Each request ends within [`LIMIT`].

use std::{sync::Arc, time::Duration};

use kube::{
    Api, Client, Error,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};
use twinsite_api::told;

use super::{cache::Leaving, kinds::Kind};
use crate::status::now;

pub(crate) const LIMIT: Duration = Duration::from_secs(5);
const MANAGER: &str = "twinsite-agent";

/// Why a request did not do what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// The object is gone, or another one has its name.
    #[error("the object is gone")]
    Gone,
    /// The object has changed since it was read.
    #[error("the object has changed")]
    Changed,
    /// It would be refused again.
    #[error("the API server refuses it: {0}")]
    Refused(String),
    #[error("the API server does not answer: {0}")]
    Away(String),
}

/// Sends the status of an object.
pub(crate) async fn send_status(
    client: Client,
    kind: Kind,
    name: String,
    uid: String,
    status: Arc<Value>,
) -> Result<(), Failure> {
    let mut status = (*status).clone();
    if let (Some(fields), Ok(at)) = (status.as_object_mut(), serde_json::to_value(now())) {
        fields.insert("observedAt".to_owned(), at);
    }
    let patch = json!({
        "apiVersion": kind.api_version(),
        "kind": kind.word(),
        "metadata": {"name": name, "uid": uid},
        "status": status,
    });
    let api: Api<DynamicObject> = Api::all_with(client, &kind.resource());
    let parameters = PatchParams::apply(MANAGER).force();
    let patch = Patch::Apply(patch);
    within(api.patch_status(&name, &parameters, &patch)).await
}

/// Takes the agent's finalizer off an object that is being deleted.
pub(crate) async fn release(client: Client, leaving: Leaving) -> Result<(), Failure> {
    let patch = json!({"metadata": {
        "resourceVersion": leaving.version,
        "finalizers": leaving.others,
    }});
    let api: Api<DynamicObject> = Api::all_with(client, &leaving.kind.resource());
    let parameters = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(patch);
    within(api.patch(&leaving.name, &parameters, &patch)).await
}

async fn within<T>(request: impl Future<Output = Result<T, Error>>) -> Result<(), Failure> {
    match tokio::time::timeout(LIMIT, request).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(Error::Api(status))) => Err(match status.code {
            404 => Failure::Gone,
            409 => Failure::Changed,
            400 | 403 | 422 => Failure::Refused(status.message),
            _ => Failure::Away(format!("{} ({})", status.message, status.code)),
        }),
        Ok(Err(error)) => Err(Failure::Away(told(&error))),
        Err(_) => Err(Failure::Away("no answer in time".to_owned())),
    }
}
