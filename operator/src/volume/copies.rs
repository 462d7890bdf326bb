//! The copies: the Leg of this site, and what is known of both.
//!
//! Our own half follows from our pool, the other half is pulled from the peer's object and kept when the peer is away: an
//! address that once led to a copy is still the best there is.

use std::collections::BTreeMap;

use twinsite_api::{
    Attachment, AttachmentMode, ChapRef, Leg, LegIndex, LegRemoval, LegSpec, LegState, LegTarget,
    LunRef, StoragePool, VolumeLegState, VolumeLegStatus, naa_text, reason,
};
use twinsite_register::{Class, Naa};

use super::place::{self, Refused};
use super::situation::{self, Situation, leg_of};
use super::{Action, Plan, names};

/// The Leg of this site.
pub(super) fn plan(situation: &Situation<'_>, plan: &mut Plan) {
    let there = situation.leg_object();
    let Some(wanted) = situation.leg_spec(situation.site) else {
        return leave(situation, there, plan);
    };
    if let Some(leg) = there.filter(|leg| leg.metadata.deletion_timestamp.is_some()) {
        // It is wanted again, or a person deleted it: another one is made when it has gone.
        let is_member = situation
            .live()
            .is_none_or(|register| register.members.contains(situation.own_leg()));
        if !is_member {
            return remove(situation, leg, plan);
        }
    }
    let pool = match there {
        Some(leg) => place::of_leg(situation, leg),
        None => match place::choose(situation, wanted, lived(situation)) {
            Ok(pool) => Some(pool),
            Err(Refused::Invalid(text)) => return plan.stall(reason::INVALID_SPEC, text),
            Err(Refused::Wait(why)) => return plan.wait(why.word, why.message),
        },
    };
    let Some(pool) = pool else {
        let name = there.map(|leg| leg.spec.pool.as_str()).unwrap_or_default();
        let text = format!(
            "StoragePool {name}, which holds the copy of this site, is not there: make it again"
        );
        return plan.stall(reason::INVALID_SPEC, text);
    };
    if let Some(array) = &pool.spec.array {
        if situation.desired.group.is_some() {
            let text = format!(
                "groups are offered on copies of our own target only, and StoragePool {} is an array: name another pool in spec.legs",
                situation::name(&pool.metadata)
            );
            return plan.stall(reason::INVALID_SPEC, text);
        }
        if lun_of(wanted.lun.as_ref()).is_none() {
            let text = format!(
                "a leg on the array {} names its LUN: give spec.legs[].lun.number and lun.initialize, the NAA id that the LUN has",
                array.iqn
            );
            plan.stall(reason::INVALID_SPEC, text);
        }
        return;
    }
    if wanted.lun.is_some() {
        let text = format!(
            "StoragePool {} is no array: leave spec.legs[].lun out",
            situation::name(&pool.metadata)
        );
        return plan.stall(reason::INVALID_SPEC, text);
    }
    if there.is_none() && matches!(situation.class, Some(Class::Below(_) | Class::Tombstone)) {
        return;
    }
    if there.is_some_and(|leg| {
        wanted
            .pool
            .as_ref()
            .is_some_and(|named| *named != leg.spec.pool)
    }) {
        plan.wait(
            reason::INVALID_SPEC,
            "a copy does not move between pools: remove its leg from spec.legs, wait until it is gone, add it with the new pool",
        );
    }
    let Some(spec) = leg_spec(situation, pool, there) else {
        return;
    };
    let wanted = leg_with(situation, spec);
    if there.is_none_or(|leg| !says_all(leg, &wanted)) {
        plan.act(Action::ApplyLeg(Box::new(wanted)));
    }
    if let Some(trouble) = there.and_then(trouble) {
        plan.wait(reason::PENDING, trouble);
    }
}

