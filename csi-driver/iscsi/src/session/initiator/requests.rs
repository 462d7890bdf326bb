//! Requests of the initiator that are no commands: task management, logout, SendTargets.

use std::time::Duration;

use super::full::{Full, Outbox, malformed};
use super::{DiscoveredPortal, DiscoveredTarget, InitiatorEvent, TaskManagement};
use crate::scsi::{Lun, Residual, ScsiOutcome, Status, TaskFunction, TaskResponse};
use crate::serial::before;
use crate::session::SessionError;
use crate::text::{self, TextOut};
use crate::wire::NO_TAG;
use crate::wire::frame::Pdu;
use crate::wire::logout::{LogoutReason, LogoutRequest, LogoutResponse};
use crate::wire::task_management::{
    TaskManagementRequest, TaskManagementResponse, function, response,
};
use crate::wire::text::{TextRequest, TextResponse};

/// Longest answer to SendTargets.
const MAX_TARGETS_TEXT: usize = 1024 * 1024;
/// Task management functions without an answer.
const MAX_MANAGEMENTS: usize = 64;
const DEFAULT_PORT: &str = "3260";

#[derive(Debug)]
struct Management {
    tag: u64,
    itt: u32,
    /// Commands before this one are concerned.
    cmd_sn: u32,
    request: TaskManagement,
}

#[derive(Debug, Default)]
pub(super) struct Requests {
    managements: Vec<Management>,
    /// The tag of the text request under way and what its answer holds so far.
    text: Option<(u32, Vec<u8>)>,
    /// Tag and time of the logout.
    logout: Option<(u32, Duration)>,
}

impl Full {
    pub(super) fn manage(&mut self, tag: u64, request: TaskManagement, out: &mut Outbox) {
        let mut refuse = |response| {
            out.events
                .push_back(InitiatorEvent::TmfDone { tag, response });
        };
        if self.requests.managements.len() >= MAX_MANAGEMENTS {
            return refuse(TaskResponse::Rejected);
        }
        let mut referenced_itt = NO_TAG;
        let mut ref_cmd_sn = 0;
        let code = match request.function {
            TaskFunction::AbortTask { tag: aborted } | TaskFunction::QueryTask { tag: aborted } => {
                let Some(task) = self.tasks.by_tag(aborted) else {
                    self.abort_queued(tag, aborted, out);
                    return;
                };
                referenced_itt = task.itt;
                ref_cmd_sn = task.cmd_sn;
                match request.function {
                    TaskFunction::AbortTask { .. } => function::ABORT_TASK,
                    _ => function::QUERY_TASK,
                }
            }
            TaskFunction::AbortTaskSet => function::ABORT_TASK_SET,
            TaskFunction::ClearAca => function::CLEAR_ACA,
            TaskFunction::ClearTaskSet => function::CLEAR_TASK_SET,
            TaskFunction::LunReset => function::LUN_RESET,
            TaskFunction::TargetWarmReset => function::TARGET_WARM_RESET,
            TaskFunction::TargetColdReset => function::TARGET_COLD_RESET,
            TaskFunction::QueryTaskSet => function::QUERY_TASK_SET,
            TaskFunction::ItNexusReset => function::IT_NEXUS_RESET,
            TaskFunction::QueryAsyncEvent => function::QUERY_ASYNC_EVENT,
        };
        let itt = self.other_itt();
        let pdu = TaskManagementRequest {
            immediate: true,
            function: code,
            lun: request.lun,
            itt,
            referenced_itt,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            ref_cmd_sn,
        };
        out.transmit.push(&pdu.emit());
        self.requests.managements.push(Management {
            tag,
            itt,
            cmd_sn: self.cmd_sn,
            request,
        });
    }

    /// A task that was not sent yet is aborted here.
    fn abort_queued(&mut self, tag: u64, aborted: u64, out: &mut Outbox) {
        let at = self.queue.iter().position(|(queued, _)| *queued == aborted);
        let response = match at {
            Some(at) => {
                self.queue.remove(at);
                out.events.push_back(aborted_task(aborted));
                TaskResponse::Complete
            }
            None => TaskResponse::TaskNotFound,
        };
        out.events
            .push_back(InitiatorEvent::TmfDone { tag, response });
    }

