//! Copies of what this cluster holds, and by which keys it is found.
//!
//! Invariants: every copy is thinned to what is read here, so that a cluster full of pods fits into memory; an index is
//! never ahead of its copy.
//! Not here: the peer's objects (`peer`), what follows from a change ([`super::triggers`]).

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{
            Node, NodeStatus, PersistentVolume, PersistentVolumeClaim, Pod, PodSpec, PodStatus,
        },
        storage::v1::{CSINode, VolumeAttachment},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time},
};
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{reflector::ObjectRef, watcher},
};
use tokio::time::Instant;
use twinsite_api::{
    Attachment, Failover, Leg, MirrorGroup, MirroredVolume, SitePair, StoragePool, VolumeId,
};

use super::watch::{Change, Copy, Freshness, copy, copy_thinned};

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

/// By what objects are found.
#[derive(Debug, Default)]
struct Index {
    volumes: HashMap<VolumeId, VolumeKey>,
    claims: HashMap<(String, String), VolumeKey>,
    pods: Grouped<(String, String), ObjectRef<Pod>>,
    volume_attachments: Grouped<String, String>,
    legs_of_pools: Grouped<String, String>,
    signs: HashMap<String, Sign>,
    /// By kind and name, of what many volumes depend on.
    generations: HashMap<(&'static str, String), i64>,
    /// When the agents say that they wrote the status of each Leg and Attachment.
    said: HashMap<String, Time>,
}

/// Many of one kind under one key of another.
#[derive(Debug)]
struct Grouped<K, V> {
    of: HashMap<K, Vec<V>>,
    keys: HashMap<V, BTreeSet<K>>,
}

impl<K, V> Default for Grouped<K, V> {
    fn default() -> Self {
        Self {
            of: HashMap::new(),
            keys: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash + Ord, V: Clone + Eq + Hash> Grouped<K, V> {
    fn set(&mut self, value: V, keys: BTreeSet<K>) {
        self.remove(&value);
        for key in &keys {
            self.of.entry(key.clone()).or_default().push(value.clone());
        }
        if !keys.is_empty() {
            self.keys.insert(value, keys);
        }
    }

    fn remove(&mut self, value: &V) {
        for key in self.keys.remove(value).into_iter().flatten() {
            if let Some(values) = self.of.get_mut(&key) {
                values.retain(|known| known != value);
                if values.is_empty() {
                    self.of.remove(&key);
                }
            }
        }
    }

    fn get(&self, key: &K) -> &[V] {
        self.of.get(key).map_or(&[], Vec::as_slice)
    }
}

/// A node's last sign of life, by the clock of this process.
#[derive(Clone, Debug)]
struct Sign {
    renewed: Option<MicroTime>,
    at: Instant,
}

/// A kubelet renews its lease each 10 s; one that did so a little ago is no news.
const LIVELY: Duration = Duration::from_secs(13);
const LEASES: &str = "kube-node-lease";

impl Own {
    /// Starts all copies.
    pub fn start(client: &Client, tell: &Tell) -> Self {
        let index: Arc<Mutex<Index>> = Arc::default();
        let all = watcher::Config::default;
        let at = |index: &Arc<Mutex<Index>>, tell: &Tell| (Arc::clone(index), Arc::clone(tell));
        let (i, t) = at(&index, tell);
        let pairs = copy(
            Api::all(client.clone()),
            all(),
            move |change, pair: Option<&SitePair>, _| {
                if let Some(pair) = pair {
                    let edit = locked(&i).edit(change, "SitePair", &pair.metadata);
                    t(Told::Pair(pair.name_any(), edit));
                }
            },
        );
        let (i, t) = at(&index, tell);
        let pools = copy(
            Api::all(client.clone()),
            all(),
            move |change, pool: Option<&StoragePool>, _| {
                if let Some(pool) = pool {
                    let edit = locked(&i).edit(change, "StoragePool", &pool.metadata);
                    t(Told::Pool(pool.name_any(), edit));
                }
            },
        );
        let (i, t) = at(&index, tell);
        let volumes = copy(
            Api::all(client.clone()),
            all(),
            move |change, volume: Option<&MirroredVolume>, store| {
                {
                    let mut index = locked(&i);
                    match (change, volume) {
                        (Change::Applied, Some(volume)) => index.add_volume(volume),
                        (Change::Deleted, Some(volume)) => index.remove_volume(volume),
                        _ => {
                            index.volumes.clear();
                            index.claims.clear();
                            store
                                .state()
                                .iter()
                                .for_each(|volume| index.add_volume(volume));
                        }
                    }
                }
                if let Some(volume) = volume {
                    t(Told::Volume(volume_key(volume)));
                }
            },
        );
        let (_, t) = at(&index, tell);
        let groups = copy(
            Api::all(client.clone()),
            all(),
            move |_, group: Option<&MirrorGroup>, _| {
                if let Some(group) = group {
                    t(Told::Group((
                        group.namespace().unwrap_or_default(),
                        group.name_any(),
                    )));
                }
            },
        );
        let (_, t) = at(&index, tell);
        let failovers = copy(
            Api::all(client.clone()),
            all(),
            move |_, failover: Option<&Failover>, _| {
                if let Some(failover) = failover {
                    t(Told::Failover(failover.name_any()));
                }
            },
        );
        let (i, t) = at(&index, tell);
        let legs = copy(
            Api::all(client.clone()),
            all(),
            move |change, leg: Option<&Leg>, store| {
                {
                    let mut index = locked(&i);
                    match (change, leg) {
                        (Change::Applied, Some(leg)) => {
                            let said = leg
                                .status
                                .as_ref()
                                .and_then(|status| status.observed_at.as_ref());
                            index.said(leg.name_any(), &leg.spec.node, said);
                            index
                                .legs_of_pools
                                .set(leg.name_any(), BTreeSet::from([leg.spec.pool.clone()]));
                        }
                        (Change::Deleted, Some(leg)) => {
                            index.said.remove(&leg.name_any());
                            index.legs_of_pools.remove(&leg.name_any());
                        }
                        _ => {
                            index.legs_of_pools = Grouped::default();
                            for leg in store.state() {
                                index
                                    .legs_of_pools
                                    .set(leg.name_any(), BTreeSet::from([leg.spec.pool.clone()]));
                            }
                        }
                    }
                }
                if let Some(leg) = leg {
                    t(Told::Leg(leg.spec.volume));
                }
            },
        );
        let (i, t) = at(&index, tell);
        let attachments = copy(
            Api::all(client.clone()),
            all(),
            move |change, attachment: Option<&Attachment>, _| {
                if let Some(attachment) = attachment {
                    let name = attachment.name_any();
                    if change == Change::Applied {
                        let said = attachment
                            .status
                            .as_ref()
                            .and_then(|status| status.observed_at.as_ref());
                        locked(&i).said(name, &attachment.spec.node, said);
                    } else {
                        locked(&i).said.remove(&name);
                    }
                    t(Told::Attachment(attachment.spec.volume));
                }
            },
        );
        let (_, t) = at(&index, tell);
        let persistent_volumes = copy(
            Api::all(client.clone()),
            all(),
            move |_, volume: Option<&PersistentVolume>, _| {
                if let Some(id) = volume.and_then(|volume| volume.name_any().parse().ok()) {
                    t(Told::Of(id));
                }
            },
        );
        let (_, t) = at(&index, tell);
        let claims = copy(
            Api::all(client.clone()),
            all(),
            move |_, claim: Option<&PersistentVolumeClaim>, _| {
                if let Some(claim) = claim {
                    t(Told::Claim {
                        namespace: claim.namespace().unwrap_or_default(),
                        name: claim.name_any(),
                    });
                }
            },
        );
        let (i, t) = at(&index, tell);
        let pods = copy_thinned(
            Api::all(client.clone()),
            all(),
            thin_pod,
            move |change, pod: Option<&Pod>, store| {
                let told = {
                    let mut index = locked(&i);
                    match (change, pod) {
                        (Change::Applied, Some(pod)) => {
                            index.pods.set(ObjectRef::from_obj(pod), claims_of(pod));
                        }
                        (Change::Deleted, Some(pod)) => {
                            index.pods.remove(&ObjectRef::from_obj(pod))
                        }
                        _ => {
                            index.pods = Grouped::default();
                            for pod in store.state() {
                                index.pods.set(ObjectRef::from_obj(&*pod), claims_of(&pod));
                            }
                        }
                    }
                    pod.map(claims_of).unwrap_or_default()
                };
                for (namespace, name) in told {
                    t(Told::Claim { namespace, name });
                }
            },
        );
        let (_, t) = at(&index, tell);
        let nodes = copy_thinned(
            Api::all(client.clone()),
            all(),
            thin_node,
            move |_, node: Option<&Node>, _| {
                if let Some(node) = node {
                    t(Told::Node(node.name_any()));
                }
            },
        );
        let csi_nodes = copy(
            Api::all(client.clone()),
            all(),
            |_, _: Option<&CSINode>, _| {},
        );
        let (i, t) = at(&index, tell);
        let volume_attachments = copy(
            Api::all(client.clone()),
            all(),
            move |change, one: Option<&VolumeAttachment>, store| {
                let volume =
                    |one: &VolumeAttachment| one.spec.source.persistent_volume_name.clone();
                {
                    let mut index = locked(&i);
                    match (change, one) {
                        (Change::Applied, Some(one)) => {
                            index
                                .volume_attachments
                                .set(one.name_any(), volume(one).into_iter().collect());
                        }
                        (Change::Deleted, Some(one)) => {
                            index.volume_attachments.remove(&one.name_any())
                        }
                        _ => {
                            index.volume_attachments = Grouped::default();
                            for one in store.state() {
                                index
                                    .volume_attachments
                                    .set(one.name_any(), volume(&one).into_iter().collect());
                            }
                        }
                    }
                }
                if let Some(id) = one.and_then(volume).and_then(|name| name.parse().ok()) {
                    t(Told::Of(id));
                }
            },
        );
        let (i, _) = at(&index, tell);
        let node_leases = copy(
            Api::namespaced(client.clone(), LEASES),
            all(),
            move |change, lease: Option<&Lease>, store| {
                let mut index = locked(&i);
                match (change, lease) {
                    (Change::Applied, Some(lease)) => {
                        let renewed = renewed(lease);
                        index.sign(&lease.name_any(), renewed);
                    }
                    (Change::Deleted, Some(lease)) => {
                        index.signs.remove(&lease.name_any());
                    }
                    // While nothing could be watched nothing could be seen: silence begins anew.
                    _ => {
                        let now = Instant::now();
                        index.signs.clear();
                        for lease in store.state() {
                            let sign = Sign {
                                renewed: renewed(&lease),
                                at: now,
                            };
                            index.signs.insert(lease.name_any(), sign);
                        }
                    }
                }
            },
        );
        Self {
            pairs,
            pools,
            volumes,
            groups,
            failovers,
            legs,
            attachments,
            persistent_volumes,
            claims,
            pods,
            nodes,
            csi_nodes,
            volume_attachments,
            node_leases,
            index,
        }
    }

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
}

impl Index {
    fn edit(&mut self, change: Change, kind: &'static str, metadata: &ObjectMeta) -> Edit {
        let key = (kind, metadata.name.clone().unwrap_or_default());
        match change {
            Change::Deleted => {
                self.generations.remove(&key);
            }
            Change::Applied | Change::Listed => {
                let generation = metadata.generation.unwrap_or(0);
                let before = self.generations.insert(key, generation);
                if before == Some(generation) {
                    return Edit::Rest;
                }
            }
        }
        Edit::Spec
    }

    fn add_volume(&mut self, volume: &MirroredVolume) {
        let key = volume_key(volume);
        let claim = (key.0.clone(), volume.spec.claim.name.clone());
        self.claims.insert(claim, key.clone());
        self.volumes.insert(id_of(volume), key);
    }

    fn remove_volume(&mut self, volume: &MirroredVolume) {
        let key = volume_key(volume);
        self.claims.remove(&(key.0, volume.spec.claim.name.clone()));
        self.volumes.remove(&id_of(volume));
    }

    /// An agent wrote a status, if the time it gives is another one than before.
    fn said(&mut self, object: String, node: &str, at: Option<&Time>) {
        let Some(at) = at else {
            return;
        };
        let before = self.said.insert(object, at.clone());
        if before.is_some_and(|before| before != *at) {
            self.sign(node, None);
        }
    }

    /// A lease was renewed, or an agent wrote a status.
    fn sign(&mut self, node: &str, renewed: Option<MicroTime>) {
        let at = Instant::now();
        match self.signs.get_mut(node) {
            Some(sign) if renewed.is_some() && sign.renewed == renewed => {}
            Some(sign) => {
                sign.at = at;
                if renewed.is_some() {
                    sign.renewed = renewed;
                }
            }
            // Only a lease makes a node's silence mean something.
            None if renewed.is_some() => {
                self.signs.insert(node.to_owned(), Sign { renewed, at });
            }
            None => {}
        }
    }
}

fn locked(index: &Mutex<Index>) -> MutexGuard<'_, Index> {
    index.lock().unwrap_or_else(PoisonError::into_inner)
}

/// By what a MirroredVolume is found.
pub fn volume_key(volume: &MirroredVolume) -> VolumeKey {
    (volume.namespace().unwrap_or_default(), volume.name_any())
}

/// The identity that follows from the names.
pub fn id_of(volume: &MirroredVolume) -> VolumeId {
    VolumeId::of(
        &volume.spec.site_pair,
        &volume.namespace().unwrap_or_default(),
        &volume.name_any(),
    )
}

fn renewed(lease: &Lease) -> Option<MicroTime> {
    lease.spec.as_ref()?.renew_time.clone()
}

fn claims_of(pod: &Pod) -> BTreeSet<(String, String)> {
    let namespace = pod.namespace().unwrap_or_default();
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter_map(|volume| volume.persistent_volume_claim.as_ref())
        .map(|source| (namespace.clone(), source.claim_name.clone()))
        .collect()
}

fn thin_pod(pod: &mut Pod) {
    pod.metadata.annotations = None;
    pod.metadata.labels = None;
    if let Some(spec) = pod.spec.take() {
        let volumes = spec.volumes.map(|volumes| {
            let used = volumes
                .into_iter()
                .filter(|volume| volume.persistent_volume_claim.is_some());
            used.collect()
        });
        pod.spec = Some(PodSpec {
            node_name: spec.node_name,
            volumes,
            ..Default::default()
        });
    }
    if let Some(status) = pod.status.take() {
        pod.status = Some(PodStatus {
            phase: status.phase,
            ..Default::default()
        });
    }
}

fn thin_node(node: &mut Node) {
    node.metadata.annotations = None;
    if let Some(status) = node.status.take() {
        let ready = status.conditions.map(|conditions| {
            let ready = conditions.into_iter().filter(|one| one.type_ == "Ready");
            ready.collect::<Vec<_>>()
        });
        node.status = Some(NodeStatus {
            conditions: ready,
            volumes_in_use: status.volumes_in_use,
            ..Default::default()
        });
    }
}
