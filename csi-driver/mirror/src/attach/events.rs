//! What the legs, the register and the disk answer during an attach.

use std::time::Duration;

use twinsite_register::{BeatObject, Leg, Members, Register};

use super::cas::CasEnd;
use super::leg::{Ended, Kind};
use super::{Attach, Phase, Seen};
use crate::engine::{AttachEnd, Port, Served};
use crate::io::{LegDown, RegisterError, RegisterId};
use crate::script::Fault;
use crate::status::{Event, Refusal};

impl Attach {
    pub(super) fn leg_down(
        &mut self,
        now: Duration,
        (v, leg): (usize, Leg),
        why: LegDown,
        port: &mut Port,
    ) -> Option<AttachEnd<Vec<Served>>> {
        if why == LegDown::OtherLun {
            return self.refuse(now, Refusal::OtherLun, port);
        }
        let track = self.track_mut(v, leg);
        // Failed logins are repeated by the shell; the answer to our own `Disconnect` is no news.
        let was_up = track.info.is_some();
        let kind = track.down();
        if !was_up || why == LegDown::Closed {
            return None;
        }
        match kind {
            Some(kind) => self.script_failed(now, (v, leg), kind, Fault::Leg, port),
            None => {
                self.leg_lost(v, leg);
                None
            }
        }
    }

    pub(super) fn script_ended(
        &mut self,
        now: Duration,
        (v, leg): (usize, Leg),
        ended: Ended,
        port: &mut Port,
    ) -> Option<AttachEnd<Vec<Served>>> {
        match ended {
            Ended::Probed => self.relogged_in(now, v, leg, port),
            Ended::Fenced => self.last_fence = now,
            Ended::Read(head) => {
                self.track_mut(v, leg).head = Some(head);
                return self.head_read(now, v, leg, port);
            }
            Ended::Written => {
                if let Phase::SbWrite { .. } = self.phase {
                    let durable = &mut self.volumes[v].durable;
                    *durable = durable.with(leg);
                }
            }
            Ended::Failed(kind, fault) => {
                return self.script_failed(now, (v, leg), kind, fault, port);
            }
        }
        None
    }

    pub(super) fn script_failed(
        &mut self,
        now: Duration,
        (v, leg): (usize, Leg),
        kind: Kind,
        fault: Fault,
        port: &mut Port,
    ) -> Option<AttachEnd<Vec<Served>>> {
        let decided = matches!(self.phase, Phase::SbWrite { .. } | Phase::LeaseWait { .. });
        let of_set = self.set().contains(leg) && kind != Kind::Probe;
        if fault == Fault::Taken && decided && of_set {
            // R16: after the decision a conflict on a member means that another one took over.
            return Some(self.superseded(port));
        }
        if fault == Fault::Unreserved && decided {
            // Nobody has the leg: fence it once more, and decide on what is read then.
            self.track_mut(v, leg).fenced = false;
            self.begin_round();
            return None;
        }
        let of_pair = self.set() == Members::BOTH;
        let track = self.track_mut(v, leg);
        match (kind, fault) {
            (_, Fault::Taken) => track.given_up = true,
            // It may be fenced once more: nobody has it.
            (_, Fault::Unreserved) => track.fenced = false,
            // A member that cannot be written is no member; it stays out of this attach.
            (Kind::Write, Fault::Leg) if of_pair && track.info.is_some() => track.given_up = true,
            (_, Fault::Leg) if track.info.is_some() => track.hang_up(now, port),
            (_, Fault::Leg) => {}
        }
        self.leg_lost(v, leg);
        None
    }

    /// A leg that counted is gone. Before the decision it is Away in this round; a set of two goes on with the other leg; a
    /// set of one waits for it. While the request is open its outcome comes first.
    pub(super) fn leg_lost(&mut self, v: usize, leg: Leg) {
        self.track_mut(v, leg).head = None;
        if let Phase::SbWrite { plan } | Phase::LeaseWait { plan, .. } = &self.phase
            && plan.set == Members::BOTH
        {
            self.begin_round();
        }
    }

