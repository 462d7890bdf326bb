//! The table on the terminal and the report for machines.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use serde::Serialize;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", content = "why", rename_all = "lowercase")]
pub(crate) enum Verdict {
    Passed,
    Failed(String),
    Skipped(String),
}

#[derive(Debug, Serialize)]
struct Row {
    /// Who talks to whom, as in `libiscsi > ours`.
    pair: &'static str,
    check: String,
    #[serde(flatten)]
    verdict: Verdict,
    seconds: f64,
}

#[derive(Debug)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    pub(crate) fn new() -> Self {
        println!("{:<22} {:<44} result", "initiator > target", "check");
        Self { rows: Vec::new() }
    }

    /// Tries something, and holds its error against it.
    pub(crate) fn check(
        &mut self,
        pair: &'static str,
        check: &str,
        attempt: impl FnOnce() -> anyhow::Result<()>,
    ) {
        let start = Instant::now();
        let verdict = match attempt() {
            Ok(()) => Verdict::Passed,
            Err(error) => Verdict::Failed(format!("{error:#}")),
        };
        self.add(pair, check, verdict, start.elapsed().as_secs_f64());
    }

    pub(crate) fn skip(&mut self, pair: &'static str, checks: &[&str], why: &str) {
        for check in checks {
            self.add(pair, check, Verdict::Skipped(why.to_owned()), 0.0);
        }
    }

    fn add(&mut self, pair: &'static str, check: &str, verdict: Verdict, seconds: f64) {
        let result = match &verdict {
            Verdict::Passed => "passed".to_owned(),
            Verdict::Failed(why) => format!("FAILED: {why}"),
            Verdict::Skipped(why) => format!("skipped: {why}"),
        };
        println!("{pair:<22} {check:<44} {result}");
        self.rows.push(Row {
            pair,
            check: check.to_owned(),
            verdict,
            seconds,
        });
    }

    fn count(&self, pick: fn(&Verdict) -> bool) -> usize {
        self.rows.iter().filter(|row| pick(&row.verdict)).count()
    }

    /// Writes the report and prints the sums.
    pub(crate) fn finish(&self, path: &Path) -> anyhow::Result<ExitCode> {
        let passed = self.count(|verdict| matches!(verdict, Verdict::Passed));
        let failed = self.count(|verdict| matches!(verdict, Verdict::Failed(_)));
        let skipped = self.count(|verdict| matches!(verdict, Verdict::Skipped(_)));
        let document = serde_json::json!({
            "passed": passed, "failed": failed, "skipped": skipped, "checks": self.rows,
        });
        std::fs::write(path, serde_json::to_string_pretty(&document)?)
            .with_context(|| format!("can not write {}", path.display()))?;
        println!("interop: {passed} passed, {failed} failed, {skipped} skipped");
        Ok(if failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_rows_are_in_the_report() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        let mut report = Report::new();
        report.check("a > b", "good", || Ok(()));
        report.check("a > b", "bad", || anyhow::bail!("broken"));
        report.skip("a > b", &["absent", "gone"], "no QEMU");
        report.finish(&path).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["passed"], 1);
        assert_eq!(document["failed"], 1);
        assert_eq!(document["skipped"], 2);
        assert_eq!(document["checks"][1]["verdict"], "failed");
        assert_eq!(document["checks"][1]["why"], "broken");
        assert_eq!(document["checks"][3]["check"], "gone");
    }
}
