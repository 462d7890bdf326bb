//! What a new register could be made of, while the witness has lost the volume's one or shows one that is not believed.
//!
//! Invariants: pure. Only copies that answered and were complete are offered, two only if they are of one history; what is
//! not known about the other one is said.

use serde::Serialize;
use twinsite_api::{
    FoundCopy, InspectReport, InspectedLeg, LegIndex, MirroredVolume, Unfit, condition_type,
    judge_copies, reason,
};

use super::Looked;
use crate::world::volume_conditions;

/// What a Failover of mode Reseed has to carry, and what it means.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Reseed {
    pub(crate) legs: Vec<LegIndex>,
    pub(crate) token: String,
    /// The copies are of one history: nothing of them is given up.
    pub(crate) whole: bool,
    /// The copies of the volumes are not of one moment.
    pub(crate) inconsistent: bool,
    pub(crate) what: Vec<String>,
}

/// Whether the operator says that the register is lost or not to be believed.
pub(crate) fn is_called_for(volume: &MirroredVolume) -> bool {
    volume_conditions(volume).iter().any(|condition| {
        condition.type_ == condition_type::STALLED
            && condition.status == "True"
            && matches!(
                condition.reason.as_str(),
                reason::WITNESS_ROLLED_BACK | reason::REGISTER_MISSING
            )
    })
}

/// From what an agent found on the copies of all volumes that share the register.
pub(super) fn offer(all: &[Looked<'_>]) -> Option<Reseed> {
    if !all.iter().any(|one| is_called_for(one.volume)) {
        return None;
    }
    let reports: Vec<&InspectReport> = all.iter().map(Looked::report).collect::<Option<_>>()?;
    let legs = |index: LegIndex| -> Option<Vec<&InspectedLeg>> {
        reports.iter().map(|report| report.leg(index)).collect()
    };
    // The copies at one site run together or not at all.
    let complete =
        |index: &LegIndex| legs(*index).is_some_and(|legs| legs.into_iter().all(is_complete));
    let usable: Vec<LegIndex> = LegIndex::BOTH.into_iter().filter(complete).collect();
    let oldest = |index: &LegIndex| legs(*index)?.iter().filter_map(|leg| leg.epoch).min();
    let best = usable.iter().copied().max_by_key(oldest)?;
    let history = |index: LegIndex| -> Vec<(Option<u64>, Option<&str>)> {
        let legs = legs(index).unwrap_or_default();
        legs.iter()
            .map(|leg| (leg.epoch, leg.generation.as_deref()))
            .collect()
    };
    let growing = |index: LegIndex| {
        let legs = legs(index).unwrap_or_default();
        legs.iter()
            .any(|leg| leg.role.as_deref() == Some("Growing"))
    };
    let mut same: Vec<LegIndex> = usable
        .into_iter()
        .filter(|index| history(*index) == history(best))
        .collect();
    // A copy that grows has every acknowledged write, and the other one may lack some.
    if let Some(only) = same.iter().copied().find(|index| growing(*index)) {
        same = vec![only];
    }
    let mixed = same.iter().find_map(|index| mixed(all, *index));
    let whole = same.len() == 2 && mixed.is_none();
    let mut what = Vec::new();
    if same.len() == 2 {
        for one in all {
            let epoch = one.leg(best).and_then(|leg| leg.epoch).unwrap_or_default();
            what.push(of_one(
                all,
                one,
                format!("both copies are of one history, at epoch {epoch}: nothing that they have is given up"),
            ));
        }
    } else {
        let chosen = *same.first()?;
        for one in all {
            let epoch = one
                .leg(chosen)
                .and_then(|leg| leg.epoch)
                .unwrap_or_default();
            what.push(of_one(
                all,
                one,
                format!("leg {chosen} runs alone, as it was at epoch {epoch}"),
            ));
            let others = one.legs().iter().filter(|leg| leg.leg != Some(chosen));
            what.extend(others.map(|other| of_one(all, one, given_up(other))));
        }
    }
    if let Some(each) = &mixed {
        what.push(format!("the copies are NOT OF ONE MOMENT: {each}"));
        what.push(
            "one volume may have what was written after what another one lacks: what uses them may not start"
                .to_owned(),
        );
    }
    Some(Reseed {
        legs: same,
        token: InspectReport::reseed_token_of(&reports),
        whole,
        inconsistent: mixed.is_some(),
        what,
    })
}

fn is_complete(leg: &InspectedLeg) -> bool {
    leg.reachable
        && leg.epoch.is_some()
        && matches!(leg.role.as_deref(), Some("Member" | "Growing"))
}

/// Why the copies at one site are not of one moment.
fn mixed(all: &[Looked<'_>], index: LegIndex) -> Option<String> {
    let copies: Vec<FoundCopy<'_>> = all
        .iter()
        .map(|one| FoundCopy {
            name: one.name(),
            report: one.report(),
        })
        .collect();
    match judge_copies(index, false, &copies) {
        Err(Unfit::Mixed(each)) => Some(each),
        _ => None,
    }
}

fn of_one(all: &[Looked<'_>], one: &Looked<'_>, text: String) -> String {
    match all {
        [_] => text,
        _ => format!("{}: {text}", one.name()),
    }
}

fn given_up(other: &InspectedLeg) -> String {
    let name = other.leg.map_or_else(String::new, |leg| leg.to_string());
    match (other.reachable, other.epoch) {
        (false, _) => format!(
            "leg {name} does not answer: if it has later writes, they are lost once you confirm that it may be overwritten"
        ),
        (true, Some(epoch)) => format!(
            "leg {name} is at epoch {epoch}: what only it has is lost once you confirm that it may be overwritten"
        ),
        (true, None) => format!("leg {name} carries no copy of this volume"),
    }
}
