//! The parties that a SitePair names, the witness and the peer's cluster, opened and kept open.
//!
//! Every replica keeps them: a standby shows the site's life and knows its claim, so that a change of leader is no gap.
//! Invariants: what is open follows the SitePair and the Secrets within a moment, without a restart; a party that cannot be
//! opened is a sentence in the status and stops nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Client, Config, ResourceExt as _};
use twinsite_api::{LegIndex, SitePair};
use twinsite_register::{GroupId, Site};

use crate::{
    peer::{self, Kubeconfig, Peer},
    shell::secrets::{Known, Secrets},
    witness::{
        self, Access, Identity,
        marks::MarkStore,
        open::{Recipe, open, secret_of},
    },
};

/// What happened to a party of a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Witness(String, witness::Told),
    Peer(String, peer::Told),
}

/// Called with every change; must not block.
pub type Tell = Arc<dyn Fn(Told) + Send + Sync>;

/// What the links of all pairs need.
pub struct Links {
    client: Client,
    config: Config,
    namespace: String,
    site: String,
    claimant: String,
    writer: String,
    secrets: Secrets,
    tell: Tell,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    leading: bool,
    pairs: BTreeMap<String, Pair>,
}

/// Who this process is.
#[derive(Clone, Debug)]
pub struct Own {
    pub site: String,
    pub namespace: String,
    /// UID of the kube-system namespace.
    pub claimant: String,
    /// Name of this process.
    pub writer: String,
}

struct Pair {
    witness: Party<Recipe, Access>,
    peer: Party<PeerRecipe, Peer>,
}

