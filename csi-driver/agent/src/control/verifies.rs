//! What is known of comparisons of the copies: ordered, under way, ended. It outlives the attach and the agent.
//!
//! ```text
//! order --engine takes it--> Running --all compared--> Done
//!             Running --a member lost, detached, agent ended--> Waiting --both are members again--> Running, from there
//!             Running, Waiting --by hand--> Stopped
//! ```
//! Kept as `<state>/verify/<volume>.json`. A file that cannot be read is as good as none: the comparison begins anew.
//!
//! Invariants: a snapshot of the engine counts only after the engine took the present order, so that what an earlier run
//! found is never told of a later one; what a run found before it waited stays in its account.
//! Not here: when a run may begin (`reconcile`), the comparison itself (`twinsite_mirror`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use twinsite_api::{ByteRange, VerifyReport, VerifyState, VolumeId};
use twinsite_mirror::status::{Findings, LISTED, VerifyPhase, VerifyStatus, VerifyStop};

use super::durable::{read_optional, write_whole};
use super::reconcile::VerifySeen;

/// What ordered a run that a person asked for at this node.
pub const BY_HAND: &str = "by hand";
/// An account that ended so long ago is forgotten when the agent starts.
const KEPT_DAYS: i64 = 400;
/// How often the progress is kept.
const SAVE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    report: VerifyReport,
    /// The last order of the object that was begun.
    answered: Option<String>,
}

#[derive(Debug)]
struct Entry {
    kept: Kept,
    /// The account as it was when the present run began.
    earlier: VerifyReport,
    /// The engine has taken the present order.
    taken: bool,
    saved: Option<Instant>,
}

/// Of all volumes.
#[derive(Debug)]
pub struct Verifies {
    folder: PathBuf,
    entries: BTreeMap<VolumeId, Entry>,
}

impl Verifies {
    /// Those of a state folder. A run that was under way when the agent ended waits.
    pub fn open(state: &Path) -> std::io::Result<Self> {
        let folder = state.join("verify");
        std::fs::create_dir_all(&folder)?;
        let mut entries = BTreeMap::new();
        for file in std::fs::read_dir(&folder)? {
            let path = file?.path();
            let volume = path
                .file_stem()
                .and_then(|name| name.to_str()?.parse().ok());
            let Some(volume) = volume else { continue };
            let bytes = read_optional(&path)?.unwrap_or_default();
            match serde_json::from_slice::<Kept>(&bytes) {
                Ok(kept) if is_old(&kept.report) => std::fs::remove_file(&path)?,
                Ok(mut kept) => {
                    wait(&mut kept.report, "AgentEnded");
                    entries.insert(volume, Entry::new(kept));
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "not the account of a verify");
                }
            }
        }
        Ok(Self { folder, entries })
    }

    pub fn report(&self, volume: VolumeId) -> Option<&VerifyReport> {
        self.entries.get(&volume).map(|entry| &entry.kept.report)
    }

    pub fn seen(&self, volume: VolumeId, ready: bool) -> VerifySeen {
        let entry = self.entries.get(&volume);
        VerifySeen {
            ready: ready
                && entry.is_none_or(|entry| entry.kept.report.state != VerifyState::Running),
            answered: entry.and_then(|entry| entry.kept.answered.clone()),
            waits: entry
                .map(|entry| &entry.kept.report)
                .filter(|report| report.state == VerifyState::Waiting)
                .map(|report| report.request.clone()),
        }
    }

    /// A run is ordered: a new one, or with `None` the one that waits goes on. Gives where it begins.
    pub fn order(&mut self, volume: VolumeId, request: Option<&str>, now: Time) -> u64 {
        if let Some(request) = request {
            let by_hand = request == BY_HAND;
            let before = self.entries.get(&volume);
            let answered = before.and_then(|entry| entry.kept.answered.clone());
            let answered = if by_hand {
                answered
            } else {
                Some(request.to_owned())
            };
            let report = begun(request, now);
            self.entries
                .insert(volume, Entry::new(Kept { report, answered }));
        }
        let Some(entry) = self.entries.get_mut(&volume) else {
            return 0;
        };
        let report = &mut entry.kept.report;
        forget_beyond(report);
        entry.earlier = report.clone();
        entry.taken = false;
        (report.state, report.reason) = (VerifyState::Running, None);
        entry.earlier.compared_bytes
    }

    /// Whether the engine has an order of a run that it has not answered.
    pub fn is_asked(&self, volume: VolumeId) -> bool {
        self.entries
            .get(&volume)
            .is_some_and(|entry| !entry.taken && entry.kept.report.state == VerifyState::Running)
    }

    /// The engine answered the order.
    pub fn answered(&mut self, volume: VolumeId, taken: bool) {
        if let Some(entry) = self.entries.get_mut(&volume) {
            entry.taken = taken;
            if !taken {
                wait(&mut entry.kept.report, "NotInSync");
            }
        }
        self.save(volume);
    }

    /// A snapshot of the engine.
    pub fn heard(&mut self, volume: VolumeId, told: &VerifyStatus, now: &Time) {
        let Some(entry) = self.entries.get_mut(&volume) else {
            return;
        };
        if !entry.taken || entry.kept.report.state != VerifyState::Running {
            return;
        }
        let report = &mut entry.kept.report;
        add(report, &entry.earlier, told);
        match told.phase {
            VerifyPhase::Running => {}
            VerifyPhase::Done => end(report, VerifyState::Done, None, now),
            VerifyPhase::Stopped(VerifyStop::Ordered) => {
                end(report, VerifyState::Stopped, Some("ByHand"), now)
            }
            VerifyPhase::Stopped(why) => {
                wait(report, &format!("{why:?}"));
            }
        }
        let over = report.state != VerifyState::Running;
        let due = entry.saved.is_none_or(|at| at.elapsed() >= SAVE);
        if over || due {
            self.save(volume);
        }
    }

    /// The attach ended.
    pub fn detached(&mut self, volume: VolumeId) {
        if let Some(entry) = self.entries.get_mut(&volume)
            && wait(&mut entry.kept.report, "Detached")
        {
            self.save(volume);
        }
    }

    /// A person does not want it any more. Says whether there was something to stop.
    pub fn stop(&mut self, volume: VolumeId, now: &Time) -> bool {
        let open = self
            .entries
            .get_mut(&volume)
            .filter(|entry| entry.kept.report.is_open());
        let Some(entry) = open else { return false };
        end(
            &mut entry.kept.report,
            VerifyState::Stopped,
            Some("ByHand"),
            now,
        );
        self.save(volume);
        true
    }

    fn save(&mut self, volume: VolumeId) {
        let Some(entry) = self.entries.get_mut(&volume) else {
            return;
        };
        entry.saved = Some(Instant::now());
        let path = self.folder.join(format!("{volume}.json"));
        let written = serde_json::to_vec(&entry.kept)
            .map_err(std::io::Error::other)
            .and_then(|bytes| write_whole(&path, &bytes));
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "the account of a verify is not kept");
        }
    }
}

