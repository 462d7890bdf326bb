//! The beat: every two seconds, on every member, and then at the witness.
//!
//! Beat n+1 is sent when n is durable on all (so two members never differ by more than one), on the metadata lane, so that
//! a busy guest never starves it. While regions of a pair's attach are pending there is none: a lower beat tells a leg that
//! was put back, and an equal one would hide it. Its epoch tells a later attach that somebody served in that epoch (R26).

use std::time::Duration;

use twinsite_register::{BeatObject, Leg, Members};

use super::Serve;
use super::commands::Purpose;
use super::state::Fact;
use crate::io::{Block, Output};
use crate::layout::Beat;

/// Numbers and legs of the beat.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beats {
    /// The newest number sent.
    number: u64,
    legs: Members,
    /// Legs that do not have it yet.
    missing: Members,
    next: Option<Duration>,
}

impl Beats {
    pub(super) const fn new(number: u64, legs: Members) -> Self {
        Self {
            number,
            legs,
            missing: Members::NONE,
            next: None,
        }
    }

    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// The newest number that is durable on every leg.
    pub(super) const fn durable(&self) -> u64 {
        if self.missing.is_empty() {
            self.number
        } else {
            self.number.saturating_sub(1)
        }
    }

    /// None was sent in this attach.
    pub(super) const fn silent(&self) -> bool {
        self.next.is_none()
    }

    /// From the next beat on this leg gets it too.
    pub(super) const fn join(&mut self, leg: Leg) {
        self.legs = self.legs.with(leg);
    }

    pub(super) const fn deadline(&self) -> Option<Duration> {
        if self.missing.is_empty() {
            self.next
        } else {
            None
        }
    }
}

impl Serve {
    pub(super) fn beat_block(&self) -> Block {
        Beat {
            volume: self.order.volume,
            epoch: self.running.epoch,
            attach_key: Some(self.running.key),
            beat: self.beats.number,
            flushed: self.flushed,
        }
        .emit()
    }

    /// Send the next beat, to the legs and never to the register (R33), if the last one is durable everywhere.
    pub(super) fn beat_now(&mut self) {
        if !self.beats.missing.is_empty() {
            self.beats.next = Some(self.now);
            return;
        }
        self.beat_owed = None;
        self.beats.number += 1;
        self.beats.missing = self.beats.legs;
        self.beats.next = Some(self.now + self.config.beat_interval);
        for leg in self.beats.legs.iter() {
            self.send_beat(leg);
        }
    }

    fn send_beat(&mut self, leg: Leg) {
        if self.ready(leg) {
            self.send(leg, Purpose::Beat);
        }
    }

    /// The leg is ready again: it gets the beat it misses.
    pub(super) fn resend_beat(&mut self, leg: Leg) {
        if self.beats.missing.contains(leg) && !self.cmds.has(leg, Purpose::Beat) {
            self.send_beat(leg);
        }
    }

    pub(super) fn beat_done(&mut self, leg: Leg) {
        if !self.beats.missing.contains(leg) {
            return;
        }
        self.beats.missing = self.beats.missing.without(leg);
        self.beat_complete();
    }

    fn beat_complete(&mut self) {
        if !self.beats.missing.is_empty() || self.beats.legs.is_empty() {
            return;
        }
        self.out.push(Output::WriteBeat(BeatObject {
            epoch: self.running.epoch,
            beat: self.beats.number,
        }));
        self.fact(Fact::FirstBeat);
        self.run_script();
    }

    /// The leg is no member any more.
    pub(super) fn drop_beat(&mut self, leg: Leg) {
        let missed = self.beats.missing.contains(leg);
        self.beats.legs = self.beats.legs.without(leg);
        self.beats.missing = self.beats.missing.without(leg);
        if missed {
            self.beat_complete();
        }
    }

    pub(super) fn beat_timer(&mut self) {
        if self.beats.deadline().is_some_and(|at| at <= self.now) {
            self.beat_now();
        }
    }
}
