//! By what the copies are found: identity, claim, pool, PersistentVolume; and when each node was last heard of.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::Pod,
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time},
};
use kube::runtime::reflector::ObjectRef;
use tokio::time::Instant;
use twinsite_api::{MirroredVolume, VolumeId};

use super::{super::watch::Change, Edit, VolumeKey, id_of, volume_key};

/// By what objects are found.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) volumes: HashMap<VolumeId, VolumeKey>,
    pub(super) claims: HashMap<(String, String), VolumeKey>,
    pub(super) pods: Grouped<(String, String), ObjectRef<Pod>>,
    pub(super) volume_attachments: Grouped<String, String>,
    pub(super) legs_of_pools: Grouped<String, String>,
    pub(super) signs: HashMap<String, Sign>,
    /// When each node's agent was last heard of.
    pub(super) agents: HashMap<String, Instant>,
    /// Since when the agents are listened to: before that nothing could be heard.
    pub(super) began: Option<Instant>,
    /// By kind and name, of what many volumes depend on.
    pub(super) generations: HashMap<(&'static str, String), i64>,
    /// When the agents say that they wrote the status of each pool, Leg and Attachment.
    pub(super) said: HashMap<String, Time>,
}

/// Many of one kind under one key of another.
#[derive(Debug)]
pub(super) struct Grouped<K, V> {
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
    pub(super) fn set(&mut self, value: V, keys: BTreeSet<K>) {
        self.remove(&value);
        for key in &keys {
            self.of.entry(key.clone()).or_default().push(value.clone());
        }
        if !keys.is_empty() {
            self.keys.insert(value, keys);
        }
    }

    pub(super) fn remove(&mut self, value: &V) {
        for key in self.keys.remove(value).into_iter().flatten() {
            if let Some(values) = self.of.get_mut(&key) {
                values.retain(|known| known != value);
                if values.is_empty() {
                    self.of.remove(&key);
                }
            }
        }
    }

    pub(super) fn get(&self, key: &K) -> &[V] {
        self.of.get(key).map_or(&[], Vec::as_slice)
    }
}

/// A node's last sign of life, by the clock of this process.
#[derive(Clone, Debug)]
pub(super) struct Sign {
    pub(super) renewed: Option<MicroTime>,
    /// Of its kubelet or its agent.
    pub(super) at: Instant,
    /// Of its kubelet alone.
    pub(super) lease: Instant,
    /// The lease was seen to move.
    pub(super) moved: bool,
}

impl Sign {
    pub(super) fn first(renewed: Option<MicroTime>, at: Instant) -> Self {
        Self {
            renewed,
            at,
            lease: at,
            moved: false,
        }
    }
}

/// An agent writes the status of everything that it serves once a minute, with all that may delay a write.
const AGENT_SPEAKS: Duration = Duration::from_secs(90);
/// A kubelet renews its lease each 10 s.
const LEASE_MOVES: Duration = Duration::from_secs(20);
/// An agent that speaks this long after the last renewal shows that a silent lease does not mean a silent node.
const OUTLIVES: Duration = Duration::from_secs(13);

/// For how long an agent has been silent, if that means that it is not there.
///
/// It says something once a minute at least. When its node's lease stands still it need not be waited for that long, unless it spoke after
/// the lease did: then it is kubelet that is away.
pub(super) fn silence(agent: Instant, lease: Option<Instant>, now: Instant) -> Option<Duration> {
    let silent = now.saturating_duration_since(agent);
    let with_its_node = lease.is_some_and(|lease| {
        let spoke_alone = agent.saturating_duration_since(lease) > OUTLIVES;
        now.saturating_duration_since(lease) >= LEASE_MOVES && silent >= LEASE_MOVES && !spoke_alone
    });
    (silent >= AGENT_SPEAKS || with_its_node).then_some(silent)
}

impl Index {
    pub(super) fn edit(
        &mut self,
        change: Change,
        kind: &'static str,
        metadata: &ObjectMeta,
    ) -> Edit {
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

    pub(super) fn add_volume(&mut self, volume: &MirroredVolume) {
        let key = volume_key(volume);
        let claim = (key.0.clone(), volume.spec.claim.name.clone());
        self.claims.insert(claim, key.clone());
        self.volumes.insert(id_of(volume), key);
    }

    pub(super) fn remove_volume(&mut self, volume: &MirroredVolume) {
        let key = volume_key(volume);
        self.claims.remove(&(key.0, volume.spec.claim.name.clone()));
        self.volumes.remove(&id_of(volume));
    }

    /// An agent wrote a status, if the time it gives is another one than before.
    pub(super) fn said(&mut self, object: String, node: &str, at: Option<&Time>) {
        let Some(at) = at else {
            return;
        };
        let before = self.said.insert(object, at.clone());
        if before.is_some_and(|before| before != *at) {
            self.agents.insert(node.to_owned(), Instant::now());
            self.sign(node, None);
        }
    }

    /// A lease was renewed, or an agent wrote a status.
    pub(super) fn sign(&mut self, node: &str, renewed: Option<MicroTime>) {
        let at = Instant::now();
        match self.signs.get_mut(node) {
            Some(sign) if renewed.is_some() && sign.renewed == renewed => {}
            Some(sign) => {
                sign.at = at;
                if renewed.is_some() {
                    sign.renewed = renewed;
                    sign.lease = at;
                    sign.moved = true;
                }
            }
            // Only a lease makes a node's silence mean something.
            None if renewed.is_some() => {
                self.signs.insert(node.to_owned(), Sign::first(renewed, at));
            }
            None => {}
        }
    }
}

pub(super) fn locked(index: &Mutex<Index>) -> MutexGuard<'_, Index> {
    index.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds since the last word of the agent and the last renewal of its node's lease; for how long it counts as silent.
    fn after(agent: u64, lease: Option<u64>) -> Option<u64> {
        let now = Instant::now() + Duration::from_secs(1000);
        let ago = |seconds| now - Duration::from_secs(seconds);
        silence(ago(agent), lease.map(ago), now).map(|silent| silent.as_secs())
    }

    #[test]
    fn a_node_that_dies_takes_its_agents_word_along_and_a_kubelet_that_dies_does_not() {
        for (what, agent, lease, silent) in [
            ("both speak", 5, Some(3), None),
            ("an idle agent of a node that lives", 70, Some(3), None),
            ("a node dies", 26, Some(19), None),
            ("and is found silent", 27, Some(20), Some(27)),
            ("its agent had been idle", 80, Some(20), Some(80)),
            ("its agent was heard a little later", 20, Some(29), Some(20)),
            ("kubelet alone is dead", 25, Some(60), None),
            ("and then the agent too", 90, Some(125), Some(90)),
            ("the agent alone is dead", 90, Some(3), Some(90)),
            ("the node was taken out of the cluster", 89, None, None),
            ("and its agent is dead", 90, None, Some(90)),
        ] {
            assert_eq!(after(agent, lease), silent, "{what}");
        }
    }
}
