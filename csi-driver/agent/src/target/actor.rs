//! One target: its sessions and its logical units, on one thread.
//!
//! A command goes from a session to its unit, from there to the store, and its answer all the way back, within the calls of one
//! turn; what all of a turn's answers amount to is sent in `settle`.
//! Not here: how sessions come (`arrivals`) and leave (`endings`).

use std::collections::BTreeMap;
use std::sync::mpsc::SyncSender;

use slab::Slab;
use twinsite_iscsi::scsi::{
    Lun, NexusId, TaskFunction, TaskKey, TaskResponse, UnitOutput, absent_unit,
};
use twinsite_iscsi::session::{TargetCommand, TargetEvent};

use super::admission::Admissions;
use super::connection::{Arrival, Connection, Purpose, Rest, TargetMail};
use super::counters::{SessionStats, TargetStats};
use super::gate::Place;
use super::units::{Prepared, Units};
use crate::reactor::{Actor, Context, Event, Inlet, StreamEvent, Token};

/// No more commands are taken while reads for so much are under way.
const READS_UNDER_WAY: usize = 128 << 20;

/// A task management function that concerns several units: answered when all have.
pub(super) struct Gathering {
    left: usize,
    response: TaskResponse,
    cold_reset: bool,
}

pub(super) struct TargetActor {
    pub(super) iqn: String,
    pub(super) inlet: Inlet<TargetMail>,
    pub(super) units: Units,
    pub(super) connections: Slab<Connection>,
    pub(super) nexuses: BTreeMap<NexusId, usize>,
    pub(super) next_serial: u32,
    pub(super) next_nexus: u64,
    pub(super) session_limit: usize,
    pub(super) admissions: Admissions<Box<Arrival>>,
    pub(super) gatherings: BTreeMap<(NexusId, u64), Gathering>,
    pub(super) dirty: Vec<Place>,
    /// Sessions whose next command waits for room.
    pub(super) stalled: Vec<Place>,
    pub(super) stats: TargetStats,
    /// Who waits for the end: they see it when these are dropped, and that is after the stores are (fields drop in this order).
    pub(super) leaving: Vec<SyncSender<()>>,
}

impl TargetActor {
    pub(super) fn new(
        _cx: &mut Context<'_>,
        iqn: String,
        units: Vec<Prepared>,
        inlet: Inlet<TargetMail>,
        session_limit: usize,
    ) -> Self {
        let stats = TargetStats {
            iqn: iqn.clone(),
            ..TargetStats::default()
        };
        Self {
            iqn,
            inlet,
            units: Units::new(units),
            connections: Slab::new(),
            nexuses: BTreeMap::new(),
            next_serial: 0,
            next_nexus: 1,
            session_limit,
            admissions: Admissions::default(),
            gatherings: BTreeMap::new(),
            dirty: Vec::new(),
            stalled: Vec::new(),
            leaving: Vec::new(),
            stats,
        }
    }

    pub(super) fn connection(&mut self, place: Place) -> Option<&mut Connection> {
        self.connections
            .get_mut(place.index as usize)
            .filter(|found| found.place == place)
    }

