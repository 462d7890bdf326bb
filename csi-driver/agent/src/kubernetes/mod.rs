//! The bridge between a node and its cluster: objects come down as files, statuses go up, finalizers come off.
//!
//! ```text
//! API server ── watches ──► cache ──► files of the objects' folder ──► node (control)
//!      ▲                                                                  │
//!      └────── server-side apply on /status, finalizers ◄──── board ◄─────┘
//! ```
//! The node works from the folder and from nothing else, so it runs for hours without an API server, and starts without
//! one. The bridge decides nothing about volumes: an object in the folder is an order, one that is taken out is the
//! order to let go.
//!
//! What it needs in the cluster: get, list, watch on sitepairs, storagepools, legs, attachments; patch on legs and
//! attachments; patch on the /status of storagepools, legs, attachments; get on the namespace kube-system; get, list and
//! watch on the Secrets that these name, each by its name, in the release namespace.
//!
//! Invariants: a finalizer goes only after the node has looked at the folder without the object and holds nothing of it
//! any more. At most [`MAX_REQUESTS`] requests are open, one per object.
//! Not here: what a node does (`control`), the witness in Kubernetes (`twinsite-witness`).

mod cache;
mod files;
mod identity;
mod kinds;
mod pace;
mod requests;
mod watches;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use kube::{
    Client, Config, ResourceExt as _,
    api::DynamicObject,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::watcher::Event,
};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::MissedTickBehavior,
};
use twinsite_api::{condition_type, reason};

use self::{
    cache::{Cache, Leaving, Source},
    files::Files,
    kinds::Kind,
    pace::Pace,
    requests::Failure,
    watches::{Heard, Watches},
};
use crate::{
    control::{
        board::{Label, Posted},
        node::Teller,
    },
    objects::Problem,
    status::now,
};

const MAX_REQUESTS: usize = 8;
const MAX_HEARD: usize = 256;
const TICK: Duration = Duration::from_millis(250);
/// How long the last statuses may take when the agent ends.
const FAREWELL: Duration = Duration::from_secs(3);

pub(crate) use identity::cluster;

/// How the cluster is reached: a kubeconfig, or the pod's own account.
///
/// # Errors
/// Neither can be used.
pub async fn config(kubeconfig: Option<&Path>) -> anyhow::Result<Config> {
    use anyhow::Context as _;
    let mut config = match kubeconfig {
        Some(path) => {
            let text = Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(text, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("the kubeconfig {} leads nowhere", path.display()))?
        }
        None => Config::incluster().context(
            "this is no pod of a cluster: run it as one, or give --kubeconfig, or run it without --kubernetes from a folder by --objects",
        )?,
    };
    config.connect_timeout = Some(requests::LIMIT);
    Ok(config)
}

/// Where the bridge stands.
#[derive(Clone, Debug)]
pub struct BridgeConfig {
    pub node: String,
    pub site: String,
    /// The release namespace, with the Secrets.
    pub namespace: String,
    pub objects: PathBuf,
}

/// The bridge of a node.
pub struct Bridge {
    client: Client,
    cache: Cache,
    files: Files,
    teller: Teller,
    posted: watch::Receiver<Posted>,
    heard: mpsc::Receiver<Heard>,
    watches: Watches,
    /// What the API server said last, per watch; empty: all is well.
    troubles: BTreeMap<Source, String>,
    paces: BTreeMap<Label, (String, Pace)>,
    /// Statuses of objects that the node cannot read.
    unreadable: BTreeMap<Label, Arc<Value>>,
    problems: Vec<Problem>,
    /// Objects on which somebody wrote that this agent is silent: their statuses go at once.
    called_silent: BTreeSet<Label>,
    /// The look after which an object without a file is untouched.
    let_go: BTreeMap<Label, u64>,
    looks: u64,
    requests: JoinSet<Ended>,
    busy: BTreeSet<Label>,
    /// Files that could not be written are tried again.
    behind: bool,
    started: Instant,
}

/// A request that has ended.
struct Ended {
    label: Label,
    status: Option<Arc<Value>>,
    result: Result<(), Failure>,
}

