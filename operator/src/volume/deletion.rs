//! The object is being deleted in this cluster: forget here, or destroy.
//!
//! Forgetting takes claim and PersistentVolume away and lets the object go at once, also with the peer gone; the copy stays
//! and is served as long as the other cluster keeps the volume (`orphan`). Copies are destroyed only with `deletionPolicy:
//! Delete`, the object gone or going in both clusters, nothing attached, and a tombstone in the register; every cluster
//! wipes its own copy, so that none needs the other.
//!
//! Volumes of a group are destroyed together or not at all: by one tombstone, once every one of them says so and is gone or going in both
//! clusters, and this site's copies by one set of orders. `first`: of the volumes that share a register, the one that changes it.

use std::time::Duration;

use twinsite_api::{
    AttachmentMode, AttachmentState, DeletionPolicy, LegIndex, LegState, OnNoQuorum, VolumeId,
    parse_naa, reason,
};
use twinsite_register::{Class, Naa};

use super::situation::{self, Situation, leg_of};
use super::{Action, Plan, RegisterChange, Why, attachments, binding, copies, edits};

/// How soon the wipes of the other volumes of a group are looked at.
const SOON: Duration = Duration::from_secs(2);

pub(super) fn plan(situation: &Situation<'_>, first: bool, plan: &mut Plan) {
    if let Some(claim) = situation.seen.claim.as_deref() {
        let is_ours = situation.spec().claim.create && binding::is_ours(situation, claim);
        if is_ours && claim.metadata.deletion_timestamp.is_none() {
            plan.act(Action::DeleteClaim {
                name: situation::name(&claim.metadata),
                uid: situation::uid(&claim.metadata),
            });
        }
    }
    binding::remove_volume(situation, plan);
    let stays = match (destroys(situation), twin_is_gone(situation)) {
        (true, Some(true)) => match situation.seen.not_understood() {
            Some(why) => Some(why),
            None => destroy(situation, first, plan),
        },
        _ => None,
    };
    if let Some(why) = stays {
        return plan.wait(why.word, why.message);
    }
    for mode in [
        AttachmentMode::Caretaker,
        AttachmentMode::Birth,
        AttachmentMode::Inspect,
        AttachmentMode::Wipe,
        AttachmentMode::Force,
    ] {
        if let Some(there) = situation.attachment(mode) {
            attachments::delete(there, plan);
        }
    }
    if situation.desired.is_held() {
        plan.act(Action::RemoveFinalizer);
    }
}

/// Whether the volume, and every other one that shares its register, says that its copies go with it. One of which nothing is known
/// here any more says nothing.
pub(super) fn destroys(situation: &Situation<'_>) -> bool {
    let says = |policy: DeletionPolicy| policy == DeletionPolicy::Delete;
    let company = &situation.seen.company;
    let is_whole =
        situation.desired.group.is_none() || company.len() == situation.desired.together().len();
    says(situation.spec().deletion_policy)
        && is_whole
        && company.iter().all(|one| says(one.spec.deletion_policy))
}

/// Whether the peer has let the object go, and all that share its register; `None`: it does not answer.
pub(super) fn twin_is_gone(situation: &Situation<'_>) -> Option<bool> {
    let peer = &situation.seen.peer;
    let is_gone = || situation.twin().is_none() && peer.keeps.is_empty();
    peer.reach.answers().then(is_gone)
}

