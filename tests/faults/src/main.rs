//! `twinsite-faults [row ...]`: runs the simulator scenarios of all rows (or of those named), prints the table, writes
//! `target/faults/report.json`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::json;
use twinsite_faults::row::Run;
use twinsite_faults::{rows, scenario};
use twinsite_sim::run::run;

/// Scenarios are shared by rows and run once.
#[derive(Default)]
struct Scenarios(BTreeMap<&'static str, Result<usize, String>>);

impl Scenarios {
    fn outcome(&mut self, name: &'static str) -> Result<usize, String> {
        self.0.entry(name).or_insert_with(|| all_runs(name)).clone()
    }
}

fn all_runs(name: &str) -> Result<usize, String> {
    let plans = scenario::plans(name);
    for (k, plan) in plans.iter().enumerate() {
        if let Some(why) = run(plan.clone()).violation {
            return Err(format!("{name} run {k}: {why}"));
        }
    }
    Ok(plans.len())
}

fn main() -> ExitCode {
    let numbers: Result<Vec<u32>, _> = std::env::args().skip(1).map(|text| text.parse()).collect();
    let Ok(wanted) = numbers else {
        eprintln!("usage: twinsite-faults [ROW ..], by their numbers; without any: all rows");
        return ExitCode::FAILURE;
    };
    let mut scenarios = Scenarios::default();
    let (mut ran, mut elsewhere, mut not, mut failed) = (0, 0, 0, 0);
    let mut report = vec![];
    for row in rows().filter(|r| wanted.is_empty() || wanted.contains(&r.number)) {
        let mut places = vec![];
        let (mut here, mut other, mut bad) = (false, false, false);
        for place in row.runs {
            places.push(match place {
                Run::Sim(name) => {
                    here = true;
                    match scenarios.outcome(name) {
                        Ok(runs) => format!("simulator {name}: pass ({runs} runs)"),
                        Err(why) => {
                            bad = true;
                            format!("simulator FAILED {why}")
                        }
                    }
                }
                Run::Model(configuration, flag) => {
                    other = true;
                    format!("make model: {configuration} without the rule ({flag}) fails")
                }
                Run::Test(name) => {
                    other = true;
                    format!("test {name}")
                }
                Run::Process(what) => {
                    other = true;
                    (*what).to_owned()
                }
                Run::Not(why) => format!("not here: {why}"),
            });
        }
        let word = match (bad, here, other) {
            (true, _, _) => "FAILED",
            (false, true, _) => "pass",
            (false, false, true) => "elsewhere",
            (false, false, false) => "not run",
        };
        match word {
            "FAILED" => failed += 1,
            "pass" => ran += 1,
            "elsewhere" => elsewhere += 1,
            _ => not += 1,
        }
        println!(
            "{:3} {word:9} {} [{}] -> {}",
            row.number, row.fault, row.inject, row.expect
        );
        places.iter().for_each(|p| println!("              {p}"));
        report.push(json!({"row": row.number, "fault": row.fault, "inject": row.inject, "expect": row.expect, "result": word, "where": places}));
    }
    let text = format!("{:#}\n", json!({"ok": failed == 0, "rows": report}));
    let written = std::fs::create_dir_all("target/faults")
        .and_then(|()| std::fs::write("target/faults/report.json", text));
    if let Err(error) = written {
        eprintln!("twinsite-faults: target/faults/report.json: {error}");
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "faults: {word} rows={} simulated={ran} elsewhere={elsewhere} not_run={not} failed={failed}",
        report.len()
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
