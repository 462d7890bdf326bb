//! What is seen of each volume of a group becomes what is seen of all of them.
//!
//! A pod that uses one of the volumes uses the group; the group beats as long as one of its volumes does; an order about one of them is
//! one about all; and the peer has the group only if it has every one.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Group, Member};
use crate::volume::{Evidence, FailoverOrder, NodeView, Observed, PodView};

impl Group {
    /// Joins what was seen of the volumes that the group names.
    pub fn join(&mut self) {
        let lacks = self.lacks();
        let keeps = keeps(self.listed().map(|one| (one.desired.name(), &one.seen)));
        let joint = joint(self.listed().map(|one| &one.seen));
        let kept_by = self.kept_by();
        let company: Vec<_> = self
            .listed()
            .map(|one| Arc::clone(&one.desired.volume))
            .collect();
        let theirs: Vec<_> = self
            .listed()
            .filter_map(|one| one.seen.peer.volume.clone())
            .collect();
        let names: Vec<bool> = self.volumes.iter().map(|one| self.names(one)).collect();
        for (member, is_named) in self.volumes.iter_mut().zip(names) {
            if !is_named {
                continue;
            }
            let seen = &mut member.seen;
            shown(seen, &joint);
            seen.failovers.clone_from(&joint.failovers);
            seen.unknown.clone_from(&joint.unknown);
            seen.peer.lacks.clone_from(&lacks);
            seen.peer.keeps.clone_from(&keeps);
            seen.peer.company.clone_from(&theirs);
            seen.kept_by.clone_from(&kept_by);
            seen.company.clone_from(&company);
        }
    }

    /// The volumes of the group that are not being deleted.
    fn kept_by(&self) -> Vec<String> {
        let stay = self.listed().filter(|one| !one.desired.is_going());
        stay.map(|one| one.desired.name().to_owned()).collect()
    }

    /// What the peer's cluster lacks of the group, while it answers.
    fn lacks(&self) -> Option<String> {
        let own = self.object.as_ref()?;
        let first = self.listed().next()?;
        if !first.seen.peer.reach.answers() {
            return None;
        }
        let other = first.desired.other_site().unwrap_or("the other site");
        let reference = self.reference();
        if let Some(one) = self.listed().find(|one| !one.seen.peer.reach.answers()) {
            return Some(format!(
                "what the cluster of {other} shows of MirroredVolume {} cannot be read",
                one.desired.name()
            ));
        }
        let Some(twin) = &self.twin else {
            return Some(format!(
                "the cluster of {other} has no MirrorGroup {reference}: apply it there too"
            ));
        };
        if own.volume_ids() != twin.volume_ids() {
            return Some(format!(
                "MirrorGroup {reference} in the cluster of {other} names other volumes: make both lists alike"
            ));
        }
        let is_lacking = |one: &&Member| {
            one.seen.peer.volume.as_ref().is_none_or(|theirs| {
                theirs.metadata.deletion_timestamp.is_some()
                    || theirs.spec.group != one.desired.volume.spec.group
            })
        };
        let missing: Vec<&str> = self
            .listed()
            .filter(is_lacking)
            .map(|one| one.desired.name())
            .collect();
        (!missing.is_empty()).then(|| {
            format!(
                "the cluster of {other} lacks MirroredVolume {} of the group, or is deleting it",
                missing.join(", ")
            )
        })
    }
}

/// What is seen of what is left of some volumes of a group becomes what is seen of all of them.
pub(crate) fn join_left(left: &mut [(String, Observed)]) {
    let joint = joint(left.iter().map(|(_, seen)| seen));
    let keeps = keeps(left.iter().map(|(name, seen)| (name.as_str(), seen)));
    for (_, seen) in left {
        shown(seen, &joint);
        seen.peer.keeps.clone_from(&keeps);
    }
}

/// The volumes that the peer's cluster keeps, or of which nobody can say that it does not.
fn keeps<'a>(all: impl Iterator<Item = (&'a str, &'a Observed)>) -> Vec<String> {
    let is_kept = |(_, seen): &(&str, &Observed)| {
        let theirs = seen.peer.volume.as_ref();
        let stays = theirs.is_some_and(|one| one.metadata.deletion_timestamp.is_none());
        stays || !seen.peer.reach.answers()
    };
    all.filter(is_kept)
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// What concerns the register, the site or the pods.
fn shown(seen: &mut Observed, joint: &Observed) {
    seen.legs.clone_from(&joint.legs);
    seen.attachments.clone_from(&joint.attachments);
    seen.pods.clone_from(&joint.pods);
    seen.volume_attachments
        .clone_from(&joint.volume_attachments);
    seen.nodes.clone_from(&joint.nodes);
    seen.evidence = joint.evidence;
    seen.peer.attachments.clone_from(&joint.peer.attachments);
}

fn joint<'a>(all: impl Iterator<Item = &'a Observed>) -> Observed {
    let mut joint = Observed::default();
    let mut beats: Option<Option<Duration>> = None;
    let mut nodes: BTreeMap<String, NodeView> = BTreeMap::new();
    for seen in all {
        joint.legs.extend(seen.legs.iter().cloned());
        joint.attachments.extend(seen.attachments.iter().cloned());
        joint
            .volume_attachments
            .extend(seen.volume_attachments.iter().cloned());
        let theirs = seen.peer.attachments.iter().cloned();
        joint.peer.attachments.extend(theirs);
        for pod in &seen.pods {
            let known = |other: &PodView| other.uid == pod.uid;
            if !joint.pods.iter().any(known) {
                joint.pods.push(pod.clone());
            }
        }
        for field in &seen.unknown {
            if !joint.unknown.contains(field) {
                joint.unknown.push(field.clone());
            }
        }
        for order in &seen.failovers {
            let known = |other: &FailoverOrder| {
                other.at_peer == order.at_peer
                    && other.object.metadata.name == order.object.metadata.name
            };
            if !joint.failovers.iter().any(known) {
                joint.failovers.push(order.clone());
            }
        }
        for node in &seen.nodes {
            let known = nodes
                .entry(node.name.clone())
                .or_insert_with(|| node.clone());
            known.volume_in_use |= node.volume_in_use;
        }
        let this = seen.evidence.beat_still_for;
        beats = Some(match beats {
            None => this,
            // One that is not known may be moving.
            Some(others) => others.zip(this).map(|(one, other)| one.min(other)),
        });
        joint.evidence.site_still_for = seen.evidence.site_still_for;
    }
    joint.failovers.sort_by_key(|order| {
        let metadata = &order.object.metadata;
        let made = metadata.creation_timestamp.as_ref().map(|at| at.0);
        (made, metadata.name.clone())
    });
    joint.nodes = nodes.into_values().collect();
    joint.evidence = Evidence {
        beat_still_for: beats.flatten(),
        ..joint.evidence
    };
    joint
}
