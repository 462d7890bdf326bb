//! A reseed: the witness lost the register, or shows one that is older than what was seen, and a person says which copies
//! are valid.
//!
//! In this order, each step found again after a crash: the copies are inspected once more and must be what the plan was
//! about, so that a wrong order stops nothing; everything that has the volume open goes, at both sites; an agent writes the
//! id of the new register to the chosen copies; the register is made, above everything that is known anywhere. Without a
//! register that is believed no history can change in between. The id follows from the order, so that no step makes a
//! second one. Nothing here judges whether it is wise.

use std::collections::BTreeSet;
use std::time::Duration;

use twinsite_api::{
    AttachmentMode, AttachmentState, ExpectedLeg, FailoverMode, InspectReport, InspectedLeg,
    LegIndex, ReseedOrder, ReseedToken, VolumeId, attachment_uid, reason,
};
use twinsite_register::{
    Class, Epoch, Gen, GroupId, LegSeed, Register, RegisterId, Reseed, SeedMembers, TxId,
    VolumeId as RegisterVolume,
};

use super::situation::{Situation, leg_of, site_of};
use super::{Action, FailoverOrder, Plan, attachments};

/// How far above the highest known order the first attachment is: nobody knows them all.
const ORDERS_UNSEEN: u64 = 1000;

/// Whether a reseed is ordered here, so that it matters whether a writer of the other site still beats.
pub(super) fn wants_beat(site: &str, orders: &[FailoverOrder]) -> bool {
    orders.first().is_some_and(|order| {
        order.object.spec.mode == FailoverMode::Reseed && order.object.spec.to == site
    })
}

/// A reseed of this volume is ordered and found to be about what is there: nobody may have the volume open now.
pub(super) fn takes_down(situation: &Situation<'_>) -> bool {
    let Some((_, accepted)) = order(situation).filter(|_| is_possible(situation)) else {
        return false;
    };
    let mut both = (situation.seen.attachments.iter()).chain(&situation.seen.peer.attachments);
    both.any(|attachment| match attachment.spec.mode {
        AttachmentMode::Reseed => true,
        AttachmentMode::Inspect => {
            let status = attachment.status.as_ref();
            status
                .and_then(|status| status.inspect.as_ref())
                .is_some_and(|report| is_planned(accepted, report))
        }
        _ => false,
    })
}

/// The copies are those of the plan, and can be made members.
fn is_planned(accepted: &ReseedToken, report: &InspectReport) -> bool {
    report.reseed_token() == accepted.token && chosen(accepted, report).is_ok()
}

fn order<'a>(situation: &Situation<'a>) -> Option<(&'a FailoverOrder, &'a ReseedToken)> {
    let order = situation.seen.failovers.first()?;
    let accepted = order.object.spec.reseed.as_ref()?;
    (order.object.spec.mode == FailoverMode::Reseed).then_some((order, accepted))
}

/// The register is lost, or below what was seen.
fn is_possible(situation: &Situation<'_>) -> bool {
    matches!(situation.class, Some(Class::Below(_) | Class::Absent))
}

/// The register that an order makes.
pub fn register_id(order: &twinsite_api::Failover, volume: VolumeId) -> RegisterId {
    let uid = order.metadata.uid.as_deref().unwrap_or_default();
    RegisterId(attachment_uid(&format!("reseed of {volume} by {uid}")))
}

pub(super) fn plan(situation: &Situation<'_>, plan: &mut Plan) {
    let under_way = situation.attachment(AttachmentMode::Reseed);
    let here = order(situation)
        .filter(|(order, _)| order.object.spec.to == situation.site && is_possible(situation));
    let Some((order, accepted)) = here else {
        // Carried out, or withdrawn.
        if let Some(under_way) = under_way.filter(|_| situation.class.is_some()) {
            attachments::delete(under_way, plan);
        }
        return;
    };
    let named = format!(
        "Failover {}",
        order.object.metadata.name.as_deref().unwrap_or("")
    );
    let id = register_id(&order.object, situation.id);
    if let Some(under_way) = under_way {
        let status = under_way.status.clone().unwrap_or_default();
        let details = under_way.spec.reseed.as_ref();
        match (status.state, status.inspect, details) {
            (AttachmentState::Done, Some(report), Some(details)) => {
                match seed(situation, id, details, &report, &named) {
                    Ok(seed) => plan.act(Action::SeedRegister {
                        replaced: situation.seen.witness.current().map(|old| old.txid),
                        seed: Box::new(seed),
                    }),
                    Err(text) => plan.stall(reason::MEMBER_DAMAGED, format!("{named}: {text}")),
                }
            }
            (AttachmentState::Failed, ..) => match attachments::failure(under_way) {
                Some(told) => plan.stall(
                    reason::MEMBER_DAMAGED,
                    format!("{named}: {told}; the workloads stay down until a reseed succeeds"),
                ),
                None => plan.wait(
                    reason::PENDING,
                    format!("{named}: {}", status.message.unwrap_or_default()),
                ),
            },
            _ => plan.wait(
                reason::PENDING,
                format!(
                    "{named}: {} writes the new register's id to the copies",
                    under_way.spec.node
                ),
            ),
        }
        return;
    }
    inspected(situation, accepted, id, &named, plan);
}

