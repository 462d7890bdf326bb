//! What an initiator reads out of a target's answers, and what a unit restores from its store.

use twinsite_iscsi::scsi::client::{
    BlockLimits, Capabilities, Capacity, FullStatus, Identity, Keys, Provisioning,
    ReservationStatus, naa,
};
use twinsite_iscsi::scsi::{PrState, Sense, TargetAge};

/// One answer as every kind of answer.
pub fn answers(data: &[u8]) {
    let _ = Identity::parse(data);
    let _ = naa(data);
    let _ = BlockLimits::parse(data);
    let _ = Provisioning::parse(data);
    if let Ok(capacity) = Capacity::parse(data) {
        assert!(capacity.bytes() >= u64::from(capacity.block));
    }
    if let Ok(keys) = Keys::parse(data) {
        assert!(keys.keys.len() * 8 <= data.len(), "keys out of nothing");
    }
    let _ = ReservationStatus::parse(data);
    if let Ok(status) = FullStatus::parse(data) {
        assert!(status.registrants.len() * 24 <= data.len());
    }
    let _ = Capabilities::parse(data);
    let _ = TargetAge::parse(data);
    let _ = PrState::restore(data);
    if let Some(sense) = Sense::parse(data) {
        let again = Sense::parse(&sense.emit()).expect("own sense is read");
        assert_eq!((again.key, again.code), (sense.key, sense.code));
    }
}
