//! A day on which only the older copies of a group are left: a person is shown what each volume loses, and forces all of them.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use twinsite_kubernetes::clusters::{MEDICAL, RESEARCH};
use twinsite_kubernetes::demo::stage::Stage;
use twinsite_kubernetes::install;
use twinsite_kubernetes::process_group::until;
use twinsite_kubernetes::site::Site;

use crate::look::{
    LONG, SHORT, condition, field, keep, no_gap, plugin, until_condition, until_field, until_gone,
    wait_for, whole,
};

/// For how long nothing must happen.
const NOTHING: Duration = Duration::from_secs(5);
const GROUP: &[&str] = &["-n", "rv", "mirrorgroup", "pair"];
const POD: &[&str] = &["-n", "rv", "pod", "pair"];
const VOLUMES: [&str; 2] = ["pair-data", "pair-journal"];

const READER: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: pair, namespace: rv}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: pair
      image: localhost/records:dev
      imagePullPolicy: Never
      command: [/bin/sh, -c, 'while :; do sleep 1; done']
      volumeMounts: [{name: journal, mountPath: /journal}, {name: data, mountPath: /data}]
  volumes:
    - {name: journal, persistentVolumeClaim: {claimName: pair-journal}}
    - {name: data, persistentVolumeClaim: {claimName: pair-data}}
";

fn objects() -> String {
    let group = "apiVersion: twinsite.io/v1alpha1
kind: MirrorGroup
metadata: {name: pair, namespace: rv}
spec: {sitePair: ctrc, activeSite: medical, volumes: [pair-journal, pair-data]}
";
    let volume = |name: &str| {
        format!(
            "---
apiVersion: twinsite.io/v1alpha1
kind: MirroredVolume
metadata: {{name: {name}, namespace: rv}}
spec:
  sitePair: ctrc
  group: pair
  capacity: 64Mi
  fsType: ext4
  accessModes: [ReadWriteOncePod]
  claim: {{name: {name}, create: true}}
  deletionPolicy: Delete
  legs:
    - {{site: medical, poolClass: ssd}}
    - {{site: research, poolClass: ssd}}
"
        )
    };
    let volumes: String = VOLUMES.map(volume).concat();
    group.to_owned() + &volumes
}

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
    site.kubectl(&["-n", "rv", "exec", "pair", "--", "/bin/sh", "-c", script])
}

/// The journal first, then the data, each durable before the next.
fn write(site: &Site, name: &str) -> Result<()> {
    let script =
        format!("echo {name} >/journal/{name} && sync && echo {name} >/data/{name} && sync");
    in_pod(site, &script).map(drop)
}

fn files(site: &Site) -> Result<[String; 2]> {
    let of = |folder: &str| in_pod(site, &format!("cd {folder}; for f in *; do echo $f; done"));
    Ok([of("/journal")?, of("/data")?])
}

/// The site with all writes is dead: what each volume of the group loses is named first, then all are forced by one word.
pub(crate) fn a_group_is_forced_as_a_whole_after_its_loss_was_named(
    stage: &mut Stage,
) -> Result<()> {
    for site in [&stage.clusters.medical, &stage.clusters.research] {
        install::apply_text(site, &objects())?;
    }
    until_condition(&stage.clusters.medical, LONG, GROUP, "Ready", "True")?;
    start_pod(&stage.clusters.medical)?;
    write(&stage.clusters.medical, "one")?;
    until_condition(&stage.clusters.medical, LONG, GROUP, "InSync", "True")?;
    stage.clusters.cut_line()?;
    until_condition(&stage.clusters.medical, SHORT, GROUP, "InSync", "False")?;
    write(&stage.clusters.medical, "two")?;
    stage.clusters.medical.pull_the_plug();
    stage.clusters.mend_line()?;
    let outcome = forced(stage);
    keep(stage, "group-force-forced")?;
    wait_for(stage.clusters.medical.power_on())?;
    wait_for(stage.clusters.medical.wait_nodes_ready())?;
    outcome?;
    stage.wait_in_sync(LONG)?;
    confirmed(stage)?;
    remove(stage)?;
    no_gap(stage)
}

fn planned(stage: &Stage, more: &[&str]) -> Result<String> {
    let mut arguments = vec!["plan", "rv/pair", "--to", RESEARCH];
    arguments.extend(["--contexts", RESEARCH]);
    arguments.extend(more);
    plugin(&stage.clusters, &arguments)
}

