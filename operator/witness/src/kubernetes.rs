//! The witness in a namespace of a Kubernetes cluster: one ConfigMap per object, written by `resourceVersion`.
//!
//! What makes it a place for a register: a GET that names no `resourceVersion` is a quorum read of etcd, never of a
//! watch cache; a PUT that names one happens only on exactly that state of the object; a POST is create-if-absent.
//! Nothing here lists, watches or patches. The client repeats nothing by itself, since a second copy of a write could be
//! refused because the first one won; what a refusal means, [`crate::Witness`] finds out by reading.
//!
//! | answer | taken as |
//! |---|---|
//! | 409 to any write, 404 to a PUT | refused: the condition did not hold |
//! | 404 to a POST | unknown, with a word about the namespace, which does not exist |
//! | 401, 403, 422, 429, 5xx, no answer, half an answer | unknown, with the reason |
//! | 404 to a GET | there is no such object |
//!
//! Invariants: the value is the bytes as they were given; the text of the place has no credential in it.
//! Not here: the limit of a request (`Witness`), whether the store keeps its word ([`crate::probe`]).

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use k8s_openapi::{ByteString, api::core::v1::ConfigMap};
use kube::{
    Api, Client, Config, Error,
    api::{DeleteParams, ObjectMeta, PostParams},
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use crate::{
    store::{Care, Condition, ObjectName, Pending, Store, StoreError, Version, Versioned, Written},
    witness::REQUEST_TIMEOUT,
};

/// The only key of each ConfigMap.
const KEY: &str = "object";
const MANAGER: &str = "twinsite-witness";
/// On each object, so that people can list them.
const LABEL: (&str, &str) = ("app.kubernetes.io/part-of", "twinsite-witness");
/// How often an unconditional write is tried again when the object came or went in between.
const MAX_TRIES: u32 = 4;

/// A store in a namespace.
pub struct Kubernetes {
    maps: Api<ConfigMap>,
    namespace: String,
    place: String,
}

/// Why a cluster cannot be a witness.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    #[error("the kubeconfig of the witness cannot be read")]
    Kubeconfig(#[source] Box<KubeconfigError>),
    #[error(
        "the kubeconfig of the witness runs a command or an auth provider for its credentials: use a token or a client certificate"
    )]
    Command,
    #[error("no client for the witness cluster")]
    Client(#[source] Box<Error>),
}

impl Kubernetes {
    /// A namespace of the cluster that this configuration leads to. Called inside a tokio runtime; nothing is sent.
    ///
    /// # Errors
    /// The configuration gives no client.
    pub fn open(mut config: Config, namespace: &str) -> Result<Self, KubernetesError> {
        // The TLS library is built without a crypto library of its own; a second call changes nothing.
        let _already_set = rustls::crypto::ring::default_provider().install_default();
        config.default_retry = false;
        config.connect_timeout = Some(REQUEST_TIMEOUT);
        config.write_timeout = Some(REQUEST_TIMEOUT);
        let place = format!("namespace {namespace} at {}", config.cluster_url);
        let client =
            Client::try_from(config).map_err(|error| KubernetesError::Client(Box::new(error)))?;
        Ok(Self {
            maps: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            place,
        })
    }

    /// The same from the text of a kubeconfig; without a namespace, that of its current context.
    ///
    /// # Errors
    /// The text is no kubeconfig, or one that runs a command.
    pub fn from_kubeconfig(text: &str, namespace: Option<&str>) -> Result<Self, KubernetesError> {
        let broken = |error| KubernetesError::Kubeconfig(Box::new(error));
        let kubeconfig = Kubeconfig::from_yaml(text).map_err(broken)?;
        let runs =
            |auth: &kube::config::AuthInfo| auth.exec.is_some() || auth.auth_provider.is_some();
        let users = kubeconfig.auth_infos.iter();
        if users.filter_map(|user| user.auth_info.as_ref()).any(runs) {
            return Err(KubernetesError::Command);
        }
        let options = KubeConfigOptions::default();
        let config = at_once(Config::from_custom_kubeconfig(kubeconfig, &options))
            .ok_or(KubernetesError::Command)?
            .map_err(broken)?;
        let named = config.default_namespace.clone();
        Self::open(config, namespace.unwrap_or(&named))
    }

