//! One-shot orders to the volumes of one register, carried out together: a birth, a force, a reseed, a wipe.
//!
//! ```text
//! Fence   all have looked, and nothing speaks against any of them: all fence
//! Again   all fences are complete: the register is read again (R43)
//! Write   every volume was judged once more behind its fence, and all of them together: all write
//! Tell    all is durable: one request to the register, by the first of them
//! ```
//! Invariants: no volume goes through a gate before all stand at it, so nothing is fenced if one of them may not be written,
//! nothing is written if one of them is not as it was judged, and the register hears of all or of none. What ends one of them
//! ends all. A crash at any point is repaired by the same orders again.
//! A wipe alone waits for nobody: what a tombstone gives up is given up for every volume; its end is told when all have ended.
//! Not here: what each order asks of a leg (the files named after them).

use std::time::Duration;

use twinsite_register::{Force, Leg, LegSeed, Register, VolumeId};

use super::moment::Moment;
use super::{Done, Failure, Gate, OneShot, OneShotOrder, Reseeding, Task, force};
use crate::io::{Input, Output};

/// The orders under way, by the number of the volume.
#[derive(Debug)]
pub struct GroupOneShot {
    members: Vec<OneShot>,
    /// The first one tells the register.
    told: bool,
    /// How it ended for each, once it did for all.
    ends: Vec<Result<Done, Failure>>,
}

impl GroupOneShot {
    /// Begin; `orders` are of the volumes of one register, and ask the same of each.
    pub fn new(now: Duration, orders: Vec<OneShotOrder>) -> Self {
        let alike = are_alike(&orders);
        let begin = |order| OneShot::of_group(now, order);
        let mut members: Vec<OneShot> = orders.into_iter().map(begin).collect();
        if let Err(failure) = alike {
            for member in &mut members {
                member.fail(failure);
            }
        }
        let mut this = Self {
            members,
            told: false,
            ends: Vec::new(),
        };
        this.look(now);
        this
    }

    /// Take one input of a volume.
    pub fn handle(&mut self, now: Duration, volume: usize, input: &Input) {
        match input {
            Input::Tick | Input::Detach => {
                for member in &mut self.members {
                    member.handle(now, input);
                }
            }
            input => {
                if let Some(member) = self.members.get_mut(volume) {
                    member.handle(now, input);
                }
            }
        }
        self.look(now);
    }

    /// Goes through the gate at which all stand, and ends if one has ended.
    fn look(&mut self, now: Duration) {
        while self.ends.is_empty() {
            if self.told {
                return self.follow();
            }
            if self.members.iter().all(|member| member.end.is_some()) {
                return self.close();
            }
            let failed = |member: &OneShot| matches!(member.end, Some(Err(_)));
            if self.members.iter().any(failed) && self.members.iter().any(OneShot::waits) {
                // Not its own fault: it is tried again with the others.
                self.fail_all(Failure::Companion);
                continue;
            }
            let rests = |member: &OneShot| member.end.is_some() || member.gate().is_some();
            if !self.members.iter().all(rests) {
                return;
            }
            if self.members.iter().any(|member| member.end.is_some()) {
                // The request of an earlier try was executed meanwhile: some have read the register before, some after.
                self.fail_all(Failure::Changed);
                continue;
            }
            let Some(gate) = self.members.first().and_then(OneShot::gate) else {
                return;
            };
            match self.may_pass(gate) {
                Ok(()) if gate == Gate::Tell => {
                    self.tell(now);
                    return self.follow();
                }
                Ok(()) => {
                    for member in &mut self.members {
                        member.go_through(now, gate);
                    }
                }
                Err(failure) => self.fail_all(failure),
            }
        }
    }

    fn fail_all(&mut self, failure: Failure) {
        for member in &mut self.members {
            member.fail(failure);
        }
    }

    /// What is asked of all of them together.
    fn may_pass(&self, gate: Gate) -> Result<(), Failure> {
        if gate == Gate::Fence {
            self.are_its_volumes()?;
        }
        if matches!(gate, Gate::Fence | Gate::Write) {
            self.are_of_one_moment()?;
        }
        Ok(())
    }

    /// Are these the volumes of the register that each of them read, and did all read the same value?
    fn are_its_volumes(&self) -> Result<(), Failure> {
        let first = self.members.first().and_then(OneShot::seen);
        if self.members.iter().any(|member| member.seen() != first) {
            return Err(Failure::Changed);
        }
        self.are_named_by(first)
    }

