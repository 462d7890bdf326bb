//! The register's stored form, and every transition from whatever value was accepted.

use twinsite_register::{
    AttachmentUid, Epoch, Gen, Key, Leg, Members, Naa, Register, RegisterId, SbMark, Site, TxId,
    classify, outcome,
};

const GEN: Gen = Gen([0xA1; 16]);
const TX: TxId = TxId([0xA2; 16]);

/// An accepted value survives its stored form, and what a transition makes of it is accepted too.
pub fn register(data: &[u8]) {
    let Ok(value) = Register::from_json(data) else {
        return;
    };
    let stored = value.to_json();
    assert_eq!(
        Register::from_json(&stored).expect("own value is read"),
        value
    );
    let mark = SbMark {
        register_id: RegisterId([1; 16]),
        epoch: Epoch(u64::MAX),
        generation: GEN,
        seq: u64::MAX,
        unformatted: true,
    };
    let _ = classify(Some(&value), &[], &[mark]);
    let _ = value.members_of(value.epoch, value.generation);
    let _ = AttachmentUid([0; 16]);
    let mut nexts = vec![
        value.birth(Site::A, TX),
        value.unlatch(TX),
        value.list(value.volumes.clone(), TX),
        value.tombstone(GEN, TX),
        value.release(value.holder.unwrap_or(Key::from_u64(1 << 8)), TX),
    ];
    for leg in Leg::BOTH {
        nexts.push(value.confirm(leg, "who", TX));
        nexts.push(value.retire(leg, Naa([9; 16]), "who", TX));
        nexts.push(value.rejoin(Members::only(leg), TX));
        nexts.push(value.wiped(leg, TX));
    }
    for next in nexts.into_iter().flatten() {
        assert_eq!(next.check(), Ok(()), "{value:?} became {next:?}");
        let _ = outcome(&value, &next, &next);
        let _ = outcome(&value, &next, &value);
        assert_eq!(
            Register::from_json(&next.to_json()).expect("own value is read"),
            next
        );
    }
}
