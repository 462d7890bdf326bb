//! Persistent reservations of one unit: who is registered, who holds, who may do what (SPC-4 5.12).
//!
//! A registration belongs to an initiator port, that is, to name and ISID: it survives logout and is
//! the same initiator's again when it logs in with the same ISID. The unit has one target port, so a
//! port stands for its I_T nexus.
//!
//! `PrState` is a value: `apply` gives the next one with its consequences and leaves the old one as it
//! is, so that the unit can save the next state before it takes effect.
//!
//! Invariants: ports are registered at most once, at most `MAX_REGISTRATIONS` of them; keys are not
//! zero; the holder is registered; a reservation of all registrants has at least one.
//!
//! Not here: the saved form (`persist`), PERSISTENT RESERVE IN (`report`), wire forms (`scsi::pr`).

mod persist;
pub(super) mod report;
#[cfg(test)]
mod tests;

pub use persist::PrStateError;

use crate::scsi::pr::{PrOut, PrType};
use crate::scsi::{Code, Sense, Specific, TransportId};

/// Registrations of one unit; more get INSUFFICIENT REGISTRATION RESOURCES. With the longest names their
/// full status still fits an allocation length of 16 bits.
pub(super) const MAX_REGISTRATIONS: usize = 128;

/// Persistent reservation state as it is saved with the unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrState {
    generation: u32,
    /// The registrant asked for the state to survive power loss.
    aptpl: bool,
    registrations: Vec<Registration>,
    reservation: Option<Reservation>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Registration {
    port: TransportId,
    key: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Reservation {
    kind: PrType,
    /// For a reservation of all registrants: who made it, without meaning.
    holder: TransportId,
}

/// What a port may do to the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Permit {
    pub(super) read: bool,
    pub(super) write: bool,
}

impl Permit {
    pub(super) const ALL: Self = Self {
        read: true,
        write: true,
    };
}

/// The state after a PERSISTENT RESERVE OUT and what else it brings about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PrChange {
    pub(super) state: PrState,
    pub(super) attentions: Vec<(TransportId, Code)>,
    /// Ports whose tasks are aborted before the command is answered.
    pub(super) abort: Vec<TransportId>,
    /// The command took the reservation: commands under way that it forbids are waited for.
    pub(super) excludes: bool,
    /// Ages of foreign commands are frozen for the sender when the command is answered.
    pub(super) freezes_ages: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PrRefusal {
    Conflict,
    Check(Sense),
}

impl PrState {
    pub(super) fn key_of(&self, port: &TransportId) -> Option<u64> {
        self.registrations
            .iter()
            .find(|entry| entry.port == *port)
            .map(|entry| entry.key)
    }

    pub(super) fn has_registrations(&self) -> bool {
        !self.registrations.is_empty()
    }

    pub(super) fn aptpl(&self) -> bool {
        self.aptpl
    }

    /// Access of this port under the present reservation.
    pub(super) fn permit(&self, port: &TransportId) -> Permit {
        let Some(reservation) = &self.reservation else {
            return Permit::ALL;
        };
        let registered = self.key_of(port).is_some();
        if registered && (reservation.holder == *port || reservation.kind.admits_registrants()) {
            return Permit::ALL;
        }
        Permit {
            read: reservation.kind.admits_reads(),
            write: false,
        }
    }

    fn is_holder(&self, port: &TransportId) -> bool {
        self.reservation.as_ref().is_some_and(|reservation| {
            self.key_of(port).is_some()
                && (reservation.kind.all_registrants() || reservation.holder == *port)
        })
    }

