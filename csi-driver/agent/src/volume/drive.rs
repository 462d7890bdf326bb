//! A closed-loop load, made and measured on the data thread itself: what a benchmark drives a volume or one leg with.
//!
//! `depth` requests are kept open; a new one begins in the turn in which an old one ended. The latency of a request is
//! the time from its hand-over to its answer, by the thread's own clock, so no wake-up of another thread is in it.
//! The same code drives both sides of a comparison: a volume ([`super::OpenVolume::drive`]) and a leg without a mirror
//! ([`LegAlone`]).
#![allow(unsafe_code, reason = "the CPU time of a thread has no form in std")]

use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use twinsite_mirror::io::{CmdId, Lane, LegDown, LegOp, ReqId};

use crate::frontend::GuestOp;
use crate::initiator::{LegSpec, Link, LinkEvent};
use crate::reactor::{Actor, Alarm, Context, Event, Inlet, Mailbox, Thread, Token};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Places {
    Sequential,
    /// Evenly over the span, the same for the same seed.
    Random {
        seed: u64,
    },
}

/// What to do. `span` is a multiple of `block`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    pub kind: Kind,
    pub block: u32,
    pub depth: u32,
    /// Bytes from the start of the volume, or of the LUN.
    pub offset: u64,
    pub span: u64,
    pub places: Places,
    /// Requests that are measured, after `warm_up` others.
    pub requests: u64,
    pub warm_up: u64,
}

/// What came out.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// Nanoseconds of each measured request, in the order of their ends.
    pub latencies: Vec<u64>,
    pub elapsed: Duration,
    /// CPU time of the data thread meanwhile.
    pub cpu: Duration,
    pub failed: u64,
}

impl Run {
    /// The latency below which this share (0.5, 0.99) of the requests stayed.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        let at = ((last as f64) * share.clamp(0.0, 1.0)).round() as usize;
        Duration::from_nanos(sorted.get(at).copied().unwrap_or(0))
    }

    pub fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Called with the outcome, on the data thread.
pub type Finished = Box<dyn FnOnce(Run) + Send>;

/// One load under way.
pub(super) struct Drive {
    work: Workload,
    data: Bytes,
    random: u64,
    started: u64,
    ended: u64,
    begun: Vec<Option<Instant>>,
    free: Vec<u32>,
    first: Option<(Instant, Duration)>,
    run: Run,
    finished: Option<Finished>,
}

impl Drive {
    pub(super) fn new(work: Workload, finished: Finished) -> Self {
        let depth = work.depth.max(1);
        let seed = match work.places {
            Places::Random { seed } => seed,
            Places::Sequential => 0,
        };
        // Not all alike, so that nobody on the way finds zeros.
        let data: Vec<u8> = (0..work.block).map(|n| (n % 251) as u8 + 1).collect();
        Self {
            data: data.into(),
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            started: 0,
            ended: 0,
            begun: vec![None; depth as usize],
            free: (0..depth).rev().collect(),
            first: None,
            run: Run::default(),
            finished: Some(finished),
            work,
        }
    }

    fn total(&self) -> u64 {
        self.work.warm_up + self.work.requests
    }

    pub(super) fn is_ready(&self) -> bool {
        self.started < self.total() && !self.free.is_empty()
    }

    /// The next request, with the slot that its answer has to name.
    pub(super) fn next(&mut self) -> Option<(u32, GuestOp)> {
        if !self.is_ready() {
            return None;
        }
        let slot = self.free.pop()?;
        let blocks = (self.work.span / u64::from(self.work.block)).max(1);
        let block = match self.work.places {
            Places::Sequential => self.started % blocks,
            Places::Random { .. } => {
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                self.random % blocks
            }
        };
        let offset = self.work.offset + block * u64::from(self.work.block);
        if self.started == self.work.warm_up {
            self.first = Some((Instant::now(), thread_cpu()));
        }
        self.started += 1;
        self.begun[slot as usize] = Some(Instant::now());
        let op = match self.work.kind {
            Kind::Read => GuestOp::Read {
                offset,
                len: self.work.block,
            },
            Kind::Write => GuestOp::Write {
                offset,
                data: self.data.clone(),
                fua: false,
            },
        };
        Some((slot, op))
    }

