//! The transition table of protocol 2.18 for the serving states, as one match, and the actions it names.
//!
//! Rows that hold in several states stand first; anything that no row names is ignored and told once per entry of the state.

use twinsite_register::{Leg, Members, Outcome, Running};

use super::Serve;
use super::link::{Link, curable};
use super::state::{Ask, Fact, Standing, State, Won};
use crate::engine::{Held, ServeEnd};
use crate::io::{ControlError, GuestError, Output, RemoveWhy};
use crate::layout::Base;
use crate::status::{Condition, Event, LostWhy, RejoinBlock};

impl Serve {
    /// One fact, one row.
    pub(super) fn apply(&mut self, fact: Fact) {
        use State::{
            BumpWait, Detach, Ended, Equalise, Expand, FirstBeat, Frozen, GrowWait, Growing,
            Holding, RjBoth, RjNeed, RjTarget, SbWrite, ShrinkWait, Solo, Synced, ThawWait, Ungrow,
        };
        let members = self.running.members;
        let member = |leg: Leg| members.contains(leg);
        match (self.state, fact) {
            (Holding | Ended, _) => {}

            // Everywhere: superseded (2.5).
            (_, Fact::Conflict(leg)) if member(leg) => self.supersede(),
            (_, Fact::Read(Standing::Other)) => self.supersede(),
            (RjTarget | RjBoth | RjNeed, Fact::Conflict(y)) => {
                self.drop_target(y, RejoinBlock::FenceFailed);
                self.read_register_fresh();
            }
            (Growing | GrowWait | BumpWait, Fact::Conflict(y)) => {
                self.apply(Fact::Lost(y, LostWhy::NotRegistered))
            }
            (_, Fact::Conflict(_)) => self.rejoin_failed(RejoinBlock::FenceFailed),
            (Solo | FirstBeat, Fact::KeysGone(_)) => self.end_held(true),

            // Reconcile, until the first beat.
            (Equalise, Fact::Equalised) => {
                self.enter(FirstBeat);
                self.beat_now();
            }
            (FirstBeat, Fact::FirstBeat) => self.serve(),
            (FirstBeat, Fact::ScriptDone(_)) => {}
            (Equalise | FirstBeat, Fact::Lost(..)) if members == Members::BOTH => {
                self.end_held(false)
            }

            // Pair.
            (Synced, Fact::Reconciled) => self.settle_pair(),
            (Synced, Fact::ScriptDone(_)) => self.pair_settled(),
            (Synced | Expand | Detach | SbWrite(Won::Grow), Fact::Lost(..))
                if members == Members::BOTH =>
            {
                self.freeze();
            }
            (Synced, Fact::DropLeg(leg)) if !self.order_owed() => {
                self.owe_order();
                self.lose(leg, LostWhy::Dropped);
            }
            (Synced, Fact::Expand(size)) => self.expand(size),
            (Expand, Fact::ScriptDone(_)) => self.expand_step(),
            (Synced | Solo, Fact::Read(Standing::UnstampedEqual)) => self.check_late_stamp(),
            (Synced | Solo | Frozen, Fact::Read(Standing::UnstampedAhead)) => self.end_held(false),
            (Synced | Solo | Frozen, Fact::Outcome(Ask::LateStamp, outcome)) => {
                self.late_stamp_outcome(outcome)
            }

            // Frozen.
            (Frozen, Fact::Back(_)) => self.thaw(),
            (Frozen, Fact::Lost(..)) => self.lost_in_frozen(),
            (Frozen, Fact::Read(Standing::Mine)) if self.cause_left() => self.shrink(),
            (Frozen, Fact::Read(Standing::Mine)) => self.thaw(),
            (Frozen, Fact::Read(Standing::UnstampedEqual)) => self.end_held(false),
            (_, Fact::Outcome(Ask::Land | Ask::Release, Outcome::Unknown)) => {}
            (Frozen, Fact::Outcome(Ask::Land, _)) => self.read_register_fresh(),
            (Frozen | ShrinkWait(_) | ThawWait(_), Fact::FrozenTooLong) => self.fail_frozen(),

            // Shrink sent; X is what it keeps.
            (
                ShrinkWait(x) | ThawWait(x),
                Fact::Outcome(Ask::Shrink { drop, .. }, Outcome::Won),
            ) => {
                self.shrink_won(x, drop);
            }
            (ShrinkWait(x), Fact::Outcome(Ask::Shrink { .. }, Outcome::Unknown)) => {
                self.maybe_thaw(x)
            }
            (ShrinkWait(_) | ThawWait(_), Fact::Outcome(_, Outcome::Free)) => self.frozen_again(),
            (ThawWait(_), Fact::Outcome(Ask::Thaw, Outcome::Won)) => {
                self.enter(Frozen);
                self.thaw();
            }
            (ThawWait(_), Fact::Outcome(_, Outcome::Unknown)) => {}

            // Superblocks of a membership that was won.
            (SbWrite(Won::Shrink | Won::Bump), Fact::ScriptDone(_)) => self.solo(),
            (SbWrite(Won::Grow), Fact::ScriptDone(_)) => self.grown(),
            // The one that is left is away: hold, it is logged in to for ever.
            (
                Equalise | FirstBeat | Detach | SbWrite(_) | ShrinkWait(_) | ThawWait(_),
                Fact::Lost(..) | Fact::Back(_),
            ) => {}

            // Solo and the rejoin.
            (Solo, Fact::Read(Standing::Mine)) => self.rejoin_register(),
            (Solo, Fact::Read(Standing::Unreadable)) => {
                self.rejoin_failed(RejoinBlock::WitnessUnreachable)
            }
            (Solo, Fact::Read(Standing::Below)) => {
                self.rejoin_failed(RejoinBlock::WitnessRolledBack)
            }
            (Solo, Fact::ScriptDone(_)) => self.target_written(),
            (Solo, Fact::Targeted) => self.enter(RjTarget),
            (Solo, Fact::Lost(leg, _)) if !member(leg) => self.rejoin_failed(RejoinBlock::LegLost),
            (Solo, Fact::Lost(..) | Fact::Back(_)) => {}
            (RjTarget, Fact::RestSmall) => {
                self.copies.paused = true;
                self.enter(RjBoth);
            }
            (RjBoth, Fact::CopyIdle) => self.need_both(),
            (RjNeed, Fact::Converged) => self.growing(),
            (RjTarget | RjBoth | RjNeed, Fact::Lost(leg, _)) => {
                let why = if member(leg) {
                    RejoinBlock::GivenUp
                } else {
                    RejoinBlock::LegLost
                };
                self.drop_target(if member(leg) { leg.other() } else { leg }, why);
            }
            (RjTarget | RjBoth | RjNeed, Fact::Blocked(why)) => self.drop_current_target(why),
            (RjTarget | RjBoth | RjNeed, Fact::Read(Standing::Mine)) => self.recheck_join(),

            // From Growing on the other leg may become a member by our own request.
            (Growing, Fact::ScriptDone(_)) => self.read_register_fresh(),
            (Growing, Fact::Read(Standing::Mine)) => self.grow(),
            (Growing, Fact::Lost(leg, _)) if !member(leg) => self.ungrow(RejoinBlock::LegLost),
            (Growing, Fact::Blocked(why)) => self.ungrow(why),
            (Ungrow, Fact::ScriptDone(_)) => self.solo(),
            (GrowWait, Fact::Outcome(Ask::Grow, Outcome::Won)) => self.grow_won(),
            (GrowWait, Fact::Outcome(Ask::Grow, Outcome::Free)) => self.grow_again(),
            (GrowWait, Fact::Lost(leg, _)) if !member(leg) => self.bump(),
            (BumpWait, Fact::Outcome(Ask::Bump, Outcome::Won)) => self.bump_won(),
            (BumpWait, Fact::Outcome(Ask::Grow, Outcome::Won)) => self.grow_won(),
            (BumpWait, Fact::Outcome(_, Outcome::Free)) => self.bump(),
            (GrowWait | BumpWait, Fact::Outcome(_, Outcome::Unknown)) => {}
            (Growing | Ungrow | GrowWait | BumpWait, Fact::Lost(..) | Fact::Back(_)) => {}

            // Lost: something else was executed. The request may have been, too, but not for us any more.
            (Detach, Fact::Outcome(Ask::Release, outcome)) => self.released(outcome),
            (_, Fact::Outcome(Ask::Land | Ask::Release, _)) => self.read_register_fresh(),
            (_, Fact::Outcome(_, Outcome::Lost | Outcome::WonSuperseded)) => self.supersede(),

            // Orders in a state that cannot take them now.
            (Detach, Fact::Drained) => self.detach_drained(),
            (Detach, Fact::ScriptDone(_)) => self.detach_step(),
            (_, Fact::DrainTimeout) => self.end_off(),
            (_, Fact::DropLeg(leg)) => {
                let error = if member(leg) && members != Members::BOTH {
                    ControlError::LastMember
                } else if members == Members::BOTH {
                    ControlError::Busy
                } else {
                    ControlError::WaitingForLeg
                };
                self.out.push(Output::OrderDone { result: Err(error) });
            }
            (_, Fact::Expand(_)) => self.out.push(Output::OrderDone {
                result: Err(ControlError::WaitingForLeg),
            }),

            // Seen in every state, of no consequence in most.
            (
                _,
                Fact::FirstBeat
                | Fact::Read(_)
                | Fact::Back(_)
                | Fact::Reachable(_)
                | Fact::RestSmall
                | Fact::CopyIdle
                | Fact::Converged
                | Fact::Reconciled,
            ) => {}
            (state, _) => self.ignored(state, fact),
        }
    }

