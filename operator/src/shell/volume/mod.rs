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
    Attachment, AttachmentMode, MirrorGroup, MirroredVolume, VolumeId, condition, condition_type,
    reason, set_condition,
};
use twinsite_register::GroupId;

use super::{
    odd,
    operator::Operator,
    own::{VolumeKey, id_of, volume_key},
    queue::Outcome,
    watch::RequestError,
};
use crate::{
    volume::{
        self, Desired, Failure, Observed, Plan, Status,
        group::{Group, Member, Plans},
        names,
    },
    witness::{Access, Pace},
};
pub use scale::Kinds;
use write::{WORDS, Written};

/// A settled volume is looked at this often, for what no watch tells.
const AT_LEAST: Duration = Duration::from_secs(60);
/// How often a volume is looked at whose parties have not spoken since the start.
pub const GATHERING: Duration = Duration::from_millis(250);
/// A plan that wants to be made again sooner than this has something under way.
const UNDER_WAY: Duration = Duration::from_secs(2);

/// One round of one volume.
pub async fn reconcile(operator: &Operator, key: &VolumeKey) -> Outcome {
    let Some(object) = operator.own.volume(key) else {
        operator.metrics.forget_volume(key);
        operator.told_never(key);
        return Outcome::Settled;
    };
    if let Some(group) = &object.spec.group {
        let key = (key.0.clone(), group.clone());
        operator.queue.add(super::operator::Key::Group(key));
        return Outcome::Settled;
    }
    let id = id_of(&object);
    if operator.is_gathering(&object.spec.site_pair, id.into()) {
        return Outcome::Again(GATHERING);
    }
    if let Some(why) = observe::unreadable(operator, key, id) {
        return hold(operator, &object, &why).await;
    }
    let desired = observe::desired(operator, object, None);
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
    let busy = is_busy(&plan);
    let (written, _) = say(
        operator,
        &desired,
        &observed,
        (&plan, busy),
        failure.as_ref(),
    )
    .await;
    round_of(&[plan], failure, vec![written])
}

type Write = Result<Written, RequestError>;

/// Says what became of a volume, and follows it as closely as that asks for.
async fn say(
    operator: &Operator,
    desired: &Desired,
    observed: &Observed,
    (plan, busy): (&Plan, bool),
    failure: Option<&Failure>,
) -> (Write, Status) {
    if let Some(failure) = failure {
        tracing::warn!(volume = %desired.reference(), action = failure.action, error = failure.error, "a step failed: planning anew");
    }
    let said = volume::status(desired, observed, plan, failure, Timestamp::now());
    let key = volume_key(&desired.volume);
    operator
        .metrics
        .see_volume(&key, &said.status, &desired.site);
    for event in &said.events {
        write::tell(operator, desired, event);
    }
    let written = write::status(operator, &desired.volume, &said.status).await;
    follow(
        operator,
        desired,
        busy,
        volume::wants_beat(desired, observed),
    );
    if let Err(error) = &written
        && error.code() != Some(404)
    {
        tracing::warn!(volume = %desired.reference(), %error, "the status could not be written");
    }
    (written, said)
}

/// What follows from a round for the next one.
pub fn round_of(plans: &[Plan], failure: Option<Failure>, written: Vec<Write>) -> Outcome {
    let mut limit = AT_LEAST;
    let mut is_gone = true;
    for written in &written {
        match written {
            Ok(Written::Done) => is_gone = false,
            Ok(Written::Later) => (is_gone, limit) = (false, WORDS),
            // An object that is gone is no failure.
            Err(error) if error.code() == Some(404) => {}
            Err(_) => return Outcome::Failed,
        }
    }
    if failure.is_some() {
        return Outcome::Failed;
    }
    if is_gone {
        return Outcome::Settled;
    }
    let soonest = plans.iter().filter_map(|plan| plan.requeue).min();
    Outcome::Again(soonest.unwrap_or(limit).min(limit))
}

