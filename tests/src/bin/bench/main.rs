//! `make bench`: what the mirror adds to one leg alone, in one process, without a front end (docs/bench.md).
//!
//! A leg alone and the mirror over two legs are driven by the same code on the same data thread, through real iSCSI
//! sessions over loopback, to targets with threads of their own and files in memory. Runs of both are interleaved; a
//! machine that others use too gives ratios one can trust, not absolute figures.

mod measure;
mod report;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use twinsite_agent::volume::drive::Kind;
use twinsite_mirror::config::Config;

use measure::{Load, heat, rounds};
use report::{Report, Row};
use world::{Plan, World};

const MIB: u64 = 1 << 20;
/// What is written and read while hot.
const HOT_SPAN: u64 = 32 * MIB;
const HOT_SIZE: u64 = 64 * MIB;
/// Of the legs with a limited rate: the other leg has twice as much. Low enough that the cores are not the limit.
const SLOW_RATE: u64 = 40 * MIB;
/// Far more regions than a run writes to.
const COLD_SIZE: u64 = 4096 * MIB;
const COLD_BUDGET: u64 = 16 * MIB;
const SERVICE: Duration = Duration::from_micros(100);

/// Measures what the mirror adds to a leg.
#[derive(Parser)]
struct Args {
    /// Rounds of every load; an odd number has a middle one.
    #[arg(long, default_value_t = 9)]
    rounds: u64,
    /// How long one run of one side takes, about.
    #[arg(long, default_value_t = 120)]
    slice_ms: u64,
    /// Where the legs lie: memory, so that no disk is measured.
    #[arg(long, default_value = "/dev/shm")]
    legs: PathBuf,
    /// Where report.json goes.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// Exit status 1 if a mark is missed.
    #[arg(long)]
    strict: bool,
}

fn main() -> ExitCode {
    act().unwrap_or_else(|error| {
        eprintln!("bench: {error:#}");
        ExitCode::FAILURE
    })
}

fn act() -> Result<ExitCode> {
    let args = Args::parse();
    let start = Instant::now();
    let slice = Duration::from_millis(args.slice_ms);
    let mut report = Report::new();
    hot(&args, slice, &mut report)?;
    rated(&args, 2 * slice, &mut report)?;
    cold(&args, slice, &mut report)?;
    let ok = report.finish(&args.out, start.elapsed().as_secs_f64())?;
    Ok(if ok || !args.strict {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn load(name: &'static str, kind: Kind, block: u32, depth: u32, span: u64) -> Load {
    Load {
        name,
        kind,
        block,
        depth,
        span,
        service: Duration::ZERO,
    }
}

fn hot_loads() -> Vec<Load> {
    let all = [
        load("4k write QD1", Kind::Write, 4096, 1, HOT_SPAN),
        load("4k write QD32", Kind::Write, 4096, 32, HOT_SPAN),
        load("128k write QD8", Kind::Write, 131_072, 8, HOT_SPAN),
        load("4k read QD1", Kind::Read, 4096, 1, HOT_SPAN),
        load("4k read QD32", Kind::Read, 4096, 32, HOT_SPAN),
        load("128k read QD8", Kind::Read, 131_072, 8, HOT_SPAN),
    ];
    let under = |service| all.map(|load| Load { service, ..load });
    [under(Duration::ZERO), under(SERVICE)].concat()
}

fn rows(world: &World, loads: &[Load], args: &Args, slice: Duration) -> Result<Vec<Row>> {
    let results = rounds(world, loads, args.rounds, slice)?;
    let rows = loads.iter().zip(results);
    Ok(rows.map(|(load, rounds)| Row::new(load, rounds)).collect())
}

fn open(legs: &Path, plan: &Plan) -> Result<World> {
    World::new(legs, plan).context("cannot make two sites in this process")
}

/// Every region that is written is in the dirty map already.
fn hot(args: &Args, slice: Duration, report: &mut Report) -> Result<()> {
    let plan = Plan {
        size: HOT_SIZE,
        rate: [None, None],
        config: Config::default(),
    };
    let world = open(&args.legs, &plan)?;
    heat(&world, HOT_SPAN)?;
    let rows = rows(&world, &hot_loads(), args, slice)?;
    let title = "hot: bare legs, and legs that take 100 us for an operation (us: that time; cpu: of the data thread; all: of the process)";
    report.table(title.into(), rows);
    world.end()
}

/// The legs are the limit.
fn rated(args: &Args, slice: Duration, report: &mut Report) -> Result<()> {
    let plan = Plan {
        size: HOT_SIZE,
        rate: [Some(2 * SLOW_RATE), Some(SLOW_RATE)],
        config: Config::default(),
    };
    let world = open(&args.legs, &plan)?;
    heat(&world, HOT_SPAN)?;
    let loads = [
        load("4k write QD32", Kind::Write, 4096, 32, HOT_SPAN),
        load("128k write QD8", Kind::Write, 131_072, 8, HOT_SPAN),
    ];
    let rows = rows(&world, &loads, args, slice)?;
    let title = format!(
        "rate: legs limited to {} and {} MiB/s",
        2 * SLOW_RATE / MIB,
        SLOW_RATE / MIB
    );
    report.table(title, rows);
    world.end()
}

/// Nearly every write meets a region that is not in the dirty map, and another one has to leave it.
fn cold(args: &Args, slice: Duration, report: &mut Report) -> Result<()> {
    let plan = Plan {
        size: COLD_SIZE,
        rate: [None, None],
        config: Config {
            dirty_budget: COLD_BUDGET,
            ..Config::default()
        },
    };
    let world = open(&args.legs, &plan)?;
    let one = load("4k write QD1", Kind::Write, 4096, 1, COLD_SIZE);
    let many = load("4k write QD32", Kind::Write, 4096, 32, COLD_SIZE);
    let late = |load| Load {
        service: SERVICE,
        ..load
    };
    let loads = [one, many, late(one), late(many)];
    let rows = rows(&world, &loads, args, slice)?;
    let title = format!(
        "cold: random writes over {} MiB with a dirty budget of {} MiB ({} MiB dirty at the end)",
        COLD_SIZE / MIB,
        COLD_BUDGET / MIB,
        world.dirty_bytes() / MIB
    );
    report.table(title, rows);
    world.end()
}
