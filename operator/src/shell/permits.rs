//! The rate limit of automatic moves (`crate::policy::RateLimit`), shared by all workers.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::policy::RateLimit;

/// Permits for automatic moves.
pub struct Permits {
    began: Instant,
    limit: Mutex<RateLimit>,
}

impl fmt::Debug for Permits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Permits")
    }
}

impl Default for Permits {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            limit: Mutex::new(RateLimit::new(Duration::ZERO)),
        }
    }
}

impl Permits {
    /// Whether a move may begin now.
    pub fn is_free(&self) -> bool {
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        limit.has_permit(self.began.elapsed())
    }

    /// A move begins.
    pub fn take(&self) {
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        limit.take();
    }
}
