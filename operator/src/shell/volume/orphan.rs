//! What is left of a volume whose MirroredVolume is gone here: one round.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{api::core::v1::PersistentVolume, jiff::Timestamp};
use kube::{ResourceExt as _, api::ObjectMeta, runtime::reflector::ObjectRef};
use twinsite_api::{Leg, LegIndex, SitePair, VolumeId};
use twinsite_register::GroupId;

use super::{carry_out, follow, is_busy, observe};
use crate::{
    shell::{operator::Operator, queue::Outcome},
    volume::{
        group, names,
        orphan::{self, Orphan},
    },
};

/// The other cluster may let go without a change here.
const AT_LEAST: Duration = Duration::from_secs(60);

/// One round of what is left of a volume.
pub async fn reconcile(operator: &Operator, id: VolumeId) -> Outcome {
    let Some(mut orphan) = seen(operator, id) else {
        if operator.own.volume_of(id).is_none() {
            operator.links.forget(GroupId(id.bytes()));
        }
        return Outcome::Settled;
    };
    let others = company(operator, &mut orphan);
    let desired = orphan.desired();
    let mut observed = observe::observe(operator, &desired).await;
    if !orphan.company.is_empty() {
        let mut left = vec![(orphan.name.clone(), observed)];
        for other in others {
            let seen = observe::observe(operator, &other.desired()).await;
            left.push((other.name, seen));
        }
        group::join_left(&mut left);
        observed = left.swap_remove(0).1;
    }
    let plan = orphan::plan(&orphan, &observed, Timestamp::now());
    if !plan.is_empty() {
        tracing::info!(volume = %desired.reference(), "plan for what is left:\n{plan}");
    }
    let wanted = orphan::wants_beat(&observed);
    follow(operator, &desired, is_busy(&plan), wanted);
    match carry_out::carry_out(operator, &desired, &observed, &plan).await {
        None => Outcome::Again(plan.requeue.unwrap_or(AT_LEAST).min(AT_LEAST)),
        Some(failure) => {
            tracing::warn!(volume = %desired.reference(), action = failure.action, error = failure.error, "a step failed: planning anew");
            Outcome::Failed
        }
    }
}

/// What else is left here of its group.
fn company(operator: &Operator, orphan: &mut Orphan) -> Vec<Orphan> {
    let Some(group) = orphan.group() else {
        return Vec::new();
    };
    let others = group.volumes.into_iter().filter(|one| *one != orphan.id);
    let others: Vec<Orphan> = others
        .filter_map(|volume| seen(operator, volume))
        .filter(|other| other.leg.is_some())
        .collect();
    let legs = others.iter().chain([&*orphan]);
    orphan.company = legs.filter_map(|one| one.leg.clone()).collect();
    others
}

fn seen(operator: &Operator, id: VolumeId) -> Option<Orphan> {
    let own = &operator.own;
    // One that cannot be read is not gone.
    if own.volume_of(id).is_some() || own.volumes.odd.hides(id) {
        return None;
    }
    let leg = LegIndex::BOTH.iter().find_map(|leg| {
        own.legs
            .store
            .get(&ObjectRef::new(&names::leg_name(id, *leg)))
    });
    let persistent_volume = own
        .persistent_volumes
        .store
        .get(&ObjectRef::new(&names::persistent_volume(id)));
    let ours = persistent_volume.as_ref().filter(|volume| is_ours(volume));
    let metadata = match (&leg, ours) {
        (Some(leg), _) => &leg.metadata,
        (None, Some(volume)) => &volume.metadata,
        (None, None) => return None,
    };
    let namespace = written(metadata, names::NAMESPACE_LABEL)?;
    let name = written(metadata, names::NAME_LABEL)?;
    let pair = pair(operator, leg.as_deref(), id, &namespace, &name);
    let index = pair
        .as_ref()
        .and_then(|pair| observe::index(operator, &pair.name_any()));
    Some(Orphan {
        id,
        namespace,
        name,
        leg,
        persistent_volume,
        pair,
        site: operator.options.site.clone(),
        index,
        company: Vec::new(),
    })
}

/// A PersistentVolume that the CSI provisioner made is its own to delete.
fn is_ours(volume: &PersistentVolume) -> bool {
    volume.labels().contains_key(names::VOLUME_LABEL)
}

/// The pair that the Leg names, or the one from which the identity follows.
fn pair(
    operator: &Operator,
    leg: Option<&Leg>,
    id: VolumeId,
    namespace: &str,
    name: &str,
) -> Option<Arc<SitePair>> {
    match leg {
        Some(leg) => operator.own.pair(&leg.spec.site_pair),
        None => {
            let follows =
                |pair: &Arc<SitePair>| VolumeId::of(&pair.name_any(), namespace, name) == id;
            operator.own.pairs.store.state().into_iter().find(follows)
        }
    }
}

fn written(metadata: &ObjectMeta, key: &str) -> Option<String> {
    let label = metadata.labels.as_ref().and_then(|labels| labels.get(key));
    let annotation = metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(key));
    // A name that is too long for a label stands in the annotation only.
    annotation.or(label).cloned()
}