/// What the destruction of this site's copy waits for; `None`: done, or nothing to destroy.
pub(super) fn destroy(situation: &Situation<'_>, first: bool, plan: &mut Plan) -> Option<Why> {
    match situation.class {
        None => Some(Why::new(
            reason::WITNESS_NEEDED,
            format!(
                "deletionPolicy Delete needs the register: {}; set it to Retain to let the object go now",
                situation.seen.witness.trouble()
            ),
        )),
        Some(Class::Below(below)) => Some(Why::new(
            reason::WITNESS_ROLLED_BACK,
            format!("{below}: nothing is wiped under a witness that was restored"),
        )),
        // Nothing ever lived, or all of it is buried.
        Some(Class::Absent) => leg_goes(situation, plan),
        Some(Class::Creating | Class::Live) => {
            let why = attached(situation);
            let register = situation.seen.witness.current()?;
            match why {
                Some(why) => {
                    free_holder(situation, plan);
                    Some(why)
                }
                None => {
                    if first {
                        plan.act(Action::ChangeRegister {
                            expect: register.txid,
                            change: RegisterChange::Tombstone,
                        });
                    }
                    Some(Why::new(
                        reason::DELETED,
                        "the register is marked as deleted",
                    ))
                }
            }
        }
        Some(Class::Tombstone) => {
            remains(situation, first, plan);
            let register = situation.tombstone()?;
            if register.landed.contains(situation.own_leg()) {
                return leg_goes(situation, plan);
            }
            Some(Why::new(
                reason::DELETED,
                "the copy of this site is being wiped",
            ))
        }
    }
}

/// Why the volume cannot be destroyed yet: somebody has it open, or may have.
fn attached(situation: &Situation<'_>) -> Option<Why> {
    in_use(situation).or_else(|| held(situation))
}

/// Somebody uses the volume, as far as the two clusters tell.
pub(super) fn in_use(situation: &Situation<'_>) -> Option<Why> {
    let why = |text: String| Some(Why::new(reason::PENDING, text));
    if let Some(pod) = situation.seen.pods.first() {
        return why(format!("pod {} still uses the volume", pod.name));
    }
    if situation.of_mode(AttachmentMode::Writer).next().is_some()
        || !situation.seen.volume_attachments.is_empty()
    {
        return why("the volume is still attached to a node".to_owned());
    }
    if situation.peer_is_detached() == Some(false) {
        return why(format!(
            "the volume is still attached at {}",
            situation.other_site
        ));
    }
    None
}

/// The register names a holder, dead or alive.
pub(super) fn held(situation: &Situation<'_>) -> Option<Why> {
    let text = "the register still names a holder";
    situation
        .live()?
        .holder
        .map(|_| Why::new(reason::PENDING, text))
}

/// No writer of the volume has given a sign of life for so long that none lives.
pub(super) fn beat_is_still(situation: &Situation<'_>) -> bool {
    let still = situation.seen.evidence.beat_still_for;
    still.is_some_and(|still| still >= crate::policy::BEATS_STILL)
}

/// A holder whose agent is dead is cleared by a caretaker that attaches and detaches.
fn free_holder(situation: &Situation<'_>, plan: &mut Plan) {
    let Some(register) = situation
        .live()
        .filter(|register| situation.is_active(register))
    else {
        return;
    };
    let there = situation.attachment(AttachmentMode::Caretaker);
    // A new one beside those that go would have to go with them.
    let quiet = situation.seen.pods.is_empty()
        && situation.of_mode(AttachmentMode::Writer).next().is_none()
        && !attachments::another_goes(situation);
    match there {
        Some(caretaker) if situation::is_open(caretaker) => attachments::delete(caretaker, plan),
        None if quiet && beat_is_still(situation) && register.holder.is_some() => {
            let begun = attachments::begun(situation, AttachmentMode::Caretaker);
            let Some(node) = begun.or_else(|| situation.working_node(None)) else {
                return;
            };
            if let Ok(object) = attachments::order(situation, node, AttachmentMode::Caretaker, None)
            {
                plan.act(Action::CreateAttachment(Box::new(object)));
            }
        }
        _ => {}
    }
}

