//! What a Failover object says of itself: which volumes it names, how far each is.
//!
//! The moves themselves are made by each volume's own plan, which sees the order; here nothing acts. An order is over for a
//! volume once the object's status says Done or Failed: it is one-shot, and never draws the volume again.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use k8s_openapi::jiff::Timestamp;
use twinsite_api::{
    Condition, Failover, FailoverMode, FailoverState, FailoverStatus, FailoverVolume, GroupId,
    LegIndex, MirroredVolume, MirroredVolumeStatus, VolumeId, condition, condition_type, reason,
    set_condition,
};
use twinsite_register::Register;

use crate::volume::token;

/// A volume that the order may name.
#[derive(Clone, Debug)]
pub struct VolumeView {
    pub volume: Arc<MirroredVolume>,
    /// Its register, if the witness answers.
    pub register: Option<Arc<Register>>,
    /// Index of the order's target site.
    pub to: Option<LegIndex>,
}

/// Whether the order names this volume, or the group that it is in.
pub fn selects(order: &Failover, volume: &MirroredVolume) -> bool {
    let spec = &order.spec;
    let selection = &spec.volumes;
    let namespace = volume.metadata.namespace.as_deref().unwrap_or("");
    let name = volume.metadata.name.as_deref().unwrap_or("");
    if volume.spec.site_pair != spec.site_pair
        || selection
            .namespace
            .as_deref()
            .is_some_and(|wanted| wanted != namespace)
    {
        return false;
    }
    if selection.all == Some(true) {
        return true;
    }
    if let Some(names) = &selection.names {
        let group = volume.spec.group.as_deref();
        return names
            .iter()
            .any(|wanted| wanted == name || Some(wanted.as_str()) == group);
    }
    selection
        .selector
        .as_ref()
        .is_some_and(|selector| matches(selector, volume))
}

/// Whether what it does cannot be taken back: a copy may be given up by it.
pub const fn is_final(mode: FailoverMode) -> bool {
    match mode {
        FailoverMode::Planned | FailoverMode::Unplanned => false,
        FailoverMode::Force | FailoverMode::Reseed => true,
    }
}

/// The status of an order that asks for something that is not known: carried out by half it might do harm.
pub fn refused(order: &Failover, fields: &str, now: Timestamp) -> FailoverStatus {
    let mut status = order.status.clone().unwrap_or_default();
    status.state = FailoverState::Failed;
    let text = format!(
        "{fields}: not known to version {}, and an order is carried out as a whole or not at all: upgrade twinsite in both clusters, then make a new order",
        crate::shell::odd::VERSION
    );
    let generation = order.metadata.generation;
    set_condition(
        &mut status.conditions,
        condition(
            condition_type::READY,
            Some(false),
            reason::UNKNOWN_FIELDS,
            text,
            generation,
            Time(now),
        ),
    );
    status
}

/// Whether the order has nothing more to say about this volume.
pub fn is_over(order: &Failover, namespace: &str, name: &str) -> bool {
    let Some(status) = &order.status else {
        return false;
    };
    let over = |state| matches!(state, FailoverState::Done | FailoverState::Failed);
    let told = status
        .volumes
        .iter()
        .find(|volume| volume.namespace == namespace && volume.name == name);
    told.map_or(over(status.state), |told| over(told.state))
}

