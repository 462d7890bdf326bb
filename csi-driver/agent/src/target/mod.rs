//! The iSCSI target: sockets and stores around `twinsite_iscsi`'s sessions and logical units.
//!
//! ```text
//! Gate (one per portal, any thread)          a connection until its login is done; discovery sessions
//!   │  login ready: the session itself moves
//!   ▼
//! TargetActor (one per IQN, one thread)      its sessions, its logical units, their stores
//! ```
//! Invariants:
//! * A login gets its answer only after the old session of the same initiator port is closed and after every store operation
//!   that was under way at that moment has ended: no write of an old session reaches the medium after the initiator is back.
//! * An export is removed (and its store unlocked) only when no operation on the store is under way.
//! * A peer that has not logged in holds one small buffer and one connection slot for the login time; there are bounds on such
//!   connections in all and by address, on sessions, on commands, on bytes that wait to be sent.
//!
//! Not here: what PDUs and commands mean (`twinsite_iscsi`), what a store is (`backend`), which exports exist (the objects).

mod accounts;
mod actor;
mod admission;
mod arrivals;
pub mod cli;
mod connection;
mod counters;
mod endings;
mod gate;
mod server;
mod units;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

use twinsite_iscsi::scsi::BlockSize;
use twinsite_iscsi::session::{Acl, Auth, Offer, Redirect, TargetLimits};

use crate::backend::Backing;
use crate::reactor::SocketOptions;

pub use accounts::{AccountsError, read_accounts};
pub use counters::{LunStats, TargetStats};
pub use server::{Server, ServerError, ServerHandle};

/// One address to listen on.
#[derive(Debug, Clone)]
pub struct PortalConfig {
    pub listen: SocketAddr,
    /// Portal group tag: all portals of one server that may join sessions of the same target port.
    pub group: u16,
    /// What SendTargets reports; `None`: the address a connection came in by.
    pub advertise: Option<String>,
}

impl PortalConfig {
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            group: 1,
            advertise: None,
        }
    }
}

/// Everything a server is told at its start.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    pub portals: Vec<PortalConfig>,
    pub offer: Offer,
    pub limits: TargetLimits,
    pub discovery_auth: Auth,
    pub socket: SocketOptions,
    pub connections: ConnectionLimits,
}

impl ServerConfig {
    pub fn new(portals: Vec<PortalConfig>) -> Self {
        Self {
            portals,
            offer: Offer::default(),
            limits: TargetLimits::default(),
            discovery_auth: Auth::None,
            socket: SocketOptions::default(),
            connections: ConnectionLimits::default(),
        }
    }
}

/// Bounds on connections.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// Connections of a portal that have not logged in to a target, discovery sessions included.
    pub guests: usize,
    /// Those of one address.
    pub guests_per_address: usize,
    /// Sessions of the whole server.
    pub sessions: usize,
    /// A discovery session ends after this time.
    pub discovery_time: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            guests: 512,
            guests_per_address: 64,
            sessions: 1024,
            discovery_time: Duration::from_secs(60),
        }
    }
}

/// A target to be served.
#[derive(Debug)]
pub struct Export {
    pub iqn: String,
    pub alias: Option<String>,
    pub auth: Auth,
    pub acl: Acl,
    pub redirect: Option<Redirect>,
    pub luns: Vec<ExportLun>,
}

/// A logical unit of a target.
#[derive(Debug)]
pub struct ExportLun {
    pub number: u16,
    pub backing: Backing,
    pub block_size: BlockSize,
    /// NAA-6 designator: the same through every path to this data, different from that of any other.
    pub naa: [u8; 16],
    pub serial: String,
    pub removable: bool,
    /// Who may use this unit, of those who may log in; to all others it does not exist.
    pub acl: Acl,
    /// Whether writes may be acknowledged from the page cache (WCE=1).
    pub write_cache: bool,
    /// Plain writes are done by the data thread itself: only where the threads of the server serve nothing but targets.
    pub write_at_once: bool,
    /// A stable write that is alone is synced by the data thread itself, for which a disk that hangs is the end of all that it
    /// serves: only where nobody waits for that thread but who uses this disk.
    pub sync_at_once: bool,
    /// Bytes that may be read and written in a second.
    pub rate: Option<u64>,
}

impl ExportLun {
    /// A unit whose identity is derived from the names it is served by.
    pub fn new(iqn: &str, number: u16, backing: Backing) -> Self {
        let naa = derived_naa(iqn, number);
        Self {
            number,
            backing,
            block_size: BlockSize::B512,
            naa,
            serial: naa[8..].iter().map(|byte| format!("{byte:02x}")).collect(),
            removable: false,
            acl: Acl::Any,
            write_cache: true,
            write_at_once: false,
            sync_at_once: false,
            rate: None,
        }
    }
}

/// An NAA-6 designator from names: stable, and as unlikely to collide as 120 bits of a hash that nobody attacks.
pub fn derived_naa(iqn: &str, number: u16) -> [u8; 16] {
    let fnv = |basis: u64| {
        iqn.bytes()
            .chain(number.to_be_bytes())
            .fold(basis, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            })
    };
    let mut naa = [0; 16];
    naa[..8].copy_from_slice(&fnv(0xcbf2_9ce4_8422_2325).to_be_bytes());
    naa[8..].copy_from_slice(&fnv(0x6c62_272e_07bb_0142).to_be_bytes());
    naa[0] = 0x60 | naa[0] & 0x0F;
    naa
}
