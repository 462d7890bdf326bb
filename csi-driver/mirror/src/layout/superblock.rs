//! The superblock: for which membership this leg was last written.
//!
//! Offsets are those of the format document, one constant each. A superblock that parses is well formed, not yet believed:
//! the role and members are what was written, and [`crate::activation`] compares them with the register.

use twinsite_register::{
    AttachmentUid, Epoch, Gen, GroupId, Key, Leg, Members, Naa, Order, Parent,
};
use twinsite_register::{MAX_PARENTS, Register, RegisterId, SbMark, Site, VolumeId};

use super::bytes::{array, blank, open, put, seal, u16_at, u32_at, u64_at};
use super::{BLOCK, Block, BlockError, Geometry};
use crate::io::{Format, FsType};

const MAGIC: &[u8; 8] = b"TWINSB01";
/// The format version that this software reads and writes.
pub const FORMAT_VERSION: u16 = 1;
/// Bytes of the block that version 1 uses.
pub const SB_USED: u16 = 584;
/// Longest node name.
pub const NODE_BYTES: usize = 64;
/// Features that this software knows.
const KNOWN_INCOMPAT: u64 = 0;
const KNOWN_RO_COMPAT: u64 = 0;

const CRC: usize = 8;
const VERSION: usize = 12;
const USED: usize = 14;
const INCOMPAT: usize = 16;
const RO_COMPAT: usize = 24;
const COMPAT: usize = 32;
const SB_SEQ: usize = 40;
const VOLUME_ID: usize = 48;
const GROUP_ID: usize = 64;
const REGISTER_ID: usize = 80;
const LEG: usize = 96;
const ROLE: usize = 97;
const MEMBERS: usize = 98;
const ACTIVE_SITE: usize = 99;
const REGION_SHIFT: usize = 100;
const ACTIVE_SEQ: usize = 104;
const EPOCH: usize = 112;
const GEN: usize = 120;
const SIZE: usize = 136;
const SIZE_NEW: usize = 144;
const BASE_EPOCH: usize = 152;
const BASE_GEN: usize = 160;
const BASE_CRC: usize = 176;
const CLEAN: usize = 180;
const ATTACH_KEY: usize = 184;
const BOOT_ID: usize = 192;
const LEASE_MS: usize = 200;
const AWAITS_REGISTER: usize = 204;
const NODE: usize = 208;
const FORMAT: usize = 272;
const FS_TYPE: usize = 273;
const NAA: usize = 288;
const PARENTS: usize = 304;
const PARENT_BYTES: usize = 32;
const ORDER: usize = 560;
const ORDER_UID: usize = 568;

/// What a leg is, by its own word.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// Born, never joined.
    New,
    /// A member.
    Member,
    /// The source of a rejoin whose grow may be under way.
    Growing,
    /// The complete target of a rejoin.
    Candidate,
    /// A target whose copy is not complete: never source, read or promoted (R18).
    Target,
}

impl Role {
    const fn to_byte(self) -> u8 {
        match self {
            Self::New => 0,
            Self::Member => 1,
            Self::Growing => 2,
            Self::Candidate => 3,
            Self::Target => 4,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::New),
            1 => Some(Self::Member),
            2 => Some(Self::Growing),
            3 => Some(Self::Candidate),
            4 => Some(Self::Target),
            _ => None,
        }
    }
}

/// The last epoch in which the other leg was a member, and the checksum of the page numbers it had then at least.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Base {
    /// That epoch, above 0.
    pub epoch: Epoch,
    /// Its generation.
    pub generation: Gen,
    /// CRC32C over the base number blocks. A value that does not fit this leg's blocks: they were not written here.
    pub crc: u32,
}

/// A superblock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// Features that a reader need not know; kept when the block is written again.
    pub compat: u64,
    /// Features without which nobody may attach: refused at attach if unknown, [`Superblock::may_attach`].
    pub ro_compat: u64,
    /// Grows by one per write; its lowest bit is the slot.
    pub sb_seq: u64,
    /// Which volume.
    pub volume: VolumeId,
    /// Which group.
    pub group: GroupId,
    /// Which register.
    pub register_id: RegisterId,
    /// Which leg this is.
    pub leg: Leg,
    /// Its role.
    pub role: Role,
    /// The members; empty unless Member or Growing.
    pub members: Members,
    /// Where the volume was active.
    pub active_site: Site,
    /// As in the register.
    pub active_seq: u64,
    /// Size and regions.
    pub geometry: Geometry,
    /// Bytes after an expansion that is under way; 0 = none.
    pub size_new: u64,
    /// The epoch it was written for; Candidate and Target: of the Solo they are copied from.
    pub epoch: Epoch,
    /// The generation of that epoch.
    pub generation: Gen,
    /// What a delta resync starts from.
    pub base: Option<Base>,
    /// A detach found nothing dirty.
    pub clean: bool,
    /// Key of the last attach, session byte 0.
    pub attach_key: Option<Key>,
    /// Boot id of this leg's target; 0 = unknown.
    pub boot_id: u64,
    /// Read lease of this writer: a new owner waits this value.
    pub lease_ms: u32,
    /// A person named this leg, by a force or a reseed, and no attach under the register that says so has written it yet: it
    /// does not run, and nothing beside it does, by the word of superblocks alone.
    pub awaits_register: bool,
    /// Node of this writer.
    pub node: String,
    /// Was a file system made? Three-valued, so that a crash in mkfs repeats it and a finished one stays (R34).
    pub format: Format,
    /// Which file system, or `raw`; zero padded.
    pub fs_type: FsType,
    /// The LUN.
    pub naa: Naa,
    /// Earlier memberships, newest first, as in the register.
    pub parents: Vec<Parent>,
    /// The order of the register when this was written.
    pub order: Order,
}

