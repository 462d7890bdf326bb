//! One target: its sessions and its logical units, on one thread.
//!
//! A command goes from a session to its unit, from there to the store, and its answer all the way back, within the calls of one
//! turn; what all of a turn's answers amount to is sent in `settle`.

use std::collections::BTreeMap;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use slab::Slab;
use twinsite_iscsi::scsi::{
    Lun, NexusId, TaskFunction, TaskKey, TaskResponse, TransportId, UnitOutput, absent_unit,
};
use twinsite_iscsi::session::{CloseReason, LoginInfo, LoginRefusal, TargetCommand, TargetEvent};

use super::admission::Admissions;
use super::connection::{Arrival, Connection, Purpose, Rest, TargetMail};
use super::counters::{SessionStats, TargetStats};
use super::gate::Place;
use super::server::Tsih;
use super::units::{Prepared, Units};
use crate::reactor::{Actor, Alarm, Context, Event, Inlet, Stream, StreamEvent, Token};

/// How long a session that was told to end may take to read that.
const LINGER: Duration = Duration::from_secs(2);

/// No more commands are taken while reads for so much are under way.
const READS_UNDER_WAY: usize = 128 << 20;

/// A task management function that concerns several units: answered when all have.
struct Gathering {
    left: usize,
    response: TaskResponse,
    cold_reset: bool,
}

pub(super) struct TargetActor {
    iqn: String,
    inlet: Inlet<TargetMail>,
    units: Units,
    connections: Slab<Connection>,
    nexuses: BTreeMap<NexusId, usize>,
    next_serial: u32,
    next_nexus: u64,
    session_limit: usize,
    admissions: Admissions<Box<Arrival>>,
    gatherings: BTreeMap<(NexusId, u64), Gathering>,
    dirty: Vec<Place>,
    /// Sessions whose next command waits for room.
    stalled: Vec<Place>,
    stats: TargetStats,
    /// Who waits for the end: they see it when these are dropped, and that is after the stores are (fields drop in this order).
    leaving: Vec<SyncSender<()>>,
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

    fn connection(&mut self, place: Place) -> Option<&mut Connection> {
        self.connections
            .get_mut(place.index as usize)
            .filter(|found| found.place == place)
    }

    /// A login has come: everything of the same initiator port ends, then it waits for the store.
    fn arrive(&mut self, cx: &mut Context<'_>, arrival: Box<Arrival>) {
        let arrival = match self.join(arrival) {
            Ok(arrival) => arrival,
            Err((arrival, why)) => return self.refuse(cx, arrival, why),
        };
        let same_port = |info: &LoginInfo| {
            info.initiator == arrival.info.initiator
                && info.isid == arrival.info.isid
                && info.portal_group == arrival.info.portal_group
        };
        // An older login of this port that still waits is given up: dropping it closes its connection.
        drop(self.admissions.extract(|waiting| same_port(&waiting.info)));
        let old: Vec<Place> = self
            .connections
            .iter()
            .filter(|(_, connection)| !connection.ended && same_port(&connection.info))
            .map(|(_, connection)| connection.place)
            .collect();
        for place in old {
            self.stats.reinstated += 1;
            self.end_session(cx, place);
        }
        if !self.leaving.is_empty() {
            return self.refuse(cx, arrival, LoginRefusal::TargetRemoved);
        }
        if self.nexuses.len() + self.admissions.len() >= self.session_limit {
            return self.refuse(cx, arrival, LoginRefusal::TooManySessions);
        }
        let operations: Vec<usize> = self.units.under_way().collect();
        self.admissions.wait(arrival, operations);
        self.admit(cx);
    }

    /// A login that names a session takes the place of its connection: RFC 7143 section 6.3.4, at ErrorRecoveryLevel 0, where
    /// the tasks of the old connection are gone.
    fn join(
        &mut self,
        mut arrival: Box<Arrival>,
    ) -> Result<Box<Arrival>, (Box<Arrival>, LoginRefusal)> {
        let Some(named) = arrival.info.joins else {
            return Ok(arrival);
        };
        let wanted = &arrival.info;
        let found = self.connections.iter_mut().find(|(_, connection)| {
            let handle = connection.tsih.as_ref().map(Tsih::number);
            let same_port = connection.info.initiator == wanted.initiator
                && connection.info.isid == wanted.isid
                && connection.info.portal_group == wanted.portal_group;
            !connection.ended && same_port && handle == Some(named)
        });
        match found {
            None => Err((arrival, LoginRefusal::NoSuchSession)),
            Some((_, connection)) if connection.info.cid != wanted.cid => {
                Err((arrival, LoginRefusal::TooManySessions))
            }
            Some((_, connection)) => {
                if let Some(handle) = connection.tsih.take() {
                    arrival.tsih = handle;
                    arrival.session.keep_tsih();
                }
                Ok(arrival)
            }
        }
    }

