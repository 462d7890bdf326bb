//! The full feature phase of the target: which PDU goes where. Every PDU with a CmdSN passes the window.
//!
//! Not here: commands and their data (`commands`), task management (`management`), answers (`respond`), text and SendTargets
//! (`discovery`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::discovery::TextPhase;
use super::management::Request;
use super::ping::Ping;
use super::tasks::Tasks;
use super::window::{Admission, Window};
use super::{CloseReason, LoginInfo, TargetConfig, TargetEvent};
use crate::scsi::Lun;
use crate::session::SessionError;
use crate::session::slices::Place;
use crate::session::transmit::TransmitQueue;
use crate::wire::async_message::{AsyncMessage, event};
use crate::wire::frame::Pdu;
use crate::wire::logout::{LogoutReason, LogoutRequest, LogoutResponse, response};
use crate::wire::nop::{NopIn, NopOut};
use crate::wire::reject::{Reject, reason};
use crate::wire::{self, BadField, NO_TAG, opcode};

/// Immediate commands that may be open beyond the window.
pub(super) const IMMEDIATE_TASKS: u16 = 16;

/// What leaves a session: bytes and events.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) transmit: TransmitQueue,
    pub(super) events: VecDeque<TargetEvent>,
}

/// A PDU that came while one with a smaller CmdSN is missing.
#[derive(Debug)]
pub(super) enum Held {
    Command(u16),
    Other(Pdu),
    /// Aborted before it came: it counts as received.
    Aborted,
}

#[derive(Debug)]
pub(super) struct Full {
    pub(super) config: Arc<TargetConfig>,
    pub(super) info: LoginInfo,
    pub(super) portal: super::Portal,
    cid: u16,
    pub(super) window: Window,
    /// MaxCmdSN as the initiator knows it.
    told_max: u32,
    pub(super) stat_sn: u32,
    pub(super) tasks: Tasks,
    /// Tasks not yet given out, in the order of their coming.
    pub(super) undelivered: VecDeque<u16>,
    pub(super) held: BTreeMap<u32, Held>,
    pub(super) requests: Vec<Request>,
    pub(super) next_request: u64,
    pub(super) text: TextPhase,
    pub(super) ping: Ping,
    next_ttt: u32,
    /// Bytes that R2Ts have asked for, of tasks not yet given out.
    pub(super) solicited: u32,
}

/// What the login leaves to the full feature phase.
pub(super) struct Start {
    pub(super) config: Arc<TargetConfig>,
    pub(super) info: LoginInfo,
    pub(super) portal: super::Portal,
    pub(super) cid: u16,
    pub(super) cmd_sn: u32,
    pub(super) stat_sn: u32,
    pub(super) now: Duration,
}

impl Full {
    pub(super) fn new(start: Start) -> Self {
        let depth = start
            .config
            .limits
            .queue_depth
            .clamp(1, u16::MAX - IMMEDIATE_TASKS);
        let window = Window::new(start.cmd_sn, depth);
        Self {
            told_max: window.max(),
            window,
            cid: start.cid,
            stat_sn: start.stat_sn,
            tasks: Tasks::new(depth + IMMEDIATE_TASKS),
            undelivered: VecDeque::new(),
            held: BTreeMap::new(),
            requests: Vec::new(),
            next_request: 0,
            text: TextPhase::default(),
            ping: Ping::new(start.now),
            next_ttt: 0,
            solicited: 0,
            config: start.config,
            info: start.info,
            portal: start.portal,
        }
    }

    pub(super) fn is_discovery(&self) -> bool {
        self.info.target.is_none()
    }

    /// ExpCmdSN and MaxCmdSN for the next PDU.
    pub(super) fn counters(&mut self) -> (u32, u32) {
        let depth = self.config.limits.queue_depth.max(1);
        let open = usize::from(self.tasks.ordinary()) + self.requests.len() + self.held.len();
        let open = u16::try_from(open).unwrap_or(u16::MAX);
        self.window.open(depth.saturating_sub(open));
        self.told_max = self.window.max();
        (self.window.expected(), self.told_max)
    }