impl Bridge {
    /// Opens the folder and begins to watch. The node may look at the folder from now on.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub fn open(
        client: Client,
        config: &BridgeConfig,
        teller: Teller,
        posted: watch::Receiver<Posted>,
    ) -> io::Result<Self> {
        let (sender, heard) = mpsc::channel(MAX_HEARD);
        Ok(Self {
            cache: Cache::new(&config.node, &config.site),
            files: Files::open(&config.objects)?,
            watches: Watches::new(client.clone(), &config.namespace, &config.node, sender),
            client,
            teller,
            posted,
            heard,
            troubles: BTreeMap::new(),
            paces: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            problems: Vec::new(),
            called_silent: BTreeSet::new(),
            let_go: BTreeMap::new(),
            looks: 0,
            requests: JoinSet::new(),
            busy: BTreeSet::new(),
            behind: false,
            started: Instant::now(),
        })
    }

    /// Runs until `stop` becomes true; the last statuses are sent before it returns.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut deadline = None;
        loop {
            let mut changed = false;
            tokio::select! {
                Some(heard) = self.heard.recv() => changed = self.hear(heard),
                Some(ended) = self.requests.join_next() => self.ended(ended),
                Ok(()) = self.posted.changed() => {}
                _ = tick.tick() => changed = std::mem::take(&mut self.behind),
                result = stop.changed(), if deadline.is_none() => {
                    if result.is_err() || *stop.borrow() {
                        deadline = Some(Instant::now() + FAREWELL);
                    }
                }
            }
            while let Ok(heard) = self.heard.try_recv() {
                changed |= self.hear(heard);
            }
            if changed {
                // Doing may wait for a disk.
                tokio::task::block_in_place(|| self.write());
            }
            self.release();
            let idle = self.send(deadline.is_some());
            let over = |deadline: Instant| Instant::now() >= deadline;
            if deadline.is_some_and(|at| over(at) || (idle && self.requests.is_empty())) {
                return;
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Takes what a watch has told; says whether files may follow from it.
    fn hear(&mut self, heard: Heard) -> bool {
        let recovered = heard.is_answer() && self.troubles.remove(&heard.source).is_some();
        if recovered && self.troubles.is_empty() {
            tracing::info!("the API server answers again");
        }
        match heard.what {
            Ok(event) => {
                match called_silent(&heard.source, &event) {
                    Some((label, true)) => drop(self.called_silent.insert(label)),
                    Some((label, false)) => drop(self.called_silent.remove(&label)),
                    None => {}
                }
                self.cache.hear(heard.source, event)
            }
            Err(text) => {
                let before = self.troubles.insert(heard.source.clone(), text.clone());
                if before.is_none() {
                    tracing::warn!(source = ?heard.source, error = text, "the API server does not answer: going on with what is known");
                }
                false
            }
        }
    }

    /// Brings the folder up to what is known.
    fn write(&mut self) {
        if let Some(secrets) = self.cache.secrets() {
            self.watches.set_secrets(&secrets);
            self.cache.forget_secrets(&secrets);
        }
        let wanted = self.cache.files(self.files.on_disk());
        let (changed, result) = self.files.bring_to(&wanted);
        if let Err(error) = result {
            tracing::error!(%error, "the objects' folder cannot be written: it is tried again");
            self.behind = true;
        }
        let leaving = self.cache.leaving();
        let gone: BTreeSet<Label> = leaving
            .iter()
            .filter(|leaving| !self.files.contains(leaving.kind, &leaving.name))
            .map(Leaving::label)
            .collect();
        self.let_go.retain(|label, _| gone.contains(label));
        let news = gone.iter().any(|label| !self.let_go.contains_key(label));
        if changed || news {
            self.looks += 1;
            for label in gone {
                self.let_go.entry(label).or_insert(self.looks);
            }
            self.teller.look(self.looks);
        }
    }

    /// Takes the finalizer off objects that the node has let go of.
    fn release(&mut self) {
        let posted = self.posted.borrow_and_update().clone();
        for leaving in self.cache.leaving() {
            let label = leaving.label();
            let untouched = self
                .let_go
                .get(&label)
                .is_some_and(|look| posted.looked >= *look && !posted.held.contains(&label));
            if !untouched || !self.may_ask(&label) {
                continue;
            }
            self.busy.insert(label.clone());
            let client = self.client.clone();
            self.requests.spawn(async move {
                let result = requests::release(client, leaving).await;
                Ended {
                    label,
                    status: None,
                    result,
                }
            });
        }
        if posted.problems != self.problems {
            self.unreadable = unreadable(&posted.problems);
            self.problems = posted.problems;
        }
    }

    /// Whether a request about this object may begin now.
    fn may_ask(&self, label: &Label) -> bool {
        let held_back = self
            .paces
            .get(label)
            .is_some_and(|(_, pace)| pace.held_back(self.now()));
        self.requests.len() < MAX_REQUESTS && !self.busy.contains(label) && !held_back
    }

    /// Sends what is due, at the end all that is news; says whether nothing was.
    fn send(&mut self, farewell: bool) -> bool {
        let now = self.now();
        let statuses = self.posted.borrow().statuses.clone();
        let only_problems = self
            .unreadable
            .iter()
            .filter(|(label, _)| !statuses.contains_key(*label));
        let all: Vec<(Label, Arc<Value>)> = statuses
            .iter()
            .chain(only_problems)
            .map(|(label, status)| (label.clone(), Arc::clone(status)))
            .collect();
        self.paces.retain(|label, _| {
            statuses.contains_key(label)
                || self.unreadable.contains_key(label)
                || self.let_go.contains_key(label)
        });
        let mut idle = true;
        for (label, status) in all {
            let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.word() == label.0) else {
                continue;
            };
            let Some(uid) = self.cache.uid(kind, &label.1) else {
                continue;
            };
            let (known, pace) = self
                .paces
                .entry(label.clone())
                .or_insert_with(|| (uid.clone(), Pace::default()));
            if *known != uid {
                known.clone_from(&uid);
                pace.forget();
            }
            let last_words = farewell && pace.owes(&status);
            let due = if self.called_silent.contains(&label) {
                pace.due(&status).min(pace.answer())
            } else {
                pace.due(&status)
            };
            if due > now && !last_words {
                continue;
            }
            idle = false;
            if !self.may_ask(&label) {
                continue;
            }
            self.busy.insert(label.clone());
            let client = self.client.clone();
            self.requests.spawn(async move {
                let sent = Arc::clone(&status);
                let name = label.1.clone();
                let result = requests::send_status(client, kind, name, uid, status).await;
                Ended {
                    label,
                    status: Some(sent),
                    result,
                }
            });
        }
        idle
    }

    fn ended(&mut self, ended: Result<Ended, tokio::task::JoinError>) {
        let Ok(Ended {
            label,
            status,
            result,
        }) = ended
        else {
            // A panic has been printed; the object stays busy rather than to panic again and again.
            return;
        };
        self.busy.remove(&label);
        let now = self.now();
        let pace = self.paces.get_mut(&label).map(|(_, pace)| pace);
        match (&result, status) {
            (Ok(()), Some(status)) => {
                if let Some(pace) = pace {
                    pace.sent(now, status);
                }
            }
            (Ok(()), None) => {}
            // The watch tells it too.
            (Err(Failure::Gone), None) => {}
            (Err(failure), _) => {
                let (kind, name) = label.clone();
                let (_, pace) = self
                    .paces
                    .entry(label)
                    .or_insert_with(|| (String::new(), Pace::default()));
                let first = pace.failed(now);
                if first && matches!(failure, Failure::Refused(_)) {
                    tracing::error!(kind, name, %failure, "not written");
                } else {
                    tracing::debug!(kind, name, %failure, "not written yet");
                }
            }
        }
    }
}