    pub(super) fn managed(&mut self, pdu: &Pdu, out: &mut Outbox) {
        let answer = TaskManagementResponse::parse(&pdu.header);
        self.learn_from(answer.stat_sn, answer.exp_cmd_sn, answer.max_cmd_sn);
        let Some(management) = self.take_management(answer.itt) else {
            return;
        };
        let response = response::to_task_response(answer.response);
        if response == TaskResponse::Complete {
            self.end_aborted(&management, out);
        }
        out.events.push_back(InitiatorEvent::TmfDone {
            tag: management.tag,
            response,
        });
    }

    pub(super) fn management_refused(&mut self, itt: u32, out: &mut Outbox) {
        if let Some(management) = self.take_management(itt) {
            out.events.push_back(InitiatorEvent::TmfDone {
                tag: management.tag,
                response: TaskResponse::Rejected,
            });
        }
    }

    fn take_management(&mut self, itt: u32) -> Option<Management> {
        let open = &mut self.requests.managements;
        let at = open.iter().position(|management| management.itt == itt)?;
        Some(open.remove(at))
    }

    /// Ends the tasks that a completed function has aborted.
    fn end_aborted(&mut self, management: &Management, out: &mut Outbox) {
        let lun = management.request.lun;
        let concerned: Vec<u32> = self
            .tasks
            .iter()
            .filter(|task| before(task.cmd_sn, management.cmd_sn))
            .filter(|task| match management.request.function {
                TaskFunction::AbortTask { tag } => task.tag == tag,
                TaskFunction::AbortTaskSet
                | TaskFunction::ClearTaskSet
                | TaskFunction::LunReset => task.lun == lun,
                TaskFunction::TargetWarmReset
                | TaskFunction::TargetColdReset
                | TaskFunction::ItNexusReset => true,
                TaskFunction::ClearAca
                | TaskFunction::QueryTask { .. }
                | TaskFunction::QueryTaskSet
                | TaskFunction::QueryAsyncEvent => false,
            })
            .map(|task| task.itt)
            .collect();
        for itt in concerned {
            let removed = self.tasks.find(itt).and_then(|at| self.tasks.remove(at));
            if let Some(task) = removed {
                out.events.push_back(aborted_task(task.tag));
            }
        }
    }

    pub(super) fn logout(&mut self, now: Duration, cid: u16, out: &mut Outbox) {
        if self.requests.logout.is_some() {
            return;
        }
        let itt = self.other_itt();
        let pdu = LogoutRequest {
            immediate: true,
            reason: LogoutReason::CloseSession,
            itt,
            cid,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
        };
        out.transmit.push(&pdu.emit());
        self.requests.logout = Some((itt, now));
    }

    /// When the logout was asked for, if it was.
    pub(super) fn logout_since(&self) -> Option<Duration> {
        self.requests.logout.map(|(_, since)| since)
    }

    pub(super) fn logged_out(&self, pdu: &Pdu) -> Result<InitiatorEvent, SessionError> {
        let answer = LogoutResponse::parse(&pdu.header);
        match self.requests.logout {
            Some((itt, _)) if itt == answer.itt => Ok(InitiatorEvent::LoggedOut),
            Some(_) | None => Err(SessionError::Protocol(
                "logout response that was not asked for",
            )),
        }
    }

    pub(super) fn discover(&mut self, out: &mut Outbox) {
        if self.requests.text.is_none() {
            let mut text = TextOut::default();
            text.pair("SendTargets", "All");
            let itt = self.other_itt();
            self.requests.text = Some((itt, Vec::new()));
            self.push_text(itt, NO_TAG, text.into_bytes(), out);
        }
    }

    fn push_text(&mut self, itt: u32, ttt: u32, text: Vec<u8>, out: &mut Outbox) {
        let pdu = TextRequest {
            immediate: true,
            last: true,
            more: false,
            lun: Lun(0),
            itt,
            ttt,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
        };
        out.transmit
            .push_data(&pdu.emit(text.len() as u32), text.into());
    }

