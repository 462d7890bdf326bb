//! The device server of one logical unit, shared by all nexuses.
//!
//! Call order: after each `handle_*` (and `nexus_*`, `set_*`) drain `poll` until `None`. Every
//! `UnitOutput::Store` is answered by exactly one `handle_store` with the same `OpId`, in any order.
//!
//! The way of a command: hindered by an earlier one? → unit attention, reservations, readiness
//! (`admit`) → job and lock (`plan`) → hindered by a lock? → store operations, one at a time → effect →
//! status. A command that waited is checked against the reservations again when it starts, so none that
//! a reservation forbids reaches the store after the command that made the reservation was answered.
//!
//! Invariants: every command ends in exactly one of `Complete` and `AbortData` (none of both once its
//! nexus is gone); no store operation is asked for on behalf of an aborted task; a task management
//! function, PREEMPT AND ABORT and RESERVE are answered only when no operation of their victims is under
//! way; a reservation change is saved before it takes effect and before it is answered.
//!
//! Not here: data gathering and PDUs (`crate::session`), one module per subject below.

mod ages;
mod block;
mod config;
mod copy;
mod ended;
mod inquiry;
mod job;
mod lba_map;
mod management;
mod mode;
mod nexus;
mod opcodes;
mod plan;
mod report;
mod reservation;
mod sanitize;
mod store;
mod tasks;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use config::{BlockSize, UnitConfig};
pub use plan::absent_unit;
pub use reservation::{PrState, PrStateError};
pub use store::{Extent, OpId, StoreError, StoreOp, StoreReply};

use super::{
    Attribute, Cdb, Code, Expected, Lun, NexusId, ScsiOutcome, Sense, SenseKey, Status, TargetAge,
    TaskKey, TaskResponse, TransportId,
};
use ages::{Ages, attach_of};
use copy::CopyResult;
use ended::{Ended, Meant};
use job::Step;
use management::Drain;
use mode::Modes;
use nexus::Nexus;
use reservation::PrChange;
use sanitize::Sanitize;
use tasks::{Effect, Stage, Task, TaskSet};

/// Ports remembered as having been logged in, so that a return is told from a first login.
const MAX_KNOWN_PORTS: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitOutput {
    Store {
        op: OpId,
        request: StoreOp,
    },
    Complete {
        task: TaskKey,
        outcome: ScsiOutcome,
    },
    /// This task ended without a status (aborted): the session forgets it.
    AbortData {
        task: TaskKey,
    },
    /// Tasks of this nexus for this LUN whose data is not yet whole are aborted: the session drops them.
    AbortGathering {
        nexus: NexusId,
    },
    TaskManagementDone {
        nexus: NexusId,
        tag: u64,
        response: TaskResponse,
    },
}

/// Whether a removable medium is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MediumState {
    Loaded,
    Ejected,
}

/// The device server of one LUN, shared by all nexuses.
#[derive(Debug)]
pub struct LogicalUnit {
    config: UnitConfig,
    modes: Modes,
    medium: MediumState,
    sanitize: Sanitize,
    nexuses: BTreeMap<NexusId, Nexus>,
    known_ports: VecDeque<Arc<TransportId>>,
    reservations: PrState,
    /// The nexus that holds the unit by RESERVE(6).
    reserved6: Option<NexusId>,
    ages: Ages,
    tasks: TaskSet,
    drains: Vec<Drain>,
    outputs: VecDeque<UnitOutput>,
    /// A task ended: waiting ones may start.
    wake: bool,
}

impl LogicalUnit {
    pub fn new(mut config: UnitConfig) -> Self {
        let modes = Modes {
            write_cache: config.write_cache,
            descriptor_sense: false,
            protected: false,
        };
        let reservations = std::mem::take(&mut config.pr);
        Self {
            config,
            modes,
            medium: MediumState::Loaded,
            sanitize: Sanitize::Idle,
            nexuses: BTreeMap::new(),
            known_ports: VecDeque::new(),
            reservations,
            reserved6: None,
            ages: Ages::default(),
            tasks: TaskSet::default(),
            drains: Vec::new(),
            outputs: VecDeque::new(),
            wake: false,
        }
    }

