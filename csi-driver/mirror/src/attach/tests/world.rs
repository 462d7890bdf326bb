//! Two legs, a register and any number of attaching nodes, stepped by hand.

use std::collections::VecDeque;
use std::time::Duration;

use twinsite_register::*;

use crate::attach::{Attach, Release};
use crate::config::Config;
use crate::engine::{AttachEnd, Held, Port, Served};
use crate::fake_leg::FakeLeg;
use crate::io::{
    AttachOrder, AttachRecord, CasResult, Format, Input, LegDown, LegError, LegOp, Mode, MoveMode,
    MoveOrder, Output, RegisterError,
};
use crate::layout::*;
use crate::status::{Event, Refusal, StateName};

pub(crate) const VOLUME: VolumeId = VolumeId([0x21; 16]);
pub(crate) const SIZE: u64 = 4 << 20;

/// What the witness does with requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Witness {
    Up,
    /// Reads and requests fail, nothing is executed.
    Down,
    /// Requests are executed, their answers are lost.
    Mute,
    /// Requests are executed, and a second copy of each is refused: that refusal is the answer.
    Echo,
    /// Requests are neither answered nor executed; reads are answered.
    Stuck,
}

pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) legs: [FakeLeg; 2],
    pub(crate) register: Option<Register>,
    pub(crate) witness: Witness,
    pub(crate) beat: Option<BeatObject>,
    /// Requests that were sent and not executed.
    pub(crate) orphans: Vec<(Register, Register)>,
    /// Every value the register ever had.
    pub(crate) history: Vec<Register>,
}

pub(crate) fn generation(n: u8) -> Gen {
    Gen([n; 16])
}

pub(crate) fn tx(n: u8) -> TxId {
    TxId([n; 16])
}

pub(crate) fn key(site: Site, n: u64) -> Key {
    Key::new(KeyTag::Writer(site), n)
}

pub(crate) fn newborn() -> Register {
    Register::create(Create {
        register_id: RegisterId([0x23; 16]),
        group: GroupId([0x22; 16]),
        volumes: vec![VOLUME],
        generation: generation(1),
        site: Site::A,
        txid: tx(1),
    })
    .unwrap()
    .birth(Site::A, tx(2))
    .unwrap()
}

pub(crate) fn superblock(leg: Leg, register: &Register, naa: Naa) -> Superblock {
    Superblock {
        compat: 0,
        ro_compat: 0,
        sb_seq: 2,
        volume: VOLUME,
        group: register.group,
        register_id: register.register_id,
        leg,
        role: Role::Member,
        members: register.members,
        active_site: register.active.site,
        active_seq: register.active.seq,
        geometry: Geometry::for_new(SIZE).unwrap(),
        size_new: 0,
        epoch: register.epoch,
        generation: register.generation,
        base: None,
        clean: false,
        attach_key: None,
        boot_id: 0,
        lease_ms: 3000,
        node: "birth".into(),
        format: Format::None,
        fs_type: [0; 15],
        naa,
        parents: register.parents.clone(),
        order: register.order,
    }
}

impl World {
    /// A pair that was born and never attached.
    pub(crate) fn born() -> Self {
        let register = newborn();
        let mut legs = [FakeLeg::new(0x61, SIZE), FakeLeg::new(0x62, SIZE)];
        for leg in Leg::BOTH {
            let fake = &mut legs[leg.index()];
            let sb = superblock(leg, &register, fake.info.naa);
            for sb_seq in [1, 2] {
                let slot = Superblock {
                    sb_seq,
                    ..sb.clone()
                };
                fake.blocks.insert(slot_offset(sb_seq), *slot.emit());
            }
            let beat = Beat {
                volume: VOLUME,
                epoch: Epoch(0),
                attach_key: None,
                beat: 0,
                flushed: 0,
            };
            fake.blocks.insert(BEAT_OFFSET, *beat.emit());
            let page = MapPage::filled(0, 1, Epoch(1), RegionState::Unwritten);
            fake.blocks.insert(map_offset(0), *page.emit());
        }
        let mut world = Self {
            now: Duration::from_secs(1000),
            legs,
            register: Some(register.clone()),
            witness: Witness::Up,
            beat: None,
            orphans: Vec::new(),
            history: vec![register],
        };
        world.advance(Duration::ZERO);
        world
    }

