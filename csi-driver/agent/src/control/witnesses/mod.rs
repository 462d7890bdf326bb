//! The witness of each pair, this site's claim of its name there, and its signs of life.
//!
//! An agent comes up whether the witness answers or not. A store of objects is used only after it was
//! seen to keep its conditions. The liveness of the site is renewed by every agent of it, so that a
//! restart of one is not the loss of a site.
//! Here: which witnesses are in use. `open`: how one is reached; `signs`: what is done there all the time.

mod open;
mod signs;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{runtime::Handle, task::JoinHandle};
use twinsite_api::{SitePair, WitnessSpec};
use twinsite_register::{GroupId, Site};
use twinsite_witness::{Guard, Observer, Sites, Store as _, Witness, WitnessHandle};

use crate::objects::Secret;
pub use open::secret_name;
use open::{Opened, open};
use signs::{admit, claim, poll, renew, wait_for_holders};

/// Who claims and signs.
#[derive(Clone, Debug)]
pub struct Identity {
    pub site: String,
    pub node: String,
    /// Who this site is, at the witness: the same for all its nodes, another one for any other cluster.
    pub claimant: String,
    /// The cluster that this node belongs to, if to one.
    pub cluster: Option<OwnCluster>,
}

/// The node's own cluster, as a possible witness.
#[derive(Clone, Debug)]
pub struct OwnCluster {
    pub config: kube::Config,
    /// The release namespace.
    pub namespace: String,
}

/// The witnesses that this node uses, by pair.
pub struct Witnesses {
    identity: Identity,
    observer: Observer,
    /// Called when what is known of a pair has changed.
    wake: Wake,
    runtime: Handle,
    pairs: BTreeMap<String, InUse>,
}

pub type Wake = Arc<dyn Fn() + Send + Sync>;

struct InUse {
    spec: WitnessSpec,
    secret: Option<Secret>,
    /// The index that the objects give this site, and the groups that are watched.
    interest: Interest,
    handle: Result<WitnessHandle, String>,
    /// By which new credentials reach those who hold the handle.
    guard: Option<Arc<Guard>>,
    state: Arc<Mutex<PairState>>,
    /// Probe and signs of life.
    tasks: Vec<JoinHandle<()>>,
    /// Claim and reads for the marks.
    interested: Vec<JoinHandle<()>>,
    /// Reads of registers whose holder is waited for.
    waiting: Option<JoinHandle<()>>,
}

/// What of a pair concerns this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// The index that the objects of this node give to its site.
    pub index: Option<Site>,
    /// Groups whose legs stand here.
    pub groups: Vec<GroupId>,
    /// Groups that are to be taken as soon as nobody holds them.
    pub waited_for: Vec<GroupId>,
}

/// What is known of a pair's witness.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairState {
    /// Whether the last sign of life was taken.
    pub reachable: Option<bool>,
    /// Why the store is not used.
    pub refused: Option<String>,
    /// Why the site's name is not ours.
    pub claim_error: Option<String>,
    /// Whether the claim was tried, with whatever result.
    pub tried: bool,
    pub sites: Sites,
}

impl Witnesses {
    pub fn new(identity: Identity, observer: Observer, wake: Wake, runtime: Handle) -> Self {
        Self {
            identity,
            observer,
            wake,
            runtime,
            pairs: BTreeMap::new(),
        }
    }

    /// Uses exactly these pairs from now on.
    pub fn set(
        &mut self,
        pairs: &BTreeMap<String, SitePair>,
        interests: &BTreeMap<String, Interest>,
        secrets: &BTreeMap<String, Secret>,
    ) {
        let own = |pair: &SitePair| {
            pair.spec
                .sites
                .iter()
                .any(|site| site.name == self.identity.site)
        };
        let wanted: BTreeMap<&String, &SitePair> =
            pairs.iter().filter(|(_, pair)| own(pair)).collect();
        self.pairs.retain(|name, _| wanted.contains_key(name));
        // Clients of clusters spawn on the runtime when they are made.
        let runtime = self.runtime.clone();
        let _entered = runtime.enter();
        for (name, pair) in wanted {
            let interest = interests.get(name).cloned().unwrap_or_default();
            let named = secret_name(&pair.spec, &self.identity.site);
            let secret = named.and_then(|name| secrets.get(name)).cloned();
            let spec = &pair.spec.witness;
            match self.pairs.get_mut(name).filter(|used| used.spec == *spec) {
                Some(used) if used.secret == secret => {}
                Some(used) if renewed(used, named, secret.as_ref(), &self.identity) => {
                    tracing::info!(pair = name, "the witness has new credentials");
                    used.secret = secret;
                }
                Some(_) | None => {
                    // Tasks of the old one end when it is dropped.
                    let used = self.begin(name, spec.clone(), named, secret);
                    self.pairs.insert(name.clone(), used);
                }
            }
            if let Some(used) = self
                .pairs
                .get_mut(name)
                .filter(|used| used.interest != interest)
            {
                let before = std::mem::replace(&mut used.interest, interest);
                if before.waited_for != used.interest.waited_for {
                    used.waiting.take().inspect(JoinHandle::abort);
                    used.waiting = waiting(used, &self.runtime);
                }
                let same =
                    (before.index, &before.groups) == (used.interest.index, &used.interest.groups);
                if !same {
                    used.interested.iter().for_each(JoinHandle::abort);
                    used.interested = interested(used, &self.identity, &self.wake, &self.runtime);
                }
            }
        }
    }

