//! Sessions between writers and legs: messages that are late, lines that break, logins that end what was before.

use std::time::Duration;

use twinsite_register::Site;

use super::target::{Accepted, Blocks, blocks_of};
use super::world::{Ev, Unit, World};
use super::writer::{Asked, Conn};
use crate::io::{CmdId, Input, LegDown, LegError, LegOp, LegReply};

impl World {
    pub(super) fn reaches(&self, site: Site, leg: Unit) -> bool {
        let lit = self.target_up[leg.index()] && !self.dark[leg.leg.index()];
        self.links[site.index() as usize][leg.leg.index()] && lit
    }

    pub(super) fn alive(&self, writer: u32, leg: Unit, conn: u64) -> bool {
        self.writers.get(&writer).is_some_and(|w| {
            let c = &w.conns[leg.index()];
            c.up == Some(conn) && !c.broken && self.reaches(w.site, leg)
        })
    }

    pub(super) fn arrive(&mut self, leg: Unit, accepted: Accepted) {
        if !self.alive(accepted.writer, leg, accepted.conn) {
            return;
        }
        self.seq += 1;
        let id = self.seq;
        self.targets[leg.index()].accepted.insert(id, accepted);
        let slow = self.options.faults && !self.quiet && self.rng.below(3000) == 0;
        let delay = if slow {
            self.rng.millis(10, 4000)
        } else {
            self.rng.micros(20, 400)
        };
        self.at(delay, Ev::Execute { leg, id });
    }

    pub(super) fn execute(&mut self, leg: Unit, id: u64) {
        let target = &mut self.targets[leg.index()];
        let Some(accepted) = target.accepted.remove(&id) else {
            return;
        };
        target.fake.now = self.now;
        target.fake.log.clear();
        target.fake.writes.clear();
        let busy = !self.quiet && self.options.faults && self.rng.below(400) == 0;
        let (result, seen) = if busy
            && matches!(
                accepted.op,
                LegOp::WriteData { .. } | LegOp::ReadData { .. }
            ) {
            (Err(LegError::Retry), Blocks::new())
        } else {
            self.targets[leg.index()].execute(&accepted)
        };
        if result.is_ok()
            && matches!(
                accepted.op,
                LegOp::WriteData { .. } | LegOp::CopyWrite { .. }
            )
        {
            // By when they began to serve: an order may be older than an attach that came between.
            let began = self
                .began
                .get(&accepted.writer)
                .copied()
                .unwrap_or(u64::MAX);
            for block in accepted.payload.keys() {
                let newest = self.acker.get(&(leg.volume, *block)).copied().unwrap_or(0);
                let w = accepted.writer;
                assert!(
                    began >= newest,
                    "I2: w{w} wrote block {block}, and a later writer was acknowledged there"
                );
            }
        }
        if !matches!(
            accepted.op,
            LegOp::WriteData { .. } | LegOp::ReadData { .. }
        ) || result.is_err()
        {
            let (w, op) = (accepted.writer, format!("{:?}", accepted.op));
            let op: String = op.chars().take(100).collect();
            let res = match &result {
                Ok(LegReply::Meta(_)) => "meta".to_owned(),
                other => format!("{other:?}"),
            };
            self.note(|| format!("{leg} w{w} {op} -> {res}"));
        }
        let Accepted {
            writer, conn, cmd, ..
        } = accepted;
        if self.alive(writer, leg, conn) {
            let delay = self.rng.micros(20, 300);
            self.at(
                delay,
                Ev::Answer {
                    writer,
                    leg,
                    conn,
                    cmd,
                    result,
                    seen,
                },
            );
        }
    }

    pub(super) fn answer(
        &mut self,
        writer: u32,
        leg: Unit,
        conn: u64,
        cmd: CmdId,
        result: Result<LegReply, LegError>,
        seen: Blocks,
    ) {
        if !self.alive(writer, leg, conn) {
            return;
        }
        let w = self.writers.get_mut(&writer).unwrap();
        let Some(op) = w.conns[leg.index()].open.remove(&cmd) else {
            return;
        };
        match op {
            LegOp::ReadData { req, .. } if result.is_ok() => {
                w.guests[leg.volume].buffers.insert(req, seen);
            }
            LegOp::Digest { .. } => self.compared += u64::from(result.is_ok()),
            LegOp::CopyRead { copy, .. } if result.is_ok() => {
                w.guests[leg.volume].copies.insert(copy, seen);
            }
            _ => {}
        }
        let Unit { volume, leg } = leg;
        self.input(writer, volume, Input::LegDone { leg, cmd, result });
    }

