//! Attachments of this node.

use std::time::Duration;

use twinsite_api::{AttachmentMode, AttachmentSpec, reason};

use super::{
    AGAIN, Action, Desired, Observed, OrderSeen, Over, Phase, Plan, RETRY, VolumeSeen, groups,
};
use crate::control::verifies::BY_HAND;

/// The Attachment of this name, if it is for this node and nobody holds it back.
pub(super) fn wanted<'a>(
    desired: &'a Desired,
    name: &str,
) -> Option<(&'a str, &'a AttachmentSpec)> {
    let attachment = desired.objects.attachments.get(name)?;
    let uid = desired.uids.get(name)?;
    let here = attachment.spec.node == desired.node && !desired.held.contains(name);
    here.then_some((uid.as_str(), &attachment.spec))
}

/// It leaves this site, and the node does not use it any more.
pub(super) fn is_released(desired: &Desired, name: &str, spec: &AttachmentSpec) -> bool {
    spec.release && desired.unused.contains(name)
}

/// Detaches what is not wanted any more, and lets go of what has ended.
pub(super) fn end(desired: &Desired, observed: &Observed, plan: &mut Plan) {
    for (name, seen) in &observed.volumes {
        let stays = wanted(desired, name).is_some_and(|(uid, spec)| {
            let released = is_released(desired, name, spec);
            let same = uid == seen.uid && spec.mode == seen.spec.mode;
            // What has ended under its release stays so: its end is what is told.
            same && (!released || matches!(seen.phase, Phase::Over { .. }))
        });
        if (stays || groups::is_kept(desired, observed, seen)) && !desired.stopping {
            continue;
        }
        let attachment = name.clone();
        match seen.phase {
            Phase::Opening | Phase::Open => plan.act(Action::Detach { attachment }),
            Phase::Closing => {}
            Phase::Over { .. } => {
                plan.act(Action::Close {
                    attachment: attachment.clone(),
                });
                // Held back or stopping: the object is still there, and so is its order.
                let is_gone = desired.uids.get(name) != Some(&seen.uid);
                if is_gone {
                    plan.act(Action::Forget {
                        attachment,
                        uid: seen.uid.clone(),
                    });
                }
            }
        }
    }
}

/// Opens what is wanted and gives orders to what is open.
pub(super) fn begin(desired: &Desired, observed: &Observed, now: Duration, plan: &mut Plan) {
    for (name, attachment) in &desired.objects.attachments {
        let Some((uid, spec)) = wanted(desired, name) else {
            continue;
        };
        if let Some(why) = cannot_open(desired, spec) {
            plan.wait("Attachment", name, reason::PENDING, why);
            continue;
        }
        if groups::is_joint(spec) {
            groups::begin(desired, observed, (name, uid, spec), now, plan);
            continue;
        }
        let seen = observed.volumes.get(name);
        let leaves = spec.release;
        let elsewhere = desired.held_elsewhere.contains(name);
        if stays_closed(name, seen, leaves, elsewhere, plan) {
            continue;
        }
        match seen {
            Some(seen) if seen.uid == uid && seen.spec.mode == spec.mode => {
                continue_volume(name, uid, spec, seen, now, plan);
            }
            // Another Attachment of this name has not ended yet.
            Some(_) => {}
            None if desired.untried.contains(&spec.site_pair) => {
                wait_for_witness(name, plan);
            }
            None => match rival(desired, observed, name, &attachment.spec) {
                Some(rival) => {
                    let message = format!(
                        "the volume is held by Attachment {rival} on this node: remove one of the two, a volume has one writer"
                    );
                    plan.wait("Attachment", name, reason::ALREADY_ATTACHED, message);
                }
                None => open(name, uid, spec, plan),
            },
        }
    }
}

/// Whether it is not opened now: it leaves this site, or is still held at the other one.
pub(super) fn stays_closed(
    name: &str,
    seen: Option<&VolumeSeen>,
    leaves: bool,
    elsewhere: bool,
    plan: &mut Plan,
) -> bool {
    if !may_open(seen) {
        return false;
    }
    if leaves {
        let message = "the volume leaves this site: it is not opened here any more";
        plan.wait("Attachment", name, reason::NOT_ACTIVE, message);
    } else if elsewhere {
        if seen.is_some() {
            plan.act(Action::Close {
                attachment: name.to_owned(),
            });
        }
        let message = "the other site still holds the volume: it is taken as soon as that lets go";
        plan.wait("Attachment", name, reason::HELD_ELSEWHERE, message);
    }
    leaves || elsewhere
}

/// Not begun, or ended so that it would be opened again.
fn may_open(seen: Option<&VolumeSeen>) -> bool {
    seen.is_none_or(|seen| matches!(seen.phase, Phase::Over { how, .. } if is_retried(how)))
}

pub(super) fn wait_for_witness(name: &str, plan: &mut Plan) {
    let message = "the witness is asked whose the site's name is";
    plan.wait("Attachment", name, reason::PENDING, message);
}

pub(super) fn cannot_open(desired: &Desired, spec: &AttachmentSpec) -> Option<String> {
    if spec.site != desired.site {
        return Some(format!(
            "it names site {}, this node is at {}: correct spec.site or spec.node",
            spec.site, desired.site
        ));
    }
    let Some(pair) = desired.objects.pairs.get(&spec.site_pair) else {
        return Some(format!(
            "SitePair {} is not there: add it, or correct spec.sitePair",
            spec.site_pair
        ));
    };
    let stranger = spec
        .legs
        .iter()
        .find(|leg| !pair.spec.sites.iter().any(|site| site.name == leg.site));
    stranger.map(|leg| {
        format!(
            "leg {} stands at {}, which is no site of SitePair {}",
            leg.leg, leg.site, spec.site_pair
        )
    })
}

