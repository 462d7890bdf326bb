//! The full feature phase of the initiator: commands out within the window, data and answers in.
//!
//! Invariants: a CmdSN goes out only when the target's window allows it; DataSN and offset of every Data-In and R2T are
//! checked, so that data in a `Done` are whole and in order; each task is done once.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::requests::Requests;
use super::tasks::{Task, Tasks, Transfer};
use super::{Command, DataDir, DropReason, Full as Refused, InitiatorEvent, InitiatorLimits};
use crate::scsi::{Lun, Residual, ScsiOutcome, Sense, Status};
use crate::serial::{before, not_after};
use crate::session::slices::total;
use crate::session::transmit::TransmitQueue;
use crate::session::{Negotiated, SessionError};
use crate::wire::async_message::{AsyncMessage, event};
use crate::wire::data_in::DataIn;
use crate::wire::data_out::DataOut;
use crate::wire::frame::Pdu;
use crate::wire::nop::{NopIn, NopOut};
use crate::wire::r2t::R2t;
use crate::wire::reject::Reject;
use crate::wire::scsi_command::ScsiCommand;
use crate::wire::scsi_response::{COMPLETED, ScsiResponse};
use crate::wire::{self, BadField, NO_TAG, opcode};

/// What leaves a session: bytes and events.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) transmit: TransmitQueue,
    pub(super) events: VecDeque<InitiatorEvent>,
}

/// A NOP-Out of ours without an answer.
#[derive(Clone, Copy, Debug)]
struct OpenPing {
    itt: u32,
    sent: Duration,
}

#[derive(Debug)]
pub(super) struct Full {
    pub(super) negotiated: Negotiated,
    limits: InitiatorLimits,
    pub(super) cmd_sn: u32,
    max_cmd_sn: u32,
    pub(super) exp_stat_sn: u32,
    pub(super) tasks: Tasks,
    pub(super) queue: VecDeque<(u64, Command)>,
    next_other: u16,
    last_heard: Duration,
    ping: Option<OpenPing>,
    pub(super) requests: Requests,
}

impl Full {
    pub(super) fn new(
        limits: InitiatorLimits,
        negotiated: Negotiated,
        cmd_sn: u32,
        exp_stat_sn: u32,
        now: Duration,
    ) -> Self {
        Self {
            negotiated,
            limits,
            cmd_sn,
            // Closed: the login response's counters come by `learn`.
            max_cmd_sn: cmd_sn.wrapping_sub(1),
            exp_stat_sn,
            tasks: Tasks::default(),
            queue: VecDeque::new(),
            next_other: 0,
            last_heard: now,
            ping: None,
            requests: Requests::default(),
        }
    }

    /// ExpCmdSN and MaxCmdSN of a PDU of the target.
    pub(super) fn learn(&mut self, exp_cmd_sn: u32, max_cmd_sn: u32) {
        // RFC 7143 section 4.2.2.1: an impossible pair is ignored, and the window never shrinks.
        let possible = not_after(exp_cmd_sn.wrapping_sub(1), max_cmd_sn);
        if possible && before(self.max_cmd_sn, max_cmd_sn) {
            self.max_cmd_sn = max_cmd_sn;
        }
    }

    fn learn_status(&mut self, stat_sn: u32, exp_cmd_sn: u32, max_cmd_sn: u32) {
        let next = stat_sn.wrapping_add(1);
        if before(self.exp_stat_sn, next) {
            self.exp_stat_sn = next;
        }
        self.learn(exp_cmd_sn, max_cmd_sn);
    }

    /// A tag for a request that is no command.
    pub(super) fn other_itt(&mut self) -> u32 {
        self.next_other = self.next_other.wrapping_add(1) & 0x7FFF;
        // The low half lies beyond the places of `Tasks`, and is never all ones.
        u32::from(self.next_other) << 16 | 0xFFF0
    }

    pub(super) fn submit(
        &mut self,
        tag: u64,
        command: Command,
        out: &mut Outbox,
    ) -> Result<(), Refused> {
        if self.queue.is_empty() && self.may_send() {
            self.send(tag, command, out);
        } else if self.queue.len() < self.limits.max_queued {
            self.queue.push_back((tag, command));
        } else {
            return Err(Refused(command));
        }
        Ok(())
    }

