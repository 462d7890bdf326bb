//! kubelet's plugin registration: the node service makes itself known, without a sidecar.
//!
//! kubelet finds the socket in its folder, asks who is there, looks at the CSI socket itself and says how that went. After a
//! refusal the socket is made anew, since kubelet looks again only at a new one.

use std::{
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use tokio::sync::{Notify, watch};
use tonic::{Request, Response, Status, transport::Server};

use crate::{
    DRIVER,
    proto::registration::{
        InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
        registration_server::{Registration, RegistrationServer},
    },
    serve::{self, ServeError, Stop},
};

/// Versions of CSI that kubelet may speak to us, as it numbers them.
const VERSIONS: [&str; 1] = ["1.0.0"];
/// How long after a refusal kubelet is asked again.
const RETRY: Duration = Duration::from_secs(10);

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
            let router = Server::builder().add_service(RegistrationServer::new(self.clone()));
            let (end, ended) = Stop::channel();
            let mut serving = pin!(serve::serve(&path, router, ended));
            let refused = async {
                self.refused.notified().await;
                tokio::time::sleep(RETRY).await;
            };
            let again = tokio::select! {
                // It ends before it is told to only when it cannot go on.
                outcome = &mut serving => return outcome,
                () = refused => true,
                () = stop.clone().wait() => false,
            };
            end.send_replace(true);
            serving.await?;
            if !again {
                return Ok(());
            }
        }
    }
}

#[tonic::async_trait]
impl Registration for Registrar {
    async fn get_info(
        &self,
        _request: Request<InfoRequest>,
    ) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: DRIVER.to_owned(),
            endpoint: self.endpoint.clone(),
            supported_versions: VERSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        if status.plugin_registered {
            tracing::info!("kubelet has registered the plugin");
            self.said.send_replace(Some(Ok(())));
        } else {
            tracing::error!(error = status.error, "kubelet refuses the plugin");
            self.said.send_replace(Some(Err(status.error)));
            self.refused.notify_one();
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn kubelet_finds_somebody_behind_the_socket_until_the_order_to_stop() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(format!("{DRIVER}-reg.sock"));
        let (end, stop) = Stop::channel();
        let registrar = Registrar::new(Path::new("/csi.sock"));
        let serving = tokio::spawn(registrar.run(folder.path().to_owned(), stop));
        let mut answered = false;
        for _ in 0..500 {
            answered = UnixStream::connect(&path).is_ok();
            if answered {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(answered);
        end.send_replace(true);
        serving.await.unwrap().unwrap();
    }
}
