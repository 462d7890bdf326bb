//! The one task that owns the control plane of a node: its loop and its state.
//!
//! A turn: hear everything that was told, look at the folder, decide and do until nothing is left to do,
//! say how things stand. Whatever takes long is done elsewhere and told when it is done.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{File, TryLockError},
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::MissedTickBehavior,
};
use twinsite_mirror::io::Format;
use twinsite_register::{GroupId, Register, Site};
use twinsite_witness::Observer;

use super::{
    board::Board,
    marks::Marks,
    order,
    reconcile::{Desired, Observed, Plan, Wait, reconcile},
    records::Records,
    requests::{Answer, Request},
    storage::{LegSample, Storage},
    verifies::Verifies,
    volumes::{VolumeEvent, VolumeHandle, VolumeOrder, Volumes},
    witnesses::{Identity, Interest, OwnCluster, Witnesses},
};
use crate::{
    backend::Capacity,
    metrics::Health,
    objects::{Folder, Problem, Scan},
    reactor::Thread,
    status::{LegView, PairView, PoolView, StatusFolder, VolumeView, now},
};

/// How often the folder is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How often targets are asked for their numbers.
const SAMPLE: Duration = Duration::from_secs(1);
/// How long an agent that was told to stop tries to detach cleanly.
const STOP_LIMIT: Duration = Duration::from_secs(45);
/// Rounds of deciding and doing in one turn; more wait for the next.
const MAX_ROUNDS: usize = 8;
/// What may wait to be heard. Snapshots are dropped beyond it; everything else is held back by its sender.
const MAX_TOLD: usize = 4096;

/// Who this node is and where its things are.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    pub node: String,
    pub site: String,
    /// Who this site is, at the witness.
    pub claimant: String,
    /// The cluster that this node belongs to, if to one.
    pub cluster: Option<OwnCluster>,
    pub objects: PathBuf,
    pub state: PathBuf,
    /// Where to serve legs instead of at the portals of the pools.
    pub listen: Vec<SocketAddr>,
    /// Where everything that is said is put up too.
    pub board: Option<Arc<Board>>,
}

/// What the loop is told.
pub(super) enum Told {
    Volume {
        name: String,
        serial: u64,
        event: VolumeEvent,
    },
    /// The register of a volume that is to be born is there.
    Ready {
        serial: u64,
        order: Box<VolumeOrder>,
    },
    /// The same for the volumes of a group.
    ReadyGroup {
        orders: Vec<(u64, VolumeOrder)>,
    },
    /// A register was read or written; by which opening of which volume, if by one.
    Register {
        register: Box<Register>,
        by: Option<(String, u64)>,
    },
    Samples {
        legs: BTreeMap<String, Option<LegSample>>,
        pools: BTreeMap<String, Option<(Capacity, String)>>,
    },
    Asked(Request, oneshot::Sender<Answer>),
    /// Something that the next decision looks at has changed.
    Changed,
    /// The folder has changed; the number comes back on the board.
    Look(u64),
}

/// Tells the loop something, from any thread.
#[derive(Clone)]
pub struct Teller {
    sender: mpsc::Sender<Told>,
    runtime: Handle,
}

impl Teller {
    pub(super) fn tell(&self, told: Told) {
        if let Err(mpsc::error::TrySendError::Full(told)) = self.sender.try_send(told) {
            if matches!(
                &told,
                Told::Volume {
                    event: VolumeEvent::Status(_),
                    ..
                }
            ) {
                return;
            }
            let sender = self.sender.clone();
            self.runtime.spawn(async move {
                // Fails only when the loop has ended.
                let _unheard = sender.send(told).await;
            });
        }
    }

    /// The folder has changed: it is looked at now and not at the next tick. Once that was done and acted upon, the
    /// board shows this number or a higher one.
    pub fn look(&self, number: u64) {
        self.tell(Told::Look(number));
    }

    /// Asks on behalf of a person.
    pub async fn ask(&self, request: Request) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.tell(Told::Asked(request, reply));
        answer
            .await
            .unwrap_or_else(|_| Answer::error("the agent is stopping"))
    }
}

