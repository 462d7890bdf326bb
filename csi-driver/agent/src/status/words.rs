//! Why an attachment does not stand as it should, in a word and in words that say what to do.

use twinsite_api::{AttachmentSpec, reason};
use twinsite_mirror::io::Leg;
use twinsite_mirror::status::Refusal;

use super::attachment::VolumeView;
use crate::control::volumes::Ending;

pub(super) fn words(spec: &AttachmentSpec, view: &VolumeView) -> Option<(&'static str, String)> {
    let ending = view.ending.as_ref().and_then(|ending| match ending {
        Ending::Refused(why) => {
            let (word, text) = refusal(*why);
            Some((word, with_trouble(text, view)))
        }
        Ending::Superseded => Some((
            reason::SUPERSEDED,
            "another writer took over: remove this attachment; a new one may attach".to_owned(),
        )),
        Ending::Failed { word, text } if *word == reason::NO_LEG => {
            Some((*word, with_trouble(text, view)))
        }
        Ending::Failed { word, text } => Some((*word, text.clone())),
        Ending::Detached | Ending::Done => None,
    });
    let fault = || {
        let fault = view.fault.as_ref()?;
        Some((fault.word, fault.text.clone()))
    };
    ending.or_else(fault).or_else(|| order_words(spec, view))
}

/// An order that is still wanted and was not carried out.
fn order_words(spec: &AttachmentSpec, view: &VolumeView) -> Option<(&'static str, String)> {
    let size = view.engine.as_ref()?.size;
    let wanted = spec.size.bytes() > size || !spec.drop_legs.is_empty();
    let error = view.order_error.as_ref().filter(|_| wanted)?;
    let text = format!("an order was not carried out: {error}; it is tried again");
    Some((reason::PENDING, text))
}

/// What is said, and which leg cannot be reached, and why.
fn with_trouble(text: &str, view: &VolumeView) -> String {
    let mut text = text.to_owned();
    for leg in Leg::BOTH {
        if let Some(trouble) = &view.trouble[leg.index()] {
            text = format!("{text}; leg {leg}: {trouble}");
        }
    }
    text
}

/// One word and a sentence for a refusal: what it is and what to do.
pub(crate) fn refusal(why: Refusal) -> (&'static str, &'static str) {
    match why {
        Refusal::NoLeg => (
            reason::NO_LEG,
            "no leg answers: see that a target is up and reachable; it is tried again",
        ),
        Refusal::NotActive => (
            reason::NOT_ACTIVE,
            "the register names the other site as the active one: order a move, or wait",
        ),
        Refusal::WitnessBehind => (
            reason::WITNESS_BEHIND,
            "the register is older than what was seen here: the witness was restored; a human must reseed it",
        ),
        Refusal::WitnessNeeded => (
            reason::WITNESS_NEEDED,
            "the witness does not answer and the legs alone cannot decide; it is tried again",
        ),
        Refusal::WaitMember => (
            reason::WAIT_MEMBER,
            "a leg that has the newest data does not answer: bring it back; it is tried again",
        ),
        Refusal::MemberDamaged => (
            reason::MEMBER_DAMAGED,
            "no member can be used: see what is left with an Inspect attachment, then force",
        ),
        Refusal::RegisterMissing => (
            reason::REGISTER_MISSING,
            "the witness has no register of this volume: bring the witness back, or reseed",
        ),
        Refusal::Creating => (
            reason::CREATING,
            "the volume is being born; it is tried again",
        ),
        Refusal::Deleted => (
            reason::DELETED,
            "the volume was deleted: it never attaches again",
        ),
        Refusal::OrderStale => (
            reason::ORDER_STALE,
            "another attachment came after this one: remove it; a new attachment may attach",
        ),
        Refusal::HolderActive => (
            reason::STILL_ACTIVE,
            "the present holder still writes: no failover",
        ),
        Refusal::TimedOut => (
            reason::PENDING,
            "the attach took too long; it is tried again",
        ),
        Refusal::UnknownFormat => (
            reason::LEG_DAMAGED,
            "a leg was written by newer software: bring this node to that version",
        ),
        Refusal::OtherLun => (
            reason::INVALID_SPEC,
            "another LUN answers where a leg should be: correct spec.legs (portals, target, lun or naa); the other leg alone is not used",
        ),
        Refusal::OtherVolumes => (
            reason::INVALID_SPEC,
            "the register is of other volumes than spec.groupVolumes: name exactly the volumes of the group; one of them is never opened alone",
        ),
        Refusal::NotContinued => (
            reason::SUPERSEDED,
            "another writer served since: the device that was still shown is taken away; it is tried again",
        ),
    }
}
