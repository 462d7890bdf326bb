//! Inspect, reseed and force.

use super::*;

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

fn reseeding(register_id: RegisterName, chosen: Members) -> Task {
    Task::Reseed(Reseeding {
        register_id,
        chosen,
        expect: [None; 2],
        inconsistent: false,
    })
}

#[test]
fn a_reseed_of_one_leg_fences_the_other_and_writes_nothing_there() {
    let id = RegisterName([0x77; 16]);
    let mut w = World::born();
    // Somebody whom nobody can see any more has both open.
    crate::attach::tests::world::Node::new(1, Site::A, 1).serve(&mut w);
    w.register = None;
    let other = w.sb(Leg::B);
    let mut run = Run::new(&mut w, order(reseeding(id, only(Leg::A)), Members::BOTH));
    let Ok(Done::Reseeded { legs }) = run.end() else {
        panic!()
    };
    for leg in ["A", "B"] {
        assert!(run.count(&format!("{leg} preempt")) > 0, "{:?}", run.said);
    }
    assert_eq!(run.count("B write"), 0);
    assert!(legs[0].is_some() && legs[1].is_none());
    assert_eq!(w.sb(Leg::A).register_id, id);
    assert_eq!(w.sb(Leg::B), other);
}

#[test]
fn a_reseed_of_one_leg_goes_on_without_the_other() {
    let id = RegisterName([0x77; 16]);
    let mut w = World::born();
    w.register = None;
    let mut run = Run::new(&mut w, order(reseeding(id, only(Leg::A)), Members::BOTH));
    run.link[1] = false;
    let end = run.end();
    assert!(matches!(end, Ok(Done::Reseeded { .. })), "{end:?}");
    // The one that is to be written must be there.
    let mut run = Run::new(&mut w, order(reseeding(id, only(Leg::B)), Members::BOTH));
    run.link[1] = false;
    assert_eq!(run.end(), Err(Failure::Unreachable(Leg::B)));
}

#[test]
fn a_reseed_of_another_history_than_the_plan_saw_fences_nobody() {
    let mut w = World::born();
    w.register = None;
    let sb = w.sb(Leg::A);
    let expect = |epoch| {
        Task::Reseed(Reseeding {
            register_id: RegisterName([0x77; 16]),
            chosen: only(Leg::A),
            expect: [Some((Epoch(epoch), sb.generation)), None],
            inconsistent: false,
        })
    };
    let mut run = Run::new(&mut w, order(expect(sb.epoch.0 + 1), only(Leg::A)));
    assert_eq!(run.end(), Err(Failure::OtherHistory(Leg::A)));
    assert_eq!(run.count("preempt") + run.count("write"), 0);
    let end = Run::new(&mut w, order(expect(sb.epoch.0), only(Leg::A))).end();
    assert!(matches!(end, Ok(Done::Reseeded { .. })), "{end:?}");
}

#[test]
fn a_reseed_writes_the_new_id_in_both_slots_and_says_what_may_be_granted() {
    let mut w = World::born();
    let old = w.sb(Leg::A);
    w.register = None;
    let id = RegisterName([0x77; 16]);
    let task = reseeding(id, Members::BOTH);
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
    // Without it they do not: an attach by their own word would write the very superblocks that are granted.
    let up = std::mem::replace(&mut w.witness, Witness::Down);
    let mut blind = crate::attach::tests::world::Node::new(3, Site::A, 3);
    assert_eq!(blind.refused(&mut w), crate::status::Refusal::WitnessNeeded);
    assert!(blind.never("write"));
    w.witness = up;
    let mut n = crate::attach::tests::world::Node::new(1, Site::A, 1);
    let served = n.serve(&mut w);
    assert_eq!(
        (served.running.members, served.running.epoch),
        (Members::BOTH, Epoch(1001))
    );
    assert!(!w.sb(Leg::A).awaits_register && !w.sb(Leg::B).awaits_register);
    assert_eq!(served.place.n, 2);
}