/// Whether what is there already says all that we want to say.
fn says_all(there: &Leg, wanted: &Leg) -> bool {
    let (have, want) = (&there.metadata, &wanted.metadata);
    let has = |have: &Option<BTreeMap<String, String>>, want: &Option<BTreeMap<String, String>>| {
        want.iter()
            .flatten()
            .all(|(key, value)| have.as_ref().and_then(|have| have.get(key)) == Some(value))
    };
    let held = is_held(there);
    there.spec == wanted.spec
        && held
        && has(&have.labels, &want.labels)
        && has(&have.annotations, &want.annotations)
}

/// Whether something may already stand on the copies.
pub(super) fn lived(situation: &Situation<'_>) -> bool {
    let known = situation
        .last()
        .is_some_and(|status| status.epoch.is_some());
    !matches!(situation.class, Some(Class::Absent)) || !situation.seen.marks.is_empty() || known
}

fn trouble(leg: &Leg) -> Option<String> {
    let status = leg.status.as_ref()?;
    let mut conditions = status.conditions.iter();
    let silent = conditions.find(|one| one.reason == reason::AGENT_SILENT);
    if let Some(silent) = silent {
        return Some(format!("the copy of this site: {}", silent.message));
    }
    let text = status.message.as_deref().filter(|text| !text.is_empty())?;
    (status.state != LegState::Serving)
        .then(|| format!("the copy of this site is not served: {text}"))
}

fn leg_spec(situation: &Situation<'_>, pool: &StoragePool, there: Option<&Leg>) -> Option<LegSpec> {
    let node = pool.spec.node.as_ref()?;
    let wanted = situation.spec().capacity.clone();
    let size = there
        .map(|leg| leg.spec.size.clone())
        .filter(|size| size.bytes() >= wanted.bytes());
    Some(LegSpec {
        volume: situation.id,
        group: situation.desired.group.as_ref().map(|group| group.id()),
        leg: situation.own,
        site: situation.site.to_owned(),
        site_pair: situation.spec().site_pair.clone(),
        pool: situation::name(&pool.metadata),
        node: node.name.clone(),
        size: size.unwrap_or(wanted),
        block_size: there.map_or(4096, |leg| leg.spec.block_size),
        iqn: there.and_then(|leg| leg.spec.iqn.clone()),
        lun: there.map_or(0, |leg| leg.spec.lun),
        naa: match there {
            Some(leg) => leg.spec.naa.clone(),
            None => name_after_retired(situation),
        },
        chap: pair_chap(situation),
        initiators: there
            .map(|leg| leg.spec.initiators.clone())
            .unwrap_or_default(),
        // Only a leg that was wiped is removed with its object.
        removal: LegRemoval::DeleteWiped,
    })
}

/// A copy in a pool has a name that follows from its volume. If a person gave that one up for good, a new copy gets another.
fn name_after_retired(situation: &Situation<'_>) -> Option<String> {
    let register = situation.live()?;
    let is_retired = |naa: [u8; 16]| register.is_retired(situation.own_leg(), Naa(naa));
    if !is_retired(situation.id.leg_naa(situation.own)) {
        return None;
    }
    let mut names = (0..=u32::MAX).map(|number| situation.id.leg_naa_after(situation.own, number));
    // The register keeps few.
    let free = names.find(|name| !is_retired(*name))?;
    Some(naa_text(&free))
}

fn pair_chap(situation: &Situation<'_>) -> Option<ChapRef> {
    let secret = situation.pair.spec.pair_secret.clone()?;
    Some(ChapRef {
        pair_secret: Some(secret),
        auth_secret: None,
    })
}

