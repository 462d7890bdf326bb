//! Both sessions of a leg: from the connection to the leg's answers about itself, what is under way on them, and how they are lost.
//!
//! Invariants: a leg is up only when both sessions are logged in and it said what it is; both live and die together, and whatever
//! was under way on either is answered. Not here: what a command of the engine is as SCSI, and what its answer means (the shell).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use twinsite_iscsi::session::{
    Command, Initiator, InitiatorConfig, InitiatorEvent, InitiatorLimits, Offer, SessionKind,
};
use twinsite_mirror::io::{CmdId, Input, LegDown, LegError, LegOp};

use super::{Act, Shell, leg_of};
use crate::network::ConnId;
use crate::random::Random;
use crate::scsi::{self, Questions};
use crate::target::target_name;

pub(super) enum Purpose {
    Question,
    /// A TEST UNIT READY that takes the unit attention of the second session.
    Warm,
    Engine {
        cmd: CmdId,
        op: LegOp,
    },
}

pub(super) struct Pending {
    pub(super) session: usize,
    pub(super) purpose: Purpose,
}

pub(super) struct Slot {
    pub(super) conn: ConnId,
    pub(super) initiator: Initiator,
    pub(super) logged_in: bool,
    pub(super) warm: bool,
}

#[derive(Default)]
pub(super) struct LegLink {
    pub(super) wanted: bool,
    pub(super) up: bool,
    pub(super) slots: [Option<Slot>; 2],
    pub(super) pending: BTreeMap<u64, Pending>,
    pub(super) questions: Questions,
    pub(super) retry_at: Option<Duration>,
    pub(super) give_up_at: Option<Duration>,
}

impl Shell {
    pub(super) fn connect(&mut self, now: Duration, leg: usize) {
        let link = &mut self.legs[leg];
        link.retry_at = None;
        link.give_up_at = Some(now + scsi::CONNECT_TIMEOUT);
        link.questions = Questions::default();
        for session in 0..2 {
            self.acts.push_back(Act::Connect { leg, session });
        }
    }

    /// The connection is being opened: the login goes out when it is open.
    pub fn connecting(
        &mut self,
        now: Duration,
        leg: usize,
        session: usize,
        conn: ConnId,
        random: &mut Random,
    ) {
        let config = InitiatorConfig {
            initiator_name: self.name.clone(),
            initiator_alias: None,
            kind: SessionKind::Normal {
                target: target_name(leg),
            },
            isid: [0x80, 0, 0, self.node, leg as u8, session as u8],
            chap: None,
            offer: Offer::default(),
            limits: InitiatorLimits {
                login_timeout: Duration::from_secs(5),
                ..InitiatorLimits::default()
            },
            random: random.bytes(),
        };
        let slot = Slot {
            conn,
            initiator: Initiator::new(config, now),
            logged_in: false,
            warm: false,
        };
        self.legs[leg].slots[session] = Some(slot);
    }

    pub fn opened(&mut self, now: Duration, leg: usize, session: usize) {
        self.legs[leg].give_up_at = None;
        self.run(now, leg, session);
    }

    pub fn bytes(&mut self, now: Duration, leg: usize, session: usize, conn: ConnId, bytes: Bytes) {
        let Some(slot) = self.legs[leg].slots[session]
            .as_mut()
            .filter(|s| s.conn == conn)
        else {
            return;
        };
        // An error ends the session, which its events tell.
        let _ = slot.initiator.handle_bytes(now, bytes);
        self.run(now, leg, session);
    }

    pub fn closed(&mut self, now: Duration, leg: usize, session: usize, conn: ConnId) {
        if self.legs[leg].slots[session]
            .as_ref()
            .is_some_and(|s| s.conn == conn)
        {
            let why = if self.legs[leg].up {
                LegDown::SessionLost
            } else {
                LegDown::Unreachable
            };
            self.lose(now, leg, why);
        }
    }

    pub fn tick(&mut self, now: Duration) {
        for leg in 0..2 {
            for session in 0..2 {
                let Some(slot) = &mut self.legs[leg].slots[session] else {
                    continue;
                };
                if slot.initiator.deadline().is_some_and(|d| d <= now) {
                    slot.initiator.handle_timeout(now);
                    self.run(now, leg, session);
                }
            }
            if self.legs[leg].give_up_at.is_some_and(|t| t <= now) {
                self.lose(now, leg, LegDown::Unreachable);
            }
            if self.legs[leg].retry_at.is_some_and(|t| t <= now) {
                self.connect(now, leg);
            }
        }
        if self.core_deadline().is_some_and(|d| d <= now) {
            self.input(now, Input::Tick);
        }
    }

