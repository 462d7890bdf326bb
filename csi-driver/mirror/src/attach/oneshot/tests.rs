use std::collections::VecDeque;

use twinsite_register::*;

use super::*;
use crate::attach::tests::world::{SIZE, VOLUME, Witness, World, generation, key, tx};
use crate::fake_leg::name;
use crate::io::{LegDown, LegError, RegisterError};
use crate::layout::*;

/// Runs one order to its end; `between` is called before every command to a leg.
struct Run<'a> {
    world: &'a mut World,
    shot: OneShot,
    inbox: VecDeque<Input>,
    up: [bool; 2],
    link: [bool; 2],
    said: Vec<String>,
    initiator: u8,
}

impl<'a> Run<'a> {
    fn new(world: &'a mut World, order: OneShotOrder) -> Self {
        let shot = OneShot::new(world.now, order);
        let initiator = 9;
        Self {
            world,
            shot,
            inbox: VecDeque::new(),
            up: [false; 2],
            link: [true; 2],
            said: vec![],
            initiator,
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Connect { leg } => {
                if self.link[leg.index()] {
                    self.up[leg.index()] = true;
                    let info = self.world.legs[leg.index()].info;
                    self.inbox.push_back(Input::LegUp { leg, info });
                } else {
                    self.inbox.push_back(Input::LegDown {
                        leg,
                        why: LegDown::Unreachable,
                    });
                }
            }
            Output::Disconnect { leg } => {
                self.up[leg.index()] = false;
                self.inbox.push_back(Input::LegDown {
                    leg,
                    why: LegDown::Closed,
                });
            }
            Output::Leg { leg, cmd, op, .. } => {
                self.said.push(format!("{leg} {}", name(&op)));
                let result = if self.up[leg.index()] {
                    self.world.legs[leg.index()].execute(self.initiator, &op)
                } else {
                    Err(LegError::SessionGone)
                };
                self.inbox.push_back(Input::LegDone { leg, cmd, result });
            }
            Output::ReadRegister { id } => {
                self.said.push("read register".into());
                let result = match self.world.witness {
                    Witness::Down => Err(RegisterError::Unreachable),
                    _ => Ok(self.world.register.clone().map(Box::new)),
                };
                self.inbox.push_back(Input::RegisterRead { id, result });
            }
            Output::CasRegister { id, expected, new } => {
                self.said.push("cas".into());
                let won = self.world.cas(&expected, &new);
                let result = match self.world.witness {
                    Witness::Mute => CasResult::Unknown,
                    _ if won => CasResult::Won,
                    _ => CasResult::Conflict,
                };
                self.inbox.push_back(Input::RegisterCas { id, result });
            }
            other => panic!("{other:?}"),
        }
    }

    /// One input; false when the order is over.
    fn step(&mut self) -> bool {
        while let Some(output) = self.shot.poll() {
            self.carry_out(output);
        }
        if self.shot.end().is_some() {
            return false;
        }
        match self.inbox.pop_front() {
            Some(input) => self.shot.handle(self.world.now, &input),
            None => {
                let at = self.shot.deadline().expect("something to wait for");
                assert!(at > self.world.now, "a deadline in the past is no wait");
                let by = at - self.world.now;
                self.world.advance(by);
                self.shot.handle(self.world.now, &Input::Tick);
            }
        }
        true
    }

    fn until(&mut self, said: &str) {
        while !self.said.iter().any(|s| s == said) {
            assert!(
                self.step(),
                "never said {said}: {:?} {:?}",
                self.said,
                self.shot.end()
            );
        }
    }

    fn end(&mut self) -> Result<Done, Failure> {
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps < 10_000, "no end: {:?}", self.said);
        }
        while let Some(output) = self.shot.poll() {
            self.carry_out(output);
        }
        self.shot.end().cloned().unwrap()
    }

    fn count(&self, what: &str) -> usize {
        self.said.iter().filter(|said| said.contains(what)).count()
    }
}

