//! What is said of a volume: status, conditions and events, from the same observation as the plan.
//!
//! The same observation gives the same status, so that a round in which nothing happened writes nothing. Events are made of
//! what differs from the last status, never of a state that lasts.
//! `Ready` means that this site can do its role now: serve the volume, or take it over.

mod account;
mod conditions;

use k8s_openapi::jiff::Timestamp;
use twinsite_api::{
    ActiveSite, Attached, AttachmentMode, Condition, MirroredVolumeStatus, Quantity, Role,
    VerifyReport, VerifyState, condition_type, reason, set_condition,
};

use super::situation::Situation;
use super::{Desired, Observed, Plan, copies, device, group};
use crate::moves;

/// What is to be written into the status, and the events of what changed since the last one.
#[derive(Clone, Debug, Default)]
pub struct Status {
    pub status: MirroredVolumeStatus,
    pub events: Vec<Event>,
}

/// Something that changed: an event on the MirroredVolume and, where it says so, on the claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub warning: bool,
    /// CamelCase.
    pub reason: &'static str,
    pub note: String,
    pub on_claim: bool,
}

/// An action that could not be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The action's line.
    pub action: String,
    /// What the API server or witness answered.
    pub error: String,
}

/// The status after a plan was carried out, or as far as it was.
pub fn status(
    desired: &Desired,
    seen: &Observed,
    plan: &Plan,
    failure: Option<&Failure>,
    now: Timestamp,
) -> Status {
    let old = desired.volume.status.clone().unwrap_or_default();
    let mut new = old.clone();
    new.observed_generation = desired.volume.metadata.generation;
    new.volume_id = Some(desired.id());
    let is_grouped = desired.volume.spec.group.is_some();
    new.group = group::company(desired).or(new.group.filter(|_| is_grouped));
    new.move_.clone_from(&plan.move_record);
    new.leaving.clone_from(&plan.leaving);
    let situation = Situation::of(desired, seen, now).ok();
    let record = plan.move_record.as_ref();
    new.awaited = situation
        .as_ref()
        .zip(record)
        .and_then(|(situation, record)| moves::awaited(situation, record));
    if let Some(situation) = &situation {
        whereabouts(situation, &mut new);
        account::last_move(situation, &old, &mut new);
    }
    for condition in conditions::all(desired, seen, plan, failure, situation.as_ref(), &new, now) {
        set_condition(&mut new.conditions, condition);
    }
    new.conditions
        .retain(|condition| conditions::stays(condition, plan, seen));
    let events = events(&old, &new, failure);
    Status {
        status: new,
        events,
    }
}

fn whereabouts(situation: &Situation<'_>, new: &mut MirroredVolumeStatus) {
    new.legs = copies::entries(situation);
    let percent = new.legs.iter().find_map(|leg| leg.resync_percent);
    new.resync = percent.map(|percent| format!("{percent}%"));
    if let Some(register) = situation.live() {
        new.epoch = Some(register.epoch.0);
        new.active_site = Some(ActiveSite {
            name: situation.site_name(register.active.site).to_owned(),
            seq: register.active.seq,
            latched: register.active.latched,
        });
    }
    let active = new
        .active_site
        .as_ref()
        .map_or(situation.active_site_wanted(), |active| &active.name);
    new.role = Some(if active == situation.site {
        Role::Active
    } else {
        Role::Standby
    });
    let open = copies::open_attachment(situation);
    let writer = open.filter(|(attachment, _)| attachment.spec.mode == AttachmentMode::Writer);
    let nobody = situation
        .live()
        .is_some_and(|register| register.holder.is_none());
    match writer {
        Some((attachment, _)) => {
            new.attached = Some(Attached {
                site: attachment.spec.site.clone(),
                node: attachment.spec.node.clone(),
            });
        }
        // What the peer does is not known while it is silent; the register may still say that nobody holds it.
        None if nobody || situation.seen.peer.reach.answers() => new.attached = None,
        None => {}
    }
    let told = open.and_then(|(attachment, _)| attachment.status.as_ref()?.verify.as_ref());
    if let Some(told) = told.filter(|told| is_news(told, new.verify.as_ref())) {
        new.verify = Some(told.clone());
    }
    new.device = device::of(situation, new.device.as_ref());
    if let Some(size) = open.and_then(|(attachment, _)| attachment.status.as_ref()?.size) {
        new.capacity = Some(Quantity::from_bytes(size));
    } else if new.capacity.is_none() && situation.live().is_some() {
        new.capacity = Some(situation.spec().capacity.clone());
    }
}

/// Whether a node tells of a comparison that is later than the one known: each node keeps the last one of its own, and the
/// volume may have been compared on another since.
fn is_news(told: &VerifyReport, known: Option<&VerifyReport>) -> bool {
    let last = |report: &VerifyReport| {
        let at = report.ended_at.as_ref().unwrap_or(&report.started_at);
        at.0
    };
    told.state == VerifyState::Running || known.is_none_or(|known| last(told) >= last(known))
}

fn of_type<'a>(status: &'a MirroredVolumeStatus, type_: &str) -> Option<&'a Condition> {
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_)
}

fn is(status: &MirroredVolumeStatus, type_: &str, value: &str) -> bool {
    of_type(status, type_).is_some_and(|condition| condition.status == value)
}

