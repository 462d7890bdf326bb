//! Invariants of the whole world, after each step and at the end.

use super::world::World;
use crate::status::StateName;

impl World {
    pub(super) fn check(&mut self) {
        let volumes = self.targets.as_chunks::<2>().0;
        for (oracle, targets) in self.oracles.iter().zip(volumes) {
            oracle.check_legs(&self.witness.value, targets, self.lost);
            if self.writers.is_empty() && !self.options.volatile {
                oracle.check_maps(&self.witness.value, targets, self.geometry);
            }
        }
        self.check_chain();
        self.check_branch();
    }

    /// A write of one volume was acknowledged: whichever volumes of the group acknowledge at this instant run on the same legs,
    /// and these are what the register says, or what it will say by a request that is open.
    pub(super) fn note_ack(&mut self, writer: u32, volume: usize) {
        let w = &self.writers[&writer];
        let statuses = (0..self.options.volumes()).map(|v| w.engine.status(self.now, v));
        let own = w.engine.status(self.now, volume).members;
        for (other, status) in statuses.enumerate() {
            let acknowledges = matches!(
                status.state,
                StateName::Synced | StateName::Solo | StateName::Expand
            );
            assert!(
                !acknowledges || status.members == own,
                "w{writer} acknowledges for volume {volume} on {own}, volume {other} runs on {}",
                status.members
            );
        }
        self.acks += 1;
    }

    /// I10, after all faults are healed: one writer serves a pair, everything it was asked is answered, the legs are equal.
    pub(super) fn check_converged(&mut self) {
        assert_eq!(
            self.writers.len(),
            1,
            "one writer: {:?}",
            self.writers.keys()
        );
        let w = self.writers.values().next().unwrap();
        for volume in 0..self.options.volumes() {
            let status = w.engine.status(self.now, volume);
            assert_eq!(status.state, StateName::Synced, "{volume}: {status:?}");
            let guest = &w.guests[volume];
            assert!(guest.shown);
            assert_eq!(guest.asked.len(), 0, "I10: unanswered {:?}", guest.asked);
            let open = (status.pending_bytes, status.conditions.len());
            assert_eq!(open, (0, 0), "{volume}: {status:?}");
            assert_eq!(status.dirty_bytes, 0, "everything idle is cleared");
            for &block in self.oracles[volume].blocks.keys() {
                let versions = [0, 1].map(|n: usize| {
                    let cache = &self.targets[volume * 2 + n].cache;
                    cache.get(&block).copied().unwrap_or(0)
                });
                assert_eq!(versions[0], versions[1], "volume {volume} block {block}");
            }
        }
    }

    pub(super) fn stop_guests(&mut self) {
        self.set_guests(false);
    }

    pub(super) fn resume_guests(&mut self) {
        self.set_guests(true);
    }

    fn set_guests(&mut self, shown: bool) {
        let writers = self.writers.values_mut();
        for guest in writers.flat_map(|w| &mut w.guests) {
            guest.shown = shown;
        }
    }

    pub(super) fn answered(&self) -> u64 {
        self.writers.values().map(|w| w.answered).sum()
    }
}
