//! What attach read from the legs becomes the state to serve from, up to the device; and the boot ids that go with it.

use std::collections::VecDeque;

use twinsite_register::{Leg, Members};

use super::copy::Sources;
use super::link::{LegLink, Link};
use super::script::{Step, Write};
use super::state::State;
use super::superblock::{BaseNumbers, Slots};
use super::{Serve, beat, equalise};
use crate::dirty::DirtyMap;
use crate::engine::Served;
use crate::io::{DeviceInfo, Mode, Output};
use crate::layout::{BEAT_OFFSET, map_offset};
use crate::status::Condition;

impl Serve {
    /// What attach read from the legs becomes the state to serve from.
    pub(super) fn take_over(&mut self, served: Served) {
        let set = served.set();
        for leg in Leg::BOTH {
            let connected = served.connected[leg.index()];
            let member = set.contains(leg);
            let link = match (connected, member) {
                (Some(_), true) => Link::Ready,
                (Some(_), false) => Link::Reachable,
                (None, _) => Link::Down,
            };
            let of_set = served.legs[leg.index()].as_ref();
            self.links[leg.index()] = LegLink::new(connected.or(of_set.map(|leg| leg.info)), link);
            self.superblocks[leg.index()] = of_set.map(|leg| leg.superblock.clone());
            if let Some(of_set) = of_set
                && let (Some(base), Some(numbers)) = (of_set.superblock.base, &of_set.base_numbers)
            {
                self.base = Some(BaseNumbers {
                    base,
                    numbers: numbers.clone(),
                    on: leg,
                });
            }
            if connected.is_none() && member {
                let limit = self.now + self.config.t_cmd;
                self.links[leg.index()].note_deadline(limit);
            }
        }
        let mut unit = 0;
        let all_discard = set.iter().all(|leg| {
            self.links[leg.index()].info.is_some_and(|info| {
                unit = unit.max(info.discard_granularity);
                info.discard_zeroes && info.discard_granularity > 0
            })
        });
        self.discard_granularity = if all_discard { unit } else { 0 };
        let mut legs = served.legs;
        match (set.sole(), &mut legs) {
            (None, [Some(a), Some(b)]) => {
                // R40: behind a device that goes on, both may have lost what its guest did not flush.
                let both = equalise::boot_changed(a) && equalise::boot_changed(b);
                let mut equal = equalise::equalise(self.geometry, self.local, [&*a, &*b]);
                if let Some(leg) = equal.rolled_back {
                    // Put back to before an expansion: the size in use is that of the other one.
                    let other = if leg == Leg::A { &*b } else { &*a };
                    let whole = other.superblock.geometry;
                    if whole.size() > self.geometry.size() {
                        self.geometry = whole;
                        equal = equalise::equalise(whole, self.local, [&*a, &*b]);
                    }
                }
                if both && equal.boot_changed && (self.continued || self.shown) {
                    self.flush_fails_once(Leg::A);
                }
                self.keep_size();
                self.equalise(equal);
            }
            (Some(x), legs) => {
                let mut leg = legs[x.index()]
                    .take()
                    .expect("attach gives every leg of the set");
                self.keep_size();
                leg.pages.truncate(self.geometry.pages() as usize);
                if leg.restarted && (self.continued || self.shown) {
                    self.flush_fails_once(x);
                }
                self.boot_recorded();
                self.map = DirtyMap::new(self.geometry, self.running.epoch, set, leg.pages);
                let known = served.beat_object.map_or(0, |object| object.beat);
                self.beats = beat::Beats::new(leg.beat.map_or(0, |beat| beat.beat).max(known), set);
                self.state = State::FirstBeat;
                self.apply_policy();
                self.beat_now();
            }
            (None, _) => unreachable!("attach gives every leg of the set"),
        }
    }

