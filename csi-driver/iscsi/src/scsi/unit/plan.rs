//! What a command needs to be allowed, and from command to plan.
//!
//! Not here: block commands (`block`), what reservations say (`reservation`).

use std::time::Duration;

use super::block::{Medium, Planned};
use super::ended::{Ended, Meant, bad_cdb, joined};
use super::job::Job;
use super::opcodes::{self, Access, Command, Kind};
use super::reservation::{Permit, PrRefusal};
use super::sanitize::{self, Order, Sanitize};
use super::tasks::{Effect, Lock, Plan};
use super::{LogicalUnit, MediumState, copy, inquiry, mode, report, sanitizing};
use crate::scsi::pr::PrOut;
use crate::scsi::{
    Cdb, Code, Expected, Lun, NexusId, ScsiOutcome, Sense, SenseFormat, SenseKey, StoreOp,
};

/// Whether a port with this permit may send the command (SPC-4 table 66, SBC-3 table 13).
pub(super) fn allowed(command: &Command, cdb: &Cdb, permit: Permit) -> bool {
    match command.access {
        Access::Free | Access::PrOut | Access::Reserve6 => true,
        Access::Read => permit.read,
        Access::Write => permit.write,
        Access::ByParameter => permit.write || harmless(command.kind, cdb),
    }
}

/// START STOP UNIT that starts, PREVENT ALLOW that allows.
fn harmless(kind: Kind, cdb: &Cdb) -> bool {
    match kind {
        Kind::StartStop => cdb.bit(4, 0) && cdb.byte(4) & 0xF0 == 0,
        Kind::PreventAllow => cdb.byte(4) & 0x03 == 0,
        _ => false,
    }
}

/// The answer to a command for a LUN that the target does not have. `luns` are those it has.
pub fn absent_unit(cdb: &Cdb, luns: &[Lun], expected: Expected) -> ScsiOutcome {
    let data = match cdb.opcode() {
        0x12 => inquiry::absent(cdb),
        0xA0 => report::luns(cdb, luns),
        0x03 => {
            let sense = Sense::illegal(Code::LOGICAL_UNIT_NOT_SUPPORTED);
            Ok((bytes::BytesMut::from(&sense.emit()[..]), cdb.field_at(4, 1)))
        }
        _ => Err(Sense::illegal(Code::LOGICAL_UNIT_NOT_SUPPORTED)),
    };
    let (ended, meant) = parameter_data(data);
    ended.fit(meant, expected, SenseFormat::Fixed)
}

fn parameter_data(data: Result<(bytes::BytesMut, u64), Sense>) -> (Ended, Meant) {
    match data {
        Ok((data, allocation)) => (Ended::data(data, allocation), Meant::In),
        Err(sense) => (Ended::check(sense), Meant::None),
    }
}

fn good() -> (Ended, Meant) {
    (Ended::good(), Meant::None)
}

fn refuse(sense: Sense) -> (Ended, Meant) {
    (Ended::check(sense), Meant::None)
}

impl LogicalUnit {
    /// Unit attention, reservations, readiness: in this order.
    pub(super) fn admit(
        &mut self,
        nexus: NexusId,
        command: &Command,
        cdb: &Cdb,
    ) -> Result<(), Ended> {
        // NACA asks for auto contingent allegiance, which is not offered.
        let control = cdb.as_bytes().last().copied().unwrap_or(0);
        if control & 0x04 != 0 {
            return Err(Ended::check(bad_cdb(cdb.as_bytes().len() as u16 - 1)));
        }
        if !command.passes_attention()
            && let Some(code) = self
                .nexuses
                .get_mut(&nexus)
                .and_then(|nexus| nexus.take_attention())
        {
            return Err(Ended::check(Sense::new(SenseKey::UnitAttention, code)));
        }
        self.permitted(nexus, command, cdb)?;
        self.ready(command)
    }

    /// What reservations say.
    pub(super) fn permitted(
        &self,
        nexus: NexusId,
        command: &Command,
        cdb: &Cdb,
    ) -> Result<(), Ended> {
        let held_by_other = self.reserved6.is_some_and(|holder| holder != nexus);
        if held_by_other && !command.passes_reserve6() {
            return Err(Ended::conflict());
        }
        if command.access == Access::Reserve6 && self.reservations.has_registrations() {
            return Err(Ended::conflict());
        }
        let permit = self
            .nexuses
            .get(&nexus)
            .map_or(Permit::ALL, |nexus| nexus.permit);
        if allowed(command, cdb, permit) {
            Ok(())
        } else {
            Err(Ended::conflict())
        }
    }

