//! `kubectl twinsite plan`: what each way of moving a volume to a site would do, and what it would lose.
//!
//! The ground is an Inspect order for each volume that moves with it: an agent at the target site reads the superblocks of both
//! legs and the register, and changes neither. What the other side does not answer stays unknown, and unknown is never called safe.
//!
//! Invariants: pure. A way is called possible without loss only if the target's leg is a member in the register and showed
//! a superblock that fits. A force is offered only with the token that the agent computed from the register it read.
//! Not here: making the Inspect order (`inspect`), the Failover object (`failover`).

mod render;
mod reseed;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde::Serialize;
use twinsite_api::{
    AttachmentStatus, FoundCopy, InspectReport, InspectedLeg, LegIndex, MirroredVolume,
    RegisterView, Unfit, VolumeLegState, VolumeLegStatus, condition_type, judge_copies,
};

pub(crate) use render::render;

use crate::{
    table::bytes,
    world::{condition, verdict, volume_conditions},
};

/// A volume, and what the agent that looked at its copies said, if it said anything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Looked<'a> {
    pub(crate) volume: &'a MirroredVolume,
    pub(crate) inspected: Option<&'a AttachmentStatus>,
}

/// What a person decides by.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Plan {
    pub(crate) namespace: String,
    /// What an order names: the volume, or its group.
    pub(crate) name: String,
    pub(crate) to: String,
    /// The MirrorGroup whose volumes all move with this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
    pub(crate) register: Option<RegisterView>,
    pub(crate) volumes: Vec<VolumeReport>,
    pub(crate) planned: Verdict,
    pub(crate) unplanned: Verdict,
    pub(crate) force: Verdict,
    /// What a Failover of mode Force has to carry.
    pub(crate) token: Option<Token>,
    /// The register is lost: what a new one could be made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reseed: Option<reseed::Reseed>,
}

/// The copies of one volume.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VolumeReport {
    pub(crate) name: String,
    pub(crate) legs: Vec<LegReport>,
}

/// What an accepted loss is named by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Token {
    pub(crate) expect_epoch: u64,
    pub(crate) token: String,
    /// A copy was never completed, or copies of a group are not of one moment: they may be of no use.
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

/// What stands in the objects of the volumes that move together, and what the inspecting agent said. `name` is what an order of
/// the move names.
pub(crate) fn plan(all: &[Looked<'_>], name: &str, to: &str) -> Plan {
    let facts = Facts::of(all, to);
    let first = all.first().map(|one| one.volume);
    let called_for = facts.is_reseed_called_for();
    Plan {
        namespace: first
            .and_then(|volume| volume.metadata.namespace.clone())
            .unwrap_or_default(),
        name: name.to_owned(),
        to: to.to_owned(),
        group: facts.group.map(str::to_owned),
        register: facts.register.cloned(),
        volumes: all.iter().map(|one| facts.report(one)).collect(),
        planned: facts.planned(),
        unplanned: facts.unplanned(),
        force: facts.force(),
        token: facts.token().filter(|_| !called_for),
        reseed: facts
            .lacks()
            .is_none()
            .then(|| reseed::offer(all))
            .flatten(),
    }
}

impl<'a> Looked<'a> {
    pub(crate) fn name(&self) -> &'a str {
        self.volume.metadata.name.as_deref().unwrap_or_default()
    }

    fn known_legs(&self) -> &'a [VolumeLegStatus] {
        let status = self.volume.status.as_ref();
        status.map_or(&[][..], |status| &status.legs)
    }

    fn report(&self) -> Option<&'a InspectReport> {
        self.inspected?.inspect.as_ref()
    }

    fn legs(&self) -> &'a [InspectedLeg] {
        self.report().map_or(&[], |report| &report.legs)
    }

    fn leg(&self, index: LegIndex) -> Option<&'a InspectedLeg> {
        self.report()?.leg(index)
    }

    fn failure(&self) -> Option<&'a str> {
        match self.inspected {
            None => Some("no agent looked at the legs"),
            Some(status) if status.inspect.is_none() => Some(
                status
                    .message
                    .as_deref()
                    .unwrap_or("the agent has not answered in time"),
            ),
            Some(_) => None,
        }
    }

    /// The most that anybody who answers says has changed since the target's leg left.
    fn known_dirty(&self, target: LegIndex) -> Option<u64> {
        let others = self.legs().iter().filter(|leg| leg.leg != Some(target));
        let maps = others.filter_map(|leg| leg.dirty_bytes);
        let reported = self
            .known_legs()
            .iter()
            .filter(|leg| leg.leg == Some(target) && leg.state != VolumeLegState::Member)
            .filter_map(|leg| leg.dirty_bytes);
        maps.chain(reported).max().filter(|dirty| *dirty > 0)
    }
}

