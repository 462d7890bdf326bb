//! Steps 0 to 3 of a rejoin (2.6): may Y join, fence it, what does it have, what must be copied.
//!
//! ```text
//! waiting --Y reachable, pause over--> read R --mine, Y may join--> fence Y --> read superblock and map of Y
//!   --> superblock Target on Y, durable (R18) --> union of both maps, durable on X (R35) --> RjTarget
//! ```
//! The guest is served from X alone all the while. Delta only if X has a base, Y was a member at that base (or a target of
//! it), and no page number of Y is below the base number; else everything is copied.

use std::time::Duration;

use twinsite_register::{Leg, Register};

use super::Serve;
use super::commands::Purpose;
use super::link::Link;
use super::state::{Fact, State};
use super::superblock::BaseNumbers;
use crate::fence::Fence;
use crate::io::{BLOCK, DATA_START, LegError, LegInfo, LegOp, LegReply, Output};
use crate::layout::{Geometry, MapPage, Role, SLOT_OFFSETS, Slots, Superblock, map_offset};
use crate::regions::RegionSet;
use crate::resync::Resync;
use crate::script::{Script as LegScript, Step as LegStep};
use crate::status::{Condition, Event, RejoinBlock};

/// Most bytes of one metadata read.
const READ_MAX: u32 = 1 << 20;
/// Tries of a rejoin whose source cannot read a block; then only that block is looked at now and then, until it can be read
/// or the guest wrote there.
const MAX_UNREADABLE_TRIES: u32 = 3;

#[derive(Debug)]
enum Prep {
    /// Step 0.
    Register,
    /// Step 1.
    Fence {
        fence: Fence,
        op: LegOp,
    },
    Slots {
        first: Option<Vec<u8>>,
    },
    Map {
        superblock: Option<Box<Superblock>>,
        pages: Vec<MapPage>,
    },
    /// Step 2b.
    Target {
        pages: Vec<MapPage>,
        delta: bool,
    },
    /// Step 3: regions whose page is not durable on X yet.
    Union {
        left: RegionSet,
        todo: RegionSet,
        full: bool,
    },
}

/// The rejoin: who, how far, when again.
#[derive(Debug)]
pub(super) struct Rejoin {
    /// Y, from the end of its fence until it is a member or given up.
    pub(super) target: Option<Leg>,
    prep: Option<Prep>,
    /// Not before.
    pub(super) at: Option<Duration>,
    pause: Duration,
    pub(super) blocked: Option<RejoinBlock>,
    /// Regions with a block that the source cannot read, and the tries that ended there.
    pub(super) unreadable: RegionSet,
    /// The place found last, in bytes of data.
    bad: u64,
    tries: u32,
    look_at: Option<Duration>,
}

impl Rejoin {
    pub(super) const fn new() -> Self {
        Self {
            target: None,
            prep: None,
            at: None,
            pause: Duration::ZERO,
            blocked: None,
            unreadable: RegionSet::new(),
            bad: 0,
            tries: 0,
            look_at: None,
        }
    }

    /// No further try helps while the block cannot be read.
    const fn is_hopeless(&self) -> bool {
        self.tries >= MAX_UNREADABLE_TRIES
    }

    /// The source cannot read this.
    pub(super) fn found_bad(&mut self, region: u32, offset: u64) {
        self.unreadable.insert(region);
        self.bad = offset;
    }

    /// When the bad block is looked at again.
    pub(super) fn look_at(&self) -> Option<Duration> {
        self.look_at.filter(|_| self.is_hopeless())
    }

    pub(super) fn is_preparing(&self) -> bool {
        self.prep.is_some()
    }

    /// A write went to X alone while the union of the maps becomes durable: its region joins the set of the copy (R35).
    pub(super) fn will_copy(&mut self, region: u32) -> bool {
        match &mut self.prep {
            Some(Prep::Union { todo, .. }) => {
                todo.insert(region);
                true
            }
            _ => false,
        }
    }
}

