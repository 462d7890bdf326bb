//! Each transition: what it accepts, what it refuses, and what holds over random histories.

mod human;
mod operator;
mod random;
mod writer;

use super::*;
use crate::ids::{AttachmentUid, GroupId, KeyTag, Naa, RegisterId, VolumeId};
use crate::outcome::{Outcome, outcome};
use crate::value::Granted;

pub(super) const A: Members = Members::only(Leg::A);
pub(super) const B: Members = Members::only(Leg::B);

pub(super) fn tx(n: u8) -> TxId {
    TxId([n; 16])
}
pub(super) fn generation(n: u8) -> Gen {
    Gen([n; 16])
}
pub(super) fn key(site: Site, n: u64) -> Key {
    Key::new(KeyTag::Writer(site), n)
}
pub(super) fn stamp(site: Site, n: u8) -> Stamp {
    Stamp {
        key: key(site, n.into()),
        stamp_id: StampId([n; 16]),
        order: Order {
            n: n.into(),
            uid: AttachmentUid([n; 16]),
        },
    }
}
pub(super) fn creating() -> Register {
    Register::create(Create {
        register_id: RegisterId([1; 16]),
        group: GroupId([2; 16]),
        volumes: vec![VolumeId([3; 16])],
        generation: generation(1),
        site: Site::A,
        txid: tx(1),
    })
    .unwrap()
}
pub(super) fn pair() -> Register {
    creating().birth(Site::A, tx(2)).unwrap()
}
pub(super) fn attach(site: Site, n: u8, membership: Membership) -> AttachChange {
    AttachChange {
        site,
        stamp: stamp(site, n),
        membership,
        moves: None,
    }
}
pub(super) fn held() -> (Register, Running) {
    let register = pair()
        .attach(&attach(Site::A, 3, Membership::Keep), tx(3))
        .unwrap();
    let running = Running::of(&register, key(Site::A, 3));
    (register, running)
}
pub(super) fn solo() -> (Register, Running) {
    let (register, running) = held();
    let register = register
        .shrink(&running, Leg::A, generation(4), tx(4))
        .unwrap();
    let running = Running::of(&register, running.key);
    (register, running)
}
pub(super) fn force_b(register: &Register) -> Force {
    Force {
        expect_epoch: register.epoch,
        expect_txid: register.txid,
        leg: Leg::B,
        seen: LegSeed {
            epoch: Epoch(1),
            generation: generation(1),
            sb_seq: 9,
        },
        site: Site::B,
        generation: generation(50),
        inconsistent: false,
        who: "ann".into(),
        why: "site A burnt".into(),
    }
}
pub(super) fn reseed(old: Option<&Register>) -> Reseed {
    Reseed {
        register_id: RegisterId([7; 16]),
        former: old.map(|o| o.register_id).into_iter().collect(),
        group: GroupId([2; 16]),
        volumes: vec![VolumeId([3; 16])],
        highest_epoch: Epoch(12),
        highest_seq: 4,
        highest_order: 6,
        members: SeedMembers::Alone {
            leg: Leg::A,
            seen: LegSeed {
                epoch: Epoch(12),
                generation: generation(9),
                sb_seq: 30,
            },
        },
        site: Site::A,
        generation: generation(60),
        txid: tx(60),
        who: "bob".into(),
        why: "witness lost".into(),
    }
}
