//! What a guest does with its device, and what it is promised.

use super::target::Blocks;
use super::world::{Ev, World};
use super::writer::Asked;
use crate::io::{BLOCK, GuestOp, Input, ReqId, VerifyOrder};
use crate::layout::PAGE_REGIONS;

impl World {
    pub(super) fn guest(&mut self, writer: u32, volume: usize) {
        let Some(w) = self.writers.get(&writer) else {
            return;
        };
        if !w.guests[volume].shown {
            return;
        }
        let pause = self.rng.micros(200, 40_000);
        self.at(pause, Ev::Guest { writer, volume });
        self.pull_chain(writer, volume);
        let Some(w) = self.writers.get(&writer) else {
            return;
        };
        let w = &w.guests[volume];
        if w.asked.len() >= 12 {
            return;
        }
        let busy: Vec<u64> = w
            .asked
            .values()
            .flat_map(|asked| match asked {
                Asked::Write { blocks, .. } => blocks.keys().copied().collect(),
                Asked::Read(_) | Asked::Flush { .. } => Vec::new(),
            })
            .collect();
        let kind = self.rng.below(100);
        // A few regions on two pages, three blocks each, runs across a region border.
        let regions = [
            0,
            1,
            2,
            PAGE_REGIONS as u64 - 1,
            PAGE_REGIONS as u64,
            PAGE_REGIONS as u64 + 7,
        ];
        let region = regions[self.rng.below(regions.len() as u64) as usize];
        let first = region * 16 + [0, 5, 14][self.rng.below(3) as usize];
        let count = 1 + self.rng.below(4);
        let blocks = first..first + count;
        let (offset, len) = (first * BLOCK as u64, (count * BLOCK as u64) as u32);
        if self.options.verify && self.rng.chance(1) {
            self.input(writer, volume, Input::Verify(VerifyOrder::Stop));
            let from = offset;
            self.input(writer, volume, Input::Verify(VerifyOrder::Begin { from }));
        }
        let Some(w) = self.writers.get_mut(&writer) else {
            return;
        };
        let w = &mut w.guests[volume];
        let id = ReqId(w.next_req);
        w.next_req += 1;
        let op = if kind < 50 {
            if blocks.clone().any(|block| busy.contains(&block)) {
                return;
            }
            let mut versions = Blocks::new();
            for block in blocks {
                let known = self.oracles[volume].blocks.entry(block).or_default();
                known.issued += 1;
                versions.insert(block, known.issued);
            }
            let fua = self.rng.chance(10);
            w.asked.insert(
                id,
                Asked::Write {
                    blocks: versions,
                    fua,
                },
            );
            GuestOp::Write { offset, len, fua }
        } else if kind < 92 {
            let floors = blocks
                .map(|block| (block, self.oracles[volume].floor(block)))
                .collect();
            w.asked.insert(id, Asked::Read(floors));
            GuestOp::Read { offset, len }
        } else {
            let acked = self.oracles[volume]
                .blocks
                .iter()
                .map(|(&block, known)| (block, known.acked))
                .collect();
            w.asked.insert(
                id,
                Asked::Flush {
                    acked,
                    failed: self.failed_flushes[volume],
                },
            );
            GuestOp::Flush
        };
        self.input(writer, volume, Input::Guest { id, op });
    }

    pub(super) fn guest_done(&mut self, writer: u32, volume: usize, id: ReqId, ok: bool) {
        self.chain_done(writer, volume, id, ok);
        let w = self.writers.get_mut(&writer).unwrap();
        w.answered += u64::from(ok);
        let w = &mut w.guests[volume];
        let asked = w
            .asked
            .remove(&id)
            .unwrap_or_else(|| panic!("I11: {id:?} answered twice"));
        let buffer = w.buffers.remove(&id);
        match asked {
            Asked::Write { blocks, fua } if ok => {
                for (block, version) in blocks {
                    let known = self.oracles[volume].blocks.get_mut(&block).unwrap();
                    known.acked = known.acked.max(version);
                    if fua {
                        known.flushed = known.flushed.max(version);
                    }
                    self.acker.insert((volume, block), self.began[&writer]);
                }
                self.note_ack(writer, volume);
                self.check();
            }
            Asked::Read(floors) if ok => {
                let buffer = buffer.expect("a read that was answered has its bytes");
                for (block, floor) in floors {
                    self.oracles[volume].read(
                        block,
                        buffer.get(&block).copied().unwrap_or(0),
                        floor,
                        &format!("w{writer}"),
                    );
                }
            }
            Asked::Flush { acked, failed } => {
                if ok && failed == self.failed_flushes[volume] {
                    for (block, version) in acked {
                        let known = self.oracles[volume].blocks.get_mut(&block).unwrap();
                        known.flushed = known.flushed.max(version);
                    }
                    self.check();
                } else if !ok {
                    // The guest knows that what it had not flushed may be gone.
                    self.failed_flushes[volume] += 1;
                    for known in self.oracles[volume].blocks.values_mut() {
                        known.acked = known.flushed;
                    }
                }
            }
            Asked::Write { .. } | Asked::Read(_) => {}
        }
    }
}