/// Something that is opened from a recipe and opened anew when that changes.
struct Party<R, T> {
    recipe: R,
    open: Result<Arc<T>, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PeerRecipe {
    /// The pair names no Secret: there is no peer to read.
    None,
    Secret(String, Known),
}

/// The parties of one pair now.
#[derive(Clone, Debug)]
pub struct Parties {
    /// The witness, or why it cannot be opened.
    pub witness: Result<Arc<Access>, String>,
    /// The peer, or why it cannot be opened; `None` inside: none is named.
    pub peer: Result<Option<Arc<Peer>>, String>,
}

impl Links {
    /// No links yet.
    pub fn new(client: Client, config: Config, own: Own, secrets: Secrets, tell: Tell) -> Self {
        Self {
            client,
            config,
            namespace: own.namespace,
            site: own.site,
            claimant: own.claimant,
            writer: own.writer,
            secrets,
            tell,
            inner: Mutex::default(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The parties of a pair, as far as they are open.
    pub fn parties(&self, pair: &str) -> Option<Parties> {
        let inner = self.inner();
        let pair = inner.pairs.get(pair)?;
        Some(Parties {
            witness: pair.witness.open.clone(),
            peer: match (&pair.peer.recipe, &pair.peer.open) {
                (PeerRecipe::None, _) => Ok(None),
                (PeerRecipe::Secret(..), Ok(peer)) => Ok(Some(Arc::clone(peer))),
                (PeerRecipe::Secret(..), Err(why)) => Err(why.clone()),
            },
        })
    }

    /// The witness of a pair, if it is open.
    pub fn witness(&self, pair: &str) -> Option<Arc<Access>> {
        self.parties(pair)?.witness.ok()
    }

    /// Nothing of this group is read any more, in any pair.
    pub fn forget(&self, group: GroupId) {
        for pair in self.inner().pairs.values() {
            if let Ok(access) = &pair.witness.open {
                access.forget(group);
            }
        }
    }

    /// From now on registers and beats are read too.
    pub fn lead(&self) {
        let mut inner = self.inner();
        inner.leading = true;
        for (name, pair) in &inner.pairs {
            if let Ok(access) = &pair.witness.open {
                self.lead_one(name, access);
            }
        }
    }

    fn lead_one(&self, pair: &str, access: &Access) {
        match MarkStore::new(self.client.clone(), &self.namespace, pair) {
            Ok(marks) => access.lead(marks),
            Err(error) => tracing::error!(pair, %error, "no register of this pair is read"),
        }
    }

    /// Opens what is new in these pairs, closes what is gone. All pairs, each time.
    pub async fn follow(&self, pairs: &[Arc<SitePair>]) {
        let mut secrets = BTreeSet::new();
        let mut names = BTreeSet::new();
        for pair in pairs {
            let ours = pair.spec.sites.iter().any(|site| site.name == self.site);
            if ours && pair.metadata.deletion_timestamp.is_none() {
                secrets.extend(secret_of(pair, &self.site));
                secrets.extend(pair.spec.peer_kubeconfig_secret.clone());
                names.insert(pair.name_any());
                self.follow_one(pair).await;
            }
        }
        self.secrets.keep(&secrets);
        self.inner().pairs.retain(|name, _| names.contains(name));
    }

    async fn follow_one(&self, pair: &SitePair) {
        let name = pair.name_any();
        let witness = Recipe {
            pair: name.clone(),
            spec: pair.spec.witness.clone(),
            secret: secret_of(pair, &self.site).map(|secret| self.secrets.get(&secret)),
            peer_secret: pair.spec.peer_kubeconfig_secret.clone(),
            own_site: pair.spec.witness.site.as_deref() == Some(self.site.as_str()),
            replaces: replaces(&pair.metadata).map(str::to_owned),
            namespace: self.namespace.clone(),
        };
        let peer = pair
            .spec
            .peer_kubeconfig_secret
            .as_ref()
            .map_or(PeerRecipe::None, |secret| {
                PeerRecipe::Secret(secret.clone(), self.secrets.get(secret))
            });
        let (old_witness, old_peer) = {
            let inner = self.inner();
            let known = inner.pairs.get(&name);
            let old_witness = known
                .filter(|known| known.witness.recipe == witness)
                .map(|known| known.witness.open.clone());
            let old_peer = known
                .filter(|known| known.peer.recipe == peer)
                .map(|known| known.peer.open.clone());
            (old_witness, old_peer)
        };
        if old_witness.is_some() && old_peer.is_some() {
            return;
        }
        let open_witness = match old_witness {
            Some(open) => open,
            None => self.open_witness(pair, &witness),
        };
        let open_peer = match old_peer {
            Some(open) => open,
            None => self.open_peer(&name, &peer).await,
        };
        let pair = Pair {
            witness: Party {
                recipe: witness,
                open: open_witness,
            },
            peer: Party {
                recipe: peer,
                open: open_peer,
            },
        };
        {
            // Under one lock with `lead`: whichever comes second sees the other.
            let mut inner = self.inner();
            if let (true, Ok(access)) = (inner.leading, &pair.witness.open) {
                self.lead_one(&name, access);
            }
            inner.pairs.insert(name.clone(), pair);
        }
        (self.tell)(Told::Witness(name, witness::Told::Pair));
    }

    fn open_witness(&self, pair: &SitePair, recipe: &Recipe) -> Result<Arc<Access>, String> {
        let opened = open(recipe, &self.config).map_err(|error| error.to_string())?;
        let peer = pair
            .spec
            .sites
            .iter()
            .find(|site| site.name != self.site)
            .map_or_else(String::new, |site| site.name.clone());
        let identity = Identity {
            site: self.site.clone(),
            peer,
            claimant: self.claimant.clone(),
            writer: self.writer.clone(),
            replaces: recipe.replaces.clone(),
        };
        let (name, tell) = (recipe.pair.clone(), Arc::clone(&self.tell));
        let access = Access::start(
            opened.witness,
            opened.guard,
            identity,
            remembered(pair, &self.site, &self.claimant),
            Arc::new(move |told| tell(Told::Witness(name.clone(), told))),
        );
        Ok(Arc::new(access))
    }

    async fn open_peer(&self, pair: &str, recipe: &PeerRecipe) -> Result<Arc<Peer>, String> {
        let data = match recipe {
            PeerRecipe::None => return Err(String::new()),
            PeerRecipe::Secret(name, Known::Absent) => {
                return Err(format!(
                    "the Secret {name} is not there: make it with `kubectl twinsite peer create-secret`"
                ));
            }
            PeerRecipe::Secret(name, Known::Unknown) => {
                return Err(format!("the Secret {name} has not been read yet"));
            }
            PeerRecipe::Secret(name, Known::Present(data)) => (name, data),
        };
        let (secret, data) = data;
        let failed = |error| format!("the Secret {secret} cannot be used: {error}");
        let kubeconfig = Kubeconfig::from_secret(data).map_err(failed)?;
        let client = kubeconfig.client().await.map_err(failed)?;
        let (name, tell) = (pair.to_owned(), Arc::clone(&self.tell));
        let tell = Arc::new(move |told| tell(Told::Peer(name.clone(), told)));
        Ok(Arc::new(Peer::start(client, pair, tell)))
    }
}

/// Annotation of a SitePair by which a person says that this cluster replaces one that is gone for good: that one's id.
pub const REPLACES_ANNOTATION: &str = "twinsite.io/replaces-cluster";

/// The cluster that a person says this one replaces.
pub fn replaces(metadata: &ObjectMeta) -> Option<&str> {
    let annotations = metadata.annotations.as_ref()?;
    annotations.get(REPLACES_ANNOTATION).map(String::as_str)
}

/// The claim that the status shows as ours.
fn remembered(pair: &SitePair, site: &str, claimant: &str) -> Option<Site> {
    let claims = &pair.status.as_ref()?.claims;
    let ours = claims
        .iter()
        .find(|claim| claim.name == site && claim.claimant == claimant)?;
    Some(match ours.index {
        LegIndex::A => Site::A,
        LegIndex::B => Site::B,
    })
}
