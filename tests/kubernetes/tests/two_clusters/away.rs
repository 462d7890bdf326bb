//! Days on which somebody does not answer: an operator, an API server, the witness, the line, a credential.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use twinsite_kubernetes::clusters::{MEDICAL, RESEARCH};
use twinsite_kubernetes::demo::stage::Stage;
use twinsite_kubernetes::install;
use twinsite_kubernetes::process_group::until;

use crate::look::{
    A_WHILE, NO_GAP, SHORT, field, kill_process, no_gap, until_condition, until_said, wait_for,
};

const PAIR: &[&str] = &["sitepair", "ctrc"];
const OPERATORS: &[&str] = &[
    "-n",
    install::NAMESPACE,
    "pods",
    "-l",
    "app.kubernetes.io/component=operator",
];

pub(crate) fn operators_killed_again_and_again_stop_nothing(stage: &mut Stage) -> Result<()> {
    stage.ledger.mark();
    for _ in 0..2 {
        for site in [&stage.clusters.medical, &stage.clusters.research] {
            // One that was killed takes a moment to be there again.
            until(SHORT, "an operator to kill", || {
                kill_process(site, None, "twinsite-operator") > 0
            })?;
        }
        stage.write_records(A_WHILE / 2)?;
    }
    for site in [&stage.clusters.medical, &stage.clusters.research] {
        until(SHORT, "an operator", || {
            field(
                site,
                OPERATORS,
                "{.items[*].status.containerStatuses[0].ready}",
            )
            .is_ok_and(|ready| !ready.is_empty() && !ready.contains("false"))
        })?;
    }
    let gap = stage.ledger.longest_gap();
    ensure!(gap < NO_GAP, "no record for {:.1} s", gap.as_secs_f64());
    stage.diff(&[MEDICAL, RESEARCH])
}

/// The peer's token ends, then the witness' one; each is renewed in its Secret and nothing restarts.
pub(crate) fn an_expired_credential_is_named_and_renewed_without_a_restart(
    stage: &mut Stage,
) -> Result<()> {
    stage.ledger.mark();
    let clusters = &stage.clusters;
    let medical = &clusters.medical;
    for (secret, there, condition) in [
        ("twinsite-peer", &clusters.research, "PeerReachable"),
        ("twinsite-witness", &clusters.witness, "WitnessReachable"),
    ] {
        let good = install::access(there, secret)?;
        let (before, _) = good.split_once("token: ").context("a token")?;
        let expired = format!(
            "{before}token: expired}}}}]\n\
             contexts: [{{name: there, context: {{cluster: there, user: us}}}}]\ncurrent-context: there\n"
        );
        install::secret(medical, secret, "kubeconfig", &expired)?;
        until_condition(medical, SHORT, PAIR, condition, "False")?;
        until_said(medical, SHORT, PAIR, "Unauthorized")?;
        install::secret(medical, secret, "kubeconfig", &good)?;
        until_condition(medical, SHORT, PAIR, condition, "True")?;
    }
    stage.write_records(A_WHILE)?;
    let gap = stage.ledger.longest_gap();
    ensure!(gap < NO_GAP, "no record for {:.1} s", gap.as_secs_f64());
    Ok(())
}

pub(crate) fn an_api_server_that_is_away_stops_nothing(stage: &mut Stage) -> Result<()> {
    stage.clusters.medical.plane_mut().stop_api_server();
    let outcome = no_gap(stage);
    wait_for(stage.clusters.medical.plane_mut().start_api_server())?;
    outcome?;
    wait_for(stage.clusters.medical.wait_nodes_ready())?;
    stage.wait_in_sync(SHORT)
}

pub(crate) fn a_witness_that_is_away_stops_nothing_while_all_is_well(
    stage: &mut Stage,
) -> Result<()> {
    let sites = [
        stage.clusters.medical.subnet,
        stage.clusters.research.subnet,
    ];
    for site in sites {
        stage.clusters.hide_witness(site)?;
    }
    let outcome = no_gap(stage);
    let said = until_condition(
        &stage.clusters.medical,
        SHORT,
        PAIR,
        "WitnessReachable",
        "False",
    );
    for site in sites {
        stage.clusters.show_witness(site)?;
    }
    outcome?;
    said?;
    until_condition(
        &stage.clusters.medical,
        SHORT,
        PAIR,
        "WitnessReachable",
        "True",
    )
}

pub(crate) fn a_cut_line_leaves_exactly_one_site_writing(stage: &mut Stage) -> Result<()> {
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
