//! The transition table of protocol 2.18 for the serving states, as one match, and the actions it names.
//!
//! Rows that hold in several states stand first; anything that no row names is ignored and told once per entry of the state.

use twinsite_register::{Leg, Members, Outcome};

use super::Serve;
use super::joint::Wish;
use super::link::Link;
use super::state::{Ask, Fact, Standing, State, Won};
use crate::engine::{Held, ServeEnd};
use crate::io::{ControlError, GuestError, Output, RemoveWhy};
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
            (Holding | Ended, Fact::DropLeg(_) | Fact::Expand(_)) => {
                self.out.push(Output::OrderDone {
                    result: Err(ControlError::Busy),
                });
            }
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
            // Its beats come after the last pending region, and a leg that was put back gets none.
            (Equalise, Fact::Equalised)
                if !self.pending.is_empty() || self.orders.rolled_back.is_some() =>
            {
                self.serve()
            }
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
            (Synced | Expand | Detach | SbWrite(Won::Grow), Fact::Elsewhere)
                if members == Members::BOTH && self.lost_elsewhere() =>
            {
                self.freeze()
            }
            (Synced, Fact::DropLeg(leg)) if !self.order_owed() => {
                self.drop_leg(leg);
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
            (Frozen, Fact::Elsewhere) if !self.cause_left() => self.thaw(),
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
                | Fact::Elsewhere
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
        self.drop_wish();
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
    pub(super) fn supersede(&mut self) {
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
        self.fail_format();
        self.fail_orders(ControlError::Interrupted);
        for leg in Leg::BOTH {
            self.out.push(Output::Disconnect { leg });
        }
        self.end = Some(ServeEnd::Superseded);
    }

    /// The requests of the guest wait while attach decides again.
    pub(super) fn end_held(&mut self, reattach: bool) {
        self.cancel_script();
        self.fail_format();
        self.fail_orders(ControlError::Interrupted);
        self.cancel_copies();
        self.requests.open.clear();
        self.reattach = reattach;
        self.enter(State::Holding);
        self.forget_retries();
    }

    /// Nothing of this phase is under way on a leg.
    pub(super) fn is_held(&self) -> bool {
        self.state == State::Holding && self.cmds.in_flight == [0; 2]
    }

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

    /// Show the device, or just look after the legs: as soon as all volumes of the group are as far.
    fn serve(&mut self) {
        if !self.waits_for_group(Wish::Show) {
            self.go();
        }
    }

    pub(super) fn go(&mut self) {
        // Before anything is read: it leaves at once.
        if let Some(leg) = self.orders.rolled_back.take() {
            self.lose(leg, LostWhy::RolledBack);
        }
        let pair = self.running.members == Members::BOTH;
        self.enter(if pair { State::Synced } else { State::Solo });
        self.show();
        if pair {
            self.reconcile(true);
            self.resume_expand();
        }
        for at in std::mem::take(&mut self.delayed) {
            self.begin(at);
        }
        self.land();
    }

    pub(super) fn settle_pair(&mut self) {
        let steps = self.settled_script();
        self.start_script(steps);
    }

    /// Superblocks with base none and the new boot ids are durable on both: step 10 of 2.6.
    fn pair_settled(&mut self) {
        if self.finish_format() {
            self.expand_identified();
            return;
        }
        // A target that restarted meanwhile is recorded by another round.
        self.settled = Leg::BOTH.into_iter().all(|leg| {
            let recorded = self.superblocks[leg.index()].as_ref();
            recorded.is_some_and(|sb| sb.boot_id == self.boot_now(leg))
        });
        self.clearable = true;
        self.slots_due = false;
        self.boot_changed = false;
        self.base = None;
        self.begin_beats();
        self.try_flushes();
        self.clear_all();
        // The capacity may have been known before this was written.
        self.expand_identified();
    }

    fn solo(&mut self) {
        self.forget_reconcile();
        self.enter(State::Solo);
        self.begin_beats();
        self.boot_recorded();
        self.land();
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
        Fact::Elsewhere => "lost in another volume",
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
