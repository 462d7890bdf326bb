//! How reservations last: sessions that end, restarts, saves that fail, attentions that wait, and the
//! old RESERVE(6), which does not last.

use bytes::Bytes;

use super::reservations::{EARO, KA, KB, attentions, keys, register, reservation};
use super::{A, B, BLOCK, C, Lab, blocks_of, config, key_and_code, port, read10, write10};
use crate::scsi::unit::{PrState, StoreError, StoreOp};
use crate::scsi::{Cdb, Code, Expected, NexusId, PrOut, PrType, SenseKey, Status};

#[test]
fn a_registration_outlives_its_session_and_is_found_again_by_name_and_isid() {
    let mut lab = Lab::new();
    register(&mut lab, A, KA);
    lab.reserve_out(
        A,
        PrOut::Reserve {
            key: KA,
            kind: EARO,
        },
    );
    lab.unit.nexus_removed(lab.now, A);
    assert_eq!(
        lab.run(B, &read10(0, 1)).status,
        Status::ReservationConflict
    );
    // The same port in a new session; another ISID is another port.
    let again = NexusId(50);
    lab.unit.nexus_added(lab.now, again, port(A));
    assert_eq!(attentions(&mut lab, again), [Code::NEXUS_LOSS]);
    assert_eq!(lab.run(again, &read10(0, 1)).status, Status::Good);
    let other = NexusId(51);
    let mut stranger = port(A);
    stranger.isid = Some([0x40, 9, 9, 9, 9, 9]);
    lab.unit.nexus_added(lab.now, other, stranger);
    assert_eq!(attentions(&mut lab, other), [Code::POWER_ON_OR_RESET]);
    assert_eq!(
        lab.run(other, &read10(0, 1)).status,
        Status::ReservationConflict
    );
}

#[test]
fn saved_state_comes_back_after_a_restart() {
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
    let before = keys(&mut lab);
    let mut config = config();
    config.pr = PrState::restore(&lab.saved).expect("saved state reads back");
    let mut lab = Lab::with(config);
    assert_eq!(keys(&mut lab), before);
    assert_eq!(reservation(&mut lab), Some((KB, EARO)));
    lab.login(C);
    assert_eq!(
        lab.run(C, &read10(0, 1)).status,
        Status::ReservationConflict
    );
    assert_eq!(lab.run(A, &read10(0, 1)).status, Status::Good);
    // Without APTPL nothing must come back.
    assert_eq!(
        lab.reserve_out(
            A,
            PrOut::RegisterIgnore {
                new: KA,
                aptpl: false
            }
        ),
        Status::Good
    );
    let restored = PrState::restore(&lab.saved).expect("saved state reads back");
    assert!(!restored.has_registrations());
}

#[test]
fn a_change_is_saved_before_it_takes_effect_and_before_it_is_answered() {
    let mut lab = Lab::new();
    register(&mut lab, A, KA);
    register(&mut lab, B, KB);
    lab.hold = true;
    let reserve = lab.submit_reserve_out(
        A,
        PrOut::Reserve {
            key: KA,
            kind: PrType::ExclusiveAccess,
        },
    );
    assert!(matches!(lab.held.front(), Some((_, StoreOp::SavePr(_)))));
    // A write that comes now waits, and is judged by the new state.
    let cdb = Cdb::new(&write10(0, 1));
    let write = lab.submit(
        B,
        &cdb,
        vec![Bytes::from(blocks_of(9, 1))],
        Expected::Out(BLOCK as u32),
    );
    let clear = lab.submit_reserve_out(B, PrOut::Clear { key: KB });
    assert!(lab.done.is_empty());
    assert_eq!(lab.held.len(), 1);
    lab.release();
    assert_eq!(lab.outcome(reserve).status, Status::Good);
    assert_eq!(lab.outcome(write).status, Status::ReservationConflict);
    lab.release_all();
    assert_eq!(lab.outcome(clear).status, Status::Good);
    assert_eq!(lab.medium[0], 0);
}

#[test]
fn a_change_that_could_not_be_saved_did_not_happen() {
    let mut lab = Lab::new();
    register(&mut lab, A, KA);
    lab.fail = Some(StoreError::Hardware);
    let task = lab.submit_reserve_out(
        A,
        PrOut::Reserve {
            key: KA,
            kind: EARO,
        },
    );
    assert_eq!(
        key_and_code(&lab.outcome(task)),
        (SenseKey::HardwareError, Code::INTERNAL_TARGET_FAILURE)
    );
    lab.fail = None;
    assert_eq!(reservation(&mut lab), None);
    assert_eq!(lab.run(B, &read10(0, 1)).status, Status::Good);
}

#[test]
fn reads_of_reservations_pass_a_pending_unit_attention_and_leave_it() {
    let mut lab = Lab::new();
    register(&mut lab, A, KA);
    register(&mut lab, B, KB);
    lab.reserve_out(B, PrOut::Clear { key: KB });
    for cdb in [
        &[0x5E, 0, 0, 0, 0, 0, 0, 1, 0, 0][..],
        &[0x12, 0, 0, 0, 36, 0],
        &[0xA0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0],
    ] {
        assert_eq!(lab.run(A, cdb).status, Status::Good);
    }
    assert_eq!(attentions(&mut lab, A), [Code::RESERVATIONS_PREEMPTED]);
}

#[test]
fn request_sense_takes_a_pending_unit_attention() {
    let mut lab = Lab::new();
    register(&mut lab, A, KA);
    register(&mut lab, B, KB);
    lab.reserve_out(B, PrOut::Clear { key: KB });
    let data = lab.read_in(A, &Cdb::new(&[0x03, 0, 0, 0, 18, 0]));
    assert_eq!((data[2], data[12], data[13]), (6, 0x2A, 0x03));
    assert_eq!(attentions(&mut lab, A), []);
    let data = lab.read_in(A, &Cdb::new(&[0x03, 1, 0, 0, 18, 0]));
    assert_eq!(data, [0x72, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn reserve_6_keeps_others_out_until_release_logout_or_reset() {
    let reserve = [0x16, 0, 0, 0, 0, 0];
    let release = [0x17, 0, 0, 0, 0, 0];
    let mut lab = Lab::new();
    assert_eq!(lab.run(A, &reserve).status, Status::Good);
    assert_eq!(lab.run(A, &reserve).status, Status::Good);
    assert_eq!(lab.run(B, &reserve).status, Status::ReservationConflict);
    assert_eq!(lab.run(B, &release).status, Status::Good, "nothing happens");
    assert_eq!(
        lab.run(B, &[0x1A, 0, 0x3F, 0, 255, 0]).status,
        Status::ReservationConflict
    );
    assert_eq!(lab.run(B, &[0x12, 0, 0, 0, 36, 0]).status, Status::Good);
    assert_eq!(
        lab.reserve_out(
            B,
            PrOut::RegisterIgnore {
                new: 1,
                aptpl: false
            }
        ),
        Status::ReservationConflict
    );
    assert_eq!(lab.run(A, &release).status, Status::Good);
    assert_eq!(lab.run(B, &reserve).status, Status::Good);
    lab.unit.nexus_removed(lab.now, B);
    assert_eq!(lab.run(A, &reserve).status, Status::Good);
    lab.run(A, &release);
    // With registrations, the old way conflicts.
    register(&mut lab, A, KA);
    assert_eq!(lab.run(A, &reserve).status, Status::ReservationConflict);
}
