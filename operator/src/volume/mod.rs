//! What one cluster does about one MirroredVolume.
//!
//! `observe -> validate -> plan -> apply -> status`: the shell observes and applies; this module is the pure middle.
//! [`plan`] is total: any objects, however broken, give a plan, perhaps one that only says what is wrong. Planning again
//! after everything was carried out gives no actions.
//!
//! What every plan keeps:
//! - no spec of an object that people or Git write is touched; workloads are scaled by /scale only;
//! - workloads never run at two sites by our hand: up only at the site that the register names, or under a move record
//!   that names the register's present `active.seq`;
//! - a Leg goes only when the register is a tombstone or the leg was dropped; a PersistentVolume only when nothing is attached;
//! - a volume is born only if no register, no mark and no word of the peer says that it ever lived;
//! - what keeps the local site going never needs the peer.
//!
//! Volumes of a group share one register: the first of them decides, once, what concerns the register and the site, and the others do the
//! same under that decision ([`group::plan`]).
//!
//! | file | what |
//! |---|---|
//! | `desired`, `observed`, `situation` | what goes in; what follows from it at once |
//! | `action`, `names` | what comes out; what objects are called |
//! | `birth`, `deletion`, `orphan`, `reseed`, `force` | how a volume comes, goes, is left over, and what a person may order |
//! | `copies`, `place`, `attachments`, `device` | Legs, the pool of a copy, orders to agents, the device that pods have |
//! | `binding`, `workloads` | PersistentVolume and claim; replicas |
//! | `edits`, `twins` | the register's fields that are ours; the same object in the other cluster |
//! | `group` | several volumes, one decision |
//! | `status` | what is said |
//!
//! Not here: clients, watches, the witness (`shell`); when an automatic move is right (`policy`); what a Failover object
//! says of itself (`failover`).

mod action;
pub(crate) mod attachments;
mod binding;
mod birth;
mod copies;
mod deletion;
mod desired;
mod device;
mod edits;
mod force;
pub mod group;
pub mod names;
mod observed;
pub mod orphan;
mod place;
pub mod reseed;
pub(crate) mod situation;
mod status;
mod twins;
mod workloads;

use k8s_openapi::jiff::Timestamp;
use twinsite_api::{FailoverMode, FailoverPolicy, Leaving, MoveRecord, reason};

use crate::moves;
use situation::Situation;

pub use action::{Action, AttachmentChange, Plan, RegisterChange, Why};
pub use desired::Desired;
pub use force::token;
pub use observed::{
    Evidence, FailoverOrder, NodeView, Observed, Peer, PodView, Reach, Reading,
    VolumeAttachmentView, Witness, WorkloadView,
};
pub use status::{Event, Failure, Status, status};

/// What to do now with a volume that is in no group.
pub fn plan(desired: &Desired, seen: &Observed, now: Timestamp) -> Plan {
    plan_with(desired, seen, now, Lead::Own).0
}

/// Who decides about what volumes with one register have in common.
enum Lead<'a> {
    /// This volume, for itself and those that share its register.
    Own,
    /// Another one, and this is what it decided.
    Of(&'a Decided),
}

/// What was decided about the register and the site.
struct Decided {
    course: moves::Course,
    record: Option<MoveRecord>,
    leaving: Option<Leaving>,
}

