//! Births of the volumes of a group: one register, which is made live once both legs of every volume are born.
//!
//! A crash at any point is repaired by the same orders again: a leg that carries its first superblock is done.

use std::time::Duration;

use twinsite_register::{RegisterId as RegisterName, VolumeId};

use super::{Done, Failure, OneShot, OneShotOrder, Phase, Task};
use crate::io::{Input, Output};

/// Births under way, by the number of the volume.
#[derive(Debug)]
pub struct GroupBirth {
    members: Vec<OneShot>,
    /// The one that tells the register, once it does.
    told: bool,
}

impl GroupBirth {
    /// Begin; `orders` are births of the volumes of one register.
    pub fn new(now: Duration, orders: Vec<OneShotOrder>) -> Self {
        let member = |order: OneShotOrder| {
            let birth = matches!(order.task, Task::Birth { .. });
            let mut member = OneShot::new(now, order);
            member.of_group = true;
            if !birth {
                member.fail(Failure::WrongState);
            }
            member
        };
        Self {
            members: orders.into_iter().map(member).collect(),
            told: false,
        }
    }

    /// Take one input of a volume. What ends one of them before all are born ends all.
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

    fn look(&mut self, now: Duration) {
        if self.told {
            return self.follow();
        }
        let failed = |member: &OneShot| matches!(member.end, Some(Err(_)));
        if self.members.iter().any(failed) {
            for member in &mut self.members {
                // Not its own fault: it is tried again with the others.
                member.fail(Failure::Changed);
            }
            return;
        }
        let born = |member: &OneShot| matches!(member.phase, Phase::Born);
        let over = |member: &OneShot| member.end.is_some() || born(member);
        if self.members.iter().all(over) && self.members.iter().any(|m| m.end.is_some()) {
            // The request of an earlier try was executed meanwhile: some have read the register before, some after.
            for member in &mut self.members {
                member.fail(Failure::Changed);
            }
            return;
        }
        if !self.members.iter().all(born) {
            return;
        }
        if !self.is_whole() {
            for member in &mut self.members {
                member.fail(Failure::OtherVolumes);
            }
            return;
        }
        self.told = true;
        if let Some(first) = self.members.first_mut()
            && let Some(register) = first.seen().cloned()
        {
            first.tell_birth(now, register);
        }
        self.follow();
    }

    /// Are these the volumes of the register that each of them read, and is it one register?
    fn is_whole(&self) -> bool {
        let volumes: Vec<VolumeId> = self.members.iter().map(|m| m.order.volume).collect();
        let name = |member: &OneShot| -> Option<RegisterName> {
            let register = member.seen()?;
            let named = |volume: &VolumeId| register.volumes.contains(volume);
            let whole = register.volumes.len() == volumes.len() && volumes.iter().all(named);
            whole.then_some(register.register_id)
        };
        let first = self.members.first().and_then(name);
        first.is_some() && self.members.iter().all(|member| name(member) == first)
    }

    /// The outcome of the request is that of every volume.
    fn follow(&mut self) {
        let Some(end) = self.members.first().and_then(|first| first.end.clone()) else {
            return;
        };
        for member in &mut self.members {
            match &end {
                Ok(Done::Born { live }) => member.finish(Done::Born { live: *live }),
                Ok(_) => member.fail(Failure::WrongState),
                Err(failure) => member.fail(*failure),
            }
        }
    }

    /// The next output and the volume it is of.
    pub fn poll(&mut self) -> Option<(usize, Output)> {
        let mut members = self.members.iter_mut().enumerate();
        members.find_map(|(volume, member)| member.poll().map(|output| (volume, output)))
    }

    /// How the birth of a volume ended, once it did.
    pub fn end(&self, volume: usize) -> Option<&Result<Done, Failure>> {
        self.members.get(volume)?.end()
    }

    /// When [`Input::Tick`] is wanted.
    pub fn deadline(&self) -> Option<Duration> {
        let open = self.members.iter().filter(|member| member.end.is_none());
        open.filter_map(OneShot::deadline).min()
    }
}
