//! Birth.

use super::*;

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
    type Case = (&'static str, fn(&mut World), bool, bool);
    let cases: [Case; 6] = [
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
