//! The other site's cluster, read and never written: its `twinsite.io` objects, and whether it answers.
//!
//! ```text
//!            probe each 5 s (GET of the SitePair, 3 s)
//! silent ──answer──► gathering (watches list) ──complete──► answers ──2 failed probes──► silent
//! ```
//! Invariants: nothing here blocks anything of this cluster; what the peer showed last is kept while it is silent, and is
//! marked so. A watch whose connection died unseen is given up with the second failed probe and made anew after the next
//! answer, and one that fails for a while although the probes are answered makes the peer silent, too, so that no old view is taken for a
//! present one for longer than [`SILENCE`].
//! Not here: who provides the Secret (`shell::secrets`), what the objects mean (the planners).

mod kubeconfig;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{reflector::ObjectRef, watcher},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use twinsite_api::{
    Attachment, Failover, Leg, MirrorGroup, MirroredVolume, Seen, SitePair, VolumeId,
};

use crate::shell::{
    odd::Odd,
    watch::{Change, Copy, copy},
};
pub use kubeconfig::{Kubeconfig, KubeconfigError};

const PROBE: Duration = Duration::from_secs(5);
const PROBE_SILENT: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(3);
/// Failed probes in a row that make the peer silent.
const FAILURES: u32 = 2;
/// How long the watch of a kind may fail while the peer answers otherwise, as one does that took a right away.
const STALE: Duration = Duration::from_secs(10);
/// For how long a peer that went away may still count as answering.
pub const SILENCE: Duration = Duration::from_secs(16);

/// What changed at the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Whether it answers, or its SitePair, or anything.
    Pair,
    Volume {
        namespace: String,
        name: String,
    },
    Group {
        namespace: String,
        name: String,
    },
    /// A Leg or Attachment of this volume.
    Parts(VolumeId),
    Failover(String),
}

/// Called with every change; must not block.
pub type Tell = Arc<dyn Fn(Told) + Send + Sync>;

/// Copies of the peer's objects.
pub struct View {
    pair: Copy<SitePair>,
    volumes: Copy<MirroredVolume>,
    groups: Copy<MirrorGroup>,
    legs: Copy<Leg>,
    attachments: Copy<Attachment>,
    failovers: Copy<Failover>,
}

impl View {
    fn start(client: &Client, pair: &str, tell: &Tell) -> Self {
        let of_pair = || watcher::Config::default().fields(&format!("spec.sitePair={pair}"));
        let named = watcher::Config::default().fields(&format!("metadata.name={pair}"));
        let (for_pair, for_volumes, for_groups, for_legs, for_attachments, for_failovers) = (
            Arc::clone(tell),
            Arc::clone(tell),
            Arc::clone(tell),
            Arc::clone(tell),
            Arc::clone(tell),
            Arc::clone(tell),
        );
        Self {
            pair: copy(Api::all(client.clone()), named, move |change, _, _| {
                if change != Change::Listed {
                    for_pair(Told::Pair);
                }
            }),
            volumes: copy(
                Api::all(client.clone()),
                of_pair(),
                move |_, volume: Option<&MirroredVolume>, _| {
                    if let Some(volume) = volume {
                        for_volumes(Told::Volume {
                            namespace: volume.namespace().unwrap_or_default(),
                            name: volume.name_any(),
                        });
                    }
                },
            ),
            // Of every pair: an API server whose definition is older offers no selector, and answers none with an error.
            groups: copy(
                Api::all(client.clone()),
                watcher::Config::default(),
                move |_, group: Option<&MirrorGroup>, _| {
                    if let Some(group) = group {
                        for_groups(Told::Group {
                            namespace: group.namespace().unwrap_or_default(),
                            name: group.name_any(),
                        });
                    }
                },
            ),
            legs: copy(
                Api::all(client.clone()),
                watcher::Config::default(),
                move |_, leg: Option<&Leg>, _| {
                    if let Some(leg) = leg {
                        for_legs(Told::Parts(leg.spec.volume));
                    }
                },
            ),
            attachments: copy(
                Api::all(client.clone()),
                watcher::Config::default(),
                move |_, attachment: Option<&Attachment>, _| {
                    if let Some(attachment) = attachment {
                        for_attachments(Told::Parts(attachment.spec.volume));
                    }
                },
            ),
            failovers: copy(
                Api::all(client.clone()),
                watcher::Config::default(),
                move |_, failover: Option<&Failover>, _| {
                    if let Some(failover) = failover {
                        for_failovers(Told::Failover(failover.name_any()));
                    }
                },
            ),
        }
    }

