//! Things that must become durable on legs one after the other, as a list of steps.
//!
//! A step begins when everything of the step before is durable, over relogins and resends. A script that is replaced leaves
//! commands behind; a new one does not write to a leg before those are over, because two writes to one superblock slot may
//! be executed in any order.

use std::collections::VecDeque;

use twinsite_register::{Leg, Members};

use super::Serve;
use super::commands::Purpose;
use super::guest::Kind;
use super::state::Fact;
use crate::flush::Mark;
use crate::io::{Block, DATA_START, LegOp};
use crate::slab::{Handle, Slab};

/// Blocks or pages of a script that are under way at once.
const WINDOW: usize = 64;

/// Pieces of [`Step::Zeroes`] under way on each leg, and the longest one that is written rather than unmapped: each has to be
/// over within the time of a command, also on a target that is slow at WRITE SAME.
const ZEROES: usize = 2;
const ZERO_PIECE: u64 = 4 << 20;

/// A block for a leg.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) leg: Leg,
    pub(super) offset: u64,
    pub(super) block: Block,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Write(VecDeque<Write>),
    /// These bytes of the volume read as zeros on both legs afterwards, though not over a power cut without a SYNC.
    Zeroes {
        kind: Kind,
        next: u64,
        end: u64,
    },
    Sync(Members),
    /// Every map page with a dirty region, to the legs that keep the map (2.5 step 4).
    DirtyPages,
    /// Every map page to the joining leg (2.6 step 6b).
    JoinPages(Leg),
    /// The next beat, on this leg too.
    JoinBeat(Leg),
}

#[derive(Debug)]
struct Job {
    leg: Leg,
    op: LegOp,
    sent: bool,
    orphan: bool,
}

/// The script under way.
#[derive(Debug, Default)]
pub(super) struct Script {
    steps: VecDeque<Step>,
    /// Set when the first step of `steps` has begun.
    begun: bool,
    marks: [Option<Mark>; 2],
    next_page: u32,
    beat: u64,
}

/// Scripts and the blocks they write.
#[derive(Debug)]
pub(super) struct Scripts {
    jobs: Slab<Job>,
    current: Option<Script>,
    /// Number of the script begun or cancelled last: an end that was overtaken is told apart.
    pub(super) number: u32,
}

impl Scripts {
    pub(super) const fn new() -> Self {
        Self {
            jobs: Slab::new(0),
            current: None,
            number: 0,
        }
    }

    pub(super) fn job(&self, at: Handle) -> Option<LegOp> {
        self.jobs.get(at).map(|job| job.op.clone())
    }

    pub(super) fn running(&self) -> bool {
        self.current.is_some()
    }

    fn of(&self, leg: Leg) -> usize {
        self.jobs.iter().filter(|(_, job)| job.leg == leg).count()
    }
}

impl Serve {
    /// Begin a script in place of the one under way. [`Fact::ScriptDone`] follows the last step.
    pub(super) fn start_script(&mut self, steps: Vec<Step>) {
        self.cancel_script();
        self.scripts.current = Some(Script {
            steps: steps.into(),
            ..Script::default()
        });
        self.run_script();
    }

    pub(super) fn cancel_script(&mut self) {
        self.scripts.current = None;
        self.scripts.number += 1;
        for at in self.scripts.jobs.handles() {
            match self.scripts.jobs.get_mut(at) {
                Some(job) if job.sent => job.orphan = true,
                _ => {
                    self.scripts.jobs.remove(at);
                }
            }
        }
    }

    /// Go on as far as possible.
    pub(super) fn run_script(&mut self) {
        loop {
            let Some(script) = self.scripts.current.as_mut() else {
                return;
            };
            let Some(step) = script.steps.front_mut() else {
                self.scripts.current = None;
                self.fact(Fact::ScriptDone(self.scripts.number));
                return;
            };
            let begun = std::mem::replace(&mut script.begun, true);
            let over = match step {
                Step::Write(queue) => {
                    let jobs = &self.scripts.jobs;
                    let orphans = |leg| jobs.iter().any(|(_, job)| job.orphan && job.leg == leg);
                    let blocked = Leg::BOTH.map(orphans);
                    if queue.iter().any(|write| blocked[write.leg.index()]) {
                        return;
                    }
                    let room = WINDOW.saturating_sub(self.scripts.jobs.len());
                    let batch: Vec<Write> = queue.drain(..queue.len().min(room)).collect();
                    let empty = queue.is_empty();
                    for write in batch {
                        self.write_job(write);
                    }
                    empty && self.scripts.jobs.iter().all(|(_, job)| job.orphan)
                }
                Step::Zeroes { kind, next, end } => {
                    let (kind, from, end) = (*kind, *next, *end);
                    if self.scripts.jobs.iter().any(|(_, job)| job.orphan) {
                        return;
                    }
                    self.zero_step(kind, from, end)
                }
                Step::Sync(legs) => {
                    let legs = *legs;
                    self.script_sync(legs, begun)
                }
                Step::DirtyPages => {
                    if !begun {
                        for page in self.map.dirty_pages() {
                            self.map.force(page);
                        }
                        self.start_pages();
                    }
                    self.map.is_quiet()
                }
                Step::JoinPages(leg) => {
                    let leg = *leg;
                    self.join_pages(leg)
                }
                Step::JoinBeat(leg) => {
                    let leg = *leg;
                    if !begun {
                        self.beats.join(leg);
                        let target = self.beats.number() + 1;
                        if let Some(script) = self.scripts.current.as_mut() {
                            script.beat = target;
                        }
                        self.beat_now();
                    }
                    let wanted = self
                        .scripts
                        .current
                        .as_ref()
                        .map_or(0, |script| script.beat);
                    self.beats.durable() >= wanted
                }
            };
            let Some(script) = self.scripts.current.as_mut() else {
                return;
            };
            if !over {
                return;
            }
            script.steps.pop_front();
            script.begun = false;
            script.next_page = 0;
        }
    }

