//! The world: virtual time, messages, faults.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use twinsite_register::{BeatObject, Epoch, Leg, Register, VolumeId};

use super::birth::born;
use super::chain::Chain;
use super::forces::{Branch, Forced, Forcing};
use super::oracle::Oracle;
use super::rng::Rng;
use super::target::{Accepted, Blocks, Target};
use super::witness::Witness;
use super::writer::{Guest, Writer};
use crate::fake_leg::FakeLeg;
use crate::io::{
    CasResult, CmdId, Input, LegDown, LegError, LegReply, Output, RegisterError,
    RegisterId as AskId,
};
use crate::layout::{
    BEAT_OFFSET, Beat, Geometry, MapPage, RegionState, SLOT_OFFSETS, Superblock, map_offset,
};

/// One leg of one volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Unit {
    pub(super) volume: usize,
    pub(super) leg: Leg,
}

impl Unit {
    pub(super) const fn index(self) -> usize {
        self.volume * 2 + self.leg.index()
    }

    /// All units of this many volumes.
    pub(super) fn all(volumes: usize) -> impl Iterator<Item = Self> {
        (0..volumes).flat_map(|volume| Leg::BOTH.map(|leg| Self { volume, leg }))
    }
}

impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.volume, self.leg)
    }
}

pub(super) const fn volume_id(volume: usize) -> VolumeId {
    VolumeId([7 + volume as u8; 16])
}
const LOG: usize = 400;

/// What a run does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    pub(super) volatile: bool,
    pub(super) faults: bool,
    /// Seconds of virtual time with faults.
    pub(super) seconds: u64,
    pub(super) moves: bool,
    /// Legs are compared meanwhile, from random places on.
    pub(super) verify: bool,
    /// Volumes of the group; none: one volume with an engine of its own.
    pub(super) group: usize,
    /// A person gives up what one site has, now and then.
    pub(super) forces: bool,
}

impl Options {
    pub(super) const fn volumes(&self) -> usize {
        if self.group == 0 { 1 } else { self.group }
    }
}

#[derive(Debug)]
pub(super) enum Ev {
    Arrive {
        leg: Unit,
        accepted: Accepted,
    },
    Execute {
        leg: Unit,
        id: u64,
    },
    Answer {
        writer: u32,
        leg: Unit,
        conn: u64,
        cmd: CmdId,
        result: Result<LegReply, LegError>,
        seen: Blocks,
    },
    Dead {
        writer: u32,
        leg: Unit,
        conn: u64,
    },
    Login {
        writer: u32,
        leg: Unit,
    },
    Read {
        writer: u32,
        volume: usize,
        id: AskId,
    },
    ReadAnswer {
        writer: u32,
        volume: usize,
        id: AskId,
        value: Option<Box<Register>>,
    },
    Cas {
        expected: Box<Register>,
        new: Box<Register>,
        reply: Option<(u32, usize, AskId)>,
    },
    CasAnswer {
        writer: u32,
        volume: usize,
        id: AskId,
        won: bool,
    },
    Saved {
        writer: u32,
        volume: usize,
    },
    Beat {
        writer: u32,
        volume: usize,
    },
    Tick {
        writer: u32,
    },
    Guest {
        writer: u32,
        volume: usize,
    },
    Operate,
    Fault,
    /// A site is dark no more.
    Light {
        leg: Leg,
    },
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) now: Duration,
    pub(super) queue: BTreeMap<(Duration, u64), Ev>,
    pub(super) seq: u64,
    /// By unit.
    pub(super) targets: Vec<Target>,
    pub(super) target_up: Vec<bool>,
    pub(super) witness: Witness,
    /// By volume.
    pub(super) beats: Vec<BeatObject>,
    /// From site to leg, and from site to the witness.
    pub(super) links: [[bool; 2]; 2],
    pub(super) witness_links: [bool; 2],
    pub(super) writers: BTreeMap<u32, Writer>,
    /// By volume.
    pub(super) oracles: Vec<Oracle>,
    /// When the writer whose write of the block was acknowledged last began to serve; the same of all writers.
    pub(super) acker: BTreeMap<(usize, u64), u64>,
    pub(super) began: BTreeMap<u32, u64>,
    /// By volume.
    pub(super) failed_flushes: Vec<u64>,
    pub(super) next_writer: u32,
    pub(super) options: Options,
    pub(super) quiet: bool,
    pub(super) log: VecDeque<String>,
    pub(super) verbose: bool,
    pub(super) geometry: Geometry,
    pub(super) attaches: u32,
    pub(super) epochs: u64,
    /// Digests that were answered.
    pub(super) compared: u64,
    pub(super) acks: u64,
    pub(super) chain: Chain,
    pub(super) forcing: Option<Forcing>,
    pub(super) forced: Forced,
    pub(super) branch: Option<Branch>,
    /// By leg: what it says of itself up to this epoch was given up.
    pub(super) lost: [Option<Epoch>; 2],
    /// By leg: nobody reaches it.
    pub(super) dark: [bool; 2],
}

