//! The full feature phase of the target: which PDU goes where, and in what order commands reach the server.
//!
//! Every PDU with a CmdSN passes the window. Write data are gathered from the moment a command comes, but a command is given
//! out only when its data are whole and no CmdSN before it is missing; an ORDERED command also waits until all before it are
//! given out, and holds back those behind it.
//!
//! Not here: task management (`management`), answers (`respond`), text and SendTargets (`discovery`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::discovery::TextPhase;
use super::gather::{Gather, GatherError, Progress};
use super::management::Request;
use super::ping::Ping;
use super::tasks::{State, Task, Tasks};
use super::window::{Admission, Window};
use super::{CloseReason, LoginInfo, TargetCommand, TargetConfig, TargetEvent};
use crate::scsi::{
    Attribute, Cdb, Code, Expected, Lun, Residual, ScsiOutcome, Sense, SenseKey, Status,
};
use crate::session::SessionError;
use crate::session::slices::Place;
use crate::session::transmit::TransmitQueue;
use crate::wire::async_message::{AsyncMessage, event};
use crate::wire::data_out::DataOut;
use crate::wire::frame::Pdu;
use crate::wire::logout::{LogoutReason, LogoutRequest, LogoutResponse, response};
use crate::wire::nop::{NopIn, NopOut};
use crate::wire::r2t::R2t;
use crate::wire::reject::{Reject, reason};
use crate::wire::scsi_command::ScsiCommand;
use crate::wire::{self, BadField, NO_TAG, opcode};

/// Immediate commands that may be open beyond the window.
const IMMEDIATE_TASKS: u16 = 16;

/// What leaves a session: bytes and events.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) transmit: TransmitQueue,
    pub(super) events: VecDeque<TargetEvent>,
}

/// A PDU that came while one with a smaller CmdSN is missing.
#[derive(Debug)]
enum Held {
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
    stat_sn: u32,
    pub(super) tasks: Tasks,
    /// Tasks not yet given out, in the order of their coming.
    pub(super) undelivered: VecDeque<u16>,
    held: BTreeMap<u32, Held>,
    pub(super) requests: Vec<Request>,
    pub(super) next_request: u64,
    pub(super) text: TextPhase,
    pub(super) ping: Ping,
    next_ttt: u32,
    /// Bytes that R2Ts have asked for, of tasks not yet given out.
    solicited: u32,
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