    /// What `action` sent by `port` makes of this state.
    pub(super) fn apply(&self, port: &TransportId, action: &PrOut) -> Result<PrChange, PrRefusal> {
        match action {
            PrOut::Register { key, new, aptpl } => {
                if self.key_of(port).unwrap_or(0) != *key {
                    return Err(PrRefusal::Conflict);
                }
                self.register(port, *new, *aptpl)
            }
            PrOut::RegisterIgnore { new, aptpl } => self.register(port, *new, *aptpl),
            PrOut::Reserve { key, kind } => self.reserve(port, *key, *kind),
            PrOut::Release { key, kind } => self.release(port, *key, *kind),
            PrOut::Clear { key } => self.clear(port, *key),
            PrOut::Preempt { key, victim, kind } => {
                let mut change = self.preempt(port, *key, *victim, *kind)?;
                change.abort.clear();
                Ok(change)
            }
            PrOut::PreemptAbort { key, victim, kind } => {
                let mut change = self.preempt(port, *key, *victim, *kind)?;
                change.freezes_ages = true;
                Ok(change)
            }
            PrOut::Move {
                key,
                new,
                unregister,
                aptpl,
                to,
            } => self.transfer(port, *key, *new, *unregister, *aptpl, to),
        }
    }

    fn unchanged(&self) -> PrChange {
        PrChange {
            state: self.clone(),
            attentions: Vec::new(),
            abort: Vec::new(),
            excludes: false,
            freezes_ages: false,
        }
    }

    fn next_generation(&self) -> PrChange {
        let mut change = self.unchanged();
        change.state.generation = self.generation.wrapping_add(1);
        change
    }

    fn require_key(&self, port: &TransportId, key: u64) -> Result<(), PrRefusal> {
        if self.key_of(port) == Some(key) {
            Ok(())
        } else {
            Err(PrRefusal::Conflict)
        }
    }

    fn register(&self, port: &TransportId, new: u64, aptpl: bool) -> Result<PrChange, PrRefusal> {
        let place = self
            .registrations
            .iter()
            .position(|entry| entry.port == *port);
        let mut change = self.next_generation();
        match (place, new) {
            (None, 0) => return Ok(self.unchanged()),
            (None, key) => change.state.add(port, key)?,
            (Some(_), 0) => change.unregister(port),
            (Some(place), key) => change.state.registrations[place].key = key,
        }
        change.state.aptpl = aptpl;
        Ok(change)
    }

    fn add(&mut self, port: &TransportId, key: u64) -> Result<(), PrRefusal> {
        if self.registrations.len() >= MAX_REGISTRATIONS {
            return Err(PrRefusal::Check(Sense::illegal(
                Code::INSUFFICIENT_REGISTRATION_RESOURCES,
            )));
        }
        self.registrations.push(Registration {
            port: port.clone(),
            key,
        });
        Ok(())
    }

    fn reserve(&self, port: &TransportId, key: u64, kind: PrType) -> Result<PrChange, PrRefusal> {
        self.require_key(port, key)?;
        match &self.reservation {
            None => {
                let mut change = self.unchanged();
                change.state.reservation = Some(Reservation {
                    kind,
                    holder: port.clone(),
                });
                change.excludes = true;
                Ok(change)
            }
            Some(present) if self.is_holder(port) && present.kind == kind => Ok(self.unchanged()),
            Some(_) => Err(PrRefusal::Conflict),
        }
    }

    fn release(&self, port: &TransportId, key: u64, kind: PrType) -> Result<PrChange, PrRefusal> {
        self.require_key(port, key)?;
        let Some(present) = self.reservation.as_ref().filter(|_| self.is_holder(port)) else {
            return Ok(self.unchanged());
        };
        if present.kind != kind {
            return Err(PrRefusal::Check(Sense::illegal(
                Code::INVALID_RELEASE_OF_RESERVATION,
            )));
        }
        let mut change = self.unchanged();
        change.state.reservation = None;
        if kind.admits_registrants() {
            change.notify_registrants(&[port], Code::RESERVATIONS_RELEASED);
        }
        Ok(change)
    }

    fn clear(&self, port: &TransportId, key: u64) -> Result<PrChange, PrRefusal> {
        self.require_key(port, key)?;
        let mut change = self.next_generation();
        change.notify_registrants(&[port], Code::RESERVATIONS_PREEMPTED);
        change.state.registrations.clear();
        change.state.reservation = None;
        Ok(change)
    }