#[test]
fn a_reseed_needs_a_register_that_is_lost_or_below() {
    let id = RegisterName([0x77; 16]);
    let task = |chosen| reseeding(id, chosen);
    let mut w = World::born();
    let mut run = Run::new(&mut w, order(task(Members::BOTH), Members::BOTH));
    assert_eq!(run.end(), Err(Failure::WrongState));
    assert_eq!(run.count("preempt") + run.count("write"), 0);
    w.edit_sb(Leg::A, |sb| sb.epoch = Epoch(5));
    let end = Run::new(&mut w, order(task(only(Leg::A)), only(Leg::A))).end();
    assert!(matches!(end, Ok(Done::Reseeded { .. })), "{end:?}");
    let mut w = World::born();
    w.register = None;
    w.legs[0].blocks.clear();
    let end = Run::new(&mut w, order(task(only(Leg::A)), only(Leg::A))).end();
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

/// B is behind; a human forces it.
fn forced(w: &World) -> Force {
    let sb = w.sb(Leg::B);
    Force {
        expect_epoch: w.r().epoch,
        expect_txid: w.r().txid,
        leg: Leg::B,
        seen: LegSeed {
            epoch: sb.epoch,
            generation: sb.generation,
            sb_seq: sb.sb_seq,
        },
        site: Site::B,
        generation: generation(50),
        inconsistent: false,
        who: "ann".into(),
        why: "site A burnt".into(),
    }
}

fn force_order(force: Force) -> OneShotOrder {
    OneShotOrder {
        site: Site::B,
        key: key(Site::B, 0x77),
        ..order(Task::Force(Box::new(force)), only(Leg::B))
    }
}

fn stale_b() -> World {
    let mut w = World::born();
    let mut n = crate::attach::tests::world::Node::new(1, Site::A, 1);
    n.cut(Leg::B);
    n.serve(&mut w);
    w
}

#[test]
fn a_force_holds_the_leg_with_a_key_of_its_site_before_the_register_names_it() {
    let mut w = stale_b();
    let force = forced(&w);
    let granted_before = force.seen.sb_seq;
    let mut run = Run::new(&mut w, force_order(force));
    assert_eq!(run.end(), Ok(Done::Forced));
    let at = |what: &str| run.said.iter().position(|said| said == what);
    assert!(at("B reserve") < at("cas"), "{:?}", run.said);
    assert!(at("B reserve").is_some());
    assert_eq!(w.r().members, only(Leg::B));
    let (seen, now) = (granted_before, w.sb(Leg::B));
    assert!(now.awaits_register, "nothing runs by the superblocks alone");
    assert_eq!(now.sb_seq, seen + 2, "both slots");
    assert_eq!(w.r().granted[0].sb_seq, now.sb_seq, "that one is granted");
    let holder = w.legs[1].holder_key();
    assert!(
        crate::fence::held_by_other_site(holder, Site::A),
        "the site that is given up does not run beside it: {holder:?}"
    );
}

/// The leg that is given up certifies itself, the other one is older, both are in reach of the site that goes on, and the key
/// on the forced leg is of that site: only its superblock tells.
#[test]
fn r44_after_a_force_nothing_runs_without_the_register_where_both_legs_are_in_reach() {
    for site in [Site::A, Site::B] {
        let mut w = stale_b();
        let mut force = forced(&w);
        force.site = site;
        let order = OneShotOrder {
            site,
            key: key(site, 0x77),
            ..force_order(force)
        };
        assert_eq!(Run::new(&mut w, order).end(), Ok(Done::Forced));
        w.witness = Witness::Down;
        let mut blind = crate::attach::tests::world::Node::new(3, Site::A, 3);
        assert_eq!(
            blind.refused(&mut w),
            crate::status::Refusal::WitnessNeeded,
            "{site}"
        );
        assert!(blind.never("write"));
    }
}

#[test]
fn a_force_that_ended_before_the_register_goes_on_with_the_leg_that_it_marked() {
    let mut w = stale_b();
    let force = forced(&w);
    w.edit_sb(Leg::B, |sb| sb.awaits_register = true);
    let mut run = Run::new(&mut w, force_order(force));
    assert_eq!(run.end(), Ok(Done::Forced));
    assert_eq!(run.count("write"), 0);
    assert_eq!(w.r().granted[0].sb_seq, w.sb(Leg::B).sb_seq);
}

#[test]
fn a_force_that_ended_between_its_slots_marks_the_other_one() {
    let mut w = stale_b();
    let force = forced(&w);
    let mut run = Run::new(&mut w, force_order(force.clone()));
    run.until("B write meta");
    assert_eq!(w.sb(Leg::B).sb_seq, force.seen.sb_seq + 1);
    let mut run = Run::new(&mut w, force_order(force.clone()));
    assert_eq!(run.end(), Ok(Done::Forced));
    assert_eq!(run.count("write"), 2, "a slot and the history");
    assert_eq!(w.sb(Leg::B).sb_seq, force.seen.sb_seq + 2);
    assert_eq!(w.r().granted[0].sb_seq, w.sb(Leg::B).sb_seq);
}

#[test]
fn a_force_whose_plan_is_stale_fences_nobody_and_one_that_goes_stale_behind_its_fence_changes_nothing()
 {
    let mut w = stale_b();
    let force = Force {
        expect_txid: tx(99),
        ..forced(&w)
    };
    let mut run = Run::new(&mut w, force_order(force));
    assert_eq!(run.end(), Err(Failure::WrongState));
    assert_eq!(run.count("reserve") + run.count("preempt"), 0);

    let mut w = stale_b();
    let force = forced(&w);
    let mut run = Run::new(&mut w, force_order(force));
    run.until("B reserve");
    run.world.edit_register(98);
    assert_eq!(run.end(), Err(Failure::Changed));

    let mut w = stale_b();
    let force = forced(&w);
    w.edit_sb(Leg::B, |sb| sb.sb_seq += 2);
    let mut run = Run::new(&mut w, force_order(force));
    assert_eq!(run.end(), Err(Failure::Changed), "not what the human saw");
}

#[test]
fn a_force_whose_answer_was_lost_is_found_by_its_generation() {
    let mut w = stale_b();
    let force = forced(&w);
    w.witness = Witness::Mute;
    let mut run = Run::new(&mut w, force_order(force.clone()));
    assert_eq!(run.end(), Ok(Done::Forced));
    let again = Run::new(&mut w, force_order(force)).end();
    assert_eq!(again, Ok(Done::Forced), "the same order again");
    assert_eq!(w.r().epoch, Epoch(3), "executed once");
}
