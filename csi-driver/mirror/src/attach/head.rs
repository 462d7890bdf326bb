//! Reading the head of a fenced leg: registrations once more, superblocks, beat, map, base numbers.
//!
//! All of it after the last fence (R5): what was read before could still be overwritten by an old writer. A leg on which
//! anybody but this attach is registered is not fenced, whatever the fence said (R26).

use twinsite_register::{Key, Leg, VolumeId};

use crate::fence::{Standing, standing};
use crate::io::{BLOCK, LegError, LegInfo, LegOp, LegReply, Session, TargetAge};
use crate::layout::{
    BASE_NUMBERS, BEAT_OFFSET, BaseNumbers, Beat, BlockError, Geometry, MapPage, SLOT_OFFSETS,
    Slots, Superblock, base_crc, base_offset, map_offset,
};
use crate::script::{Fault, Script, Step};

/// Map pages per read: 1 MiB.
const PAGES_PER_READ: u32 = 256;
const BLOCK_BYTES: u32 = BLOCK as u32;

/// What stands at the head of a leg.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// VPD C0h after the fence; `None`: not an own target.
    pub(super) age: Option<TargetAge>,
    /// The superblock slots.
    pub(super) slots: Slots,
    /// The rest, if the superblock is one of this leg of this volume.
    pub(super) body: Option<Body>,
}

/// What a believable superblock speaks for.
#[derive(Clone, Debug)]
pub(super) struct Body {
    pub(super) superblock: Superblock,
    pub(super) beat: Option<Beat>,
    /// All pages; one that could not be believed is all dirty with number 0.
    pub(super) pages: Vec<MapPage>,
    /// By page; `None`: no base, or the blocks on this leg do not fit it.
    pub(super) base_numbers: Option<Vec<u64>>,
}

impl Head {
    /// Must this software not touch the leg?
    pub(super) fn is_newer(&self) -> bool {
        match &self.slots {
            Slots::Newer(_) => true,
            Slots::Valid(sb) => !sb.may_attach(),
            Slots::Blank | Slots::Bad { .. } => false,
        }
    }
}

impl Body {
    /// Is any region that exists dirty?
    pub(super) fn any_dirty(&self) -> bool {
        let geometry = self.superblock.geometry;
        self.pages
            .iter()
            .any(|page| page.any_dirty(geometry.regions_in_page(page.page)))
    }
}

/// Is this the superblock of this leg of this volume, on the LUN it was written for?
pub(super) fn is_of_leg(sb: &Superblock, volume: VolumeId, leg: Leg, info: &LegInfo) -> bool {
    sb.volume == volume
        && sb.leg == leg
        && sb.naa == info.naa
        && sb.geometry.lun_bytes() <= info.capacity
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    Age,
    Verify,
    Slot(usize),
    Beat,
    /// A run of pages; after a medium error page by page up to `single_until`.
    Pages {
        first: u32,
        count: u32,
        single_until: u32,
    },
    Base,
}

/// Reads the head of one leg.
#[derive(Clone, Debug)]
pub(super) struct HeadReader {
    own: Key,
    volume: VolumeId,
    leg: Leg,
    info: LegInfo,
    at: At,
    sent: LegOp,
    age: Option<TargetAge>,
    slots: [Vec<u8>; 2],
    found: Option<Slots>,
    beat: Option<Beat>,
    pages: Vec<MapPage>,
}

impl HeadReader {
    pub(super) fn new(own: Key, volume: VolumeId, leg: Leg, info: LegInfo) -> Self {
        let (at, sent) = if info.own_target {
            (At::Age, LegOp::ReadTargetAge)
        } else {
            (At::Verify, LegOp::PrReadFullStatus)
        };
        Self {
            own,
            volume,
            leg,
            info,
            at,
            sent,
            age: None,
            slots: [Vec::new(), Vec::new()],
            found: None,
            beat: None,
            pages: Vec::new(),
        }
    }

    /// Without the test of the registrations: for a look that decides nothing, and for a leg not yet fenced.
    pub(super) fn looking(volume: VolumeId, leg: Leg, info: LegInfo) -> Self {
        let len = BLOCK_BYTES;
        Self {
            at: At::Slot(0),
            sent: LegOp::ReadMeta {
                offset: SLOT_OFFSETS[0],
                len,
            },
            ..Self::new(Key::from_u64(0), volume, leg, info)
        }
    }

    fn send(&mut self, at: At, op: LegOp) -> Step<Box<Head>> {
        self.at = at;
        self.sent = op.clone();
        Step::Send(op)
    }

    fn read(&mut self, at: At, offset: u64, blocks: u32) -> Step<Box<Head>> {
        self.send(
            at,
            LegOp::ReadMeta {
                offset,
                len: blocks * BLOCK_BYTES,
            },
        )
    }

    fn own_superblock(&self) -> Option<&Superblock> {
        let sb = self.found.as_ref()?.superblock()?;
        is_of_leg(sb, self.volume, self.leg, &self.info).then_some(sb)
    }

    fn geometry(&self) -> Option<Geometry> {
        Some(self.own_superblock()?.geometry)
    }

    fn slot_read(&mut self, n: usize, bytes: Vec<u8>) -> Step<Box<Head>> {
        self.slots[n] = bytes;
        if n == 0 {
            return self.read(At::Slot(1), SLOT_OFFSETS[1], 1);
        }
        self.found = Some(Slots::parse([&self.slots[0], &self.slots[1]]));
        if self.own_superblock().is_some() {
            self.read(At::Beat, BEAT_OFFSET, 1)
        } else {
            self.end(None)
        }
    }

