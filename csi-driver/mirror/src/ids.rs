//! The names of legs, epochs, keys and ids, as the register defines them.

pub use twinsite_register::{
    AttachmentUid, Epoch, Gen, GroupId, Key, KeyTag, Leg, Members, Naa, RegisterId, Site, StampId,
    TxId, VolumeId,
};
