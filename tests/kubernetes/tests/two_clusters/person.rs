//! Days on which only a person can say how it goes on.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use twinsite_kubernetes::clusters::{MEDICAL, RESEARCH};
use twinsite_kubernetes::demo::stage::Stage;
use twinsite_kubernetes::install;
use twinsite_kubernetes::site::Site;

use crate::declared::{remove, spare};
use crate::look::{
    A_WHILE, LONG, SHORT, condition, field, no_gap, plugin, until_condition, until_field,
    until_said, wait_for, whole,
};

/// For how long nothing must happen.
const NOTHING: Duration = Duration::from_secs(5);
const BRANCH: &[&str] = &["-n", "rv", "mirroredvolume", "branch"];
const RECORDS: &[&str] = &["-n", "rv", "mirroredvolume", "records"];
const POD: &[&str] = &["-n", "rv", "pod", "branch"];

const READER: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: branch, namespace: rv}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: branch
      image: localhost/records:dev
      imagePullPolicy: Never
      command: [/bin/sh, -c, 'while :; do sleep 1; done']
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: branch}}]
";

fn start_pod(site: &Site) -> Result<()> {
    install::apply_text(site, READER)?;
    until_field(site, LONG, POD, "{.status.phase}", |phase| {
        phase == "Running"
    })
    .with_context(|| {
        site.kubectl(&["-n", "rv", "get", "events"])
            .unwrap_or_default()
    })
}

fn in_pod(site: &Site, script: &str) -> Result<String> {
    site.kubectl(&["-n", "rv", "exec", "branch", "--", "/bin/sh", "-c", script])
}

/// The site with all writes is dead: what would be lost is named first, then given up; the branch that was given up waits.
pub(crate) fn a_force_takes_two_steps_and_a_confirmation(stage: &mut Stage) -> Result<()> {
    for site in [&stage.clusters.medical, &stage.clusters.research] {
        install::apply_text(site, &spare("rv", "branch"))?;
    }
    until_condition(&stage.clusters.medical, LONG, BRANCH, "Ready", "True")?;
    start_pod(&stage.clusters.medical)?;
    in_pod(&stage.clusters.medical, "echo one >/data/one; sync")?;
    until_condition(&stage.clusters.medical, SHORT, BRANCH, "InSync", "True")?;
    stage.clusters.cut_line()?;
    until_condition(&stage.clusters.medical, SHORT, BRANCH, "InSync", "False")?;
    in_pod(&stage.clusters.medical, "echo two >/data/two; sync")?;
    stage.write_records(A_WHILE)?;
    stage.clusters.medical.pull_the_plug();
    stage.clusters.mend_line()?;
    let outcome = forced(stage);
    wait_for(stage.clusters.medical.power_on())?;
    wait_for(stage.clusters.medical.wait_nodes_ready())?;
    outcome?;
    stage.wait_in_sync(LONG)?;
    confirmed(stage)?;
    for site in [&stage.clusters.medical, &stage.clusters.research] {
        site.kubectl(&["-n", "rv", "delete", "pod", "branch", "--ignore-not-found"])?;
    }
    remove(&stage.clusters, "rv", "branch")?;
    stage.diff(&[MEDICAL])?;
    no_gap(stage)
}

