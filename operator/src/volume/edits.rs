//! Fields of the register that an operator owns: the latch, who may rejoin, what a person gave up.
//!
//! Only the operator at the active site edits, so that two never work against each other; a person's word is bound to the
//! epoch or LUN that it names.

use twinsite_api::{LegIndex, MirroredVolume, parse_naa, reason};
use twinsite_register::Naa;

use super::situation::{Situation, leg_of, site_of};
use super::{Action, Plan, RegisterChange, attachments, names};
use crate::moves::Wish;

pub(super) fn plan(situation: &Situation<'_>, wish: Option<&Wish>, plan: &mut Plan) {
    let Some(register) = situation.live() else {
        return;
    };
    if !situation.is_active(register) {
        return said_elsewhere(situation, plan);
    }
    let change = latch(situation, wish)
        .or_else(|| rejoin(situation))
        .or_else(|| by_a_person(situation, plan));
    // One at a time: each needs the txid of the one before.
    if let Some(change) = change {
        plan.act(Action::ChangeRegister {
            expect: register.txid,
            change,
        });
    }
}

fn latch(situation: &Situation<'_>, wish: Option<&Wish>) -> Option<RegisterChange> {
    let register = situation.live()?;
    let accepted = situation.active_site_wanted() == situation.site;
    if register.active.latched {
        return accepted.then_some(RegisterChange::Unlatch);
    }
    // An order of a person brought the volume here, and the spec names the other site: it must not drag it back.
    let ordered_here = wish.is_some_and(|wish| wish.by_order && wish.to == situation.site);
    (ordered_here && !accepted).then_some(RegisterChange::Latch)
}

fn rejoin(situation: &Situation<'_>) -> Option<RegisterChange> {
    let register = situation.live()?;
    let other = leg_of(situation.own.other());
    let wanted_again = register.no_rejoin.contains(other) && !attachments::to_be_dropped(situation);
    if wanted_again {
        return Some(RegisterChange::NoRejoin(register.no_rejoin.without(other)));
    }
    // A copy that is out already, of a site that is drained, stays out.
    let is_out = !register.members.contains(other) && !register.no_rejoin.contains(other);
    (is_out && attachments::to_be_dropped(situation))
        .then(|| RegisterChange::NoRejoin(register.no_rejoin.with(other)))
}

/// What people said on the volume, or on any volume of its group: they have one register.
fn by_a_person(situation: &Situation<'_>, plan: &mut Plan) -> Option<RegisterChange> {
    let own = std::slice::from_ref(&situation.desired.volume);
    let company = match situation.seen.company.as_slice() {
        [] => own,
        company => company,
    };
    let mut wanted = None;
    for volume in company {
        // All are looked at: one that says it wrong is told so.
        let change =
            confirmed(situation, volume, plan).or_else(|| retired(situation, volume, plan));
        wanted = wanted.or(change);
    }
    wanted
}

fn said<'a>(volume: &'a MirroredVolume, key: &str) -> Option<(&'a str, String)> {
    let text = volume.metadata.annotations.as_ref()?.get(key)?;
    let (namespace, name) = (&volume.metadata.namespace, &volume.metadata.name);
    let who = format!(
        "annotation on MirroredVolume {}/{}",
        namespace.as_deref().unwrap_or_default(),
        name.as_deref().unwrap_or_default()
    );
    Some((text, who))
}

fn confirmed(
    situation: &Situation<'_>,
    volume: &MirroredVolume,
    plan: &mut Plan,
) -> Option<RegisterChange> {
    let register = situation.live()?;
    let (text, who) = said(volume, names::CONFIRM_ANNOTATION)?;
    match confirm(text) {
        Some((leg, epoch))
            if register.unconfirmed.contains(leg_of(leg)) && register.epoch.0 == epoch =>
        {
            return Some(RegisterChange::Confirm { leg, who });
        }
        Some((leg, _)) if !register.unconfirmed.contains(leg_of(leg)) => {}
        _ => plan.refuse(
            reason::INVALID_SPEC,
            format!(
                "{who}: {}: {text:?} must be <leg>@<epoch>, such as B@{}",
                names::CONFIRM_ANNOTATION,
                register.epoch
            ),
        ),
    }
    None
}

