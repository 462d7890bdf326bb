//! The bad days of two clusters, one after the other on one stage, while records are written; after each nothing is lost.
//!
//! Not run by the usual test harness: all of it happens in a world of its own. `BAD_DAYS=name,name` runs only those.

use std::env;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use twinsite_kubernetes::clusters::{self, MEDICAL, RESEARCH};
use twinsite_kubernetes::demo::stage::Stage;
use twinsite_kubernetes::group::{Signal, until};
use twinsite_kubernetes::install;
use twinsite_kubernetes::node::Node;
use twinsite_kubernetes::programs::{Program, Programs};
use twinsite_kubernetes::site::Site;
use twinsite_kubernetes::world::{self, Here};

/// Records between two events.
const A_WHILE: u64 = 200;
/// A gap that means somebody waited for what was away. On a starved machine a leg can time out for a few seconds by itself.
const NO_GAP: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_secs(60);
const NODE_LOSS: Duration = Duration::from_secs(120);

/// A bad day: its name, what it says in one sentence, and how it goes.
type Day = (&'static str, fn(&mut Stage) -> Result<()>);

const DAYS: &[Day] = &[
    (
        "standby-pod",
        a_pod_forced_onto_the_standby_site_is_held_and_told_why,
    ),
    (
        "operator-killed",
        operators_killed_again_and_again_stop_nothing,
    ),
    ("api-away", an_api_server_that_is_away_stops_nothing),
    (
        "witness-away",
        a_witness_that_is_away_stops_nothing_while_all_is_well,
    ),
    ("line-cut", a_cut_line_leaves_exactly_one_site_writing),
    (
        "deleted-once",
        a_volume_deleted_in_one_cluster_is_forgotten_there_only,
    ),
    ("namespace-missing", a_namespace_missing_at_the_peer_is_said),
    (
        "storage-class",
        one_set_applied_to_both_clusters_gets_one_volume,
    ),
    ("node-lost", a_lost_node_is_replaced_within_its_site),
    ("same-site", a_second_cluster_of_the_same_name_stops_itself),
];

fn main() -> ExitCode {
    // What cargo's harness would be asked.
    if env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    run().unwrap_or_else(|error| {
        eprintln!("two_clusters: {error:#}");
        ExitCode::FAILURE
    })
}

fn run() -> Result<ExitCode> {
    if !clusters::wanted() {
        eprintln!("skipped: it takes minutes of a quiet machine; make test-clusters runs it");
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(reason) = clusters::missing() {
        eprintln!("skipped: {reason}");
        return Ok(ExitCode::SUCCESS);
    }
    Programs::obtain(Program::ALL)?;
    let folder = clusters::work_folder("test-two-clusters")?;
    if let Here::Ended(code) = world::inside("two_clusters", &folder)? {
        return Ok(code);
    }
    let wanted = env::var("BAD_DAYS").unwrap_or_default();
    let chosen = |name: &str| wanted.is_empty() || wanted.split(',').any(|day| day == name);
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut stage = Stage::set(&folder).await?;
        stage.open()?;
        stage.write_records(A_WHILE)?;
        let mut failed = Vec::new();
        for &(name, day) in DAYS.iter().filter(|(name, _)| chosen(name)) {
            stage.timeline.act(name);
            let start = Instant::now();
            let outcome = tokio::task::block_in_place(|| day(&mut stage).and_then(|()| stage.verify()));
            let seconds = start.elapsed().as_secs_f64();
            match outcome {
                Ok(()) => stage.timeline.event(&format!("{name}: ok after {seconds:.1} s")),
                Err(error) => {
                    stage.timeline.event(&format!("{name}: FAILED after {seconds:.1} s: {error:#}"));
                    failed.push(name);
                }
            }
        }
        stage.close()?;
        let report = &stage.report;
        println!(
            "two_clusters: {} days={} failed={} acknowledged={} lost={} violations={} seconds={:.0}",
            if failed.is_empty() && report.good() { "ok" } else { "FAILED" },
            DAYS.iter().filter(|(name, _)| chosen(name)).count(),
            failed.join(","),
            report.acknowledged,
            report.lost,
            report.violations.len(),
            report.seconds
        );
        ensure!(failed.is_empty(), "{} failed", failed.join(", "));
        ensure!(report.good(), "records were lost: {:?}", report.violations);
        Ok(ExitCode::SUCCESS)
    })
}

