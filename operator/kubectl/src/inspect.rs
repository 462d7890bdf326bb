//! An Inspect order for a plan: made at the target site, read, and taken away again.
//!
//! Invariants: it changes neither a leg nor the register; the object is gone afterwards, or its agent is told to let it go.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use twinsite_api::{
    Attachment, AttachmentMode, AttachmentState, AttachmentStatus, MirroredVolume, SitePair, order,
};

use crate::world::Objects;

const LIMIT: Duration = Duration::from_secs(40);
const STEP: Duration = Duration::from_millis(500);
/// What a clean-up may take before it is left to the agent.
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(10);

/// A node of the site that has an agent: one of a pool, else one that is at work.
pub(crate) fn node(objects: &Objects, site: &str) -> Option<String> {
    let pools = objects
        .pools
        .iter()
        .filter(|pool| pool.spec.site == site)
        .filter_map(|pool| Some(pool.spec.node.as_ref()?.name.clone()));
    let at_work = objects
        .attachments
        .iter()
        .filter(|attachment| attachment.spec.site == site)
        .map(|attachment| attachment.spec.node.clone());
    pools.chain(at_work).next()
}

/// What an agent of the site finds on the legs; none if it did not answer in time.
pub(crate) async fn inspect(
    client: &Client,
    volume: &MirroredVolume,
    pair: &SitePair,
    site: &str,
    node: &str,
) -> Result<Option<AttachmentStatus>> {
    let spec = order::attachment(volume, pair, site, node, AttachmentMode::Inspect)
        .context("the legs of this volume cannot be looked at yet")?;
    let name = order::attachment_name(spec.volume, AttachmentMode::Inspect);
    let api: Api<Attachment> = Api::all(client.clone());
    clear(&api, &name).await?;
    let mut wanted = Attachment::new(&name, spec);
    wanted.metadata.finalizers = Some(vec![order::AGENT_FINALIZER.to_owned()]);
    let made = api
        .create(&PostParams::default(), &wanted)
        .await
        .with_context(|| format!("cannot make Attachment {name}"))?;
    let uid = made.metadata.uid.clone();
    let status = wait(&api, &name, uid.as_deref()).await;
    clear(&api, &name).await?;
    status
}

async fn wait(
    api: &Api<Attachment>,
    name: &str,
    uid: Option<&str>,
) -> Result<Option<AttachmentStatus>> {
    let mut last = None;
    for _ in 0..LIMIT.as_millis() / STEP.as_millis() {
        tokio::time::sleep(STEP).await;
        let Some(seen) = api.get_opt(name).await? else {
            bail!("Attachment {name} went away while it was waited for");
        };
        if seen.metadata.uid.as_deref() != uid {
            bail!("somebody else made Attachment {name} meanwhile: try again");
        }
        let Some(status) = seen.status else { continue };
        let over = matches!(
            status.state,
            AttachmentState::Done | AttachmentState::Failed | AttachmentState::Refused
        );
        last = Some(status);
        if over {
            break;
        }
    }
    Ok(last)
}

/// Takes an Inspect order away; one whose agent is gone loses its finalizer, since it holds nothing.
async fn clear(api: &Api<Attachment>, name: &str) -> Result<()> {
    let Some(old) = api.get_opt(name).await? else {
        return Ok(());
    };
    let same = DeleteParams {
        preconditions: Some(Preconditions {
            uid: old.metadata.uid.clone(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match api.delete(name, &same).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot delete Attachment {name}"));
        }
    }
    for _ in 0..CLEAN_UP_LIMIT.as_millis() / STEP.as_millis() {
        match api.get_opt(name).await? {
            Some(seen) if seen.metadata.uid == old.metadata.uid => {}
            _ => return Ok(()),
        }
        tokio::time::sleep(STEP).await;
    }
    let none = Patch::Merge(serde_json::json!({"metadata": {"finalizers": null}}));
    match api.patch(name, &PatchParams::default(), &none).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot release Attachment {name}")),
    }
}
