//! One portal: accepts connections and keeps them until their login is done, then gives the whole session to its target.
//!
//! Invariants: what a guest can hold is bounded (see `ConnectionLimits`), and its time by the session's login deadline; a guest
//! that became a session of a target leaves nothing here.
//! Not here: whether the login is allowed (`TargetSession`), reinstatement (`admission`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use slab::Slab;
use twinsite_iscsi::session::{
    CloseReason, ConnectionSeed, LoginInfo, LoginRefusal, Portal, TargetConfig, TargetEvent,
    TargetSession,
};

use super::PortalConfig;
use super::connection::{Arrival, TargetMail};
use super::server::{Sessions, Tsih};
use crate::reactor::{
    Actor, Alarm, Context, Descriptor, Event, Inlet, Mailbox, PostError, SocketOptions, Stream,
    StreamEvent, Token,
};

/// After a failed accept (no descriptors left), the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a guest that was told to go may take to read that.
const LINGER: Duration = Duration::from_secs(2);

type Targets = Arc<BTreeMap<String, Mailbox<TargetMail>>>;

/// The targets as of now, and where their sessions go. Each gate takes its copy when it is told; so a word that finds no room in
/// its mailbox behind others is not missed.
pub(super) struct Published(Mutex<(Arc<TargetConfig>, Targets)>);

impl Published {
    /// No targets yet.
    pub(super) fn new(config: TargetConfig) -> Self {
        Self(Mutex::new((Arc::new(config), Targets::default())))
    }

    pub(super) fn set(&self, config: TargetConfig, targets: BTreeMap<String, Mailbox<TargetMail>>) {
        let new = (Arc::new(config), Arc::new(targets));
        // What was there before is dropped after the lock.
        let _old = std::mem::replace(
            &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner),
            new,
        );
    }

    fn get(&self) -> (Arc<TargetConfig>, Targets) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// What a gate is told.
pub(super) enum GateMail {
    /// The targets have changed.
    Published,
    /// No new connections; open logins end.
    Close,
}

/// What an operation of a gate was for. The serial number keeps late events of an old guest from a new one in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Accept,
    AcceptAgain,
    Receive(Place),
    Send(Place),
    Deadline(Place),
    Goodbye(Place),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) index: u32,
    pub(super) serial: u32,
}

impl Place {
    const INDEX_BITS: u32 = 24;

    /// A token of this kind (below 256) for this place. Index: 24 bits, bounded by the connection limits.
    pub(super) fn token(self, kind: u8) -> Token {
        Token(u64::from(kind) << 56 | u64::from(self.index) << 32 | u64::from(self.serial))
    }

    pub(super) fn of(token: Token) -> Self {
        let index = (token.0 >> 32) as u32 & ((1 << Self::INDEX_BITS) - 1);
        Self {
            index,
            serial: token.0 as u32,
        }
    }
}

impl Purpose {
    fn token(self) -> Token {
        match self {
            Self::Accept => Token(0),
            Self::AcceptAgain => Token(1),
            Self::Receive(place) => place.token(2),
            Self::Send(place) => place.token(3),
            Self::Deadline(place) => place.token(4),
            Self::Goodbye(place) => place.token(5),
        }
    }

    fn of(token: Token) -> Self {
        let place = Place::of(token);
        match token.0 >> 56 {
            2 => Self::Receive(place),
            3 => Self::Send(place),
            4 => Self::Deadline(place),
            5 => Self::Goodbye(place),
            _ if token.0 == 1 => Self::AcceptAgain,
            _ => Self::Accept,
        }
    }
}

struct Guest {
    place: Place,
    stream: Stream,
    session: TargetSession,
    peer: SocketAddr,
    tsih: Tsih,
    alarm: Alarm,
    /// Login done, waiting until the last answer has been sent so that the socket can move.
    ready: Option<LoginInfo>,
    leaving: bool,
}

/// What becomes of a guest after its events.
enum Next {
    Stay,
    Drop,
    Move(LoginInfo),
}

/// What a gate is made of.
pub(super) struct GateParts {
    pub(super) portal: PortalConfig,
    pub(super) listener: Descriptor,
    pub(super) options: SocketOptions,
    pub(super) sessions: Arc<Sessions>,
    pub(super) published: Arc<Published>,
    pub(super) inlet: Inlet<GateMail>,
    /// Where random bytes come from.
    pub(super) random: File,
}

pub(super) struct Gate {
    parts: GateParts,
    config: Arc<TargetConfig>,
    targets: Targets,
    guests: Slab<Guest>,
    next_serial: u32,
    touched: Vec<Place>,
    closing: bool,
}

impl Gate {
    pub(super) fn new(cx: &mut Context<'_>, parts: GateParts) -> Self {
        cx.accept(&parts.listener, Purpose::Accept.token());
        let (config, targets) = parts.published.get();
        Self {
            parts,
            config,
            targets,
            guests: Slab::new(),
            next_serial: 0,
            touched: Vec::new(),
            closing: false,
        }
    }

