//! Identity and birth: is this volume new, known, or something that a person must look at?
//!
//! | register | what else is known | |
//! |---|---|---|
//! | does not answer | | nothing is born, what lives goes on |
//! | Below a mark | | stop: the witness was restored |
//! | absent | a mark, an epoch in our or the peer's status | stop: the register is missing |
//! | absent | nothing | the operator at `activeSite` orders the birth once both copies are served |
//! | Creating | | the same order again |
//! | Live | | adopt: a cluster rebuilt from Git meets its full legs here |
//! | Tombstone | | the copies are wiped first |

use twinsite_api::{AttachmentMode, AttachmentState, condition_type, order, reason};
use twinsite_register::Class;

use super::situation::{self, Situation};
use super::{Action, Plan, attachments, deletion, reseed, twins};

pub(super) fn plan(situation: &Situation<'_>, first: bool, plan: &mut Plan) {
    match situation.class {
        None => plan.wait(
            reason::WITNESS_NEEDED,
            format!(
                "{}: what is attached goes on, nothing new is decided until it does",
                situation.seen.witness.trouble()
            ),
        ),
        Some(Class::Below(below)) => plan.stall(
            reason::WITNESS_ROLLED_BACK,
            format!(
                "{below}: the witness was restored from an older state; bring its present data back, or {}",
                reseed::way_out(situation)
            ),
        ),
        Some(Class::Absent) => match ever_lived(situation) {
            Some(who) => plan.stall(
                reason::REGISTER_MISSING,
                format!(
                    "the witness has no register of this volume, but {who}: bring the witness's data back, or {}",
                    reseed::way_out(situation)
                ),
            ),
            None => be_born(situation, plan),
        },
        Some(Class::Creating) => be_born(situation, plan),
        Some(Class::Live) => {
            if let Some(birth) = situation.attachment(AttachmentMode::Birth) {
                attachments::delete(birth, plan);
            }
        }
        Some(Class::Tombstone) => {
            plan.stall(
                reason::DELETED,
                "a volume of this name was deleted and its copies are not all wiped yet; when they are, this one is born",
            );
            deletion::remains(situation, first, plan);
        }
    }
}

/// Who says that the volume lived once.
pub(super) fn ever_lived(situation: &Situation<'_>) -> Option<String> {
    let epoch = |status: Option<&twinsite_api::MirroredVolumeStatus>| {
        status.and_then(|status| status.epoch)
    };
    if let Some(mark) = situation.seen.marks.iter().max_by_key(|mark| mark.epoch) {
        return Some(format!("epoch {} was seen here", mark.epoch));
    }
    if let Some(epoch) = epoch(situation.last()) {
        return Some(format!("the status of this cluster knows epoch {epoch}"));
    }
    let peer = situation.seen.peer.status();
    epoch(peer).map(|epoch| format!("the status of the peer knows epoch {epoch}"))
}

fn be_born(situation: &Situation<'_>, plan: &mut Plan) {
    if let Some(why) = situation.seen.not_understood() {
        return plan.wait(why.word, why.message);
    }
    let active = situation.active_site_wanted();
    if active != situation.site {
        return plan.wait(
            reason::CREATING,
            format!("the operator at {active} makes the volume, once both copies are served"),
        );
    }
    if situation.spec().legs.len() < 2 {
        let text = "a volume is born with both copies: name both sites in spec.legs; one may be removed later";
        return plan.wait(condition_type::WAITING_FOR_LEG, text);
    }
    let Some(twin) = situation.twin() else {
        return plan.wait(condition_type::WAITING_FOR_LEG, twins::missing(situation));
    };
    if let Some(lacks) = &situation.seen.peer.lacks {
        return plan.wait(twins::DIFFERS, lacks.clone());
    }
    let different = twins::differences(situation.spec(), twin);
    if !different.is_empty() {
        let text = format!(
            "the two clusters' specs differ in {}: they must agree before the volume is born",
            different.join(", ")
        );
        return plan.wait(twins::DIFFERS, text);
    }
    if !situation.own_is_served() {
        return plan.wait(
            condition_type::WAITING_FOR_LEG,
            "the copy of this site is not served yet",
        );
    }
    let there = situation.attachment(AttachmentMode::Birth);
    if let Some(birth) = there {
        let status = birth.status.as_ref();
        let told = status
            .and_then(|status| status.message.clone())
            .unwrap_or_default();
        let reason_told = status
            .and_then(|status| status.reason.as_deref())
            .unwrap_or_default();
        match situation::state(birth) {
            AttachmentState::Failed if reason_told == reason::FOREIGN_DATA => {
                plan.stall(reason::FOREIGN_DATA, told)
            }
            AttachmentState::Failed | AttachmentState::Refused => plan.wait(reason::CREATING, told),
            _ => plan.wait(
                reason::CREATING,
                format!("{} is making the volume", birth.spec.node),
            ),
        }
    }
    let begun = situation.of_mode(AttachmentMode::Birth);
    let node = begun
        .map(|birth| birth.spec.node.as_str())
        .find(|node| !situation.is_lost(node));
    let Some(node) = node.or_else(|| situation.working_node(None)) else {
        return plan.wait(
            reason::PENDING,
            format!("no agent runs at {}", situation.site),
        );
    };
    match (
        attachments::order(situation, node, AttachmentMode::Birth, None),
        there,
    ) {
        (Err(order::NotYet::Leg { site, lacks }), _) => {
            plan.wait(
                condition_type::WAITING_FOR_LEG,
                format!("the leg at {site} {lacks}"),
            );
        }
        (Err(why), _) => plan.wait(reason::PENDING, why.to_string()),
        (Ok(object), None) => plan.act(Action::CreateAttachment(Box::new(object))),
        // Addresses or the node changed: another order.
        (Ok(object), Some(birth)) if object.spec != birth.spec => attachments::delete(birth, plan),
        (Ok(_), Some(_)) => {}
    }
}