    async fn fetch(&self, name: &ObjectName) -> Result<Option<Versioned>, StoreError> {
        let found = match self.maps.get_opt(&object_name(name)).await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(error) => return Err(StoreError::Unreachable(self.told(&error))),
        };
        let corrupt = |what: &str| StoreError::Corrupt {
            name: name.to_string(),
            what: what.to_owned(),
        };
        let (Some(uid), Some(version)) = (found.metadata.uid, found.metadata.resource_version)
        else {
            return Err(corrupt("it has no uid or resourceVersion"));
        };
        let value = found.binary_data.and_then(|mut data| data.remove(KEY));
        let ByteString(bytes) = value.ok_or_else(|| corrupt("it has no key `object`"))?;
        Ok(Some(Versioned {
            bytes: bytes.into(),
            version: Version(format!("{uid}/{version}")),
        }))
    }

    async fn put(&self, name: &ObjectName, bytes: Bytes, condition: Condition) -> Written {
        let name = object_name(name);
        match condition {
            Condition::Absent => self.create(&name, &bytes).await,
            Condition::Unchanged(Version(version)) => match version.split_once('/') {
                Some((uid, version)) => self.swap(&name, &bytes, Some((uid, version))).await,
                None => Written::Refused,
            },
            Condition::Any => self.overwrite(&name, &bytes).await,
        }
    }

    async fn overwrite(&self, name: &str, bytes: &Bytes) -> Written {
        let mut written = Written::Refused;
        for _ in 0..MAX_TRIES {
            written = self.swap(name, bytes, None).await;
            if written != Written::Refused {
                return written;
            }
            written = self.create(name, bytes).await;
            if written != Written::Refused {
                return written;
            }
        }
        written
    }

    async fn create(&self, name: &str, bytes: &Bytes) -> Written {
        let object = object(name, bytes, None);
        match self.maps.create(&parameters(), &object).await {
            Ok(_) => Written::Done,
            Err(Error::Api(status)) if status.code == 409 => Written::Refused,
            Err(Error::Api(status)) if status.code == 404 => Written::Unknown(format!(
                "{}: the namespace {} must exist before it can be a witness",
                status.message, self.namespace
            )),
            Err(error) => Written::Unknown(self.told(&error)),
        }
    }

    async fn swap(&self, name: &str, bytes: &Bytes, on: Option<(&str, &str)>) -> Written {
        let object = object(name, bytes, on);
        match self.maps.replace(name, &parameters(), &object).await {
            Ok(_) => Written::Done,
            Err(Error::Api(status)) if matches!(status.code, 404 | 409) => Written::Refused,
            Err(error) => Written::Unknown(self.told(&error)),
        }
    }

    /// An error with its causes: the client's own text often stops at "error trying to connect".
    fn told(&self, error: &Error) -> String {
        let mut text = match error {
            Error::Api(status) if matches!(status.code, 401 | 403) => format!(
                "{} (the credentials need get, create, update and delete on configmaps in namespace {})",
                status.message, self.namespace
            ),
            Error::Api(status) => format!("{} ({})", status.message, status.code),
            other => other.to_string(),
        };
        let mut cause = std::error::Error::source(error);
        while let Some(next) = cause {
            let next_text = next.to_string();
            if !text.contains(&next_text) {
                text = format!("{text}: {next_text}");
            }
            cause = next.source();
        }
        text
    }
}

/// The result of a future that never waits.
fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn parameters() -> PostParams {
    PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    }
}

