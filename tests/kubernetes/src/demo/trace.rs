//! What the objects of both clusters went through, with the time at which this process was told.
//!
//! One watch per kind and cluster, each for as long as the [`Trace`] lives; a cluster that dies is watched again once it is
//! back. A change of state is kept once. What follows from them is told by [`super::parts`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;
use twinsite_api::{Attachment, AttachmentMode, MirroredVolume, MoveMode};

use crate::site::Site;

/// More than any run has: what comes later is not kept.
const MOST: usize = 50_000;

/// An object came into a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Milliseconds since 1970.
    pub at: i64,
    pub site: String,
    /// `pod`, `writer`, `caretaker`, `volumeattachment`, `workload`, `in use`, `move`, `leaving`, `awaited`.
    pub object: String,
    pub state: String,
}

/// The watches.
#[derive(Debug)]
pub struct Trace {
    book: Arc<Mutex<Book>>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Book {
    seen: Vec<Seen>,
    /// By site, object and uid or node.
    last: HashMap<(String, String, String), String>,
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Trace {
    /// Begins to watch the objects of one namespace, and those of none, at these sites.
    ///
    /// # Errors
    /// A cluster's kubeconfig leads nowhere.
    pub async fn start(sites: &[&Site], namespace: &str) -> Result<Self> {
        let mut trace = Self {
            book: Arc::default(),
            tasks: Vec::new(),
        };
        for site in sites {
            let client = site.plane().client().await?;
            let inside = || client.clone();
            trace.watch(site, Api::<Pod>::namespaced(inside(), namespace), pod);
            trace.watch(
                site,
                Api::<StatefulSet>::namespaced(inside(), namespace),
                workload,
            );
            trace.watch(
                site,
                Api::<MirroredVolume>::namespaced(inside(), namespace),
                volume,
            );
            trace.watch(site, Api::<Attachment>::all(inside()), attachment);
            trace.watch(
                site,
                Api::<VolumeAttachment>::all(inside()),
                volume_attachment,
            );
            trace.watch(site, Api::<Node>::all(inside()), node);
        }
        Ok(trace)
    }

    fn watch<K>(&mut self, site: &Site, api: Api<K>, states: fn(&K) -> Vec<State>)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
        Api<K>: Clone,
    {
        let (book, site) = (Arc::clone(&self.book), site.name.clone());
        self.tasks.push(tokio::spawn(async move {
            let events = watcher(api, watcher::Config::default()).default_backoff();
            let mut events = std::pin::pin!(events);
            while let Some(event) = events.next().await {
                let (object, gone) = match event {
                    Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                        (object, false)
                    }
                    Ok(watcher::Event::Delete(object)) => (object, true),
                    Ok(_) | Err(_) => continue,
                };
                let uid = object.uid().unwrap_or_default();
                let mut book = locked(&book);
                for state in states(&object) {
                    let word = if gone { "gone" } else { &state.word };
                    book.enter(&site, &state.object, &uid, word);
                }
            }
        }));
    }

    /// All that was seen since then.
    #[must_use]
    pub fn since(&self, at: i64) -> Vec<Seen> {
        let book = locked(&self.book);
        let later = book.seen.iter().filter(|seen| seen.at >= at);
        later.cloned().collect()
    }
}

fn locked(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    fn enter(&mut self, site: &str, object: &str, uid: &str, state: &str) {
        let key = (site.to_owned(), object.to_owned(), uid.to_owned());
        let before = self.last.insert(key, state.to_owned());
        if before.as_deref() != Some(state) && self.seen.len() < MOST {
            self.seen.push(Seen {
                at: now_ms(),
                site: site.to_owned(),
                object: object.to_owned(),
                state: state.to_owned(),
            });
        }
    }
}

/// Milliseconds since 1970.
#[must_use]
pub fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(0))
}

/// An instant of this process in milliseconds since 1970.
#[must_use]
pub fn ms_of(at: Instant) -> i64 {
    let ago = at.elapsed().as_millis();
    now_ms() - i64::try_from(ago).unwrap_or(0)
}

struct State {
    object: String,
    word: String,
}

fn one(object: &str, word: impl Into<String>) -> Vec<State> {
    vec![State {
        object: object.to_owned(),
        word: word.into(),
    }]
}

fn pod(pod: &Pod) -> Vec<State> {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_ref());
    let running = containers
        .and_then(|all| all.first()?.state.as_ref()?.running.as_ref())
        .is_some();
    let placed = pod
        .spec
        .as_ref()
        .is_some_and(|spec| spec.node_name.is_some());
    let word = match (pod.metadata.deletion_timestamp.is_some(), running, placed) {
        (true, true, _) => "ending",
        (true, false, _) => "ended",
        (false, true, _) => "runs",
        (false, false, true) => "placed",
        (false, false, false) => "made",
    };
    one("pod", word)
}

fn workload(set: &StatefulSet) -> Vec<State> {
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas);
    one("workload", replicas.unwrap_or(0).to_string())
}

fn volume(volume: &MirroredVolume) -> Vec<State> {
    let Some(status) = &volume.status else {
        return Vec::new();
    };
    let order = status.move_.as_ref().map_or("none", |order| {
        if order.mode == MoveMode::Planned {
            "planned"
        } else {
            "failover"
        }
    });
    let leaving =
        status.leaving.as_ref().map_or(
            "no",
            |leaving| {
                if leaving.down { "down" } else { "announced" }
            },
        );
    let awaited = status.awaited.as_ref().map_or("no", |_| "yes");
    [("move", order), ("leaving", leaving), ("awaited", awaited)]
        .into_iter()
        .flat_map(|(object, word)| one(object, word))
        .collect()
}

fn attachment(attachment: &Attachment) -> Vec<State> {
    let object = match attachment.spec.mode {
        AttachmentMode::Writer => "writer",
        AttachmentMode::Caretaker => "caretaker",
        _ => return Vec::new(),
    };
    let Some(status) = &attachment.status else {
        return one(object, "made");
    };
    let mut word = format!("{:?}", status.state);
    if let Some(reason) = &status.reason {
        word = format!("{word} {reason}");
    }
    one(object, word)
}

fn volume_attachment(one_of: &VolumeAttachment) -> Vec<State> {
    let attached = one_of.status.as_ref().is_some_and(|status| status.attached);
    let word = match (one_of.metadata.deletion_timestamp.is_some(), attached) {
        (true, _) => "going",
        (false, true) => "attached",
        (false, false) => "made",
    };
    one("volumeattachment", word)
}

fn node(node: &Node) -> Vec<State> {
    let used = node
        .status
        .as_ref()
        .and_then(|status| status.volumes_in_use.as_ref());
    let used = used.is_some_and(|used| used.iter().any(|name| name.contains("csi.twinsite.io")));
    one("in use", if used { "yes" } else { "no" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_lasts_is_kept_once() {
        let mut book = Book::default();
        for state in ["placed", "placed", "runs", "runs", "gone"] {
            book.enter("medical", "pod", "uid", state);
        }
        book.enter("medical", "pod", "another", "placed");
        let states: Vec<&str> = book.seen.iter().map(|seen| seen.state.as_str()).collect();
        assert_eq!(states, ["placed", "runs", "gone", "placed"]);
    }
}
