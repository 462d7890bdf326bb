//! Verify (protocol 2.11): the legs of a pair are compared while the guest uses them.
//!
//! ```text
//! Look     both legs are asked for a digest of the chunk, without a lock; writes that overlap are noted
//!            equal: done     differ, a write overlapped: looked at again, `LOOKS` times at most     differ: Waiting
//! Waiting  for the bytes, exclusively, as a copy has them (R36): no command of a write is under way on either leg then
//! Held     both legs are asked again, block by block
//!            equal: done     differ: reported, the lock is given back
//! ```
//! Invariants: a difference is reported only from digests of both legs that were asked for and answered under one lock, in
//! Synced, with no region of the chunk pending or must-reconcile; nothing is ever written; whatever unsettles the membership
//! puts the chunks under way back. What one leg cannot read is reported as such: nobody can say that it is equal.
//!
//! Every byte is compared, also of regions that the map calls unwritten: that they are zeros on both legs (I12) is looked at
//! here and nowhere else. The reconcile goes before a verify, and the guest before both: the pace is that of a resync.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use twinsite_register::Leg;

use super::Serve;
use super::commands::Purpose;
use super::guest::Owner;
use super::state::State;
use crate::io::{BLOCK, ControlError, DATA_START, LegOp, LegReply, Output, VerifyOrder};
use crate::locks::{Access, Held, Lock};
use crate::rate::{Bucket, Meter};
use crate::regions::span;
use crate::slab::{Handle, Slab};
use crate::status::{Event, VerifyPhase, VerifyStatus, VerifyStop};

/// Bytes that are compared at once.
const CHUNK: u32 = 256 << 10;
/// Chunks under way, and chunks that wait for a copy of their regions.
const CHUNKS: usize = 8;
/// Looks without a lock at a chunk that is being written.
const LOOKS: u32 = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Look,
    Waiting,
    Held,
}

/// What a leg answered: its digests, or that it cannot read the chunk.
type Answer = Option<Vec<u64>>;

/// A chunk under way.
#[derive(Debug)]
struct Chunk {
    bytes: Range<u64>,
    stage: Stage,
    looks: u32,
    /// A write was under way on these bytes during this look.
    overlapped: bool,
    answers: [Option<Answer>; 2],
    sent: [bool; 2],
    held: Option<Held>,
}

impl Chunk {
    fn len(&self) -> u64 {
        self.bytes.end - self.bytes.start
    }
}

/// One run over the volume.
#[derive(Debug)]
struct Run {
    /// Everything before was taken up.
    next: u64,
    /// To be taken up again.
    aside: VecDeque<Range<u64>>,
    bucket: Bucket,
    meter: Meter,
}

#[derive(Debug)]
pub(super) struct Verify {
    run: Option<Run>,
    chunks: Slab<Chunk>,
    /// Of the present run, or of the last one of this attach.
    told: Option<VerifyStatus>,
    /// The rate limit says: not before.
    next: Option<Duration>,
}

impl Verify {
    pub(super) const fn new() -> Self {
        Self {
            run: None,
            chunks: Slab::new(0),
            told: None,
            next: None,
        }
    }

    pub(super) const fn is_running(&self) -> bool {
        self.run.is_some()
    }

    pub(super) const fn deadline(&self) -> Option<Duration> {
        self.next
    }

    /// The guest begins to write these bytes.
    pub(super) fn note_write(&mut self, offset: u64, len: u64) {
        if self.run.is_none() {
            return;
        }
        for chunk in self.chunks.values_mut() {
            chunk.overlapped |=
                offset < chunk.bytes.end && chunk.bytes.start < offset.saturating_add(len);
        }
    }

    pub(super) fn set_rate(&mut self, now: Duration, rate: Option<u64>) {
        if let Some(run) = &mut self.run {
            run.bucket.set_rate(now, rate, CHUNK);
        }
    }

    /// How far the present run is, or how the last one ended.
    pub(super) fn status(&self, size: u64) -> Option<VerifyStatus> {
        let mut told = self.told.clone()?;
        if let Some(run) = &self.run {
            told.total_bytes = size;
            told.position = self.position(run);
            told.bytes_per_second = run.meter.per_second();
            told.eta = size
                .saturating_sub(told.position)
                .checked_div(told.bytes_per_second)
                .map(Duration::from_secs);
        }
        Some(told)
    }

