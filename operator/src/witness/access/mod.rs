//! One pair's witness as this operator uses it: the claim of the site's name, the sign of life, the other site's signs,
//! and the registers of all volumes, read in turn.
//!
//! ```text
//! every replica   probe · claim each 10 s · renew own liveness and read the peer's each 1 s
//! the leader      marks · registers each 10 s (1 s while busy, at once on a hint) · beats each 1 s
//! ```
//! Invariants: nothing is renewed or written under a name that is not ours; a register that is Below the marks is never
//! shown as anything else; reading stops while the witness is silent and goes on by itself.
//! What every replica does is in [`presence`], what the leader reads in [`registers`].
//! Not here: what a register means for a volume (the planner), how a store is opened ([`super::open`]).

mod presence;
mod registers;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::Instant,
};
use twinsite_register::{BeatObject, Class, GroupId, Mark, Register, Site, VolumeId};
use twinsite_witness::{Guard, Liveness, Sites, Swap, Witness};

use super::{
    evidence::Still,
    marks::{MarkStore, Marks, held},
    schedule::{Pace, Schedule},
};

const PULSE: Duration = Duration::from_secs(1);
/// How often signs are looked at once the other site stands still: each half second counts then.
const HASTE: Duration = Duration::from_millis(500);
/// A wait before a failed try is repeated.
const RETRY: Duration = Duration::from_secs(2);
/// A peer that has been still for this long makes all beats be read each second.
const SUSPICION: Duration = Duration::from_millis(1_500);

/// Who this cluster is at the witness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name of the own site.
    pub site: String,
    /// Name of the other one.
    pub peer: String,
    /// UID of the own kube-system namespace.
    pub claimant: String,
    /// Name of this process, for the liveness object.
    pub writer: String,
    /// The cluster that a person says this one replaces.
    pub replaces: Option<String>,
}

/// Whose the site's name is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The witness has not said yet, and nothing is remembered.
    Unknown,
    Ours(Site),
    Refused(String),
}

/// Whether the witness answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// When it answered last.
    pub answered: Option<(Instant, Timestamp)>,
    /// Since when it has not, and why; `None`: it does.
    pub silent: Option<(Instant, String)>,
    /// Why it must not be used at all.
    pub refused: Option<String>,
}

/// What a read of a register brought.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    Register(Box<Register>),
    /// The witness answered that there is none.
    Absent,
    /// There is something that cannot be used.
    Unusable(String),
}

/// A register as it was read last.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    pub content: Content,
    /// `None`: not to be classed, for it cannot be used.
    pub class: Option<Class>,
    pub at: Instant,
    pub read_at: Timestamp,
}

/// Who hears of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The claim, or whether the witness answers, changed.
    Pair,
    /// The register of a group, or its beat, changed.
    Group(GroupId),
    /// The signs of life of the other site began or ceased to stand still.
    Evidence,
}

/// Called with every change; must not block.
pub type Tell = Arc<dyn Fn(Told) + Send + Sync>;

/// See the module.
pub struct Access {
    identity: Identity,
    witness: Witness,
    inner: Arc<Mutex<Inner>>,
    wake: Arc<Notify>,
    admitted: watch::Receiver<bool>,
    tell: Tell,
    leads: AtomicBool,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

struct Inner {
    link: Link,
    claim: Claim,
    sites: Option<Sites>,
    liveness: Still<Option<Liveness>>,
    beats: BTreeMap<VolumeId, Still<Option<BeatObject>>>,
    schedule: Schedule,
    readings: HashMap<GroupId, Reading>,
    marks: Option<Arc<Mutex<Marks>>>,
}

impl Drop for Access {
    fn drop(&mut self) {
        let tasks = self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner);
        tasks.iter().for_each(JoinHandle::abort);
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Access({:?})", self.witness)
    }
}

/// What the tasks of an access share with it.
#[derive(Clone)]
struct Share {
    identity: Identity,
    witness: Witness,
    inner: Arc<Mutex<Inner>>,
    wake: Arc<Notify>,
    /// Whether the store may be used: nothing is asked before.
    admitted: watch::Receiver<bool>,
    tell: Tell,
}

impl Access {
    /// Starts what every replica does. `remembered`: the claim that the own cluster's objects show as ours; a claim is for
    /// ever, so that a witness that is away at our start stops nothing.
    pub fn start(
        witness: Witness,
        guard: Option<Arc<Guard>>,
        identity: Identity,
        remembered: Option<Site>,
        tell: Tell,
    ) -> Self {
        let inner = Arc::new(Mutex::new(Inner {
            link: Link::default(),
            claim: remembered.map_or(Claim::Unknown, Claim::Ours),
            sites: None,
            liveness: Still::default(),
            beats: BTreeMap::new(),
            schedule: Schedule::default(),
            readings: HashMap::new(),
            marks: None,
        }));
        let (admit, admitted) = watch::channel(guard.is_none());
        let access = Self {
            identity,
            witness,
            inner,
            wake: Arc::default(),
            admitted,
            tell,
            leads: AtomicBool::new(false),
            tasks: Mutex::default(),
        };
        let mut tasks = vec![
            tokio::spawn(access.share().claim_for_ever()),
            tokio::spawn(access.share().pulse_for_ever()),
        ];
        if let Some(guard) = guard {
            tasks.push(tokio::spawn(access.share().admit(guard, admit)));
        }
        access.keep(tasks);
        access
    }

