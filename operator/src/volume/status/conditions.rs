//! The conditions, each from one function.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{Timestamp, Unit};
use twinsite_api::{
    Attachment, AttachmentMode, AttachmentState, Condition, MirroredVolumeStatus, NodeLossPolicy,
    Role, VerifyState, VolumeLegState, condition, condition_type, parse_naa, reason,
};
use twinsite_register::{Class, Members, Naa, Register};

use super::{Failure, as_desired};
use crate::volume::situation::{self, Situation, index_of};
use crate::volume::{Desired, Observed, Plan, Reach, copies};

/// The node where the volume is attached gives no sign of life.
pub(super) const NODE_LOST: &str = "NodeLost";
/// An action of the last round failed.
pub(super) const APPLY_FAILED: &str = "ApplyFailed";

/// Status, reason and message.
type Said = (Option<bool>, String, String);

fn said(status: Option<bool>, word: &str, message: impl Into<String>) -> Said {
    (status, word.to_owned(), message.into())
}

pub(super) fn all(
    desired: &Desired,
    seen: &Observed,
    plan: &Plan,
    failure: Option<&Failure>,
    situation: Option<&Situation<'_>>,
    new: &MirroredVolumeStatus,
    now: Timestamp,
) -> Vec<Condition> {
    let mut all: Vec<(&str, Said)> = vec![
        (condition_type::READY, ready(plan, situation, new)),
        (condition_type::RECONCILING, reconciling(plan, failure)),
        (condition_type::STALLED, stalled(plan)),
        (condition_type::PEER_REACHABLE, reach(&seen.peer.reach)),
        (
            condition_type::WITNESS_REACHABLE,
            reach(&seen.witness.reach),
        ),
    ];
    if let Some(situation) = situation {
        all.extend([
            (condition_type::IN_SYNC, in_sync(situation, new)),
            (condition_type::DEGRADED, negated(in_sync(situation, new))),
            (
                condition_type::FAILOVER_READY,
                failover_ready(plan, situation, new),
            ),
            (condition_type::SPLIT_BRAIN, split_brain(situation)),
        ]);
        if let Some((attachment, _)) = copies::open_attachment(situation) {
            for type_ in [condition_type::LEG_LOST, condition_type::MEMBERSHIP_UNKNOWN] {
                all.extend(passed_on(attachment, type_).map(|told| (type_, told)));
            }
        }
    }
    all.extend(seen.not_understood().map(|why| {
        let told = said(Some(false), why.word, why.message);
        (condition_type::SPEC_UNDERSTOOD, told)
    }));
    all.extend(legs_differ(new).map(|told| (condition_type::LEGS_DIFFER, told)));
    if let Some(waits) = plan
        .waiting
        .iter()
        .find(|why| why.word == condition_type::WAITING_FOR_LEG)
    {
        all.push((
            condition_type::WAITING_FOR_LEG,
            said(Some(true), reason::PENDING, waits.message.clone()),
        ));
    }
    if let Some(why) = plan.refused.first() {
        let texts: Vec<&str> = plan
            .refused
            .iter()
            .map(|why| why.message.as_str())
            .collect();
        let told = said(Some(true), why.word, texts.join("; "));
        all.push((condition_type::REQUEST_REFUSED, told));
    }
    if let Some(policy) = &plan.policy {
        let advised = matches!(policy.word, "WouldFailOver" | crate::moves::PERSON_NEEDED);
        all.push((
            condition_type::AUTOMATIC_FAILOVER,
            said(Some(advised), policy.word, policy.message.clone()),
        ));
    }
    let generation = desired.volume.metadata.generation;
    let made = |(type_, (status, word, message)): (&str, Said)| {
        condition(type_, status, &word, message, generation, Time(now))
    };
    all.into_iter().map(made).collect()
}

/// Conditions that are there only while they have something to say.
pub(super) fn stays(condition: &Condition, plan: &Plan, seen: &Observed) -> bool {
    match condition.type_.as_str() {
        condition_type::SPEC_UNDERSTOOD => !seen.unknown.is_empty(),
        condition_type::WAITING_FOR_LEG => plan
            .waiting
            .iter()
            .any(|why| why.word == condition_type::WAITING_FOR_LEG),
        condition_type::REQUEST_REFUSED => !plan.refused.is_empty(),
        condition_type::AUTOMATIC_FAILOVER => plan.policy.is_some(),
        _ => true,
    }
}

