//! Aborting tasks, task management functions, resets, and waiting for what is under way.
//!
//! A drain names the tasks whose store operations must end first and whom to answer then. With TAS = 0
//! an aborted task ends without a status.

use std::collections::BTreeSet;
use std::time::Duration;

use super::ended::{Ended, Meant};
use super::tasks::{Effect, Stage};
use super::{LogicalUnit, UnitOutput};
use crate::scsi::{Code, NexusId, TaskFunction, TaskKey, TaskResponse};

/// Who is answered when a drain is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    Function {
        nexus: NexusId,
        tag: u64,
    },
    /// The task of a PERSISTENT RESERVE OUT.
    Reservation {
        index: usize,
        freezes: bool,
    },
}

#[derive(Debug)]
pub(super) struct Drain {
    pending: BTreeSet<usize>,
    awaited: Awaited,
}

impl LogicalUnit {
    /// `tag` names the function itself and comes back in `TaskManagementDone`.
    pub fn handle_task_management(
        &mut self,
        now: Duration,
        nexus: NexusId,
        tag: u64,
        function: TaskFunction,
    ) {
        let respond = |response| UnitOutput::TaskManagementDone {
            nexus,
            tag,
            response,
        };
        let has = |unit: &Self, task: Option<u64>| {
            unit.tasks
                .iter()
                .filter_map(|(_, task)| task.key)
                .any(|key| key.nexus == nexus && task.is_none_or(|tag| tag == key.tag))
        };
        let found = |found| {
            if found {
                TaskResponse::Succeeded
            } else {
                TaskResponse::Complete
            }
        };
        match function {
            TaskFunction::AbortTask { tag: task } if !has(self, Some(task)) => {
                self.outputs.push_back(respond(TaskResponse::TaskNotFound));
            }
            TaskFunction::AbortTask { tag: task } => {
                let key = TaskKey { nexus, tag: task };
                self.abort_all(now, nexus, tag, |task| task.key == Some(key));
            }
            TaskFunction::AbortTaskSet => {
                self.outputs.push_back(UnitOutput::AbortGathering { nexus });
                self.abort_all(now, nexus, tag, |task| task.nexus == nexus);
            }
            TaskFunction::ClearTaskSet => {
                let cleared: BTreeSet<NexusId> =
                    self.tasks.iter().map(|(_, task)| task.nexus).collect();
                for other in cleared.into_iter().filter(|other| *other != nexus) {
                    if let Some(other) = self.nexuses.get_mut(&other) {
                        other.attend(Code::COMMANDS_CLEARED);
                    }
                }
                self.abort_gathering();
                self.abort_all(now, nexus, tag, |_| true);
            }
            TaskFunction::LunReset => self.reset(now, nexus, tag, Code::BUS_DEVICE_RESET),
            TaskFunction::TargetWarmReset | TaskFunction::TargetColdReset => {
                self.reset(now, nexus, tag, Code::POWER_ON_OR_RESET);
            }
            TaskFunction::ItNexusReset => {
                if self.reserved6 == Some(nexus) {
                    self.reserved6 = None;
                }
                if let Some(state) = self.nexuses.get_mut(&nexus) {
                    state.reset(Code::NEXUS_LOSS);
                }
                self.outputs.push_back(UnitOutput::AbortGathering { nexus });
                self.abort_all(now, nexus, tag, |task| task.nexus == nexus);
            }
            TaskFunction::QueryTask { tag: task } => {
                let there = has(self, Some(task));
                self.outputs.push_back(respond(found(there)));
            }
            TaskFunction::QueryTaskSet => {
                let there = has(self, None);
                self.outputs.push_back(respond(found(there)));
            }
            TaskFunction::ClearAca | TaskFunction::QueryAsyncEvent => {
                self.outputs.push_back(respond(TaskResponse::NotSupported));
            }
        }
        self.settle(now);
    }

    /// Logical unit reset: all tasks end, RESERVE(6) and PREVENT fall, D_SENSE and SWP go back to their
    /// defaults. WCE stays: a reset must not make writes volatile that an initiator wanted stable.
    /// Persistent reservations and SANITIZE go on.
    fn reset(&mut self, now: Duration, nexus: NexusId, tag: u64, code: Code) {
        self.reserved6 = None;
        self.modes.descriptor_sense = false;
        self.modes.protected = false;
        for state in self.nexuses.values_mut() {
            state.reset(code);
        }
        self.abort_gathering();
        self.abort_all(now, nexus, tag, |_| true);
    }

    fn abort_gathering(&mut self) {
        self.outputs.extend(
            self.nexuses
                .keys()
                .map(|nexus| UnitOutput::AbortGathering { nexus: *nexus }),
        );
    }

    fn abort_all(
        &mut self,
        now: Duration,
        nexus: NexusId,
        tag: u64,
        chosen: impl Fn(&super::Task) -> bool,
    ) {
        let mut pending = BTreeSet::new();
        for index in self.tasks_of(|task| chosen(task)) {
            if self.abort(index) {
                pending.insert(index);
            }
        }
        self.drain(now, pending, Awaited::Function { nexus, tag });
    }

    /// Ends a task without a status. True if a store operation of it is still under way.
    pub(super) fn abort(&mut self, index: usize) -> bool {
        let Some(task) = self.tasks.get_mut(index) else {
            return false;
        };
        if let Some(key) = task.key.take()
            && self.nexuses.contains_key(&key.nexus)
        {
            self.outputs.push_back(UnitOutput::AbortData { task: key });
        }
        match task.stage {
            _ if task.unstoppable => false,
            Stage::Running => {
                task.aborted = true;
                true
            }
            Stage::Waiting => {
                self.tasks.remove(index);
                self.wake = true;
                false
            }
            // Its change is made; it goes when its own drain is done.
            Stage::Draining => false,
        }
    }

    /// Answers `awaited` when no task of `pending` has an operation under way any more.
    pub(super) fn drain(&mut self, now: Duration, pending: BTreeSet<usize>, awaited: Awaited) {
        if pending.is_empty() {
            self.answer(now, awaited);
        } else {
            self.drains.push(Drain { pending, awaited });
        }
    }

    /// The task at this place ended.
    pub(super) fn drained(&mut self, now: Duration, index: usize) {
        for drain in &mut self.drains {
            drain.pending.remove(&index);
        }
        while let Some(place) = self
            .drains
            .iter()
            .position(|drain| drain.pending.is_empty())
        {
            let drain = self.drains.remove(place);
            self.answer(now, drain.awaited);
        }
    }

    fn answer(&mut self, now: Duration, awaited: Awaited) {
        match awaited {
            Awaited::Function { nexus, tag } => {
                let response = TaskResponse::Complete;
                self.outputs.push_back(UnitOutput::TaskManagementDone {
                    nexus,
                    tag,
                    response,
                });
            }
            Awaited::Reservation { index, freezes } => {
                let Some(task) = self.tasks.get_mut(index) else {
                    return;
                };
                let meant = task.plan.as_ref().map_or(Meant::None, |plan| plan.meant);
                debug_assert!(
                    task.plan
                        .as_ref()
                        .is_none_or(|plan| matches!(plan.effect, Effect::None))
                );
                if freezes {
                    let port = task.port.clone();
                    self.freeze_age(now, &port);
                }
                self.finish(now, index, Ended::good(), meant);
            }
        }
    }
}
