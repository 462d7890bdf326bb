//! The moves that every act is made of. After each of them the story can go on from where it stands.
//!
//! Invariant: `active` names the site whose attachment is open, and the treatment room runs there or nowhere.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use twinsite_api::{
    AttachmentMode, AttachmentState, AttachmentStatus, LegMembership, MoveMode, MoveOrder,
};

use super::options::Options;
use super::report::{Report, Round};
use crate::evidence::Evidence;
use crate::history::{self, Event, History};
use crate::pair::{Pair, Plan};
use crate::process::Group;
use crate::timeline::Timeline;
use crate::workload::ledger::Ledger;
use crate::workload::record;

/// A machine's pause between two records.
const PAUSE_MS: u64 = 4;
/// The default of `failover.detectAfter`.
pub const DETECT_AFTER: Duration = Duration::from_secs(5);
const ATTACH_LIMIT: Duration = Duration::from_secs(60);
const RECORDS_LIMIT: Duration = Duration::from_secs(120);
const RESYNC_LIMIT: Duration = Duration::from_secs(600);

/// Everything on stage.
pub struct Stage {
    pub options: Options,
    pub pair: Pair,
    pub ledger: Ledger,
    pub timeline: Timeline,
    pub report: Report,
    pub active: usize,
    attachment: String,
    ledger_socket: PathBuf,
    history: History,
    history_file: PathBuf,
    rooms: u32,
}

impl Stage {
    /// Two sites, a born volume with a file system, opened at medical.
    ///
    /// # Errors
    /// Any of it fails.
    pub fn set(options: Options, folder: &Path, agent: PathBuf) -> Result<Self> {
        let mut timeline = Timeline::default();
        timeline.act("A volume at two sites");
        std::fs::create_dir_all(folder)?;
        let ledger_socket = folder.join("ledger.sock");
        let history_file = folder.join("history.jsonl");
        let history = History::create(&history_file)?;
        let ledger = Ledger::listen(&ledger_socket, history.clone())?;
        let plan = Plan {
            folder: folder.to_owned(),
            agent,
            size: options.size,
            fs: options.fs,
            max_resync_bytes_per_second: None,
        };
        let pair = Pair::start(plan)?;
        timeline.event("two sites are up: medical and research, each with a pool and a target of its own; the witness belongs to neither");
        let report = Report {
            fs: options.fs.name().to_owned(),
            size: options.size,
            seed: options.seed,
            ..Report::default()
        };
        let mut stage = Self {
            options,
            pair,
            ledger,
            timeline,
            report,
            active: 0,
            attachment: String::new(),
            ledger_socket,
            history,
            history_file,
            rooms: 0,
        };
        stage.pair.birth()?;
        let size = twinsite_api::Quantity::from_bytes(stage.options.size);
        stage
            .timeline
            .event(&format!("a volume of {size} is born on both legs"));
        let status = stage.open(0, None, ATTACH_LIMIT)?;
        let device = device(&status)?;
        stage.pair.mkfs(&device)?;
        stage.pair.mount(0, &device)?;
        let fs = stage.options.fs.name();
        stage.timeline.event(&format!(
            "medical opens it as {}, {fs} made and mounted",
            device.display()
        ));
        Ok(stage)
    }

    /// Name of a site.
    #[must_use]
    pub fn name(&self, index: usize) -> String {
        self.pair.sites[index].name.clone()
    }

    /// Opens the volume at a site and waits for its device.
    ///
    /// # Errors
    /// It is refused for good or takes too long.
    pub fn open(
        &mut self,
        index: usize,
        order: Option<MoveOrder>,
        limit: Duration,
    ) -> Result<AttachmentStatus> {
        self.attachment = self.pair.order(index, AttachmentMode::Writer, order)?;
        let status =
            self.pair
                .wait_state(index, &self.attachment, AttachmentState::Attached, limit)?;
        self.active = index;
        Ok(status)
    }