fn ready(plan: &Plan, situation: Option<&Situation<'_>>, new: &MirroredVolumeStatus) -> Said {
    let Some(situation) = situation else {
        // Not known is not wrong: only what stalls says no.
        let why = plan.stalled.as_ref().or(plan.waiting.first());
        let (word, text) = why.map_or((reason::PENDING, ""), |why| {
            (why.word, why.message.as_str())
        });
        return said(plan.stalled.as_ref().map(|_| false), word, text);
    };
    match (new.role, &plan.stalled) {
        (Some(Role::Active), _) => ready_active(plan, situation),
        // No volume of a group moves before all of them can.
        (_, Some(why)) if situation.desired.group.is_some() => {
            said(Some(false), why.word, why.message.clone())
        }
        _ => ready_standby(situation),
    }
}

fn ready_active(plan: &Plan, situation: &Situation<'_>) -> Said {
    let writer = situation.attachment(AttachmentMode::Writer);
    if let Some(writer) = writer {
        if let Some(told) = without_its_node(situation, &writer.spec.node) {
            return told;
        }
        let status = writer.status.clone().unwrap_or_default();
        let told = || {
            (
                status.reason.clone().unwrap_or_default(),
                status.message.clone().unwrap_or_default(),
            )
        };
        match status.state {
            AttachmentState::Attached => {
                return said(
                    Some(true),
                    as_desired(),
                    format!("attached on {}", writer.spec.node),
                );
            }
            AttachmentState::Suspended => {
                let (word, text) = told();
                let text = if text.is_empty() {
                    "I/O waits".to_owned()
                } else {
                    format!("I/O waits: {text}")
                };
                return said(
                    Some(false),
                    if word.is_empty() {
                        reason::PENDING
                    } else {
                        &word
                    },
                    text,
                );
            }
            AttachmentState::Refused | AttachmentState::Failed | AttachmentState::Superseded => {
                let (word, text) = told();
                return said(
                    Some(false),
                    if word.is_empty() {
                        reason::PENDING
                    } else {
                        &word
                    },
                    text,
                );
            }
            _ => {}
        }
    }
    if let Some(stalled) = &plan.stalled {
        return said(Some(false), stalled.word, stalled.message.clone());
    }
    match (situation.class, situation.live()) {
        (None, _) => said(
            None,
            reason::WITNESS_NEEDED,
            situation.seen.witness.trouble(),
        ),
        (_, None) => said(None, reason::CREATING, "the volume is being made"),
        (_, Some(_)) if writer.is_some() => {
            let node = writer.map_or("a node", |writer| writer.spec.node.as_str());
            said(
                None,
                reason::PENDING,
                format!("{node} is attaching the volume"),
            )
        }
        (_, Some(register))
            if register.members == Members::only(situation.own_leg())
                && !situation.own_is_served() =>
        {
            said(
                Some(false),
                reason::WAIT_MEMBER,
                format!(
                    "the only complete copy is not served: see Leg {}",
                    crate::volume::names::leg_name(situation.id, situation.own)
                ),
            )
        }
        (_, Some(_)) => said(Some(true), as_desired(), "can be attached here"),
    }
}

/// What the agent of a node said last counts no more when nothing is heard of the node.
fn without_its_node(situation: &Situation<'_>, node: &str) -> Option<Said> {
    if situation.is_lost(node) {
        let text = match situation.pair.spec.node_loss.policy {
            NodeLossPolicy::Fence => format!(
                "node {node}, where the volume is attached, gives no sign of life: its writer is fenced, then its pod starts on another node of {}",
                situation.site
            ),
            NodeLossPolicy::Kubernetes => format!(
                "node {node}, where the volume is attached, gives no sign of life: by nodeLoss.policy Kubernetes its pod is let go by Kubernetes alone, after about 11 minutes"
            ),
        };
        return Some(said(Some(false), NODE_LOST, text));
    }
    let view = situation.seen.node(node)?;
    view.agent_silent.then(|| {
        said(
            None,
            reason::AGENT_SILENT,
            format!("attached on {node}, of whose agent nothing is heard: whether the volume works there is not known"),
        )
    })
}

