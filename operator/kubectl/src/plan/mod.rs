//! `kubectl twinsite plan`: what each way of moving a volume to a site would do, and what it would lose.
//!
//! The ground is an Inspect order: an agent at the target site reads the superblocks of both legs and the register, and
//! changes neither. What the other side does not answer stays unknown, and unknown is never called safe.
//!
//! Invariants: pure. A way is called possible without loss only if the target's leg is a member in the register and showed
//! a superblock that fits. A force is offered only with the token that the agent computed from the register it read.
//! Not here: making the Inspect order (`inspect`), the Failover object (`failover`).

mod render;
mod reseed;
#[cfg(test)]
mod tests;

use serde::Serialize;
use twinsite_api::{
    AttachmentStatus, InspectedLeg, LegIndex, MirroredVolume, RegisterView, VolumeLegState,
    condition_type,
};

pub(crate) use render::render;

use crate::{
    table::bytes,
    world::{verdict, volume_conditions},
};

/// What a person decides by.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Plan {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) to: String,
    /// The MirrorGroup whose volumes all move with this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
    pub(crate) register: Option<RegisterView>,
    pub(crate) legs: Vec<LegReport>,
    pub(crate) planned: Verdict,
    pub(crate) unplanned: Verdict,
    pub(crate) force: Verdict,
    /// What a Failover of mode Force has to carry.
    pub(crate) token: Option<Token>,
    /// The register is lost: what a new one could be made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reseed: Option<reseed::Reseed>,
}

/// What an accepted loss is named by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Token {
    pub(crate) expect_epoch: u64,
    pub(crate) token: String,
    /// The leg's copy was never completed: its file system may be of no use.
    pub(crate) inconsistent: bool,
}

/// One leg as it answered.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LegReport {
    pub(crate) leg: LegIndex,
    pub(crate) site: String,
    pub(crate) member: Option<bool>,
    pub(crate) text: String,
}

/// Whether one way is open.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "verdict")]
pub(crate) enum Verdict {
    /// Nothing that was acknowledged is lost.
    Safe { what: String },
    /// It can be done, and this is lost.
    Loses { what: Vec<String> },
    /// It cannot be done.
    Impossible { why: String },
    /// There is no need for it.
    Needless { why: String },
}

/// What stands in the volume's object, and what the inspecting agent said, if it said anything.
pub(crate) fn plan(
    volume: &MirroredVolume,
    to: &str,
    inspected: Option<&AttachmentStatus>,
) -> Plan {
    let facts = Facts::of(volume, to, inspected);
    Plan {
        namespace: volume.metadata.namespace.clone().unwrap_or_default(),
        name: volume.metadata.name.clone().unwrap_or_default(),
        to: to.to_owned(),
        group: volume.spec.group.clone(),
        register: facts.register.cloned(),
        legs: facts.legs(),
        planned: facts.planned(),
        unplanned: facts.unplanned(),
        force: facts.force(),
        token: facts.token().filter(|_| !reseed::is_called_for(volume)),
        reseed: inspected
            .and_then(|status| status.inspect.as_ref())
            .filter(|_| volume.spec.group.is_none())
            .and_then(|report| reseed::offer(volume, report)),
    }
}

struct Facts<'a> {
    volume: &'a MirroredVolume,
    to: &'a str,
    target: Option<LegIndex>,
    register: Option<&'a RegisterView>,
    inspected: &'a [InspectedLeg],
    token: Option<&'a str>,
    failure: Option<&'a str>,
}

impl<'a> Facts<'a> {
    fn of(
        volume: &'a MirroredVolume,
        to: &'a str,
        inspected: Option<&'a AttachmentStatus>,
    ) -> Self {
        let legs = volume
            .status
            .as_ref()
            .map_or(&[][..], |status| &status.legs);
        let report = inspected.and_then(|status| status.inspect.as_ref());
        Self {
            volume,
            to,
            target: legs
                .iter()
                .find(|leg| leg.site == to)
                .and_then(|leg| leg.leg),
            register: inspected.and_then(|status| status.register.as_ref()),
            inspected: report.map_or(&[], |report| &report.legs),
            token: report.and_then(|report| report.token.as_deref()),
            failure: match inspected {
                None => Some("no agent looked at the legs"),
                Some(status) if report.is_none() => Some(
                    status
                        .message
                        .as_deref()
                        .unwrap_or("the agent has not answered in time"),
                ),
                Some(_) => None,
            },
        }
    }

