//! What a new register could be made of, while the witness has lost the volume's one or shows one that is not believed.
//!
//! Invariants: pure. Only copies that answered and were complete are offered, two only if they are of one history; what is
//! not known about the other one is said.

use serde::Serialize;
use twinsite_api::{InspectReport, InspectedLeg, LegIndex, MirroredVolume, condition_type, reason};

use crate::world::volume_conditions;

/// What a Failover of mode Reseed has to carry, and what it means.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Reseed {
    pub(crate) legs: Vec<LegIndex>,
    pub(crate) token: String,
    /// The copies are of one history: nothing of them is given up.
    pub(crate) whole: bool,
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

/// From what an agent found on the copies.
pub(crate) fn offer(volume: &MirroredVolume, report: &InspectReport) -> Option<Reseed> {
    if !is_called_for(volume) {
        return None;
    }
    let complete = |leg: &&InspectedLeg| {
        leg.reachable
            && leg.epoch.is_some()
            && matches!(leg.role.as_deref(), Some("Member" | "Growing"))
    };
    let usable: Vec<&InspectedLeg> = report.legs.iter().filter(complete).collect();
    let best = usable.iter().copied().max_by_key(|leg| leg.epoch)?;
    let history = |leg: &InspectedLeg| (leg.epoch, leg.generation.clone());
    let growing = |leg: &InspectedLeg| leg.role.as_deref() == Some("Growing");
    let mut same: Vec<&InspectedLeg> = usable
        .into_iter()
        .filter(|leg| history(leg) == history(best))
        .collect();
    // A copy that grows has every acknowledged write, and the other one may lack some.
    if let Some(only) = same.iter().copied().find(|leg| growing(leg)) {
        same = vec![only];
    }
    let epoch = best.epoch.unwrap_or_default();
    let whole = same.len() == 2;
    let mut what = Vec::new();
    if whole {
        what.push(format!(
            "both copies are of one history, at epoch {epoch}: nothing that they have is given up"
        ));
    } else {
        let chosen = same.iter().filter_map(|leg| leg.leg).next()?;
        what.push(format!(
            "leg {chosen} runs alone, as it was at epoch {epoch}"
        ));
        for other in report.legs.iter().filter(|leg| leg.leg != Some(chosen)) {
            let name = other.leg.map_or_else(String::new, |leg| leg.to_string());
            what.push(match (other.reachable, other.epoch) {
                (false, _) => format!(
                    "leg {name} does not answer: if it has later writes, they are lost once you confirm that it may be overwritten"
                ),
                (true, Some(epoch)) => format!(
                    "leg {name} is at epoch {epoch}: what only it has is lost once you confirm that it may be overwritten"
                ),
                (true, None) => format!("leg {name} carries no copy of this volume"),
            });
        }
    }
    Some(Reseed {
        legs: same.iter().filter_map(|leg| leg.leg).collect(),
        token: report.reseed_token(),
        whole,
        what,
    })
}
