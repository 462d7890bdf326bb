//! A reseed: the witness lost the register, or shows one that is older than what was seen, and a person says which copies
//! are valid.
//!
//! In this order, each step found again after a crash: the copies are inspected once more and must be what the plan was
//! about, so that a wrong order stops nothing; everything that has the volume open goes, at both sites; an agent writes the
//! id of the new register to the chosen copies; the register is made, above everything that is known anywhere. Without a
//! register that is believed no history can change in between. The id follows from the order, so that no step makes a
//! second one. Of a group every volume is inspected and has its order, on one node, and one of them makes the register of all. Nothing
//! here judges whether it is wise.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use twinsite_api::{
    Attachment, AttachmentMode, AttachmentSpec, AttachmentState, ExpectedLeg, FailoverMode,
    FoundCopy, InspectReport, InspectedLeg, LegIndex, MirroredVolumeStatus, ReseedOrder,
    ReseedToken, Unfit, VolumeId, attachment_uid, judge_copies, reason,
};
use twinsite_register::{
    Class, Epoch, Gen, GroupId, LegSeed, Register, RegisterId, Reseed, SeedMembers, TxId,
    VolumeId as RegisterVolume,
};

use super::situation::{self, Situation, leg_of, site_of};
use super::{Action, FailoverOrder, Plan, attachments};

/// How far above the highest known order the first attachment is: nobody knows them all.
const ORDERS_UNSEEN: u64 = 1000;

/// Whether a reseed is ordered here, so that it matters whether a writer of the other site still beats.
pub(super) fn wants_beat(site: &str, orders: &[FailoverOrder]) -> bool {
    orders.first().is_some_and(|order| {
        order.object.spec.mode == FailoverMode::Reseed && order.object.spec.to == site
    })
}

/// What was found of each volume that shares the register, in their order.
type Found<'a> = Vec<(&'a AttachmentSpec, &'a InspectReport)>;

/// A reseed of this volume is ordered and found to be about what is there: nobody may have the volume open now.
pub(super) fn takes_down(situation: &Situation<'_>) -> bool {
    let Some((_, accepted)) = order(situation).filter(|_| is_possible(situation)) else {
        return false;
    };
    let (own, theirs) = (
        &situation.seen.attachments,
        &situation.seen.peer.attachments,
    );
    let begun = |one: &Arc<Attachment>| one.spec.mode == AttachmentMode::Reseed;
    let is_planned = |all: &[Arc<Attachment>]| {
        let found = found(situation, all, AttachmentMode::Inspect);
        found.is_some_and(|found| is_planned(accepted, &found))
    };
    own.iter().chain(theirs).any(begun) || is_planned(own) || is_planned(theirs)
}

/// What the orders of this mode found, if there is one of every volume and each has told.
fn found<'a>(
    situation: &Situation<'_>,
    all: &'a [Arc<Attachment>],
    mode: AttachmentMode,
) -> Option<Found<'a>> {
    let of_volume = |volume: VolumeId| {
        let mut all = all.iter();
        let one = all.find(|one| one.spec.mode == mode && one.spec.volume == volume)?;
        Some((&one.spec, one.status.as_ref()?.inspect.as_ref()?))
    };
    situation
        .desired
        .together()
        .into_iter()
        .map(of_volume)
        .collect()
}

fn token(found: &Found<'_>) -> String {
    let reports: Vec<&InspectReport> = found.iter().map(|(_, report)| *report).collect();
    InspectReport::reseed_token_of(&reports)
}

