//! `make conformance`: libiscsi's `iscsi-test-cu` against our target, and against tgt in the same run.
//!
//! One process per suite, since a suite of that tool can spoil the ones after it and a hang must not eat the run. Logical units:
//! an ordinary one, a removable one, a write-protected one, one with blocks of 4096 bytes, and slow ones for the sanitize suite,
//! which runs beside all others; two portals for the multipath suite.
//! The last line is `conformance: N passed, N failed, N skipped`; the exit status says whether anything failed.

mod log;
mod peers;
mod report;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};
use clap::Parser;

use log::Outcome;
use peers::{Peer, Unit};
use report::{Report, Row};

/// A suite takes a second or two; only `Sanitize` sleeps for more than a minute.
const SUITE_SECONDS: u32 = 240;
const SANITIZE: &str = "SCSI.Sanitize";

/// Runs the suites of iscsi-test-cu.
#[derive(Parser)]
struct Args {
    /// The agent to test; default: the one built beside this program.
    #[arg(long)]
    agent: Option<PathBuf>,
    /// Only this suite, as in SCSI.Unmap; may be given several times.
    #[arg(long)]
    suite: Vec<String>,
    /// Leave tgt out.
    #[arg(long)]
    alone: bool,
    /// Where logs and report.json go.
    #[arg(long, default_value = "target/conformance")]
    out: PathBuf,
}

fn main() -> ExitCode {
    act().unwrap_or_else(|error| {
        eprintln!("conformance: {error:#}");
        ExitCode::FAILURE
    })
}

fn act() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let agent = match args.agent {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("twinsite-agent"),
    };
    ensure!(agent.exists(), "{} is not built", agent.display());
    let suites = if args.suite.is_empty() {
        all_suites()?
    } else {
        args.suite
    };
    let folder = tempfile::tempdir()?;
    std::fs::create_dir_all(&args.out)?;
    let ours = Peer::start_ours(&agent, folder.path(), &args.out)?;
    let tgt = if args.alone {
        None
    } else {
        start_tgt(folder.path(), &args.out)
    };
    let mut sanitize = if suites.iter().any(|suite| suite == SANITIZE) {
        let (agent, out) = (agent.clone(), args.out.clone());
        Some(std::thread::spawn(move || run_sanitize(&agent, &out)))
    } else {
        None
    };
    let mut report = Report::new(tgt.is_some());
    for suite in suites {
        let outcome = match sanitize.take_if(|_| suite == SANITIZE) {
            Some(thread) => thread.join().expect("the sanitize suite does not panic")?,
            None => run(&ours, &suite, &args.out)?,
        };
        let mut row = Row::new(&suite, outcome);
        if let Some(tgt) = &tgt {
            row.tgt = Some(run(tgt, &suite, &args.out)?);
        }
        row.print();
        report.rows.push(row);
    }
    report.finish(&args.out.join("report.json"))
}

fn run_sanitize(agent: &Path, out: &Path) -> anyhow::Result<Outcome> {
    let folder = tempfile::tempdir()?;
    let slow = Peer::start_slow(agent, folder.path(), out)?;
    run(&slow, SANITIZE, out)
}

/// tgt is a yardstick only: without it the run goes on.
fn start_tgt(folder: &Path, out: &Path) -> Option<Peer> {
    match Peer::start_tgt(folder, out) {
        Ok(peer) => Some(peer),
        Err(error) => {
            println!("tgt is left out: {error:#}");
            None
        }
    }
}

fn all_suites() -> anyhow::Result<Vec<String>> {
    let list = Command::new("iscsi-test-cu")
        .arg("--list")
        .output()
        .context("iscsi-test-cu (Debian package libiscsi-bin)")?;
    let text = String::from_utf8_lossy(&list.stdout).into_owned();
    let families = ["SCSI.", "iSCSI."];
    let is_suite = |line: &&str| {
        families.iter().any(|family| line.starts_with(family)) && line.matches('.').count() == 1
    };
    let suites: Vec<String> = text.lines().filter(is_suite).map(str::to_owned).collect();
    ensure!(!suites.is_empty(), "iscsi-test-cu lists no suites");
    Ok(suites)
}

/// The unit on which a suite has something to test.
fn unit_of(suite: &str) -> Unit {
    match suite {
        "SCSI.NoMedia" | "SCSI.PreventAllow" | "SCSI.StartStopUnit" => Unit::Removable,
        "SCSI.ReadOnly" => Unit::WriteProtected,
        // Its arithmetic holds only where the logical block is the physical one.
        "SCSI.GetLBAStatus" => Unit::Native,
        _ => Unit::Ordinary,
    }
}

fn run(peer: &Peer, suite: &str, out: &Path) -> anyhow::Result<Outcome> {
    let unit = unit_of(suite);
    let mut command = Command::new("timeout");
    command
        .args(["-k", "5", &SUITE_SECONDS.to_string()])
        .args([
            "stdbuf",
            "-oL",
            "iscsi-test-cu",
            "-d",
            "-S",
            "-v",
            "-t",
            suite,
        ])
        .arg(peer.url(unit, 0));
    if suite == "SCSI.MultipathIO" {
        command.arg(peer.url(unit, 1));
    }
    let output = command.output().context("iscsi-test-cu")?;
    let both = [output.stderr, output.stdout].concat();
    let text = String::from_utf8_lossy(&both).into_owned();
    std::fs::write(out.join(format!("{}-{suite}.log", peer.name)), &text)?;
    Ok(log::parse(&text))
}
