//! In which pool of this site the copy stands.
//!
//! Once a Leg is there, it stays where it is. A volume that lived before is never given a new, empty file beside its full
//! one: if several pools could hold it and nothing says which one does, a person names it.

use twinsite_api::{HEAD_BYTES, Leg, StoragePool, VolumeLeg, condition_type, reason};

use super::{Why, situation::Situation};

/// The pool for the own copy, or why there is none yet.
pub(super) fn choose<'a>(
    situation: &Situation<'a>,
    wanted: &VolumeLeg,
    lived: bool,
) -> Result<&'a StoragePool, Refused> {
    if let Some(name) = &wanted.pool {
        return named(situation, name);
    }
    let class = wanted.pool_class.as_deref().unwrap_or_default();
    let of_class = situation.seen.pools.iter().map(AsRef::as_ref);
    let mut fit: Vec<&StoragePool> = of_class
        .filter(|pool| {
            pool.spec.site == situation.site && pool.spec.class.as_deref() == Some(class)
        })
        .filter(|pool| pool.spec.array.is_none() && admits(pool, situation.desired.namespace()))
        .collect();
    if fit.is_empty() {
        return Err(Refused::Invalid(format!(
            "site {} has no StoragePool of class {class} that admits namespace {}: make one, or correct spec.legs",
            situation.site,
            situation.desired.namespace()
        )));
    }
    if lived {
        return where_it_was(situation, class, fit);
    }
    let size = situation.spec().capacity.bytes().saturating_add(HEAD_BYTES);
    fit.retain(|pool| is_ready(pool) && !is_taken(situation, pool));
    if fit.is_empty() {
        let text = format!(
            "no StoragePool of class {class} at {} is ready",
            situation.site
        );
        return Err(Refused::Wait(Why::new(reason::PENDING, text)));
    }
    fit.retain(|pool| free(pool).is_none_or(|free| free >= size));
    let most = |pool: &&&StoragePool| {
        (
            free(pool).unwrap_or(u64::MAX),
            std::cmp::Reverse(pool_name(pool).to_owned()),
        )
    };
    fit.iter().max_by_key(most).copied().ok_or_else(|| {
        let text = format!(
            "no StoragePool of class {class} at {} has {size} bytes free: make room, or add a pool",
            situation.site
        );
        Refused::Wait(Why::new(reason::POOL_FULL, text))
    })
}

/// Why no pool was chosen.
pub(super) enum Refused {
    /// A person must change something.
    Invalid(String),
    /// It may become possible by itself.
    Wait(Why),
}

fn named<'a>(situation: &Situation<'a>, name: &str) -> Result<&'a StoragePool, Refused> {
    let pool = situation
        .seen
        .pools
        .iter()
        .map(AsRef::as_ref)
        .find(|pool| pool_name(pool) == name);
    let Some(pool) = pool else {
        let text = format!("StoragePool {name} is not there: make it, or correct spec.legs");
        return Err(Refused::Invalid(text));
    };
    let namespace = situation.desired.namespace();
    if pool.spec.site != situation.site {
        return Err(Refused::Invalid(format!(
            "StoragePool {name} is at site {}, not at {}: correct spec.legs",
            pool.spec.site, situation.site
        )));
    }
    if !admits(pool, namespace) {
        return Err(Refused::Invalid(format!(
            "StoragePool {name} does not admit namespace {namespace}: add it to allowedNamespaces, or name another pool"
        )));
    }
    if is_taken(situation, pool) {
        return Err(Refused::Invalid(format!(
            "StoragePool {name} is one device and carries another volume's leg: name another pool"
        )));
    }
    Ok(pool)
}

/// The pool whose addresses were on record for this site when the cluster lost its objects.
fn where_it_was<'a>(
    situation: &Situation<'a>,
    class: &str,
    fit: Vec<&'a StoragePool>,
) -> Result<&'a StoragePool, Refused> {
    if let [only] = fit[..] {
        return Ok(only);
    }
    let own = situation.last();
    let peer = situation.seen.peer.status();
    let mut recorded = own
        .into_iter()
        .chain(peer)
        .flat_map(|status| &status.legs)
        .filter(|leg| leg.site == situation.site && !leg.portals.is_empty());
    let recorded = recorded.next().map(|leg| &leg.portals);
    let matching: Vec<&StoragePool> = fit
        .into_iter()
        .filter(|pool| recorded.is_some_and(|portals| *portals == pool.spec.portals))
        .collect();
    match matching[..] {
        [only] => Ok(only),
        _ => Err(Refused::Invalid(format!(
            "the volume lived before, and several pools of class {class} at {} could hold its copy: name the one that does in spec.legs[].pool",
            situation.site
        ))),
    }
}

fn pool_name(pool: &StoragePool) -> &str {
    pool.metadata.name.as_deref().unwrap_or("")
}

fn admits(pool: &StoragePool, namespace: &str) -> bool {
    let allowed = &pool.spec.allowed_namespaces;
    allowed.is_empty() || allowed.iter().any(|known| known == namespace)
}

/// A device is one leg as a whole.
fn is_taken(situation: &Situation<'_>, pool: &StoragePool) -> bool {
    let is_device = pool
        .spec
        .node
        .as_ref()
        .is_some_and(|node| node.device.is_some());
    is_device
        && situation
            .seen
            .taken_pools
            .iter()
            .any(|taken| taken == pool_name(pool))
}

fn is_ready(pool: &StoragePool) -> bool {
    let conditions = pool.status.iter().flat_map(|status| &status.conditions);
    let mut ready = conditions.filter(|condition| condition.type_ == condition_type::READY);
    ready.any(|condition| condition.status == "True")
}

fn free(pool: &StoragePool) -> Option<u64> {
    pool.status.as_ref()?.free_bytes
}

/// The pool of a Leg that is there.
pub(super) fn of_leg<'a>(situation: &Situation<'a>, leg: &Leg) -> Option<&'a StoragePool> {
    situation
        .seen
        .pools
        .iter()
        .map(AsRef::as_ref)
        .find(|pool| pool_name(pool) == leg.spec.pool)
}
