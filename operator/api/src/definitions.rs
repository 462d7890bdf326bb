//! The definition of every kind, made from the types: what is installed in a cluster, and what an object is held to.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

use crate::{Attachment, Failover, Leg, MirrorGroup, MirroredVolume, SitePair, StoragePool};

/// Every definition, in the order in which people meet the kinds.
#[must_use]
pub fn definitions() -> [CustomResourceDefinition; 7] {
    [
        SitePair::crd(),
        StoragePool::crd(),
        MirroredVolume::crd(),
        MirrorGroup::crd(),
        Failover::crd(),
        Leg::crd(),
        Attachment::crd(),
    ]
}