    /// Change state; what the new one asks of guest writes holds from now on.
    pub(super) fn enter(&mut self, state: State) {
        if state == self.state {
            return;
        }
        let (from, to) = (self.state.name(), state.name());
        self.state = state;
        self.since = self.now;
        self.told = false;
        if from != to {
            self.out.event(Event::State { from, to });
        }
        self.apply_policy();
    }

    fn ignored(&mut self, state: State, fact: Fact) {
        if !std::mem::replace(&mut self.told, true) {
            self.out.event(Event::Ignored {
                state: state.name(),
                what: name_of(fact),
            });
        }
    }

    /// Another writer took over: everything fails within this event, and nothing is ever tried again (R16).
    fn supersede(&mut self) {
        self.cancel_script();
        self.cancel_copies();
        self.requests.open.clear();
        self.state = State::Ended;
        self.since = self.now;
        self.fail_guests(GuestError::Superseded, true);
        self.out.event(Event::Superseded);
        if self.shown {
            self.shown = false;
            self.out.push(Output::RemoveDevice {
                why: RemoveWhy::Superseded,
            });
        }
        self.fail_orders(ControlError::Interrupted);
        for leg in Leg::BOTH {
            self.out.push(Output::Disconnect { leg });
        }
        self.end = Some(ServeEnd::Superseded);
    }

