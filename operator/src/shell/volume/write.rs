//! The status of a volume, written when it says something new, and its events.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;
use twinsite_api::{API_VERSION, MirroredVolume, MirroredVolumeStatus, Seen};

use crate::{
    shell::{
        events::{News, Tone},
        operator::Operator,
        own::volume_key,
        watch::{RequestError, within},
    },
    volume::{Desired, Event, names},
};

/// Times that only say when something was last seen are written anew after this many seconds.
const STALE: i64 = 60;
/// A status whose words alone changed, such as an age in a message, is not written more often than this.
pub(super) const WORDS: Duration = Duration::from_secs(5);

/// What became of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It stands there.
    Done,
    /// Only its words are new, and the last ones are young: to be written after [`WORDS`].
    Later,
}

/// How much a status differs from the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Difference {
    None,
    Words,
    More,
}

/// Writes the status if it says something new.
pub(super) async fn status(
    operator: &Operator,
    volume: &MirroredVolume,
    status: &MirroredVolumeStatus,
) -> Result<Written, RequestError> {
    let difference = volume
        .status
        .as_ref()
        .map_or(Difference::More, |old| difference(old, status));
    let key = volume_key(volume);
    match difference {
        Difference::None => return Ok(Written::Done),
        Difference::Words if operator.told_lately(&key, WORDS) => return Ok(Written::Later),
        Difference::Words | Difference::More => {}
    }
    force_status(operator, volume, status).await?;
    operator.told_now(key);
    Ok(Written::Done)
}

/// Writes the status.
pub(super) async fn force_status(
    operator: &Operator,
    volume: &MirroredVolume,
    status: &MirroredVolumeStatus,
) -> Result<(), RequestError> {
    let namespace = volume.namespace().unwrap_or_default();
    let api: Api<Seen<MirroredVolume>> = Api::namespaced(operator.client.clone(), &namespace);
    let patch = json!({
        "apiVersion": API_VERSION,
        "kind": MirroredVolume::kind(&()),
        // An object that was deleted and made again is another one.
        "metadata": { "name": volume.name_any(), "uid": volume.uid() },
        "status": status,
    });
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    operator.metrics.status_writes.inc();
    within(api.patch_status(&volume.name_any(), &params, &Patch::Apply(&patch))).await?;
    Ok(())
}

fn difference(old: &MirroredVolumeStatus, new: &MirroredVolumeStatus) -> Difference {
    let timeless = |status: &MirroredVolumeStatus| {
        let mut status = status.clone();
        status
            .legs
            .iter_mut()
            .for_each(|leg| leg.observed_at = None);
        status
    };
    let wordless = |mut status: MirroredVolumeStatus| {
        status
            .conditions
            .iter_mut()
            .for_each(|one| one.message.clear());
        status
    };
    let (timeless_old, timeless_new) = (timeless(old), timeless(new));
    if timeless_old != timeless_new {
        let same = wordless(timeless_old) == wordless(timeless_new);
        return if same {
            Difference::Words
        } else {
            Difference::More
        };
    }
    let is_stale = old.legs.iter().zip(&new.legs).any(|(old, new)| {
        match (&old.observed_at, &new.observed_at) {
            (Some(old), Some(new)) => new.0.as_second() - old.0.as_second() >= STALE,
            (None, Some(_)) => true,
            (_, None) => false,
        }
    });
    if is_stale {
        Difference::Words
    } else {
        Difference::None
    }
}

/// An event on the volume and, if it concerns pods, on the claim.
pub(super) fn tell(operator: &Operator, desired: &Desired, event: &Event) {
    let tone = if event.warning {
        Tone::Warning
    } else {
        Tone::Normal
    };
    let news = |regarding| News {
        regarding,
        tone,
        reason: event.reason.to_owned(),
        note: event.note.clone(),
    };
    operator.events.tell(news(desired.volume.object_ref(&())));
    if event.on_claim {
        operator.events.tell(news(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("PersistentVolumeClaim".to_owned()),
            namespace: Some(desired.namespace().to_owned()),
            name: Some(desired.volume.spec.claim.name.clone()),
            uid: operator
                .own
                .claim_uid(desired.namespace(), &desired.volume.spec.claim.name),
            ..ObjectReference::default()
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
    use twinsite_api::{VolumeLegState, VolumeLegStatus, condition};

    fn status(message: &str, epoch: u64, second: i64) -> MirroredVolumeStatus {
        let at = |second| Time(Timestamp::from_second(second).unwrap());
        MirroredVolumeStatus {
            epoch: Some(epoch),
            conditions: vec![condition(
                "Ready",
                Some(true),
                "AsDesired",
                message,
                Some(1),
                at(0),
            )],
            legs: vec![VolumeLegStatus {
                site: "medical".to_owned(),
                leg: None,
                state: VolumeLegState::Member,
                dirty_bytes: None,
                resync_percent: None,
                resync_bytes_per_second: None,
                eta_seconds: None,
                portals: Vec::new(),
                target: None,
                observed_at: Some(at(second)),
                observed_by: None,
            }],
            ..MirroredVolumeStatus::default()
        }
    }

    #[test]
    fn ages_alone_are_written_seldom_and_facts_at_once() {
        let old = status("for 5 s", 17, 0);
        for (new, wanted) in [
            (status("for 5 s", 17, 0), Difference::None),
            (status("for 5 s", 17, 59), Difference::None),
            (status("for 5 s", 17, 60), Difference::Words),
            (status("for 6 s", 17, 1), Difference::Words),
            (status("for 6 s", 18, 1), Difference::More),
        ] {
            assert_eq!(difference(&old, &new), wanted, "{new:?}");
        }
    }
}