    fn ready(&self, command: &Command) -> Result<(), Ended> {
        if self.medium == MediumState::Ejected && command.needs_medium() {
            return Err(Ended::check(Sense::new(
                SenseKey::NotReady,
                Code::MEDIUM_NOT_PRESENT,
            )));
        }
        match self.sanitize {
            Sanitize::Running if command.waits_for_sanitize() => {
                Err(Ended::check(sanitizing(self.sanitize_progress())))
            }
            Sanitize::Failed { .. } if command.needs_medium() && command.kind != Kind::Sanitize => {
                Err(Ended::check(Sense::new(
                    SenseKey::MediumError,
                    Code::SANITIZE_FAILED,
                )))
            }
            Sanitize::Idle | Sanitize::Running | Sanitize::Failed { .. } => Ok(()),
        }
    }

    fn sanitize_progress(&self) -> u16 {
        let total = self.config.blocks() * self.config.block();
        let running = self.tasks.iter().find(|(_, task)| task.unstoppable);
        running
            .and_then(|(_, task)| task.plan.as_ref())
            .map_or(0, |plan| plan.job.progress(total))
    }

    fn protected(&self) -> bool {
        self.config.read_only || self.modes.protected
    }

    /// What the task at this place is to do, or how it ends at once.
    pub(super) fn plan(&mut self, now: Duration, index: usize) -> Planned {
        let Some(task) = self.tasks.get_mut(index) else {
            return Err(good());
        };
        let (nexus, kind, cdb, expected) = (task.nexus, task.command.kind, task.cdb, task.expected);
        let data = std::mem::take(&mut task.data);
        match kind {
            Kind::Read
            | Kind::Write
            | Kind::WriteVerify
            | Kind::Verify
            | Kind::CompareAndWrite
            | Kind::OrWrite
            | Kind::WriteAtomic
            | Kind::SyncCache
            | Kind::Prefetch
            | Kind::WriteSame
            | Kind::Unmap
            | Kind::LbaStatus => {
                let medium = Medium {
                    config: &self.config,
                    write_through: !self.modes.write_cache,
                    protected: self.protected(),
                };
                medium.plan(kind, &cdb, data, expected)
            }
            Kind::TestUnitReady => Err(good()),
            Kind::RequestSense => Err(self.request_sense(nexus, &cdb)),
            Kind::Inquiry => {
                let age = self.target_age(now, nexus);
                Err(parameter_data(inquiry::inquiry(&cdb, &self.config, age)))
            }
            Kind::ReportLuns => {
                let all = &self.config.luns;
                let nexus = self.nexuses.get(&nexus);
                let luns = nexus.and_then(|nexus| nexus.reported.as_ref());
                Err(parameter_data(report::luns(&cdb, luns.unwrap_or(all))))
            }
            Kind::ModeSense => Err(self.mode_sense(&cdb)),
            Kind::ModeSelect => self.mode_select(nexus, &cdb, &joined(&data)),
            Kind::ReadCapacity10 => Err(self.capacity10(&cdb)),
            Kind::ReadCapacity16 => Err((
                Ended::data(report::capacity16(&self.config), cdb.field_at(10, 4)),
                Meant::In,
            )),
            Kind::StartStop => self.start_stop(nexus, &cdb),
            Kind::PreventAllow => Err(self.prevent_allow(nexus, &cdb)),
            Kind::SendDiagnostic => Err(send_diagnostic(&cdb)),
            Kind::Reserve6 => {
                self.reserved6 = Some(nexus);
                Err(good())
            }
            Kind::Release6 => {
                if self.reserved6 == Some(nexus) {
                    self.reserved6 = None;
                }
                Err(good())
            }
            Kind::PrIn => Err(self.pr_in(&cdb)),
            Kind::PrOut => self.pr_out(index, &cdb, &joined(&data)),
            Kind::ReportOpcodes => Err(parameter_data(
                opcodes::report(&cdb).map(|data| (data, cdb.field_at(6, 4))),
            )),
            Kind::ReportFunctions => Err((
                Ended::data(opcodes::report_functions(&cdb), cdb.field_at(6, 4)),
                Meant::In,
            )),
            Kind::ReportPortGroups => Err(parameter_data(report::port_groups(&cdb, &self.config))),
            Kind::LogSense => Err(parameter_data(report::log(&cdb))),
            Kind::ReadDefects => Err(parameter_data(report::defects(&cdb))),
            Kind::Sanitize => self.plan_sanitize(index, &cdb, &joined(&data)),
            Kind::ExtendedCopy => self.extended_copy(&cdb, &joined(&data)),
            Kind::CopyResults => Err(self.copy_results(nexus, &cdb)),
        }
    }

