//! How a session comes to a target: it takes the place of older ones of its port, waits for what they left under way, and
//! becomes a nexus of every unit that its initiator may use.

use twinsite_iscsi::scsi::{NexusId, TransportId};
use twinsite_iscsi::session::{LoginInfo, LoginRefusal};

use super::actor::TargetActor;
use super::connection::{Arrival, Connection, Purpose};
use super::gate::Place;
use super::server::Tsih;
use crate::reactor::{Alarm, Context, Stream};

impl TargetActor {
    /// A login has come: everything of the same initiator port ends, then it waits for the store.
    pub(super) fn arrive(&mut self, cx: &mut Context<'_>, arrival: Box<Arrival>) {
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

    pub(super) fn admit(&mut self, cx: &mut Context<'_>) {
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
}