/// A label selector as Kubernetes reads it; an operator that is not known selects nothing.
fn matches(selector: &LabelSelector, volume: &MirroredVolume) -> bool {
    let labels = volume.metadata.labels.clone().unwrap_or_default();
    let equal = selector
        .match_labels
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    let expressed = selector.match_expressions.iter().flatten().all(|wanted| {
        let value = labels.get(&wanted.key);
        let among = || {
            value.is_some_and(|value| wanted.values.iter().flatten().any(|known| known == value))
        };
        match wanted.operator.as_str() {
            "In" => among(),
            "NotIn" => !among(),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    });
    equal && expressed
}

/// The status of the order, from the volumes that it names; what is over stays as it was told.
pub fn status(order: &Failover, volumes: &[VolumeView], now: Timestamp) -> FailoverStatus {
    let old = order.status.clone().unwrap_or_default();
    if matches!(old.state, FailoverState::Done | FailoverState::Failed) {
        return old;
    }
    let mut told: Vec<FailoverVolume> = volumes
        .iter()
        .map(|view| told_of(order, &old, view))
        .collect();
    // A volume that was deleted meanwhile stays in the record.
    let gone = old.volumes.iter().filter(|known| {
        !told
            .iter()
            .any(|volume| volume.namespace == known.namespace && volume.name == known.name)
    });
    let gone: Vec<FailoverVolume> = gone.cloned().collect();
    told.extend(gone);
    told.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
    let any = |state| told.iter().any(|volume| volume.state == state);
    let state = if told.is_empty() {
        FailoverState::Failed
    } else if any(FailoverState::Running) || any(FailoverState::Pending) {
        FailoverState::Running
    } else if any(FailoverState::Failed) {
        FailoverState::Failed
    } else {
        FailoverState::Done
    };
    let (ready, word, message) = match state {
        FailoverState::Failed if told.is_empty() => (
            Some(false),
            reason::INVALID_SPEC,
            "the order names no volume of this pair: correct its selection in a new order"
                .to_owned(),
        ),
        FailoverState::Failed => {
            let failed = told
                .iter()
                .find(|volume| volume.state == FailoverState::Failed);
            (
                Some(false),
                "Failed",
                failed
                    .and_then(|volume| volume.message.clone())
                    .unwrap_or_default(),
            )
        }
        FailoverState::Done => (Some(true), reason::AS_DESIRED, String::new()),
        FailoverState::Pending | FailoverState::Running => {
            let waits = told
                .iter()
                .find_map(|volume| volume.message.clone().filter(|text| !text.is_empty()));
            (None, "Moving", waits.unwrap_or_default())
        }
    };
    let mut conditions = old.conditions;
    let generation = order.metadata.generation;
    set_condition(
        &mut conditions,
        condition(
            condition_type::READY,
            ready,
            word,
            message,
            generation,
            Time(now),
        ),
    );
    FailoverStatus {
        state,
        seconds: seconds(order, state, &told),
        volumes: told,
        conditions,
    }
}

/// From the order to the last first write.
fn seconds(order: &Failover, state: FailoverState, told: &[FailoverVolume]) -> Option<f64> {
    let ordered = order.metadata.creation_timestamp.as_ref()?.0;
    let firsts = told.iter().filter_map(|volume| {
        volume
            .timeline
            .as_ref()?
            .first_write_at
            .as_ref()
            .map(|at| at.0)
    });
    let last = firsts.max().filter(|_| state == FailoverState::Done)?;
    Some(last.duration_since(ordered).as_secs_f64().max(0.0))
}

fn told_of(order: &Failover, old: &FailoverStatus, view: &VolumeView) -> FailoverVolume {
    let volume = &view.volume;
    let namespace = volume.metadata.namespace.clone().unwrap_or_default();
    let name = volume.metadata.name.clone().unwrap_or_default();
    let known = old
        .volumes
        .iter()
        .find(|known| known.namespace == namespace && known.name == name);
    if let Some(known) =
        known.filter(|known| matches!(known.state, FailoverState::Done | FailoverState::Failed))
    {
        return known.clone();
    }
    let mut told = FailoverVolume {
        namespace,
        name,
        state: FailoverState::Running,
        timeline: None,
        message: None,
    };
    let is_there = view.register.as_deref().is_some_and(|register| {
        view.to
            .is_some_and(|to| register.active.site == crate::volume::situation::site_of(to))
    });
    let status = volume.status.as_ref();
    // The account of the move is in the volume's status, which may be a round behind the register.
    let is_told = status
        .and_then(|status| status.active_site.as_ref())
        .is_some_and(|active| active.name == order.spec.to);
    let since = order.metadata.creation_timestamp.as_ref().map(|at| at.0);
    let last = volume
        .status
        .as_ref()
        .and_then(|status| status.last_move.clone());
    let this = |last: &twinsite_api::LastMove| {
        last.to == order.spec.to
            && last
                .detected_at
                .as_ref()
                .is_some_and(|at| since.is_none_or(|since| at.0 >= since))
    };
    told.timeline = last.filter(this);
    if order.spec.mode == FailoverMode::Reseed {
        reseeded(order, view, &mut told);
    } else if order.spec.mode == FailoverMode::Force {
        forced(order, view, is_there, &mut told);
    } else if is_there && is_told {
        arrived(order, view, &mut told);
    } else {
        told.message = Some(waits_for(volume));
    }
    told
}

fn waits_for(volume: &MirroredVolume) -> String {
    let conditions = volume
        .status
        .as_ref()
        .map_or(&[][..], |status| &status.conditions);
    let told = |type_: &str| {
        let condition = conditions
            .iter()
            .find(|condition| condition.type_ == type_ && condition.status == "True")?;
        (!condition.message.is_empty()).then(|| condition.message.clone())
    };
    told(condition_type::STALLED)
        .or_else(|| told(condition_type::RECONCILING))
        .unwrap_or_default()
}

/// The register names the target; the order is done when the first write is told of, or nothing is there to write.
fn arrived(order: &Failover, view: &VolumeView, told: &mut FailoverVolume) {
    let spec = &view.volume.spec;
    let binds_elsewhere = spec.active_site.as_deref() != Some(order.spec.to.as_str());
    let latched = view
        .register
        .as_ref()
        .is_some_and(|register| register.active.latched);
    if binds_elsewhere && !latched {
        // Until the latch is set the spec would draw the volume back.
        told.message = Some("moved; the latch is being set".to_owned());
        return;
    }
    let writes = spec
        .workloads
        .iter()
        .flatten()
        .any(|workload| workload.replicas > 0);
    let begun = told.timeline.as_ref();
    match begun {
        Some(last) if writes && last.first_write_at.is_none() => {
            told.message = Some("moved; waits for the first write".to_owned());
        }
        Some(_) => told.state = FailoverState::Done,
        None => {
            told.state = FailoverState::Done;
            told.message = Some(format!("was at {} already", order.spec.to));
        }
    }
}

/// Done once the register is the one that this order makes. Of another one nothing is known here: whether it is believed is
/// the volume's own matter.
fn reseeded(order: &Failover, view: &VolumeView, told: &mut FailoverVolume) {
    let namespace = view.volume.metadata.namespace.as_deref().unwrap_or("");
    let name = view.volume.metadata.name.as_deref().unwrap_or("");
    let pair = &view.volume.spec.site_pair;
    let of = match &view.volume.spec.group {
        Some(group) => GroupId::of_group(pair, namespace, group),
        None => VolumeId::of(pair, namespace, name).into(),
    };
    let wanted = crate::volume::reseed::register_id(order, of);
    let is_ours =
        |register: &Register| register.register_id == wanted || register.former.contains(&wanted);
    let status = view.volume.status.as_ref();
    let stalled = status.and_then(stalled);
    if view.register.as_deref().is_some_and(is_ours) {
        told.state = FailoverState::Done;
    } else if let Some(why) = refusal(order, &view.volume) {
        told.state = FailoverState::Failed;
        told.message = Some(why);
    } else if view.register.is_some() && status.is_some() && stalled.is_none() {
        told.state = FailoverState::Failed;
        told.message = Some(
            "the witness has a register of this volume that is believed here: there is nothing to reseed; if the other site does not believe it, order the reseed to that site"
                .to_owned(),
        );
    } else {
        told.message = Some(waits_for(&view.volume));
    }
}

fn stalled(status: &MirroredVolumeStatus) -> Option<&Condition> {
    let mut conditions = status.conditions.iter();
    conditions.find(|one| one.type_ == condition_type::STALLED && one.status == "True")
}

/// Why the volume's plan does not carry the order out: it is not done later by itself, when nobody thinks of it any more.
fn refusal(order: &Failover, volume: &MirroredVolume) -> Option<String> {
    let named = format!(
        "Failover {}: ",
        order.metadata.name.as_deref().unwrap_or("")
    );
    let told = &stalled(volume.status.as_ref()?)?.message;
    told.starts_with(&named).then(|| told.clone())
}

fn forced(order: &Failover, view: &VolumeView, is_there: bool, told: &mut FailoverVolume) {
    let Some(accepted) = &order.spec.force else {
        told.state = FailoverState::Failed;
        told.message = Some("a Force needs spec.force with epoch and token of a plan".to_owned());
        return;
    };
    let Some(register) = view.register.as_deref() else {
        told.message = Some("the witness does not answer: a force needs the register".to_owned());
        return;
    };
    let named = order.metadata.name.as_deref().unwrap_or("");
    let ours = |note: &&twinsite_register::Note| note.forced && note.who.ends_with(named);
    if is_there
        && register.epoch.0 > accepted.expect_epoch
        && register.note.iter().any(|note| ours(&note))
    {
        told.state = FailoverState::Done;
        told.message = (!register.unconfirmed.is_empty()).then(|| {
            "the copy that was given up stays as it is until a person lets it be overwritten: see the condition SplitBrain"
                .to_owned()
        });
    } else if register.epoch.0 != accepted.expect_epoch || token(register) != accepted.token {
        told.state = FailoverState::Failed;
        told.message = Some(format!(
            "the register is at epoch {} and changed since the plan: read a new one with `kubectl twinsite plan`",
            register.epoch
        ));
    } else if let Some(why) = refusal(order, &view.volume) {
        told.state = FailoverState::Failed;
        told.message = Some(why);
    } else {
        told.message = Some(waits_for(&view.volume));
    }
}

#[cfg(test)]
mod tests;
