//! By what the copies are found: identity, claim, pool, PersistentVolume; and when each node was last heard of.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
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
    /// By kind and name, of what many volumes depend on.
    pub(super) generations: HashMap<(&'static str, String), i64>,
    /// When the agents say that they wrote the status of each Leg and Attachment.
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
    pub(super) at: Instant,
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

pub(super) fn locked(index: &Mutex<Index>) -> MutexGuard<'_, Index> {
    index.lock().unwrap_or_else(PoisonError::into_inner)
}