    fn beat_read(&mut self, bytes: &[u8]) -> Step<Box<Head>> {
        let beat: Result<Beat, BlockError> = Beat::parse(bytes);
        self.beat = beat.ok().filter(|beat| beat.volume == self.volume);
        self.next_pages(0, 0)
    }

    fn next_pages(&mut self, first: u32, single_until: u32) -> Step<Box<Head>> {
        let Some(geometry) = self.geometry() else {
            return self.end(None);
        };
        let left = geometry.pages().saturating_sub(first);
        if left == 0 {
            return self.base();
        }
        let count = if first < single_until {
            1
        } else {
            left.min(PAGES_PER_READ)
        };
        self.read(
            At::Pages {
                first,
                count,
                single_until,
            },
            map_offset(first),
            count,
        )
    }

    fn pages_read(
        &mut self,
        first: u32,
        single_until: u32,
        bytes: &[u8],
        count: u32,
    ) -> Step<Box<Head>> {
        for n in 0..count {
            let at = n as usize * BLOCK;
            let block = bytes.get(at..at + BLOCK).unwrap_or(&[]);
            self.pages.push(MapPage::parse_or_dirty(first + n, block));
        }
        self.next_pages(first + count, single_until)
    }

    fn base(&mut self) -> Step<Box<Head>> {
        match (
            self.own_superblock().and_then(|sb| sb.base),
            self.geometry(),
        ) {
            (Some(_), Some(geometry)) => {
                let blocks = geometry.pages().div_ceil(BASE_NUMBERS as u32);
                self.read(At::Base, base_offset(0), blocks)
            }
            _ => self.end(None),
        }
    }

    fn base_read(&mut self, bytes: &[u8]) -> Step<Box<Head>> {
        let numbers = self.base_numbers(bytes);
        self.end(numbers)
    }

    fn base_numbers(&self, bytes: &[u8]) -> Option<Vec<u64>> {
        let base = self.own_superblock()?.base?;
        let blocks = || bytes.chunks(BLOCK);
        if base_crc(blocks()) != base.crc {
            return None;
        }
        let mut numbers = Vec::new();
        for (index, block) in blocks().enumerate() {
            let parsed = BaseNumbers::parse(u32::try_from(index).ok()?, block).ok()?;
            if parsed.epoch != base.epoch {
                return None;
            }
            numbers.extend(parsed.numbers);
        }
        numbers.truncate(self.pages.len());
        (numbers.len() == self.pages.len()).then_some(numbers)
    }

    fn end(&mut self, base_numbers: Option<Vec<u64>>) -> Step<Box<Head>> {
        let body = self.own_superblock().cloned().map(|superblock| Body {
            superblock,
            beat: self.beat,
            pages: std::mem::take(&mut self.pages),
            base_numbers,
        });
        let bad = [BlockError::Length(0); 2];
        let slots = self.found.take().unwrap_or(Slots::Bad { slots: bad });
        Step::Done(Box::new(Head {
            age: self.age,
            slots,
            body,
        }))
    }

    /// A block that cannot be read is as good as damaged: the other slot, a dirty page, no base.
    fn unreadable(&mut self) -> Step<Box<Head>> {
        match self.at {
            At::Slot(n) => self.slot_read(n, Vec::new()),
            At::Beat => self.beat_read(&[]),
            At::Pages {
                first,
                count: 1,
                single_until,
            } => self.pages_read(first, single_until, &[], 1),
            At::Pages { first, count, .. } => self.next_pages(first, first + count),
            At::Base => self.base_read(&[]),
            At::Age | At::Verify => Step::Failed(Fault::Leg),
        }
    }
}

impl Script for HeadReader {
    type Output = Box<Head>;

    fn start(&mut self) -> LegOp {
        self.sent.clone()
    }

    fn handle(&mut self, result: Result<LegReply, LegError>) -> Step<Box<Head>> {
        match (self.at, result) {
            (_, Err(LegError::Retry)) => Step::Again(self.sent.clone()),
            (_, Err(LegError::Medium)) => self.unreadable(),
            (_, Err(error)) => Step::Failed(Fault::of(error)),
            (At::Age, Ok(LegReply::Age(age))) => {
                self.age = Some(age);
                self.send(At::Verify, LegOp::PrReadFullStatus)
            }
            (At::Verify, Ok(LegReply::FullStatus(registrants))) => {
                match standing(self.own, &[Session::Data], &registrants) {
                    Standing::Own => self.read(At::Slot(0), SLOT_OFFSETS[0], 1),
                    Standing::Empty => Step::Failed(Fault::Unreserved),
                    Standing::Superseded | Standing::Missing => Step::Failed(Fault::Taken),
                }
            }
            (At::Slot(n), Ok(LegReply::Meta(bytes))) => self.slot_read(n, bytes),
            (At::Beat, Ok(LegReply::Meta(bytes))) => self.beat_read(&bytes),
            (
                At::Pages {
                    first,
                    count,
                    single_until,
                },
                Ok(LegReply::Meta(bytes)),
            ) => self.pages_read(first, single_until, &bytes, count),
            (At::Base, Ok(LegReply::Meta(bytes))) => self.base_read(&bytes),
            (_, Ok(_)) => Step::Failed(Fault::Leg),
        }
    }
}
