//! The beat object of a volume at the witness: evidence that its writer is alive, and the highest beat known.
//!
//! It is an object of its own and not a field of the register, so that a delayed beat can never revert a membership (R33).
//! It is written as a maximum: a late or repeated write changes nothing.

use serde::{Deserialize, Serialize};

use crate::Epoch;

/// The newest beat that became durable on every member, by epoch first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BeatObject {
    /// The epoch in which it was written.
    pub epoch: Epoch,
    /// The beat number within the life of the volume.
    pub beat: u64,
}

impl BeatObject {
    /// What the object holds after `self` is written over `stored`.
    #[must_use]
    pub fn merged(self, stored: Self) -> Self {
        self.max(stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_beat_never_lowers_the_object() {
        let at = |epoch, beat| BeatObject {
            epoch: Epoch(epoch),
            beat,
        };
        assert_eq!(at(3, 7).merged(at(3, 9)), at(3, 9));
        assert_eq!(at(3, 10).merged(at(3, 9)), at(3, 10));
        assert_eq!(at(4, 1).merged(at(3, 9)), at(4, 1));
        assert_eq!(at(2, 99).merged(at(3, 1)), at(3, 1));
    }
}