    /// The StatSN of a PDU that carries status.
    pub(super) fn next_stat_sn(&mut self) -> u32 {
        let stat_sn = self.stat_sn;
        self.stat_sn = stat_sn.wrapping_add(1);
        stat_sn
    }

    pub(super) fn next_ttt(&mut self) -> u32 {
        self.next_ttt = self.next_ttt.wrapping_add(1);
        if self.next_ttt == NO_TAG {
            self.next_ttt = 1;
        }
        self.next_ttt
    }

    /// `Some`: the session ends.
    pub(super) fn handle(
        &mut self,
        pdu: Pdu,
        out: &mut Outbox,
    ) -> Result<Option<CloseReason>, SessionError> {
        match wire::opcode_of(&pdu.header) {
            opcode::SCSI_COMMAND => {
                self.command(pdu, out)?;
                self.release_held(out)
            }
            opcode::DATA_OUT => {
                self.data_out(pdu, out);
                Ok(None)
            }
            opcode::NOP_OUT
            | opcode::TASK_MANAGEMENT_REQUEST
            | opcode::TEXT_REQUEST
            | opcode::LOGOUT_REQUEST => self.sequenced(pdu, out),
            opcode::SNACK => {
                self.reject(reason::SNACK, &pdu, out);
                Ok(None)
            }
            opcode @ opcode::LOGIN_REQUEST => {
                self.reject(reason::PROTOCOL_ERROR, &pdu, out);
                Err(SessionError::UnexpectedPdu { opcode })
            }
            _ => {
                self.reject(reason::NOT_SUPPORTED, &pdu, out);
                Ok(None)
            }
        }
    }

    /// A PDU with a CmdSN that is no SCSI command.
    fn sequenced(
        &mut self,
        pdu: Pdu,
        out: &mut Outbox,
    ) -> Result<Option<CloseReason>, SessionError> {
        if !wire::is_immediate(&pdu.header) {
            let cmd_sn = wire::cmd_sn(&pdu.header);
            match self.window.admit(cmd_sn) {
                Admission::Now => self.window.advance(),
                Admission::Later => {
                    self.held.entry(cmd_sn).or_insert(Held::Other(pdu));
                    return Ok(None);
                }
                Admission::Ignore => return Ok(None),
            }
        }
        match self.control(pdu, out)? {
            Some(end) => Ok(Some(end)),
            // An abort may have filled the gap that others waited for, too.
            None => self.release_held(out),
        }
    }

    /// Handles what waited for the CmdSN that has just come.
    fn release_held(&mut self, out: &mut Outbox) -> Result<Option<CloseReason>, SessionError> {
        while let Some(held) = self.held.remove(&self.window.expected()) {
            self.window.advance();
            match held {
                Held::Command(slot) => {
                    if let Some(task) = self.tasks.at_mut(slot) {
                        task.in_order = true;
                    }
                    self.give_out(out);
                }
                Held::Other(pdu) => {
                    let end = self.control(pdu, out)?;
                    if end.is_some() {
                        return Ok(end);
                    }
                }
                Held::Aborted => {}
            }
        }
        Ok(None)
    }

    /// A command that has not come counts as received, if its CmdSN may still come.
    pub(super) fn skip(&mut self, cmd_sn: u32) -> bool {
        match self.window.admit(cmd_sn) {
            Admission::Now | Admission::Later => {
                self.held.entry(cmd_sn).or_insert(Held::Aborted);
                true
            }
            Admission::Ignore => false,
        }
    }

    fn control(&mut self, pdu: Pdu, out: &mut Outbox) -> Result<Option<CloseReason>, SessionError> {
        if !pdu.intact {
            self.reject(reason::DATA_DIGEST, &pdu, out);
            return Ok(None);
        }
        match wire::opcode_of(&pdu.header) {
            opcode::NOP_OUT => {
                self.nop(&pdu, out);
                Ok(None)
            }
            opcode::TASK_MANAGEMENT_REQUEST => {
                self.manage(&pdu, out);
                Ok(None)
            }
            opcode::TEXT_REQUEST => self.text_request(&pdu, out).map(|()| None),
            _ => self.logout(&pdu, out),
        }
    }

