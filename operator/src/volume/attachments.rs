//! Orders to agents: changes of what is open, the caretaker, and letting go of a lost node.
//!
//! A caretaker is opened at the active site when nothing else will be: to rebuild a copy without a pod, to clear a dead
//! holder, to carry a move or a drop. It makes way for a pod at once.
//!
//! A node is let go in this order: another agent attaches and thereby fences it (a caretaker, if no new pod can come before);
//! only then do its Attachment, pod and VolumeAttachment go, so that Kubernetes starts the pod elsewhere. Of a volume that is being deleted
//! here they go at once: no agent of this cluster opens it any more, so that no fence would ever come; whoever opens it elsewhere fences first.

use std::sync::Arc;

use twinsite_api::{
    Attachment, AttachmentMode, AttachmentSpec, AttachmentState, MoveRecord, NodeLossPolicy,
    condition_type, order, order::NotYet, reason,
};

use super::situation::{self, Situation, leg_of};
use super::{Action, AttachmentChange, Plan, copies, group, names, workloads};
use crate::moves::Course;

/// Why an agent fails for a while, or because of another volume of the group.
const PASSING: [&str; 5] = [
    reason::NO_LEG,
    reason::WITNESS_NEEDED,
    reason::GROUP_HINDERED,
    "Taken",
    "Changed",
];

/// The order for an agent, from what is known this round.
pub(super) fn order(
    situation: &Situation<'_>,
    node: &str,
    mode: AttachmentMode,
    record: Option<&MoveRecord>,
) -> Result<Attachment, NotYet> {
    let mut volume = (*situation.desired.volume).clone();
    let status = volume.status.get_or_insert_default();
    status.volume_id = Some(situation.id);
    status.group = group::company(situation.desired);
    status.legs = copies::entries(situation);
    status.move_ = record.cloned();
    let mut object = order::object(&volume, situation.pair, situation.site, node, mode)?;
    let (namespace, name) = (situation.desired.namespace(), situation.desired.name());
    object.metadata.labels = Some(names::labels(situation.id, namespace, name));
    Ok(object)
}

/// A one-shot order of a person, as far as an agent is there to carry it out; `named` is what a person called it. Volumes that
/// share a register have theirs on one node.
pub(super) fn one_shot(
    situation: &Situation<'_>,
    mode: AttachmentMode,
    named: &str,
    plan: &mut Plan,
    complete: impl FnOnce(&mut AttachmentSpec),
) {
    let Some(node) = begun(situation, mode).or_else(|| situation.working_node(None)) else {
        return plan.wait(
            reason::PENDING,
            format!("{named}: no agent runs at {}", situation.site),
        );
    };
    match order(situation, node, mode, None) {
        Ok(mut object) => {
            complete(&mut object.spec);
            plan.act(Action::CreateAttachment(Box::new(object)));
        }
        Err(why) => plan.wait(reason::PENDING, format!("{named}: {why}")),
    }
}

/// Why a one-shot order failed for good; `None`: it has not, or the agent tries again by itself.
pub(super) fn failure(attachment: &Attachment) -> Option<&str> {
    let status = attachment.status.as_ref()?;
    let word = status.reason.as_deref().unwrap_or_default();
    let is_final = status.state == AttachmentState::Failed && !PASSING.contains(&word);
    is_final.then(|| status.message.as_deref().unwrap_or(word))
}

/// The node that has such an order of another volume of the group.
pub(super) fn begun<'a>(situation: &Situation<'a>, mode: AttachmentMode) -> Option<&'a str> {
    let mut nodes = situation.of_mode(mode).map(|one| one.spec.node.as_str());
    nodes.find(|node| !situation.is_lost(node))
}

pub(super) fn delete(attachment: &Attachment, plan: &mut Plan) {
    if attachment.metadata.deletion_timestamp.is_none() {
        plan.act(Action::DeleteAttachment {
            name: situation::name(&attachment.metadata),
            uid: situation::uid(&attachment.metadata),
        });
    }
}

/// `first`: of the volumes that share a register, the one that acts on what they have in common.
pub(super) fn plan(situation: &Situation<'_>, course: &Course, first: bool, plan: &mut Plan) {
    let record = plan.move_record.clone();
    for mode in [AttachmentMode::Writer, AttachmentMode::Caretaker] {
        if let Some(there) = situation.attachment(mode) {
            update(situation, there, record.as_ref(), plan);
        }
    }
    if first {
        lost_nodes(situation, plan);
        superseded(situation, plan);
    }
    caretaker(situation, course, record.as_ref(), plan);
}

