//! The bad days of two clusters, one after the other on one stage, while records are written; after each nothing is lost.
//!
//! Not run by the usual test harness: all of it happens in a world of its own. `BAD_DAYS=name,name` runs only those, in the
//! order of the list, `BAD_DAYS=all` all; `TWINSITE_CLUSTERS=0` skips all of it.

mod away;
mod data;
mod declared;
mod group;
mod group_force;
mod identity;
mod look;
mod person;

use std::env;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use twinsite_kubernetes::clusters;
use twinsite_kubernetes::demo::stage::Stage;
use twinsite_kubernetes::programs::{Program, Programs};
use twinsite_kubernetes::world::{self, Here};

use look::A_WHILE;

/// A bad day: its name, what it says in one sentence, and how it goes.
type Day = (&'static str, fn(&mut Stage) -> Result<()>);

const DAYS: &[Day] = &[
    (
        "standby-pod",
        declared::a_pod_forced_onto_the_standby_site_is_held_and_told_why,
    ),
    (
        "specs-differ",
        declared::different_specs_are_named_and_nothing_moves,
    ),
    (
        "claim-taken",
        declared::a_claim_of_somebody_else_is_left_alone,
    ),
    (
        "deleted-once",
        declared::a_volume_deleted_in_one_cluster_is_forgotten_there_only,
    ),
    (
        "namespace-missing",
        declared::a_namespace_missing_at_the_peer_is_said,
    ),
    (
        "storage-class",
        declared::one_set_applied_to_both_clusters_gets_one_volume,
    ),
    (
        "newer-definition",
        declared::what_only_a_newer_definition_knows_is_left_alone,
    ),
    (
        "operator-killed",
        away::operators_killed_again_and_again_stop_nothing,
    ),
    (
        "credential-expired",
        away::an_expired_credential_is_named_and_renewed_without_a_restart,
    ),
    ("api-away", away::an_api_server_that_is_away_stops_nothing),
    (
        "witness-away",
        away::a_witness_that_is_away_stops_nothing_while_all_is_well,
    ),
    ("line-cut", away::a_cut_line_leaves_exactly_one_site_writing),
    (
        "grown-apart",
        data::a_volume_expanded_with_one_site_away_grows_when_it_is_back,
    ),
    (
        "witness-restored",
        person::a_restored_witness_is_not_believed_until_a_person_makes_a_new_register,
    ),
    (
        "group",
        group::a_journal_and_its_data_move_and_are_lost_as_one,
    ),
    (
        "group-node",
        group::one_volume_of_a_group_grows_and_their_node_is_lost,
    ),
    (
        "group-force",
        group_force::a_group_is_forced_as_a_whole_after_its_loss_was_named,
    ),
    ("agent-killed", data::a_killed_agent_loses_nothing),
    ("node-lost", data::a_lost_node_is_replaced_within_its_site),
    (
        "same-site",
        identity::a_second_cluster_of_the_same_name_stops_itself,
    ),
    (
        "rebuilt",
        identity::a_cluster_rebuilt_from_git_adopts_its_full_copies,
    ),
    ("forced", person::a_force_takes_two_steps_and_a_confirmation),
];

/// What is played without being asked for: the days that need no long wait, some four minutes with the clusters.
const SHORT: &[&str] = &[
    "standby-pod",
    "specs-differ",
    "claim-taken",
    "deleted-once",
    "namespace-missing",
    "storage-class",
    "newer-definition",
    "credential-expired",
    "api-away",
    "witness-away",
    "line-cut",
    "agent-killed",
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
    if let Some(reason) = clusters::unwanted().or_else(clusters::missing) {
        eprintln!("skipped: {reason}");
        return Ok(ExitCode::SUCCESS);
    }
    Programs::obtain(Program::ALL)?;
    let folder = clusters::work_folder("test-two-clusters")?;
    if let Here::Ended(code) = world::inside("two_clusters", &folder)? {
        return Ok(code);
    }
    let wanted = env::var("BAD_DAYS").unwrap_or_default();
    let wanted: Vec<&str> = match wanted.as_str() {
        "" => SHORT.to_vec(),
        "all" => DAYS.iter().map(|(name, _)| *name).collect(),
        some => some.split(',').filter(|name| !name.is_empty()).collect(),
    };
    for name in &wanted {
        let known = DAYS.iter().any(|(known, _)| known == name);
        ensure!(known, "BAD_DAYS: there is no day {name:?}");
    }
    let days: Vec<&Day> = DAYS
        .iter()
        .filter(|(name, _)| wanted.contains(name))
        .collect();
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut stage = Stage::set(&folder).await?;
        stage.open()?;
        stage.write_records(A_WHILE)?;
        let mut failed = Vec::new();
        let mut took = Vec::new();
        for &&(name, day) in &days {
            stage.timeline.act(name);
            let start = Instant::now();
            let outcome =
                tokio::task::block_in_place(|| day(&mut stage).and_then(|()| stage.verify()));
            let seconds = start.elapsed().as_secs_f64();
            took.push(format!("{name}={seconds:.0}"));
            look::keep(&stage, name)?;
            match outcome {
                Ok(()) => stage.timeline.event(&format!("{name}: ok after {seconds:.1} s")),
                Err(error) => {
                    stage
                        .timeline
                        .event(&format!("{name}: FAILED after {seconds:.1} s: {error:#}"));
                    failed.push(name);
                    // The next days begin with a whole volume.
                    break;
                }
            }
        }
        stage.close()?;
        let report = &stage.report;
        println!("two_clusters: {}", took.join(" "));
        println!(
            "two_clusters: {} days={} failed={} acknowledged={} lost={} violations={} seconds={:.0}",
            if failed.is_empty() && report.good() { "ok" } else { "FAILED" },
            days.len(),
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
