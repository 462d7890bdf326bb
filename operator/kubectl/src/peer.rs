//! `kubectl twinsite peer create-secret` and `pair create-secret`: the credentials that a pair needs.
//!
//! A peer's Secret holds a kubeconfig with a token of a ServiceAccount in the other cluster; the ServiceAccount's rights
//! are the chart's (`twinsite-peer` reads `twinsite.io`, `twinsite-witness` keeps registers in one namespace).
//!
//! Invariants: a shared key is made once; where a cluster has one it is copied and never replaced.

use std::{collections::BTreeMap, io::Read as _};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::{
    ByteString,
    api::{
        authentication::v1::{TokenRequest, TokenRequestSpec},
        core::v1::{ConfigMap, Secret, ServiceAccount},
    },
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::cluster::Access;

const FIELD_MANAGER: &str = "kubectl-twinsite";
const KEY: &str = "key";
const KUBECONFIG: &str = "kubeconfig";

/// What the command line asked for.
#[derive(Debug)]
pub(crate) struct PeerSecret {
    pub(crate) namespace: String,
    pub(crate) service_account: String,
    /// Namespace of the ServiceAccount.
    pub(crate) from_namespace: String,
    pub(crate) name: String,
    pub(crate) seconds: i64,
    /// Address of the API as pods of the other cluster reach it.
    pub(crate) server: Option<String>,
}

/// A Secret with access to `from`, for the cluster `to`; and when it ends.
pub(crate) async fn peer_secret(from: &Access, wanted: &PeerSecret) -> Result<(Secret, String)> {
    let accounts: Api<ServiceAccount> =
        Api::namespaced(from.client.clone(), &wanted.from_namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: Vec::new(),
            expiration_seconds: Some(wanted.seconds),
            bound_object_ref: None,
        },
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(&wanted.service_account, &PostParams::default(), &request)
        .await
        .with_context(|| {
            format!(
                "{} gives no token for ServiceAccount {}/{}: is the chart installed there?",
                from.context, wanted.from_namespace, wanted.service_account
            )
        })?;
    let Some(status) = answer.status else {
        bail!("{} answered without a token", from.context);
    };
    let authority = match &from.authority {
        Some(authority) => authority.clone(),
        None => published_authority(from, &wanted.from_namespace).await?,
    };
    let server = wanted.server.clone().unwrap_or_else(|| from.server.clone());
    ensure!(
        server.starts_with("https://"),
        "{server:?} is no https address: give --server https://HOST:PORT as the other site's pods reach it"
    );
    let text = kubeconfig(
        &from.context,
        &server,
        &authority,
        &wanted.service_account,
        &status.token,
    )?;
    Ok((
        secret(
            &wanted.namespace,
            &wanted.name,
            KUBECONFIG,
            text.into_bytes(),
        ),
        status.expiration_timestamp.0.to_string(),
    ))
}

/// The authority that every namespace is told of.
async fn published_authority(from: &Access, namespace: &str) -> Result<String> {
    let maps: Api<ConfigMap> = Api::namespaced(from.client.clone(), namespace);
    maps.get("kube-root-ca.crt")
        .await
        .ok()
        .and_then(|map| map.data?.remove("ca.crt"))
        .with_context(|| {
            format!(
                "neither the context {} nor {namespace}/kube-root-ca.crt names the authority of its API",
                from.context
            )
        })
}

fn kubeconfig(
    name: &str,
    server: &str,
    authority: &str,
    user: &str,
    token: &str,
) -> Result<String> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {
            "server": server,
            "certificate-authority-data": base64(authority.as_bytes()),
        }}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
        "current-context": name,
    });
    Ok(serde_yaml::to_string(&config)?)
}

