//! One MirroredVolume, from what is seen to what is said: the impure rim around `crate::volume`.
//!
//! ```text
//! observe      copies, /scale, register, evidence, peer       no change anywhere
//! plan         crate::volume::plan                            pure
//! carry out    the actions in order, up to the first failure
//! status       crate::volume::status, written when it changed
//! ```
//! Invariants: nothing of a volume is done under a claim that is not ours; a round that dies between any two actions is
//! finished by the next one, which plans anew from what is there.

mod carry_out;
mod observe;
pub mod orphan;
mod register;
mod scale;
mod write;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{ResourceExt as _, runtime::reflector::ObjectRef};
use twinsite_api::{
    Attachment, AttachmentMode, MirroredVolume, VolumeId, condition, condition_type, reason,
    set_condition,
};
use twinsite_register::GroupId;

use super::{odd, operator::Operator, own::VolumeKey, queue::Outcome};
use crate::{
    volume::{self, Desired, Observed, Plan, names},
    witness::{Access, Pace},
};
pub use scale::Kinds;
use write::{WORDS, Written};

/// A settled volume is looked at this often, for what no watch tells.
const AT_LEAST: Duration = Duration::from_secs(60);
/// How often a volume is looked at whose parties have not spoken since the start.
const GATHERING: Duration = Duration::from_millis(250);
/// A plan that wants to be made again sooner than this has something under way.
const UNDER_WAY: Duration = Duration::from_secs(2);

/// One round of one volume.
pub async fn reconcile(operator: &Operator, key: &VolumeKey) -> Outcome {
    let Some(object) = operator.own.volume(key) else {
        operator.metrics.forget_volume(key);
        operator.told_never(key);
        return Outcome::Settled;
    };
    if operator.is_gathering(&object.spec.site_pair, super::own::id_of(&object)) {
        return Outcome::Again(GATHERING);
    }
    let id = super::own::id_of(&object);
    if let Some(why) = observe::unreadable(operator, key, id) {
        return hold(operator, &object, &why).await;
    }
    let desired = observe::desired(operator, object);
    let observed = observe::observe(operator, &desired).await;
    let now = Timestamp::now();
    let plan = volume::plan(&desired, &observed, now);
    if !plan.is_empty() {
        tracing::info!(volume = %desired.reference(), "plan:\n{plan}");
    }
    if plan.took_permit {
        operator.permits.take();
    }
    let failure = carry_out::carry_out(operator, &desired, &observed, &plan).await;
    if let Some(failure) = &failure {
        tracing::warn!(volume = %desired.reference(), action = failure.action, error = failure.error, "a step failed: planning anew");
    }
    let said = volume::status(
        &desired,
        &observed,
        &plan,
        failure.as_ref(),
        Timestamp::now(),
    );
    operator
        .metrics
        .see_volume(key, &said.status, &desired.site);
    for event in &said.events {
        write::tell(operator, &desired, event);
    }
    let written = write::status(operator, &desired.volume, &said.status).await;
    follow(operator, &desired, &observed, &plan, id);
    if let Err(error) = &written
        && error.code() != Some(404)
    {
        tracing::warn!(volume = %desired.reference(), %error, "the status could not be written");
    }
    match (failure, written) {
        (None, Ok(written)) => {
            let limit = match written {
                Written::Done => AT_LEAST,
                Written::Later => WORDS,
            };
            Outcome::Again(plan.requeue.unwrap_or(limit).min(limit))
        }
        // An object that is gone is no failure.
        (None, Err(error)) if error.code() == Some(404) => Outcome::Settled,
        _ => Outcome::Failed,
    }
}

/// Of a volume that cannot be read, or a part of which cannot, nothing is changed; it is said once.
async fn hold(operator: &Operator, volume: &MirroredVolume, why: &str) -> Outcome {
    let mut status = volume.status.clone().unwrap_or_default();
    let (generation, now) = (volume.metadata.generation, Timestamp::now());
    for (type_, value) in [
        (condition_type::STALLED, true),
        (condition_type::RECONCILING, false),
    ] {
        let text = odd::unreadable(why);
        set_condition(
            &mut status.conditions,
            condition(
                type_,
                Some(value),
                reason::UNREADABLE,
                text,
                generation,
                Time(now),
            ),
        );
    }
    if let Err(error) = write::status(operator, volume, &status).await {
        tracing::warn!(volume = volume.name_any(), %error, "the status could not be written");
        return Outcome::Failed;
    }
    Outcome::Again(AT_LEAST)
}

/// How closely the register and the beat are looked at from now on.
fn follow(operator: &Operator, desired: &Desired, observed: &Observed, plan: &Plan, id: VolumeId) {
    let Some(access) = operator.links.witness(&desired.volume.spec.site_pair) else {
        return;
    };
    let soon = plan.requeue.is_some_and(|after| after <= UNDER_WAY);
    let pace = if soon || !plan.is_empty() {
        Pace::Busy
    } else {
        Pace::Idle
    };
    access.pace(GroupId(id.bytes()), pace);
    let wanted = volume::wants_beat(desired, observed);
    access.watch_beat(twinsite_register::VolumeId(id.bytes()), wanted);
}

/// The Attachments, of either cluster, that hold a volume open.
pub fn open_attachments(operator: &Operator, pair: &str, id: VolumeId) -> Vec<Arc<Attachment>> {
    let view = operator
        .links
        .parties(pair)
        .and_then(|parties| parties.peer.ok()??.view());
    [AttachmentMode::Writer, AttachmentMode::Caretaker]
        .iter()
        .map(|mode| names::attachment_name(id, *mode))
        .flat_map(|name| {
            let own = operator.own.attachments.store.get(&ObjectRef::new(&name));
            own.into_iter()
                .chain(view.as_ref().and_then(|view| view.attachment(&name)))
        })
        .collect()
}

/// Volumes of a pair that are in use at the other site: those whose move a silence may start.
pub fn at_peer(operator: &Operator, access: &Access, pair: &str) -> BTreeSet<VolumeKey> {
    let other = |volume: &MirroredVolume| {
        let status = volume.status.as_ref()?;
        let active = status.active_site.as_ref()?;
        (active.name == access.identity().peer).then_some(())
    };
    operator
        .own
        .volumes
        .store
        .state()
        .iter()
        .filter(|volume| volume.spec.site_pair == pair && other(volume).is_some())
        .map(|volume| (volume.namespace().unwrap_or_default(), volume.name_any()))
        .collect()
}
