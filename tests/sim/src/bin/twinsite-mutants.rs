//! Breaks one rule at a time in a copy of the tree and lets the simulator look for it. A checker that cannot fail is worth
//! nothing: each mutant must be caught, or it is named.
//!
//! `twinsite-mutants [rounds=N] [name ...]` from the root of the tree; works in `target/mutants`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use serde_json::json;

struct Mutant {
    name: &'static str,
    rule: &'static str,
    file: &'static str,
    find: &'static str,
    put: &'static str,
}

const fn mutant(
    name: &'static str,
    rule: &'static str,
    file: &'static str,
    find: &'static str,
    put: &'static str,
) -> Mutant {
    Mutant {
        name,
        rule,
        file,
        find,
        put,
    }
}

const GUEST: &str = "csi-driver/mirror/src/serve/guest.rs";
const LINK: &str = "csi-driver/mirror/src/serve/link.rs";
const STATE: &str = "csi-driver/mirror/src/serve/state.rs";
const CLEAR: &str = "csi-driver/mirror/src/serve/clear.rs";
const EQUALISE: &str = "csi-driver/mirror/src/serve/equalise.rs";
const TRANSITIONS: &str = "csi-driver/mirror/src/serve/transitions.rs";
const REJOIN: &str = "csi-driver/mirror/src/serve/rejoin.rs";
const COPY: &str = "csi-driver/mirror/src/serve/copy.rs";
const OUTCOME: &str = "operator/register/src/outcome.rs";
const UNIT: &str = "csi-driver/iscsi/src/scsi/unit.rs";
const MARK_DIRTY: &str = "pending.insert(first + slot as u32);";

#[rustfmt::skip]
const MUTANTS: &[Mutant] = &[
    mutant("data-before-the-page", "R1 gate 1", GUEST, "if gate1 == 0 {", "if gate1 < 9 {"),
    mutant("answer-after-one-leg", "R2", GUEST, "req.done().includes(req.need)", "!req.done().is_empty()"),
    mutant("answer-while-the-shrink-is-open", "R3", TRANSITIONS, "            self.enter(State::ShrinkWait(x));\n", "            self.enter(State::ShrinkWait(x));\n            self.policy.answer = true;\n            self.retarget(Members::only(x));\n"),
    mutant("nothing-is-pending", "R9", EQUALISE, MARK_DIRTY, "let _ = (first, slot);"),
    mutant("clear-without-sync", "R13", CLEAR, ".all(|leg| self.syncs[leg.index()].covers(marks[leg.index()]))", ".all(|leg| self.syncs[leg.index()].covers(marks[leg.index()]) || true)"),
    mutant("restart-is-forgotten", "R14", LINK, "let lacking = restarted && self.syncs[index].has_unflushed();", "let lacking = false;"),
    mutant("restarted-leg-keeps-its-answers", "R40", LINK, "self.leg_forgot(leg);", ""),
    mutant("switch-after-the-check", "R21", STATE, "State::RjNeed | State::Growing | State::GrowWait | State::BumpWait => both,", "State::RjNeed | State::Growing | State::GrowWait | State::BumpWait => solo,"),
    mutant("outcome-by-txid", "R41", OUTCOME, "if shows(expected, proposed, read) {", "if read.txid == proposed.txid {"),
    mutant("edit-means-lost", "R41", OUTCOME, "if read.same_but_free(expected) {", "if false {"),
    mutant("thaw-without-stamp", "R24", TRANSITIONS, "    fn maybe_thaw(&mut self, x: Leg) {\n", "    fn maybe_thaw(&mut self, x: Leg) {\n        if self.links[x.other().index()].lost.is_none() && self.ready(x.other()) { self.requests.open.clear(); self.enter(State::Frozen); self.thaw(); return; }\n"),
    mutant("union-without-the-other-map", "R35", REJOIN, "todo.insert(first + slot as u32);", "let _ = (first, slot);"),
    mutant("copy-beside-writes", "R36", COPY, "access: Access::Copy,", "access: Access::Read,"),
    mutant("reads-without-lease", "R8", GUEST, "if self.policy.lease && !self.lease.runs(self.now) {\n            self.counters.lease_holds += 1;", "if false {\n            self.counters.lease_holds += 1;"),
    mutant("fence-does-not-wait", "R6", UNIT, "if self.abort(victim) {\n                pending.insert(victim);", "if self.abort(victim) && false {\n                pending.insert(victim);"),
];

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

/// True: the simulator found a violation.
fn caught(tree: &Path, target: &Path, m: &Mutant, rounds: &str) -> Result<bool, String> {
    let file = tree.join(m.file);
    let whole = std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", m.file))?;
    if !whole.contains(m.find) {
        return Err(format!("{} has changed: the place is not found", m.file));
    }
    std::fs::write(&file, whole.replacen(m.find, m.put, 1)).map_err(|e| e.to_string())?;
    let built = run(Command::new("cargo")
        .args(["build", "-q", "--release", "-p", "twinsite-sim"])
        .env("CARGO_TARGET_DIR", target)
        .current_dir(tree));
    let result = if built {
        let sim = target.join("release/twinsite-sim");
        let passed = |volatile: &str| {
            run(Command::new(&sim)
                .args([rounds, "seed=1", "minutes=4", "shrink=0", volatile])
                .current_dir(tree))
        };
        Ok(!passed("volatile=0") || !passed("volatile=1"))
    } else {
        Err("does not compile".to_owned())
    };
    std::fs::write(&file, whole).map_err(|e| e.to_string())?;
    result
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rounds = args
        .iter()
        .find(|a| a.starts_with("rounds="))
        .map_or("rounds=60", String::as_str);
    let names: Vec<&String> = args.iter().filter(|a| !a.contains('=')).collect();
    let root = PathBuf::from(".");
    let (tree, target) = (
        root.join("target/mutants/tree"),
        std::path::absolute("target/mutants/build").unwrap_or_default(),
    );
    let _ = std::fs::remove_dir_all(&tree);
    if let Err(error) = copy_tree(&root, &tree) {
        eprintln!("twinsite-mutants: {error}");
        return ExitCode::FAILURE;
    }
    let (mut found, mut missed, mut lines) = (0, 0, vec![]);
    for m in MUTANTS
        .iter()
        .filter(|m| names.is_empty() || names.iter().any(|n| *n == m.name))
    {
        let word = match caught(&tree, &target, m, rounds) {
            Ok(true) => "caught".to_owned(),
            Ok(false) => "NOT CAUGHT".to_owned(),
            Err(why) => why,
        };
        if word == "caught" {
            found += 1
        } else {
            missed += 1
        }
        println!("{:34} {:10} {word}", m.name, m.rule);
        lines.push(json!({"mutant": m.name, "rule": m.rule, "file": m.file, "result": word}));
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