/// What is open learns of new addresses, a new size, a copy to drop, a move.
fn update(
    situation: &Situation<'_>,
    there: &Attachment,
    record: Option<&MoveRecord>,
    plan: &mut Plan,
) {
    if there.metadata.deletion_timestamp.is_some() {
        return;
    }
    let Ok(mut wanted) = order(situation, &there.spec.node, there.spec.mode, record) else {
        return;
    };
    let goes = plan.leaving.as_ref().is_some_and(|leaving| leaving.down);
    wanted.spec.release = goes && there.spec.mode == AttachmentMode::Writer;
    let (have, want) = (&there.spec, &wanted.spec);
    // A failover's order leaves out a copy that is not known; it is never taken out of one that has it.
    let legs = want.legs.len() >= have.legs.len() && want.legs != have.legs;
    let mut change = AttachmentChange {
        legs: legs.then(|| want.legs.clone()),
        drop_legs: (want.drop_legs != have.drop_legs).then(|| want.drop_legs.clone()),
        move_order: want
            .move_
            .clone()
            .filter(|order| have.move_.as_ref() != Some(order)),
        // An order that outlives its wish would be carried out at the next chance. Without the register nobody knows.
        withdraw_move: want.move_.is_none() && have.move_.is_some() && situation.live().is_some(),
        // An annotation that is taken away orders nothing.
        verify: want
            .verify
            .clone()
            .filter(|asked| have.verify.as_ref() != Some(asked)),
        release: (want.release != have.release).then_some(want.release),
        size: None,
    };
    if want.size.bytes() > have.size.bytes() {
        let both = situation
            .live()
            .is_some_and(|register| register.members == twinsite_register::Members::BOTH);
        match copies::room(situation) {
            Some(room) if both && room >= want.size.bytes() => {
                change.size = Some(want.size.clone())
            }
            _ => plan.wait(
                condition_type::WAITING_FOR_LEG,
                format!(
                    "the volume grows to {} when both copies are in sync and have room",
                    want.size
                ),
            ),
        }
    }
    if change != AttachmentChange::default() {
        plan.act(Action::UpdateAttachment {
            name: situation::name(&there.metadata),
            uid: situation::uid(&there.metadata),
            change,
        });
    }
}

/// Whether an Attachment of a lost node is to go: at once, or once Kubernetes has given the node up and detaches it. A pod's is
/// Kubernetes' matter, the others are nobody's but ours.
fn is_given_up(situation: &Situation<'_>, attachment: &Attachment) -> bool {
    situation.is_lost(&attachment.spec.node)
        && (fences(situation)
            || attachment.spec.mode != AttachmentMode::Writer
            || attachment.metadata.deletion_timestamp.is_some())
}

fn fences(situation: &Situation<'_>) -> bool {
    situation.pair.spec.node_loss.policy == NodeLossPolicy::Fence
}

/// Attachments, pods and VolumeAttachments of nodes that are lost.
pub(super) fn lost_nodes(situation: &Situation<'_>, plan: &mut Plan) {
    // What is left of each volume of a group is dealt with by itself.
    let is_own = |attachment: &Attachment| {
        situation.desired.left_of.is_none() || attachment.spec.volume == situation.id
    };
    let lost: Vec<&Arc<Attachment>> = situation
        .seen
        .attachments
        .iter()
        .filter(|attachment| is_own(attachment) && is_given_up(situation, attachment))
        .collect();
    let is_forgotten = situation.desired.is_going() && !group::stays(situation);
    let mut let_go_of: Vec<&str> = Vec::new();
    for attachment in lost {
        let node = attachment.spec.node.as_str();
        // A one-shot order of a lost node may still be carried out by it; it is guarded by its own fence and txid. A caretaker shows
        // no device, and the next one, which needs its name, fences it.
        let is_harmless = match attachment.spec.mode {
            AttachmentMode::Writer => is_forgotten,
            AttachmentMode::Caretaker => is_forgotten || situation.live().is_some(),
            _ => true,
        };
        if !is_harmless && !situation.is_fenced(attachment) {
            plan.wait(
                reason::PENDING,
                format!("node {node} is lost: its writer is being fenced"),
            );
            continue;
        }
        let is_ours = fences(situation) && attachment.spec.mode == AttachmentMode::Writer;
        if is_ours && !let_go_of.contains(&node) {
            let_go_of.push(node);
            let_go(situation, node, plan);
        }
        delete(attachment, plan);
        let held = attachment
            .metadata
            .finalizers
            .iter()
            .flatten()
            .any(|held| held == names::AGENT_FINALIZER);
        if held {
            plan.act(Action::ReleaseAttachment {
                name: situation::name(&attachment.metadata),
                uid: situation::uid(&attachment.metadata),
            });
        }
    }
    // The Writer may have gone before its pod and VolumeAttachment did.
    let knows = is_forgotten || situation.live().is_some();
    if knows && fences(situation) && situation.of_mode(AttachmentMode::Writer).next().is_none() {
        let seen = situation.seen;
        let attached = seen.volume_attachments.iter().map(|one| one.node.as_str());
        // A pod that was placed there again, before Kubernetes counts the node as not ready, is attached nowhere: Kubernetes
        // takes the volume for attached to this node, and looks only once a minute.
        let placed = seen.pods.iter().filter_map(|pod| pod.node.as_deref());
        let mut nodes: Vec<&str> = attached.chain(placed).collect();
        nodes.retain(|node| situation.is_lost(node));
        nodes.sort_unstable();
        nodes.dedup();
        for node in nodes {
            let_go(situation, node, plan);
        }
    }
}