/// Who still has the volume open.
fn open(situation: &Situation<'_>) -> Option<String> {
    let here = situation.has_pods()
        || situation.has_writer()
        || situation
            .attachment(AttachmentMode::Caretaker)
            .is_some_and(|one| !situation.is_lost(&one.spec.node));
    if here {
        return Some(situation.site.to_owned());
    }
    let other = situation.other_site;
    match situation.peer_is_detached() {
        Some(true) => None,
        Some(false) => Some(other.to_owned()),
        // Its cluster is silent; what its agents and writer show to the witness says whether it is dead.
        None => {
            let evidence = &situation.seen.evidence;
            let enough = situation.pair.spec.failover.detect_after.length();
            let stands = |age: Option<Duration>, enough| age.is_some_and(|age| age >= enough);
            let is_dead = stands(evidence.site_still_for, enough)
                && stands(evidence.beat_still_for, crate::policy::BEATS_STILL);
            (!is_dead).then(|| {
                format!(
                    "{other}, whose cluster is silent but which shows signs of life at the witness,"
                )
            })
        }
    }
}

/// A second look; then the order to the agent, if everything is as it was accepted.
fn inspected(
    situation: &Situation<'_>,
    accepted: &ReseedToken,
    id: RegisterId,
    named: &str,
    plan: &mut Plan,
) {
    let Some(inspect) = situation.attachment(AttachmentMode::Inspect) else {
        return attachments::one_shot(situation, AttachmentMode::Inspect, named, plan, |_| {});
    };
    let status = inspect.status.clone().unwrap_or_default();
    match (status.state, status.inspect) {
        (AttachmentState::Done, Some(report)) if report.reseed_token() == accepted.token => {
            match (chosen(accepted, &report), open(situation)) {
                (Ok(()), Some(who)) => plan.wait(
                    reason::PENDING,
                    format!("{named}: waits until {who} has let go of the volume"),
                ),
                (Ok(()), None) => {
                    let details = details(situation, accepted, id, &report);
                    let mode = AttachmentMode::Reseed;
                    attachments::one_shot(situation, mode, named, plan, |spec| {
                        // The other copy is fenced, if it answers: somebody whom nobody can see may run on it.
                        spec.legs.retain(|leg| {
                            let answers = report.leg(leg.leg).is_some_and(|leg| leg.reachable);
                            answers || details.legs.contains(&leg.leg)
                        });
                        spec.reseed = Some(details);
                    });
                }
                (Err(text), _) => {
                    plan.stall(reason::INVALID_SPEC, format!("{named}: {text}"));
                }
            }
        }
        // It stays until the order has said so.
        (AttachmentState::Done, Some(_)) => plan.stall(
            reason::INVALID_SPEC,
            format!(
                "{named}: the copies are not those of its plan: read a new one with `kubectl twinsite plan`"
            ),
        ),
        (AttachmentState::Done | AttachmentState::Failed, _) => attachments::delete(inspect, plan),
        _ => plan.wait(
            reason::PENDING,
            format!("{named}: {} reads the copies once more", inspect.spec.node),
        ),
    }
}

/// Whether the chosen copies can be members together.
fn chosen(accepted: &ReseedToken, report: &InspectReport) -> Result<(), &'static str> {
    let mut same = BTreeSet::new();
    for &leg in &accepted.legs {
        let leg = report
            .leg(leg)
            .filter(|leg| leg.reachable)
            .ok_or("a copy that it names does not answer")?;
        // A copy that grows has every acknowledged write; the other one, a candidate, may not have them yet.
        let complete = match leg.role.as_deref() {
            Some("Member") => true,
            Some("Growing") => accepted.legs.len() == 1,
            _ => false,
        };
        if leg.epoch.is_none() || !complete {
            return Err("a copy that it names was never completed, or carries no superblock");
        }
        same.insert((leg.epoch, leg.generation.clone()));
    }
    match same.len() {
        0 => Err("it names no copy"),
        1 => Ok(()),
        _ => Err("the two copies are not equal: name the one that is valid"),
    }
}