impl World {
    pub(super) fn new(seed: u64, options: Options, verbose: bool) -> Self {
        let mut rng = Rng::new(seed);
        let volumes = options.volumes();
        let (register, superblocks, geometry) = born(&mut rng, volumes);
        let make = |unit: Unit| {
            let mut fake = FakeLeg::new(unit.index() as u8 + 1, geometry.size());
            fake.info.volatile_cache = options.volatile;
            let mut sb = superblocks[unit.index()].clone();
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
                volume: volume_id(unit.volume),
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
        };
        let targets = Unit::all(volumes).map(make).collect();
        let mut world = Self {
            rng,
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            seq: 0,
            targets,
            target_up: vec![true; volumes * 2],
            witness: Witness::new(register),
            beats: vec![BeatObject::default(); volumes],
            links: [[true; 2]; 2],
            witness_links: [true; 2],
            writers: BTreeMap::new(),
            oracles: (0..volumes)
                .map(|_| Oracle::new(options.volatile))
                .collect(),
            acker: BTreeMap::new(),
            began: BTreeMap::new(),
            failed_flushes: vec![0; volumes],
            next_writer: 1,
            options,
            quiet: false,
            log: VecDeque::new(),
            verbose,
            geometry,
            attaches: 0,
            epochs: 0,
            compared: 0,
            acks: 0,
            chain: Chain::default(),
            forcing: None,
            forced: Forced::default(),
            branch: None,
            lost: [None; 2],
            dark: [false; 2],
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
            Ev::Read { writer, volume, id } => {
                let value = Some(Box::new(self.witness.value.clone()));
                let late = self.rng.micros(200, 5_000);
                if !self.rng.chance(2) {
                    let answer = Ev::ReadAnswer {
                        writer,
                        volume,
                        id,
                        value,
                    };
                    self.at(late, answer);
                }
            }
            Ev::ReadAnswer {
                writer,
                volume,
                id,
                value,
            } => {
                let up = self
                    .writers
                    .get(&writer)
                    .is_some_and(|w| self.witness_links[w.site.index() as usize]);
                if up {
                    let result = Ok(value);
                    self.input(writer, volume, Input::RegisterRead { id, result });
                }
            }
            Ev::Cas {
                expected,
                new,
                reply,
            } => self.cas(&expected, &new, reply),
            Ev::CasAnswer {
                writer,
                volume,
                id,
                won,
            } => {
                let result = if won {
                    CasResult::Won
                } else {
                    CasResult::Conflict
                };
                self.input(writer, volume, Input::RegisterCas { id, result });
            }
            Ev::Saved { writer, volume } => self.input(writer, volume, Input::RecordSaved),
            Ev::Beat { writer, volume } => {
                let result = Ok(Some(self.beats[volume]));
                self.input(writer, volume, Input::BeatObject { result });
            }
            Ev::Tick { writer } => {
                let due = self
                    .writers
                    .get_mut(&writer)
                    .is_some_and(|w| w.tick == Some(self.now));
                if due {
                    self.writers.get_mut(&writer).unwrap().tick = None;
                    self.input(writer, 0, Input::Tick);
                }
            }
            Ev::Guest { writer, volume } => self.guest(writer, volume),
            Ev::Operate => self.operate(),
            Ev::Fault => self.fault(),
            Ev::Light { leg } => self.light(leg),
        }
    }

    fn cas(&mut self, expected: &Register, new: &Register, reply: Option<(u32, usize, AskId)>) {
        let before = self.witness.value.clone();
        let won = self.witness.cas(expected, new);
        let value = &self.witness.value;
        let text = format!(
            "cas {won}: epoch {} members {} holder {:?} active {:?}",
            value.epoch, value.members, value.holder, value.active
        );
        self.note(|| text);
        if won {
            self.epochs += u64::from(self.witness.value.epoch != before.epoch);
            self.note_force(&before);
            self.check();
        }
        if let Some((writer, volume, id)) = reply {
            let late = self.rng.micros(200, 5_000);
            let lost = !self.quiet && self.rng.chance(8);
            let up = self
                .writers
                .get(&writer)
                .is_some_and(|w| self.witness_links[w.site.index() as usize]);
            if up && !lost {
                let answer = Ev::CasAnswer {
                    writer,
                    volume,
                    id,
                    won,
                };
                self.at(late, answer);
            }
        }
    }

