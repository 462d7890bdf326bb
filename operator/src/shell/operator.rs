//! What all rounds share, and which round follows from which change.

use std::{fmt, sync::Arc, time::Duration};

use kube::{Client, ResourceExt as _};
use twinsite_api::{FailoverPolicy, VolumeId};
use twinsite_register::GroupId;

use super::{
    events::Events,
    options::Options,
    own::{self, Own, VolumeKey},
    permits::Permits,
    queue::{Outcome, Queue},
    volume::{self, Kinds},
};
use crate::{
    health::Health,
    metrics::Metrics,
    peer, pool,
    site_pair::{self, Links},
    witness,
};

/// What is reconciled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    Pair(String),
    Pool(String),
    Volume(VolumeKey),
    Failover(String),
}

/// What all rounds share.
pub struct Operator {
    pub options: Options,
    pub client: Client,
    pub own: Own,
    pub links: Links,
    pub queue: Arc<Queue<Key>>,
    pub events: Events,
    pub metrics: Arc<Metrics>,
    pub health: Arc<Health>,
    pub kinds: Kinds,
    pub permits: Permits,
    /// Parties are opened by one at a time.
    pub following: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Operator({})", self.options.site)
    }
}

/// A change of any kind, from anywhere.
#[derive(Clone, Debug)]
pub enum Change {
    Own(own::Told),
    Link(site_pair::Told),
    Secret,
}

impl Operator {
    /// Takes keys from the queue until it is closed.
    pub async fn work(self: Arc<Self>) {
        while let Some(key) = self.queue.take().await {
            let started = std::time::Instant::now();
            let outcome = self.round(&key).await;
            self.metrics.see_round(&key, started.elapsed(), outcome);
            self.queue.done(&key, outcome);
        }
    }

    async fn round(&self, key: &Key) -> Outcome {
        match key {
            Key::Pair(name) => site_pair::reconcile(self, name).await,
            Key::Pool(name) => pool::reconcile(self, name).await,
            Key::Volume(key) => volume::reconcile(self, key).await,
            Key::Failover(_) => Outcome::Settled,
        }
    }

    /// Opens and closes the parties of pairs as the SitePairs and Secrets say.
    pub async fn follow_pairs(&self) {
        let _one_at_a_time = self.following.lock().await;
        self.links.follow(&self.own.pairs.store.state()).await;
    }

    /// Every object once.
    pub fn add_everything(&self) {
        for pair in self.own.pairs.store.state() {
            self.queue.add(Key::Pair(pair.name_any()));
        }
        for pool in self.own.pools.store.state() {
            self.queue.add(Key::Pool(pool.name_any()));
        }
        for failover in self.own.failovers.store.state() {
            self.queue.add(Key::Failover(failover.name_any()));
        }
        self.add_volumes(|_| true);
    }

    /// What is looked at again because of a change.
    pub fn hear(&self, change: Change) {
        match change {
            Change::Own(told) => self.hear_own(told),
            Change::Link(told) => self.hear_link(told),
            Change::Secret => {
                for pair in self.own.pairs.store.state() {
                    self.queue.add(Key::Pair(pair.name_any()));
                }
            }
        }
    }

