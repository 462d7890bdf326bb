//! The custom resource definitions, from the types of `twinsite-api`.
//!
//! `crds/` holds what [`definitions`] gives, one file per kind, and nothing else; a test keeps the two equal.
//! Not here yet: the reconcilers.
#![forbid(unsafe_code)]

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use twinsite_api::{Attachment, Failover, Leg, MirrorGroup, MirroredVolume, SitePair, StoragePool};

/// Every definition, in the order in which people meet the kinds.
#[must_use]
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![
        SitePair::crd(),
        StoragePool::crd(),
        MirroredVolume::crd(),
        MirrorGroup::crd(),
        Failover::crd(),
        Leg::crd(),
        Attachment::crd(),
    ]
}

/// File name and text of every definition, as they stand in `crds/`.
///
/// # Errors
/// A definition cannot be written as YAML.
pub fn files() -> anyhow::Result<Vec<(String, String)>> {
    definitions()
        .iter()
        .map(|definition| {
            let name = format!("{}.yaml", definition.spec.names.plural);
            Ok((name, serde_yaml::to_string(definition)?))
        })
        .collect()
}