impl Serve {
    fn other_leg(&self) -> Option<Leg> {
        self.running.members.sole().map(Leg::other)
    }

    pub(super) fn preparing(&self, leg: Leg) -> bool {
        self.rejoin.prep.is_some() && self.other_leg() == Some(leg)
    }

    /// Step 0 begins when Y is logged in, the pause is over and nothing else is under way.
    pub(super) fn try_rejoin(&mut self) {
        let Some(y) = self.other_leg() else { return };
        let idle =
            self.state == State::Solo && self.rejoin.prep.is_none() && !self.scripts.running();
        let due = self.rejoin.at.is_none_or(|at| at <= self.now);
        let reachable = self.links[y.index()].link == Link::Reachable;
        let x_ready = self.ready(y.other());
        let hope = !self.rejoin.is_hopeless();
        if idle
            && hope
            && due
            && reachable
            && x_ready
            && self.stamped
            && self.requests.open.is_empty()
        {
            self.rejoin.prep = Some(Prep::Register);
            self.rejoin.at = None;
            self.read_register_fresh();
        }
    }

    /// Step 0: the register was read and the holder is this writer.
    pub(super) fn rejoin_register(&mut self) {
        if !matches!(self.rejoin.prep, Some(Prep::Register)) {
            return;
        }
        let (Some(y), Some(register)) = (self.other_leg(), self.register.as_ref()) else {
            return;
        };
        let Some(info) = self.links[y.index()].info else {
            return;
        };
        if let Some(block) = may_join(register, y, &info) {
            self.rejoin_failed(block);
            return;
        }
        if info.capacity < Self::lun_bytes(self.geometry.size()) {
            self.rejoin_failed(RejoinBlock::TooSmall);
            return;
        }
        let mut fence = Fence::new(self.running.key);
        let op = fence.start();
        self.rejoin.prep = Some(Prep::Fence { fence, op });
        self.send(y, Purpose::Rejoin);
    }

    /// The command of the step under way.
    pub(super) fn rejoin_op(&self) -> Option<LegOp> {
        match self.rejoin.prep.as_ref()? {
            Prep::Fence { op, .. } => Some(op.clone()),
            Prep::Slots { first } => {
                let slot = usize::from(first.is_some());
                Some(LegOp::ReadMeta {
                    offset: SLOT_OFFSETS[slot],
                    len: BLOCK as u32,
                })
            }
            Prep::Map { pages, .. } => {
                let left = (self.geometry.pages() as usize - pages.len()) * BLOCK;
                let len = left.min(READ_MAX as usize) as u32;
                Some(LegOp::ReadMeta {
                    offset: map_offset(pages.len() as u32),
                    len,
                })
            }
            Prep::Register | Prep::Target { .. } | Prep::Union { .. } => None,
        }
    }