    /// A session logged in. A registration of the same initiator port (name and ISID) is its own again.
    /// A session that this one replaces must have been removed before: its commands still under way hold
    /// back those of this one.
    pub fn nexus_added(&mut self, _now: Duration, nexus: NexusId, transport_id: TransportId) {
        let known = self
            .known_ports
            .iter()
            .find(|port| ***port == transport_id)
            .cloned();
        let first = known.is_none();
        let port = known.unwrap_or_else(|| Arc::new(transport_id));
        let mut state = Nexus::new(port.clone(), &self.reservations);
        state.attend(if first {
            Code::POWER_ON_OR_RESET
        } else {
            Code::NEXUS_LOSS
        });
        let ghosts: BTreeSet<NexusId> = (self.tasks.iter())
            .filter(|(_, task)| *task.port == *port && !self.nexuses.contains_key(&task.nexus))
            .map(|(_, task)| task.nexus)
            .collect();
        state.predecessors = ghosts.into_iter().collect();
        self.nexuses.insert(nexus, state);
        if first {
            self.known_ports.push_back(port);
            if self.known_ports.len() > MAX_KNOWN_PORTS {
                self.known_ports.pop_front();
            }
        }
    }

    /// The session is gone: its tasks are aborted without an answer, its registration stays.
    pub fn nexus_removed(&mut self, now: Duration, nexus: NexusId) {
        let Some(state) = self.nexuses.remove(&nexus) else {
            return;
        };
        if let (Some(key), Some(last)) = (state.key, state.last_command) {
            self.ages.depart(key, last);
        }
        if self.reserved6 == Some(nexus) {
            self.reserved6 = None;
        }
        for index in self.tasks_of(|task| task.nexus == nexus) {
            self.abort(index);
        }
        self.settle(now);
    }

    /// `data_out` is whole: `expected` bytes, or what the session could take of them.
    pub fn handle_command(
        &mut self,
        now: Duration,
        task: TaskKey,
        attribute: Attribute,
        cdb: Cdb,
        data_out: Vec<Bytes>,
        expected: Expected,
    ) {
        let Some(nexus) = self.nexuses.get_mut(&task.nexus) else {
            self.outputs.push_back(UnitOutput::AbortData { task });
            return;
        };
        nexus.last_command = Some(now);
        let port = nexus.port.clone();
        let command = match opcodes::find(&cdb) {
            Ok(command) => command,
            Err(sense) => return self.complete(task, Ended::check(sense), Meant::None, expected),
        };
        if self.tasks.len() >= self.config.task_limit + command.extra_room() {
            return self.complete(
                task,
                Ended::status(Status::TaskSetFull),
                Meant::None,
                expected,
            );
        }
        let task = Task::new(task, port, attribute, command, cdb, data_out, expected);
        let index = self.tasks.insert(Box::new(task));
        self.begin(now, index);
        self.settle(now);
    }

    /// The store answers.
    pub fn handle_store(
        &mut self,
        now: Duration,
        op: OpId,
        result: Result<StoreReply, StoreError>,
    ) {
        let Some(index) = self.tasks.running(op) else {
            return;
        };
        let Some(task) = self.tasks.get_mut(index) else {
            return;
        };
        let Some(plan) = task.plan.as_mut() else {
            return;
        };
        let saves = matches!(plan.effect, Effect::Pr(_));
        let step = match result {
            // An aborted command ends here; a saved reservation change must take effect all the same.
            Ok(_) if task.aborted && !saves => Step::End(Ended::status(Status::TaskAborted)),
            Ok(reply) => plan.job.resume(reply),
            Err(StoreError::Unsupported) if matches!(plan.job, job::Job::Map(_)) => {
                plan.job.resume(StoreReply::Extents(Vec::new()))
            }
            Err(error) => Step::End(Ended::check(error.sense(task.intent))),
        };
        self.take_step(now, index, step);
        self.settle(now);
    }

    pub fn poll(&mut self) -> Option<UnitOutput> {
        self.outputs.pop_front()
    }

    /// The unit was expanded (or shrunk): CAPACITY DATA HAS CHANGED for every nexus.
    pub fn set_size(&mut self, size: u64) {
        self.config.size = size;
        self.attend_all(None, Code::CAPACITY_CHANGED);
    }

    pub fn size(&self) -> u64 {
        self.config.size
    }

    /// Another LUN came or went: REPORTED LUNS DATA HAS CHANGED for every nexus.
    pub fn set_luns(&mut self, luns: Vec<Lun>) {
        self.config.luns = luns;
        self.attend_all(None, Code::REPORTED_LUNS_CHANGED);
    }

    /// REPORT LUNS of this nexus gives these LUNs only: others are hidden from its initiator.
    pub fn report_only(&mut self, nexus: NexusId, luns: Vec<Lun>) {
        if let Some(nexus) = self.nexuses.get_mut(&nexus) {
            nexus.reported = Some(luns);
        }
    }

