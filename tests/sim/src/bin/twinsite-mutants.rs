//! Breaks one rule at a time in a copy of the tree; the tests of the crate, and for some the simulator, must notice.
//!
//! `twinsite-mutants [rounds=N] [sim=0] [stage=build|run] [target=DIR] [name ...]` from the root of the tree; works in
//! `target/mutants`. All mutants are built at once (`twinsite_sim::mutants::weave`), so a run takes minutes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use twinsite_sim::mutants::{By, MUTANTS, Mutant, weave};

/// A test program, or a simulation, that goes on for longer has noticed; without a mutant they need seconds.
const HANGS_AFTER: Duration = Duration::from_secs(240);

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

struct Bench {
    tree: PathBuf,
    target: PathBuf,
    rounds: String,
    /// Test program of each crate.
    tests: BTreeMap<&'static str, PathBuf>,
    simulator: Option<PathBuf>,
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
    fn run(&self, number: Option<usize>, program: &Path, args: &[&str]) -> (String, bool) {
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
        let good = child.is_ok_and(|mut child| ends_well(&mut child));
        (std::fs::read_to_string(&out).unwrap_or_default(), good)
    }

    /// The names of the tests that fail.
    fn tests_that_notice(&self, number: Option<usize>, package: &str) -> Vec<String> {
        let Some(program) = self.tests.get(package) else {
            return vec![];
        };
        let (text, good) = self.run(number, program, &[]);
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
        for volatile in ["volatile=0", "volatile=1"] {
            let args = [&self.rounds, "seed=1", "minutes=4", "shrink=0", volatile];
            let (text, good) = self.run(number, program, &args);
            if !good {
                let first = text.lines().find(|l| l.starts_with("seed "));
                return Some(first.unwrap_or("it was killed or hung").to_owned());
            }
        }
        None
    }
}

fn ends_well(child: &mut Child) -> bool {
    let until = Instant::now() + HANGS_AFTER;
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
    };
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
    for (package, _) in PACKAGES {
        let failing = bench.tests_that_notice(None, package);
        if !failing.is_empty() {
            return Err(format!("{package} fails with no mutant on: {failing:?}"));
        }
    }
    let (mut found, mut missed, mut lines) = (0, 0, vec![]);
    for (number, m) in MUTANTS
        .iter()
        .enumerate()
        .filter(|(_, m)| names.is_empty() || names.iter().any(|n| *n == m.name))
    {
        let tests = bench.tests_that_notice(Some(number), m.package());
        let simulator = if m.by == By::Both {
            bench.simulator_notices(Some(number))
        } else {
            None
        };
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
            "{:46} {:4} {word} tests={} {of_simulator}",
            m.name,
            m.rule,
            tests.len()
        );
        lines.push(json!({
            "mutant": m.name, "rule": m.rule, "file": m.file, "result": word, "tests": tests, "simulator": simulator,
        }));
    }
    let report = json!({"caught": found, "not_caught": missed, "mutants": lines});
    std::fs::write("target/mutants/report.json", format!("{report:#}\n"))
        .map_err(|e| format!("target/mutants/report.json: {e}"))?;
    println!(
        "mutants: {} caught={found} not_caught={missed}",
        if missed == 0 { "ok" } else { "FAILED" }
    );
    Ok(missed == 0)
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