    pub(super) fn rejoin_reply(&mut self, result: Result<LegReply, LegError>) {
        let Some(y) = self.other_leg() else { return };
        let Some(prep) = self.rejoin.prep.take() else {
            return;
        };
        let next = match (prep, result) {
            (Prep::Fence { mut fence, .. }, result) => match fence.handle(result) {
                LegStep::Send(op) | LegStep::Again(op) => Ok(Prep::Fence { fence, op }),
                LegStep::Done(()) => {
                    // From here on commands of earlier attaches cannot reach Y any more (R5).
                    self.links[y.index()].fenced();
                    self.rejoin.target = Some(y);
                    self.syncs[y.index()] = Default::default();
                    Ok(Prep::Slots { first: None })
                }
                LegStep::Failed(_) => Err(RejoinBlock::FenceFailed),
            },
            (Prep::Slots { first: None }, Ok(LegReply::Meta(slot))) => {
                Ok(Prep::Slots { first: Some(slot) })
            }
            // An unreadable slot is judged as damaged; the other one may do.
            (Prep::Slots { first: None }, Err(LegError::Medium)) => Ok(Prep::Slots {
                first: Some(Vec::new()),
            }),
            (Prep::Slots { first: Some(first) }, Ok(LegReply::Meta(second))) => {
                self.judge(y, &first, &second)
            }
            (Prep::Slots { first: Some(first) }, Err(LegError::Medium)) => {
                self.judge(y, &first, &[])
            }
            (
                Prep::Map {
                    superblock,
                    mut pages,
                },
                Ok(LegReply::Meta(bytes)),
            ) => {
                for block in bytes.chunks(BLOCK) {
                    pages.push(MapPage::parse_or_dirty(pages.len() as u32, block));
                }
                pages.truncate(self.geometry.pages() as usize);
                Ok(Prep::Map { superblock, pages })
            }
            _ => Err(RejoinBlock::LegLost),
        };
        match next {
            Ok(Prep::Map { superblock, pages })
                if pages.len() == self.geometry.pages() as usize =>
            {
                self.choose(y, superblock, pages);
            }
            Ok(prep) => {
                self.rejoin.prep = Some(prep);
                self.send(y, Purpose::Rejoin);
            }
            Err(block) => {
                self.rejoin.prep = Some(Prep::Register);
                self.rejoin_failed(block);
            }
        }
    }

    /// Is what stands on Y ours to overwrite?
    fn judge(&mut self, y: Leg, first: &[u8], second: &[u8]) -> Result<Prep, RejoinBlock> {
        let info = self.links[y.index()].info.ok_or(RejoinBlock::LegLost)?;
        let may_initialize = self.order.initialize[y.index()] == Some(info.naa);
        let Some(register) = self.register.as_ref() else {
            return Err(RejoinBlock::WitnessUnreachable);
        };
        let superblock = match Slots::parse([first, second]) {
            Slots::Valid(sb) => {
                let ours = sb.volume == self.order.volume && sb.leg == y;
                let known = sb.register_id == register.register_id
                    || register.former.contains(&sb.register_id);
                if !ours || (!known && !may_initialize) {
                    if ours || !may_initialize {
                        return Err(RejoinBlock::ForeignData);
                    }
                    None
                } else if known
                    && sb.register_id == register.register_id
                    && (sb.epoch > register.epoch || sb.active_seq > register.active.seq)
                {
                    return Err(RejoinBlock::LegAhead);
                } else {
                    Some(sb)
                }
            }
            Slots::Newer(_) => return Err(RejoinBlock::ForeignData),
            Slots::Blank | Slots::Bad { .. } if may_initialize => None,
            Slots::Blank | Slots::Bad { .. } => return Err(RejoinBlock::ForeignData),
        };
        Ok(Prep::Map {
            superblock,
            pages: Vec::new(),
        })
    }

    /// Step 2 and 2b.
    fn choose(&mut self, y: Leg, superblock: Option<Box<Superblock>>, pages: Vec<MapPage>) {
        let x = y.other();
        let numbers: Vec<u64> = pages.iter().map(|page| page.number).collect();
        let naa = self.links[y.index()]
            .info
            .map(|info| info.naa)
            .unwrap_or_default();
        let delta = superblock.as_deref().is_some_and(|sb| {
            sb.naa == naa
                && self
                    .base
                    .as_ref()
                    .is_some_and(|base| base.on == x && is_delta(base, self.geometry, sb, &numbers))
        });
        let Some(source) = self.superblocks[x.index()].clone() else {
            return;
        };
        // A person has answered: it joins now.
        self.lower(Condition::ForeignData(y));
        self.lower(Condition::LostBranch(y));
        let boot_id = self.boot_now(y);
        let mut sb = match superblock {
            Some(sb) => *sb,
            None => Superblock {
                sb_seq: 1,
                ..source.clone()
            },
        };
        sb.leg = y;
        sb.naa = naa;
        sb.boot_id = boot_id;
        sb.volume = source.volume;
        sb.awaits_register = false;
        self.superblocks[y.index()] = Some(sb);
        self.rejoin.prep = Some(Prep::Target { pages, delta });
        self.out.event(Event::RejoinStarted {
            leg: y,
            full: !delta,
        });
        let steps = self.target_steps(x, y, delta);
        self.start_script(steps);
    }

