//! Copies of what this cluster holds, and by which keys it is found.
//!
//! Invariants: every copy is thinned to what is read here, so that a cluster full of pods fits into memory; an index is
//! never ahead of its copy.
//! Not here: the peer's objects (`peer`), what follows from a change (`operator`), which watch feeds which key
//! ([`watches`]).

mod index;
mod watches;

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::{CSINode, VolumeAttachment},
};
use kube::{ResourceExt as _, runtime::reflector::ObjectRef};
use tokio::time::Instant;
use twinsite_api::{
    Attachment, Failover, GroupId, Leg, MirrorGroup, MirroredVolume, SitePair, StoragePool,
    VolumeId,
};

use super::{
    events::News,
    watch::{Copy, Freshness},
};
use index::{Index, locked};

/// A MirroredVolume by its names.
pub type VolumeKey = (String, String);

/// What changed in this cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Pair(String, Edit),
    Pool(String, Edit),
    Volume(VolumeKey),
    Group(VolumeKey),
    Failover(String),
    /// A Leg of this volume.
    Leg(VolumeId),
    /// An Attachment of this volume.
    Attachment(VolumeId),
    /// Something of Kubernetes' own that belongs to this volume.
    Of(VolumeId),
    /// The claim, or a pod that uses it.
    Claim {
        namespace: String,
        name: String,
    },
    Node(String),
}

/// What of an object changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    Spec,
    /// Its status or metadata: seldom a matter for other objects.
    Rest,
}

/// Called with every change; must not block.
pub type Tell = Arc<dyn Fn(Told) + Send + Sync>;

/// Copies of this cluster's objects.
#[derive(Debug)]
pub struct Own {
    pub pairs: Copy<SitePair>,
    pub pools: Copy<StoragePool>,
    pub volumes: Copy<MirroredVolume>,
    pub groups: Copy<MirrorGroup>,
    pub failovers: Copy<Failover>,
    pub legs: Copy<Leg>,
    pub attachments: Copy<Attachment>,
    pub persistent_volumes: Copy<PersistentVolume>,
    pub claims: Copy<PersistentVolumeClaim>,
    pub pods: Copy<Pod>,
    pub nodes: Copy<Node>,
    pub csi_nodes: Copy<CSINode>,
    pub volume_attachments: Copy<VolumeAttachment>,
    node_leases: Copy<Lease>,
    index: Arc<Mutex<Index>>,
}

/// A kubelet renews its lease each 10 s; one that did so a little ago is no news.
const LIVELY: Duration = Duration::from_secs(13);

impl Own {
    /// Copies that are not complete yet, or whose watch fails: name, for how long, why.
    pub fn troubles(&self) -> Vec<(&'static str, Option<(Duration, String)>)> {
        let trouble = |(kind, sync): (&'static str, &Freshness)| match sync.failing() {
            Some(failing) => Some((kind, Some(failing))),
            None if sync.is_complete() => None,
            None => Some((kind, None)),
        };
        self.syncs().into_iter().filter_map(trouble).collect()
    }