    fn nop(&mut self, pdu: &Pdu, out: &mut Outbox) {
        let nop = NopOut::parse(&pdu.header);
        if nop.itt == NO_TAG {
            self.ping.answered(nop.ttt);
            return;
        }
        let (exp_cmd_sn, max_cmd_sn) = self.counters();
        let answer = NopIn {
            lun: nop.lun,
            itt: nop.itt,
            ttt: NO_TAG,
            stat_sn: self.next_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
        };
        // The ping data come back, as far as the initiator takes them.
        let length = pdu.data_len.min(self.info.negotiated.max_send_segment);
        let mut place = Place::default();
        let data = place.take(&pdu.data, length as usize);
        out.transmit.push_pieces(&answer.emit(length), data);
    }

    /// A NOP-In that wants no answer: tells the counters.
    pub(super) fn tell_window(&mut self, out: &mut Outbox) {
        let known_closed = self.told_max == self.window.expected().wrapping_sub(1);
        let told = self.told_max;
        let (exp_cmd_sn, max_cmd_sn) = self.counters();
        if known_closed && max_cmd_sn != told {
            let nop = NopIn {
                lun: Lun(0),
                itt: NO_TAG,
                ttt: NO_TAG,
                stat_sn: self.stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
            };
            out.transmit.push(&nop.emit(0));
        }
    }

    pub(super) fn send_ping(&mut self, now: Duration, out: &mut Outbox) {
        let ttt = self.next_ttt();
        let (exp_cmd_sn, max_cmd_sn) = self.counters();
        let nop = NopIn {
            lun: Lun(0),
            itt: NO_TAG,
            ttt,
            stat_sn: self.stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
        };
        out.transmit.push(&nop.emit(0));
        self.ping.sent(ttt, now);
    }

    pub(super) fn request_logout(&mut self, within: Duration, out: &mut Outbox) {
        let (exp_cmd_sn, max_cmd_sn) = self.counters();
        let seconds = u16::try_from(within.as_secs()).unwrap_or(u16::MAX);
        let message = AsyncMessage {
            lun: Lun(0),
            stat_sn: self.next_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
            event: event::LOGOUT_REQUEST,
            vendor_code: 0,
            parameters: [0, 0, seconds],
        };
        out.transmit.push(&message.emit(0));
    }

    fn logout(&mut self, pdu: &Pdu, out: &mut Outbox) -> Result<Option<CloseReason>, SessionError> {
        let request = LogoutRequest::parse(&pdu.header).map_err(|error| malformed(pdu, error))?;
        let answer = match request.reason {
            LogoutReason::CloseSession => response::CLOSED,
            LogoutReason::CloseConnection if request.cid == self.cid => response::CLOSED,
            LogoutReason::CloseConnection => response::NO_SUCH_CONNECTION,
            LogoutReason::RemoveForRecovery => response::NO_RECOVERY,
        };
        let (exp_cmd_sn, max_cmd_sn) = self.counters();
        let logout = LogoutResponse {
            response: answer,
            itt: request.itt,
            stat_sn: self.next_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
            time2wait: self.info.negotiated.time2wait_seconds,
            time2retain: 0,
        };
        out.transmit.push(&logout.emit());
        Ok((answer == response::CLOSED).then_some(CloseReason::LoggedOut))
    }

    pub(super) fn reject(&mut self, reason: u8, pdu: &Pdu, out: &mut Outbox) {
        let (exp_cmd_sn, max_cmd_sn) = self.counters();
        let reject = Reject {
            reason,
            stat_sn: self.next_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
            data_sn: 0,
        };
        let bad = Bytes::copy_from_slice(&pdu.header);
        out.transmit
            .push_data(&reject.emit(wire::HEADER as u32), bad);
    }
}

pub(super) fn malformed(pdu: &Pdu, BadField(what): BadField) -> SessionError {
    SessionError::Malformed {
        opcode: wire::opcode_of(&pdu.header),
        what,
    }
}
