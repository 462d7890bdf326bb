//! The witness of each pair, this site's claim of its name there, and its signs of life.
//!
//! An agent comes up whether the witness answers or not. A store of objects is used only after it was
//! seen to keep its conditions. The liveness of the site is renewed by every agent of it, so that a
//! restart of one is not the loss of a site.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{runtime::Handle, task::JoinHandle, time::sleep};
use twinsite_api::{SitePair, SitePairSpec, WitnessSpec};
use twinsite_register::{GroupId, Site};
use twinsite_witness::{
    Bucket, BucketCredentials, ClaimError, Directory, Guard, Kubernetes, KubernetesError, Liveness,
    Observer, ProbeError, Sites, Store, Witness, WitnessHandle,
};

use super::secrets;
use crate::objects::Secret;

const LIVENESS_INTERVAL: Duration = Duration::from_secs(1);
const CLAIM_RETRY: Duration = Duration::from_secs(5);
const PROBE_RETRY: Duration = Duration::from_secs(2);
/// How often a register is read although nobody here uses it (protocol 2.3 rule 6).
const POLL_INTERVAL: Duration = Duration::from_secs(10);

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
}

/// What of a pair concerns this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// The index that the objects of this node give to its site.
    pub index: Option<Site>,
    /// Groups whose legs stand here.
    pub groups: Vec<GroupId>,
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
                used.interest = interest;
                used.interested.iter().for_each(JoinHandle::abort);
                used.interested = interested(used, &self.identity, &self.wake, &self.runtime);
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
            .for_each(JoinHandle::abort);
    }
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

/// A store, and whether it must show first that it keeps its conditions.
enum Opened {
    Trusted(Arc<dyn Store>),
    Unproven(Arc<dyn Store>),
}

/// The Secret with which this site reaches the witness.
pub fn secret_name<'a>(pair: &'a SitePairSpec, own_site: &str) -> Option<&'a str> {
    let witness = &pair.witness;
    if let Some(store) = &witness.object_store {
        return Some(&store.secret);
    }
    if let Some(cluster) = &witness.kubernetes {
        return Some(&cluster.kubeconfig_secret);
    }
    let elsewhere = witness.site.as_ref().is_some_and(|site| site != own_site);
    pair.peer_kubeconfig_secret.as_deref().filter(|_| elsewhere)
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

fn open(
    spec: &WitnessSpec,
    named: Option<&str>,
    secret: Option<&Secret>,
    identity: &Identity,
) -> Result<Opened, String> {
    if let Some(directory) = &spec.directory {
        let directory =
            Directory::at(Path::new(&directory.path)).map_err(|error| error.to_string())?;
        return Ok(Opened::Trusted(Arc::new(directory)));
    }
    let own = spec.site.as_ref().filter(|site| **site == identity.site);
    if own.is_some() {
        let cluster = identity.cluster.clone().ok_or(
            "witness.site is the API server of a cluster, and this agent runs without one: use witness.kubernetes, witness.objectStore or witness.directory",
        )?;
        return kubernetes(Kubernetes::open(cluster.config, &cluster.namespace));
    }
    let name = named.ok_or(
        "the witness is the other site's API server: name the Secret with its kubeconfig in peerKubeconfigSecret",
    )?;
    let secret =
        secret.ok_or_else(|| secrets::SecretFault::Missing(name.to_owned()).to_string())?;
    let text = |key: &'static str| {
        secret
            .text(key)
            .ok_or_else(|| no_key(name, key).to_string())
    };
    if let Some(bucket) = &spec.object_store {
        let credentials = BucketCredentials {
            access_key_id: text("accessKeyId")?,
            secret_access_key: text("secretAccessKey")?,
            region: secret.text("region"),
        };
        let bucket = Bucket::open(&bucket.url, &credentials).map_err(|error| error.to_string())?;
        return Ok(Opened::Unproven(Arc::new(bucket)));
    }
    // `value` is what other tools call the same key.
    let kubeconfig = text("kubeconfig").or_else(|missing| secret.text("value").ok_or(missing))?;
    // Releases at both sites have one namespace.
    let release = identity.cluster.as_ref().map(|own| own.namespace.as_str());
    let namespace = spec
        .kubernetes
        .as_ref()
        .map_or(release, |cluster| Some(cluster.namespace.as_str()));
    kubernetes(Kubernetes::from_kubeconfig(&kubeconfig, namespace))
}

