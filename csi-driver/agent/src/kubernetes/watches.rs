//! Watches that never give up: what the API server shows, and whether it answers, as events of one queue.
//!
//! A watch that breaks is begun again after [`FIRST`], then twice as long each time up to [`LAST`]. One over which
//! nothing comes, not even a bookmark, is taken for dead after [`SILENCE`]. A full queue holds the watch back.

use std::{collections::BTreeMap, pin::pin, time::Duration};

use futures::StreamExt as _;
use kube::{
    Api, Client,
    api::DynamicObject,
    runtime::{
        WatchStreamExt as _,
        utils::Backoff,
        watcher::{self, Event, watcher},
    },
};
use tokio::{sync::mpsc, task::JoinHandle};
use twinsite_api::told;

use super::{cache::Source, kinds::Kind};

const FIRST: Duration = Duration::from_millis(250);
const LAST: Duration = Duration::from_secs(5);
/// Seconds of one watch call; the client gives a dead connection five more.
const SILENCE: u32 = 30;

/// What a watch tells.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) source: Source,
    pub(crate) what: Result<Event<DynamicObject>, String>,
}

impl Heard {
    /// The API server has said something: a new list begins before its first answer.
    pub(crate) const fn is_answer(&self) -> bool {
        !matches!(self.what, Err(_) | Ok(Event::Init))
    }
}

/// The watches of a node.
pub(crate) struct Watches {
    client: Client,
    namespace: String,
    node: String,
    sender: mpsc::Sender<Heard>,
    running: BTreeMap<Source, JoinHandle<()>>,
}

impl Watches {
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        node: &str,
        sender: mpsc::Sender<Heard>,
    ) -> Self {
        let mut watches = Self {
            client,
            namespace: namespace.to_owned(),
            node: node.to_owned(),
            sender,
            running: BTreeMap::new(),
        };
        for kind in [
            Kind::SitePair,
            Kind::StoragePool,
            Kind::Leg,
            Kind::Attachment,
        ] {
            watches.begin(Source::All(kind));
        }
        watches
    }

    /// Watches exactly these Secrets, each by its name: no list of all of them is ever asked for.
    pub(crate) fn set_secrets(&mut self, names: &std::collections::BTreeSet<String>) {
        self.running.retain(|source, task| match source {
            Source::Secret(name) if !names.contains(name) => {
                task.abort();
                false
            }
            Source::Secret(_) | Source::All(_) => true,
        });
        for name in names {
            self.begin(Source::Secret(name.clone()));
        }
    }

    fn begin(&mut self, source: Source) {
        if self.running.contains_key(&source) {
            return;
        }
        let config = watcher::Config::default().timeout(SILENCE);
        let (api, config) = match &source {
            Source::Secret(name) => (
                Api::namespaced_with(
                    self.client.clone(),
                    &self.namespace,
                    &Kind::Secret.resource(),
                ),
                config.fields(&format!("metadata.name={name}")),
            ),
            Source::All(kind) => {
                let api = Api::all_with(self.client.clone(), &kind.resource());
                match kind {
                    Kind::Leg | Kind::Attachment => {
                        (api, config.fields(&format!("spec.node={}", self.node)))
                    }
                    Kind::SitePair | Kind::StoragePool | Kind::Secret => (api, config),
                }
            }
        };
        let task = tokio::spawn(watch(api, config, source.clone(), self.sender.clone()));
        self.running.insert(source, task);
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.running.values().for_each(JoinHandle::abort);
    }
}

async fn watch(
    api: Api<DynamicObject>,
    config: watcher::Config,
    source: Source,
    sender: mpsc::Sender<Heard>,
) {
    let mut events = pin!(watcher(api, config).backoff(Doubling::default()));
    while let Some(event) = events.next().await {
        let heard = Heard {
            source: source.clone(),
            what: event.map_err(|error| told(&error)),
        };
        if sender.send(heard).await.is_err() {
            return;
        }
    }
}

/// Waits without an end.
#[derive(Debug, Default)]
struct Doubling(u32);

impl Iterator for Doubling {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = FIRST * 2u32.pow(self.0.min(8));
        self.0 = self.0.saturating_add(1);
        Some(wait.min(LAST))
    }
}

impl Backoff for Doubling {
    fn reset(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_only_begins_is_no_answer() {
        for (what, is_answer) in [
            (Err("refused".to_owned()), false),
            (Ok(Event::Init), false),
            (Ok(Event::InitDone), true),
        ] {
            let source = Source::All(Kind::Leg);
            assert_eq!(Heard { source, what }.is_answer(), is_answer);
        }
    }

    #[test]
    fn waits_grow_to_their_bound_and_never_end() {
        let mut waits = Doubling::default();
        let first: Vec<u128> = waits
            .by_ref()
            .take(7)
            .map(|wait| wait.as_millis())
            .collect();
        assert_eq!(first, [250, 500, 1000, 2000, 4000, 5000, 5000]);
        assert_eq!(waits.nth(10_000), Some(LAST));
        waits.reset();
        assert_eq!(waits.next(), Some(FIRST));
    }
}