    /// `true`: that was the last one.
    pub(super) fn ended(&mut self, slot: u32, good: bool) -> bool {
        let Some(begun) = self.begun[slot as usize].take() else {
            return false;
        };
        self.free.push(slot);
        self.ended += 1;
        if !good {
            self.run.failed += 1;
        } else if self.ended > self.work.warm_up {
            let nanos = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.run.latencies.push(nanos);
        }
        if self.ended < self.total() {
            return false;
        }
        if let Some((first, cpu)) = self.first {
            self.run.elapsed = first.elapsed();
            self.run.cpu = thread_cpu().saturating_sub(cpu);
        }
        if let Some(finished) = self.finished.take() {
            finished(std::mem::take(&mut self.run));
        }
        true
    }
}

fn thread_cpu() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a live timespec for the call to fill in.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(time.tv_sec.unsigned_abs(), nanos)
}

/// A leg without a mirror, driven by the same initiator.
pub struct LegAlone {
    mailbox: Mailbox<LegLetter>,
}

enum LegLetter {
    Drive(Workload, Finished),
    Close,
}

impl LegAlone {
    /// Logs in to the LUN, which nobody else has reserved.
    pub fn open(thread: &Thread, spec: LegSpec) -> Self {
        let actor = thread.reserve();
        let (mailbox, inlet) = thread.mailbox(actor, 16);
        thread.start(actor, move |cx| {
            let mut link = Link::new(spec, 0);
            link.connect(cx);
            Box::new(LegActor {
                link,
                inlet,
                drive: None,
                up: false,
                alarm: Alarm::default(),
            })
        });
        Self { mailbox }
    }

    /// Runs a load and waits for its end.
    pub fn drive(&self, work: Workload) -> Run {
        let (send, receive) = mpsc::sync_channel(1);
        let finished = Box::new(move |run| drop(send.send(run)));
        if self.mailbox.post(LegLetter::Drive(work, finished)).is_err() {
            return Run::default();
        }
        receive.recv().unwrap_or_default()
    }
}

impl Drop for LegAlone {
    fn drop(&mut self) {
        // A full mailbox or a gone actor: the thread's end ends it.
        let _ = self.mailbox.post(LegLetter::Close);
    }
}

const TOKEN_ALARM: Token = Token(16 << 48);

struct LegActor {
    link: Link,
    inlet: Inlet<LegLetter>,
    drive: Option<Drive>,
    up: bool,
    alarm: Alarm,
}

impl LegActor {
    fn begin(&mut self, now: Duration) {
        while let Some((slot, op)) = self.drive.as_mut().and_then(Drive::next) {
            let (req, cmd) = (ReqId(slot.into()), CmdId(slot.into()));
            let (op, payload) = match op {
                GuestOp::Write { offset, data, fua } => {
                    let len = data.len() as u32;
                    let skip = 0;
                    let op = LegOp::WriteData {
                        req,
                        skip,
                        offset,
                        len,
                        fua,
                    };
                    (op, vec![data])
                }
                GuestOp::Read { offset, len } => (LegOp::ReadData { req, offset, len }, Vec::new()),
                GuestOp::Flush | GuestOp::Discard { .. } | GuestOp::Zero { .. } => {
                    (LegOp::Sync, Vec::new())
                }
            };
            self.link.submit(now, cmd, op, Lane::Guest, payload);
        }
    }