    fn begin(
        &self,
        pair: &str,
        spec: WitnessSpec,
        named: Option<&str>,
        secret: Option<Secret>,
    ) -> InUse {
        let state = Arc::new(Mutex::new(PairState::default()));
        let mut tasks = Vec::new();
        let mut guard = None;
        let opened = open(&spec, named, secret.as_ref(), &self.identity);
        let handle = opened.and_then(|opened| {
            let store = match opened {
                Opened::Trusted(store) => store,
                Opened::Unproven(store) => {
                    let guarded = Arc::new(Guard::new(store));
                    guard = Some(Arc::clone(&guarded));
                    tasks.push(
                        self.runtime
                            .spawn(admit(Arc::clone(&guarded), Arc::clone(&state))),
                    );
                    guarded
                }
            };
            let witness = Witness::new(store, pair).map_err(|error| error.to_string())?;
            let handle = WitnessHandle::new(Arc::new(witness), self.runtime.clone());
            Ok(handle.observed_by(Arc::clone(&self.observer)))
        });
        match &handle {
            Ok(handle) => {
                let renew = renew(
                    Arc::clone(handle.witness()),
                    self.identity.clone(),
                    Arc::clone(&state),
                );
                tasks.push(self.runtime.spawn(renew));
            }
            Err(why) => update(&state, |state| state.refused = Some(why.clone())),
        }
        InUse {
            spec,
            secret,
            interest: Interest::default(),
            handle,
            guard,
            state,
            tasks,
            interested: Vec::new(),
            waiting: None,
        }
    }

    /// The witness of a pair.
    pub fn handle(&self, pair: &str) -> Result<WitnessHandle, String> {
        match self.pairs.get(pair) {
            Some(used) => used.handle.clone(),
            None => Err(format!(
                "site {} is not part of SitePair {pair}",
                self.identity.site
            )),
        }
    }

    /// Pairs whose claim has not been tried yet: nothing should attach before it was.
    pub fn untried(&self) -> BTreeSet<String> {
        let untried = |used: &InUse| {
            let tried = used
                .state
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .tried;
            used.handle.is_ok() && used.interest.index.is_some() && !tried
        };
        self.pairs
            .iter()
            .filter(|(_, used)| untried(used))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// What is known of the witness of each pair.
    pub fn states(&self) -> BTreeMap<String, PairState> {
        let state = |used: &InUse| {
            used.state
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        };
        self.pairs
            .iter()
            .map(|(name, used)| (name.clone(), state(used)))
            .collect()
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.tasks
            .iter()
            .chain(&self.interested)
            .chain(&self.waiting)
            .for_each(JoinHandle::abort);
    }
}

/// Reads of the registers whose holder is waited for.
fn waiting(used: &InUse, runtime: &Handle) -> Option<JoinHandle<()>> {
    let groups = &used.interest.waited_for;
    let handle = used.handle.as_ref().ok().filter(|_| !groups.is_empty())?;
    Some(runtime.spawn(wait_for_holders(handle.clone(), groups.clone())))
}

/// What is done about a pair because of this node's objects.
fn interested(
    used: &InUse,
    identity: &Identity,
    wake: &Wake,
    runtime: &Handle,
) -> Vec<JoinHandle<()>> {
    let Ok(handle) = &used.handle else {
        return Vec::new();
    };
    let mut tasks = Vec::new();
    if let Some(index) = used.interest.index {
        let claim = claim(
            Arc::clone(handle.witness()),
            identity.clone(),
            index,
            Arc::clone(&used.state),
            Arc::clone(wake),
        );
        tasks.push(runtime.spawn(claim));
    }
    if !used.interest.groups.is_empty() {
        tasks.push(runtime.spawn(poll(handle.clone(), used.interest.groups.clone())));
    }
    tasks
}

/// Whether only the credentials of the same place have changed, and were handed on.
fn renewed(
    used: &InUse,
    named: Option<&str>,
    secret: Option<&Secret>,
    identity: &Identity,
) -> bool {
    let Some(guard) = &used.guard else {
        return false;
    };
    match open(&used.spec, named, secret, identity) {
        Ok(Opened::Unproven(store)) if store.place() == guard.place() => {
            guard.renew(store);
            true
        }
        Ok(_) | Err(_) => false,
    }
}

fn update(state: &Mutex<PairState>, change: impl FnOnce(&mut PairState)) {
    change(&mut state.lock().unwrap_or_else(PoisonError::into_inner));
}