    fn accepted(&mut self, cx: &mut Context<'_>, result: io::Result<(Descriptor, SocketAddr)>) {
        match result {
            Ok((socket, peer)) => {
                if let Err(error) = self.welcome(cx, socket, peer) {
                    tracing::warn!(%peer, %error, "connection refused");
                }
                cx.accept(&self.parts.listener, Purpose::Accept.token());
            }
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {}
            Err(error) => {
                tracing::warn!(portal = %self.parts.portal.listen, %error, "accept failed");
                cx.alarm(cx.now() + ACCEPT_PAUSE, Purpose::AcceptAgain.token());
            }
        }
    }

    fn welcome(
        &mut self,
        cx: &mut Context<'_>,
        socket: Descriptor,
        peer: SocketAddr,
    ) -> io::Result<()> {
        let limits = self.parts.sessions.limits();
        let same_address = self
            .guests
            .iter()
            .filter(|(_, guest)| guest.peer.ip() == peer.ip())
            .count();
        if self.guests.len() >= limits.guests || same_address >= limits.guests_per_address {
            return Err(io::Error::other(
                "too many connections that have not logged in",
            ));
        }
        let Some(tsih) = self.parts.sessions.take() else {
            return Err(io::Error::other("too many sessions"));
        };
        socket.set_options(&self.parts.options)?;
        let address = match &self.parts.portal.advertise {
            Some(address) => address.clone(),
            None => socket.local_address()?.to_string(),
        };
        let mut random = [0; 32];
        self.parts.random.read_exact(&mut random)?;
        let seed = ConnectionSeed {
            random,
            tsih: tsih.number(),
            portal: Portal {
                address,
                group: self.parts.portal.group,
            },
        };
        let session = TargetSession::new(self.config.clone(), seed, cx.now());
        let serial = self.next_serial;
        self.next_serial = serial.wrapping_add(1);
        let place = self.seat(serial, socket, session, peer, tsih);
        self.touched.push(place);
        Ok(())
    }

    fn seat(
        &mut self,
        serial: u32,
        socket: Descriptor,
        session: TargetSession,
        peer: SocketAddr,
        tsih: Tsih,
    ) -> Place {
        let entry = self.guests.vacant_entry();
        let index = u32::try_from(entry.key()).expect("guests are few");
        let place = Place { index, serial };
        let receive = Purpose::Receive(place).token();
        let stream = Stream::new(socket, receive, Purpose::Send(place).token()).with_small_buffer();
        entry.insert(Guest {
            place,
            stream,
            session,
            peer,
            tsih,
            alarm: Alarm::default(),
            ready: None,
            leaving: false,
        });
        place
    }

    fn guest(&mut self, place: Place) -> Option<&mut Guest> {
        self.guests
            .get_mut(place.index as usize)
            .filter(|guest| guest.place == place)
    }

    fn socket_event(&mut self, cx: &mut Context<'_>, place: Place, event: Event) {
        let now = cx.now();
        let Some(guest) = self.guest(place) else {
            return;
        };
        match guest.stream.handle(event) {
            StreamEvent::Received(bytes) => {
                if let Err(error) = guest.session.handle_bytes(now, bytes) {
                    tracing::info!(peer = %guest.peer, %error, "login failed");
                }
            }
            StreamEvent::Sent => {}
            StreamEvent::Closed(_) => {
                self.guests.remove(place.index as usize);
                return;
            }
        }
        self.touched.push(place);
    }

    /// Brings a guest to rest: its events, its answers, its next deadline.
    fn settle_guest(&mut self, cx: &mut Context<'_>, place: Place) {
        let discovery_time = self.parts.sessions.limits().discovery_time;
        let Some(guest) = self.guest(place) else {
            return;
        };
        match guest.settle(cx, discovery_time) {
            Next::Stay => {}
            Next::Drop => drop(self.guests.remove(place.index as usize)),
            Next::Move(info) => {
                let guest = self.guests.remove(place.index as usize);
                self.hand_over(cx, guest, info);
            }
        }
    }