    pub(super) fn text_response(
        &mut self,
        pdu: &Pdu,
        out: &mut Outbox,
    ) -> Result<(), SessionError> {
        let answer = TextResponse::parse(&pdu.header).map_err(|error| malformed(pdu, error))?;
        self.learn_from(answer.stat_sn, answer.exp_cmd_sn, answer.max_cmd_sn);
        let (itt, mut text) = self
            .requests
            .text
            .take()
            .filter(|(itt, _)| *itt == answer.itt)
            .ok_or(SessionError::Protocol(
                "text response that was not asked for",
            ))?;
        for piece in &pdu.data {
            text.extend_from_slice(piece);
        }
        if text.len() > MAX_TARGETS_TEXT {
            return Err(SessionError::Protocol("list of targets is too long"));
        }
        if !answer.last {
            if pdu.data_len == 0 {
                return Err(SessionError::Protocol("text response goes on without text"));
            }
            self.requests.text = Some((itt, text));
            self.push_text(itt, answer.ttt, Vec::new(), out);
            return Ok(());
        }
        let targets =
            parse_targets(&text).ok_or(SessionError::Protocol("list of targets is malformed"))?;
        out.events.push_back(InitiatorEvent::Discovered(targets));
        Ok(())
    }
}

fn aborted_task(tag: u64) -> InitiatorEvent {
    InitiatorEvent::Done {
        tag,
        outcome: ScsiOutcome {
            status: Status::TaskAborted,
            sense: None,
            data_in: Vec::new(),
            residual: Residual::None,
        },
    }
}

/// `TargetName`, each followed by its `TargetAddress`es. The list may be longer than one exchange of login keys.
fn parse_targets(text: &[u8]) -> Option<Vec<DiscoveredTarget>> {
    let mut targets: Vec<DiscoveredTarget> = Vec::new();
    for entry in text
        .split(|byte| *byte == 0)
        .filter(|entry| !entry.is_empty())
    {
        let terminated = [entry, &[0]].concat();
        let pairs = text::parse(&terminated).ok()?;
        let (key, value) = pairs.first()?;
        match *key {
            "TargetName" => targets.push(DiscoveredTarget {
                name: (*value).to_owned(),
                portals: Vec::new(),
            }),
            "TargetAddress" => targets.last_mut()?.portals.push(parse_portal(value)?),
            _ => {}
        }
    }
    Some(targets)
}

/// `host[:port],group`; an IPv6 host stands in brackets.
fn parse_portal(value: &str) -> Option<DiscoveredPortal> {
    let (address, group) = value.rsplit_once(',').unwrap_or((value, "1"));
    let group = u16::try_from(text::parse_number(group)?).ok()?;
    let host_end = address.rfind(']').unwrap_or(0);
    let address = if address[host_end..].contains(':') {
        address.to_owned()
    } else {
        format!("{address}:{DEFAULT_PORT}")
    };
    Some(DiscoveredPortal { address, group })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn portal(address: &str, group: u16) -> DiscoveredPortal {
        DiscoveredPortal {
            address: address.to_owned(),
            group,
        }
    }

    #[test]
    fn targets_come_with_their_portals() {
        let text = b"TargetName=iqn.a\0TargetAddress=192.0.2.1:3260,1\0TargetAddress=[2001:db8::1],2\0TargetName=iqn.b\0";
        assert_eq!(
            parse_targets(text),
            Some(vec![
                DiscoveredTarget {
                    name: "iqn.a".to_owned(),
                    portals: vec![portal("192.0.2.1:3260", 1), portal("[2001:db8::1]:3260", 2)],
                },
                DiscoveredTarget {
                    name: "iqn.b".to_owned(),
                    portals: vec![],
                },
            ])
        );
        assert_eq!(parse_targets(b"TargetAddress=192.0.2.1,1\0"), None);
        assert_eq!(parse_targets(b"TargetName\0"), None);
        assert_eq!(parse_targets(b"TargetName=a\0TargetAddress=x,y\0"), None);
    }
}
