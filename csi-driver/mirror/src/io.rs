//! Everything that goes into the engine and everything that comes out of it.
//!
//! The engine speaks of extents and request ids, never of payloads. The bytes of a guest request stay with the shell
//! under its [`ReqId`], the bytes of a copy under its [`CopyId`]; only metadata blocks travel inline. Offsets in a
//! [`LegOp`] are absolute byte offsets of the LUN (guest offset + [`DATA_START`]).
//!
//! What the shell owes the engine:
//! * every [`Output::Leg`] is answered by exactly one [`Input::LegDone`] with the same `leg` and `cmd`, also when the
//!   session died ([`LegError::SessionGone`]); all of them before the [`Input::LegDown`] of that session;
//! * the sessions of a leg (data, resync) live and die together: [`Input::LegUp`] when the last one is logged in,
//!   [`Input::LegDown`] when the first one is gone, after the others were torn down;
//! * a session always logs in with the ISID fixed for (node, leg, session), and nothing is sent on it before the login
//!   completed, so that session reinstatement ends the commands of the old one (R15);
//! * [`LegError::SessionGone`] never means "not executed";
//! * the buffer of a guest write stays unchanged and alive until its `GuestDone` was given **and** every command that
//!   names it was answered; after `GuestDone` the engine issues no new command with that id;
//! * commands of one leg may be executed in any order: only completions order them;
//! * `now` never goes back.

use std::time::Duration;

pub use twinsite_register::{
    AttachmentUid, BeatObject, Key, Leg, Mark, Members, Naa, Register, Site, VolumeId,
};

use crate::config::Config;
use crate::status::Event;

/// First byte of guest data on a leg; everything before it is the mirror's head.
pub const DATA_START: u64 = 128 << 20;
/// Size and alignment of a metadata block.
pub const BLOCK: usize = 4096;

/// One metadata block, written with FUA and never partly rewritten.
pub type Block = Box<[u8; BLOCK]>;

/// A guest request, named by the shell; free for use again after its `GuestDone`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReqId(pub u64);

/// A command to a leg, named by the engine, unique for the life of the engine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CmdId(pub u64);

/// A copy buffer: filled by `CopyRead`, used by `CopyWrite`, given back by `CopyFree`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CopyId(pub u32);

/// A read or compare-and-swap of the register.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RegisterId(pub u64);

/// What a front end may ask for. Offsets and lengths are bytes of the device, multiples of its block size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GuestOp {
    /// At most [`crate::config::Config::io_max`] bytes.
    Read { offset: u64, len: u32 },
    /// At most `io_max` bytes; `fua`: durable on every member before the answer.
    Write { offset: u64, len: u32, fua: bool },
    /// Everything answered before this arrived is durable when it is answered.
    Flush,
    /// Reads as zeros afterwards. Any length; the engine cuts it.
    Discard { offset: u64, len: u64 },
    /// As a discard that must write zeros (no unmapping hint lost).
    WriteZeros { offset: u64, len: u64 },
}

/// Why a guest request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GuestError {
    #[error("I/O error")]
    Io,
    #[error("no space left on the legs")]
    NoSpace,
    #[error("another writer took over, the device is gone")]
    Superseded,
    #[error("outside the device, not aligned or too long")]
    Invalid,
    #[error("more requests than the queue bound")]
    QueueFull,
    #[error("the device is not shown")]
    NotShown,
}

/// Which session a command goes to, and with which priority: `Meta` before `Guest` on the data session, `Resync` on
/// the second one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    Meta,
    Guest,
    Resync,
}

/// Session number of a leg: byte 0 of the registration key (protocol 2.14).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Session {
    /// Guest and metadata commands.
    Data = 0,
    /// Copies.
    Resync = 1,
}

