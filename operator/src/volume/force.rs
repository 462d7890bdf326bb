//! A force, the second step: a person read a plan that named what would be lost, and accepted it.
//!
//! The leg is inspected once more; then an agent fences it with a key of its site and changes the register, only if both
//! still are what the plan was about. Nothing here judges whether it is wise.

use std::time::Duration;

use twinsite_api::{
    Attachment, AttachmentMode, AttachmentState, FailoverMode, ForceOrder, InspectedLeg, reason,
};
use twinsite_register::Register;

use super::situation::Situation;
use super::{Plan, attachments};

/// How long a report of an Inspect is kept for a person to read.
const REPORT_KEPT: Duration = Duration::from_secs(600);

/// The token that a plan prints: epoch and txid of the register.
pub fn token(register: &Register) -> String {
    format!("{}-{}", register.epoch, register.txid)
}

pub(super) fn plan(situation: &Situation<'_>, plan: &mut Plan) {
    let inspect = situation.attachment(AttachmentMode::Inspect);
    let under_way = situation.attachment(AttachmentMode::Force);
    let order = situation.seen.failovers.first().filter(|order| {
        order.object.spec.mode == FailoverMode::Force && order.object.spec.to == situation.site
    });
    let accepted = order.and_then(|order| order.object.spec.force.as_ref());
    // What was accepted must be what would be done; the Failover object says so when it is not.
    let valid = accepted
        .zip(situation.live())
        .filter(|(accepted, register)| {
            accepted.expect_epoch == register.epoch.0 && accepted.token == token(register)
        });
    let (Some(order), Some((accepted, register))) = (order, valid) else {
        // Carried out, or void.
        if let Some(under_way) = under_way.filter(|_| situation.class.is_some()) {
            attachments::delete(under_way, plan);
        }
        if let Some(inspect) = inspect.filter(|inspect| is_old(situation, inspect)) {
            attachments::delete(inspect, plan);
        }
        return;
    };
    let named = format!(
        "Failover {}",
        order.object.metadata.name.as_deref().unwrap_or("")
    );
    if let Some(under_way) = under_way {
        let told = under_way
            .status
            .as_ref()
            .and_then(|status| status.message.clone());
        let text = told.unwrap_or_else(|| format!("{} fences the copy", under_way.spec.node));
        return plan.wait(reason::PENDING, format!("{named}: {text}"));
    }
    let Some(inspect) = inspect else {
        return attachments::one_shot(situation, AttachmentMode::Inspect, &named, plan, |_| {});
    };
    let status = inspect.status.clone().unwrap_or_default();
    match (status.state, status.inspect) {
        (AttachmentState::Done, Some(report))
            if report.token.as_deref() == Some(accepted.token.as_str()) =>
        {
            let leg = report
                .legs
                .iter()
                .find(|leg| leg.leg == Some(situation.own));
            match seen(leg, accepted.inconsistent) {
                Ok((epoch, generation, sb_seq)) => {
                    let details = ForceOrder {
                        expect_epoch: accepted.expect_epoch,
                        expect_txid: register.txid.to_string(),
                        epoch,
                        generation,
                        sb_seq,
                        who: named.clone(),
                        inconsistent: accepted.inconsistent,
                    };
                    let mode = AttachmentMode::Force;
                    attachments::one_shot(situation, mode, &named, plan, |spec| {
                        spec.legs.retain(|leg| leg.leg == situation.own);
                        spec.force = Some(details);
                    });
                }
                Err(text) => plan.stall(reason::MEMBER_DAMAGED, format!("{named}: {text}")),
            }
        }
        (AttachmentState::Done | AttachmentState::Failed, _) => attachments::delete(inspect, plan),
        _ => plan.wait(
            reason::PENDING,
            format!("{named}: {} reads the copy once more", inspect.spec.node),
        ),
    }
}

/// Epoch, generation and sequence number of the superblock that is to run.
fn seen(
    leg: Option<&InspectedLeg>,
    inconsistent: bool,
) -> Result<(u64, String, u64), &'static str> {
    let leg = leg
        .filter(|leg| leg.reachable)
        .ok_or("the copy of this site does not answer")?;
    let known = leg.epoch.zip(leg.generation.clone()).zip(leg.sb_seq);
    let Some(((epoch, generation), sb_seq)) = known else {
        return Err("the copy of this site carries no superblock of this volume: it cannot be run");
    };
    if leg.role.as_deref() == Some("Target") && !inconsistent {
        return Err(
            "the copy of this site was never completed: it is a mix of old and new; only force.inconsistent runs it",
        );
    }
    Ok((epoch, generation, sb_seq))
}

fn is_old(situation: &Situation<'_>, inspect: &Attachment) -> bool {
    let made = inspect
        .metadata
        .creation_timestamp
        .as_ref()
        .map(|at| at.0.as_second());
    let kept = i64::try_from(REPORT_KEPT.as_secs()).unwrap_or(i64::MAX);
    made.is_some_and(|made| situation.now.as_second() - made > kept)
}
