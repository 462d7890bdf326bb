//! The figures of a run: one line at the end, and `target/demo-kubernetes/report.json`.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use twinsite_tests::demo::report::percentile;

use super::parts::{self, Over, Part};
use super::trace::Seen;

/// One death of a site and what it took to go on. Milliseconds since the plug was pulled, if not said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Round {
    pub killed: String,
    /// The first record was acknowledged.
    pub first_write_ms: u64,
    /// Where that time went, beside the budget of the protocol.
    pub first_write_parts: Vec<Part>,
    pub first_write_trace: Vec<Seen>,
    /// From the return of power to both legs being members.
    pub resync_seconds: f64,
    /// Longest gap between two records in the planned move back.
    pub move_gap_ms: u64,
    /// What was done while records were still written, from the edit of the manifest.
    pub move_ahead_parts: Vec<Part>,
    /// Where the gap went.
    pub move_gap_parts: Vec<Part>,
    pub move_trace: Vec<Seen>,
    /// The node of the pod was killed: until the first record from another node of the site.
    pub node_loss_ms: Option<u64>,
    pub node_loss_parts: Vec<Part>,
    pub node_loss_trace: Vec<Seen>,
}

/// The figures over all rounds, each with its parts.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    pub first_write: Figure,
    pub move_gap: Figure,
    pub node_loss: Option<Figure>,
}

/// One figure over all rounds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Figure {
    pub ms_p50: u64,
    pub ms_p99: u64,
    pub parts: Vec<Over>,
}

impl Figure {
    fn of<'a>(values: &[u64], rounds: impl IntoIterator<Item = &'a Vec<Part>>) -> Self {
        Self {
            ms_p50: percentile(values, 50),
            ms_p99: percentile(values, 99),
            parts: parts::over_all(rounds, percentile),
        }
    }

    /// One line for each part.
    fn lines(&self, name: &str) -> Vec<String> {
        let seconds = |ms: u64| ms as f64 / 1000.0;
        let head = format!(
            "{name}: p50 {:.1} s, p99 {:.1} s",
            seconds(self.ms_p50),
            seconds(self.ms_p99)
        );
        let part = |part: &Over| {
            let budget = part.budget.map_or_else(String::new, |(typical, limit)| {
                format!("   budget {typical:.1}, at most {limit:.1}")
            });
            let (p50, p99) = (seconds(part.ms_p50), seconds(part.ms_p99));
            format!("  {:<42} {p50:>5.1} {p99:>5.1}{budget}", part.name)
        };
        std::iter::once(head)
            .chain(self.parts.iter().map(part))
            .collect()
    }
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

    /// The figures over all rounds.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let rounds = || self.rounds.iter();
        let first: Vec<u64> = rounds().map(|round| round.first_write_ms).collect();
        let gaps: Vec<u64> = rounds().map(|round| round.move_gap_ms).collect();
        let nodes: Vec<u64> = rounds().filter_map(|round| round.node_loss_ms).collect();
        Summary {
            first_write: Figure::of(&first, rounds().map(|round| &round.first_write_parts)),
            move_gap: Figure::of(&gaps, rounds().map(|round| &round.move_gap_parts)),
            node_loss: (!nodes.is_empty())
                .then(|| Figure::of(&nodes, rounds().map(|round| &round.node_loss_parts))),
        }
    }

    /// The figures for a person, part by part: their middle and their worst.
    #[must_use]
    pub fn table(&self) -> String {
        let summary = self.summary();
        let mut lines = summary
            .first_write
            .lines("site killed -> first record at the other");
        lines.extend(summary.move_gap.lines("gap of the planned move"));
        if let Some(node) = &summary.node_loss {
            lines.extend(node.lines("node killed -> first record on another"));
        }
        lines.join("\n")
    }

    /// The last line.
    #[must_use]
    pub fn line(&self) -> String {
        let summary = self.summary();
        let node = summary.node_loss.map_or_else(String::new, |node| {
            format!(
                "node_loss_ms_p50={} node_loss_ms_p99={} ",
                node.ms_p50, node.ms_p99
            )
        });
        format!(
            "demo-kubernetes: {} acknowledged={} found={} lost={} violations={} drifts={}/{} rounds={} first_write_ms_p50={} \
             first_write_ms_p99={} move_gap_ms_p50={} move_gap_ms_p99={} {node}seconds={:.0}",
            if self.good() { "ok" } else { "FAILED" },
            self.acknowledged,
            self.found,
            self.lost,
            self.violations.len(),
            self.drifts,
            self.diffs,
            self.rounds.len(),
            summary.first_write.ms_p50,
            summary.first_write.ms_p99,
            summary.move_gap.ms_p50,
            summary.move_gap.ms_p99,
            self.seconds,
        )
    }

    /// Writes `report.json` into `folder`.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        let mut value = serde_json::to_value(self)?;
        value["summary"] = serde_json::to_value(self.summary())?;
        Ok(fs::write(
            folder.join("report.json"),
            serde_json::to_string_pretty(&value)?,
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
