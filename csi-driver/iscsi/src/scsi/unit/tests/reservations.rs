//! Persistent reservations as two and three initiators see them, through the client's own builders and
//! parsers.

use super::{A, B, C, Lab, blocks_of, code, key_and_code, port, read10, write10};
use crate::scsi::client::{self, Capabilities, FullStatus, Keys, ReservationStatus};
use crate::scsi::unit::StoreOp;
use crate::scsi::{Code, NexusId, PrOut, PrType, SenseKey, Status};

pub(super) const KA: u64 = 0xA100_0000_0000_AA01;
pub(super) const KB: u64 = 0xB100_0000_0000_BB01;
pub(super) const EARO: PrType = PrType::ExclusiveAccessRegistrants;

pub(super) fn register(lab: &mut Lab, nexus: NexusId, new: u64) {
    assert_eq!(
        lab.reserve_out(nexus, PrOut::RegisterIgnore { new, aptpl: true }),
        Status::Good
    );
}

pub(super) fn keys(lab: &mut Lab) -> Keys {
    Keys::parse(&lab.read_in(A, &client::pr_read_keys())).expect("keys")
}

pub(super) fn reservation(lab: &mut Lab) -> Option<(u64, PrType)> {
    let data = lab.read_in(A, &client::pr_read_reservation());
    let status = ReservationStatus::parse(&data).expect("reservation");
    status
        .reservation
        .map(|reservation| (reservation.key, reservation.kind))
}

pub(super) fn attentions(lab: &mut Lab, nexus: NexusId) -> Vec<Code> {
    let mut codes = Vec::new();
    loop {
        let outcome = lab.run(nexus, &[0; 6]);
        if outcome.status != Status::CheckCondition {
            return codes;
        }
        assert_eq!(key_and_code(&outcome).0, SenseKey::UnitAttention);
        codes.push(code(&outcome));
    }
}

