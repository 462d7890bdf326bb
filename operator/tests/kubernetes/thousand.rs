//! A thousand volumes against one operator: `cargo test -p twinsite-operator --test kubernetes thousand -- --ignored --nocapture`.
//!
//! The registers are there already, so that all volumes are adopted; what is measured is the operator alone: processor time
//! and memory while nothing happens, and how soon a change shows.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, stream};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;
use twinsite_api::{Leg, MirroredVolume, VolumeId};
use twinsite_kubernetes::control_plane::ControlPlane;
use twinsite_register::Site;
use twinsite_witness::{Kubernetes, Witness};

use crate::{
    agent,
    world::{World, eventually},
};

const MEASURED: Duration = Duration::from_secs(30);
const SAMPLES: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: run it by name"]
async fn a_thousand_volumes_take_less_than_a_core_and_changes_show_within_a_second() -> Result<()> {
    if let Some(reason) = ControlPlane::missing() {
        eprintln!("skipped: {reason}");
        return Ok(());
    }
    let count: usize = std::env::var("VOLUMES")
        .ok()
        .map_or(Ok(1000), |text| text.parse())?;
    let mut world = World::start().await?;
    world.medical.agent.stop();
    world.research.agent.stop();
    registers(&world, count).await?;
    world.step(&format!("{count} registers are there"));
    let volumes: Api<MirroredVolume> = Api::namespaced(world.medical.client.clone(), "rv");
    let text = world.medical.volume("NAME");
    let apply = |n: usize| {
        let (volumes, text) = (volumes.clone(), text.replace("NAME", &name(n)));
        async move {
            let mut object: MirroredVolume = serde_yaml::from_str(&text)?;
            object.spec.workloads = None;
            volumes.create(&Default::default(), &object).await?;
            anyhow::Ok(())
        }
    };
    all(stream::iter(0..count).map(apply)).await?;
    world.step("the volumes are applied");
    world.medical.start_operator("thousand")?;
    let legs: Api<Leg> = Api::all(world.medical.client.clone());
    eventually("all legs are ordered", 600, || async {
        let seen = legs
            .list_metadata(&ListParams::default())
            .await?
            .items
            .len();
        Ok((seen == count, seen.to_string()))
    })
    .await?;
    world.step("all legs are ordered");
    serve(&world.medical.client, &legs).await?;
    world.step("all legs are served");
    eventually(
        "every volume shows its register and its leg",
        600,
        || async {
            let seen = volumes.list(&ListParams::default()).await?.items;
            let good = |volume: &&MirroredVolume| {
                let status = volume.status.clone().unwrap_or_default();
                status.epoch == Some(1)
                    && status
                        .legs
                        .iter()
                        .any(|leg| leg.site == "medical" && !leg.portals.is_empty())
            };
            let good = seen.iter().filter(good).count();
            Ok((good == count, good.to_string()))
        },
    )
    .await?;
    world.step("every volume shows its register and its leg");
    let pid = world.medical.operator_pid().context("no operator")?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = processor_seconds(pid)?;
    let began = Instant::now();
    tokio::time::sleep(MEASURED).await;
    let share = (processor_seconds(pid)? - before) / began.elapsed().as_secs_f64();
    let memory = resident_mebibytes(pid)?;
    let mut shown = Vec::new();
    for n in 0..SAMPLES {
        shown.push(change_shows(&legs, &volumes, n * count / SAMPLES).await?);
    }
    shown.sort();
    let (median, worst) = (shown[SAMPLES / 2], shown[SAMPLES - 1]);
    world.step(&format!(
        "volumes={count} cores={share:.3} memory={memory} MiB change shows after median {median:?}, worst {worst:?}"
    ));
    assert!(share < 1.0, "{share} cores");
    assert!(memory < 512, "{memory} MiB");
    assert!(median < Duration::from_secs(1), "{median:?}");
    Ok(())
}

fn name(n: usize) -> String {
    format!("v{n:04}")
}

async fn all<F>(work: impl futures::Stream<Item = F>) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let mut work = std::pin::pin!(work.buffer_unordered(16));
    while let Some(done) = work.next().await {
        done?;
    }
    Ok(())
}

async fn registers(world: &World, count: usize) -> Result<()> {
    let kubeconfig = std::fs::read_to_string(world.witness.plane.kubeconfig())?;
    let store = Kubernetes::from_kubeconfig(&kubeconfig, Some("twinsite"))?;
    let witness = Witness::new(Arc::new(store), "ctrc")?;
    // In this order: medical is A.
    witness
        .claim("medical", &kube_system(&world.medical.client).await?)
        .await?;
    let bear = |n: usize| {
        let witness = witness.clone();
        async move {
            let id = VolumeId::of("ctrc", "rv", &name(n));
            agent::bear(&witness, id.bytes(), Site::A).await
        }
    };
    all(stream::iter(0..count).map(bear)).await
}

async fn kube_system(client: &Client) -> Result<String> {
    let api: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
    api.get("kube-system").await?.uid().context("a uid")
}

async fn serve(client: &Client, legs: &Api<Leg>) -> Result<()> {
    agent::ready(client, "medical").await?;
    let served = |leg: Leg| {
        let legs = legs.clone();
        async move { agent::serve(&legs, &leg, "127.0.0.1:3260").await }
    };
    all(stream::iter(legs.list(&ListParams::default()).await?.items).map(served)).await
}

/// The agent says that it serves the leg no more; the volume's status follows, and again when it serves it.
async fn change_shows(
    legs: &Api<Leg>,
    volumes: &Api<MirroredVolume>,
    n: usize,
) -> Result<Duration> {
    let id = VolumeId::of("ctrc", "rv", &name(n));
    let before = volumes.get(&name(n)).await?.status;
    let patch = json!({ "status": { "state": "Failed", "message": "the disk is gone" } });
    let began = Instant::now();
    legs.patch_status(
        &format!("{id}-a"),
        &PatchParams::default(),
        &Patch::Merge(&patch),
    )
    .await?;
    loop {
        if volumes.get(&name(n)).await?.status != before {
            return Ok(began.elapsed());
        }
        anyhow::ensure!(
            began.elapsed() < Duration::from_secs(20),
            "the change does not show: {before:#?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn processor_seconds(pid: u32) -> Result<f64> {
    const TICKS: f64 = 100.0;
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = text.rsplit_once(')').context("a name in parentheses")?.1;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    Ok(ticks / TICKS)
}

fn resident_mebibytes(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .context("VmRSS")?;
    let kibibytes: u64 = line
        .split_whitespace()
        .nth(1)
        .context("a number")?
        .parse()?;
    Ok(kibibytes / 1024)
}