/// A LUN that a person gave up, on the volume or on any volume of its group.
pub(super) fn given_up(situation: &Situation<'_>) -> Option<(LegIndex, Naa, String)> {
    let own = std::iter::once(&situation.desired.volume);
    let mut company = own.chain(&situation.seen.company);
    company.find_map(|volume| {
        let (text, who) = said(volume, names::RETIRE_ANNOTATION)?;
        let (leg, naa) = retire(text)?;
        Some((leg, naa, who))
    })
}

fn retired(
    situation: &Situation<'_>,
    volume: &MirroredVolume,
    plan: &mut Plan,
) -> Option<RegisterChange> {
    let register = situation.live()?;
    let (text, who) = said(volume, names::RETIRE_ANNOTATION)?;
    match retire(text) {
        // Done: what serves that leg now is another LUN.
        Some((leg, naa)) if register.is_retired(leg_of(leg), naa) => None,
        Some((leg, naa)) if register.members.contains(leg_of(leg)) => {
            let site = situation.site_name(site_of(leg));
            let text = format!(
                "{who}: leg {leg} ({naa}) is a member: it has every acknowledged write, and only a copy that has left can be given up; take the leg at {site} out of spec.legs in both clusters, and it leaves; or take the annotation away: {}",
                without(volume, names::RETIRE_ANNOTATION)
            );
            plan.refuse(reason::STILL_MEMBER, text);
            None
        }
        Some((leg, naa)) => Some(RegisterChange::Retire { leg, naa, who }),
        None => {
            let key = names::RETIRE_ANNOTATION;
            plan.refuse(
                reason::INVALID_SPEC,
                format!("{who}: {key}: {text:?} must be <leg>=<naa>, such as B=naa.6..."),
            );
            None
        }
    }
}

/// A person's word counts in the cluster where the volume is active, and is not heard in the other one.
fn said_elsewhere(situation: &Situation<'_>, plan: &mut Plan) {
    let Some(register) = situation.live() else {
        return;
    };
    let volume = &situation.desired.volume;
    let twin = situation.seen.peer.volume.as_deref();
    for key in [names::CONFIRM_ANNOTATION, names::RETIRE_ANNOTATION] {
        let Some((text, who)) = said(volume, key) else {
            continue;
        };
        let is_there = twin
            .and_then(|twin| said(twin, key))
            .is_some_and(|(theirs, _)| theirs == text);
        let is_done = match (key, confirm(text), retire(text)) {
            (names::CONFIRM_ANNOTATION, Some((leg, _)), _) => {
                !register.unconfirmed.contains(leg_of(leg))
            }
            (_, _, Some((leg, naa))) => register.is_retired(leg_of(leg), naa),
            _ => false,
        };
        if is_there || is_done {
            continue;
        }
        let active = situation.site_name(register.active.site);
        plan.refuse(
            reason::NOT_ACTIVE,
            format!(
                "{who}: {key} is heard in the cluster of {active} only, where the volume is active: say it there, and take it away here: {}",
                without(volume, key)
            ),
        );
    }
}

/// The command that takes an annotation away.
fn without(volume: &MirroredVolume, key: &str) -> String {
    let (namespace, name) = (&volume.metadata.namespace, &volume.metadata.name);
    format!(
        "kubectl -n {} annotate mirroredvolume {} {key}-",
        namespace.as_deref().unwrap_or_default(),
        name.as_deref().unwrap_or_default()
    )
}

fn index(text: &str) -> Option<LegIndex> {
    match text {
        "A" => Some(LegIndex::A),
        "B" => Some(LegIndex::B),
        _ => None,
    }
}

fn confirm(text: &str) -> Option<(LegIndex, u64)> {
    let (leg, epoch) = text.split_once('@')?;
    Some((index(leg)?, epoch.parse().ok()?))
}

fn retire(text: &str) -> Option<(LegIndex, Naa)> {
    let (leg, naa) = text.split_once('=')?;
    Some((index(leg)?, Naa(parse_naa(naa)?)))
}
