//! What must be true: per block the versions that were issued, acknowledged, flushed and read.

use std::collections::BTreeMap;

use twinsite_register::{Epoch, Leg, Register};

use super::target::{Blocks, Target};
use crate::layout::{
    Geometry, MapPage, PAGE_REGIONS, Role, SLOT_OFFSETS, Slots, Superblock, map_offset,
};

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    pub(super) issued: u64,
    /// Newest version whose write was answered with success.
    pub(super) acked: u64,
    /// Newest version covered by an answered flush.
    pub(super) flushed: u64,
    /// Newest version that a read returned.
    pub(super) read: u64,
}

#[derive(Debug)]
pub(super) struct Oracle {
    pub(super) blocks: BTreeMap<u64, Known>,
    /// Legs may lose what was not flushed.
    pub(super) volatile: bool,
}

impl Oracle {
    pub(super) fn new(volatile: bool) -> Self {
        Self {
            blocks: BTreeMap::new(),
            volatile,
        }
    }

    /// What a leg that is a member must at least have.
    pub(super) fn floor(&self, block: u64) -> u64 {
        let known = self.blocks.get(&block).copied().unwrap_or_default();
        if self.volatile {
            known.flushed
        } else {
            known.acked.max(known.read)
        }
    }

    /// A read was answered. `floor` was taken when it was asked.
    pub(super) fn read(&mut self, block: u64, version: u64, floor: u64, who: &str) {
        let known = self.blocks.entry(block).or_default();
        assert!(
            version >= floor,
            "I5: {who} read version {version} of block {block}, at least {floor} was promised"
        );
        assert!(
            version <= known.issued,
            "I11: version {version} of block {block} was never issued"
        );
        known.read = known.read.max(version);
    }

    /// I1, I13: members, and legs that certify themselves, have every acknowledged write.
    /// `lost`: up to which epoch what a leg says of itself was given up by a person.
    pub(super) fn check_legs(
        &self,
        register: &Register,
        targets: &[Target; 2],
        lost: [Option<Epoch>; 2],
    ) {
        let superblocks = Leg::BOTH.map(|leg| {
            let sb = superblock(&targets[leg.index()])?;
            lost[leg.index()]
                .is_none_or(|lost| sb.epoch > lost)
                .then_some(sb)
        });
        for leg in Leg::BOTH {
            let content = &targets[leg.index()].cache;
            if register.members.contains(leg) {
                self.has_all(content, leg, "I1: member");
            }
            if self.volatile {
                continue;
            }
            let Some(sb) = &superblocks[leg.index()] else {
                continue;
            };
            if sb.role == Role::Member && sb.members.sole() == Some(leg) {
                self.has_all(content, leg, "I13: Member alone");
            }
            if let Some(other) = &superblocks[leg.other().index()]
                && sb.role == Role::Member
                && other.role == Role::Member
                && sb.members.sole().is_none()
                && other.members.sole().is_none()
                && (sb.epoch, sb.generation) == (other.epoch, other.generation)
            {
                self.has_all(content, leg, "I13: Pair");
            }
        }
    }

    fn has_all(&self, content: &Blocks, leg: Leg, what: &str) {
        for &block in self.blocks.keys() {
            let (has, floor) = (content.get(&block).copied().unwrap_or(0), self.floor(block));
            assert!(
                has >= floor,
                "{what} {leg}: block {block} has version {has}, at least {floor} was promised"
            );
        }
    }

    /// I4, when no writer lives: legs that differ in a region of a pair are dirty there on a leg. I7: numbers and beats.
    pub(super) fn check_maps(
        &self,
        register: &Register,
        targets: &[Target; 2],
        geometry: Geometry,
    ) {
        if register.members.sole().is_some() {
            return;
        }
        for &block in self.blocks.keys() {
            let versions =
                [0, 1].map(|n: usize| targets[n].cache.get(&block).copied().unwrap_or(0));
            let region = geometry.region_of(block * 4096);
            let (page, slot) = geometry.place_of(region);
            let dirty = [0, 1].map(|n: usize| {
                let bytes = targets[n].fake.block(map_offset(page));
                MapPage::parse_or_dirty(page, &bytes)
                    .dirty(PAGE_REGIONS)
                    .any(|s| s == slot)
            });
            assert!(
                versions[0] == versions[1] || dirty[0] || dirty[1],
                "I4: legs differ in block {block} ({versions:?}), region {region} is clean on both"
            );
        }
        for page in 0..geometry.pages() {
            let numbers = [0, 1].map(|n: usize| {
                MapPage::parse(page, &targets[n].fake.block(map_offset(page)))
                    .map_or(0, |page| page.number)
            });
            assert!(
                numbers[0].abs_diff(numbers[1]) <= 1,
                "I7: page {page} has numbers {numbers:?}"
            );
        }
    }
}

/// The superblock that counts on a leg.
pub(super) fn superblock(target: &Target) -> Option<Superblock> {
    let slots = SLOT_OFFSETS.map(|offset| target.fake.block(offset));
    Slots::parse([&slots[0], &slots[1]]).superblock().cloned()
}