/// What the shell learned of a leg right after its sessions logged in: INQUIRY, VPD 83, B0, B2, C0h, the caching mode
/// page and READ CAPACITY(16).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LegInfo {
    /// VPD 83 NAA designator; zero = none.
    pub naa: Naa,
    /// Bytes of the LUN.
    pub capacity: u64,
    pub block_size: u32,
    /// Volatile cache on (WCE=1) and not declared `cacheProtected`.
    pub volatile_cache: bool,
    /// `None`: not our own target, or it did not say.
    pub boot_id: Option<u64>,
    /// The target speaks VPD C0h.
    pub own_target: bool,
    /// LBPRZ=1: reads zeros after an unmap. Discard is offered only if both legs say so.
    pub discard_zeroes: bool,
    /// Bytes; 0 = no unmap.
    pub discard_granularity: u32,
}

/// Why the sessions of a leg ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LegDown {
    /// Could not connect or log in.
    Unreachable,
    /// A session was lost: transport error, NOP-out unanswered, digest error beyond repair.
    SessionLost,
    /// Answer to `Disconnect`.
    Closed,
    /// The target refused the login (credentials, no such target).
    LoginRefused,
    /// Another LUN than the order names is there.
    OtherLun,
}

/// A command to a leg.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LegOp {
    /// INQUIRY, VPDs, READ CAPACITY again; answered by [`LegReply::Identity`].
    Identify,
    ReadData {
        req: ReqId,
        offset: u64,
        len: u32,
    },
    /// `skip`: bytes of the request's buffer before the first byte written.
    WriteData {
        req: ReqId,
        skip: u32,
        offset: u64,
        len: u32,
        fua: bool,
    },
    /// SYNCHRONIZE CACHE of the whole LUN.
    Sync,
    /// WRITE SAME with UNMAP; reads as zeros afterwards.
    Discard {
        offset: u64,
        len: u64,
    },
    /// WRITE SAME of zeros without UNMAP.
    Zero {
        offset: u64,
        len: u64,
    },
    /// `len` is a multiple of [`BLOCK`], at most 1 MiB; answered by [`LegReply::Meta`].
    ReadMeta {
        offset: u64,
        len: u32,
    },
    /// One block, FUA.
    WriteMeta {
        offset: u64,
        block: Block,
    },
    CopyRead {
        copy: CopyId,
        offset: u64,
        len: u32,
    },
    CopyWrite {
        copy: CopyId,
        offset: u64,
        len: u32,
    },
    /// [`crate::digest`] of each `block` bytes of the range; answered by [`LegReply::Digests`].
    Digest {
        offset: u64,
        len: u32,
        block: u32,
    },
    PrReadKeys,
    PrReadReservation,
    PrReadFullStatus,
    /// REGISTER AND IGNORE EXISTING KEY with APTPL on one session.
    PrRegister {
        key: Key,
        session: Session,
    },
    /// REGISTER with service action key 0 on one session.
    PrUnregister {
        key: Key,
        session: Session,
    },
    /// Type 6, exclusive access, registrants only.
    PrReserve {
        key: Key,
    },
    /// PREEMPT AND ABORT by the data session; `kind` is the reservation type of the present holder, 6 if none.
    PrPreemptAbort {
        key: Key,
        victim: Key,
        kind: u8,
    },
    PrClear {
        key: Key,
    },
    /// VPD C0h; answered by [`LegReply::Age`].
    ReadTargetAge,
}

/// A registered I_T nexus, from READ FULL STATUS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registrant {
    pub key: Key,
    pub holder: bool,
    /// Reservation type, meaningful for the holder.
    pub kind: u8,
}

/// VPD C0h of our own target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TargetAge {
    pub boot_id: u64,
    pub uptime: Duration,
    /// Age of the last command of another attach's keys, frozen when PREEMPT AND ABORT completed; `None`: no such command since the start.
    pub last_foreign: Option<Duration>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LegReply {
    /// GOOD, nothing to hand over (also reads whose bytes went to the shell's buffer).
    Done,
    Meta(Vec<u8>),
    Digests(Vec<u64>),
    Identity(LegInfo),
    Keys(Vec<Key>),
    /// Key and type of the holder.
    Reservation(Option<(Key, u8)>),
    FullStatus(Vec<Registrant>),
    Age(TargetAge),
}

