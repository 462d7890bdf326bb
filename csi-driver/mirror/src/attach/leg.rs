//! One leg during an attach: its link, what it showed, and the script that runs on it.
//!
//! At most one command is under way per leg. A command without an answer within its limit, or a script without an end within
//! its own, is a lost leg: its sessions are torn down, which ends the command, and the shell logs in again.

use std::time::Duration;

use twinsite_register::{Key, Leg, VolumeId};

use super::head::{Head, HeadReader};
use super::sequence::Sequence;
use crate::config::Config;
use crate::engine::Port;
use crate::fence::Fence;
use crate::io::{CmdId, Lane, LegError, LegInfo, LegOp, LegReply, Output, TargetAge};
use crate::script::{Fault, Script, Step};

/// Pause before a leg that answered with errors is logged in to again.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);

/// What a leg shows before a fence: PERSISTENT RESERVE IN and VPD C0h need no registration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Probed {
    /// Key of the reservation holder.
    pub(super) holder: Option<Key>,
    /// Of an own target.
    pub(super) age: Option<TargetAge>,
}

#[derive(Clone, Debug)]
struct Probe {
    own_target: bool,
    holder: Option<Option<Key>>,
    sent: LegOp,
}

impl Probe {
    fn new(info: &LegInfo) -> Self {
        Self {
            own_target: info.own_target,
            holder: None,
            sent: LegOp::PrReadReservation,
        }
    }
}

impl Script for Probe {
    type Output = Probed;

    fn start(&mut self) -> LegOp {
        self.sent.clone()
    }

    fn handle(&mut self, result: Result<LegReply, LegError>) -> Step<Probed> {
        match (self.holder, result) {
            (_, Err(LegError::Retry)) => Step::Again(self.sent.clone()),
            (_, Err(error)) => Step::Failed(Fault::of(error)),
            (None, Ok(LegReply::Reservation(holder))) => {
                let holder = holder.map(|(key, _)| key);
                if !self.own_target {
                    return Step::Done(Probed { holder, age: None });
                }
                self.holder = Some(holder);
                self.sent = LegOp::ReadTargetAge;
                Step::Send(LegOp::ReadTargetAge)
            }
            (Some(holder), Ok(LegReply::Age(age))) => Step::Done(Probed {
                holder,
                age: Some(age),
            }),
            (_, Ok(_)) => Step::Failed(Fault::Leg),
        }
    }
}

#[derive(Clone, Debug)]
enum Job {
    Idle,
    Probe(Probe),
    Fence(Fence),
    Read(Box<HeadReader>),
    Write(Sequence),
}

/// A script came to its end.
#[derive(Clone, Debug)]
pub(super) enum Ended {
    Probed,
    Fenced,
    Read(Box<Head>),
    Written,
    /// What failed, and how.
    Failed(Kind, Fault),
}

/// Which script.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Probe,
    Fence,
    Read,
    Write,
}

#[derive(Clone, Debug)]
enum Sent {
    Nothing,
    Waiting { cmd: CmdId, until: Duration },
    Pause { at: Duration, op: LegOp },
}

/// One leg.
#[derive(Clone, Debug)]
pub(super) struct LegTrack {
    /// Of which volume of the attach.
    volume: usize,
    leg: Leg,
    /// `Some` while its sessions are logged in.
    pub(super) info: Option<LegInfo>,
    /// Since the login.
    pub(super) probed: Option<Probed>,
    /// Our fence completed, in this attach; it holds until somebody takes it.
    pub(super) fenced: bool,
    /// Somebody else took the leg, or it failed a write: Away for the rest of this attach.
    pub(super) given_up: bool,
    /// As of this round.
    pub(super) head: Option<Box<Head>>,
    job: Job,
    sent: Sent,
    /// The script must end by then.
    job_until: Option<Duration>,
    /// Hung up, until it is tried again.
    connect_at: Option<Duration>,
}

