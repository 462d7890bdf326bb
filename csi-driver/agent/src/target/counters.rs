//! What a target has done and holds, for metrics and status.

use std::net::SocketAddr;
use std::time::Duration;

/// Numbers of one target since it was added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetStats {
    pub iqn: String,
    pub sessions: Vec<SessionStats>,
    pub luns: Vec<LunStats>,
    /// Logins that were let through.
    pub logins: u64,
    /// Sessions that ended because the same initiator port logged in again.
    pub reinstated: u64,
    /// Sessions that ended by an error or a lost connection.
    pub lost: u64,
    pub task_management: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionStats {
    pub initiator: String,
    pub isid: [u8; 6],
    pub peer: SocketAddr,
    pub open_tasks: usize,
}

/// Numbers of one logical unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LunStats {
    pub number: u16,
    pub size: u64,
    pub commands: u64,
    pub reads: u64,
    pub read_bytes: u64,
    pub writes: u64,
    pub written_bytes: u64,
    pub flushes: u64,
    pub discards: u64,
    /// Store operations that failed.
    pub store_errors: u64,
    /// Store operations under way.
    pub under_way: usize,
    /// Sum of the times of all finished store operations; by their number: the mean.
    pub store_time: Duration,
    pub store_operations: u64,
    /// Age of the last command of a registered key other than the one asked for: [`super::ServerHandle::foreign_command_age`].
    pub boot_id: u64,
}
