//! The points that no volume passes before the others: what all have to want, or what one says to all.
//!
//! Not here: the requests to the register ([`super::requests`]), how a phase follows another ([`super::phases`]).

use std::time::Duration;

use twinsite_register::Leg;

use super::{Group, Member, Phase, with_port};
use crate::serve::{Wish, graver};
use crate::status::LostWhy;

/// Looks after one input; each lets at least one volume go on, so that more means that two rules undo each other.
const MAX_LOOKS: u32 = 1000;

impl Group {
    /// What concerns all volumes, until nothing is left to do.
    pub(super) fn look(&mut self, now: Duration) {
        let still = (0..MAX_LOOKS).any(|_| !self.look_once(now));
        debug_assert!(still, "two rules of the group undo each other");
        let calm = |members: &Vec<Member>| members.iter().all(|m| m.serve.is_calm());
        self.calm = still && matches!(&self.phase, Phase::Serving(members) if calm(members));
        let due = self.detached_by.is_some_and(|at| at <= now);
        if due || self.release.is_none() {
            self.tell_detached();
        }
    }

    fn look_once(&mut self, now: Duration) -> bool {
        let Phase::Serving(members) = &mut self.phase else {
            return false;
        };
        // What one learned of the request that all have open, all know at the same instant.
        for from in 0..members.len() {
            let Some((expected, register)) = members[from].serve.take_resolved() else {
                continue;
            };
            for (volume, member) in members.iter_mut().enumerate() {
                if volume != from && member.end.is_none() {
                    with_port(&mut self.port, volume, &mut member.serve, |serve| {
                        serve.learn(expected, &register);
                    });
                }
            }
        }
        for member in members.iter_mut() {
            if let Some(end) = member.serve.take_end() {
                member.end = Some(end);
            }
        }
        if members.iter().any(|member| member.is_superseded()) {
            self.supersede(now);
            return false;
        }
        if members.iter().all(|member| member.end.is_some()) {
            self.serve_ended(now);
            return true;
        }
        self.hold_all()
            || self.tell_lost()
            || self.show_all()
            || self.switch_all()
            || self.request_for_all()
            || self.decide_if_stuck()
    }

    /// Every member leg is lost to some volume, each to another one, and all are logged in again: no single leg has what all
    /// volumes need. Which leg has what each of them needs is decided anew, as at an attach, with the fences held.
    fn decide_if_stuck(&mut self) -> bool {
        let Phase::Serving(members) = &mut self.phase else {
            return false;
        };
        if !members.iter().all(|member| member.serve.is_stuck()) {
            return false;
        }
        for (volume, member) in members.iter_mut().enumerate() {
            with_port(&mut self.port, volume, &mut member.serve, |serve| {
                serve.hold_with_group(false);
            });
        }
        true
    }

    /// One that decides again takes all with it.
    fn hold_all(&mut self) -> bool {
        let Phase::Serving(members) = &mut self.phase else {
            return false;
        };
        let leaving = members
            .iter()
            .filter_map(|member| member.serve.is_holding());
        let Some(reattach) = leaving.reduce(|one, other| one || other) else {
            return false;
        };
        let mut held = false;
        for (volume, member) in members.iter_mut().enumerate() {
            if member.serve.is_holding().is_none() && member.end.is_none() {
                held = true;
                with_port(&mut self.port, volume, &mut member.serve, |serve| {
                    serve.hold_with_group(reattach);
                });
            }
        }
        if held {
            return true;
        }
        // In one event: what a leg says to one volume while another one still drains is heard by its serving phase, and what it
        // says later by the attach.
        let rests = |member: &Member| member.end.is_some() || member.serve.has_come_to_rest();
        if !members.iter().all(rests) {
            return false;
        }
        for (volume, member) in members.iter_mut().enumerate() {
            if member.end.is_none() {
                with_port(&mut self.port, volume, &mut member.serve, |serve| {
                    serve.end_with_group();
                });
            }
        }
        true
    }

    /// A member leg that is lost to one volume is lost to all.
    fn tell_lost(&mut self) -> bool {
        let Phase::Serving(members) = &mut self.phase else {
            return false;
        };
        let merged: [Option<LostWhy>; 2] = Leg::BOTH.map(|leg| {
            let own = members.iter().map(|member| member.serve.own_loss(leg));
            own.fold(None, graver)
        });
        let mut told = false;
        for (volume, member) in members.iter_mut().enumerate() {
            if member.end.is_none() {
                with_port(&mut self.port, volume, &mut member.serve, |serve| {
                    told |= serve.tell_lost(merged);
                });
            }
        }
        told
    }

    fn show_all(&mut self) -> bool {
        let Phase::Serving(members) = &mut self.phase else {
            return false;
        };
        let done = |member: &Member| member.serve.wish() == Some(Wish::Show);
        if !members.iter().all(done) {
            return false;
        }
        for (volume, member) in members.iter_mut().enumerate() {
            with_port(&mut self.port, volume, &mut member.serve, |serve| {
                serve.show_with_group();
            });
        }
        true
    }

    /// Before the last part of the copy writes wait for one leg only: no volume goes there long before the others.
    fn switch_all(&mut self) -> bool {
        let Phase::Serving(members) = &mut self.phase else {
            return false;
        };
        if !members.iter().all(|member| member.serve.is_nearly_copied()) {
            return false;
        }
        let mut switched = false;
        for (volume, member) in members.iter_mut().enumerate() {
            with_port(&mut self.port, volume, &mut member.serve, |serve| {
                switched |= serve.switch_with_group();
            });
        }
        switched
    }
}