struct Facts<'a> {
    all: &'a [Looked<'a>],
    to: &'a str,
    group: Option<&'a str>,
    /// The leg at the site to move to, if all volumes have one.
    target: Option<LegIndex>,
    register: Option<&'a RegisterView>,
}

impl<'a> Facts<'a> {
    fn of(all: &'a [Looked<'a>], to: &'a str) -> Self {
        let target = |one: &Looked<'a>| one.known_legs().iter().find(|leg| leg.site == to)?.leg;
        let targets: Option<Vec<LegIndex>> = all.iter().map(target).collect();
        let registers = all.iter().filter_map(|one| one.inspected);
        Self {
            all,
            to,
            group: all.first().and_then(|one| one.volume.spec.group.as_deref()),
            target: targets.and_then(|targets| targets.first().copied()),
            register: registers
                .filter_map(|status| status.register.as_ref())
                .next(),
        }
    }

    /// A sentence about one of the volumes.
    fn of_one(&self, one: &Looked<'_>, text: String) -> String {
        match self.group {
            Some(_) => format!("{}: {text}", one.name()),
            None => text,
        }
    }

    fn is_member(&self, index: LegIndex) -> Option<bool> {
        Some(self.register?.members.contains(&index))
    }

    fn active_here(&self) -> bool {
        self.register
            .is_some_and(|register| register.active_site.name == self.to)
    }

    fn is_reseed_called_for(&self) -> bool {
        self.all.iter().any(|one| reseed::is_called_for(one.volume))
    }

    fn report(&self, one: &Looked<'_>) -> VolumeReport {
        let of_leg = |leg: &VolumeLegStatus| {
            let index = leg.leg?;
            let member = self.is_member(index);
            Some(LegReport {
                leg: index,
                site: leg.site.clone(),
                member,
                text: one.leg(index).map_or_else(
                    || "not looked at".to_owned(),
                    |inspected| describe(inspected, member),
                ),
            })
        };
        VolumeReport {
            name: one.name().to_owned(),
            legs: one.known_legs().iter().filter_map(of_leg).collect(),
        }
    }

    /// Why nothing can be said about a move to this site.
    fn unknown(&self) -> Option<String> {
        if self.is_reseed_called_for() {
            return Some(
                "the register is lost or not to be believed: nothing moves before it is made anew"
                    .to_owned(),
            );
        }
        if let Some(lacks) = self.lacks() {
            return Some(lacks);
        }
        let Some(target) = self.target else {
            return Some(format!("the volume has no leg at {}", self.to));
        };
        let failed = |one: &Looked<'_>| {
            let text = format!("not known: {}", one.failure()?);
            Some(self.of_one(one, text))
        };
        if let Some(failure) = self.all.iter().find_map(failed) {
            return Some(failure);
        }
        if self.register.is_none() {
            return Some(
                "the witness does not show the register, and nothing moves without it".to_owned(),
            );
        }
        let away = |one: &&Looked<'_>| one.leg(target).is_none_or(|leg| !leg.reachable);
        let away = self.all.iter().find(away)?;
        Some(self.of_one(away, format!("the leg at {} does not answer", self.to)))
    }

    /// What this cluster does not have of the group.
    fn lacks(&self) -> Option<String> {
        let status = self.all.first()?.volume.status.as_ref()?;
        let whole = status.group.as_ref()?.volumes.len();
        let group = self.group?;
        (self.all.len() < whole).then(|| {
            format!(
                "this cluster has {} of the {whole} volumes of MirrorGroup {group}: apply the others first",
                self.all.len()
            )
        })
    }

    fn target_fits(&self) -> bool {
        let fits = |leg: &InspectedLeg| matches!(leg.class.as_deref(), Some("Usable" | "Ahead"));
        self.target.is_some_and(|target| {
            let mut legs = self.all.iter().map(|one| one.leg(target));
            legs.all(|leg| leg.is_some_and(fits))
        })
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
        let answers = |one: &Looked<'_>| {
            let conditions = volume_conditions(one.volume);
            verdict(conditions, condition_type::PEER_REACHABLE) == Some(true)
        };
        if !self.all.iter().all(answers) {
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
        let is_bad = |one: &&Looked<'_>| {
            let leg = one.leg(target);
            leg.is_none_or(|leg| leg.epoch.is_none() || leg.class.as_deref() == Some("Bad"))
        };
        if let Some(bad) = self.all.iter().find(is_bad) {
            let text = format!("the leg at {} has no superblock of this volume", self.to);
            return Verdict::Impossible {
                why: self.of_one(bad, text),
            };
        }
        if let Some(why) = self.unfit(true) {
            return Verdict::Impossible {
                why: why.to_string(),
            };
        }
        if self.tokens().len() != 1 {
            return Verdict::Impossible {
                why: "the register changed while it was looked at: plan again".to_owned(),
            };
        }
        let mut what = self.loss(target, register);
        what.extend(self.since());
        let answers = |member: &LegIndex| {
            *member != target
                && self
                    .all
                    .iter()
                    .any(|one| one.leg(*member).is_some_and(|leg| leg.reachable))
        };
        if register.members.iter().any(answers) {
            what.push(
                "the leg that has these writes ANSWERS: bring the volume up there instead"
                    .to_owned(),
            );
        }
        match self.unfit(false) {
            Some(Unfit::Mixed(each)) => {
                what.push(format!("the copies are NOT OF ONE MOMENT: {each}"));
                what.push(
                    "one volume may have what was written after what another one lacks: what uses them may not start"
                        .to_owned(),
                );
            }
            Some(_) => what.push(
                "its copy was never completed: the file system on it may not mount at all"
                    .to_owned(),
            ),
            None => {}
        }
        if let Some(holder) = &register.holder {
            let held = if self.group.is_some() {
                "group"
            } else {
                "volume"
            };
            what.push(format!(
                "the {held} is still held (key {holder}): a writer that is alive loses what it writes from now on"
            ));
        }
        Verdict::Loses { what }
    }

    /// What is given up, in each volume and together.
    fn loss(&self, target: LegIndex, register: &RegisterView) -> Vec<String> {
        let own = |one: &Looked<'_>| {
            one.leg(target)
                .and_then(|leg| leg.epoch)
                .unwrap_or_default()
        };
        let written = |one: &Looked<'_>| match one.known_dirty(target) {
            Some(dirty) => format!("at least {} were written since then", bytes(dirty)),
            None => "how much was written since then, nobody who answers knows".to_owned(),
        };
        let lost = format!(
            "every write acknowledged since the leg at {} left the mirror",
            self.to
        );
        let (None, [only]) = (self.group, self.all) else {
            let mut what = vec![format!(
                "{lost}, in all volumes: the group is at epoch {}",
                register.epoch
            )];
            what.extend(self.all.iter().map(|one| {
                format!(
                    "{}: stands at epoch {}; {}",
                    one.name(),
                    own(one),
                    written(one)
                )
            }));
            let known = self.all.iter().filter_map(|one| one.known_dirty(target));
            let together: u64 = known.sum();
            if together > 0 {
                what.push(format!("together: at least {}", bytes(together)));
            }
            return what;
        };
        let stands = format!(
            "{lost}: it stands at epoch {}, the volume at epoch {}",
            own(only),
            register.epoch
        );
        vec![stands, written(only)]
    }

    /// Between which times the writes were made, as far as this cluster saw it.
    fn since(&self) -> Option<String> {
        let first_of = |type_: &str| {
            let of_one = |one: &Looked<'a>| {
                let told = condition(volume_conditions(one.volume), type_)?;
                (told.status == "False").then_some(told.last_transition_time.0)
            };
            self.all.iter().filter_map(of_one).min()
        };
        let left = first_of(condition_type::IN_SYNC)?;
        let silent = first_of(condition_type::PEER_REACHABLE);
        let silent = silent.map_or_else(String::new, |silent| {
            format!("; no answer from the other cluster since {silent}")
        });
        Some(format!(
            "seen from here: out of the mirror since {left}{silent}"
        ))
    }

    /// Why the copies cannot be run, with or without a person's word for a mix of old and new.
    fn unfit(&self, inconsistent: bool) -> Option<Unfit> {
        let copy = |one: &Looked<'a>| FoundCopy {
            name: one.name(),
            report: one.report(),
        };
        let copies: Vec<FoundCopy<'_>> = self.all.iter().map(copy).collect();
        judge_copies(self.target?, inconsistent, &copies).err()
    }

    /// What the agents read of the register stands for: one, unless it changed meanwhile.
    fn tokens(&self) -> BTreeSet<Option<&'a str>> {
        let token = |one: &Looked<'a>| one.report()?.token.as_deref();
        self.all.iter().map(token).collect()
    }

    fn token(&self) -> Option<Token> {
        match self.force() {
            Verdict::Loses { .. } => Some(Token {
                expect_epoch: self.register?.epoch,
                token: self.tokens().into_iter().next()??.to_owned(),
                inconsistent: self.unfit(false).is_some(),
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
