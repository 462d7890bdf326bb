//! The running operator: watches, queue, workers, leadership, and the way out.
//!
//! ```text
//! copies of own objects ┐
//! peer, witness, Secrets┴─ Change ─► hear ─► Queue<Key> ─► workers (leader only): observe · plan · carry out · status
//! ```
//! Every replica keeps the copies and the links to witness and peer; only the leader takes from the queue.
//! Not here: decisions (`volume`, `failover`, `policy`), what is said of pairs and pools (`site_pair`, `pool`).

pub mod events;
pub mod failover;
pub mod group;
pub mod leader;
pub mod odd;
pub mod operator;
pub mod options;
pub mod own;
pub mod patience;
pub mod permits;
pub mod queue;
pub mod random;
pub mod secrets;
pub mod volume;
pub mod watch;

use std::{
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, Config, ResourceExt as _,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    health::{Health, Server},
    metrics::Metrics,
    site_pair::{self, Links},
};
use events::Events;
use leader::Leader;
use operator::{Change, Key, Operator};
use options::Options;
use own::Own;
use queue::Queue;
use random::random;
use secrets::Secrets;

const CONNECT: Duration = Duration::from_secs(5);
/// Longer than a watch is left without a word.
const READ: Duration = Duration::from_secs(75);
const RETRY: Duration = Duration::from_secs(2);
const COMPLAINT: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(100);
/// How long rounds that are under way may take after SIGTERM.
const WAY_OUT: Duration = Duration::from_secs(10);

/// Runs until SIGTERM, or until the lease is lost.
///
/// # Errors
/// The process cannot begin, or lost the lease: another one may be working, and this one must end.
pub async fn run(options: Options) -> Result<()> {
    _ = rustls::crypto::ring::default_provider().install_default();
    let (config, client) = client(&options).await?;
    let (health, metrics) = (Arc::new(Health::default()), Arc::new(Metrics::default()));
    let queue: Arc<Queue<Key>> = Arc::default();
    let server = Server::bind(options.http)
        .await
        .with_context(|| format!("cannot listen at {}", options.http))?;
    tracing::info!(address = %server.address()?, site = options.site, "serving /healthz /readyz /metrics");
    tokio::spawn(server.serve(
        Arc::clone(&health),
        Arc::clone(&metrics),
        Arc::clone(&queue),
    ));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let working = work(
        options,
        config,
        client,
        health,
        metrics,
        Arc::clone(&queue),
        async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        },
    );
    working.await
}

