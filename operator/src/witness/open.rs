//! From a SitePair's `witness` to a store that can be asked.
//!
//! | spec | store | through the probe |
//! |---|---|---|
//! | `kubernetes` | objects in a third cluster, by the kubeconfig of a Secret | yes |
//! | `site` | objects in the cluster of that site: own client, or the peer's kubeconfig | yes |
//! | `objectStore` | objects in a bucket, by the keys of a Secret | yes |
//! | `directory` | files of one machine | no |
//!
//! Not here: what is done with it ([`super::access`]).

use std::{path::Path, sync::Arc};

use kube::Config;
use twinsite_api::{SitePair, WitnessSpec};
use twinsite_witness::{
    BadPairName, Bucket, BucketCredentials, BucketError, Directory, DirectoryError, Guard,
    Kubernetes, KubernetesError, Store, Witness,
};

use crate::{
    peer::{Kubeconfig, KubeconfigError},
    shell::secrets::{Data, Known},
};

/// A witness, and the guard that must admit its store first.
pub struct Opened {
    pub witness: Witness,
    pub guard: Option<Arc<Guard>>,
}

/// What an open witness was opened from: another value means to open it anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    pub pair: String,
    pub spec: WitnessSpec,
    /// The Secret that it needs, if it needs one.
    pub secret: Option<Known>,
    /// Name of the Secret that leads to the peer's cluster.
    pub peer_secret: Option<String>,
    /// For `witness.site`: whether that is this cluster.
    pub own_site: bool,
    /// The cluster that a person says this one replaces.
    pub replaces: Option<String>,
    /// The release namespace, where the objects of a witness at a site live.
    pub namespace: String,
}

/// Why a witness cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the Secret {0} has not been read yet")]
    NotRead(String),
    #[error("the Secret {0} is not there: make it in the release namespace")]
    NoSecret(String),
    #[error("the Secret {name} has no key {key}")]
    NoKey { name: String, key: &'static str },
    #[error("witness.site names the peer's cluster, and peerKubeconfigSecret is not set")]
    NoPeer,
    #[error("spec.witness names no witness")]
    Nothing,
    #[error("the Secret {name} cannot be used: {source}")]
    Kubeconfig {
        name: String,
        source: KubeconfigError,
    },
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Pair(#[from] BadPairName),
}

/// Opens the witness of a recipe. Nothing is asked yet.
///
/// # Errors
/// Something that the recipe names is missing or cannot be used.
pub fn open(recipe: &Recipe, own: &Config) -> Result<Opened, OpenError> {
    let (store, guarded): (Arc<dyn Store>, bool) = store(recipe, own)?;
    if !guarded {
        return Ok(Opened {
            witness: Witness::new(store, &recipe.pair)?,
            guard: None,
        });
    }
    let guard = Arc::new(Guard::new(store));
    Ok(Opened {
        witness: Witness::new(Arc::clone(&guard) as Arc<dyn Store>, &recipe.pair)?,
        guard: Some(guard),
    })
}

fn store(recipe: &Recipe, own: &Config) -> Result<(Arc<dyn Store>, bool), OpenError> {
    if let Some(directory) = &recipe.spec.directory {
        return Ok((Arc::new(Directory::at(Path::new(&directory.path))?), false));
    }
    if let Some(bucket) = &recipe.spec.object_store {
        let data = data(recipe, &bucket.secret)?;
        let credentials = BucketCredentials {
            access_key_id: text(&data, &bucket.secret, "accessKeyId")?,
            secret_access_key: text(&data, &bucket.secret, "secretAccessKey")?,
            region: text(&data, &bucket.secret, "region").ok(),
        };
        return Ok((Arc::new(Bucket::open(&bucket.url, &credentials)?), true));
    }
    if let Some(third) = &recipe.spec.kubernetes {
        let store = from_secret(recipe, &third.kubeconfig_secret, &third.namespace)?;
        return Ok((Arc::new(store), true));
    }
    if recipe.spec.site.is_some() && recipe.own_site {
        return Ok((
            Arc::new(Kubernetes::open(own.clone(), &recipe.namespace)?),
            true,
        ));
    }
    if recipe.spec.site.is_some() {
        let secret = recipe.peer_secret.as_deref().ok_or(OpenError::NoPeer)?;
        return Ok((
            Arc::new(from_secret(recipe, secret, &recipe.namespace)?),
            true,
        ));
    }
    Err(OpenError::Nothing)
}

fn from_secret(recipe: &Recipe, secret: &str, namespace: &str) -> Result<Kubernetes, OpenError> {
    let data = data(recipe, secret)?;
    let kubeconfig = Kubeconfig::from_secret(&data).map_err(|source| OpenError::Kubeconfig {
        name: secret.to_owned(),
        source,
    })?;
    Ok(Kubernetes::from_kubeconfig(
        kubeconfig.text(),
        Some(namespace),
    )?)
}

/// Name of the Secret that a witness needs.
pub fn secret_of(pair: &SitePair, own_site: &str) -> Option<String> {
    let spec = &pair.spec.witness;
    let kubernetes = spec
        .kubernetes
        .as_ref()
        .map(|it| it.kubeconfig_secret.clone());
    let bucket = spec.object_store.as_ref().map(|it| it.secret.clone());
    let at_peer = spec.site.as_ref().is_some_and(|site| site != own_site);
    let peer = at_peer
        .then(|| pair.spec.peer_kubeconfig_secret.clone())
        .flatten();
    kubernetes.or(bucket).or(peer)
}

fn data(recipe: &Recipe, name: &str) -> Result<Arc<Data>, OpenError> {
    match &recipe.secret {
        Some(Known::Present(data)) => Ok(Arc::clone(data)),
        Some(Known::Unknown) => Err(OpenError::NotRead(name.to_owned())),
        Some(Known::Absent) | None => Err(OpenError::NoSecret(name.to_owned())),
    }
}

fn text(data: &Data, name: &str, key: &'static str) -> Result<String, OpenError> {
    data.get(key)
        .and_then(|value| String::from_utf8(value.clone()).ok())
        .map(|value| value.trim().to_owned())
        .filter(|value| !value.is_empty())
        .ok_or_else(|| OpenError::NoKey {
            name: name.to_owned(),
            key,
        })
}