    /// Everything before was compared.
    fn position(&self, run: &Run) -> u64 {
        let open = self.chunks.iter().map(|(_, chunk)| chunk.bytes.start);
        let aside = run.aside.iter().map(|bytes| bytes.start);
        open.chain(aside).min().unwrap_or(run.next)
    }

    fn under_way(&self) -> Vec<Handle> {
        self.chunks.iter().map(|(at, _)| at).collect()
    }
}

impl Serve {
    pub(super) fn order_verify(&mut self, order: VerifyOrder) {
        let result = match order {
            VerifyOrder::Stop => {
                self.verify_end(Some(VerifyStop::Ordered));
                Ok(())
            }
            VerifyOrder::Begin { .. } if self.stopping => Err(ControlError::NotAttached),
            VerifyOrder::Begin { .. } if self.verify.is_running() => Err(ControlError::Busy),
            VerifyOrder::Begin { .. } if self.state != State::Synced => {
                Err(ControlError::WaitingForLeg)
            }
            VerifyOrder::Begin { from } => {
                let from = from.min(self.geometry.size()) / u64::from(CHUNK) * u64::from(CHUNK);
                self.verify.run = Some(Run {
                    next: from,
                    aside: VecDeque::new(),
                    bucket: Bucket::new(self.now, self.pace.rate(), CHUNK),
                    meter: Meter::new(self.now),
                });
                self.verify.told = Some(VerifyStatus {
                    from,
                    ..VerifyStatus::default()
                });
                self.out.event(Event::VerifyBegan { from });
                Ok(())
            }
        };
        self.out.push(Output::OrderDone { result });
    }

    /// What the present state means for the run; called when everything else of an input is done.
    pub(super) fn verify_turn(&mut self) {
        let detached = self.orders.detach.is_some();
        let stop = match self.state {
            State::Synced => return self.verify_pump(),
            State::Expand | State::Frozen | State::ShrinkWait(_) | State::ThawWait(_) => None,
            State::Detach => Some(VerifyStop::Detached),
            State::Ended if detached => Some(VerifyStop::Detached),
            State::Ended => Some(VerifyStop::Superseded),
            State::Equalise | State::FirstBeat | State::Holding => Some(VerifyStop::Undecided),
            State::SbWrite(_)
            | State::Solo
            | State::RjTarget
            | State::RjBoth
            | State::RjNeed
            | State::Growing
            | State::Ungrow
            | State::GrowWait
            | State::BumpWait => Some(VerifyStop::MemberLost),
        };
        match stop {
            Some(_) => self.verify_end(stop),
            None => self.verify_set_all_aside(),
        }
    }

    fn verify_pump(&mut self) {
        for at in self.verify.under_way() {
            self.digest_send(at);
        }
        self.verify.next = None;
        while let Some(bytes) = self.verify_next() {
            let overlapped = self.locks.writing(bytes.start, bytes.end - bytes.start);
            let at = self.verify.chunks.insert(Chunk {
                bytes,
                stage: Stage::Look,
                looks: 1,
                overlapped,
                answers: [None, None],
                sent: [false; 2],
                held: None,
            });
            self.digest_send(at);
        }
        let size = self.geometry.size();
        let over = self
            .verify
            .run
            .as_ref()
            .is_some_and(|run| run.next >= size && run.aside.is_empty());
        if over && self.verify.chunks.is_empty() {
            self.verify_end(None);
        }
    }

    /// The next chunk to look at, if one may be taken up now.
    fn verify_next(&mut self) -> Option<Range<u64>> {
        if self.verify.chunks.len() >= CHUNKS || !self.pending.is_empty() {
            return None;
        }
        let waits = |bytes: &Range<u64>| self.verify_gated(bytes);
        let aside = &self.verify.run.as_ref()?.aside;
        if let Some(at) = aside.iter().position(|bytes| !waits(bytes)) {
            return self.verify.run.as_mut()?.aside.remove(at);
        }
        loop {
            let size = self.geometry.size();
            let run = self.verify.run.as_mut()?;
            if run.next >= size || run.aside.len() >= CHUNKS {
                return None;
            }
            run.bucket.fill(self.now);
            if let Some(at) = run.bucket.wait() {
                self.verify.next = Some(at);
                return None;
            }
            let bytes = run.next..(run.next + u64::from(CHUNK)).min(size);
            run.next = bytes.end;
            run.bucket.spend(bytes.end - bytes.start);
            if !self.verify_gated(&bytes) {
                return Some(bytes);
            }
            self.verify.run.as_mut()?.aside.push_back(bytes);
        }
    }

