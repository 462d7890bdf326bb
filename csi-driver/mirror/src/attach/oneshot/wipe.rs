//! Wipe: a leg of a deleted volume is erased.

use twinsite_register::{Key, Leg};

use super::{Failure, Judged, OneShot};
use crate::attach::head::Head;
use crate::attach::sequence::{Sequence, Zeroing};
use crate::io::LegOp;
use crate::layout::{BEAT_OFFSET, BLOCK, SLOT_OFFSETS, Slots, map_offset};

impl OneShot {
    /// A leg is erased only under a tombstone of its own register and of a later epoch (I18). A blank one was erased before.
    pub(super) fn judge_wipe(&self, leg: Leg, head: &Head) -> Result<Judged, Failure> {
        let register = self.seen().ok_or(Failure::WrongState)?;
        match &head.slots {
            Slots::Blank => Ok(Judged::Work),
            Slots::Valid(sb) => {
                let id = sb.register_id;
                let of_register = id == register.register_id || register.former.contains(&id);
                let of_leg = sb.volume == self.order.volume && sb.leg == leg;
                if of_register && of_leg && sb.epoch < register.epoch {
                    Ok(Judged::Work)
                } else {
                    Err(Failure::ForeignData(leg))
                }
            }
            Slots::Newer(_) => Err(Failure::UnknownFormat(leg)),
            Slots::Bad { .. } => Err(Failure::ForeignData(leg)),
        }
    }
}

/// Map first, slots last: a leg that is half erased still says whose it is, and the next try goes on.
pub(super) fn wipe(key: Key, head: &Head) -> Sequence {
    let mut sequence = Sequence::default();
    if let Slots::Valid(sb) = &head.slots {
        let pages = u64::from(sb.geometry.pages());
        sequence.zero(
            Zeroing::Write,
            map_offset(0),
            map_offset(0) + pages * BLOCK as u64,
        );
        sequence.push(LegOp::Sync);
        for offset in [BEAT_OFFSET, SLOT_OFFSETS[0], SLOT_OFFSETS[1]] {
            let block = Box::new([0; BLOCK]);
            sequence.push(LegOp::WriteMeta { offset, block });
        }
    }
    sequence.push(LegOp::PrClear { key });
    sequence
}
