//! Invariants of the whole world, after each step and at the end.

use super::world::World;
use crate::status::StateName;

impl World {
    pub(super) fn check(&mut self) {
        self.oracle.check_legs(&self.witness.value, &self.targets);
        if self.writers.is_empty() && !self.options.volatile {
            self.oracle
                .check_maps(&self.witness.value, &self.targets, self.geometry);
        }
    }

    /// I10, after all faults are healed: one writer serves a pair, everything it was asked is answered, the legs are equal.
    pub(super) fn check_converged(&mut self) {
        let states: Vec<(u32, StateName)> = self
            .writers
            .iter()
            .map(|(id, w)| (*id, w.engine.status(self.now).state))
            .collect();
        assert_eq!(states.len(), 1, "one writer: {states:?}");
        assert_eq!(
            states[0].1,
            StateName::Synced,
            "{states:?} {:?}",
            self.writers[&states[0].0].engine.status(self.now)
        );
        let w = &self.writers[&states[0].0];
        assert!(w.shown);
        assert_eq!(w.asked.len(), 0, "I10: unanswered {:?}", w.asked);
        let status = w.engine.status(self.now);
        assert_eq!(
            (status.pending_bytes, status.conditions.len()),
            (0, 0),
            "{status:?}"
        );
        assert_eq!(status.dirty_bytes, 0, "everything idle is cleared");
        for &block in self.oracle.blocks.keys() {
            let versions =
                [0, 1].map(|n: usize| self.targets[n].cache.get(&block).copied().unwrap_or(0));
            assert_eq!(versions[0], versions[1], "block {block}");
        }
    }

    pub(super) fn stop_guests(&mut self) {
        for w in self.writers.values_mut() {
            w.shown = false;
        }
    }

    pub(super) fn resume_guests(&mut self) {
        for w in self.writers.values_mut() {
            w.shown = true;
        }
    }

    pub(super) fn answered(&self) -> u64 {
        self.writers.values().map(|w| w.answered).sum()
    }
}