    pub(super) fn input(&mut self, writer: u32, volume: usize, input: Input) {
        if let Some(w) = self.writers.get_mut(&writer) {
            w.inbox.push_back((volume, input));
            self.drain(writer);
        }
    }

    pub(super) fn drain(&mut self, writer: u32) {
        while let Some(w) = self.writers.get_mut(&writer) {
            let Some((volume, input)) = w.inbox.pop_front() else {
                break;
            };
            let now = self.now;
            w.engine.handle(now, volume, input);
            self.outputs(writer);
        }
        self.end_orders(writer);
        let Some(w) = self.writers.get_mut(&writer) else {
            return;
        };
        if w.over {
            for unit in Unit::all(self.options.volumes()) {
                self.close(writer, unit, LegDown::Closed);
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

    pub(super) fn outputs(&mut self, writer: u32) {
        while let Some(w) = self.writers.get_mut(&writer) {
            let Some((volume, output)) = w.engine.poll() else {
                break;
            };
            self.output(writer, volume, output);
        }
    }

    fn guest_of(&mut self, writer: u32, volume: usize) -> &mut Guest {
        &mut self.writers.get_mut(&writer).unwrap().guests[volume]
    }

    fn output(&mut self, writer: u32, volume: usize, output: Output) {
        let unit = |leg| Unit { volume, leg };
        match output {
            Output::Connect { leg } => {
                self.writers.get_mut(&writer).unwrap().conns[unit(leg).index()].want = true;
                self.schedule_login(writer, unit(leg));
            }
            Output::Disconnect { leg } => {
                self.writers.get_mut(&writer).unwrap().conns[unit(leg).index()].want = false;
                self.close(writer, unit(leg), LegDown::Closed);
            }
            Output::Leg { leg, cmd, op, .. } => self.send(writer, unit(leg), cmd, op),
            Output::ReadRegister { id } => {
                let up = self.witness_link(writer);
                let late = self.rng.micros(200, 5_000);
                if up {
                    self.at(late, Ev::Read { writer, volume, id });
                } else if self.rng.chance(50) {
                    let result = Err(RegisterError::Unreachable);
                    self.writers
                        .get_mut(&writer)
                        .unwrap()
                        .inbox
                        .push_back((volume, Input::RegisterRead { id, result }));
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
                        reply: Some((writer, volume, id)),
                    },
                );
            }
            Output::SaveRecord(record) => {
                self.guest_of(writer, volume).record = Some(record);
                self.at(Duration::from_micros(500), Ev::Saved { writer, volume });
            }
            Output::ReadBeat => self.at(Duration::from_micros(700), Ev::Beat { writer, volume }),
            Output::WriteBeat(beat) => {
                if self.witness_link(writer) {
                    self.beats[volume] = beat.merged(self.beats[volume]);
                }
            }
            Output::ShowDevice(info) => {
                assert_eq!(info.size, self.geometry.size());
                self.note(|| format!("w{writer} SHOWN {volume}"));
                self.guest_of(writer, volume).shown = true;
                self.seq += 1;
                self.began.insert(writer, self.seq);
                if self.options.volatile {
                    // A new guest was promised nothing but what earlier ones flushed.
                    for known in self.oracles[volume].blocks.values_mut() {
                        known.acked = known.flushed;
                    }
                }
                self.at(Duration::from_micros(10), Ev::Guest { writer, volume });
            }
            Output::RemoveDevice { why } => {
                self.note(|| format!("w{writer} REMOVED {volume} {why:?}"));
                self.guest_of(writer, volume).shown = false;
            }
            Output::GuestDone { id, result } => self.guest_done(writer, volume, id, result.is_ok()),
            Output::CopyFree { copy } => {
                self.guest_of(writer, volume).copies.remove(&copy);
            }
            Output::Refused(why) => {
                self.note(|| format!("w{writer} REFUSED {why:?}"));
                self.writers.get_mut(&writer).unwrap().over = true;
            }
            Output::Detached => self.writers.get_mut(&writer).unwrap().over = true,
            Output::Event(event) => {
                self.note(|| format!("w{writer} {volume} {event:?}"));
                if let crate::status::Event::LegsDiffer { offset, .. } = event {
                    let block = offset / crate::io::BLOCK as u64;
                    let has = [0, 1].map(|n: usize| self.targets[volume * 2 + n].cache.get(&block));
                    panic!("block {block} is said to differ: {has:?}");
                }
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

    pub(super) fn heal(&mut self) {
        self.note(|| "HEAL".to_owned());
        self.links = [[true; 2]; 2];
        self.witness_links = [true; 2];
        self.target_up.fill(true);
    }
}
