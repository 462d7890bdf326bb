//! Wipe.

use super::*;

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