fn order(task: Task, legs: Members) -> OneShotOrder {
    OneShotOrder {
        task,
        legs,
        volume: VOLUME,
        key: key(Site::A, 0x1234),
        seed: [5; 32],
        site: Site::A,
        node: "m1".into(),
        marks: vec![],
        config: Config::default(),
    }
}

fn birth() -> Task {
    Task::Birth {
        size: SIZE,
        initialize: [None; 2],
    }
}

fn creating() -> Register {
    Register::create(Create {
        register_id: RegisterName([0x23; 16]),
        group: GroupId([0x22; 16]),
        volumes: vec![VOLUME],
        generation: generation(1),
        site: Site::A,
        txid: tx(1),
    })
    .unwrap()
}

/// Two blank legs under a Creating register.
fn unborn() -> World {
    let mut world = World::born();
    for leg in &mut world.legs {
        leg.blocks.clear();
        leg.blocks.insert(1 << 30, [7; BLOCK]);
    }
    world.register = Some(creating());
    world
}

fn only(leg: Leg) -> Members {
    Members::only(leg)
}

#[test]
fn a_birth_zeroes_both_legs_writes_their_heads_and_makes_the_register_live() {
    let mut w = unborn();
    let mut run = Run::new(&mut w, order(birth(), Members::BOTH));
    assert_eq!(run.end(), Ok(Done::Born { live: true }));
    let said = run.said.clone();
    assert_eq!(
        (w.r().state, w.r().epoch, w.r().members),
        (State::Live, Epoch(1), Members::BOTH)
    );
    for leg in Leg::BOTH {
        let sb = w.sb(leg);
        assert!(w.slots_agree(leg));
        assert_eq!(
            (sb.role, sb.members, sb.epoch),
            (Role::Member, Members::BOTH, Epoch(1))
        );
        assert_eq!(
            (sb.generation, sb.register_id),
            (generation(1), RegisterName([0x23; 16]))
        );
        assert_eq!(sb.naa, w.legs[leg.index()].info.naa);
        assert_eq!(
            w.page(leg),
            MapPage::filled(0, 1, Epoch(1), RegionState::Unwritten)
        );
        let fake = &w.legs[leg.index()];
        assert_eq!(fake.zeroed, [(0, DATA_OFFSET + SIZE)]);
        assert!(Beat::parse(&fake.block(BEAT_OFFSET)).is_ok());
        assert!(fake.block(0).starts_with(b"This LUN"));
        assert_eq!(fake.syncs, 1);
    }
    let at = |what: &str| said.iter().position(|s| s == what).unwrap();
    assert!(at("A reserve") < at("A discard") && at("A discard") < at("A write meta"));
    // And it can be attached.
    let mut n = crate::attach::tests::world::Node::new(1, Site::A, 1);
    assert_eq!(n.serve(&mut w).running.members, Members::BOTH);
}

#[test]
fn a_birth_that_crashed_anywhere_is_finished_by_the_same_order() {
    let whole = {
        let mut w = unborn();
        let mut run = Run::new(&mut w, order(birth(), Members::BOTH));
        run.end().unwrap();
        run.said.len()
    };
    for crash in 0..whole {
        let mut w = unborn();
        let mut run = Run::new(&mut w, order(birth(), Members::BOTH));
        while run.said.len() < crash && run.step() {}
        let mut again = order(birth(), Members::BOTH);
        again.key = key(Site::A, 0x9999);
        again.seed = [6; 32];
        let mut second = Run::new(&mut w, again);
        second.initiator = 8;
        let end = second.end();
        // Once the register is live there is nothing left to be born.
        let live = Err(Failure::WrongState);
        assert!(
            end == Ok(Done::Born { live: true }) || end == live,
            "after {crash}: {end:?}"
        );
        assert_eq!(w.r().state, State::Live, "after {crash}");
        for leg in Leg::BOTH {
            // A crash between the slots leaves one of them; the first attach writes both.
            assert_eq!((w.sb(leg).role, w.sb(leg).epoch), (Role::Member, Epoch(1)));
        }
    }
}