/// The copies are those of the plan, and can be made members.
fn is_planned(accepted: &ReseedToken, found: &Found<'_>) -> bool {
    token(found) == accepted.token && chosen(accepted, found).is_ok()
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

/// The register that an order makes in place of that of a volume or group.
pub fn register_id(order: &twinsite_api::Failover, of: twinsite_api::GroupId) -> RegisterId {
    let uid = order.metadata.uid.as_deref().unwrap_or_default();
    RegisterId(attachment_uid(&format!("reseed of {of} by {uid}")))
}

/// `first`: of the volumes that share the register, the one that makes it.
pub(super) fn plan(situation: &Situation<'_>, first: bool, plan: &mut Plan) {
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
    let id = register_id(&order.object, situation.desired.register_id());
    match under_way {
        Some(under_way) => written(situation, (under_way, first), id, &named, plan),
        None => inspected(situation, accepted, id, &named, plan),
    }
}

/// The agent writes, or has written, the id of the new register to the copies of all volumes.
fn written(
    situation: &Situation<'_>,
    (under_way, first): (&Attachment, bool),
    id: RegisterId,
    named: &str,
    plan: &mut Plan,
) {
    let is_of = |one: &Attachment| {
        let details = one.spec.reseed.as_ref();
        details.is_some_and(|details| details.register_id == id.to_string())
    };
    if !is_of(under_way) {
        // What is left of an earlier order.
        attachments::delete(under_way, plan);
        return plan.wait(
            reason::PENDING,
            format!("{named}: waits until an earlier order is gone"),
        );
    }
    let orders = || situation.of_mode(AttachmentMode::Reseed);
    let failed = orders().filter(|one| is_of(one));
    let failed = failed.filter_map(|one| Some((one, attachments::failure(one)?)));
    if let Some((one, told)) = failed.into_iter().next() {
        let whose = one.spec.display_name();
        return plan.stall(
            reason::MEMBER_DAMAGED,
            format!("{named}: {whose}: {told}; the workloads stay down until a reseed succeeds"),
        );
    }
    let is_done = orders().all(|one| situation::state(one) == AttachmentState::Done && is_of(one));
    let found = found(
        situation,
        &situation.seen.attachments,
        AttachmentMode::Reseed,
    );
    let (Some(found), true, Some(details)) = (found, is_done, under_way.spec.reseed.as_ref())
    else {
        let status = under_way.status.as_ref();
        let told = status.filter(|status| status.state == AttachmentState::Failed);
        let told = told.and_then(|status| status.message.clone());
        let text = told.unwrap_or_else(|| {
            format!(
                "{} writes the new register's id to the copies",
                under_way.spec.node
            )
        });
        return plan.wait(reason::PENDING, format!("{named}: {text}"));
    };
    match seed(situation, id, details, &found, named) {
        Ok((seed, seen)) if first => plan.act(Action::SeedRegister {
            replaced: situation.seen.witness.current().map(|old| old.txid),
            seed: Box::new(seed),
            seen,
        }),
        Ok(_) => {}
        Err(text) => plan.stall(reason::MEMBER_DAMAGED, format!("{named}: {text}")),
    }
}

/// Who still has the volume open.
fn open(situation: &Situation<'_>) -> Option<String> {
    let here = situation.has_pods()
        || situation.has_writer()
        || situation
            .of_mode(AttachmentMode::Caretaker)
            .any(|one| !situation.is_lost(&one.spec.node));
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
    let told = inspect.status.as_ref();
    let told = told.is_some_and(|status| status.inspect.is_some());
    let state = situation::state(inspect);
    if state == AttachmentState::Failed || (state == AttachmentState::Done && !told) {
        return attachments::delete(inspect, plan);
    }
    let mut all = situation.of_mode(AttachmentMode::Inspect);
    let is_done = all.all(|one| situation::state(one) == AttachmentState::Done);
    let found = found(
        situation,
        &situation.seen.attachments,
        AttachmentMode::Inspect,
    );
    let Some(found) = found.filter(|_| is_done) else {
        return plan.wait(
            reason::PENDING,
            format!("{named}: {} reads the copies once more", inspect.spec.node),
        );
    };
    if token(&found) != accepted.token {
        // It stays until the order has said so.
        return plan.stall(
            reason::INVALID_SPEC,
            format!(
                "{named}: the copies are not those of its plan: read a new one with `kubectl twinsite plan`"
            ),
        );
    }
    let own = found.iter().find(|(spec, _)| spec.volume == situation.id);
    match (chosen(accepted, &found), open(situation), own) {
        (Err(text), ..) => plan.stall(reason::INVALID_SPEC, format!("{named}: {text}")),
        (Ok(()), Some(who), _) => plan.wait(
            reason::PENDING,
            format!("{named}: waits until {who} has let go of the volume"),
        ),
        (Ok(()), None, Some((_, report))) => {
            let details = details(situation, accepted, id, &found, report);
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
        (Ok(()), None, None) => {}
    }
}

/// Whether the chosen copies of all volumes can be members together.
fn chosen(accepted: &ReseedToken, found: &Found<'_>) -> Result<(), String> {
    for (_, report) in found {
        chosen_of_one(accepted, report)?;
    }
    let names: Vec<String> = found.iter().map(|(spec, _)| spec.display_name()).collect();
    let copies: Vec<FoundCopy<'_>> = names
        .iter()
        .zip(found)
        .map(|(name, (_, report))| FoundCopy {
            name,
            report: Some(report),
        })
        .collect();
    for leg in &accepted.legs {
        judge_copies(*leg, accepted.inconsistent, &copies).map_err(|unfit| match unfit {
            Unfit::Mixed(each) => format!(
                "leg {leg}: the copies of the group are not of one moment ({each}): only reseed.inconsistent makes a register of them"
            ),
            other => format!("leg {leg}: {other}"),
        })?;
    }
    Ok(())
}

/// Whether the chosen copies of one volume can be members together.
fn chosen_of_one(accepted: &ReseedToken, report: &InspectReport) -> Result<(), &'static str> {
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

/// What must not be forgotten between the order to the agent and the new register: alike for all volumes, but for what is expected of
/// the own copies.
fn details(
    situation: &Situation<'_>,
    accepted: &ReseedToken,
    id: RegisterId,
    found: &Found<'_>,
    own: &InspectReport,
) -> ReseedOrder {
    let expect: Vec<ExpectedLeg> = accepted
        .legs
        .iter()
        .filter_map(|&leg| expected(own.leg(leg)?))
        .collect();
    let mut orders = situation.of_mode(AttachmentMode::Reseed);
    let begun = orders.find_map(|one| {
        one.spec
            .reseed
            .as_ref()
            .filter(|it| it.register_id == id.to_string())
    });
    if let Some(begun) = begun {
        return ReseedOrder {
            expect,
            ..begun.clone()
        };
    }
    let register = situation.seen.witness.current();
    let marks = &situation.seen.marks;
    let legs = || found.iter().flat_map(|(_, report)| &report.legs);
    let told = |leg: &InspectedLeg| leg.register_id.clone();
    let mut former: BTreeSet<String> = legs().filter_map(told).collect();
    former.extend(marks.iter().map(|mark| mark.register_id.to_string()));
    former.extend(register.iter().flat_map(|register| {
        let own = std::iter::once(&register.register_id);
        own.chain(&register.former).map(ToString::to_string)
    }));
    former.remove(&id.to_string());
    let theirs = situation.seen.peer.status();
    let known = situation.last().into_iter().chain(theirs);
    let company = situation
        .seen
        .company
        .iter()
        .chain(&situation.seen.peer.company);
    let company = company.filter_map(|volume| volume.status.as_ref());
    let statuses: Vec<&MirroredVolumeStatus> = known.chain(company).collect();
    let epochs = (marks.iter().map(|mark| mark.epoch.0))
        .chain(legs().filter_map(|leg| leg.epoch))
        .chain(statuses.iter().filter_map(|status| status.epoch));
    let seqs = (marks.iter().map(|mark| mark.seq))
        .chain(legs().filter_map(|leg| leg.seq))
        .chain(
            statuses
                .iter()
                .filter_map(|status| Some(status.active_site.as_ref()?.seq)),
        );
    ReseedOrder {
        register_id: id.to_string(),
        legs: accepted.legs.clone(),
        expect,
        former: former.into_iter().collect(),
        highest_epoch: epochs.max().unwrap_or(0),
        highest_seq: seqs.max().unwrap_or(0),
        inconsistent: accepted.inconsistent,
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

/// What a register is made of.
type Seeds = Vec<(RegisterVolume, SeedMembers)>;

fn seeds(details: &ReseedOrder, report: &InspectReport) -> Result<SeedMembers, &'static str> {
    Ok(match details.legs[..] {
        [only] => SeedMembers::Alone {
            leg: leg_of(only),
            seen: seen(report, only)?,
        },
        _ => SeedMembers::Pair {
            a: seen(report, LegIndex::A)?,
            b: seen(report, LegIndex::B)?,
        },
    })
}

/// The register that is to be, and what was seen of each of its volumes; the random ids of the request are the shell's.
fn seed(
    situation: &Situation<'_>,
    id: RegisterId,
    details: &ReseedOrder,
    found: &Found<'_>,
    who: &str,
) -> Result<(Reseed, Seeds), &'static str> {
    let mut all: Seeds = Vec::new();
    for (spec, report) in found {
        let volume = RegisterVolume(spec.volume.bytes());
        all.push((volume, seeds(details, report)?));
    }
    let members = all.first().ok_or("it is of no volume")?.1;
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
    let order =
        |attachment: &Arc<Attachment>| attachment.status.as_ref().and_then(|status| status.order);
    let attached = situation.seen.attachments.iter();
    let orders = attached
        .chain(&situation.seen.peer.attachments)
        .filter_map(order);
    let order = most(orders.max().unwrap_or(0), |old| old.order.n);
    let seed = Reseed {
        register_id: id,
        former: former.into_iter().collect(),
        group: GroupId(situation.desired.register_id().bytes()),
        volumes: all.iter().map(|(volume, _)| *volume).collect(),
        highest_epoch: Epoch(most(details.highest_epoch, |old| old.epoch.0)),
        highest_seq: most(details.highest_seq, |old| old.active.seq),
        highest_order: order.saturating_add(ORDERS_UNSEEN),
        members,
        site: site_of(situation.own),
        generation: Gen([0; 16]),
        txid: TxId([0; 16]),
        who: who.to_owned(),
        why: "ordered by a person after a plan".to_owned(),
    };
    Ok((seed, all))
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
    format!(
        "`kubectl twinsite plan {} --to {}` says what the copies have, and how a person makes a new register of them",
        situation.desired.reference(),
        situation.site
    )
}
