//! Attachments of a group of volumes (protocol 2.10): opened together and on one node, or not at all.
//!
//! The Attachments that name one group, with one mode, are one order: nothing is opened before there is one for each volume
//! of the group, and what is open is detached when the last of them is gone. What stands in the way is said at each of them.

use std::time::Duration;

use twinsite_api::{AttachmentMode, AttachmentSpec, GroupId, ReseedOrder, VolumeId, reason};

use super::attachments::{
    cannot_open, close, continue_open, is_released, is_retried, rival, stays_closed,
    wait_for_witness, wanted,
};
use super::{AGAIN, Action, Desired, Member, Observed, Over, Phase, Plan, RETRY, VolumeSeen};

/// Is the volume one of a group?
pub fn is_grouped(spec: &AttachmentSpec) -> bool {
    let alone = spec.group_id() == GroupId::Volume(spec.volume);
    !alone || spec.group_volumes.iter().any(|other| *other != spec.volume)
}

/// Is it opened with the others? Reading the superblocks of one volume concerns no other one.
pub(super) fn is_joint(spec: &AttachmentSpec) -> bool {
    is_grouped(spec) && spec.mode != AttachmentMode::Inspect
}

/// Of the same group, for the same purpose.
fn is_same(one: &AttachmentSpec, other: &AttachmentSpec) -> bool {
    is_joint(other) && one.group_id() == other.group_id() && one.mode == other.mode
}

/// Why the order itself cannot be one of a group.
pub(super) fn fault(spec: &AttachmentSpec) -> Option<String> {
    let mut volumes: Vec<VolumeId> = spec.group_volumes.clone();
    volumes.sort_unstable();
    volumes.dedup();
    if !matches!(spec.group_id(), GroupId::Group(_)) {
        return Some(
            "spec.groupVolumes names other volumes: name the group in spec.group".to_owned(),
        );
    }
    if volumes.len() != spec.group_volumes.len() || !volumes.contains(&spec.volume) {
        return Some(
            "spec.groupVolumes names every volume of the group once, this one included: correct it"
                .to_owned(),
        );
    }
    if let Some(leg) = spec.legs.iter().find(|leg| leg.array) {
        return Some(format!(
            "leg {} is a LUN of an array: groups are offered on legs of our own target only",
            leg.leg
        ));
    }
    None
}

/// The Attachments of the group of this one, in the order of their volumes; or what is missing.
fn together<'a>(
    desired: &'a Desired,
    name: &str,
    spec: &AttachmentSpec,
) -> Result<Vec<(&'a str, &'a str, &'a AttachmentSpec)>, String> {
    let mut volumes = spec.group_volumes.clone();
    volumes.sort_unstable();
    let mut members = Vec::new();
    for volume in volumes {
        let of_volume = |other: &&String| {
            let theirs = &desired.objects.attachments[*other].spec;
            theirs.volume == volume && is_same(spec, theirs)
        };
        let mut here = desired
            .objects
            .attachments
            .keys()
            .filter(of_volume)
            .filter_map(|other| {
                let (uid, spec) = wanted(desired, other)?;
                Some((other.as_str(), uid, spec))
            });
        let Some(member) = here.next() else {
            return Err(missing(desired, spec, volume));
        };
        if let Some((second, ..)) = here.next() {
            return Err(format!(
                "volume {volume} of the group has two Attachments, {} and {second}: remove one",
                member.0
            ));
        }
        if let Some(field) = difference(spec, member.2) {
            return Err(format!(
                "Attachments {name} and {} of one group differ in spec.{field}: make them alike",
                member.0
            ));
        }
        if let Some(why) = fault(member.2).or_else(|| cannot_open(desired, member.2)) {
            return Err(format!("Attachment {} of the group: {why}", member.0));
        }
        members.push(member);
    }
    Ok(members)
}

fn missing(desired: &Desired, spec: &AttachmentSpec, volume: VolumeId) -> String {
    let attachments = desired.objects.attachments.iter();
    let mut theirs =
        attachments.filter(|(_, other)| other.spec.volume == volume && is_same(spec, &other.spec));
    match theirs.next() {
        Some((other, found)) if found.spec.node != desired.node => format!(
            "Attachment {other} of volume {volume} is for node {}: all volumes of a group are opened on one node",
            found.spec.node
        ),
        Some((other, _)) => format!(
            "Attachment {other} of volume {volume} was detached by hand: the volumes of a group are opened together"
        ),
        None => format!(
            "volume {volume} of the group has no Attachment on this node: the volumes of a group are opened together, when there is one for each"
        ),
    }
}

/// The first field in which two orders of one group must not differ.
fn difference(one: &AttachmentSpec, other: &AttachmentSpec) -> Option<&'static str> {
    let mut volumes = [one.group_volumes.clone(), other.group_volumes.clone()];
    for list in &mut volumes {
        list.sort_unstable();
    }
    let fields = [
        ("groupVolumes", volumes[0] == volumes[1]),
        ("sitePair", one.site_pair == other.site_pair),
        ("site", one.site == other.site),
        ("move", one.move_ == other.move_),
        ("onNoQuorum", one.on_no_quorum == other.on_no_quorum),
        ("lease", one.lease == other.lease),
        (
            "commandTimeout",
            one.command_timeout == other.command_timeout,
        ),
        (
            "maxResyncBytesPerSecond",
            one.max_resync_bytes_per_second == other.max_resync_bytes_per_second,
        ),
        ("birth", one.birth == other.birth),
        ("force", is_one_force(one, other)),
        ("reseed", is_one_reseed(one, other)),
    ];
    fields
        .into_iter()
        .find(|(_, same)| !same)
        .map(|(field, _)| field)
}