#[test]
fn a_born_leg_is_not_written_again() {
    let mut w = unborn();
    Run::new(&mut w, order(birth(), only(Leg::A)))
        .end()
        .unwrap();
    assert_eq!(w.r().state, State::Creating, "one leg is no volume");
    let writes = w.legs[0].writes.len();
    let mut run = Run::new(&mut w, order(birth(), Members::BOTH));
    assert_eq!(run.end(), Ok(Done::Born { live: true }));
    assert_eq!(w.legs[0].writes.len(), writes);
}

#[test]
fn r34_a_later_leg_is_born_new_and_only_its_head_is_zeroed() {
    let mut w = World::born();
    let mut n = crate::attach::tests::world::Node::new(1, Site::A, 1);
    n.cut(Leg::B);
    n.serve(&mut w);
    w.legs[1].blocks.clear();
    let mut run = Run::new(&mut w, order(birth(), only(Leg::B)));
    assert_eq!(run.end(), Ok(Done::Born { live: true }));
    let sb = w.sb(Leg::B);
    assert_eq!(
        (sb.role, sb.epoch, sb.members),
        (Role::New, Epoch::ZERO, Members::NONE)
    );
    assert_eq!(w.legs[1].zeroed, [(0, DATA_OFFSET)]);
    // A member is never born again, blank or not.
    w.legs[0].blocks.clear();
    let mut run = Run::new(&mut w, order(birth(), only(Leg::A)));
    assert_eq!(run.end(), Err(Failure::WrongState));
    assert_eq!(run.count("preempt"), 0);
}

#[test]
fn r43_a_birth_stops_when_the_register_changed_while_it_fenced() {
    let mut w = unborn();
    let mut run = Run::new(&mut w, order(birth(), Members::BOTH));
    run.until("A reserve");
    let other = Register {
        txid: tx(66),
        ..creating()
    };
    run.world.register = Some(other);
    assert_eq!(run.end(), Err(Failure::Changed));
    assert_eq!(run.count("write meta"), 0);
    assert_eq!(run.count("discard"), 0);
}

#[test]
fn two_birth_executors_one_goes_on() {
    let mut w = unborn();
    let mut first = Run::new(&mut w, order(birth(), Members::BOTH));
    first.until("A discard");
    let world = &mut *first.world;
    world.steal(Leg::A, key(Site::A, 77));
    assert_eq!(first.end(), Err(Failure::Taken(Leg::A)));
    assert_eq!(w.r().state, State::Creating);
}

#[test]
fn r17_r43_a_register_below_a_mark_starts_no_birth_and_no_wipe() {
    for task in [birth(), Task::Wipe] {
        let mut w = unborn();
        if task == Task::Wipe {
            w.register = Some(creating().tombstone(generation(9), tx(9)).unwrap());
        }
        let mark = Mark {
            register_id: RegisterName([0x23; 16]),
            epoch: Epoch(5),
            seq: 1,
        };
        let shot = OneShotOrder {
            marks: vec![mark],
            ..order(task, Members::BOTH)
        };
        let mut run = Run::new(&mut w, shot);
        assert_eq!(run.end(), Err(Failure::WitnessBehind));
        assert_eq!(
            run.count("reserve") + run.count("preempt") + run.count("write"),
            0
        );
        assert!(
            w.legs.iter().all(|leg| leg.registered.is_empty()),
            "nothing is left behind"
        );
    }
}

