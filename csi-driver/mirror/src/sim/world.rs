//! The world: virtual time, messages, faults.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use twinsite_register::{
    AttachmentUid, BeatObject, Epoch, Gen, GroupId, Key, KeyTag, Leg, Members, Naa, Order,
    Register, RegisterId, Site, TxId, VolumeId,
};

use super::oracle::Oracle;
use super::rng::Rng;
use super::target::{Accepted, Blocks, Target, blocks_of};
use super::witness::Witness;
use super::writer::{Asked, Conn, Writer};
use crate::config::Config;
use crate::engine::Engine;
use crate::fake_leg::FakeLeg;
use crate::io::{
    AttachOrder, AttachRecord, BLOCK, CasResult, CmdId, Format, GuestOp, Input, LegDown, LegError,
    LegOp, LegReply, Mode, MoveMode, MoveOrder, Output, RegisterError, RegisterId as AskId, ReqId,
};
use crate::layout::{
    BEAT_OFFSET, Beat, Geometry, MapPage, PAGE_REGIONS, RegionState, Role, SLOT_OFFSETS,
    Superblock, map_offset,
};
use crate::status::StateName;

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
enum Ev {
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
    queue: BTreeMap<(Duration, u64), Ev>,
    seq: u64,
    pub(super) targets: [Target; 2],
    pub(super) target_up: [bool; 2],
    pub(super) witness: Witness,
    beat: BeatObject,
    /// From site to leg, and from site to the witness.
    pub(super) links: [[bool; 2]; 2],
    pub(super) witness_links: [bool; 2],
    pub(super) writers: BTreeMap<u32, Writer>,
    pub(super) oracle: Oracle,
    /// When the writer whose write of the block was acknowledged last began to serve; the same of all writers.
    acker: BTreeMap<u64, u64>,
    began: BTreeMap<u32, u64>,
    failed_flushes: u64,
    next_writer: u32,
    pub(super) options: Options,
    pub(super) quiet: bool,
    pub(super) log: VecDeque<String>,
    verbose: bool,
    geometry: Geometry,
    pub(super) attaches: u32,
    pub(super) epochs: u64,
}

pub(super) fn config() -> Config {
    Config {
        clear_idle: Duration::from_secs(3),
        resync_bytes_per_second: Some(64 << 20),
        copy_max: 256 << 10,
        copies: 4,
        rest_small: 1 << 20,
        max_requests: 16,
        rejoin_backoff: (Duration::from_secs(1), Duration::from_secs(8)),
        ..Config::default()
    }
}