fn ready_standby(situation: &Situation<'_>) -> Said {
    match (situation.class, situation.live()) {
        (None, _) => said(
            None,
            reason::WITNESS_NEEDED,
            situation.seen.witness.trouble(),
        ),
        (Some(Class::Below(_)), _) => said(
            Some(false),
            reason::WITNESS_ROLLED_BACK,
            "the witness was restored",
        ),
        (_, None) => said(None, reason::CREATING, "the volume is being made"),
        (_, Some(register)) if !register.members.contains(situation.own_leg()) => said(
            Some(false),
            "Outdated",
            "the copy of this site lacks writes: it cannot take the volume over",
        ),
        (_, Some(_)) if !situation.own_is_served() => said(
            Some(false),
            reason::WAIT_MEMBER,
            "the copy of this site is not served",
        ),
        (_, Some(_)) => said(Some(true), as_desired(), "can take the volume over"),
    }
}

fn reconciling(plan: &Plan, failure: Option<&Failure>) -> Said {
    if let Some(failure) = failure {
        return said(
            Some(true),
            APPLY_FAILED,
            format!("{}: {}", failure.action, failure.error),
        );
    }
    if let Some(why) = plan.waiting.first() {
        let all: Vec<&str> = plan
            .waiting
            .iter()
            .map(|why| why.message.as_str())
            .collect();
        return said(Some(true), why.word, all.join("; "));
    }
    if plan.is_empty() {
        return said(Some(false), as_desired(), "");
    }
    said(
        Some(true),
        "Working",
        format!("{} steps were taken", plan.actions.len()),
    )
}

fn stalled(plan: &Plan) -> Said {
    match &plan.stalled {
        Some(why) => said(Some(true), why.word, why.message.clone()),
        None => said(Some(false), as_desired(), ""),
    }
}

/// What the last comparison of the copies found. One that is under way takes an alarm back only at its end.
fn legs_differ(new: &MirroredVolumeStatus) -> Option<Said> {
    let verify = new.verify.as_ref()?;
    let differs = verify.found_difference();
    let over = verify.state == VerifyState::Done;
    (differs || over).then(|| said(Some(differs), reason::VERIFIED, verify.sentence()))
}

fn reach(reach: &Reach) -> Said {
    match reach {
        Reach::Unknown => said(None, reason::PENDING, "not asked yet"),
        Reach::Answers => said(Some(true), as_desired(), ""),
        Reach::Silent {
            of_volume: true,
            why,
            ..
        } => said(Some(false), reason::UNREADABLE, why.clone()),
        Reach::Silent { last, why, .. } => {
            let since = last.map_or_else(String::new, |last| {
                let second = last.round(Unit::Second).unwrap_or(last);
                format!(" since {second}")
            });
            said(
                Some(false),
                "Unreachable",
                format!("no answer{since}: {why}"),
            )
        }
    }
}

fn in_sync(situation: &Situation<'_>, new: &MirroredVolumeStatus) -> Said {
    let Some(register) = situation.live() else {
        let told = copies::open_attachment(situation)
            .and_then(|(attachment, _)| passed_on(attachment, condition_type::IN_SYNC));
        return told
            .unwrap_or_else(|| said(None, reason::PENDING, "the register is not known now"));
    };
    if register.members == Members::BOTH {
        return said(
            Some(true),
            as_desired(),
            "both copies have every acknowledged write",
        );
    }
    let missing = [situation.site, situation.other_site]
        .into_iter()
        .find(|site| {
            let leg = if *site == situation.site {
                situation.own_leg()
            } else {
                situation.own_leg().other()
            };
            !register.members.contains(leg)
        });
    let missing = missing.unwrap_or_default();
    let state = new
        .legs
        .iter()
        .find(|leg| leg.site == missing)
        .map(|leg| leg.state);
    let word = state.map_or_else(|| "NoCopy".to_owned(), |state| format!("{state:?}"));
    let outlook = outlook(situation, missing, state);
    said(
        Some(false),
        &word,
        format!("the copy at {missing} lacks writes: {outlook}"),
    )
}

