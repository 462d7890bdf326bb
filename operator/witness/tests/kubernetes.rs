//! The Kubernetes backend against a real etcd and API server, which is killed in the middle.
//!
//! One test, because a control plane takes seconds to start; passes with one line where its programs cannot be had.
#![allow(clippy::unwrap_used, reason = "a test may fail so")]

mod support;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use support::{GROUP, register, suite};
use twinsite_kubernetes::control_plane::ControlPlane;
use twinsite_witness::{
    Kubernetes, Liveness, ReadError, Store, Swap, Witness, probe, register::Register,
};

const NAMESPACE: &str = "witness";
const WRITERS: u64 = 12;

fn store(kubeconfig: &str, namespace: &str) -> Arc<dyn Store> {
    Arc::new(Kubernetes::from_kubeconfig(kubeconfig, Some(namespace)).unwrap())
}

fn witness(kubeconfig: &str, namespace: &str) -> Witness {
    Witness::new(store(kubeconfig, namespace), "ctrc").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_a_witness() {
    if let Some(reason) = ControlPlane::missing() {
        println!("skipped: {reason}");
        return;
    }
    let mut plane = ControlPlane::start("witness").await.unwrap();
    let namespace = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n");
    plane.apply(&namespace).await.unwrap();
    let admin = std::fs::read_to_string(plane.kubeconfig()).unwrap();
    let here = || witness(&admin, NAMESPACE);

    probe(store(&admin, NAMESPACE)).await.unwrap();
    suite::all(&here).await;
    liveness_is_written_over_and_over(&here()).await;
    what_cannot_be_a_witness_says_why(&plane, &admin).await;
    no_win_is_shared_or_lost_when_the_api_server_is_killed(&mut plane, &here).await;

    plane.stop_api_server();
    let start = Instant::now();
    assert!(matches!(
        here().read(GROUP).await,
        Err(ReadError::Unreachable(_))
    ));
    let swap = here().swap(&register(1, 1), &register(2, 1)).await;
    assert!(matches!(swap, Swap::Unknown(_)), "{swap:?}");
    assert!(start.elapsed() < Duration::from_secs(7));
}

async fn liveness_is_written_over_and_over(witness: &Witness) {
    assert_eq!(witness.liveness("medical").await, Ok(None));
    for nonce in [5, 6] {
        let liveness = Liveness {
            writer: "m1".to_owned(),
            nonce,
        };
        witness.renew("medical", &liveness).await.unwrap();
        assert_eq!(witness.liveness("medical").await, Ok(Some(liveness)));
    }
}

async fn what_cannot_be_a_witness_says_why(plane: &ControlPlane, admin: &str) {
    // A namespace that is not there holds nothing, and nothing can be made in it.
    let nowhere = witness(admin, "nowhere");
    assert_eq!(nowhere.read(GROUP).await, Ok(None));
    match nowhere.create(&register(1, 1)).await {
        Swap::Unknown(why) => assert!(why.contains("namespace nowhere must exist"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(probe(store(admin, "nowhere")).await.is_err());
    // Somebody without rights.
    let stranger = plane.kubeconfig_for("stranger", &[]).unwrap();
    match witness(&stranger, NAMESPACE).read(GROUP).await {
        Err(ReadError::Unreachable(why)) => assert!(why.contains("configmaps"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(probe(store(&stranger, NAMESPACE)).await.is_err());
}

/// Swaps as fast as it can until told to stop; the order numbers that it knows to have won.
async fn writer(witness: Witness, who: u64, stop: Arc<AtomicBool>) -> Vec<u64> {
    let mut wins = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let Some(current) = read(&witness).await else {
            continue;
        };
        let new = register(current.order.n + 1, who);
        let won = match witness.swap(&current, &new).await {
            Swap::Won => true,
            Swap::Conflict(_) => false,
            // By the rule: what a read shows decides, and nothing else.
            Swap::Unknown(_) => read(&witness).await.is_some_and(|now| now == new),
        };
        if won {
            wins.push(new.order.n);
        }
    }
    wins
}

async fn read(witness: &Witness) -> Option<Register> {
    match witness.read(GROUP).await {
        Ok(register) => register,
        Err(ReadError::Unreachable(_)) => {
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
        Err(error) => panic!("{error}"),
    }
}

async fn no_win_is_shared_or_lost_when_the_api_server_is_killed(
    plane: &mut ControlPlane,
    witness: &(dyn Fn() -> Witness + Sync),
) {
    let before = witness().read(GROUP).await.unwrap().unwrap().order.n;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = tokio::task::JoinSet::new();
    for who in 1..=WRITERS {
        writers.spawn(writer(witness(), who, Arc::clone(&stop)));
    }
    for life in [900, 400] {
        tokio::time::sleep(Duration::from_millis(life)).await;
        // SIGKILL, with requests of all writers under way.
        plane.stop_api_server();
        plane.start_api_server().await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    stop.store(true, Ordering::SeqCst);
    let mut winners = BTreeMap::new();
    let mut who = 0;
    while let Some(wins) = writers.join_next().await {
        who += 1;
        for n in wins.unwrap() {
            assert_eq!(winners.insert(n, who), None, "{n} was won twice");
        }
    }
    let last = witness().read(GROUP).await.unwrap().unwrap().order.n;
    let (&highest, _) = winners.last_key_value().unwrap();
    assert!(
        last >= highest,
        "{highest} was won, the register shows {last}"
    );
    assert!(
        winners.len() > 5,
        "too few wins for a race: {}",
        winners.len()
    );
    // A win may be unknown to its winner: one per writer and kill, and a read that came too late.
    let unseen = last - before - winners.len() as u64;
    assert!(unseen <= 4 * WRITERS, "{unseen} wins were never known");
    println!(
        "{} wins of {WRITERS} writers through two kills, {unseen} unseen",
        winners.len()
    );
}
