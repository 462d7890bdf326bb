//! The commands that an initiator has sent and that are not done.
//!
//! An initiator task tag holds the place in the table and a count, so that a late PDU of a task that is gone meets no other.

use bytes::Bytes;

use super::{Command, DataDir};
use crate::scsi::Lun;
use crate::session::slices::Place;

/// What a sent command still holds of its data.
#[derive(Debug)]
pub(super) enum Transfer {
    None,
    In {
        expected: u32,
        received: u32,
        next_data_sn: u32,
        data: Vec<Bytes>,
    },
    Out {
        total: u32,
        data: Vec<Bytes>,
        /// Where the data that were not sent begin, as place and as offset.
        place: Place,
        sent: u32,
        next_r2t_sn: u32,
    },
}

#[derive(Debug)]
pub(super) struct Task {
    pub(super) tag: u64,
    pub(super) itt: u32,
    pub(super) lun: Lun,
    pub(super) cmd_sn: u32,
    pub(super) transfer: Transfer,
}

impl Task {
    pub(super) fn new(tag: u64, itt: u32, cmd_sn: u32, command: Command, length: u32) -> Self {
        Self {
            tag,
            itt,
            lun: command.lun,
            cmd_sn,
            transfer: match command.data {
                DataDir::None => Transfer::None,
                DataDir::In(expected) => Transfer::In {
                    expected,
                    received: 0,
                    next_data_sn: 0,
                    data: Vec::new(),
                },
                DataDir::Out(data) => Transfer::Out {
                    total: length,
                    data,
                    place: Place::default(),
                    sent: 0,
                    next_r2t_sn: 0,
                },
            },
        }
    }
}

#[derive(Debug)]
struct Slot {
    count: u16,
    task: Option<Task>,
}

#[derive(Debug, Default)]
pub(super) struct Tasks {
    slots: Vec<Slot>,
    free: Vec<u16>,
}

impl Tasks {
    /// Tags below this are for commands; the rest are for requests of other kinds.
    pub(super) const MAX: u16 = 0x8000;

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// `make` gets the initiator task tag. Callers keep `len` below `MAX`.
    pub(super) fn insert(&mut self, make: impl FnOnce(u32) -> Task) -> u16 {
        let at = match self.free.pop() {
            Some(at) => at,
            None => {
                self.slots.push(Slot {
                    count: 0,
                    task: None,
                });
                (self.slots.len() - 1) as u16
            }
        };
        let slot = &mut self.slots[usize::from(at)];
        slot.count = slot.count.wrapping_add(1);
        slot.task = Some(make(u32::from(slot.count) << 16 | u32::from(at)));
        at
    }

    pub(super) fn find(&self, itt: u32) -> Option<u16> {
        let at = (itt & 0xFFFF) as u16;
        (self.at(at)?.itt == itt).then_some(at)
    }

    pub(super) fn at(&self, at: u16) -> Option<&Task> {
        self.slots.get(usize::from(at))?.task.as_ref()
    }

    pub(super) fn at_mut(&mut self, at: u16) -> Option<&mut Task> {
        self.slots.get_mut(usize::from(at))?.task.as_mut()
    }

    pub(super) fn remove(&mut self, at: u16) -> Option<Task> {
        let task = self.slots.get_mut(usize::from(at))?.task.take()?;
        self.free.push(at);
        Some(task)
    }

    pub(super) fn by_tag(&self, tag: u64) -> Option<&Task> {
        self.iter().find(|task| task.tag == tag)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Task> {
        self.slots.iter().filter_map(|slot| slot.task.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::{Attribute, Cdb};

    fn task(itt: u32) -> Task {
        let command = Command {
            lun: Lun(0),
            cdb: Cdb::new(&[0; 6]),
            data: DataDir::None,
            attr: Attribute::Simple,
        };
        Task::new(9, itt, 0, command, 0)
    }

    #[test]
    fn a_late_tag_meets_no_other_task() {
        let mut tasks = Tasks::default();
        let at = tasks.insert(task);
        let old = tasks.at(at).unwrap().itt;
        assert_eq!(tasks.find(old), Some(at));
        assert!(tasks.remove(at).is_some());
        assert_eq!(tasks.find(old), None);
        assert_eq!(tasks.insert(task), at);
        assert_eq!(tasks.find(old), None);
        assert_eq!(tasks.find(0xFFFF_FFFF), None);
        assert_eq!(tasks.by_tag(9).map(|task| task.itt), Some(0x0002_0000));
    }
}
