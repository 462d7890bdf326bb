//! The open tasks of a session: found by initiator task tag on the way in, by id on the way out.
//!
//! A table of fixed size, so that no peer can grow it. An id holds the place in the table and a serial number: an answer
//! to a task that is gone never meets the one that took its place.

use bytes::Bytes;

use super::gather::Gather;
use crate::scsi::{Attribute, Cdb, Expected, Lun, ScsiOutcome};
use crate::wire::NO_TAG;

/// Where a task stands.
#[derive(Debug)]
pub(super) enum State {
    /// Write data are awaited.
    Gathering(Gather),
    /// Its data are whole; commands before it are not.
    Waiting(Vec<Bytes>),
    /// Given to the server.
    Given,
}

#[derive(Debug)]
pub(super) struct Task {
    pub(super) id: u64,
    pub(super) itt: u32,
    pub(super) lun: Lun,
    pub(super) cdb: Cdb,
    pub(super) attr: Attribute,
    pub(super) immediate: bool,
    pub(super) expected: Expected,
    /// No CmdSN before it is missing.
    pub(super) in_order: bool,
    /// R2Ts that were sent for it.
    pub(super) r2ts: u32,
    /// Task management requests under way that may abort it. While there are any it is neither given out nor answered.
    pub(super) aborters: Vec<u64>,
    /// The answer that came meanwhile.
    pub(super) late: Option<Box<ScsiOutcome>>,
    pub(super) state: State,
}

impl Task {
    pub(super) fn is_given(&self) -> bool {
        matches!(self.state, State::Given)
    }
}

#[derive(Debug)]
pub(super) struct Tasks {
    slots: Vec<Option<Task>>,
    /// The tags of `slots`, apart so that a search runs through few cache lines. `NO_TAG`: free.
    tags: Vec<u32>,
    free: Vec<u16>,
    serial: u64,
    /// Tasks that are not immediate.
    ordinary: u16,
}

impl Tasks {
    pub(super) fn new(capacity: u16) -> Self {
        let mut slots = Vec::new();
        slots.resize_with(usize::from(capacity), || None);
        Self {
            slots,
            tags: vec![NO_TAG; usize::from(capacity)],
            free: (0..capacity).rev().collect(),
            serial: 0,
            ordinary: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Tasks that take a place in the command window.
    pub(super) fn ordinary(&self) -> u16 {
        self.ordinary
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// `make` gets the id. There must be room.
    pub(super) fn insert(&mut self, make: impl FnOnce(u64) -> Task) -> u16 {
        let slot = self.free.pop().expect("caller saw that there is room");
        self.serial += 1;
        let task = make(self.serial << 16 | u64::from(slot));
        self.ordinary += u16::from(!task.immediate);
        self.tags[usize::from(slot)] = task.itt;
        self.slots[usize::from(slot)] = Some(task);
        slot
    }

    pub(super) fn remove(&mut self, slot: u16) -> Option<Task> {
        let task = self.slots.get_mut(usize::from(slot))?.take()?;
        self.ordinary -= u16::from(!task.immediate);
        self.tags[usize::from(slot)] = NO_TAG;
        self.free.push(slot);
        Some(task)
    }

    pub(super) fn by_tag(&self, itt: u32) -> Option<u16> {
        if itt == NO_TAG {
            return None;
        }
        self.tags
            .iter()
            .position(|tag| *tag == itt)
            .map(|slot| slot as u16)
    }

    pub(super) fn by_id(&self, id: u64) -> Option<u16> {
        let slot = (id & 0xFFFF) as u16;
        (self.at(slot)?.id == id).then_some(slot)
    }

    pub(super) fn at(&self, slot: u16) -> Option<&Task> {
        self.slots.get(usize::from(slot))?.as_ref()
    }

    pub(super) fn at_mut(&mut self, slot: u16) -> Option<&mut Task> {
        self.slots.get_mut(usize::from(slot))?.as_mut()
    }

    /// The slots of all tasks for which `wanted` holds.
    pub(super) fn matching(&self, wanted: impl Fn(&Task) -> bool) -> Vec<u16> {
        let tasks = self.slots.iter().zip(0..);
        tasks
            .filter(|(task, _)| task.as_ref().is_some_and(&wanted))
            .map(|(_, slot)| slot)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(id: u64, itt: u32) -> Task {
        Task {
            id,
            itt,
            lun: Lun(0),
            cdb: Cdb::new(&[0; 6]),
            attr: Attribute::Simple,
            immediate: false,
            expected: Expected::None,
            in_order: true,
            r2ts: 0,
            aborters: Vec::new(),
            late: None,
            state: State::Given,
        }
    }

    #[test]
    fn a_task_that_is_gone_is_not_found_by_its_id() {
        let mut tasks = Tasks::new(2);
        let slot = tasks.insert(|id| task(id, 5));
        let old = tasks.at(slot).unwrap().id;
        assert_eq!(tasks.by_tag(5), Some(slot));
        assert_eq!(tasks.by_id(old), Some(slot));
        assert!(tasks.remove(slot).is_some());
        assert_eq!(tasks.by_tag(5), None);
        let again = tasks.insert(|id| task(id, 5));
        assert_eq!(again, slot);
        assert_eq!(tasks.by_id(old), None);
        assert_eq!(tasks.by_id(u64::MAX), None);
        assert_eq!(tasks.by_tag(NO_TAG), None);
        assert_eq!((tasks.len(), tasks.ordinary()), (1, 1));
        tasks.insert(|id| task(id, 6));
        assert!(tasks.is_full());
    }
}
