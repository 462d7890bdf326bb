//! Inspect orders for a plan, one for each volume that moves: made at the target site, read, and taken away again.
//!
//! Invariants: they change neither a leg nor the register; the objects are gone afterwards, or their agent is told to let them go.

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

/// What an agent of the site finds on the legs of each volume; none of one of which it did not tell in time.
pub(crate) async fn inspect(
    client: &Client,
    volumes: &[&MirroredVolume],
    pair: &SitePair,
    site: &str,
    node: &str,
) -> Result<Vec<Option<AttachmentStatus>>> {
    let api: Api<Attachment> = Api::all(client.clone());
    let mut wanted = Vec::new();
    for volume in volumes {
        let object = order::object(volume, pair, site, node, AttachmentMode::Inspect)
            .with_context(|| {
                let name = volume.metadata.name.as_deref().unwrap_or_default();
                format!("the legs of volume {name} cannot be looked at yet")
            })?;
        wanted.push(object);
    }
    let names: Vec<String> = wanted
        .iter()
        .filter_map(|object| object.metadata.name.clone())
        .collect();
    clear(&api, &names).await?;
    let seen = look(&api, &wanted).await;
    clear(&api, &names).await?;
    seen
}

async fn look(
    api: &Api<Attachment>,
    wanted: &[Attachment],
) -> Result<Vec<Option<AttachmentStatus>>> {
    let mut made = Vec::new();
    for object in wanted {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let object = api
            .create(&PostParams::default(), object)
            .await
            .with_context(|| format!("cannot make Attachment {name}"))?;
        made.push((name, object.metadata.uid));
    }
    let mut last = vec![None; made.len()];
    for _ in 0..LIMIT.as_millis() / STEP.as_millis() {
        tokio::time::sleep(STEP).await;
        for ((name, uid), last) in made.iter().zip(&mut last) {
            if !last.as_ref().is_some_and(is_over) {
                *last = read(api, name, uid.as_deref()).await?.or(last.take());
            }
        }
        if last.iter().all(|one| one.as_ref().is_some_and(is_over)) {
            break;
        }
    }
    Ok(last)
}

async fn read(
    api: &Api<Attachment>,
    name: &str,
    uid: Option<&str>,
) -> Result<Option<AttachmentStatus>> {
    let Some(seen) = api.get_opt(name).await? else {
        bail!("Attachment {name} went away while it was waited for");
    };
    if seen.metadata.uid.as_deref() != uid {
        bail!("somebody else made Attachment {name} meanwhile: try again");
    }
    Ok(seen.status)
}

const fn is_over(status: &AttachmentStatus) -> bool {
    matches!(
        status.state,
        AttachmentState::Done | AttachmentState::Failed | AttachmentState::Refused
    )
}

/// Takes Inspect orders away; one whose agent is gone loses its finalizer, since it holds nothing.
async fn clear(api: &Api<Attachment>, names: &[String]) -> Result<()> {
    let mut left = Vec::new();
    for name in names {
        let Some(old) = api.get_opt(name).await? else {
            continue;
        };
        let same = DeleteParams {
            preconditions: Some(Preconditions {
                uid: old.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match api.delete(name, &same).await {
            Ok(_) => left.push((name, old.metadata.uid)),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot delete Attachment {name}"));
            }
        }
    }
    for _ in 0..CLEAN_UP_LIMIT.as_millis() / STEP.as_millis() {
        let mut still = Vec::new();
        for (name, uid) in left {
            let seen = api.get_opt(name).await?;
            if seen.is_some_and(|seen| seen.metadata.uid == uid) {
                still.push((name, uid));
            }
        }
        left = still;
        if left.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(STEP).await;
    }
    let none = Patch::Merge(serde_json::json!({"metadata": {"finalizers": null}}));
    for (name, _) in left {
        match api.patch(name, &PatchParams::default(), &none).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot release Attachment {name}"));
            }
        }
    }
    Ok(())
}