/// A volume of this node.
pub(super) struct Volume {
    /// Tells this opening from an earlier one of the same name.
    pub(super) serial: u64,
    pub(super) handle: Option<Box<dyn VolumeHandle>>,
    pub(super) view: VolumeView,
    /// Who waits for the answer to an order by hand.
    pub(super) reply: Option<oneshot::Sender<Answer>>,
    /// What was asked to be recorded.
    pub(super) format: Option<Format>,
}

/// An inspection that a person asked for.
pub(super) struct Inspection {
    pub(super) serial: u64,
    pub(super) _handle: Box<dyn VolumeHandle>,
    pub(super) report: Option<serde_json::Value>,
    pub(super) reply: Option<oneshot::Sender<Answer>>,
}

/// The control plane of a node.
pub struct Node {
    pub(super) config: NodeConfig,
    pub(super) runtime: Handle,
    started: Instant,
    folder: Folder,
    pub(super) status: Option<StatusFolder>,
    pub(super) health: Arc<Health>,
    pub(super) desired: Desired,
    pub(super) problems: Vec<Problem>,
    pub(super) observed: Observed,
    pub(super) waits: Vec<Wait>,
    pub(super) pools: BTreeMap<String, PoolView>,
    pub(super) legs: BTreeMap<String, LegView>,
    pub(super) pairs: BTreeMap<String, PairView>,
    pub(super) volumes: BTreeMap<String, Volume>,
    pub(super) inspections: BTreeMap<String, Inspection>,
    pub(super) registers: BTreeMap<GroupId, (Register, Time)>,
    pub(super) storage: Storage,
    pub(super) opener: Box<dyn Volumes>,
    pub(super) records: Records,
    pub(super) marks: Arc<Marks>,
    pub(super) verifies: Verifies,
    pub(super) witnesses: Witnesses,
    pub(super) teller: Teller,
    told: mpsc::Receiver<Told>,
    next_serial: u64,
    scanned: bool,
    pub(super) looked: u64,
    /// Asks the targets.
    sampling: Option<JoinHandle<()>>,
    /// Held as long as this node runs.
    _lock: File,
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("the state folder {path} cannot be used")]
    State {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("another agent uses the state folder {path}: stop it, or give this one its own")]
    InUse { path: PathBuf },
}

impl Node {
    /// A node that has done nothing yet. To be made on the runtime on which it will run.
    pub fn new(
        config: NodeConfig,
        threads: Vec<Thread>,
        opener: Box<dyn Volumes>,
        health: Arc<Health>,
    ) -> Result<Self, NodeError> {
        let state = |source: Box<dyn std::error::Error + Send + Sync>| NodeError::State {
            path: config.state.clone(),
            source,
        };
        std::fs::create_dir_all(&config.state).map_err(|error| state(error.into()))?;
        let lock = File::create(config.state.join("lock")).map_err(|error| state(error.into()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(NodeError::InUse { path: config.state }),
            Err(TryLockError::Error(error)) => return Err(state(error.into())),
        }
        let records = Records::open(&config.state).map_err(|error| state(error.into()))?;
        let marks = Arc::new(Marks::open(&config.state).map_err(|error| state(error.into()))?);
        let verifies = Verifies::open(&config.state).map_err(|error| state(error.into()))?;
        let storage = Storage::new(threads, config.listen.clone(), &config.state)
            .map_err(|error| state(error.into()))?;
        let runtime = Handle::current();
        let (sender, told) = mpsc::channel(MAX_TOLD);
        let teller = Teller {
            sender,
            runtime: runtime.clone(),
        };
        let identity = Identity {
            site: config.site.clone(),
            node: config.node.clone(),
            claimant: config.claimant.clone(),
            cluster: config.cluster.clone(),
        };
        let observer = observer(&marks, &teller, None);
        let wake = {
            let teller = teller.clone();
            Arc::new(move || teller.tell(Told::Changed))
        };
        Ok(Self {
            witnesses: Witnesses::new(identity, observer, wake, runtime.clone()),
            folder: Folder::new(&config.objects),
            desired: Desired {
                node: config.node.clone(),
                site: config.site.clone(),
                ..Desired::default()
            },
            started: Instant::now(),
            status: None,
            health,
            problems: Vec::new(),
            observed: Observed::default(),
            waits: Vec::new(),
            pools: BTreeMap::new(),
            legs: BTreeMap::new(),
            pairs: BTreeMap::new(),
            volumes: BTreeMap::new(),
            inspections: BTreeMap::new(),
            registers: BTreeMap::new(),
            next_serial: 0,
            scanned: false,
            looked: 0,
            sampling: None,
            _lock: lock,
            config,
            runtime,
            storage,
            opener,
            records,
            marks,
            verifies,
            teller,
            told,
        })
    }

    pub fn teller(&self) -> Teller {
        self.teller.clone()
    }

    /// Since the node was made: what the decisions take for time.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial
    }

