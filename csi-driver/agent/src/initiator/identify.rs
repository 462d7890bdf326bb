//! What is asked of a LUN right after its sessions logged in, one command after the other: INQUIRY, VPD 83, B0, B2,
//! C0h, the caching page, READ CAPACITY(16).
//!
//! What a LUN does not know (an array without C0h, without unmap) is left out of the answer. A write cache that it
//! does not tell about, also because somebody else has it reserved, counts as volatile.

use twinsite_iscsi::scsi::client::{self, BlockLimits, Capacity, Identity, Provisioning};
use twinsite_iscsi::scsi::{Cdb, ScsiOutcome, TargetAge};
use twinsite_mirror::io::{LegError, LegInfo, Naa};

use super::outcome::verdict;

/// Unit attentions are reported once each; more repetitions than this are a broken LUN.
const MAX_REPEATS: u32 = 16;
const ALLOCATION: u16 = 4096;

/// The rest of what a command may carry; not part of what the mirror wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub block_size: u32,
    /// Bytes of one READ or WRITE.
    pub transfer: u32,
    /// Blocks of one WRITE SAME.
    pub write_same: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Inquiry,
    Naa,
    Limits,
    Provisioning,
    Age,
    Caching,
    Capacity,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    Ask(Cdb, u32),
    Done(LegInfo, Limits),
    Failed(LegError),
}

/// One run of the questions.
#[derive(Debug)]
pub(super) struct Identify {
    step: Step,
    repeats: u32,
    cache_protected: bool,
    naa: Naa,
    limits: BlockLimits,
    provisioning: Provisioning,
    boot_id: Option<u64>,
    write_cache: bool,
}

impl Identify {
    pub(super) fn new(cache_protected: bool) -> Self {
        Self {
            step: Step::Inquiry,
            repeats: 0,
            cache_protected,
            naa: Naa([0; 16]),
            limits: BlockLimits::default(),
            provisioning: Provisioning::default(),
            boot_id: None,
            write_cache: true,
        }
    }

    pub(super) fn ask(&self) -> Next {
        let vpd = |page| (client::vpd(page, ALLOCATION), u32::from(ALLOCATION));
        let (cdb, len) = match self.step {
            Step::Inquiry => (client::inquiry(96), 96),
            Step::Naa => vpd(0x83),
            Step::Limits => vpd(0xB0),
            Step::Provisioning => vpd(0xB2),
            Step::Age => (client::target_age(), 252),
            Step::Caching => (mode_sense_caching(), 64),
            Step::Capacity => (client::read_capacity16(), 32),
        };
        Next::Ask(cdb, len)
    }

    pub(super) fn answered(&mut self, outcome: &ScsiOutcome) -> Next {
        let answer = match verdict(outcome) {
            Ok(()) => Some(outcome.data_in.concat()),
            // At this point nothing was sent that a preemption could have hit: reservations are looked at next.
            Err(LegError::Retry | LegError::Preempted) if self.repeats < MAX_REPEATS => {
                self.repeats += 1;
                return self.ask();
            }
            Err(error @ (LegError::Refused(..) | LegError::Conflict)) if self.may_be_refused() => {
                tracing::debug!(step = ?self.step, %error, "not told by the LUN");
                None
            }
            Err(error) => return Next::Failed(error),
        };
        match self.take(answer.as_deref()) {
            Some(next) => next,
            None => Next::Failed(LegError::Hardware),
        }
    }

    fn may_be_refused(&self) -> bool {
        matches!(
            self.step,
            Step::Naa | Step::Limits | Step::Provisioning | Step::Age | Step::Caching
        )
    }

    /// `None`: the answer makes no sense.
    fn take(&mut self, answer: Option<&[u8]>) -> Option<Next> {
        self.step = match (self.step, answer) {
            (Step::Inquiry, Some(answer)) => {
                if !Identity::parse(answer).ok()?.present {
                    return Some(Next::Failed(LegError::Refused(5, 0x25, 0)));
                }
                Step::Naa
            }
            (Step::Naa, answer) => {
                if let Some(answer) = answer {
                    self.naa = client::naa(answer).ok()?.map_or(Naa([0; 16]), Naa);
                }
                Step::Limits
            }
            (Step::Limits, answer) => {
                if let Some(answer) = answer {
                    self.limits = BlockLimits::parse(answer).ok()?;
                }
                Step::Provisioning
            }
            (Step::Provisioning, answer) => {
                if let Some(answer) = answer {
                    self.provisioning = Provisioning::parse(answer).ok()?;
                }
                Step::Age
            }
            (Step::Age, answer) => {
                self.boot_id = answer.and_then(TargetAge::parse).map(|age| age.boot_id);
                Step::Caching
            }
            (Step::Caching, answer) => {
                self.write_cache = answer.and_then(write_cache).unwrap_or(true);
                Step::Capacity
            }
            (Step::Capacity, Some(answer)) => {
                let capacity = Capacity::parse(answer).ok()?;
                return Some(Next::Done(self.info(capacity), self.limits(capacity)));
            }
            (Step::Inquiry | Step::Capacity, None) => return None,
        };
        Some(self.ask())
    }

    fn info(&self, capacity: Capacity) -> LegInfo {
        let unmaps = self.provisioning.write_same16_unmap;
        LegInfo {
            naa: self.naa,
            capacity: capacity.bytes(),
            block_size: capacity.block,
            volatile_cache: self.write_cache && !self.cache_protected,
            boot_id: self.boot_id,
            own_target: self.boot_id.is_some(),
            discard_zeroes: unmaps && (capacity.zeroes || self.provisioning.zeroes),
            discard_granularity: if unmaps {
                self.limits
                    .unmap_granularity
                    .max(1)
                    .saturating_mul(capacity.block)
            } else {
                0
            },
        }
    }

    fn limits(&self, capacity: Capacity) -> Limits {
        let or_all = |blocks: u64| match blocks {
            0 => u32::MAX,
            blocks => u32::try_from(blocks).unwrap_or(u32::MAX),
        };
        Limits {
            block_size: capacity.block,
            transfer: or_all(self.limits.max_transfer_blocks.into()).saturating_mul(capacity.block),
            write_same: or_all(self.limits.max_write_same_blocks),
        }
    }
}

/// MODE SENSE(6) of page 08h, without block descriptors.
fn mode_sense_caching() -> Cdb {
    Cdb::new(&[0x1A, 0x08, 0x08, 0, 64, 0])
}

/// The WCE bit of a caching page behind its mode parameter header.
fn write_cache(answer: &[u8]) -> Option<bool> {
    let descriptors = usize::from(*answer.get(3)?);
    let page = answer.get(4 + descriptors..)?;
    (page.first()? & 0x3F == 0x08).then_some(page.get(2)? & 0x04 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_write_cache_bit_is_found_behind_descriptors() {
        assert_eq!(write_cache(&[0, 0, 0, 0, 0x08, 18, 0x04]), Some(true));
        assert_eq!(write_cache(&[0, 0, 0, 0, 0x88, 18, 0x00]), Some(false));
        let described = [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0x08, 18, 0x04];
        assert_eq!(write_cache(&described), Some(true));
        for cut in 0..described.len() {
            assert_eq!(write_cache(&described[..cut]), None);
        }
        assert_eq!(write_cache(&[0, 0, 0, 0, 0x0A, 18, 0x04]), None);
    }
}
