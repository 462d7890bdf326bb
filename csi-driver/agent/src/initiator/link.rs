//! A leg as the mirror sees it: up or down, commands in, answers out.
//!
//! ```text
//!          connect()             both logged in, LUN known
//!   Off ------------> Trying ---------------------------> Up
//!    ^   portal after  |  ^                               |
//!    |   portal        v  | pause                         | a session lost
//!    +--disconnect()-- Waiting <--------------------------+
//! ```
//! The two sessions (data, resync) live and die together, on the same portal. All portals are tried in turn; a round
//! without success is one [`LinkEvent::Down`].
//!
//! Invariants: every command that was taken is answered exactly once, before the `Down` of its session; a session logs
//! in with an ISID that is fixed for volume, leg and session, so that a login through any portal of the same portal
//! group ends the commands of the session before (R15); a login through another portal group is a new nexus, and the
//! LUN is reset before anything else is sent there, so that nothing of the old nexus can be executed later (R31).
//! Not here: what a command means (`command`), time-outs of commands and retries (the mirror engine).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use twinsite_iscsi::scsi::client::test_unit_ready;
use twinsite_iscsi::scsi::{Lun, ScsiOutcome, Status, TaskFunction, TaskResponse};
use twinsite_iscsi::session::{
    DataDir, DropReason, InitiatorConfig, InitiatorEvent, InitiatorLimits, SessionKind,
    TaskManagement,
};
use twinsite_mirror::io::{CmdId, Lane, LegDown, LegError, LegInfo, LegOp, LegReply};

use super::command::Arrived;
use super::commands::{Commands, IN_FLIGHT};
use super::identify::{Identify, Limits, Next};
use super::random::random;
use super::session::{Fate, Loss, Session, Tokens};
use super::spec::{LegSpec, naa_text};
use crate::reactor::{Context, Event, SocketOptions, Token};

/// What a link tells.
#[derive(Debug)]
pub enum LinkEvent {
    Up(LegInfo),
    Down(LegDown),
    Done {
        cmd: CmdId,
        result: Result<LegReply, LegError>,
        arrived: Option<Arrived>,
    },
}

/// Unit attentions of a new nexus are reported once each.
const MAX_ATTENTIONS: u32 = 16;
/// How often in a row a target may send us elsewhere.
const MAX_REDIRECTS: u32 = 4;

const TAG_IDENTIFY: u64 = 1 << 63;
const TAG_ATTENTION: u64 = 1 << 62;
const TAG_RESET: u64 = 1 << 61;

