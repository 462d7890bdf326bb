//! What all rounds share, and which round follows from which change.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use kube::{Client, ResourceExt as _, runtime::reflector::ObjectRef};
use twinsite_api::{Attachment, MirroredVolume, RegisterView, VolumeId};
use twinsite_register::{GroupId, State};

use super::{
    events::Events,
    failover as orders, group,
    options::Options,
    own::{self, Own, VolumeKey},
    permits::Permits,
    queue::{Outcome, Queue},
    volume::{self, Kinds},
};
use crate::{
    health::Health,
    metrics::Metrics,
    node, peer, pool,
    site_pair::{self, Links},
    witness,
};

/// For how long at most nothing is said of a volume after the start because the witness or the peer has not spoken yet.
const GATHERING: Duration = Duration::from_secs(10);

/// What is reconciled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    Pair(String),
    Pool(String),
    Volume(VolumeKey),
    Failover(String),
    Group(VolumeKey),
    /// What is left of a volume whose object is gone.
    Orphan(VolumeId),
    /// A node whose agent is silent.
    Node(String),
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
    /// When the status of each volume was written last.
    pub told: Mutex<HashMap<VolumeKey, Instant>>,
    /// Since when this replica leads.
    pub leading: Mutex<Option<Instant>>,
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
            let started = Instant::now();
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
            Key::Failover(name) => orders::reconcile(self, name).await,
            Key::Group(key) => group::reconcile(self, key).await,
            Key::Orphan(id) => volume::orphan::reconcile(self, *id).await,
            Key::Node(name) => node::reconcile(self, name).await,
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
        for group in self.own.groups.store.state() {
            self.queue.add(Key::Group(own::group_key(&group)));
        }
        self.add_volumes(|_| true);
        self.add_remains();
    }

    /// The round in which a volume is dealt with: its group's, if it names one.
    fn add_volume(&self, volume: &MirroredVolume) {
        let key = own::volume_key(volume);
        self.queue.add(match &volume.spec.group {
            Some(group) => Key::Group((key.0, group.clone())),
            None => Key::Volume(key),
        });
    }

    fn add_key(&self, key: VolumeKey) {
        if let Some(volume) = self.own.volume(&key) {
            return self.add_volume(&volume);
        }
        // It is gone: what is kept of it goes too, and its group looks at what is left.
        for group in self.own.groups.store.state() {
            let namespace = group.namespace().unwrap_or_default();
            if namespace == key.0 && group.spec.volumes.contains(&key.1) {
                self.queue.add(Key::Group((namespace, group.name_any())));
            }
        }
        self.queue.add(Key::Volume(key));
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
            own::Told::Pair(name, edit) => {
                if edit == own::Edit::Spec {
                    self.add_volumes(|volume| volume.spec.site_pair == name);
                }
                self.queue.add(Key::Pair(name));
            }
            own::Told::Pool(name, edit) => {
                if edit == own::Edit::Spec {
                    for leg in self.own.legs_of_pool(&name) {
                        let leg = self.own.legs.store.get(&ObjectRef::new(&leg));
                        leg.into_iter().for_each(|leg| self.add_of(leg.spec.volume));
                    }
                }
                // What a pool has free changes all the time; only volumes that still look for one care.
                self.add_volumes(|volume| {
                    volume
                        .status
                        .as_ref()
                        .is_none_or(|status| status.epoch.is_none())
                });
                self.queue.add(Key::Pool(name));
            }
            own::Told::Volume(key) => {
                if self.own.volume(&key).is_none() {
                    self.add_remains();
                }
                self.add_key(key);
            }
            own::Told::Group(key) => self.queue.add(Key::Group(key)),
            own::Told::Failover(name) => self.add_selected(&name),
            own::Told::Leg(id) | own::Told::Of(id) => self.add_of(id),
            own::Told::Attachment(id) => {
                self.hint(id);
                self.add_of(id);
            }
            own::Told::Claim { namespace, name } => {
                if let Some(key) = self.own.volume_of_claim(&namespace, &name) {
                    self.add_key(key);
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
                match self.own.group_with(twinsite_api::GroupId::Group(group.0)) {
                    Some(group) => self.queue.add(Key::Group(own::group_key(&group))),
                    None => self.add_left(group),
                }
            }
            site_pair::Told::Witness(pair, witness::Told::Evidence) => self.suspect(&pair),
            site_pair::Told::Peer(pair, peer::Told::Volume { namespace, name }) => {
                let key = (namespace, name);
                if let Some(volume) = self.own.volume(&key) {
                    self.hint(own::id_of(&volume));
                    self.add_volume(&volume);
                } else {
                    self.queue
                        .add(Key::Orphan(VolumeId::of(&pair, &key.0, &key.1)));
                }
            }
            site_pair::Told::Peer(_, peer::Told::Group { namespace, name }) => {
                self.queue.add(Key::Group((namespace, name)));
            }
            site_pair::Told::Peer(_, peer::Told::Parts(id)) => {
                self.hint(id);
                self.add_of(id);
            }
            site_pair::Told::Peer(_, peer::Told::Failover(name)) => self.add_selected(&name),
        }
    }

    /// The other site stands still, or began to move again.
    fn suspect(&self, pair: &str) {
        let (Some(object), Some(access)) = (self.own.pair(pair), self.links.witness(pair)) else {
            return;
        };
        let enough = object.spec.failover.detect_after.length();
        // Before that nothing can follow from it.
        if access
            .peer_stillness()
            .is_some_and(|age| age + Duration::from_millis(100) < enough)
        {
            return;
        }
        for key in volume::at_peer(self, &access, pair) {
            self.add_key(key);
        }
    }

    /// Volumes that are open on a node which gives no sign of life, and what its agent said: nothing else tells that it stays silent.
    pub fn suspect_nodes(&self) {
        let open = |one: &Attachment| !one.spec.mode.is_one_shot();
        let mut silent = HashMap::new();
        for one in self.own.attachments.store.state() {
            let node = one.spec.node.as_str();
            let is_silent = *silent
                .entry(node.to_owned())
                .or_insert_with(|| self.own.node_silence(node).is_some());
            if is_silent && open(&one) {
                self.add_of(one.spec.volume);
            }
        }
        for node in node::wanting(self) {
            self.queue.add(Key::Node(node));
        }
    }

    fn add_of(&self, id: VolumeId) {
        match self.own.volume_of(id) {
            Some(key) => self.add_key(key),
            None => self.queue.add(Key::Orphan(id)),
        }
    }

    /// The volume that has this register for itself, or what is left of a group. Once nothing is, the register is forgotten with the
    /// volume that its id would be of.
    fn add_left(&self, register: GroupId) {
        let id = VolumeId::from_bytes(register.0);
        if self.own.volume_of(id).is_none() {
            let of_group = Some(twinsite_api::GroupId::Group(register.0));
            let mut legs = self.own.legs.store.state();
            legs.retain(|leg| leg.spec.group == of_group);
            if !legs.is_empty() {
                return legs.iter().for_each(|leg| self.add_of(leg.spec.volume));
            }
        }
        self.add_of(id);
    }

    /// Legs and PersistentVolumes of volumes whose object is gone.
    fn add_remains(&self) {
        let legs = self.own.legs.store.state();
        let volumes = self.own.persistent_volumes.store.state();
        let of_legs = legs.iter().map(|leg| leg.spec.volume);
        let of_volumes = volumes
            .iter()
            .filter_map(|volume| volume.name_any().parse().ok());
        for id in of_legs.chain(of_volumes) {
            if self.own.volume_of(id).is_none() {
                self.queue.add(Key::Orphan(id));
            }
        }
    }

    /// Events on objects of which not everything can be read, by the replica that leads.
    pub fn tell_of_odd_objects(&self) {
        let leads = self
            .leading
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some();
        if leads {
            self.own
                .odd_news()
                .into_iter()
                .for_each(|news| self.events.tell(news));
        }
    }

    fn told(&self) -> MutexGuard<'_, HashMap<VolumeKey, Instant>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the status of a volume was written within this time.
    pub fn told_lately(&self, key: &VolumeKey, within: Duration) -> bool {
        self.told().get(key).is_some_and(|at| at.elapsed() < within)
    }

    /// The status of a volume was written.
    pub fn told_now(&self, key: VolumeKey) {
        self.told().insert(key, Instant::now());
    }

    /// A volume is gone.
    pub fn told_never(&self, key: &VolumeKey) {
        self.told().remove(key);
    }

    /// Whether a party of the pair has not spoken yet since this replica leads: a status that says so would only be
    /// taken back a moment later.
    pub fn is_gathering(&self, pair: &str, id: twinsite_api::GroupId) -> bool {
        let leading = *self.leading.lock().unwrap_or_else(PoisonError::into_inner);
        if leading.is_none_or(|since| since.elapsed() >= GATHERING) {
            return false;
        }
        let Some(parties) = self.links.parties(pair) else {
            return false;
        };
        let witness = parties.witness.is_ok_and(|access| {
            let silent = access.link().silent.is_some() || access.link().refused.is_some();
            let refused = matches!(access.claim(), witness::Claim::Refused(_));
            !silent && !refused && access.reading(GroupId(id.bytes())).is_none()
        });
        let peer = parties.peer.is_ok_and(|peer| {
            peer.is_some_and(|peer| {
                let link = peer.link();
                !link.answers && link.why.is_none()
            })
        });
        witness || peer
    }

    fn add_volumes(&self, wanted: impl Fn(&MirroredVolume) -> bool) {
        for volume in self.own.volumes.store.state() {
            if wanted(&volume) {
                self.add_volume(&volume);
            }
        }
    }

    /// Volumes that an order of either cluster names.
    fn add_selected(&self, order: &str) {
        let mine = self.own.failovers.store.get(&ObjectRef::new(order));
        match mine {
            Some(order) => self.add_volumes(|volume| crate::failover::selects(&order, volume)),
            // It is the peer's, or gone: rare enough to look at all.
            None => self.add_volumes(|_| true),
        }
        self.queue.add(Key::Failover(order.to_owned()));
    }

    /// An agent, here or at the peer, shows a later register than the one that was read last, or nobody holds the volume open
    /// that the register says is held: read it now.
    fn hint(&self, id: VolumeId) {
        let Some(volume) = self.own.volume_of(id).and_then(|key| self.own.volume(&key)) else {
            return;
        };
        let Some(access) = self.links.witness(&volume.spec.site_pair) else {
            return;
        };
        let group = GroupId(self.own.register_of(&volume).bytes());
        let Some(witness::Content::Register(read)) =
            access.reading(group).map(|reading| reading.content)
        else {
            return access.hurry(group);
        };
        if read.state == State::Creating {
            // Its birth goes on, and nothing else tells when it is over.
            return access.hurry(group);
        }
        let shown = volume::open_attachments(self, &volume.spec.site_pair, id);
        let held = read.holder.map(|key| key.to_string());
        let is_later = |view: &RegisterView| {
            let (seen, known) = (
                (view.active_site.seq, view.epoch),
                (read.active.seq, read.epoch.0),
            );
            seen > known || (seen == known && view.holder != held)
        };
        let views = shown
            .iter()
            .filter_map(|one| one.status.as_ref()?.register.as_ref());
        if views.into_iter().any(is_later) || (shown.is_empty() && held.is_some()) {
            access.hurry(group);
        }
    }
}