impl LegTrack {
    pub(super) const fn new(volume: usize, leg: Leg) -> Self {
        Self {
            volume,
            leg,
            info: None,
            probed: None,
            fenced: false,
            given_up: false,
            head: None,
            job: Job::Idle,
            sent: Sent::Nothing,
            job_until: None,
            connect_at: None,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.job, Job::Idle)
    }

    /// Logged in, looked at, and not given up.
    pub(super) fn is_reachable(&self) -> bool {
        self.info.is_some() && self.probed.is_some() && !self.given_up
    }

    /// Does it count in this round: fenced, verified after the last fence, and read?
    pub(super) fn is_held(&self) -> bool {
        self.info.is_some() && self.fenced && !self.given_up && self.head.is_some()
    }

    pub(super) fn up(&mut self, now: Duration, info: LegInfo, config: &Config, port: &mut Port) {
        self.info = Some(info);
        self.probed = None;
        let probe = Probe::new(&info);
        self.run(now, Job::Probe(probe), None, config, port);
    }

    /// The sessions are gone. The name of the script that was running comes back.
    pub(super) fn down(&mut self) -> Option<Kind> {
        self.info = None;
        self.probed = None;
        self.head = None;
        self.stop()
    }

    /// Forget the script that is running; its open command is answered later and ignored.
    pub(super) fn stop(&mut self) -> Option<Kind> {
        let kind = self.kind();
        self.job = Job::Idle;
        self.sent = Sent::Nothing;
        self.job_until = None;
        kind
    }

    /// A command had no answer: tear the sessions down, which ends it, and log in again.
    fn reset(&mut self, port: &mut Port) {
        self.down();
        let port = port.of(self.volume);
        port.push(Output::Disconnect { leg: self.leg });
        port.push(Output::Connect { leg: self.leg });
    }

    /// The leg answers, but with errors: log in again after a pause.
    pub(super) fn hang_up(&mut self, now: Duration, port: &mut Port) {
        self.down();
        port.of(self.volume)
            .push(Output::Disconnect { leg: self.leg });
        self.connect_at = Some(now + RECONNECT_AFTER);
    }

    pub(super) fn fence(&mut self, now: Duration, key: Key, config: &Config, port: &mut Port) {
        let until = now + config.fence_timeout;
        self.run(now, Job::Fence(Fence::new(key)), Some(until), config, port);
    }

    pub(super) fn read(
        &mut self,
        now: Duration,
        key: Key,
        volume: VolumeId,
        info: LegInfo,
        config: &Config,
        port: &mut Port,
    ) {
        self.head = None;
        let reader = HeadReader::new(key, volume, self.leg, info);
        self.run(now, Job::Read(Box::new(reader)), None, config, port);
    }

    /// Read without the test of the registrations.
    pub(super) fn look(
        &mut self,
        now: Duration,
        volume: VolumeId,
        info: LegInfo,
        config: &Config,
        port: &mut Port,
    ) {
        self.head = None;
        let reader = HeadReader::looking(volume, self.leg, info);
        self.run(now, Job::Read(Box::new(reader)), None, config, port);
    }

    pub(super) fn write(
        &mut self,
        now: Duration,
        writer: Sequence,
        config: &Config,
        port: &mut Port,
    ) {
        self.run(now, Job::Write(writer), None, config, port);
    }

    fn kind(&self) -> Option<Kind> {
        match self.job {
            Job::Idle => None,
            Job::Probe(_) => Some(Kind::Probe),
            Job::Fence(_) => Some(Kind::Fence),
            Job::Read(_) => Some(Kind::Read),
            Job::Write(_) => Some(Kind::Write),
        }
    }

    fn run(
        &mut self,
        now: Duration,
        mut job: Job,
        until: Option<Duration>,
        config: &Config,
        port: &mut Port,
    ) {
        let op = match &mut job {
            Job::Idle => return,
            Job::Probe(script) => script.start(),
            Job::Fence(script) => script.start(),
            Job::Read(script) => script.start(),
            Job::Write(script) => script.start(),
        };
        self.job = job;
        self.job_until = until;
        self.send(now, op, config, port);
    }

