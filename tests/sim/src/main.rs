//! `twinsite-sim [rounds=N] [seed=S] [minutes=M] [volatile=0|1|both] [print=1] [shrink=0] [only=3,7] [commands=1] [mix=all|first]`
//!
//! With `print=1` one seed is replayed and its history printed. Ends with a line of figures and writes
//! `target/sim/report.json`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;
use twinsite_sim::coverage::Coverage;
use twinsite_sim::run::{run, shrink};
use twinsite_sim::world::{Mix, Plan};

struct Options {
    rounds: u64,
    seed: u64,
    minutes: u64,
    volatile: Option<bool>,
    print: bool,
    shrink: bool,
    only: Option<Vec<usize>>,
    commands: bool,
    mix: Mix,
}

const USAGE: &str = "options: rounds=N seed=N minutes=N print=0|1 commands=0|1 shrink=0|1 only=N,N volatile=0|1|both mix=first|all";

fn options() -> Result<Options, String> {
    let mut o = Options {
        rounds: 100,
        seed: 1,
        minutes: 5,
        volatile: None,
        print: false,
        shrink: true,
        only: None,
        commands: false,
        mix: Mix::All,
    };
    for arg in std::env::args().skip(1) {
        let (key, value) = arg
            .split_once('=')
            .ok_or_else(|| format!("{arg:?} is not understood; {USAGE}"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("{arg}: {value:?} is no number"))
        };
        match key.to_lowercase().as_str() {
            "rounds" => o.rounds = number()?,
            "seed" => {
                o.seed = number()?;
            }
            "minutes" => o.minutes = number()?,
            "volatile" => o.volatile = (value != "both").then_some(value == "1"),
            "print" => o.print = value == "1",
            "only" => o.only = Some(value.split(',').filter_map(|n| n.parse().ok()).collect()),
            "mix" if value == "first" => o.mix = Mix::First,
            "mix" if value == "all" => o.mix = Mix::All,
            "commands" => o.commands = value == "1",
            "shrink" => o.shrink = value == "1",
            _ => return Err(format!("there is no option {key}; {USAGE}")),
        }
    }
    Ok(o)
}

/// Time this process was on a processor: the machine may be busy with other things.
fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/schedstat").ok()?;
    let nanos: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(nanos / 1e9)
}

fn main() -> ExitCode {
    let o = match options() {
        Ok(o) => o,
        Err(error) => {
            eprintln!("twinsite-sim: {error}");
            return ExitCode::FAILURE;
        }
    };
    let start = Instant::now();
    let (
        mut simulated,
        mut acknowledged,
        mut reads,
        mut faults,
        mut swaps,
        mut attaches,
        mut events,
    ) = (Duration::ZERO, 0, 0, 0, 0, 0, 0);
    let (mut failures, mut coverage) = (vec![], Coverage::default());
    for seed in o.seed..o.seed + o.rounds {
        let volatile = o.volatile.unwrap_or(seed % 4 == 3);
        let plan = Plan {
            print: o.print,
            commands: o.commands,
            only: o.only.clone(),
            ..Plan::of(seed, Duration::from_secs(60 * o.minutes), volatile, o.mix)
        };
        let outcome = run(plan.clone());
        let f = &outcome.figures;
        simulated += f.simulated;
        acknowledged += f.acknowledged;
        reads += f.reads;
        faults += f.faults;
        swaps += f.swaps;
        attaches += f.attaches;
        events += f.events;
        coverage.add(&outcome.coverage);
        if let Some(why) = &outcome.violation {
            println!("seed {seed}: {why}");
            let mut entry = json!({"seed": seed, "volatile": volatile, "why": why});
            if o.shrink && !o.print {
                let (only, small) = shrink(&plan, outcome.faults);
                println!(
                    "seed {seed}: needs only faults {only:?}: {}",
                    small.violation.clone().unwrap_or_default()
                );
                small.history.iter().for_each(|line| println!("    {line}"));
                entry["faults"] = json!(only);
                entry["history"] = json!(small.history);
            }
            failures.push(entry);
        }
    }
    if o.mix == Mix::All && !o.print {
        let line: Vec<String> = coverage
            .all()
            .iter()
            .map(|(n, c)| format!("{n}={c}"))
            .collect();
        println!("met: {}", line.join(" "));
        println!("never met: {}", coverage.absent().join(" "));
    }
    let cpu = cpu_seconds().unwrap_or_else(|| start.elapsed().as_secs_f64());
    let hours = simulated.as_secs_f64() / 3600.0;
    let word = if failures.is_empty() { "ok" } else { "FAILED" };
    let report = json!({
        "ok": failures.is_empty(), "rounds": o.rounds, "first_seed": o.seed, "minutes": o.minutes,
        "simulated_hours": hours, "seconds": cpu, "simulated_hours_per_cpu_hour": hours / (cpu / 3600.0),
        "acknowledged": acknowledged, "reads": reads, "faults": faults, "register_swaps": swaps, "attaches": attaches,
        "events": events, "violations": failures, "met": coverage.all(), "never_met": coverage.absent(),
    });
    let written = std::fs::create_dir_all("target/sim")
        .and_then(|()| std::fs::write("target/sim/report.json", format!("{report:#}\n")));
    if let Err(error) = written {
        eprintln!("twinsite-sim: target/sim/report.json: {error}");
    }
    println!(
        "sim: {word} rounds={} simulated_hours={hours:.1} hours_per_cpu_hour={:.0} acknowledged={acknowledged} reads={reads} \
         faults={faults} swaps={swaps} attaches={attaches} violations={}",
        o.rounds,
        hours / (cpu / 3600.0),
        failures.len()
    );
    if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