/// A runtime that is already there, for the few calls that wait.
fn wait_for<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Handle::current().block_on(future)
}

fn no_gap(stage: &mut Stage) -> Result<()> {
    stage.ledger.mark();
    stage.write_records(A_WHILE)?;
    let gap = stage.ledger.longest_gap();
    ensure!(gap < NO_GAP, "no record for {:.1} s", gap.as_secs_f64());
    Ok(())
}

fn a_pod_forced_onto_the_standby_site_is_held_and_told_why(stage: &mut Stage) -> Result<()> {
    const POD: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: impatient, namespace: rv}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: impatient
      image: localhost/records:dev
      imagePullPolicy: Never
      command: [/bin/sh, -c, 'while :; do sleep 1; done']
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: records}}]
";
    let site = &stage.clusters.research;
    install::apply_text(site, POD)?;
    let told = until(
        Duration::from_secs(120),
        "a refusal that names medical",
        || {
            let events = site.kubectl(&[
                "-n",
                "rv",
                "get",
                "events",
                "--field-selector",
                "involvedObject.name=impatient",
            ]);
            events.is_ok_and(|events| events.contains("medical"))
        },
    );
    let phase = site.kubectl(&[
        "-n",
        "rv",
        "get",
        "pod",
        "impatient",
        "-o",
        "jsonpath={.status.phase}",
    ])?;
    site.kubectl(&["-n", "rv", "delete", "pod", "impatient", "--wait=false"])?;
    told.with_context(|| {
        site.kubectl(&["-n", "rv", "get", "events"])
            .unwrap_or_default()
    })?;
    ensure!(phase == "Pending", "the pod is {phase}");
    until(SHORT, "the pod to be gone", || {
        site.kubectl(&["-n", "rv", "get", "pod", "impatient"])
            .is_err()
            && site
                .kubectl(&["get", "volumeattachments", "-o", "name"])
                .is_ok_and(|all| all.is_empty())
    })?;
    no_gap(stage)
}

fn operators_killed_again_and_again_stop_nothing(stage: &mut Stage) -> Result<()> {
    stage.ledger.mark();
    for _ in 0..3 {
        for site in [&stage.clusters.medical, &stage.clusters.research] {
            kill_process(site, "twinsite-operator");
        }
        stage.write_records(A_WHILE / 2)?;
    }
    let gap = stage.ledger.longest_gap();
    ensure!(gap < NO_GAP, "no record for {:.1} s", gap.as_secs_f64());
    for site in [&stage.clusters.medical, &stage.clusters.research] {
        install::wait_ready(site)?;
    }
    stage.diff(&[MEDICAL, RESEARCH])
}

fn an_api_server_that_is_away_stops_nothing(stage: &mut Stage) -> Result<()> {
    stage.clusters.medical.plane_mut().stop_api_server();
    let outcome = no_gap(stage);
    wait_for(stage.clusters.medical.plane_mut().start_api_server())?;
    outcome?;
    wait_for(stage.clusters.medical.wait_nodes_ready())?;
    stage.wait_in_sync(SHORT)
}

fn a_witness_that_is_away_stops_nothing_while_all_is_well(stage: &mut Stage) -> Result<()> {
    let sites = [
        stage.clusters.medical.subnet,
        stage.clusters.research.subnet,
    ];
    for site in sites {
        stage.clusters.hide_witness(site)?;
    }
    let outcome = no_gap(stage);
    let said = until(SHORT, "the pair to say so", || {
        condition(
            &stage.clusters.medical,
            &["get", "sitepair", "ctrc"],
            "WitnessReachable",
        )
        .is_ok_and(|status| status != "True")
    });
    for site in sites {
        stage.clusters.show_witness(site)?;
    }
    outcome?;
    said?;
    until(SHORT, "the witness to be reached again", || {
        condition(
            &stage.clusters.medical,
            &["get", "sitepair", "ctrc"],
            "WitnessReachable",
        )
        .is_ok_and(|status| status == "True")
    })
}

