//! A force, the second step: a person read a plan that named what would be lost, and accepted it.
//!
//! The copies are inspected once more; then an agent fences them with a key of its site and changes the register, only if all
//! still are what the plan was about. Of a group every volume is inspected and has its order, on one node: nothing is ordered
//! before all of them were seen, and they were left at one moment unless the person accepted that they were not. Nothing
//! here judges whether it is wise.

use std::time::Duration;

use twinsite_api::{
    Attachment, AttachmentMode, AttachmentState, FailoverMode, ForceOrder, ForceToken, FoundCopy,
    InspectReport, VolumeId, judge_copies, reason,
};
use twinsite_register::Register;

use super::situation::{self, Situation};
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
    carry_out(situation, &named, (accepted, register), plan);
}

fn carry_out(
    situation: &Situation<'_>,
    named: &str,
    (accepted, register): (&ForceToken, &Register),
    plan: &mut Plan,
) {
    if let Some(why) = failure(situation, named) {
        return plan.stall(reason::MEMBER_DAMAGED, format!("{named}: {why}"));
    }
    if let Some(under_way) = situation.attachment(AttachmentMode::Force) {
        if !is_of(under_way, named) {
            // What is left of an earlier one.
            attachments::delete(under_way, plan);
        }
        let told = under_way
            .status
            .as_ref()
            .and_then(|status| status.message.clone());
        let text = told.unwrap_or_else(|| format!("{} fences the copy", under_way.spec.node));
        return plan.wait(reason::PENDING, format!("{named}: {text}"));
    }
    let Some(inspect) = situation.attachment(AttachmentMode::Inspect) else {
        return attachments::one_shot(situation, AttachmentMode::Inspect, named, plan, |_| {});
    };
    if is_void(inspect, accepted) {
        return attachments::delete(inspect, plan);
    }
    let seen = match second_look(situation, accepted) {
        Ok(seen) => seen,
        Err(node) => {
            let text = format!("{named}: {node} reads the copy once more");
            return plan.wait(reason::PENDING, text);
        }
    };
    let copies: Vec<FoundCopy<'_>> = seen
        .iter()
        .map(|(_, name, report)| FoundCopy {
            name,
            report: Some(report),
        })
        .collect();
    let found = match judge_copies(situation.own, accepted.inconsistent, &copies) {
        Ok(found) => found,
        Err(why) => return plan.stall(reason::MEMBER_DAMAGED, format!("{named}: {why}")),
    };
    let own = seen.iter().position(|(volume, ..)| *volume == situation.id);
    let own = own.and_then(|at| found.get(at));
    let about = (register.epoch.0, register.txid.to_string());
    let details =
        own.and_then(|own| ForceOrder::of(own, about, named.to_owned(), accepted.inconsistent));
    let Some(details) = details else { return };
    attachments::one_shot(situation, AttachmentMode::Force, named, plan, |spec| {
        spec.legs.retain(|leg| leg.leg == situation.own);
        spec.force = Some(details);
    });
}

fn is_of(under_way: &Attachment, named: &str) -> bool {
    let details = under_way.spec.force.as_ref();
    details.is_some_and(|details| details.who == named)
}

/// Why the order cannot be carried out, of whichever volume it was said.
fn failure(situation: &Situation<'_>, named: &str) -> Option<String> {
    let mut all = situation
        .of_mode(AttachmentMode::Force)
        .filter(|one| is_of(one, named));
    let (one, why) = all.find_map(|one| Some((one, attachments::failure(one)?)))?;
    let is_grouped = situation.desired.group.is_some();
    Some(if is_grouped {
        format!("{}: {why}", one.spec.display_name())
    } else {
        why.to_owned()
    })
}

/// It has ended, and not with what the plan was about.
fn is_void(inspect: &Attachment, accepted: &ForceToken) -> bool {
    let Some(status) = &inspect.status else {
        return false;
    };
    let told = status
        .inspect
        .as_ref()
        .and_then(|report| report.token.as_ref());
    match status.state {
        AttachmentState::Done => told != Some(&accepted.token),
        AttachmentState::Failed => true,
        _ => false,
    }
}

/// A volume, what people call it, and what was found of it.
type Seen<'a> = (VolumeId, String, &'a InspectReport);

/// What agents found under the register of the plan, of each volume that shares it; or the node that is still reading.
fn second_look<'a>(
    situation: &Situation<'a>,
    accepted: &ForceToken,
) -> Result<Vec<Seen<'a>>, &'a str> {
    let any = situation.attachment(AttachmentMode::Inspect);
    let waits = any.map_or("an agent", |any| any.spec.node.as_str());
    let look = |volume: VolumeId| {
        let mut all = situation.of_mode(AttachmentMode::Inspect);
        let one = all.find(|one| one.spec.volume == volume).ok_or(waits)?;
        let is_done = situation::state(one) == AttachmentState::Done && !is_void(one, accepted);
        let status = one.status.as_ref().filter(|_| is_done);
        let report = status.and_then(|status| status.inspect.as_ref());
        let report = report.ok_or(one.spec.node.as_str())?;
        Ok((volume, one.spec.display_name(), report))
    };
    situation.desired.together().into_iter().map(look).collect()
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