fn plan_with(
    desired: &Desired,
    seen: &Observed,
    now: Timestamp,
    lead: Lead<'_>,
) -> (Plan, Decided) {
    let mut plan = Plan::default();
    let mut decided = Decided {
        course: moves::Course::Stay,
        record: None,
        leaving: None,
    };
    let situation = match Situation::of(desired, seen, now) {
        Ok(situation) => situation,
        Err(why) => {
            let last = desired.volume.status.as_ref();
            plan.leaving = last.and_then(|status| status.leaving.clone());
            if desired.is_going() && desired.is_held() {
                // What cannot be judged is not destroyed; the object does not have to stay for it.
                plan.act(Action::RemoveFinalizer);
            }
            if why.word == reason::WITNESS_NEEDED {
                plan.wait(why.word, why.message);
            } else {
                plan.stall(why.word, why.message);
            }
            return (plan, decided);
        }
    };
    let is_first = matches!(lead, Lead::Own);
    if desired.is_going() && !group::stays(&situation) {
        if is_first {
            attachments::lost_nodes(&situation, &mut plan);
        }
        deletion::plan(&situation, is_first, &mut plan);
        return (plan, decided);
    }
    // An API server takes no finalizer for what is being deleted.
    if !desired.is_held() && !desired.is_going() {
        plan.act(Action::AddFinalizer);
    }
    // The shell stops at the first action that fails: what keeps data in use comes before what prepares or tidies.
    match lead {
        Lead::Own => {
            decided.course = moves::course(&situation, &mut plan);
            if let moves::Course::Arrive(record) = &decided.course {
                plan.move_record = Some(record.clone());
            }
            decided.record.clone_from(&plan.move_record);
            decided.leaving.clone_from(&plan.leaving);
        }
        Lead::Of(theirs) => {
            decided.course = theirs.course.clone();
            plan.move_record.clone_from(&theirs.record);
            plan.leaving.clone_from(&theirs.leaving);
        }
    }
    let course = &decided.course;
    let known = situation.last().and_then(|status| status.move_.as_ref());
    if let Some(record) = plan
        .move_record
        .clone()
        .filter(|record| known != Some(record))
    {
        plan.act(Action::RecordMove(record));
    }
    if is_first {
        workloads::plan(&situation, course, &mut plan);
    }
    attachments::plan(&situation, course, is_first, &mut plan);
    if is_first {
        device::plan(&situation, &mut plan);
        let wish = situation
            .live()
            .and_then(|register| moves::wish(&situation, register));
        edits::plan(&situation, wish.as_ref(), &mut plan);
    }
    force::plan(&situation, &mut plan);
    reseed::plan(&situation, is_first, &mut plan);
    copies::plan(&situation, &mut plan);
    birth::plan(&situation, is_first, &mut plan);
    binding::plan(&situation, &mut plan);
    tell_of_the_twin(&situation, &mut plan);
    group::tell_of_those_that_go(&situation, &mut plan);
    if situation
        .live()
        .is_some_and(|register| situation.is_active(register))
        && wants_beat(desired, seen)
    {
        // What is decided next follows from time alone.
        plan.again(SOON);
    }
    (plan, decided)
}

/// How soon a plan is made again that waits for time to pass.
const SOON: std::time::Duration = std::time::Duration::from_secs(2);

/// Whether plans of this volume depend on how long its beat has stood still, so that it is worth reading often.
pub fn wants_beat(desired: &Desired, seen: &Observed) -> bool {
    if reseed::wants_beat(&desired.site, &seen.failovers) {
        return true;
    }
    let (Some(pair), Some(own), Some(register)) =
        (desired.pair.as_deref(), desired.index, seen.witness.last())
    else {
        return false;
    };
    if register.holder.is_none() {
        return false;
    }
    if register.active.site != situation::site_of(own) {
        let ordered = |order: &FailoverOrder| {
            order.object.spec.mode == FailoverMode::Unplanned
                && order.object.spec.to == desired.site
        };
        // With policy Manual it is worth its reads only once a person may have to be told.
        let is_silent = seen
            .evidence
            .site_still_for
            .is_some_and(|still| still >= SILENT);
        return pair.spec.failover.policy != FailoverPolicy::Manual
            || is_silent
            || seen.failovers.iter().any(ordered);
    }
    // At the active site: is the holder's node lost, or nobody left who holds?
    let silent = |node: &str| {
        seen.node(node)
            .is_some_and(|node| node.gone || node.silent_for.is_some_and(|silent| silent >= SILENT))
    };
    let mut holders = seen
        .attachments
        .iter()
        .filter(|attachment| !attachment.spec.mode.is_one_shot())
        .peekable();
    holders.peek().is_none() || holders.any(|holder| silent(&holder.spec.node))
}

/// A node, or the other site, that is silent for this long may turn out to be lost.
const SILENT: std::time::Duration = std::time::Duration::from_secs(5);

fn tell_of_the_twin(situation: &Situation<'_>, plan: &mut Plan) {
    let Some(twin) = situation.twin() else {
        return;
    };
    if let Some(lacks) = &situation.seen.peer.lacks {
        return plan.wait(twins::DIFFERS, lacks.clone());
    }
    let different = twins::differences(situation.spec(), twin);
    if !different.is_empty() {
        let text = format!("the two clusters' specs differ in {}", different.join(", "));
        plan.wait(twins::DIFFERS, text);
    }
}

#[cfg(test)]
mod tests;
