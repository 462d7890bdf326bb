//! State of the lifecycle model.

use crate::table::Role;

pub const EPOCHS: usize = 8;
pub const WRITERS: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub enum Life {
    #[default]
    Absent,
    Creating,
    Live,
    Tombstone,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Register {
    pub life: Life,
    /// Which register: a delete and a new volume of the same name get another one.
    pub id: u8,
    pub epoch: u8,
    pub members: u8,
    pub site: u8,
    pub seq: u8,
    pub holder: u8,
    /// Number and uid of the last Attachment.
    pub order: (u8, u8),
    /// New in every change.
    pub txid: u8,
    /// Members and generation of each epoch.
    pub history: [u8; EPOCHS],
    pub gens: [u8; EPOCHS],
    pub granted: [Option<(u8, u8)>; 2],
    pub unconfirmed: u8,
    /// Mask of register ids that a reseed replaced.
    pub former: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Sb {
    pub role: Role,
    pub epoch: u8,
    pub generation: u8,
    pub members: u8,
    pub site: u8,
    pub seq: u8,
    pub sb_seq: u8,
    pub register: u8,
    /// 0 none, 1 started, 2 done.
    pub format: u8,
    pub order: (u8, u8),
    /// A person named it, and no attach under the register wrote it since.
    pub awaits: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Leg {
    pub sb: Option<Sb>,
    /// Last guest write on it.
    pub data: u8,
    /// Key that holds the reservation, 0 = none.
    pub holder: u8,
    /// A write of an old session on its way: key and number.
    pub delayed: (u8, u8),
    /// Holds a branch that a force gave up and nobody confirmed yet.
    pub lost: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Phase {
    #[default]
    Off,
    /// Legs fenced for an attach; `set` = fenced legs.
    Fenced,
    Serving,
    /// Lost a leg: holds, then shrinks.
    Frozen,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Writer {
    pub phase: Phase,
    pub set: u8,
    pub epoch: u8,
    pub seq: u8,
    pub key: u8,
    pub moving: bool,
    /// Own place in the order; 0 = never attached.
    pub n: u8,
    pub stamped: bool,
    pub stale: bool,
    /// Format of the first attach: 0 to do, 1 started, 2 made, 3 mounted.
    pub fs: u8,
    /// A device stays shown behind a dead agent.
    pub shown: bool,
}

/// Somebody who zeroes legs: a birth executor or a wipe.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Executor {
    /// 0 off, 1 read R, 2 fenced, 3 read R again: may zero.
    pub step: u8,
    pub wipes: bool,
    pub read: Register,
    pub key: u8,
    pub done: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct State {
    pub register: Register,
    pub backup: Option<Register>,
    pub restored: bool,
    /// Highest (register, epoch, seq) seen at each site.
    pub marks: [(u8, u8, u8); 2],
    pub legs: [Leg; 2],
    pub writers: [Writer; WRITERS],
    pub executors: [Executor; 2],
    /// Cut: site to register, and between the sites.
    pub no_register: u8,
    pub no_peer: bool,
    pub next_key: u8,
    pub next_write: u8,
    pub next_gen: u8,
    pub acked: u8,
    /// The file system was mounted; a true tombstone was written.
    pub mounted: bool,
    pub deleted: bool,
    pub cuts: u8,
    pub heals: u8,
    pub crashes: u8,
    pub moves: u8,
    pub forces: u8,
    pub restores: u8,
    pub deletes: u8,
    pub losses: u8,
    /// The register before it was lost.
    pub lost_register: Option<Register>,
    pub fault: u8,
}