#[test]
fn i18_foreign_data_is_never_initialised_unless_its_lun_is_named_and_a_superblock_never() {
    let named = |w: &World| Task::Birth {
        size: SIZE,
        initialize: [Some(w.legs[0].info.naa), None],
    };
    let garbage: fn(&mut World) = |w| {
        w.legs[0].blocks.insert(SLOT_OFFSETS[0], [0x5a; BLOCK]);
    };
    let other_volume: fn(&mut World) = |w| {
        *w = World::born();
        w.register = Some(creating());
        w.edit_sb(Leg::A, |sb| sb.volume = VolumeId([9; 16]));
        w.legs[1].blocks.clear();
    };
    let formatted: fn(&mut World) = |w| {
        *w = World::born();
        w.register = Some(creating());
        w.edit_sb(Leg::A, |sb| sb.format = crate::io::Format::Done);
    };
    let other_register: fn(&mut World) = |w| {
        *w = World::born();
        w.register = Some(creating());
        w.edit_sb(Leg::A, |sb| sb.register_id = RegisterName([9; 16]));
    };
    let foreign = Err(Failure::ForeignData(Leg::A));
    let cases: [(&str, fn(&mut World), bool, bool); 6] = [
        ("garbage", garbage, false, false),
        ("garbage, named", garbage, true, true),
        ("another volume, named", other_volume, true, false),
        ("formatted, named", formatted, true, false),
        ("another register, named", other_register, true, false),
        ("blank", |_| {}, false, true),
    ];
    for (what, edit, name, born) in cases {
        let mut w = unborn();
        edit(&mut w);
        let task = if name { named(&w) } else { birth() };
        let mut run = Run::new(&mut w, order(task, only(Leg::A)));
        let end = run.end();
        assert_eq!(
            end == Ok(Done::Born { live: false }),
            born,
            "{what}: {end:?}"
        );
        if !born {
            assert_eq!(end, foreign, "{what}");
            assert_eq!(
                run.count("write") + run.count("discard") + run.count("zero"),
                0,
                "{what}"
            );
        }
    }
    // A LUN of an array is not ours because it is blank.
    let mut w = unborn();
    w.legs[0].info.own_target = false;
    assert_eq!(
        Run::new(&mut w, order(birth(), only(Leg::A))).end(),
        foreign
    );
    let task = named(&w);
    let end = Run::new(&mut w, order(task, only(Leg::A))).end();
    assert_eq!(end, Ok(Done::Born { live: false }));
}

#[test]
fn a_birth_says_what_is_missing() {
    let mut w = unborn();
    w.legs[1].info.capacity -= 512;
    assert_eq!(
        Run::new(&mut w, order(birth(), Members::BOTH)).end(),
        Err(Failure::TooSmall(Leg::B))
    );
    let mut w = unborn();
    let mut run = Run::new(&mut w, order(birth(), Members::BOTH));
    run.link[1] = false;
    assert_eq!(run.end(), Err(Failure::Unreachable(Leg::B)));
    let mut w = unborn();
    w.witness = Witness::Down;
    assert_eq!(
        Run::new(&mut w, order(birth(), only(Leg::A))).end(),
        Err(Failure::WitnessUnreachable)
    );
    let mut w = unborn();
    let huge = Task::Birth {
        size: 100,
        initialize: [None; 2],
    };
    assert_eq!(
        Run::new(&mut w, order(huge, only(Leg::A))).end(),
        Err(Failure::BadSize)
    );
    let mut w = unborn();
    w.register = None;
    assert_eq!(
        Run::new(&mut w, order(birth(), only(Leg::A))).end(),
        Err(Failure::WrongState)
    );
}

#[test]
fn a_leg_that_does_not_read_zeros_after_an_unmap_is_written_and_a_lost_answer_is_read() {
    let mut w = unborn();
    w.witness = Witness::Mute;
    w.legs[1].info.discard_zeroes = false;
    let mut run = Run::new(&mut w, order(birth(), Members::BOTH));
    assert_eq!(run.end(), Ok(Done::Born { live: true }));
    assert_eq!(run.count("A discard"), 1);
    assert_eq!(run.count("B zero"), 5, "132 MiB in pieces of 32");
    assert_eq!(run.count("cas"), 1);
}

fn tombstone(w: &mut World) {
    let tomb = w.r().tombstone(generation(9), tx(9)).unwrap();
    w.set_register(tomb);
}

