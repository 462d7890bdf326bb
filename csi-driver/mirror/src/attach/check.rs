//! Check: what may be known without touching a leg, and whether a fence may be sent at all.

use std::time::Duration;

use twinsite_register::{Class, Leg, Members, Order, Register, classify};

use super::{Ask, Attach, OfVolume, Phase, Seen, order};
use crate::activation::{Mv, RegView, may_fence};
use crate::engine::{AttachEnd, Port, Served};
use crate::fence::held_by_other_site;
use crate::io::MoveMode;
use crate::status::Refusal;

impl Attach {
    pub(super) fn enter_check(&mut self, now: Duration, port: &mut Port) {
        let order = self.order();
        let config = &order.config;
        let lost = match order.mv.map(|mv| mv.mode) {
            Some(MoveMode::Failover | MoveMode::Automatic { .. }) => Some(order.site.other().leg()),
            Some(MoveMode::Planned) | None => None,
        };
        let limit = |leg| {
            let lost = lost == Some(leg);
            now + if lost {
                config.login_timeout_lost_site
            } else {
                config.login_timeout
            }
        };
        let login_until = Leg::BOTH.map(limit);
        let ask = self.ask(now, port);
        self.phase = Phase::Check { ask, login_until };
    }

    /// Was the leg looked at, or can it play no part?
    pub(super) fn is_looked_at(&self, v: usize, leg: Leg) -> bool {
        let track = self.track(v, leg);
        let idle_member = self
            .seen
            .value()
            .is_none_or(|register| register.members.contains(leg));
        track.is_reachable() || (!idle_member && track.info.is_none())
    }

    pub(super) fn check_is_over(
        &self,
        now: Duration,
        ask: &Ask,
        login_until: &[Duration; 2],
    ) -> bool {
        let login_over =
            |(v, leg): (usize, Leg)| self.is_looked_at(v, leg) || login_until[leg.index()] <= now;
        self.is_stale() || (self.is_answered(now, ask) && self.all_legs().all(login_over))
    }

    pub(super) fn check(
        &mut self,
        now: Duration,
        port: &mut Port,
    ) -> Option<AttachEnd<Vec<Served>>> {
        match self.may_begin() {
            Ok(fences) => {
                for (volume, fence) in self.volumes.iter_mut().zip(fences) {
                    volume.fence = fence;
                    volume.record = order::with_try(&volume.record, volume.order.key.attach());
                }
                self.save_records(port);
                self.phase = Phase::SaveKeys;
                None
            }
            Err(why) => self.refuse(now, why, port),
        }
    }

    /// One of these Attachments has been passed by a later one.
    fn is_stale(&self) -> bool {
        self.volumes.iter().any(|volume| volume.record.stale)
    }

    /// The highest order that the register and the superblocks of this round name.
    pub(super) fn highest_order(&self) -> Order {
        let uid = self.order().uid;
        order::highest(uid, self.seen.value(), self.superblocks())
    }

    /// The order rule, for every Attachment (R38).
    pub(super) fn may_come_now(&self) -> Result<(), Refusal> {
        let (uid, highest) = (self.order().uid, self.highest_order());
        let may = |volume: &OfVolume| order::may_attach(&volume.record, uid, highest);
        if self.volumes.iter().all(may) {
            Ok(())
        } else {
            Err(Refusal::OrderStale)
        }
    }

    /// The tests of step 1, in the order of what they would cost if they were left out. What is fenced, by volume: all of
    /// them may be, or none is.
    fn may_begin(&self) -> Result<Vec<Members>, Refusal> {
        if self.is_stale() {
            return Err(Refusal::OrderStale);
        }
        let (view, register) = self.register_view();
        self.may_come_now()?;
        self.are_its_volumes(register)?;
        self.may_follow_holders(&view, register)?;
        let order = self.order();
        let held = self.tracks().any(|track| {
            let probed = track.probed.filter(|_| track.is_reachable());
            held_by_other_site(probed.and_then(|probed| probed.holder), order.site)
        });
        let fences = self.fences(&view, register, held)?;
        self.holder_is_gone(register)?;
        self.evidence_still_holds(register)?;
        Ok(fences)
    }

    /// What may be fenced, by volume. Only if the legs that are reachable for every volume could run them all: a fence by
    /// somebody who cannot win stops a healthy writer.
    pub(super) fn fences(
        &self,
        view: &RegView,
        register: Option<&Register>,
        held: bool,
    ) -> Result<Vec<Members>, Refusal> {
        let (site, mv) = (self.order().site, self.mv(register));
        let common = self
            .indices()
            .fold(Members::BOTH, |all, v| all.and(self.reachable(v)));
        may_fence(site, mv, view, common, held)?;
        self.indices()
            .map(|v| may_fence(site, mv, view, self.reachable(v), held))
            .collect()
    }

