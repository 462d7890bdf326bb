//! Breaks one rule at a time in a copy of the tree; the tests of the crate, and for some the simulator, must notice.
//!
//! `twinsite-mutants [rounds=N] [sim=0] [stage=build|run] [target=DIR] [minutes=M] [name ...]` from the root of the tree;
//! works in `target/mutants`. All mutants are built at once (`twinsite_sim::mutants::weave`), so a run takes minutes.
//!
//! A mutant meets the short tests first, in seconds; only one that none of them notices meets the long simulations of the
//! crate. What goes on for much longer than without a mutant has noticed. After `minutes` (60) those that are left are named
//! as not run, and the run has failed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use twinsite_sim::mutants::{By, MUTANTS, Mutant, weave};

/// What goes on for so many times as long as without a mutant has noticed; within these bounds.
const HANGS_AFTER: u32 = 8;
const PATIENCE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(300));
/// Without a mutant nothing is known yet: a machine that is busy with other things may need that long.
const UNBROKEN: Duration = Duration::from_secs(900);

/// The tests that are long: simulations, and random input.
const LONG: [&str; 2] = ["sim::tests", "random"];

/// Where the programs are.
const BUILT: &str = "target/mutants/built.json";

const PACKAGES: &[(&str, &str)] = &[
    ("twinsite-mirror", "csi-driver/mirror"),
    ("twinsite-register", "operator/register"),
    ("twinsite-iscsi", "csi-driver/iscsi"),
];

fn succeeds(command: &mut Command) -> bool {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

fn copy_tree(root: &Path, tree: &Path) -> Result<(), String> {
    std::fs::create_dir_all(tree).map_err(|e| e.to_string())?;
    for part in [
        "Cargo.toml",
        "Cargo.lock",
        "csi-driver",
        "operator",
        "tests",
    ] {
        if !succeeds(Command::new("cp").arg("-r").arg(root.join(part)).arg(tree)) {
            return Err(format!("cp {part}"));
        }
    }
    Ok(())
}

/// Weaves all mutants in; those for which that cannot be done are named with the reason.
fn weave_all(tree: &Path) -> Result<BTreeMap<usize, String>, String> {
    let mut files: BTreeMap<&str, Vec<(usize, &Mutant)>> = BTreeMap::new();
    for (number, m) in MUTANTS.iter().enumerate() {
        files.entry(m.file).or_default().push((number, m));
    }
    let mut left_out = BTreeMap::new();
    for (file, mutants) in files {
        let path = tree.join(file);
        let whole = std::fs::read_to_string(&path).map_err(|e| format!("{file}: {e}"))?;
        let mut good = vec![];
        for (number, m) in mutants {
            match weave::weave(&whole, &[(number, m)]) {
                Ok(_) => good.push((number, m)),
                Err(why) => {
                    left_out.insert(number, why);
                }
            }
        }
        let woven = weave::weave(&whole, &good)?;
        std::fs::write(&path, woven).map_err(|e| format!("{file}: {e}"))?;
    }
    for (_, folder) in PACKAGES {
        let path = tree.join(folder).join("src/lib.rs");
        let whole = std::fs::read_to_string(&path).map_err(|e| format!("{folder}: {e}"))?;
        std::fs::write(&path, whole + weave::SWITCH).map_err(|e| e.to_string())?;
    }
    Ok(left_out)
}

/// Which tests of a crate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Short,
    Long,
}

impl Part {
    fn args(self) -> Vec<&'static str> {
        match self {
            Self::Short => LONG.iter().flat_map(|name| ["--skip", name]).collect(),
            Self::Long => LONG.to_vec(),
        }
    }
}

struct Bench {
    tree: PathBuf,
    target: PathBuf,
    rounds: String,
    /// Test program of each crate.
    tests: BTreeMap<&'static str, PathBuf>,
    simulator: Option<PathBuf>,
    /// How long each takes without a mutant; the simulator under the name of none.
    usual: BTreeMap<(&'static str, Part), Duration>,
}

impl Bench {
    fn cargo(&self, args: &[&str]) -> Command {
        let mut cargo = Command::new("cargo");
        cargo
            .args(args)
            .env("CARGO_TARGET_DIR", &self.target)
            .current_dir(&self.tree);
        cargo
    }

    /// What an earlier run built.
    fn find_built(&mut self) -> Result<(), String> {
        let text = std::fs::read_to_string(BUILT).map_err(|e| format!("{BUILT}: {e}"))?;
        let built: Value = serde_json::from_str(&text).map_err(|e| format!("{BUILT}: {e}"))?;
        for (package, _) in PACKAGES {
            let path = built[package].as_str().ok_or("no test program")?;
            self.tests.insert(package, path.into());
        }
        self.simulator = built["simulator"].as_str().map(PathBuf::from);
        Ok(())
    }