    /// Commands that are not answered yet.
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// How long ago a registered nexus sent a command whose key, apart from the session byte, is not
    /// `own`. `None`: never since the start. `own` 0 is nobody's: then every attach counts.
    pub fn foreign_command_age(&self, now: Duration, own: u64) -> Option<Duration> {
        self.last_foreign(attach_of(own))
            .map(|at| now.saturating_sub(at))
    }

    fn last_foreign(&self, own: Option<u64>) -> Option<Duration> {
        let present = self
            .nexuses
            .values()
            .filter_map(|nexus| Some((nexus.key?, nexus.last_command?)));
        self.ages.last_foreign(own, present)
    }

    /// VPD page C0h as this nexus sees it.
    fn target_age(&self, now: Duration, nexus: NexusId) -> TargetAge {
        let own = self
            .nexuses
            .get(&nexus)
            .and_then(|nexus| nexus.key)
            .and_then(attach_of);
        let frozen = own.and_then(|own| self.ages.frozen(own));
        TargetAge {
            boot_id: self.config.boot_id,
            uptime: now.saturating_sub(self.config.started),
            foreign_command: match frozen {
                Some(age) => age,
                None => self.last_foreign(own).map(|at| now.saturating_sub(at)),
            },
            frozen: frozen.is_some(),
        }
    }

    fn tasks_of(&self, mut chosen: impl FnMut(&Task) -> bool) -> Vec<usize> {
        self.tasks
            .iter()
            .filter(|(_, task)| chosen(task))
            .map(|(index, _)| index)
            .collect()
    }

    fn attend_all(&mut self, but: Option<NexusId>, code: Code) {
        for (id, nexus) in &mut self.nexuses {
            if Some(*id) != but {
                nexus.attend(code);
            }
        }
    }

    /// Starts the task, or lets it wait behind an earlier one.
    fn begin(&mut self, now: Duration, index: usize) {
        let Some(task) = self.tasks.get(index) else {
            return;
        };
        let (nexus, command, cdb) = (task.nexus, task.command, task.cdb);
        let ghosts = self
            .nexuses
            .get(&nexus)
            .is_some_and(|nexus| !nexus.predecessors.is_empty());
        if ghosts || self.tasks.hindered(index) {
            return self.tasks.wait(index);
        }
        if task.plan.is_some() {
            if let Err(ended) = self.permitted(nexus, command, &cdb) {
                return self.finish(now, index, ended, Meant::None);
            }
        } else {
            if let Err(ended) = self.admit(nexus, command, &cdb) {
                return self.finish(now, index, ended, Meant::None);
            }
            match self.plan(now, index) {
                Ok(plan) => self.tasks.set_plan(index, plan),
                Err((ended, meant)) => return self.finish(now, index, ended, meant),
            }
            if self.tasks.hindered(index) {
                return self.tasks.wait(index);
            }
        }
        let Some(plan) = self
            .tasks
            .get_mut(index)
            .and_then(|task| task.plan.as_mut())
        else {
            return;
        };
        let step = plan.job.start();
        self.take_step(now, index, step);
    }

    fn take_step(&mut self, now: Duration, index: usize, step: Step) {
        let op = self.tasks.op_id(index);
        let Some(task) = self.tasks.get_mut(index) else {
            return;
        };
        match step {
            Step::Store(request) => {
                task.stage = Stage::Running;
                task.intent = job::intent(&request);
                self.outputs.push_back(UnitOutput::Store { op, request });
            }
            Step::End(ended) => {
                let meant = task.plan.as_ref().map_or(Meant::None, |plan| plan.meant);
                self.take_effect(now, index, ended, meant);
            }
        }
    }

    /// The job ended: what else the command does, then its status.
    fn take_effect(&mut self, now: Duration, index: usize, ended: Ended, meant: Meant) {
        let Some(task) = self.tasks.get_mut(index) else {
            return;
        };
        let nexus = task.nexus;
        let effect = task.plan.as_mut().map_or(Effect::None, |plan| {
            std::mem::replace(&mut plan.effect, Effect::None)
        });
        let good = ended.status == Status::Good;
        match effect {
            Effect::Pr(change) if good => return self.change_reservations(now, index, *change),
            Effect::Copied { list, segments } => {
                if let Some(nexus) = self.nexuses.get_mut(&nexus) {
                    let segments = if good { segments } else { 0 };
                    nexus.keep_result(CopyResult {
                        list,
                        failed: !good,
                        segments,
                    });
                }
            }
            Effect::Sanitized if good => self.sanitize = Sanitize::Idle,
            Effect::Sanitized => {
                let leave = task.cdb.bit(1, 5);
                self.sanitize = Sanitize::Failed { leave };
            }
            Effect::None | Effect::Pr(_) => {}
        }
        self.finish(now, index, ended, meant);
    }

