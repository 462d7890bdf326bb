//! The world: virtual time, messages, faults.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use twinsite_register::{BeatObject, Epoch, Leg, Register, VolumeId};

use super::birth::born;
use super::oracle::Oracle;
use super::rng::Rng;
use super::target::{Accepted, Blocks, Target};
use super::witness::Witness;
use super::writer::Writer;
use crate::fake_leg::FakeLeg;
use crate::io::{
    CasResult, CmdId, Input, LegDown, LegError, LegReply, Output, RegisterError,
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
    /// Legs are compared meanwhile, from random places on.
    pub(super) verify: bool,
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
    /// Digests that were answered.
    pub(super) compared: u64,
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
            compared: 0,
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
                if let crate::status::Event::LegsDiffer { offset, .. } = event {
                    let block = offset / crate::io::BLOCK as u64;
                    let has = [0, 1].map(|n: usize| self.targets[n].cache.get(&block));
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
        self.target_up = [true; 2];
    }
}
