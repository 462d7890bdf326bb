//! A leg for tests: persistent reservations as SPC-4 says, blocks in memory, faults on demand.
//!
//! A nexus is (initiator, session). Metadata and data below 128 MiB are kept by 4096-byte block; data behind is not kept,
//! only the fact that a range was zeroed. Time is told by the test.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use twinsite_register::{Key, Naa};

use crate::io::{BLOCK, LegError, LegInfo, LegOp, LegReply, Registrant, Session, TargetAge};

pub(crate) type Nexus = (u8, Session);

#[derive(Clone, Debug)]
pub(crate) struct FakeLeg {
    pub(crate) now: Duration,
    pub(crate) started: Duration,
    pub(crate) info: LegInfo,
    pub(crate) registered: BTreeMap<Nexus, Key>,
    pub(crate) holder: Option<(Nexus, u8)>,
    pub(crate) attention: BTreeSet<Nexus>,
    pub(crate) blocks: BTreeMap<u64, [u8; BLOCK]>,
    /// Ranges zeroed or unmapped, in order.
    pub(crate) zeroed: Vec<(u64, u64)>,
    pub(crate) syncs: u32,
    /// Time of the last command of each key's attach.
    pub(crate) last: BTreeMap<Key, Duration>,
    pub(crate) frozen: Option<Option<Duration>>,
    /// Answer the next commands of this name with this error: `(name, error)`.
    pub(crate) faults: Vec<(&'static str, LegError)>,
    pub(crate) bad_blocks: BTreeSet<u64>,
    pub(crate) log: Vec<String>,
    /// What the last data write stands for: its request id.
    pub(crate) data: u64,
    /// Every (attach key, offset) written, to see who wrote.
    pub(crate) writes: Vec<(Option<Key>, u64)>,
}

impl FakeLeg {
    pub(crate) fn new(naa: u8, size: u64) -> Self {
        Self {
            now: Duration::ZERO,
            started: Duration::ZERO,
            info: LegInfo {
                naa: Naa([naa; 16]),
                capacity: crate::io::DATA_START + size,
                block_size: 512,
                volatile_cache: false,
                boot_id: Some(u64::from(naa) + 1000),
                own_target: true,
                discard_zeroes: true,
                discard_granularity: 4096,
            },
            registered: BTreeMap::new(),
            holder: None,
            attention: BTreeSet::new(),
            blocks: BTreeMap::new(),
            zeroed: Vec::new(),
            syncs: 0,
            last: BTreeMap::new(),
            frozen: None,
            faults: Vec::new(),
            bad_blocks: BTreeSet::new(),
            log: Vec::new(),
            data: 0,
            writes: Vec::new(),
        }
    }

    pub(crate) fn block(&self, offset: u64) -> [u8; BLOCK] {
        self.blocks.get(&offset).copied().unwrap_or([0; BLOCK])
    }

    pub(crate) fn holder_key(&self) -> Option<Key> {
        self.holder
            .and_then(|(nexus, _)| self.registered.get(&nexus).copied())
    }

    fn may_access(&self, nexus: Nexus) -> bool {
        self.holder.is_none() || self.registered.contains_key(&nexus)
    }

    fn touch(&mut self, nexus: Nexus) {
        if let Some(key) = self.registered.get(&nexus) {
            self.last.insert(key.attach(), self.now);
        }
    }

    fn preempt(
        &mut self,
        nexus: Nexus,
        key: Key,
        victim: Key,
        kind: u8,
    ) -> Result<LegReply, LegError> {
        if self.registered.get(&nexus) != Some(&key) {
            return Err(LegError::Conflict);
        }
        let victims: Vec<Nexus> = self
            .registered
            .iter()
            .filter(|(_, k)| **k == victim)
            .map(|(n, _)| *n)
            .collect();
        if victims.is_empty() {
            return Err(LegError::Conflict);
        }
        if let Some((holder, held)) = self.holder
            && victims.contains(&holder)
        {
            if held != kind {
                return Err(LegError::Refused(5, 0x26, 0));
            }
            self.holder = Some((nexus, kind));
        }
        for victim in victims {
            // As some targets do: the caller is not spared.
            self.registered.remove(&victim);
            self.attention.insert(victim);
        }
        let own = key.attach();
        let foreign = self
            .last
            .iter()
            .filter(|(k, _)| **k != own)
            .map(|(_, at)| *at)
            .max();
        self.frozen = Some(foreign.map(|at| self.now - at));
        Ok(LegReply::Done)
    }

