//! Days on which what carries the data is hit: an agent, a node, a copy that cannot grow yet.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use twinsite_kubernetes::clusters::{MEDICAL, RESEARCH};
use twinsite_kubernetes::demo::stage::Stage;
use twinsite_kubernetes::install;
use twinsite_kubernetes::process_group::until;
use twinsite_kubernetes::site::Site;

use crate::look::{
    A_WHILE, LONG, SHORT, condition, field, kill_process, no_gap, until_condition, until_field,
    wait_for, whole,
};

pub(crate) const NODE_LOSS: Duration = Duration::from_secs(120);
/// From the death of an agent under a pod to the next record.
const AGENT_LOSS: Duration = Duration::from_secs(90);
const RECORDS: &[&str] = &["-n", "rv", "mirroredvolume", "records"];
const CLAIM: &[&str] = &["-n", "rv", "pvc", "records"];
const POD: &[&str] = &["-n", "rv", "pod", "records-0"];

fn node_of_the_pod(site: &Site) -> Result<String> {
    field(site, POD, "{.spec.nodeName}")
}

/// First the agent that serves the other copy, then the one under the pod: `kill -9` in mid-write.
pub(crate) fn a_killed_agent_loses_nothing(stage: &mut Stage) -> Result<()> {
    stage.ledger.mark();
    let killed = kill_process(&stage.clusters.research, None, "twinsite-agent");
    ensure!(killed > 0, "research runs no agent");
    no_gap(stage)?;
    stage.wait_in_sync(LONG)?;
    let node = node_of_the_pod(&stage.clusters.medical)?;
    stage.ledger.mark();
    let killed = kill_process(&stage.clusters.medical, Some(&node), "twinsite-agent");
    ensure!(killed > 0, "{node} runs no agent");
    let began = Instant::now();
    let ledger = stage.ledger.clone();
    let total = ledger.total();
    until(AGENT_LOSS, "records after the agent's death", || {
        ledger.total() > total + A_WHILE
    })
    .with_context(|| whole(&stage.clusters.medical, POD))?;
    let (gap, seconds) = (
        stage.ledger.longest_gap().as_secs_f64(),
        began.elapsed().as_secs_f64(),
    );
    stage.timeline.event(&format!(
        "{node}'s agent killed: longest gap {gap:.1} s, {A_WHILE} more records after {seconds:.1} s"
    ));
    for site in [&stage.clusters.medical, &stage.clusters.research] {
        install::wait_ready(site)?;
    }
    stage.wait_in_sync(LONG)
}

pub(crate) fn a_lost_node_is_replaced_within_its_site(stage: &mut Stage) -> Result<()> {
    let name = node_of_the_pod(&stage.clusters.medical)?;
    let index = stage
        .clusters
        .medical
        .nodes
        .iter()
        .position(|node| node.name == name)
        .context("the pod's node")?;
    let killed = Instant::now();
    stage.clusters.medical.nodes[index].pull_the_plug();
    stage.ledger.mark();
    stage.timeline.event(&format!("{name} is gone"));
    let ledger = stage.ledger.clone();
    let mut outcome = until(NODE_LOSS, "a record from another node", || {
        ledger.first_after_mark().is_some()
    });
    let seconds = killed.elapsed().as_secs_f64();
    if outcome.is_ok() {
        let now = node_of_the_pod(&stage.clusters.medical)?;
        stage
            .timeline
            .event(&format!("{now} writes {seconds:.1} s after that"));
        outcome = what_its_agent_said(&stage.clusters.medical, &name, "AgentSilent");
        let seen = (stage.clusters.medical).kubectl(&["get", "storagepools,legs"])?;
        let seconds = killed.elapsed().as_secs_f64();
        stage.timeline.event(&format!("{seconds:.1} s:\n{seen}"));
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
    what_its_agent_said(&stage.clusters.medical, &name, "AsDesired")?;
    stage.wait_in_sync(Duration::from_secs(180))
}

/// Pools and Legs on a node are Ready for this reason, if there are any.
fn what_its_agent_said(site: &Site, node: &str, reason: &str) -> Result<()> {
    for (kind, at) in [("storagepools", "spec.node.name"), ("legs", "spec.node")] {
        let path = format!(
            "{{.items[?(@.{at}==\"{node}\")].status.conditions[?(@.type==\"Ready\")].reason}}"
        );
        until_field(site, LONG, &[kind], &path, |text| {
            text.split_whitespace().all(|word| word == reason)
        })?;
    }
    Ok(())
}

/// The manifest asks for more while the other site cannot be reached: it is said, and done once both are there.
pub(crate) fn a_volume_expanded_with_one_site_away_grows_when_it_is_back(
    stage: &mut Stage,
) -> Result<()> {
    const MORE: &str = "1536Mi";
    let before = file_system_size(stage)?;
    stage.clusters.cut_line()?;
    let path = stage.manifests().join("records.yaml");
    let text = std::fs::read_to_string(&path)?;
    std::fs::write(
        &path,
        text.replace("capacity: 1Gi", &format!("capacity: {MORE}")),
    )?;
    let outcome = [MEDICAL, RESEARCH]
        .into_iter()
        .try_for_each(|name| install::apply(stage.site(name), &path))
        .and_then(|()| stage.write_records(A_WHILE))
        .and_then(|()| {
            let medical = &stage.clusters.medical;
            until_condition(medical, SHORT, RECORDS, "InSync", "False")?;
            until_field(medical, SHORT, RECORDS, "{.status.conditions}", |text| {
                text.contains("grows to")
            })?;
            let now = file_system_size(stage)?;
            ensure!(now == before, "it grew on one copy: {before} to {now}");
            Ok(())
        });
    stage.clusters.mend_line()?;
    outcome?;
    stage.wait_in_sync(LONG)?;
    // Where the kernel lets nobody grow a mounted ext4, the claim says so, and a new pod has the new size.
    let refused = || {
        field(&stage.clusters.medical, CLAIM, "{.status.conditions}")
            .is_ok_and(|text| text.contains("CAP_SYS_RESOURCE"))
    };
    until(LONG, "the file system in the pod to grow", || {
        file_system_size(stage).is_ok_and(|now| now > before) || refused()
    })
    .with_context(|| whole(&stage.clusters.medical, RECORDS))?;
    if file_system_size(stage)? == before {
        stage
            .timeline
            .event("no mounted ext4 grows on this machine: the pod starts anew");
        stage
            .clusters
            .medical
            .kubectl(&["-n", "rv", "delete", "pod", "records-0"])?;
        until(LONG, "the new pod to have the new size", || {
            file_system_size(stage).is_ok_and(|now| now > before)
        })
        .with_context(|| whole(&stage.clusters.medical, CLAIM))?;
    }
    for site in [&stage.clusters.medical, &stage.clusters.research] {
        until_field(site, SHORT, RECORDS, "{.status.capacity}", |size| {
            size == MORE
        })?;
        let ready = condition(site, RECORDS, "Ready")?;
        ensure!(ready == "True", "{}: {}", site.name, whole(site, RECORDS));
    }
    stage.diff(&[MEDICAL, RESEARCH])?;
    no_gap(stage)
}

/// In blocks, as the pod sees it.
fn file_system_size(stage: &Stage) -> Result<u64> {
    let said = stage.clusters.medical.kubectl(&[
        "-n",
        "rv",
        "exec",
        "records-0",
        "--",
        "/bin/sh",
        "-c",
        "busybox df /data || df /data",
    ])?;
    let line = said.lines().last().context("df said nothing")?;
    let blocks = line.split_whitespace().nth(1).context("no blocks")?;
    Ok(blocks.parse()?)
}