#[test]
fn a_wipe_erases_map_and_slots_and_clears_the_reservations() {
    let mut w = World::born();
    tombstone(&mut w);
    let mut run = Run::new(&mut w, order(Task::Wipe, Members::BOTH));
    assert_eq!(run.end(), Ok(Done::Wiped));
    for leg in Leg::BOTH {
        let fake = &w.legs[leg.index()];
        assert!(SLOT_OFFSETS.iter().all(|at| fake.block(*at) == [0; BLOCK]));
        assert_eq!(fake.block(map_offset(0)), [0; BLOCK]);
        assert!(fake.registered.is_empty() && fake.holder.is_none());
    }
    // Again, as after a crash before the register heard of it.
    assert_eq!(
        Run::new(&mut w, order(Task::Wipe, Members::BOTH)).end(),
        Ok(Done::Wiped)
    );
}

#[test]
fn i18_a_leg_is_wiped_only_under_a_tombstone_of_its_own_register() {
    let mut w = World::born();
    let live = Run::new(&mut w, order(Task::Wipe, Members::BOTH)).end();
    assert_eq!(live, Err(Failure::WrongState));
    let edits: [fn(&mut Superblock); 4] = [
        |sb| sb.register_id = RegisterName([9; 16]),
        |sb| sb.volume = VolumeId([9; 16]),
        |sb| sb.epoch = Epoch(2),
        |sb| sb.leg = Leg::B,
    ];
    for (n, edit) in edits.into_iter().enumerate() {
        let mut w = World::born();
        tombstone(&mut w);
        w.edit_sb(Leg::A, edit);
        let before = w.sb(Leg::A);
        let mut run = Run::new(&mut w, order(Task::Wipe, Members::BOTH));
        assert_eq!(run.end(), Err(Failure::ForeignData(Leg::A)), "edit {n}");
        assert_eq!(w.sb(Leg::A), before);
        assert!(w.legs.iter().all(|leg| leg.zeroed.is_empty()));
    }
    // A register that a reseed replaced counts as its own.
    let mut w = World::born();
    w.edit_sb(Leg::A, |sb| sb.register_id = RegisterName([9; 16]));
    let reseeded = Register {
        former: vec![RegisterName([9; 16])],
        ..w.r().clone()
    };
    w.register = Some(reseeded);
    tombstone(&mut w);
    assert_eq!(
        Run::new(&mut w, order(Task::Wipe, only(Leg::A))).end(),
        Ok(Done::Wiped)
    );
    // A retired one is left alone for ever.
    let mut w = World::born();
    tombstone(&mut w);
    let retired = w
        .r()
        .retire(Leg::A, w.legs[0].info.naa, "ann", tx(10))
        .unwrap();
    w.set_register(retired);
    assert_eq!(
        Run::new(&mut w, order(Task::Wipe, only(Leg::A))).end(),
        Err(Failure::Retired(Leg::A))
    );
}

#[test]
fn r43_a_wipe_stops_when_the_register_came_back_to_life_behind_its_fence() {
    let mut w = World::born();
    let alive = w.r().clone();
    tombstone(&mut w);
    let mut run = Run::new(&mut w, order(Task::Wipe, only(Leg::A)));
    run.until("A reserve");
    run.world.register = Some(alive);
    assert_eq!(run.end(), Err(Failure::Changed));
    assert_eq!(
        run.count("zero") + run.count("write") + run.count("clear"),
        0
    );
    // The other leg may land meanwhile.
    let mut w = World::born();
    tombstone(&mut w);
    let mut run = Run::new(&mut w, order(Task::Wipe, only(Leg::A)));
    run.until("A reserve");
    let landed = run.world.r().wiped(Leg::B, tx(11)).unwrap();
    run.world.set_register(landed);
    assert_eq!(run.end(), Ok(Done::Wiped));
}

