//! SCSI commands of the target from their PDU to the server: the task, its write data, its turn.
//!
//! Write data are gathered from the moment a command comes, but a command is given out only when its data are whole and no
//! CmdSN before it is missing; an ORDERED command also waits until all before it are given out, and holds back those behind.
//!
//! Invariants: data asked for by R2T stay below `TargetLimits::max_solicited` but for one task, the oldest, which always goes
//! on; a task that fails or is aborted before it was given out never reaches the server.

use super::full::{Full, Held, IMMEDIATE_TASKS, Outbox, malformed};
use super::gather::{Gather, GatherError, Progress};
use super::tasks::{State, Task};
use super::window::Admission;
use super::{TargetCommand, TargetEvent};
use crate::scsi::{Attribute, Cdb, Code, Expected, Residual, ScsiOutcome, Sense, SenseKey, Status};
use crate::session::SessionError;
use crate::wire::data_out::DataOut;
use crate::wire::frame::Pdu;
use crate::wire::r2t::R2t;
use crate::wire::reject::reason;
use crate::wire::scsi_command::ScsiCommand;
use crate::wire::{NO_TAG, opcode};

impl Full {
    pub(super) fn command(&mut self, pdu: Pdu, out: &mut Outbox) -> Result<(), SessionError> {
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
            aborters: Vec::new(),
            late: None,
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

    pub(super) fn data_out(&mut self, pdu: Pdu, out: &mut Outbox) {
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
        self.give_out_ready(out);
        // Another one may be the oldest now.
        if let Some(slot) = self.undelivered.front().copied() {
            self.solicit(slot, out);
        }
    }

    fn give_out_ready(&mut self, out: &mut Outbox) {
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
            let free = task.aborters.is_empty();
            match &mut task.state {
                State::Waiting(data) if free && (at == 0 || !barrier) => {
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
                State::Given => {
                    self.undelivered.remove(at);
                }
            }
        }
    }

    /// Takes a task away without an answer; its further data and a late answer of the server are ignored.
    pub(super) fn drop_task(&mut self, slot: u16, out: &mut Outbox) -> Option<Task> {
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
        if let Some(task) = self.drop_task(slot, out) {
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
