//! What an initiator session needs to know before it starts.

use std::time::Duration;

use super::super::Offer;
use crate::chap::{Algorithm, Secret, SecretError};

/// What kind of session is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionKind {
    Normal { target: String },
    Discovery,
}

/// CHAP credentials of an initiator.
#[derive(Clone, Debug)]
pub struct ChapInitiator {
    user: String,
    secret: Secret,
    /// The secret that the target must show.
    target: Option<Secret>,
    algorithms: Vec<Algorithm>,
}

impl ChapInitiator {
    pub fn new(user: String, secret: Secret) -> Self {
        Self {
            user,
            secret,
            target: None,
            algorithms: Algorithm::ALL.to_vec(),
        }
    }

    /// Mutual CHAP: the target must prove that it knows `target`, which differs from `secret`.
    pub fn mutual(user: String, secret: Secret, target: Secret) -> Result<Self, SecretError> {
        if secret.same_as(&target) {
            return Err(SecretError::Same);
        }
        Ok(Self {
            target: Some(target),
            ..Self::new(user, secret)
        })
    }

    /// Offers these algorithms only, in this order; for targets that number them wrongly.
    #[must_use]
    pub fn with_algorithms(mut self, algorithms: &[Algorithm]) -> Self {
        self.algorithms = algorithms.to_vec();
        self
    }

    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
    }

    pub(crate) fn target_secret(&self) -> Option<&Secret> {
        self.target.as_ref()
    }

    pub(crate) fn algorithms(&self) -> &[Algorithm] {
        &self.algorithms
    }
}

#[derive(Clone, Debug)]
pub struct InitiatorLimits {
    /// Commands accepted beyond those sent.
    pub max_queued: usize,
    /// Commands sent and not answered, at most, whatever window the target opens.
    pub max_in_flight: usize,
    pub login_timeout: Duration,
    /// A NOP-Out goes out when nothing was received for so long; `None`: never.
    pub ping_interval: Option<Duration>,
    /// The session is dropped when a NOP-Out is not answered (and nothing else comes) for so long.
    pub ping_timeout: Duration,
}

impl Default for InitiatorLimits {
    fn default() -> Self {
        Self {
            max_queued: 1024,
            max_in_flight: 128,
            login_timeout: Duration::from_secs(15),
            ping_interval: Some(Duration::from_secs(1)),
            ping_timeout: Duration::from_secs(2),
        }
    }
}

#[derive(Clone, Debug)]
pub struct InitiatorConfig {
    pub initiator_name: String,
    pub initiator_alias: Option<String>,
    pub kind: SessionKind,
    /// Fixed per node, leg and session, so that a new login reinstates the old session.
    pub isid: [u8; 6],
    pub chap: Option<ChapInitiator>,
    pub offer: Offer,
    pub limits: InitiatorLimits,
    /// Fresh random bytes for this connection (the mutual CHAP challenge).
    pub random: [u8; 32],
}