    /// A register of several volumes is not opened with fewer of them, or with others: they would not stay together.
    pub(super) fn are_its_volumes(&self, register: Option<&Register>) -> Result<(), Refusal> {
        let Some(register) = register else {
            return Ok(());
        };
        let alone = self.volumes.len() == 1 && register.volumes.len() <= 1;
        let named = |volume: &OfVolume| register.volumes.contains(&volume.order.volume);
        if alone || (register.volumes.len() == self.volumes.len() && self.volumes.iter().all(named))
        {
            Ok(())
        } else {
            Err(Refusal::OtherVolumes)
        }
    }

    /// A planned move is ordered when nobody holds the volume. If the old site attached again since, the move is not its
    /// end: the sequence does not tell, the holder does.
    fn holder_is_gone(&self, register: Option<&Register>) -> Result<(), Refusal> {
        let held = register.is_some_and(|register| register.holder.is_some());
        if held && self.mv(register) == Mv::Planned {
            Err(Refusal::HolderActive)
        } else {
            Ok(())
        }
    }

    /// R38: a shown device goes on, and without the register a uid that attached before fences at all, only behind its own
    /// keys.
    fn may_follow_holders(
        &self,
        view: &RegView,
        register: Option<&Register>,
    ) -> Result<(), Refusal> {
        let unreadable = *view == RegView::Unreadable;
        for (v, volume) in self.volumes.iter().enumerate() {
            let asked = volume.continuing || (unreadable && volume.record.n.is_some());
            let holders = self
                .reachable(v)
                .iter()
                .map(|leg| self.track(v, leg).probed?.holder)
                .collect::<Vec<_>>();
            if asked && !order::held_by_record(&volume.record, register, holders) {
                return Err(if volume.continuing {
                    Refusal::NotContinued
                } else {
                    Refusal::WitnessNeeded
                });
            }
        }
        Ok(())
    }

    /// Policy Automatic: the own target must not have seen the holder within `detect_after`, asked once more right before
    /// the fence. A target that started since then has seen nobody for its uptime only.
    fn evidence_still_holds(&self, register: Option<&Register>) -> Result<(), Refusal> {
        let Some(order) = self.order().mv else {
            return Ok(());
        };
        let MoveMode::Automatic { detect_after } = order.mode else {
            return Ok(());
        };
        if self.mv(register) == Mv::None {
            return Ok(());
        }
        let own = self.order().site.leg();
        let quiet = |v: usize| {
            let age = self.track(v, own).probed.and_then(|probed| probed.age);
            age.is_some_and(|age| age.last_foreign.unwrap_or(age.uptime) >= detect_after)
        };
        if self.indices().all(quiet) {
            Ok(())
        } else {
            Err(Refusal::HolderActive)
        }
    }

    /// The register as the table wants it, by marks first (R17).
    pub(super) fn register_view(&self) -> (RegView, Option<&Register>) {
        let register = self.seen.value();
        let view = match &self.seen {
            Seen::Unreadable => RegView::Unreadable,
            Seen::Absent => RegView::of(Class::Absent, None),
            Seen::Value(value) => {
                RegView::of(classify(Some(value), &self.order().marks, &[]), Some(value))
            }
        };
        (view, register)
    }

    /// The ordered move, if the register is still at the sequence it was ordered for: an old record never steals a volume.
    pub(super) fn mv(&self, register: Option<&Register>) -> Mv {
        let Some(order) = self.order().mv else {
            return Mv::None;
        };
        let mode = match order.mode {
            MoveMode::Planned => Mv::Planned,
            MoveMode::Failover | MoveMode::Automatic { .. } => Mv::Failover,
        };
        match register {
            Some(register) if register.active.site == self.order().site => Mv::None,
            Some(register) if register.active.seq != order.expect_seq => Mv::None,
            Some(_) | None => mode,
        }
    }

    pub(super) fn reachable(&self, v: usize) -> Members {
        Leg::BOTH
            .into_iter()
            .filter(|leg| self.track(v, *leg).is_reachable())
            .collect()
    }

    pub(super) fn enter_fence(&mut self, now: Duration, port: &mut Port) {
        self.phase = Phase::Fence;
        for volume in &mut self.volumes {
            let order = &volume.order;
            for leg in volume.fence.iter() {
                let track = &mut volume.legs[leg.index()];
                if track.is_reachable() && track.is_idle() {
                    track.fence(now, order.key, &order.config, port);
                }
            }
        }
    }
}