impl Entry {
    fn new(kept: Kept) -> Self {
        Self {
            earlier: kept.report.clone(),
            kept,
            taken: false,
            saved: None,
        }
    }
}

fn begun(request: &str, now: Time) -> VerifyReport {
    VerifyReport {
        request: request.to_owned(),
        state: VerifyState::Running,
        reason: None,
        started_at: now,
        ended_at: None,
        total_bytes: 0,
        compared_bytes: 0,
        percent: 0,
        bytes_per_second: None,
        eta_seconds: None,
        chunks: 0,
        differing_bytes: 0,
        differing: Vec::new(),
        unreadable_bytes: 0,
        unreadable: Vec::new(),
    }
}

fn is_old(report: &VerifyReport) -> bool {
    let age = |at: &Time| Timestamp::now().duration_since(at.0);
    let limit = SignedDuration::from_hours(24 * KEPT_DAYS);
    !report.is_open() && report.ended_at.as_ref().is_some_and(|at| age(at) > limit)
}

fn end(report: &mut VerifyReport, state: VerifyState, reason: Option<&str>, now: &Time) {
    report.state = state;
    report.reason = reason.map(str::to_owned);
    report.ended_at = Some(now.clone());
    (report.bytes_per_second, report.eta_seconds) = (None, None);
}

fn wait(report: &mut VerifyReport, reason: &str) -> bool {
    let runs = report.state == VerifyState::Running;
    if runs {
        (report.state, report.reason) = (VerifyState::Waiting, Some(reason.to_owned()));
        (report.bytes_per_second, report.eta_seconds) = (None, None);
    }
    runs
}

/// What was found by chunks behind the place where it goes on is found again.
fn forget_beyond(report: &mut VerifyReport) {
    let from = report.compared_bytes;
    for (bytes, ranges) in [
        (&mut report.differing_bytes, &mut report.differing),
        (&mut report.unreadable_bytes, &mut report.unreadable),
    ] {
        ranges.retain(|range| {
            let stays = range.offset < from;
            if !stays {
                *bytes = bytes.saturating_sub(range.length);
            }
            stays
        });
    }
}

/// The account of the present run on top of what was known before it.
fn add(report: &mut VerifyReport, earlier: &VerifyReport, told: &VerifyStatus) {
    report.total_bytes = told.total_bytes;
    report.compared_bytes = told.position;
    let share = u128::from(told.position) * 100 / u128::from(told.total_bytes.max(1));
    report.percent = u8::try_from(share).unwrap_or(100).min(100);
    report.bytes_per_second = Some(told.bytes_per_second);
    report.eta_seconds = told.eta.map(|eta| eta.as_secs());
    report.chunks = earlier.chunks + told.chunks;
    report.differing_bytes = earlier.differing_bytes + told.differing.bytes;
    report.differing = joined(&earlier.differing, &told.differing);
    report.unreadable_bytes = earlier.unreadable_bytes + told.unreadable.bytes;
    report.unreadable = joined(&earlier.unreadable, &told.unreadable);
}

