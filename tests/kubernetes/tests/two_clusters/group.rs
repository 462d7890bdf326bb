//! A day of a group of two volumes: a journal and its data move, are lost and are found as one.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use twinsite_kubernetes::clusters::{MEDICAL, RESEARCH};
use twinsite_kubernetes::demo::stage::Stage;
use twinsite_kubernetes::install;
use twinsite_kubernetes::process_group::until;
use twinsite_kubernetes::site::Site;
use twinsite_tests::history::History;
use twinsite_tests::workload::ledger::Ledger;

use crate::data::NODE_LOSS;
use crate::look::{
    LONG, NO_GAP, SHORT, condition, field, keep, until_condition, until_field, until_gone,
    wait_for, whole,
};

/// The example's second ledger, beside that of the stage.
const LEDGER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 80, 0, 1)), 7001);
const GROUP: &[&str] = &["-n", "rv", "mirrorgroup", "ledger"];
const VOLUMES: [&str; 2] = ["ledger-journal", "ledger-data"];
const A_FEW: u64 = 60;

fn example() -> PathBuf {
    install::tree().join("examples/group/ledger.yaml")
}

/// Both clusters hear where the group lives.
fn commit(stage: &Stage, to: &str) -> Result<()> {
    let change = format!("{{\"spec\":{{\"activeSite\":\"{to}\"}}}}");
    for name in [MEDICAL, RESEARCH] {
        let mut arguments = vec!["patch", "--type=merge", "-p", &change];
        arguments.extend(GROUP);
        stage.site(name).kubectl(&arguments)?;
    }
    Ok(())
}

fn active(site: &Site) -> Result<String> {
    field(site, GROUP, "{.status.activeSite.name}")
}

/// Records are written at that site, by a pod that runs there.
fn writes(stage: &mut Stage, ledger: &Ledger, at: &str, since: Instant) -> Result<()> {
    let context = |stage: &Stage| {
        let pods = ["-n", "rv", "get", "pods,events", "-o", "wide"];
        let pods = stage.site(at).kubectl(&pods).unwrap_or_default();
        format!("{}\n{pods}", whole(stage.site(at), GROUP))
    };
    until(LONG, &format!("a pod of the group at {at}"), || {
        let pod = ["-n", "rv", "pod", "ledger-0"];
        active(stage.site(at)).is_ok_and(|active| active == at)
            && condition(stage.site(at), &pod, "Ready").is_ok_and(|ready| ready == "True")
    })
    .with_context(|| context(stage))?;
    let total = ledger.total();
    until(LONG, &format!("records of the group at {at}"), || {
        ledger.total() >= total + A_FEW
    })
    .with_context(|| context(stage))?;
    let (gap, seconds) = (
        ledger.longest_gap().as_secs_f64(),
        since.elapsed().as_secs_f64(),
    );
    stage.timeline.event(&format!(
        "the group writes at {at}: longest gap {gap:.1} s, {A_FEW} more records after {seconds:.1} s"
    ));
    verify(stage, ledger, at)
}

/// Nothing that was acknowledged is missing, and the data shows no record that the journal lacks.
fn verify(stage: &mut Stage, ledger: &Ledger, at: &str) -> Result<()> {
    let acknowledged: u64 = ledger.acknowledged().iter().sum();
    // The data first: it must not be ahead of a journal that is read later.
    let said = stage.site(at).kubectl(&[
        "-n", "rv", "exec", "ledger-0", "--", "/records", "both", "/journal", "/data",
    ])?;
    let counts: Vec<u64> = said
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let [journal, data] = counts[..] else {
        anyhow::bail!("the reading back said {said:?}");
    };
    stage.timeline.event(&format!(
        "{at}: {acknowledged} acknowledged records of the group, {journal} in the journal, {data} in the data"
    ));
    ensure!(
        data >= acknowledged && journal >= acknowledged,
        "of {acknowledged} acknowledged records the journal has {journal}, the data {data}"
    );
    ensure!(
        data <= journal,
        "the data has {data} records, the journal {journal}"
    );
    // One that found them out of order does not start.
    let restarts = field(
        stage.site(at),
        &["-n", "rv", "pod", "ledger-0"],
        "{.status.containerStatuses[0].lastState.terminated.exitCode}",
    )?;
    ensure!(
        restarts != "6",
        "a start found the data ahead of the journal"
    );
    Ok(())
}

fn one_register(stage: &Stage) -> Result<()> {
    for name in [MEDICAL, RESEARCH] {
        let site = stage.site(name);
        let mut seen = Vec::new();
        for volume in VOLUMES {
            let what = ["-n", "rv", "mirroredvolume", volume];
            let said = field(site, &what, "{.status.epoch} {.status.activeSite.seq}")?;
            let group = field(site, &what, "{.status.group.id}")?;
            ensure!(group.starts_with("tg-"), "{volume} at {name}: {group}");
            seen.push(said);
        }
        ensure!(seen[0] == seen[1], "{name} shows two histories: {seen:?}");
    }
    Ok(())
}

