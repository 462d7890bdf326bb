//! Text requests in the full feature phase: SendTargets, and MaxRecvDataSegmentLength declared anew (RFC 7143 section 11.10
//! and appendix C). Long answers go out in parts, each asked for by the initiator.

use super::full::{Full, Outbox, malformed};
use crate::login::operational::Operational;
use crate::login::target::allows;
use crate::session::SessionError;
use crate::text::{self, NOT_UNDERSTOOD, REJECT, TextIn, TextOut};
use crate::wire::NO_TAG;
use crate::wire::frame::Pdu;
use crate::wire::reject::reason;
use crate::wire::text::{TextRequest, TextResponse};

/// The text exchange of a session; there is one at a time.
#[derive(Debug, Default)]
pub(super) struct TextPhase {
    input: TextIn,
    /// The tag by which the exchange goes on.
    ttt: Option<u32>,
    /// What is still to be sent.
    rest: Vec<u8>,
}

impl Full {
    pub(super) fn text_request(&mut self, pdu: &Pdu, out: &mut Outbox) -> Result<(), SessionError> {
        let request = TextRequest::parse(&pdu.header).map_err(|error| malformed(pdu, error))?;
        if request.ttt == NO_TAG {
            self.text = TextPhase::default();
        } else if self.text.ttt != Some(request.ttt) {
            self.reject(reason::INVALID_FIELD, pdu, out);
            return Ok(());
        }
        for piece in &pdu.data {
            self.text
                .input
                .push(piece)
                .map_err(|_| SessionError::Protocol("text request is too long"))?;
        }
        if request.more {
            let ttt = self.next_ttt();
            self.text.ttt = Some(ttt);
            self.emit_text(&request, false, false, ttt, Vec::new(), out);
            return Ok(());
        }
        // A request without text asks for the rest of the answer.
        if !self.text.input.is_empty() || self.text.rest.is_empty() {
            let input = self.text.input.take();
            let pairs = text::parse(&input)
                .map_err(|_| SessionError::Protocol("text request is malformed"))?;
            self.text.rest = self.answer_pairs(&pairs)?.into_bytes();
        }
        self.continue_text(&request, out);
        Ok(())
    }

    fn continue_text(&mut self, request: &TextRequest, out: &mut Outbox) {
        let most = self.info.negotiated.max_send_segment as usize;
        let part = if self.text.rest.len() > most {
            let rest = self.text.rest.split_off(most);
            std::mem::replace(&mut self.text.rest, rest)
        } else {
            std::mem::take(&mut self.text.rest)
        };
        let more = !self.text.rest.is_empty();
        // The exchange ends when the initiator has said all and so have we.
        let last = !more && request.last;
        let ttt = if last { NO_TAG } else { self.next_ttt() };
        self.text.ttt = (!last).then_some(ttt);
        self.emit_text(request, last, more, ttt, part, out);
    }

    fn emit_text(
        &mut self,
        request: &TextRequest,
        last: bool,
        more: bool,
        ttt: u32,
        part: Vec<u8>,
        out: &mut Outbox,
    ) {
        let (exp_cmd_sn, max_cmd_sn) = self.counters();
        let response = TextResponse {
            last,
            more,
            lun: request.lun,
            itt: request.itt,
            ttt,
            stat_sn: self.next_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
        };
        out.transmit
            .push_data(&response.emit(part.len() as u32), part.into());
    }

    fn answer_pairs(&mut self, pairs: &[(&str, &str)]) -> Result<TextOut, SessionError> {
        let mut answer = TextOut::default();
        for (key, value) in pairs {
            if *key == "SendTargets" {
                self.send_targets(value, &mut answer);
            } else if !Operational::redeclare(&mut self.info.negotiated, key, value)
                .map_err(|_| SessionError::Protocol("segment length is out of range"))?
                && *value != NOT_UNDERSTOOD
            {
                answer.pair(key, NOT_UNDERSTOOD);
            }
        }
        Ok(answer)
    }

    /// The targets that this initiator may use, each with its portals.
    fn send_targets(&self, wanted: &str, answer: &mut TextOut) {
        let wanted = match (wanted, &self.info.target) {
            ("All", None) => None,
            ("All", Some(_)) => {
                answer.pair("SendTargets", REJECT);
                return;
            }
            ("", Some(own)) => Some(own.as_str()),
            ("", None) => {
                answer.pair("SendTargets", REJECT);
                return;
            }
            (name, _) => Some(name),
        };
        for (name, entry) in &self.config.targets {
            let asked = wanted.is_none_or(|wanted| wanted.eq_ignore_ascii_case(name));
            if !asked || !allows(&entry.acl, &self.info.initiator) {
                continue;
            }
            answer.pair("TargetName", name);
            let own = std::slice::from_ref(&self.portal);
            let portals = if entry.portals.is_empty() {
                own
            } else {
                &entry.portals
            };
            for portal in portals {
                let address = format!("{},{}", portal.address, portal.group);
                answer.pair("TargetAddress", &address);
            }
        }
    }
}
