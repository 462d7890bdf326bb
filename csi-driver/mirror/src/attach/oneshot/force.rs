//! Force: the register names the leg that a human chose, once that leg is fenced with a key of its site and says itself that
//! it waits for the register.
//!
//! Without the fence the site that is given up could go on alone until the new writer attaches: it cannot see the register,
//! its own leg certifies itself, and the forced leg, which is older, is in its reach (row U4). What it acknowledges then the
//! force gives up unsaid. Behind the fence it finds the leg held by the other site and waits. A writer of the site that goes on
//! would find a key of its own site: it is stopped by the mark in the superblock, else it could run, without the register, the
//! leg that is given up, or write the superblock that was granted.

use std::time::Duration;

use twinsite_register::{Class, Epoch, Force, Leg, LegSeed, Register, VolumeId, classify};

use super::{Done, Failure, Judged, OneShot, Phase, Task, reseed};
use crate::attach::head::Head;
use crate::attach::sequence::Sequence;
use crate::layout::{Role, Superblock};

/// Was this very force executed before?
pub(super) fn is_done(register: &Register, force: &Force) -> bool {
    force
        .expect_epoch
        .0
        .checked_add(1)
        .and_then(|epoch| register.members_of(Epoch(epoch), force.generation))
        .is_some()
}

/// Does the register still stand where the plan saw it?
pub(super) fn is_planned(register: &Register, force: &Force) -> bool {
    classify(Some(register), &[], &[]) == Class::Live
        && (register.epoch, register.txid) == (force.expect_epoch, force.expect_txid)
}

/// The number of the superblock once both slots are marked.
fn marked(force: &Force) -> Option<u64> {
    force.seen.sb_seq.checked_add(2)
}

/// The superblock that the register will name.
pub(super) fn granted(force: &Force) -> Option<LegSeed> {
    Some(LegSeed {
        sb_seq: marked(force)?,
        ..force.seen
    })
}

impl OneShot {
    /// An earlier try of this very force was executed.
    pub(super) fn is_forced(&self) -> bool {
        match (&self.order.task, self.seen()) {
            (Task::Force(force), Some(register)) => is_done(register, force),
            _ => false,
        }
    }

    /// The leg carries exactly the superblock that the plan named.
    pub(super) fn judge_force(
        &self,
        leg: Leg,
        head: &Head,
        force: &Force,
    ) -> Result<Judged, Failure> {
        let body = head.body.as_ref().ok_or(Failure::ForeignData(leg))?;
        let (sb, seen) = (&body.superblock, &force.seen);
        match sb.role {
            Role::New => return Err(Failure::NeverJoined(leg)),
            Role::Target if !force.inconsistent => return Err(Failure::Incomplete(leg)),
            Role::Target | Role::Member | Role::Growing | Role::Candidate => {}
        }
        let same = leg == force.leg && (sb.epoch, sb.generation) == (seen.epoch, seen.generation);
        let half = |seq: u64| sb.awaits_register && seq.checked_add(1) == Some(sb.sb_seq);
        if same && (sb.sb_seq == seen.sb_seq || half(seen.sb_seq)) {
            // Not marked, or an earlier try ended between the slots.
            Ok(Judged::Work)
        } else if same && sb.awaits_register && Some(sb.sb_seq) == marked(force) {
            // An earlier try came as far.
            Ok(Judged::Ready)
        } else {
            Err(Failure::Changed)
        }
    }

    /// What is left to mark: both slots, or the second one.
    pub(super) fn mark(force: &Force, sb: &Superblock) -> Sequence {
        let first = force.seen.sb_seq.saturating_add(1);
        let last = force.seen.sb_seq.saturating_add(2);
        reseed::named_as(
            sb.register_id,
            sb,
            sb.sb_seq.saturating_add(1).max(first)..=last,
            "force",
        )
    }

    /// The leg of every volume is held: now the register may say so.
    pub(super) fn tell_force(
        &mut self,
        now: Duration,
        force: &Force,
        granted: &[(VolumeId, LegSeed)],
    ) {
        let Some(register) = self.seen().cloned() else {
            return self.fail(Failure::WrongState);
        };
        match register.force_all(force, granted, self.ids.txid()) {
            Ok(forced) => {
                let id = self.port.cas_register(register, forced.clone());
                let until = now + self.order.config.register_timeout;
                self.phase = Phase::Cas {
                    register: forced,
                    id,
                    until,
                };
            }
            Err(_) => self.fail(Failure::Changed),
        }
    }

    /// The answer was lost, or a refusal: the generation tells. Not executed is not "never": the same order again repeats it.
    pub(super) fn force_read(&mut self, force: &Force, read: Result<Option<Box<Register>>, ()>) {
        match read {
            Ok(Some(read)) if is_done(&read, force) => self.finish(Done::Forced),
            Ok(Some(read)) if is_planned(&read, force) => self.fail(Failure::WitnessUnreachable),
            Ok(_) => self.fail(Failure::Changed),
            Err(()) => self.fail(Failure::WitnessUnreachable),
        }
    }
}