#[test]
fn a_wipe_that_crashed_anywhere_is_finished_by_the_same_order() {
    let whole = {
        let mut w = World::born();
        tombstone(&mut w);
        let mut run = Run::new(&mut w, order(Task::Wipe, Members::BOTH));
        run.end().unwrap();
        run.said.len()
    };
    for crash in 0..whole {
        let mut w = World::born();
        tombstone(&mut w);
        let mut run = Run::new(&mut w, order(Task::Wipe, Members::BOTH));
        while run.said.len() < crash && run.step() {}
        let mut again = order(Task::Wipe, Members::BOTH);
        again.key = key(Site::A, 0x9999);
        let mut second = Run::new(&mut w, again);
        second.initiator = 8;
        assert_eq!(second.end(), Ok(Done::Wiped), "after {crash}");
        assert!(
            w.legs
                .iter()
                .all(|leg| leg.registered.is_empty() && leg.holder.is_none())
        );
    }
}

#[test]
fn an_inspection_disturbs_nobody_and_says_what_stands_on_the_legs() {
    let mut w = World::born();
    let mut n = crate::attach::tests::world::Node::new(1, Site::A, 1);
    let served = n.serve(&mut w);
    let mut page = w.page(Leg::B);
    page.set_region(0, RegionState::Dirty);
    page.set_region(63, RegionState::Dirty);
    w.put_page(Leg::B, &page);
    let before = (w.legs[0].registered.clone(), w.legs[0].blocks.clone());
    let mut run = Run::new(&mut w, order(Task::Inspect, Members::BOTH));
    run.until("A read meta");
    let look = Key::new(KeyTag::Inspect, 0x1234);
    assert_eq!(run.world.legs[0].registered[&(9, Session::Data)], look);
    let Ok(Done::Inspected { register, legs }) = run.end() else {
        panic!()
    };
    assert_eq!(
        run.count("preempt") + run.count("reserve") + run.count("write"),
        0
    );
    assert_eq!(register.as_deref(), Some(w.r()));
    assert_eq!(
        (w.legs[0].registered.clone(), w.legs[0].blocks.clone()),
        before
    );
    assert_eq!(w.legs[0].holder_key(), Some(served.running.key));
    let b = legs[1].as_ref().unwrap();
    assert_eq!(b.superblock(), Some(&w.sb(Leg::B)));
    assert_eq!(b.fit, Some(crate::activation::Fit::Usable));
    assert_eq!(b.dirty_bytes, 2 << 16);
    assert_eq!(b.seed().unwrap().sb_seq, w.sb(Leg::B).sb_seq);
}

#[test]
fn an_inspection_reports_what_it_reached() {
    let mut w = World::born();
    w.witness = Witness::Down;
    w.legs[1].blocks.insert(SLOT_OFFSETS[0], [1; BLOCK]);
    w.legs[1].blocks.insert(SLOT_OFFSETS[1], [1; BLOCK]);
    let mut run = Run::new(&mut w, order(Task::Inspect, Members::BOTH));
    run.link[0] = false;
    let Ok(Done::Inspected { register, legs }) = run.end() else {
        panic!()
    };
    assert!(register.is_none() && legs[0].is_none());
    let b = legs[1].as_ref().unwrap();
    assert!(!b.is_ours && b.seed().is_none() && b.fit.is_none());
    assert!(matches!(b.slots, Slots::Bad { .. }));
}

#[test]
fn a_reseed_writes_the_new_id_in_both_slots_and_says_what_may_be_granted() {
    let mut w = World::born();
    let old = w.sb(Leg::A);
    w.register = None;
    let id = RegisterName([0x77; 16]);
    let task = Task::Reseed { register_id: id };
    let Ok(Done::Reseeded { legs }) = Run::new(&mut w, order(task.clone(), Members::BOTH)).end()
    else {
        panic!()
    };
    let sb = w.sb(Leg::A);
    assert_eq!(
        (sb.register_id, sb.epoch, sb.sb_seq),
        (id, old.epoch, old.sb_seq + 2)
    );
    assert!(w.slots_agree(Leg::A));
    let seed = legs[0].unwrap();
    assert_eq!(
        (seed.epoch, seed.generation, seed.sb_seq),
        (sb.epoch, sb.generation, sb.sb_seq)
    );
    // The same order again changes nothing and says the same.
    let again = Run::new(&mut w, order(task, Members::BOTH)).end();
    assert_eq!(again, Ok(Done::Reseeded { legs }));
    assert_eq!(w.sb(Leg::A), sb);
    // With the register of the reseed the pair runs again.
    let reseed = Reseed {
        register_id: id,
        former: vec![RegisterName([0x23; 16])],
        group: GroupId([0x22; 16]),
        volumes: vec![VOLUME],
        highest_epoch: Epoch(1),
        highest_seq: 1,
        highest_order: 0,
        members: SeedMembers::Pair {
            a: legs[0].unwrap(),
            b: legs[1].unwrap(),
        },
        site: Site::A,
        generation: generation(60),
        txid: tx(60),
        who: "bob".into(),
        why: "witness lost".into(),
    };
    w.set_register(Register::reseed(&reseed, None).unwrap());
    let mut n = crate::attach::tests::world::Node::new(1, Site::A, 1);
    let served = n.serve(&mut w);
    assert_eq!(
        (served.running.members, served.running.epoch),
        (Members::BOTH, Epoch(1001))
    );
    assert_eq!(served.place.n, 2);
}

