//! Answers of the target: Data-In, status, sense, residuals.
//!
//! GOOD without sense rides on the last Data-In (phase collapse); every other status has a PDU of its own.

use bytes::{BufMut, Bytes, BytesMut};

use super::full::{Full, Outbox};
use crate::scsi::{Expected, Residual, ScsiOutcome, Status};
use crate::session::slices::{Place, total};
use crate::wire::data_in::{CollapsedStatus, DataIn};
use crate::wire::scsi_response::{COMPLETED, ScsiResponse};

impl Full {
    /// The server's answer to a task that was given out.
    pub(super) fn respond(&mut self, id: u64, outcome: ScsiOutcome, out: &mut Outbox) {
        let Some(slot) = self.tasks.by_id(id) else {
            return;
        };
        let Some(task) = self.tasks.at_mut(slot) else {
            return;
        };
        if !task.is_given() {
            return;
        }
        if !task.aborters.is_empty() {
            task.late = Some(Box::new(outcome));
            return;
        }
        self.end_task(slot, outcome, out);
    }

    /// The server ends a task without an answer.
    pub(super) fn discard(&mut self, id: u64, out: &mut Outbox) {
        let Some(slot) = self.tasks.by_id(id) else {
            return;
        };
        if self.tasks.at(slot).is_some_and(|task| task.is_given()) {
            self.tasks.remove(slot);
            self.tell_window(out);
        }
    }

    pub(super) fn end_task(&mut self, slot: u16, outcome: ScsiOutcome, out: &mut Outbox) {
        let Some(task) = self.tasks.remove(slot) else {
            return;
        };
        match task.expected {
            Expected::In(expected) => {
                self.emit_read(task.itt, expected, outcome, out);
            }
            Expected::None | Expected::Out(_) => {
                self.emit_response(task.itt, task.r2ts, &outcome, out);
            }
        }
    }

    fn emit_read(&mut self, itt: u32, expected: u32, mut outcome: ScsiOutcome, out: &mut Outbox) {
        let had = u32::try_from(total(&outcome.data_in)).unwrap_or(u32::MAX);
        let length = had.min(expected);
        if outcome.residual == Residual::None && had != expected {
            outcome.residual = Residual::of(u64::from(had), expected);
        }
        let collapse = outcome.status == Status::Good && outcome.sense.is_none() && length > 0;
        let agreed = &self.info.negotiated;
        let (max_segment, max_burst) = (agreed.max_send_segment, agreed.max_burst);
        let (mut offset, mut data_sn, mut burst) = (0, 0, 0);
        let mut place = Place::default();
        while offset < length {
            let step = max_segment.min(length - offset).min(max_burst - burst);
            burst += step;
            let at_end = offset + step == length;
            let (exp_cmd_sn, max_cmd_sn) = self.counters();
            let data_in = DataIn {
                last: at_end || burst == max_burst,
                acknowledge: false,
                itt,
                exp_cmd_sn,
                max_cmd_sn,
                data_sn,
                offset,
                status: (collapse && at_end).then(|| CollapsedStatus {
                    status: Status::Good.byte(),
                    stat_sn: self.next_stat_sn(),
                    residual: outcome.residual,
                }),
            };
            if burst == max_burst {
                burst = 0;
            }
            let data = place.take(&outcome.data_in, step as usize);
            out.transmit.push_pieces(&data_in.emit(step), data);
            offset += step;
            data_sn += 1;
        }
        if !collapse {
            self.emit_response(itt, data_sn, &outcome, out);
        }
    }

    /// A SCSI Response PDU after so many Data-In or R2T PDUs.
    pub(super) fn emit_response(
        &mut self,
        itt: u32,
        data_pdus: u32,
        outcome: &ScsiOutcome,
        out: &mut Outbox,
    ) {
        let (exp_cmd_sn, max_cmd_sn) = self.counters();
        let response = ScsiResponse {
            response: COMPLETED,
            status: outcome.status.byte(),
            itt,
            stat_sn: self.next_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
            exp_data_sn: data_pdus,
            residual: outcome.residual,
        };
        match &outcome.sense {
            None => out.transmit.push(&response.emit(0)),
            Some(sense) => {
                let segment = sense_segment(&sense.emit());
                out.transmit
                    .push_data(&response.emit(segment.len() as u32), segment);
            }
        }
    }
}

/// Sense data behind their length.
fn sense_segment(sense: &[u8]) -> Bytes {
    let mut segment = BytesMut::with_capacity(2 + sense.len());
    segment.put_u16(sense.len() as u16);
    segment.put_slice(sense);
    segment.freeze()
}