/// Another Attachment of the same volume on this node that goes first: the one that is open, else the
/// first by name. An Inspect reads in sessions and under a key of its own, beside whoever writes; only another one is in
/// its way.
pub(super) fn rival<'a>(
    desired: &'a Desired,
    observed: &'a Observed,
    name: &str,
    spec: &AttachmentSpec,
) -> Option<&'a String> {
    let reads = |spec: &AttachmentSpec| spec.mode == AttachmentMode::Inspect;
    let collides =
        |theirs: &AttachmentSpec| theirs.volume == spec.volume && reads(theirs) == reads(spec);
    let open = observed.volumes.iter().find(|(other, seen)| {
        *other != name && collides(&seen.spec) && !matches!(seen.phase, Phase::Over { .. })
    });
    if let Some((other, _)) = open {
        return Some(other);
    }
    let is_rival = |other: &String| {
        let over = observed
            .volumes
            .get(other)
            .is_some_and(|seen| matches!(seen.phase, Phase::Over { how, .. } if !is_retried(how)));
        wanted(desired, other).is_some_and(|(_, theirs)| collides(theirs)) && !over
    };
    desired
        .objects
        .attachments
        .keys()
        .take_while(|other| *other != name)
        .find(|other| is_rival(other))
}

pub(super) fn close(name: &str, plan: &mut Plan) {
    plan.act(Action::Close {
        attachment: name.to_owned(),
    });
}

fn open(name: &str, uid: &str, spec: &AttachmentSpec, plan: &mut Plan) {
    plan.act(Action::Open {
        attachment: name.to_owned(),
        uid: uid.to_owned(),
        spec: Box::new(spec.clone()),
    });
}

pub(super) fn is_retried(how: Over) -> bool {
    match how {
        Over::Refused | Over::Failed | Over::Waiting => true,
        // Detached without an order to: its device was taken away from outside. It attaches again.
        Over::Detached => true,
        Over::Never | Over::Done => false,
    }
}

fn continue_volume(
    name: &str,
    uid: &str,
    spec: &AttachmentSpec,
    seen: &VolumeSeen,
    now: Duration,
    plan: &mut Plan,
) {
    match seen.phase {
        Phase::Over { how, at } => {
            // A changed order, such as a move, is tried at once.
            let wait = if how == Over::Waiting { AGAIN } else { RETRY };
            if is_retried(how) && (*spec != seen.spec || plan.is_due(at + wait, now)) {
                close(name, plan);
                open(name, uid, spec, plan);
            }
        }
        Phase::Opening | Phase::Closing | Phase::Open => {
            continue_open(name, spec, seen, now, plan);
        }
    }
}

pub(super) fn continue_open(
    name: &str,
    spec: &AttachmentSpec,
    seen: &VolumeSeen,
    now: Duration,
    plan: &mut Plan,
) {
    if seen.phase == Phase::Open {
        orders(name, spec, seen, now, plan);
    }
}

/// Orders to an open mirror: one at a time.
fn orders(name: &str, spec: &AttachmentSpec, seen: &VolumeSeen, now: Duration, plan: &mut Plan) {
    if spec.legs != seen.spec.legs {
        plan.act(Action::Readdress {
            attachment: name.to_owned(),
            spec: Box::new(spec.clone()),
        });
    }
    match seen.order {
        OrderSeen::None => {}
        OrderSeen::UnderWay => return,
        OrderSeen::FailedAt(at) => {
            if !plan.may_retry(at, now) {
                return;
            }
        }
    }
    let dropped = spec
        .drop_legs
        .iter()
        .find(|leg| !seen.dropped.contains(leg));
    if let Some(leg) = dropped {
        return plan.act(Action::DropLeg {
            attachment: name.to_owned(),
            leg: *leg,
        });
    }
    let Some(shown) = seen.size else { return };
    if spec.size.bytes() > shown {
        return plan.act(Action::Expand {
            attachment: name.to_owned(),
            size: spec.size.bytes(),
        });
    }
    verify(name, spec, seen, plan);
    if spec.size.bytes() < shown {
        let message = format!("the volume has {shown} bytes and never shrinks: set spec.size back");
        plan.wait("Attachment", name, reason::INVALID_SPEC, message);
    }
}

/// A comparison of the copies that is asked for, or goes on.
fn verify(name: &str, spec: &AttachmentSpec, seen: &VolumeSeen, plan: &mut Plan) {
    if !seen.verify.ready {
        return;
    }
    let request = spec
        .verify
        .as_ref()
        .filter(|asked| seen.verify.answered.as_ref() != Some(asked));
    // One whose order was taken back, or has been answered elsewhere since, does not go on.
    let goes_on = seen
        .verify
        .waits
        .as_ref()
        .is_some_and(|waiting| waiting == BY_HAND || spec.verify.as_ref() == Some(waiting));
    if request.is_some() || goes_on {
        plan.act(Action::Verify {
            attachment: name.to_owned(),
            request: request.cloned(),
        });
    }
}
