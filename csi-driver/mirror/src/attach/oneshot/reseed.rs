//! Reseed: superblocks get the id of the register that a human made in place of a lost one.

use std::ops::RangeInclusive;

use twinsite_register::{Class, Leg, RegisterId, classify};

use super::{Failure, Judged, OneShot, Reseeding};
use crate::attach::head::Head;
use crate::attach::sequence::Sequence;
use crate::layout::{History, Superblock, history_offset, slot_offset};

impl OneShot {
    /// Only a believable superblock that the plan has seen gets a new register, and only if the present one is lost or below it.
    pub(super) fn judge_reseed(
        &self,
        leg: Leg,
        head: &Head,
        order: &Reseeding,
    ) -> Result<Judged, Failure> {
        let id = order.register_id;
        let body = head.body.as_ref().ok_or(Failure::ForeignData(leg))?;
        let sb = &body.superblock;
        if order.expect[leg.index()].is_some_and(|seen| seen != (sb.epoch, sb.generation)) {
            return Err(Failure::OtherHistory(leg));
        }
        if sb.register_id == id {
            return Ok(Judged::Ready);
        }
        match self.seen() {
            None => Ok(Judged::Work),
            Some(register) if register.register_id == id => Ok(Judged::Work),
            Some(register) => match classify(Some(register), &self.order.marks, &[sb.mark()]) {
                Class::Below(_) => Ok(Judged::Work),
                Class::Absent | Class::Creating | Class::Live | Class::Tombstone => {
                    Err(Failure::WrongState)
                }
            },
        }
    }
}

/// The same superblock under the new register, in both slots.
pub(super) fn reseed(register_id: RegisterId, old: &Superblock) -> Sequence {
    let numbers = old.sb_seq.saturating_add(1)..=old.sb_seq.saturating_add(2);
    named_as(register_id, old, numbers, "reseed")
}

/// The superblock that a person names, under these numbers: once it is in both slots it runs only if the register says so.
pub(super) fn named_as(
    register_id: RegisterId,
    old: &Superblock,
    numbers: RangeInclusive<u64>,
    reason: &str,
) -> Sequence {
    let mut blocks = Vec::new();
    for sb_seq in numbers.clone() {
        let sb = Superblock {
            sb_seq,
            register_id,
            awaits_register: true,
            ..old.clone()
        };
        blocks.push((slot_offset(sb_seq), sb.emit()));
        if sb_seq == *numbers.end() {
            let history = History {
                superblock: sb,
                reason: reason.into(),
            };
            blocks.push((history_offset(sb_seq), history.emit()));
        }
    }
    Sequence::blocks(blocks)
}