    fn is_complete(&self) -> bool {
        self.pair.sync.is_complete()
            && self.volumes.sync.is_complete()
            && self.groups.sync.is_complete()
            && self.legs.sync.is_complete()
            && self.attachments.sync.is_complete()
            && self.failovers.sync.is_complete()
    }

    fn failing(&self) -> impl Iterator<Item = (Duration, String)> {
        [
            self.pair.sync.failing(),
            self.volumes.sync.failing(),
            self.groups.sync.failing(),
            self.legs.sync.failing(),
            self.attachments.sync.failing(),
            self.failovers.sync.failing(),
        ]
        .into_iter()
        .flatten()
    }

    /// Why it does not become complete.
    fn trouble(&self) -> Option<String> {
        self.failing().map(|(_, why)| why).next()
    }

    /// Why a part of it is not what the peer has now.
    fn stale(&self) -> Option<String> {
        let mut failing = self.failing();
        failing
            .find(|(since, _)| *since >= STALE)
            .map(|(_, why)| why)
    }

    fn stop(&self) {
        self.pair.stop();
        self.volumes.stop();
        self.groups.stop();
        self.legs.stop();
        self.attachments.stop();
        self.failovers.stop();
    }

    pub fn pair(&self) -> Option<Arc<SitePair>> {
        self.pair.store.state().into_iter().next()
    }

    pub fn volume(&self, namespace: &str, name: &str) -> Option<Arc<MirroredVolume>> {
        self.volumes
            .store
            .get(&ObjectRef::new(name).within(namespace))
    }

    /// `None` also of one that cannot be read.
    pub fn group(&self, namespace: &str, name: &str) -> Option<Arc<MirrorGroup>> {
        if self.groups.odd.unreadable(namespace, name).is_some() {
            return None;
        }
        self.groups
            .store
            .get(&ObjectRef::new(name).within(namespace))
    }

    pub fn leg(&self, name: &str) -> Option<Arc<Leg>> {
        self.legs.store.get(&ObjectRef::new(name))
    }

    pub fn attachment(&self, name: &str) -> Option<Arc<Attachment>> {
        self.attachments.store.get(&ObjectRef::new(name))
    }

    pub fn failovers(&self) -> Vec<Arc<Failover>> {
        self.failovers.store.state()
    }

    /// An order of which not everything is understood is carried out by nobody.
    pub fn understands(&self, failover: &Failover) -> bool {
        let name = failover.name_any();
        let odd = &self.failovers.odd;
        odd.unknown("", &name).is_none() && odd.unreadable("", &name).is_none()
    }

    /// Why the pair, this volume or these parts of it cannot be read there: what is shown of them is how they were.
    pub fn unreadable(
        &self,
        (namespace, name): (&str, &str),
        legs: &[String],
        attachments: &[String],
    ) -> Option<String> {
        let pair = self.pair().map(|pair| pair.name_any()).unwrap_or_default();
        let of = |odd: &Odd, names: &[String]| {
            let mut names = names.iter();
            names.find_map(|name| odd.unreadable("", name))
        };
        self.volumes
            .odd
            .unreadable(namespace, name)
            .or_else(|| self.pair.odd.unreadable("", &pair))
            .or_else(|| of(&self.legs.odd, legs))
            .or_else(|| of(&self.attachments.odd, attachments))
    }
}