async fn work(
    options: Options,
    config: Config,
    client: Client,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    queue: Arc<Queue<Key>>,
    end: impl Future<Output = ()>,
) -> Result<()> {
    let mut end = std::pin::pin!(end);
    let claimant = tokio::select! {
        claimant = claimant(&client, &health) => claimant,
        () = &mut end => return Ok(()),
    };
    let identity = format!("{}_{}", options.pod, hex(random::<6>()));
    let (changes, heard) = Changes::new();
    let for_own = changes.clone();
    let own_tell: own::Tell = Arc::new(move |told| for_own.tell(Change::Own(told)));
    let own = Own::start(&client, &own_tell);
    let for_secrets = changes.clone();
    let secrets = Secrets::new(
        client.clone(),
        &options.namespace,
        Arc::new(move |_: &str| for_secrets.tell(Change::Secret)),
    );
    let for_links = changes.clone();
    let links = Links::new(
        client.clone(),
        config,
        site_pair::Own {
            site: options.site.clone(),
            namespace: options.namespace.clone(),
            claimant,
            writer: identity.clone(),
        },
        secrets,
        Arc::new(move |told| for_links.tell(Change::Link(told))),
    );
    let leader = Leader::new(
        client.clone(),
        &options.namespace,
        &options.lease,
        identity.clone(),
    );
    let operator = Arc::new(Operator {
        events: Events::start(client.clone(), identity),
        own,
        links,
        queue: Arc::clone(&queue),
        metrics: Arc::clone(&metrics),
        health: Arc::clone(&health),
        kinds: volume::Kinds::default(),
        permits: permits::Permits::default(),
        told: std::sync::Mutex::default(),
        leading: std::sync::Mutex::default(),
        following: tokio::sync::Mutex::default(),
        client,
        options,
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(hear(Arc::clone(&operator), heard, changes));
    tasks.spawn(watch_health(Arc::clone(&operator)));
    tokio::select! {
        () = lead(&operator, &leader) => {}
        () = &mut end => return Ok(()),
    }
    let mut workers = JoinSet::new();
    for _ in 0..operator.options.workers {
        workers.spawn(Arc::clone(&operator).work());
    }
    let lost = tokio::select! {
        lost = leader.keep() => Some(lost),
        () = &mut end => None,
    };
    operator.metrics.leader.set(0);
    if let Some(lost) = lost {
        // Nothing is finished: another replica may be at work already.
        workers.abort_all();
        bail!("stopped working: {lost}");
    }
    tracing::info!("stopping");
    queue.close();
    let rest = async { while workers.join_next().await.is_some() {} };
    if timeout(WAY_OUT, rest).await.is_err() {
        tracing::warn!("rounds under way are given up: the next leader plans anew");
        workers.abort_all();
    }
    leader.release().await;
    Ok(())
}

/// Waits for the lease and for complete copies; then everything is looked at once.
async fn lead(operator: &Operator, leader: &Leader) {
    leader.acquire().await;
    tracing::info!("this replica leads");
    operator.metrics.leader.set(1);
    operator.health.set_leader();
    operator.links.lead();
    while !operator.own.is_complete() {
        sleep(STEP).await;
    }
    operator.follow_pairs().await;
    *operator
        .leading
        .lock()
        .unwrap_or_else(PoisonError::into_inner) = Some(std::time::Instant::now());
    operator.add_everything();
}

/// More changes than this wait for nobody: everything is looked at instead.
const MOST_CHANGES: usize = 16_384;

/// The way of changes to [`Operator::hear`].
#[derive(Clone)]
struct Changes {
    sender: mpsc::Sender<Change>,
    overflow: Arc<AtomicBool>,
}

impl Changes {
    fn new() -> (Self, mpsc::Receiver<Change>) {
        let (sender, heard) = mpsc::channel(MOST_CHANGES);
        let overflow = Arc::default();
        (Self { sender, overflow }, heard)
    }

    fn tell(&self, change: Change) {
        if self.sender.try_send(change).is_err() {
            self.overflow.store(true, Ordering::Release);
        }
    }
}

async fn hear(operator: Arc<Operator>, mut heard: mpsc::Receiver<Change>, changes: Changes) {
    while let Some(change) = heard.recv().await {
        let parties = matches!(
            &change,
            Change::Secret | Change::Own(own::Told::Pair(_, own::Edit::Spec))
        );
        operator.hear(change);
        let lost = heard.is_empty() && changes.overflow.swap(false, Ordering::AcqRel);
        if lost {
            operator.add_everything();
        }
        if (parties || lost) && operator.own.pairs.sync.is_complete() {
            operator.follow_pairs().await;
        }
    }
}

async fn watch_health(operator: Arc<Operator>) {
    loop {
        let troubles = operator
            .own
            .troubles()
            .into_iter()
            .map(|(kind, failing)| match failing {
                Some((since, why)) => {
                    format!("{kind} cannot be watched for {} s: {why}", since.as_secs())
                }
                None => format!("{kind} is still being listed"),
            });
        operator.health.set_troubles(troubles.collect());
        operator.suspect_nodes();
        operator.tell_of_odd_objects();
        sleep(Duration::from_secs(1)).await;
    }
}

async fn client(options: &Options) -> Result<(Config, Client)> {
    let mut config = match &options.kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?
        }
        None => Config::infer()
            .await
            .context("no way to the API server: run in a pod, or give --kubeconfig")?,
    };
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(READ);
    config.default_retry = false;
    let client = Client::try_from(config.clone())?;
    Ok((config, client))
}

/// Who this cluster is: the UID of its kube-system namespace. Waits for the API server as long as it takes.
async fn claimant(client: &Client, health: &Health) -> String {
    let api: Api<Namespace> = Api::all(client.clone());
    let mut complained: Option<Instant> = None;
    loop {
        let why = match watch::within(api.get("kube-system")).await {
            Ok(namespace) => match namespace.uid() {
                Some(uid) => return uid,
                None => "kube-system has no uid".to_owned(),
            },
            Err(error) => error.to_string(),
        };
        if complained.is_none_or(|at| at.elapsed() >= COMPLAINT) {
            complained = Some(Instant::now());
            tracing::warn!(why, "the own API server does not answer: waiting");
        }
        health.set_troubles(vec![format!("the own API server does not answer: {why}")]);
        sleep(RETRY).await;
    }
}

fn hex(bytes: [u8; 6]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