    fn are_named_by(&self, register: Option<&Register>) -> Result<(), Failure> {
        // Of a register that is lost a person names the volumes.
        let Some(register) = register else {
            return Ok(());
        };
        let of = |volume: &VolumeId| self.members.iter().any(|m| m.order.volume == *volume);
        let whole = register.volumes.len() == self.members.len() && register.volumes.iter().all(of);
        whole.then_some(()).ok_or(Failure::OtherVolumes)
    }

    /// A person names copies that belong together: the journal of one minute never stands beside the data of another, unless the
    /// person took them so.
    fn are_of_one_moment(&self) -> Result<(), Failure> {
        for leg in Leg::BOTH {
            let mut first: Option<(VolumeId, Option<Moment>)> = None;
            for member in self.members.iter().filter(|member| member.names(leg)) {
                let own = (member.order.volume, member.moment_of(leg));
                let (volume, moment) = *first.get_or_insert(own);
                if own.1.is_none() || own.1 != moment {
                    return Err(Failure::Mixed(volume, own.0));
                }
            }
        }
        Ok(())
    }

    /// All is durable on every volume: now the register may say so.
    fn tell(&mut self, now: Duration) {
        self.told = true;
        let seeds: Vec<(VolumeId, LegSeed)> = self
            .members
            .iter()
            .filter_map(|member| match &member.order.task {
                Task::Force(force) => Some((member.order.volume, force::granted(force)?)),
                _ => None,
            })
            .collect();
        let Some(first) = self.members.first_mut() else {
            return;
        };
        match (first.order.task.clone(), first.seen().cloned()) {
            (Task::Birth { .. }, Some(register)) => first.tell_birth(now, register),
            (Task::Force(force), Some(_)) => first.tell_force(now, &force, &seeds),
            _ => first.fail(Failure::WrongState),
        }
    }

    /// The outcome of the request is that of every volume.
    fn follow(&mut self) {
        let Some(end) = self.members.first().and_then(|first| first.end.clone()) else {
            return;
        };
        for member in &mut self.members {
            member.close(end.clone());
        }
        self.ends = vec![end; self.members.len()];
    }

    fn close(&mut self) {
        let failed = |member: &OneShot| matches!(member.end, Some(Err(_)));
        let failed = self.members.iter().any(failed);
        // What was done to these does not stand for all that the register names.
        let first = self.members.first().and_then(OneShot::seen);
        let others = self.are_named_by(first).err();
        let end = |member: &OneShot| match &member.end {
            Some(Ok(_)) if failed => Err(Failure::Companion),
            Some(Ok(done)) => others.map_or_else(|| Ok(done.clone()), Err),
            Some(end) => end.clone(),
            None => Err(Failure::Companion),
        };
        self.ends = self.members.iter().map(end).collect();
    }

    /// The next output and the volume it is of.
    pub fn poll(&mut self) -> Option<(usize, Output)> {
        let mut members = self.members.iter_mut().enumerate();
        members.find_map(|(volume, member)| member.poll().map(|output| (volume, output)))
    }

    /// How it ended for a volume, once it did for all.
    pub fn end(&self, volume: usize) -> Option<&Result<Done, Failure>> {
        self.ends.get(volume)
    }

    /// When [`Input::Tick`] is wanted.
    pub fn deadline(&self) -> Option<Duration> {
        let open = self.members.iter().filter(|member| member.end.is_none());
        open.filter_map(OneShot::deadline).min()
    }
}

/// Do these orders ask the same of each volume?
fn are_alike(orders: &[OneShotOrder]) -> Result<(), Failure> {
    let Some(first) = orders.first() else {
        return Ok(());
    };
    let same = |order: &OneShotOrder| {
        let task = match (&first.task, &order.task) {
            (Task::Birth { .. }, Task::Birth { .. }) | (Task::Wipe, Task::Wipe) => true,
            (Task::Force(one), Task::Force(other)) => is_one_force(one, other),
            (Task::Reseed(one), Task::Reseed(other)) => {
                let expect = one.expect;
                *one == Reseeding { expect, ..*other }
            }
            _ => false,
        };
        // A leg that answers of some volumes only is wiped there, or fenced there while another one is named.
        let each_its_own = matches!(order.task, Task::Wipe | Task::Reseed(_));
        task && order.site == first.site && (order.legs == first.legs || each_its_own)
    };
    let of = |volume| orders.iter().filter(|order| order.volume == volume).count();
    let alike = orders
        .iter()
        .all(|order| same(order) && of(order.volume) == 1);
    alike.then_some(()).ok_or(Failure::OrdersDiffer)
}

fn is_one_force(one: &Force, other: &Force) -> bool {
    let seen = one.seen;
    *one == Force {
        seen,
        ..other.clone()
    }
}
