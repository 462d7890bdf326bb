//! Which replica works: a Lease, taken for 15 s, renewed each 5 s, given up after 10 s without an answer.
//!
//! Invariants: a replica works only between [`Leader::acquire`] and the return of [`Leader::keep`]; whoever waits takes the
//! lease only after it stood still for its whole length by the waiter's own clock, so that no clocks are compared.
//! A process that lost the lease exits: it cannot know what its half-done work still does.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::time::{Instant, sleep, timeout};

const LENGTH: Duration = Duration::from_secs(15);
const DEADLINE: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(500);
const REQUEST: Duration = Duration::from_secs(3);
/// How often a waiter that gets no answer says so.
const COMPLAINT: Duration = Duration::from_secs(30);

/// One replica's part in the election.
#[derive(Clone)]
pub struct Leader {
    leases: Api<Lease>,
    name: String,
    identity: String,
}

/// Why a replica stops working.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    #[error("{0} holds the lease now")]
    Other(String),
    #[error("the lease could not be renewed for 10 s: {0}")]
    Silence(String),
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("no answer in {} s", REQUEST.as_secs())]
    Timeout,
}

impl Leader {
    /// A candidate with a name that no other process has, ever.
    pub fn new(client: Client, namespace: &str, name: &str, identity: String) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity,
        }
    }

    /// Waits until the lease is ours; the API server may be away as long as it likes.
    pub async fn acquire(&self) {
        let mut seen: Option<(Option<String>, Instant)> = None;
        let mut complained: Option<Instant> = None;
        loop {
            match self.try_acquire(&mut seen).await {
                Ok(true) => return,
                Ok(false) => complained = None,
                Err(error) => {
                    if complained.is_none_or(|at| at.elapsed() >= COMPLAINT) {
                        complained = Some(Instant::now());
                        tracing::warn!(%error, "the lease cannot be read: waiting for the API server");
                    }
                }
            }
            sleep(RETRY).await;
        }
    }

    async fn try_acquire(
        &self,
        seen: &mut Option<(Option<String>, Instant)>,
    ) -> Result<bool, Trouble> {
        let Some(lease) = within(self.leases.get_opt(&self.name)).await? else {
            let fresh = self.claimed(ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            });
            return won(within(self.leases.create(&PostParams::default(), &fresh)).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.filter(|name| !name.is_empty());
        if holder.as_deref().is_some_and(|name| name != self.identity) {
            let version = lease.metadata.resource_version.clone();
            let since = match seen {
                Some((known, since)) if *known == version => *since,
                _ => {
                    *seen = Some((version, Instant::now()));
                    return Ok(false);
                }
            };
            let seconds = spec.lease_duration_seconds.unwrap_or(0).clamp(1, 3_600);
            let length = Duration::from_secs(u64::from(seconds.unsigned_abs()));
            if since.elapsed() < length {
                return Ok(false);
            }
        }
        let taken = self.claimed(lease.metadata);
        won(within(
            self.leases
                .replace(&self.name, &PostParams::default(), &taken),
        )
        .await)
    }

    /// Renews the lease; returns when it is lost.
    pub async fn keep(&self) -> Lost {
        let mut renewed = Instant::now();
        loop {
            sleep(INTERVAL.saturating_sub(renewed.elapsed())).await;
            loop {
                let asked = Instant::now();
                let why = match self.renew().await {
                    Ok(None) => {
                        renewed = asked;
                        break;
                    }
                    Ok(Some(other)) => return Lost::Other(other),
                    Err(error) => error.to_string(),
                };
                if renewed.elapsed() >= DEADLINE {
                    return Lost::Silence(why);
                }
                sleep(RETRY).await;
            }
        }
    }

    /// `Some`: somebody else has it.
    async fn renew(&self) -> Result<Option<String>, Trouble> {
        let lease = within(self.leases.get(&self.name)).await?;
        let holder = lease
            .spec
            .as_ref()
            .and_then(|spec| spec.holder_identity.clone());
        if holder.as_deref() != Some(self.identity.as_str()) {
            return Ok(Some(holder.unwrap_or_else(|| "nobody".to_owned())));
        }
        let mut next = lease;
        if let Some(spec) = &mut next.spec {
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        within(
            self.leases
                .replace(&self.name, &PostParams::default(), &next),
        )
        .await?;
        Ok(None)
    }

    /// Gives the lease to whoever wants it, with best effort.
    pub async fn release(&self) {
        let Ok(lease) = within(self.leases.get(&self.name)).await else {
            return;
        };
        let mut next = lease;
        let Some(spec) = next
            .spec
            .as_mut()
            .filter(|spec| spec.holder_identity.as_deref() == Some(self.identity.as_str()))
        else {
            return;
        };
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        match within(
            self.leases
                .replace(&self.name, &PostParams::default(), &next),
        )
        .await
        {
            Ok(_) => tracing::info!("the lease is released"),
            Err(error) => {
                tracing::warn!(%error, "the lease could not be released: it runs out by itself")
            }
        }
    }

    fn claimed(&self, metadata: ObjectMeta) -> Lease {
        let now = MicroTime(Timestamp::now());
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(LENGTH.as_secs()).ok(),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        }
    }
}

/// A conflict means that somebody else was quicker.
fn won<T>(written: Result<T, Trouble>) -> Result<bool, Trouble> {
    match written {
        Ok(_) => Ok(true),
        Err(Trouble::Api(kube::Error::Api(status))) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

async fn within<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Trouble> {
    match timeout(REQUEST, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Trouble::Timeout),
    }
}
