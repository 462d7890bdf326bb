//! What one-shot orders found or why they failed, in the words of the API.

use twinsite_api::{InspectReport, InspectedLeg, LegIndex, reason};
use twinsite_mirror::activation::Fit;
use twinsite_mirror::io::{Leg, Register};
use twinsite_mirror::oneshot::{Done, Failure, LegInspection, Token};
use twinsite_register::{LegSeed, VolumeId};

use crate::control::volumes::{Ending, VolumeEvent};

/// What there is to tell of a good end.
pub(super) fn found(done: &Done) -> Option<VolumeEvent> {
    match done {
        Done::Inspected { register, legs } => {
            let report = report(register.as_deref(), legs);
            Some(VolumeEvent::Inspected(Box::new(report)))
        }
        Done::Reseeded { legs } => Some(VolumeEvent::Inspected(Box::new(seeded(legs)))),
        Done::Born { .. } | Done::Wiped | Done::Forced => None,
    }
}

/// The superblocks that carry the new register id.
fn seeded(legs: &[Option<LegSeed>; 2]) -> InspectReport {
    let told = |leg: Leg| {
        let seed = legs[leg.index()]?;
        Some(InspectedLeg {
            leg: Some(index(leg)),
            reachable: true,
            epoch: Some(seed.epoch.0),
            generation: Some(seed.generation.to_string()),
            sb_seq: Some(seed.sb_seq),
            ..InspectedLeg::default()
        })
    };
    InspectReport {
        legs: Leg::BOTH.into_iter().filter_map(told).collect(),
        token: None,
    }
}

const fn index(leg: Leg) -> LegIndex {
    match leg {
        Leg::A => LegIndex::A,
        Leg::B => LegIndex::B,
    }
}

fn report(register: Option<&Register>, legs: &[Option<Box<LegInspection>>; 2]) -> InspectReport {
    InspectReport {
        legs: Leg::BOTH
            .into_iter()
            .map(|leg| inspected(leg, legs[leg.index()].as_deref()))
            .collect(),
        token: register.map(|register| Token::of(register).to_string()),
    }
}

fn inspected(leg: Leg, found: Option<&LegInspection>) -> InspectedLeg {
    let named = InspectedLeg {
        leg: Some(index(leg)),
        reachable: found.is_some(),
        ..InspectedLeg::default()
    };
    let Some(found) = found else { return named };
    let superblock = found.superblock();
    InspectedLeg {
        class: found.fit.map(|fit| class(fit).to_owned()),
        role: superblock.map(|sb| format!("{:?}", sb.role)),
        epoch: superblock.map(|sb| sb.epoch.0),
        generation: superblock.map(|sb| sb.generation.to_string()),
        sb_seq: superblock.map(|sb| sb.sb_seq),
        register_id: superblock.map(|sb| sb.register_id.to_string()),
        seq: superblock.map(|sb| sb.active_seq),
        moment: found
            .moment
            .map(|(epoch, generation)| format!("{epoch}-{generation}")),
        beat: found.beat.as_ref().map(|beat| beat.beat),
        dirty_bytes: superblock.map(|_| found.dirty_bytes),
        node: superblock.map(|sb| sb.node.clone()),
        message: (!found.is_ours).then(|| "no superblock of this volume".to_owned()),
        ..named
    }
}

fn class(fit: Fit) -> &'static str {
    match fit {
        Fit::Away => "Away",
        Fit::Bad => "Bad",
        Fit::Usable => "Usable",
        Fit::Damaged => "Damaged",
        Fit::Stale => "Stale",
        Fit::Ahead => "Ahead",
    }
}

/// Why an order was not carried out: a condition reason, and what to do.
pub(super) fn failed(failure: Failure) -> Ending {
    let (word, what) = match failure {
        Failure::Unreachable(_) => (reason::NO_LEG, "check its portals, target and credentials"),
        Failure::Taken(_) => ("Taken", "another node works on it; it is tried again"),
        Failure::ForeignData(_) => (
            reason::FOREIGN_DATA,
            "name its NAA in `initialize` to give up what is on it",
        ),
        Failure::OtherHistory(_) => (
            "OtherHistory",
            "read a new plan with `kubectl twinsite plan`, and order that",
        ),
        Failure::TooSmall(_) => ("TooSmall", "the LUN needs 128 MiB more than the volume"),
        Failure::UnknownFormat(_) => ("UnknownFormat", "update this agent"),
        Failure::Retired(_) => ("Retired", "it was given up by a human and is not touched"),
        Failure::WitnessUnreachable => (reason::WITNESS_NEEDED, "it is tried again"),
        Failure::WitnessBehind => (reason::WITNESS_BEHIND, "a human has to reseed the witness"),
        Failure::WrongState => ("WrongState", "look at the register's state"),
        Failure::Changed => ("Changed", "it is tried again"),
        Failure::OtherVolumes => (
            reason::INVALID_SPEC,
            "name exactly the volumes of the register in spec.groupVolumes",
        ),
        Failure::NeverJoined(_) => (
            reason::MEMBER_DAMAGED,
            "it cannot be forced; the other copy is the only one",
        ),
        Failure::Incomplete(_) => (
            reason::MEMBER_DAMAGED,
            "it is a mix of old and new, and only force.inconsistent runs it",
        ),
        Failure::Mixed(one, other) => return mixed(one, other),
        Failure::OrdersDiffer => (
            reason::INVALID_SPEC,
            "give every Attachment of the group the same force or reseed, for the same leg",
        ),
        Failure::Companion => (
            reason::GROUP_HINDERED,
            "see what the other Attachments of the group say; it is tried again with them",
        ),
        Failure::BadSize => (reason::INVALID_SPEC, "correct spec.size"),
    };
    let text = format!("{failure}: {what}");
    Ending::Failed { word, text }
}

fn mixed(one: VolumeId, other: VolumeId) -> Ending {
    let name = |volume: VolumeId| twinsite_api::VolumeId::from_bytes(volume.0);
    let text = format!(
        "the copies of {} and {} are not of one moment: one would have what was written after what the other one lacks; only force.inconsistent runs them",
        name(one),
        name(other)
    );
    Ending::Failed {
        word: reason::MIXED_COPIES,
        text,
    }
}