    pub(super) fn mark(&mut self, index: usize) {
        if let Some(connection) = self.connections.get_mut(index)
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push(connection.place);
        }
    }

    fn socket_event(&mut self, cx: &mut Context<'_>, place: Place, event: Event) {
        let now = cx.now();
        let Some(connection) = self.connection(place) else {
            return;
        };
        match connection.stream.handle(event) {
            StreamEvent::Received(bytes) => {
                // The session reports its end as an event, too; what it answers is still sent.
                if let Err(error) = connection.session.handle_bytes(now, bytes) {
                    tracing::info!(initiator = %connection.info.initiator, %error, "session broke");
                }
            }
            StreamEvent::Sent => {}
            StreamEvent::Closed(error) => {
                if !connection.ended {
                    let initiator = &connection.info.initiator;
                    match error {
                        None => tracing::info!(%initiator, "the initiator closed the connection"),
                        Some(error) => tracing::info!(%initiator, %error, "connection lost"),
                    }
                    self.stats.lost += 1;
                }
                return self.drop_connection(cx, place);
            }
        }
        self.run(cx, place);
    }

    /// Takes the events of a session as long as there is room for what they bring.
    pub(super) fn run(&mut self, cx: &mut Context<'_>, place: Place) {
        self.mark(place.index as usize);
        loop {
            let reading = self.units.reading();
            let Some(connection) = self.connection(place) else {
                return;
            };
            if connection.ended {
                return;
            }
            if !connection.has_room() || reading > READS_UNDER_WAY {
                self.stalled.push(place);
                return;
            }
            match connection.session.poll_event() {
                None => return,
                Some(TargetEvent::Command(command)) => self.command(cx, place, command),
                Some(TargetEvent::TaskManagement {
                    request,
                    lun,
                    function,
                }) => {
                    self.task_management(cx, place, request, lun, function);
                }
                Some(TargetEvent::Closed(reason)) => self.closed(cx, place, &reason),
                Some(TargetEvent::LoginReady(_)) => {
                    unreachable!("the login was answered before the session came here")
                }
            }
        }
    }

    fn command(&mut self, cx: &mut Context<'_>, place: Place, command: TargetCommand) {
        let Some(connection) = self.connection(place) else {
            return;
        };
        let nexus = connection.nexus;
        let Some(number) = connection.find(command.lun) else {
            let luns = connection.luns.iter();
            let luns: Vec<Lun> = luns.map(|number| Lun::from_number(*number)).collect();
            let outcome = absent_unit(&command.cdb, &luns, command.expected);
            connection.session.respond(command.task, outcome);
            return;
        };
        self.units.count(number, &command);
        let TargetCommand {
            task,
            cdb,
            data_out,
            expected,
            attr,
            ..
        } = command;
        let task = TaskKey { nexus, tag: task };
        if let Some(unit) = self.units.unit(number) {
            unit.handle_command(cx.now(), task, attr, cdb, data_out, expected);
        }
        self.drain_unit(cx, number);
    }

    fn task_management(
        &mut self,
        cx: &mut Context<'_>,
        place: Place,
        request: u64,
        lun: Lun,
        function: TaskFunction,
    ) {
        self.stats.task_management += 1;
        let whole_target = matches!(
            function,
            TaskFunction::TargetWarmReset
                | TaskFunction::TargetColdReset
                | TaskFunction::ItNexusReset
        );
        let units = self.units.numbers().len();
        let Some(connection) = self.connection(place) else {
            return;
        };
        let numbers = if whole_target {
            connection.luns.clone()
        } else {
            connection.find(lun).into_iter().collect()
        };
        let nexus = connection.nexus;
        if function == TaskFunction::TargetColdReset && numbers.len() < units {
            // It would end the sessions of others on units that this one may not use.
            return connection
                .session
                .respond_task_management(request, TaskResponse::Rejected);
        }
        if numbers.is_empty() {
            return connection
                .session
                .respond_task_management(request, TaskResponse::LunNotFound);
        }
        let gathering = Gathering {
            left: numbers.len(),
            response: TaskResponse::Complete,
            cold_reset: function == TaskFunction::TargetColdReset,
        };
        self.gatherings.insert((nexus, request), gathering);
        for number in numbers {
            if let Some(unit) = self.units.unit(number) {
                unit.handle_task_management(cx.now(), nexus, request, function);
            }
            self.drain_unit(cx, number);
        }
    }

    pub(super) fn drain_unit(&mut self, cx: &mut Context<'_>, number: u16) {
        let token = |key| Purpose::Store(key).token();
        while let Some(wish) = self.units.poll(cx, number, token) {
            match wish {
                UnitOutput::Complete { task, outcome } => {
                    if let Some(connection) = self.of_nexus(task.nexus) {
                        connection.session.respond(task.tag, outcome);
                    }
                }
                UnitOutput::AbortData { task } => {
                    if let Some(connection) = self.of_nexus(task.nexus) {
                        connection.session.discard(task.tag);
                    }
                }
                UnitOutput::AbortGathering { nexus } => {
                    if let Some(connection) = self.of_nexus(nexus) {
                        connection.session.abort_gathering(Lun::from_number(number));
                    }
                }
                UnitOutput::TaskManagementDone {
                    nexus,
                    tag,
                    response,
                } => {
                    self.task_management_done(cx, nexus, tag, response);
                }
                UnitOutput::Store { .. } => unreachable!("store operations are begun by the units"),
            }
        }
    }

    /// The connection of a nexus, which will have something to send.
    fn of_nexus(&mut self, nexus: NexusId) -> Option<&mut Connection> {
        let index = *self.nexuses.get(&nexus)?;
        self.mark(index);
        self.connections.get_mut(index)
    }

    fn task_management_done(
        &mut self,
        cx: &mut Context<'_>,
        nexus: NexusId,
        request: u64,
        response: TaskResponse,
    ) {
        let Some(gathering) = self.gatherings.get_mut(&(nexus, request)) else {
            return;
        };
        gathering.left -= 1;
        if response != TaskResponse::Complete {
            gathering.response = response;
        }
        if gathering.left > 0 {
            return;
        }
        let Gathering {
            response,
            cold_reset,
            ..
        } = *gathering;
        self.gatherings.remove(&(nexus, request));
        if let Some(connection) = self.of_nexus(nexus) {
            connection
                .session
                .respond_task_management(request, response);
        }
        if cold_reset {
            self.end_all(cx);
        }
    }

    fn store_event(&mut self, cx: &mut Context<'_>, key: usize, token: Token, event: Event) {
        let Some(number) = self.units.handle(cx, key, token, event) else {
            return;
        };
        self.drain_unit(cx, number);
        if !self.admissions.is_empty() {
            self.admissions.ended(key);
            self.admit(cx);
        }
    }

    fn receive_mail(&mut self, cx: &mut Context<'_>, mail: TargetMail) {
        // A caller that has given up waiting for an answer is no concern of the target's.
        match mail {
            TargetMail::Session(arrival) => self.arrive(cx, arrival),
            TargetMail::SetSize { lun, size, reply } => {
                let _ = reply.send(self.units.set_size(lun, size));
                self.drain_unit(cx, lun);
            }
            TargetMail::Stats(reply) => {
                let _ = reply.send(self.stats());
            }
            TargetMail::ForeignAge {
                lun,
                own_key,
                reply,
            } => {
                let now = cx.now();
                let age = self
                    .units
                    .unit(lun)
                    .map(|unit| unit.foreign_command_age(now, own_key));
                let _ = reply.send(age);
            }
            TargetMail::Remove(done) => {
                self.leaving.push(done);
                self.end_all(cx);
            }
            TargetMail::Drain { grace, done } => {
                self.leaving.push(done);
                for (_, connection) in &mut self.connections {
                    connection.session.request_logout(grace);
                }
                let indices: Vec<usize> = self.connections.iter().map(|(key, _)| key).collect();
                for index in indices {
                    self.mark(index);
                }
                cx.alarm(cx.now() + grace, Purpose::EndOfGrace.token());
            }
            #[cfg(feature = "test-hooks")]
            TargetMail::SetFaults { lun, faults, reply } => {
                let _ = reply.send(self.units.set_faults(cx, lun, faults));
            }
        }
    }

    fn stats(&self) -> TargetStats {
        let live = self
            .connections
            .iter()
            .filter(|(_, connection)| !connection.ended);
        let sessions = live.map(|(_, connection)| SessionStats {
            initiator: connection.info.initiator.clone(),
            isid: connection.info.isid,
            peer: connection.peer,
            open_tasks: connection.session.open_tasks(),
        });
        TargetStats {
            sessions: sessions.collect(),
            luns: self.units.stats(),
            ..self.stats.clone()
        }
    }

    /// Sends what a session has to say, and lets a connection go whose session has said its last.
    fn settle_connection(&mut self, cx: &mut Context<'_>, place: Place) {
        let reads_full = self.units.reading() > READS_UNDER_WAY;
        if let Some(connection) = self.connection(place)
            && connection.settle(cx, reads_full) == Rest::Done
        {
            self.drop_connection(cx, place);
        }
    }
}

