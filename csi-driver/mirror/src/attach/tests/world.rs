//! Two legs, a register and any number of attaching nodes, stepped by hand.

use std::time::Duration;

use twinsite_register::*;

use crate::attach::Release;
use crate::config::Config;
use crate::engine::{Held, Port, Served};
use crate::fake_leg::FakeLeg;
use crate::io::{CasResult, Format, Input, Output, RegisterError};
use crate::layout::*;

pub(crate) use super::node::Node;

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
        awaits_register: false,
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
        while let Some((_, output)) = port.pop() {
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