/// What is seen of a group and its volumes.
pub async fn observe_group(
    operator: &Operator,
    (namespace, name): &VolumeKey,
    object: Option<Arc<MirrorGroup>>,
    pair: &str,
    volumes: Vec<Arc<MirroredVolume>>,
) -> Group {
    let view = operator
        .links
        .parties(pair)
        .and_then(|parties| parties.peer.ok()??.view());
    let twin = view.and_then(|view| view.group(namespace, name));
    let unreadable = unreadable_group(operator, namespace, name, object.as_deref(), &volumes);
    let mut members = Vec::new();
    for volume in volumes {
        let desired = observe::desired(operator, volume, object.as_ref());
        let mut seen = observe::observe(operator, &desired).await;
        if let (Some(twin), Some(theirs)) = (&twin, &seen.peer.volume) {
            seen.peer.volume = Some(Arc::new(twin.lend(theirs)));
        }
        members.push(Member { desired, seen });
    }
    let mut group = Group {
        namespace: namespace.clone(),
        name: name.clone(),
        object,
        twin,
        unreadable,
        volumes: members,
    };
    group.join();
    group
}

/// Why the group, one of its volumes or a part of one cannot be read in this cluster.
pub(super) fn unreadable_group(
    operator: &Operator,
    namespace: &str,
    name: &str,
    object: Option<&MirrorGroup>,
    volumes: &[Arc<MirroredVolume>],
) -> Option<String> {
    let own = &operator.own;
    if let Some(why) = own.groups.odd.unreadable(namespace, name) {
        return Some(format!("MirrorGroup {namespace}/{name}: {why}"));
    }
    let of_volume = |volume: &str, why: String| format!("MirroredVolume {volume}: {why}");
    let named = object.into_iter().flat_map(|object| &object.spec.volumes);
    let mut hidden = named.filter_map(|volume| {
        let why = own.volumes.odd.unreadable(namespace, volume)?;
        Some(of_volume(volume, why))
    });
    let mut parts = volumes.iter().filter_map(|volume| {
        let why = observe::unreadable(operator, &volume_key(volume), id_of(volume))?;
        Some(of_volume(&volume.name_any(), why))
    });
    hidden.next().or_else(|| parts.next())
}

/// Carries out the plans of a group up to the first failure, and says of each volume what became of it.
pub async fn carry_out_group(
    operator: &Operator,
    group: &Group,
    plans: &Plans,
) -> (Option<Failure>, Vec<Write>, Vec<Status>) {
    let mut failed: Option<(usize, Failure)> = None;
    for (of, at) in plans.order() {
        let (Some(one), Some(plan)) = (group.volumes.get(of), plans.plans.get(of)) else {
            continue;
        };
        let Some(action) = plan.actions.get(at) else {
            continue;
        };
        if let Some(failure) = carry_out::one(operator, &one.desired, &one.seen, plan, action).await
        {
            failed = Some((of, failure));
            break;
        }
    }
    // They have one register.
    let busy = plans.plans.iter().any(is_busy);
    let (mut writes, mut all) = (Vec::new(), Vec::new());
    for (of, (one, plan)) in group.volumes.iter().zip(&plans.plans).enumerate() {
        let failure = failed.as_ref().filter(|(at, _)| *at == of);
        let failure = failure.map(|(_, failure)| failure);
        let (written, said) = say(operator, &one.desired, &one.seen, (plan, busy), failure).await;
        writes.push(written);
        all.push(said);
    }
    (failed.map(|(_, failure)| failure), writes, all)
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

/// Something is under way.
fn is_busy(plan: &Plan) -> bool {
    let soon = plan.requeue.is_some_and(|after| after <= UNDER_WAY);
    soon || !plan.is_empty()
}

/// How closely the register, and the beat if it is wanted, are looked at from now on.
fn follow(operator: &Operator, desired: &Desired, busy: bool, wanted: bool) {
    let Some(access) = operator.links.witness(&desired.volume.spec.site_pair) else {
        return;
    };
    let pace = if busy { Pace::Busy } else { Pace::Idle };
    access.pace(GroupId(desired.register_id().bytes()), pace);
    let beat = twinsite_register::VolumeId(desired.id().bytes());
    access.watch_beat(beat, wanted);
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