fn leg_with(situation: &Situation<'_>, spec: LegSpec) -> Leg {
    let (namespace, name) = (situation.desired.namespace(), situation.desired.name());
    let mut leg = Leg::new(&names::leg_name(situation.id, situation.own), spec);
    leg.metadata.labels = Some(names::labels(situation.id, namespace, name));
    let mut annotations = names::annotations(namespace, name);
    annotations.insert(
        names::DELETION_ANNOTATION.to_owned(),
        format!("{:?}", situation.spec().deletion_policy),
    );
    if let Some(group) = &situation.desired.group {
        let ids: Vec<String> = group.volume_ids().iter().map(ToString::to_string).collect();
        annotations.insert(names::GROUP_VOLUMES_ANNOTATION.to_owned(), ids.join(","));
    }
    leg.metadata.annotations = Some(annotations);
    leg.metadata.finalizers = Some(vec![names::AGENT_FINALIZER.to_owned()]);
    leg
}

/// The spec names no copy here: it goes once the register has let it go.
fn leave(situation: &Situation<'_>, there: Option<&Leg>, plan: &mut Plan) {
    let Some(leg) = there else { return };
    let own = situation.own_leg();
    let dropped = situation.live().is_some_and(|register| {
        !register.members.contains(own) && register.no_rejoin.contains(own)
    });
    if dropped {
        remove(situation, leg, plan);
    } else {
        plan.wait(
            reason::PENDING,
            "the copy of this site is served until it has left the membership",
        );
    }
}

/// A Leg goes that serves no member any more. Its agent takes its finalizer off when it has stopped to serve; for a node that is not in
/// the cluster any more we do. Its file stays on that node's disk, and what stands there is judged by its superblock if it ever returns.
pub(super) fn remove(situation: &Situation<'_>, leg: &Leg, plan: &mut Plan) {
    let (name, uid) = (
        situation::name(&leg.metadata),
        situation::uid(&leg.metadata),
    );
    if leg.metadata.deletion_timestamp.is_none() {
        return plan.act(Action::DeleteLeg { name, uid });
    }
    let node = situation.seen.node(&leg.spec.node);
    match node {
        Some(node) if node.gone && node.agent_silent && is_held(leg) => {
            plan.act(Action::ReleaseLeg { name, uid });
        }
        Some(node) if node.gone && node.agent_silent => {}
        Some(node) if node.agent_silent => plan.wait(
            reason::AGENT_SILENT,
            format!(
                "Leg {name} waits for the agent of node {node}, of which nothing is heard: bring the node back or, if it never returns, kubectl delete node {node}, and the Leg goes; what is on its disk stays there",
                node = node.name
            ),
        ),
        _ => {}
    }
}

fn is_held(leg: &Leg) -> bool {
    let mut finalizers = leg.metadata.finalizers.iter().flatten();
    finalizers.any(|held| held == names::AGENT_FINALIZER)
}

/// Number and NAA id of a LUN; without the id nothing tells it from another one.
fn lun_of(lun: Option<&LunRef>) -> Option<(u16, &str)> {
    let lun = lun?;
    Some((lun.number, lun.initialize.as_deref()?))
}

/// What is known of every copy, as the status shows it and orders to agents are written from it.
pub(super) fn entries(situation: &Situation<'_>) -> Vec<VolumeLegStatus> {
    let mut sites: Vec<&str> = situation
        .spec()
        .legs
        .iter()
        .map(|leg| leg.site.as_str())
        .collect();
    let old = situation.last().map_or(&[][..], |status| &status.legs);
    // A copy that the spec gives up is known until it has left.
    let leaves = |leg: &&VolumeLegStatus| {
        leg.leg.is_some_and(|index| {
            situation.live().is_none_or(|register| {
                register.members.contains(leg_of(index))
                    || !register.no_rejoin.contains(leg_of(index))
            })
        })
    };
    let leaving: Vec<&str> = old
        .iter()
        .filter(leaves)
        .map(|leg| leg.site.as_str())
        .collect();
    sites.extend(
        leaving
            .into_iter()
            .filter(|site| situation.leg_spec(site).is_none()),
    );
    sites
        .into_iter()
        .map(|site| entry(situation, site, old.iter().find(|leg| leg.site == site)))
        .collect()
}

