//! Orders a comparison of the copies of a volume: an annotation in the cluster where the volume is used.

use anyhow::{Context as _, Result, bail};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use twinsite_api::{MirroredVolume, Role, VERIFY_ANNOTATION, VERIFY_REQUEST_MAX};

use crate::cluster::Access;
use crate::world::Cluster;

/// What is sent: an annotation and nothing else.
fn patch(request: &str) -> Value {
    json!({ "metadata": { "annotations": { VERIFY_ANNOTATION: request } } })
}

/// Which of the clusters uses the volume.
fn active(read: &[Cluster], namespace: &str, name: &str) -> Result<usize> {
    let role = |cluster: &Cluster| cluster.volume(namespace, name)?.status.as_ref()?.role;
    let found = read
        .iter()
        .position(|cluster| role(cluster) == Some(Role::Active));
    found.with_context(|| {
        format!(
            "no cluster that answers says that {namespace}/{name} is active there: see `kubectl twinsite status`"
        )
    })
}

/// Orders it; gives the name of the context that took it.
pub(crate) async fn order(
    all: &[Access],
    read: &[Cluster],
    (namespace, name): (&str, &str),
    request: &str,
) -> Result<String> {
    if request.is_empty() || request.len() > VERIFY_REQUEST_MAX {
        bail!("a request has 1 to {VERIFY_REQUEST_MAX} letters");
    }
    let access = &all[active(read, namespace, name)?];
    let api: Api<MirroredVolume> = Api::namespaced(access.client.clone(), namespace);
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch(request)))
        .await
        .with_context(|| format!("{} does not take the annotation", access.context))?;
    Ok(access.context.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_annotation_is_written() {
        let sent = patch("monday");
        assert_eq!(
            sent["metadata"]["annotations"]["twinsite.io/verify"],
            "monday"
        );
        assert_eq!(sent.as_object().unwrap().len(), 1);
        assert_eq!(sent["metadata"].as_object().unwrap().len(), 1);
    }
}
