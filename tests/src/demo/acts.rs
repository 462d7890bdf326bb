//! The acts of the demo.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use twinsite_api::{AttachmentMode, AttachmentState, MoveMode};

use super::dice::Dice;
use super::stage::{Stage, device, millis};
use crate::workload::room;

/// Records written between two events.
const A_WHILE: u64 = 400;

/// Act one: the plug, the takeover, the return, the way back.
///
/// # Errors
/// Anything goes otherwise than promised.
pub fn pull_the_plug(stage: &mut Stage) -> Result<()> {
    let dying = stage.options.kill;
    stage.timeline.act("Act one: the plug is pulled");
    stage.start_room()?;
    stage.write_records(stage.options.at)?;
    stage.kill(dying)?;
    stage.write_records(A_WHILE)?;
    stage.bring_back(dying)?;
    stage.verify()?;
    stage.move_to(1 - stage.active)?;
    stage.verify()?;
    stage.start_room()?;
    stage.write_records(A_WHILE)
}

/// Act two: the line between two living sites is cut, and at the same moment somebody at the other site, who sees only silence,
/// orders a takeover. The register lets exactly one of them go on.
///
/// # Errors
/// Two sites went on, or none.
pub fn cut_the_line(stage: &mut Stage) -> Result<()> {
    stage
        .timeline
        .act("Act two: the line between two living sites is cut");
    let (here, there) = (stage.active, 1 - stage.active);
    let (here_name, there_name) = (stage.name(here), stage.name(there));
    let attachment = stage.attachment();
    let order = stage.pair.move_order(MoveMode::Failover)?;
    stage.ledger.mark();
    stage.pair.cut_line();
    stage.timeline.event(&format!(
        "the line is cut; {there_name} hears nothing and is told to take over"
    ));
    let rival = stage
        .pair
        .order(there, AttachmentMode::Writer, Some(order))?;

    let mut won_there = false;
    stage
        .pair
        .wait_for(Duration::from_secs(60), "the register to decide", |pair| {
            let rival = pair.attachment(there, &rival).unwrap_or_default();
            let own = pair.attachment(here, &attachment).unwrap_or_default();
            won_there = rival.state == AttachmentState::Attached;
            let lost_here = own.state == AttachmentState::Superseded;
            let alone_here = own.engine.is_some_and(|engine| engine.starts_with("Solo"));
            (won_there && lost_here) || alone_here
        })?;
    let mut writing = 0;
    if won_there {
        let code = stage.room_ended(here, Duration::from_secs(10));
        stage.timeline.event(&format!(
            "{there_name} won; {here_name} answered its application with an I/O error and removed the device"
        ));
        if code != Some(room::EXIT_IO_ERROR) {
            writing += 1;
        }
        stage.stop_room();
        crate::process::sweep(&stage.pair.mount_point(here));
        stage.pair.sites[here].remove(&attachment);
        let status = stage.adopt(there, rival)?;
        stage.pair.mount(there, &device(&status)?)?;
        stage.start_room()?;
    } else {
        stage.pair.sites[there].remove(&rival);
        stage.timeline.event(&format!(
            "{here_name} won and goes on alone; {there_name} was refused"
        ));
    }
    stage.write_records(A_WHILE)?;
    writing += 1;
    let gap = stage.ledger.longest_gap();
    stage.report.sites_writing_during_cut = Some(writing);
    stage.report.cut_gap_ms = Some(millis(gap));
    stage.timeline.event(&format!(
        "one site writes, the longest gap between two records was {:.1} s",
        gap.as_secs_f64()
    ));
    stage.pair.mend_line();
    stage.timeline.event("the line is whole again");
    stage.wait_member(1 - stage.active)?;
    stage.verify()
}

/// Act three: the witness is away while all is well, then while a leg is lost.
///
/// # Errors
/// Records stop without need, or go on without a quorum.
pub fn miss_the_witness(stage: &mut Stage) -> Result<()> {
    stage.timeline.act("Act three: the witness is away");
    stage.ledger.mark();
    stage.pair.hide_witness()?;
    stage.write_records(A_WHILE)?;
    let gap = stage.ledger.longest_gap();
    stage.report.witness_away_gap_ms = Some(millis(gap));
    stage.timeline.event(&format!(
        "no witness, and nothing happens: {A_WHILE} records, longest gap {} ms",
        millis(gap)
    ));

    let standby = 1 - stage.active;
    let name = stage.name(standby);
    stage.pair.sites[standby].pull_the_plug();
    stage
        .timeline
        .event(&format!("now {name} loses power as well"));
    let before = settled(stage);
    thread::sleep(Duration::from_secs(6));
    let unsafe_records = stage.ledger.total() - before;
    stage.report.records_without_quorum = Some(unsafe_records);
    ensure!(
        unsafe_records == 0,
        "{unsafe_records} records were acknowledged by one site without a decision of the register"
    );
    stage.timeline.event(
        "nobody can say who may go on alone, so writing waits: not one record is acknowledged",
    );
    stage.pair.show_witness()?;
    stage.write_records(A_WHILE)?;
    stage.timeline.event("the witness is back: the register decides, the held records are acknowledged, writing goes on");
    stage.bring_back_quietly(standby)?;
    stage.verify()
}

/// The number of acknowledged records once those under way at the moment of the death have been told.
fn settled(stage: &Stage) -> u64 {
    let mut total = stage.ledger.total();
    loop {
        thread::sleep(Duration::from_millis(500));
        let now = stage.ledger.total();
        if now == total {
            return total;
        }
        total = now;
    }
}

/// Rounds of random deaths at random instants.
///
/// # Errors
/// Anything goes otherwise than promised.
pub fn rounds(stage: &mut Stage) -> Result<()> {
    let mut dice = Dice::new(stage.options.seed);
    stage.start_room()?;
    for round in 1..=stage.options.rounds {
        let rounds = stage.options.rounds;
        stage.timeline.act(&format!(
            "Round {round} of {rounds}, seed {}",
            stage.options.seed
        ));
        stage.write_records(20 + dice.below(400))?;
        // Somewhere inside a record, not right after one.
        thread::sleep(Duration::from_micros(dice.below(20_000)));
        let dying = if dice.below(3) == 0 {
            1 - stage.active
        } else {
            stage.active
        };
        stage.kill(dying)?;
        stage.write_records(20 + dice.below(100))?;
        stage.bring_back(dying)?;
    }
    Ok(())
}
