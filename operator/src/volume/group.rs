//! MirrorGroup: volumes that share one register are planned together, in one round.
//!
//! ```text
//! join     what is seen of each becomes what is seen of all, where it concerns the register, the site or the pods
//! plan     the first volume decides (move, workloads, lost nodes, edits of the register); each of the others makes its own
//!          copy, PersistentVolume, claim and Attachments under that decision
//! status   of each volume as of any; of the group what all of them say
//! ```
//! What every plan of a group keeps:
//! - either all volumes of the list are there, in this cluster, or nothing is done for any of them; nothing is agreed with the other
//!   cluster before it has all of them too;
//! - a move is written down at every volume before the workloads are scaled for it;
//! - one decision: no volume has a move record, or leaves, by what was seen of it alone.
//!
//! Not here: that agents open all or none (docs/groups.md), the spec that volumes share (`twinsite_api::MirrorGroup::lend`).

mod join;
mod status;

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use twinsite_api::{MirrorGroup, VolumeGroup, reason};

use super::situation::Situation;
use super::{Action, Decided, Desired, Lead, Observed, Plan, Why, plan_with};
use crate::shell::odd;

pub(crate) use join::join_left;
pub use status::status;

/// Word for a register that is of other volumes than the group's list.
pub(crate) const OTHER_VOLUMES: &str = "OtherVolumes";
/// Word for a volume whose group is not complete.
pub(crate) const INCOMPLETE: &str = "GroupIncomplete";

/// A group, as one cluster has it.
#[derive(Clone, Debug)]
pub struct Group {
    pub namespace: String,
    pub name: String,
    /// The MirrorGroup of this cluster.
    pub object: Option<Arc<MirrorGroup>>,
    /// The MirrorGroup of the peer's cluster, as last seen.
    pub twin: Option<Arc<MirrorGroup>>,
    /// Why the group, or a part of it in this cluster, cannot be read.
    pub unreadable: Option<String>,
    /// The MirroredVolumes of this cluster that name the group, in the order of their ids.
    pub volumes: Vec<Member>,
}

/// One volume that names the group.
#[derive(Clone, Debug)]
pub struct Member {
    pub desired: Desired,
    pub seen: Observed,
}

/// A plan for each volume of [`Group::volumes`].
#[derive(Clone, Debug, Default)]
pub struct Plans {
    pub plans: Vec<Plan>,
    /// Why nothing is done for the group.
    pub trouble: Option<Why>,
}

impl Plans {
    /// Which action of which plan comes when: what a later one of any volume builds on comes first.
    pub fn order(&self) -> Vec<(usize, usize)> {
        let prepares =
            |action: &Action| matches!(action, Action::AddFinalizer | Action::RecordMove(_));
        let all = || {
            let plans = self.plans.iter().enumerate();
            plans.flat_map(|(of, plan)| {
                let actions = plan.actions.iter().enumerate();
                actions.map(move |(at, action)| (of, at, prepares(action)))
            })
        };
        let first = all().filter(|(.., prepares)| *prepares);
        let then = all().filter(|(.., prepares)| !*prepares);
        first.chain(then).map(|(of, at, _)| (of, at)).collect()
    }
}