    /// The requests of the guest wait while attach decides again.
    fn end_held(&mut self, reattach: bool) {
        self.cancel_script();
        self.cancel_copies();
        self.requests.open.clear();
        self.reattach = reattach;
        self.enter(State::Holding);
        self.forget_retries();
    }

    /// Nothing of this phase is under way on a leg.
    pub(super) fn held(&mut self) {
        self.enter(State::Ended);
        let connected = Leg::BOTH.map(|leg| {
            let link = &self.links[leg.index()];
            link.info.filter(|_| link.link != Link::Down)
        });
        let fenced = Leg::BOTH
            .into_iter()
            .filter(|&leg| self.in_use(leg) && self.ready(leg))
            .collect();
        let held = Box::new(Held {
            order: self.order.clone(),
            place: self.place,
            ids: self.ids.clone(),
            connected,
            fenced,
            shown: self.shown,
        });
        self.end = Some(if self.reattach {
            ServeEnd::Reattach(held)
        } else {
            ServeEnd::Decide(held)
        });
    }

    /// Show the device, or just look after the legs.
    fn serve(&mut self) {
        let pair = self.running.members == Members::BOTH;
        self.enter(if pair { State::Synced } else { State::Solo });
        self.show();
        if pair {
            self.reconcile(true);
            self.resume_expand();
        }
        self.land();
    }

    fn settle_pair(&mut self) {
        let steps = self.settled_script();
        self.start_script(steps);
    }

