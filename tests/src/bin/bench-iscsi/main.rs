//! `make bench-iscsi`: our target beside tgt, our initiator beside libiscsi, both beside plain TCP (docs/bench-iscsi.md).
//!
//! Every number is a process of its own on loopback; all servers run all the time, and one round gives each client one short
//! run on each server, in an order that rotates. Only ratios within a round are judged: a machine that others use too gives no
//! absolute figures.

mod clients;
mod loads;
mod place;
mod report;
mod servers;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use clients::{Clients, Sample};
use loads::{Client, FAST, Load, STABLE, Server};
use report::Report;
use servers::{Bench, Folders};

/// Measures the target and the initiator against their peers.
#[derive(Parser)]
struct Args {
    /// The agent to measure; default: the one built beside this program.
    #[arg(long)]
    agent: Option<PathBuf>,
    /// Our load generator (`cargo build --release --package twinsite-agent --example load`).
    #[arg(long)]
    load: Option<PathBuf>,
    /// Source of the generator on libiscsi; compiled at the start.
    #[arg(long, default_value = "tests/bench/libiscsi-load.c")]
    libiscsi: PathBuf,
    /// Source of the target that takes no time; compiled at the start.
    #[arg(long, default_value = "tests/bench/floor-target.c")]
    floor: PathBuf,
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// How long one run takes.
    #[arg(long, default_value_t = 300)]
    slice_ms: u64,
    /// Only loads whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Where the units of the fast rows lie: memory, so that no disk is measured.
    #[arg(long, default_value = "/dev/shm")]
    memory: PathBuf,
    /// Where report.json, logs and the units of the stable rows go: a disk.
    #[arg(long, default_value = "target/bench-iscsi")]
    out: PathBuf,
    /// Exit status 1 if a mark is missed.
    #[arg(long)]
    strict: bool,
}

fn main() -> ExitCode {
    act().unwrap_or_else(|error| {
        eprintln!("bench-iscsi: {error:#}");
        ExitCode::FAILURE
    })
}

fn act() -> Result<ExitCode> {
    let args = Args::parse();
    let beside =
        |name: &str| -> Result<PathBuf> { Ok(std::env::current_exe()?.with_file_name(name)) };
    let agent = match &args.agent {
        Some(path) => path.clone(),
        None => beside("twinsite-agent")?,
    };
    let load = match &args.load {
        Some(path) => path.clone(),
        None => beside("examples/load")?,
    };
    for program in [&agent, &load] {
        ensure!(program.exists(), "{} is not built", program.display());
    }
    std::fs::create_dir_all(&args.out)?;
    let start = Instant::now();
    let clients = Clients::new(load, &args.libiscsi, &args.out)?;
    let memory = tempfile::Builder::new()
        .prefix("twinsite-bench")
        .tempdir_in(&args.memory)?;
    let disk = tempfile::Builder::new()
        .prefix("units")
        .tempdir_in(&args.out)?;
    let folders = Folders {
        memory: memory.path(),
        disk: disk.path(),
        logs: &args.out,
    };
    let floor = clients::compile(&args.floor, &args.out, &[])?;
    let bench = Bench::start(&agent, &floor, &folders)?;
    let wanted = |load: &&Load| {
        args.only
            .as_ref()
            .is_none_or(|only| load.name.contains(only.as_str()))
    };
    let mut report = Report::new();
    for load in FAST.iter().chain(STABLE).filter(wanted) {
        measure(&args, &clients, &bench, load, &mut report)
            .with_context(|| format!("{}: logs are in {}", load.name, logs(&args.out)))?;
    }
    let ok = report.finish(&args.out, start.elapsed().as_secs_f64())?;
    Ok(if ok || !args.strict {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn logs(out: &Path) -> String {
    out.display().to_string()
}

/// All rounds of one load.
fn measure(
    args: &Args,
    clients: &Clients,
    bench: &Bench,
    load: &'static Load,
    report: &mut Report,
) -> Result<()> {
    let runs = load.runs();
    let seconds = args.slice_ms as f64 / 1000.0;
    bench.place(load.place)?;
    let mut rounds = Vec::new();
    for round in 0..args.rounds {
        let mut samples: Vec<((Client, Server), Sample)> = Vec::new();
        for place in 0..runs.len() {
            let (client, server) = runs[(place + round) % runs.len()];
            let sample = one(clients, bench, load, client, server, seconds)?;
            samples.push(((client, server), sample));
        }
        rounds.push(samples.into_iter().collect());
    }
    report.add(load, rounds);
    Ok(())
}

fn one(
    clients: &Clients,
    bench: &Bench,
    load: &Load,
    client: Client,
    server: Server,
    seconds: f64,
) -> Result<Sample> {
    if client == Client::PingPong {
        return clients.pingpong(load, seconds);
    }
    if client == Client::Disk {
        return clients.disk(load, bench.disk(), seconds);
    }
    let before = bench.effort(server);
    let mut sample = clients.run(client, &bench.url(server, client), load, seconds)?;
    let after = bench.effort(server);
    let done = (sample.iops * seconds).max(1.0);
    sample.server_cpu_us = after.cpu.saturating_sub(before.cpu).as_secs_f64() * 1e6 / done;
    sample.server_sleeps = after.sleeps.saturating_sub(before.sleeps) as f64 / done;
    Ok(sample)
}
