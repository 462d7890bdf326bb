//! How a session leaves a target: by itself, because it was told to, or with its connection. Its tasks end without an answer.

use std::time::Duration;

use twinsite_iscsi::scsi::NexusId;
use twinsite_iscsi::session::{CloseReason, TargetEvent};

use super::actor::TargetActor;
use super::connection::Purpose;
use super::gate::Place;
use crate::reactor::Context;

/// How long a session that was told to end may take to read that.
const LINGER: Duration = Duration::from_secs(2);

impl TargetActor {
    /// A session came to its end by itself.
    pub(super) fn closed(&mut self, cx: &mut Context<'_>, place: Place, reason: &CloseReason) {
        let Some(connection) = self.connection(place) else {
            return;
        };
        let why = match reason {
            CloseReason::LoggedOut => "the initiator logged out".to_owned(),
            CloseReason::LoginTimeout => "its login was not over in time".to_owned(),
            CloseReason::LoginRefused { class, detail } => {
                format!("its login was refused ({class}.{detail})")
            }
            CloseReason::PingTimeout => "the initiator answers no more".to_owned(),
            CloseReason::Local => "the target ended it".to_owned(),
            CloseReason::Error(error) => error.to_string(),
        };
        tracing::info!(initiator = %connection.info.initiator, why, "session ends");
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

    pub(super) fn end_session(&mut self, cx: &mut Context<'_>, place: Place) {
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

    pub(super) fn end_all(&mut self, cx: &mut Context<'_>) {
        let places: Vec<Place> = self
            .connections
            .iter()
            .map(|(_, connection)| connection.place)
            .collect();
        for place in places {
            self.end_session(cx, place);
        }
    }

    pub(super) fn drop_connection(&mut self, cx: &mut Context<'_>, place: Place) {
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
}