/// One decision of one person about one value of the register; the superblocks are each volume's own.
fn is_one_force(one: &AttachmentSpec, other: &AttachmentSpec) -> bool {
    let decided = |spec: &AttachmentSpec| {
        let force = spec.force.as_ref()?;
        Some((
            force.expect_epoch,
            force.expect_txid.clone(),
            force.who.clone(),
            force.inconsistent,
        ))
    };
    decided(one) == decided(other)
}

fn is_one_reseed(one: &AttachmentSpec, other: &AttachmentSpec) -> bool {
    let decided = |spec: &AttachmentSpec| {
        let reseed = spec.reseed.clone()?;
        Some(ReseedOrder {
            expect: Vec::new(),
            ..reseed
        })
    };
    decided(one) == decided(other)
}

/// An open volume that is not wanted any more, while others of its group are: it goes with the last of them.
pub(super) fn is_kept(desired: &Desired, observed: &Observed, seen: &VolumeSeen) -> bool {
    let open = matches!(seen.phase, Phase::Opening | Phase::Open);
    let wants = |(name, other): (&String, &VolumeSeen)| {
        is_same(&seen.spec, &other.spec)
            && wanted(desired, name).is_some_and(|(uid, spec)| {
                let same = uid == other.uid && spec.mode == other.spec.mode;
                same && !is_released(desired, name, spec)
            })
    };
    is_joint(&seen.spec) && open && observed.volumes.iter().any(wants)
}

/// Goes on with the group of this Attachment. Called for each of them; all is done by the first.
pub(super) fn begin(
    desired: &Desired,
    observed: &Observed,
    (name, uid, spec): (&str, &str, &AttachmentSpec),
    now: Duration,
    plan: &mut Plan,
) {
    if let Some(why) = fault(spec) {
        return plan.wait("Attachment", name, reason::INVALID_SPEC, why);
    }
    // What is open goes on, whatever is missing for another start.
    if let Some(seen) = observed.volumes.get(name)
        && seen.uid == uid
        && seen.spec.mode == spec.mode
        && !matches!(seen.phase, Phase::Over { .. })
    {
        return continue_open(name, spec, seen, now, plan);
    }
    let members = match together(desired, name, spec) {
        Ok(members) => members,
        Err(why) => return plan.wait("Attachment", name, reason::PENDING, why),
    };
    // What is said of one of them holds for all.
    let leaves = members.iter().any(|(_, _, theirs)| theirs.release);
    let elsewhere = members
        .iter()
        .any(|(member, ..)| desired.held_elsewhere.contains(*member));
    if stays_closed(name, observed.volumes.get(name), leaves, elsewhere, plan) {
        return;
    }
    if desired.untried.contains(&spec.site_pair) {
        return wait_for_witness(name, plan);
    }
    for (member, _, theirs) in &members {
        let same = |other: &&String| members.iter().any(|(name, ..)| name == *other);
        if let Some(rival) = rival(desired, observed, member, theirs).filter(|other| !same(other)) {
            let message = format!(
                "volume {} of the group is held by Attachment {rival} on this node: remove one of the two, a volume has one writer",
                theirs.volume
            );
            return plan.wait("Attachment", name, reason::ALREADY_ATTACHED, message);
        }
    }
    if members.first().is_some_and(|(first, ..)| *first == name) {
        start(observed, &members, now, plan);
    }
}

/// A wipe waits for no volume of the group: what hinders one does not keep the others from being tried again.
fn is_wiped_on(observed: &Observed, members: &[(&str, &str, &AttachmentSpec)]) -> bool {
    let goes_on = |(name, _, spec): &(&str, &str, &AttachmentSpec)| {
        let phase = observed.volumes.get(*name).map(|seen| &seen.phase);
        let again = matches!(phase, Some(Phase::Over { how, .. }) if is_retried(*how));
        spec.mode == AttachmentMode::Wipe && again
    };
    members.iter().any(goes_on)
}

/// All of them are new, or have ended and may be tried again.
fn start(
    observed: &Observed,
    members: &[(&str, &str, &AttachmentSpec)],
    now: Duration,
    plan: &mut Plan,
) {
    let mut ended = Vec::new();
    for (name, uid, spec) in members {
        let Some(seen) = observed.volumes.get(*name) else {
            continue;
        };
        let say = |plan: &mut Plan, text: String| {
            for (other, ..) in members {
                plan.wait("Attachment", other, reason::PENDING, text.clone());
            }
        };
        match seen.phase {
            Phase::Over { how, at } if seen.uid == *uid => {
                if !is_retried(how) && (how != Over::Never || !is_wiped_on(observed, members)) {
                    // A one-shot order that is done, for all of them; else one of them never comes again.
                    if !matches!(how, Over::Done) {
                        say(
                            plan,
                            format!(
                                "Attachment {name} of the group will never attach again: remove all Attachments of the group and make new ones"
                            ),
                        );
                    }
                    return;
                }
                // What one of them lacked may be there in a moment.
                let wait = if how == Over::Waiting { AGAIN } else { RETRY };
                if **spec == seen.spec && !plan.is_due(at + wait, now) {
                    return;
                }
                ended.push(*name);
            }
            _ => {
                return say(
                    plan,
                    format!(
                        "the group is still open under an earlier Attachment of {name}: it is detached when all earlier Attachments of the group are gone"
                    ),
                );
            }
        }
    }
    for name in ended {
        close(name, plan);
    }
    plan.act(Action::OpenGroup {
        members: members
            .iter()
            .map(|(name, uid, spec)| Member {
                attachment: (*name).to_owned(),
                uid: (*uid).to_owned(),
                spec: Box::new((*spec).clone()),
            })
            .collect(),
    });
}
