//! The world: virtual time, messages, faults.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use twinsite_register::{BeatObject, Epoch, Leg, Register, Site, VolumeId};

use super::birth::born;
use super::oracle::Oracle;
use super::rng::Rng;
use super::target::{Accepted, Blocks, Target, blocks_of};
use super::witness::Witness;
use super::writer::{Asked, Conn, Writer};
use crate::fake_leg::FakeLeg;
use crate::io::{
    CasResult, CmdId, Input, LegDown, LegError, LegOp, LegReply, Output, RegisterError,
    RegisterId as AskId,
};
use crate::layout::{
    BEAT_OFFSET, Beat, Geometry, MapPage, RegionState, SLOT_OFFSETS, Superblock, map_offset,
};

pub(super) const VOLUME: VolumeId = VolumeId([7; 16]);
const LOG: usize = 400;

/// What a run does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    pub(super) volatile: bool,
    pub(super) faults: bool,
    /// Seconds of virtual time with faults.
    pub(super) seconds: u64,
    pub(super) moves: bool,
}

#[derive(Debug)]
pub(super) enum Ev {
    Arrive {
        leg: Leg,
        accepted: Accepted,
    },
    Execute {
        leg: Leg,
        id: u64,
    },
    Answer {
        writer: u32,
        leg: Leg,
        conn: u64,
        cmd: CmdId,
        result: Result<LegReply, LegError>,
        seen: Blocks,
    },
    Dead {
        writer: u32,
        leg: Leg,
        conn: u64,
    },
    Login {
        writer: u32,
        leg: Leg,
    },
    Read {
        writer: u32,
        id: AskId,
    },
    ReadAnswer {
        writer: u32,
        id: AskId,
        value: Option<Box<Register>>,
    },
    Cas {
        expected: Box<Register>,
        new: Box<Register>,
        reply: Option<(u32, AskId)>,
    },
    CasAnswer {
        writer: u32,
        id: AskId,
        won: bool,
    },
    Saved {
        writer: u32,
    },
    Beat {
        writer: u32,
    },
    Tick {
        writer: u32,
    },
    Guest {
        writer: u32,
    },
    Operate,
    Fault,
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) now: Duration,
    pub(super) queue: BTreeMap<(Duration, u64), Ev>,
    pub(super) seq: u64,
    pub(super) targets: [Target; 2],
    pub(super) target_up: [bool; 2],
    pub(super) witness: Witness,
    pub(super) beat: BeatObject,
    /// From site to leg, and from site to the witness.
    pub(super) links: [[bool; 2]; 2],
    pub(super) witness_links: [bool; 2],
    pub(super) writers: BTreeMap<u32, Writer>,
    pub(super) oracle: Oracle,
    /// When the writer whose write of the block was acknowledged last began to serve; the same of all writers.
    pub(super) acker: BTreeMap<u64, u64>,
    pub(super) began: BTreeMap<u32, u64>,
    pub(super) failed_flushes: u64,
    pub(super) next_writer: u32,
    pub(super) options: Options,
    pub(super) quiet: bool,
    pub(super) log: VecDeque<String>,
    pub(super) verbose: bool,
    pub(super) geometry: Geometry,
    pub(super) attaches: u32,
    pub(super) epochs: u64,
}

impl World {
    pub(super) fn new(seed: u64, options: Options, verbose: bool) -> Self {
        let mut rng = Rng::new(seed);
        let (register, superblocks, geometry) = born(&mut rng);
        let targets = Leg::BOTH.map(|leg| {
            let mut fake = FakeLeg::new(leg.index() as u8 + 1, geometry.size());
            fake.info.volatile_cache = options.volatile;
            let mut sb = superblocks[leg.index()].clone();
            sb.boot_id = fake.info.boot_id.unwrap();
            for slot in SLOT_OFFSETS {
                fake.blocks.insert(slot, *sb.emit());
                sb.sb_seq += 1;
            }
            // The second slot written is slot 0 of an even sequence.
            sb.sb_seq -= 1;
            fake.blocks.insert(
                SLOT_OFFSETS[1],
                *Superblock {
                    sb_seq: 1,
                    ..sb.clone()
                }
                .emit(),
            );
            fake.blocks
                .insert(SLOT_OFFSETS[0], *Superblock { sb_seq: 2, ..sb }.emit());
            let beat = Beat {
                volume: VOLUME,
                epoch: Epoch::ZERO,
                attach_key: None,
                beat: 0,
                flushed: 0,
            };
            fake.blocks.insert(BEAT_OFFSET, *beat.emit());
            for page in 0..geometry.pages() {
                let blank = MapPage::filled(page, 1, Epoch(1), RegionState::Unwritten);
                fake.blocks.insert(map_offset(page), *blank.emit());
            }
            Target::new(fake, options.volatile)
        });
        let mut world = Self {
            rng,
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            seq: 0,
            targets,
            target_up: [true; 2],
            witness: Witness::new(register),
            beat: BeatObject::default(),
            links: [[true; 2]; 2],
            witness_links: [true; 2],
            writers: BTreeMap::new(),
            oracle: Oracle::new(options.volatile),
            acker: BTreeMap::new(),
            began: BTreeMap::new(),
            failed_flushes: 0,
            next_writer: 1,
            options,
            quiet: false,
            log: VecDeque::new(),
            verbose,
            geometry,
            attaches: 0,
            epochs: 0,
        };
        world.at(Duration::from_millis(1), Ev::Operate);
        if options.faults {
            world.at(Duration::from_secs(2), Ev::Fault);
        }
        world
    }