/// Whether the peer answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// It answers, and what is shown of it is complete.
    pub answers: bool,
    /// When it answered last.
    pub last: Option<Timestamp>,
    /// What happened, if it does not answer.
    pub why: Option<String>,
}

/// The peer's cluster of one pair, for as long as it lives.
pub struct Peer {
    inner: Arc<Mutex<Inner>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Inner {
    link: Link,
    shown: Option<Arc<View>>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peer({:?})", self.link())
    }
}

impl Peer {
    /// Begins to read the peer.
    pub fn start(client: Client, pair: &str, tell: Tell) -> Self {
        let inner = Arc::new(Mutex::new(Inner::default()));
        let task = tokio::spawn(follow(client, pair.to_owned(), Arc::clone(&inner), tell));
        Self { inner, task }
    }

    pub fn link(&self) -> Link {
        locked(&self.inner).link.clone()
    }

    /// What it shows, or showed last.
    pub fn view(&self) -> Option<Arc<View>> {
        locked(&self.inner).shown.clone()
    }
}

fn locked(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn follow(client: Client, pair: String, inner: Arc<Mutex<Inner>>, tell: Tell) {
    let api: Api<Seen<SitePair>> = Api::all(client.clone());
    let mut gathering: Option<View> = None;
    let mut failures = 0;
    loop {
        let answer = match timeout(ANSWER, api.get_opt(&pair)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer in {} s", ANSWER.as_secs())),
        };
        match answer {
            Ok(()) => {
                failures = 0;
                locked(&inner).link.last = Some(Timestamp::now());
                if !locked(&inner).link.answers {
                    gather(&mut gathering, &client, &pair, &inner, &tell).await;
                } else if let Some(why) = stale(&inner) {
                    silence(&inner, why, &pair, &tell);
                }
            }
            Err(why) => {
                failures += 1;
                if failures >= FAILURES || gathering.is_some() || locked(&inner).shown.is_none() {
                    gathering = None;
                    silence(&inner, why, &pair, &tell);
                }
            }
        }
        let answers = locked(&inner).link.answers;
        let first_failure = failures == 1;
        sleep(if answers && !first_failure {
            PROBE
        } else {
            PROBE_SILENT
        })
        .await;
    }
}

fn stale(inner: &Mutex<Inner>) -> Option<String> {
    let shown = locked(inner).shown.clone();
    shown?.stale()
}

/// Waits for a while until all copies are complete; if they are, they are shown.
async fn gather(
    gathering: &mut Option<View>,
    client: &Client,
    pair: &str,
    inner: &Mutex<Inner>,
    tell: &Tell,
) {
    const STEP: Duration = Duration::from_millis(50);
    let view = gathering.get_or_insert_with(|| View::start(client, pair, tell));
    let deadline = Instant::now() + PROBE;
    while !view.is_complete() && Instant::now() < deadline {
        sleep(STEP).await;
    }
    if !view.is_complete() {
        let why = view
            .trouble()
            .unwrap_or_else(|| "its objects are still being listed".to_owned());
        let news = {
            let mut inner = locked(inner);
            inner.link.why.replace(why.clone()).as_ref() != Some(&why)
        };
        if news {
            tell(Told::Pair);
        }
        return;
    }
    {
        let mut inner = locked(inner);
        inner.shown = gathering.take().map(Arc::new);
        inner.link.answers = true;
        inner.link.why = None;
    }
    tracing::info!(pair, "the peer's cluster answers");
    tell(Told::Pair);
}

fn silence(inner: &Mutex<Inner>, why: String, pair: &str, tell: &Tell) {
    let (was, known) = {
        let mut inner = locked(inner);
        if let Some(shown) = &inner.shown {
            shown.stop();
        }
        let was = std::mem::take(&mut inner.link.answers);
        (was, inner.link.why.replace(why.clone()).is_some())
    };
    if was || !known {
        tracing::warn!(
            pair,
            why,
            "the peer's cluster does not answer: the site goes on without it"
        );
        tell(Told::Pair);
    }
}

#[cfg(test)]
mod tests;