    /// The Target superblock is durable: step 3.
    pub(super) fn target_written(&mut self) {
        let Some(Prep::Target { pages, delta }) = self.rejoin.prep.take() else {
            return;
        };
        let mut left = RegionSet::new();
        let mut todo = self.map.dirty_set();
        let regions = self.geometry.regions() as u32;
        if delta {
            for page in &pages {
                let first = self.geometry.region_at(page.page, 0) as u32;
                for slot in page.dirty(self.geometry.regions_in_page(page.page)) {
                    todo.insert(first + slot as u32);
                }
            }
        } else {
            (0..regions).for_each(|region| {
                todo.insert(region);
            });
        }
        for region in todo.iter() {
            if delta || !self.map.is_unwritten(region) {
                left.insert(region);
            }
        }
        self.map.mark_dirty(left.iter());
        self.rejoin.prep = Some(Prep::Union {
            left,
            todo,
            full: !delta,
        });
        self.start_pages();
        self.union_progress();
    }

    /// A page became durable on X: is all of the union there?
    pub(super) fn union_progress(&mut self) {
        let Some(Prep::Union { left, .. }) = &mut self.rejoin.prep else {
            return;
        };
        while let Some(region) = left.next(0) {
            if !self.map.is_durable(region) {
                return;
            }
            left.remove(region);
        }
        let Some(Prep::Union { todo, full, .. }) = self.rejoin.prep.take() else {
            return;
        };
        let mut resync = Resync::new(self.now, &self.config, self.geometry, todo, full);
        resync.set_rate(self.now, self.pace.rate());
        self.copies.resync = Some(resync);
        self.copies.paused = false;
        self.fact(Fact::Targeted);
    }

    /// The preparation ended without a target.
    pub(super) fn rejoin_failed(&mut self, block: RejoinBlock) {
        let Some(y) = self.other_leg() else { return };
        if self.rejoin.prep.take().is_none() {
            return;
        }
        self.give_up_target(y, block);
    }

    /// Y is not filled any further: nothing waits for it, and it must be fenced again before the next try.
    pub(super) fn give_up_target(&mut self, y: Leg, block: RejoinBlock) {
        let had = self.rejoin.target.take().is_some();
        self.rejoin.prep = None;
        self.source_behind = false;
        self.rejoin.blocked = Some(block);
        self.out.event(Event::RejoinEnded { leg: y, why: block });
        match block {
            RejoinBlock::ForeignData => self.raise(Condition::ForeignData(y)),
            RejoinBlock::LostBranch => self.raise(Condition::LostBranch(y)),
            RejoinBlock::LegAhead => self.raise(Condition::WitnessRolledBack),
            _ => {}
        }
        let (first, longest) = self.config.rejoin_backoff;
        self.rejoin.pause = (self.rejoin.pause * 2).clamp(first, longest);
        self.rejoin.at = Some(self.now + self.rejoin.pause);
        if block == RejoinBlock::SourceUnreadable && !self.rejoin.unreadable.is_empty() {
            self.rejoin.tries += 1;
            self.raise(Condition::SourceUnreadable);
            if self.rejoin.is_hopeless() {
                self.rejoin.at = None;
                self.look_later();
            }
        }
        if had {
            self.leave(y);
        }
    }

