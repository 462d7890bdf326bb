//! Events (events.k8s.io) for changes, by a writer of its own: reconciling never waits for them.
//!
//! Invariants: at most [`BACKLOG`] events wait; one more is dropped and counted. A failed write is not repeated: an event is
//! news, the state stands in the status.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::sync::mpsc;

use crate::shell::watch::within;

const BACKLOG: usize = 1024;
const LONGEST_NOTE: usize = 1024;
const CONTROLLER: &str = "twinsite.io/operator";

/// Whether an event is good or bad news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Normal,
    Warning,
}

/// One piece of news about an object.
#[derive(Clone, Debug, PartialEq)]
pub struct News {
    pub regarding: ObjectReference,
    pub tone: Tone,
    /// CamelCase, as in conditions.
    pub reason: String,
    pub note: String,
}

/// A copy may be a moment behind what was just written: the same news within this time is no news.
const SAME: Duration = Duration::from_secs(3);
/// How much of what was told is remembered for that.
const REMEMBERED: usize = 256;

/// Where news goes.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<News>,
    lately: Arc<Mutex<VecDeque<(Instant, News)>>>,
}

impl Events {
    /// Starts the writer.
    pub fn start(client: Client, instance: String) -> Self {
        let (queue, mut news) = mpsc::channel::<News>(BACKLOG);
        tokio::spawn(async move {
            let mut number = 0u32;
            while let Some(one) = news.recv().await {
                number = number.wrapping_add(1);
                let namespace = namespace_of(&one.regarding);
                let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
                let event = written(one, &instance, namespace, number, Timestamp::now());
                if let Err(error) = within(events.create(&PostParams::default(), &event)).await {
                    tracing::debug!(%error, "an event could not be written");
                }
            }
        });
        Self {
            queue,
            lately: Arc::default(),
        }
    }

    /// Tells, or drops if too much waits already.
    pub fn tell(&self, news: News) {
        if !self.is_new(&news) {
            return;
        }
        tracing::info!(
            kind = news.regarding.kind,
            namespace = news.regarding.namespace,
            name = news.regarding.name,
            reason = news.reason,
            "{}",
            news.note
        );
        if self.queue.try_send(news).is_err() {
            tracing::warn!("too many events wait for the API server: one is dropped");
        }
    }
}

impl Events {
    fn is_new(&self, news: &News) -> bool {
        let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        while lately.front().is_some_and(|(at, _)| at.elapsed() >= SAME)
            || lately.len() >= REMEMBERED
        {
            lately.pop_front();
        }
        let known = lately.iter().any(|(_, told)| told == news);
        if !known {
            lately.push_back((Instant::now(), news.clone()));
        }
        !known
    }
}

fn namespace_of(reference: &ObjectReference) -> String {
    // Events about cluster-scoped objects live in default, by convention of Kubernetes.
    reference
        .namespace
        .clone()
        .unwrap_or_else(|| "default".to_owned())
}

fn written(news: News, instance: &str, namespace: String, number: u32, now: Timestamp) -> Event {
    let name = news.regarding.name.as_deref().unwrap_or("twinsite");
    Event {
        action: Some("Reconcile".to_owned()),
        event_time: Some(MicroTime(now)),
        metadata: ObjectMeta {
            namespace: Some(namespace),
            name: Some(format!(
                "{}.{:x}{number:04x}",
                name.chars().take(200).collect::<String>(),
                now.as_microsecond()
            )),
            ..ObjectMeta::default()
        },
        note: Some(news.note[..news.note.floor_char_boundary(LONGEST_NOTE)].to_owned()),
        reason: Some(news.reason),
        regarding: Some(news.regarding),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        type_: Some(
            match news.tone {
                Tone::Normal => "Normal",
                Tone::Warning => "Warning",
            }
            .to_owned(),
        ),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_note_is_cut_and_a_cluster_scoped_object_has_its_events_in_default() {
        let regarding = ObjectReference {
            kind: Some("SitePair".to_owned()),
            name: Some("ctrc".to_owned()),
            ..ObjectReference::default()
        };
        let news = News {
            regarding: regarding.clone(),
            tone: Tone::Warning,
            reason: "ClaimedByAnother".to_owned(),
            note: "ä".repeat(3000) + "a",
        };
        let event = written(
            news,
            "pod-1",
            namespace_of(&regarding),
            7,
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(event.note.unwrap().len(), 1024);
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(event.metadata.name.as_deref(), Some("ctrc.00007"));
        assert_eq!(event.type_.as_deref(), Some("Warning"));
    }
}