    pub(crate) fn advance(&mut self, by: Duration) {
        self.now += by;
        for leg in &mut self.legs {
            leg.now = self.now;
        }
    }

    pub(crate) fn r(&self) -> &Register {
        self.register.as_ref().unwrap()
    }

    pub(crate) fn set_register(&mut self, register: Register) {
        assert_eq!(register.check(), Ok(()));
        self.history.push(register.clone());
        self.register = Some(register);
    }

    pub(crate) fn sb(&self, leg: Leg) -> Superblock {
        let fake = &self.legs[leg.index()];
        let slots = SLOT_OFFSETS.map(|at| fake.block(at));
        match Slots::parse([&slots[0], &slots[1]]) {
            Slots::Valid(sb) => *sb,
            other => panic!("{other:?}"),
        }
    }

    /// Both slots say the same but for their number.
    pub(crate) fn slots_agree(&self, leg: Leg) -> bool {
        let fake = &self.legs[leg.index()];
        let [a, b] = SLOT_OFFSETS.map(|at| Superblock::parse(&fake.block(at)).unwrap());
        Superblock { sb_seq: 0, ..a } == Superblock { sb_seq: 0, ..b }
    }

    /// Change the newest superblock of a leg in both slots.
    pub(crate) fn edit_sb(&mut self, leg: Leg, edit: impl Fn(&mut Superblock)) {
        let mut sb = self.sb(leg);
        edit(&mut sb);
        let fake = &mut self.legs[leg.index()];
        for sb_seq in [sb.sb_seq + 1, sb.sb_seq + 2] {
            let slot = Superblock {
                sb_seq,
                ..sb.clone()
            };
            fake.blocks.insert(slot_offset(sb_seq), *slot.emit());
        }
    }

    pub(crate) fn page(&self, leg: Leg) -> MapPage {
        MapPage::parse(0, &self.legs[leg.index()].block(map_offset(0))).unwrap()
    }

    pub(crate) fn put_page(&mut self, leg: Leg, page: &MapPage) {
        self.legs[leg.index()]
            .blocks
            .insert(map_offset(page.page), *page.emit());
    }

    pub(crate) fn put_beat(&mut self, leg: Leg, epoch: u64, beat: u64) {
        let block = Beat {
            volume: VOLUME,
            epoch: Epoch(epoch),
            attach_key: None,
            beat,
            flushed: 0,
        };
        self.legs[leg.index()]
            .blocks
            .insert(BEAT_OFFSET, *block.emit());
    }

    pub(crate) fn cas(&mut self, expected: &Register, new: &Register) -> bool {
        let fits = self.register.as_ref() == Some(expected);
        if fits {
            self.set_register(new.clone());
        }
        fits
    }

    /// An operator's edit of a free field.
    pub(crate) fn edit_register(&mut self, n: u8) {
        let edited = self.r().rejoin(self.r().no_rejoin, tx(n)).unwrap();
        self.set_register(edited);
    }

    /// Somebody else fences a leg.
    pub(crate) fn steal(&mut self, leg: Leg, thief: Key) {
        use crate::fence::Fence;
        use crate::script::{Script, Step};
        let fake = &mut self.legs[leg.index()];
        let mut fence = Fence::new(thief);
        let mut op = fence.start();
        loop {
            match fence.handle(fake.execute(77, &op)) {
                Step::Send(next) | Step::Again(next) => op = next,
                Step::Done(()) => return,
                Step::Failed(fault) => panic!("{fault:?}"),
            }
        }
    }
}