    fn take_answers(&mut self, now: Duration) {
        loop {
            if self.up {
                self.begin(now);
            }
            let Some(event) = self.link.poll() else {
                return;
            };
            match event {
                LinkEvent::Up(_) => self.up = true,
                LinkEvent::Down(why) => {
                    self.up = false;
                    if why != LegDown::Closed {
                        tracing::warn!(?why, "the leg under load is away");
                    }
                }
                LinkEvent::Done { cmd, result, .. } => {
                    let slot = cmd.0 as u32;
                    let last = |drive: &mut Drive| drive.ended(slot, result.is_ok());
                    if self.drive.as_mut().is_some_and(last) {
                        self.drive = None;
                    }
                }
            }
        }
    }
}

impl Actor for LegActor {
    fn handle(&mut self, cx: &mut Context<'_>, token: Token, event: Event) {
        if token == TOKEN_ALARM {
            self.alarm.fired();
            self.link.tick(cx);
        } else {
            self.link
                .handle(cx, (token.0 >> 48) as usize % 2, token, event);
        }
    }

    fn mail(&mut self, cx: &mut Context<'_>) {
        while let Some(letter) = self.inlet.take() {
            match letter {
                LegLetter::Drive(work, finished) => self.drive = Some(Drive::new(work, finished)),
                LegLetter::Close => {
                    self.link.disconnect(cx);
                    cx.finish();
                }
            }
        }
    }

    fn settle(&mut self, cx: &mut Context<'_>) {
        self.take_answers(cx.now());
        self.link.settle(cx);
        self.alarm.set(cx, TOKEN_ALARM, self.link.deadline());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(depth: u32, places: Places) -> Workload {
        Workload {
            kind: Kind::Write,
            block: 4096,
            depth,
            offset: 1 << 20,
            span: 4096 * 3,
            places,
            requests: 4,
            warm_up: 1,
        }
    }

    #[test]
    fn no_more_than_depth_is_open_and_each_end_makes_room() {
        let (send, receive) = mpsc::channel();
        let finished = Box::new(move |run: Run| send.send(run).unwrap());
        let mut drive = Drive::new(work(2, Places::Sequential), finished);
        let offsets = |op| match op {
            GuestOp::Write { offset, .. } => offset - (1 << 20),
            _ => panic!("writes"),
        };
        let (a, op) = drive.next().unwrap();
        assert_eq!(offsets(op), 0);
        let (b, op) = drive.next().unwrap();
        assert_eq!(offsets(op), 4096);
        assert!(drive.next().is_none());
        assert!(!drive.ended(a, true));
        let (c, op) = drive.next().unwrap();
        assert_eq!(offsets(op), 8192);
        assert!(!drive.ended(b, true) && !drive.ended(c, false));
        let (d, op) = drive.next().unwrap();
        assert_eq!(offsets(op), 0);
        let (e, _) = drive.next().unwrap();
        assert!(!drive.ended(d, true));
        assert!(drive.ended(e, true));
        let run = receive.try_recv().unwrap();
        assert_eq!((run.latencies.len(), run.failed), (3, 1));
    }

    #[test]
    fn random_places_stay_in_the_span_and_repeat_by_seed() {
        let places = |seed| {
            let work = Workload {
                requests: 50,
                ..work(1, Places::Random { seed })
            };
            let mut drive = Drive::new(work, Box::new(|_| {}));
            let mut all = Vec::new();
            while let Some((slot, GuestOp::Write { offset, .. })) = drive.next() {
                all.push(offset);
                drive.ended(slot, true);
            }
            all
        };
        assert_eq!(places(7), places(7));
        assert_ne!(places(7), places(8));
        assert!(
            places(7)
                .iter()
                .all(|at| (1 << 20..(1 << 20) + 4096 * 3).contains(at))
        );
    }

    #[test]
    fn quantiles_of_a_run() {
        let run = Run {
            latencies: (1..=101).rev().collect(),
            elapsed: Duration::from_secs(2),
            ..Run::default()
        };
        assert_eq!(run.quantile(0.5), Duration::from_nanos(51));
        assert_eq!(run.quantile(0.99), Duration::from_nanos(100));
        assert_eq!(run.quantile(1.0), Duration::from_nanos(101));
        assert_eq!(Run::default().quantile(0.5), Duration::ZERO);
    }
}