fn joined(earlier: &[ByteRange], now: &Findings) -> Vec<ByteRange> {
    let range = |range: &std::ops::Range<u64>| ByteRange {
        offset: range.start,
        length: range.end - range.start,
    };
    let now = now.ranges.iter().map(range);
    earlier.iter().copied().chain(now).take(LISTED).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    fn volume() -> VolumeId {
        "ts-000102030405060708090a0b0c0d0e0f".parse().unwrap()
    }

    fn told(phase: VerifyPhase, position: u64, differing: &[u64]) -> VerifyStatus {
        let mut found = Findings::default();
        differing.iter().for_each(|&at| {
            found.add(at..at + 10);
        });
        VerifyStatus {
            phase,
            position,
            total_bytes: 1000,
            chunks: position / 100,
            differing: found,
            ..VerifyStatus::default()
        }
    }

    const LOST: VerifyPhase = VerifyPhase::Stopped(VerifyStop::MemberLost);

    #[test]
    fn a_run_that_was_broken_off_goes_on_where_it_was_with_what_it_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut all = Verifies::open(dir.path()).unwrap();
        assert_eq!(all.order(volume(), Some("monday"), at(1)), 0);
        all.answered(volume(), true);
        // Block 650 was found by a chunk behind the one that was not over.
        all.heard(volume(), &told(LOST, 500, &[100, 650]), &at(2));
        assert!(all.seen(volume(), true).waits.is_some());

        // The agent starts anew meanwhile.
        let mut all = Verifies::open(dir.path()).unwrap();
        let report = all.report(volume()).unwrap();
        assert_eq!((report.state, report.percent), (VerifyState::Waiting, 50));
        assert_eq!(report.reason.as_deref(), Some("MemberLost"));
        assert_eq!(all.order(volume(), None, at(3)), 500);
        all.answered(volume(), true);
        let mut rest = told(VerifyPhase::Done, 1000, &[650]);
        rest.chunks = 5;
        all.heard(volume(), &rest, &at(4));
        let report = all.report(volume()).unwrap();
        assert_eq!((report.state, report.chunks), (VerifyState::Done, 10));
        assert_eq!(report.differing_bytes, 20);
        assert_eq!(
            report.sentence(),
            "all compared: 20 bytes differ, at 100+10, 650+10"
        );
        assert_eq!(
            (&report.started_at, &report.ended_at),
            (&at(1), &Some(at(4)))
        );
        assert_eq!(all.seen(volume(), true).answered.as_deref(), Some("monday"));
    }

    #[test]
    fn what_an_earlier_run_found_is_never_told_of_a_later_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut all = Verifies::open(dir.path()).unwrap();
        all.order(volume(), Some("monday"), at(1));
        all.answered(volume(), true);
        let first = told(VerifyPhase::Done, 1000, &[100]);
        all.heard(volume(), &first, &at(2));
        all.order(volume(), Some(BY_HAND), at(3));
        assert!(all.is_asked(volume()));
        // The engine has not taken the order yet and still tells of the first run.
        all.heard(volume(), &first, &at(3));
        let report = all.report(volume()).unwrap();
        assert_eq!(
            (report.state, report.differing_bytes),
            (VerifyState::Running, 0)
        );
        all.answered(volume(), true);
        all.heard(volume(), &told(VerifyPhase::Done, 1000, &[]), &at(4));
        let report = all.report(volume()).unwrap();
        assert_eq!(
            (report.state, report.differing_bytes),
            (VerifyState::Done, 0)
        );
        assert_eq!(all.seen(volume(), true).answered.as_deref(), Some("monday"));
    }

    #[test]
    fn one_that_the_engine_does_not_take_or_that_is_detached_waits_and_a_person_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut all = Verifies::open(dir.path()).unwrap();
        all.order(volume(), Some(BY_HAND), at(1));
        all.answered(volume(), false);
        assert!(all.seen(volume(), true).waits.is_some());
        all.order(volume(), None, at(2));
        all.answered(volume(), true);
        all.detached(volume());
        assert!(all.seen(volume(), true).waits.is_some());
        assert!(all.stop(volume(), &at(3)) && !all.stop(volume(), &at(4)));
        assert_eq!(all.seen(volume(), true).waits, None);
    }

    #[test]
    fn an_account_that_ended_long_ago_is_forgotten_and_an_open_one_never() {
        let dir = tempfile::tempdir().unwrap();
        let mut all = Verifies::open(dir.path()).unwrap();
        all.order(volume(), Some("monday"), at(1));
        all.answered(volume(), true);
        all.heard(volume(), &told(LOST, 500, &[]), &at(2));
        let mut all = Verifies::open(dir.path()).unwrap();
        assert!(all.stop(volume(), &at(3)));
        assert!(
            Verifies::open(dir.path())
                .unwrap()
                .report(volume())
                .is_none()
        );
        assert!(Verifies::open(dir.path()).unwrap().entries.is_empty());
    }
}