    pub(super) fn close(&mut self, writer: u32, leg: Unit, why: LegDown) {
        let Some(w) = self.writers.get_mut(&writer) else {
            return;
        };
        let c = &mut w.conns[leg.index()];
        let volume = leg.volume;
        let was_up = c.up.take().is_some();
        c.broken = false;
        for cmd in std::mem::take(&mut c.open).into_keys() {
            let result = Err(LegError::SessionGone);
            let leg = leg.leg;
            w.inbox
                .push_back((volume, Input::LegDone { leg, cmd, result }));
        }
        if was_up {
            let leg = leg.leg;
            w.inbox.push_back((volume, Input::LegDown { leg, why }));
        }
    }

    pub(super) fn dead(&mut self, writer: u32, leg: Unit, conn: u64) {
        let Some(w) = self.writers.get_mut(&writer) else {
            return;
        };
        if w.conns[leg.index()].up != Some(conn) {
            return;
        }
        self.note(|| format!("w{writer} session to {leg} dead"));
        self.close(writer, leg, LegDown::SessionLost);
        self.schedule_login(writer, leg);
        self.drain(writer);
    }

    pub(super) fn schedule_login(&mut self, writer: u32, leg: Unit) {
        let delay = self.rng.millis(2, 400);
        let Some(w) = self.writers.get_mut(&writer) else {
            return;
        };
        let c = &mut w.conns[leg.index()];
        if c.want && c.up.is_none() && !c.login {
            c.login = true;
            self.at(delay, Ev::Login { writer, leg });
        }
    }

    pub(super) fn login(&mut self, writer: u32, leg: Unit) {
        let Some(w) = self.writers.get_mut(&writer) else {
            return;
        };
        let (site, initiator) = (w.site, w.initiator);
        w.conns[leg.index()].login = false;
        if !w.conns[leg.index()].want || w.conns[leg.index()].up.is_some() {
            return;
        }
        if !self.reaches(site, leg) {
            self.schedule_login(writer, leg);
            let why = LegDown::Unreachable;
            let Unit { volume, leg } = leg;
            self.input(writer, volume, Input::LegDown { leg, why });
            return;
        }
        self.seq += 1;
        let conn = self.seq;
        self.targets[leg.index()].reinstate(initiator, conn);
        // The old session of the same node, if another instance of it still lives, is gone.
        let others: Vec<(u32, u64)> = self
            .writers
            .iter()
            .filter(|(id, w)| **id != writer && w.initiator == initiator)
            .filter_map(|(id, w)| w.conns[leg.index()].up.map(|conn| (*id, conn)))
            .collect();
        for (id, old) in others {
            self.writers.get_mut(&id).unwrap().conns[leg.index()].broken = true;
            self.at(
                Duration::from_millis(1),
                Ev::Dead {
                    writer: id,
                    leg,
                    conn: old,
                },
            );
        }
        let info = self.targets[leg.index()].fake.info;
        let c = &mut self.writers.get_mut(&writer).unwrap().conns[leg.index()];
        *c = Conn {
            want: true,
            up: Some(conn),
            ..Conn::default()
        };
        self.note(|| format!("w{writer} logged in to {leg}"));
        let Unit { volume, leg } = leg;
        self.input(writer, volume, Input::LegUp { leg, info });
    }

    pub(super) fn send(&mut self, writer: u32, leg: Unit, cmd: CmdId, op: LegOp) {
        let w = self.writers.get_mut(&writer).unwrap();
        let Some(conn) = w.conns[leg.index()].up else {
            let result = Err(LegError::SessionGone);
            let Unit { volume, leg } = leg;
            w.inbox
                .push_back((volume, Input::LegDone { leg, cmd, result }));
            return;
        };
        let payload = match &op {
            LegOp::WriteData {
                req, offset, len, ..
            } => match w.guests[leg.volume].asked.get(req) {
                Some(Asked::Write { blocks, .. }) => {
                    assert_eq!(
                        blocks.keys().copied().collect::<Vec<_>>(),
                        blocks_of(*offset, u64::from(*len)).collect::<Vec<_>>()
                    );
                    blocks.clone()
                }
                other => panic!("w{writer} sends the buffer of {req:?}, which is {other:?}"),
            },
            LegOp::CopyWrite { copy, .. } => w.guests[leg.volume]
                .copies
                .get(copy)
                .cloned()
                .expect("a copy is read before it is written"),
            _ => Blocks::new(),
        };
        let previous = w.conns[leg.index()].open.insert(cmd, op.clone());
        assert!(previous.is_none(), "command {cmd:?} is named twice");
        let initiator = w.initiator;
        let delay = self.rng.micros(20, 300);
        self.at(
            delay,
            Ev::Arrive {
                leg,
                accepted: Accepted {
                    writer,
                    conn,
                    initiator,
                    cmd,
                    op,
                    payload,
                },
            },
        );
    }
}
