//! Days on which it is not clear who a cluster is: two of one name, one that was made anew.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use twinsite_kubernetes::clusters::{MEDICAL, RESEARCH};
use twinsite_kubernetes::demo::stage::Stage;
use twinsite_kubernetes::install;

use crate::look::{A_WHILE, LONG, SHORT, field, no_gap, until_condition, until_field, wait_for};

const PAIR: &[&str] = &["sitepair", "ctrc"];
const RECORDS: &[&str] = &["-n", "rv", "mirroredvolume", "records"];

pub(crate) fn a_second_cluster_of_the_same_name_stops_itself(stage: &mut Stage) -> Result<()> {
    let values = install::examples()
        .join("values-research.yaml")
        .display()
        .to_string();
    let research = &stage.clusters.research;
    install::helm(research, &["--values", &values, "--set", "site=medical"])?;
    let outcome = until_condition(research, SHORT * 2, PAIR, "SiteClaimed", "False");
    let gap = no_gap(stage);
    install::helm(&stage.clusters.research, &["--values", &values])?;
    outcome?;
    gap?;
    until_condition(&stage.clusters.research, SHORT, PAIR, "SiteClaimed", "True")?;
    stage.wait_in_sync(LONG)
}

/// Nothing is left of a cluster but the disks of its node; the chart, the Secrets and the manifests are applied again.
pub(crate) fn a_cluster_rebuilt_from_git_adopts_its_full_copies(stage: &mut Stage) -> Result<()> {
    let id = field(&stage.clusters.medical, RECORDS, "{.status.volumeId}")?;
    stage.clusters.research.pull_the_plug();
    let etcd = stage.clusters.research.folder().join("control-plane/etcd");
    fs::remove_dir_all(&etcd).with_context(|| format!("cannot empty {}", etcd.display()))?;
    wait_for(stage.clusters.research.power_on())?;
    wait_for(stage.clusters.research.wait_nodes_ready())?;
    install::install(&stage.clusters)?;
    install::apply(&stage.clusters.research, stage.manifests())?;
    let research = &stage.clusters.research;
    // It is another cluster for the witness, until a person says that the old one is gone.
    until_condition(research, SHORT, PAIR, "SiteClaimed", "False")?;
    let words = field(
        research,
        PAIR,
        "{.status.conditions[?(@.type==\"SiteClaimed\")].message}",
    )?;
    let order = words
        .split_whitespace()
        .find(|word| word.starts_with("twinsite.io/replaces-cluster="))
        .with_context(|| format!("nobody is told what to do: {words}"))?
        .to_owned();
    stage.write_records(A_WHILE)?;
    let research = &stage.clusters.research;
    research.kubectl(&["annotate", "sitepair", "ctrc", &order])?;
    until_condition(research, SHORT, PAIR, "SiteClaimed", "True")?;
    until_condition(research, LONG, RECORDS, "Ready", "True")?;
    let again = field(research, RECORDS, "{.status.volumeId}")?;
    ensure!(again == id, "{again} is not {id}");
    until_field(research, SHORT, &["pv", &id], "{.metadata.name}", |name| {
        name == id
    })?;
    stage.wait_in_sync(LONG)?;
    stage.diff(&[MEDICAL, RESEARCH])?;
    no_gap(stage)
}