    /// Takes an attachment that came to serve by another way as the open one.
    ///
    /// # Errors
    /// It has no status.
    pub fn adopt(&mut self, index: usize, attachment: String) -> Result<AttachmentStatus> {
        self.attachment = attachment;
        self.active = index;
        self.pair
            .attachment(index, &self.attachment)
            .context("the attachment has no status")
    }

    /// What the open attachment says.
    #[must_use]
    pub fn status(&self) -> AttachmentStatus {
        self.pair
            .attachment(self.active, &self.attachment)
            .unwrap_or_default()
    }

    /// Where the history of this run is written.
    #[must_use]
    pub fn history_file(&self) -> &Path {
        &self.history_file
    }

    /// Name of the open attachment.
    #[must_use]
    pub fn attachment(&self) -> String {
        self.attachment.clone()
    }

    /// The treatment room begins at the active site.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_room(&mut self) -> Result<()> {
        self.rooms += 1;
        let site = &mut self.pair.sites[self.active];
        let log = site.folder.join("room.log");
        let mut command = Command::new(env::current_exe()?);
        command
            .arg("room")
            .arg(format!("{} {}", site.name, self.rooms))
            .arg(site.folder.join("mnt"))
            .arg(&self.ledger_socket)
            .arg(PAUSE_MS.to_string());
        site.applications.push(Group::start(&mut command, &log)?);
        Ok(())
    }

    /// The treatment room ends between two records.
    pub fn stop_room(&mut self) {
        self.pair.sites[self.active].applications.clear();
    }

    /// Whether the room writes.
    pub fn room_runs(&mut self) -> bool {
        self.pair.sites[self.active]
            .applications
            .first_mut()
            .is_some_and(Group::running)
    }

    /// Exit code of the room at a site, if it ended by itself.
    pub fn room_ended(&mut self, index: usize, limit: Duration) -> Option<i32> {
        self.pair.sites[index].applications.first_mut()?.wait(limit)
    }

    /// Waits until `count` more records are acknowledged.
    ///
    /// # Errors
    /// They do not come in time.
    pub fn write_records(&self, count: u64) -> Result<()> {
        let until = self.ledger.total() + count;
        self.pair
            .wait_for(RECORDS_LIMIT, &format!("{count} more records"), |_| {
                self.ledger.total() >= until
            })?;
        Ok(())
    }

    /// Reads every record back at the active site. The room may go on writing meanwhile.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn verify(&mut self) -> Result<()> {
        let acknowledged = self.ledger.acknowledged();
        let point = self.pair.mount_point(self.active);
        let name = self.name(self.active);
        let began = history::event::now();
        let verdict =
            record::verify(&point, &acknowledged).context("cannot read the records back")?;
        for (machine, found) in verdict.by_machine.iter().enumerate() {
            self.history.add(&Event::Read {
                began,
                at: history::event::now(),
                reader: name.clone(),
                item: machine as u64,
                value: *found,
            })?;
        }
        self.report.acknowledged = verdict.acknowledged;
        self.report.found = verdict.found;
        self.report.lost += verdict.lost;
        self.timeline.event(&format!(
            "{name}: {} acknowledged records, {} found, {} lost",
            verdict.acknowledged, verdict.found, verdict.lost
        ));
        Ok(())
    }

    /// Pulls the plug of a site in mid-write. If it was the active one, the other one takes over.
    ///
    /// # Errors
    /// The survivor does not come to write again.
    pub fn kill(&mut self, index: usize) -> Result<()> {
        let mut round = Round {
            killed: self.name(index),
            active: index == self.active,
            ..Round::default()
        };
        let told = self.ledger.total();
        self.timeline.event(&format!(
            "{} loses power, {told} records acknowledged",
            round.killed
        ));
        let plug = Instant::now();
        self.pair.sites[index].pull_the_plug();
        if round.active {
            self.take_over(1 - index, &mut round, plug)?;
        } else {
            self.ledger.mark();
        }
        self.pair
            .wait_for(ATTACH_LIMIT, "the first record after the death", |_| {
                self.ledger.first_after_mark().is_some()
            })?;
        if !round.active {
            // The held records come at once when the membership is settled.
            self.pair
                .wait_for(ATTACH_LIMIT, "the survivor to go on alone", |_| {
                    self.status()
                        .engine
                        .is_some_and(|engine| engine.starts_with("Solo"))
                })?;
            self.write_records(50)?;
            round.first_write_ms = millis(self.ledger.longest_gap());
        } else if let Some(first) = self.ledger.first_after_mark() {
            round.first_write_ms = millis(first - plug);
        }
        let budget = Duration::from_secs(600).as_secs_f64();
        self.timeline.event(&format!(
            "writing again after {:.1} s ({:.1} % of the ten-minute budget)",
            round.first_write_ms as f64 / 1000.0,
            round.first_write_ms as f64 / 10.0 / budget
        ));
        self.report.rounds.push(round);
        Ok(())
    }

    fn take_over(&mut self, survivor: usize, round: &mut Round, plug: Instant) -> Result<()> {
        let mut evidence = Evidence::new(&self.pair, 1 - survivor)?;
        while !evidence.complete(&self.pair, DETECT_AFTER) {
            ensure!(
                plug.elapsed() < ATTACH_LIMIT,
                "no evidence of the death at the witness"
            );
            thread::sleep(Duration::from_millis(100));
        }
        round.detect_ms = millis(plug.elapsed());
        let name = self.name(survivor);
        self.timeline.event(&format!(
            "no sign of life from {} for {} s: {name} is told to take over",
            round.killed,
            DETECT_AFTER.as_secs()
        ));
        let order = self.pair.move_order(MoveMode::Failover)?;
        let status = self.open(survivor, Some(order), ATTACH_LIMIT)?;
        if let Some(timings) = &status.timings {
            let between = |from: &Option<_>, to: &Option<_>| between_ms(from.as_ref(), to.as_ref());
            round.fence_ms = between(&timings.ordered_at, &timings.fenced_at);
            round.cas_ms = between(&timings.fenced_at, &timings.promoted_at);
        }
        self.pair.mount(survivor, &device(&status)?)?;
        self.timeline.event(&format!(
            "{name} has fenced its leg, won the register and mounted the volume"
        ));
        self.verify()?;
        self.ledger.mark();
        self.start_room()
    }

    /// The dead site returns and is rebuilt by delta behind a progress bar.
    ///
    /// # Errors
    /// It does not become a member again.
    pub fn bring_back(&mut self, index: usize) -> Result<()> {
        let name = self.name(index);
        let solo = self.status();
        self.pair.start_agent(index)?;
        self.timeline.event(&format!("{name} has power again"));
        let start = Instant::now();
        let mut dirty = solo.dirty_bytes.unwrap_or(0);
        let mut copied = 0;
        let leg = self.pair.sites[index].index;
        loop {
            let status = self.status();
            dirty = dirty.max(status.dirty_bytes.unwrap_or(0));
            copied = copied.max(status.resync_copied_bytes.unwrap_or(0));
            let member = status
                .legs
                .iter()
                .any(|l| l.leg == leg && l.state == LegMembership::Member);
            if member && status.engine.as_deref() == Some("Synced") {
                break;
            }
            if start.elapsed() > RESYNC_LIMIT {
                bail!(
                    "{name} was not rebuilt within {} s: {status:?}",
                    RESYNC_LIMIT.as_secs()
                );
            }
            self.timeline.progress(
                &format!("resync of {name}"),
                f64::from(status.resync_percent.unwrap_or(0)),
                &format!("{} MiB copied", copied >> 20),
            );
            thread::sleep(Duration::from_millis(20));
        }
        let seconds = start.elapsed().as_secs_f64();
        if let Some(round) = self.report.rounds.last_mut() {
            round.dirty_bytes = dirty;
            round.resync_bytes = copied;
            round.resync_seconds = seconds;
        }
        self.timeline.event(&format!(
            "{name} is a member again after {seconds:.1} s: {:.1} MiB were dirty, {:.1} MiB copied",
            dirty as f64 / 1_048_576.0,
            copied as f64 / 1_048_576.0
        ));
        Ok(())
    }

    /// Waits until a site's leg is a member again, without figures.
    ///
    /// # Errors
    /// It takes too long.
    pub fn wait_member(&mut self, index: usize) -> Result<()> {
        let leg = self.pair.sites[index].index;
        self.pair
            .wait_for(RESYNC_LIMIT, "the leg to be a member again", |_| {
                let status = self.status();
                status.engine.as_deref() == Some("Synced")
                    && status
                        .legs
                        .iter()
                        .any(|l| l.leg == leg && l.state == LegMembership::Member)
            })?;
        let name = self.name(index);
        self.timeline.event(&format!("{name} is a member again"));
        Ok(())
    }

    /// Power for a site that died outside a round.
    ///
    /// # Errors
    /// It does not become a member again.
    pub fn bring_back_quietly(&mut self, index: usize) -> Result<()> {
        self.pair.start_agent(index)?;
        self.wait_member(index)
    }

    /// A planned move: the application stops, the volume closes here and opens there.
    ///
    /// # Errors
    /// Any step fails.
    pub fn move_to(&mut self, index: usize) -> Result<()> {
        let start = Instant::now();
        self.stop_room();
        self.pair.unmount(self.active)?;
        self.pair
            .detach(self.active, &self.attachment, ATTACH_LIMIT)?;
        let order = self.pair.move_order(MoveMode::Planned)?;
        let status = self.open(index, Some(order), ATTACH_LIMIT)?;
        self.pair.mount(index, &device(&status)?)?;
        let name = self.name(index);
        self.timeline.event(&format!(
            "moved to {name} as planned, mounted after {:.1} s",
            start.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    /// The end of the play: a last look, everything closed as an administrator would.
    ///
    /// # Errors
    /// The last reading fails, or the volume does not close.
    pub fn close(&mut self) -> Result<()> {
        self.stop_room();
        self.verify()?;
        self.pair.unmount(self.active)?;
        self.pair
            .detach(self.active, &self.attachment, ATTACH_LIMIT)?;
        self.pair.stop();
        self.judge()?;
        self.report.seconds = self.timeline.elapsed().as_secs_f64();
        Ok(())
    }
}

impl Stage {
    /// The checker's word on everything that rooms wrote and readers found.
    fn judge(&mut self) -> Result<()> {
        self.history.flush()?;
        let verdict = history::check(&history::event::read(&self.history_file)?);
        for violation in &verdict.violations {
            self.timeline.event(&format!("NOT ALLOWED: {violation}"));
        }
        self.timeline.event(&format!(
            "history: {} writes of {} rooms and {} readings checked: {} violations",
            verdict.issued,
            verdict.writers,
            verdict.reads,
            verdict.violations.len()
        ));
        self.report.history_writes = verdict.issued;
        self.report.history_reads = verdict.reads;
        self.report.violations = verdict.violations.iter().map(ToString::to_string).collect();
        Ok(())
    }
}

/// Milliseconds, for a report.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn between_ms(from: Option<&Time>, to: Option<&Time>) -> u64 {
    let (Some(from), Some(to)) = (from, to) else {
        return 0;
    };
    u64::try_from(to.0.as_millisecond() - from.0.as_millisecond()).unwrap_or(0)
}

/// Path of the block device in a status.
///
/// # Errors
/// It shows none.
pub fn device(status: &AttachmentStatus) -> Result<PathBuf> {
    let device = status
        .device
        .as_ref()
        .context("attached, but no device is named")?;
    Ok(PathBuf::from(&device.path))
}
