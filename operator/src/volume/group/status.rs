//! What is said of a group: what its volumes say, the worst of it first.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use twinsite_api::{
    Condition, GroupVolume, MirrorGroup, MirrorGroupStatus, MirroredVolumeStatus, condition,
    condition_type, reason, set_condition,
};

use super::{Group, Plans};
use crate::volume::Event;
use crate::volume::Status;

/// Conditions of a volume that a group has too, and whether True is the good of it.
const SHARED: [(&str, bool); 9] = [
    (condition_type::READY, true),
    (condition_type::RECONCILING, false),
    (condition_type::STALLED, false),
    (condition_type::IN_SYNC, true),
    (condition_type::DEGRADED, false),
    (condition_type::FAILOVER_READY, true),
    (condition_type::SPLIT_BRAIN, false),
    (condition_type::PEER_REACHABLE, true),
    (condition_type::WITNESS_REACHABLE, true),
];

/// The status of a group, and what is news of it. `said` is the status of each of its volumes.
pub fn status(
    object: &MirrorGroup,
    group: &Group,
    plans: &Plans,
    said: &[Status],
    now: Timestamp,
) -> (MirrorGroupStatus, Vec<Event>) {
    let old = object.status.clone().unwrap_or_default();
    let generation = object.metadata.generation;
    let mut new = old.clone();
    new.observed_generation = generation;
    new.group = Some(object.id());
    let named: Vec<(&str, &Status)> = group
        .volumes
        .iter()
        .zip(said)
        .filter(|(one, _)| group.names(one))
        .map(|(one, said)| (one.desired.name(), said))
        .collect();
    new.volumes = object
        .spec
        .volumes
        .iter()
        .map(|name| {
            let told = named.iter().find(|(known, _)| known == name);
            told.map_or_else(
                || absent(name),
                |(name, said)| of_volume(name, &said.status),
            )
        })
        .collect();
    // What all have in common is told by the first: by it others are decided.
    if let Some((_, first)) = named.first() {
        let first = &first.status;
        new.role = first.role;
        new.active_site.clone_from(&first.active_site);
        new.epoch = first.epoch;
        new.move_.clone_from(&first.move_);
        new.last_move.clone_from(&first.last_move);
    }
    for (type_, is_good) in SHARED {
        let (status, word, message) = match (&plans.trouble, type_) {
            (Some(why), condition_type::STALLED | condition_type::RECONCILING) => {
                (Some(true), why.word.to_owned(), why.message.clone())
            }
            _ => worst(&named, type_, is_good),
        };
        let one = condition(type_, status, &word, message, generation, Time(now));
        set_condition(&mut new.conditions, one);
    }
    let events = named
        .first()
        .map_or_else(Vec::new, |(_, first)| first.events.clone());
    (new, events)
}

fn absent(name: &str) -> GroupVolume {
    GroupVolume {
        name: name.to_owned(),
        volume_id: None,
        ready: "False".to_owned(),
        message: "it is not there, or does not name the group in spec.group".to_owned(),
    }
}

fn of_type<'a>(status: &'a MirroredVolumeStatus, type_: &str) -> Option<&'a Condition> {
    let mut conditions = status.conditions.iter();
    conditions.find(|condition| condition.type_ == type_)
}

fn of_volume(name: &str, status: &MirroredVolumeStatus) -> GroupVolume {
    let ready = of_type(status, condition_type::READY);
    let speaks = |type_: &str, value: &str| {
        of_type(status, type_).filter(|one| one.status == value && !one.message.is_empty())
    };
    let told = speaks(condition_type::STALLED, "True")
        .or_else(|| speaks(condition_type::RECONCILING, "True"))
        .or(ready);
    GroupVolume {
        name: name.to_owned(),
        volume_id: status.volume_id,
        ready: ready.map_or_else(|| "Unknown".to_owned(), |ready| ready.status.clone()),
        message: told.map_or_else(String::new, |told| told.message.clone()),
    }
}

/// What the volumes say of this, the worst of it; who says it, unless all say the same.
fn worst(named: &[(&str, &Status)], type_: &str, is_good: bool) -> (Option<bool>, String, String) {
    let good = if is_good { "True" } else { "False" };
    let badness = |value: &str| match value {
        value if value == good => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let told: Vec<(&str, &Condition)> = named
        .iter()
        .filter_map(|(name, said)| Some((*name, of_type(&said.status, type_)?)))
        .collect();
    if told.len() < named.len() || told.is_empty() {
        return (None, reason::PENDING.to_owned(), String::new());
    }
    let most = told.iter().map(|(_, one)| badness(&one.status)).max();
    let bad: Vec<&(&str, &Condition)> = told
        .iter()
        .filter(|(_, one)| Some(badness(&one.status)) == most)
        .collect();
    let status = match most {
        Some(0) => Some(is_good),
        Some(1) => None,
        _ => Some(!is_good),
    };
    let Some((_, first)) = bad.first() else {
        return (None, reason::PENDING.to_owned(), String::new());
    };
    let alike = bad.len() == named.len() && bad.iter().all(|(_, one)| one.message == first.message);
    let message = if alike {
        first.message.clone()
    } else {
        let lines = bad.iter().filter(|(_, one)| !one.message.is_empty());
        let lines: Vec<String> = lines
            .map(|(name, one)| format!("{name}: {}", one.message))
            .collect();
        lines.join("; ")
    };
    (status, first.reason.clone(), message)
}