/// One node that attaches.
pub(crate) struct Node {
    pub(crate) id: u8,
    pub(crate) site: Site,
    pub(crate) attach: Option<Attach>,
    pub(crate) port: Port,
    pub(crate) inbox: VecDeque<Input>,
    pub(crate) end: Option<AttachEnd>,
    /// On its disk.
    pub(crate) record: AttachRecord,
    pub(crate) wanted: [bool; 2],
    pub(crate) up: [bool; 2],
    /// May it reach the leg?
    pub(crate) link: [bool; 2],
    pub(crate) said: Vec<String>,
    pub(crate) events: Vec<Event>,
    pub(crate) removed: bool,
    pub(crate) saves_held: bool,
    pub(crate) keys: u64,
}

impl Node {
    pub(crate) fn new(id: u8, site: Site, uid: u8) -> Self {
        Self {
            id,
            site,
            attach: None,
            port: Port::default(),
            inbox: VecDeque::new(),
            end: None,
            record: AttachRecord {
                uid: AttachmentUid([uid; 16]),
                keys: Vec::new(),
                n: None,
                stale: false,
            },
            wanted: [false; 2],
            up: [false; 2],
            link: [true; 2],
            said: Vec::new(),
            events: Vec::new(),
            removed: false,
            saves_held: false,
            keys: 0,
        }
    }

    pub(crate) fn order(&mut self) -> AttachOrder {
        self.keys += 1;
        let mut seed = [self.id; 32];
        seed[..8]
            .copy_from_slice(&(self.keys * 1000 + u64::from(self.record.uid.0[0])).to_le_bytes());
        AttachOrder {
            volume: VOLUME,
            uid: self.record.uid,
            key: key(self.site, u64::from(self.id) * 1000 + self.keys),
            seed,
            site: self.site,
            node: format!("node{}", self.id),
            mode: Mode::Writer,
            mv: None,
            record: self.record.clone(),
            shown: false,
            marks: Vec::new(),
            initialize: [None; 2],
            config: Config::default(),
        }
    }

    pub(crate) fn start(&mut self, world: &World, order: AttachOrder) {
        self.end = None;
        self.inbox.clear();
        self.up = [false; 2];
        self.attach = Some(Attach::start(world.now, order, &mut self.port));
    }

    pub(crate) fn failover(&mut self, expect_seq: u64) -> AttachOrder {
        let mv = Some(MoveOrder {
            mode: MoveMode::Failover,
            expect_seq,
        });
        AttachOrder { mv, ..self.order() }
    }

    pub(crate) fn state(&self) -> Option<StateName> {
        self.attach.as_ref().map(Attach::state)
    }

    /// Carry out what waits in the port; answers go to the inbox.
    pub(crate) fn pump(&mut self, world: &mut World) {
        while let Some(output) = self.port.pop() {
            self.carry_out(world, output);
        }
    }

    pub(crate) fn connect(&mut self, world: &World, leg: Leg) {
        let n = leg.index();
        if !self.wanted[n] || self.up[n] || !self.link[n] {
            return;
        }
        self.up[n] = true;
        self.inbox.push_back(Input::LegUp {
            leg,
            info: world.legs[n].info,
        });
    }

