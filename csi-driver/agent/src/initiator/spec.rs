//! How a leg is reached, and what must be found there.

use std::net::SocketAddr;
use std::time::Duration;

use twinsite_iscsi::session::{ChapInitiator, Offer};
use twinsite_mirror::io::Naa;

/// How a leg is reached and what it must be.
#[derive(Debug, Clone)]
pub struct LegSpec {
    /// Best first; at least one.
    pub portals: Vec<SocketAddr>,
    pub iqn: String,
    pub lun: u16,
    /// Another NAA is another LUN; `None`: whatever is there.
    pub naa: Option<Naa>,
    pub chap: Option<ChapInitiator>,
    /// Its write cache survives a power cut.
    pub cache_protected: bool,
    pub initiator_name: String,
    /// The ISID of the data session; that of the resync session differs in its last byte.
    pub isid: [u8; 6],
    pub offer: Offer,
    pub times: Times,
}

/// A silent path is given up after this when there is another one: what waits on it then waits less than two seconds in all.
const PING_OF_MANY: (Duration, Duration) = (Duration::from_millis(400), Duration::from_millis(900));

impl LegSpec {
    /// After which silence a path is asked whether it lives, and how long its answer may take.
    pub(super) fn pings(&self) -> (Duration, Duration) {
        let Times {
            ping_interval,
            ping_timeout,
            ..
        } = self.times;
        if self.portals.len() < 2 {
            return (ping_interval, ping_timeout);
        }
        let (interval, timeout) = PING_OF_MANY;
        (ping_interval.min(interval), ping_timeout.min(timeout))
    }
}

/// Waits of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// From the start of a connect to the answers about the LUN, for one portal.
    pub portal: Duration,
    /// Pause after a round of portals without success, growing to the second one.
    pub retry: (Duration, Duration),
    pub ping_interval: Duration,
    pub ping_timeout: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            portal: Duration::from_millis(1500),
            retry: (Duration::from_millis(100), Duration::from_secs(1)),
            ping_interval: Duration::from_secs(1),
            ping_timeout: Duration::from_secs(2),
        }
    }
}

/// As people and objects write it.
pub(super) fn naa_text(naa: Naa) -> String {
    let (first, second) = naa.0.split_at(8);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let digits: String = hex(first);
    let rest: String = if first[0] >> 4 == 6 {
        hex(second)
    } else {
        String::new()
    };
    format!("naa.{digits}{rest}")
}