    pub(super) fn equalise(&mut self, equal: equalise::Equal) {
        let mut writes = VecDeque::new();
        if let Some(leg) = equal.rolled_back {
            // The higher beat and the higher pages are on the other leg, which is the source; this one leaves at once, and
            // nothing is written that could hide the gap.
            self.raise(Condition::LegDamaged(leg));
            self.orders.rolled_back = Some(leg);
        } else {
            for &page in &equal.writes {
                for leg in Leg::BOTH {
                    let block = equal.pages[page as usize].emit();
                    writes.push_back(Write {
                        leg,
                        offset: map_offset(page),
                        block,
                    });
                }
            }
        }
        self.beat_owed = equal
            .beat
            .map(|beat| (beat, equal.beat_to.iter().copied().collect()));
        let number = equal.beat.map_or(0, |beat| beat.beat);
        self.beats = beat::Beats::new(number, Members::BOTH);
        self.map = DirtyMap::new(
            self.geometry,
            self.running.epoch,
            Members::BOTH,
            equal.pages,
        );
        self.pending = equal.pending;
        self.sources = Sources {
            leg: equal.source,
            pages: equal.other_pages,
        };
        self.boot_changed = equal.boot_changed;
        if let Some(leg) = equal.rolled_back {
            self.sources = Sources {
                leg: leg.other(),
                pages: Vec::new(),
            };
        }
        let mut steps = vec![Step::Write(writes)];
        if self.pending.is_empty() && equal.rolled_back.is_none() {
            steps.extend(self.equal_beats());
        }
        self.start_script(steps);
    }

    /// Beats are made equal, and go on, only once no region of the attach may differ: a leg that was put back from a
    /// snapshot is told by its lower beat, however often an attach dies in between.
    pub(super) fn equal_beats(&self) -> Option<Step> {
        let (beat, legs) = self.beat_owed.as_ref()?;
        let writes = legs.iter().map(|leg| Write {
            leg,
            offset: BEAT_OFFSET,
            block: beat.emit(),
        });
        Some(Step::Write(writes.collect()))
    }

    /// The first beat of this attach, if it is still to come.
    pub(super) fn begin_beats(&mut self) {
        self.beat_owed = None;
        if self.beats.silent() {
            self.beat_now();
        }
    }

    pub(super) fn show(&mut self) {
        if self.order.mode == Mode::Caretaker || self.shown {
            return;
        }
        self.shown = true;
        let Some(sb) = self
            .running
            .members
            .iter()
            .find_map(|leg| self.superblocks[leg.index()].as_ref())
        else {
            return;
        };
        let block_size = Leg::BOTH
            .into_iter()
            .filter_map(|leg| self.links[leg.index()].info)
            .map(|info| info.block_size)
            .max()
            .unwrap_or(512);
        // Any member done = done; else any started = mkfs again.
        let format = self
            .running
            .members
            .iter()
            .filter_map(|leg| self.superblocks[leg.index()].as_ref())
            .map(|sb| sb.format)
            .max()
            .unwrap_or_default();
        let info = DeviceInfo {
            size: self.geometry.size(),
            block_size,
            discard_granularity: self.discard_granularity,
            io_max: self.config.io_max,
            format,
            fs_type: sb.fs_type,
            continued: self.continued,
        };
        self.out.push(Output::ShowDevice(info));
    }

    /// The target restarted and lost nothing that matters: its superblock names the new boot.
    pub(super) fn record_boot(&mut self, leg: Leg) {
        if self.running.members == Members::BOTH {
            // After the last pending region, with the superblocks that say so (R39).
            self.settled = false;
        } else if self.running.members.contains(leg) {
            self.boot_dirty = true;
        }
    }

    pub(super) fn write_boot(&mut self) {
        self.boot_dirty = false;
        let members = self.running.members;
        let steps = self.superblock_steps(members, Slots::One, "boot id", |serve, leg, sb| {
            sb.boot_id = serve.boot_now(leg);
        });
        self.start_script(steps);
    }

    /// Does the superblock of the leg that runs alone still name an earlier boot?
    pub(super) fn boot_recorded(&mut self) {
        self.boot_dirty = self.running.members.sole().is_some_and(|x| {
            let recorded = self.superblocks[x.index()].as_ref();
            recorded.is_some_and(|sb| sb.boot_id != self.boot_now(x))
        });
    }
}
