//! Where the volumes of a group wait for each other; a volume alone goes on at once.
//!
//! Not here: when a gate is open (`group`).

use std::time::Duration;

use super::{Failure, OneShot, Phase, Task, force};

/// Where the volumes of a group wait for each other: before this step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Gate {
    Fence,
    /// The register is read once more.
    Again,
    Write,
    /// The register hears of it.
    Tell,
}

impl OneShot {
    /// Goes on at once, or waits for the other volumes of the group.
    pub(super) fn reach(&mut self, now: Duration, gate: Gate) {
        if self.waits() {
            self.phase = Phase::Gate(gate);
        } else {
            self.pass(now, gate);
        }
    }

    /// What is erased under a tombstone is so whatever becomes of the other volumes.
    pub(super) fn waits(&self) -> bool {
        self.of_group && self.order.task != Task::Wipe
    }

    pub(super) const fn gate(&self) -> Option<Gate> {
        match self.phase {
            Phase::Gate(gate) => Some(gate),
            _ => None,
        }
    }

    fn pass(&mut self, now: Duration, gate: Gate) {
        match gate {
            Gate::Fence => self.fence(now),
            Gate::Again => self.ask_again(now),
            Gate::Write => self.write(now),
            Gate::Tell => self.tell(now),
        }
    }

    /// All volumes of the group stand at this gate.
    pub(super) fn go_through(&mut self, now: Duration, gate: Gate) {
        self.pass(now, gate);
        self.advance(now);
    }

    /// The one volume of its register tells it.
    fn tell(&mut self, now: Duration) {
        let Some(register) = self.seen().cloned() else {
            return self.fail(Failure::WrongState);
        };
        match self.order.task.clone() {
            Task::Birth { .. } => self.tell_birth(now, register),
            Task::Force(force) => match force::granted(&force) {
                Some(seed) => self.tell_force(now, &force, &[(self.order.volume, seed)]),
                None => self.fail(Failure::Changed),
            },
            Task::Wipe | Task::Reseed(_) | Task::Inspect => self.fail(Failure::WrongState),
        }
    }
}