    fn send(&mut self, now: Duration, op: LegOp, config: &Config, port: &mut Port) {
        let cmd = port
            .of(self.volume)
            .attach_command(self.leg, op, Lane::Meta);
        // A fence drains the victim's commands; only its whole time is limited.
        let limit = if matches!(self.job, Job::Fence(_)) {
            config.fence_timeout
        } else {
            config.t_cmd
        };
        self.sent = Sent::Waiting {
            cmd,
            until: now + limit,
        };
    }

    /// The answer to a command; one of a script that was stopped is ignored.
    pub(super) fn handle_done(
        &mut self,
        now: Duration,
        cmd: CmdId,
        result: Result<LegReply, LegError>,
        config: &Config,
        port: &mut Port,
    ) -> Option<Ended> {
        if !matches!(self.sent, Sent::Waiting { cmd: open, .. } if open == cmd) {
            return None;
        }
        self.sent = Sent::Nothing;
        if result == Err(LegError::SessionGone) {
            // `LegDown` follows, and the shell logs in again by itself.
            let kind = self.down()?;
            return Some(Ended::Failed(kind, Fault::Leg));
        }
        let ended = match &mut self.job {
            Job::Idle => return None,
            Job::Probe(script) => match script.handle(result) {
                Step::Done(probed) => {
                    self.probed = Some(probed);
                    Ended::Probed
                }
                other => return self.step(now, other, Kind::Probe, config, port),
            },
            Job::Fence(script) => match script.handle(result) {
                Step::Done(()) => {
                    self.fenced = true;
                    Ended::Fenced
                }
                other => return self.step(now, other, Kind::Fence, config, port),
            },
            Job::Read(script) => match script.handle(result) {
                Step::Done(head) => Ended::Read(head),
                other => return self.step(now, other, Kind::Read, config, port),
            },
            Job::Write(script) => match script.handle(result) {
                Step::Done(()) => Ended::Written,
                other => return self.step(now, other, Kind::Write, config, port),
            },
        };
        self.stop();
        Some(ended)
    }

    fn step<T>(
        &mut self,
        now: Duration,
        step: Step<T>,
        kind: Kind,
        config: &Config,
        port: &mut Port,
    ) -> Option<Ended> {
        match step {
            Step::Send(op) => self.send(now, op, config, port),
            Step::Again(op) => {
                self.sent = Sent::Pause {
                    at: now + config.busy_retry,
                    op,
                }
            }
            Step::Failed(fault) => {
                self.stop();
                return Some(Ended::Failed(kind, fault));
            }
            Step::Done(_) => {}
        }
        None
    }

    /// Time has passed: send what was held back, give up what took too long.
    pub(super) fn handle_time(
        &mut self,
        now: Duration,
        config: &Config,
        port: &mut Port,
    ) -> Option<Ended> {
        if self.connect_at.is_some_and(|at| at <= now) {
            self.connect_at = None;
            port.of(self.volume).push(Output::Connect { leg: self.leg });
        }
        if let Sent::Pause { at, op } = &self.sent
            && *at <= now
        {
            let op = op.clone();
            self.send(now, op, config, port);
        }
        let late = matches!(self.sent, Sent::Waiting { until, .. } if until <= now);
        let over = self.job_until.is_some_and(|until| until <= now);
        if !late && !over {
            return None;
        }
        let kind = self.stop()?;
        self.reset(port);
        Some(Ended::Failed(kind, Fault::Leg))
    }

    /// When [`Self::handle_time`] has something to do.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let sent = match &self.sent {
            Sent::Nothing => None,
            Sent::Waiting { until, .. } => Some(*until),
            Sent::Pause { at, .. } => Some(*at),
        };
        [sent, self.job_until, self.connect_at]
            .into_iter()
            .flatten()
            .min()
    }
}