impl Superblock {
    /// What a birth leaves on a member of a new volume: the set of its register, never attached by anybody.
    pub fn born(
        register: &Register,
        volume: VolumeId,
        leg: Leg,
        geometry: Geometry,
        naa: Naa,
    ) -> Self {
        Self {
            compat: 0,
            ro_compat: 0,
            sb_seq: 1,
            volume,
            group: register.group,
            register_id: register.register_id,
            leg,
            role: Role::Member,
            members: Members::BOTH,
            active_site: register.active.site,
            active_seq: register.active.seq,
            geometry,
            size_new: 0,
            epoch: register.epoch,
            generation: register.generation,
            base: None,
            clean: true,
            attach_key: None,
            boot_id: 0,
            lease_ms: 0,
            awaits_register: false,
            node: String::new(),
            format: Format::None,
            fs_type: [0; 15],
            naa,
            parents: Vec::new(),
            order: Order::default(),
        }
    }

    /// The block, with its checksum. Names longer than their field are cut at a character.
    pub fn emit(&self) -> Block {
        let mut block = blank();
        let b = &mut *block;
        put(b, 0, MAGIC);
        self.fill(b);
        seal(b, CRC);
        block
    }

    /// Everything but magic and checksum; the history ring uses the same fields.
    pub(super) fn fill(&self, b: &mut [u8; BLOCK]) {
        put(b, VERSION, &FORMAT_VERSION.to_le_bytes());
        put(b, USED, &SB_USED.to_le_bytes());
        put(b, RO_COMPAT, &self.ro_compat.to_le_bytes());
        put(b, COMPAT, &self.compat.to_le_bytes());
        put(b, SB_SEQ, &self.sb_seq.to_le_bytes());
        put(b, VOLUME_ID, &self.volume.0);
        put(b, GROUP_ID, &self.group.0);
        put(b, REGISTER_ID, &self.register_id.0);
        b[LEG] = self.leg.site().index();
        b[ROLE] = self.role.to_byte();
        b[MEMBERS] = self.members.bits();
        b[ACTIVE_SITE] = self.active_site.index();
        put(b, REGION_SHIFT, &self.geometry.region_shift().to_le_bytes());
        put(b, ACTIVE_SEQ, &self.active_seq.to_le_bytes());
        put(b, EPOCH, &self.epoch.0.to_le_bytes());
        put(b, GEN, &self.generation.0);
        put(b, SIZE, &self.geometry.size().to_le_bytes());
        put(b, SIZE_NEW, &self.size_new.to_le_bytes());
        if let Some(base) = &self.base {
            put(b, BASE_EPOCH, &base.epoch.0.to_le_bytes());
            put(b, BASE_GEN, &base.generation.0);
            put(b, BASE_CRC, &base.crc.to_le_bytes());
        }
        put(b, CLEAN, &u32::from(self.clean).to_le_bytes());
        put(
            b,
            ATTACH_KEY,
            &self
                .attach_key
                .map_or(0, |key| key.attach().to_u64())
                .to_le_bytes(),
        );
        put(b, BOOT_ID, &self.boot_id.to_le_bytes());
        put(b, LEASE_MS, &self.lease_ms.to_le_bytes());
        put(
            b,
            AWAITS_REGISTER,
            &u32::from(self.awaits_register).to_le_bytes(),
        );
        put(b, NODE, cut(&self.node, NODE_BYTES));
        b[FORMAT] = match self.format {
            Format::None => 0,
            Format::Started => 1,
            Format::Done => 2,
        };
        put(b, FS_TYPE, &self.fs_type);
        put(b, NAA, &self.naa.0);
        for (n, parent) in self.parents.iter().take(MAX_PARENTS).enumerate() {
            let at = PARENTS + n * PARENT_BYTES;
            put(b, at, &parent.epoch.0.to_le_bytes());
            put(b, at + 8, &parent.generation.0);
            b[at + 24] = parent.members.bits();
        }
        put(b, ORDER, &self.order.n.to_le_bytes());
        put(b, ORDER_UID, &self.order.uid.0);
    }

