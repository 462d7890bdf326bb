//! A definition of a later version: a field and a word that this operator has never heard of.

use anyhow::{Context as _, Result};
use k8s_openapi::{
    api::core::v1::{Event, PersistentVolumeClaim},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use serde_json::json;
use twinsite_api::MirroredVolume;

use crate::world::{Cluster, condition, eventually};

/// One volume has the field, another one the word; the operator starts anew, and the first goes on.
pub(crate) async fn what_is_newer_stops_nothing_else(site: &mut Cluster) -> Result<()> {
    define_more(site).await?;
    let volumes: Api<DynamicObject> = Api::namespaced_with(site.client.clone(), "rv", &resource());
    site.plane.apply(&site.volume("odd")).await?;
    for (name, change) in [
        ("records", json!({"tomorrow": "blue"})),
        ("odd", json!({"failback": "OnSundays"})),
    ] {
        let patch = Patch::Merge(json!({"spec": change}));
        // The server takes a moment to serve the new definition.
        eventually(&format!("{name} has what is newer"), 20, || async {
            let done = volumes
                .patch(name, &PatchParams::default(), &patch)
                .await
                .is_ok();
            let spec = volumes.get(name).await?.data["spec"].clone();
            let there = spec["tomorrow"] == "blue" || spec["failback"] == "OnSundays";
            Ok((done && there, spec.to_string()))
        })
        .await?;
    }
    site.kill_operator();
    site.start_operator("newer")?;
    let known: Api<MirroredVolume> = Api::namespaced(site.client.clone(), "rv");
    eventually("the field is named in the status", 40, || async {
        let status = known.get("records").await?.status.unwrap_or_default();
        let told = condition(&status.conditions, "SpecUnderstood") == Some("False");
        let ready = condition(&status.conditions, "Ready") == Some("True");
        Ok((told && ready, format!("{:?}", status.conditions)))
    })
    .await?;
    let events: Api<Event> = Api::namespaced(site.client.clone(), "rv");
    eventually(
        "the word is told of in an event on its volume",
        20,
        || async {
            let all = events.list(&Default::default()).await?.items;
            let told = all.iter().find(|one| {
                one.involved_object.name.as_deref() == Some("odd")
                    && one.reason.as_deref() == Some("Unreadable")
            });
            let text = told.and_then(|one| one.message.clone()).unwrap_or_default();
            Ok((text.contains("OnSundays"), text))
        },
    )
    .await?;
    crate::local_work_goes_on(site).await?;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(site.client.clone(), "rv");
    assert!(
        claims.get_opt("records").await?.is_some(),
        "the claim of a volume that is understood in part is gone"
    );
    volumes.delete("odd", &Default::default()).await?;
    let gone = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    volumes
        .patch("odd", &PatchParams::default(), &gone)
        .await
        .map(drop)
        .or_else(|error| match error {
            kube::Error::Api(status) if status.code == 404 => Ok(()),
            other => Err(other),
        })?;
    let back = Patch::Merge(json!({"spec": {"tomorrow": null}}));
    volumes
        .patch("records", &PatchParams::default(), &back)
        .await?;
    eventually("nothing is said any more", 20, || async {
        let status = known.get("records").await?.status.unwrap_or_default();
        let told = condition(&status.conditions, "SpecUnderstood");
        Ok((told.is_none(), format!("{told:?}")))
    })
    .await
}

fn resource() -> ApiResource {
    ApiResource::erase::<MirroredVolume>(&())
}

async fn define_more(site: &Cluster) -> Result<()> {
    const NAME: &str = "mirroredvolumes.twinsite.io";
    let definitions: Api<CustomResourceDefinition> = Api::all(site.client.clone());
    let definition = serde_json::to_value(definitions.get(NAME).await?)?;
    let mut versions = definition["spec"]["versions"].clone();
    let spec = versions
        .pointer_mut("/0/schema/openAPIV3Schema/properties/spec/properties")
        .context("the spec's fields")?;
    spec["tomorrow"] = json!({"type": "string"});
    spec["failback"]["enum"]
        .as_array_mut()
        .context("the words of failback")?
        .push(json!("OnSundays"));
    let patch = Patch::Merge(json!({"spec": {"versions": versions}}));
    definitions
        .patch(NAME, &PatchParams::default(), &patch)
        .await?;
    Ok(())
}
