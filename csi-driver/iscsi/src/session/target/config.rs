//! What a target session needs to know: targets, who may use them, limits. Shared by all sessions of a server.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::Offer;
use crate::chap::{Secret, SecretError};

/// A CHAP account of an initiator.
#[derive(Clone, Debug)]
pub struct Account {
    pub secret: Secret,
    /// If set, only this initiator name may use the account.
    pub initiator: Option<String>,
}

/// How initiators prove who they are.
#[derive(Clone, Debug, Default)]
pub enum Auth {
    #[default]
    None,
    Chap {
        /// By CHAP user name.
        accounts: BTreeMap<String, Account>,
        /// Name and secret of this target for mutual CHAP; without it an initiator that asks is refused.
        mutual: Option<(String, Secret)>,
    },
}

impl Auth {
    /// CHAP with these accounts; the target's own secret differs from all of theirs.
    pub fn chap(
        accounts: BTreeMap<String, Account>,
        mutual: Option<(String, Secret)>,
    ) -> Result<Self, SecretError> {
        if let Some((_, own)) = &mutual
            && accounts.values().any(|account| account.secret.same_as(own))
        {
            return Err(SecretError::Same);
        }
        Ok(Self::Chap { accounts, mutual })
    }
}

/// Which initiator names may log in.
#[derive(Clone, Debug, Default)]
pub enum Acl {
    #[default]
    Any,
    Only(BTreeSet<String>),
}

/// A portal of a target as SendTargets reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Portal {
    /// `host:port`.
    pub address: String,
    pub group: u16,
}

/// Where an initiator shall log in instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `host:port` or `host:port,group`.
    pub address: String,
    pub permanent: bool,
}

#[derive(Clone, Debug, Default)]
pub struct TargetEntry {
    pub alias: Option<String>,
    /// Empty: SendTargets reports the portal that the initiator came through.
    pub portals: Vec<Portal>,
    pub auth: Auth,
    pub acl: Acl,
    pub redirect: Option<Redirect>,
}

#[derive(Clone, Debug)]
pub struct TargetLimits {
    /// Commands a session may have open: the command window.
    pub queue_depth: u16,
    /// Longest transfer of one write command; longer ones are refused with INVALID FIELD IN CDB.
    pub max_write: u32,
    /// Write data that R2Ts have asked for and that is not yet given out, per session; more R2Ts wait.
    pub max_solicited: u32,
    /// Bytes that may wait to be sent; a peer that sends on without reading its answers is dropped.
    pub max_backlog: usize,
    pub login_timeout: Duration,
    /// A NOP-In goes out when nothing was received for so long; `None`: never.
    pub ping_interval: Option<Duration>,
    /// A peer that answered a NOP-In before is dropped when it does not for so long.
    pub ping_timeout: Duration,
}

impl Default for TargetLimits {
    fn default() -> Self {
        Self {
            queue_depth: 128,
            max_write: 16 * 1024 * 1024,
            max_solicited: 32 * 1024 * 1024,
            max_backlog: 256 * 1024 * 1024,
            login_timeout: Duration::from_secs(15),
            ping_interval: Some(Duration::from_secs(10)),
            ping_timeout: Duration::from_secs(10),
        }
    }
}

/// All targets behind a portal.
#[derive(Clone, Debug, Default)]
pub struct TargetConfig {
    /// By iSCSI name.
    pub targets: BTreeMap<String, TargetEntry>,
    pub discovery_auth: Auth,
    pub offer: Offer,
    pub limits: TargetLimits,
}

/// What is peculiar to one accepted connection.
#[derive(Clone, Debug)]
pub struct ConnectionSeed {
    /// Fresh random bytes (the CHAP challenge).
    pub random: [u8; 32],
    /// Identifies the session at the target: not zero, unused by other live sessions.
    pub tsih: u16,
    /// The portal the connection came through.
    pub portal: Portal,
}
