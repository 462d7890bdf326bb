//! From a Secret to a client: key `kubeconfig`, or `value` as some tools write it.

use std::{fmt, time::Duration};

use kube::{Client, Config, config::KubeConfigOptions};

use crate::shell::secrets::Data;

const KEYS: [&str; 2] = ["kubeconfig", "value"];
const CONNECT: Duration = Duration::from_secs(3);
/// Longer than the server leaves a watch without a word.
const READ: Duration = Duration::from_secs(75);

/// Access to another cluster. The text is the identity: another text is another access.
#[derive(Clone, PartialEq, Eq)]
pub struct Kubeconfig(String);

// Credentials stay out of logs.
impl fmt::Debug for Kubeconfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kubeconfig(..)")
    }
}

/// Why a Secret gives no access.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    #[error("it has neither the key kubeconfig nor the key value")]
    NoKey,
    #[error("its kubeconfig is not UTF-8")]
    NotText,
    #[error(
        "its kubeconfig names a program to run (exec or auth-provider): write a token or certificate instead"
    )]
    RunsProgram,
    #[error("its kubeconfig cannot be used: {0}")]
    Malformed(#[from] kube::config::KubeconfigError),
    #[error("no client can be made of its kubeconfig: {0}")]
    Client(#[from] kube::Error),
}

impl Kubeconfig {
    /// The kubeconfig in a Secret.
    ///
    /// # Errors
    /// There is none.
    pub fn from_secret(data: &Data) -> Result<Self, KubeconfigError> {
        let bytes = KEYS
            .iter()
            .find_map(|key| data.get(*key))
            .ok_or(KubeconfigError::NoKey)?;
        let text = String::from_utf8(bytes.clone()).map_err(|_| KubeconfigError::NotText)?;
        Ok(Self(text))
    }

    /// The kubeconfig as it stands there.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// A client of the cluster. Nothing is asked yet.
    ///
    /// # Errors
    /// The text is no kubeconfig, or one that would run a program of the cluster's choice in this process.
    pub async fn client(&self) -> Result<Client, KubeconfigError> {
        let parsed = kube::config::Kubeconfig::from_yaml(&self.0)?;
        let runs =
            |auth: &kube::config::AuthInfo| auth.exec.is_some() || auth.auth_provider.is_some();
        if parsed
            .auth_infos
            .iter()
            .any(|named| named.auth_info.as_ref().is_some_and(runs))
        {
            return Err(KubeconfigError::RunsProgram);
        }
        let mut config =
            Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await?;
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(READ);
        config.default_retry = false;
        Ok(Client::try_from(config)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(key: &str, text: &str) -> Data {
        Data::from([(key.to_owned(), text.as_bytes().to_vec())])
    }

    const PLAIN: &str = "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {token: t}}]\n";

    #[tokio::test]
    async fn either_key_serves_and_programs_are_refused() {
        _ = rustls::crypto::ring::default_provider().install_default();
        for key in KEYS {
            let kubeconfig = Kubeconfig::from_secret(&secret(key, PLAIN)).unwrap();
            assert!(kubeconfig.client().await.is_ok());
        }
        assert!(matches!(
            Kubeconfig::from_secret(&secret("other", PLAIN)),
            Err(KubeconfigError::NoKey)
        ));
        let program = PLAIN.replace(
            "{token: t}",
            "{exec: {command: /bin/true, apiVersion: client.authentication.k8s.io/v1}}",
        );
        let kubeconfig = Kubeconfig::from_secret(&secret("value", &program)).unwrap();
        assert!(matches!(
            kubeconfig.client().await,
            Err(KubeconfigError::RunsProgram)
        ));
        let broken = Kubeconfig::from_secret(&secret("value", "{")).unwrap();
        assert!(broken.client().await.is_err());
        assert!(
            !format!("{broken:?}").contains('{'),
            "nothing of it is printed"
        );
    }
}
