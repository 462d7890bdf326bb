//! Operators.

use super::*;

#[test]
fn a_new_register_is_creating_at_epoch_zero_without_members() {
    let register = creating();
    assert_eq!(register.state, State::Creating);
    assert_eq!(register.epoch, Epoch::ZERO);
    assert_eq!(register.members, Members::NONE);
    assert_eq!(register.check(), Ok(()));
    let bad = |volumes| {
        Register::create(Create {
            register_id: RegisterId([1; 16]),
            group: GroupId::ZERO,
            volumes,
            generation: generation(1),
            site: Site::A,
            txid: tx(1),
        })
    };
    assert!(matches!(bad(vec![]), Err(Refusal::Argument(_))));
}

#[test]
fn birth_makes_both_legs_members_of_epoch_one_with_the_generation_they_were_born_with() {
    let register = pair();
    assert_eq!(register.state, State::Live);
    assert_eq!(
        (register.epoch, register.generation),
        (Epoch(1), generation(1))
    );
    assert_eq!(register.members, Members::BOTH);
    assert_eq!(
        register.active,
        Active {
            site: Site::A,
            seq: 1,
            latched: false
        }
    );
    assert_eq!(register.txid, tx(2));
    assert_eq!(
        register.birth(Site::A, tx(9)),
        Err(Refusal::State(State::Live))
    );
    assert_eq!(
        creating().birth(Site::A, tx(1)),
        Err(Refusal::Argument("a used transaction id"))
    );
}

#[test]
fn the_operators_edits_touch_only_their_own_field() {
    let (register, running) = held();
    let latched = Register {
        active: Active {
            latched: true,
            ..register.active
        },
        ..register.clone()
    };
    assert_eq!(
        register.latch(latched.txid),
        Err(Refusal::Argument("a used transaction id"))
    );
    let by_hand = register.latch(tx(4)).unwrap();
    assert_eq!(
        by_hand,
        Register {
            txid: tx(4),
            ..latched.clone()
        }
    );
    let edited = latched.unlatch(tx(5)).unwrap();
    assert!(!edited.active.latched);
    assert!(latched.same_but_free(&edited));
    let two = vec![VolumeId([3; 16]), VolumeId([4; 16])];
    assert_eq!(
        register.list(two.clone(), tx(5)),
        Err(Refusal::Held(running.key))
    );
    let free = register.release(running.key, tx(5)).unwrap();
    assert_eq!(free.list(two.clone(), tx(6)).unwrap().volumes, two);
    assert!(matches!(
        free.list(vec![], tx(6)),
        Err(Refusal::Argument(_))
    ));
    assert!(matches!(
        creating().unlatch(tx(6)),
        Err(Refusal::State(State::Creating))
    ));
}
