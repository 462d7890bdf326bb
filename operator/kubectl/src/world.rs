//! What was read of the clusters: the input of every report, plan and check.
//!
//! Invariants: plain data, read once; a cluster that did not answer says why and has no objects.
//! Not here: reading it (`cluster`), judging it (`status`, `plan`, `preflight`).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use twinsite_api::{Attachment, Failover, MirroredVolume, SitePair, StoragePool, condition_type};

/// One cluster as it answered.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// What the kubeconfig calls it.
    pub(crate) context: String,
    /// Its objects, or why there are none.
    pub(crate) objects: Result<Objects, String>,
}

/// The objects of `twinsite.io` in one cluster.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    pub(crate) pairs: Vec<SitePair>,
    pub(crate) pools: Vec<StoragePool>,
    pub(crate) volumes: Vec<MirroredVolume>,
    pub(crate) attachments: Vec<Attachment>,
    pub(crate) failovers: Vec<Failover>,
}

impl Cluster {
    /// Its objects, if it answered.
    pub(crate) fn answer(&self) -> Option<&Objects> {
        self.objects.as_ref().ok()
    }

    /// The site that this cluster is in a pair.
    pub(crate) fn site(&self, pair: &str) -> Option<&str> {
        self.pair(pair)?.status.as_ref()?.site.as_deref()
    }

    /// Its object of a pair.
    pub(crate) fn pair(&self, name: &str) -> Option<&SitePair> {
        self.answer()?
            .pairs
            .iter()
            .find(|pair| pair.metadata.name.as_deref() == Some(name))
    }

    /// Its object of a volume.
    pub(crate) fn volume(&self, namespace: &str, name: &str) -> Option<&MirroredVolume> {
        self.answer()?.volumes.iter().find(|volume| {
            volume.metadata.namespace.as_deref() == Some(namespace)
                && volume.metadata.name.as_deref() == Some(name)
        })
    }

    /// The volumes that move with this one, or with this group: all of one MirrorGroup, or one that is in none.
    pub(crate) fn together(&self, namespace: &str, name: &str) -> Vec<&MirroredVolume> {
        let named = self.volume(namespace, name);
        if let Some(alone) = named.filter(|volume| volume.spec.group.is_none()) {
            return vec![alone];
        }
        let group = named.and_then(|volume| volume.spec.group.as_deref());
        let group = group.unwrap_or(name);
        let volumes = self.answer().into_iter().flat_map(|all| &all.volumes);
        let mut together: Vec<&MirroredVolume> = volumes
            .filter(|volume| volume.metadata.namespace.as_deref() == Some(namespace))
            .filter(|volume| volume.spec.group.as_deref() == Some(group))
            .collect();
        together.sort_by_key(|volume| volume.metadata.name.clone());
        together
    }
}

/// The condition of a type, if it is among them.
pub(crate) fn condition<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// What a condition says; none while it is unknown or absent.
pub(crate) fn verdict(conditions: &[Condition], type_: &str) -> Option<bool> {
    match condition(conditions, type_)?.status.as_str() {
        "True" => Some(true),
        "False" => Some(false),
        _ => None,
    }
}

/// The conditions of a pair.
pub(crate) fn pair_conditions(pair: &SitePair) -> &[Condition] {
    pair.status
        .as_ref()
        .map_or(&[], |status| &status.conditions)
}

/// The conditions of a volume.
pub(crate) fn volume_conditions(volume: &MirroredVolume) -> &[Condition] {
    volume
        .status
        .as_ref()
        .map_or(&[], |status| &status.conditions)
}

/// Whether a pool serves.
pub(crate) fn pool_ready(pool: &StoragePool) -> Option<bool> {
    verdict(
        pool.status
            .as_ref()
            .map_or(&[], |status| &status.conditions),
        condition_type::READY,
    )
}
