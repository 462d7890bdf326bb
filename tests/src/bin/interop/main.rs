//! `make interop`: our target and our initiator against the peers that people have.
//!
//! libiscsi's tools and QEMU's block driver on our target; our initiator on tgt; and in a QEMU guest with Debian's stock
//! kernel, open-iscsi on our target and our initiator on LIO. Everything goes over loopback. What a machine has not got is
//! skipped with the reason; every program has a deadline and none outlives this one.
//! The last line is `interop: N passed, N failed, N skipped`; the exit status says whether anything failed.

mod guest;
mod libiscsi;
mod peers;
mod program;
mod qemu;
mod qualify;
mod report;
mod tgt;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Parser;

use peers::{Access, Ours};
use report::Report;

/// Runs other people's iSCSI programs against ours.
#[derive(Parser)]
struct Args {
    /// The agent to test; default: the one built beside this program.
    #[arg(long)]
    agent: Option<PathBuf>,
    /// The probe, our initiator as a program; default: the one built beside this program.
    #[arg(long)]
    probe: Option<PathBuf>,
    /// The folder with the guest's scripts.
    #[arg(long, default_value = "tests/interop")]
    scripts: PathBuf,
    /// Leave the guest out: it takes minutes.
    #[arg(long)]
    without_guest: bool,
    /// Where logs, the guest's kernel and report.json go.
    #[arg(long, default_value = "target/interop")]
    out: PathBuf,
}

fn main() -> ExitCode {
    act().unwrap_or_else(|error| {
        eprintln!("interop: {error:#}");
        ExitCode::FAILURE
    })
}

fn act() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    ctrlc::set_handler(program::interrupt).context("the handler of signals")?;
    let beside = std::env::current_exe()?;
    let agent = args
        .agent
        .unwrap_or_else(|| beside.with_file_name("twinsite-agent"));
    let probe = args
        .probe
        .unwrap_or_else(|| beside.with_file_name("examples").join("probe"));
    for path in [&agent, &probe] {
        ensure!(path.exists(), "{} is not built", path.display());
    }
    std::fs::create_dir_all(&args.out)?;
    let images = tempfile::tempdir()?;
    let plain = Ours::start(&agent, images.path(), &args.out, Access::Open)?;
    let chap = Ours::start(&agent, images.path(), &args.out, Access::Chap)?;

    let mut report = Report::new();
    libiscsi::run(&mut report, &plain, &chap, &args.out);
    qemu::run(&mut report, &plain, &chap, images.path(), &args.out);
    tgt::run(&mut report, &agent, &probe, images.path(), &args.out);
    let leg = format!("iscsi://{}/{}/2", plain.portal, peers::IQN);
    let (pair, right) = ("ours > ours", qualify::Verdict::Usable);
    qualify::check(
        &mut report,
        pair,
        "qualification as a leg",
        &agent,
        &leg,
        right,
        &args.out,
    );
    if args.without_guest {
        guest::skip(&mut report, "--without-guest was given");
    } else {
        let (scripts, out) = (&args.scripts, &args.out);
        guest::run(&mut report, &plain, &chap, &agent, &probe, scripts, out);
    }
    ensure!(!program::interrupted(), "interrupted");
    report.finish(&args.out.join("report.json"))
}