    fn verify_gated(&self, bytes: &Range<u64>) -> bool {
        let run = span(self.geometry, bytes.start, bytes.end - bytes.start);
        self.gated(run).is_some()
    }

    /// Both members are there and neither is about to leave: their answers may be compared.
    fn verify_settled(&self) -> bool {
        let fit = |leg: Leg| self.ready(leg) && self.links[leg.index()].lost.is_none();
        self.state == State::Synced && Leg::BOTH.into_iter().all(fit)
    }

    /// Ask the legs that have not answered.
    fn digest_send(&mut self, at: Handle) {
        for leg in Leg::BOTH {
            let (n, ready) = (leg.index(), self.ready(leg) && !self.behind(leg));
            let Some(chunk) = self.verify.chunks.get_mut(at) else {
                return;
            };
            if ready
                && chunk.stage != Stage::Waiting
                && chunk.answers[n].is_none()
                && !chunk.sent[n]
            {
                chunk.sent[n] = true;
                self.send(leg, Purpose::Digest(at));
            }
        }
    }

    pub(super) fn digest_op(&self, at: Handle) -> Option<LegOp> {
        let chunk = self.verify.chunks.get(at)?;
        let len = chunk.len() as u32;
        let block = match chunk.stage {
            Stage::Look | Stage::Waiting => len,
            Stage::Held => BLOCK as u32,
        };
        Some(LegOp::Digest {
            offset: DATA_START + chunk.bytes.start,
            len,
            block,
        })
    }

    pub(super) fn digest_done(&mut self, at: Handle, leg: Leg, reply: LegReply) {
        match reply {
            LegReply::Digests(digests) => self.digest_answered(at, leg, Some(digests)),
            _ => self.digest_answered(at, leg, None),
        }
    }

    /// The leg cannot read the chunk.
    pub(super) fn digest_failed(&mut self, at: Handle, leg: Leg) {
        self.links[leg.index()].read_errors += 1;
        self.digest_answered(at, leg, None);
    }

    /// The session died with the question: asked again after the relogin.
    pub(super) fn digest_gone(&mut self, at: Handle, leg: Leg) {
        if let Some(chunk) = self.verify.chunks.get_mut(at) {
            chunk.sent[leg.index()] = false;
        }
    }

    fn digest_answered(&mut self, at: Handle, leg: Leg, answer: Answer) {
        let Some(chunk) = self.verify.chunks.get_mut(at) else {
            return;
        };
        chunk.sent[leg.index()] = false;
        chunk.answers[leg.index()] = Some(answer);
        let [Some(a), Some(b)] = &mut chunk.answers else {
            return;
        };
        let (a, b) = (a.take(), b.take());
        chunk.answers = [None, None];
        if !self.verify_settled() {
            self.verify_set_aside(at);
        } else if self
            .verify
            .chunks
            .get(at)
            .is_some_and(|chunk| chunk.stage == Stage::Held)
        {
            self.compare(at, a, b);
        } else if a.is_some() && a == b {
            self.chunk_done(at);
        } else {
            self.look_again(at);
        }
    }

    /// The legs differ, or one of them could not be read, as far as that can be said without a lock.
    fn look_again(&mut self, at: Handle) {
        let Some(chunk) = self.verify.chunks.get_mut(at) else {
            return;
        };
        let (offset, len) = (chunk.bytes.start, chunk.len());
        if chunk.overlapped && chunk.looks < LOOKS {
            chunk.looks += 1;
            chunk.overlapped = self.locks.writing(offset, len);
            self.digest_send(at);
            return;
        }
        chunk.stage = Stage::Waiting;
        if let Some(told) = &mut self.verify.told {
            told.locked += 1;
        }
        if let Some(held) = self.locks.acquire(Lock {
            owner: Owner::Verify(at),
            access: Access::Copy,
            offset,
            len,
        }) {
            self.verify_locked(at, held);
        }
    }