    fn may_send(&self) -> bool {
        let most = self.limits.max_in_flight.min(usize::from(Tasks::MAX));
        self.tasks.len() < most && not_after(self.cmd_sn, self.max_cmd_sn)
    }

    /// Sends what waited, as far as the window allows.
    pub(super) fn send_queued(&mut self, out: &mut Outbox) {
        while self.may_send() {
            let Some((tag, command)) = self.queue.pop_front() else {
                return;
            };
            self.send(tag, command, out);
        }
    }

    fn send(&mut self, tag: u64, command: Command, out: &mut Outbox) {
        let (read, write, length) = match &command.data {
            DataDir::None => (false, false, 0),
            DataDir::In(expected) => (true, false, *expected),
            DataDir::Out(data) => (false, true, total(data) as u32),
        };
        let agreed = &self.negotiated;
        let unsolicited = if write {
            length.min(agreed.first_burst)
        } else {
            0
        };
        let immediate = if agreed.immediate_data {
            unsolicited.min(agreed.max_send_segment)
        } else {
            0
        };
        let unsolicited = if agreed.initial_r2t {
            immediate
        } else {
            unsolicited
        };
        let cmd_sn = self.cmd_sn;
        self.cmd_sn = cmd_sn.wrapping_add(1);
        let mut pdu = ScsiCommand {
            immediate: false,
            last: immediate == unsolicited,
            read,
            write,
            attr: command.attr,
            lun: command.lun,
            itt: 0,
            expected_length: length,
            cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            cdb: *command.cdb.field(),
        };
        let at = self.tasks.insert(|itt| {
            pdu.itt = itt;
            Task::new(tag, itt, cmd_sn, command, length)
        });
        let Some(task) = self.tasks.at_mut(at) else {
            return;
        };
        let header = pdu.emit(immediate);
        match &mut task.transfer {
            Transfer::Out {
                data, place, sent, ..
            } if immediate > 0 => {
                out.transmit
                    .push_pieces(&header, place.take(data, immediate as usize));
                *sent = immediate;
            }
            Transfer::None | Transfer::In { .. } | Transfer::Out { .. } => {
                out.transmit.push(&header);
            }
        }
        if unsolicited > immediate {
            self.send_data(at, NO_TAG, unsolicited - immediate, out);
        }
    }

    /// Sends the next `length` bytes of a task as one sequence of Data-Outs.
    fn send_data(&mut self, at: u16, ttt: u32, length: u32, out: &mut Outbox) {
        let (exp_stat_sn, most) = (self.exp_stat_sn, self.negotiated.max_send_segment);
        let Some(task) = self.tasks.at_mut(at) else {
            return;
        };
        let Transfer::Out {
            data, place, sent, ..
        } = &mut task.transfer
        else {
            return;
        };
        let end = *sent + length;
        let mut data_sn = 0;
        while *sent < end {
            let step = most.min(end - *sent);
            let pdu = DataOut {
                last: *sent + step == end,
                lun: task.lun,
                itt: task.itt,
                ttt,
                exp_stat_sn,
                data_sn,
                offset: *sent,
            };
            out.transmit
                .push_pieces(&pdu.emit(step), place.take(data, step as usize));
            *sent += step;
            data_sn += 1;
        }
    }

