//! Birth: a leg gets its first superblock.
//!
//! Under a Creating register both legs become members of epoch 1; every later leg is born New and joins only by a rejoin
//! with a full copy (R34). A leg that carries anything is initialised only if the order names its NAA, and one that carries a
//! valid superblock never.

use std::time::Duration;

use twinsite_register::{Epoch, Gen, Key, Leg, Members, Register, State, VolumeId};

use super::{Done, Failure, Gate, Judged, OneShot, OneShotOrder, Phase};
use crate::attach::head::Head;
use crate::attach::sequence::{Sequence, Zeroing};
use crate::io::{Format, LegInfo, LegOp};
use crate::layout::{
    BEAT_OFFSET, Beat, BlockError, DATA_OFFSET, GUARD_OFFSET, Geometry, History, MapPage,
    RegionState, Role, Slots, Superblock, guard_block, history_offset, map_offset, slot_offset,
};

/// May this leg be born here?
pub(super) fn judge(
    register: &Register,
    leg: Leg,
    volume: VolumeId,
    geometry: Geometry,
    head: &Head,
    info: &LegInfo,
    named: bool,
) -> Result<Judged, Failure> {
    if register.state == State::Live && register.members.contains(leg) {
        return Err(Failure::WrongState);
    }
    if info.capacity < geometry.lun_bytes() {
        return Err(Failure::TooSmall(leg));
    }
    let untouched = match &head.slots {
        Slots::Valid(sb) => {
            let own =
                sb.volume == volume && sb.leg == leg && sb.register_id == register.register_id;
            let ours = match register.state {
                State::Creating => {
                    sb.epoch == Epoch(1)
                        && sb.generation == register.generation
                        && sb.format == Format::None
                }
                // Adopted: it joins by a rejoin.
                State::Live => true,
                State::Tombstone => false,
            };
            let same_lun = sb.naa == info.naa;
            return if own && ours && same_lun {
                Ok(Judged::Ready)
            } else {
                Err(Failure::ForeignData(leg))
            };
        }
        Slots::Blank => true,
        // Torn by a crash in a birth: a slot was the last thing written.
        Slots::Bad { slots } => slots
            .iter()
            .all(|slot| matches!(slot, BlockError::Blank | BlockError::Crc)),
        Slots::Newer(_) => return Err(Failure::UnknownFormat(leg)),
    };
    // A file of our own pool was made for this volume; a LUN must be named by a human.
    if named || (untouched && info.own_target) {
        Ok(Judged::Work)
    } else {
        Err(Failure::ForeignData(leg))
    }
}

/// Zero, guard, map, beat, superblocks, in this order.
pub(super) fn work(
    register: &Register,
    leg: Leg,
    order: &OneShotOrder,
    key: Key,
    geometry: Geometry,
    info: &LegInfo,
) -> Sequence {
    let joins_later = register.state == State::Live;
    let mut sequence = Sequence::default();
    let how = if info.discard_zeroes {
        Zeroing::Unmap
    } else {
        Zeroing::Write
    };
    // A full copy writes or zeroes every region of a leg that joins later.
    let end = if joins_later {
        DATA_OFFSET
    } else {
        geometry.lun_bytes()
    };
    sequence.zero(how, 0, end);
    sequence.push(LegOp::Sync);
    let mut write = |offset, block| sequence.push(LegOp::WriteMeta { offset, block });
    write(GUARD_OFFSET, guard_block());
    let epoch = if joins_later { Epoch::ZERO } else { Epoch(1) };
    for page in 0..geometry.pages() {
        let map = MapPage::filled(page, 1, epoch, RegionState::Unwritten);
        write(map_offset(page), map.emit());
    }
    let beat = Beat {
        volume: order.volume,
        epoch: Epoch::ZERO,
        attach_key: None,
        beat: 0,
        flushed: 0,
    };
    write(BEAT_OFFSET, beat.emit());
    let member = Superblock {
        epoch,
        active_seq: 1,
        attach_key: Some(key),
        lease_ms: u32::try_from(order.config.t_lease.as_millis()).unwrap_or(u32::MAX),
        node: order.node.clone(),
        ..Superblock::born(register, order.volume, leg, geometry, info.naa)
    };
    let sb = if joins_later {
        Superblock {
            role: Role::New,
            members: Members::NONE,
            active_seq: register.active.seq,
            generation: Gen::default(),
            ..member
        }
    } else {
        member
    };
    for sb_seq in [1, 2] {
        write(
            slot_offset(sb_seq),
            Superblock {
                sb_seq,
                ..sb.clone()
            }
            .emit(),
        );
    }
    let history = History {
        superblock: Superblock { sb_seq: 2, ..sb },
        reason: "birth".into(),
    };
    write(history_offset(2), history.emit());
    sequence
}

impl OneShot {
    /// Every leg of the order is born. If these are both of a new volume, the register is told.
    pub(super) fn born(&mut self, now: Duration) {
        let Some(register) = self.seen().cloned() else {
            return self.fail(Failure::WrongState);
        };
        let whole = register.state == State::Creating && self.order.legs == Members::BOTH;
        if !whole {
            let live = register.state == State::Live;
            return self.finish(Done::Born { live });
        }
        self.reach(now, Gate::Tell);
    }

    /// The request that makes the volumes of this register live.
    pub(super) fn tell_birth(&mut self, now: Duration, register: Register) {
        match register.birth(register.active.site, self.ids.txid()) {
            Ok(live) => {
                let id = self.port.cas_register(register, live.clone());
                let until = now + self.order.config.register_timeout;
                self.phase = Phase::Cas {
                    register: live,
                    id,
                    until,
                };
            }
            Err(_) => self.fail(Failure::WrongState),
        }
    }

    /// Live with our generation: it was executed, by us or by another executor of the same birth.
    pub(super) fn birth_read(
        &mut self,
        proposed: &Register,
        read: Result<Option<Box<Register>>, ()>,
    ) {
        match read {
            Ok(Some(read))
                if read.state == State::Live
                    && read.register_id == proposed.register_id
                    && read.members_of(Epoch(1), proposed.generation).is_some() =>
            {
                self.finish(Done::Born { live: true });
            }
            Ok(_) => self.fail(Failure::Changed),
            Err(()) => self.fail(Failure::WitnessUnreachable),
        }
    }
}
