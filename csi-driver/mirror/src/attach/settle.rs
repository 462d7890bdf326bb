//! Step 6: what is written to the legs that will run, so that they say what the register says.
//!
//! A set of two keeps recorded boot ids and bases: both are needed until the last pending region is copied (R39). A set of
//! one writes in this order, each durable before the next (R3): base numbers, map pages, superblock in both slots (R32).
//! A crash before the superblock is harmless, the register is ahead and the next attach finishes it.

use twinsite_register::{Epoch, Gen, Leg, Members, Order, Parent, Register};

use super::head::Body;
use crate::io::{AttachOrder, Block, LegInfo};
use crate::layout::{
    Base, History, MapPage, RegionState, Role, Superblock, base_blocks, base_crc, base_offset,
    history_offset, map_offset, slot_offset,
};

/// The membership that the legs are settled on.
#[derive(Clone, Debug)]
pub(super) struct Settlement<'a> {
    pub(super) order: &'a AttachOrder,
    pub(super) place: Order,
    pub(super) set: Members,
    /// After the won request; `None`: without the register, epoch and members of the superblocks stay.
    pub(super) register: Option<&'a Register>,
    /// The leg runs by a human's grant: no base, and all dirty if it is a Target.
    pub(super) granted: bool,
    /// The other leg was found rolled back: no base, it returns by a full resync (row L5).
    pub(super) other_damaged: bool,
    /// A device goes on behind a leg that lost its cache: the recorded boot id is what says so until a flush failed or the
    /// record says it (R40).
    pub(super) keep_boot: bool,
    pub(super) why: &'a str,
}

/// What one leg must carry, and the blocks that make it so.
#[derive(Clone, Debug)]
pub(super) struct Settled {
    pub(super) body: Body,
    pub(super) blocks: Vec<(u64, Block)>,
}

/// Settle one leg. `other`: the head of the other leg if it was read, for numbers that are damaged here.
pub(super) fn settle(
    settlement: &Settlement<'_>,
    leg: Leg,
    body: &Body,
    info: &LegInfo,
    other: Option<&Body>,
) -> Settled {
    let mut body = body.clone();
    let mut blocks = Vec::new();
    let old = body.superblock.clone();
    if settlement.set.sole().is_some() {
        settle_base(settlement, leg, &mut body, other, &mut blocks);
        settle_pages(settlement, &old, &mut body, other, &mut blocks);
    }
    let sb = superblock(settlement, &body, info);
    for sb_seq in [old.sb_seq.saturating_add(1), old.sb_seq.saturating_add(2)] {
        let slot = Superblock {
            sb_seq,
            ..sb.clone()
        };
        blocks.push((slot_offset(sb_seq), slot.emit()));
        body.superblock = slot;
    }
    let history = History {
        superblock: body.superblock.clone(),
        reason: settlement.why.to_owned(),
    };
    blocks.push((history_offset(body.superblock.sb_seq), history.emit()));
    Settled { body, blocks }
}

fn superblock(settlement: &Settlement<'_>, body: &Body, info: &LegInfo) -> Superblock {
    let old = &body.superblock;
    let order = settlement.order;
    let boot_id = match settlement.set.sole() {
        Some(_) if !settlement.keep_boot => info.boot_id.unwrap_or(0),
        Some(_) | None => old.boot_id,
    };
    let mut sb = Superblock {
        role: Role::Member,
        members: settlement.set,
        clean: false,
        awaits_register: false,
        attach_key: Some(order.key.attach()),
        boot_id,
        // This is written before the lease of the writer before us is over, so its value must not be lost.
        lease_ms: old
            .lease_ms
            .max(u32::try_from(order.config.t_lease.as_millis()).unwrap_or(u32::MAX)),
        node: order.node.clone(),
        order: settlement.place,
        ..old.clone()
    };
    if let Some(register) = settlement.register {
        sb.register_id = register.register_id;
        sb.group = register.group;
        sb.active_site = register.active.site;
        sb.active_seq = register.active.seq;
        sb.epoch = register.epoch;
        sb.generation = register.generation;
        sb.parents = register.parents.clone();
        sb.order = register.order;
    }
    sb
}

/// The last membership before the present one in which the other leg was a member.
fn last_with(register: &Register, leg: Leg) -> Option<&Parent> {
    register
        .parents
        .iter()
        .find(|parent| parent.members.contains(leg))
}

/// A base written on this leg is kept with its numbers. Else, if the members changed since this superblock was written, the
/// base is the last epoch of the other leg, and its numbers are this leg's minus one: pages of two members differ by at
/// most one. A superblock of this very Solo whose base does not fit has none.
fn settle_base(
    settlement: &Settlement<'_>,
    leg: Leg,
    body: &mut Body,
    other: Option<&Body>,
    blocks: &mut Vec<(u64, Block)>,
) {
    let kept = body.superblock.base.is_some() && body.base_numbers.is_some();
    if settlement.granted || settlement.other_damaged {
        body.superblock.base = None;
        body.base_numbers = None;
        return;
    }
    if kept {
        return;
    }
    body.superblock.base = None;
    body.base_numbers = None;
    let Some(register) = settlement.register else {
        return;
    };
    let Some(parent) = last_with(register, leg.other()) else {
        return;
    };
    // The other leg left at or after this superblock was written, so no page was changed alone since.
    if body.superblock.epoch > parent.epoch {
        return;
    }
    write_base(body, other, (parent.epoch, parent.generation), blocks);
}

fn write_base(
    body: &mut Body,
    other: Option<&Body>,
    (epoch, generation): (Epoch, Gen),
    blocks: &mut Vec<(u64, Block)>,
) {
    let numbers: Vec<u64> = body
        .pages
        .iter()
        .map(|page| left_with(page, other))
        .collect();
    let written = base_blocks(epoch, &numbers);
    let crc = base_crc(written.iter().map(|block| &block[..]));
    for (index, block) in written.into_iter().enumerate() {
        blocks.push((base_offset(index as u32), block));
    }
    body.superblock.base = Some(Base {
        epoch,
        generation,
        crc,
    });
    body.base_numbers = Some(numbers);
}

/// The number that the other leg had at least. Where the page is damaged here and unknown there, nothing may pass for it: a
/// full copy.
fn left_with(page: &MapPage, other: Option<&Body>) -> u64 {
    if is_damaged(page) {
        return other_number(page.page, other).unwrap_or(u64::MAX);
    }
    page.number.saturating_sub(1)
}

/// Pages are born with number 1.
fn is_damaged(page: &MapPage) -> bool {
    page.number == 0
}

fn other_number(page: u32, other: Option<&Body>) -> Option<u64> {
    let page = other?.pages.get(page as usize)?;
    (!is_damaged(page)).then_some(page.number)
}

/// Damaged pages become good pages that are all dirty, numbered above what the other leg has; of a granted Target every
/// page is all dirty (its copy was not complete).
fn settle_pages(
    settlement: &Settlement<'_>,
    old: &Superblock,
    body: &mut Body,
    other: Option<&Body>,
    blocks: &mut Vec<(u64, Block)>,
) {
    let epoch = settlement
        .register
        .map_or(old.epoch, |register| register.epoch);
    let all_dirty = settlement.granted && old.role == Role::Target;
    for page in &mut body.pages {
        if !all_dirty && !is_damaged(page) {
            continue;
        }
        let known = other_number(page.page, other).unwrap_or(0);
        let number = page.number.max(known).saturating_add(1);
        *page = MapPage::filled(page.page, number, epoch, RegionState::Dirty);
        blocks.push((map_offset(page.page), page.emit()));
    }
}

#[cfg(test)]
mod tests;