/// A ConfigMap's name from an object's: a `/` becomes a label `0`, and a label that is all zeros gets one more, so that no
/// two names become one.
fn object_name(name: &ObjectName) -> String {
    let segment = |segment: &str| {
        let label = |label: &str| {
            let zeros = !label.is_empty() && label.bytes().all(|b| b == b'0');
            format!("{label}{}", if zeros { "0" } else { "" })
        };
        segment.split('.').map(label).collect::<Vec<_>>().join(".")
    };
    let segments = name.as_str().split('/').map(segment);
    segments.collect::<Vec<_>>().join(".0.")
}

fn object(name: &str, bytes: &Bytes, on: Option<(&str, &str)>) -> ConfigMap {
    let (key, value) = LABEL;
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            uid: on.map(|(uid, _)| uid.to_owned()),
            resource_version: on.map(|(_, version)| version.to_owned()),
            labels: Some(BTreeMap::from([(key.to_owned(), value.to_owned())])),
            ..ObjectMeta::default()
        },
        binary_data: Some(BTreeMap::from([(
            KEY.to_owned(),
            ByteString(bytes.to_vec()),
        )])),
        ..ConfigMap::default()
    }
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kubernetes({})", self.place)
    }
}

impl Store for Kubernetes {
    fn read<'a>(
        &'a self,
        name: &'a ObjectName,
        _: Care,
    ) -> Pending<'a, Result<Option<Versioned>, StoreError>> {
        Box::pin(self.fetch(name))
    }

    fn write<'a>(
        &'a self,
        name: &'a ObjectName,
        bytes: Bytes,
        condition: Condition,
        _: Care,
    ) -> Pending<'a, Written> {
        Box::pin(self.put(name, bytes, condition))
    }

    fn remove<'a>(&'a self, name: &'a ObjectName) -> Pending<'a, ()> {
        Box::pin(async move {
            let name = object_name(name);
            let parameters = DeleteParams::default();
            if let Err(error) = self.maps.delete(&name, &parameters).await {
                tracing::debug!(%name, %error, "object not removed");
            }
        })
    }

    fn place(&self) -> String {
        self.place.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "{name: w, user: {token: secret}}";

    fn kubeconfig(user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: w\nclusters: [{{name: w, cluster: {{server: 'https://192.0.2.9:6443'}}}}]\ncontexts: [{{name: w, context: {{cluster: w, user: w, namespace: there}}}}]\nusers: [{user}]\n"
        )
    }

    #[tokio::test]
    async fn a_kubeconfig_says_where_and_its_credentials_stay_out_of_the_place() {
        let text = kubeconfig(TOKEN);
        let named = Kubernetes::from_kubeconfig(&text, Some("twinsite")).unwrap();
        assert_eq!(
            named.place(),
            "namespace twinsite at https://192.0.2.9:6443/"
        );
        let unnamed = Kubernetes::from_kubeconfig(&text, None).unwrap();
        assert_eq!(unnamed.namespace, "there");
        assert!(!format!("{unnamed:?}").contains("secret"));
    }

    #[tokio::test]
    async fn a_kubeconfig_that_runs_something_is_refused() {
        let exec =
            "{name: w, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: sh}}}";
        assert!(matches!(
            Kubernetes::from_kubeconfig(&kubeconfig(exec), None),
            Err(KubernetesError::Command)
        ));
        assert!(matches!(
            Kubernetes::from_kubeconfig("no: kubeconfig", None),
            Err(KubernetesError::Kubeconfig(_))
        ));
    }

    #[test]
    fn no_two_objects_share_a_name() {
        let name = |segments: &[&str]| object_name(&ObjectName::new(segments).unwrap());
        assert_eq!(name(&["ctrc", "sites"]), "ctrc.0.sites");
        assert_ne!(
            name(&["x", "liveness", "sites"]),
            name(&["x.liveness", "sites"])
        );
        assert_ne!(name(&["a.0.b", "sites"]), name(&["a", "b", "sites"]));
        assert_eq!(name(&["a.00", "b"]), "a.000.0.b");
    }
}