    /// Nothing of the engine counts on this leg any more.
    pub(super) fn leave(&mut self, y: Leg) {
        self.cancel_script();
        self.cancel_copies();
        let mut opened = std::mem::take(&mut self.opened);
        self.map.drop_leg(y, &mut opened);
        self.opened = opened;
        self.drop_beat(y);
        self.sync_wanted[y.index()] = None;
        let members = twinsite_register::Members::only(y.other());
        self.retarget_flushes(members);
        self.retarget(members);
        self.open_gates();
        let link = &mut self.links[y.index()];
        link.lost = None;
        if link.link != Link::Down {
            link.link = Link::Down;
            // Its sessions end, so that what is still under way is answered; it comes back as Reachable.
            self.cmds_forget_deadlines(y);
            self.out.push(Output::Disconnect { leg: y });
            self.out.push(Output::Connect { leg: y });
        }
        self.start_pages();
        self.try_flushes();
    }

    /// The guest wrote to the last member: what could not be read there may be readable now.
    pub(super) fn rewritten(&mut self, regions: std::ops::Range<u32>) {
        if self.rejoin.unreadable.is_empty() {
            return;
        }
        let before = self.rejoin.unreadable.len();
        for region in regions {
            self.rejoin.unreadable.remove(region);
        }
        if self.rejoin.unreadable.len() < before {
            self.hope_again();
        }
    }

    /// Rejoins are worth trying again.
    pub(super) fn hope_again(&mut self) {
        self.rejoin.unreadable.clear();
        let held = self.rejoin.is_hopeless();
        (self.rejoin.tries, self.rejoin.look_at) = (0, None);
        if held && self.rejoin.target.is_none() {
            self.rejoin.at = Some(self.now + self.config.rejoin_backoff.0);
        }
    }

    pub(super) fn look_later(&mut self) {
        self.rejoin.look_at = Some(self.now + self.config.rejoin_backoff.1);
    }

    /// Look at the bad block.
    pub(super) fn look_timer(&mut self) {
        let due = self.rejoin.look_at().is_some_and(|at| at <= self.now);
        let Some(x) = self.running.members.sole().filter(|_| due) else {
            return;
        };
        if self.state == State::Solo && self.ready(x) {
            self.rejoin.look_at = None;
            self.send(x, Purpose::Look);
        } else {
            self.look_later();
        }
    }

    pub(super) fn look_op(&self) -> Option<LegOp> {
        self.rejoin.is_hopeless().then_some(LegOp::ReadMeta {
            offset: DATA_START + self.rejoin.bad,
            len: BLOCK as u32,
        })
    }

    /// The rejoin ended well.
    pub(super) fn rejoin_over(&mut self) {
        self.rejoin = Rejoin::new();
        self.lower(Condition::SourceUnreadable);
        for leg in Leg::BOTH {
            self.lower(Condition::ForeignData(leg));
            self.lower(Condition::LostBranch(leg));
            self.lower(Condition::LegDamaged(leg));
        }
    }
}

/// Step 0: what the register says against it.
pub(super) fn may_join(register: &Register, y: Leg, info: &LegInfo) -> Option<RejoinBlock> {
    if register.no_rejoin.contains(y) {
        Some(RejoinBlock::NoRejoin)
    } else if register.is_retired(y, info.naa) {
        Some(RejoinBlock::Retired)
    } else if register.unconfirmed.contains(y) {
        Some(RejoinBlock::LostBranch)
    } else {
        None
    }
}

/// Step 2: may only the dirty regions be copied?
fn is_delta(base: &BaseNumbers, geometry: Geometry, sb: &Superblock, numbers: &[u64]) -> bool {
    let at_base = (sb.epoch, sb.generation) == (base.base.epoch, base.base.generation);
    let history = match sb.role {
        // The second: it joined again from that base, and left before the base was given up (2.6 step 10).
        Role::Member => at_base || sb.base == Some(base.base),
        Role::Target | Role::Candidate => sb.base == Some(base.base),
        Role::New | Role::Growing => false,
    };
    history
        && sb.geometry == geometry
        && numbers.len() == base.numbers.len()
        && numbers
            .iter()
            .zip(&base.numbers)
            .all(|(number, least)| number >= least)
}
