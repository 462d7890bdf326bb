//! The table on the terminal and the report for machines.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

use crate::log::Outcome;

#[derive(Debug, Serialize)]
pub(crate) struct Row {
    suite: String,
    ours: Outcome,
    pub(crate) tgt: Option<Outcome>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    with_tgt: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Sum {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Sum {
    fn of(outcome: &Outcome) -> Self {
        Self {
            passed: outcome.passed as usize,
            failed: outcome.failed.len(),
            skipped: outcome.skipped.len(),
        }
    }

    fn add(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
        }
    }

    fn cell(self) -> String {
        format!("{:>4} {:>4} {:>4}", self.passed, self.failed, self.skipped)
    }
}

impl Row {
    pub(crate) fn new(suite: &str, ours: Outcome) -> Self {
        Self {
            suite: suite.into(),
            ours,
            tgt: None,
        }
    }

    pub(crate) fn print(&self) {
        let tgt = self
            .tgt
            .as_ref()
            .map(|tgt| Sum::of(tgt).cell())
            .unwrap_or_default();
        println!("{:<34} {}   {tgt}", self.suite, Sum::of(&self.ours).cell());
        for failure in &self.ours.failed {
            println!("    failed  {}: {}", failure.test, failure.why);
        }
        for skip in &self.ours.skipped {
            println!("    skipped {}: {}", skip.test, skip.why);
        }
    }
}

impl Report {
    pub(crate) fn new(with_tgt: bool) -> Self {
        let tgt = if with_tgt { "tgt: pass fail skip" } else { "" };
        println!("{:<34} pass fail skip   {tgt}", "suite");
        Self {
            rows: Vec::new(),
            with_tgt,
        }
    }

    /// Writes the report and prints the sums.
    pub(crate) fn finish(&self, path: &Path) -> anyhow::Result<ExitCode> {
        let sum = |pick: fn(&Row) -> Option<&Outcome>| {
            self.rows
                .iter()
                .filter_map(pick)
                .map(Sum::of)
                .fold(Sum::default(), Sum::add)
        };
        let ours = sum(|row| Some(&row.ours));
        let tgt = sum(|row| row.tgt.as_ref());
        let document = serde_json::json!({ "ours": ours, "tgt": self.with_tgt.then_some(tgt), "suites": self.rows });
        std::fs::write(path, serde_json::to_string_pretty(&document)?)
            .with_context(|| format!("can not write {}", path.display()))?;
        if self.with_tgt {
            println!(
                "tgt: {} passed, {} failed, {} skipped",
                tgt.passed, tgt.failed, tgt.skipped
            );
        }
        println!(
            "conformance: {} passed, {} failed, {} skipped",
            ours.passed, ours.failed, ours.skipped
        );
        Ok(if ours.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