/// How a leg command failed. The outcome of a failed command is unknown unless the variant says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LegError {
    /// RESERVATION CONFLICT: not executed.
    #[error("reservation conflict")]
    Conflict,
    /// UNIT ATTENTION 2A/03, 2A/04 or 2A/05: somebody preempted us. Not executed.
    #[error("reservation preempted or released")]
    Preempted,
    /// Any other UNIT ATTENTION, BUSY, TASK SET FULL, ABORTED COMMAND worth a retry.
    #[error("busy")]
    Retry,
    /// The session is gone; may or may not have been executed.
    #[error("session gone")]
    SessionGone,
    #[error("medium error")]
    Medium,
    #[error("hardware error")]
    Hardware,
    #[error("no space")]
    NoSpace,
    /// ILLEGAL REQUEST, DATA PROTECT and the like: sense key, ASC, ASCQ.
    #[error("refused with sense {0:x}/{1:02x}/{2:02x}")]
    Refused(u8, u8, u8),
}

/// Answer to a compare-and-swap, as the backend saw it. The engine never takes `Conflict` for "lost" (R41).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CasResult {
    Won,
    /// The stored value was not the expected one.
    Conflict,
    /// No answer, time-out, 5xx: may have been executed, may be executed later.
    Unknown,
}

/// Why the register could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RegisterError {
    #[error("the witness did not answer")]
    Unreachable,
    #[error("the register object cannot be parsed")]
    Corrupt,
}

/// Format record (2.17): three-valued, durable on every member before it is confirmed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Format {
    #[default]
    None,
    Started,
    Done,
}

/// Name of the file system, zero padded; `raw` in Block mode.
pub type FsType = [u8; 15];

/// A move of the volume to this site, taken only while the register's `active.seq` is `expect_seq`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MoveOrder {
    pub mode: MoveMode,
    pub expect_seq: u64,
}

/// How the other site is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MoveMode {
    /// The other site detached; all members must be reachable.
    Planned,
    /// The other site is lost, a human said so.
    Failover,
    /// The other site is lost by the evidence of the automatic policy: refused when the own target saw the holder's
    /// commands within this age.
    Automatic { detect_after: Duration },
}

/// What an agent keeps of one Attachment uid, on disk before the first fence (R38).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttachRecord {
    pub uid: AttachmentUid,
    /// Key of the last attach that served and of every try since.
    pub keys: Vec<Key>,
    /// Place in the order, fixed at the first attach.
    pub n: Option<u64>,
    /// Refused once with `OrderStale`: never attaches again.
    pub stale: bool,
    /// Acknowledged writes of this device are gone with a cache, and no flush told its guest yet (R40).
    pub flush_owed: bool,
}

impl AttachRecord {
    /// Of a uid that never tried.
    pub const fn new(uid: AttachmentUid) -> Self {
        Self {
            uid,
            keys: Vec::new(),
            n: None,
            stale: false,
            flush_owed: false,
        }
    }
}

/// What a comparison of both legs is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VerifyOrder {
    /// Compare all bytes of the volume from here on; 0 for all of it. Taken in Synced only.
    Begin { from: u64 },
    /// End the run, if there is one.
    Stop,
}

/// Does the attach show a device, or only look after the legs?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Writer,
    Caretaker,
}

/// Open the volume here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttachOrder {
    pub volume: VolumeId,
    pub uid: AttachmentUid,
    /// New for this try, session byte 0.
    pub key: Key,
    /// 32 random bytes: source of every id this attach makes.
    pub seed: [u8; 32],
    pub site: Site,
    pub node: String,
    pub mode: Mode,
    pub mv: Option<MoveOrder>,
    /// Record of earlier tries of this uid, empty keys if there is none.
    pub record: AttachRecord,
    /// The kernel still shows a device of an earlier attach of this uid: continue it or remove it (R38).
    pub shown: bool,
    /// Highest register values seen at this site.
    pub marks: Vec<Mark>,
    /// LUNs that may be initialised for this leg although they carry no superblock of the volume.
    pub initialize: [Option<Naa>; 2],
    pub config: Config,
}