fn let_go(situation: &Situation<'_>, node: &str, plan: &mut Plan) {
    for pod in situation
        .seen
        .pods
        .iter()
        .filter(|pod| pod.node.as_deref() == Some(node))
    {
        plan.act(Action::DeletePod {
            name: pod.name.clone(),
            uid: pod.uid.clone(),
        });
    }
    if situation
        .seen
        .node(node)
        .is_some_and(|view| view.volume_in_use && !view.gone)
    {
        let volumes = situation.desired.together().into_iter();
        plan.act(Action::ClearVolumeInUse {
            node: node.to_owned(),
            volumes: volumes.map(names::unique_volume).collect(),
        });
    }
    for attachment in situation
        .seen
        .volume_attachments
        .iter()
        .filter(|attachment| attachment.node == node)
    {
        // One that is not attached yet is being waited for by Kubernetes, which looks for it for two minutes if it goes, and
        // attaches nowhere else meanwhile. Left there it is attached in a moment, and taken away then.
        if !attachment.deleting && attachment.attached {
            plan.act(Action::DeleteVolumeAttachment {
                name: attachment.name.clone(),
                uid: attachment.uid.clone(),
            });
        }
    }
}

/// Another attachment came after this one: it never attaches again, whatever it is told.
fn is_over(writer: &Attachment) -> bool {
    let status = writer.status.as_ref();
    let reason_told = status.and_then(|status| status.reason.as_deref());
    match situation::state(writer) {
        AttachmentState::Superseded => true,
        AttachmentState::Refused => reason_told == Some(reason::ORDER_STALE),
        _ => false,
    }
}

/// It says that it is over, or will find out as soon as it tries.
pub(crate) fn is_spent(situation: &Situation<'_>, writer: &Attachment) -> bool {
    let status = writer.status.as_ref();
    let attached_once = status.is_some_and(|status| status.order.is_some());
    let is_another =
        |register: &twinsite_register::Register| situation.is_another(register, writer);
    is_over(writer) || (attached_once && situation.live().is_some_and(is_another))
}

/// A writer that was superseded on a node that lives never attaches again: its pods start anew, if this is their site.
fn superseded(situation: &Situation<'_>, plan: &mut Plan) {
    let Some(writer) = situation.attachment(AttachmentMode::Writer) else {
        return;
    };
    let is_here = situation
        .live()
        .is_some_and(|register| situation.is_active(register));
    if !is_over(writer) || !is_here || situation.is_lost(&writer.spec.node) {
        return;
    }
    for pod in &situation.seen.pods {
        if pod.node.as_deref() == Some(writer.spec.node.as_str()) && !pod.deleting {
            plan.act(Action::RestartPod {
                name: pod.name.clone(),
                uid: pod.uid.clone(),
            });
        }
    }
}

