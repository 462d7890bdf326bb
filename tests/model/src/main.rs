//! Command line of the models.
//!
//! ```text
//! twinsite-model [all]                       base, then flags
//! twinsite-model base | flags                all rules on, complete | one rule off, a counterexample each
//! twinsite-model short                       the part that finishes in a minute
//! twinsite-model <configuration> [flag[+flag]] [key=value]   one case with its trace
//! ```
//! Ends with one line of figures and writes `target/model/report.json`. COVER=1 prints every step that was taken.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::{Value, json};
use twinsite_model::catalogue;
use twinsite_model::search::Outcome;
use twinsite_model::small;

/// Configurations above this many states are left out of `short`.
const SHORT: &[&str] = &[
    "edits",
    "two",
    "reads2",
    "regions-crash",
    "regions-rollback",
    "regions-object",
];

#[derive(Default)]
struct Report {
    cases: Vec<Value>,
    states: usize,
    configurations: usize,
    caught: BTreeSet<String>,
    failures: Vec<String>,
}

impl Report {
    fn case(
        &mut self,
        name: &str,
        flag: &str,
        bounds: &[(&str, &str)],
        trace: bool,
    ) -> Result<Outcome, String> {
        let start = Instant::now();
        let flags: &[&str] = if flag.is_empty() { &[] } else { &[flag] };
        let outcome = catalogue::run(name, flags, bounds)?;
        let seconds = start.elapsed().as_secs_f64();
        let verdict = match (&outcome.found, outcome.complete) {
            (Some(found), _) => found.violation,
            (None, true) => "no violation",
            (None, false) => "bound reached, no violation so far",
        };
        let shown = if flag.is_empty() { "ALL RULES" } else { flag };
        println!(
            "{name:24} {shown:28} states={:9} {seconds:6.1}s -> {verdict}",
            outcome.states
        );
        if let (true, Some(found)) = (trace, &outcome.found) {
            found.trace.iter().for_each(|s| println!("      {s}"));
        }
        if std::env::var_os("COVER").is_some() {
            outcome.taken.iter().for_each(|s| println!("  taken: {s}"));
        }
        self.states += outcome.states;
        self.cases.push(json!({
            "configuration": name, "flag": flag, "states": outcome.states, "complete": outcome.complete,
            "seconds": seconds, "verdict": verdict,
            "trace": outcome.found.iter().flat_map(|f| &f.trace).map(ToString::to_string).collect::<Vec<_>>(),
        }));
        Ok(outcome)
    }

    fn base(&mut self, wanted: impl Fn(&str) -> bool) -> Result<(), String> {
        for name in catalogue::base().filter(|n| wanted(n)) {
            let outcome = self.case(name, "", &[], true)?;
            self.configurations += 1;
            if outcome.found.is_some() || !outcome.complete {
                self.failures
                    .push(format!("{name}: violation or incomplete"));
            }
        }
        Ok(())
    }

    fn flags(&mut self, wanted: impl Fn(&str) -> bool) -> Result<(), String> {
        for (name, flag) in catalogue::shown().filter(|(n, _)| wanted(n)) {
            if self.case(name, flag, &[], false)?.found.is_some() {
                self.caught.insert(flag.to_owned());
            } else {
                self.failures.push(format!("{flag}: not caught in {name}"));
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<ExitCode, String> {
        for (flag, why) in catalogue::not_shown() {
            println!("{flag:24} not demonstrated: {why}");
        }
        self.failures.iter().for_each(|f| println!("FAILED {f}"));
        let ok = self.failures.is_empty();
        let not_shown: Vec<_> = catalogue::not_shown()
            .map(|(flag, why)| json!({"flag": flag, "why": why}))
            .collect();
        let report = json!({
            "ok": ok, "states": self.states, "configurations": self.configurations,
            "flags_caught": self.caught.len(), "failures": self.failures, "not_shown": not_shown, "cases": self.cases,
        });
        let write = || {
            std::fs::create_dir_all("target/model")?;
            std::fs::write("target/model/report.json", format!("{report:#}\n"))
        };
        write().map_err(|e| format!("target/model/report.json: {e}"))?;
        let word = if ok { "ok" } else { "FAILED" };
        println!(
            "model: {word} states={} configurations={} flags_caught={}",
            self.states,
            self.configurations,
            self.caught.len()
        );
        Ok(if ok {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

fn run(args: &[String]) -> Result<ExitCode, String> {
    let mut report = Report::default();
    match args.first().map_or("all", String::as_str) {
        "all" => {
            report.base(|_| true)?;
            report.flags(|_| true)?;
        }
        "base" => report.base(|_| true)?,
        "flags" => report.flags(|_| true)?,
        "short" => {
            let short =
                |n: &str| SHORT.contains(&n) || n.starts_with("life-") || small::BASE.contains(&n);
            report.base(short)?;
            report.flags(short)?;
        }
        name => {
            let bounds: Vec<_> = args
                .iter()
                .skip(1)
                .filter_map(|a| a.split_once('='))
                .collect();
            let flags: Vec<_> = args
                .iter()
                .skip(1)
                .filter(|a| !a.contains('='))
                .map(String::as_str)
                .collect();
            let outcome = report.case(name, &flags.join("+"), &bounds, true)?;
            return Ok(if outcome.found.is_some() {
                ExitCode::FAILURE
            } else {
                ExitCode::SUCCESS
            });
        }
    }
    report.finish()
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    run(&args).unwrap_or_else(|error| {
        eprintln!("twinsite-model: {error}");
        ExitCode::FAILURE
    })
}
