//! The chart in the witness' cluster, on a real API server: an account that keeps ConfigMaps of one namespace, and nothing
//! else of ours.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment},
        core::v1::{ConfigMap, Secret},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};

use crate::{
    helm::chart,
    server::{NAMESPACE, Site, code},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_keeps_registers_for_both_sites_and_nothing_else() {
    let Some(site) = Site::start("third").await else {
        return;
    };
    let chart = chart();
    let chart = chart.to_str().unwrap();
    let notes = site
        .helm(&[
            "install",
            "twinsite",
            chart,
            "--create-namespace",
            "--set",
            "mode=witness",
        ])
        .await
        .unwrap();
    assert!(
        notes.contains("--service-account twinsite-witness --name twinsite-witness"),
        "{notes}"
    );
    let every = ListParams::default();
    let definitions: Api<CustomResourceDefinition> = Api::all(site.admin.clone());
    assert!(definitions.list(&every).await.unwrap().items.is_empty());
    let deployments: Api<Deployment> = Api::all(site.admin.clone());
    assert!(deployments.list(&every).await.unwrap().items.is_empty());
    let sets: Api<DaemonSet> = Api::all(site.admin.clone());
    assert!(sets.list(&every).await.unwrap().items.is_empty());

    let client = site.account("twinsite-witness", None).await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let mut map = ConfigMap {
        data: Some(BTreeMap::from([("register".to_owned(), "1".to_owned())])),
        ..ConfigMap::default()
    };
    map.metadata.name = Some("ctrc.0.registers.0.00".to_owned());
    let made = maps.create(&PostParams::default(), &map).await.unwrap();
    let replaced = maps
        .replace("ctrc.0.registers.0.00", &PostParams::default(), &made)
        .await;
    assert!(replaced.is_ok(), "{replaced:?}");
    assert!(maps.get("ctrc.0.registers.0.00").await.is_ok());
    assert_eq!(code(maps.list(&every).await).0, 403);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    assert_eq!(code(secrets.get("anything").await).0, 403);
    let elsewhere: Api<ConfigMap> = Api::namespaced(client, "kube-system");
    assert_eq!(code(elsewhere.get("anything").await).0, 403);
    let gone = maps
        .delete("ctrc.0.registers.0.00", &DeleteParams::default())
        .await;
    assert!(gone.is_ok());

    let again = site
        .helm(&["upgrade", "twinsite", chart, "--reuse-values"])
        .await;
    assert!(again.is_ok(), "{again:?}");
    // No guard here: registers are ConfigMaps of nobody's release, and stay.
    site.helm(&["uninstall", "twinsite"]).await.unwrap();
}