    pub(crate) fn execute(&mut self, initiator: u8, op: &LegOp) -> Result<LegReply, LegError> {
        let session = match op {
            LegOp::PrRegister { session, .. } | LegOp::PrUnregister { session, .. } => *session,
            LegOp::CopyRead { .. } | LegOp::CopyWrite { .. } | LegOp::Digest { .. } => {
                Session::Resync
            }
            _ => Session::Data,
        };
        let nexus = (initiator, session);
        let name = name(op);
        self.log.push(format!("{initiator} {name}"));
        if let Some(at) = self.faults.iter().position(|(wanted, _)| *wanted == name) {
            return Err(self.faults.remove(at).1);
        }
        let is_in = matches!(
            op,
            LegOp::Identify
                | LegOp::PrReadKeys
                | LegOp::PrReadReservation
                | LegOp::PrReadFullStatus
                | LegOp::ReadTargetAge
        );
        if !is_in && self.attention.remove(&nexus) {
            return Err(LegError::Preempted);
        }
        match op {
            LegOp::Identify => Ok(LegReply::Identity(self.info)),
            LegOp::PrReadKeys => Ok(LegReply::Keys(self.registered.values().copied().collect())),
            LegOp::PrReadReservation => {
                Ok(LegReply::Reservation(self.holder.and_then(|(n, kind)| {
                    self.registered.get(&n).map(|k| (*k, kind))
                })))
            }
            LegOp::PrReadFullStatus => Ok(LegReply::FullStatus(
                self.registered
                    .iter()
                    .map(|(n, key)| Registrant {
                        key: *key,
                        holder: self.holder.is_some_and(|(h, _)| h == *n),
                        kind: self.holder.map_or(0, |(_, kind)| kind),
                    })
                    .collect(),
            )),
            LegOp::ReadTargetAge => {
                let last_foreign = match self.frozen {
                    Some(frozen) => frozen,
                    None => self.last.values().max().map(|at| self.now - *at),
                };
                Ok(LegReply::Age(TargetAge {
                    boot_id: self.info.boot_id.unwrap_or(0),
                    uptime: self.now - self.started,
                    last_foreign,
                }))
            }
            LegOp::PrRegister { key, .. } => {
                self.registered.insert(nexus, *key);
                Ok(LegReply::Done)
            }
            LegOp::PrUnregister { .. } => {
                self.registered.remove(&nexus);
                if self.holder.is_some_and(|(n, _)| n == nexus) {
                    self.holder = None;
                }
                Ok(LegReply::Done)
            }
            LegOp::PrReserve { key } => {
                if self.registered.get(&nexus) != Some(key) {
                    return Err(LegError::Conflict);
                }
                match self.holder {
                    Some((n, _)) if n != nexus => Err(LegError::Conflict),
                    _ => {
                        self.holder = Some((nexus, 6));
                        Ok(LegReply::Done)
                    }
                }
            }
            LegOp::PrPreemptAbort { key, victim, kind } => {
                self.preempt(nexus, *key, *victim, *kind)
            }
            LegOp::PrClear { key } => {
                if self.registered.get(&nexus) != Some(key) {
                    return Err(LegError::Conflict);
                }
                self.registered.clear();
                self.holder = None;
                Ok(LegReply::Done)
            }
            _ => {
                if !self.may_access(nexus) {
                    return Err(LegError::Conflict);
                }
                self.touch(nexus);
                self.medium(nexus, op)
            }
        }
    }

    fn medium(&mut self, nexus: Nexus, op: &LegOp) -> Result<LegReply, LegError> {
        match op {
            LegOp::Sync => {
                self.syncs += 1;
                Ok(LegReply::Done)
            }
            LegOp::ReadMeta { offset, len } => {
                assert!(
                    *len > 0 && *len <= 1 << 20 && (*len as usize).is_multiple_of(BLOCK),
                    "{op:?}"
                );
                let mut out = Vec::new();
                for at in (*offset..*offset + u64::from(*len)).step_by(BLOCK) {
                    if self.bad_blocks.contains(&at) {
                        return Err(LegError::Medium);
                    }
                    out.extend_from_slice(&self.block(at));
                }
                Ok(LegReply::Meta(out))
            }
            LegOp::WriteMeta { offset, block } => {
                assert!((*offset).is_multiple_of(BLOCK as u64) && *offset < crate::io::DATA_START);
                self.writes
                    .push((self.registered.get(&nexus).map(|k| k.attach()), *offset));
                self.bad_blocks.remove(offset);
                self.blocks.insert(*offset, **block);
                Ok(LegReply::Done)
            }
            LegOp::Discard { offset, len } | LegOp::Zero { offset, len } => {
                assert!(*len > 0 && offset + len <= self.info.capacity, "{op:?}");
                self.blocks
                    .retain(|at, _| *at < *offset || *at >= offset + len);
                self.zeroed.push((*offset, *len));
                Ok(LegReply::Done)
            }
            LegOp::WriteData { req, .. } => {
                self.data = req.0;
                Ok(LegReply::Done)
            }
            _ => Ok(LegReply::Done),
        }
    }

    /// The sessions of this initiator ended; its registrations stay.
    pub(crate) fn restart(&mut self, boot_id: u64) {
        self.info.boot_id = Some(boot_id);
        self.started = self.now;
        self.last.clear();
        self.frozen = None;
    }
}

pub(crate) fn name(op: &LegOp) -> &'static str {
    match op {
        LegOp::Identify => "identify",
        LegOp::ReadData { .. } => "read",
        LegOp::WriteData { .. } => "write",
        LegOp::Sync => "sync",
        LegOp::Discard { .. } => "discard",
        LegOp::Zero { .. } => "zero",
        LegOp::ReadMeta { .. } => "read meta",
        LegOp::WriteMeta { .. } => "write meta",
        LegOp::CopyRead { .. } => "copy read",
        LegOp::CopyWrite { .. } => "copy write",
        LegOp::Digest { .. } => "digest",
        LegOp::PrReadKeys => "read keys",
        LegOp::PrReadReservation => "read reservation",
        LegOp::PrReadFullStatus => "full status",
        LegOp::PrRegister { .. } => "register",
        LegOp::PrUnregister { .. } => "unregister",
        LegOp::PrReserve { .. } => "reserve",
        LegOp::PrPreemptAbort { .. } => "preempt",
        LegOp::PrClear { .. } => "clear",
        LegOp::ReadTargetAge => "age",
    }
}
