//! The figures of a run: one line at the end, and `target/demo/report.json`.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

/// One death and what it took to go on.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Round {
    /// Site whose plug was pulled.
    pub killed: String,
    /// Whether it was the active one.
    pub active: bool,
    /// From the plug to the evidence being complete; 0 when the standby site died.
    pub detect_ms: u64,
    /// From the order to the fences holding.
    pub fence_ms: u64,
    /// From the fences to the register having taken the attach.
    pub cas_ms: u64,
    /// From the plug to the next acknowledged record.
    pub first_write_ms: u64,
    /// Bytes in which the returned leg might have differed.
    pub dirty_bytes: u64,
    /// Bytes copied to it.
    pub resync_bytes: u64,
    pub resync_seconds: f64,
}

/// The whole run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    pub fs: String,
    pub size: u64,
    pub seed: u64,
    pub acknowledged: u64,
    pub found: u64,
    pub lost: u64,
    pub rounds: Vec<Round>,
    /// Processes that died at random instants.
    pub deaths: u32,
    /// The line between living sites was cut: sites that went on (1 is right).
    pub sites_writing_during_cut: Option<u32>,
    /// Gap in acknowledged records when the line was cut.
    pub cut_gap_ms: Option<u64>,
    /// Longest gap in acknowledged records while the witness was away and all was well.
    pub witness_away_gap_ms: Option<u64>,
    /// Records acknowledged while the witness was away and a leg was lost (0 is right).
    pub records_without_quorum: Option<u64>,
    /// Writes and readings that the history checker judged.
    pub history_writes: u64,
    pub history_reads: u64,
    /// What the history checker found that must not happen.
    pub violations: Vec<String>,
    pub seconds: f64,
}

/// The value at `percent` of the sorted values.
#[must_use]
pub fn percentile(values: &[u64], percent: usize) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().saturating_sub(1);
    sorted
        .get((sorted.len() * percent / 100).min(last))
        .copied()
        .unwrap_or(0)
}

impl Report {
    /// Nothing lost, nobody wrote who must not.
    #[must_use]
    pub fn good(&self) -> bool {
        self.lost == 0
            && self.acknowledged > 0
            && self.violations.is_empty()
            && self.sites_writing_during_cut.is_none_or(|sites| sites == 1)
            && self
                .records_without_quorum
                .is_none_or(|records| records == 0)
    }

    /// The last line.
    #[must_use]
    pub fn line(&self) -> String {
        let first: Vec<u64> = self
            .rounds
            .iter()
            .map(|round| round.first_write_ms)
            .collect();
        let dirty: u64 = self.rounds.iter().map(|round| round.dirty_bytes).sum();
        let resync: u64 = self.rounds.iter().map(|round| round.resync_bytes).sum();
        format!(
            "demo: {} acknowledged={} found={} lost={} violations={} rounds={} deaths={} first_write_ms_p50={} first_write_ms_p99={} dirty_bytes={dirty} resync_bytes={resync} seconds={:.0}",
            if self.good() { "ok" } else { "FAILED" },
            self.acknowledged,
            self.found,
            self.lost,
            self.violations.len(),
            self.rounds.len(),
            self.deaths,
            percentile(&first, 50),
            percentile(&first, 99),
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
    fn percentiles_of_a_short_list_are_its_members() {
        assert_eq!(percentile(&[], 50), 0);
        assert_eq!(percentile(&[3, 1, 2], 50), 2);
        assert_eq!(percentile(&[3, 1, 2], 99), 3);
    }

    #[test]
    fn a_run_that_acknowledged_nothing_is_not_good() {
        assert!(!Report::default().good());
        assert!(
            Report {
                acknowledged: 1,
                found: 1,
                ..Report::default()
            }
            .good()
        );
        assert!(
            !Report {
                acknowledged: 2,
                found: 1,
                lost: 1,
                ..Report::default()
            }
            .good()
        );
    }
}