    fn is_discovery(&self) -> bool {
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

    fn command(&mut self, pdu: Pdu, out: &mut Outbox) -> Result<(), SessionError> {
        let command = ScsiCommand::parse(&pdu.header).map_err(|error| malformed(&pdu, error))?;
        if self.is_discovery() || command.itt == NO_TAG {
            self.reject(reason::PROTOCOL_ERROR, &pdu, out);
            return Err(SessionError::UnexpectedPdu {
                opcode: opcode::SCSI_COMMAND,
            });
        }
        let admission = if command.immediate {
            if self.tasks.len() - usize::from(self.tasks.ordinary()) >= usize::from(IMMEDIATE_TASKS)
            {
                self.reject(reason::TOO_MANY_IMMEDIATE, &pdu, out);
                return Ok(());
            }
            Admission::Now
        } else {
            self.window.admit(command.cmd_sn)
        };
        // A CmdSN that is held came before.
        if admission == Admission::Ignore || self.held.contains_key(&command.cmd_sn) {
            return Ok(());
        }
        let in_order = admission == Admission::Now;
        if in_order && !command.immediate {
            self.window.advance();
        }
        let slot = self.begin(&command, in_order, pdu, out);
        if !in_order {
            let held = slot.map_or(Held::Aborted, Held::Command);
            self.held.insert(command.cmd_sn, held);
        }
        Ok(())
    }

    /// Opens a task for a command; `None` if it ended at once.
    fn begin(
        &mut self,
        command: &ScsiCommand,
        in_order: bool,
        pdu: Pdu,
        out: &mut Outbox,
    ) -> Option<u16> {
        if self.tasks.by_tag(command.itt).is_some() || self.tasks.is_full() {
            self.reject(reason::TASK_IN_PROGRESS, &pdu, out);
            return None;
        }
        if !pdu.intact {
            self.reject(reason::DATA_DIGEST, &pdu, out);
            self.refuse(
                command,
                Sense::new(SenseKey::AbortedCommand, Code::PROTOCOL_CRC_ERROR),
                out,
            );
            return None;
        }
        let expected = match (command.read, command.write) {
            (false, false) => Expected::None,
            (true, false) => Expected::In(command.expected_length),
            (false, true) if command.expected_length <= self.config.limits.max_write => {
                Expected::Out(command.expected_length)
            }
            // Bidirectional, or longer than we hold.
            (false | true, true) => {
                self.refuse(command, Sense::illegal(Code::INVALID_FIELD_IN_CDB), out);
                return None;
            }
        };
        let Ok(state) = self.first_data(command, expected, pdu) else {
            self.refuse(command, unexpected_data(), out);
            return None;
        };
        let slot = self.tasks.insert(|id| Task {
            id,
            itt: command.itt,
            lun: command.lun,
            cdb: Cdb::from_field(command.cdb),
            attr: command.attr,
            immediate: command.immediate,
            expected,
            in_order,
            r2ts: 0,
            state,
        });
        self.undelivered.push_back(slot);
        self.solicit(slot, out);
        self.give_out(out);
        Some(slot)
    }

    /// The state of a new task by its immediate data.
    fn first_data(
        &self,
        command: &ScsiCommand,
        expected: Expected,
        pdu: Pdu,
    ) -> Result<State, GatherError> {
        let Expected::Out(total) = expected else {
            return if pdu.data_len == 0 {
                Ok(State::Waiting(Vec::new()))
            } else {
                Err(GatherError::Unsolicited)
            };
        };
        let agreed = &self.info.negotiated;
        let more = !command.last;
        if (pdu.data_len > 0 && !agreed.immediate_data) || (more && agreed.initial_r2t) {
            return Err(GatherError::Unsolicited);
        }
        let gather = Gather::new(total, pdu.data, pdu.data_len, agreed.first_burst, more)?;
        Ok(if gather.is_whole() {
            State::Waiting(gather.into_data())
        } else {
            State::Gathering(gather)
        })
    }

    fn data_out(&mut self, pdu: Pdu, out: &mut Outbox) {
        let data_out = DataOut::parse(&pdu.header);
        if !pdu.intact {
            self.reject(reason::DATA_DIGEST, &pdu, out);
        }
        // Data of a task that was aborted or refused may still be on their way.
        let Some(slot) = self.tasks.by_tag(data_out.itt) else {
            return;
        };
        let Some(task) = self.tasks.at_mut(slot) else {
            return;
        };
        let State::Gathering(gather) = &mut task.state else {
            return;
        };
        if !pdu.intact {
            let sense = Sense::new(SenseKey::AbortedCommand, Code::PROTOCOL_CRC_ERROR);
            self.fail(slot, sense, out);
            return;
        }
        match gather.data_out(&data_out, pdu.data, pdu.data_len) {
            Ok(Progress::Going) => {}
            Ok(Progress::SequenceDone) => self.solicit(slot, out),
            Ok(Progress::Whole) => self.whole(slot, out),
            Err(GatherError::Unsolicited) => self.fail(slot, unexpected_data(), out),
            Err(GatherError::Sequence) => {
                let sense = Sense::new(SenseKey::AbortedCommand, DATA_PHASE_ERROR);
                self.fail(slot, sense, out);
            }
        }
    }

    /// All data of a task are there.
    fn whole(&mut self, slot: u16, out: &mut Outbox) {
        if let Some(task) = self.tasks.at_mut(slot)
            && let State::Gathering(_) = task.state
        {
            let State::Gathering(gather) =
                std::mem::replace(&mut task.state, State::Waiting(Vec::new()))
            else {
                return;
            };
            let freed = gather.solicited();
            task.state = State::Waiting(gather.into_data());
            self.unsolicit(freed, out);
        }
        self.give_out(out);
    }

    /// Sends R2Ts for a task as far as its limits and those of the session allow.
    fn solicit(&mut self, slot: u16, out: &mut Outbox) {
        let oldest = self.undelivered.front() == Some(&slot);
        let (max_burst, outstanding) = (
            self.info.negotiated.max_burst,
            self.info.negotiated.max_outstanding_r2t,
        );
        loop {
            let Some(task) = self.tasks.at(slot) else {
                return;
            };
            let State::Gathering(gather) = &task.state else {
                return;
            };
            let length = gather.next_ask(max_burst, outstanding);
            let room = self
                .config
                .limits
                .max_solicited
                .saturating_sub(self.solicited);
            // The oldest task always goes on, so that full memory never stops all of them.
            if length == 0 || (length > room && !oldest) {
                return;
            }
            self.solicited += length;
            self.request_data(slot, length, out);
        }
    }

    fn request_data(&mut self, slot: u16, length: u32, out: &mut Outbox) {
        let ttt = self.next_ttt();
        let (exp_cmd_sn, max_cmd_sn) = self.counters();
        let stat_sn = self.stat_sn;
        let Some(task) = self.tasks.at_mut(slot) else {
            return;
        };
        let State::Gathering(gather) = &mut task.state else {
            return;
        };
        let ask = gather.ask(ttt, length);
        task.r2ts = gather.r2ts();
        let r2t = R2t {
            lun: task.lun,
            itt: task.itt,
            ttt,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            r2t_sn: ask.r2t_sn,
            offset: ask.offset,
            length: ask.length,
        };
        out.transmit.push(&r2t.emit());
    }

    /// Solicited data are not held any more: other tasks may ask.
    fn unsolicit(&mut self, freed: u32, out: &mut Outbox) {
        if freed == 0 {
            return;
        }
        self.solicited -= freed;
        for at in 0..self.undelivered.len() {
            if let Some(slot) = self.undelivered.get(at).copied() {
                self.solicit(slot, out);
            }
        }
    }

    /// Gives the server every task whose turn has come.
    pub(super) fn give_out(&mut self, out: &mut Outbox) {
        let mut at = 0;
        while let Some(slot) = self.undelivered.get(at).copied() {
            let Some(task) = self.tasks.at_mut(slot) else {
                self.undelivered.remove(at);
                continue;
            };
            if !task.in_order {
                return;
            }
            let barrier = match task.attr {
                Attribute::Ordered | Attribute::Aca => true,
                Attribute::Simple | Attribute::HeadOfQueue => false,
            };
            match &mut task.state {
                State::Waiting(data) if at == 0 || !barrier => {
                    let command = TargetCommand {
                        task: task.id,
                        lun: task.lun,
                        cdb: task.cdb,
                        data_out: std::mem::take(data),
                        expected: task.expected,
                        attr: task.attr,
                        immediate: task.immediate,
                    };
                    task.state = State::Given;
                    self.undelivered.remove(at);
                    out.events.push_back(TargetEvent::Command(command));
                }
                State::Waiting(_) | State::Gathering(_) if barrier => return,
                State::Waiting(_) | State::Gathering(_) => at += 1,
                State::Given | State::Aborting { .. } => {
                    self.undelivered.remove(at);
                }
            }
        }
    }

    /// Takes a task that was not given out away; its further data are ignored.
    pub(super) fn drop_undelivered(&mut self, slot: u16, out: &mut Outbox) -> Option<Task> {
        let task = self.tasks.remove(slot)?;
        self.undelivered.retain(|other| *other != slot);
        // Its CmdSN may be waited for still: it counts as received.
        for held in self.held.values_mut() {
            if matches!(held, Held::Command(other) if *other == slot) {
                *held = Held::Aborted;
            }
        }
        if let State::Gathering(gather) = &task.state {
            self.unsolicit(gather.solicited(), out);
        }
        self.give_out(out);
        Some(task)
    }

    /// Ends a task that was not given out with CHECK CONDITION.
    fn fail(&mut self, slot: u16, sense: Sense, out: &mut Outbox) {
        if let Some(task) = self.drop_undelivered(slot, out) {
            let outcome = check_condition(sense, task.expected.length());
            self.emit_response(task.itt, task.r2ts, &outcome, out);
        }
    }

    /// Ends a command for which there is no task with CHECK CONDITION.
    fn refuse(&mut self, command: &ScsiCommand, sense: Sense, out: &mut Outbox) {
        let moved = command.read || command.write;
        let expected = if moved { command.expected_length } else { 0 };
        self.emit_response(command.itt, 0, &check_condition(sense, expected), out);
    }
}

const DATA_PHASE_ERROR: Code = Code::new(0x4B, 0x00);

fn unexpected_data() -> Sense {
    Sense::new(SenseKey::AbortedCommand, Code::UNEXPECTED_UNSOLICITED_DATA)
}

/// CHECK CONDITION with nothing moved.
fn check_condition(sense: Sense, expected: u32) -> ScsiOutcome {
    ScsiOutcome {
        status: Status::CheckCondition,
        sense: Some(sense),
        data_in: Vec::new(),
        residual: Residual::of(0, expected),
    }
}

pub(super) fn malformed(pdu: &Pdu, BadField(what): BadField) -> SessionError {
    SessionError::Malformed {
        opcode: wire::opcode_of(&pdu.header),
        what,
    }
}
