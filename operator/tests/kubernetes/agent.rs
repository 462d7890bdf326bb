//! A stand-in of a site's agents: it says that legs are served, and makes registers as a Birth does.
//!
//! The real agents come in the tests on whole clusters.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::task::JoinHandle;
use twinsite_api::{Attachment, AttachmentMode, Leg, StoragePool};
use twinsite_register::{Create, Gen, GroupId, Register, RegisterId, Site, TxId, VolumeId};
use twinsite_witness::{Kubernetes, Swap, Witness};

pub(crate) const PORTAL: &str = "127.0.0.1:3260";

pub(crate) struct Agent {
    site: String,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let task = self.task.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = task {
            task.abort();
        }
    }
}

impl Agent {
    pub(crate) fn new(site: &str) -> Self {
        Self {
            site: site.to_owned(),
            task: Mutex::default(),
        }
    }

    pub(crate) async fn start(&self, client: &Client, witness: &str) -> Result<()> {
        let store = Kubernetes::from_kubeconfig(witness, Some("twinsite"))?;
        let witness = Witness::new(Arc::new(store), "ctrc")?;
        let (client, site) = (client.clone(), self.site.clone());
        let task = tokio::spawn(async move {
            loop {
                if let Err(error) = round(&client, &witness, &site).await {
                    eprintln!("    agent of {site}: {error:#}");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        *self.task.lock().expect("no other holder panics") = Some(task);
        Ok(())
    }

    /// Nothing is answered any more.
    pub(crate) fn stop(&self) {
        if let Some(task) = self.task.lock().expect("no other holder panics").take() {
            task.abort();
        }
    }
}

async fn round(client: &Client, witness: &Witness, site: &str) -> Result<()> {
    let params = PatchParams::apply("twinsite-agent").force();
    let legs: Api<Leg> = Api::all(client.clone());
    for leg in legs
        .list(&Default::default())
        .await
        .unwrap_or_else(|_| empty())
        .items
    {
        let served = leg
            .status
            .as_ref()
            .is_some_and(|status| !status.portals.is_empty());
        if served {
            continue;
        }
        serve(&legs, &leg, PORTAL).await?;
    }
    ready(client, site).await?;
    let attachments: Api<Attachment> = Api::all(client.clone());
    for attachment in attachments
        .list(&Default::default())
        .await
        .unwrap_or_else(|_| empty())
        .items
    {
        if attachment.metadata.deletion_timestamp.is_some() {
            let patch = json!({ "metadata": { "finalizers": null } });
            attachments
                .patch(
                    &attachment.name_any(),
                    &PatchParams::default(),
                    &Patch::Merge(&patch),
                )
                .await?;
            continue;
        }
        let done = attachment
            .status
            .as_ref()
            .is_some_and(|status| status.observed_generation.is_some());
        if done || attachment.spec.mode != AttachmentMode::Birth {
            continue;
        }
        let index = match attachment.spec.own_index().context("own index")? {
            twinsite_api::LegIndex::A => Site::A,
            twinsite_api::LegIndex::B => Site::B,
        };
        bear(witness, attachment.spec.volume.bytes(), index).await?;
        let status = json!({
            "apiVersion": "twinsite.io/v1alpha1", "kind": "Attachment", "metadata": { "name": attachment.name_any() },
            "status": { "observedGeneration": attachment.metadata.generation, "state": "Done" },
        });
        attachments
            .patch_status(&attachment.name_any(), &params, &Patch::Apply(&status))
            .await?;
        eprintln!("    {site}: born");
    }
    Ok(())
}

/// What an agent says of a leg that it serves.
pub(crate) async fn serve(legs: &Api<Leg>, leg: &Leg, portal: &str) -> Result<()> {
    let params = PatchParams::apply("twinsite-agent").force();
    let status = json!({
        "apiVersion": "twinsite.io/v1alpha1", "kind": "Leg", "metadata": { "name": leg.name_any() },
        "status": {
            "observedGeneration": leg.metadata.generation, "state": "Serving", "portals": [portal],
            "iqn": leg.spec.target_name(), "lun": leg.spec.lun, "naa": leg.spec.naa_text(), "size": leg.spec.size.bytes(),
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "AsDesired", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        },
    });
    legs.patch_status(&leg.name_any(), &params, &Patch::Apply(&status))
        .await?;
    Ok(())
}

/// The node, as a kubelet says, and the pool, as its agent does.
pub(crate) async fn ready(client: &Client, site: &str) -> Result<()> {
    let now = "2026-01-01T00:00:00Z";
    let nodes: Api<Node> = Api::all(client.clone());
    let name = format!("{site}-1");
    let Ok(Some(node)) = nodes.get_opt(&name).await else {
        return Ok(());
    };
    let is_ready = |status: &NodeStatus| {
        status
            .conditions
            .iter()
            .flatten()
            .any(|one| one.type_ == "Ready")
    };
    if node.status.as_ref().is_some_and(is_ready) {
        return Ok(());
    }
    let status = json!({ "status": { "conditions": [{
        "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "", "lastTransitionTime": now, "lastHeartbeatTime": now,
    }] } });
    nodes
        .patch_status(&name, &PatchParams::default(), &Patch::Merge(&status))
        .await?;
    let pools: Api<StoragePool> = Api::all(client.clone());
    let name = format!("{site}-ssd");
    let status = json!({
        "apiVersion": "twinsite.io/v1alpha1", "kind": "StoragePool", "metadata": { "name": name },
        "status": { "freeBytes": 1u64 << 40, "conditions": [{
            "type": "Ready", "status": "True", "reason": "AsDesired", "message": "", "lastTransitionTime": now,
        }] },
    });
    let params = PatchParams::apply("twinsite-agent").force();
    pools
        .patch_status(&name, &params, &Patch::Apply(&status))
        .await?;
    Ok(())
}

fn empty<T: Clone>() -> kube::core::ObjectList<T> {
    kube::core::ObjectList {
        types: kube::core::TypeMeta::default(),
        metadata: kube::core::ListMeta::default(),
        items: Vec::new(),
    }
}

/// Create-if-absent, then birth: as the agent does once both legs carry their first superblock.
pub(crate) async fn bear(witness: &Witness, volume: [u8; 16], site: Site) -> Result<()> {
    let group = GroupId(volume);
    let creating = match witness.read(group).await? {
        Some(register) => register,
        None => {
            let new = Register::create(Create {
                register_id: RegisterId([1; 16]),
                group,
                volumes: vec![VolumeId(volume)],
                generation: Gen([2; 16]),
                site,
                txid: TxId([3; 16]),
            })?;
            anyhow::ensure!(witness.create(&new).await == Swap::Won);
            new
        }
    };
    if creating.state == twinsite_register::State::Creating {
        let live = creating.birth(site, TxId([4; 16]))?;
        anyhow::ensure!(witness.swap(&creating, &live).await == Swap::Won);
    }
    Ok(())
}
