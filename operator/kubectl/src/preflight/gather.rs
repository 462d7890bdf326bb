//! The facts of one cluster for `preflight`.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment},
        core::v1::{Node, Secret},
        storage::v1::{CSIDriver, CSINode},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Api, Client};
use twinsite_api::{GROUP, Seen, VERSION};

use super::{Facts, SecretFacts, WorkloadFacts};
use crate::{
    cluster::{self, Access},
    world::Cluster,
};

const DRIVER: &str = "csi.twinsite.io";

/// Everything that `preflight` judges, of one cluster.
pub(crate) async fn facts(access: &Access, cluster: Cluster, namespace: &str) -> Facts {
    let client = &access.client;
    let secrets = secrets(client, &cluster, namespace).await;
    Facts {
        minor: minor(client).await,
        kinds: kinds(client).await,
        driver: Api::<CSIDriver>::all(client.clone())
            .get_opt(DRIVER)
            .await
            .ok()
            .map(|driver| driver.is_some()),
        workloads: workloads(client, namespace).await,
        nodes: nodes(client).await,
        secrets,
        namespace: namespace.to_owned(),
        cluster,
    }
}

async fn minor(client: &Client) -> Option<u32> {
    let version = client.apiserver_version().await.ok()?;
    version
        .minor
        .trim_end_matches(|letter: char| !letter.is_ascii_digit())
        .parse()
        .ok()
}

async fn kinds(client: &Client) -> Option<Vec<String>> {
    let all = cluster::list(&Api::<Seen<CustomResourceDefinition>>::all(client.clone()))
        .await
        .ok()?;
    Some(
        all.into_iter()
            .filter(|one| one.spec.group == GROUP)
            .filter(|one| {
                one.spec
                    .versions
                    .iter()
                    .any(|version| version.name == VERSION && version.served)
            })
            .map(|one| one.spec.names.plural)
            .collect(),
    )
}

async fn workloads(client: &Client, namespace: &str) -> Vec<WorkloadFacts> {
    let mut all = Vec::new();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    for name in ["twinsite-operator", "twinsite-csi-controller"] {
        let found = deployments.get_opt(name).await.ok().flatten();
        all.push(WorkloadFacts {
            kind: "deployment",
            name,
            pods: found.map(|one| {
                (
                    one.status
                        .and_then(|status| status.ready_replicas)
                        .unwrap_or(0),
                    one.spec.and_then(|spec| spec.replicas).unwrap_or(1),
                )
            }),
        });
    }
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    for name in ["twinsite-agent", "twinsite-csi-node"] {
        let found = sets.get_opt(name).await.ok().flatten();
        all.push(WorkloadFacts {
            kind: "daemonset",
            name,
            pods: found.map(|one| {
                one.status.map_or((0, 0), |status| {
                    (status.number_ready, status.desired_number_scheduled)
                })
            }),
        });
    }
    all
}

async fn nodes(client: &Client) -> Option<(usize, usize)> {
    let nodes = cluster::list(&Api::<Seen<Node>>::all(client.clone()))
        .await
        .ok()?;
    let with_driver = cluster::list(&Api::<Seen<CSINode>>::all(client.clone()))
        .await
        .ok()?;
    let with_driver: BTreeSet<_> = with_driver
        .into_iter()
        .filter(|node| node.spec.drivers.iter().any(|driver| driver.name == DRIVER))
        .filter_map(|node| node.metadata.name)
        .collect();
    let known = nodes
        .iter()
        .filter(|node| {
            node.metadata
                .name
                .as_ref()
                .is_some_and(|name| with_driver.contains(name))
        })
        .count();
    Some((nodes.len(), known))
}

async fn secrets(
    client: &Client,
    cluster: &Cluster,
    namespace: &str,
) -> BTreeMap<String, SecretFacts> {
    let mut names = BTreeSet::new();
    for pair in cluster
        .answer()
        .into_iter()
        .flat_map(|objects| &objects.pairs)
    {
        let spec = &pair.spec;
        names.extend(spec.peer_kubeconfig_secret.clone());
        names.extend(spec.pair_secret.clone());
        names.extend(
            spec.witness
                .kubernetes
                .as_ref()
                .map(|witness| witness.kubeconfig_secret.clone()),
        );
        names.extend(
            spec.witness
                .object_store
                .as_ref()
                .map(|witness| witness.secret.clone()),
        );
    }
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut found = BTreeMap::new();
    for name in names {
        let facts = match api.get_opt(&name).await {
            Ok(None) => SecretFacts::Absent,
            Ok(Some(secret)) => {
                let data = secret.data.unwrap_or_default();
                SecretFacts::Present {
                    fingerprint: data.get("key").map(|key| {
                        let mut hasher = DefaultHasher::new();
                        key.0.hash(&mut hasher);
                        hasher.finish()
                    }),
                    keys: data.into_keys().collect(),
                }
            }
            Err(_) => SecretFacts::Hidden,
        };
        found.insert(name, facts);
    }
    found
}
