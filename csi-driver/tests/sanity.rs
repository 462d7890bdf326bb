//! csi-sanity, the CSI community's conformance suite, against the real driver on real agents: once with file systems, once with
//! raw block devices. Everything that applies must pass; what is left out is listed by name.

#![allow(clippy::unwrap_used, reason = "a test may fail so")]

mod world;

use std::{fs, path::Path, process::Command, thread, time::Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use twinsite_kubernetes::programs::{Program, Programs};
use twinsite_tests::needs;
use world::World;

/// A word that stands in every secret of the run and in no log.
const SECRET: &str = "hunter2-is-not-a-secret";
const KINDS: [&str; 11] = [
    "CreateVolumeSecret",
    "DeleteVolumeSecret",
    "ControllerPublishVolumeSecret",
    "ControllerUnpublishVolumeSecret",
    "ControllerValidateVolumeCapabilitiesSecret",
    "NodeStageVolumeSecret",
    "NodePublishVolumeSecret",
    "CreateSnapshotSecret",
    "DeleteSnapshotSecret",
    "ControllerExpandVolumeSecret",
    "ListSnapshotsSecret",
];
/// Seconds that a half may take on a busy machine; alone it takes about sixty.
const RUN_LIMIT: &str = "600";
/// Volumes that the node of the run takes: the suite publishes one more.
const MAX_VOLUMES: i64 = 1;

/// What came of one case.
struct Case {
    name: String,
    state: String,
    seconds: f64,
    why: String,
}

impl Case {
    fn passed(&self) -> bool {
        self.state == "passed"
    }

    /// Left out by the suite, for what the driver does not offer.
    fn left_out(&self) -> bool {
        ["skipped", "pending"].contains(&self.state.as_str())
    }
}

#[test]
fn everything_that_applies_passes_for_file_systems_and_for_block_devices() {
    if let Some(why) = needs::missing_for_devices() {
        eprintln!("skipped: {why}");
        return;
    }
    if let Some(why) = Programs::missing(&[Program::CsiSanity]) {
        eprintln!("skipped: {why}");
        return;
    }
    let programs = Programs::obtain(&[Program::CsiSanity]).expect("csi-sanity builds");
    let sanity = programs.path(Program::CsiSanity);
    let begun = Instant::now();
    // Mostly waiting for agents: each half of each run has sites of its own, and all go at once.
    let runs = ["mount", "block"].map(|access| {
        ["focus", "skip"].map(|half| {
            let sanity = sanity.clone();
            thread::spawn(move || run(&sanity, access, half))
        })
    });
    let runs = runs.map(|halves| {
        let [one, other] = halves.map(|half| half.join().expect("a run ends"));
        both(one.expect("a run reports"), other.expect("a run reports"))
    });
    let seconds = begun.elapsed().as_secs_f64();
    let report = report(&runs, seconds);
    println!("{report:#}");
    let failed: Vec<String> = runs
        .iter()
        .zip(["mount", "block"])
        .flat_map(|(cases, access)| {
            let failed = cases.iter().filter(|it| !it.passed() && !it.left_out());
            failed.map(move |it| format!("{access}: {}: {}", it.name, it.why))
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    for cases in &runs {
        let passed = cases.iter().filter(|case| case.passed()).count();
        assert!(passed >= 60, "only {passed} cases were run");
    }
}

/// The cases of two halves of a run: what one left out the other may have run.
fn both(mut one: Vec<Case>, other: Vec<Case>) -> Vec<Case> {
    for case in other {
        match one.iter_mut().find(|there| there.name == case.name) {
            Some(there) if there.left_out() => *there = case,
            Some(there) => assert!(case.left_out(), "{} was run twice", there.name),
            None => one.push(case),
        }
    }
    one
}

/// Runs a half of the suite, the controller's service or the rest; all cases, those of the other half as left out.
fn run(sanity: &Path, access: &str, half: &str) -> Result<Vec<Case>> {
    let world = World::start(MAX_VOLUMES)?;
    let file = |name: &str| world.folder.join(name);
    let mut parameters = world.parameters();
    let mut mebibytes = 64_u64;
    // One case grows a mounted file system: ext4 lets nobody do that here, XFS does, and is not made smaller than 300 MiB.
    if access == "mount" && !world::may_grow_mounted_ext4() {
        parameters.insert("fsType".to_owned(), "xfs".to_owned());
        mebibytes = 320;
    }
    fs::write(file("parameters.yaml"), serde_yaml::to_string(&parameters)?)?;
    let secret = json!({ "password": SECRET });
    let secrets: serde_json::Map<String, Value> = KINDS
        .iter()
        .map(|kind| ((*kind).to_owned(), secret.clone()))
        .collect();
    fs::write(file("secrets.yaml"), serde_yaml::to_string(&secrets)?)?;
    let flag = |name: &str, value: &dyn std::fmt::Display| format!("--csi.{name}={value}");
    let output = Command::new("timeout")
        .arg(RUN_LIMIT)
        .arg(sanity)
        .arg(flag(
            "endpoint",
            &format!("unix://{}", world.node_socket().display()),
        ))
        .arg(flag(
            "controllerendpoint",
            &format!("unix://{}", world.controller_socket().display()),
        ))
        .arg(flag("mountdir", &file("target").display()))
        .arg(flag("stagingdir", &file("staging").display()))
        .arg(flag("testvolumeaccesstype", &access))
        .arg(flag("testvolumesize", &(mebibytes << 20)))
        .arg(flag("testvolumeexpandsize", &((mebibytes + 32) << 20)))
        .arg(flag(
            "testvolumeparameters",
            &file("parameters.yaml").display(),
        ))
        .arg(flag("secrets", &file("secrets.yaml").display()))
        .arg("--csi.testnodevolumeattachlimit")
        .arg(format!("--ginkgo.{half}=Controller Service"))
        .arg(format!(
            "--ginkgo.json-report={}",
            file("report.json").display()
        ))
        .output()
        .context("csi-sanity cannot be started")?;
    let text = fs::read_to_string(file("report.json"))
        .with_context(|| format!("no report: {}", String::from_utf8_lossy(&output.stderr)))?;
    for log in ["controller", "node"] {
        let text = fs::read_to_string(world.log(log))?;
        anyhow::ensure!(
            !text.contains(SECRET),
            "a secret is in the log of the {log}"
        );
    }
    let cases = cases(&serde_json::from_str(&text)?);
    if cases.iter().any(|case| !case.passed() && !case.left_out()) {
        println!(
            "{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            world.last_words()
        );
    }
    Ok(cases)
}

/// The cases of a report of ginkgo.
fn cases(report: &Value) -> Vec<Case> {
    let suites = report.as_array().into_iter().flatten();
    let specs = suites.flat_map(|suite| suite["SpecReports"].as_array().into_iter().flatten());
    let mut cases = Vec::new();
    for spec in specs.filter(|spec| spec["LeafNodeType"] == "It") {
        let texts = spec["ContainerHierarchyTexts"].as_array();
        let texts = texts.into_iter().flatten().filter_map(Value::as_str);
        let leaf = spec["LeafNodeText"].as_str().unwrap_or_default();
        let name: Vec<&str> = texts.chain([leaf]).collect();
        cases.push(Case {
            name: name.join(" / "),
            state: spec["State"].as_str().unwrap_or("unknown").to_owned(),
            seconds: spec["RunTime"].as_f64().unwrap_or_default() / 1e9,
            why: spec["Failure"]["Message"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        });
    }
    cases
}

/// Prints the table and writes the report; one line of figures.
fn report(runs: &[Vec<Case>; 2], seconds: f64) -> String {
    println!("{:<100} {:>9} {:>9}", "case", "mount", "block");
    let cell = |case: &Case| match case.left_out() {
        true => "n/a".to_owned(),
        false => format!(
            "{} {:.1}s",
            if case.passed() { "ok" } else { "FAILED" },
            case.seconds
        ),
    };
    for case in &runs[0] {
        let twin = runs[1].iter().find(|twin| twin.name == case.name);
        let block = twin.map_or("-".to_owned(), cell);
        println!("{:<100} {:>9} {block:>9}", case.name, cell(case));
    }
    let count =
        |cases: &[Case], test: fn(&Case) -> bool| cases.iter().filter(|it| test(it)).count();
    let summary: Vec<Value> = runs
        .iter()
        .zip(["mount", "block"])
        .map(|(cases, access)| {
            let passed = count(cases, Case::passed);
            let left_out = count(cases, Case::left_out);
            let listed: Vec<Value> = cases
                .iter()
                .map(|it| json!({"name": it.name, "state": it.state, "seconds": it.seconds}))
                .collect();
            json!({
                "access": access,
                "passed": passed,
                "failed": cases.len() - passed - left_out,
                "notApplicable": left_out,
                "cases": listed,
            })
        })
        .collect();
    let folder = world::driver()
        .ancestors()
        .nth(2)
        .map(|target| target.join("csi-sanity"));
    if let Some(folder) = folder
        && fs::create_dir_all(&folder).is_ok()
    {
        let text = json!({"suite": "csi-sanity v5.6.0", "seconds": seconds, "runs": summary});
        let _ = fs::write(folder.join("report.json"), format!("{text:#}\n"));
    }
    let figures: Vec<String> = summary
        .iter()
        .map(|run| {
            format!(
                "{}: passed={} failed={} n/a={}",
                run["access"].as_str().unwrap_or_default(),
                run["passed"],
                run["failed"],
                run["notApplicable"]
            )
        })
        .collect();
    format!("csi-sanity: {} seconds={seconds:.0}", figures.join(" "))
}