fn entry(situation: &Situation<'_>, site: &str, old: Option<&VolumeLegStatus>) -> VolumeLegStatus {
    let is_own = site == situation.site;
    let index = if is_own {
        situation.own
    } else {
        situation.own.other()
    };
    let (portals, target) = if is_own {
        own_address(situation, old)
    } else {
        peer_address(situation, site, old)
    };
    let open = open_attachment(situation);
    let told = open.and_then(|(attachment, by)| {
        let status = attachment.status.as_ref()?;
        let leg = status.legs.iter().find(|leg| leg.leg == index)?;
        Some((status, leg, by))
    });
    let mut entry = VolumeLegStatus {
        site: site.to_owned(),
        leg: Some(index),
        state: told.map_or_else(
            || without_writer(situation, index, is_own, old),
            |(_, leg, _)| leg.state,
        ),
        dirty_bytes: told.and_then(|(_, leg, _)| leg.dirty_bytes),
        resync_percent: None,
        resync_bytes_per_second: None,
        eta_seconds: None,
        portals,
        target,
        observed_at: None,
        observed_by: told.map(|(_, _, by)| by.to_owned()),
    };
    match told {
        Some((status, _, _)) if entry.state == VolumeLegState::Resyncing => {
            entry.resync_percent = status.resync_percent;
            entry.resync_bytes_per_second = status.resync_bytes_per_second;
            entry.eta_seconds = status.eta_seconds;
        }
        None if entry.state != VolumeLegState::Member => {
            entry.dirty_bytes = old.and_then(|old| old.dirty_bytes)
        }
        _ => {}
    }
    let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(situation.now);
    // The time is that of the last change, so that a status that says the same is the same.
    entry.observed_at = Some(match old {
        Some(old) => {
            let at = old.observed_at.clone();
            entry.observed_at.clone_from(&at);
            if *old == entry {
                at.unwrap_or(now)
            } else {
                now
            }
        }
        None => now,
    });
    entry
}

/// The Attachment that holds the mirror of this volume open, ours first, and who tells of it.
pub(super) fn open_attachment<'a>(situation: &Situation<'a>) -> Option<(&'a Attachment, &'a str)> {
    let opens = |attachment: &&Attachment| {
        attachment.spec.volume == situation.id
            && matches!(
                attachment.spec.mode,
                AttachmentMode::Writer | AttachmentMode::Caretaker
            )
            && situation::is_open(attachment)
    };
    let lives = |attachment: &&Attachment| !situation.is_lost(&attachment.spec.node);
    let own = situation
        .seen
        .attachments
        .iter()
        .map(AsRef::as_ref)
        .filter(opens)
        .find(lives);
    let peer = &situation.seen.peer;
    let theirs = || {
        let answering = peer
            .reach
            .answers()
            .then_some(peer.attachments.iter().map(AsRef::as_ref));
        answering.into_iter().flatten().find(opens)
    };
    let told = |attachment: &'a Attachment| (attachment, attachment.spec.node.as_str());
    own.or_else(theirs).map(told)
}

fn without_writer(
    situation: &Situation<'_>,
    index: LegIndex,
    is_own: bool,
    old: Option<&VolumeLegStatus>,
) -> VolumeLegState {
    let served = if is_own {
        situation.own_is_served()
    } else {
        let peer = &situation.seen.peer;
        let stopped = |leg: &Leg| {
            leg.spec.leg == index
                && leg
                    .status
                    .as_ref()
                    .is_none_or(|status| status.state != LegState::Serving)
        };
        !(peer.reach.answers() && peer.legs.iter().any(|leg| stopped(leg)))
    };
    match (situation.class, situation.live()) {
        (Some(Class::Live), Some(_)) if !served => VolumeLegState::Unreachable,
        (Some(Class::Live), Some(register)) if register.members.contains(leg_of(index)) => {
            VolumeLegState::Member
        }
        (Some(Class::Live), Some(_)) => match old.map(|old| old.state) {
            Some(VolumeLegState::New) => VolumeLegState::New,
            _ => VolumeLegState::Outdated,
        },
        (None | Some(Class::Below(_)), _) => old.map_or(VolumeLegState::New, |old| old.state),
        _ => VolumeLegState::New,
    }
}

