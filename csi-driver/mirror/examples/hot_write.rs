//! How long the engine itself takes for a write: `cargo run --release -p twinsite-mirror --example hot_write`.
//!
//! Two legs and a register in memory answer at once, so what is measured is `handle` and `poll` of one engine: a 4 KiB
//! write to a dirty region (two commands out, two answers in, one answer to the guest), at several depths, and a read.

#![allow(
    clippy::disallowed_methods,
    reason = "a bench measures time; the engine itself has no clock"
)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use twinsite_mirror::config::Config;
use twinsite_mirror::engine::Engine;
use twinsite_mirror::io::{
    AttachOrder, AttachRecord, BLOCK, CasResult, CmdId, DATA_START, GuestOp, Input, LegInfo, LegOp,
    LegReply, Mode, Output, RegisterId as AskId, Registrant, ReqId, TargetAge,
};
use twinsite_mirror::layout::{
    BEAT_OFFSET, Beat, Geometry, MapPage, RegionState, SLOT_OFFSETS, Superblock, map_offset,
};
use twinsite_register::{
    AttachmentUid, Create, Epoch, Gen, GroupId, Key, KeyTag, Leg, Naa, Register, RegisterId, Site,
    TxId, VolumeId,
};

const VOLUME: VolumeId = VolumeId([7; 16]);
const SIZE: u64 = 8 << 30;

struct World {
    engine: Engine,
    now: Duration,
    blocks: [BTreeMap<u64, Box<[u8; BLOCK]>>; 2],
    keys: [Vec<Key>; 2],
    register: Register,
    info: [LegInfo; 2],
    shown: bool,
    hot: Vec<(Leg, CmdId)>,
    done: u64,
}

impl World {
    fn new() -> Self {
        let create = Create {
            register_id: RegisterId([9; 16]),
            group: GroupId([8; 16]),
            volumes: vec![VOLUME],
            generation: Gen([1; 16]),
            site: Site::A,
            txid: TxId([1; 16]),
        };
        let register = Register::create(create)
            .and_then(|r| r.birth(Site::A, TxId([2; 16])))
            .expect("a birth");
        let geometry = Geometry::for_new(SIZE).expect("a size");
        let blocks = Leg::BOTH.map(|leg| born(leg, geometry, &register));
        let info = Leg::BOTH.map(|leg| LegInfo {
            naa: Naa([leg.index() as u8 + 1; 16]),
            capacity: DATA_START + SIZE,
            block_size: 512,
            volatile_cache: true,
            boot_id: Some(leg.index() as u64 + 1),
            own_target: true,
            discard_zeroes: true,
            discard_granularity: 4096,
        });
        Self {
            engine: Engine::new(Duration::ZERO),
            now: Duration::ZERO,
            blocks,
            keys: [Vec::new(), Vec::new()],
            register,
            info,
            shown: false,
            hot: Vec::new(),
            done: 0,
        }
    }

    fn attach(&mut self) {
        let uid = AttachmentUid([5; 16]);
        let order = AttachOrder {
            volume: VOLUME,
            uid,
            key: Key::new(KeyTag::Writer(Site::A), 77),
            seed: [3; 32],
            site: Site::A,
            node: "bench".to_owned(),
            mode: Mode::Writer,
            mv: None,
            record: AttachRecord {
                uid,
                keys: Vec::new(),
                n: None,
                stale: false,
                flush_owed: false,
            },
            shown: false,
            marks: Vec::new(),
            initialize: [None, None],
            config: Config::default(),
        };
        self.input(Input::Attach(Box::new(order)));
        while !self.shown {
            self.now += Duration::from_millis(1);
            self.input(Input::Tick);
        }
    }

    fn input(&mut self, input: Input) {
        let mut inputs = vec![input];
        while !inputs.is_empty() {
            for input in std::mem::take(&mut inputs) {
                self.engine.handle(self.now, input);
                while let Some(output) = self.engine.poll() {
                    inputs.extend(self.answer(output));
                }
            }
        }
    }