    /// A superblock from the bytes of a slot.
    pub fn parse(bytes: &[u8]) -> Result<Self, BlockError> {
        Self::read(open(bytes, MAGIC, CRC)?)
    }

    pub(super) fn read(b: &[u8; BLOCK]) -> Result<Self, BlockError> {
        let version = u16_at(b, VERSION);
        if version != FORMAT_VERSION {
            return Err(BlockError::Version(version.into()));
        }
        let incompat = u64_at(b, INCOMPAT) & !KNOWN_INCOMPAT;
        if incompat != 0 {
            return Err(BlockError::Incompatible(incompat));
        }
        let impossible = BlockError::Field;
        let base_epoch = Epoch(u64_at(b, BASE_EPOCH));
        let base = Base {
            epoch: base_epoch,
            generation: Gen(array(b, BASE_GEN)),
            crc: u32_at(b, BASE_CRC),
        };
        let key = u64_at(b, ATTACH_KEY);
        Ok(Self {
            compat: u64_at(b, COMPAT),
            ro_compat: u64_at(b, RO_COMPAT),
            sb_seq: u64_at(b, SB_SEQ),
            volume: VolumeId(array(b, VOLUME_ID)),
            group: GroupId(array(b, GROUP_ID)),
            register_id: RegisterId(array(b, REGISTER_ID)),
            leg: Leg::from_index(b[LEG]).ok_or(impossible("leg"))?,
            role: Role::from_byte(b[ROLE]).ok_or(impossible("role"))?,
            members: Members::from_bits(b[MEMBERS]).ok_or(impossible("members"))?,
            active_site: Site::from_index(b[ACTIVE_SITE]).ok_or(impossible("active site"))?,
            active_seq: u64_at(b, ACTIVE_SEQ),
            geometry: Geometry::new(u64_at(b, SIZE), u32_at(b, REGION_SHIFT))
                .map_err(|_| impossible("size or region shift"))?,
            size_new: u64_at(b, SIZE_NEW),
            epoch: Epoch(u64_at(b, EPOCH)),
            generation: Gen(array(b, GEN)),
            base: (base_epoch != Epoch::ZERO).then_some(base),
            clean: u32_at(b, CLEAN) == 1,
            attach_key: Some(Key::from_u64(key).attach()).filter(|key| key.to_u64() != 0),
            boot_id: u64_at(b, BOOT_ID),
            lease_ms: u32_at(b, LEASE_MS),
            awaits_register: u32_at(b, AWAITS_REGISTER) != 0,
            node: text(&b[NODE..NODE + NODE_BYTES]),
            format: match b[FORMAT] {
                0 => Format::None,
                1 => Format::Started,
                2 => Format::Done,
                _ => return Err(impossible("format mark")),
            },
            fs_type: array(b, FS_TYPE),
            naa: Naa(array(b, NAA)),
            parents: parents(b)?,
            order: Order {
                n: u64_at(b, ORDER),
                uid: AttachmentUid(array(b, ORDER_UID)),
            },
        })
    }

    /// Does the block use only features that a writer of this software knows?
    pub const fn may_attach(&self) -> bool {
        self.ro_compat & !KNOWN_RO_COMPAT == 0
    }

    /// Is it the member, or the equal half, that `{members}` of this register value would write?
    pub fn is_of(&self, register: &Register) -> bool {
        (self.epoch, self.generation) == (register.epoch, register.generation)
    }

    /// For the test whether a register is Below.
    pub fn mark(&self) -> SbMark {
        SbMark {
            register_id: self.register_id,
            epoch: self.epoch,
            generation: self.generation,
            seq: self.active_seq,
            unformatted: self.format == Format::None,
        }
    }
}

fn parents(b: &[u8; BLOCK]) -> Result<Vec<Parent>, BlockError> {
    let mut out = Vec::new();
    for n in 0..MAX_PARENTS {
        let at = PARENTS + n * PARENT_BYTES;
        let epoch = Epoch(u64_at(b, at));
        if epoch == Epoch::ZERO {
            break;
        }
        let members = Members::from_bits(b[at + 24]).ok_or(BlockError::Field("parents"))?;
        out.push(Parent {
            epoch,
            generation: Gen(array(b, at + 8)),
            members,
        });
    }
    Ok(out)
}

fn cut(text: &str, max: usize) -> &[u8] {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text.as_bytes()[..end]
}

/// Zero padded text; bytes that are no UTF-8 are shown as such, they decide nothing.
pub(super) fn text(field: &[u8]) -> String {
    let end = field
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}