type Address = (Vec<String>, Option<LegTarget>);

fn known(old: Option<&VolumeLegStatus>) -> Address {
    old.map(|old| (old.portals.clone(), old.target.clone()))
        .unwrap_or_default()
}

fn own_address(situation: &Situation<'_>, old: Option<&VolumeLegStatus>) -> Address {
    if let Some(leg) = situation.leg_object() {
        let serving = leg
            .status
            .as_ref()
            .is_some_and(|status| status.state == LegState::Serving);
        // Known from the first time it was served on.
        if !serving && old.is_none_or(|old| old.target.is_none()) {
            return Address::default();
        }
        let Some(pool) = place::of_leg(situation, leg) else {
            return known(old);
        };
        let target = LegTarget {
            iqn: leg.spec.target_name(),
            lun: leg.spec.lun,
            naa: leg.spec.naa_text(),
            chap: leg.spec.chap.clone(),
            array: false,
            cache_protected: false,
            initialize: None,
        };
        return (pool.spec.portals.clone(), Some(target));
    }
    let wanted = situation.leg_spec(situation.site);
    let named = wanted.and_then(|wanted| Some((wanted, wanted.pool.as_deref()?)));
    let pool = named.and_then(|(wanted, name)| {
        let pool = situation
            .seen
            .pools
            .iter()
            .find(|pool| pool.metadata.name.as_deref() == Some(name))?;
        Some((wanted, pool, pool.spec.array.as_ref()?))
    });
    let Some((wanted, pool, array)) = pool else {
        return known(old);
    };
    let Some((lun, naa)) = lun_of(wanted.lun.as_ref()) else {
        return known(old);
    };
    let target = LegTarget {
        iqn: array.iqn.clone(),
        lun,
        naa: naa.to_owned(),
        chap: array.auth_secret.clone().map(|secret| ChapRef {
            pair_secret: None,
            auth_secret: Some(secret),
        }),
        array: true,
        cache_protected: array.cache_protected,
        initialize: Some(naa.to_owned()),
    };
    (pool.spec.portals.clone(), Some(target))
}

/// What the peer's own object says of its copy.
fn peer_address(situation: &Situation<'_>, site: &str, old: Option<&VolumeLegStatus>) -> Address {
    let peer = &situation.seen.peer;
    let status = peer
        .volume
        .as_ref()
        .filter(|_| peer.reach.answers())
        .and_then(|volume| volume.status.as_ref());
    let theirs = status.and_then(|status| status.legs.iter().find(|leg| leg.site == site));
    match theirs {
        Some(leg) if leg.target.is_some() && leg.leg == Some(situation.own.other()) => {
            known(Some(leg))
        }
        _ => known(old),
    }
}

/// Bytes that both copies can hold, as far as they are known: what an expansion may go to.
pub(super) fn room(situation: &Situation<'_>) -> Option<u64> {
    let served = |leg: &Leg| leg.status.as_ref().and_then(|status| status.size);
    let own = match situation.leg_object() {
        Some(leg) => served(leg)?,
        // An array's LUN is measured by the agent that expands.
        None => situation.spec().capacity.bytes(),
    };
    let peer = &situation.seen.peer;
    let theirs = peer
        .legs
        .iter()
        .find(|leg| leg.spec.leg == situation.own.other() && leg.spec.volume == situation.id);
    let theirs = match theirs.filter(|_| peer.reach.answers()) {
        Some(leg) => served(leg)?,
        None if situation
            .known_target(situation.other_site)
            .is_some_and(|target| target.array) =>
        {
            own
        }
        None => return None,
    };
    Some(own.min(theirs))
}
