//! The catalogue is whole, and everything it names exists.

use std::collections::BTreeSet;
use std::path::Path;

use twinsite_faults::row::Run;
use twinsite_faults::{rows, scenario};

#[test]
fn rows_1_to_125_are_there_each_with_a_place_or_a_reason() {
    let numbers: Vec<u32> = rows().map(|r| r.number).collect();
    assert_eq!(numbers, (1..=125).collect::<Vec<_>>());
    assert!(rows().all(|r| !r.runs.is_empty()));
}

#[test]
fn every_scenario_and_every_flag_that_is_named_exists() {
    let shown: BTreeSet<_> = twinsite_model::catalogue::shown().collect();
    for row in rows() {
        for run in row.runs {
            match run {
                Run::Sim(name) => assert!(
                    !scenario::plans(name).is_empty(),
                    "row {}: no scenario {name}",
                    row.number
                ),
                Run::Model(c, f) => assert!(
                    shown.contains(&(*c, *f)),
                    "row {}: {c} {f} is not shown",
                    row.number
                ),
                Run::Test(_) | Run::Process(_) | Run::Not(_) => {}
            }
        }
    }
}

#[test]
fn every_test_that_is_named_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut sources = String::new();
    for folder in ["csi-driver", "operator", "tests"] {
        read(&root.join(folder), &mut sources);
    }
    for row in rows() {
        for run in row.runs {
            if let Run::Test(name) = run {
                assert!(
                    sources.contains(&format!("fn {name}(")),
                    "row {}: no test {name}",
                    row.number
                );
            }
        }
    }
}

/// Row 64: a clock that jumps changes nothing where no clock is read.
#[test]
fn the_pure_crates_name_no_clock() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for folder in [
        "csi-driver/mirror/src",
        "csi-driver/iscsi/src",
        "operator/register/src",
    ] {
        let mut sources = String::new();
        read(&root.join(folder), &mut sources);
        for clock in ["SystemTime", "Instant::now", "UNIX_EPOCH", "chrono::"] {
            assert!(!sources.contains(clock), "{folder} names {clock}");
        }
    }
}

fn read(folder: &Path, into: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder of the tree") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push_str(&std::fs::read_to_string(&path).expect("a source file"));
        }
    }
}
