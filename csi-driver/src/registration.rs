//! kubelet's plugin registration: the node service makes itself known, without a sidecar.
//!
//! kubelet finds the socket in its folder, asks who is there, looks at the CSI socket itself and says how that went. After a
//! refusal the socket is made anew, since kubelet looks again only at a new one.
//!
//! The two calls are told apart by their bodies: the question who is there is an empty message, and how it went never is. Why
//! HTTP/2 is spoken by hand here: [`http2`].

mod http2;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::{Notify, Semaphore, watch},
};

use self::http2::Connection;
use crate::{
    DRIVER,
    proto::registration::{PluginInfo, RegistrationStatus, RegistrationStatusResponse},
    serve::{self, ServeError, Stop},
};

/// Versions of CSI that kubelet may speak to us, as it numbers them.
const VERSIONS: [&str; 1] = ["1.0.0"];
/// How long after a refusal kubelet is asked again.
const RETRY: Duration = Duration::from_secs(10);
/// Connections at once; kubelet makes one.
const CONNECTIONS: usize = 8;
/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_secs(120);

/// The service, and what kubelet said.
#[derive(Debug, Clone)]
pub struct Registrar {
    endpoint: String,
    said: watch::Sender<Option<Result<(), String>>>,
    refused: Arc<Notify>,
}

impl Registrar {
    /// `endpoint`: the CSI socket as kubelet sees it.
    pub fn new(endpoint: &Path) -> Self {
        Self {
            endpoint: endpoint.display().to_string(),
            said: watch::Sender::new(None),
            refused: Arc::default(),
        }
    }

    /// Why kubelet does not know us, if it does not.
    pub fn missing(&self) -> Option<String> {
        match &*self.said.borrow() {
            Some(Ok(())) => None,
            Some(Err(why)) => Some(format!("kubelet refuses the plugin: {why}")),
            None => Some("kubelet has not registered the plugin yet".to_owned()),
        }
    }

    /// Serves in kubelet's folder until it is told to stop.
    ///
    /// # Errors
    /// The socket cannot be had.
    pub async fn run(self, folder: PathBuf, stop: Stop) -> Result<(), ServeError> {
        let path = folder.join(format!("{DRIVER}-reg.sock"));
        loop {
            let listener = serve::bind(&path)?;
            let refused = async {
                self.refused.notified().await;
                tokio::time::sleep(RETRY).await;
            };
            let again = tokio::select! {
                () = self.accept(listener) => true,
                () = refused => true,
                () = stop.clone().wait() => false,
            };
            let _gone = fs::remove_file(&path);
            if !again {
                return Ok(());
            }
        }
    }

    async fn accept(&self, listener: UnixListener) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = room.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let registrar = self.clone();
                    tokio::spawn(async move {
                        registrar.converse(stream).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on kubelet's registration socket");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn converse(&self, mut stream: UnixStream) {
        let mut connection = Connection::default();
        let mut buffer = vec![0; 4096];
        let mut out = Connection::greeting();
        loop {
            if stream.write_all(&out).await.is_err() {
                return;
            }
            let read = match tokio::time::timeout(SILENCE, stream.read(&mut buffer)).await {
                Ok(Ok(read)) if read > 0 => read,
                _ => return,
            };
            out = match connection.hear(&buffer[..read], |message| self.answer(message)) {
                Ok(out) => out,
                Err(error) => {
                    tracing::warn!(%error, "a call on kubelet's registration socket was given up");
                    return;
                }
            };
        }
    }

    fn answer(&self, message: &[u8]) -> Vec<u8> {
        if message.is_empty() {
            return PluginInfo {
                r#type: "CSIPlugin".to_owned(),
                name: DRIVER.to_owned(),
                endpoint: self.endpoint.clone(),
                supported_versions: VERSIONS.map(str::to_owned).to_vec(),
            }
            .encode_to_vec();
        }
        match RegistrationStatus::decode(message) {
            Ok(status) if status.plugin_registered => {
                tracing::info!("kubelet has registered the plugin");
                self.said.send_replace(Some(Ok(())));
            }
            Ok(status) => {
                tracing::error!(error = status.error, "kubelet refuses the plugin");
                self.said.send_replace(Some(Err(status.error)));
                self.refused.notify_one();
            }
            Err(error) => {
                tracing::warn!(%error, "kubelet said something about the plugin that is no status")
            }
        }
        RegistrationStatusResponse {}.encode_to_vec()
    }
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::TokioIo;
    use tonic::transport::{Channel, Endpoint};

    use super::*;
    use crate::proto::registration::{InfoRequest, registration_client::RegistrationClient};

    async fn kubelet(path: PathBuf) -> RegistrationClient<Channel> {
        for _ in 0..500 {
            let path = path.clone();
            let connector = tower::service_fn(move |_| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            let endpoint = Endpoint::from_static("http://localhost");
            if let Ok(channel) = endpoint.connect_with_connector(connector).await {
                return RegistrationClient::new(channel);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("nobody behind the socket");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn kubelet_asks_who_is_there_and_says_how_it_went() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(format!("{DRIVER}-reg.sock"));
        let (end, stop) = Stop::channel();
        let registrar = Registrar::new(Path::new("/csi.sock"));
        let serving = tokio::spawn(registrar.clone().run(folder.path().to_owned(), stop));
        let mut client = kubelet(path.clone()).await;
        let info = client.get_info(InfoRequest {}).await.unwrap().into_inner();
        assert_eq!(
            (info.name.as_str(), info.endpoint.as_str()),
            (DRIVER, "/csi.sock")
        );
        assert!(registrar.missing().is_some());
        let registered = RegistrationStatus {
            plugin_registered: true,
            error: String::new(),
        };
        client.notify_registration_status(registered).await.unwrap();
        assert_eq!(registrar.missing(), None);
        let refused = RegistrationStatus {
            plugin_registered: false,
            error: "no such version".into(),
        };
        client.notify_registration_status(refused).await.unwrap();
        assert!(registrar.missing().unwrap().contains("no such version"));
        end.send_replace(true);
        serving.await.unwrap().unwrap();
        assert!(!path.exists());
    }
}
