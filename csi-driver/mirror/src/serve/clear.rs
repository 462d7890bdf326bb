//! Clearing regions of the dirty map, so that a crash reconciles little.
//!
//! A region is cleared only in Synced, with both superblocks of the epoch durable and base none, no region of it pending or
//! must-reconcile, no write in flight, and after a SYNC on both legs that was sent after its last write (R13). The sweep
//! takes regions idle for a minute, and the longest idle ones earlier when the budget is exceeded.

use std::time::Duration;

use twinsite_register::Leg;

use super::Serve;
use crate::flush::Mark;
use crate::layout::PAGE_REGIONS;

/// A sweep that waits for its SYNC.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sweep {
    /// Regions last written before this tick.
    limit: u32,
    marks: [Mark; 2],
}

impl Serve {
    /// The tick of writes issued or completed now: whole seconds, never 0, which is "before this attach".
    pub(super) fn tick_of(now: Duration) -> u32 {
        u32::try_from(now.as_secs().saturating_add(1)).unwrap_or(u32::MAX)
    }

    pub(super) fn sweep_timer(&mut self) {
        if self.next_sweep > self.now {
            return;
        }
        self.next_sweep = self.now + self.config.sweep_interval;
        if self.sweep.is_some() || !self.may_clear() {
            return;
        }
        let idle = u32::try_from(self.config.clear_idle.as_secs()).unwrap_or(u32::MAX);
        let limit = self.tick.saturating_sub(idle).max(self.budget_limit());
        self.start_sweep(limit.min(self.tick));
    }

    /// Regions last written before this tick must go so that the rest fits the budget.
    fn budget_limit(&self) -> u32 {
        let allowed = (self.config.dirty_budget >> self.geometry.region_shift()).max(1);
        let excess = u64::from(self.map.dirty_regions()).saturating_sub(allowed);
        if excess == 0 {
            return 0;
        }
        let mut ticks = Vec::new();
        for page in 0..self.map.page_count() {
            self.map.ticks(page, &mut ticks);
        }
        if ticks.is_empty() {
            return 0;
        }
        let nth = usize::try_from(excess - 1)
            .unwrap_or(usize::MAX)
            .min(ticks.len() - 1);
        let (_, tick, _) = ticks.select_nth_unstable(nth);
        tick.saturating_add(1)
    }

    /// Clear every idle region (2.6 step 10, detach).
    pub(super) fn clear_all(&mut self) {
        self.start_sweep(self.tick);
    }

    /// Clear everything: no request is left (detach).
    pub(super) fn clear_everything(&mut self) {
        if self.may_clear() {
            self.start_sweep(u32::MAX);
        }
    }

    fn start_sweep(&mut self, limit: u32) {
        let wanted = (0..self.map.page_count())
            .any(|page| self.map.oldest(page).is_some_and(|oldest| oldest < limit));
        if !wanted {
            return;
        }
        let marks = Leg::BOTH.map(|leg| self.syncs[leg.index()].mark());
        self.sweep = Some(Sweep { limit, marks });
        for leg in Leg::BOTH {
            self.want_sync(leg, marks[leg.index()]);
        }
        self.run_sweep();
    }

    /// After the SYNC: one transaction per page.
    pub(super) fn run_sweep(&mut self) {
        let Some(Sweep { limit, marks }) = self.sweep else {
            return;
        };
        if !Leg::BOTH
            .into_iter()
            .all(|leg| self.syncs[leg.index()].covers(marks[leg.index()]))
        {
            return;
        }
        self.sweep = None;
        if !self.may_clear() {
            return;
        }
        for page in 0..self.map.page_count() {
            if self.map.oldest(page).is_none_or(|oldest| oldest >= limit) {
                continue;
            }
            let first = page * PAGE_REGIONS as u32;
            let pages = first..first + PAGE_REGIONS as u32;
            if !self.pending.is_empty() && self.pending.any(pages.clone()) {
                continue;
            }
            if !self.must.is_empty() && self.must.any(pages) {
                continue;
            }
            let (locks, geometry) = (&self.locks, self.geometry);
            let cleared = self.map.clear(page, limit, |region| {
                let (offset, len) = geometry.extent(region.into());
                locks.writing(offset, len)
            });
            self.counters.regions_cleared += u64::from(cleared);
        }
        self.start_pages();
    }

    /// The state allows a clear.
    pub(super) fn may_clear(&self) -> bool {
        let synced = matches!(
            self.state,
            super::state::State::Synced | super::state::State::Detach
        );
        synced
            && self.clearable
            && self.running.members == twinsite_register::Members::BOTH
            && Leg::BOTH.into_iter().all(|leg| self.ready(leg))
    }
}
