//! The superblocks of a serving writer: what is written at each change, and in which slots.
//!
//! A change of role, members, epoch or active goes to both slots, one after the other (R32); a change of boot id, base,
//! clean mark, size or format goes to the older slot only. The last block written to each leg is kept here; a script that
//! was cut short leaves a gap in the sequence, never a repeated number.

use std::collections::VecDeque;

use twinsite_register::{Leg, Members};

use super::Serve;
use super::script::{Step, Write};
use crate::io::DATA_START;
use crate::layout::{
    Base, History, Role, Superblock, base_blocks, base_crc, base_offset, history_offset,
    slot_offset,
};

/// Which slots a change must reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Slots {
    One,
    Both,
}

/// The base of a Solo: numbers that the other leg had at least when it left.
#[derive(Clone, Debug)]
pub(super) struct BaseNumbers {
    pub(super) base: Base,
    pub(super) numbers: Vec<u64>,
    /// The leg whose base number blocks hold them.
    pub(super) on: Leg,
}

impl Serve {
    /// The steps that write a superblock on `legs`, made from the last one of each leg by `edit`.
    pub(super) fn superblock_steps(
        &mut self,
        legs: Members,
        slots: Slots,
        reason: &str,
        edit: impl Fn(&Self, Leg, &mut Superblock),
    ) -> Vec<Step> {
        let mut first = VecDeque::new();
        let mut second = VecDeque::new();
        for leg in legs.iter() {
            let Some(mut sb) = self.superblocks[leg.index()].clone() else {
                continue;
            };
            self.stamp_superblock(&mut sb);
            edit(self, leg, &mut sb);
            sb.sb_seq += 1;
            first.push_back(Write {
                leg,
                offset: slot_offset(sb.sb_seq),
                block: sb.emit(),
            });
            if slots == Slots::Both {
                sb.sb_seq += 1;
                second.push_back(Write {
                    leg,
                    offset: slot_offset(sb.sb_seq),
                    block: sb.emit(),
                });
            }
            let history = History {
                superblock: sb.clone(),
                reason: reason.to_owned(),
            };
            let entry = Write {
                leg,
                offset: history_offset(sb.sb_seq),
                block: history.emit(),
            };
            if slots == Slots::Both {
                second.push_back(entry)
            } else {
                first.push_back(entry)
            }
            self.superblocks[leg.index()] = Some(sb);
        }
        [first, second]
            .into_iter()
            .filter(|writes| !writes.is_empty())
            .map(Step::Write)
            .collect()
    }

    /// Fields that follow the register and this attach.
    fn stamp_superblock(&self, sb: &mut Superblock) {
        sb.active_site = self.running.site;
        sb.active_seq = self.running.seq;
        sb.attach_key = Some(self.running.key);
        sb.order = self.place;
        sb.lease_ms = u32::try_from(self.config.t_lease.as_millis()).unwrap_or(u32::MAX);
        sb.node.clone_from(&self.order.node);
        sb.clean = false;
        if let Some(register) = &self.register {
            sb.register_id = register.register_id;
            if register.epoch == sb.epoch {
                sb.parents.clone_from(&register.parents);
            }
        }
    }

    /// Make it a Member of the membership this writer runs.
    pub(super) fn member(&self, sb: &mut Superblock) {
        sb.role = Role::Member;
        sb.members = self.running.members;
        sb.epoch = self.running.epoch;
        sb.generation = self.running.generation;
        if let Some(register) = self
            .register
            .as_ref()
            .filter(|register| register.epoch == sb.epoch)
        {
            sb.parents.clone_from(&register.parents);
        }
    }

    /// Boot id of the target as of the last login; where a restart can lose nothing every id counts as the same.
    pub(super) fn boot_now(&self, leg: Leg) -> u64 {
        self.links[leg.index()]
            .info
            .and_then(|info| info.boot_id)
            .unwrap_or(0)
    }

    /// The boot id to write: the new one, unless the old one is all that says a flush must fail (R40).
    fn boot_to_record(&self, leg: Leg, recorded: u64) -> u64 {
        if self.boot_may_be_recorded() {
            self.boot_now(leg)
        } else {
            recorded
        }
    }