/// What the engine is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    Attach(Box<AttachOrder>),
    /// Drain, clean, release, log out. Ends with [`Output::Detached`].
    Detach,
    /// This leg leaves the membership and must not rejoin.
    DropLeg(Leg),
    /// Grow the device to `size` bytes of data; both LUNs are already large enough.
    Expand {
        size: u64,
    },
    /// Record the state of the file system on every member; answered by [`Output::FormatRecorded`].
    SetFormat {
        format: Format,
        fs_type: FsType,
    },
    /// Answered by [`Output::OrderDone`] at once; how far it is stands in the status.
    Verify(VerifyOrder),
    Guest {
        id: ReqId,
        op: GuestOp,
    },
    LegUp {
        leg: Leg,
        info: LegInfo,
    },
    LegDown {
        leg: Leg,
        why: LegDown,
    },
    LegDone {
        leg: Leg,
        cmd: CmdId,
        result: Result<LegReply, LegError>,
    },
    /// `Ok(None)`: the witness answers that there is no such object.
    RegisterRead {
        id: RegisterId,
        result: Result<Option<Box<Register>>, RegisterError>,
    },
    RegisterCas {
        id: RegisterId,
        result: CasResult,
    },
    /// The record of the last `SaveRecord` is on disk (fsync).
    RecordSaved,
    /// The beat object as read; `Err` = could not be read.
    BeatObject {
        result: Result<Option<BeatObject>, RegisterError>,
    },
    /// Time has passed: send when `deadline()` is reached.
    Tick,
}

/// What the engine wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Log in and stay connected, again and again until `Disconnect`; answered by `LegUp`, or `LegDown` per failed try.
    Connect {
        leg: Leg,
    },
    /// Tear the sessions down (no logout needed) and stop connecting; all open commands fail with `SessionGone`.
    Disconnect {
        leg: Leg,
    },
    Leg {
        leg: Leg,
        cmd: CmdId,
        op: LegOp,
        lane: Lane,
    },
    ReadRegister {
        id: RegisterId,
    },
    CasRegister {
        id: RegisterId,
        expected: Box<Register>,
        new: Box<Register>,
    },
    SaveRecord(AttachRecord),
    ReadBeat,
    /// Written as a maximum, best effort, no answer.
    WriteBeat(BeatObject),
    ShowDevice(DeviceInfo),
    /// Fail everything at once and take the device away.
    RemoveDevice {
        why: RemoveWhy,
    },
    Resize {
        size: u64,
    },
    FormatRecorded {
        result: Result<(), ControlError>,
    },
    /// The answer to `Expand`, `DropLeg` or `Verify`.
    OrderDone {
        result: Result<(), ControlError>,
    },
    /// The attach ended without serving.
    Refused(crate::status::Refusal),
    /// Everything is released; the sessions are closed.
    Detached,
    GuestDone {
        id: ReqId,
        result: Result<(), GuestError>,
    },
    CopyFree {
        copy: CopyId,
    },
    Event(Event),
}

/// The device as the guest sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceInfo {
    pub size: u64,
    /// Maximum of both legs.
    pub block_size: u32,
    /// 0 = not offered.
    pub discard_granularity: u32,
    pub io_max: u32,
    pub format: Format,
    pub fs_type: FsType,
    /// A device that was still shown goes on; its requests may be sent again.
    pub continued: bool,
}

/// Why the device goes away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RemoveWhy {
    Superseded,
    Detached,
    /// A shown device may not be continued (R38).
    NotContinued,
    Deleted,
}

/// Why an order was not carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ControlError {
    #[error("both legs must be members and reachable")]
    WaitingForLeg,
    #[error("the last member cannot be dropped")]
    LastMember,
    #[error("a LUN is too small for the size asked for")]
    TooSmall,
    #[error("a device never shrinks")]
    Shrink,
    #[error("not attached")]
    NotAttached,
    #[error("another order is under way")]
    Busy,
    #[error("the membership changed meanwhile")]
    Interrupted,
}
