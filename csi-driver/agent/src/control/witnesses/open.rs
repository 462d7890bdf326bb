//! From what a SitePair says of its witness, and the Secret that it names, to a store.
//!
//! A directory is trusted; a bucket or a cluster must show first that it keeps its conditions.

use std::{path::Path, sync::Arc};

use twinsite_api::{SitePairSpec, WitnessSpec, told};
use twinsite_witness::{Bucket, BucketCredentials, Directory, Kubernetes, KubernetesError, Store};

use super::Identity;
use crate::control::secrets::SecretFault;
use crate::objects::Secret;

/// A store, and whether it must show first that it keeps its conditions.
pub(super) enum Opened {
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

pub(super) fn open(
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
    let secret = secret.ok_or_else(|| SecretFault::Missing(name.to_owned()).to_string())?;
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

fn no_key(name: &str, key: &'static str) -> SecretFault {
    SecretFault::NoKey {
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