/// Under a tombstone: wipe the own copy, tell the register, and take it away when both are gone.
pub(super) fn remains(situation: &Situation<'_>, first: bool, plan: &mut Plan) {
    let Some(register) = situation.tombstone() else {
        return;
    };
    let wipe = situation.attachment(AttachmentMode::Wipe);
    let own = situation.own_leg();
    // What is said of this site's copy in the register is said of those of all volumes.
    let is_done = |volume: VolumeId| {
        let mut all = situation.of_mode(AttachmentMode::Wipe);
        all.any(|one| one.spec.volume == volume && situation::state(one) == AttachmentState::Done)
    };
    let is_wiped = situation.desired.together().into_iter().all(is_done);
    let change = if register.is_buried() {
        Some(RegisterChange::Bury)
    } else if is_wiped && !register.landed.contains(own) {
        Some(RegisterChange::Wiped(situation.own))
    } else {
        given_up(situation)
    };
    if let Some(change) = change.filter(|_| first) {
        plan.act(Action::ChangeRegister {
            expect: register.txid,
            change,
        });
    }
    if register.landed.contains(own) {
        if let Some(wipe) = wipe {
            attachments::delete(wipe, plan);
        }
        return;
    }
    if situation.desired.is_grouped() {
        // What is done about the others is no news about this one.
        plan.again(SOON);
    }
    match wipe {
        None => order_wipe(situation, plan),
        Some(wipe) if situation::state(wipe) == AttachmentState::Failed => {
            let told = wipe
                .status
                .as_ref()
                .and_then(|status| status.message.clone())
                .unwrap_or_default();
            plan.wait(reason::DELETED, told);
            if situation.is_lost(&wipe.spec.node) {
                attachments::delete(wipe, plan);
            }
        }
        Some(_) => {}
    }
}

/// A person gave up a copy that never returns.
fn given_up(situation: &Situation<'_>) -> Option<RegisterChange> {
    let register = situation.tombstone()?;
    let (leg, naa, who) = edits::given_up(situation)?;
    let open = !register.landed.contains(leg_of(leg)) && !is_succeeded(situation, leg, naa);
    open.then_some(RegisterChange::Retire { leg, naa, who })
}

/// Another copy of that leg, a later one or of another volume of the group, is served and not wiped yet: the word was not about
/// it, and would leave its data behind.
fn is_succeeded(situation: &Situation<'_>, leg: LegIndex, naa: Naa) -> bool {
    let (seen, peer) = (situation.seen, &situation.seen.peer);
    // Each cluster has the Legs of its own site, and the orders to wipe them.
    let (legs, orders) = if leg == situation.own {
        (&seen.legs, &seen.attachments)
    } else {
        (&peer.legs, &peer.attachments)
    };
    let is_wiped = |volume: VolumeId| {
        orders.iter().any(|one| {
            (one.spec.volume, one.spec.mode) == (volume, AttachmentMode::Wipe)
                && situation::state(one) == AttachmentState::Done
        })
    };
    legs.iter().any(|one| {
        let state = one.status.as_ref().map(|status| status.state);
        let another = parse_naa(&one.spec.naa_text()).map(Naa) != Some(naa);
        another && state == Some(LegState::Serving) && !is_wiped(one.spec.volume)
    })
}

fn order_wipe(situation: &Situation<'_>, plan: &mut Plan) {
    let begun = attachments::begun(situation, AttachmentMode::Wipe);
    let Some(node) = begun.or_else(|| situation.working_node(None)) else {
        return plan.wait(
            reason::DELETED,
            format!(
                "no agent runs at {}: the copy is wiped when one does",
                situation.site
            ),
        );
    };
    match attachments::order(situation, node, AttachmentMode::Wipe, None) {
        Ok(mut object) => {
            let own: LegIndex = situation.own;
            object.spec.legs.retain(|leg| leg.leg == own);
            // Alike for all volumes of a group, whatever is still known of it.
            object.spec.on_no_quorum = OnNoQuorum::default();
            if object.spec.legs.is_empty() {
                plan.wait(
                    reason::DELETED,
                    "the address of this site's copy is not known: it is wiped when it is served",
                );
            } else {
                plan.act(Action::CreateAttachment(Box::new(object)));
            }
        }
        Err(why) => plan.wait(reason::DELETED, why.to_string()),
    }
}

/// The Leg object goes; its agent removes the file, since it was wiped or never written.
fn leg_goes(situation: &Situation<'_>, plan: &mut Plan) -> Option<Why> {
    if let Some(leg) = situation.leg_object() {
        copies::remove(situation, leg, plan);
    }
    None
}
