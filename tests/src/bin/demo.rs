//! `make demo`. Three programs in one: the stage hand that sweeps up whatever happens, the play, and the treatment room.

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use twinsite_tests::demo::options::Options;
use twinsite_tests::demo::stage::Stage;
use twinsite_tests::demo::{acts, kills, report::Report};
use twinsite_tests::{needs, play, workload};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let outcome = match arguments
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        // What is wrong or missing is told before anything is set up.
        [] => ready().and_then(|()| play::supervise("demo", &target_folder().join("demo/work"))),
        ["play"] => perform().map(|good| {
            if good {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }),
        ["room", name, directory, ledger, pause] => treat(name, directory, ledger, pause),
        _ => Err(anyhow::anyhow!(
            "the demo takes no arguments; options come as in: make demo KILL=research FS=xfs"
        )),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("demo: {error:#}");
        ExitCode::FAILURE
    })
}

/// Where cargo puts what it builds: this program lies in it.
fn target_folder() -> PathBuf {
    let program = env::current_exe().unwrap_or_default();
    program
        .parent()
        .and_then(Path::parent)
        .unwrap_or(Path::new("target"))
        .to_owned()
}

fn ready() -> Result<()> {
    options()?;
    match needs::missing_for_devices() {
        Some(reason) => bail!("{reason}"),
        None => Ok(()),
    }
}

fn options() -> Result<Options> {
    Options::read(|name| env::var(name).ok().filter(|value| !value.is_empty()))
}

fn perform() -> Result<bool> {
    let options = options()?;
    let agent = env::current_exe()?.with_file_name("twinsite-agent");
    if !agent.exists() {
        bail!(
            "{} is missing: build it with cargo build --release",
            agent.display()
        );
    }
    let folder = target_folder().join("demo/work");
    let mut stage = Stage::set(options, &folder, agent)?;
    if stage.options.kills > 0 {
        let deaths = stage.options.kills;
        kills::kills(&mut stage, deaths)?;
    } else if stage.options.rounds > 0 {
        acts::rounds(&mut stage)?;
    } else {
        acts::pull_the_plug(&mut stage)?;
        acts::cut_the_line(&mut stage)?;
        acts::miss_the_witness(&mut stage)?;
    }
    stage.close()?;
    let report: &Report = &stage.report;
    let results = target_folder().join("demo");
    report.save(&results)?;
    std::fs::copy(stage.history_file(), results.join("history.jsonl"))?;
    println!("\n{}", report.line());
    Ok(report.good())
}

fn treat(name: &str, directory: &str, ledger: &str, pause: &str) -> Result<ExitCode> {
    let pause = Duration::from_millis(pause.parse()?);
    workload::room::run(name, Path::new(directory), Path::new(ledger), pause)?;
    Ok(ExitCode::SUCCESS)
}