    fn admit(&mut self, cx: &mut Context<'_>) {
        while let Some(mut arrival) = self.admissions.next() {
            tracing::info!(target_name = %self.iqn, initiator = %arrival.info.initiator, peer = %arrival.peer, "session begins");
            self.stats.logins += 1;
            let nexus = NexusId(self.next_nexus);
            self.next_nexus += 1;
            let transport_id = TransportId {
                name: arrival.info.initiator.clone(),
                isid: Some(arrival.info.isid),
            };
            let open = self.units.open_to(&arrival.info.initiator);
            (self.units).nexus_added(cx.now(), nexus, &transport_id, &open);
            arrival.session.accept_login(cx.now());
            let place = self.insert(*arrival, nexus);
            self.nexuses.insert(nexus, place.index as usize);
            self.run(cx, place);
        }
        for number in self.units.numbers() {
            self.drain_unit(cx, number);
        }
    }

    fn insert(&mut self, arrival: Arrival, nexus: NexusId) -> Place {
        let Arrival {
            session,
            info,
            socket,
            unsent,
            peer,
            tsih,
        } = arrival;
        let entry = self.connections.vacant_entry();
        let index = u32::try_from(entry.key()).expect("sessions are few");
        let place = Place {
            index,
            serial: self.next_serial,
        };
        self.next_serial = self.next_serial.wrapping_add(1);
        let receive = Purpose::Receive(place).token();
        let mut stream = Stream::new(socket, receive, Purpose::Send(place).token());
        stream.queue(unsent);
        entry.insert(Connection {
            place,
            nexus,
            luns: self.units.open_to(&info.initiator),
            stream,
            session,
            info,
            peer,
            alarm: Alarm::default(),
            dirty: false,
            ended: false,
            tsih: Some(tsih),
        });
        self.mark(place.index as usize);
        place
    }

    /// Sends the refusal from here; the connection then closes.
    fn refuse(&mut self, cx: &mut Context<'_>, mut arrival: Box<Arrival>, why: LoginRefusal) {
        arrival.session.refuse_login(cx.now(), why);
        let nexus = NexusId(self.next_nexus);
        self.next_nexus += 1;
        let place = self.insert(*arrival, nexus);
        self.run(cx, place);
    }

    fn mark(&mut self, index: usize) {
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
                    tracing::info!(initiator = %connection.info.initiator, ?error, "connection lost");
                    self.stats.lost += 1;
                }
                return self.drop_connection(cx, place);
            }
        }
        self.run(cx, place);
    }

    /// Takes the events of a session as long as there is room for what they bring.
    fn run(&mut self, cx: &mut Context<'_>, place: Place) {
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

    fn drain_unit(&mut self, cx: &mut Context<'_>, number: u16) {
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

    /// A session came to its end by itself.
    fn closed(&mut self, cx: &mut Context<'_>, place: Place, reason: &CloseReason) {
        let Some(connection) = self.connection(place) else {
            return;
        };
        tracing::info!(initiator = %connection.info.initiator, ?reason, "session ends");
        connection.ended = true;
        connection.stream.pause(true);
        connection.stream.close_when_sent();
        let nexus = connection.nexus;
        if matches!(reason, CloseReason::PingTimeout | CloseReason::Error(_)) {
            self.stats.lost += 1;
        }
        cx.alarm(cx.now() + LINGER, Purpose::Linger(place).token());
        self.forget_nexus(cx, nexus);
    }

    fn end_session(&mut self, cx: &mut Context<'_>, place: Place) {
        if let Some(connection) = self.connection(place) {
            connection.session.close();
        }
        // Not `run`: a session is ended here whatever waits to be sent to it.
        loop {
            let Some(connection) = self.connection(place) else {
                return;
            };
            if connection.ended {
                return self.mark(place.index as usize);
            }
            match connection.session.poll_event() {
                Some(TargetEvent::Closed(reason)) => self.closed(cx, place, &reason),
                Some(_) => {}
                None => self.closed(cx, place, &CloseReason::Local),
            }
        }
    }

    fn end_all(&mut self, cx: &mut Context<'_>) {
        let places: Vec<Place> = self
            .connections
            .iter()
            .map(|(_, connection)| connection.place)
            .collect();
        for place in places {
            self.end_session(cx, place);
        }
    }

    fn drop_connection(&mut self, cx: &mut Context<'_>, place: Place) {
        if self.connection(place).is_some() {
            let connection = self.connections.remove(place.index as usize);
            connection.stream.socket().shutdown();
            self.forget_nexus(cx, connection.nexus);
        }
    }

    /// The tasks of a nexus end without an answer. Its store operations may still be under way: see `admission`.
    fn forget_nexus(&mut self, cx: &mut Context<'_>, nexus: NexusId) {
        if self.nexuses.remove(&nexus).is_none() {
            return;
        }
        self.gatherings.retain(|(of, _), _| *of != nexus);
        for unit in self.units.all() {
            unit.nexus_removed(cx.now(), nexus);
        }
        for number in self.units.numbers() {
            self.drain_unit(cx, number);
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
