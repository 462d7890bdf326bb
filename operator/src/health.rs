//! `/healthz`, `/readyz` and `/metrics`.
//!
//! Healthy: the process answers. An API server, a peer or a witness that is away is no reason to restart a process that
//! waits for it. Ready: the copies of this cluster's objects are complete and their watches do not fail; a standby is ready
//! as the leader is.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::net::TcpListener;

use crate::{
    metrics::Metrics,
    shell::{operator::Key, queue::Queue},
};

/// What this process says of itself.
#[derive(Debug, Default)]
pub struct Health(Mutex<Said>);

#[derive(Clone, Debug)]
struct Said {
    /// Why it is not ready; empty: it is.
    troubles: Vec<String>,
    role: &'static str,
}

impl Default for Said {
    fn default() -> Self {
        Self {
            troubles: vec!["starting".to_owned()],
            role: "standby",
        }
    }
}

impl Health {
    /// What stands between this process and its work; none: it is ready.
    pub fn set_troubles(&self, troubles: Vec<String>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .troubles = troubles;
    }

    /// This replica works from now on.
    pub fn set_leader(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).role = "leader";
    }

    fn ready(&self) -> Result<String, String> {
        let said = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if said.troubles.is_empty() {
            return Ok(format!("ok ({})", said.role));
        }
        let troubles = said.troubles.join("\n");
        Err(format!("not ready ({}):\n{troubles}", said.role))
    }
}

struct Pages {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    queue: Arc<Queue<Key>>,
}

impl twinsite_pages::Pages for Pages {
    fn metrics(&self) -> String {
        self.metrics.page(&self.queue)
    }

    fn healthy(&self) -> Result<String, String> {
        Ok("ok".to_owned())
    }

    fn ready(&self) -> Result<String, String> {
        self.health.ready()
    }
}

/// The server of the pages.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// The address cannot be used.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self { listener })
    }

    /// Where it listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the process ends.
    pub async fn serve(self, health: Arc<Health>, metrics: Arc<Metrics>, queue: Arc<Queue<Key>>) {
        let pages = Pages {
            health,
            metrics,
            queue,
        };
        twinsite_pages::serve(self.listener, Arc::new(pages)).await;
    }
}