impl Actor for TargetActor {
    fn handle(&mut self, cx: &mut Context<'_>, token: Token, event: Event) {
        match Purpose::of(token) {
            Purpose::Store(key) => self.store_event(cx, key, token, event),
            Purpose::Receive(place) | Purpose::Send(place) => self.socket_event(cx, place, event),
            Purpose::Deadline(place) => {
                let now = cx.now();
                if let Some(connection) = self.connection(place) {
                    connection.alarm.fired();
                    connection.session.handle_timeout(now);
                    self.run(cx, place);
                }
            }
            Purpose::Linger(place) => self.drop_connection(cx, place),
            Purpose::EndOfGrace => self.end_all(cx),
        }
    }

    fn mail(&mut self, cx: &mut Context<'_>) {
        while let Some(mail) = self.inlet.take() {
            self.receive_mail(cx, mail);
        }
    }

    fn settle(&mut self, cx: &mut Context<'_>) {
        for place in std::mem::take(&mut self.stalled) {
            self.run(cx, place);
        }
        for place in std::mem::take(&mut self.dirty) {
            self.settle_connection(cx, place);
        }
        if !self.leaving.is_empty() && self.connections.is_empty() && self.units.is_idle() {
            cx.finish();
        }
    }

    fn stop(&mut self, cx: &mut Context<'_>) {
        let (done, _) = std::sync::mpsc::sync_channel(1);
        self.leaving.push(done);
        self.end_all(cx);
    }
}
