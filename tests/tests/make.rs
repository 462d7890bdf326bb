//! What people set reaches what a recipe runs, whichever way they set it; and no target's default reaches another target.
//!
//! Real make runs the real recipes, in a folder in which every program that they name is a script that says how it was called.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// Every option that the Makefile or a program behind it knows. What people set in these tests is the name in small letters.
const OPTIONS: [&str; 14] = [
    "AT", "BAD_DAYS", "BENCH", "FILE", "FS", "KILL", "KILLS", "NODE", "PART", "PRINT", "ROUNDS",
    "SEED", "SIZE", "TIME",
];

/// Says its name, its arguments, and which options it sees.
const SCRIPT: &str = r#"#!/bin/sh
line="${0##*/} $*"
for name in $OPTIONS; do
  eval "value=\${$name-}"
  [ -z "$value" ] || line="$line [$name=$value]"
done
echo "$line" >>"$SAID"
"#;

enum Set {
    Nowhere,
    CommandLine,
    Environment,
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().expect("a folder"));
        let makefile = makefile();
        folder.script("cargo");
        for line in makefile.lines().filter_map(|line| line.strip_prefix('\t')) {
            for word in line.split_whitespace() {
                let program = word.trim_start_matches(['@', '-']);
                let is_path = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
                if program.starts_with(|c: char| c.is_ascii_lowercase())
                    && program.contains('/')
                    && program.chars().all(is_path)
                {
                    folder.script(program);
                }
            }
        }
        fs::write(folder.path("Makefile"), makefile).expect("the Makefile");
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn script(&self, name: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, SCRIPT).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a script");
    }

    /// What the programs of this target say, a line each.
    fn make(&self, target: &str, set: &Set) -> Vec<String> {
        let said = self.path("said");
        let _ = fs::remove_file(&said);
        let mut make = Command::new("make");
        make.args(["--silent", target])
            .current_dir(self.0.path())
            .env("CARGO", self.path("cargo"))
            .env("OPTIONS", OPTIONS.join(" "))
            .env("SAID", &said);
        // What the make that runs this test was told is not meant for this one.
        for name in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"]
            .iter()
            .chain(&OPTIONS)
        {
            make.env_remove(name);
        }
        for name in OPTIONS {
            let value = name.to_lowercase();
            match set {
                Set::Nowhere => {}
                Set::CommandLine => drop(make.arg(format!("{name}={value}"))),
                Set::Environment => drop(make.env(name, value)),
            }
        }
        let output = make.output().expect("make runs");
        assert!(output.status.success(), "make {target}: {output:?}");
        let said = fs::read_to_string(&said).unwrap_or_default();
        said.lines().map(str::to_owned).collect()
    }
}

fn makefile() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Makefile");
    fs::read_to_string(path).expect("the Makefile")
}

fn targets(makefile: &str) -> BTreeSet<&str> {
    let phony = makefile
        .split(".PHONY: ")
        .nth(1)
        .and_then(|rest| rest.split("\n\n").next());
    phony
        .expect("a list")
        .split_whitespace()
        .filter(|word| *word != "\\")
        .collect()
}

#[test]
fn an_option_reaches_every_target_from_the_environment_as_from_the_command_line() {
    let folder = Folder::new();
    let all: String = OPTIONS
        .iter()
        .map(|name| format!(" [{name}={}]", name.to_lowercase()))
        .collect();
    for target in targets(&makefile()) {
        for set in [Set::CommandLine, Set::Environment] {
            let said = folder.make(target, &set);
            assert!(target == "help" || !said.is_empty(), "make {target}");
            for line in &said {
                assert!(line.ends_with(&all), "make {target}: {line}");
            }
        }
        assert_eq!(
            folder.make(target, &Set::CommandLine),
            folder.make(target, &Set::Environment),
            "make {target}"
        );
    }
}

#[test]
fn a_default_is_that_of_one_target_alone() {
    let folder = Folder::new();
    // By target: the last line when nothing is set, and what of it is different when it is.
    let with_options = [
        ("fuzz", "run.sh 60", "run.sh time"),
        (
            "history",
            "history -- target/demo/history.jsonl",
            "history -- file",
        ),
        ("kills", "demo  [KILLS=200]", "[KILLS=kills]"),
        ("model", "twinsite-model all", "twinsite-model part"),
        (
            "sim",
            "rounds=1000 seed=1 print=0",
            "rounds=rounds seed=seed print=print",
        ),
        (
            "test-clusters",
            "--test two_clusters [BAD_DAYS=all]",
            "[BAD_DAYS=bad_days]",
        ),
        ("bench-iscsi", "bench-iscsi ", "bench-iscsi bench"),
    ];
    for (target, alone, told) in with_options {
        let said = folder.make(target, &Set::Nowhere);
        let last = said.last().expect("a line");
        assert!(last.ends_with(alone), "make {target}: {last}");
        let said = folder.make(target, &Set::Environment);
        let last = said.last().expect("a line");
        assert!(last.contains(told), "make {target}: {last}");
    }
    for target in targets(&makefile()) {
        if !["kills", "test-clusters"].contains(&target) {
            for line in folder.make(target, &Set::Nowhere) {
                assert!(!line.contains('['), "make {target}: {line}");
            }
        }
    }
}