    fn remember_built(&self) -> Result<(), String> {
        let mut built = json!({"simulator": self.simulator});
        for (package, path) in &self.tests {
            built[package] = json!(path);
        }
        std::fs::write(BUILT, format!("{built:#}\n")).map_err(|e| format!("{BUILT}: {e}"))
    }

    fn build(&mut self, simulate: bool) -> Result<(), String> {
        for (package, _) in PACKAGES {
            let args = [
                "test",
                "-q",
                "-p",
                package,
                "--lib",
                "--release",
                "--no-run",
                "--message-format=json",
            ];
            let output = self.cargo(&args).output().map_err(|e| e.to_string())?;
            let program = String::from_utf8_lossy(&output.stdout)
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .filter_map(|v| v["executable"].as_str().map(PathBuf::from))
                .next_back();
            let Some(program) = program.filter(|_| output.status.success()) else {
                let why = String::from_utf8_lossy(&output.stdout);
                let errors: Vec<String> = why
                    .lines()
                    .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                    .filter(|v| v["message"]["level"] == "error")
                    .filter_map(|v| v["message"]["rendered"].as_str().map(str::to_owned))
                    .collect();
                return Err(format!("{package} does not compile\n{}", errors.join("\n")));
            };
            self.tests.insert(package, program);
        }
        if simulate {
            let args = [
                "build",
                "-q",
                "--release",
                "-p",
                "twinsite-sim",
                "--bin",
                "twinsite-sim",
            ];
            if !succeeds(&mut self.cargo(&args)) {
                return Err("the simulator does not compile".to_owned());
            }
            self.simulator = Some(self.target.join("release/twinsite-sim"));
        }
        Ok(())
    }

    /// Runs with this mutant on; its output, and whether it ended well. One that hangs ended badly.
    fn run(
        &self,
        number: Option<usize>,
        program: &Path,
        args: &[&str],
        limit: Duration,
    ) -> (String, bool) {
        let out = self.target.join("output");
        let Ok(file) = std::fs::File::create(&out) else {
            return ("cannot write the output".to_owned(), false);
        };
        let mut command = Command::new(program);
        if let Some(number) = number {
            command.env(weave::VARIABLE, number.to_string());
        }
        let child = command
            .args(args)
            .current_dir(&self.tree)
            .stdout(file)
            .stderr(Stdio::null())
            .spawn();
        let good = child.is_ok_and(|mut child| ends_well(&mut child, limit));
        (std::fs::read_to_string(&out).unwrap_or_default(), good)
    }

    fn limit(&self, of: (&str, Part)) -> Duration {
        let usual = self.usual.iter().find(|(known, _)| **known == of);
        usual.map_or(UNBROKEN, |(_, usual)| {
            (*usual * HANGS_AFTER).clamp(PATIENCE.0, PATIENCE.1)
        })
    }

    /// The names of the tests that fail.
    fn tests_that_notice(&self, number: Option<usize>, package: &str, part: Part) -> Vec<String> {
        let Some(program) = self.tests.get(package) else {
            return vec![];
        };
        let (text, good) = self.run(number, program, &part.args(), self.limit((package, part)));
        let failed = text.lines().filter_map(|line| {
            let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
            Some(name.to_owned())
        });
        let names: Vec<String> = failed.collect();
        if names.is_empty() && !good {
            return vec!["the test program was killed or hung".to_owned()];
        }
        names
    }

    fn simulator_notices(&self, number: Option<usize>) -> Option<String> {
        let program = self.simulator.as_ref()?;
        let limit = self.limit(("", Part::Long));
        for volatile in ["volatile=0", "volatile=1"] {
            let args = [&self.rounds, "seed=1", "minutes=4", "shrink=0", volatile];
            let (text, good) = self.run(number, program, &args, limit);
            if !good {
                let first = text.lines().find(|l| l.starts_with("seed "));
                return Some(first.unwrap_or("it was killed or hung").to_owned());
            }
        }
        None
    }

    /// Nothing may fail without a mutant; what each part takes then is what is usual.
    fn learn_what_is_usual(&mut self) -> Result<(), String> {
        for (package, _) in PACKAGES {
            for part in [Part::Short, Part::Long] {
                let begun = Instant::now();
                let failing = self.tests_that_notice(None, package, part);
                if !failing.is_empty() {
                    return Err(format!("{package} fails with no mutant on: {failing:?}"));
                }
                self.usual.insert((package, part), begun.elapsed());
            }
        }
        let begun = Instant::now();
        if let Some(seed) = self.simulator_notices(None) {
            return Err(format!("the simulator fails with no mutant on: {seed}"));
        }
        self.usual.insert(("", Part::Long), begun.elapsed());
        for ((package, part), usual) in &self.usual {
            let what = match (*package, part) {
                ("", _) => "the simulator",
                (package, _) => package,
            };
            let part = if *part == Part::Short {
                "short"
            } else {
                "long"
            };
            println!(
                "without a mutant: {what} ({part}) {:.1} s",
                usual.as_secs_f64()
            );
        }
        Ok(())
    }

