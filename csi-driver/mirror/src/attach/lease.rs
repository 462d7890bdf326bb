//! How long a new owner waits before it serves, so that no reader at the old owner can still answer from a lease (R8, R26).
//!
//! A lease runs only while I/O completes on both legs. It is over when both legs were fenced and verified, when somebody
//! served in this epoch before us (he waited), or when an own target saw no command of another attach for longer than it.

use std::time::Duration;

use twinsite_register::Epoch;

use crate::io::TargetAge;
use crate::layout::Beat;

/// What the wait is judged by.
#[derive(Clone, Debug)]
pub(super) struct Evidence<'a> {
    /// Both legs were fenced, and verified after the last fence.
    pub(super) both_verified: bool,
    /// The epoch about to be served.
    pub(super) epoch: Epoch,
    /// Beat blocks of the legs that will run.
    pub(super) beats: Vec<Option<&'a Beat>>,
    /// VPD C0h of the fenced legs of own targets, read after the fence.
    pub(super) ages: Vec<TargetAge>,
    /// `lease_ms` of every superblock that was read.
    pub(super) leases_ms: Vec<u32>,
    /// Added to the longest lease.
    pub(super) margin: Duration,
    /// When the last fence completed.
    pub(super) last_fence: Duration,
}

/// Until when to wait; `None`: not at all.
pub(super) fn wait_until(evidence: &Evidence<'_>) -> Option<Duration> {
    let longest = evidence.leases_ms.iter().copied().max().unwrap_or(0);
    let wait = Duration::from_millis(longest.into()) + evidence.margin;
    let served = evidence
        .beats
        .iter()
        .flatten()
        .any(|beat| beat.epoch == evidence.epoch);
    let quiet =
        |age: &TargetAge| age.uptime > wait && age.last_foreign.is_none_or(|last| last > wait);
    if evidence.both_verified || served || evidence.ages.iter().any(quiet) {
        return None;
    }
    Some(evidence.last_fence + wait)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::VolumeId;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn evidence() -> Evidence<'static> {
        Evidence {
            both_verified: false,
            epoch: Epoch(5),
            beats: vec![],
            ages: vec![],
            leases_ms: vec![3000, 1000],
            margin: Duration::from_millis(500),
            last_fence: S(100),
        }
    }
    fn beat(epoch: u64) -> Beat {
        Beat {
            volume: VolumeId::ZERO,
            epoch: Epoch(epoch),
            attach_key: None,
            beat: 1,
            flushed: 0,
        }
    }
    fn age(uptime: u64, last_foreign: Option<u64>) -> TargetAge {
        TargetAge {
            boot_id: 1,
            uptime: S(uptime),
            last_foreign: last_foreign.map(S),
        }
    }

    #[test]
    fn r8_the_longest_lease_read_is_waited_out_from_the_last_fence() {
        assert_eq!(
            wait_until(&evidence()),
            Some(Duration::from_millis(103_500))
        );
    }

    #[test]
    fn r26_a_verified_fence_of_both_legs_needs_no_wait() {
        assert_eq!(
            wait_until(&Evidence {
                both_verified: true,
                ..evidence()
            }),
            None
        );
    }

    #[test]
    fn r26_a_beat_of_this_epoch_shows_that_somebody_waited_and_one_of_an_older_does_not() {
        let (now, old) = (beat(5), beat(4));
        assert_eq!(
            wait_until(&Evidence {
                beats: vec![None, Some(&now)],
                ..evidence()
            }),
            None
        );
        assert!(
            wait_until(&Evidence {
                beats: vec![Some(&old)],
                ..evidence()
            })
            .is_some()
        );
    }

    #[test]
    fn a_quiet_target_needs_no_wait_unless_it_started_just_now() {
        let with = |age| {
            wait_until(&Evidence {
                ages: vec![age],
                ..evidence()
            })
        };
        assert_eq!(with(age(100, Some(4))), None);
        assert_eq!(with(age(100, None)), None);
        assert!(with(age(100, Some(3))).is_some());
        assert!(with(age(3, None)).is_some());
        assert!(with(age(3, Some(100))).is_some());
        // Exactly the wait is not longer than it.
        let exact = TargetAge {
            boot_id: 1,
            uptime: Duration::from_millis(3500),
            last_foreign: None,
        };
        assert!(with(exact).is_some());
    }
}