#[test]
fn access_by_type_and_registration() {
    // (type, registered reads, registered writes, unregistered reads, unregistered writes)
    let table = [
        (PrType::WriteExclusive, true, false, true, false),
        (PrType::ExclusiveAccess, false, false, false, false),
        (PrType::WriteExclusiveRegistrants, true, true, true, false),
        (PrType::ExclusiveAccessRegistrants, true, true, false, false),
        (PrType::WriteExclusiveAll, true, true, true, false),
        (PrType::ExclusiveAccessAll, true, true, false, false),
    ];
    let reads: [&[u8]; 8] = [
        &read10(0, 1),
        &[0x2F, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        &[0x34, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        &[0x1A, 0, 0x3F, 0, 255, 0],
        &[0x9E, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 24, 0, 0],
        &[0xA3, 0x0C, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0],
        &[0x37, 0, 0, 0, 0, 0, 0, 0, 32, 0],
        &[0x84, 0x03, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0],
    ];
    let writes: [&[u8]; 8] = [
        &write10(0, 0),
        &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0x15, 0x10, 0, 0, 0, 0],
        &[0x93, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
        &[0x1B, 0, 0, 0, 0, 0],
        &[0x1D, 0x04, 0, 0, 0, 0],
        &[0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ];
    let free: [&[u8]; 8] = [
        &[0x00, 0, 0, 0, 0, 0],
        &[0x12, 0, 0, 0, 36, 0],
        &[0xA0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0],
        &[0x03, 0, 0, 0, 18, 0],
        &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0x5E, 3, 0, 0, 0, 0, 0, 1, 0, 0],
        &[0x1B, 0, 0, 0, 1, 0],
        &[0x1E, 0, 0, 0, 0, 0],
    ];
    for (kind, reg_read, reg_write, unreg_read, unreg_write) in table {
        let mut lab = Lab::new();
        lab.login(C);
        register(&mut lab, A, KA);
        register(&mut lab, B, KB);
        assert_eq!(
            lab.reserve_out(A, PrOut::Reserve { key: KA, kind }),
            Status::Good
        );
        let mut check = |nexus, commands: &[&[u8]], allowed| {
            for cdb in commands {
                let want = if allowed {
                    Status::Good
                } else {
                    Status::ReservationConflict
                };
                assert_eq!(
                    lab.run(nexus, cdb).status,
                    want,
                    "{kind:?} {nexus:?} {cdb:x?}"
                );
            }
        };
        check(A, &reads, true);
        check(A, &writes, true);
        check(B, &reads, reg_read);
        check(B, &writes, reg_write);
        check(C, &reads, unreg_read);
        check(C, &writes, unreg_write);
        for nexus in [A, B, C] {
            check(nexus, &free, true);
        }
    }
}

#[test]
fn registering_needs_the_present_key_and_counts_generations() {
    let mut lab = Lab::new();
    let register = |key, new| PrOut::Register {
        key,
        new,
        aptpl: false,
    };
    assert_eq!(
        lab.reserve_out(A, register(1, KA)),
        Status::ReservationConflict
    );
    assert_eq!(lab.reserve_out(A, register(0, 0)), Status::Good);
    assert_eq!(
        keys(&mut lab),
        Keys {
            generation: 0,
            keys: vec![]
        }
    );
    assert_eq!(lab.reserve_out(A, register(0, KA)), Status::Good);
    assert_eq!(
        lab.reserve_out(A, register(KA + 1, 5)),
        Status::ReservationConflict
    );
    assert_eq!(lab.reserve_out(A, register(KA, 5)), Status::Good);
    assert_eq!(
        keys(&mut lab),
        Keys {
            generation: 2,
            keys: vec![5]
        }
    );
    assert_eq!(lab.reserve_out(A, register(5, 0)), Status::Good);
    assert_eq!(
        keys(&mut lab),
        Keys {
            generation: 3,
            keys: vec![]
        }
    );
    assert!(
        !lab.asked.iter().any(|op| matches!(op, StoreOp::SavePr(_))),
        "nobody asked for APTPL"
    );
}

#[test]
fn reserve_and_release_follow_the_holder() {
    let mut lab = Lab::new();
    lab.login(C);
    register(&mut lab, A, KA);
    register(&mut lab, B, KB);
    assert_eq!(
        lab.reserve_out(C, PrOut::Clear { key: 1 }),
        Status::ReservationConflict
    );
    assert_eq!(
        lab.reserve_out(A, PrOut::Reserve { key: 9, kind: EARO }),
        Status::ReservationConflict
    );
    assert_eq!(
        lab.reserve_out(
            A,
            PrOut::Reserve {
                key: KA,
                kind: EARO
            }
        ),
        Status::Good
    );
    assert_eq!(
        lab.reserve_out(
            A,
            PrOut::Reserve {
                key: KA,
                kind: EARO
            }
        ),
        Status::Good
    );
    assert_eq!(
        lab.reserve_out(
            A,
            PrOut::Reserve {
                key: KA,
                kind: PrType::WriteExclusive
            }
        ),
        Status::ReservationConflict
    );
    assert_eq!(
        lab.reserve_out(
            B,
            PrOut::Reserve {
                key: KB,
                kind: EARO
            }
        ),
        Status::ReservationConflict
    );
    assert_eq!(reservation(&mut lab), Some((KA, EARO)));
    // A registrant that does not hold it releases nothing.
    assert_eq!(
        lab.reserve_out(
            B,
            PrOut::Release {
                key: KB,
                kind: EARO
            }
        ),
        Status::Good
    );
    assert_eq!(reservation(&mut lab), Some((KA, EARO)));
    let task = lab.submit_reserve_out(
        A,
        PrOut::Release {
            key: KA,
            kind: PrType::WriteExclusive,
        },
    );
    assert_eq!(
        code(&lab.outcome(task)),
        Code::INVALID_RELEASE_OF_RESERVATION
    );
    assert_eq!(
        lab.reserve_out(
            A,
            PrOut::Release {
                key: KA,
                kind: EARO
            }
        ),
        Status::Good
    );
    assert_eq!(reservation(&mut lab), None);
    assert_eq!(attentions(&mut lab, B), [Code::RESERVATIONS_RELEASED]);
    assert_eq!(attentions(&mut lab, A), []);
}

#[test]
fn a_reservation_falls_with_its_holders_registration_but_not_while_all_registrants_hold_it() {
    for kind in PrType::ALL {
        let mut lab = Lab::new();
        register(&mut lab, A, KA);
        register(&mut lab, B, KB);
        lab.reserve_out(A, PrOut::Reserve { key: KA, kind });
        register(&mut lab, A, 0);
        if kind.all_registrants() {
            assert_eq!(reservation(&mut lab), Some((0, kind)));
            assert_eq!(attentions(&mut lab, B), []);
            register(&mut lab, B, 0);
        } else {
            let told = if kind.admits_registrants() {
                vec![Code::RESERVATIONS_RELEASED]
            } else {
                vec![]
            };
            assert_eq!(attentions(&mut lab, B), told, "{kind:?}");
        }
        assert_eq!(reservation(&mut lab), None);
    }
}

#[test]
fn preempting_the_holder_takes_the_reservation_and_the_registration() {
    for abort in [false, true] {
        let mut lab = Lab::new();
        lab.login(C);
        register(&mut lab, A, KA);
        register(&mut lab, B, KB);
        register(&mut lab, C, 7);
        lab.reserve_out(
            A,
            PrOut::Reserve {
                key: KA,
                kind: EARO,
            },
        );
        let (key, victim, kind) = (KB, KA, Some(PrType::WriteExclusiveRegistrants));
        let action = match abort {
            true => PrOut::PreemptAbort { key, victim, kind },
            false => PrOut::Preempt { key, victim, kind },
        };
        assert_eq!(lab.reserve_out(B, action), Status::Good);
        assert_eq!(keys(&mut lab).keys, [KB, 7]);
        assert_eq!(
            reservation(&mut lab),
            Some((KB, PrType::WriteExclusiveRegistrants))
        );
        assert_eq!(attentions(&mut lab, A), [Code::REGISTRATIONS_PREEMPTED]);
        assert_eq!(
            attentions(&mut lab, C),
            [Code::RESERVATIONS_RELEASED],
            "the type changed"
        );
        assert_eq!(attentions(&mut lab, B), []);
        assert_eq!(
            lab.send(A, &write10(0, 1), &blocks_of(1, 1)).status,
            Status::ReservationConflict
        );
    }
}

#[test]
fn preempting_a_registrant_leaves_the_reservation() {
    let mut lab = Lab::new();
    register(&mut lab, A, KA);
    register(&mut lab, B, KB);
    lab.reserve_out(
        A,
        PrOut::Reserve {
            key: KA,
            kind: EARO,
        },
    );
    let preempt = |victim| PrOut::PreemptAbort {
        key: KA,
        victim,
        kind: None,
    };
    assert_eq!(
        lab.reserve_out(A, preempt(0xDEAD)),
        Status::ReservationConflict
    );
    let task = lab.submit_reserve_out(A, preempt(0));
    assert_eq!(
        code(&lab.outcome(task)),
        Code::INVALID_FIELD_IN_PARAMETER_LIST
    );
    assert_eq!(lab.reserve_out(A, preempt(KB)), Status::Good);
    assert_eq!(keys(&mut lab).keys, [KA]);
    assert_eq!(reservation(&mut lab), Some((KA, EARO)));
    assert_eq!(attentions(&mut lab, B), [Code::REGISTRATIONS_PREEMPTED]);
    // Its own key: nothing of its own goes.
    assert_eq!(
        lab.reserve_out(
            A,
            PrOut::PreemptAbort {
                key: KA,
                victim: KA,
                kind: Some(EARO)
            }
        ),
        Status::Good
    );
    assert_eq!(keys(&mut lab).keys, [KA]);
    assert_eq!(reservation(&mut lab), Some((KA, EARO)));
}

#[test]
fn preempting_key_0_removes_everybody_else_where_all_registrants_hold() {
    let mut lab = Lab::new();
    lab.login(C);
    let kind = PrType::ExclusiveAccessAll;
    register(&mut lab, A, KA);
    register(&mut lab, B, KB);
    register(&mut lab, C, 7);
    lab.reserve_out(A, PrOut::Reserve { key: KA, kind });
    assert_eq!(
        lab.reserve_out(
            B,
            PrOut::Preempt {
                key: KB,
                victim: 7,
                kind: None
            }
        ),
        Status::Good
    );
    assert_eq!(keys(&mut lab).keys, [KA, KB]);
    assert_eq!(reservation(&mut lab), Some((0, kind)));
    assert_eq!(
        lab.reserve_out(
            B,
            PrOut::Preempt {
                key: KB,
                victim: 0,
                kind: Some(EARO)
            }
        ),
        Status::Good
    );
    assert_eq!(keys(&mut lab).keys, [KB]);
    assert_eq!(reservation(&mut lab), Some((KB, EARO)));
}

#[test]
fn clear_ends_everything_and_tells_the_others() {
    let mut lab = Lab::new();
    register(&mut lab, A, KA);
    register(&mut lab, B, KB);
    lab.reserve_out(
        A,
        PrOut::Reserve {
            key: KA,
            kind: EARO,
        },
    );
    let before = keys(&mut lab).generation;
    assert_eq!(lab.reserve_out(B, PrOut::Clear { key: KB }), Status::Good);
    assert_eq!(
        keys(&mut lab),
        Keys {
            generation: before + 1,
            keys: vec![]
        }
    );
    assert_eq!(reservation(&mut lab), None);
    assert_eq!(attentions(&mut lab, A), [Code::RESERVATIONS_PREEMPTED]);
    assert_eq!(attentions(&mut lab, B), []);
}

#[test]
fn register_and_move_hands_the_reservation_to_another_port() {
    let mut lab = Lab::new();
    register(&mut lab, A, KA);
    lab.reserve_out(
        A,
        PrOut::Reserve {
            key: KA,
            kind: EARO,
        },
    );
    let hand = |to, new| PrOut::Move {
        key: KA,
        new,
        unregister: true,
        aptpl: true,
        to,
    };
    let task = lab.submit_reserve_out(A, hand(port(A), 5));
    assert_eq!(
        code(&lab.outcome(task)),
        Code::INVALID_FIELD_IN_PARAMETER_LIST
    );
    assert_eq!(
        lab.reserve_out(B, hand(port(C), 5)),
        Status::ReservationConflict
    );
    assert_eq!(lab.reserve_out(A, hand(port(B), KB)), Status::Good);
    assert_eq!(keys(&mut lab).keys, [KB]);
    assert_eq!(reservation(&mut lab), Some((KB, EARO)));
    assert_eq!(
        lab.send(B, &write10(0, 1), &blocks_of(1, 1)).status,
        Status::Good
    );
    assert_eq!(
        lab.run(A, &read10(0, 1)).status,
        Status::ReservationConflict
    );
}

#[test]
fn full_status_names_ports_and_the_holder() {
    let mut lab = Lab::new();
    register(&mut lab, A, KA);
    register(&mut lab, B, KB);
    lab.reserve_out(
        B,
        PrOut::Reserve {
            key: KB,
            kind: EARO,
        },
    );
    let status =
        FullStatus::parse(&lab.read_in(A, &client::pr_read_full_status())).expect("full status");
    let seen: Vec<_> = status
        .registrants
        .into_iter()
        .map(|entry| {
            (
                entry.key,
                entry.holds,
                entry.relative_port,
                entry.transport_id,
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (KA, None, 1, Some(port(A))),
            (KB, Some(EARO), 1, Some(port(B)))
        ]
    );
}

#[test]
fn capabilities_name_all_types_and_persistence() {
    let mut lab = Lab::new();
    let data = lab.read_in(A, &client::pr_report_capabilities());
    assert_eq!(data, [0, 8, 0x05, 0x80, 0xEA, 0x01, 0, 0]);
    register(&mut lab, A, KA);
    let capabilities = Capabilities::parse(&lab.read_in(A, &client::pr_report_capabilities()));
    let want = Capabilities {
        all_ports: true,
        persists: true,
        persists_now: true,
        kinds: Some(PrType::ALL.to_vec()),
    };
    assert_eq!(capabilities, Ok(want));
}
