//! What time alone does to a serving engine, and the snapshot for status.

use std::time::Duration;

use twinsite_register::Leg;

use super::Serve;
use super::commands::Purpose;
use super::link::Link;
use super::state::{Fact, State, earliest};
use crate::config::OnNoQuorum;
use crate::resync::Resync;
use crate::status::{LegRole, LegStatus, LostWhy, Status};

impl Serve {
    pub(super) fn timers(&mut self) {
        if self.state == State::Ended {
            return;
        }
        self.command_timers();
        if self.state == State::Holding {
            return;
        }
        self.link_timers();
        self.request_timers();
        self.beat_timer();
        self.sweep_timer();
        self.probe_timer();
        self.order_timers();
        self.latency_turn();
        self.look_timer();
        if self.copies.next.is_some_and(|at| at <= self.now) {
            self.pump_copies();
        }
        if let Some(at) = self.frozen_limit()
            && at <= self.now
        {
            self.fact(Fact::FrozenTooLong);
        }
    }

    /// A request of the guest was answered; its time began `t_cmd` before its deadline.
    pub(super) fn guest_took(&mut self, deadline: Option<Duration>) {
        if let Some(deadline) = deadline {
            let began = deadline.saturating_sub(self.config.t_cmd);
            self.pace.took(self.now.saturating_sub(began));
        }
    }

    /// The resync gives way to the guest, and a leg that is slow for long leaves. Requests and copies come often enough for
    /// this to need no time of its own.
    fn latency_turn(&mut self) {
        if let Some(rate) = self.pace.turn(self.now) {
            self.verify.set_rate(self.now, rate);
            if self.rejoin.target.is_some()
                && let Some(resync) = &mut self.copies.resync
            {
                resync.set_rate(self.now, rate);
            }
        }
        if self.state != State::Synced || !self.pending.is_empty() {
            self.slowness.forget();
        } else if let Some(leg) = self.slowness.turn(self.now) {
            self.lose(leg, LostWhy::Slow);
        }
    }

    pub(super) fn frozen_limit(&self) -> Option<Duration> {
        let errors =
            self.config.on_no_quorum == OnNoQuorum::Error && self.state.frozen() && !self.failing;
        errors.then(|| self.frozen_since + self.config.frozen_error)
    }

    /// The lease is renewed by any I/O; without one, a read on both legs each second.
    pub(super) fn probe_timer(&mut self) {
        if !self.policy.lease || self.probe_at > self.now {
            return;
        }
        self.probe_at = self.now + self.config.lease_renew;
        let fresh = self
            .lease
            .from()
            .is_some_and(|from| from + self.config.lease_renew > self.now);
        if fresh && self.held_reads.is_empty() {
            return;
        }
        for leg in Leg::BOTH {
            if self.ready(leg) && !self.probing[leg.index()] {
                self.probing[leg.index()] = true;
                self.send(leg, Purpose::Probe);
            }
        }
    }

    /// When time alone changes something.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        if self.state == State::Ended {
            return None;
        }
        if self.state == State::Holding {
            return earliest([self.cmds.deadline(Leg::A), self.cmds.deadline(Leg::B)]);
        }
        let rejoin = (self.state == State::Solo)
            .then_some(self.rejoin.at)
            .flatten()
            .filter(|at| *at > self.now);
        earliest([
            self.cmds.retry_at(),
            self.cmds.deadline(Leg::A),
            self.cmds.deadline(Leg::B),
            self.links[0].deadline().filter(|_| self.in_use(Leg::A)),
            self.links[1].deadline().filter(|_| self.in_use(Leg::B)),
            self.requests.deadline(self.config.register_timeout),
            self.beats.deadline(),
            (self.sweep.is_none() && self.may_clear()).then_some(self.next_sweep),
            self.policy.lease.then_some(self.probe_at),
            self.copies.next,
            self.verify.deadline(),
            self.frozen_limit(),
            self.orders.deadline(),
            rejoin,
            self.rejoin.look_at(),
        ])
    }

    /// A snapshot.
    pub(crate) fn status(&self, now: Duration) -> Status {
        let role = |leg: Leg| {
            let link = &self.links[leg.index()];
            if self.running.members.contains(leg) {
                if link.ready() {
                    LegRole::Member
                } else {
                    LegRole::Unreachable
                }
            } else if self.rejoin.target == Some(leg) {
                LegRole::Resyncing
            } else if link.link == Link::Down {
                LegRole::Unreachable
            } else {
                LegRole::Outdated
            }
        };
        let leg = |leg: Leg| LegStatus {
            role: role(leg),
            connected: self.links[leg.index()].link != Link::Down,
            commands_in_flight: self.cmds.in_flight[leg.index()],
            read_errors: self.links[leg.index()].read_errors,
        };
        let region = self.geometry.region_bytes();
        Status {
            state: self.state.name(),
            since: self.since.min(now),
            epoch: self.running.epoch,
            members: self.running.members,
            active: Some((self.running.site, self.running.seq)),
            stamped: self.stamped,
            device_shown: self.shown,
            size: self.geometry.size(),
            legs: Leg::BOTH.map(leg),
            dirty_bytes: u64::from(self.map.dirty_regions()) * region,
            pending_bytes: u64::from(self.pending.len() + self.must.len()) * region,
            resync: self.copies.resync.as_ref().map(Resync::progress),
            verify: self.verify.status(self.geometry.size()),
            rejoin_at: self.rejoin.at,
            rejoin_blocked: self.rejoin.blocked,
            refusal: None,
            conditions: self.conditions.iter().copied().collect(),
            counters: self.counters,
        }
    }
}