    fn hand_over(&mut self, cx: &mut Context<'_>, guest: Guest, info: LoginInfo) {
        let Guest {
            place,
            stream,
            session,
            peer,
            tsih,
            ..
        } = guest;
        let (socket, unsent) = stream.into_parts();
        let arrival = Box::new(Arrival {
            session,
            info,
            socket,
            unsent,
            peer,
            tsih,
        });
        let target = arrival
            .info
            .target
            .as_ref()
            .and_then(|name| self.targets.get(name));
        let (refusal, arrival) = match target {
            None => (LoginRefusal::TargetNotFound, arrival),
            Some(mailbox) => match mailbox.post(TargetMail::Session(arrival)) {
                Ok(()) => return,
                Err(PostError::Full(TargetMail::Session(arrival))) => {
                    (LoginRefusal::OutOfResources, arrival)
                }
                Err(PostError::Gone(TargetMail::Session(arrival))) => {
                    (LoginRefusal::TargetRemoved, arrival)
                }
                Err(_) => unreachable!("what was posted comes back"),
            },
        };
        // It stays a guest, to be told why.
        let Arrival {
            mut session,
            socket,
            unsent,
            peer,
            tsih,
            ..
        } = *arrival;
        session.refuse_login(cx.now(), refusal);
        let place = self.seat(place.serial, socket, session, peer, tsih);
        if let Some(guest) = self.guest(place) {
            guest.stream.queue(unsent);
        }
        self.settle_guest(cx, place);
    }

    fn close(&mut self, cx: &mut Context<'_>) {
        self.closing = true;
        self.parts.listener.shutdown();
        for (_, guest) in &mut self.guests {
            guest.session.close();
            self.touched.push(guest.place);
        }
        if self.guests.is_empty() {
            cx.finish();
        }
    }
}

impl Guest {
    fn settle(&mut self, cx: &mut Context<'_>, discovery_time: Duration) -> Next {
        while let Some(event) = self.session.poll_event() {
            match event {
                TargetEvent::LoginReady(info) if info.target.is_none() => {
                    self.session.accept_login(cx.now());
                    cx.alarm(
                        cx.now() + discovery_time,
                        Purpose::Goodbye(self.place).token(),
                    );
                }
                TargetEvent::LoginReady(info) => self.ready = Some(info),
                // Its time is over: it gets none to read why.
                TargetEvent::Closed(CloseReason::LoginTimeout) => return Next::Drop,
                TargetEvent::Closed(reason) => {
                    tracing::debug!(peer = %self.peer, ?reason, "guest leaves");
                    self.leaving = true;
                    self.stream.pause(true);
                    self.stream.close_when_sent();
                    cx.alarm(cx.now() + LINGER, Purpose::Goodbye(self.place).token());
                }
                // A discovery session has no units.
                TargetEvent::Command(command) => self.session.discard(command.task),
                TargetEvent::TaskManagement { request, .. } => {
                    use twinsite_iscsi::scsi::TaskResponse;
                    self.session
                        .respond_task_management(request, TaskResponse::Rejected);
                }
            }
        }
        while let Some(transmit) = self.session.poll_transmit() {
            self.stream.queue(transmit.pieces);
        }
        if self.ready.is_some() {
            if self.stream.is_idle()
                && let Some(info) = self.ready.take()
            {
                return Next::Move(info);
            }
            self.stream.pause(true);
        }
        self.stream.settle(cx);
        if self.leaving && self.stream.backlog() == 0 {
            return Next::Drop;
        }
        self.alarm.set(
            cx,
            Purpose::Deadline(self.place).token(),
            self.session.deadline(),
        );
        Next::Stay
    }
}

impl Actor for Gate {
    fn handle(&mut self, cx: &mut Context<'_>, token: Token, event: Event) {
        match (Purpose::of(token), event) {
            (Purpose::Accept, Event::Accepted(result)) => {
                if !self.closing {
                    self.accepted(cx, result);
                }
            }
            (Purpose::AcceptAgain, _) if !self.closing => {
                cx.accept(&self.parts.listener, Purpose::Accept.token());
            }
            (Purpose::Receive(place) | Purpose::Send(place), event) => {
                self.socket_event(cx, place, event);
            }
            (Purpose::Deadline(place), _) => {
                let now = cx.now();
                if let Some(guest) = self.guest(place) {
                    guest.alarm.fired();
                    guest.session.handle_timeout(now);
                    self.touched.push(place);
                }
            }
            (Purpose::Goodbye(place), _) => {
                if let Some(guest) = self.guest(place) {
                    if guest.leaving {
                        self.guests.remove(place.index as usize);
                    } else {
                        guest.session.close();
                        self.touched.push(place);
                    }
                }
            }
            (Purpose::Accept | Purpose::AcceptAgain, _) => {}
        }
    }

    fn mail(&mut self, cx: &mut Context<'_>) {
        while let Some(mail) = self.parts.inlet.take() {
            match mail {
                GateMail::Published => (self.config, self.targets) = self.parts.published.get(),
                GateMail::Close => self.close(cx),
            }
        }
    }

    fn settle(&mut self, cx: &mut Context<'_>) {
        for place in std::mem::take(&mut self.touched) {
            self.settle_guest(cx, place);
        }
        if self.closing && self.guests.is_empty() {
            cx.finish();
        }
    }

    fn stop(&mut self, cx: &mut Context<'_>) {
        self.close(cx);
    }
}
