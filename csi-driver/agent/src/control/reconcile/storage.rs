//! Pools and legs of this node.

use std::time::Duration;

use twinsite_api::{LegSpec, NodeBackend, reason};

use super::{Action, Desired, Observed, Phase, Plan};

/// The pools that this node serves.
fn own_pools(desired: &Desired) -> impl Iterator<Item = (&String, &NodeBackend)> {
    let here = |backend: &NodeBackend| backend.name == desired.node;
    desired
        .objects
        .pools
        .iter()
        .filter(|(_, pool)| pool.spec.site == desired.site)
        .filter_map(|(name, pool)| Some((name, pool.spec.node.as_ref()?)))
        .filter(move |(_, backend)| here(backend))
}

fn own_pool<'a>(desired: &'a Desired, name: &str) -> Option<&'a NodeBackend> {
    own_pools(desired)
        .find(|(own, _)| *own == name)
        .map(|(_, backend)| backend)
}

/// The legs that this node serves.
fn own_leg<'a>(desired: &'a Desired, name: &str) -> Option<&'a LegSpec> {
    let leg = desired.objects.legs.get(name)?;
    (leg.spec.node == desired.node).then_some(&leg.spec)
}

/// Stops what is not wanted any more, or not in this form.
pub(super) fn end(desired: &Desired, observed: &Observed, plan: &mut Plan) {
    // Own volumes detach over the legs that this node serves: those come first.
    let busy = observed
        .volumes
        .values()
        .any(|volume| !matches!(volume.phase, Phase::Over { .. }));
    if desired.stopping && busy {
        return;
    }
    for (name, seen) in &observed.legs {
        let wanted = own_leg(desired, name).filter(|_| !desired.stopping);
        let moved = own_pool(desired, &seen.spec.pool).is_none_or(|backend| {
            observed
                .pools
                .get(&seen.spec.pool)
                .is_some_and(|pool| pool.backend != *backend)
        });
        if wanted.is_none_or(|spec| moved || is_other_unit(spec, &seen.spec)) {
            plan.act(Action::StopLeg { leg: name.clone() });
        }
    }
    for (name, seen) in &observed.pools {
        let wanted = own_pool(desired, name).filter(|_| !desired.stopping);
        if wanted.is_none_or(|backend| *backend != seen.backend) {
            plan.act(Action::ClosePool { pool: name.clone() });
        }
    }
}

/// Whether initiators would see another unit.
fn is_other_unit(wanted: &LegSpec, seen: &LegSpec) -> bool {
    wanted.target_name() != seen.target_name()
        || wanted.naa_text() != seen.naa_text()
        || (wanted.volume, wanted.leg, &wanted.pool) != (seen.volume, seen.leg, &seen.pool)
        || (wanted.lun, wanted.block_size) != (seen.lun, seen.block_size)
}

/// Opens and serves what is wanted.
pub(super) fn begin(desired: &Desired, observed: &Observed, now: Duration, plan: &mut Plan) {
    for (name, backend) in own_pools(desired) {
        match observed.pools.get(name) {
            Some(seen) if seen.backend != *backend => {}
            Some(seen) if seen.failed_at.is_none_or(|at| !plan.may_retry(at, now)) => {}
            Some(_) | None => {
                plan.act(Action::OpenPool {
                    pool: name.clone(),
                    backend: backend.clone(),
                });
            }
        }
    }
    for (name, leg) in &desired.objects.legs {
        if leg.spec.node == desired.node {
            begin_leg(desired, observed, now, name, &leg.spec, plan);
        }
    }
}

fn begin_leg(
    desired: &Desired,
    observed: &Observed,
    now: Duration,
    name: &str,
    spec: &LegSpec,
    plan: &mut Plan,
) {
    if own_pool(desired, &spec.pool).is_none() {
        let message = format!(
            "StoragePool {} is not there, or is not at site {} on node {}: add it, or correct spec.pool or spec.node",
            spec.pool, desired.site, desired.node
        );
        return plan.wait("Leg", name, reason::PENDING, message);
    }
    if plan
        .actions
        .iter()
        .any(|action| matches!(action, Action::StopLeg { leg } if leg == name))
    {
        return;
    }
    match observed.pools.get(&spec.pool) {
        Some(pool) if pool.failed_at.is_none() => {}
        Some(_) => {
            return plan.wait(
                "Leg",
                name,
                reason::PENDING,
                format!("StoragePool {} cannot be opened", spec.pool),
            );
        }
        None => return,
    }
    let Some(seen) = observed.legs.get(name) else {
        return plan.act(Action::ServeLeg {
            leg: name.to_owned(),
            spec: Box::new(spec.clone()),
        });
    };
    if seen.failed_at.is_some_and(|at| !plan.may_retry(at, now)) {
        return;
    }
    let (leg, boxed) = (name.to_owned(), Box::new(spec.clone()));
    if !seen.served {
        plan.act(Action::ServeLeg { leg, spec: boxed });
    } else if spec.size < seen.spec.size {
        let message = format!(
            "the leg has {} and never shrinks: set spec.size back",
            seen.spec.size
        );
        plan.wait("Leg", name, reason::INVALID_SPEC, message);
    } else if spec.size > seen.spec.size {
        plan.act(Action::GrowLeg { leg, spec: boxed });
    } else if (&spec.chap, &spec.initiators) != (&seen.spec.chap, &seen.spec.initiators) {
        plan.act(Action::SetAccess { leg, spec: boxed });
    }
}