    pub fn deadline(&self) -> Option<Duration> {
        let links = self.legs.iter().flat_map(|l| {
            let sessions = l
                .slots
                .iter()
                .flatten()
                .filter_map(|s| s.initiator.deadline());
            sessions.chain(l.retry_at).chain(l.give_up_at)
        });
        links.chain(self.core_deadline()).min()
    }

    /// Takes events and bytes of a session.
    fn run(&mut self, now: Duration, leg: usize, session: usize) {
        while let Some(event) = self.legs[leg].slots[session]
            .as_mut()
            .and_then(|s| s.initiator.poll_event())
        {
            match event {
                InitiatorEvent::LoggedIn { .. } => {
                    if let Some(slot) = &mut self.legs[leg].slots[session] {
                        slot.logged_in = true;
                    }
                    if session == 0 {
                        self.ask(now, leg);
                    } else {
                        let c = scsi::inquiry();
                        self.send(now, leg, session, Purpose::Warm, c);
                    }
                }
                InitiatorEvent::Done { tag, outcome } => self.done(now, leg, tag, outcome),
                InitiatorEvent::Dropped(_) | InitiatorEvent::LoggedOut => {
                    let why = if self.legs[leg].up {
                        LegDown::SessionLost
                    } else {
                        LegDown::Unreachable
                    };
                    self.lose(now, leg, why);
                    return;
                }
                _ => {}
            }
        }
        self.flush(leg, session);
    }

    fn flush(&mut self, leg: usize, session: usize) {
        let Some(slot) = &mut self.legs[leg].slots[session] else {
            return;
        };
        while let Some(t) = slot.initiator.poll_transmit() {
            let bytes = if t.pieces.len() == 1 {
                t.pieces[0].clone()
            } else {
                t.pieces.concat().into()
            };
            self.acts.push_back(Act::Send(slot.conn, bytes));
        }
    }

    pub(super) fn ask(&mut self, now: Duration, leg: usize) {
        match self.legs[leg].questions.next() {
            Some(command) => self.send(now, leg, 0, Purpose::Question, command),
            None => self.maybe_up(now, leg),
        }
    }

    pub(super) fn maybe_up(&mut self, now: Duration, leg: usize) {
        let link = &mut self.legs[leg];
        let warm = link.slots[1].as_ref().is_some_and(|s| s.warm);
        if link.questions.next().is_none() && warm && !link.up {
            link.up = true;
            let info = link.questions.info();
            self.input(
                now,
                Input::LegUp {
                    leg: leg_of(leg),
                    info,
                },
            );
        }
    }

    pub(super) fn send(
        &mut self,
        now: Duration,
        leg: usize,
        session: usize,
        purpose: Purpose,
        command: Command,
    ) {
        let tag = self.next_tag;
        self.next_tag += 1;
        self.commands += 1;
        let Some(slot) = &mut self.legs[leg].slots[session] else {
            return;
        };
        if slot.initiator.submit(now, tag, command).is_ok() {
            self.legs[leg]
                .pending
                .insert(tag, Pending { session, purpose });
        } else if let Purpose::Engine { cmd, .. } = purpose {
            self.input(
                now,
                Input::LegDone {
                    leg: leg_of(leg),
                    cmd,
                    result: Err(LegError::Retry),
                },
            );
        }
        self.flush(leg, session);
    }

    /// Both sessions end; every open command is answered, then the leg is down.
    pub(super) fn lose(&mut self, now: Duration, leg: usize, why: LegDown) {
        let link = &mut self.legs[leg];
        let had = link.slots.iter().any(Option::is_some) || link.up || link.give_up_at.is_some();
        for slot in link.slots.iter_mut().filter_map(Option::take) {
            self.acts.push_back(Act::Close(slot.conn));
        }
        link.up = false;
        link.give_up_at = None;
        link.retry_at = None;
        let pending = std::mem::take(&mut link.pending);
        if link.wanted {
            link.retry_at = Some(now + Duration::from_millis(200));
        }
        for (_, p) in pending {
            if let Purpose::Engine { cmd, op } = p.purpose {
                self.late.push_back((leg, cmd, format!("{op:?}")));
            }
        }
        if had {
            self.down.push_back((leg, why));
        }
        self.settle(now);
    }

    pub fn connections(&self) -> Vec<ConnId> {
        self.legs
            .iter()
            .flat_map(|l| l.slots.iter().flatten().map(|s| s.conn))
            .collect()
    }
}
