//! What the pages of the agent say.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use twinsite_pages::Pages;

/// The control loop turns twice a second and may wait for a disk in between.
const STALE: Duration = Duration::from_secs(30);

/// What the pages show; written by the control loop.
#[derive(Debug)]
pub struct Health {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    turned: Instant,
    not_ready: Option<String>,
    metrics: String,
}

impl Default for Health {
    fn default() -> Self {
        let not_ready = Some("the objects have not been read yet".to_owned());
        Self {
            inner: Mutex::new(Inner {
                turned: Instant::now(),
                not_ready,
                metrics: String::new(),
            }),
        }
    }
}

impl Health {
    /// The control loop has turned; `not_ready`: why nobody should count on this node yet.
    pub fn turned(&self, not_ready: Option<String>) {
        let mut inner = self.inner();
        (inner.turned, inner.not_ready) = (Instant::now(), not_ready);
    }

    pub fn set_metrics(&self, page: String) {
        self.inner().metrics = page;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages for Health {
    fn metrics(&self) -> String {
        self.inner().metrics.clone()
    }

    fn healthy(&self) -> Result<String, String> {
        let turned = self.inner().turned.elapsed();
        if turned < STALE {
            return Ok("ok".to_owned());
        }
        let seconds = turned.as_secs();
        Err(format!("the control loop has not turned for {seconds} s"))
    }

    fn ready(&self) -> Result<String, String> {
        let not_ready = self.inner().not_ready.clone();
        not_ready.map_or_else(|| Ok("ok".to_owned()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_when_its_loop_says_so_and_shows_what_it_was_given() {
        let health = Health::default();
        assert!(health.ready().is_err() && health.healthy().is_ok());
        health.turned(None);
        health.set_metrics("twinsite_agent_info 1\n".to_owned());
        assert_eq!(health.ready().as_deref(), Ok("ok"));
        assert_eq!(health.metrics(), "twinsite_agent_info 1\n");
        health.turned(Some("no pool".to_owned()));
        assert_eq!(health.ready().as_deref().unwrap_err(), "no pool");
    }
}