    /// 2.5 step 4: base numbers, map, superblock of {X}, each durable before the next.
    /// A leg that was rolled back gets no base to return by: a full resync (row L5).
    pub(super) fn shrink_script(&mut self, x: Leg, before: Base, rolled_back: bool) -> Vec<Step> {
        let mut steps = Vec::new();
        // A base from an earlier Solo still holds if it was written on X: the other leg never got past it.
        let kept = self.base.as_ref().is_some_and(|base| base.on == x);
        if rolled_back {
            self.base = None;
        } else if !kept {
            let numbers: Vec<u64> = self
                .map
                .numbers()
                .iter()
                .map(|number| number.saturating_sub(1))
                .collect();
            let blocks = base_blocks(before.epoch, &numbers);
            let crc = base_crc(blocks.iter().map(|block| &block[..]));
            let writes = (0..).zip(blocks).map(|(index, block)| Write {
                leg: x,
                offset: base_offset(index),
                block,
            });
            steps.push(Step::Write(writes.collect()));
            self.base = Some(BaseNumbers {
                base: Base { crc, ..before },
                numbers,
                on: x,
            });
        }
        steps.push(Step::DirtyPages);
        let base = self.base.as_ref().map(|base| base.base);
        steps.extend(self.superblock_steps(
            Members::only(x),
            Slots::Both,
            "shrink",
            |serve, _, sb| {
                serve.member(sb);
                sb.base = base;
                sb.boot_id = serve.boot_to_record(x, sb.boot_id);
            },
        ));
        steps
    }

    /// 2.6 steps 6 to 7b: copied, synced, mapped, and only then superblocks that a grow may rest on (R10, R11).
    pub(super) fn growing_script(&mut self, x: Leg, y: Leg) -> Vec<Step> {
        let mut steps = vec![
            Step::Sync(Members::BOTH),
            Step::JoinPages(y),
            Step::JoinBeat(y),
        ];
        steps.extend(self.superblock_steps(
            Members::only(x),
            Slots::Both,
            "growing",
            |serve, _, sb| {
                serve.member(sb);
                sb.role = Role::Growing;
            },
        ));
        let source = self.superblocks[x.index()].clone();
        steps.extend(self.superblock_steps(
            Members::only(y),
            Slots::Both,
            "candidate",
            |_, _, sb| {
                sb.role = Role::Candidate;
                sb.members = Members::NONE;
                if let Some(source) = &source {
                    copy_of(sb, source);
                }
            },
        ));
        steps
    }

    /// Step 2b: Y becomes a target, durable before the first copied byte (R18).
    pub(super) fn target_steps(&mut self, x: Leg, y: Leg, delta: bool) -> Vec<Step> {
        let source = self.superblocks[x.index()].clone();
        self.superblock_steps(Members::only(y), Slots::Both, "target", |_, _, sb| {
            sb.role = Role::Target;
            sb.members = Members::NONE;
            if let Some(source) = &source {
                copy_of(sb, source);
            }
            if !delta {
                sb.base = None;
            }
        })
    }

    /// X back to Member of the membership it has (a grow that was never sent, or a bump that was won).
    pub(super) fn member_steps(&mut self, x: Leg, reason: &str) -> Vec<Step> {
        self.superblock_steps(Members::only(x), Slots::Both, reason, |serve, _, sb| {
            serve.member(sb)
        })
    }

    /// 2.6 step 9.
    pub(super) fn grown_steps(&mut self) -> Vec<Step> {
        self.superblock_steps(Members::BOTH, Slots::Both, "grown", |serve, leg, sb| {
            serve.member(sb);
            sb.boot_id = serve.boot_to_record(leg, sb.boot_id);
        })
    }

    /// After the last pending region, or after step 9: SYNC, boot id (R39), base none (2.6 step 10).
    pub(super) fn settled_script(&mut self) -> Vec<Step> {
        let mut steps = vec![Step::Sync(Members::BOTH)];
        steps.extend(self.equal_beats());
        // A grow whose superblocks were cut short by a lost leg that came back.
        let slots = if self.slots_due {
            Slots::Both
        } else {
            Slots::One
        };
        steps.extend(self.superblock_steps(
            Members::BOTH,
            slots,
            "legs equal",
            |serve, leg, sb| {
                serve.member(sb);
                sb.boot_id = serve.boot_now(leg);
                sb.base = None;
                if !serve.expanding() {
                    sb.size_new = 0;
                }
            },
        ));
        steps
    }

    /// Bytes a LUN must have.
    pub(super) fn lun_bytes(size: u64) -> u64 {
        DATA_START.saturating_add(size)
    }
}

/// Epoch, base, format and size of a leg that is filled from `source`.
fn copy_of(sb: &mut Superblock, source: &Superblock) {
    sb.epoch = source.epoch;
    sb.generation = source.generation;
    sb.parents.clone_from(&source.parents);
    sb.base = source.base;
    sb.format = source.format;
    sb.fs_type = source.fs_type;
    sb.geometry = source.geometry;
    sb.size_new = source.size_new;
    sb.group = source.group;
    sb.register_id = source.register_id;
}