fn no_key(name: &str, key: &'static str) -> secrets::SecretFault {
    secrets::SecretFault::NoKey {
        name: name.to_owned(),
        key,
    }
}

fn kubernetes(opened: Result<Kubernetes, KubernetesError>) -> Result<Opened, String> {
    match opened {
        Ok(store) => Ok(Opened::Unproven(Arc::new(store))),
        Err(error) => Err(told(&error)),
    }
}

/// An error with its cause.
fn told(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn update(state: &Mutex<PairState>, change: impl FnOnce(&mut PairState)) {
    change(&mut state.lock().unwrap_or_else(PoisonError::into_inner));
}

async fn admit(guard: Arc<Guard>, state: Arc<Mutex<PairState>>) {
    loop {
        let verdict = guard.admit().await;
        update(&state, |state| {
            state.refused = verdict.as_ref().err().map(ToString::to_string)
        });
        match verdict {
            Ok(()) => return,
            Err(error @ ProbeError::Unsafe { .. }) => {
                tracing::error!(%error, "the witness is not used");
                return;
            }
            Err(ProbeError::Unreachable { .. }) => sleep(PROBE_RETRY).await,
        }
    }
}

async fn renew(witness: Arc<Witness>, identity: Identity, state: Arc<Mutex<PairState>>) {
    let start: [u8; 8] = super::durable::random().unwrap_or_default();
    let mut nonce = u64::from_le_bytes(start);
    let (mut told, mut failures) = (None, 0u32);
    loop {
        nonce = nonce.wrapping_add(1);
        let liveness = Liveness {
            writer: identity.node.clone(),
            nonce,
        };
        let renewed = witness.renew(&identity.site, &liveness).await;
        let answers = renewed.is_ok();
        update(&state, |state| state.reachable = Some(answers));
        failures = if answers {
            0
        } else {
            failures.saturating_add(1)
        };
        // One failure is not news: the store may be being probed.
        if told != Some(answers) && (answers || failures > 1) {
            told = Some(answers);
            match renewed {
                Ok(()) => tracing::info!(?witness, "the witness answers"),
                Err(error) => tracing::warn!(?witness, %error, "the witness does not answer"),
            }
        }
        sleep(LIVENESS_INTERVAL).await;
    }
}

async fn claim(
    witness: Arc<Witness>,
    identity: Identity,
    index: Site,
    state: Arc<Mutex<PairState>>,
    wake: Wake,
) {
    loop {
        let claimed = witness
            .claim_as(&identity.site, &identity.claimant, index)
            .await;
        // One that does not answer is not asked again before the next round.
        let sites = match claimed {
            Err(ClaimError::Read(_)) => None,
            _ => witness.sites().await.ok(),
        };
        update(&state, |state| {
            state.tried = true;
            if let Some(sites) = sites {
                state.sites = sites;
            }
            match &claimed {
                Ok(_) => state.claim_error = None,
                Err(ClaimError::Read(_) | ClaimError::Contended) => {}
                Err(error) => state.claim_error = Some(error.to_string()),
            }
        });
        wake();
        match claimed {
            Ok(claim) => {
                tracing::info!(site = identity.site, index = %claim.index, "the site is claimed");
                return;
            }
            Err(ClaimError::Read(_) | ClaimError::Contended) => {}
            Err(error) => {
                tracing::error!(site = identity.site, %error, "the site cannot be claimed: nothing attaches here")
            }
        }
        sleep(CLAIM_RETRY).await;
    }
}

/// Reads registers for the sake of the marks, one after the other.
async fn poll(witness: WitnessHandle, groups: Vec<GroupId>) {
    let share = u32::try_from(groups.len()).unwrap_or(u32::MAX).max(1);
    loop {
        for group in &groups {
            witness.read(*group, |_| {});
            sleep(POLL_INTERVAL / share).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Objects, parse_file};
    use std::time::Instant;

    fn pairs(witness: &str) -> Objects {
        let text = format!(
            "apiVersion: twinsite.io/v1alpha1\nkind: SitePair\nmetadata: {{name: ctrc}}\nspec:\n  sites: [{{name: medical}}, {{name: research}}]\n  witness: {witness}\n"
        );
        let mut objects = Objects::default();
        for (_, object) in parse_file("f", &text).objects {
            objects.add(object).unwrap();
        }
        objects
    }

    fn witnesses(site: &str, claimant: &str) -> Witnesses {
        let identity = Identity {
            site: site.to_owned(),
            node: "n".to_owned(),
            claimant: claimant.to_owned(),
            cluster: None,
        };
        Witnesses::new(
            identity,
            Arc::new(|_| {}),
            Arc::new(|| {}),
            Handle::current(),
        )
    }

    async fn until(witnesses: &Witnesses, holds: impl Fn(&PairState) -> bool) {
        let start = Instant::now();
        while !witnesses.states().get("ctrc").is_some_and(&holds) {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "{:?}",
                witnesses.states()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn interest(index: Site) -> BTreeMap<String, Interest> {
        BTreeMap::from([(
            "ctrc".to_owned(),
            Interest {
                index: Some(index),
                groups: Vec::new(),
            },
        )])
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_site_claims_its_name_and_shows_life_and_a_second_claimant_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let objects = pairs(&format!(
            "{{directory: {{path: {}}}}}",
            dir.path().display()
        ));
        let mut first = witnesses("medical", "one");
        first.set(&objects.pairs, &interest(Site::A), &objects.secrets);
        until(&first, |state| {
            state.reachable == Some(true) && state.sites.named("medical").is_some()
        })
        .await;
        let witness = first.handle("ctrc").unwrap();
        assert!(
            witness
                .witness()
                .liveness("medical")
                .await
                .unwrap()
                .is_some()
        );
        let mut second = witnesses("medical", "two");
        second.set(&objects.pairs, &interest(Site::A), &objects.secrets);
        until(&second, |state| {
            state
                .claim_error
                .as_ref()
                .is_some_and(|error| error.contains("claimed by one"))
        })
        .await;
        let mut wrong = witnesses("research", "three");
        wrong.set(&objects.pairs, &interest(Site::A), &objects.secrets);
        until(&wrong, |state| {
            state
                .claim_error
                .as_ref()
                .is_some_and(|error| error.contains("wrong way round"))
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_witness_that_comes_later_is_found_then() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("later");
        let objects = pairs(&format!("{{directory: {{path: {}}}}}", path.display()));
        let mut witnesses = witnesses("medical", "one");
        witnesses.set(&objects.pairs, &interest(Site::A), &objects.secrets);
        until(&witnesses, |state| state.reachable == Some(false)).await;
        std::fs::create_dir(&path).unwrap();
        until(&witnesses, |state| state.reachable == Some(true)).await;
    }

    #[tokio::test]
    async fn new_credentials_reach_those_who_hold_the_witness() {
        let secret = |token: &str, server: &str| {
            let text = format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: w\nclusters: [{{name: w, cluster: {{server: 'https://{server}:6443'}}}}]\ncontexts: [{{name: w, context: {{cluster: w, user: w}}}}]\nusers: [{{name: w, user: {{token: {token}}}}}]\n"
            );
            let values = BTreeMap::from([("value".to_owned(), text.into_bytes())]);
            let name = "s".to_owned();
            BTreeMap::from([(name.clone(), Secret { name, values })])
        };
        let objects = pairs("{kubernetes: {kubeconfigSecret: s, namespace: n}}");
        let mut witnesses = witnesses("medical", "one");
        let mut place = |token: &str, server: &str| {
            witnesses.set(&objects.pairs, &BTreeMap::new(), &secret(token, server));
            Arc::as_ptr(witnesses.handle("ctrc").unwrap().witness())
        };
        let first = place("old", "192.0.2.9");
        assert_eq!(place("new", "192.0.2.9"), first);
        assert_ne!(
            place("new", "192.0.2.10"),
            first,
            "another place is another witness"
        );
    }

    #[tokio::test]
    async fn what_cannot_be_a_witness_here_says_so() {
        for (spec, word) in [
            (
                "{kubernetes: {kubeconfigSecret: s, namespace: n}}",
                "Secret s is not there",
            ),
            ("{site: medical}", "this agent runs without one"),
            ("{site: research}", "peerKubeconfigSecret"),
            (
                "{objectStore: {url: 'https://h/b', secret: s}}",
                "Secret s is not there",
            ),
        ] {
            let objects = pairs(spec);
            let mut witnesses = witnesses("medical", "one");
            witnesses.set(&objects.pairs, &BTreeMap::new(), &objects.secrets);
            assert!(witnesses.handle("ctrc").unwrap_err().contains(word));
        }
        let objects = pairs("{directory: {path: /w}}");
        let mut witnesses = witnesses("moon", "one");
        witnesses.set(&objects.pairs, &BTreeMap::new(), &objects.secrets);
        assert!(
            witnesses
                .handle("ctrc")
                .unwrap_err()
                .contains("not part of")
        );
    }
}