    fn request_sense(&mut self, nexus: NexusId, cdb: &Cdb) -> (Ended, Meant) {
        let attention = self
            .nexuses
            .get_mut(&nexus)
            .and_then(|nexus| nexus.take_attention());
        let mut sense = match (attention, self.sanitize, self.medium) {
            (Some(code), ..) => Sense::new(SenseKey::UnitAttention, code),
            (None, Sanitize::Running, _) => sanitizing(self.sanitize_progress()),
            (None, _, MediumState::Ejected) => {
                Sense::new(SenseKey::NotReady, Code::MEDIUM_NOT_PRESENT)
            }
            (None, Sanitize::Idle | Sanitize::Failed { .. }, MediumState::Loaded) => {
                Sense::new(SenseKey::NoSense, Code::NONE)
            }
        };
        sense.format = if cdb.bit(1, 0) {
            SenseFormat::Descriptor
        } else {
            SenseFormat::Fixed
        };
        (
            Ended::data(bytes::BytesMut::from(&sense.emit()[..]), cdb.field_at(4, 1)),
            Meant::In,
        )
    }

    fn mode_medium(&self) -> mode::Medium {
        mode::Medium {
            blocks: self.config.blocks(),
            block: self.config.block_size.bytes(),
            read_only: self.config.read_only,
        }
    }

    fn mode_sense(&self, cdb: &Cdb) -> (Ended, Meant) {
        let defaults = mode::Modes {
            write_cache: self.config.write_cache,
            descriptor_sense: false,
            protected: false,
        };
        parameter_data(self.modes.sense(cdb, defaults, self.mode_medium()))
    }

    /// Turning the write cache off flushes what it holds before the status.
    fn mode_select(&mut self, nexus: NexusId, cdb: &Cdb, list: &[u8]) -> Planned {
        let next = self.modes.select(cdb, list).map_err(refuse)?;
        let meant = Meant::Out(list.len() as u64);
        if next == self.modes {
            return Err((Ended::good(), meant));
        }
        let flushes = self.modes.write_cache && !next.write_cache;
        self.modes = next;
        self.attend_all(Some(nexus), Code::MODE_PARAMETERS_CHANGED);
        if flushes {
            Ok(Plan::new(Job::flush(), None, meant))
        } else {
            Err((Ended::good(), meant))
        }
    }

    fn capacity10(&self, cdb: &Cdb) -> (Ended, Meant) {
        let partial = cdb.bit(8, 0);
        if !partial && cdb.field_at(2, 4) != 0 {
            return refuse(bad_cdb(2));
        }
        (Ended::data(report::capacity10(&self.config), 8), Meant::In)
    }

    /// Load and eject of a removable medium; other units and power conditions have nothing to do but
    /// flush before a stop.
    fn start_stop(&mut self, nexus: NexusId, cdb: &Cdb) -> Planned {
        let power_condition = cdb.byte(4) >> 4;
        let (no_flush, load_eject, start) = (cdb.bit(4, 2), cdb.bit(4, 1), cdb.bit(4, 0));
        if power_condition != 0 {
            return Err(good());
        }
        if load_eject {
            if !self.config.removable {
                return Err(refuse(bad_cdb(4)));
            }
            if self.nexuses.values().any(|nexus| nexus.prevents_removal) {
                return Err(refuse(Sense::illegal(Code::MEDIUM_REMOVAL_PREVENTED)));
            }
            let next = if start {
                MediumState::Loaded
            } else {
                MediumState::Ejected
            };
            let was = std::mem::replace(&mut self.medium, next);
            if was == MediumState::Ejected && start {
                self.attend_all(Some(nexus), Code::MEDIUM_MAY_HAVE_CHANGED);
            }
        }
        if start || no_flush {
            Err(good())
        } else {
            Ok(Plan::new(Job::flush(), None, Meant::None))
        }
    }

    fn prevent_allow(&mut self, nexus: NexusId, cdb: &Cdb) -> (Ended, Meant) {
        let prevent = cdb.byte(4) & 0x03;
        if prevent > 1 || (prevent == 1 && !self.config.removable) {
            return refuse(bad_cdb(4));
        }
        if let Some(nexus) = self.nexuses.get_mut(&nexus) {
            nexus.prevents_removal = prevent == 1;
        }
        good()
    }

