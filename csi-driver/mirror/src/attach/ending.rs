//! How an attach ends without serving: refused, superseded, detached.

use std::time::Duration;

use super::{Attach, Phase, order};
use crate::engine::{AttachEnd, Port, Served};
use crate::io::{Output, RemoveWhy};
use crate::status::{Condition, Event, Refusal};

impl Attach {
    /// Nothing runs. The reservations stay (R30). Behind a shown device only a refusal that time does not mend ends it.
    pub(super) fn refuse(
        &mut self,
        now: Duration,
        why: Refusal,
        port: &mut Port,
    ) -> Option<AttachEnd<Vec<Served>>> {
        if why == Refusal::WitnessBehind {
            port.event(Event::Raised(Condition::WitnessRolledBack));
        }
        let for_good = matches!(
            why,
            Refusal::NotActive | Refusal::OrderStale | Refusal::Deleted | Refusal::NotContinued
        );
        if why == Refusal::OrderStale {
            self.note_stale(port);
        }
        if self.patient {
            if for_good {
                return Some(self.superseded(port));
            }
            self.phase = Phase::Pause {
                until: now + self.order().config.refused_poll,
            };
            return None;
        }
        match why {
            Refusal::OrderStale | Refusal::NotContinued => {
                self.remove_devices(RemoveWhy::NotContinued, port);
            }
            Refusal::Deleted => self.remove_devices(RemoveWhy::Deleted, port),
            _ => {}
        }
        self.log_out(port);
        Some(AttachEnd::Refused(why))
    }

    /// Attachments that a later one has passed never attach again.
    fn note_stale(&mut self, port: &mut Port) {
        let uid = self.order().uid;
        let highest = self.highest_order();
        for v in self.indices() {
            let record = &mut self.volumes[v].record;
            if !record.stale && !order::may_attach(record, uid, highest) {
                record.stale = true;
                self.volumes[v].record_open = true;
                port.of(v).save_record(self.volumes[v].record.clone());
            }
        }
    }

    /// A device that the engine itself shows is removed by the engine.
    pub(super) fn superseded(&mut self, port: &mut Port) -> AttachEnd<Vec<Served>> {
        if !self.patient {
            self.remove_devices(RemoveWhy::Superseded, port);
        }
        self.log_out(port);
        AttachEnd::Superseded
    }

    /// Devices of an earlier attach that may not go on.
    fn remove_devices(&self, why: RemoveWhy, port: &mut Port) {
        for (v, volume) in self.volumes.iter().enumerate() {
            if volume.continuing {
                port.of(v).push(Output::RemoveDevice { why });
            }
        }
    }

    pub(super) fn detached(&mut self, port: &mut Port) -> AttachEnd<Vec<Served>> {
        self.log_out(port);
        let own = Some(self.order().key.attach());
        let seen = self.seen.value().filter(|register| register.holder == own);
        let release = self.stamped.take().or_else(|| seen.cloned().map(Box::new));
        AttachEnd::Off { release }
    }

    fn log_out(&mut self, port: &mut Port) {
        for (v, leg) in self.all_legs() {
            self.track_mut(v, leg).down();
            port.of(v).push(Output::Disconnect { leg });
        }
    }
}
