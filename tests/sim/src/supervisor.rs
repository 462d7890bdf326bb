//! Processes: they start, get their order, do what their shell says, die and are started again.

use std::time::Duration;

use twinsite_mirror::io::{Input, MoveMode, MoveOrder};
use twinsite_mirror::status::StateName;
use twinsite_register::{AttachmentUid, State};

use crate::network::{ConnId, Message, Toward};
use crate::shell::{Act, Shell};
use crate::world::{AGENTS, Event, Mix, World, engine_config};

impl World {
    pub fn agent_out(&mut self, i: usize) {
        loop {
            let Some(shell) = &mut self.agents[i].shell else {
                return;
            };
            let Some(act) = shell.acts.pop_front() else {
                break;
            };
            self.act(i, act);
        }
        if let Some(shell) = &self.agents[i].shell
            && let Some(at) = shell.deadline().map(|at| at.max(self.now))
            && at < self.agent_ticks[i]
        {
            self.agent_ticks[i] = at;
            self.at(at, Event::AgentTick(i));
        }
        let end = self.agents[i]
            .shell
            .as_ref()
            .and_then(|s| s.one_shot.as_ref()?.end().cloned());
        if let Some(end) = end {
            self.order_ended(i, end);
        }
    }

    fn act(&mut self, i: usize, act: Act) {
        match act {
            Act::Connect { leg, session } => {
                let jitter = self
                    .random
                    .between(Duration::ZERO, Duration::from_micros(60));
                let (conn, delivery) = self.network.connect(self.now, i, leg, session, jitter);
                self.schedule(Some(delivery));
                if let Some(shell) = &mut self.agents[i].shell {
                    shell.connecting(self.now, leg, session, conn, &mut self.random);
                }
            }
            Act::Send(conn, bytes) => self.transmit(conn, Toward::Target, Message::Bytes(bytes)),
            Act::Close(conn) => {
                if let Some(c) = self.network.connections.get_mut(&conn) {
                    c.initiator_open = false;
                }
                self.transmit(conn, Toward::Target, Message::Close);
            }
            Act::Done { id, result } => self.request_done(i, id, result),
            Act::Engine(output) => self.output(i, output),
        }
    }

    pub fn fresh_uid(&mut self) -> AttachmentUid {
        self.next_uid = self.next_uid.wrapping_add(1);
        let mut uid = [self.next_uid; 16];
        uid[0] = 0xf0;
        uid[8..].copy_from_slice(&self.sequence.to_le_bytes());
        AttachmentUid(uid)
    }

    pub fn close_all(&mut self, i: usize) {
        let conns: Vec<ConnId> = self
            .network
            .connections
            .iter()
            .filter(|(_, c)| c.writer == i && c.initiator_open)
            .map(|(id, _)| *id)
            .collect();
        for conn in conns {
            if let Some(c) = self.network.connections.get_mut(&conn) {
                c.initiator_open = false;
            }
            self.transmit(conn, Toward::Target, Message::Close);
        }
    }

    /// The process dies; the node's kernel keeps the device and what waits on it, and closes the sockets.
    pub fn crash(&mut self, i: usize, device_stays: bool) {
        let a = &mut self.agents[i];
        if a.shell.is_none() {
            return;
        }
        a.shell = None;
        a.life += 1;
        a.stopped_until = Duration::ZERO;
        (a.attached, a.detaching, a.ready) = (false, false, false);
        let open = std::mem::take(&mut a.requests);
        if device_stays && a.shown {
            a.orphans.extend(open.into_values());
        } else {
            a.shown = false;
            a.orphans.clear();
            let uid = self.fresh_uid();
            self.agents[i].renew(uid);
        }
        self.close_all(i);
        self.check_map();
    }

    pub(crate) fn start(&mut self, i: usize) {
        if self.agents[i].shell.is_none() && (self.wanted == i || self.agents[i].shown) {
            self.attach(i);
        }
    }

    /// The agent gets its attach order.
    pub fn attach(&mut self, i: usize) {
        let r = &self.witness.register;
        let site = self.agents[i].site;
        let readable = self.register_links[i] && self.witness.up;
        let mv = (readable && r.state == State::Live && r.active.site != site && self.wanted == i)
            .then_some(MoveOrder {
                mode: MoveMode::Failover,
                expect_seq: r.active.seq,
            });
        // Where the register cannot be read the order is given all the same: the engine must find out.
        let blind = self.plan.mix == Mix::All && !readable;
        if r.active.site != site && mv.is_none() && !self.agents[i].shown && !blind {
            return;
        }
        let mark = self.marks[usize::from(site.index())];
        let order = self.agents[i].order(i, mv, mark, engine_config(), &mut self.random);
        let a = &mut self.agents[i];
        a.life += 1;
        a.attached = true;
        a.attach_at = None;
        let mut shell = Shell::new(self.now, i as u8);
        shell.trace = self.plan.commands;
        shell.input(self.now, Input::Attach(Box::new(order)));
        a.shell = Some(shell);
        self.figures.attaches += 1;
        let what = format!(
            "attach order (move: {}, device shown: {})",
            mv.is_some(),
            self.agents[i].shown
        );
        self.say(["agent A1", "agent B", "agent A2"][i], what);
        self.close_all(i);
        self.agent_out(i);
    }

    pub(crate) fn supervise(&mut self) {
        self.after(Duration::from_millis(1500), Event::Supervise);
        self.network.sweep();
        self.check_put_back();
        for i in 0..AGENTS {
            self.note_state(i);
            let a = &self.agents[i];
            if self.now < a.stopped_until || a.shell.as_ref().is_some_and(|s| s.one_shot.is_some())
            {
                continue;
            }
            let due = a.attach_at.is_none_or(|t| t <= self.now);
            let dead = a.shell.is_none();
            let idle = a.shell.as_ref().is_some_and(|s| {
                matches!(
                    s.engine.status(self.now).state,
                    StateName::Off | StateName::Refused | StateName::Superseded
                )
            });
            if i == self.wanted && due && (dead || idle) && !a.attached {
                if !dead {
                    let superseded = a
                        .shell
                        .as_ref()
                        .is_some_and(|s| s.engine.status(self.now).state == StateName::Superseded);
                    self.agents[i].shell = None;
                    if superseded {
                        let uid = self.fresh_uid();
                        self.agents[i].renew(uid);
                    }
                }
                self.attach(i);
            } else if i != self.wanted && idle && due {
                self.agents[i].shell = None;
                self.agents[i].life += 1;
                self.close_all(i);
            }
        }
    }
}
