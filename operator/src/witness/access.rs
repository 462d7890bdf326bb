//! One pair's witness as this operator uses it: the claim of the site's name, the sign of life, the other site's signs,
//! and the registers of all volumes, read in turn.
//!
//! ```text
//! every replica   probe · claim each 10 s · renew own liveness and read the peer's each 1 s
//! the leader      marks · registers each 10 s (1 s while busy, at once on a hint) · beats each 1 s
//! ```
//! Invariants: nothing is renewed or written under a name that is not ours; a register that is Below the marks is never
//! shown as anything else; reading stops while the witness is silent and goes on by itself.
//! Not here: what a register means for a volume (the planner), how a store is opened ([`super::open`]).

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use k8s_openapi::jiff::Timestamp;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};
use twinsite_register::{BeatObject, Class, GroupId, Mark, Register, Site, VolumeId};
use twinsite_witness::{ClaimError, Guard, Liveness, ProbeError, ReadError, Sites, Swap, Witness};

use super::{
    evidence::Still,
    marks::{MarkStore, Marks, held},
    schedule::{Pace, Schedule},
};
use crate::shell::random::random;

const PULSE: Duration = Duration::from_secs(1);
/// How often signs are looked at once the other site stands still: each half second counts then.
const HASTE: Duration = Duration::from_millis(500);
const CLAIM: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);
/// Reads of registers, and of beats, at the same time.
const CONCURRENT: usize = 8;
/// Beats that are read per second while the other site shows life.
const BEATS_PER_SECOND: usize = 200;
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

    /// A store of objects is used only after it was seen to keep its conditions.
    async fn admit(self, guard: Arc<Guard>, admit: watch::Sender<bool>) {
        loop {
            let verdict = guard.admit().await;
            self.inner().link.refused = match &verdict {
                Err(error @ ProbeError::Unsafe { .. }) => Some(error.to_string()),
                Ok(()) | Err(ProbeError::Unreachable { .. }) => None,
            };
            (self.tell)(Told::Pair);
            match verdict {
                Ok(()) => {
                    admit.send_replace(true);
                    return;
                }
                Err(error @ ProbeError::Unsafe { .. }) => {
                    tracing::error!(%error, "the witness is not used");
                    return;
                }
                Err(ProbeError::Unreachable { what, .. }) => {
                    self.silence(what);
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Waits until the store may be used; never, if it must not be.
    async fn admission(&self) {
        let mut admitted = self.admitted.clone();
        if admitted.wait_for(|admitted| *admitted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn claim_for_ever(self) {
        self.admission().await;
        loop {
            let claimed = self
                .witness
                .claim(&self.identity.site, &self.identity.claimant)
                .await;
            let sites = match &claimed {
                Err(ClaimError::Read(_)) => None,
                _ => self.witness.sites().await.ok(),
            };
            let both = sites
                .as_ref()
                .is_some_and(|sites: &Sites| sites.claims.len() == 2);
            let wait = match &claimed {
                Ok(_) if both => CLAIM,
                // The other site may be about to claim its name.
                Ok(_) => RETRY,
                Err(ClaimError::Read(ReadError::Unreachable(why))) => {
                    self.silence(why.clone());
                    RETRY
                }
                Err(_) => CLAIM,
            };
            let changed = {
                let mut inner = self.inner();
                let before = (inner.claim.clone(), inner.sites.clone());
                match &claimed {
                    Ok(claim) => inner.claim = Claim::Ours(claim.index),
                    Err(ClaimError::Contended | ClaimError::Read(ReadError::Unreachable(_))) => {}
                    Err(error) => inner.claim = Claim::Refused(error.to_string()),
                }
                if sites.is_some() {
                    inner.sites = sites;
                }
                before != (inner.claim.clone(), inner.sites.clone())
            };
            if !matches!(claimed, Err(ClaimError::Read(_) | ClaimError::Contended)) {
                self.answered();
            }
            if changed {
                match &claimed {
                    Ok(claim) => {
                        tracing::info!(site = self.identity.site, index = %claim.index, "the site is claimed")
                    }
                    Err(error) => {
                        tracing::error!(site = self.identity.site, %error, "the site cannot be claimed: nothing of the pair is done here")
                    }
                }
                (self.tell)(Told::Pair);
            }
            sleep(wait).await;
        }
    }

    fn is_ours(&self) -> bool {
        matches!(self.inner().claim, Claim::Ours(_))
    }

    /// Own sign of life, and the other site's.
    async fn pulse_for_ever(self) {
        self.admission().await;
        let mut nonce = u64::from_le_bytes(random());
        let mut suspected = false;
        loop {
            let started = Instant::now();
            if self.is_ours() {
                nonce = nonce.wrapping_add(1);
                let liveness = Liveness {
                    writer: self.identity.writer.clone(),
                    nonce,
                };
                let (renewed, seen) = tokio::join!(
                    self.witness.renew(&self.identity.site, &liveness),
                    self.witness.liveness(&self.identity.peer),
                );
                let now = Instant::now();
                match (renewed, seen) {
                    (Ok(()), Ok(seen)) => {
                        self.inner().liveness.saw(started, now, seen);
                        self.answered();
                    }
                    (renewed, seen) => {
                        self.inner().liveness.blind();
                        let why = seen.err().map(|error| error.to_string());
                        let why = why.or(renewed.err().map(|error| error.to_string()));
                        self.silence(why.unwrap_or_default());
                    }
                }
                let age = self.inner().liveness.age(now);
                let suspicious = age.is_some_and(|age| age >= SUSPICION);
                // While the other site stands still each second may be the one that decides.
                if suspicious || suspected {
                    (self.tell)(Told::Evidence);
                }
                suspected = suspicious;
            }
            let pulse = if suspected { HASTE } else { PULSE };
            sleep(pulse.saturating_sub(started.elapsed())).await;
        }
    }

    fn answered(&self) {
        let recovered = {
            let mut inner = self.inner();
            let first = inner.link.answered.is_none();
            inner.link.answered = Some((Instant::now(), Timestamp::now()));
            let silent = inner.link.silent.take();
            silent
                .map(|(since, _)| since.elapsed())
                .or(first.then_some(Duration::ZERO))
        };
        if let Some(after) = recovered {
            tracing::info!(witness = ?self.witness, seconds = after.as_secs(), "the witness answers");
            self.wake.notify_one();
            (self.tell)(Told::Pair);
        }
    }

    fn silence(&self, why: String) {
        let news = {
            let mut inner = self.inner();
            let since = inner.link.silent.take().map(|(since, _)| since);
            inner.link.silent = Some((since.unwrap_or_else(Instant::now), why.clone()));
            since.is_none()
        };
        if news {
            tracing::warn!(witness = ?self.witness, why, "the witness does not answer");
            (self.tell)(Told::Pair);
        }
    }

    async fn read_for_ever(self, store: MarkStore) {
        self.admission().await;
        let marks = loop {
            match store.load().await {
                Ok(marks) => break Arc::new(Mutex::new(marks)),
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the marks cannot be read: no register is believed until they are"
                    );
                    sleep(RETRY).await;
                }
            }
        };
        self.inner().marks = Some(Arc::clone(&marks));
        let mut reads = FuturesUnordered::new();
        let mut flush = Instant::now() + PULSE;
        loop {
            let now = Instant::now();
            if now >= flush {
                flush_marks(&store, &marks).await;
                flush = Instant::now() + PULSE;
                continue;
            }
            let silent = self.inner().link.silent.is_some();
            if reads.len() < CONCURRENT
                && !silent
                && self.is_ours()
                && let Some(group) = self.take(now)
            {
                let witness = self.witness.clone();
                reads.push(async move { (group, witness.read(group).await) });
                continue;
            }
            let next = if silent || reads.len() >= CONCURRENT {
                flush
            } else {
                self.inner().schedule.next().unwrap_or(flush).min(flush)
            };
            tokio::select! {
                Some((group, read)) = reads.next() => {
                    if let Err(ReadError::Unreachable(why)) = &read {
                        self.silence(why.clone());
                    }
                    self.learn(group, read);
                    self.inner().schedule.read(Instant::now(), group);
                }
                () = sleep_until(next) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    fn take(&self, now: Instant) -> Option<GroupId> {
        self.inner().schedule.take(now)
    }

    /// Remembers what a read brought.
    fn learn(&self, group: GroupId, read: Result<Option<Register>, ReadError>) {
        let changed = {
            let mut inner = self.inner();
            let inner = &mut *inner;
            let (content, class) = match read {
                Ok(register) => {
                    let Some(marks) = &inner.marks else {
                        return;
                    };
                    let class = held(marks).see(group, register.as_ref());
                    let content = register.map_or(Content::Absent, |register| {
                        Content::Register(Box::new(register))
                    });
                    (content, Some(class))
                }
                Err(ReadError::Corrupt { what, .. }) => (Content::Unusable(what), None),
                Err(ReadError::Unreachable(_)) => return,
            };
            let reading = Reading {
                content,
                class,
                at: Instant::now(),
                read_at: Timestamp::now(),
            };
            let before = inner.readings.insert(group, reading.clone());
            before.is_none_or(|before| {
                (before.content, before.class) != (reading.content, reading.class)
            })
        };
        if changed {
            (self.tell)(Told::Group(group));
        }
    }

    /// Beats of attached volumes: some each second while the other site lives, all while it stands still.
    async fn beats_for_ever(self) {
        self.admission().await;
        let mut last: Option<VolumeId> = None;
        loop {
            let started = Instant::now();
            let (volumes, all) = {
                let inner = self.inner();
                let still = inner
                    .liveness
                    .age(started)
                    .is_some_and(|age| age >= SUSPICION);
                let after = inner
                    .beats
                    .keys()
                    .filter(|id| last.is_none_or(|last| **id > last));
                let before = inner
                    .beats
                    .keys()
                    .filter(|id| last.is_some_and(|last| **id <= last));
                let all: Vec<VolumeId> = after.chain(before).copied().collect();
                (all, still)
            };
            let share = if all {
                volumes.len()
            } else {
                volumes.len().min(BEATS_PER_SECOND)
            };
            last = volumes.get(share.saturating_sub(1)).copied();
            let reads = futures::stream::iter(volumes.into_iter().take(share)).map(|volume| {
                let witness = self.witness.clone();
                async move {
                    let asked = Instant::now();
                    (volume, asked, witness.beat(volume).await)
                }
            });
            let mut reads = std::pin::pin!(reads.buffer_unordered(CONCURRENT));
            while let Some((volume, asked, read)) = reads.next().await {
                let failed = matches!(read, Err(ReadError::Unreachable(_)));
                if let Some(still) = self.inner().beats.get_mut(&volume) {
                    match read {
                        Ok(beat) => still.saw(asked, Instant::now(), beat),
                        Err(_) => still.blind(),
                    }
                }
                if failed {
                    break;
                }
            }
            let pulse = if all { HASTE } else { PULSE };
            sleep(pulse.saturating_sub(started.elapsed())).await;
        }
    }
}

async fn flush_marks(store: &MarkStore, marks: &Mutex<Marks>) {
    if held(marks).is_dirty()
        && let Err(error) = store.flush(marks).await
    {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the marks could not be written: trying again"
        );
    }
}
