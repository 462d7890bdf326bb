//! Waits, limits and budgets of one attach (protocol 2.15), with their defaults.

use std::time::Duration;

/// What the writer does while it does not know whether it still holds the membership.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnNoQuorum {
    /// Wait for ever.
    #[default]
    Suspend,
    /// EIO after `frozen_error`; the device stays.
    Error,
}

/// See the field docs; `Config::default()` holds the protocol's defaults.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// A leg command without an answer for this long, or a leg away for this long, is a lost leg.
    pub t_cmd: Duration,
    /// Reads are answered this long after the send of an I/O that completed on both legs.
    pub t_lease: Duration,
    /// A read on both legs when nothing else renewed the lease for this long.
    pub lease_renew: Duration,
    pub register_timeout: Duration,
    /// First and longest pause between tries of the same register request.
    pub register_retry: (Duration, Duration),
    pub register_poll: Duration,
    /// Frozen for this long with `OnNoQuorum::Error`: EIO.
    pub frozen_error: Duration,
    pub on_no_quorum: OnNoQuorum,
    pub login_timeout: Duration,
    pub login_timeout_lost_site: Duration,
    pub fence_timeout: Duration,
    /// Added to the lease of the writer before.
    pub lease_margin: Duration,
    pub release_retry: Duration,
    pub beat_interval: Duration,
    /// Pause between tries of a rejoin: first, longest.
    pub rejoin_backoff: (Duration, Duration),
    /// How long a drain may take at detach.
    pub drain: Duration,
    /// Pause before a command that met BUSY is sent again.
    pub busy_retry: Duration,
    /// A dirty region not written for this long is cleared by the sweep.
    pub clear_idle: Duration,
    /// How often the sweep looks.
    pub sweep_interval: Duration,
    /// Most bytes in dirty regions before the longest idle ones are cleared early.
    pub dirty_budget: u64,
    /// Regions marked ahead of a sequential stream.
    pub predirty: u32,
    /// Resync limit; `None` = unlimited. It goes slower while the guest's requests take much longer than without it.
    pub resync_bytes_per_second: Option<u64>,
    /// A member whose p99 is above this for 30 s, while the other one's is far below, leaves the membership; `None` = never.
    pub slow_leg: Option<Duration>,
    /// Copies in flight, and bytes of one.
    pub copies: u32,
    pub copy_max: u32,
    /// A rejoin sends new writes to both legs when no more than this is left to copy.
    pub rest_small: u64,
    /// Longest guest read or write.
    pub io_max: u32,
    /// Guest requests and bytes under way in the engine.
    pub max_requests: u32,
    pub max_bytes: u64,
    /// Guest requests that wait for a permit.
    pub max_queued: u32,
    /// Look at R this often while refused or waiting for a turn.
    pub refused_poll: Duration,
    /// The whole budget of an attach.
    pub attach_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let s = Duration::from_secs;
        let ms = Duration::from_millis;
        Self {
            t_cmd: s(3),
            t_lease: s(3),
            lease_renew: s(1),
            register_timeout: s(3),
            register_retry: (ms(200), s(2)),
            register_poll: s(10),
            frozen_error: s(30),
            on_no_quorum: OnNoQuorum::Suspend,
            login_timeout: s(5),
            login_timeout_lost_site: ms(1500),
            fence_timeout: s(10),
            lease_margin: ms(500),
            release_retry: s(10),
            beat_interval: s(2),
            rejoin_backoff: (s(5), s(300)),
            drain: s(3),
            busy_retry: ms(20),
            clear_idle: s(60),
            sweep_interval: s(1),
            dirty_budget: 5_000_000_000,
            predirty: 2,
            resync_bytes_per_second: Some(200 << 20),
            slow_leg: Some(s(1)),
            copies: 32,
            copy_max: 1 << 20,
            rest_small: 64 << 20,
            io_max: 1 << 20,
            max_requests: 256,
            max_bytes: 64 << 20,
            max_queued: 4096,
            refused_poll: s(5),
            attach_timeout: s(40),
        }
    }
}