    pub(super) fn heard(&mut self, now: Duration) {
        self.last_heard = now;
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        match self.ping {
            Some(ping) => Some(ping.sent.max(self.last_heard) + self.limits.ping_timeout),
            None => Some(self.last_heard + self.limits.ping_interval?),
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Duration, out: &mut Outbox) -> Option<DropReason> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return None;
        }
        if self.ping.is_some() {
            return Some(DropReason::PingTimeout);
        }
        let itt = self.other_itt();
        self.push_nop(itt, NO_TAG, Lun(0), Vec::new(), out);
        self.ping = Some(OpenPing { itt, sent: now });
        None
    }

    fn push_nop(&mut self, itt: u32, ttt: u32, lun: Lun, data: Vec<Bytes>, out: &mut Outbox) {
        let nop = NopOut {
            immediate: true,
            lun,
            itt,
            ttt,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
        };
        let length = total(&data) as u32;
        out.transmit
            .push_pieces(&nop.emit(length), data.into_iter());
    }

    /// `Some`: the session ends.
    pub(super) fn handle(
        &mut self,
        pdu: Pdu,
        out: &mut Outbox,
    ) -> Result<Option<InitiatorEvent>, SessionError> {
        // At ErrorRecoveryLevel 0 a lost PDU is recovered by a new session.
        if !pdu.intact {
            return Err(SessionError::DataDigest);
        }
        let end = match wire::opcode_of(&pdu.header) {
            opcode::SCSI_RESPONSE => {
                self.response(&pdu, out)?;
                None
            }
            opcode::DATA_IN => {
                self.data_in(pdu, out)?;
                None
            }
            opcode::R2T => {
                self.r2t(&pdu, out)?;
                None
            }
            opcode::NOP_IN => {
                self.nop(pdu, out);
                None
            }
            opcode::TASK_MANAGEMENT_RESPONSE => {
                self.managed(&pdu, out);
                None
            }
            opcode::LOGOUT_RESPONSE => Some(self.logged_out(&pdu)?),
            opcode::TEXT_RESPONSE => {
                self.text_response(&pdu, out)?;
                None
            }
            opcode::ASYNC_MESSAGE => self.async_message(&pdu, out),
            opcode::REJECT => {
                self.rejected(&pdu, out)?;
                None
            }
            opcode => return Err(SessionError::UnexpectedPdu { opcode }),
        };
        self.send_queued(out);
        Ok(end)
    }

    fn response(&mut self, pdu: &Pdu, out: &mut Outbox) -> Result<(), SessionError> {
        let response = ScsiResponse::parse(&pdu.header).map_err(|error| malformed(pdu, error))?;
        self.learn_status(response.stat_sn, response.exp_cmd_sn, response.max_cmd_sn);
        // An aborted task's answer may come late.
        let Some(at) = self.tasks.find(response.itt) else {
            return Ok(());
        };
        if response.response != COMPLETED {
            return Err(SessionError::Protocol(
                "the target failed a command without a status",
            ));
        }
        let status = known_status(response.status)?;
        let sense = sense_of(&pdu.data);
        self.finish(at, status, sense, response.residual, out);
        Ok(())
    }

    fn finish(
        &mut self,
        at: u16,
        status: Status,
        sense: Option<Sense>,
        residual: Residual,
        out: &mut Outbox,
    ) {
        let Some(task) = self.tasks.remove(at) else {
            return;
        };
        let (data_in, residual) = match task.transfer {
            Transfer::In {
                expected,
                received,
                data,
                ..
            } if residual == Residual::None => (data, Residual::of(u64::from(received), expected)),
            Transfer::In { data, .. } => (data, residual),
            Transfer::None | Transfer::Out { .. } => (Vec::new(), residual),
        };
        out.events.push_back(InitiatorEvent::Done {
            tag: task.tag,
            outcome: ScsiOutcome {
                status,
                sense,
                data_in,
                residual,
            },
        });
    }

    fn data_in(&mut self, pdu: Pdu, out: &mut Outbox) -> Result<(), SessionError> {
        let head = DataIn::parse(&pdu.header).map_err(|error| malformed(&pdu, error))?;
        match head.status {
            Some(status) => {
                self.learn_status(status.stat_sn, head.exp_cmd_sn, head.max_cmd_sn);
            }
            None => self.learn(head.exp_cmd_sn, head.max_cmd_sn),
        }
        let Some(at) = self.tasks.find(head.itt) else {
            return Ok(());
        };
        let Some(Task {
            transfer:
                Transfer::In {
                    expected,
                    received,
                    next_data_sn,
                    data,
                },
            ..
        }) = self.tasks.at_mut(at)
        else {
            return Err(SessionError::Protocol(
                "Data-In for a command that reads nothing",
            ));
        };
        if head.data_sn != *next_data_sn
            || head.offset != *received
            || pdu.data_len > *expected - *received
        {
            return Err(SessionError::Protocol("Data-In out of order"));
        }
        *next_data_sn = next_data_sn.wrapping_add(1);
        *received += pdu.data_len;
        if data.is_empty() {
            *data = pdu.data;
        } else {
            data.extend(pdu.data);
        }
        if let Some(status) = head.status {
            let residual = status.residual;
            self.finish(at, known_status(status.status)?, None, residual, out);
        }
        Ok(())
    }

    fn r2t(&mut self, pdu: &Pdu, out: &mut Outbox) -> Result<(), SessionError> {
        let r2t = R2t::parse(&pdu.header);
        self.learn(r2t.exp_cmd_sn, r2t.max_cmd_sn);
        let Some(at) = self.tasks.find(r2t.itt) else {
            return Ok(());
        };
        let Some(Task {
            transfer:
                Transfer::Out {
                    total,
                    sent,
                    next_r2t_sn,
                    ..
                },
            ..
        }) = self.tasks.at_mut(at)
        else {
            return Err(SessionError::Protocol(
                "R2T for a command that writes nothing",
            ));
        };
        // DataSequenceInOrder: each R2T asks for what comes next.
        if r2t.r2t_sn != *next_r2t_sn
            || r2t.ttt == NO_TAG
            || r2t.offset != *sent
            || r2t.length == 0
            || r2t.length > *total - *sent
        {
            return Err(SessionError::Protocol("R2T out of order"));
        }
        *next_r2t_sn = next_r2t_sn.wrapping_add(1);
        self.send_data(at, r2t.ttt, r2t.length, out);
        Ok(())
    }

    fn nop(&mut self, pdu: Pdu, out: &mut Outbox) {
        let nop = NopIn::parse(&pdu.header);
        if self.ping.is_some_and(|ping| ping.itt == nop.itt) {
            self.ping = None;
            self.learn_status(nop.stat_sn, nop.exp_cmd_sn, nop.max_cmd_sn);
        } else {
            self.learn(nop.exp_cmd_sn, nop.max_cmd_sn);
        }
        if nop.ttt != NO_TAG {
            let data = if pdu.data_len <= self.negotiated.max_send_segment {
                pdu.data
            } else {
                Vec::new()
            };
            self.push_nop(NO_TAG, nop.ttt, nop.lun, data, out);
        }
    }

    fn async_message(&mut self, pdu: &Pdu, out: &mut Outbox) -> Option<InitiatorEvent> {
        let message = AsyncMessage::parse(&pdu.header);
        self.learn_status(message.stat_sn, message.exp_cmd_sn, message.max_cmd_sn);
        match message.event {
            event::SCSI => out.events.push_back(InitiatorEvent::UnitEvent {
                lun: message.lun,
                sense: sense_of(&pdu.data),
            }),
            // A new login negotiates anew, too.
            event::LOGOUT_REQUEST | event::NEGOTIATE => {
                out.events.push_back(InitiatorEvent::LogoutRequested {
                    within: Duration::from_secs(u64::from(message.parameters[2])),
                });
            }
            event::CONNECTION_DROP | event::SESSION_DROP => {
                return Some(InitiatorEvent::Dropped(DropReason::TargetDropped {
                    event: message.event,
                }));
            }
            _ => {}
        }
        None
    }

    fn rejected(&mut self, pdu: &Pdu, out: &mut Outbox) -> Result<(), SessionError> {
        let reject = Reject::parse(&pdu.header);
        self.learn_status(reject.stat_sn, reject.exp_cmd_sn, reject.max_cmd_sn);
        let head = pdu.data.concat();
        let bad: Option<&wire::Header> = head.first_chunk();
        if let Some(bad) = bad {
            let itt = wire::initiator_task_tag(bad);
            match wire::opcode_of(bad) {
                // A target without NOP-Out is alive all the same.
                opcode::NOP_OUT => {
                    if self.ping.is_some_and(|ping| ping.itt == itt) {
                        self.ping = None;
                    }
                    return Ok(());
                }
                opcode::TASK_MANAGEMENT_REQUEST => {
                    self.management_refused(itt, out);
                    return Ok(());
                }
                _ => {}
            }
        }
        Err(SessionError::Rejected {
            reason: reject.reason,
        })
    }

    pub(super) fn learn_from(&mut self, stat_sn: u32, exp_cmd_sn: u32, max_cmd_sn: u32) {
        self.learn_status(stat_sn, exp_cmd_sn, max_cmd_sn);
    }
}

fn known_status(byte: u8) -> Result<Status, SessionError> {
    Status::from_byte(byte).ok_or(SessionError::Protocol("SCSI status that does not exist"))
}

/// The sense data of a response's data segment: two bytes of length before them.
fn sense_of(data: &[Bytes]) -> Option<Sense> {
    let data = data.concat();
    let (length, rest) = data.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*length));
    Sense::parse(rest.get(..length).unwrap_or(rest))
}

pub(super) fn malformed(pdu: &Pdu, BadField(what): BadField) -> SessionError {
    SessionError::Malformed {
        opcode: wire::opcode_of(&pdu.header),
        what,
    }
}