    /// Who notices this one: tests, and the simulator if it is asked.
    fn judge(&self, number: usize, m: &Mutant) -> (Vec<String>, Option<String>) {
        let mut tests = self.tests_that_notice(Some(number), m.package(), Part::Short);
        if tests.is_empty() {
            tests = self.tests_that_notice(Some(number), m.package(), Part::Long);
        }
        let simulator = (m.by == By::Both).then(|| self.simulator_notices(Some(number)));
        (tests, simulator.flatten())
    }
}

fn ends_well(child: &mut Child, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(50)),
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
        }
    }
}

fn run() -> Result<bool, String> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let option = |key: &str| args.iter().find(|a| a.starts_with(key)).cloned();
    let names: Vec<&String> = args.iter().filter(|a| !a.contains('=')).collect();
    if let Some(name) = names
        .iter()
        .find(|n| MUTANTS.iter().all(|m| m.name != ***n))
    {
        return Err(format!(
            "there is no mutant {name}; without names all are tried"
        ));
    }
    let root = PathBuf::from(".");
    let stage = option("stage=").unwrap_or_default();
    let folder = option("target=").map(|o| o["target=".len()..].to_owned());
    let mut bench = Bench {
        tree: root.join("target/mutants/tree"),
        target: std::path::absolute(folder.as_deref().unwrap_or("target/mutants/build"))
            .unwrap_or_default(),
        rounds: option("rounds=").unwrap_or_else(|| "rounds=60".to_owned()),
        tests: BTreeMap::new(),
        simulator: None,
        usual: BTreeMap::new(),
    };
    let minutes = option("minutes=").map_or(Ok(60), |o| o["minutes=".len()..].parse::<u64>());
    let minutes = minutes.map_err(|_| "minutes= takes a number")?;
    let simulate = option("sim=").is_none_or(|word| word != "sim=0");
    let mut left_out = BTreeMap::new();
    if stage == "stage=run" {
        bench.find_built()?;
    } else {
        let _ = std::fs::remove_dir_all(&bench.tree);
        copy_tree(&root, &bench.tree)?;
        left_out = weave_all(&bench.tree)?;
        for why in left_out.values() {
            println!("not woven: {why}");
        }
        bench.build(simulate)?;
        bench.remember_built()?;
    }
    if stage == "stage=build" {
        return Ok(left_out.is_empty());
    }
    bench.simulator = bench.simulator.filter(|_| simulate);
    bench.learn_what_is_usual()?;
    let chosen: Vec<(usize, &Mutant)> = MUTANTS
        .iter()
        .enumerate()
        .filter(|(_, m)| names.is_empty() || names.iter().any(|n| *n == m.name))
        .collect();
    let begun = Instant::now();
    let (mut found, mut missed, mut not_run, mut lines) = (0, 0, 0, vec![]);
    for (at, &(number, m)) in chosen.iter().enumerate() {
        if begun.elapsed() > Duration::from_secs(60 * minutes) {
            println!(
                "{:46} {:4} not run: {minutes} minutes are over",
                m.name, m.rule
            );
            lines.push(
                json!({"mutant": m.name, "rule": m.rule, "file": m.file, "result": "not run"}),
            );
            not_run += 1;
            continue;
        }
        let turn = Instant::now();
        let (tests, simulator) = bench.judge(number, m);
        let caught = !tests.is_empty() || simulator.is_some();
        let word = match left_out.get(&number) {
            Some(why) => why.as_str(),
            None if caught => "caught",
            None => "NOT CAUGHT",
        };
        if word == "caught" {
            found += 1;
        } else {
            missed += 1;
        }
        let of_simulator = match (m.by, &simulator) {
            (By::Both, Some(_)) if bench.simulator.is_some() => "simulator",
            (By::Both, None) if bench.simulator.is_some() => "not the simulator",
            _ => "",
        };
        println!(
            "{:>3}/{} {:46} {:4} {word} tests={} {of_simulator} ({:.0} s)",
            at + 1,
            chosen.len(),
            m.name,
            m.rule,
            tests.len(),
            turn.elapsed().as_secs_f64()
        );
        lines.push(json!({
            "mutant": m.name, "rule": m.rule, "file": m.file, "result": word, "tests": tests, "simulator": simulator,
        }));
    }
    let report =
        json!({"caught": found, "not_caught": missed, "not_run": not_run, "mutants": lines});
    std::fs::write("target/mutants/report.json", format!("{report:#}\n"))
        .map_err(|e| format!("target/mutants/report.json: {e}"))?;
    println!(
        "mutants: {} caught={found} not_caught={missed} not_run={not_run}",
        if missed + not_run == 0 {
            "ok"
        } else {
            "FAILED"
        }
    );
    Ok(missed + not_run == 0)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("twinsite-mutants: {error}");
            ExitCode::FAILURE
        }
    }
}
