//! The last steps: superblocks of the set, the lease wait, the hand-over.

use std::time::Duration;

use twinsite_register::{Leg, Members, Register, Running};

use super::head::Body;
use super::lease::{Evidence, wait_until};
use super::sequence::Sequence;
use super::settle::{Settlement, settle};
use super::{Attach, OfVolume, Phase, Plan, order};
use crate::activation::{BeatView, SbView, boot_changed};
use crate::engine::{AttachEnd, Port, Served, ServedLeg};
use crate::io::{AttachOrder, Output};

impl Attach {
    /// Write what the legs must carry. Every leg of the set was read after the last fence.
    pub(super) fn enter_settle(&mut self, now: Duration, plan: Plan, port: &mut Port) {
        self.phase = Phase::SbWrite { plan };
        for v in self.indices() {
            self.volumes[v].durable = Members::NONE;
            for leg in plan.set.iter() {
                self.settle_leg(now, v, leg, plan, port);
            }
        }
    }

    fn register_run_with(&self, plan: Plan) -> Option<&Register> {
        plan.cas.and(self.stamped.as_deref())
    }

    fn settle_leg(&mut self, now: Duration, v: usize, leg: Leg, plan: Plan, port: &mut Port) {
        let (Some(body), Some(info)) = (self.body(v, leg).cloned(), self.track(v, leg).info) else {
            return;
        };
        if plan.set.sole().is_some() {
            let recorded = body.superblock.boot_id;
            self.volumes[v].restarted |= boot_changed(recorded, info.boot_id, info.volatile_cache);
        }
        let register = self.register_run_with(plan);
        let volume = &self.volumes[v];
        let other = self.body(v, leg.other());
        let settlement = Settlement {
            order: &volume.order,
            place: self.place(),
            set: plan.set,
            register,
            granted: register.is_some_and(|register| is_granted(register, &body)),
            other_damaged: other.is_some_and(|other| {
                let object = volume.beat_object.as_ref();
                BeatView::of(&other.superblock, other.beat.as_ref(), object) == BeatView::Behind
            }),
            keep_boot: volume.restarted && (volume.continuing || self.patient),
            why: plan.why,
        };
        let settled = settle(&settlement, leg, &body, &info, other);
        let config = volume.order.config;
        let track = self.track_mut(v, leg);
        if let Some(head) = &mut track.head {
            head.body = Some(settled.body);
        }
        track.write(now, Sequence::blocks(settled.blocks), &config, port);
    }

    /// The leg that runs alone is logged in again: verify it and read it anew, what was under way may or may not be there.
    pub(super) fn relogged_in(&mut self, now: Duration, v: usize, leg: Leg, port: &mut Port) {
        let (Phase::SbWrite { plan } | Phase::LeaseWait { plan, .. }) = &self.phase else {
            return;
        };
        let alone = plan.set == Members::only(leg);
        let OfVolume { order, legs, .. } = &mut self.volumes[v];
        let track = &mut legs[leg.index()];
        if let (Some(info), true) = (track.info, alone) {
            track.read(now, order.key, order.volume, info, &order.config, port);
        }
    }

    /// The leg that runs alone was read again. In the lease wait it is written again only if its target restarted.
    pub(super) fn head_read(
        &mut self,
        now: Duration,
        v: usize,
        leg: Leg,
        port: &mut Port,
    ) -> Option<AttachEnd<Vec<Served>>> {
        let (plan, until) = match &self.phase {
            Phase::SbWrite { plan } => (*plan, None),
            Phase::LeaseWait { plan, until } => (*plan, Some(*until)),
            Phase::Check { .. }
            | Phase::SaveKeys
            | Phase::Fence
            | Phase::Drain
            | Phase::ReadLegs
            | Phase::ReadRegister(_)
            | Phase::SavePlace(_)
            | Phase::CasWait { .. }
            | Phase::Pause { .. } => return None,
        };
        let recorded = self.body(v, leg).map(|body| body.superblock.boot_id);
        let current = self
            .track(v, leg)
            .info
            .map(|info| info.boot_id.unwrap_or(0));
        let Some(recorded) = recorded else {
            // No superblock of this volume stands there any more.
            self.begin_round();
            return None;
        };
        if until.is_none() || current != Some(recorded) {
            self.phase = Phase::SbWrite { plan };
            self.volumes[v].durable = Members::NONE;
            self.settle_leg(now, v, leg, plan, port);
        }
        None
    }