fn forced(stage: &mut Stage) -> Result<()> {
    let research = &stage.clusters.research;
    // The cut is known there a moment after the mirror knows it.
    until_condition(research, SHORT, GROUP, "InSync", "False")?;
    let plan = planned(stage, &["-o", "json"])?;
    let plan: Value = serde_json::from_str(&plan).with_context(|| plan.clone())?;
    let verdict = |way: &str| plan[way]["verdict"].as_str().unwrap_or_default().to_owned();
    ensure!(verdict("unplanned") == "impossible", "{plan:#}");
    ensure!(verdict("force") == "loses", "{plan:#}");
    ensure!(plan["token"]["inconsistent"] == false, "{plan:#}");
    let text = planned(stage, &[])?;
    stage.timeline.event(&format!("the plan says:\n{text}"));
    for volume in VOLUMES {
        ensure!(
            text.contains(&format!("- {volume}: stands at epoch")),
            "{text}"
        );
    }
    // A person copies the command.
    let command = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("kubectl twinsite "))
        .context("the plan names no command")?;
    let mut order: Vec<&str> = command.split_whitespace().collect();
    order.extend(["--contexts", RESEARCH]);
    let token = plan["token"]["token"].as_str().context("no token")?;
    let epoch = plan["token"]["expectEpoch"].to_string();
    let stale_token = format!("{epoch}-00000000000000000000000000000000");
    let stale: Vec<&str> = order
        .iter()
        .map(|word| {
            if *word == token {
                stale_token.as_str()
            } else {
                word
            }
        })
        .collect();
    let stale = plugin(&stage.clusters, &stale);
    ensure!(stale.is_err(), "a wrong token was taken: {stale:?}");
    let said =
        plugin(&stage.clusters, &order).with_context(|| whole(&stage.clusters.research, GROUP))?;
    stage.timeline.event(&format!("the order said:\n{said}"));
    ensure!(said.contains("done"), "{said}");
    let research = &stage.clusters.research;
    start_pod(research)?;
    for (volume, found) in ["journal", "data"].iter().zip(files(research)?) {
        ensure!(
            found.contains("one") && !found.contains("two"),
            "the forced copy of the {volume} shows {found}"
        );
    }
    write(research, "three")?;
    until(SHORT, "no order to be left", || {
        research
            .kubectl(&["get", "attachments", "-o", "name"])
            .is_ok_and(|names| !names.contains("-force"))
    })?;
    stage.timeline.event("research was forced and writes");
    Ok(())
}

fn confirmed(stage: &mut Stage) -> Result<()> {
    let (medical, research) = (&stage.clusters.medical, &stage.clusters.research);
    until_condition(research, SHORT, GROUP, "SplitBrain", "True")?;
    thread::sleep(NOTHING);
    let sync = condition(research, GROUP, "InSync")?;
    ensure!(sync == "False", "{}", whole(research, GROUP));
    let running = field(medical, POD, "{.status.containerStatuses[0].ready}")?;
    ensure!(
        running != "true",
        "medical runs the lost branch: {}",
        whole(medical, POD)
    );
    // On any of its volumes.
    let epoch = field(research, GROUP, "{.status.epoch}")?;
    let confirm = format!("twinsite.io/confirm-lost-branch=A@{epoch}");
    research.kubectl(&[
        "-n",
        "rv",
        "annotate",
        "mirroredvolume",
        VOLUMES[1],
        &confirm,
    ])?;
    until_condition(research, LONG, GROUP, "InSync", "True")?;
    until_condition(research, SHORT, GROUP, "SplitBrain", "False")?;
    for found in files(research)? {
        ensure!(found.contains("three"), "{found}");
    }
    Ok(())
}

/// Deleted in both clusters: all copies of the group are wiped, and its name is free again.
fn remove(stage: &mut Stage) -> Result<()> {
    let mut ids = Vec::new();
    for volume in VOLUMES {
        let what = ["-n", "rv", "mirroredvolume", volume];
        ids.push(field(stage.site(RESEARCH), &what, "{.status.volumeId}")?);
    }
    let id = field(stage.site(RESEARCH), GROUP, "{.status.group}")?;
    let register = format!("ctrc.0.registers.0.{}", id.trim_start_matches("tg-"));
    let register = ["-n", install::NAMESPACE, "configmap", &register];
    let there = field(&stage.clusters.witness, &register, "{.metadata.name}")?;
    ensure!(there.contains("registers"), "the register is {there:?}");
    for name in [MEDICAL, RESEARCH] {
        let site = stage.site(name);
        let delete = |what: &[&str]| {
            let mut arguments = vec!["-n", "rv", "delete", "--wait=false", "--ignore-not-found"];
            arguments.extend(what);
            site.kubectl(&arguments)
        };
        delete(&["pod", "pair"])?;
        delete(&["mirroredvolume", VOLUMES[0], VOLUMES[1]])?;
        delete(&["mirrorgroup", "pair"])?;
    }
    for name in [MEDICAL, RESEARCH] {
        until_gone(stage.site(name), SHORT, GROUP)?;
    }
    // A register that is taken away leaves an empty object; what stands in a register is JSON.
    let witness = &stage.clusters.witness;
    until_field(witness, LONG, &register, "{.binaryData}", |data| {
        !data.contains("eyJ")
    })?;
    for name in [MEDICAL, RESEARCH] {
        let site = stage.site(name);
        until(SHORT, "nothing to be left of the group", || {
            let left = site.kubectl(&["get", "attachments,legs,pv", "-o", "wide"]);
            left.is_ok_and(|text| !ids.iter().any(|id| text.contains(id)))
        })
        .with_context(|| whole(site, &["pv"]))?;
    }
    stage.timeline.event("the group is wiped");
    Ok(())
}