    /// Runs until `stop` becomes true and everything was let go. Says whether that went cleanly.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> bool {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sample = tokio::time::interval(SAMPLE);
        sample.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut deadline = None;
        loop {
            tokio::select! {
                told = self.told.recv() => if let Some(told) = told {
                    self.hear(told);
                },
                _ = look.tick() => self.look(),
                _ = sample.tick() => self.sample(),
                changed = stop.changed(), if deadline.is_none() => {
                    if changed.is_err() || *stop.borrow() {
                        tracing::info!("stopping: detaching what is attached");
                        self.desired.stopping = true;
                        deadline = Some(Instant::now() + STOP_LIMIT);
                    }
                }
            }
            while let Ok(told) = self.told.try_recv() {
                self.hear(told);
            }
            // Doing may wait for a disk.
            tokio::task::block_in_place(|| self.turn());
            if let Some(deadline) = deadline {
                let ended = self.observed == Observed::default();
                if ended || Instant::now() >= deadline {
                    tokio::task::block_in_place(|| self.storage.shutdown());
                    if !ended {
                        tracing::error!("not everything could be detached in time");
                    }
                    return ended;
                }
            }
        }
    }

    fn turn(&mut self) {
        self.note_releases();
        self.set_witnesses();
        self.note_dropped();
        self.note_removals();
        for _ in 0..MAX_ROUNDS {
            let Plan { actions, waits, .. } = reconcile(&self.desired, &self.observed, self.now());
            self.waits = waits;
            if actions.is_empty() {
                break;
            }
            for action in actions {
                tracing::info!("{action}");
                self.apply(action);
            }
        }
        self.say();
        self.health.turned(self.not_ready());
    }

    /// Reads the folder if it has changed.
    pub(super) fn look(&mut self) {
        let scan = tokio::task::block_in_place(|| self.folder.scan());
        let Some(Scan {
            objects,
            mut problems,
        }) = scan
        else {
            self.scanned = true;
            return;
        };
        self.scanned = true;
        for problem in problems
            .iter()
            .filter(|problem| !self.problems.contains(problem))
        {
            tracing::error!("{problem}");
        }
        let mut uids = BTreeMap::new();
        for (name, attachment) in &objects.attachments {
            let known = attachment
                .metadata
                .uid
                .clone()
                .filter(|uid| !uid.is_empty());
            match known.map_or_else(|| self.records.uid_of(name), Ok) {
                Ok(uid) => {
                    uids.insert(name.clone(), uid);
                }
                Err(error) => problems.push(Problem {
                    file: String::new(),
                    line: 0,
                    object: Some(format!("Attachment/{name}")),
                    field: Some("metadata.uid".to_owned()),
                    message: error.to_string(),
                    advice: "give it a uid, or correct the state folder".to_owned(),
                }),
            }
        }
        // What was detached by hand is so until its object changes.
        self.desired.held.retain(|name| {
            objects.attachments.get(name) == self.desired.objects.attachments.get(name)
        });
        self.desired.objects = objects;
        self.desired.uids = uids;
        self.problems = problems;
    }

    /// What of each pair concerns this node.
    fn set_witnesses(&mut self) {
        let objects = &self.desired.objects;
        let mut interests: BTreeMap<String, Interest> = BTreeMap::new();
        let mut groups: BTreeMap<String, BTreeSet<GroupId>> = BTreeMap::new();
        for leg in objects
            .legs
            .values()
            .filter(|leg| leg.spec.node == self.config.node)
        {
            let pair = &leg.spec.site_pair;
            groups
                .entry(pair.clone())
                .or_default()
                .insert(GroupId(leg.spec.group_id().bytes()));
            if leg.spec.site == self.config.site {
                interests.entry(pair.clone()).or_default().index =
                    Some(order::leg(leg.spec.leg).site());
            }
        }
        for attachment in objects
            .attachments
            .values()
            .filter(|attachment| attachment.spec.node == self.config.node)
        {
            let spec = &attachment.spec;
            groups
                .entry(spec.site_pair.clone())
                .or_default()
                .insert(order::group(spec));
            let index: Option<Site> = spec.own_index().map(|index| order::leg(index).site());
            let interest = interests.entry(spec.site_pair.clone()).or_default();
            interest.index = interest.index.or(index);
        }
        for name in &self.desired.held_elsewhere {
            if let Some(attachment) = objects.attachments.get(name) {
                let spec = &attachment.spec;
                let interest = interests.entry(spec.site_pair.clone()).or_default();
                interest.waited_for.push(order::group(spec));
            }
        }
        for (pair, groups) in groups {
            interests.entry(pair).or_default().groups = groups.into_iter().collect();
        }
        self.witnesses
            .set(&objects.pairs, &interests, &objects.secrets);
        self.desired.untried = self.witnesses.untried();
    }

    /// Asks the targets for their numbers, elsewhere; not while it does so already: a target that hangs answers no sooner when it is
    /// asked more often, and its mailbox would be full of that when it is to be stopped.
    fn sample(&mut self) {
        if is_under_way(self.sampling.as_ref()) {
            return;
        }
        let mut own_keys = BTreeMap::new();
        for seen in self.observed.volumes.iter() {
            let key = self
                .volumes
                .get(seen.0)
                .and_then(|volume| volume.view.key.as_deref());
            if let Some(key) = key.and_then(|key| u64::from_str_radix(key, 16).ok()) {
                own_keys.insert(seen.1.spec.volume, key);
            }
        }
        let probes = self
            .storage
            .probes(|volume| own_keys.get(&volume).copied().unwrap_or_default());
        let pool_probes = self.storage.pool_probes();
        let teller = self.teller.clone();
        let ask = move || {
            let pools = pool_probes
                .iter()
                .map(|probe| (probe.name.clone(), probe.take()))
                .collect();
            let legs = probes
                .iter()
                .map(|probe| (probe.name.clone(), probe.take()))
                .collect();
            teller.tell(Told::Samples { legs, pools });
        };
        self.sampling = Some(self.runtime.spawn_blocking(ask));
    }

    fn not_ready(&self) -> Option<String> {
        if !self.scanned {
            return Some("the objects have not been read yet".to_owned());
        }
        if self.desired.stopping {
            return Some("the agent is stopping".to_owned());
        }
        let unserved = self.legs.iter().find(|(_, leg)| !leg.served);
        unserved.map(|(name, leg)| {
            let why = leg
                .fault
                .as_ref()
                .map_or("it is on the way", |fault| fault.text.as_str());
            format!("leg {name} is not served: {why}")
        })
    }
}

fn is_under_way(task: Option<&JoinHandle<()>>) -> bool {
    task.is_some_and(|task| !task.is_finished())
}

/// Raises the marks and tells the loop.
pub(super) fn observer(marks: &Arc<Marks>, teller: &Teller, by: Option<(String, u64)>) -> Observer {
    let (marks, teller) = (Arc::clone(marks), teller.clone());
    Arc::new(move |register: &Register| {
        marks.see(register);
        let register = Box::new(register.clone());
        teller.tell(Told::Register {
            register,
            by: by.clone(),
        });
    })
}

/// Makes the status folder as soon as the objects' folder is there.
pub(super) fn open_status(objects: &std::path::Path) -> io::Result<StatusFolder> {
    StatusFolder::open(objects)
}

/// The wall clock, for people.
pub(super) fn wall() -> Time {
    now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_asked_is_not_asked_again_before_it_is_answered() {
        assert!(!is_under_way(None));
        let (answer, wait) = std::sync::mpsc::channel::<()>();
        let mut task = tokio::task::spawn_blocking(move || {
            let _ = wait.recv();
        });
        assert!(is_under_way(Some(&task)));
        drop(answer);
        (&mut task).await.expect("ends");
        assert!(!is_under_way(Some(&task)));
    }
}
