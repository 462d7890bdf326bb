//! May these orders be those of one group?

use super::AttachOrder;

/// Most volumes of a group.
pub const MAX_VOLUMES: usize = 64;

/// Why orders cannot be those of one group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GroupError {
    /// None, or too many.
    #[error("a group has 1 to {MAX_VOLUMES} volumes, not {0}")]
    Count(usize),
    /// The same volume twice.
    #[error("volume {0} is named twice")]
    Twice(twinsite_register::VolumeId),
    /// Key, seed, uid of the group, site, node, move, mode, marks and limits are one for all.
    #[error(
        "the orders of a group differ in more than volume, record, device and what may be initialised"
    )]
    Differ,
}

/// The first of orders that differ only where volumes may.
pub(super) fn one_group(orders: &[AttachOrder]) -> Result<Option<&AttachOrder>, GroupError> {
    if orders.is_empty() || orders.len() > MAX_VOLUMES {
        return Err(GroupError::Count(orders.len()));
    }
    for (at, order) in orders.iter().enumerate() {
        if orders[..at]
            .iter()
            .any(|other| other.volume == order.volume)
        {
            return Err(GroupError::Twice(order.volume));
        }
    }
    let Some(first) = orders.first() else {
        return Ok(None);
    };
    let alike = |order: &AttachOrder| {
        let made_alike = AttachOrder {
            volume: first.volume,
            record: first.record.clone(),
            shown: first.shown,
            initialize: first.initialize,
            ..order.clone()
        };
        made_alike == *first
    };
    if orders.iter().all(alike) {
        Ok(Some(first))
    } else {
        Err(GroupError::Differ)
    }
}
