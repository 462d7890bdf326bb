//! Status of pools, legs and pairs.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use twinsite_api::{
    Condition, LegIndex, LegSpec, LegState, LegStatus, SiteClaim, SitePairStatus,
    StoragePoolStatus, condition, condition_type, reason, rounded, set_condition,
};
use twinsite_register::Site;

use crate::{
    backend::Capacity,
    control::{
        storage::{Fault, LegSample},
        witnesses::PairState,
    },
};

/// What is known of a pool.
#[derive(Clone, Debug, Default)]
pub struct PoolView {
    pub generation: Option<i64>,
    pub fault: Option<Fault>,
    pub space: Option<(Capacity, String)>,
    pub legs: u32,
    pub conditions: Vec<Condition>,
}

/// What is known of a leg.
#[derive(Clone, Debug, Default)]
pub struct LegView {
    pub generation: Option<i64>,
    pub served: bool,
    pub fault: Option<Fault>,
    pub sample: Option<LegSample>,
    pub conditions: Vec<Condition>,
}

/// What is known of a pair.
#[derive(Clone, Debug, Default)]
pub struct PairView {
    pub generation: Option<i64>,
    pub site: String,
    pub state: Option<PairState>,
    pub conditions: Vec<Condition>,
}

pub fn pool_status(view: &mut PoolView, now: Time) -> StoragePoolStatus {
    let (ready, word, text) = match &view.fault {
        None => (true, reason::AS_DESIRED, String::new()),
        Some(fault) => (false, fault.word, fault.text.clone()),
    };
    set_condition(
        &mut view.conditions,
        condition(
            condition_type::READY,
            Some(ready),
            word,
            text,
            view.generation,
            now,
        ),
    );
    StoragePoolStatus {
        observed_generation: view.generation,
        capacity_bytes: view.space.as_ref().map(|(capacity, _)| capacity.total),
        free_bytes: view.space.as_ref().map(|(capacity, _)| capacity.free),
        capacity: view
            .space
            .as_ref()
            .map(|(capacity, _)| rounded(capacity.total)),
        free: view
            .space
            .as_ref()
            .map(|(capacity, _)| rounded(capacity.free)),
        legs: view.legs,
        marker: view.space.as_ref().map(|(_, marker)| marker.clone()),
        observed_at: None,
        conditions: view.conditions.clone(),
    }
}

pub fn leg_status(spec: &LegSpec, view: &mut LegView, now: Time) -> LegStatus {
    let state = match (view.served, &view.fault) {
        (true, _) => LegState::Serving,
        (false, Some(_)) => LegState::Failed,
        (false, None) => LegState::Pending,
    };
    let (ready, word, text) = match (&view.fault, state) {
        (Some(fault), _) => (Some(view.served), fault.word, fault.text.clone()),
        (None, LegState::Serving) => (Some(true), reason::AS_DESIRED, String::new()),
        (None, _) => (None, reason::PENDING, String::new()),
    };
    set_condition(
        &mut view.conditions,
        condition(
            condition_type::READY,
            ready,
            word,
            text,
            view.generation,
            now,
        ),
    );
    let unit = view
        .sample
        .as_ref()
        .and_then(|sample| sample.stats.luns.iter().find(|lun| lun.number == spec.lun));
    LegStatus {
        observed_generation: view.generation,
        state,
        message: view.fault.as_ref().map(|fault| fault.text.clone()),
        portals: view
            .sample
            .iter()
            .flat_map(|sample| &sample.addresses)
            .map(ToString::to_string)
            .collect(),
        iqn: view.served.then(|| spec.target_name()),
        lun: view.served.then_some(spec.lun),
        naa: view.served.then(|| spec.naa_text()),
        size: view.served.then(|| spec.size.bytes()),
        allocated_bytes: view.sample.as_ref().and_then(|sample| sample.allocated),
        boot_id: unit.map(|unit| format!("{:016x}", unit.boot_id)),
        sessions: view.sample.as_ref().map_or(0, |sample| {
            u32::try_from(sample.stats.sessions.len()).unwrap_or(u32::MAX)
        }),
        last_foreign_command_age: view
            .sample
            .as_ref()
            .and_then(|sample| sample.last_foreign)
            .map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        observed_at: None,
        conditions: view.conditions.clone(),
    }
}

pub fn pair_status(view: &mut PairView, now: Time) -> SitePairStatus {
    let state = view.state.clone().unwrap_or_default();
    let generation = view.generation;
    let mut set = |type_: &str, status, word: &str, text: String| {
        set_condition(
            &mut view.conditions,
            condition(type_, status, word, text, generation, now.clone()),
        );
    };
    match (&state.refused, state.reachable) {
        (Some(why), _) => set(
            condition_type::WITNESS_REACHABLE,
            Some(false),
            reason::WITNESS_UNSAFE,
            why.clone(),
        ),
        (None, Some(true)) => set(
            condition_type::WITNESS_REACHABLE,
            Some(true),
            reason::AS_DESIRED,
            String::new(),
        ),
        (None, Some(false)) => {
            let text = "no answer; volumes go on, but a lost leg makes them wait".to_owned();
            set(
                condition_type::WITNESS_REACHABLE,
                Some(false),
                reason::WITNESS_NEEDED,
                text,
            );
        }
        (None, None) => set(
            condition_type::WITNESS_REACHABLE,
            None,
            reason::PENDING,
            String::new(),
        ),
    }
    let claimed = state.sites.named(&view.site).is_some();
    match &state.claim_error {
        Some(why) => set(
            condition_type::SITE_CLAIMED,
            Some(false),
            reason::CLAIMED_BY_ANOTHER,
            why.clone(),
        ),
        None if claimed => set(
            condition_type::SITE_CLAIMED,
            Some(true),
            reason::AS_DESIRED,
            String::new(),
        ),
        None => set(
            condition_type::SITE_CLAIMED,
            None,
            reason::PENDING,
            String::new(),
        ),
    }
    let ready = claimed
        && state.reachable == Some(true)
        && state.refused.is_none()
        && state.claim_error.is_none();
    let word = if ready {
        reason::AS_DESIRED
    } else {
        reason::PENDING
    };
    set(condition_type::READY, Some(ready), word, String::new());
    let claims = state.sites.claims.iter().map(|claim| SiteClaim {
        name: claim.name.clone(),
        index: match claim.index {
            Site::A => LegIndex::A,
            Site::B => LegIndex::B,
        },
        claimant: claim.claimant.clone(),
    });
    SitePairStatus {
        observed_generation: view.generation,
        site: Some(view.site.clone()),
        claims: claims.collect(),
        peer_seen_at: None,
        conditions: view.conditions.clone(),
    }
}
