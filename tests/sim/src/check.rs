//! Invariants read from the disks themselves, past engine and sessions.

use twinsite_mirror::io::DATA_START;
use twinsite_mirror::layout::{
    Geometry, MapPage, RegionState, Role, SLOT_OFFSETS, Slots, Superblock, map_offset,
};
use twinsite_mirror::status::StateName;
use twinsite_register::{Leg, Members};

use crate::disk::BLOCK;
use crate::oracle::{BLOCKS, Oracle, SIZE, offset};
use crate::world::World;

impl World {
    pub fn stored(&self, leg: usize, block: usize) -> Result<u64, String> {
        let bytes = self.targets[leg]
            .disk
            .block((DATA_START + offset(block)) / BLOCK);
        Oracle::value(block, &bytes)
    }

    /// I1 after an acknowledgement: every leg that R names has it.
    pub fn check_acknowledged(&mut self, first: usize, count: usize) {
        if self.plan.volatile {
            return;
        }
        for leg in self.witness.register.members.iter() {
            for block in first..first + count {
                self.check_block(leg.index(), block);
            }
        }
    }

    /// I1 after a change of R.
    pub fn check_members(&mut self) {
        self.check_acknowledged(0, BLOCKS);
    }

    fn check_block(&mut self, leg: usize, block: usize) {
        let acked = self.oracle.blocks[block].acked;
        match self.stored(leg, block) {
            Ok(value) if value >= acked => {}
            Ok(value) => {
                self.fail(format!("leg {} is named in R and has {value} in block {block}, {acked} was acknowledged (I1)", ["A", "B"][leg]));
            }
            Err(why) => self.fail(format!("leg {}: {why}", ["A", "B"][leg])),
        }
    }

    pub fn superblock(&self, leg: usize) -> Option<Superblock> {
        let block = |at: u64| self.targets[leg].disk.block(at / BLOCK);
        let (a, b) = (block(SLOT_OFFSETS[0]), block(SLOT_OFFSETS[1]));
        Slots::parse([&a, &b]).superblock().cloned()
    }

    fn dirty(&self, leg: usize, block: usize) -> bool {
        let geometry = Geometry::for_new(SIZE).expect("a size in bounds");
        let (page, index) = geometry.place_of(geometry.region_of(offset(block)));
        let bytes = self.targets[leg].disk.block(map_offset(page) / BLOCK);
        MapPage::parse_or_dirty(page, &bytes).region(index) == RegionState::Dirty
    }

    /// I4 and I13 at an instant when nobody writes: R = {AB} and legs differ only where a map says so; a leg that certifies
    /// itself, or an equal pair, has every acknowledged write.
    pub fn check_map(&mut self) {
        let serving = self.agents.iter().any(|a| a.shell.is_some());
        if serving || self.targets.iter().any(|t| t.operations() > 0) {
            return;
        }
        if self.witness.register.members == Members::BOTH {
            for block in 0..BLOCKS {
                let differ = self.stored(0, block) != self.stored(1, block);
                if differ && !self.dirty(0, block) && !self.dirty(1, block) {
                    self.fail(format!("legs differ in block {block}, R says both are members, no dirty bit anywhere (I4)"));
                }
            }
        }
        let (a, b) = (self.superblock(0), self.superblock(1));
        for (leg, sb) in [(Leg::A, &a), (Leg::B, &b)] {
            let Some(sb) = sb else { continue };
            if sb.role == Role::Member && sb.members == Members::only(leg) && !self.plan.volatile {
                (0..BLOCKS).for_each(|block| self.check_block(leg.index(), block));
            }
        }
    }

    /// The run is over and healed: does the volume stand whole?
    pub fn is_whole(&self) -> bool {
        let a = &self.agents[self.wanted];
        let synced = a.shell.as_ref().is_some_and(|s| {
            let status = s.engine.status(self.now);
            status.state == StateName::Synced
                && status.members == Members::BOTH
                && status.pending_bytes == 0
        });
        synced && a.ready && a.requests.is_empty() && self.witness.register.members == Members::BOTH
    }

    /// Both legs are equal in every block the workload touched.
    pub fn check_equal(&mut self) {
        for block in 0..BLOCKS {
            let (a, b) = (self.stored(0, block), self.stored(1, block));
            if a != b {
                self.fail(format!(
                    "after all was healed block {block} differs: {a:?} on A, {b:?} on B"
                ));
            }
        }
    }
}
