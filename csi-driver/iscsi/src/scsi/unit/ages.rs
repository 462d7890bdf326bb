//! When each attach last sent a command, for VPD page C0h.
//!
//! An attach is a reservation key without its session byte. Plans (tag C1h) do not count.
//!
//! Not here: what a nexus that is logged in did last (the nexus knows), the page (`scsi::target_age`).

use std::time::Duration;

const PLAN_TAG: u64 = 0xC1;
/// Attaches remembered after their nexus or registration is gone; the longest silent go first.
const MAX_DEPARTED: usize = 32;
/// Attaches for which an age is frozen; the oldest goes first.
const MAX_FROZEN: usize = 8;

/// A key without its session byte; `None` for plans.
pub(super) fn attach_of(key: u64) -> Option<u64> {
    (key >> 56 != PLAN_TAG).then_some(key & !0xFF)
}

#[derive(Debug, Default)]
pub(super) struct Ages {
    departed: Vec<(u64, Duration)>,
    frozen: Vec<(u64, Option<Duration>)>,
}

impl Ages {
    /// A nexus with this key, gone or with another key now, sent its last command at `at`.
    pub(super) fn depart(&mut self, key: u64, at: Duration) {
        let Some(attach) = attach_of(key) else { return };
        match self.departed.iter_mut().find(|(known, _)| *known == attach) {
            Some((_, last)) => *last = at.max(*last),
            None => self.departed.push((attach, at)),
        }
        if self.departed.len() > MAX_DEPARTED {
            let oldest = self
                .departed
                .iter()
                .enumerate()
                .min_by_key(|(_, (_, last))| *last);
            if let Some((place, _)) = oldest {
                self.departed.swap_remove(place);
            }
        }
    }

    /// The last command of an attach other than `own` among the departed and `present` ones.
    pub(super) fn last_foreign(
        &self,
        own: Option<u64>,
        present: impl Iterator<Item = (u64, Duration)>,
    ) -> Option<Duration> {
        let present = present.filter_map(|(key, at)| Some((attach_of(key)?, at)));
        let all = self.departed.iter().copied().chain(present);
        all.filter(|(attach, _)| Some(*attach) != own)
            .map(|(_, at)| at)
            .max()
    }

    pub(super) fn freeze(&mut self, own: u64, age: Option<Duration>) {
        self.frozen.retain(|(known, _)| *known != own);
        self.frozen.push((own, age));
        if self.frozen.len() > MAX_FROZEN {
            self.frozen.remove(0);
        }
    }

    pub(super) fn frozen(&self, own: u64) -> Option<Option<Duration>> {
        self.frozen
            .iter()
            .find(|(known, _)| *known == own)
            .map(|(_, age)| *age)
    }
}
