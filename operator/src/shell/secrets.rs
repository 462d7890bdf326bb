//! The Secrets that SitePairs name, each watched by its name alone: rotation needs no restart, and the operator needs no
//! right to list Secrets.
//!
//! Not here: what stands in them (`peer`, `witness`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt as _, watcher::watch_object},
};
use tokio::task::JoinHandle;

use super::patience::Patience;

const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// The data of a Secret.
pub type Data = BTreeMap<String, Vec<u8>>;

/// What is known of a Secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Known {
    /// The API server has not answered yet.
    Unknown,
    Absent,
    Present(Arc<Data>),
}

// What stands in it stays out of logs.
impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "Unknown",
            Self::Absent => "Absent",
            Self::Present(_) => "Present(..)",
        })
    }
}

type Tell = Arc<dyn Fn(&str) + Send + Sync>;
type Shared = Arc<Mutex<BTreeMap<String, Known>>>;

/// Secrets of the release namespace.
pub struct Secrets {
    api: Api<Secret>,
    /// Called with the name of a Secret that changed.
    tell: Tell,
    known: Shared,
    tasks: Mutex<BTreeMap<String, JoinHandle<()>>>,
}

impl Secrets {
    pub fn new(client: Client, namespace: &str, tell: Tell) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            tell,
            known: Arc::default(),
            tasks: Mutex::default(),
        }
    }

    /// What is known of a Secret; it is watched from now on.
    pub fn get(&self, name: &str) -> Known {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if !tasks.contains_key(name) {
            let watch = follow(
                self.api.clone(),
                name.to_owned(),
                Arc::clone(&self.known),
                Arc::clone(&self.tell),
            );
            tasks.insert(name.to_owned(), tokio::spawn(watch));
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(name).cloned().unwrap_or(Known::Unknown)
    }

    /// Watches nothing but these.
    pub fn keep(&self, names: &BTreeSet<String>) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|name, task| {
            let wanted = names.contains(name);
            if !wanted {
                task.abort();
            }
            wanted
        });
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|name, _| names.contains(name));
    }
}

impl Drop for Secrets {
    fn drop(&mut self) {
        let tasks = self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner);
        tasks.values().for_each(JoinHandle::abort);
    }
}

async fn follow(api: Api<Secret>, name: String, known: Shared, tell: Tell) {
    let stream = watch_object(api, &name).backoff(Patience::new(BACKOFF.0, BACKOFF.1));
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        let now = match event {
            Ok(Some(secret)) => {
                let data = secret.data.unwrap_or_default();
                Known::Present(Arc::new(
                    data.into_iter()
                        .map(|(key, value)| (key, value.0))
                        .collect(),
                ))
            }
            Ok(None) => Known::Absent,
            // What was known stays: an API server that is away takes no Secret away.
            Err(error) => {
                tracing::debug!(secret = name, %error, "the Secret cannot be watched");
                continue;
            }
        };
        let changed = {
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(name.clone(), now.clone()).as_ref() != Some(&now)
        };
        if changed {
            tell(&name);
        }
    }
}