impl Group {
    /// `namespace/name`.
    pub fn reference(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// All its volumes are being deleted; if none is there, the group itself.
    fn is_going(&self) -> bool {
        if self.volumes.is_empty() {
            let object = self.object.as_ref();
            return object.is_some_and(|object| object.metadata.deletion_timestamp.is_some());
        }
        self.volumes.iter().all(|one| one.desired.is_going())
    }

    /// Whether anything says that the group was born.
    fn lived(&self) -> bool {
        let of_volume = |one: &Member| {
            let status = one.desired.volume.status.as_ref();
            status.is_some_and(|status| status.epoch.is_some())
                || one.seen.witness.last().is_some()
                || !one.seen.marks.is_empty()
        };
        let status = self
            .object
            .as_ref()
            .and_then(|object| object.status.as_ref());
        status.is_some_and(|status| status.epoch.is_some()) || self.volumes.iter().any(of_volume)
    }

    /// Why nothing is done for any of its volumes.
    fn trouble(&self) -> Option<Why> {
        let reference = self.reference();
        let invalid = |text: String| Some(Why::new(reason::INVALID_SPEC, text));
        if let Some(why) = &self.unreadable {
            return Some(Why::new(reason::UNREADABLE, odd::unreadable(why)));
        }
        let Some(object) = &self.object else {
            return invalid(format!(
                "MirrorGroup {reference}, which spec.group names, is not there: apply it"
            ));
        };
        let wanted = &object.spec.volumes;
        let here = |name: &String| self.volumes.iter().any(|one| one.desired.name() == name);
        let missing: Vec<&str> = wanted
            .iter()
            .filter(|name| !here(name))
            .map(String::as_str)
            .collect();
        if !missing.is_empty() {
            return Some(Why::new(
                INCOMPLETE,
                format!(
                    "MirrorGroup {reference} names {}, which is not there or does not name the group in spec.group: nothing is done for the others before",
                    missing.join(", ")
                ),
            ));
        }
        let mut listed = self.listed();
        let pair = &object.spec.site_pair;
        if let Some(other) = listed.find(|one| one.desired.volume.spec.site_pair != *pair) {
            return invalid(format!(
                "MirroredVolume {} is of SitePair {}, and MirrorGroup {reference} of {pair}: make them alike",
                other.desired.name(),
                other.desired.volume.spec.site_pair
            ));
        }
        let sites = |one: &Member| {
            let legs = one.desired.volume.spec.legs.iter();
            let mut sites: Vec<String> = legs.map(|leg| leg.site.clone()).collect();
            sites.sort();
            sites
        };
        let first = self.listed().next()?;
        let other = self.listed().find(|one| sites(one) != sites(first))?;
        invalid(format!(
            "MirroredVolumes {} and {} of the group have copies at other sites: spec.legs of all name the same ones",
            first.desired.name(),
            other.desired.name()
        ))
    }

    /// The volumes that the group names too.
    fn listed(&self) -> impl Iterator<Item = &Member> {
        self.volumes.iter().filter(|one| self.names(one))
    }

    fn names(&self, one: &Member) -> bool {
        self.object.as_ref().is_some_and(|object| {
            object
                .spec
                .volumes
                .iter()
                .any(|name| name == one.desired.name())
        })
    }
}

/// What to do now. The group is [joined](Group::join) already.
pub fn plan(group: &Group, now: Timestamp) -> Plans {
    let trouble = group.trouble().or_else(|| unjudged(group, now));
    let is_going = group.is_going();
    let trouble = trouble.filter(|why| !is_going || why.word == reason::UNREADABLE);
    let mut decided: Option<Decided> = None;
    let plan_of = |one: &Member| {
        if !group.names(one) && group.object.is_some() && !one.desired.is_going() {
            return stranger(group);
        }
        if let Some(why) = &trouble {
            return held(group, why, one);
        }
        let lead = decided.as_ref().map_or(Lead::Own, Lead::Of);
        let (plan, this) = plan_with(&one.desired, &one.seen, now, lead);
        if group.names(one) {
            decided.get_or_insert(this);
        }
        plan
    };
    let plans = group.volumes.iter().map(plan_of).collect();
    Plans { plans, trouble }
}

/// One volume of which nothing can be judged holds all.
fn unjudged(group: &Group, now: Timestamp) -> Option<Why> {
    group.listed().find_map(|one| {
        let why = Situation::of(&one.desired, &one.seen, now).err()?;
        let text = format!("MirroredVolume {}: {}", one.desired.name(), why.message);
        Some(Why::new(why.word, text))
    })
}

/// Nothing is done, and what was decided stands as it is.
fn held(group: &Group, why: &Why, one: &Member) -> Plan {
    let mut plan = Plan::default();
    let last = one.desired.volume.status.as_ref();
    plan.leaving = last.and_then(|status| status.leaving.clone());
    let passes = [INCOMPLETE, reason::WITNESS_NEEDED].contains(&why.word) && !group.lived();
    if passes || why.word == reason::WITNESS_NEEDED {
        plan.wait(why.word, why.message.clone());
    } else {
        plan.stall(why.word, why.message.clone());
    }
    plan
}

fn stranger(group: &Group) -> Plan {
    let mut plan = Plan::default();
    plan.stall(
        reason::INVALID_SPEC,
        format!(
            "MirrorGroup {} does not name this volume: its list is fixed when it is made, since one register names all volumes of the group from its birth on; make another group with all of them, or a volume in no group",
            group.reference()
        ),
    );
    plan
}

/// With whom a volume is opened, for the orders to agents.
pub(super) fn company(desired: &Desired) -> Option<VolumeGroup> {
    let Some(group) = &desired.group else {
        return desired.left_of.clone();
    };
    Some(VolumeGroup {
        id: group.id(),
        volumes: group.volume_ids(),
        on_no_quorum: group.spec.on_no_quorum,
    })
}

/// The volume is being deleted, and others of its group are not: it goes with them.
pub(super) fn stays(situation: &Situation<'_>) -> bool {
    !situation.seen.kept_by.is_empty()
}

pub(super) fn tell_of_those_that_go(situation: &Situation<'_>, plan: &mut Plan) {
    if situation.desired.is_going() {
        let text = format!(
            "a volume of a group is not deleted alone: delete {} too, and MirrorGroup {} with them",
            situation.seen.kept_by.join(", "),
            situation.spec().group.as_deref().unwrap_or_default()
        );
        plan.wait("GroupLives", text);
    }
}
