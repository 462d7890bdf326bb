//! The saved form of reservations.

use super::*;

fn port(number: u8) -> TransportId {
    TransportId {
        name: format!("iqn.test:{number}"),
        isid: Some([0x40, 0, 0, 0, 0, number]),
    }
}

fn state(aptpl: bool) -> PrState {
    let mut state = PrState::default();
    for number in [1, 2] {
        let action = PrOut::RegisterIgnore {
            new: u64::from(number),
            aptpl,
        };
        state = state
            .apply(&port(number), &action)
            .expect("registered")
            .state;
    }
    let reserve = PrOut::Reserve {
        key: 2,
        kind: PrType::ExclusiveAccessRegistrants,
    };
    state.apply(&port(2), &reserve).expect("reserved").state
}

#[test]
fn the_saved_form_is_pinned() {
    let mut one = PrState::default();
    let action = PrOut::RegisterIgnore {
        new: 0x0102_0304_0506_0708,
        aptpl: true,
    };
    one = one
        .apply(
            &TransportId {
                name: "iqn.a".to_owned(),
                isid: Some([1, 2, 3, 4, 5, 6]),
            },
            &action,
        )
        .expect("ok")
        .state;
    let saved = one.saved();
    assert_eq!(saved[..8], *b"TWPR\0\0\0\x01");
    assert_eq!(
        saved[12..],
        [
            0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 5, b'i', b'q',
            b'n', b'.', b'a'
        ]
    );
    assert_eq!(saved[8..12], crc32c::crc32c(&saved[12..]).to_be_bytes());
    assert_eq!(PrState::restore(&saved), Ok(one));
}

#[test]
fn damage_of_the_saved_form_is_noticed() {
    let saved = state(true).saved();
    assert_eq!(PrState::restore(&saved), Ok(state(true)));
    for at in 0..saved.len() {
        let mut broken = saved.to_vec();
        broken[at] ^= 0x10;
        assert!(PrState::restore(&broken).is_err(), "byte {at}");
        assert!(
            at == 0 || PrState::restore(&saved[..at]).is_err(),
            "cut at {at}"
        );
    }
    let mut newer = saved.to_vec();
    newer[7] = 2;
    assert_eq!(PrState::restore(&newer), Err(PrStateError::Version(2)));
    assert_eq!(PrState::restore(&[]), Ok(PrState::default()));
}

#[test]
fn state_without_aptpl_is_saved_as_none_but_keeps_its_generation() {
    let restored = PrState::restore(&state(false).saved()).expect("readable");
    assert_eq!(
        restored,
        PrState {
            generation: 2,
            ..PrState::default()
        }
    );
}

#[test]
fn registrations_are_bounded() {
    let mut state = PrState::default();
    let register = |state: &PrState, number: u16| {
        let port = TransportId {
            name: format!("iqn.test:{number}"),
            isid: Some([0; 6]),
        };
        state.apply(
            &port,
            &PrOut::RegisterIgnore {
                new: 1,
                aptpl: true,
            },
        )
    };
    for number in 0..MAX_REGISTRATIONS as u16 {
        state = register(&state, number).expect("room").state;
    }
    let full = register(&state, 999).expect_err("full");
    assert_eq!(
        full,
        PrRefusal::Check(Sense::illegal(Code::INSUFFICIENT_REGISTRATION_RESOURCES))
    );
    assert_eq!(PrState::restore(&state.saved()), Ok(state));
}
