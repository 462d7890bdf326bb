//! The task set: every command that is not answered yet, what it waits for, and which ranges it locks.
//!
//! Simple tasks run side by side. What may not:
//! - overlapping ranges of which one is exclusive (COMPARE AND WRITE and other read-modify-writes);
//! - anything behind an ordered task, and an ordered task behind anything;
//! - a command that reservations can refuse behind one that changes reservations.
//!
//! In each case the later one waits for the earlier. Tasks that hinder others (hazards) are counted, so
//! that without one a new simple task needs no search.
//!
//! Invariants: a task is in `waiting` exactly while its stage is `Waiting`; `OpId`s of ended tasks name
//! no later task.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::ended::Meant;
use super::job::Job;
use super::opcodes::{Access, Command};
use super::reservation::PrChange;
use super::store::{Intent, OpId};
use crate::scsi::{Attribute, Cdb, Expected, NexusId, TaskKey, TransportId};

/// A range of bytes that a task works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lock {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) exclusive: bool,
}

impl Lock {
    fn hinders(self, other: Self) -> bool {
        (self.exclusive || other.exclusive) && self.start < other.end && other.start < self.end
    }
}

/// What else happens when a job ends well.
#[derive(Debug)]
pub(super) enum Effect {
    None,
    Pr(Box<PrChange>),
    /// An extended copy ended: its result is kept.
    Copied {
        list: u8,
        segments: u16,
    },
    Sanitized,
}

/// The job of a command with all that belongs to it.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) job: Job,
    pub(super) lock: Option<Lock>,
    pub(super) meant: Meant,
    pub(super) effect: Effect,
}

impl Plan {
    pub(super) fn new(job: Job, lock: Option<Lock>, meant: Meant) -> Self {
        Self {
            job,
            lock,
            meant,
            effect: Effect::None,
        }
    }

    pub(super) fn with_effect(mut self, effect: Effect) -> Self {
        self.effect = effect;
        self
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Waiting,
    /// An operation is under way at the store.
    Running,
    /// A reservation change that took effect and waits for commands it forbids.
    Draining,
}

#[derive(Debug)]
pub(super) struct Task {
    /// `None`: nobody waits for a status (aborted, nexus gone, or answered at once).
    pub(super) key: Option<TaskKey>,
    pub(super) nexus: NexusId,
    pub(super) port: Arc<TransportId>,
    pub(super) attribute: Attribute,
    pub(super) command: &'static Command,
    pub(super) cdb: Cdb,
    pub(super) expected: Expected,
    /// Until the plan is made.
    pub(super) data: Vec<Bytes>,
    pub(super) plan: Option<Plan>,
    pub(super) stage: Stage,
    pub(super) intent: Intent,
    /// No further step is taken.
    pub(super) aborted: bool,
    /// Goes on whatever is aborted or reset (SANITIZE).
    pub(super) unstoppable: bool,
    serial: u64,
    hazard: bool,
}

impl Task {
    pub(super) fn new(
        key: TaskKey,
        port: Arc<TransportId>,
        attribute: Attribute,
        command: &'static Command,
        cdb: Cdb,
        data: Vec<Bytes>,
        expected: Expected,
    ) -> Self {
        Self {
            key: Some(key),
            nexus: key.nexus,
            port,
            attribute,
            command,
            cdb,
            expected,
            data,
            plan: None,
            stage: Stage::Waiting,
            intent: Intent::Read,
            aborted: false,
            unstoppable: false,
            serial: 0,
            hazard: false,
        }
    }

    fn lock(&self) -> Option<Lock> {
        self.plan.as_ref()?.lock
    }

    fn changes_reservations(&self) -> bool {
        matches!(self.command.access, Access::PrOut | Access::Reserve6)
    }

    fn ordered(&self) -> bool {
        self.attribute == Attribute::Ordered
    }

    fn is_hazard(&self) -> bool {
        self.ordered()
            || self.changes_reservations()
            || self.lock().is_some_and(|lock| lock.exclusive)
    }
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    task: Option<Box<Task>>,
}

#[derive(Debug, Default)]
pub(super) struct TaskSet {
    slots: Vec<Slot>,
    free: Vec<usize>,
    waiting: VecDeque<usize>,
    live: usize,
    hazards: usize,
    serials: u64,
}

impl TaskSet {
    pub(super) fn len(&self) -> usize {
        self.live
    }

    pub(super) fn insert(&mut self, mut task: Box<Task>) -> usize {
        task.serial = self.serials;
        task.hazard = task.is_hazard();
        self.serials += 1;
        self.live += 1;
        self.hazards += usize::from(task.hazard);
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                task: None,
            });
            self.slots.len() - 1
        });
        self.slots[index].task = Some(task);
        index
    }

    pub(super) fn remove(&mut self, index: usize) -> Option<Box<Task>> {
        let slot = self.slots.get_mut(index)?;
        let task = slot.task.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        self.live -= 1;
        self.hazards -= usize::from(task.hazard);
        if task.stage == Stage::Waiting {
            self.waiting.retain(|other| *other != index);
        }
        Some(task)
    }

    pub(super) fn get(&self, index: usize) -> Option<&Task> {
        self.slots.get(index)?.task.as_deref()
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Task> {
        self.slots.get_mut(index)?.task.as_deref_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Task)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(index, slot)| Some((index, slot.task.as_deref()?)))
    }

    pub(super) fn op_id(&self, index: usize) -> OpId {
        let generation = self.slots.get(index).map_or(0, |slot| slot.generation);
        OpId(u64::from(generation) << 32 | index as u64)
    }

    /// The task whose operation this is, if that operation is under way.
    pub(super) fn running(&self, op: OpId) -> Option<usize> {
        let index = (op.0 & 0xFFFF_FFFF) as usize;
        let known = self
            .slots
            .get(index)
            .is_some_and(|slot| u64::from(slot.generation) == op.0 >> 32);
        (known && self.get(index)?.stage == Stage::Running).then_some(index)
    }

    pub(super) fn wait(&mut self, index: usize) {
        self.waiting.push_back(index);
    }

    /// The waiting tasks in order; those that still have to wait are given back by `wait`.
    pub(super) fn take_waiting(&mut self) -> VecDeque<usize> {
        std::mem::take(&mut self.waiting)
    }

    pub(super) fn any_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Gives a task its plan; its lock may make it a hazard.
    pub(super) fn set_plan(&mut self, index: usize, plan: Plan) {
        let Some(task) = self.get_mut(index) else {
            return;
        };
        task.plan = Some(plan);
        let hazard = task.is_hazard();
        let was = std::mem::replace(&mut task.hazard, hazard);
        self.hazards = self.hazards + usize::from(hazard) - usize::from(was);
    }

    /// Whether an earlier task makes this one wait.
    pub(super) fn hindered(&self, index: usize) -> bool {
        let Some(task) = self.get(index) else {
            return false;
        };
        if self.hazards == 0 {
            return false;
        }
        self.iter()
            .any(|(_, earlier)| earlier.serial < task.serial && hinders(earlier, task))
    }
}

fn hinders(earlier: &Task, later: &Task) -> bool {
    let overtakes = later.attribute == Attribute::HeadOfQueue;
    if !overtakes && (earlier.ordered() || later.ordered()) {
        return true;
    }
    if earlier.changes_reservations() && later.command.access != Access::Free {
        return true;
    }
    match (earlier.lock(), later.lock()) {
        (Some(earlier), Some(later)) => earlier.hinders(later),
        _ => false,
    }
}