fn a_cut_line_leaves_exactly_one_site_writing(stage: &mut Stage) -> Result<()> {
    stage.ledger.mark();
    stage.clusters.cut_line()?;
    let outcome = stage.write_records(A_WHILE).and_then(|()| {
        let running = [&stage.clusters.medical, &stage.clusters.research]
            .into_iter()
            .filter(|site| {
                site.kubectl(&["-n", "rv", "get", "pod", "records-0"])
                    .is_ok()
            })
            .count();
        ensure!(running == 1, "{running} sites run the pod");
        Ok(())
    });
    stage.clusters.mend_line()?;
    outcome?;
    let gap = stage.ledger.longest_gap();
    stage.timeline.event(&format!(
        "longest gap while the line was cut: {:.1} s",
        gap.as_secs_f64()
    ));
    stage.wait_in_sync(Duration::from_secs(120))
}

const SPARE: &str = "\
apiVersion: twinsite.io/v1alpha1
kind: MirroredVolume
metadata: {name: spare, namespace: NAMESPACE}
spec:
  sitePair: ctrc
  activeSite: medical
  capacity: 64Mi
  fsType: ext4
  accessModes: [ReadWriteOncePod]
  claim: {name: spare, create: true}
  legs:
    - {site: medical, poolClass: ssd}
    - {site: research, poolClass: ssd}
";

fn a_volume_deleted_in_one_cluster_is_forgotten_there_only(stage: &mut Stage) -> Result<()> {
    let text = SPARE.replace("NAMESPACE", "rv");
    let (medical, research) = (&stage.clusters.medical, &stage.clusters.research);
    for site in [medical, research] {
        install::apply_text(site, &text)?;
    }
    let ready = |site: &Site| {
        until(SHORT * 2, "the spare volume", || {
            condition(
                site,
                &["-n", "rv", "get", "mirroredvolume", "spare"],
                "Ready",
            )
            .is_ok_and(|status| status == "True")
        })
        .with_context(|| {
            site.kubectl(&["-n", "rv", "get", "mirroredvolume", "spare", "-o", "yaml"])
                .unwrap_or_default()
        })
    };
    ready(medical)?;
    ready(research)?;
    let id = research.kubectl(&[
        "-n",
        "rv",
        "get",
        "mirroredvolume",
        "spare",
        "-o",
        "jsonpath={.status.volumeId}",
    ])?;
    research.kubectl(&[
        "-n",
        "rv",
        "delete",
        "mirroredvolume",
        "spare",
        "--timeout=60s",
    ])?;
    until(SHORT, "the volume's PV to go at research", || {
        research.kubectl(&["get", "pv", &id]).is_err()
    })?;
    ensure!(
        medical.kubectl(&["get", "pv", &id]).is_ok(),
        "the PV went at medical too"
    );
    install::apply_text(research, &text)?;
    ready(research)?;
    let again = research.kubectl(&[
        "-n",
        "rv",
        "get",
        "mirroredvolume",
        "spare",
        "-o",
        "jsonpath={.status.volumeId}",
    ])?;
    ensure!(again == id, "{again} is not {id}");
    Ok(())
}

fn a_namespace_missing_at_the_peer_is_said(stage: &mut Stage) -> Result<()> {
    let medical = &stage.clusters.medical;
    install::apply_text(
        medical,
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: lonely}\n",
    )?;
    install::apply_text(medical, &SPARE.replace("NAMESPACE", "lonely"))?;
    let outcome = until(SHORT, "a word about research", || {
        medical
            .kubectl(&[
                "-n",
                "lonely",
                "get",
                "mirroredvolume",
                "spare",
                "-o",
                "jsonpath={.status.conditions}",
            ])
            .is_ok_and(|conditions| conditions.contains("research"))
    })
    .with_context(|| {
        medical
            .kubectl(&[
                "-n",
                "lonely",
                "get",
                "mirroredvolume",
                "spare",
                "-o",
                "yaml",
            ])
            .unwrap_or_default()
    });
    medical.kubectl(&["delete", "namespace", "lonely", "--wait=false"])?;
    outcome
}

fn one_set_applied_to_both_clusters_gets_one_volume(stage: &mut Stage) -> Result<()> {
    const CLASS: &str = "\
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: mirrored}
provisioner: csi.twinsite.io
parameters: {sitePair: ctrc, poolClass: ssd, fsType: ext4, activeSite: medical}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: plain, namespace: rv}
spec:
  storageClassName: mirrored
  accessModes: [ReadWriteOncePod]
  resources: {requests: {storage: 64Mi}}
