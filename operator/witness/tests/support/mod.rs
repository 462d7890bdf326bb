//! A register to swap, and the numbers in it that tell one value from another.

pub(crate) mod suite;

use twinsite_witness::register::{
    Active, AttachmentUid, Epoch, Gen, GroupId, Members, Order, Register, RegisterId, Site,
    StampId, State, TxId, VERSION, VolumeId,
};

/// The group of every test.
pub(crate) const GROUP: GroupId = GroupId([7; 16]);

/// A live register whose order number is `n`; `who` makes its txid another one.
pub(crate) fn register(n: u64, who: u64) -> Register {
    let mut txid = [0; 16];
    txid[..8].copy_from_slice(&n.to_be_bytes());
    txid[8..].copy_from_slice(&who.to_be_bytes());
    Register {
        version: VERSION,
        register_id: RegisterId([1; 16]),
        group: GROUP,
        volumes: vec![VolumeId([7; 16])],
        state: State::Live,
        epoch: Epoch(3),
        generation: Gen([2; 16]),
        members: Members::BOTH,
        active: Active {
            site: Site::A,
            seq: 1,
            latched: false,
        },
        holder: None,
        stamp_id: StampId([3; 16]),
        order: Order {
            n,
            uid: AttachmentUid([4; 16]),
        },
        txid: TxId(txid),
        granted: Vec::new(),
        former: Vec::new(),
        unconfirmed: Members::NONE,
        no_rejoin: Members::NONE,
        retired: Vec::new(),
        landed: Members::NONE,
        parents: Vec::new(),
        note: Vec::new(),
    }
}
