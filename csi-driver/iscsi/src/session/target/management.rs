//! Task management of the target (RFC 7143 section 11.5).
//!
//! A single task that the server has not seen is aborted here. Otherwise the server is asked, and until it has answered, the
//! tasks concerned stand still: those not given out stay here, and an answer of one that was given out waits. When the function
//! is done they are gone; if it was refused they go on.

use super::TargetEvent;
use super::full::{Full, Outbox};
use super::tasks::State;
use crate::scsi::{Lun, TaskFunction, TaskResponse};
use crate::serial::before;
use crate::wire::frame::Pdu;
use crate::wire::task_management::{
    TaskManagementRequest, TaskManagementResponse, function, response,
};

/// Functions under way at the server.
const MAX_REQUESTS: usize = 16;

/// A function that was given to the server.
#[derive(Debug)]
pub(super) struct Request {
    id: u64,
    itt: u32,
}

impl Full {
    pub(super) fn manage(&mut self, pdu: &Pdu, out: &mut Outbox) {
        let request = TaskManagementRequest::parse(&pdu.header);
        match request.function {
            function::ABORT_TASK => self.abort_task(&request, out),
            function::ABORT_TASK_SET => {
                self.abort_set(&request, TaskFunction::AbortTaskSet, out);
            }
            function::CLEAR_ACA => self.pass_on(&request, TaskFunction::ClearAca, &[], out),
            function::CLEAR_TASK_SET => {
                self.abort_set(&request, TaskFunction::ClearTaskSet, out);
            }
            function::LUN_RESET => self.abort_set(&request, TaskFunction::LunReset, out),
            function::TARGET_WARM_RESET => {
                self.abort_set(&request, TaskFunction::TargetWarmReset, out);
            }
            function::TARGET_COLD_RESET => {
                self.abort_set(&request, TaskFunction::TargetColdReset, out);
            }
            function::TASK_REASSIGN => {
                self.emit_managed(request.itt, response::NO_REASSIGNMENT, out);
            }
            _ => self.emit_managed(request.itt, response::NOT_SUPPORTED, out),
        }
    }

    fn abort_task(&mut self, request: &TaskManagementRequest, out: &mut Outbox) {
        let Some(slot) = self.tasks.by_tag(request.referenced_itt) else {
            // RFC 7143 section 11.6.1: a task that has not come counts as received and aborted.
            let answer =
                if before(request.ref_cmd_sn, request.cmd_sn) && self.skip(request.ref_cmd_sn) {
                    response::COMPLETE
                } else {
                    response::TASK_NOT_FOUND
                };
            self.emit_managed(request.itt, answer, out);
            return;
        };
        match self.tasks.at(slot) {
            Some(task) if task.is_given() => {
                let function = TaskFunction::AbortTask { tag: task.id };
                self.pass_on(request, function, &[slot], out);
            }
            _ => {
                self.drop_task(slot, out);
                self.emit_managed(request.itt, response::COMPLETE, out);
            }
        }
    }

    fn abort_set(
        &mut self,
        request: &TaskManagementRequest,
        function: TaskFunction,
        out: &mut Outbox,
    ) {
        let everywhere = matches!(
            function,
            TaskFunction::TargetWarmReset | TaskFunction::TargetColdReset
        );
        let lun = request.lun;
        let concerned = self.tasks.matching(|task| everywhere || task.lun == lun);
        self.pass_on(request, function, &concerned, out);
    }

    /// The LUN was reset from another nexus: tasks whose data are not whole end without an answer.
    pub(super) fn abort_gathering(&mut self, lun: Lun, out: &mut Outbox) {
        let concerned = self
            .tasks
            .matching(|task| task.lun == lun && matches!(task.state, State::Gathering(_)));
        for slot in concerned {
            self.drop_task(slot, out);
        }
        self.tell_window(out);
    }

    /// Gives a function to the server and marks the tasks that it aborts.
    fn pass_on(
        &mut self,
        request: &TaskManagementRequest,
        function: TaskFunction,
        aborted: &[u16],
        out: &mut Outbox,
    ) {
        if self.requests.len() >= MAX_REQUESTS {
            self.emit_managed(request.itt, response::REJECTED, out);
            return;
        }
        let id = self.next_request;
        self.next_request += 1;
        self.requests.push(Request {
            id,
            itt: request.itt,
        });
        for slot in aborted {
            if let Some(task) = self.tasks.at_mut(*slot) {
                task.aborters.push(id);
            }
        }
        out.events.push_back(TargetEvent::TaskManagement {
            request: id,
            lun: request.lun,
            function,
        });
    }

    /// The server's answer to a function.
    pub(super) fn respond_management(&mut self, id: u64, answer: TaskResponse, out: &mut Outbox) {
        let Some(at) = self.requests.iter().position(|request| request.id == id) else {
            return;
        };
        let request = self.requests.remove(at);
        let complete = answer == TaskResponse::Complete;
        for slot in self.tasks.matching(|task| task.aborters.contains(&id)) {
            if complete {
                self.drop_task(slot, out);
            } else {
                self.unmark(slot, id, out);
            }
        }
        self.give_out(out);
        let code = response::from_task_response(answer);
        self.emit_managed(request.itt, code, out);
    }

    /// A function was not done: unless another one is under way, the task goes on, and its answer, if it came, is sent.
    fn unmark(&mut self, slot: u16, id: u64, out: &mut Outbox) {
        let Some(task) = self.tasks.at_mut(slot) else {
            return;
        };
        task.aborters.retain(|request| *request != id);
        if task.aborters.is_empty()
            && let Some(outcome) = task.late.take()
        {
            self.end_task(slot, *outcome, out);
        }
    }

    fn emit_managed(&mut self, itt: u32, response: u8, out: &mut Outbox) {
        let (exp_cmd_sn, max_cmd_sn) = self.counters();
        let answer = TaskManagementResponse {
            response,
            itt,
            stat_sn: self.next_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
        };
        out.transmit.push(&answer.emit());
    }
}