    /// A reservation change is saved: it takes effect, its victims' tasks are aborted, and the command is
    /// answered when nothing that it forbids is under way any more.
    fn change_reservations(&mut self, now: Duration, index: usize, change: PrChange) {
        self.reservations = change.state;
        for nexus in self.nexuses.values_mut() {
            let key = self.reservations.key_of(&nexus.port);
            if let (true, Some(old), Some(last)) = (key != nexus.key, nexus.key, nexus.last_command)
            {
                self.ages.depart(old, last);
            }
            if key != nexus.key {
                nexus.last_command = None;
            }
            nexus.key = key;
            nexus.permit = self.reservations.permit(&nexus.port);
            for (port, code) in &change.attentions {
                if *port == *nexus.port {
                    nexus.attend(*code);
                }
            }
        }
        let mut pending = BTreeSet::new();
        for victim in self.tasks_of(|task| change.abort.contains(&task.port)) {
            if self.abort(victim) {
                pending.insert(victim);
            }
        }
        for nexus in self.nexuses_of(&change.abort) {
            self.outputs.push_back(UnitOutput::AbortGathering { nexus });
        }
        if change.excludes {
            let forbidden = |task: &Task| {
                let permit = self.reservations.permit(&task.port);
                let allowed = plan::allowed(task.command, &task.cdb, permit);
                task.stage == Stage::Running && !task.unstoppable && !allowed
            };
            pending.extend(self.tasks_of(forbidden));
        }
        pending.remove(&index);
        if let Some(task) = self.tasks.get_mut(index) {
            task.stage = Stage::Draining;
        }
        self.drain(
            now,
            pending,
            management::Awaited::Reservation {
                index,
                freezes: change.freezes_ages,
            },
        );
    }

    fn nexuses_of(&self, ports: &[TransportId]) -> Vec<NexusId> {
        let of = |nexus: &&Nexus| ports.contains(&nexus.port);
        self.nexuses
            .iter()
            .filter(|(_, nexus)| of(nexus))
            .map(|(id, _)| *id)
            .collect()
    }

    /// The age that VPD C0h shows to the sender of PREEMPT AND ABORT from now on.
    fn freeze_age(&mut self, now: Duration, port: &TransportId) {
        let Some(own) = self.reservations.key_of(port).and_then(attach_of) else {
            return;
        };
        let age = self
            .last_foreign(Some(own))
            .map(|at| now.saturating_sub(at));
        self.ages.freeze(own, age);
    }

    /// Takes the task out of the set and answers it.
    fn finish(&mut self, now: Duration, index: usize, ended: Ended, meant: Meant) {
        let Some(task) = self.tasks.remove(index) else {
            return;
        };
        self.wake |= self.tasks.any_waiting();
        if let Some(key) = task.key {
            self.complete(key, ended, meant, task.expected);
        }
        self.end_ghost(task.nexus);
        self.drained(now, index);
    }

    fn complete(&mut self, task: TaskKey, ended: Ended, meant: Meant, expected: Expected) {
        let outcome = ended.fit(meant, expected, self.modes.sense_format());
        self.outputs
            .push_back(UnitOutput::Complete { task, outcome });
    }

    /// A task of this nexus ended. If the nexus is gone and this was its last, its successor is let go.
    fn end_ghost(&mut self, gone: NexusId) {
        if self.nexuses.contains_key(&gone) || self.tasks.iter().any(|(_, task)| task.nexus == gone)
        {
            return;
        }
        for nexus in self.nexuses.values_mut() {
            let before = nexus.predecessors.len();
            nexus.predecessors.retain(|other| *other != gone);
            self.wake |= nexus.predecessors.len() != before;
        }
    }

    /// Starts what no longer has to wait.
    fn settle(&mut self, now: Duration) {
        while std::mem::take(&mut self.wake) {
            for index in self.tasks.take_waiting() {
                self.begin(now, index);
            }
        }
    }
}

/// NOT READY while the medium is being sanitized, with progress in 65536ths.
fn sanitizing(progress: u16) -> Sense {
    Sense::new(SenseKey::NotReady, Code::NOT_READY_SANITIZE_IN_PROGRESS)
        .with_specific(super::Specific::Progress(progress))
}