";
    let sites = [&stage.clusters.medical, &stage.clusters.research];
    for site in sites {
        install::apply_text(site, CLASS)?;
    }
    let mut names = Vec::new();
    for site in sites {
        until(SHORT * 2, "the claim to be bound", || {
            site.kubectl(&[
                "-n",
                "rv",
                "get",
                "pvc",
                "plain",
                "-o",
                "jsonpath={.status.phase}",
            ])
            .is_ok_and(|phase| phase == "Bound")
        })
        .with_context(|| {
            site.kubectl(&["-n", "rv", "get", "events"])
                .unwrap_or_default()
        })?;
        let volume = site.kubectl(&[
            "-n",
            "rv",
            "get",
            "pvc",
            "plain",
            "-o",
            "jsonpath={.spec.volumeName}",
        ])?;
        names.push(site.kubectl(&[
            "get",
            "pv",
            &volume,
            "-o",
            "jsonpath={.spec.csi.volumeHandle}",
        ])?);
    }
    ensure!(names[0] == names[1], "two volumes: {names:?}");
    Ok(())
}

fn a_lost_node_is_replaced_within_its_site(stage: &mut Stage) -> Result<()> {
    let site = &stage.clusters.medical;
    let name = site.kubectl(&[
        "-n",
        "rv",
        "get",
        "pod",
        "records-0",
        "-o",
        "jsonpath={.spec.nodeName}",
    ])?;
    let index = site
        .nodes
        .iter()
        .position(|node| node.name == name)
        .context("the pod's node")?;
    let killed = Instant::now();
    stage.clusters.medical.nodes[index].pull_the_plug();
    stage.ledger.mark();
    stage.timeline.event(&format!("{name} is gone"));
    let ledger = stage.ledger.clone();
    let outcome = until(NODE_LOSS, "a record from another node", || {
        ledger.first_after_mark().is_some()
    });
    let seconds = killed.elapsed().as_secs_f64();
    if outcome.is_ok() {
        let now = stage.clusters.medical.kubectl(&[
            "-n",
            "rv",
            "get",
            "pod",
            "records-0",
            "-o",
            "jsonpath={.spec.nodeName}",
        ])?;
        stage
            .timeline
            .event(&format!("{now} writes {seconds:.1} s after that"));
    } else {
        let site = &stage.clusters.medical;
        for what in [
            ["get", "pods,volumeattachments", "-A", "-o", "wide"],
            ["get", "attachments,legs,nodes", "-A", "-o", "wide"],
        ] {
            stage
                .timeline
                .event(&site.kubectl(&what).unwrap_or_default());
        }
    }
    stage.clusters.medical.start_node(index)?;
    outcome?;
    wait_for(stage.clusters.medical.wait_nodes_ready())?;
    stage.wait_in_sync(Duration::from_secs(180))
}

fn a_second_cluster_of_the_same_name_stops_itself(stage: &mut Stage) -> Result<()> {
    let values = install::examples()
        .join("values-research.yaml")
        .display()
        .to_string();
    let research = &stage.clusters.research;
    install::helm(research, &["--values", &values, "--set", "site=medical"])?;
    let outcome = until(SHORT * 2, "SiteClaimed=False", || {
        condition(research, &["get", "sitepair", "ctrc"], "SiteClaimed")
            .is_ok_and(|status| status == "False")
    })
    .with_context(|| {
        research
            .kubectl(&["get", "sitepair", "ctrc", "-o", "yaml"])
            .unwrap_or_default()
    });
    let gap = no_gap(stage);
    install::helm(&stage.clusters.research, &["--values", &values])?;
    outcome?;
    gap
}

fn condition(site: &Site, get: &[&str], kind: &str) -> Result<String> {
    let path = format!("jsonpath={{.status.conditions[?(@.type==\"{kind}\")].status}}");
    let mut arguments = get.to_vec();
    arguments.extend(["-o", &path]);
    site.kubectl(&arguments)
}

fn kill_process(site: &Site, name: &str) -> usize {
    let machines = site.nodes.iter().filter_map(Node::machine);
    machines
        .map(|machine| machine.signal(name, Signal::Kill))
        .sum()
}