/// What must not be forgotten between the order to the agent and the new register.
fn details(
    situation: &Situation<'_>,
    accepted: &ReseedToken,
    id: RegisterId,
    report: &InspectReport,
) -> ReseedOrder {
    let register = situation.seen.witness.current();
    let marks = &situation.seen.marks;
    let told = |leg: &InspectedLeg| leg.register_id.clone();
    let mut former: BTreeSet<String> = report.legs.iter().filter_map(told).collect();
    former.extend(marks.iter().map(|mark| mark.register_id.to_string()));
    former.extend(register.iter().flat_map(|register| {
        let own = std::iter::once(&register.register_id);
        own.chain(&register.former).map(ToString::to_string)
    }));
    former.remove(&id.to_string());
    let theirs = situation.seen.peer.status();
    let statuses = || situation.last().into_iter().chain(theirs);
    let epochs = (marks.iter().map(|mark| mark.epoch.0))
        .chain(report.legs.iter().filter_map(|leg| leg.epoch))
        .chain(statuses().filter_map(|status| status.epoch));
    let seqs = (marks.iter().map(|mark| mark.seq))
        .chain(report.legs.iter().filter_map(|leg| leg.seq))
        .chain(statuses().filter_map(|status| Some(status.active_site.as_ref()?.seq)));
    ReseedOrder {
        register_id: id.to_string(),
        legs: accepted.legs.clone(),
        expect: accepted
            .legs
            .iter()
            .filter_map(|&leg| expected(report.leg(leg)?))
            .collect(),
        former: former.into_iter().collect(),
        highest_epoch: epochs.max().unwrap_or(0),
        highest_seq: seqs.max().unwrap_or(0),
        inconsistent: false,
    }
}

/// Its history, which must still be there when the agent writes.
fn expected(seen: &InspectedLeg) -> Option<ExpectedLeg> {
    Some(ExpectedLeg {
        leg: seen.leg?,
        epoch: seen.epoch?,
        generation: seen.generation.clone()?,
    })
}

/// The register that is to be; the random ids of the request are the shell's.
fn seed(
    situation: &Situation<'_>,
    id: RegisterId,
    details: &ReseedOrder,
    report: &InspectReport,
    who: &str,
) -> Result<Reseed, &'static str> {
    let members = match details.legs[..] {
        [only] => SeedMembers::Alone {
            leg: leg_of(only),
            seen: seen(report, only)?,
        },
        _ => SeedMembers::Pair {
            a: seen(report, LegIndex::A)?,
            b: seen(report, LegIndex::B)?,
        },
    };
    let replaced = situation.seen.witness.current();
    let mut former: BTreeSet<RegisterId> = BTreeSet::new();
    for text in &details.former {
        former.insert(
            text.parse()
                .map_err(|_| "the order's former ids are broken")?,
        );
    }
    if let Some(old) = replaced {
        former.extend(old.former.iter().chain([&old.register_id]));
    }
    former.remove(&id);
    let most =
        |known: u64, of: fn(&Register) -> u64| replaced.map_or(known, |old| known.max(of(old)));
    let order = |attachment: &std::sync::Arc<twinsite_api::Attachment>| {
        attachment.status.as_ref().and_then(|status| status.order)
    };
    let attached = situation.seen.attachments.iter();
    let orders = attached
        .chain(&situation.seen.peer.attachments)
        .filter_map(order);
    let order = most(orders.max().unwrap_or(0), |old| old.order.n);
    Ok(Reseed {
        register_id: id,
        former: former.into_iter().collect(),
        group: GroupId(situation.id.bytes()),
        volumes: vec![RegisterVolume(situation.id.bytes())],
        highest_epoch: Epoch(most(details.highest_epoch, |old| old.epoch.0)),
        highest_seq: most(details.highest_seq, |old| old.active.seq),
        highest_order: order.saturating_add(ORDERS_UNSEEN),
        members,
        site: site_of(situation.own),
        generation: Gen([0; 16]),
        txid: TxId([0; 16]),
        who: who.to_owned(),
        why: "ordered by a person after a plan".to_owned(),
    })
}

fn seen(report: &InspectReport, leg: LegIndex) -> Result<LegSeed, &'static str> {
    let lacks = "the agent did not say what it wrote";
    let leg = report.leg(leg).ok_or(lacks)?;
    let generation = leg.generation.as_deref().and_then(|text| text.parse().ok());
    let (epoch, generation, sb_seq) = leg
        .epoch
        .zip(generation)
        .zip(leg.sb_seq)
        .map(|((epoch, generation), sb_seq)| (epoch, generation, sb_seq))
        .ok_or(lacks)?;
    Ok(LegSeed {
        epoch: Epoch(epoch),
        generation,
        sb_seq,
    })
}

/// What a person can do about a register that is lost.
pub(super) fn way_out(situation: &Situation<'_>) -> String {
    if situation.desired.group.is_some() {
        return "make the group anew under another name and restore it from a backup: a group has no reseed".to_owned();
    }
    format!(
        "`kubectl twinsite plan {} --to {}` says what the copies have, and how a person makes a new register of them",
        situation.desired.reference(),
        situation.site
    )
}