/// A volume of two map pages and a bit, born and never used.
fn born(rng: &mut Rng) -> (Register, [Superblock; 2], Geometry) {
    let geometry = Geometry::new((2 * PAGE_REGIONS as u64 + 40) << 16, 16).unwrap();
    let create = twinsite_register::Create {
        register_id: RegisterId(rng.bytes()),
        group: GroupId([7; 16]),
        volumes: vec![VOLUME],
        generation: Gen(rng.bytes()),
        site: Site::A,
        txid: TxId(rng.bytes()),
    };
    let register = Register::create(create)
        .unwrap()
        .birth(Site::A, TxId(rng.bytes()))
        .unwrap();
    let superblock = |leg: Leg| Superblock {
        compat: 0,
        ro_compat: 0,
        sb_seq: 1,
        volume: VOLUME,
        group: register.group,
        register_id: register.register_id,
        leg,
        role: Role::Member,
        members: Members::BOTH,
        active_site: Site::A,
        active_seq: register.active.seq,
        geometry,
        size_new: 0,
        epoch: register.epoch,
        generation: register.generation,
        base: None,
        clean: true,
        attach_key: None,
        boot_id: 0,
        lease_ms: 0,
        node: String::new(),
        format: Format::None,
        fs_type: [0; 15],
        naa: Naa([leg.index() as u8 + 1; 16]),
        parents: Vec::new(),
        order: Order::default(),
    };
    (register.clone(), Leg::BOTH.map(superblock), geometry)
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

    fn at(&mut self, delay: Duration, ev: Ev) {
        self.seq += 1;
        self.queue.insert((self.now + delay, self.seq), ev);
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
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

    // --- Legs ---------------------------------------------------------------------------------------------------------

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

    fn close(&mut self, writer: u32, leg: Leg, why: LegDown) {
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

    /// The line is cut, or the target restarts: sessions over it break and are found dead later.
    fn break_sessions(&mut self, hit: impl Fn(Site, Leg) -> bool) {
        let mut found = Vec::new();
        for (&id, w) in &mut self.writers {
            for leg in Leg::BOTH {
                let c = &mut w.conns[leg.index()];
                if let Some(conn) = c.up.filter(|_| hit(w.site, leg) && !c.broken) {
                    c.broken = true;
                    found.push((id, leg, conn));
                }
            }
        }
        for (writer, leg, conn) in found {
            let delay = self.rng.millis(1, 2500);
            self.at(delay, Ev::Dead { writer, leg, conn });
        }
    }

    // --- Witness ------------------------------------------------------------------------------------------------------

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

    // --- Writers ------------------------------------------------------------------------------------------------------

    pub(super) fn input(&mut self, writer: u32, input: Input) {
        if let Some(w) = self.writers.get_mut(&writer) {
            w.inbox.push_back(input);
            self.drain(writer);
        }
    }

    fn drain(&mut self, writer: u32) {
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

    // --- Guests -------------------------------------------------------------------------------------------------------

    fn guest(&mut self, writer: u32) {
        let Some(w) = self.writers.get(&writer) else {
            return;
        };
        if !w.shown {
            return;
        }
        let pause = self.rng.micros(200, 40_000);
        self.at(pause, Ev::Guest { writer });
        let w = &self.writers[&writer];
        if w.asked.len() >= 12 {
            return;
        }
        let busy: Vec<u64> = w
            .asked
            .values()
            .flat_map(|asked| match asked {
                Asked::Write { blocks, .. } => blocks.keys().copied().collect(),
                Asked::Read(_) | Asked::Flush { .. } => Vec::new(),
            })
            .collect();
        let kind = self.rng.below(100);
        // A few regions on two pages, three blocks each, runs across a region border.
        let regions = [
            0,
            1,
            2,
            PAGE_REGIONS as u64 - 1,
            PAGE_REGIONS as u64,
            PAGE_REGIONS as u64 + 7,
        ];
        let region = regions[self.rng.below(regions.len() as u64) as usize];
        let first = region * 16 + [0, 5, 14][self.rng.below(3) as usize];
        let count = 1 + self.rng.below(4);
        let blocks = first..first + count;
        let (offset, len) = (first * BLOCK as u64, (count * BLOCK as u64) as u32);
        let w = self.writers.get_mut(&writer).unwrap();
        let id = ReqId(w.next_req);
        w.next_req += 1;
        let op = if kind < 50 {
            if blocks.clone().any(|block| busy.contains(&block)) {
                return;
            }
            let mut versions = Blocks::new();
            for block in blocks {
                let known = self.oracle.blocks.entry(block).or_default();
                known.issued += 1;
                versions.insert(block, known.issued);
            }
            let fua = self.rng.chance(10);
            w.asked.insert(
                id,
                Asked::Write {
                    blocks: versions,
                    fua,
                },
            );
            GuestOp::Write { offset, len, fua }
        } else if kind < 92 {
            let floors = blocks
                .map(|block| (block, self.oracle.floor(block)))
                .collect();
            w.asked.insert(id, Asked::Read(floors));
            GuestOp::Read { offset, len }
        } else {
            let acked = self
                .oracle
                .blocks
                .iter()
                .map(|(&block, known)| (block, known.acked))
                .collect();
            w.asked.insert(
                id,
                Asked::Flush {
                    acked,
                    failed: self.failed_flushes,
                },
            );
            GuestOp::Flush
        };
        self.input(writer, Input::Guest { id, op });
    }

    fn guest_done(&mut self, writer: u32, id: ReqId, ok: bool) {
        let w = self.writers.get_mut(&writer).unwrap();
        let asked = w
            .asked
            .remove(&id)
            .unwrap_or_else(|| panic!("I11: {id:?} answered twice"));
        w.answered += u64::from(ok);
        let buffer = w.buffers.remove(&id);
        match asked {
            Asked::Write { blocks, fua } if ok => {
                for (block, version) in blocks {
                    let known = self.oracle.blocks.get_mut(&block).unwrap();
                    known.acked = known.acked.max(version);
                    if fua {
                        known.flushed = known.flushed.max(version);
                    }
                    self.acker.insert(block, self.began[&writer]);
                }
                self.check();
            }
            Asked::Read(floors) if ok => {
                let buffer = buffer.expect("a read that was answered has its bytes");
                for (block, floor) in floors {
                    self.oracle.read(
                        block,
                        buffer.get(&block).copied().unwrap_or(0),
                        floor,
                        &format!("w{writer}"),
                    );
                }
            }
            Asked::Flush { acked, failed } => {
                if ok && failed == self.failed_flushes {
                    for (block, version) in acked {
                        let known = self.oracle.blocks.get_mut(&block).unwrap();
                        known.flushed = known.flushed.max(version);
                    }
                    self.check();
                } else if !ok {
                    // The guest knows that what it had not flushed may be gone.
                    self.failed_flushes += 1;
                    for known in self.oracle.blocks.values_mut() {
                        known.acked = known.flushed;
                    }
                }
            }
            Asked::Write { .. } | Asked::Read(_) => {}
        }
    }

    // --- Operator and faults ------------------------------------------------------------------------------------------

    fn operate(&mut self) {
        self.at(Duration::from_millis(700), Ev::Operate);
        let site = self.witness.value.active.site;
        if !self.writers.values().any(|w| w.site == site) {
            let fresh = self.rng.chance(40);
            self.start(site, None, fresh);
        }
        if self.quiet {
            let stale: Vec<u32> = self
                .writers
                .iter()
                .filter(|(_, w)| w.site != site)
                .map(|(id, _)| *id)
                .collect();
            for id in stale {
                self.kill(id);
            }
        }
    }

    /// Start an attach; on the node of the last one at that site, or on a fresh one.
    pub(super) fn start(&mut self, site: Site, mv: Option<MoveOrder>, fresh: bool) -> u32 {
        let id = self.next_writer;
        self.next_writer += 1;
        self.attaches += 1;
        let base = 10 + site.index() * 100;
        let initiator = if fresh {
            base + 1 + (id % 90) as u8
        } else {
            base
        };
        let key = Key::new(KeyTag::Writer(site), self.rng.next());
        let uid = AttachmentUid(self.rng.bytes());
        let record = AttachRecord {
            uid,
            keys: Vec::new(),
            n: None,
            stale: false,
        };
        let order = AttachOrder {
            volume: VOLUME,
            uid,
            key,
            seed: self.rng.bytes(),
            site,
            node: format!("n{initiator}"),
            mode: Mode::Writer,
            mv,
            record: record.clone(),
            shown: false,
            marks: Vec::new(),
            initialize: [None, None],
            config: config(),
        };
        self.note(|| format!("START w{id} at {site} node {initiator} {key:?} {mv:?}"));
        self.writers.insert(
            id,
            Writer {
                engine: Engine::new(self.now),
                site,
                initiator,
                conns: Default::default(),
                inbox: VecDeque::new(),
                asked: BTreeMap::new(),
                buffers: BTreeMap::new(),
                copies: BTreeMap::new(),
                next_req: 1,
                shown: false,
                over: false,
                tick: None,
                record,
                answered: 0,
            },
        );
        self.input(id, Input::Attach(Box::new(order)));
        id
    }

    /// The machine dies. What its targets accepted is executed all the same.
    pub(super) fn kill(&mut self, writer: u32) {
        self.note(|| format!("KILL w{writer}"));
        self.writers.remove(&writer);
        self.check();
    }

    fn fault(&mut self) {
        if self.quiet {
            return;
        }
        let next = self.rng.millis(200, 6_000);
        self.at(next, Ev::Fault);
        let site = self.rng.below(2) as usize;
        let leg = self.rng.below(2) as usize;
        match self.rng.below(100) {
            0..20 => {
                let up = &mut self.links[site][leg];
                *up = !*up;
                let up = *up;
                self.note(|| format!("LINK {site} -> leg {leg} {up}"));
                if !up {
                    self.break_sessions(|s, l| s.index() as usize == site && l.index() == leg);
                }
            }
            20..32 => {
                let up = !self.witness_links[site];
                self.witness_links[site] = up;
                self.note(|| format!("WITNESS LINK {site} {up}"));
            }
            32..47 => {
                if let Some(&id) = self.writers.keys().nth(self.rng.below(2) as usize) {
                    self.kill(id);
                }
            }
            47..57 if self.options.moves => {
                let seq = self.witness.value.active.seq;
                let to = self.witness.value.active.site.other();
                if !self.writers.values().any(|w| w.site == to) {
                    let mv = MoveOrder {
                        mode: MoveMode::Failover,
                        expect_seq: seq,
                    };
                    self.start(to, Some(mv), false);
                }
            }
            57..62 => {
                let at = self.witness.value.active.site;
                if self.writers.values().filter(|w| w.site == at).count() == 1 {
                    self.start(at, None, true);
                }
            }
            62..70 => self.restart_target(leg),
            70..75 => {
                let up = !self.target_up[leg];
                self.note(|| format!("TARGET {leg} {up}"));
                if up {
                    self.target_up[leg] = true;
                } else {
                    self.restart_target(leg);
                    self.target_up[leg] = false;
                }
            }
            75..80 => {
                // An operator edits a free field.
                let txid = TxId(self.rng.bytes());
                let none = Members::NONE;
                if let Ok(edited) = self.witness.value.clone().rejoin(none, txid) {
                    let expected = self.witness.value.clone();
                    self.witness.cas(&expected, &edited);
                }
            }
            80..84 => {
                if let Some(&id) = self.writers.keys().next() {
                    self.note(|| format!("DETACH w{id}"));
                    self.input(id, Input::Detach);
                }
            }
            _ => self.heal(),
        }
    }

    fn restart_target(&mut self, leg: usize) {
        let boot = self.rng.next() | 1;
        let mut rng = Rng::new(boot);
        self.note(|| format!("RESTART target {leg}"));
        self.targets[leg].power_cycle(boot, || rng.chance(50));
        self.break_sessions(|_, l| l.index() == leg);
    }

    pub(super) fn heal(&mut self) {
        self.note(|| "HEAL".to_owned());
        self.links = [[true; 2]; 2];
        self.witness_links = [true; 2];
        self.target_up = [true; 2];
    }

    // --- Checks -------------------------------------------------------------------------------------------------------

    pub(super) fn check(&mut self) {
        self.oracle.check_legs(&self.witness.value, &self.targets);
        if self.writers.is_empty() && !self.options.volatile {
            self.oracle
                .check_maps(&self.witness.value, &self.targets, self.geometry);
        }
    }

    /// I10, after all faults are healed: one writer serves a pair, everything it was asked is answered, the legs are equal.
    pub(super) fn check_converged(&mut self) {
        let states: Vec<(u32, StateName)> = self
            .writers
            .iter()
            .map(|(id, w)| (*id, w.engine.status(self.now).state))
            .collect();
        assert_eq!(states.len(), 1, "one writer: {states:?}");
        assert_eq!(
            states[0].1,
            StateName::Synced,
            "{states:?} {:?}",
            self.writers[&states[0].0].engine.status(self.now)
        );
        let w = &self.writers[&states[0].0];
        assert!(w.shown);
        assert_eq!(w.asked.len(), 0, "I10: unanswered {:?}", w.asked);
        let status = w.engine.status(self.now);
        assert_eq!(
            (status.pending_bytes, status.conditions.len()),
            (0, 0),
            "{status:?}"
        );
        assert_eq!(status.dirty_bytes, 0, "everything idle is cleared");
        for &block in self.oracle.blocks.keys() {
            let versions =
                [0, 1].map(|n: usize| self.targets[n].cache.get(&block).copied().unwrap_or(0));
            assert_eq!(versions[0], versions[1], "block {block}");
        }
    }

    pub(super) fn stop_guests(&mut self) {
        for w in self.writers.values_mut() {
            w.shown = false;
        }
    }

    pub(super) fn resume_guests(&mut self) {
        for w in self.writers.values_mut() {
            w.shown = true;
        }
    }

    pub(super) fn answered(&self) -> u64 {
        self.writers.values().map(|w| w.answered).sum()
    }
}