fn secret(namespace: &str, name: &str, key: &str, value: Vec<u8>) -> Secret {
    let mut secret = Secret {
        type_: Some("Opaque".to_owned()),
        data: Some(BTreeMap::from([(key.to_owned(), ByteString(value))])),
        ..Secret::default()
    };
    secret.metadata.namespace = Some(namespace.to_owned());
    secret.metadata.name = Some(name.to_owned());
    secret.metadata.labels = Some(BTreeMap::from([(
        "app.kubernetes.io/part-of".to_owned(),
        "twinsite".to_owned(),
    )]));
    secret
}

/// Puts a Secret into a cluster, in place of one of that name.
pub(crate) async fn apply(to: &Access, secret: &Secret) -> Result<()> {
    let namespace = secret.metadata.namespace.as_deref().unwrap_or_default();
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    let api: Api<Secret> = Api::namespaced(to.client.clone(), namespace);
    api.patch(
        name,
        &PatchParams::apply(FIELD_MANAGER).force(),
        &Patch::Apply(secret),
    )
    .await
    .with_context(|| format!("{} does not take Secret {namespace}/{name}", to.context))?;
    Ok(())
}

/// Makes the pair's shared key where it is missing; says what was done in each cluster.
pub(crate) async fn share_key(
    clusters: &[Access],
    namespace: &str,
    name: &str,
) -> Result<Vec<String>> {
    ensure!(
        clusters.len() == 2,
        "a pair has two clusters: give --contexts ONE,OTHER"
    );
    let mut found = Vec::new();
    for cluster in clusters {
        let api: Api<Secret> = Api::namespaced(cluster.client.clone(), namespace);
        let stored = api
            .get_opt(name)
            .await
            .with_context(|| {
                format!(
                    "{} does not show Secret {namespace}/{name}",
                    cluster.context
                )
            })?
            .and_then(|secret| secret.data?.remove(KEY))
            .map(|value| value.0);
        found.push(stored);
    }
    let key = match found.as_slice() {
        [Some(one), Some(other)] if one == other => {
            return Ok(vec![format!(
                "both clusters have the same key in {namespace}/{name}"
            )]);
        }
        [Some(_), Some(_)] => bail!(
            "the clusters have different keys in {namespace}/{name}, and either may be in use: delete the one whose \
             site has no volumes yet"
        ),
        [Some(only), None] | [None, Some(only)] => only.clone(),
        _ => fresh_key()?.into_bytes(),
    };
    let mut told = Vec::new();
    for (cluster, stored) in clusters.iter().zip(&found) {
        if stored.is_none() {
            apply(cluster, &secret(namespace, name, KEY, key.clone())).await?;
            told.push(format!(
                "{}: made Secret {namespace}/{name}",
                cluster.context
            ));
        } else {
            told.push(format!("{}: has it", cluster.context));
        }
    }
    Ok(told)
}

/// 256 random bits in hex.
fn fresh_key() -> Result<String> {
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("this machine gives no random bytes")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648, with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let number = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for digit in 0..4 {
            if digit > chunk.len() {
                text.push('=');
            } else {
                let index = (number >> (18 - 6 * digit)) & 63;
                text.push(char::from(ALPHABET[index as usize]));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 4648, section 10.
    #[test]
    fn base64_is_that_of_the_standard() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn a_kubeconfig_of_ours_is_read_by_kubernetes_clients() {
        let text = kubeconfig(
            "research",
            "https://192.0.2.7:6443",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "twinsite-peer",
            "t0ken",
        )
        .unwrap();
        let read = kube::config::Kubeconfig::from_yaml(&text).unwrap();
        assert_eq!(read.current_context.as_deref(), Some("research"));
        let cluster = read.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://192.0.2.7:6443"));
        assert!(cluster.certificate_authority_data.is_some());
        assert_eq!(read.auth_infos[0].name, "twinsite-peer");
    }

    #[test]
    fn keys_are_long_and_never_the_same() {
        let (one, other) = (fresh_key().unwrap(), fresh_key().unwrap());
        assert_eq!(one.len(), 64);
        assert_ne!(one, other);
    }
}
