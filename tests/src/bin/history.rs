//! `history FILE`: judges the history of a run (see `twinsite_tests::history`). Exit code 1 if something happened that must not.

use std::path::Path;
use std::process::ExitCode;

use twinsite_tests::history;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file] = arguments.as_slice() else {
        eprintln!("usage: history FILE, such as target/demo/history.jsonl");
        return ExitCode::FAILURE;
    };
    let events = match history::event::read(Path::new(file)) {
        Ok(events) => events,
        Err(error) => {
            eprintln!("history: {error}");
            return ExitCode::FAILURE;
        }
    };
    if events.is_empty() {
        // Nothing is wrong with a history in which nothing happened, and nothing is shown by it either.
        eprintln!("history: {file} is empty: give the history of a run");
        return ExitCode::FAILURE;
    }
    let verdict = history::check(&events);
    for violation in &verdict.violations {
        println!("{violation}");
    }
    let good = verdict.violations.is_empty();
    println!(
        "history: {} issued={} acknowledged={} failed={} reads={} writers={} violations={}",
        if good { "ok" } else { "FAILED" },
        verdict.issued,
        verdict.acked,
        verdict.failed,
        verdict.reads,
        verdict.writers,
        verdict.violations.len()
    );
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
