//! A node that gives no sign of life, and then does: what `kubectl get` shows of its pool and its Leg, here and in the other cluster.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Node},
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;
use twinsite_api::{Leg, MirroredVolume, StoragePool};
use twinsite_kubernetes::programs::{Program, Programs};

use crate::{
    agent::serve,
    world::{Cluster, World, condition, eventually},
};

const TAINT: &str = "twinsite.io/lost";

pub(crate) async fn what_a_silent_agent_said_is_taken_back(world: &World) -> Result<()> {
    let site = &world.medical;
    let kubelets = Kubelets::start(&site.client);
    serves(&site.client, "medical-ssd").await?;
    served_elsewhere(&world.research, "medical-ssd").await?;
    shows(
        site,
        "storagepools",
        "medical-ssd",
        &["True", "AsDesired", "1Ti"],
    )
    .await?;
    shows(site, "legs", "", &["True", "Serving", "AsDesired"]).await?;
    tainted(site, false).await?;

    kubelets.lives.store(false, Ordering::Relaxed);
    shows(
        site,
        "storagepools",
        "medical-ssd",
        &["Unknown", "AgentSilent"],
    )
    .await?;
    shows(site, "legs", "", &["Unknown", "Pending", "AgentSilent"]).await?;
    tainted(site, true).await?;
    let describe = kubectl(site, &["describe", "storagepool", "medical-ssd"])?;
    anyhow::ensure!(
        describe.contains("nothing was heard of the agent of node medical-1 since"),
        "{describe}"
    );
    let volumes: Api<MirroredVolume> = Api::namespaced(site.client.clone(), "rv");
    eventually("the volume tells it", 20, || async {
        let status = volumes.get("records").await?.status.unwrap_or_default();
        let mut told = status.conditions.iter();
        let told = told
            .find(|one| one.type_ == "Reconciling")
            .map(|one| one.message.clone());
        let good = told
            .as_deref()
            .is_some_and(|text| text.contains("of the agent of node medical-1"));
        Ok((good, format!("{told:?}")))
    })
    .await?;
    // It stands, and is written once.
    let legs: Api<Leg> = Api::all(site.client.clone());
    let version = legs.list(&Default::default()).await?.items[0].resource_version();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let leg = legs.list(&Default::default()).await?.items.remove(0);
    anyhow::ensure!(leg.resource_version() == version, "{leg:?}");

    // Kubelet is back, its agent is not heard yet: nobody else says that anything is served.
    kubelets.lives.store(true, Ordering::Relaxed);
    tainted(site, false).await?;
    shows(
        site,
        "storagepools",
        "medical-ssd",
        &["Unknown", "AgentSilent"],
    )
    .await?;
    serve(&legs, &leg, crate::agent::PORTAL).await?;
    serves(&site.client, "medical-ssd").await?;
    shows(
        site,
        "storagepools",
        "medical-ssd",
        &["True", "AsDesired", "1Ti"],
    )
    .await?;
    shows(site, "legs", "", &["True", "Serving", "AsDesired"]).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    shows(site, "legs", "", &["True", "Serving", "AsDesired"]).await
}

