//! Connections over links that are slow, cut, half open, held up and reconnected.
//!
//! A connection is two byte streams in order. What is sent while the link is cut waits and arrives in order when it heals, as
//! TCP retransmits; whoever gives up first closes its end, and the other end learns it only through the link. So commands of
//! an old session may arrive long after a new one was opened.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Toward {
    Target,
    Initiator,
}

#[derive(Clone, Debug)]
pub enum Message {
    /// Connection request, and its answer.
    Open,
    Opened,
    Refused,
    Bytes(Bytes),
    Close,
}

#[derive(Debug, Default)]
struct Stream {
    waiting: VecDeque<Message>,
    last: Duration,
    /// Deliveries scheduled and not done.
    scheduled: usize,
}

#[derive(Debug)]
pub struct Connection {
    pub writer: usize,
    pub leg: usize,
    pub session: usize,
    to_target: Stream,
    to_initiator: Stream,
    pub initiator_open: bool,
    pub target_open: bool,
    /// What is sent on it before then arrives then at the earliest.
    pub held_until: Duration,
}

/// The link between a writer and a target.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub to_target: bool,
    pub to_initiator: bool,
    pub latency: Duration,
    /// Everything sent before then arrives then at the earliest.
    pub held_until: Duration,
}

#[derive(Debug)]
pub struct Network {
    pub links: Vec<[Link; 2]>,
    pub connections: BTreeMap<ConnId, Connection>,
    next: u64,
}

/// Deliver the next message of this stream at this time.
pub type Delivery = (Duration, ConnId, Toward);

impl Network {
    pub fn new(writers: usize) -> Self {
        let link = Link {
            to_target: true,
            to_initiator: true,
            latency: Duration::from_micros(100),
            held_until: Duration::ZERO,
        };
        Self {
            links: vec![[link; 2]; writers],
            connections: BTreeMap::new(),
            next: 1,
        }
    }

    pub fn connect(
        &mut self,
        now: Duration,
        writer: usize,
        leg: usize,
        session: usize,
        jitter: Duration,
    ) -> (ConnId, Delivery) {
        let id = ConnId(self.next);
        self.next += 1;
        self.connections.insert(
            id,
            Connection {
                writer,
                leg,
                session,
                to_target: Stream::default(),
                to_initiator: Stream::default(),
                initiator_open: true,
                target_open: false,
                held_until: Duration::ZERO,
            },
        );
        let delivery = self
            .send(now, id, Toward::Target, Message::Open, jitter)
            .expect("just made");
        (id, delivery)
    }

    /// Queues a message; `None` when the connection is gone.
    pub fn send(
        &mut self,
        now: Duration,
        id: ConnId,
        toward: Toward,
        message: Message,
        jitter: Duration,
    ) -> Option<Delivery> {
        let c = self.connections.get_mut(&id)?;
        let link = &self.links[c.writer][c.leg];
        let stream = match toward {
            Toward::Target => &mut c.to_target,
            Toward::Initiator => &mut c.to_initiator,
        };
        let at = (now + link.latency + jitter)
            .max(stream.last)
            .max(link.held_until)
            .max(c.held_until);
        stream.last = at;
        stream.waiting.push_back(message);
        stream.scheduled += 1;
        Some((at, id, toward))
    }

    /// A delivery is due: the message, unless the link is cut this way (then it waits for `heal`).
    pub fn deliver(&mut self, id: ConnId, toward: Toward) -> Option<Message> {
        let c = self.connections.get_mut(&id)?;
        let link = &self.links[c.writer][c.leg];
        let (stream, open) = match toward {
            Toward::Target => (&mut c.to_target, link.to_target),
            Toward::Initiator => (&mut c.to_initiator, link.to_initiator),
        };
        stream.scheduled = stream.scheduled.saturating_sub(1);
        if !open {
            return None;
        }
        stream.waiting.pop_front()
    }

    /// After the link works again: deliveries for all that waited.
    pub fn heal(&mut self, now: Duration, writer: usize, leg: usize) -> Vec<Delivery> {
        let mut out = vec![];
        let latency = self.links[writer][leg].latency;
        for (id, c) in self
            .connections
            .iter_mut()
            .filter(|(_, c)| c.writer == writer && c.leg == leg)
        {
            for (toward, stream) in [
                (Toward::Target, &mut c.to_target),
                (Toward::Initiator, &mut c.to_initiator),
            ] {
                let missing = stream.waiting.len().saturating_sub(stream.scheduled);
                let at = (now + latency).max(stream.last);
                stream.last = at;
                stream.scheduled += missing;
                out.extend((0..missing).map(|_| (at, *id, toward)));
            }
        }
        out
    }

    /// Holds one session of this link, the other one goes on.
    pub fn hold_one(&mut self, writer: usize, leg: usize, session: usize, until: Duration) {
        for c in self.connections.values_mut() {
            if (c.writer, c.leg, c.session) == (writer, leg, session) {
                c.held_until = c.held_until.max(until);
            }
        }
    }

    /// Was a newer connection of the same session opened at the target?
    pub fn is_old(&self, id: ConnId) -> bool {
        let Some(c) = self.connections.get(&id) else {
            return false;
        };
        let same = |o: &Connection| {
            (o.writer, o.leg, o.session) == (c.writer, c.leg, c.session) && o.target_open
        };
        self.connections
            .range(ConnId(id.0 + 1)..)
            .any(|(_, o)| same(o))
    }

    /// Forgets connections that both ends closed and whose streams are empty.
    pub fn sweep(&mut self) {
        self.connections.retain(|_, c| {
            c.initiator_open
                || c.target_open
                || !c.to_target.waiting.is_empty()
                || !c.to_initiator.waiting.is_empty()
        });
    }
}