/// What becomes of a copy that lacks writes, and whether somebody has to do something.
fn outlook(situation: &Situation<'_>, missing: &str, state: Option<VolumeLegState>) -> String {
    let leg = if missing == situation.site {
        situation.own_leg()
    } else {
        situation.own_leg().other()
    };
    let is = |set: fn(&Register) -> Members| {
        situation
            .live()
            .is_some_and(|register| set(register).contains(leg))
    };
    let lun = situation.known_target(missing);
    let naa = lun.and_then(|target| parse_naa(&target.naa)).map(Naa);
    let gone = |naa: Naa| {
        situation
            .live()
            .is_some_and(|register| register.is_retired(leg, naa))
    };
    if naa.is_some_and(gone) {
        return format!(
            "its LUN was given up for good ({}): take its leg out of spec.legs, and add it again with another pool",
            crate::volume::names::RETIRE_ANNOTATION
        );
    }
    if is(|register| register.unconfirmed) {
        return "it is not rebuilt before a person says so, see SplitBrain".to_owned();
    }
    if situation.is_drained(missing) {
        return format!("{missing} is drained in the SitePair");
    }
    if situation.leg_spec(missing).is_none() {
        return "spec.legs names it no more".to_owned();
    }
    match state {
        Some(VolumeLegState::Resyncing) => "it is being rebuilt".to_owned(),
        Some(VolumeLegState::Unreachable) => {
            "it is not served; it is rebuilt by itself when it is".to_owned()
        }
        _ => "it is rebuilt by itself once the active site reaches it".to_owned(),
    }
}

fn negated((status, word, message): Said) -> Said {
    (status.map(|status| !status), word, message)
}

fn failover_ready(plan: &Plan, situation: &Situation<'_>, new: &MirroredVolumeStatus) -> Said {
    if let Some(why) = &plan.stalled
        && situation.desired.group.is_some()
    {
        return said(Some(false), why.word, why.message.clone());
    }
    let (in_sync, word, message) = in_sync(situation, new);
    if in_sync != Some(true) {
        return (in_sync, word, message);
    }
    if !situation.seen.witness.reach.answers() {
        return said(
            Some(false),
            reason::WITNESS_NEEDED,
            format!(
                "a move needs the register: {}",
                situation.seen.witness.trouble()
            ),
        );
    }
    let standby = |leg: &&twinsite_api::VolumeLegStatus| {
        new.active_site
            .as_ref()
            .is_some_and(|active| active.name != leg.site)
    };
    match new.legs.iter().find(standby) {
        Some(leg) if leg.state != VolumeLegState::Member => said(
            Some(false),
            reason::WAIT_MEMBER,
            format!("the copy at {} is {:?}", leg.site, leg.state),
        ),
        standby => {
            let site = standby.map_or("the other site", |leg| leg.site.as_str());
            said(
                Some(true),
                as_desired(),
                format!("{site} can take over without losing an acknowledged write"),
            )
        }
    }
}

fn split_brain(situation: &Situation<'_>) -> Said {
    let Some(register) = situation.live() else {
        return said(None, reason::PENDING, "the register is not known now");
    };
    let Some(leg) = register.unconfirmed.iter().next() else {
        return said(Some(false), as_desired(), "");
    };
    let leg = index_of(leg);
    let at = if leg == situation.own {
        situation.site
    } else {
        situation.other_site
    };
    // A word on any volume of a group is one about all.
    let group = situation.desired.group.as_ref();
    let first = group.and_then(|group| group.spec.volumes.first());
    let text = format!(
        "the copy at {at} (leg {leg}) carries writes that a person gave up; it stays as it is until a person lets it be overwritten, in the cluster of {}: kubectl -n {} annotate mirroredvolume {} {}={leg}@{}",
        situation.site_name(register.active.site),
        situation.desired.namespace(),
        first.map_or_else(|| situation.desired.name(), String::as_str),
        crate::volume::names::CONFIRM_ANNOTATION,
        register.epoch
    );
    said(Some(true), reason::LOST_BRANCH, text)
}

fn passed_on(attachment: &Attachment, type_: &str) -> Option<Said> {
    let conditions = &attachment.status.as_ref()?.conditions;
    let told = conditions
        .iter()
        .find(|condition| condition.type_ == type_)?;
    let status = match told.status.as_str() {
        "True" => Some(true),
        "False" => Some(false),
        _ => None,
    };
    let is_open = situation::is_open(attachment);
    is_open.then(|| (status, told.reason.clone(), told.message.clone()))
}