/// The object of this event, and whether it says of its agent that nothing is heard of it.
fn called_silent(source: &Source, event: &Event<DynamicObject>) -> Option<(Label, bool)> {
    let Source::All(kind) = source else {
        return None;
    };
    let (object, is_there) = match event {
        Event::Apply(object) | Event::InitApply(object) => (object, true),
        Event::Delete(object) => (object, false),
        Event::Init | Event::InitDone => return None,
    };
    let conditions = object.data.pointer("/status/conditions");
    let mut conditions = conditions.and_then(Value::as_array).into_iter().flatten();
    let is_silent = conditions
        .any(|one| one["type"] == condition_type::READY && one["reason"] == reason::AGENT_SILENT);
    Some(((kind.word(), object.name_any()), is_there && is_silent))
}

impl Leaving {
    fn label(&self) -> Label {
        (self.kind.word(), self.name.clone())
    }
}

/// What is said of objects that cannot be read, where the node knows no older form of them.
fn unreadable(problems: &[Problem]) -> BTreeMap<Label, Arc<Value>> {
    let mut statuses = BTreeMap::new();
    for problem in problems {
        let named = problem
            .object
            .as_deref()
            .and_then(|label| label.split_once('/'));
        let Some((kind, name)) = named else { continue };
        let kind = [Kind::StoragePool, Kind::Leg, Kind::Attachment]
            .into_iter()
            .find(|known| known.word() == kind);
        let Some(kind) = kind else { continue };
        let mut status = json!({"conditions": [{
            "type": condition_type::READY,
            "status": "False",
            "reason": reason::INVALID_SPEC,
            "message": problem.to_string(),
            "lastTransitionTime": now(),
        }]});
        if kind != Kind::StoragePool {
            status["state"] = "Failed".into();
        }
        statuses.insert((kind.word(), name.to_owned()), Arc::new(status));
    }
    statuses
}
