//! Decide: what was verified and read after the last fence goes into the table, and its answer is carried out.

use std::time::Duration;

use twinsite_register::{
    AttachChange, Leg, Mark, Members, Membership, Move, MoveKind, Refusal as Rejected, Register,
    Stamp,
};

use super::cas::CasWait;
use super::head::Body;
use super::{Attach, OfVolume, Phase, Plan, order};
use crate::activation::{
    Act, BeatView, Cas, Change, Fit, LegView, Mv, RegView, Row, SbView, decide_all, is_behind,
};
use crate::engine::{AttachEnd, Port, Served};
use crate::layout::{Role, Superblock};
use crate::status::{Condition, Event, Refusal};

impl Attach {
    pub(super) fn body(&self, v: usize, leg: Leg) -> Option<&Body> {
        let track = self.track(v, leg);
        if track.is_held() {
            track.head.as_ref()?.body.as_ref()
        } else {
            None
        }
    }

    fn bodies(&self, v: usize) -> impl Iterator<Item = (Leg, &Body)> {
        Leg::BOTH
            .into_iter()
            .filter_map(move |leg| Some((leg, self.body(v, leg)?)))
    }

    pub(super) fn superblocks(&self) -> impl Iterator<Item = &Superblock> {
        let of = |v| self.bodies(v).map(|(_, body)| &body.superblock);
        self.indices().flat_map(of)
    }

    pub(super) fn choose(
        &mut self,
        now: Duration,
        port: &mut Port,
    ) -> Option<AttachEnd<Vec<Served>>> {
        let named: Vec<u32> = self.superblocks().map(|sb| sb.lease_ms).collect();
        self.leases_ms.extend(named);
        if self.was_stamped_meanwhile() {
            self.begin_round();
            return None;
        }
        match self.tests_before_the_table() {
            Err(why) => return self.refuse(now, why, port),
            Ok(fences) if fences.iter().any(|fence| !fence.is_empty()) => {
                for (volume, fence) in self.volumes.iter_mut().zip(fences) {
                    volume.fence = fence;
                }
                self.enter_fence(now, port);
                return None;
            }
            Ok(_) => {}
        }
        let (view, register) = self.register_view();
        let of = |v| Leg::BOTH.map(|leg| self.leg_view(v, leg, register));
        let legs: Vec<[LegView; 2]> = self.indices().map(of).collect();
        let mv = self.mv(register);
        let decision = decide_all(self.order().site, mv, &view, &legs, self.behind());
        if let (Row::L5, RegView::Live(live)) = (decision.row, &view) {
            for (v, legs) in legs.iter().enumerate() {
                let hurt = |leg: &Leg| live.fit(*leg, &legs[leg.index()]) != Fit::Usable;
                if let Some(leg) = Leg::BOTH.into_iter().find(hurt) {
                    port.of(v).event(Event::Raised(Condition::LegDamaged(leg)));
                }
            }
        }
        match decision.act {
            Act::Refuse(why) => self.refuse(now, why, port),
            Act::Run { set, cas } => {
                let plan = Plan {
                    set,
                    cas,
                    why: row_name(decision.row),
                };
                self.fix_place(now, plan, port)
            }
        }
    }

    /// Did another attach stamp since the register was read before the verification? Then it may have taken the fences after
    /// they were verified, and a request of ours on its value would supersede it though it fenced last (R26, R37): verify
    /// once more.
    fn was_stamped_meanwhile(&self) -> bool {
        let now = self.seen.value().map(|register| register.stamp_id);
        now.is_some() && now != self.stamp_before
    }

    /// Formats, the order rule and the rule for a shown device; then the legs that the register names by now and that are
    /// reachable but not fenced.
    fn tests_before_the_table(&self) -> Result<Vec<Members>, Refusal> {
        let mut heads = self.tracks().filter_map(|track| track.head.as_ref());
        if heads.any(|head| head.is_newer()) {
            return Err(Refusal::UnknownFormat);
        }
        let (view, register) = self.register_view();
        self.may_come_now()?;
        self.are_its_volumes(register)?;
        let is_member = |sb: &&Superblock| match register {
            Some(register) => register.members.contains(sb.leg),
            None => matches!(sb.role, Role::Member | Role::Growing),
        };
        for (v, volume) in self.volumes.iter().enumerate() {
            let superblocks = self.bodies(v).map(|(_, body)| &body.superblock);
            let members = superblocks.filter(is_member);
            if volume.continuing && !order::written_by_record(&volume.record, members) {
                return Err(Refusal::NotContinued);
            }
        }
        if view == RegView::Unreadable && self.is_below_a_mark() {
            return Err(Refusal::WitnessNeeded);
        }
        let RegView::Live(live) = view else {
            return Ok(Vec::new());
        };
        let unfenced = |v: usize| -> Members {
            let named = live.members.and(self.reachable(v)).iter();
            named.filter(|leg| !self.track(v, *leg).fenced).collect()
        };
        if self.indices().all(|v| unfenced(v).is_empty()) {
            return Ok(Vec::new());
        }
        let allowed = self.fences(&view, register, false)?;
        let both = allowed.into_iter().enumerate();
        Ok(both.map(|(v, allowed)| allowed.and(unfenced(v))).collect())
    }

    /// The register was seen here at a later epoch than any leg in reach carries: these legs are not what was decided last, and
    /// without the register nothing else tells (R17).
    fn is_below_a_mark(&self) -> bool {
        let Some(newest) = self.superblocks().max_by_key(|sb| sb.epoch) else {
            return false;
        };
        let same = |mark: &&Mark| mark.register_id == newest.register_id;
        let mut marks = self.order().marks.iter().filter(same);
        marks.any(|mark| mark.epoch > newest.epoch)
    }

