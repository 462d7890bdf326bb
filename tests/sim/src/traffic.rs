//! What travels between agents and targets, and what a target has to say.

use std::time::Duration;

use crate::network::{ConnId, Delivery, Message, Toward};
use crate::target::Outgoing;
use crate::world::{Event, Mix, World};

impl World {
    pub fn schedule(&mut self, delivery: Option<Delivery>) {
        if let Some((at, conn, toward)) = delivery {
            self.at(at, Event::Deliver(conn, toward));
        }
    }

    pub(crate) fn transmit(&mut self, conn: ConnId, toward: Toward, message: Message) {
        let jitter = self
            .random
            .between(Duration::ZERO, Duration::from_micros(60));
        let delivery = self.network.send(self.now, conn, toward, message, jitter);
        self.schedule(delivery);
    }

    pub(crate) fn deliver(&mut self, conn: ConnId, toward: Toward) {
        let Some(message) = self.network.deliver(conn, toward) else {
            return;
        };
        let Some(c) = self.network.connections.get_mut(&conn) else {
            return;
        };
        let (agent, leg, session) = (c.writer, c.leg, c.session);
        match (toward, message) {
            (Toward::Target, message) if self.targets[leg].silent => {
                self.coverage.seen("a silent host");
                if let Message::Close = message {
                    c.target_open = false;
                }
            }
            (Toward::Target, Message::Open) => {
                if self.targets[leg].is_up() {
                    c.target_open = true;
                    self.targets[leg].open(self.now, conn, &mut self.random);
                    self.transmit(conn, Toward::Initiator, Message::Opened);
                } else {
                    self.transmit(conn, Toward::Initiator, Message::Refused);
                }
            }
            (Toward::Target, Message::Bytes(bytes)) => {
                if c.target_open {
                    if self.plan.mix == Mix::All && self.network.is_old(conn) {
                        self.coverage.seen("bytes of an old session");
                    }
                    self.targets[leg].bytes(self.now, conn, bytes, &mut self.random);
                    self.target_out(leg);
                } else {
                    self.transmit(conn, Toward::Initiator, Message::Close);
                }
            }
            (Toward::Target, Message::Close) => {
                if c.target_open {
                    c.target_open = false;
                    self.targets[leg].closed(self.now, conn, &mut self.random);
                    self.target_out(leg);
                }
            }
            (Toward::Initiator, message) => {
                if !c.initiator_open {
                    return;
                }
                let Some(shell) = &mut self.agents[agent].shell else {
                    return;
                };
                match message {
                    Message::Opened => shell.opened(self.now, leg, session),
                    Message::Bytes(bytes) => shell.bytes(self.now, leg, session, conn, bytes),
                    _ => {
                        c.initiator_open = false;
                        shell.closed(self.now, leg, session, conn);
                    }
                }
                self.agent_out(agent);
            }
            (Toward::Target, Message::Opened | Message::Refused) => {}
        }
    }

    pub fn target_out(&mut self, leg: usize) {
        while let Some(out) = self.targets[leg].out.pop_front() {
            match out {
                Outgoing::Bytes(conn, bytes) => {
                    self.transmit(conn, Toward::Initiator, Message::Bytes(bytes))
                }
                Outgoing::Close(conn) => {
                    if let Some(c) = self.network.connections.get_mut(&conn) {
                        c.target_open = false;
                    }
                    self.transmit(conn, Toward::Initiator, Message::Close);
                }
                Outgoing::Store(op, at) => {
                    let life = self.targets[leg].life;
                    self.at(at, Event::Stored { leg, life, op });
                }
            }
        }
        if let Some(at) = self.targets[leg].deadline().map(|at| at.max(self.now))
            && at < self.target_ticks[leg]
        {
            self.target_ticks[leg] = at;
            self.at(at, Event::TargetTick(leg));
        }
    }
}