    /// Superblocks with base none and the new boot ids are durable on both: step 10 of 2.6.
    fn pair_settled(&mut self) {
        if self.finish_format() {
            return;
        }
        self.settled = true;
        self.clearable = true;
        self.slots_due = false;
        self.boot_changed = false;
        self.base = None;
        self.try_flushes();
        self.clear_all();
    }

    // --- Frozen -------------------------------------------------------------------------------------------------------

    fn freeze(&mut self) {
        if self.state == State::Expand {
            self.fail_orders(ControlError::Interrupted);
        }
        self.cancel_script();
        self.fail_format();
        self.sweep = None;
        self.enter(State::Frozen);
        self.frozen_since = self.now;
        self.lost_in_frozen();
        if self.requests.open.is_empty() {
            self.read_register_fresh();
        }
    }

    fn frozen_again(&mut self) {
        self.enter(State::Frozen);
        if self.cause_left() {
            self.read_register_fresh();
        } else {
            self.thaw();
        }
    }

    fn cause_left(&self) -> bool {
        Leg::BOTH
            .into_iter()
            .any(|leg| self.links[leg.index()].lost.is_some() || !self.ready(leg))
    }

    /// Nothing was sent, or what was sent did not happen: back to Synced when no cause is left.
    fn thaw(&mut self) {
        if self.cause_left() || self.requests.is_open(|ask| ask != Ask::Land) {
            if self.state == State::Frozen && self.requests.open.is_empty() {
                self.read_register();
            }
            return;
        }
        self.failing = false;
        self.enter(State::Synced);
        for leg in Leg::BOTH {
            self.resume_leg(leg);
        }
        self.reconcile(false);
    }

    /// Both targets restarted and lost acknowledged writes: no leg is better, so no shrink (2.5).
    fn lost_in_frozen(&mut self) {
        let restarted = |leg: Leg| self.links[leg.index()].lost == Some(LostWhy::Restarted);
        if !(Leg::BOTH.into_iter().all(restarted) && self.requests.open.is_empty()) {
            return;
        }
        for region in self.map.dirty_set().iter() {
            self.must.insert(region);
        }
        for leg in Leg::BOTH {
            self.links[leg.index()].lost = None;
            self.flush_will_fail(leg);
        }
        self.copies.resync = None;
        self.thaw();
    }

    /// Send the shrink that keeps the leg that is left.
    fn shrink(&mut self) {
        if !self.requests.open.is_empty() {
            return;
        }
        let there = |leg: &Leg| self.links[leg.index()].lost.is_none();
        let left: Members = Leg::BOTH.into_iter().filter(there).collect();
        // Both lost: hold. Both there: the relogin settles it. One is left but away just now: it may be lost, too.
        let Some(x) = left.sole().filter(|&x| self.ready(x)) else {
            return;
        };
        if !self.pending.is_empty() && self.boot_changed && x != self.sources.leg {
            // R39: only to the source; when it is lost, hold.
            return;
        }
        let drop = self.links[x.other().index()].lost == Some(LostWhy::Dropped);
        let Some(register) = self.register.clone() else {
            return;
        };
        let (generation, txid) = (self.proposal(Ask::Shrink { to: x, drop }), self.ids.txid());
        let proposed = if drop {
            register.drop_leg(&self.running, x.other(), generation, txid)
        } else {
            register.shrink(&self.running, x, generation, txid)
        };
        if let Ok(proposed) = proposed {
            self.enter(State::ShrinkWait(x));
            self.request(Ask::Shrink { to: x, drop }, register, proposed);
        }
    }

    /// The shrink has no outcome and nothing is lost any more: a stamp on the same expected value ends it (R24).
    fn maybe_thaw(&mut self, x: Leg) {
        let y = x.other();
        if self.links[y.index()].lost.is_some() || !self.ready(y) {
            return;
        }
        let Some(register) = self.register.clone() else {
            return;
        };
        let stamp = self.stamp();
        let txid = self.ids.txid();
        if let Ok(proposed) = register.thaw(&self.running, &stamp, txid) {
            self.enter(State::ThawWait(x));
            self.request(Ask::Thaw, register, proposed);
        }
    }

    fn fail_frozen(&mut self) {
        self.failing = true;
        self.fail_guests(GuestError::Io, false);
    }