/// It answers, but what it says of this volume cannot be used.
fn unreadable<'a>(status: &'a MirroredVolumeStatus, type_: &str) -> Option<&'a Condition> {
    of_type(status, type_).filter(|one| one.reason == reason::UNREADABLE)
}

fn events(
    old: &MirroredVolumeStatus,
    new: &MirroredVolumeStatus,
    failure: Option<&Failure>,
) -> Vec<Event> {
    let mut events = Vec::new();
    let mut tell = |warning, reason, note: String, on_claim| {
        events.push(Event {
            warning,
            reason,
            note,
            on_claim,
        })
    };
    if let (Some(before), Some(after)) = (&old.active_site, &new.active_site)
        && before.seq != after.seq
    {
        let note = format!("active at {} since move {}", after.name, after.seq);
        tell(false, "Moved", note, true);
    }
    if old.move_ != new.move_
        && let Some(record) = &new.move_
    {
        let why = record.reason.as_deref().unwrap_or("ordered");
        tell(
            record.mode == twinsite_api::MoveMode::Failover,
            "MoveOrdered",
            format!("{:?}: {why}", record.mode),
            true,
        );
    }
    // That peer or witness does not answer is told of once, at the SitePair, and not at each of its volumes.
    for type_ in [
        condition_type::PEER_REACHABLE,
        condition_type::WITNESS_REACHABLE,
    ] {
        match (unreadable(old, type_), unreadable(new, type_)) {
            (None, Some(after)) => tell(true, reason::UNREADABLE, after.message.clone(), false),
            (Some(_), None) if is(new, type_, "True") => {
                tell(false, "Readable", over(type_).to_owned(), false);
            }
            _ => {}
        }
    }
    for (type_, good, when_good, when_bad) in [
        (condition_type::IN_SYNC, "True", "InSync", "Degraded"),
        (condition_type::STALLED, "False", "Resumed", "Stalled"),
        (
            condition_type::LEGS_DIFFER,
            "False",
            "LegsEqual",
            "LegsDiffer",
        ),
        (
            condition_type::SPLIT_BRAIN,
            "False",
            "SplitBrainResolved",
            "SplitBrain",
        ),
        (
            condition_type::AUTOMATIC_FAILOVER,
            "False",
            "FailoverNotAdvised",
            "FailoverAdvised",
        ),
    ] {
        let Some(after) = of_type(new, type_) else {
            continue;
        };
        let before = of_type(old, type_);
        // A state that lasts is told once; of what stalls a volume, each new reason.
        let reason_counts = type_ == condition_type::STALLED;
        let changed = before.is_none_or(|before| {
            before.status != after.status || (reason_counts && before.reason != after.reason)
        });
        let is_good = after.status == good;
        let was_good =
            before.is_none_or(|before| before.status == good || before.status == "Unknown");
        if after.status == "Unknown" || !changed || (is_good && before.is_none_or(|_| was_good)) {
            continue;
        }
        let note = if after.message.is_empty() {
            over(type_).to_owned()
        } else {
            after.message.clone()
        };
        let on_claim = matches!(type_, condition_type::IN_SYNC | condition_type::SPLIT_BRAIN);
        tell(
            !is_good,
            if is_good { when_good } else { when_bad },
            note,
            on_claim,
        );
    }
    if let Some(refused) = of_type(new, condition_type::REQUEST_REFUSED)
        && of_type(old, condition_type::REQUEST_REFUSED)
            .is_none_or(|before| before.message != refused.message)
    {
        let note = refused.message.clone();
        tell(true, condition_type::REQUEST_REFUSED, note, false);
    }
    let lost = |status| {
        of_type(status, condition_type::READY).filter(|one| one.reason == conditions::NODE_LOST)
    };
    if let (None, Some(lost)) = (lost(old), lost(new)) {
        tell(true, conditions::NODE_LOST, lost.message.clone(), true);
    }
    if is(new, condition_type::READY, "True") && !is(old, condition_type::READY, "True") {
        tell(
            false,
            "Ready",
            of_type(new, condition_type::READY).map_or_else(String::new, |c| c.message.clone()),
            false,
        );
    }
    let first_write = |status: &MirroredVolumeStatus| {
        status
            .last_move
            .as_ref()
            .and_then(|last| last.first_write_at.clone())
    };
    if first_write(old) != first_write(new)
        && let Some(last) = &new.last_move
        && let Some(seconds) = last.seconds
    {
        let note = format!(
            "{} from {} to {} took {seconds:.1} s until the first write",
            last.mode, last.from, last.to
        );
        tell(false, "MoveCompleted", note, true);
    }
    if let Some(failure) = failure {
        let known = of_type(old, condition_type::RECONCILING)
            .is_some_and(|condition| condition.reason == conditions::APPLY_FAILED);
        if !known {
            tell(
                true,
                conditions::APPLY_FAILED,
                format!("{}: {}", failure.action, failure.error),
                false,
            );
        }
    }
    events
}

/// That what was wrong is not wrong any more.
fn over(type_: &str) -> &'static str {
    match type_ {
        condition_type::STALLED => "nothing is in the way any more",
        condition_type::SPLIT_BRAIN => "no copy carries writes that were given up",
        condition_type::PEER_REACHABLE => {
            "what the cluster of the other site shows of the volume can be read again"
        }
        condition_type::WITNESS_REACHABLE => "the register can be used again",
        _ => "it is over",
    }
}

/// Reason of a condition for which there is nothing to say.
const fn as_desired() -> &'static str {
    reason::AS_DESIRED
}