    pub(crate) fn carry_out(&mut self, world: &mut World, output: Output) {
        match output {
            Output::Connect { leg } => {
                self.said.push(format!("connect {leg}"));
                self.wanted[leg.index()] = true;
                self.connect(world, leg);
                if !self.up[leg.index()] {
                    self.inbox.push_back(Input::LegDown {
                        leg,
                        why: LegDown::Unreachable,
                    });
                }
            }
            Output::Disconnect { leg } => {
                self.said.push(format!("disconnect {leg}"));
                self.wanted[leg.index()] = false;
                self.up[leg.index()] = false;
                self.inbox.push_back(Input::LegDown {
                    leg,
                    why: LegDown::Closed,
                });
            }
            Output::Leg { leg, cmd, op, .. } => {
                self.said.push(format!("{leg} {}", describe(&op)));
                let result = if self.up[leg.index()] {
                    world.legs[leg.index()].execute(self.id, &op)
                } else {
                    Err(LegError::SessionGone)
                };
                self.inbox.push_back(Input::LegDone { leg, cmd, result });
            }
            Output::ReadRegister { id } => {
                self.said.push("read register".into());
                let result = match world.witness {
                    Witness::Down => Err(RegisterError::Unreachable),
                    Witness::Up | Witness::Mute | Witness::Echo | Witness::Stuck => {
                        Ok(world.register.clone().map(Box::new))
                    }
                };
                self.inbox.push_back(Input::RegisterRead { id, result });
            }
            Output::CasRegister { id, expected, new } => {
                self.said.push("cas".into());
                let result = match world.witness {
                    Witness::Up => {
                        if world.cas(&expected, &new) {
                            CasResult::Won
                        } else {
                            CasResult::Conflict
                        }
                    }
                    Witness::Echo => {
                        world.cas(&expected, &new);
                        CasResult::Conflict
                    }
                    Witness::Mute => {
                        world.cas(&expected, &new);
                        CasResult::Unknown
                    }
                    Witness::Down | Witness::Stuck => {
                        world.orphans.push((*expected, *new));
                        CasResult::Unknown
                    }
                };
                self.inbox.push_back(Input::RegisterCas { id, result });
            }
            Output::SaveRecord(record) => {
                self.said.push("save".into());
                if !self.saves_held {
                    self.record = record;
                    self.inbox.push_back(Input::RecordSaved);
                }
            }
            Output::ReadBeat => {
                let result = match world.witness {
                    Witness::Down => Err(RegisterError::Unreachable),
                    Witness::Up | Witness::Mute | Witness::Echo | Witness::Stuck => Ok(world.beat),
                };
                self.inbox.push_back(Input::BeatObject { result });
            }
            Output::RemoveDevice { why } => {
                self.said.push(format!("remove {why:?}"));
                self.removed = true;
            }
            Output::Event(event) => self.events.push(event),
            other => panic!("an attach never says {other:?}"),
        }
    }

    pub(crate) fn give(&mut self, world: &World, input: Input) {
        if let Some(attach) = &mut self.attach {
            self.end = attach.handle(world.now, &input, &mut self.port);
            if self.end.is_some() {
                self.attach = None;
            }
        }
    }

    /// One step: an answer is taken in, or nothing is left to do. True = something happened.
    pub(crate) fn step(&mut self, world: &mut World) -> bool {
        self.pump(world);
        for leg in Leg::BOTH {
            self.connect(world, leg);
        }
        let Some(input) = self.inbox.pop_front() else {
            return false;
        };
        self.give(world, input);
        self.pump(world);
        true
    }

    /// Until `stop` holds after a step; false if it never does.
    pub(crate) fn run_until(
        &mut self,
        world: &mut World,
        stop: impl Fn(&Self, &World) -> bool,
    ) -> bool {
        for _ in 0..20_000 {
            if stop(self, world) {
                return true;
            }
            if self.attach.is_none() {
                return false;
            }
            if !self.step(world) {
                let Some(at) = self.attach.as_ref().and_then(Attach::deadline) else {
                    panic!("nothing to wait for in {:?}: {:?}", self.state(), self.said);
                };
                let by = at.saturating_sub(world.now).max(Duration::from_millis(1));
                world.advance(by);
                self.give(world, Input::Tick);
            }
        }
        panic!(
            "no end: {:?} {:?}",
            self.state(),
            &self.said[self.said.len().saturating_sub(50)..]
        );
    }

