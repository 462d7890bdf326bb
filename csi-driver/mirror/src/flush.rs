//! What a leg has on stable storage, as far as we know.
//!
//! A SYNCHRONIZE CACHE covers every write that completed before it was sent. Flushes that come while one is in flight share
//! the next one. The tracker also answers whether a restart of a volatile target could have lost something (R14).
//!
//! Invariants: `synced <= sent <= written`; at most one SYNC is in flight.

/// Positions in the stream of completed writes of one leg.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SyncTracker {
    written: u64,
    sent: Option<u64>,
    synced: u64,
}

/// A point in the stream; covered once everything before it is durable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Mark(u64);

impl Default for SyncTracker {
    /// A leg that was just taken over: what earlier writers left in its cache is not known to be durable.
    fn default() -> Self {
        Self {
            written: 1,
            sent: None,
            synced: 0,
        }
    }
}

impl SyncTracker {
    /// A write without FUA completed.
    pub(crate) fn wrote(&mut self) {
        self.written += 1;
    }

    /// Everything written so far.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.written)
    }

    pub(crate) fn covers(&self, mark: Mark) -> bool {
        self.synced >= mark.0
    }

    /// Completed writes that a power cut could take back.
    pub(crate) fn has_unflushed(&self) -> bool {
        self.synced < self.written
    }

    /// May a SYNC be sent now that helps this mark?
    pub(crate) fn wants(&self, mark: Mark) -> bool {
        self.sent.is_none() && !self.covers(mark)
    }

    /// A SYNC is sent now.
    pub(crate) fn send(&mut self) {
        self.sent = Some(self.written);
    }

    /// The SYNC in flight succeeded.
    pub(crate) fn done(&mut self) {
        if let Some(sent) = self.sent.take() {
            self.synced = self.synced.max(sent);
        }
    }

    /// The SYNC in flight did not succeed; it proves nothing.
    pub(crate) fn failed(&mut self) {
        self.sent = None;
    }

    /// What a restart lost was dealt with (flushFail, reconcile): from here on as if all were durable.
    pub(crate) fn forget(&mut self) {
        self.sent = None;
        self.synced = self.written;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_covers_only_what_completed_before_it_was_sent() {
        let mut leg = SyncTracker::default();
        assert!(leg.wants(leg.mark()), "what was there before the attach");
        leg.send();
        leg.done();
        assert!(!leg.wants(leg.mark()), "nothing was written since");
        leg.wrote();
        let first = leg.mark();
        assert!(leg.wants(first));
        leg.send();
        leg.wrote();
        let second = leg.mark();
        assert!(!leg.wants(second), "one in flight");
        leg.done();
        assert!(leg.covers(first) && !leg.covers(second) && leg.has_unflushed());
        leg.send();
        leg.failed();
        assert!(leg.wants(second));
        leg.send();
        leg.done();
        assert!(leg.covers(second) && !leg.has_unflushed());
    }
}
