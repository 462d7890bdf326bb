//! A force, the second step: a person read a plan that named what would be lost, and accepted it.
//!
//! The leg is inspected once more by an agent; the register changes only if it still is what the plan was about. Nothing
//! here judges whether it is wise.

use std::time::Duration;

use twinsite_api::{
    Attachment, AttachmentMode, AttachmentState, FailoverMode, InspectedLeg, reason,
};
use twinsite_register::{Epoch, LegSeed, Register};

use super::situation::Situation;
use super::{Action, Plan, RegisterChange, attachments};

/// How long a report of an Inspect is kept for a person to read.
const REPORT_KEPT: Duration = Duration::from_secs(600);

/// The token that a plan prints: epoch and txid of the register.
pub fn token(register: &Register) -> String {
    format!("{}-{}", register.epoch, register.txid)
}

pub(super) fn plan(situation: &Situation<'_>, plan: &mut Plan) {
    let inspect = situation.attachment(AttachmentMode::Inspect);
    let order = situation.seen.failovers.first().filter(|order| {
        order.object.spec.mode == FailoverMode::Force && order.object.spec.to == situation.site
    });
    let (Some(order), Some(register)) = (order, situation.live()) else {
        if let Some(inspect) = inspect.filter(|inspect| is_old(situation, inspect)) {
            attachments::delete(inspect, plan);
        }
        return;
    };
    let Some(accepted) = &order.object.spec.force else {
        return;
    };
    let named = format!(
        "Failover {}",
        order.object.metadata.name.as_deref().unwrap_or("")
    );
    if accepted.expect_epoch != register.epoch.0 || accepted.token != token(register) {
        // What was accepted is not what would be done; the Failover object says so.
        return;
    }
    let Some(inspect) = inspect else {
        let Some(node) = situation.working_node(None) else {
            return plan.wait(
                reason::PENDING,
                format!("{named}: no agent runs at {}", situation.site),
            );
        };
        match attachments::order(situation, node, AttachmentMode::Inspect, None) {
            Ok(object) => plan.act(Action::CreateAttachment(Box::new(object))),
            Err(why) => plan.wait(reason::PENDING, format!("{named}: {why}")),
        }
        return;
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
            match seed(leg, accepted.inconsistent) {
                Ok(seen) => plan.act(Action::ChangeRegister {
                    expect: register.txid,
                    change: RegisterChange::Force {
                        expect_epoch: accepted.expect_epoch,
                        leg: situation.own,
                        seen,
                        who: named,
                        why: "accepted after a plan".to_owned(),
                    },
                }),
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

fn seed(leg: Option<&InspectedLeg>, inconsistent: bool) -> Result<LegSeed, String> {
    let leg = leg
        .filter(|leg| leg.reachable)
        .ok_or("the copy of this site does not answer")?;
    let known = leg.epoch.zip(leg.generation.as_deref()).zip(leg.sb_seq);
    let Some(((epoch, generation), sb_seq)) = known else {
        return Err(
            "the copy of this site carries no superblock of this volume: it cannot be run"
                .to_owned(),
        );
    };
    if leg.role.as_deref() == Some("Target") && !inconsistent {
        return Err("the copy of this site was never completed: it is a mix of old and new; only force.inconsistent runs it".to_owned());
    }
    let generation = generation
        .parse()
        .map_err(|_| format!("the report's generation {generation:?} is no id"))?;
    Ok(LegSeed {
        epoch: Epoch(epoch),
        generation,
        sb_seq,
    })
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