    fn pr_in(&self, cdb: &Cdb) -> (Ended, Meant) {
        let data = match cdb.byte(1) & 0x1F {
            0 => self.reservations.keys(),
            1 => self.reservations.reservation(),
            2 => self.reservations.capabilities(),
            _ => self.reservations.full_status(self.config.relative_port),
        };
        (Ended::data(data, cdb.field_at(7, 2)), Meant::In)
    }

    fn pr_out(&mut self, index: usize, cdb: &Cdb, list: &[u8]) -> Planned {
        let action = PrOut::parse(cdb, list).map_err(refuse)?;
        let Some(task) = self.tasks.get(index) else {
            return Err(good());
        };
        let change =
            self.reservations
                .apply(&task.port, &action)
                .map_err(|refusal| match refusal {
                    PrRefusal::Conflict => (Ended::conflict(), Meant::None),
                    PrRefusal::Check(sense) => refuse(sense),
                })?;
        let kept = self.reservations.aptpl() || change.state.aptpl();
        let save = kept && change.state != self.reservations;
        let op = save.then(|| StoreOp::SavePr(change.state.saved()));
        let plan = Plan::new(Job::One(op), None, Meant::Out(list.len() as u64));
        Ok(plan.with_effect(Effect::Pr(Box::new(change))))
    }

    fn plan_sanitize(&mut self, index: usize, cdb: &Cdb, list: &bytes::Bytes) -> Planned {
        let Some(task) = self.tasks.get(index) else {
            return Err(good());
        };
        if task.command.has_stray_bits(cdb) {
            return Err(refuse(bad_cdb(1)));
        }
        let protected = self.protected();
        let order = sanitize::parse(cdb, list, &self.config).map_err(refuse)?;
        if protected {
            return Err(refuse(super::ended::write_protected()));
        }
        match (order, self.sanitize) {
            (Order::ExitFailureMode, Sanitize::Failed { leave: false }) => Err(refuse(bad_cdb(1))),
            (Order::ExitFailureMode, _) => {
                self.sanitize = Sanitize::Idle;
                Err(good())
            }
            (Order::Run { job, immediate }, _) => {
                self.sanitize = Sanitize::Running;
                let end = self.config.blocks() * self.config.block();
                let lock = Lock {
                    start: 0,
                    end,
                    exclusive: true,
                };
                let meant = Meant::Out(list.len() as u64);
                if let Some(task) = self.tasks.get_mut(index) {
                    task.unstoppable = true;
                    let key = if immediate { task.key.take() } else { None };
                    let expected = task.expected;
                    if let Some(key) = key {
                        self.complete(key, Ended::good(), meant, expected);
                    }
                }
                Ok(Plan::new(job, Some(lock), meant).with_effect(Effect::Sanitized))
            }
        }
    }

    fn extended_copy(&self, cdb: &Cdb, list: &bytes::Bytes) -> Planned {
        if self.protected() {
            return Err(refuse(super::ended::write_protected()));
        }
        let copy = copy::parse(cdb, list, &self.config).map_err(refuse)?;
        let ends = copy
            .segments
            .iter()
            .flat_map(|segment| [segment.from, segment.to].map(|at| (at, at + segment.len)));
        let lock = ends
            .reduce(|(start, end), (from, to)| (start.min(from), end.max(to)))
            .map(|(start, end)| Lock {
                start,
                end,
                exclusive: true,
            });
        let effect = match copy.list {
            Some(list) => Effect::Copied {
                list,
                segments: copy.segments.len() as u16,
            },
            None => Effect::None,
        };
        let meant = Meant::Out(list.len() as u64);
        Ok(Plan::new(Job::Copy(copy.segments), lock, meant).with_effect(effect))
    }

    fn copy_results(&mut self, nexus: NexusId, cdb: &Cdb) -> (Ended, Meant) {
        let allocation = cdb.field_at(10, 4);
        if cdb.byte(1) & 0x1F == 3 {
            return (
                Ended::data(copy::operating_parameters(self.config.block()), allocation),
                Meant::In,
            );
        }
        match self
            .nexuses
            .get_mut(&nexus)
            .and_then(|nexus| nexus.take_result(cdb.byte(2)))
        {
            Some(result) => (Ended::data(copy::status(result), allocation), Meant::In),
            None => refuse(bad_cdb(2)),
        }
    }
}

/// The default self-test passes; pages are not offered.
fn send_diagnostic(cdb: &Cdb) -> (Ended, Meant) {
    let self_test = cdb.bit(1, 2);
    let code = cdb.byte(1) >> 5;
    match (self_test, code, cdb.field_at(3, 2)) {
        (true, 0, 0) | (false, 0..=2 | 4..=6, 0) => good(),
        _ => refuse(bad_cdb(1)),
    }
}