    fn script_sync(&mut self, legs: Members, begun: bool) -> bool {
        let marks = if begun {
            self.scripts
                .current
                .as_ref()
                .map_or([None; 2], |script| script.marks)
        } else {
            let marks =
                Leg::BOTH.map(|leg| legs.contains(leg).then(|| self.syncs[leg.index()].mark()));
            if let Some(script) = self.scripts.current.as_mut() {
                script.marks = marks;
            }
            for leg in legs.iter() {
                if let Some(mark) = marks[leg.index()] {
                    self.want_sync_quietly(leg, mark);
                }
            }
            marks
        };
        Leg::BOTH
            .into_iter()
            .all(|leg| marks[leg.index()].is_none_or(|mark| self.syncs[leg.index()].covers(mark)))
    }

    fn want_sync_quietly(&mut self, leg: Leg, mark: Mark) {
        if !self.syncs[leg.index()].covers(mark) {
            self.want_sync(leg, mark);
        }
    }

    fn join_pages(&mut self, leg: Leg) -> bool {
        let Some(script) = self.scripts.current.as_mut() else {
            return false;
        };
        let first = script.next_page;
        let joined = (0..first).filter(|&page| self.map.keeps(page, leg)).count();
        let open = first as usize - joined;
        let last = (first + WINDOW.saturating_sub(open) as u32).min(self.map.page_count());
        script.next_page = last;
        if last > first {
            for page in first..last {
                self.map.join(page, leg);
            }
            self.start_pages();
        }
        self.map.joined(leg)
    }

    /// The next pieces, on both legs; `true`: all are done.
    fn zero_step(&mut self, kind: Kind, from: u64, end: u64) -> bool {
        let mut next = from;
        while next < end
            && Leg::BOTH
                .into_iter()
                .all(|leg| self.scripts.of(leg) < ZEROES)
        {
            let (kind, len) = match self.piece(kind, next, end - next) {
                (Kind::Discard, len) => (Kind::Discard, len),
                (kind, len) => (kind, len.min(ZERO_PIECE)),
            };
            let offset = DATA_START + next;
            for leg in Leg::BOTH {
                self.add_job(
                    leg,
                    match kind {
                        Kind::Discard => LegOp::Discard { offset, len },
                        _ => LegOp::Zero { offset, len },
                    },
                );
            }
            next += len;
        }
        if let Some(Step::Zeroes { next: left, .. }) = self
            .scripts
            .current
            .as_mut()
            .and_then(|script| script.steps.front_mut())
        {
            *left = next;
        }
        next >= end && self.scripts.jobs.is_empty()
    }

    fn write_job(&mut self, write: Write) {
        let op = LegOp::WriteMeta {
            offset: write.offset,
            block: write.block,
        };
        self.add_job(write.leg, op);
    }

    fn add_job(&mut self, leg: Leg, op: LegOp) {
        let ready = self.links[leg.index()].ready();
        let at = self.scripts.jobs.insert(Job {
            leg,
            op,
            sent: ready,
            orphan: false,
        });
        if ready {
            self.send(leg, Purpose::Job(at));
        }
    }

    pub(super) fn job_done(&mut self, at: Handle) {
        if let Some(job) = self.scripts.jobs.remove(at)
            && !matches!(job.op, LegOp::WriteMeta { .. })
        {
            self.syncs[job.leg.index()].wrote();
        }
        self.run_script();
    }

    pub(super) fn job_gone(&mut self, at: Handle) {
        match self.scripts.jobs.get_mut(at) {
            Some(job) if !job.orphan => job.sent = false,
            _ => {
                self.scripts.jobs.remove(at);
                self.run_script();
            }
        }
    }

    pub(super) fn resend_jobs(&mut self, leg: Leg) {
        for at in self.scripts.jobs.handles() {
            let Some(job) = self.scripts.jobs.get_mut(at) else {
                continue;
            };
            if job.leg == leg && !job.sent {
                job.sent = true;
                self.send(leg, Purpose::Job(at));
            }
        }
        self.run_script();
    }
}