    fn leg(&self, index: LegIndex) -> Option<&'a InspectedLeg> {
        self.inspected.iter().find(|leg| leg.leg == Some(index))
    }

    fn is_member(&self, index: LegIndex) -> Option<bool> {
        Some(self.register?.members.contains(&index))
    }

    fn active_here(&self) -> bool {
        self.register
            .is_some_and(|register| register.active_site.name == self.to)
    }

    fn legs(&self) -> Vec<LegReport> {
        let known = self
            .volume
            .status
            .as_ref()
            .map_or(&[][..], |status| &status.legs);
        known
            .iter()
            .filter_map(|leg| {
                let index = leg.leg?;
                Some(LegReport {
                    leg: index,
                    site: leg.site.clone(),
                    member: self.is_member(index),
                    text: self.leg(index).map_or_else(
                        || "not looked at".to_owned(),
                        |inspected| describe(inspected, self.is_member(index)),
                    ),
                })
            })
            .collect()
    }

    /// Why nothing can be said about a move to this site.
    fn unknown(&self) -> Option<String> {
        if reseed::is_called_for(self.volume) {
            return Some(
                "the register is lost or not to be believed: nothing moves before it is made anew"
                    .to_owned(),
            );
        }
        let Some(target) = self.target else {
            return Some(format!("the volume has no leg at {}", self.to));
        };
        if let Some(failure) = self.failure {
            return Some(format!("not known: {failure}"));
        }
        if self.register.is_none() {
            return Some(
                "the witness does not show the register, and nothing moves without it".to_owned(),
            );
        }
        if self.leg(target).is_none_or(|leg| !leg.reachable) {
            return Some(format!("the leg at {} does not answer", self.to));
        }
        None
    }

    fn target_fits(&self) -> bool {
        self.target
            .and_then(|target| self.leg(target))
            .is_some_and(|leg| matches!(leg.class.as_deref(), Some("Usable" | "Ahead")))
    }

    fn target_is_member(&self) -> bool {
        self.target.and_then(|target| self.is_member(target)) == Some(true)
    }

    fn planned(&self) -> Verdict {
        if let Some(why) = self.unknown() {
            return Verdict::Impossible { why };
        }
        if self.active_here() {
            return Verdict::Needless {
                why: format!("it is active at {} already", self.to),
            };
        }
        if !self.target_is_member() {
            return Verdict::Impossible {
                why: format!("the leg at {} is not in sync: wait for its resync", self.to),
            };
        }
        if verdict(
            volume_conditions(self.volume),
            condition_type::PEER_REACHABLE,
        ) != Some(true)
        {
            return Verdict::Impossible {
                why: "the other cluster does not answer".to_owned(),
            };
        }
        Verdict::Safe {
            what: "the workload stops at the other site, then starts here".to_owned(),
        }
    }

    fn unplanned(&self) -> Verdict {
        if let Some(why) = self.unknown() {
            return Verdict::Impossible { why };
        }
        if self.active_here() {
            return Verdict::Needless {
                why: format!("it is active at {} already", self.to),
            };
        }
        if !self.target_is_member() {
            return Verdict::Impossible {
                why: format!(
                    "the leg at {} lacks acknowledged writes: it left the mirror before epoch {}",
                    self.to,
                    self.register.map_or(0, |register| register.epoch)
                ),
            };
        }
        if !self.target_fits() {
            return Verdict::Impossible {
                why: format!("the leg at {} shows nothing that can be used", self.to),
            };
        }
        Verdict::Safe {
            what: "the old writer is fenced, then the workload starts here; an old pod that still writes gets errors"
                .to_owned(),
        }
    }

    fn force(&self) -> Verdict {
        if let Some(group) = &self.volume.spec.group {
            return Verdict::Impossible {
                why: format!(
                    "not offered for a volume of a group, since it would speak for the others of MirrorGroup {group}: bring the other copies back, or restore the group from a backup under another name"
                ),
            };
        }
        if let Some(why) = self.unknown() {
            return Verdict::Impossible { why };
        }
        let (Some(target), Some(register)) = (self.target, self.register) else {
            return Verdict::Impossible {
                why: "the register is not known".to_owned(),
            };
        };
        if self.target_is_member() && self.target_fits() {
            return Verdict::Needless {
                why: if self.active_here() {
                    "its leg is a member: it starts without".to_owned()
                } else {
                    "an Unplanned move does the same and loses nothing".to_owned()
                },
            };
        }
        let leg = self.leg(target);
        if leg.is_none_or(|leg| leg.epoch.is_none() || leg.class.as_deref() == Some("Bad")) {
            return Verdict::Impossible {
                why: format!("the leg at {} has no superblock of this volume", self.to),
            };
        }
        let mut what = Vec::new();
        let own = leg.and_then(|leg| leg.epoch).unwrap_or_default();
        what.push(format!(
            "every write acknowledged since the leg at {} left the mirror: it stands at epoch {own}, the volume at epoch {}",
            self.to, register.epoch
        ));
        if let Some(dirty) = self.known_dirty(target) {
            what.push(format!("at least {} were written since then", bytes(dirty)));
        } else {
            what.push("how much that is, nobody who answers knows".to_owned());
        }
        if register
            .members
            .iter()
            .any(|member| *member != target && self.leg(*member).is_some_and(|leg| leg.reachable))
        {
            what.push(
                "the leg that has these writes ANSWERS: bring the volume up there instead"
                    .to_owned(),
            );
        }
        if self.inconsistent() {
            what.push(
                "its copy was never completed: the file system on it may not mount at all"
                    .to_owned(),
            );
        }
        if let Some(holder) = &register.holder {
            what.push(format!(
                "the volume is still held (key {holder}): a writer that is alive loses what it writes from now on"
            ));
        }
        Verdict::Loses { what }
    }

    fn inconsistent(&self) -> bool {
        self.target
            .and_then(|target| self.leg(target))
            .is_some_and(|leg| leg.role.as_deref() == Some("Target"))
    }

    /// The most that anybody who answers says has changed since the target's leg left.
    fn known_dirty(&self, target: LegIndex) -> Option<u64> {
        let maps = self
            .inspected
            .iter()
            .filter(|leg| leg.leg != Some(target))
            .filter_map(|leg| leg.dirty_bytes);
        let reported = self
            .volume
            .status
            .iter()
            .flat_map(|status| &status.legs)
            .filter(|leg| leg.leg == Some(target) && leg.state != VolumeLegState::Member)
            .filter_map(|leg| leg.dirty_bytes);
        maps.chain(reported).max().filter(|dirty| *dirty > 0)
    }

    fn token(&self) -> Option<Token> {
        match self.force() {
            Verdict::Loses { .. } => Some(Token {
                expect_epoch: self.register?.epoch,
                token: self.token?.to_owned(),
                inconsistent: self.inconsistent(),
            }),
            _ => None,
        }
    }
}

fn describe(leg: &InspectedLeg, member: Option<bool>) -> String {
    if !leg.reachable {
        return "does not answer".to_owned();
    }
    let mut parts = Vec::new();
    match member {
        Some(true) => parts.push("has every acknowledged write".to_owned()),
        Some(false) => parts.push("LACKS WRITES".to_owned()),
        None => {}
    }
    if let Some(class) = &leg.class {
        let mut words = class.clone();
        if let Some(role) = &leg.role {
            words.push_str(&format!(" {role}"));
        }
        parts.push(words);
    }
    if let Some(epoch) = leg.epoch {
        parts.push(format!("epoch {epoch}"));
    }
    if let Some(beat) = leg.beat {
        parts.push(format!("beat {beat}"));
    }
    if let Some(node) = leg.node.as_deref().filter(|node| !node.is_empty()) {
        parts.push(format!("last written from {node}"));
    }
    if let Some(message) = &leg.message {
        parts.push(message.clone());
    }
    parts.join(", ")
}