fn in_sync(stage: &Stage) -> Result<()> {
    for name in [MEDICAL, RESEARCH] {
        until_condition(stage.site(name), LONG, GROUP, "InSync", "True")?;
        until_condition(stage.site(name), LONG, GROUP, "Ready", "True")?;
    }
    Ok(())
}

/// The example is applied to both clusters, and its pod writes at medical.
fn born(stage: &mut Stage, day: &str) -> Result<Ledger> {
    let folder = stage.manifests().parent().context("a folder")?;
    let history = History::create(&folder.join(format!("{day}-history.jsonl")))?;
    let ledger = Ledger::listen_at(LEDGER, history)?;
    let began = Instant::now();
    for name in [MEDICAL, RESEARCH] {
        install::apply(stage.site(name), &example())?;
    }
    writes(stage, &ledger, MEDICAL, began)?;
    in_sync(stage)?;
    one_register(stage)?;
    Ok(ledger)
}

pub(crate) fn a_journal_and_its_data_move_and_are_lost_as_one(stage: &mut Stage) -> Result<()> {
    let ledger = born(stage, "group")?;
    days(stage, &ledger)?;
    remove(stage)
}

pub(crate) fn one_volume_of_a_group_grows_and_their_node_is_lost(stage: &mut Stage) -> Result<()> {
    let ledger = born(stage, "group-node")?;
    grow(stage, &ledger)?;
    lose_the_node(stage, &ledger)?;
    remove(stage)
}

/// The data grows while both are written; the journal stays as it is.
fn grow(stage: &mut Stage, ledger: &Ledger) -> Result<()> {
    const MORE: &str = "768Mi";
    ledger.mark();
    let began = Instant::now();
    let change = format!("{{\"spec\":{{\"capacity\":\"{MORE}\"}}}}");
    for name in [MEDICAL, RESEARCH] {
        let patch = ["patch", "--type=merge", "-p", &change];
        let arguments = [
            patch.as_slice(),
            &["-n", "rv", "mirroredvolume", VOLUMES[1]],
        ]
        .concat();
        stage.site(name).kubectl(&arguments)?;
    }
    for name in [MEDICAL, RESEARCH] {
        for (volume, wanted) in [(VOLUMES[1], MORE), (VOLUMES[0], "256Mi")] {
            let what = ["-n", "rv", "mirroredvolume", volume];
            until_field(
                stage.site(name),
                LONG,
                &what,
                "{.status.capacity}",
                |size| size == wanted,
            )?;
        }
    }
    let claim = ["-n", "rv", "pvc", VOLUMES[1]];
    let site = stage.site(MEDICAL);
    let grown = || field(site, &claim, "{.status.capacity.storage}").is_ok_and(|size| size == MORE);
    // Where the kernel lets nobody grow a mounted ext4, the claim says so, and a new pod has the new size.
    let refused = || {
        field(site, &claim, "{.status.conditions}")
            .is_ok_and(|text| text.contains("CAP_SYS_RESOURCE"))
    };
    until(LONG, "the claim of the data to grow", || {
        grown() || refused()
    })
    .with_context(|| whole(site, &claim))?;
    let gap = ledger.longest_gap();
    ensure!(gap < NO_GAP, "no record for {:.1} s", gap.as_secs_f64());
    if !grown() {
        site.kubectl(&["-n", "rv", "delete", "pod", "ledger-0"])?;
        until(LONG, "the new pod to have the new size", grown)
            .with_context(|| whole(site, &claim))?;
    }
    stage.timeline.event(&format!(
        "the data has {MORE} after {:.1} s: longest gap {:.1} s",
        began.elapsed().as_secs_f64(),
        gap.as_secs_f64()
    ));
    writes(stage, ledger, MEDICAL, began)?;
    in_sync(stage)?;
    one_register(stage)
}