    fn syncs(&self) -> [(&'static str, &Freshness); 14] {
        [
            ("SitePair", &self.pairs.sync),
            ("StoragePool", &self.pools.sync),
            ("MirroredVolume", &self.volumes.sync),
            ("MirrorGroup", &self.groups.sync),
            ("Failover", &self.failovers.sync),
            ("Leg", &self.legs.sync),
            ("Attachment", &self.attachments.sync),
            ("PersistentVolume", &self.persistent_volumes.sync),
            ("PersistentVolumeClaim", &self.claims.sync),
            ("Pod", &self.pods.sync),
            ("Node", &self.nodes.sync),
            ("CSINode", &self.csi_nodes.sync),
            ("VolumeAttachment", &self.volume_attachments.sync),
            ("Lease", &self.node_leases.sync),
        ]
    }

    /// What is odd about objects and has not been told yet.
    pub fn odd_news(&self) -> Vec<News> {
        let kinds = [
            &self.pairs.odd,
            &self.pools.odd,
            &self.volumes.odd,
            &self.groups.odd,
            &self.failovers.odd,
            &self.legs.odd,
            &self.attachments.odd,
        ];
        kinds.iter().flat_map(|odd| odd.news()).collect()
    }

    /// Whether every copy was complete once: before that nothing may be planned.
    pub fn is_complete(&self) -> bool {
        self.syncs().iter().all(|(_, sync)| sync.is_complete())
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        locked(&self.index)
    }

    pub fn volume(&self, key: &VolumeKey) -> Option<Arc<MirroredVolume>> {
        self.volumes
            .store
            .get(&ObjectRef::new(&key.1).within(&key.0))
    }

    pub fn pair(&self, name: &str) -> Option<Arc<SitePair>> {
        self.pairs.store.get(&ObjectRef::new(name))
    }

    /// The MirroredVolume with this identity.
    pub fn volume_of(&self, id: VolumeId) -> Option<VolumeKey> {
        self.index().volumes.get(&id).cloned()
    }

    /// The MirroredVolumes that name this group, in the order of their ids.
    pub fn volumes_of_group(&self, (namespace, group): &VolumeKey) -> Vec<Arc<MirroredVolume>> {
        let is_in = |volume: &Arc<MirroredVolume>| {
            volume.spec.group.as_ref() == Some(group)
                && volume.metadata.namespace.as_ref() == Some(namespace)
        };
        let mut volumes = self.volumes.store.state();
        volumes.retain(is_in);
        volumes.sort_by_key(|volume| id_of(volume));
        volumes
    }

    /// The MirrorGroup that this volume names.
    pub fn group_of(&self, volume: &MirroredVolume) -> Option<Arc<MirrorGroup>> {
        let reference = ObjectRef::new(volume.spec.group.as_deref()?);
        let namespace = volume.metadata.namespace.as_deref().unwrap_or_default();
        self.groups.store.get(&reference.within(namespace))
    }

    /// The MirrorGroup with this identity.
    pub fn group_with(&self, id: GroupId) -> Option<Arc<MirrorGroup>> {
        let mut groups = self.groups.store.state().into_iter();
        groups.find(|group| group.id() == id)
    }

    /// Whose register decides about a volume.
    pub fn register_of(&self, volume: &MirroredVolume) -> GroupId {
        match self.group_of(volume) {
            Some(group) => group.id(),
            None => GroupId::Volume(id_of(volume)),
        }
    }

    /// The MirroredVolume that names this claim.
    pub fn volume_of_claim(&self, namespace: &str, name: &str) -> Option<VolumeKey> {
        let key = (namespace.to_owned(), name.to_owned());
        self.index().claims.get(&key).cloned()
    }

    /// Which claim it is that has this name.
    pub fn claim_uid(&self, namespace: &str, name: &str) -> Option<String> {
        self.claims
            .store
            .get(&ObjectRef::new(name).within(namespace))?
            .uid()
    }

    /// Pods that use a claim.
    pub fn pods_of(&self, namespace: &str, claim: &str) -> Vec<Arc<Pod>> {
        let key = (namespace.to_owned(), claim.to_owned());
        let refs = self.index().pods.get(&key).to_vec();
        refs.iter()
            .filter_map(|one| self.pods.store.get(one))
            .collect()
    }

    /// VolumeAttachments of a PersistentVolume.
    pub fn volume_attachments_of(&self, volume: &str) -> Vec<Arc<VolumeAttachment>> {
        let names = self
            .index()
            .volume_attachments
            .get(&volume.to_owned())
            .to_vec();
        names
            .iter()
            .filter_map(|name| self.volume_attachments.store.get(&ObjectRef::new(name)))
            .collect()
    }

    /// Names of the Legs in a pool.
    pub fn legs_of_pool(&self, pool: &str) -> Vec<String> {
        self.index().legs_of_pools.get(&pool.to_owned()).to_vec()
    }

    /// For how long nothing was heard of a node; `None`: it gives signs of life, never had a lease, or nobody can look now.
    ///
    /// The node that this process runs on renews its lease too: when no node at all does, it is the API server that is
    /// silent.
    pub fn node_silence(&self, node: &str) -> Option<Duration> {
        if self.node_leases.sync.failing().is_some() {
            return None;
        }
        let index = self.index();
        let freshest = index.signs.values().map(|sign| sign.at).max()?;
        let silence = index.signs.get(node)?.at.elapsed();
        (freshest.elapsed() < LIVELY && silence >= LIVELY).then_some(silence)
    }

    /// Whether the node's kubelet was seen to renew its lease, lately.
    pub fn node_speaks(&self, node: &str) -> bool {
        let index = self.index();
        let sign = index.signs.get(node);
        sign.is_some_and(|sign| sign.moved && sign.lease.elapsed() < LIVELY)
    }

    /// For how long nothing was heard of the agent of a node, if that means that it is not there; `None`: it is there, or nobody can look now.
    pub fn agent_silence(&self, node: &str) -> Option<Duration> {
        let watched = [
            &self.node_leases.sync,
            &self.pools.sync,
            &self.legs.sync,
            &self.attachments.sync,
        ];
        if watched.iter().any(|sync| sync.failing().is_some()) {
            return None;
        }
        let index = self.index();
        let freshest = index.signs.values().map(|sign| sign.lease).max()?;
        if freshest.elapsed() >= LIVELY {
            return None;
        }
        let agent = index.agents.get(node).copied().or(index.began)?;
        let lease = index.signs.get(node).map(|sign| sign.lease);
        index::silence(agent, lease, Instant::now())
    }
}

/// By what a MirroredVolume is found.
pub fn volume_key(volume: &MirroredVolume) -> VolumeKey {
    (volume.namespace().unwrap_or_default(), volume.name_any())
}

/// By what a MirrorGroup is found.
pub fn group_key(group: &MirrorGroup) -> VolumeKey {
    (group.namespace().unwrap_or_default(), group.name_any())
}

/// The identity that follows from the names.
pub fn id_of(volume: &MirroredVolume) -> VolumeId {
    VolumeId::of(
        &volume.spec.site_pair,
        &volume.namespace().unwrap_or_default(),
        &volume.name_any(),
    )
}