    /// From here on every superblock of the set carries our key, and the register too if it was asked: the record needs no
    /// older one. A register that was not asked still names an earlier key of ours.
    pub(super) fn enter_lease(&mut self, now: Duration, plan: Plan, port: &mut Port) {
        let until = self.lease_until(plan).unwrap_or(now);
        self.phase = Phase::LeaseWait { plan, until };
        if plan.cas.is_some() {
            for volume in &mut self.volumes {
                volume.record = order::served(&volume.record, volume.order.key.attach());
            }
        }
        self.save_records(port);
    }

    /// The longest that any volume has to wait.
    fn lease_until(&self, plan: Plan) -> Option<Duration> {
        let epoch = self.running(plan)?.epoch;
        let of = |v: usize| {
            let tracks = &self.volumes[v].legs;
            let ages = tracks
                .iter()
                .filter(|track| track.is_held())
                .filter_map(|track| track.head.as_ref()?.age);
            wait_until(&Evidence {
                // Fenced, and verified after the last fence (R26).
                both_verified: tracks.iter().all(|track| track.is_held()),
                epoch,
                beats: plan
                    .set
                    .iter()
                    .map(|leg| self.body(v, leg)?.beat.as_ref())
                    .collect(),
                ages: ages.collect(),
                leases_ms: self.leases_ms.clone(),
                margin: self.order().config.lease_margin,
                last_fence: self.last_fence,
            })
        };
        self.indices().filter_map(of).max()
    }

    /// With what the set will run: the register after our request, or without it what the superblocks say.
    fn running(&self, plan: Plan) -> Option<Running> {
        let key = self.order().key.attach();
        if let Some(register) = self.register_run_with(plan) {
            return Some(Running::of(register, key));
        }
        // A move may have reached the superblocks of some legs only; the register is ahead of the others.
        let legs = self.all_legs().filter(|(_, leg)| plan.set.contains(*leg));
        let superblocks = legs.filter_map(|(v, leg)| Some(&self.body(v, leg)?.superblock));
        let sb = superblocks.max_by_key(|sb| sb.active_seq)?;
        Some(Running {
            key,
            epoch: sb.epoch,
            generation: sb.generation,
            members: plan.set,
            site: sb.active_site,
            seq: sb.active_seq,
        })
    }

    pub(super) fn serve(&mut self, plan: Plan, port: &mut Port) -> AttachEnd<Vec<Served>> {
        let Some(running) = self.running(plan) else {
            return self.superseded(port);
        };
        for (v, leg) in self.all_legs() {
            // One that was hung up on is wanted back for a rejoin.
            if self.track(v, leg).info.is_none() {
                port.of(v).push(Output::Connect { leg });
            }
        }
        let served = self.indices().map(|v| self.served(v, plan, running));
        AttachEnd::Served(served.collect())
    }

    fn served(&self, v: usize, plan: Plan, running: Running) -> Served {
        let volume = &self.volumes[v];
        let legs = Leg::BOTH.map(|leg| {
            if !plan.set.contains(leg) {
                return None;
            }
            let info = self.track(v, leg).info?;
            let Body {
                superblock,
                beat,
                pages,
                base_numbers,
            } = self.body(v, leg)?.clone();
            Some(ServedLeg {
                info,
                superblock,
                pages,
                beat,
                base_numbers,
                restarted: volume.restarted,
            })
        });
        Served {
            order: AttachOrder {
                record: volume.record.clone(),
                ..volume.order.clone()
            },
            running,
            place: self.place(),
            ids: self.ids.clone(),
            register: self.register_run_with(plan).cloned(),
            legs,
            connected: Leg::BOTH.map(|leg| self.track(v, leg).info),
            beat_object: volume.beat_object,
            continued: volume.continuing,
        }
    }
}

fn is_granted(register: &Register, body: &Body) -> bool {
    SbView::of(&body.superblock, Some(register), BeatView::Fresh).granted
}