enum State {
    Off,
    Trying {
        portal: usize,
        /// Portals of this round that were tried, this one included.
        tried: usize,
        until: Duration,
        login: [Login; 2],
        identify: Option<Identify>,
        /// The LUN is being reset since the nexus is a new one.
        resetting: bool,
    },
    Waiting {
        until: Duration,
    },
    Up {
        portal: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Login {
    Begun,
    LoggedIn,
    /// No unit attention of the new nexus is pending.
    Ready,
}

/// One leg.
pub struct Link {
    spec: LegSpec,
    sessions: [Session; 2],
    state: State,
    commands: Commands,
    /// The portal group of the last login, whose nexuses may still have commands of ours.
    portal_group: Option<u16>,
    group_of_login: Option<u16>,
    /// Answers to a repeated `Identify`, one at a time.
    identify: Option<(CmdId, Identify)>,
    identify_waiting: VecDeque<CmdId>,
    attentions: u32,
    pause: Duration,
    redirect: Option<SocketAddr>,
    redirects: u32,
    refused: Option<LegDown>,
    /// Why the last portal did not do, and whether that was told.
    trouble: Option<String>,
    trouble_told: bool,
    events: VecDeque<LinkEvent>,
}

impl Link {
    /// `token_base` keeps the tokens of the links of one actor apart; it uses this number and the next.
    pub fn new(spec: LegSpec, token_base: u16) -> Self {
        let session = |n| {
            Session::new(Tokens {
                base: token_base + n,
            })
        };
        let lun = Lun::from_number(spec.lun);
        Self {
            pause: spec.times.retry.0,
            spec,
            sessions: [session(0), session(1)],
            state: State::Off,
            commands: Commands::new(lun),
            portal_group: None,
            group_of_login: None,
            identify: None,
            identify_waiting: VecDeque::new(),
            attentions: 0,
            redirect: None,
            redirects: 0,
            refused: None,
            trouble: None,
            trouble_told: true,
            events: VecDeque::new(),
        }
    }

    pub fn poll(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Why no portal does, if that has changed: `Some(None)` when one does.
    pub fn news(&mut self) -> Option<Option<String>> {
        let told = std::mem::replace(&mut self.trouble_told, true);
        (!told).then(|| self.trouble.clone())
    }

    fn set_trouble(&mut self, trouble: Option<String>) {
        self.trouble_told &= trouble == self.trouble;
        self.trouble = trouble;
    }

    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// The address of the portal in use.
    pub fn portal(&self) -> Option<SocketAddr> {
        match self.state {
            State::Up { portal } => self.spec.portals.get(portal).copied(),
            State::Off | State::Trying { .. } | State::Waiting { .. } => None,
        }
    }

    /// Logs in and stays connected until [`Self::disconnect`].
    pub fn connect(&mut self, cx: &mut Context<'_>) {
        if matches!(self.state, State::Off) {
            self.pause = self.spec.times.retry.0;
            self.try_portal(cx, 0, 1);
        }
    }

    /// The same LUN by other ways: they are taken from the next login on. Another LUN is not taken.
    pub fn readdress(&mut self, spec: LegSpec) {
        let place = |spec: &LegSpec| (spec.iqn.clone(), spec.lun, spec.naa);
        if place(&spec) == place(&self.spec) && !spec.portals.is_empty() {
            self.spec.portals = spec.portals;
            self.spec.chap = spec.chap;
        }
    }

    /// Tears the sessions down; everything open is answered with `SessionGone`.
    pub fn disconnect(&mut self, cx: &mut Context<'_>) {
        let was_off = matches!(self.state, State::Off);
        for session in &mut self.sessions {
            session.close(cx);
        }
        self.state = State::Off;
        self.fail_open();
        if !was_off {
            self.events.push_back(LinkEvent::Down(LegDown::Closed));
        }
    }

    /// Gives a command to the leg. `payload` is what it writes.
    pub fn submit(
        &mut self,
        now: Duration,
        cmd: CmdId,
        op: LegOp,
        lane: Lane,
        payload: Vec<Bytes>,
    ) {
        if !self.is_up() {
            return self.done(cmd, Err(LegError::SessionGone));
        }
        if op == LegOp::Identify {
            self.identify_waiting.push_back(cmd);
            return self.identify_next(now);
        }
        let sessions = &mut self.sessions;
        self.commands.begin(now, sessions, (cmd, op), lane, payload);
        self.tell_ended();
    }

    /// Everything that ended becomes an event.
    fn tell_ended(&mut self) {
        while let Some(ended) = self.commands.ended.pop_front() {
            self.events.push_back(LinkEvent::Done {
                cmd: ended.cmd,
                result: ended.result,
                arrived: ended.arrived,
            });
        }
    }

    /// A result of an operation with a token of this link; `n` is the session by its token base.
    pub fn handle(&mut self, cx: &mut Context<'_>, n: usize, token: Token, event: Event) {
        let fate = self.sessions[n].handle(cx, token, event);
        let serial = self.sessions[n].serial();
        self.take_events(cx, n);
        // An end that the session told by itself was taken in already, and the next portal is being tried.
        if let Fate::Lost(loss) = fate
            && self.sessions[n].serial() == serial
        {
            self.lost(cx, &loss);
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, cx: &mut Context<'_>) {
        let now = cx.now();
        for n in 0..2 {
            self.sessions[n].tick(now);
            self.take_events(cx, n);
        }
        match self.state {
            State::Trying { until, .. } if now >= until => {
                self.lost(cx, &Loss::Connect("no answer in time".to_owned()));
            }
            State::Waiting { until } if now >= until => self.try_portal(cx, 0, 1),
            _ => {}
        }
    }

    pub fn deadline(&self) -> Option<Duration> {
        let own = match self.state {
            State::Trying { until, .. } | State::Waiting { until } => Some(until),
            State::Off | State::Up { .. } => None,
        };
        let sessions = self.sessions.iter().filter_map(Session::deadline);
        sessions.chain(own).min()
    }

    /// Sends what has gathered; once after a batch of the calls above.
    pub fn settle(&mut self, cx: &mut Context<'_>) {
        for session in &mut self.sessions {
            session.settle(cx);
        }
    }

    /// Tries a portal as the n-th one of a round.
    fn try_portal(&mut self, cx: &mut Context<'_>, portal: usize, n: usize) {
        let portals = &self.spec.portals;
        if n > portals.len() {
            return self.round_over(cx);
        }
        let portal = portal % portals.len();
        let address = self.redirect.take().unwrap_or(portals[portal]);
        self.state = State::Trying {
            portal,
            tried: n,
            until: cx.now() + self.spec.times.portal,
            login: [Login::Begun; 2],
            identify: None,
            resetting: false,
        };
        self.group_of_login = None;
        self.attentions = 0;
        for n in 0..2 {
            let begun = match self.login(n) {
                Ok(config) => {
                    let options = SocketOptions::default();
                    self.sessions[n].begin(cx, address, &options, config)
                }
                Err(loss) => Err(loss),
            };
            if let Err(loss) = begun {
                return self.lost(cx, &loss);
            }
        }
    }

    fn login(&self, n: usize) -> Result<InitiatorConfig, Loss> {
        let spec = &self.spec;
        let mut isid = spec.isid;
        isid[5] = isid[5].wrapping_add(n as u8);
        let (ping_interval, ping_timeout) = spec.pings();
        Ok(InitiatorConfig {
            initiator_name: spec.initiator_name.clone(),
            initiator_alias: None,
            kind: SessionKind::Normal {
                target: spec.iqn.clone(),
            },
            isid,
            chap: spec.chap.clone(),
            offer: spec.offer.clone(),
            limits: InitiatorLimits {
                max_in_flight: IN_FLIGHT,
                max_queued: 2 * IN_FLIGHT,
                login_timeout: spec.times.portal,
                ping_interval: Some(ping_interval),
                ping_timeout,
            },
            random: random().map_err(|error| Loss::Connect(error.to_string()))?,
        })
    }

    /// No portal is left in this round.
    fn round_over(&mut self, cx: &mut Context<'_>) {
        self.state = State::Waiting {
            until: cx.now() + self.pause,
        };
        self.pause = (self.pause * 2).min(self.spec.times.retry.1);
        self.redirects = 0;
        let why = self.refused.take().unwrap_or(LegDown::Unreachable);
        self.events.push_back(LinkEvent::Down(why));
    }

    /// A session is over, and with it the other one.
    fn lost(&mut self, cx: &mut Context<'_>, loss: &Loss) {
        for session in &mut self.sessions {
            session.close(cx);
        }
        match self.state {
            State::Up { portal: lost } => {
                let portal = self.spec.portals.get(lost).map(ToString::to_string);
                let portal = portal.unwrap_or_default();
                tracing::info!(iqn = %self.spec.iqn, portal, %loss, "session lost");
                self.fail_open();
                self.events.push_back(LinkEvent::Down(LegDown::SessionLost));
                self.pause = self.spec.times.retry.0;
                // The path that just failed comes last.
                self.try_portal(cx, lost + 1, 1);
            }
            State::Trying { portal, tried, .. } => {
                let address = self.spec.portals.get(portal);
                tracing::debug!(iqn = %self.spec.iqn, ?address, %loss, "portal without success");
                self.set_trouble(address.map(|at| format!("portal {at}: {loss}")));
                if self.redirect.is_some() {
                    self.try_portal(cx, portal, tried);
                } else {
                    self.try_portal(cx, portal + 1, tried + 1);
                }
            }
            State::Off | State::Waiting { .. } => {}
        }
    }

    fn fail_open(&mut self) {
        self.commands.fail_all();
        self.tell_ended();
        let identifying = self.identify.take().map(|(cmd, _)| cmd);
        for cmd in identifying
            .into_iter()
            .chain(std::mem::take(&mut self.identify_waiting))
        {
            self.done(cmd, Err(LegError::SessionGone));
        }
    }

    fn done(&mut self, cmd: CmdId, result: Result<LegReply, LegError>) {
        self.commands.end(cmd, result);
        self.tell_ended();
    }

    fn take_events(&mut self, cx: &mut Context<'_>, n: usize) {
        let now = cx.now();
        while let Some(event) = self.sessions[n].poll_event() {
            match event {
                InitiatorEvent::Done { tag, outcome } => self.answered(cx, n, tag, outcome),
                InitiatorEvent::LoggedIn { portal_group, .. } => {
                    self.logged_in(now, n, portal_group);
                }
                InitiatorEvent::TmfDone { tag, response } => self.reset_done(cx, tag, response),
                InitiatorEvent::Dropped(reason) => return self.dropped(cx, reason),
                InitiatorEvent::LoggedOut => {
                    return self.lost(cx, &Loss::Closed("logged out".to_owned()));
                }
                InitiatorEvent::LogoutRequested { .. } => {
                    let why = "the target asked for a logout".to_owned();
                    return self.lost(cx, &Loss::Closed(why));
                }
                InitiatorEvent::Discovered(_) | InitiatorEvent::UnitEvent { .. } => {}
            }
        }
    }

    fn dropped(&mut self, cx: &mut Context<'_>, reason: DropReason) {
        match &reason {
            DropReason::LoginRefused { .. } => self.refused = Some(LegDown::LoginRefused),
            DropReason::Redirected { address, .. } if self.redirects < MAX_REDIRECTS => {
                self.redirects += 1;
                let address = address.split(',').next().unwrap_or_default();
                self.redirect = address.parse().ok();
            }
            _ => {}
        }
        self.lost(cx, &Loss::Ended(reason));
    }

    fn logged_in(&mut self, now: Duration, n: usize, portal_group: Option<u16>) {
        let State::Trying { login, .. } = &mut self.state else {
            return;
        };
        login[n] = Login::LoggedIn;
        self.group_of_login = self.group_of_login.or(portal_group);
        self.ask_ready(now, n);
    }

    /// Makes the unit tell what it has to tell a new nexus, before anything else is asked.
    fn ask_ready(&mut self, now: Duration, n: usize) {
        let command = self.commands.command(test_unit_ready(), DataDir::None);
        self.sessions[n].submit(now, TAG_ATTENTION, command);
    }

    fn answered(&mut self, cx: &mut Context<'_>, n: usize, tag: u64, outcome: ScsiOutcome) {
        match tag {
            TAG_ATTENTION => self.attention(cx, n, &outcome),
            TAG_IDENTIFY => self.identify_answered(cx, &outcome),
            tag => {
                let (now, sessions) = (cx.now(), &mut self.sessions);
                self.commands.answered(now, sessions, n, tag, outcome);
                self.tell_ended();
            }
        }
    }

    fn attention(&mut self, cx: &mut Context<'_>, n: usize, outcome: &ScsiOutcome) {
        let pending = matches!(outcome.status, Status::CheckCondition | Status::Busy);
        if pending && self.attentions < MAX_ATTENTIONS {
            self.attentions += 1;
            return self.ask_ready(cx.now(), n);
        }
        let State::Trying { login, .. } = &mut self.state else {
            return;
        };
        login[n] = Login::Ready;
        if login.iter().all(|login| *login == Login::Ready) {
            self.both_ready(cx.now());
        }
    }

    fn both_ready(&mut self, now: Duration) {
        let new_nexus = self.portal_group.is_some() && self.portal_group != self.group_of_login;
        let cache_protected = self.spec.cache_protected;
        let lun = Lun::from_number(self.spec.lun);
        let State::Trying {
            identify,
            resetting,
            ..
        } = &mut self.state
        else {
            return;
        };
        if new_nexus && !*resetting {
            *resetting = true;
            let function = TaskFunction::LunReset;
            let request = TaskManagement { lun, function };
            return self.sessions[0].submit_task_management(now, TAG_RESET, request);
        }
        let first = Identify::new(cache_protected);
        let next = first.ask();
        *identify = Some(first);
        self.ask(now, &next);
    }

    fn reset_done(&mut self, cx: &mut Context<'_>, tag: u64, response: TaskResponse) {
        if tag != TAG_RESET || !matches!(self.state, State::Trying { .. }) {
            return;
        }
        if response == TaskResponse::Complete {
            // Both sessions are told of the reset by a unit attention.
            self.attentions = 0;
            self.portal_group = self.group_of_login;
            for n in 0..2 {
                if let State::Trying { login, .. } = &mut self.state {
                    login[n] = Login::LoggedIn;
                }
                self.ask_ready(cx.now(), n);
            }
        } else {
            let why = format!("the reset of the LUN failed: {response:?}");
            self.lost(cx, &Loss::Closed(why));
        }
    }

    fn ask(&mut self, now: Duration, next: &Next) {
        if let Next::Ask(cdb, len) = next {
            let command = self.commands.command(*cdb, DataDir::In(*len));
            self.sessions[0].submit(now, TAG_IDENTIFY, command);
        }
    }

    fn identify_answered(&mut self, cx: &mut Context<'_>, outcome: &ScsiOutcome) {
        if let State::Trying {
            identify: Some(identify),
            ..
        } = &mut self.state
        {
            match identify.answered(outcome) {
                Next::Done(info, limits) => self.identified(cx, info, limits),
                Next::Failed(error) => {
                    let why = format!("the LUN does not tell what it is: {error}");
                    self.lost(cx, &Loss::Closed(why));
                }
                next => self.ask(cx.now(), &next),
            }
        } else if let Some((cmd, mut identify)) = self.identify.take() {
            match identify.answered(outcome) {
                Next::Done(info, limits) => {
                    self.commands.limits = limits;
                    self.done(cmd, Ok(LegReply::Identity(info)));
                    self.identify_next(cx.now());
                }
                Next::Failed(error) => {
                    self.done(cmd, Err(error));
                    self.identify_next(cx.now());
                }
                next => {
                    self.identify = Some((cmd, identify));
                    self.ask(cx.now(), &next);
                }
            }
        }
    }

    fn identify_next(&mut self, now: Duration) {
        if self.identify.is_none()
            && let Some(cmd) = self.identify_waiting.pop_front()
        {
            let identify = Identify::new(self.spec.cache_protected);
            let next = identify.ask();
            self.identify = Some((cmd, identify));
            self.ask(now, &next);
        }
    }

    fn identified(&mut self, cx: &mut Context<'_>, info: LegInfo, limits: Limits) {
        let State::Trying { portal, .. } = self.state else {
            return;
        };
        if let Some(expected) = self.spec.naa.filter(|naa| *naa != info.naa) {
            let (expected, found) = (naa_text(expected), naa_text(info.naa));
            tracing::warn!(iqn = %self.spec.iqn, expected, found, "another LUN");
            self.refused = Some(LegDown::OtherLun);
            return self.lost(cx, &Loss::OtherLun { expected, found });
        }
        self.commands.limits = limits;
        self.portal_group = self.group_of_login;
        self.pause = self.spec.times.retry.0;
        self.redirects = 0;
        self.refused = None;
        self.set_trouble(None);
        self.state = State::Up { portal };
        self.events.push_back(LinkEvent::Up(info));
    }
}