/// What the agent of a pool says, with the time at which it does.
async fn serves(client: &Client, name: &str) -> Result<()> {
    let pools: Api<StoragePool> = Api::all(client.clone());
    let status = json!({
        "freeBytes": 1u64 << 40, "free": "1Ti", "observedAt": Timestamp::now().to_string(), "observedGeneration": 1,
        "conditions": [{"type": "Ready", "status": "True", "reason": "AsDesired", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    });
    let status = json!({"apiVersion": "twinsite.io/v1alpha1", "kind": "StoragePool", "metadata": {"name": name}, "status": status});
    let params = PatchParams::apply("twinsite-agent").force();
    pools
        .patch_status(name, &params, &Patch::Apply(&status))
        .await?;
    Ok(())
}

/// The pool of the other site is no fault here, and whoever waits for what Git applied gets through.
async fn served_elsewhere(site: &Cluster, pool: &str) -> Result<()> {
    let pools: Api<StoragePool> = Api::all(site.client.clone());
    let text = pools_yaml(pool);
    site.plane.apply(&text).await?;
    eventually(
        "it is said that the pool is the other site's",
        20,
        || async {
            let status = pools.get(pool).await?.status.unwrap_or_default();
            let good = condition(&status.conditions, "Ready") == Some("True")
                && status.conditions.len() == 1
                && status.observed_generation == Some(1);
            Ok((good, format!("{status:?}")))
        },
    )
    .await?;
    shows(
        site,
        "storagepools",
        pool,
        &["True", "OtherSite", "medical"],
    )
    .await?;
    let wait = [
        "wait",
        "--for=condition=Ready",
        "storagepool",
        pool,
        "--timeout=5s",
    ];
    kubectl(site, &wait)?;
    Ok(())
}

fn pools_yaml(name: &str) -> String {
    format!(
        "apiVersion: twinsite.io/v1alpha1
kind: StoragePool
metadata: {{name: {name}}}
spec: {{site: medical, class: ssd, node: {{name: medical-1, directory: /pool}}, portals: ['127.0.0.1:3260']}}
"
    )
}

async fn tainted(site: &Cluster, wanted: bool) -> Result<()> {
    let nodes: Api<Node> = Api::all(site.client.clone());
    eventually(&format!("the node has our taint: {wanted}"), 40, || async {
        let spec = nodes.get("medical-1").await?.spec.unwrap_or_default();
        let taints = spec.taints.unwrap_or_default();
        let has = taints
            .iter()
            .any(|taint| taint.key == TAINT && taint.effect == "NoSchedule");
        Ok((has == wanted, format!("{taints:?}")))
    })
    .await
}

/// What a person sees within 40 s.
async fn shows(site: &Cluster, kind: &str, name: &str, words: &[&str]) -> Result<()> {
    let mut arguments = vec!["get", kind, "--no-headers"];
    arguments.extend((!name.is_empty()).then_some(name));
    eventually(
        &format!("{}: {kind} show {words:?}", site.name),
        40,
        || async {
            let line = kubectl(site, &arguments)?;
            let mut columns = line.split_whitespace();
            let good = words
                .iter()
                .all(|word| columns.any(|column| column == *word));
            if good {
                let seen = arguments.iter().filter(|one| **one != "--no-headers");
                let seen: Vec<&str> = seen.copied().collect();
                eprint!("{}", kubectl(site, &seen)?);
            }
            Ok((good, line))
        },
    )
    .await
}

fn kubectl(site: &Cluster, arguments: &[&str]) -> Result<String> {
    let program = Programs::obtain(&[Program::Kubectl])?.path(Program::Kubectl);
    let done = Command::new(program)
        .arg("--kubeconfig")
        .arg(site.plane.kubeconfig())
        .args(arguments)
        .output()
        .context("kubectl")?;
    let error = String::from_utf8_lossy(&done.stderr);
    anyhow::ensure!(done.status.success(), "kubectl {arguments:?}: {error}");
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// The leases of two nodes, each renewed once a second.
struct Kubelets {
    lives: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Kubelets {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Kubelets {
    fn start(client: &Client) -> Self {
        let lives = Arc::new(AtomicBool::new(true));
        let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
        let first = Arc::clone(&lives);
        let task = tokio::spawn(async move {
            loop {
                for node in ["medical-1", "medical-2"] {
                    if node == "medical-1" && !first.load(Ordering::Relaxed) {
                        continue;
                    }
                    let now = Timestamp::now();
                    let lease = json!({
                        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": node},
                        "spec": {"holderIdentity": node, "leaseDurationSeconds": 40, "renewTime": format!("{now:.6}")},
                    });
                    let params = PatchParams::apply("kubelet").force();
                    if let Err(error) = leases.patch(node, &params, &Patch::Apply(&lease)).await {
                        eprintln!("    the lease of {node}: {error}");
                    }
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        Self { lives, task }
    }
}
