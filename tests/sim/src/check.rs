//! Invariants read from the disks themselves, past engine and sessions.

use twinsite_mirror::io::DATA_START;
use twinsite_mirror::layout::{
    Geometry, MapPage, RegionState, Role, SLOT_OFFSETS, Slots, Superblock, map_offset,
};
use twinsite_mirror::status::StateName;
use twinsite_register::{Leg, Members};

use crate::disk::BLOCK;
use crate::oracle::{Oracle, SIZE, blocks_of, offset};
use crate::world::World;

/// Page and index of the region of a block; a larger volume has the same.
pub(crate) fn place(block: usize) -> (u32, usize) {
    let geometry = Geometry::for_new(SIZE).expect("a size in bounds");
    geometry.place_of(geometry.region_of(offset(block)))
}

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
        for leg in self.witness.truth().members.iter() {
            // A leg that was put back is told by the next attach, not before.
            if self.put_back == Some(leg) || self.liar == Some(leg) {
                continue;
            }
            for block in first..first + count {
                self.check_block(leg.index(), block);
            }
        }
    }

    /// What lies beyond the end of the volume is promised to nobody.
    fn blocks(&self) -> usize {
        blocks_of(self.promised_size.max(SIZE))
    }

    /// I1 after a change of R.
    pub fn check_members(&mut self) {
        self.check_acknowledged(0, self.blocks());
    }

    fn check_block(&mut self, leg: usize, block: usize) {
        let acked = self.oracle.blocks[block].acked;
        match self.stored(leg, block) {
            Ok(value) if self.oracle.has_acknowledged(block, value) => {}
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
        let (page, index) = place(block);
        let bytes = self.targets[leg].disk.block(map_offset(page) / BLOCK);
        MapPage::parse_or_dirty(page, &bytes).region(index) == RegionState::Dirty
    }

    /// Once the volume is whole again nothing is left of a rollback.
    pub fn check_put_back(&mut self) {
        let Some(leg) = self.put_back else { return };
        let whole = self.agents.iter().any(|a| {
            a.shell.as_ref().is_some_and(|s| {
                let status = s.engine.status(self.now);
                status.state == StateName::Synced
                    && status.members == Members::BOTH
                    && status.pending_bytes == 0
            })
        });
        if whole && !self.agents.iter().any(|a| self.now < a.stopped_until) {
            self.put_back = None;
            self.say("ORACLE", format!("leg {leg} is whole again"));
        } else if !self.witness.truth().members.contains(leg) {
            self.put_back = None;
        }
    }

    /// I4 and I13 at an instant when nobody writes: R = {AB} and legs differ only where a map says so; a leg that certifies
    /// itself, or an equal pair, has every acknowledged write.
    pub fn check_map(&mut self) {
        let serving = self.agents.iter().any(|a| a.shell.is_some());
        if serving
            || self.targets.iter().any(|t| t.operations() > 0)
            || self.put_back.is_some()
            || self.liar.is_some()
        {
            return;
        }
        if self.witness.truth().members == Members::BOTH {
            for block in 0..self.blocks() {
                let differ = self.stored(0, block) != self.stored(1, block);
                if differ && !self.dirty(0, block) && !self.dirty(1, block) {
                    self.fail(format!("legs differ in block {block}, R says both are members, no dirty bit anywhere (I4)"));
                }
            }
        }
        let (a, b) = (self.superblock(0), self.superblock(1));
        for (leg, sb) in [(Leg::A, &a), (Leg::B, &b)] {
            let Some(sb) = sb else { continue };
            let odd = self.odd[leg.index()] == Some(self.stamp_of(leg));
            if sb.role == Role::Member
                && sb.members == Members::only(leg)
                && !sb.awaits_register
                && !self.plan.volatile
                && !odd
            {
                (0..self.blocks()).for_each(|block| self.check_block(leg.index(), block));
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
        for block in 0..blocks_of(self.promised_size) {
            let (a, b) = (self.stored(0, block), self.stored(1, block));
            if a != b {
                self.fail(format!(
                    "after all was healed block {block} differs: {a:?} on A, {b:?} on B"
                ));
            }
        }
    }
}