    fn answer(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::Connect { leg } => Some(Input::LegUp {
                leg,
                info: self.info[leg.index()],
            }),
            Output::Leg { leg, cmd, op, .. } => {
                let reply = self.execute(leg, op);
                Some(Input::LegDone {
                    leg,
                    cmd,
                    result: Ok(reply),
                })
            }
            Output::ReadRegister { id } => Some(self.read(id)),
            Output::CasRegister { id, expected, new } => {
                let won = self.register == *expected;
                if won {
                    self.register = *new;
                }
                let result = if won {
                    CasResult::Won
                } else {
                    CasResult::Conflict
                };
                Some(Input::RegisterCas { id, result })
            }
            Output::SaveRecord(_) => Some(Input::RecordSaved),
            Output::ReadBeat => Some(Input::BeatObject { result: Ok(None) }),
            Output::ShowDevice(_) => {
                self.shown = true;
                None
            }
            Output::GuestDone { result, .. } => {
                result.expect("no fault in this world");
                self.done += 1;
                None
            }
            Output::Refused(why) => panic!("refused: {why:?}"),
            _ => None,
        }
    }

    fn read(&self, id: AskId) -> Input {
        Input::RegisterRead {
            id,
            result: Ok(Some(Box::new(self.register.clone()))),
        }
    }

    fn execute(&mut self, leg: Leg, op: LegOp) -> LegReply {
        let keys = &mut self.keys[leg.index()];
        match op {
            LegOp::WriteMeta { offset, block } => {
                self.blocks[leg.index()].insert(offset, block);
                LegReply::Done
            }
            LegOp::ReadMeta { offset, len } => {
                let mut bytes = Vec::new();
                for at in (offset..offset + u64::from(len)).step_by(BLOCK) {
                    match self.blocks[leg.index()].get(&at) {
                        Some(block) => bytes.extend_from_slice(&**block),
                        None => bytes.extend_from_slice(&[0; BLOCK]),
                    }
                }
                LegReply::Meta(bytes)
            }
            LegOp::PrRegister { key, .. } => {
                keys.push(key);
                LegReply::Done
            }
            LegOp::PrReadKeys => LegReply::Keys(keys.clone()),
            LegOp::PrReadReservation => LegReply::Reservation(keys.first().map(|&key| (key, 6))),
            LegOp::PrReadFullStatus => LegReply::FullStatus(
                keys.iter()
                    .enumerate()
                    .map(|(n, &key)| Registrant {
                        key,
                        holder: n == 0,
                        kind: 6,
                    })
                    .collect(),
            ),
            LegOp::ReadTargetAge => LegReply::Age(TargetAge {
                boot_id: leg.index() as u64 + 1,
                uptime: Duration::from_secs(100),
                last_foreign: None,
            }),
            LegOp::Identify => LegReply::Identity(self.info[leg.index()]),
            _ => LegReply::Done,
        }
    }

    /// One round at a depth: so many requests in, their commands answered, so many answers out.
    fn round(&mut self, depth: u64, op: impl Fn(u64) -> GuestOp, next: &mut u64) {
        for n in 0..depth {
            let id = ReqId(*next);
            *next += 1;
            self.engine.handle(self.now, Input::Guest { id, op: op(n) });
            self.collect();
        }
        for (leg, cmd) in std::mem::take(&mut self.hot) {
            self.engine.handle(
                self.now,
                Input::LegDone {
                    leg,
                    cmd,
                    result: Ok(LegReply::Done),
                },
            );
            self.collect();
        }
    }

    fn collect(&mut self) {
        while let Some(output) = self.engine.poll() {
            match output {
                Output::Leg { leg, cmd, .. } => self.hot.push((leg, cmd)),
                Output::GuestDone { .. } => self.done += 1,
                _ => {}
            }
        }
    }
}

fn born(leg: Leg, geometry: Geometry, register: &Register) -> BTreeMap<u64, Box<[u8; BLOCK]>> {
    let naa = Naa([leg.index() as u8 + 1; 16]);
    let superblock = |sb_seq| Superblock {
        sb_seq,
        boot_id: leg.index() as u64 + 1,
        ..Superblock::born(register, VOLUME, leg, geometry, naa)
    };
    let beat = Beat {
        volume: VOLUME,
        epoch: Epoch::ZERO,
        attach_key: None,
        beat: 0,
        flushed: 0,
    };
    let mut blocks = BTreeMap::from([
        (SLOT_OFFSETS[0], superblock(2).emit()),
        (SLOT_OFFSETS[1], superblock(1).emit()),
        (BEAT_OFFSET, beat.emit()),
    ]);
    for page in 0..geometry.pages() {
        blocks.insert(
            map_offset(page),
            MapPage::filled(page, 1, Epoch(1), RegionState::Unwritten).emit(),
        );
    }
    blocks
}

fn main() {
    let mut world = World::new();
    world.attach();
    let mut next = 1;
    // Every region that the rounds touch is dirty first.
    for n in 0..4096 {
        let id = ReqId(next);
        next += 1;
        world.input(Input::Guest {
            id,
            op: GuestOp::Write {
                offset: n << 16,
                len: 4096,
                fua: false,
            },
        });
    }
    let spread = |n: u64| (n.wrapping_mul(2_654_435_761) % 4096) << 16 | (n % 16) << 12;
    for (name, depth) in [
        ("write", 1),
        ("write", 32),
        ("write", 128),
        ("read", 1),
        ("read", 128),
    ] {
        let rounds = 400_000 / depth;
        let before = world.done;
        let start = Instant::now();
        for _ in 0..rounds {
            world.now += Duration::from_micros(50);
            let base = next;
            world.round(
                depth,
                |n| match name {
                    "read" => GuestOp::Read {
                        offset: spread(base + n),
                        len: 4096,
                    },
                    _ => GuestOp::Write {
                        offset: spread(base + n),
                        len: 4096,
                        fua: false,
                    },
                },
                &mut next,
            );
        }
        let took = start.elapsed();
        let done = world.done - before;
        println!(
            "{name:5} 4 KiB, depth {depth:3}: {:6.0} ns each, {done} done",
            took.as_nanos() as f64 / (rounds * depth) as f64
        );
        assert!(done >= rounds * depth - depth, "{done}");
        while !world.hot.is_empty() {
            for (leg, cmd) in std::mem::take(&mut world.hot) {
                world.engine.handle(
                    world.now,
                    Input::LegDone {
                        leg,
                        cmd,
                        result: Ok(LegReply::Done),
                    },
                );
                world.collect();
            }
        }
    }
}