    pub(super) fn at(&mut self, delay: Duration, ev: Ev) {
        self.seq += 1;
        self.queue.insert((self.now + delay, self.seq), ev);
    }

    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        let line = format!("{:>10.4} {}", self.now.as_secs_f64(), text());
        if self.verbose {
            eprintln!("{line}");
        }
        if self.log.len() == LOG {
            self.log.pop_front();
        }
        self.log.push_back(line);
    }

    /// Run until this time.
    pub(super) fn run(&mut self, until: Duration) {
        while let Some((&(at, seq), _)) = self.queue.first_key_value() {
            if at > until {
                break;
            }
            let ev = self.queue.remove(&(at, seq)).unwrap();
            self.now = at;
            self.step(ev);
        }
        self.now = until;
    }

    fn step(&mut self, ev: Ev) {
        match ev {
            Ev::Arrive { leg, accepted } => self.arrive(leg, accepted),
            Ev::Execute { leg, id } => self.execute(leg, id),
            Ev::Answer {
                writer,
                leg,
                conn,
                cmd,
                result,
                seen,
            } => self.answer(writer, leg, conn, cmd, result, seen),
            Ev::Dead { writer, leg, conn } => self.dead(writer, leg, conn),
            Ev::Login { writer, leg } => self.login(writer, leg),
            Ev::Read { writer, id } => {
                let value = Some(Box::new(self.witness.value.clone()));
                let late = self.rng.micros(200, 5_000);
                if !self.rng.chance(2) {
                    self.at(late, Ev::ReadAnswer { writer, id, value });
                }
            }
            Ev::ReadAnswer { writer, id, value } => {
                let up = self
                    .writers
                    .get(&writer)
                    .is_some_and(|w| self.witness_links[w.site.index() as usize]);
                if up {
                    self.input(
                        writer,
                        Input::RegisterRead {
                            id,
                            result: Ok(value),
                        },
                    );
                }
            }
            Ev::Cas {
                expected,
                new,
                reply,
            } => self.cas(&expected, &new, reply),
            Ev::CasAnswer { writer, id, won } => {
                let result = if won {
                    CasResult::Won
                } else {
                    CasResult::Conflict
                };
                self.input(writer, Input::RegisterCas { id, result });
            }
            Ev::Saved { writer } => self.input(writer, Input::RecordSaved),
            Ev::Beat { writer } => {
                let beat = Some(self.beat);
                self.input(writer, Input::BeatObject { result: Ok(beat) });
            }
            Ev::Tick { writer } => {
                let due = self
                    .writers
                    .get_mut(&writer)
                    .is_some_and(|w| w.tick == Some(self.now));
                if due {
                    self.writers.get_mut(&writer).unwrap().tick = None;
                    self.input(writer, Input::Tick);
                }
            }
            Ev::Guest { writer } => self.guest(writer),
            Ev::Operate => self.operate(),
            Ev::Fault => self.fault(),
        }
    }

    fn reaches(&self, site: Site, leg: Leg) -> bool {
        self.links[site.index() as usize][leg.index()] && self.target_up[leg.index()]
    }

    fn alive(&self, writer: u32, leg: Leg, conn: u64) -> bool {
        self.writers.get(&writer).is_some_and(|w| {
            let c = &w.conns[leg.index()];
            c.up == Some(conn) && !c.broken && self.reaches(w.site, leg)
        })
    }

    fn arrive(&mut self, leg: Leg, accepted: Accepted) {
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

    fn execute(&mut self, leg: Leg, id: u64) {
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
                let newest = self.acker.get(block).copied().unwrap_or(0);
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

    fn answer(
        &mut self,
        writer: u32,
        leg: Leg,
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
                w.buffers.insert(req, seen);
            }
            LegOp::CopyRead { copy, .. } if result.is_ok() => {
                w.copies.insert(copy, seen);
            }
            _ => {}
        }
        self.input(writer, Input::LegDone { leg, cmd, result });
    }

    pub(super) fn close(&mut self, writer: u32, leg: Leg, why: LegDown) {
        let Some(w) = self.writers.get_mut(&writer) else {
            return;
        };
        let c = &mut w.conns[leg.index()];
        let was_up = c.up.take().is_some();
        c.broken = false;
        for cmd in std::mem::take(&mut c.open).into_keys() {
            w.inbox.push_back(Input::LegDone {
                leg,
                cmd,
                result: Err(LegError::SessionGone),
            });
        }
        if was_up {
            w.inbox.push_back(Input::LegDown { leg, why });
        }
    }

    fn dead(&mut self, writer: u32, leg: Leg, conn: u64) {
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

    fn schedule_login(&mut self, writer: u32, leg: Leg) {
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

    fn login(&mut self, writer: u32, leg: Leg) {
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
            self.input(
                writer,
                Input::LegDown {
                    leg,
                    why: LegDown::Unreachable,
                },
            );
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
        self.input(writer, Input::LegUp { leg, info });
    }

    fn cas(&mut self, expected: &Register, new: &Register, reply: Option<(u32, AskId)>) {
        let before = self.witness.value.epoch;
        let won = self.witness.cas(expected, new);
        let value = &self.witness.value;
        let text = format!(
            "cas {won}: epoch {} members {} holder {:?} active {:?}",
            value.epoch, value.members, value.holder, value.active
        );
        self.note(|| text);
        if won {
            self.epochs += u64::from(self.witness.value.epoch != before);
            self.check();
        }
        if let Some((writer, id)) = reply {
            let late = self.rng.micros(200, 5_000);
            let lost = !self.quiet && self.rng.chance(8);
            let up = self
                .writers
                .get(&writer)
                .is_some_and(|w| self.witness_links[w.site.index() as usize]);
            if up && !lost {
                self.at(late, Ev::CasAnswer { writer, id, won });
            }
        }
    }

    pub(super) fn input(&mut self, writer: u32, input: Input) {
        if let Some(w) = self.writers.get_mut(&writer) {
            w.inbox.push_back(input);
            self.drain(writer);
        }
    }

    pub(super) fn drain(&mut self, writer: u32) {
        while let Some(w) = self.writers.get_mut(&writer) {
            let Some(input) = w.inbox.pop_front() else {
                break;
            };
            let now = self.now;
            w.engine.handle(now, input);
            self.outputs(writer);
        }
        let Some(w) = self.writers.get_mut(&writer) else {
            return;
        };
        if w.over {
            for leg in Leg::BOTH {
                self.close(writer, leg, LegDown::Closed);
            }
            self.writers.remove(&writer);
            return;
        }
        let deadline = w
            .engine
            .deadline()
            .map(|at| at.max(self.now + Duration::from_micros(1)));
        if let Some(at) = deadline
            && w.tick.is_none_or(|tick| at < tick)
        {
            w.tick = Some(at);
            self.at(at - self.now, Ev::Tick { writer });
        }
    }

    fn outputs(&mut self, writer: u32) {
        while let Some(w) = self.writers.get_mut(&writer) {
            let Some(output) = w.engine.poll() else { break };
            self.output(writer, output);
        }
    }

    fn output(&mut self, writer: u32, output: Output) {
        match output {
            Output::Connect { leg } => {
                self.writers.get_mut(&writer).unwrap().conns[leg.index()].want = true;
                self.schedule_login(writer, leg);
            }
            Output::Disconnect { leg } => {
                self.writers.get_mut(&writer).unwrap().conns[leg.index()].want = false;
                self.close(writer, leg, LegDown::Closed);
            }
            Output::Leg { leg, cmd, op, .. } => self.send(writer, leg, cmd, op),
            Output::ReadRegister { id } => {
                let up = self.witness_link(writer);
                let late = self.rng.micros(200, 5_000);
                if up {
                    self.at(late, Ev::Read { writer, id });
                } else if self.rng.chance(50) {
                    let result = Err(RegisterError::Unreachable);
                    self.writers
                        .get_mut(&writer)
                        .unwrap()
                        .inbox
                        .push_back(Input::RegisterRead { id, result });
                }
            }
            Output::CasRegister { id, expected, new } => {
                if !self.witness_link(writer) {
                    return;
                }
                let wild = self.options.faults && !self.quiet;
                if wild && self.rng.chance(4) {
                    return;
                }
                let late = if wild && self.rng.chance(8) {
                    self.rng.millis(300, 15_000)
                } else {
                    self.rng.micros(200, 5_000)
                };
                if wild && self.rng.chance(5) {
                    let again = self.rng.millis(1, 10_000);
                    let (expected, new) = (expected.clone(), new.clone());
                    self.at(
                        late + again,
                        Ev::Cas {
                            expected,
                            new,
                            reply: None,
                        },
                    );
                }
                self.at(
                    late,
                    Ev::Cas {
                        expected,
                        new,
                        reply: Some((writer, id)),
                    },
                );
            }
            Output::SaveRecord(record) => {
                self.writers.get_mut(&writer).unwrap().record = record;
                self.at(Duration::from_micros(500), Ev::Saved { writer });
            }
            Output::ReadBeat => self.at(Duration::from_micros(700), Ev::Beat { writer }),
            Output::WriteBeat(beat) => {
                if self.witness_link(writer) {
                    self.beat = beat.merged(self.beat);
                }
            }
            Output::ShowDevice(info) => {
                assert_eq!(info.size, self.geometry.size());
                self.note(|| format!("w{writer} SHOWN"));
                self.writers.get_mut(&writer).unwrap().shown = true;
                self.seq += 1;
                self.began.insert(writer, self.seq);
                if self.options.volatile {
                    // A new guest was promised nothing but what earlier ones flushed.
                    for known in self.oracle.blocks.values_mut() {
                        known.acked = known.flushed;
                    }
                }
                self.at(Duration::from_micros(10), Ev::Guest { writer });
            }
            Output::RemoveDevice { why } => {
                self.note(|| format!("w{writer} REMOVED {why:?}"));
                self.writers.get_mut(&writer).unwrap().shown = false;
            }
            Output::GuestDone { id, result } => self.guest_done(writer, id, result.is_ok()),
            Output::CopyFree { copy } => {
                self.writers.get_mut(&writer).unwrap().copies.remove(&copy);
            }
            Output::Refused(why) => {
                self.note(|| format!("w{writer} REFUSED {why:?}"));
                self.writers.get_mut(&writer).unwrap().over = true;
            }
            Output::Detached => self.writers.get_mut(&writer).unwrap().over = true,
            Output::Event(event) => {
                self.note(|| format!("w{writer} {event:?}"));
                if event == crate::status::Event::Superseded {
                    self.writers.get_mut(&writer).unwrap().over = true;
                }
            }
            Output::Resize { .. } | Output::FormatRecorded { .. } | Output::OrderDone { .. } => {}
        }
    }

    fn witness_link(&self, writer: u32) -> bool {
        self.writers
            .get(&writer)
            .is_some_and(|w| self.witness_links[w.site.index() as usize])
    }

    fn send(&mut self, writer: u32, leg: Leg, cmd: CmdId, op: LegOp) {
        let w = self.writers.get_mut(&writer).unwrap();
        let Some(conn) = w.conns[leg.index()].up else {
            w.inbox.push_back(Input::LegDone {
                leg,
                cmd,
                result: Err(LegError::SessionGone),
            });
            return;
        };
        let payload = match &op {
            LegOp::WriteData {
                req, offset, len, ..
            } => match w.asked.get(req) {
                Some(Asked::Write { blocks, .. }) => {
                    assert_eq!(
                        blocks.keys().copied().collect::<Vec<_>>(),
                        blocks_of(*offset, u64::from(*len)).collect::<Vec<_>>()
                    );
                    blocks.clone()
                }
                other => panic!("w{writer} sends the buffer of {req:?}, which is {other:?}"),
            },
            LegOp::CopyWrite { copy, .. } => w
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

    pub(super) fn heal(&mut self) {
        self.note(|| "HEAL".to_owned());
        self.links = [[true; 2]; 2];
        self.witness_links = [true; 2];
        self.target_up = [true; 2];
    }
}