    fn leg_view(&self, v: usize, leg: Leg, register: Option<&Register>) -> LegView {
        let track = self.track(v, leg);
        let (true, Some(head), Some(info)) = (track.is_held(), &track.head, track.info) else {
            return LegView::Away;
        };
        let retired = register.is_some_and(|register| register.is_retired(leg, info.naa));
        match &head.body {
            Some(body) if !retired => {
                let sb = &body.superblock;
                let object = self.volumes[v].beat_object.as_ref();
                let beat = BeatView::of(sb, body.beat.as_ref(), object);
                LegView::Sb(SbView::of(sb, register, beat))
            }
            Some(_) | None => LegView::Bad,
        }
    }

    /// Legs that lost a volatile cache while some region is dirty in the union of both maps. One that is behind in any volume
    /// is behind for all.
    fn behind(&self) -> Members {
        self.indices().fold(Members::NONE, |all, v| {
            let any_dirty = self.bodies(v).any(|(_, body)| body.any_dirty());
            let lags = |(leg, body): (Leg, &Body)| {
                let info = self.track(v, leg).info?;
                let recorded = body.superblock.boot_id;
                is_behind(recorded, info.boot_id, info.volatile_cache, any_dirty).then_some(leg)
            };
            all.or(self.bodies(v).filter_map(lags).collect())
        })
    }

    /// The place in the order is on disk before anybody else can see it.
    fn fix_place(
        &mut self,
        now: Duration,
        plan: Plan,
        port: &mut Port,
    ) -> Option<AttachEnd<Vec<Served>>> {
        let known = self.highest_n();
        let fixed = |volume: &OfVolume| known.is_some() && volume.record.n == known;
        if self.volumes.iter().all(fixed) {
            return self.carry_out(now, plan, port);
        }
        let n = order::place(known, self.order().uid, self.highest_order());
        for volume in &mut self.volumes {
            volume.record.n = Some(n);
        }
        self.save_records(port);
        self.phase = Phase::SavePlace(plan);
        None
    }

    pub(super) fn carry_out(
        &mut self,
        now: Duration,
        plan: Plan,
        port: &mut Port,
    ) -> Option<AttachEnd<Vec<Served>>> {
        if !self.all_held(plan.set) {
            self.begin_round();
            return None;
        }
        let (Some(cas), Some(register)) = (plan.cas, self.seen.value().cloned()) else {
            self.enter_settle(now, plan, port);
            return None;
        };
        let change = self.change(plan.set, cas, &register);
        let config = self.order().config;
        match CasWait::send(now, &register, change, &mut self.ids, &config, port.of(0)) {
            Ok(wait) => {
                self.phase = Phase::CasWait {
                    plan,
                    wait: Box::new(wait),
                };
                None
            }
            Err(rejected) => self.refuse(now, why_rejected(rejected), port),
        }
    }

    fn change(&mut self, set: Members, cas: Cas, register: &Register) -> AttachChange {
        let membership = match (cas.change, set.sole()) {
            (Change::Shrink, Some(to)) => Membership::Shrink {
                to,
                generation: self.ids.generation(),
            },
            (Change::Bump, _) => Membership::Bump {
                generation: self.ids.generation(),
            },
            (Change::Keep | Change::Shrink, _) => Membership::Keep,
        };
        let kind = match self.mv(Some(register)) {
            Mv::Planned => MoveKind::Planned,
            Mv::Failover | Mv::None => MoveKind::Unplanned,
        };
        AttachChange {
            site: self.order().site,
            stamp: Stamp {
                key: self.order().key,
                stamp_id: self.ids.stamp(),
                order: self.place(),
            },
            membership,
            moves: cas.moves.then_some(Move {
                to: self.order().site,
                kind,
            }),
        }
    }
}

/// The table and the transitions agree, so only the order rule can still refuse here, and numbers at their end.
fn why_rejected(rejected: Rejected) -> Refusal {
    match rejected {
        Rejected::OrderStale(_) => Refusal::OrderStale,
        Rejected::NotActive(_) | Rejected::AlreadyActive(_) => Refusal::NotActive,
        Rejected::State(_)
        | Rejected::NotMine(_)
        | Rejected::Members(_)
        | Rejected::Leg(_)
        | Rejected::MustNotJoin(_)
        | Rejected::Held(_)
        | Rejected::PlanStale(_)
        | Rejected::Argument(_)
        | Rejected::Exhausted => Refusal::WitnessBehind,
    }
}

fn row_name(row: Row) -> &'static str {
    match row {
        Row::L3 => "attach: L3, pair",
        Row::L3b => "attach: L3b, the other leg lost its cache",
        Row::L4 => "attach: L4, the other leg is away",
        Row::L5 => "attach: L5, the other leg is damaged",
        Row::L8 => "attach: L8, solo",
        Row::L9 => "attach: L9, solo after a grow that was not won",
        Row::U3 => "attach: U3, pair without the register",
        Row::U4 => "attach: U4, solo without the register",
        Row::T1
        | Row::T2
        | Row::T3
        | Row::T4
        | Row::T5
        | Row::L1
        | Row::L2
        | Row::L6
        | Row::L7
        | Row::L10
        | Row::L11
        | Row::U1
        | Row::U2
        | Row::U5 => "attach",
    }
}
