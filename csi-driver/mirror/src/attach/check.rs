//! Check: what may be known without touching a leg, and whether a fence may be sent at all.

use std::time::Duration;

use twinsite_register::{Class, Leg, Members, Register, classify};

use super::{Ask, Attach, Phase, Seen, order};
use crate::activation::{Mv, RegView, may_fence};
use crate::engine::{AttachEnd, Port};
use crate::fence::held_by_other_site;
use crate::io::MoveMode;
use crate::status::Refusal;

impl Attach {
    pub(super) fn enter_check(&mut self, now: Duration, port: &mut Port) {
        let config = &self.order.config;
        let lost = match self.order.mv.map(|mv| mv.mode) {
            Some(MoveMode::Failover | MoveMode::Automatic { .. }) => {
                Some(self.order.site.other().leg())
            }
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
    pub(super) fn is_looked_at(&self, leg: Leg) -> bool {
        let track = &self.legs[leg.index()];
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
        let login_over = |leg: Leg| self.is_looked_at(leg) || login_until[leg.index()] <= now;
        self.record.stale || (ask.is_over(now) && Leg::BOTH.into_iter().all(login_over))
    }

    pub(super) fn check(&mut self, now: Duration, port: &mut Port) -> Option<AttachEnd> {
        match self.may_begin() {
            Ok(fence) => {
                self.record = order::with_try(&self.record, self.order.key.attach());
                self.save_record(port);
                self.phase = Phase::SaveKeys { fence };
                None
            }
            Err(why) => self.refuse(now, why, port),
        }
    }

    /// The tests of step 1, in the order of what they would cost if they were left out.
    fn may_begin(&self) -> Result<Members, Refusal> {
        if self.record.stale {
            return Err(Refusal::OrderStale);
        }
        let (view, register) = self.register_view();
        let highest = order::highest(&self.record, register, []);
        if !order::may_attach(&self.record, highest) {
            return Err(Refusal::OrderStale);
        }
        self.may_follow_holders(&view, register)?;
        let reachable = self.reachable();
        let held = reachable.iter().any(|leg| {
            let probed = self.legs[leg.index()].probed;
            held_by_other_site(probed.and_then(|probed| probed.holder), self.order.site)
        });
        let fence = may_fence(self.order.site, self.mv(register), &view, reachable, held)?;
        self.holder_is_gone(register)?;
        self.evidence_still_holds(register)?;
        Ok(fence)
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
        let asked = self.continuing || (unreadable && self.record.n.is_some());
        let holders = self
            .reachable()
            .iter()
            .map(|leg| self.legs[leg.index()].probed?.holder)
            .collect::<Vec<_>>();
        if !asked || order::held_by_record(&self.record, register, holders) {
            return Ok(());
        }
        Err(if self.continuing {
            Refusal::NotContinued
        } else {
            Refusal::WitnessNeeded
        })
    }

    /// Policy Automatic: the own target must not have seen the holder within `detect_after`, asked once more right before
    /// the fence. A target that started since then has seen nobody for its uptime only.
    fn evidence_still_holds(&self, register: Option<&Register>) -> Result<(), Refusal> {
        let Some(order) = self.order.mv else {
            return Ok(());
        };
        let MoveMode::Automatic { detect_after } = order.mode else {
            return Ok(());
        };
        if self.mv(register) == Mv::None {
            return Ok(());
        }
        let own = &self.legs[self.order.site.leg().index()];
        let age = own.probed.and_then(|probed| probed.age);
        let quiet = age.is_some_and(|age| age.last_foreign.unwrap_or(age.uptime) >= detect_after);
        if quiet {
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
                RegView::of(classify(Some(value), &self.order.marks, &[]), Some(value))
            }
        };
        (view, register)
    }

    /// The ordered move, if the register is still at the sequence it was ordered for: an old record never steals a volume.
    pub(super) fn mv(&self, register: Option<&Register>) -> Mv {
        let Some(order) = self.order.mv else {
            return Mv::None;
        };
        let mode = match order.mode {
            MoveMode::Planned => Mv::Planned,
            MoveMode::Failover | MoveMode::Automatic { .. } => Mv::Failover,
        };
        match register {
            Some(register) if register.active.site == self.order.site => Mv::None,
            Some(register) if register.active.seq != order.expect_seq => Mv::None,
            Some(_) | None => mode,
        }
    }

    pub(super) fn reachable(&self) -> Members {
        Leg::BOTH
            .into_iter()
            .filter(|leg| self.legs[leg.index()].is_reachable())
            .collect()
    }

    pub(super) fn enter_fence(&mut self, now: Duration, fence: Members, port: &mut Port) {
        self.phase = Phase::Fence;
        for leg in fence.iter() {
            let track = &mut self.legs[leg.index()];
            if track.is_reachable() && track.is_idle() {
                track.fence(now, self.order.key, &self.order.config, port);
            }
        }
    }
}
