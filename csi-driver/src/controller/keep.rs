//! Keeps the orders of published volumes true to their volumes.
//!
//! A pod may be published before the operator has written the record of a move, and a volume may grow, get other portals or
//! lose a leg while it is published. The caller of ControllerPublish has its answer then and does not call again: so the
//! order follows its volume here.
//!
//! Invariants: only the spec that the builder gives is written, only to Attachments that publishing made, and only if nobody
//! else has written meanwhile. What cannot be built now stays as it is. Every replica does so twice a second for as long as it runs: it
//! asks the API server for nothing but the pairs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kube::ResourceExt as _;
use twinsite_api::{Attachment, AttachmentSpec, MirroredVolume, Quantity, SitePair, order};

use super::{
    company::TOGETHER_ANNOTATION,
    identity,
    objects::{Objects, Result},
    publish::WISH_ANNOTATION,
};
use crate::serve::Stop;

/// How often the orders are compared with their volumes.
const TURN: Duration = Duration::from_millis(500);
/// After an error.
const RETRY: Duration = Duration::from_secs(5);

/// Compares and mends until it is told to stop.
pub async fn keep(objects: &dyn Objects, stop: Stop) {
    let turns = async {
        loop {
            let pause = match turn(objects).await {
                Ok(()) => TURN,
                Err(error) => {
                    tracing::warn!(%error, "published volumes are not looked after now");
                    RETRY
                }
            };
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        () = turns => {}
        () = stop.wait() => {}
    }
}

pub(super) async fn turn(objects: &dyn Objects) -> Result<()> {
    let published: Vec<Arc<Attachment>> = objects
        .attachments_lately()
        .await?
        .into_iter()
        .filter(|one| {
            let made = [WISH_ANNOTATION, TOGETHER_ANNOTATION];
            made.iter().any(|key| one.annotations().contains_key(*key))
        })
        .filter(|one| one.metadata.deletion_timestamp.is_none())
        .collect();
    if published.is_empty() {
        return Ok(());
    }
    let volumes = objects.volumes().await?;
    let volumes: BTreeMap<_, _> = volumes
        .iter()
        .map(|volume| (identity(volume), volume))
        .collect();
    let mut pairs: BTreeMap<String, Option<SitePair>> = BTreeMap::new();
    for attachment in published {
        let Some(volume) = volumes.get(&attachment.spec.volume) else {
            continue;
        };
        let named = &volume.spec.site_pair;
        if !pairs.contains_key(named) {
            pairs.insert(named.clone(), objects.pair(named).await?);
        }
        let Some(Some(pair)) = pairs.get(named) else {
            continue;
        };
        if let Some(spec) = mended(&attachment.spec, volume, pair) {
            let name = attachment.name_any();
            tracing::info!(name, "the order follows its volume");
            let mut attachment = Attachment::clone(&attachment);
            attachment.spec = spec;
            objects.change_attachment(&attachment).await?;
        }
    }
    Ok(())
}

/// What an order must say now, if it does not.
fn mended(
    there: &AttachmentSpec,
    volume: &MirroredVolume,
    pair: &SitePair,
) -> Option<AttachmentSpec> {
    let mut spec = order::attachment(volume, pair, &there.site, &there.node, there.mode).ok()?;
    // The operator's word alone: it says so before the volume's status does.
    spec.release = there.release;
    // The device grows once both legs have.
    let status = volume.status.as_ref();
    let ready = status.and_then(|status| status.capacity.as_ref());
    let ready = ready.map_or(0, Quantity::bytes).min(spec.size.bytes());
    spec.size = if ready > there.size.bytes() {
        Quantity::from_bytes(ready)
    } else {
        there.size.clone()
    };
    (spec != *there).then_some(spec)
}

#[cfg(test)]
mod tests {
    use twinsite_api::{AttachmentMode, MoveMode, MoveRecord};

    use super::*;
    use crate::controller::tests::{pair, volume};

    fn published(volume: &MirroredVolume) -> AttachmentSpec {
        order::attachment(volume, &pair(), "medical", "m1", AttachmentMode::Writer).unwrap()
    }

    #[test]
    fn an_order_that_is_true_is_left_alone() {
        let volume = volume("records");
        assert_eq!(mended(&published(&volume), &volume, &pair()), None);
    }

    #[test]
    fn a_move_ordered_after_publishing_reaches_the_order() {
        let mut volume = volume("records");
        let before = published(&volume);
        volume.status.as_mut().unwrap().move_ = Some(MoveRecord {
            mode: MoveMode::Planned,
            expect_seq: 4,
            ordered_at: None,
            reason: None,
            by_person: false,
        });
        let after = mended(&before, &volume, &pair()).unwrap();
        assert_eq!(after.move_.as_ref().unwrap().expect_seq, 4);
        assert_eq!(mended(&after, &volume, &pair()), None);
    }

    #[test]
    fn whether_a_volume_is_released_is_left_to_the_operator() {
        let volume = volume("records");
        let mut there = published(&volume);
        there.release = true;
        assert_eq!(mended(&there, &volume, &pair()), None);
    }

    #[test]
    fn the_device_is_ordered_to_grow_when_both_legs_have() {
        let mut volume = volume("records");
        let before = published(&volume);
        let larger = Quantity::from_bytes(before.size.bytes() * 2);
        volume.spec.capacity = larger.clone();
        assert_eq!(mended(&before, &volume, &pair()), None);
        volume.status.as_mut().unwrap().capacity = Some(larger.clone());
        let after = mended(&before, &volume, &pair()).unwrap();
        assert_eq!(after.size.bytes(), larger.bytes());
    }

    #[test]
    fn an_order_that_cannot_be_built_now_stays() {
        let mut volume = volume("records");
        let before = published(&volume);
        volume.status.as_mut().unwrap().legs.clear();
        assert_eq!(mended(&before, &volume, &pair()), None);
    }
}