fn caretaker(
    situation: &Situation<'_>,
    course: &Course,
    record: Option<&MoveRecord>,
    plan: &mut Plan,
) {
    let there = situation.attachment(AttachmentMode::Caretaker);
    let why = needed(situation, course);
    let lost_writer = situation
        .of_mode(AttachmentMode::Writer)
        .find(|writer| situation.is_lost(&writer.spec.node))
        .map(|writer| writer.spec.node.as_str());
    match (there, why) {
        (Some(caretaker), None) => {
            if situation.class.is_some() && !situation.is_lost(&caretaker.spec.node) {
                delete(caretaker, plan);
            }
        }
        (Some(caretaker), Some(_)) => {
            let over = matches!(
                situation::state(caretaker),
                AttachmentState::Superseded | AttachmentState::Failed | AttachmentState::Detached
            );
            let stale = caretaker
                .status
                .as_ref()
                .and_then(|status| status.reason.as_deref())
                == Some(reason::ORDER_STALE);
            // The volumes of a group are opened together: one that goes takes the others with it.
            if (over || stale || another_goes(situation))
                && !situation.is_lost(&caretaker.spec.node)
            {
                delete(caretaker, plan);
            } else if !situation::is_open(caretaker) {
                let told = caretaker
                    .status
                    .as_ref()
                    .and_then(|status| status.message.clone());
                let text =
                    told.unwrap_or_else(|| format!("{} opens the volume", caretaker.spec.node));
                plan.wait(reason::PENDING, text);
            }
        }
        // A new one beside those that go would have to go with them.
        (None, Some(why)) if another_goes(situation) => {
            plan.wait(
                reason::PENDING,
                format!("{why}, once what held it open has gone"),
            );
        }
        (None, Some(why)) => {
            let begun = begun(situation, AttachmentMode::Caretaker);
            let Some(node) = begun.or_else(|| situation.working_node(lost_writer)) else {
                return plan.wait(
                    reason::PENDING,
                    format!("{why}, but no other agent runs at {}", situation.site),
                );
            };
            match order(situation, node, AttachmentMode::Caretaker, record) {
                Ok(object) => plan.act(Action::CreateAttachment(Box::new(object))),
                Err(why) => plan.wait(condition_type::WAITING_FOR_LEG, why.to_string()),
            }
        }
        (None, None) => {}
    }
}

/// A caretaker of another volume of the group is being removed.
pub(super) fn another_goes(situation: &Situation<'_>) -> bool {
    situation
        .of_mode(AttachmentMode::Caretaker)
        .filter(|one| one.spec.volume != situation.id)
        .any(|one| one.metadata.deletion_timestamp.is_some())
}

/// Why an agent has to open the volume although no pod does.
fn needed(situation: &Situation<'_>, course: &Course) -> Option<&'static str> {
    let register = situation.live()?;
    if situation.has_writer() {
        return None;
    }
    let lost_writer = situation
        .of_mode(AttachmentMode::Writer)
        .any(|writer| is_given_up(situation, writer) && !situation.is_fenced(writer));
    if lost_writer && situation.is_active(register) {
        return Some("the writer of a lost node is to be fenced");
    }
    if situation.has_pods() {
        return None;
    }
    if let Course::Arrive(_) = course {
        return (!workloads::expected(situation))
            .then_some("the volume moves here without a workload");
    }
    if !situation.is_active(register) {
        return None;
    }
    let dead_holder = register.holder.is_some() && held_by_nobody(situation);
    if let Course::Leave(_) = course {
        return dead_holder.then_some("a dead holder is to be cleared");
    }
    // Its pods are on their way.
    if workloads::expected(situation) {
        return None;
    }
    if dead_holder {
        return Some("a dead holder is to be cleared");
    }
    let other = leg_of(situation.own.other());
    let entries = copies::entries(situation);
    let reachable = entries
        .iter()
        .any(|entry| entry.leg == Some(situation.own.other()) && entry.target.is_some());
    let may_join = !register.no_rejoin.contains(other) && !register.unconfirmed.contains(other);
    if !register.members.contains(other) && reachable && may_join && !to_be_dropped(situation) {
        return Some("the other copy is to be rebuilt");
    }
    (register.members.contains(other) && to_be_dropped(situation))
        .then_some("the other copy is to leave")
}

/// The copy of the other site must leave: its site is drained, or the spec no longer names it.
pub(super) fn to_be_dropped(situation: &Situation<'_>) -> bool {
    situation.is_drained(situation.other_site) || situation.leg_spec(situation.other_site).is_none()
}

/// The register names a holder that no Attachment of this site stands for, and it does not beat.
fn held_by_nobody(situation: &Situation<'_>) -> bool {
    let holds = |attachment: &Arc<Attachment>| !attachment.spec.mode.is_one_shot();
    let still = situation
        .seen
        .evidence
        .beat_still_for
        .is_some_and(|still| still >= crate::policy::BEATS_STILL);
    // Our own caretaker is not nobody, but what it is there for.
    let mut holders = situation
        .seen
        .attachments
        .iter()
        .filter(|attachment| holds(attachment))
        .peekable();
    let waits = |holder: &Arc<Attachment>| {
        holder.spec.mode == AttachmentMode::Caretaker && !situation::is_open(holder)
    };
    match holders.peek() {
        None => still,
        Some(_) => holders.all(waits),
    }
}
