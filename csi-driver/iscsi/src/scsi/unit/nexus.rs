//! What a unit keeps per logged-in nexus: its port's access, pending unit attentions, and what dies with
//! the session.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::copy::{CopyResult, MAX_RESULTS};
use super::reservation::{Permit, PrState};
use crate::scsi::{Code, Lun, NexusId, TransportId};

/// Pending unit attentions of one nexus; no more are queued.
const MAX_ATTENTIONS: usize = 16;

#[derive(Debug)]
pub(super) struct Nexus {
    pub(super) port: Arc<TransportId>,
    /// The port's registration and access, kept up to date with the reservation state.
    pub(super) key: Option<u64>,
    pub(super) permit: Permit,
    attentions: VecDeque<Code>,
    /// PREVENT MEDIUM REMOVAL is on.
    pub(super) prevents_removal: bool,
    /// Under the present key.
    pub(super) last_command: Option<Duration>,
    results: VecDeque<CopyResult>,
    /// Earlier sessions of the same port whose commands are still under way at the store: until they
    /// are done, no command of this one starts.
    pub(super) predecessors: Vec<NexusId>,
    /// What REPORT LUNS gives, if not every LUN of the target.
    pub(super) reported: Option<Vec<Lun>>,
}

impl Nexus {
    pub(super) fn new(port: Arc<TransportId>, reservations: &PrState) -> Self {
        Self {
            key: reservations.key_of(&port),
            permit: reservations.permit(&port),
            port,
            attentions: VecDeque::new(),
            prevents_removal: false,
            last_command: None,
            results: VecDeque::new(),
            predecessors: Vec::new(),
            reported: None,
        }
    }

    /// Queues a unit attention. A reset or nexus loss says all that the ones before it said.
    pub(super) fn attend(&mut self, code: Code) {
        if code.asc == Code::POWER_ON_OR_RESET.asc {
            self.attentions.clear();
        }
        if self.attentions.len() < MAX_ATTENTIONS && !self.attentions.contains(&code) {
            self.attentions.push_back(code);
        }
    }

    pub(super) fn take_attention(&mut self) -> Option<Code> {
        self.attentions.pop_front()
    }

    /// Keeps the result of a copy; an earlier one under the same list id is forgotten.
    pub(super) fn keep_result(&mut self, result: CopyResult) {
        self.results.retain(|other| other.list != result.list);
        self.results.push_back(result);
        if self.results.len() > MAX_RESULTS {
            self.results.pop_front();
        }
    }

    pub(super) fn take_result(&mut self, list: u8) -> Option<CopyResult> {
        let place = self.results.iter().position(|result| result.list == list)?;
        self.results.remove(place)
    }

    pub(super) fn reset(&mut self, code: Code) {
        self.prevents_removal = false;
        self.results.clear();
        self.attend(code);
    }
}