/// The node on which both are open goes in mid-write; the pod goes on at another one, without the site having moved.
fn lose_the_node(stage: &mut Stage, ledger: &Ledger) -> Result<()> {
    let pod = ["-n", "rv", "pod", "ledger-0"];
    let lost = field(stage.site(MEDICAL), &pod, "{.spec.nodeName}")?;
    let nodes = &stage.clusters.medical.nodes;
    let mut indexes = nodes.iter().enumerate();
    let (index, _) = indexes
        .find(|(_, node)| node.name == lost)
        .context("the pod's node")?;
    stage.clusters.medical.nodes[index].pull_the_plug();
    ledger.mark();
    let killed = Instant::now();
    stage.timeline.event(&format!("{lost} is gone"));
    let outcome = until(NODE_LOSS, "a record of the group from another node", || {
        ledger.first_after_mark().is_some()
    })
    .with_context(|| {
        let pods = [
            "-n",
            "rv",
            "get",
            "pods,volumeattachments,events",
            "-o",
            "wide",
        ];
        let site = stage.site(MEDICAL);
        format!(
            "{}\n{}",
            whole(site, GROUP),
            site.kubectl(&pods).unwrap_or_default()
        )
    })
    .and_then(|()| {
        let seconds = killed.elapsed().as_secs_f64();
        let now = field(stage.site(MEDICAL), &pod, "{.spec.nodeName}")?;
        stage
            .timeline
            .event(&format!("{now} writes the group {seconds:.1} s after that"));
        ensure!(now != lost && active(stage.site(MEDICAL))? == MEDICAL);
        keep(stage, "group-node-lost")?;
        let holders = ["get", "attachments", "-o", "jsonpath={.items[*].spec.node}"];
        let holders = stage.site(MEDICAL).kubectl(&holders)?;
        ensure!(
            !holders.contains(&lost),
            "orders for {lost} are left: {holders}"
        );
        let failed = [
            "-n",
            "rv",
            "get",
            "events",
            "--field-selector=reason=ApplyFailed",
        ];
        let failed = stage.site(MEDICAL).kubectl(&failed)?;
        ensure!(
            !failed.contains("release Attachment"),
            "the operator stumbled over its own deletions: {failed}"
        );
        verify(stage, ledger, MEDICAL)
    });
    stage.clusters.medical.start_node(index)?;
    wait_for(stage.clusters.medical.wait_nodes_ready())?;
    outcome?;
    in_sync(stage)?;
    stage.wait_in_sync(LONG)?;
    one_register(stage)?;
    writes(stage, ledger, MEDICAL, killed)
}

fn days(stage: &mut Stage, ledger: &Ledger) -> Result<()> {
    // As planned.
    ledger.mark();
    let moved = Instant::now();
    commit(stage, RESEARCH)?;
    writes(stage, ledger, RESEARCH, moved)?;
    ensure!(active(stage.site(MEDICAL))? == RESEARCH);
    one_register(stage)?;
    in_sync(stage)?;
    // By loss, in mid-write.
    ledger.mark();
    stage.clusters.research.pull_the_plug();
    let killed = Instant::now();
    let outcome = writes(stage, ledger, MEDICAL, killed);
    wait_for(stage.clusters.research.power_on())?;
    wait_for(stage.clusters.research.wait_nodes_ready())?;
    outcome?;
    in_sync(stage)?;
    stage.wait_in_sync(LONG)?;
    one_register(stage)?;
    let latched = field(stage.site(MEDICAL), GROUP, "{.status.activeSite.latched}")?;
    ensure!(latched == "true", "nobody accepted it: latched={latched}");
    // Git accepts what happened: it is home again.
    commit(stage, MEDICAL)?;
    until(SHORT, "the group to accept where it is", || {
        field(stage.site(MEDICAL), GROUP, "{.status.activeSite.latched}")
            .is_ok_and(|latched| latched == "false")
    })
    .with_context(|| whole(stage.site(MEDICAL), GROUP))?;
    for name in [MEDICAL, RESEARCH] {
        let drift = install::drift(stage.site(name), &example())?;
        ensure!(drift.is_empty(), "{name}: kubectl diff shows\n{drift}");
    }
    writes(stage, ledger, MEDICAL, Instant::now())
}

/// One of them is not deleted alone; all of them are.
fn remove(stage: &mut Stage) -> Result<()> {
    let delete = |site: &Site, what: &[&str]| {
        let mut arguments = vec!["-n", "rv", "delete", "--wait=false", "--ignore-not-found"];
        arguments.extend(what);
        site.kubectl(&arguments)
    };
    delete(stage.site(MEDICAL), &["mirroredvolume", VOLUMES[0]])?;
    until(SHORT, "a volume that goes alone to be told so", || {
        let what = ["-n", "rv", "mirroredvolume", VOLUMES[0]];
        field(stage.site(MEDICAL), &what, "{.status.conditions}")
            .is_ok_and(|text| text.contains("not deleted alone"))
    })?;
    ensure!(condition(stage.site(MEDICAL), GROUP, "Ready")? == "True");
    for name in [MEDICAL, RESEARCH] {
        let site = stage.site(name);
        delete(site, &["statefulset", "ledger"])?;
        delete(site, &["mirroredvolume", VOLUMES[0], VOLUMES[1]])?;
        delete(site, &["mirrorgroup", "ledger"])?;
    }
    for name in [MEDICAL, RESEARCH] {
        let site = stage.site(name);
        for volume in VOLUMES {
            until_gone(site, SHORT, &["-n", "rv", "mirroredvolume", volume])?;
        }
        until_gone(site, SHORT, GROUP)?;
    }
    until(
        Duration::from_secs(90),
        "nothing to be left of the group",
        || {
            [MEDICAL, RESEARCH].into_iter().all(|name| {
                let site = stage.site(name);
                let left = ["get", "attachments,legs,pv", "-o", "wide"];
                site.kubectl(&left)
                    .is_ok_and(|text| !text.contains("ledger"))
            })
        },
    )
    .with_context(|| whole(stage.site(MEDICAL), &["pv"]))
}
