//! Whether an order may be carried out: by what the register says, and leg by leg. Judged before the fence and once more behind it.
//!
//! Invariants: an order that needs a state of the register is refused in every other one; a leg is written only if its own
//! superblock allows it. Not here: what a birth, a wipe, a reseed, a force asks of a leg (their files).

use twinsite_register::{Class, Leg, Members, Register, classify};

use super::{At, Failure, OneShot, Task, birth, force};
use crate::layout::Geometry;

/// May a leg be written, or is it ready?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Judged {
    Work,
    Ready,
}

impl OneShot {
    /// Whether the order writes to this leg, or fences it only.
    pub(super) fn is_written(&self, leg: Leg) -> bool {
        match &self.order.task {
            Task::Reseed(order) => order.chosen.contains(leg),
            _ => true,
        }
    }

    pub(super) fn written_legs(&self) -> impl Iterator<Item = Leg> {
        let legs = self.order.legs.iter();
        legs.filter(|leg| self.is_written(*leg))
    }

    pub(super) fn may_begin(&self) -> Result<(), Failure> {
        let register = match &self.register {
            Some(Ok(register)) => register.as_deref(),
            Some(Err(())) | None => return Err(Failure::WitnessUnreachable),
        };
        if !self.is_whole(register) {
            return Err(Failure::OtherVolumes);
        }
        let class = classify(register, &self.order.marks, &[]);
        let allowed = match (&self.order.task, class) {
            (Task::Reseed(order), _) => {
                order.chosen != Members::NONE && order.chosen.and(self.order.legs) == order.chosen
            }
            (_, Class::Below(_)) => return Err(Failure::WitnessBehind),
            (Task::Birth { .. }, Class::Creating | Class::Live) => true,
            (Task::Wipe, Class::Tombstone) => true,
            (Task::Force(force), Class::Live) => {
                self.order.legs.sole() == Some(force.leg)
                    && self.order.site == force.site
                    && register.is_some_and(|register| force::is_planned(register, force))
            }
            (Task::Birth { .. } | Task::Wipe | Task::Inspect | Task::Force(_), _) => false,
        };
        if !allowed {
            return Err(Failure::WrongState);
        }
        for leg in self.written_legs() {
            if self.at[leg.index()] != At::Looked {
                return Err(Failure::Unreachable(leg));
            }
            self.judge(leg)?;
        }
        Ok(())
    }

    /// What is done to a volume of a group must not speak for the others.
    fn is_whole(&self, register: Option<&Register>) -> bool {
        let several = register.is_some_and(|register| register.volumes.len() > 1);
        !several || self.of_group
    }

    /// R43: behind the fence the register must be the one that was judged by. Of a tombstone the other leg may have landed
    /// meanwhile.
    pub(super) fn is_as_judged(&self, read: Option<&Register>) -> bool {
        match (&self.order.task, self.seen(), read) {
            (Task::Birth { .. } | Task::Force(_), Some(seen), Some(read)) => seen.txid == read.txid,
            (Task::Wipe, Some(seen), Some(read)) => {
                (seen.register_id, seen.epoch, seen.state)
                    == (read.register_id, read.epoch, read.state)
            }
            (Task::Reseed(_), seen, read) => seen == read,
            (Task::Birth { .. } | Task::Wipe | Task::Inspect | Task::Force(_), _, _) => false,
        }
    }

    pub(super) fn judge(&self, leg: Leg) -> Result<Judged, Failure> {
        let (head, info) = self.head(leg).ok_or(Failure::Unreachable(leg))?;
        if head.is_newer() {
            return Err(Failure::UnknownFormat(leg));
        }
        if self
            .seen()
            .is_some_and(|register| register.is_retired(leg, info.naa))
        {
            return Err(Failure::Retired(leg));
        }
        match &self.order.task {
            Task::Birth { size, initialize } => {
                let geometry = Geometry::for_new(*size).map_err(|_| Failure::BadSize)?;
                let register = self.seen().ok_or(Failure::WrongState)?;
                let named = initialize[leg.index()] == Some(info.naa) && !info.naa.is_zero();
                birth::judge(
                    register,
                    leg,
                    self.order.volume,
                    geometry,
                    head,
                    &info,
                    named,
                )
            }
            Task::Wipe => self.judge_wipe(leg, head),
            Task::Reseed(order) => self.judge_reseed(leg, head, order),
            Task::Force(force) => self.judge_force(leg, head, force),
            Task::Inspect => Ok(Judged::Ready),
        }
    }
}