    fn shrink_won(&mut self, x: Leg, drop: bool) {
        let before = Base {
            epoch: self.running.epoch,
            generation: self.running.generation,
            crc: 0,
        };
        self.failing = false;
        self.adopt();
        self.state = State::SbWrite(Won::Shrink);
        self.apply_policy();
        self.since = self.now;
        self.out.event(Event::State {
            from: crate::status::StateName::ShrinkWait,
            to: crate::status::StateName::SbWrite,
        });
        // The last member is never removed; what it lost meanwhile the next flush tells (R40).
        let lost = &mut self.links[x.index()].lost;
        match lost {
            Some(LostWhy::Restarted) => {
                *lost = None;
                self.last_member_restarted(x);
            }
            Some(why) if !curable(*why) => *lost = None,
            Some(_) | None => {}
        }
        self.leave(x.other());
        self.forget_reconcile();
        self.lease.void();
        if drop {
            self.order_done();
        }
        let steps = self.shrink_script(x, before);
        self.start_script(steps);
    }

    /// The register shows a membership that this writer won.
    fn adopt(&mut self) {
        if let Some(register) = &self.register {
            self.running = Running::of(register, self.running.key);
            self.stamped = true;
            self.map.set_epoch(self.running.epoch);
            // No superblock of this epoch is known to be durable with base none.
            (self.settled, self.clearable) = (false, false);
            self.out.event(Event::Membership {
                epoch: self.running.epoch,
                members: self.running.members,
            });
        }
    }

    fn solo(&mut self) {
        self.enter(State::Solo);
        self.boot_recorded();
        self.land();
    }

    // --- Rejoin -------------------------------------------------------------------------------------------------------

    fn drop_current_target(&mut self, why: RejoinBlock) {
        if let Some(y) = self.rejoin.target {
            self.drop_target(y, why);
        }
    }

    fn drop_target(&mut self, y: Leg, why: RejoinBlock) {
        self.enter(State::Solo);
        self.give_up_target(y, why);
    }

    /// An operator may say no while the copy runs.
    fn recheck_join(&mut self) {
        let (Some(y), Some(register)) = (self.rejoin.target, self.register.as_ref()) else {
            return;
        };
        let Some(info) = self.links[y.index()].info else {
            return;
        };
        if let Some(block) = super::rejoin::may_join(register, y, &info) {
            self.drop_target(y, block);
        }
    }

    /// Step 5: new writes and flushes need both legs, and reads the lease of both.
    fn need_both(&mut self) {
        if let Some(y) = self.rejoin.target {
            self.enter(State::RjNeed);
            self.extend_flushes(y);
            self.copies.paused = false;
            self.pump_copies();
        }
    }

    /// Steps 6 to 7b.
    fn growing(&mut self) {
        let Some(y) = self.rejoin.target else { return };
        self.copies.resync = None;
        self.enter(State::Growing);
        let steps = self.growing_script(y.other(), y);
        self.start_script(steps);
    }

    /// Step 8. Both superblocks are durable (R11), and the register was read after that.
    fn grow(&mut self) {
        if self.scripts.running() || !self.requests.open.is_empty() {
            return;
        }
        let (Some(y), Some(register)) = (self.rejoin.target, self.register.clone()) else {
            return;
        };
        let Some(info) = self.links[y.index()].info else {
            return;
        };
        if let Some(block) = super::rejoin::may_join(&register, y, &info) {
            self.ungrow(block);
            return;
        }
        let (generation, txid) = (self.proposal(Ask::Grow), self.ids.txid());
        match register.grow(&self.running, generation, txid) {
            Ok(proposed) => {
                self.enter(State::GrowWait);
                self.request(Ask::Grow, register, proposed);
            }
            Err(_) => self.ungrow(RejoinBlock::NoRejoin),
        }
    }

    /// Nothing was sent: X becomes Member again without asking anybody.
    fn ungrow(&mut self, why: RejoinBlock) {
        let Some(y) = self.rejoin.target else { return };
        self.enter(State::Ungrow);
        self.give_up_target(y, why);
        let steps = self.member_steps(y.other(), "grow given up");
        self.start_script(steps);
    }