    /// Starts what only the leader does; once.
    pub fn lead(&self, marks: MarkStore) {
        if self.leads.swap(true, Ordering::AcqRel) {
            return;
        }
        self.keep(vec![
            tokio::spawn(self.share().read_for_ever(marks)),
            tokio::spawn(self.share().beats_for_ever()),
        ]);
    }

    fn keep(&self, new: Vec<JoinHandle<()>>) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.extend(new);
    }

    fn share(&self) -> Share {
        Share {
            identity: self.identity.clone(),
            witness: self.witness.clone(),
            inner: Arc::clone(&self.inner),
            wake: Arc::clone(&self.wake),
            admitted: self.admitted.clone(),
            tell: Arc::clone(&self.tell),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who this cluster is there.
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where the witness is, for messages.
    pub fn place(&self) -> String {
        self.witness.place()
    }

    pub fn link(&self) -> Link {
        self.inner().link.clone()
    }

    pub fn claim(&self) -> Claim {
        self.inner().claim.clone()
    }

    /// All claims, as read last.
    pub fn sites(&self) -> Option<Sites> {
        self.inner().sites.clone()
    }

    /// For how long the other site has shown no sign of life; `None`: not known.
    pub fn peer_stillness(&self) -> Option<Duration> {
        self.inner().liveness.age(Instant::now())
    }

    /// For how long the beat of a volume has stood still; `None`: not known.
    pub fn beat_stillness(&self, volume: VolumeId) -> Option<Duration> {
        self.inner().beats.get(&volume)?.age(Instant::now())
    }

    /// Whether the beat of this volume is looked at.
    pub fn watch_beat(&self, volume: VolumeId, wanted: bool) {
        let mut inner = self.inner();
        if wanted {
            inner.beats.entry(volume).or_default();
        } else {
            inner.beats.remove(&volume);
        }
    }

    /// The register of a group as read last; it is read from now on.
    pub fn reading(&self, group: GroupId) -> Option<Reading> {
        let mut inner = self.inner();
        if !inner.schedule.contains(group) {
            inner.schedule.add(Instant::now(), group);
            drop(inner);
            self.wake.notify_one();
            return None;
        }
        inner.readings.get(&group).cloned()
    }

    /// Reads the register of a group no more.
    pub fn forget(&self, group: GroupId) {
        let mut inner = self.inner();
        inner.schedule.remove(group);
        inner.readings.remove(&group);
        inner.beats.remove(&VolumeId(group.0));
    }

    /// How often the register of a group is read.
    pub fn pace(&self, group: GroupId, pace: Pace) {
        self.inner().schedule.pace(Instant::now(), group, pace);
        self.wake.notify_one();
    }

    /// Something says that the register of a group changed: read it now.
    pub fn hurry(&self, group: GroupId) {
        self.inner().schedule.hurry(Instant::now(), group);
        self.wake.notify_one();
    }

    /// The mark of a group.
    pub fn mark(&self, group: GroupId) -> Option<Mark> {
        let marks = self.inner().marks.clone()?;
        held(&marks).of(group)
    }

    /// Compare-and-swap of a whole register; what it shows is remembered.
    pub async fn swap(&self, expected: &Register, new: &Register) -> Swap {
        let swap = self.witness.swap(expected, new).await;
        match &swap {
            Swap::Won => self.share().learn(new.group, Ok(Some(new.clone()))),
            Swap::Conflict(stored) => {
                self.share()
                    .learn(new.group, Ok(stored.as_deref().cloned()));
            }
            Swap::Unknown(_) => {}
        }
        self.hurry(new.group);
        swap
    }

    /// Create-if-absent of a register.
    pub async fn create(&self, new: &Register) -> Swap {
        let swap = self.witness.create(new).await;
        if swap == Swap::Won {
            self.share().learn(new.group, Ok(Some(new.clone())));
        }
        self.hurry(new.group);
        swap
    }

    /// Takes the register of a deleted volume away.
    pub async fn remove(&self, expected: &Register) -> Swap {
        let swap = self.witness.remove(expected).await;
        if swap == Swap::Won {
            self.share().learn(expected.group, Ok(None));
        }
        self.hurry(expected.group);
        swap
    }
}

impl Share {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_ours(&self) -> bool {
        matches!(self.inner().claim, Claim::Ours(_))
    }
}