#[test]
fn a_reseed_needs_a_register_that_is_lost_or_below() {
    let id = RegisterName([0x77; 16]);
    let task = || Task::Reseed { register_id: id };
    let mut w = World::born();
    let mut run = Run::new(&mut w, order(task(), Members::BOTH));
    assert_eq!(run.end(), Err(Failure::WrongState));
    assert_eq!(run.count("preempt") + run.count("write"), 0);
    w.edit_sb(Leg::A, |sb| sb.epoch = Epoch(5));
    let end = Run::new(&mut w, order(task(), only(Leg::A))).end();
    assert!(matches!(end, Ok(Done::Reseeded { .. })), "{end:?}");
    let mut w = World::born();
    w.register = None;
    w.legs[0].blocks.clear();
    let end = Run::new(&mut w, order(task(), only(Leg::A))).end();
    assert_eq!(end, Err(Failure::ForeignData(Leg::A)));
}

#[test]
fn a_force_is_made_of_what_was_inspected_and_approved() {
    let mut w = World::born();
    w.edit_sb(Leg::B, |sb| sb.role = Role::Target);
    let Ok(Done::Inspected { register, legs }) =
        Run::new(&mut w, order(Task::Inspect, Members::BOTH)).end()
    else {
        panic!()
    };
    let register = register.unwrap();
    let b = legs[1].as_deref().unwrap();
    let approval = |inconsistent| Approval {
        token: Token::of(&register),
        leg: Leg::B,
        site: Site::B,
        inconsistent,
        who: "ann".into(),
        why: "site A burnt".into(),
    };
    let make = |seen: &LegInspection, approval| force(&register, seen, approval, generation(50));
    assert_eq!(make(b, approval(false)), Err(ForceError::Inconsistent));
    let forced = make(b, approval(true)).unwrap();
    assert_eq!(forced.seen.sb_seq, w.sb(Leg::B).sb_seq);
    let next = register.force(&forced, tx(50)).unwrap();
    assert_eq!(next.members, only(Leg::B));
    let stale = Token {
        epoch: Epoch(9),
        ..Token::of(&register)
    };
    assert_eq!(
        make(
            b,
            Approval {
                token: stale,
                ..approval(true)
            }
        ),
        Err(ForceError::Stale)
    );
    let blank = LegInspection {
        is_ours: false,
        ..b.clone()
    };
    assert_eq!(make(&blank, approval(true)), Err(ForceError::NoSuperblock));
    let mut newborn = b.clone();
    if let Slots::Valid(sb) = &mut newborn.slots {
        sb.role = Role::New;
    }
    assert_eq!(make(&newborn, approval(true)), Err(ForceError::NeverJoined));
    let text = Token::of(&register).to_string();
    assert_eq!(text.parse(), Ok(Token::of(&register)));
    for bad in [
        "",
        "1",
        "x-00",
        "1-zz",
        "1-02020202020202020202020202020202 ",
    ] {
        assert_eq!(bad.parse::<Token>(), Err(ForceError::BadToken), "{bad:?}");
    }
}
