//! Breaks one rule at a time in a copy of the tree; the tests of the crate, and for some the simulator, must notice.
//!
//! `twinsite-mutants [rounds=N] [sim=0] [name ...]` from the root of the tree; works in `target/mutants`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use serde_json::json;
use twinsite_sim::mutants::{By, MUTANTS, Mutant};

fn run(command: &mut Command) -> bool {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

fn copy_tree(root: &Path, tree: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(tree)?;
    for part in [
        "Cargo.toml",
        "Cargo.lock",
        "csi-driver",
        "operator",
        "tests",
    ] {
        if !run(Command::new("cp").arg("-r").arg(root.join(part)).arg(tree)) {
            return Err(std::io::Error::other(format!("cp {part}")));
        }
    }
    Ok(())
}

/// What noticed a mutant.
#[derive(Default)]
struct Seen {
    tests: Vec<String>,
    simulator: bool,
}

impl Seen {
    fn is_caught(&self) -> bool {
        !self.tests.is_empty() || self.simulator
    }
}

struct Bench {
    tree: PathBuf,
    target: PathBuf,
    rounds: String,
    simulate: bool,
}

impl Bench {
    fn cargo(&self, args: &[&str]) -> Command {
        let mut cargo = Command::new("cargo");
        cargo
            .args(args)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .env("CARGO_PROFILE_TEST_DEBUG", "0")
            .current_dir(&self.tree);
        cargo
    }

    /// The names of the tests that fail.
    fn tests(&self, package: &str) -> Result<Vec<String>, String> {
        let args = ["test", "-q", "-p", package, "--lib", "--no-run"];
        if !run(&mut self.cargo(&args)) {
            return Err("does not compile".to_owned());
        }
        let args = ["test", "-p", package, "--lib", "--no-fail-fast"];
        let output = self.cargo(&args).output().map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let failed = text.lines().filter_map(|line| {
            let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
            Some(name.to_owned())
        });
        let names: Vec<String> = failed.collect();
        if names.is_empty() && !output.status.success() {
            return Ok(vec!["the test program was killed".to_owned()]);
        }
        Ok(names)
    }

    fn simulated(&self) -> Result<bool, String> {
        if !run(&mut self.cargo(&[
            "build",
            "-q",
            "--release",
            "-p",
            "twinsite-sim",
            "--bin",
            "twinsite-sim",
        ])) {
            return Err("does not compile".to_owned());
        }
        let sim = self.target.join("release/twinsite-sim");
        let passed = |volatile: &str| {
            run(Command::new(&sim)
                .args([&self.rounds, "seed=1", "minutes=4", "shrink=0", volatile])
                .current_dir(&self.tree))
        };
        Ok(!passed("volatile=0") || !passed("volatile=1"))
    }

    fn look(&self, m: &Mutant) -> Result<Seen, String> {
        Ok(Seen {
            tests: self.tests(m.package())?,
            simulator: self.simulate && m.by == By::Both && self.simulated()?,
        })
    }

    fn try_out(&self, m: &Mutant) -> Result<Seen, String> {
        let file = self.tree.join(m.file);
        let whole = std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", m.file))?;
        let Some(broken) = m.apply(&whole) else {
            return Err(format!("{} has changed: the place is not found", m.file));
        };
        std::fs::write(&file, broken).map_err(|e| e.to_string())?;
        let seen = self.look(m);
        std::fs::write(&file, whole).map_err(|e| e.to_string())?;
        seen
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let option = |key: &str| args.iter().find(|a| a.starts_with(key)).cloned();
    let names: Vec<&String> = args.iter().filter(|a| !a.contains('=')).collect();
    let root = PathBuf::from(".");
    let bench = Bench {
        tree: root.join("target/mutants/tree"),
        target: std::path::absolute("target/mutants/build").unwrap_or_default(),
        rounds: option("rounds=").unwrap_or_else(|| "rounds=60".to_owned()),
        simulate: option("sim=").is_none_or(|word| word != "sim=0"),
    };
    let _ = std::fs::remove_dir_all(&bench.tree);
    if let Err(error) = copy_tree(&root, &bench.tree) {
        eprintln!("twinsite-mutants: {error}");
        return ExitCode::FAILURE;
    }
    let (mut found, mut missed, mut lines) = (0, 0, vec![]);
    for m in MUTANTS
        .iter()
        .filter(|m| names.is_empty() || names.iter().any(|n| *n == m.name))
    {
        let (word, seen) = match bench.try_out(m) {
            Ok(seen) if seen.is_caught() => ("caught".to_owned(), seen),
            Ok(seen) => ("NOT CAUGHT".to_owned(), seen),
            Err(why) => (why, Seen::default()),
        };
        if word == "caught" {
            found += 1
        } else {
            missed += 1
        }
        let simulator = match (m.by, bench.simulate) {
            (By::Both, true) if seen.simulator => "simulator",
            (By::Both, true) => "not the simulator",
            _ => "",
        };
        println!(
            "{:46} {:4} {word} tests={} {simulator}",
            m.name,
            m.rule,
            seen.tests.len()
        );
        lines.push(json!({
            "mutant": m.name, "rule": m.rule, "file": m.file, "result": word, "tests": seen.tests,
            "simulator": (m.by == By::Both && bench.simulate).then_some(seen.simulator),
        }));
    }
    let report = format!(
        "{:#}\n",
        json!({"caught": found, "not_caught": missed, "mutants": lines})
    );
    if let Err(error) = std::fs::write("target/mutants/report.json", report) {
        eprintln!("twinsite-mutants: {error}");
    }
    println!(
        "mutants: {} caught={found} not_caught={missed}",
        if missed == 0 { "ok" } else { "FAILED" }
    );
    if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