    fn hear_own(&self, told: own::Told) {
        match told {
            own::Told::Pair(name) => {
                self.add_volumes(|volume| volume.spec.site_pair == name);
                self.queue.add(Key::Pair(name));
            }
            own::Told::Pool(name) => {
                // What a pool has free changes each minute; only volumes that still look for one care.
                self.add_volumes(|volume| {
                    volume
                        .status
                        .as_ref()
                        .is_none_or(|status| status.epoch.is_none())
                });
                self.queue.add(Key::Pool(name));
            }
            own::Told::Volume(key) => self.queue.add(Key::Volume(key)),
            own::Told::Group((namespace, name)) => self.add_volumes(|volume| {
                volume.spec.group.as_ref() == Some(&name)
                    && volume.namespace().as_ref() == Some(&namespace)
            }),
            own::Told::Failover(name) => self.add_selected(&name),
            own::Told::Leg(id) | own::Told::Of(id) => self.add_of(id),
            own::Told::Attachment(id) => {
                self.hint(id);
                self.add_of(id);
            }
            own::Told::Claim { namespace, name } => {
                if let Some(key) = self.own.volume_of_claim(&namespace, &name) {
                    self.queue.add(Key::Volume(key));
                }
            }
            own::Told::Node(node) => {
                for attachment in self.own.attachments.store.state() {
                    if attachment.spec.node == node {
                        self.add_of(attachment.spec.volume);
                    }
                }
                self.add_volumes(|volume| {
                    volume
                        .status
                        .as_ref()
                        .is_none_or(|status| status.epoch.is_none())
                });
            }
        }
    }

    fn hear_link(&self, told: site_pair::Told) {
        match told {
            site_pair::Told::Witness(pair, witness::Told::Pair)
            | site_pair::Told::Peer(pair, peer::Told::Pair) => {
                self.add_volumes(|volume| volume.spec.site_pair == pair);
                self.queue.add(Key::Pair(pair));
            }
            site_pair::Told::Witness(_, witness::Told::Group(group)) => {
                self.add_of(VolumeId::from_bytes(group.0));
            }
            site_pair::Told::Witness(pair, witness::Told::Evidence) => self.suspect(&pair),
            site_pair::Told::Peer(_, peer::Told::Volume { namespace, name }) => {
                let key = (namespace, name);
                if let Some(volume) = self.own.volume(&key) {
                    self.hint(own::id_of(&volume));
                    self.queue.add(Key::Volume(key));
                }
            }
            site_pair::Told::Peer(_, peer::Told::Parts(id)) => self.add_of(id),
            site_pair::Told::Peer(_, peer::Told::Failover(name)) => self.add_selected(&name),
        }
    }

    /// The other site stands still, or began to move again.
    fn suspect(&self, pair: &str) {
        let (Some(object), Some(access)) = (self.own.pair(pair), self.links.witness(pair)) else {
            return;
        };
        if object.spec.failover.policy == FailoverPolicy::Manual {
            return;
        }
        let enough = object.spec.failover.detect_after.length();
        // Before that nothing can follow from it.
        if access
            .peer_stillness()
            .is_some_and(|age| age + Duration::from_millis(100) < enough)
        {
            return;
        }
        for key in volume::at_peer(self, &access, pair) {
            self.queue.add(Key::Volume(key));
        }
    }

    fn add_of(&self, id: VolumeId) {
        if let Some(key) = self.own.volume_of(id) {
            self.queue.add(Key::Volume(key));
        }
    }

    fn add_volumes(&self, wanted: impl Fn(&twinsite_api::MirroredVolume) -> bool) {
        for volume in self.own.volumes.store.state() {
            if wanted(&volume) {
                self.queue.add(Key::Volume(own::volume_key(&volume)));
            }
        }
    }

    /// Volumes that an order of either cluster names.
    fn add_selected(&self, order: &str) {
        let mine = self
            .own
            .failovers
            .store
            .get(&kube::runtime::reflector::ObjectRef::new(order));
        match mine {
            Some(order) => self.add_volumes(|volume| volume::selects(&order, volume)),
            // It is the peer's, or gone: rare enough to look at all.
            None => self.add_volumes(|_| true),
        }
        self.queue.add(Key::Failover(order.to_owned()));
    }

    /// An agent shows another register than the one that was read: read it now.
    fn hint(&self, id: VolumeId) {
        let Some(volume) = self.own.volume_of(id).and_then(|key| self.own.volume(&key)) else {
            return;
        };
        if let Some(access) = self.links.witness(&volume.spec.site_pair) {
            access.hurry(GroupId(id.bytes()));
        }
    }
}