    pub(super) fn set(&self) -> Members {
        match &self.phase {
            Phase::SavePlace(plan)
            | Phase::CasWait { plan, .. }
            | Phase::SbWrite { plan }
            | Phase::LeaseWait { plan, .. } => plan.set,
            Phase::Check { .. }
            | Phase::SaveKeys
            | Phase::Fence
            | Phase::Drain
            | Phase::ReadLegs
            | Phase::ReadRegister(_)
            | Phase::Pause { .. } => Members::NONE,
        }
    }

    pub(super) fn register_read(
        &mut self,
        now: Duration,
        id: RegisterId,
        result: &Result<Option<Box<Register>>, RegisterError>,
        port: &mut Port,
    ) -> Option<AttachEnd<Vec<Served>>> {
        let seen = || match result {
            Ok(Some(register)) => Seen::Value(register.clone()),
            Ok(None) => Seen::Absent,
            Err(RegisterError::Unreachable | RegisterError::Corrupt) => Seen::Unreadable,
        };
        match &mut self.phase {
            Phase::Check { ask, .. } | Phase::ReadRegister(ask) if ask.register == Some(id) => {
                ask.register = None;
                self.seen = seen();
                None
            }
            Phase::CasWait { wait, .. } => {
                let config = self.volumes[0].order.config;
                let end = wait.handle_read(now, id, result, &mut self.ids, &config, port.of(0));
                end.and_then(|end| self.cas_ended(now, end, port))
            }
            Phase::Check { .. }
            | Phase::SaveKeys
            | Phase::Fence
            | Phase::Drain
            | Phase::ReadLegs
            | Phase::ReadRegister(_)
            | Phase::SavePlace(_)
            | Phase::SbWrite { .. }
            | Phase::LeaseWait { .. }
            | Phase::Pause { .. } => None,
        }
    }

    pub(super) fn beat_read(
        &mut self,
        v: usize,
        result: Result<Option<BeatObject>, RegisterError>,
    ) {
        let volume = &mut self.volumes[v];
        if let Ok(Some(beat)) = result {
            // The object only grows, so the highest answer is the newest one.
            volume.beat_object = volume.beat_object.max(Some(beat));
        }
        volume.beat_asked = false;
    }

    pub(super) fn record_saved(
        &mut self,
        now: Duration,
        v: usize,
        port: &mut Port,
    ) -> Option<AttachEnd<Vec<Served>>> {
        self.volumes[v].record_open = false;
        if self.record_is_open() {
            return None;
        }
        match &self.phase {
            Phase::SaveKeys => {
                self.enter_fence(now, port);
                None
            }
            Phase::SavePlace(plan) => {
                let plan = *plan;
                self.carry_out(now, plan, port)
            }
            Phase::Check { .. }
            | Phase::Fence
            | Phase::Drain
            | Phase::ReadLegs
            | Phase::ReadRegister(_)
            | Phase::CasWait { .. }
            | Phase::SbWrite { .. }
            | Phase::LeaseWait { .. }
            | Phase::Pause { .. } => None,
        }
    }

    pub(super) fn cas_ended(
        &mut self,
        now: Duration,
        end: CasEnd,
        port: &mut Port,
    ) -> Option<AttachEnd<Vec<Served>>> {
        let Phase::CasWait { plan, .. } = &self.phase else {
            return None;
        };
        let plan = *plan;
        match end {
            CasEnd::Won(register) => {
                port.of(0).event(Event::Membership {
                    epoch: register.epoch,
                    members: register.members,
                });
                self.stamped = Some(register.clone());
                self.seen = Seen::Value(register);
                if self.all_held(plan.set) && !self.detaching {
                    self.enter_settle(now, plan, port);
                } else {
                    self.begin_round();
                }
            }
            CasEnd::Lost(read) => {
                self.seen = read.map_or(Seen::Unreadable, Seen::Value);
                self.begin_round();
            }
        }
        None
    }
}