    pub(super) fn verify_locked(&mut self, at: Handle, held: Held) {
        let Some(chunk) = self.verify.chunks.get_mut(at) else {
            return self.unlock(held);
        };
        chunk.held = Some(held);
        chunk.stage = Stage::Held;
        let bytes = chunk.bytes.clone();
        if self.verify_gated(&bytes) {
            self.verify_set_aside(at);
        } else {
            self.digest_send(at);
        }
    }

    /// Both legs were asked under the lock.
    fn compare(&mut self, at: Handle, a: Answer, b: Answer) {
        let Some(bytes) = self.verify.chunks.get(at).map(|chunk| chunk.bytes.clone()) else {
            return;
        };
        if self.verify_gated(&bytes) {
            return self.verify_set_aside(at);
        }
        match (a, b) {
            (Some(a), Some(b)) => self.report_differing(&bytes, &a, &b),
            (a, b) => {
                for leg in [(Leg::A, a), (Leg::B, b)]
                    .into_iter()
                    .filter_map(|(leg, answer)| answer.is_none().then_some(leg))
                {
                    self.out.event(Event::VerifyUnreadable {
                        leg,
                        offset: bytes.start,
                        len: bytes.end - bytes.start,
                    });
                }
                if let Some(told) = &mut self.verify.told {
                    told.unreadable.add(bytes.clone());
                }
            }
        }
        self.chunk_done(at);
    }

    fn report_differing(&mut self, bytes: &Range<u64>, a: &[u64], b: &[u64]) {
        let blocks = (bytes.start..bytes.end).step_by(BLOCK);
        for (n, begin) in blocks.enumerate() {
            if a.get(n).is_some() && a.get(n) == b.get(n) {
                continue;
            }
            let block = begin..(begin + BLOCK as u64).min(bytes.end);
            let told = self.verify.told.as_mut();
            if told.is_some_and(|told| told.differing.add(block.clone())) {
                self.out.event(Event::LegsDiffer {
                    offset: block.start,
                    len: block.end - block.start,
                });
            }
        }
    }

    fn chunk_done(&mut self, at: Handle) {
        let Some(bytes) = self.let_go(at) else { return };
        let len = bytes.end - bytes.start;
        self.pace.copied(len);
        if let Some(run) = &mut self.verify.run {
            run.meter.add(self.now, len);
        }
        if let Some(told) = &mut self.verify.told {
            told.chunks += 1;
        }
    }

    /// The chunk is compared again later, from the beginning.
    fn verify_set_aside(&mut self, at: Handle) {
        if let Some(bytes) = self.let_go(at)
            && let Some(run) = &mut self.verify.run
        {
            run.aside.push_back(bytes);
        }
    }

    fn verify_set_all_aside(&mut self) {
        self.verify.next = None;
        for at in self.verify.under_way() {
            self.verify_set_aside(at);
        }
    }

    /// Forget the chunk and what it holds; an answer that is still under way finds nothing.
    fn let_go(&mut self, at: Handle) -> Option<Range<u64>> {
        let chunk = self.verify.chunks.remove(at)?;
        if let Some(held) = chunk.held {
            self.unlock(held);
        } else if chunk.stage == Stage::Waiting {
            let mut granted = std::mem::take(&mut self.granted);
            self.locks.cancel(Owner::Verify(at), &mut granted);
            self.granted = granted;
            self.run_granted();
        }
        Some(chunk.bytes)
    }

    /// `None`: everything was compared.
    fn verify_end(&mut self, stop: Option<VerifyStop>) {
        if !self.verify.is_running() {
            return;
        }
        self.verify_set_all_aside();
        let told = self.verify.status(self.geometry.size());
        self.verify.run = None;
        let Some(mut told) = told else { return };
        told.phase = stop.map_or(VerifyPhase::Done, VerifyPhase::Stopped);
        (told.bytes_per_second, told.eta) = (0, None);
        self.out.event(Event::VerifyEnded {
            stop,
            position: told.position,
            differing: told.differing.bytes,
            unreadable: told.unreadable.bytes,
        });
        self.verify.told = Some(told);
    }
}
