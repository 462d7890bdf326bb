//! The probes that write and reserve, and what makes it safe to run them.
//!
//! Invariants: nothing is written before the head of the LUN and the test region were read as zeros, or their owner
//! gave them up; a LUN on which anybody else is registered is never touched; the region is zeros and no key of ours
//! is registered at the end.

use bytes::Bytes;
use twinsite_iscsi::scsi::client::{self, Durability, FullStatus, Keys, ReservationStatus};
use twinsite_iscsi::scsi::{PrOut, PrType, Status};
use twinsite_iscsi::session::DataDir;

use super::nexus::{Nexus, ProbeError, said};
use super::passive::latency;
use super::{Answer, Probe, Qualification};

const MIB: u64 = 1 << 20;
pub(super) const SIX: PrType = PrType::ExclusiveAccessRegistrants;
/// Keys that a check for "only own keys" leaves out and a fence removes.
const KEY_TAG: u64 = 0xC1;
/// Where it writes.
pub(super) const REGION: u64 = MIB;
pub(super) const SLOTS: u32 = 64;
pub(super) const SLOT_BYTES: u32 = 128 << 10;
pub(super) const REGION_BYTES: u64 = SLOTS as u64 * SLOT_BYTES as u64;
const SUPERBLOCK: &[u8] = b"TWINSB";

impl Qualification {
    /// Runs the probes and cleans up whatever their end.
    pub(super) fn active(&mut self, destroy: bool) -> Result<(), ProbeError> {
        self.may_write(destroy)?;
        let result = self.reserve_and_write();
        let cleaned = self.clean_up();
        let answer = match &cleaned {
            Ok(()) => Answer::Yes("yes".into()),
            Err(error) => Answer::No(error.to_string()),
        };
        self.say(Probe::LeftNothing, answer);
        result
    }

    fn may_write(&mut self, destroy: bool) -> Result<(), ProbeError> {
        if self.bytes < REGION + REGION_BYTES {
            return Err(ProbeError::Unfit("too small for the test region".into()));
        }
        let keys = read_keys(&mut self.a)?;
        if let Some(key) = keys.iter().find(|key| *key >> 56 != KEY_TAG) {
            return Err(ProbeError::Unfit(format!(
                "key {key:016x} is registered: the LUN is in use"
            )));
        }
        let mut head = Vec::new();
        for n in 0..(REGION + REGION_BYTES) / u64::from(SLOT_BYTES) {
            head.extend(self.read_at(n * u64::from(SLOT_BYTES))?);
        }
        let foreign = head.iter().any(|byte| *byte != 0);
        let ours = head.chunks(4096).any(|block| block.starts_with(SUPERBLOCK));
        match (foreign, ours, destroy) {
            (false, ..) | (_, _, true) => Ok(()),
            (true, true, false) => Err(ProbeError::Unfit(
                "it carries a superblock; --destroy-contents would overwrite it".into(),
            )),
            (true, false, false) => Err(ProbeError::Unfit(
                "its first 9 MiB are not zeros; --destroy-contents would overwrite them".into(),
            )),
        }
    }

    fn read_at(&mut self, offset: u64) -> Result<Vec<u8>, ProbeError> {
        let lba = offset / u64::from(self.block);
        let cdb = client::read16(lba, SLOT_BYTES / self.block);
        self.a.data(cdb, SLOT_BYTES)
    }

