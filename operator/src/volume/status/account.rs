//! The account of the last move: what happened when, from the record, the register and the attaching agent.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use twinsite_api::{LastMove, MirroredVolumeStatus, MoveMode, Timings};
use twinsite_register::Note;

use crate::volume::situation::Situation;

pub(super) fn last_move(
    situation: &Situation<'_>,
    old: &MirroredVolumeStatus,
    new: &mut MirroredVolumeStatus,
) {
    let (Some(before), Some(after)) = (&old.active_site, &new.active_site) else {
        return;
    };
    if after.seq > before.seq && before.name != after.name {
        new.last_move = Some(begun(situation, old, &before.name, &after.name));
    }
    if after.name != situation.site {
        // The site that took it knows better.
        let peer = &situation.seen.peer;
        let theirs = peer
            .volume
            .as_ref()
            .and_then(|volume| volume.status.as_ref()?.last_move.clone());
        if let Some(theirs) =
            theirs.filter(|theirs| peer.reach.answers() && theirs.to == after.name)
        {
            new.last_move = Some(theirs);
        }
        return;
    }
    let timings = timings(situation);
    let Some(last) = new
        .last_move
        .as_mut()
        .filter(|last| last.to == situation.site)
    else {
        return;
    };
    let Some(timings) = timings else { return };
    // What an earlier attach at this site did is no part of this move.
    let since = last.detected_at.as_ref().map(|at| at.0);
    let later = |at: &Option<Time>| {
        at.clone()
            .filter(|at| since.is_none_or(|since| at.0 >= since))
    };
    let fill = |slot: &mut Option<Time>, at: &Option<Time>| {
        if slot.is_none() {
            *slot = later(at);
        }
    };
    fill(&mut last.fenced_at, &timings.fenced_at);
    fill(&mut last.promoted_at, &timings.promoted_at);
    fill(&mut last.first_write_at, &timings.first_write_at);
    if let (None, Some(first), Some(since)) = (last.seconds, &last.first_write_at, since) {
        last.seconds = Some(first.0.duration_since(since).as_secs_f64());
    }
}

/// Timings of the Attachment of this site that took the volume, or serves it now.
fn timings(situation: &Situation<'_>) -> Option<Timings> {
    let timed = situation
        .seen
        .attachments
        .iter()
        .filter(|attachment| !attachment.spec.mode.is_one_shot());
    let all = timed.filter_map(|attachment| attachment.status.as_ref()?.timings.clone());
    all.max_by_key(|timings| {
        (
            timings.first_write_at.is_some(),
            timings.promoted_at.as_ref().map(|at| at.0),
        )
    })
}

/// The register came here by a force: its note is of the present epoch's making.
fn forced<'a>(situation: &Situation<'a>) -> Option<&'a Note> {
    let register = situation.live()?;
    let last = register.note.last().filter(|note| note.forced);
    last.filter(|_| !register.granted.is_empty() || !register.unconfirmed.is_empty())
}

fn begun(situation: &Situation<'_>, old: &MirroredVolumeStatus, from: &str, to: &str) -> LastMove {
    let seq = old.active_site.as_ref().map(|active| active.seq);
    let record = old
        .move_
        .as_ref()
        .filter(|record| Some(record.expect_seq) == seq);
    let (mode, reason) = match (record, forced(situation)) {
        (Some(record), _) if to == situation.site => {
            let mode = match record.mode {
                MoveMode::Planned => "Planned",
                MoveMode::Failover => "Unplanned",
            };
            (mode, record.reason.clone().unwrap_or_default())
        }
        (_, Some(note)) => ("Force", note.who.clone()),
        _ => (
            "Unknown",
            format!("the register says that {to} took the volume"),
        ),
    };
    LastMove {
        from: from.to_owned(),
        to: to.to_owned(),
        mode: mode.to_owned(),
        reason,
        detected_at: record
            .and_then(|record| record.ordered_at.clone())
            .or(Some(Time(situation.now))),
        ..LastMove::default()
    }
}