    pub(crate) fn run(&mut self, world: &mut World) -> AttachEnd {
        self.run_until(world, |node, _| node.attach.is_none());
        self.pump(world);
        self.end.clone().unwrap()
    }

    pub(crate) fn attach(&mut self, world: &mut World) -> AttachEnd {
        let order = self.order();
        self.start(world, order);
        self.run(world)
    }

    pub(crate) fn serve(&mut self, world: &mut World) -> Box<Served> {
        match self.attach(world) {
            AttachEnd::Served(served) => served,
            other => panic!("{other:?}: {:?}", self.said),
        }
    }

    pub(crate) fn refused(&mut self, world: &mut World) -> Refusal {
        match self.attach(world) {
            AttachEnd::Refused(why) => why,
            other => panic!("{other:?}: {:?}", self.said),
        }
    }

    /// The process dies; what it sent and was not executed stays.
    pub(crate) fn crash(&mut self) {
        self.attach = None;
        self.inbox.clear();
        while self.port.pop().is_some() {}
        self.up = [false; 2];
        self.wanted = [false; 2];
    }

    /// The link to a leg is cut, or heals.
    pub(crate) fn cut(&mut self, leg: Leg) {
        self.link[leg.index()] = false;
        if self.up[leg.index()] {
            self.up[leg.index()] = false;
            self.inbox.push_back(Input::LegDown {
                leg,
                why: LegDown::SessionLost,
            });
        }
    }

    pub(crate) fn heal(&mut self, leg: Leg) {
        self.link[leg.index()] = true;
    }

    /// Index of the first thing said that starts with this.
    pub(crate) fn at(&self, what: &str) -> usize {
        self.said
            .iter()
            .position(|said| said.starts_with(what))
            .unwrap_or_else(|| panic!("never said {what:?}: {:?}", self.said))
    }

    pub(crate) fn never(&self, what: &str) -> bool {
        !self.said.iter().any(|said| said.contains(what))
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.said.iter().filter(|said| said.contains(what)).count()
    }
}

fn describe(op: &LegOp) -> String {
    let name = crate::fake_leg::name(op);
    match op {
        LegOp::WriteMeta { offset, .. } => {
            let place = match *offset {
                at if SLOT_OFFSETS.contains(&at) => "slot",
                at if at >= BASE_OFFSET => "base",
                at if at >= MAP_OFFSET => "page",
                at if at >= HISTORY_OFFSET => "history",
                _ => "beat",
            };
            format!("write {place}")
        }
        LegOp::PrRegister { .. } => "put key".into(),
        LegOp::ReadMeta { offset, .. } if SLOT_OFFSETS.contains(offset) => "read slot".into(),
        _ => name.into(),
    }
}

/// What the serving phase hands back to decide again.
pub(crate) fn held(served: &Served, shown: bool) -> Held {
    Held {
        order: served.order.clone(),
        place: served.place,
        ids: served.ids.clone(),
        connected: served.connected,
        fenced: served.running.members,
        shown,
    }
}

/// Run a release to its end, or until nothing but time is left; true = over.
pub(crate) fn release(world: &mut World, release: &mut Release, port: &mut Port) -> bool {
    let config = Config::default();
    for _ in 0..100 {
        let mut said = false;
        while let Some(output) = port.pop() {
            said = true;
            let input = match output {
                Output::ReadRegister { id } => Input::RegisterRead {
                    id,
                    result: match world.witness {
                        Witness::Down => Err(RegisterError::Unreachable),
                        _ => Ok(world.register.clone().map(Box::new)),
                    },
                },
                Output::CasRegister { id, expected, new } => Input::RegisterCas {
                    id,
                    result: if world.cas(&expected, &new) {
                        CasResult::Won
                    } else {
                        CasResult::Conflict
                    },
                },
                other => panic!("{other:?}"),
            };
            release.handle(world.now, &input, &config, port);
        }
        if !said {
            return release.is_over();
        }
    }
    panic!("the release does not end");
}