/// The witness shows what it was before both copies moved on; the copies are good, and a person says so.
pub(crate) fn a_restored_witness_is_not_believed_until_a_person_makes_a_new_register(
    stage: &mut Stage,
) -> Result<()> {
    let id = field(&stage.clusters.medical, RECORDS, "{.status.volumeId}")?;
    let register = format!("ctrc.0.registers.0.{}", id.trim_start_matches("ts-"));
    let object = ["-n", install::NAMESPACE, "configmap", &register];
    let old = field(&stage.clusters.witness, &object, "{.binaryData}")?;
    stage.clusters.cut_line()?;
    let outcome = until_condition(&stage.clusters.medical, SHORT, RECORDS, "InSync", "False");
    stage.clusters.mend_line()?;
    outcome?;
    stage.wait_in_sync(LONG)?;
    let change = format!("{{\"binaryData\":{old}}}");
    let mut arguments = vec!["patch", "--type=merge", "-p", &change];
    arguments.extend(object);
    stage.clusters.witness.kubectl(&arguments)?;
    stage
        .timeline
        .event("the register at the witness is that of a minute ago");
    for site in [&stage.clusters.medical, &stage.clusters.research] {
        until_said(site, SHORT, RECORDS, "WitnessRolledBack")?;
    }
    let contexts = ["--contexts", "medical,research"];
    let mut arguments = vec!["plan", "rv/records", "--to", "medical", "-o", "json"];
    arguments.extend(contexts);
    let said = plugin(&stage.clusters, &arguments)?;
    let plan: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    let reseed = &plan["reseed"];
    ensure!(reseed["whole"] == true, "{plan:#}");
    let token = reseed["token"].as_str().context("no token")?;
    let mut arguments = vec![
        "failover",
        "rv/records",
        "--to",
        "medical",
        "--mode",
        "reseed",
        "--legs",
        "A,B",
        "--token",
        token,
    ];
    arguments.extend(contexts);
    let said = plugin(&stage.clusters, &arguments)
        .with_context(|| whole(&stage.clusters.medical, RECORDS))?;
    ensure!(said.contains("done"), "{said}");
    until_condition(&stage.clusters.medical, SHORT, RECORDS, "Stalled", "False")?;
    stage.write_records(A_WHILE)?;
    stage.wait_in_sync(LONG)?;
    for site in [&stage.clusters.medical, &stage.clusters.research] {
        until_field(site, SHORT, RECORDS, "{.status.epoch}", |epoch| {
            epoch.parse::<u64>().is_ok_and(|epoch| epoch > 1000)
        })?;
    }
    stage.diff(&[MEDICAL, RESEARCH])
}

fn forced(stage: &mut Stage) -> Result<()> {
    let clusters = &stage.clusters;
    let plan = plugin(
        clusters,
        &[
            "plan",
            "rv/branch",
            "--to",
            "research",
            "--contexts",
            "research",
            "-o",
            "json",
        ],
    )?;
    let plan: Value = serde_json::from_str(&plan).with_context(|| plan.clone())?;
    let verdict = |way: &str| plan[way]["verdict"].as_str().unwrap_or_default().to_owned();
    ensure!(verdict("unplanned") == "impossible", "{plan:#}");
    ensure!(verdict("force") == "loses", "{plan:#}");
    let epoch = plan["token"]["expectEpoch"].to_string();
    let token = plan["token"]["token"].as_str().context("no token")?;
    let order = |token: &str| {
        plugin(
            clusters,
            &[
                "failover",
                "rv/branch",
                "--to",
                "research",
                "--contexts",
                "research",
                "--mode",
                "force",
                "--expect-epoch",
                &epoch,
                "--token",
                token,
            ],
        )
    };
    let stale = order(&format!("{epoch}-00000000000000000000000000000000"));
    ensure!(stale.is_err(), "a wrong token was taken: {stale:?}");
    let said = order(token)?;
    ensure!(said.contains("done"), "{said}");
    start_pod(&clusters.research)?;
    let files = in_pod(&clusters.research, "cd /data; for f in *; do echo $f; done")?;
    ensure!(
        files.contains("one") && !files.contains("two"),
        "the forced copy shows {files}"
    );
    in_pod(&clusters.research, "echo three >/data/three; sync")?;
    stage.timeline.event("research was forced and writes");
    Ok(())
}

fn confirmed(stage: &mut Stage) -> Result<()> {
    let (medical, research) = (&stage.clusters.medical, &stage.clusters.research);
    until_condition(research, SHORT, BRANCH, "SplitBrain", "True")?;
    thread::sleep(NOTHING);
    let sync = condition(research, BRANCH, "InSync")?;
    ensure!(sync == "False", "{}", whole(research, BRANCH));
    let running = field(medical, POD, "{.status.containerStatuses[0].ready}")?;
    ensure!(
        running != "true",
        "medical runs the lost branch: {}",
        whole(medical, POD)
    );
    let epoch = field(research, BRANCH, "{.status.epoch}")?;
    let confirm = format!("twinsite.io/confirm-lost-branch=A@{epoch}");
    research.kubectl(&["-n", "rv", "annotate", "mirroredvolume", "branch", &confirm])?;
    until_condition(research, LONG, BRANCH, "InSync", "True")?;
    until_condition(research, SHORT, BRANCH, "SplitBrain", "False")?;
    let files = in_pod(research, "cd /data; for f in *; do echo $f; done")?;
    ensure!(files.contains("three"), "{files}");
    Ok(())
}