    /// The sender's own registration always stays, also when `victim` is its own key.
    fn preempt(
        &self,
        port: &TransportId,
        key: u64,
        victim: u64,
        kind: Option<PrType>,
    ) -> Result<PrChange, PrRefusal> {
        self.require_key(port, key)?;
        let all = self
            .reservation
            .as_ref()
            .is_some_and(|present| present.kind.all_registrants());
        if victim == 0 && !all {
            return Err(PrRefusal::Check(list_error(8)));
        }
        let takes = self.reservation.as_ref().is_some_and(|present| match all {
            true => victim == 0,
            false => self.key_of(&present.holder) == Some(victim),
        });
        let chosen = |entry: &&Registration| (takes && all) || entry.key == victim;
        if !self.registrations.iter().any(|entry| chosen(&entry)) {
            return Err(PrRefusal::Conflict);
        }
        let mut change = self.next_generation();
        change.abort = (self.registrations.iter().filter(chosen))
            .filter(|entry| entry.port != *port)
            .map(|entry| entry.port.clone())
            .collect();
        change
            .state
            .registrations
            .retain(|entry| !change.abort.contains(&entry.port));
        change.attentions = change
            .abort
            .iter()
            .map(|port| (port.clone(), Code::REGISTRATIONS_PREEMPTED))
            .collect();
        if takes {
            let kind = kind.ok_or(PrRefusal::Check(cdb_error(2)))?;
            if self
                .reservation
                .as_ref()
                .is_some_and(|present| present.kind != kind)
            {
                change.notify_registrants(&[port], Code::RESERVATIONS_RELEASED);
            }
            change.state.reservation = Some(Reservation {
                kind,
                holder: port.clone(),
            });
        }
        change.excludes = true;
        Ok(change)
    }

    fn transfer(
        &self,
        port: &TransportId,
        key: u64,
        new: u64,
        unregister: bool,
        aptpl: bool,
        to: &TransportId,
    ) -> Result<PrChange, PrRefusal> {
        self.require_key(port, key)?;
        if to == port {
            return Err(PrRefusal::Check(list_error(24)));
        }
        let Some(present) = self.reservation.as_ref().filter(|_| self.is_holder(port)) else {
            return Err(PrRefusal::Conflict);
        };
        if present.kind.all_registrants() {
            return Err(PrRefusal::Conflict);
        }
        let mut change = self.next_generation();
        let state = &mut change.state;
        state.aptpl = aptpl;
        match state
            .registrations
            .iter_mut()
            .find(|entry| entry.port == *to)
        {
            Some(entry) => entry.key = new,
            None => state.add(to, new)?,
        }
        state.reservation = Some(Reservation {
            kind: present.kind,
            holder: to.clone(),
        });
        if unregister {
            state.registrations.retain(|entry| entry.port != *port);
        }
        Ok(change)
    }
}

impl PrChange {
    /// Takes the registration away, and the reservation that rests on it.
    fn unregister(&mut self, port: &TransportId) {
        let held = self.state.is_holder(port);
        self.state.registrations.retain(|entry| entry.port != *port);
        let Some(reservation) = self.state.reservation.as_ref().filter(|_| held) else {
            return;
        };
        let kind = reservation.kind;
        if kind.all_registrants() && self.state.has_registrations() {
            return;
        }
        self.state.reservation = None;
        if kind.admits_registrants() {
            self.notify_registrants(&[port], Code::RESERVATIONS_RELEASED);
        }
    }

    fn notify_registrants(&mut self, but: &[&TransportId], code: Code) {
        let others = self
            .state
            .registrations
            .iter()
            .filter(|entry| !but.contains(&&entry.port));
        self.attentions
            .extend(others.map(|entry| (entry.port.clone(), code)));
    }
}

fn cdb_error(byte: u16) -> Sense {
    Sense::illegal(Code::INVALID_FIELD_IN_CDB).with_specific(Specific::CdbField { byte, bit: None })
}

fn list_error(byte: u16) -> Sense {
    Sense::illegal(Code::INVALID_FIELD_IN_PARAMETER_LIST)
        .with_specific(Specific::ListField { byte, bit: None })
}