    fn grow_again(&mut self) {
        let (Some(y), Some(register)) = (self.rejoin.target, self.register.clone()) else {
            return;
        };
        let may = self.links[y.index()]
            .info
            .is_some_and(|info| super::rejoin::may_join(&register, y, &info).is_none());
        let there = self.links[y.index()].lost.is_none() && may;
        let (generation, txid) = (self.proposal(Ask::Grow), self.ids.txid());
        match register.grow(&self.running, generation, txid) {
            Ok(proposed) if there => self.request(Ask::Grow, register, proposed),
            _ => self.bump(),
        }
    }

    /// The sender of a grow that wants out: only a bump ends it (R20).
    fn bump(&mut self) {
        if self.requests.is_open(|ask| ask == Ask::Bump) {
            return;
        }
        let Some(register) = self.register.clone() else {
            return;
        };
        let (generation, txid) = (self.proposal(Ask::Bump), self.ids.txid());
        if let Ok(proposed) = register.bump(&self.running, generation, txid) {
            self.enter(State::BumpWait);
            self.request(Ask::Bump, register, proposed);
        }
    }

    fn bump_won(&mut self) {
        let Some(y) = self.rejoin.target else { return };
        self.adopt();
        self.enter(State::SbWrite(Won::Bump));
        self.give_up_target(y, RejoinBlock::LegLost);
        let steps = self.member_steps(y.other(), "bump");
        self.start_script(steps);
    }

    /// Both are members now. A leg that is lost, or lacks what only the other one has, leaves by a shrink at once.
    fn grow_won(&mut self) {
        let Some(y) = self.rejoin.target else { return };
        self.adopt();
        self.rejoin_over();
        if std::mem::take(&mut self.source_behind) {
            let link = &mut self.links[y.other().index()];
            link.lost = Some(LostWhy::Restarted);
        }
        if self.cause_left()
            && Leg::BOTH
                .into_iter()
                .any(|leg| self.links[leg.index()].lost.is_some())
        {
            self.freeze();
            return;
        }
        self.slots_due = true;
        self.enter(State::SbWrite(Won::Grow));
        let steps = self.grown_steps();
        self.start_script(steps);
    }

    fn grown(&mut self) {
        self.slots_due = false;
        self.settled = false;
        self.enter(State::Synced);
        self.reconcile(false);
        self.land();
    }

    /// X restarted with a volatile cache and writes that were not flushed (R40).
    pub(super) fn last_member_restarted(&mut self, x: Leg) {
        self.source_behind = matches!(
            self.state,
            State::RjNeed | State::Growing | State::GrowWait | State::BumpWait
        );
        self.flush_will_fail(x);
        self.record_boot(x);
    }

    /// A member or target that another attach took.
    pub(super) fn conflict(&mut self, leg: Leg) {
        if self.in_use(leg) {
            self.fact(Fact::Conflict(leg));
        }
    }

    pub(super) fn raise(&mut self, condition: Condition) {
        if self.conditions.insert(condition) {
            self.out.event(Event::Raised(condition));
        }
    }

    pub(super) fn lower(&mut self, condition: Condition) {
        if self.conditions.remove(&condition) {
            self.out.event(Event::Cleared(condition));
        }
    }
}

const fn name_of(fact: Fact) -> &'static str {
    match fact {
        Fact::Equalised => "equalised",
        Fact::FirstBeat => "beat durable",
        Fact::Lost(..) => "leg lost",
        Fact::Back(_) => "leg back",
        Fact::Reachable(_) => "leg reachable",
        Fact::Conflict(_) => "conflict",
        Fact::Read(_) => "register read",
        Fact::Outcome(..) => "outcome",
        Fact::ScriptDone(_) => "script done",
        Fact::Reconciled => "reconciled",
        Fact::Targeted => "target written",
        Fact::Blocked(_) => "rejoin blocked",
        Fact::RestSmall => "rest small",
        Fact::CopyIdle => "no copy under way",
        Fact::Converged => "converged",
        Fact::DropLeg(_) => "drop leg",
        Fact::Expand(_) => "expand",
        Fact::Drained => "drained",
        Fact::DrainTimeout => "drain timed out",
        Fact::FrozenTooLong => "frozen too long",
        Fact::KeysGone(_) => "keys gone",
    }
}