    fn reserve_and_write(&mut self) -> Result<(), ProbeError> {
        let [a, b] = self.keys;
        let registered = self.a.reserve(&PrOut::RegisterIgnore {
            new: a,
            aptpl: true,
        })?;
        self.good(Probe::Aptpl, &registered);
        if registered.status != Status::Good {
            let plain = PrOut::RegisterIgnore {
                new: a,
                aptpl: false,
            };
            let again = self.a.reserve(&plain)?;
            if again.status != Status::Good {
                self.say(Probe::Reserve, Answer::No(said(&again)));
                return Ok(());
            }
            self.aptpl = false;
        }
        let reserved = self.a.reserve(&PrOut::Reserve { key: a, kind: SIX })?;
        let held = held_by(&mut self.a)?;
        let text = format!("{}, held: {held:x?}", said(&reserved));
        self.yes_if(Probe::Reserve, held == Some((a, SIX)), text);
        if held != Some((a, SIX)) {
            return Ok(());
        }
        self.conflict()?;
        self.writes()?;
        let mut victim = Nexus::login(&self.place, 2)?;
        let joined = victim.reserve(&PrOut::RegisterIgnore {
            new: b,
            aptpl: self.aptpl,
        })?;
        self.full_status(said(&joined))?;
        drop(victim);
        self.preempt_drain()?;
        self.reset_drain()
    }

    fn conflict(&mut self) -> Result<(), ProbeError> {
        let mut other = Nexus::login(&self.place, 2)?;
        let lba = REGION / u64::from(self.block);
        let data = DataDir::Out(vec![Bytes::from(vec![1; 4096])]);
        let count = 4096 / self.block;
        let write = other.ask(client::write16(lba, count, Durability::Cached), data)?;
        let read = other.ask(client::read16(lba, count), DataDir::In(4096))?;
        let kept_out = [&write, &read]
            .iter()
            .all(|outcome| outcome.status == Status::ReservationConflict);
        let text = format!("write {}, read {}", said(&write), said(&read));
        self.yes_if(Probe::Conflict, kept_out, text);
        Ok(())
    }

    fn writes(&mut self) -> Result<(), ProbeError> {
        let (block, samples) = (self.block, self.effort.samples);
        let lba = REGION / u64::from(block);
        let count = 4096 / block;
        let data = Bytes::from(vec![0x5A; 4096]);
        let stable =
            move |n: u64| client::write16(lba + n * u64::from(count), count, Durability::Stable);
        let wrote = self.a.ask(stable(0), DataDir::Out(vec![data.clone()]))?;
        let read = self.a.data(client::read16(lba, count), 4096)?;
        let kept = wrote.status == Status::Good && read == data;
        self.yes_if(Probe::Fua, kept, said(&wrote));
        if kept {
            let text = latency(&mut self.a, samples, |a, n| {
                a.ask(stable(n % 256), DataDir::Out(vec![data.clone()]))
            })?;
            self.say(Probe::WriteLatency, Answer::Yes(text));
        }
        if !(self.unmaps && self.zeroes_after_unmap) {
            let text = "not offered (LBPWS and LBPRZ)".into();
            self.say(Probe::ZeroesAfterUnmap, Answer::NotRun(text));
            return Ok(());
        }
        let zeros = Bytes::from(vec![0; block as usize]);
        let cdb = client::write_same16_unmap(lba, SLOT_BYTES / block);
        let unmapped = self.a.ask(cdb, DataDir::Out(vec![zeros]))?;
        let after = self.read_at(REGION)?;
        let zero = unmapped.status == Status::Good && after.iter().all(|byte| *byte == 0);
        self.yes_if(Probe::ZeroesAfterUnmap, zero, said(&unmapped));
        Ok(())
    }

    fn full_status(&mut self, joined: String) -> Result<(), ProbeError> {
        let [a, b] = self.keys;
        let data = self
            .a
            .data(client::pr_read_full_status(), client::ALLOCATION.into());
        let answer = match data.map(|data| FullStatus::parse(&data)) {
            Ok(Ok(status)) => {
                let mut seen: Vec<_> = status
                    .registrants
                    .iter()
                    .filter(|one| [a, b].contains(&one.key))
                    .map(|one| (one.key, one.holds == Some(SIX), one.transport_id.is_some()))
                    .collect();
                seen.sort_unstable();
                let mut want = vec![(a, true, true), (b, false, true)];
                want.sort_unstable();
                let text = format!("(key, holder, name) {seen:x?}");
                if seen == want {
                    Answer::Yes("both, and the holder".into())
                } else {
                    Answer::No(text)
                }
            }
            Ok(Err(error)) => Answer::No(error.to_string()),
            Err(ProbeError::Unfit(why)) => Answer::No(why),
            Err(other) => return Err(other),
        };
        let answer = match answer {
            Answer::No(why) if joined != "Good" => Answer::No(format!("{why}; REGISTER: {joined}")),
            other => other,
        };
        self.say(Probe::FullStatusShows, answer);
        Ok(())
    }

