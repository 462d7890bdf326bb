//! The figures of a run: one line at the end, and `target/demo-kubernetes/report.json`.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use twinsite_tests::demo::report::percentile;

/// One death of a site and what it took to go on. Milliseconds since the plug was pulled, if not said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Round {
    pub killed: String,
    /// The survivor's operator ordered the move.
    pub detected_ms: Option<i64>,
    /// No command of the dead site can reach a leg any more.
    pub fenced_ms: Option<i64>,
    /// The register names the survivor.
    pub promoted_ms: Option<i64>,
    /// The pod was bound to a node. To the second.
    pub scheduled_ms: Option<i64>,
    /// Its container ran. To the second.
    pub started_ms: Option<i64>,
    /// The first record was acknowledged.
    pub first_write_ms: u64,
    /// From the return of power to both legs being members.
    pub resync_seconds: f64,
    /// Longest gap between two records in the planned move back.
    pub move_gap_ms: u64,
}

/// The whole run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    pub kubernetes: String,
    pub acknowledged: u64,
    pub found: u64,
    pub lost: u64,
    pub rounds: Vec<Round>,
    /// From the first program to both clusters being Ready.
    pub clusters_seconds: f64,
    /// From helm to every pod of both releases being ready.
    pub install_seconds: f64,
    /// From the manifests to the first acknowledged record.
    pub birth_seconds: f64,
    /// Stages at which `kubectl diff` was asked, and at how many it was not empty.
    pub diffs: u32,
    pub drifts: u32,
    pub history_writes: u64,
    pub history_reads: u64,
    /// What the history checker found that must not happen.
    pub violations: Vec<String>,
    pub seconds: f64,
}

impl Report {
    /// Nothing lost, nobody wrote who must not, Git was never contradicted.
    #[must_use]
    pub fn good(&self) -> bool {
        self.lost == 0 && self.acknowledged > 0 && self.violations.is_empty() && self.drifts == 0
    }

    /// The last line.
    #[must_use]
    pub fn line(&self) -> String {
        let first: Vec<u64> = self
            .rounds
            .iter()
            .map(|round| round.first_write_ms)
            .collect();
        let gaps: Vec<u64> = self.rounds.iter().map(|round| round.move_gap_ms).collect();
        format!(
            "demo-kubernetes: {} acknowledged={} found={} lost={} violations={} drifts={}/{} rounds={} first_write_ms_p50={} \
             first_write_ms_p99={} move_gap_ms_p50={} seconds={:.0}",
            if self.good() { "ok" } else { "FAILED" },
            self.acknowledged,
            self.found,
            self.lost,
            self.violations.len(),
            self.drifts,
            self.diffs,
            self.rounds.len(),
            percentile(&first, 50),
            percentile(&first, 99),
            percentile(&gaps, 50),
            self.seconds,
        )
    }

    /// Writes `report.json` into `folder`.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        Ok(fs::write(
            folder.join("report.json"),
            serde_json::to_string_pretty(self)?,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_contradicted_git_is_not_good() {
        let good = Report {
            acknowledged: 1,
            found: 1,
            ..Report::default()
        };
        assert!(good.good());
        assert!(
            !Report {
                drifts: 1,
                ..good.clone()
            }
            .good()
        );
        assert!(!Report { lost: 1, ..good }.good());
    }
}