    /// Zeros where it wrote, no key of ours.
    fn clean_up(&mut self) -> Result<(), ProbeError> {
        let [a, b] = self.keys;
        // Whatever the session is waiting for is of no more interest.
        self.a = Nexus::login(&self.place, 1)?;
        let me = PrOut::RegisterIgnore {
            new: a,
            aptpl: self.aptpl,
        };
        self.a.reserve(&me)?;
        let zeros = Bytes::from(vec![0; SLOT_BYTES as usize]);
        for slot in 0..SLOTS {
            let cdb = self.slot_write(slot);
            let wrote = self.a.ask(cdb, DataDir::Out(vec![zeros.clone()]))?;
            if wrote.status != Status::Good {
                return Err(ProbeError::Unfit(format!("zeroing: {}", said(&wrote))));
            }
        }
        self.a.ask(client::synchronize_cache16(), DataDir::None)?;
        // A target that takes a new login for a new nexus keeps one registration for each: CLEAR takes them all, and is
        // for a LUN on which nobody else is.
        let only_ours = read_keys(&mut self.a)?
            .iter()
            .all(|key| [a, b].contains(key));
        if only_ours {
            self.a.reserve(&PrOut::Clear { key: a })?;
        } else {
            let (victim, kind) = (b, Some(SIX));
            self.a.reserve(&PrOut::Preempt {
                key: a,
                victim,
                kind,
            })?;
            self.a.reserve(&PrOut::Register {
                key: a,
                new: 0,
                aptpl: self.aptpl,
            })?;
        }
        let left = read_keys(&mut self.a)?;
        if left.contains(&a) || left.contains(&b) {
            return Err(ProbeError::Unfit(format!("keys stay: {left:x?}")));
        }
        Ok(())
    }

    pub(super) fn slot_lba(&self, slot: u32) -> u64 {
        (REGION + u64::from(slot) * u64::from(SLOT_BYTES)) / u64::from(self.block)
    }

    pub(super) fn slot_write(&self, slot: u32) -> twinsite_iscsi::scsi::Cdb {
        let count = SLOT_BYTES / self.block;
        client::write16(self.slot_lba(slot), count, Durability::Cached)
    }

    pub(super) fn read_slots(&mut self) -> Result<Vec<Vec<u8>>, ProbeError> {
        (0..SLOTS)
            .map(|slot| self.read_at(REGION + u64::from(slot) * u64::from(SLOT_BYTES)))
            .collect()
    }
}

/// Two keys of one run.
pub(super) fn fresh_keys(random: [u8; 6]) -> [u64; 2] {
    let middle = random
        .iter()
        .fold(0, |all, byte| all << 8 | u64::from(*byte));
    [1, 2].map(|session| KEY_TAG << 56 | middle << 8 | session)
}

pub(super) fn read_keys(nexus: &mut Nexus) -> Result<Vec<u64>, ProbeError> {
    let data = nexus.data(client::pr_read_keys(), client::ALLOCATION.into())?;
    let keys = Keys::parse(&data).map_err(|error| ProbeError::Unfit(error.to_string()))?;
    Ok(keys.keys)
}

pub(super) fn held_by(nexus: &mut Nexus) -> Result<Option<(u64, PrType)>, ProbeError> {
    let data = nexus.data(client::pr_read_reservation(), client::ALLOCATION.into())?;
    let status =
        ReservationStatus::parse(&data).map_err(|error| ProbeError::Unfit(error.to_string()))?;
    Ok(status.reservation.map(|held| (held.key, held.kind)))
}
