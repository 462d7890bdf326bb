//! Each ServiceAccount of the chart may do what it needs on a real API server, and no more.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod, Secret, ServiceAccount};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::time::sleep;
use twinsite_api::{Attachment, Leg, MirroredVolume, SitePair, StoragePool};

use crate::{
    helm::chart,
    server::{NAMESPACE, Site, WORLD, code},
};

#[tokio::test(flavor = "multi_thread")]
async fn each_account_may_do_what_it_needs_and_no_more() {
    let Some(site) = Site::start("rights").await else {
        return;
    };
    site.install().await;
    site.plane.apply(WORLD).await.unwrap();
    agent_of_a_node(&site).await;
    agent_without_a_node(&site).await;
    operator(&site).await;
    peer(&site).await;
    nobody(&site).await;
}

/// An API server takes a new admission policy up a moment after it was made.
async fn in_force(legs: &Api<Leg>) {
    let status = json!({"apiVersion": "twinsite.io/v1alpha1", "kind": "Leg", "status": {"observedGeneration": 1}});
    let trial = PatchParams::apply("twinsite-agent").force().dry_run();
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let patch = Patch::Apply(&status);
        match code(legs.patch_status("on-m2", &trial, &patch).await) {
            (200, _) if Instant::now() < end => sleep(Duration::from_millis(100)).await,
            (200, _) => panic!("the policy is not in force after a minute"),
            _ => return,
        }
    }
}

/// A stolen token of node m1 is worth what belongs to m1.
async fn agent_of_a_node(site: &Site) {
    let client = site.account("twinsite-agent", Some("agent-m1")).await;
    let legs: Api<Leg> = Api::all(client.clone());
    let attachments: Api<Attachment> = Api::all(client.clone());
    let pools: Api<StoragePool> = Api::all(client.clone());
    let ours = PatchParams::apply("twinsite-agent").force();
    let merge = PatchParams::default();

    assert_eq!(code(legs.list(&ListParams::default()).await).0, 200);
    assert_eq!(code(attachments.list(&ListParams::default()).await).0, 200);
    assert_eq!(code(pools.list(&ListParams::default()).await).0, 200);
    assert_eq!(
        code(
            Api::<SitePair>::all(client.clone())
                .list(&ListParams::default())
                .await
        )
        .0,
        200
    );

    in_force(&legs).await;
    // Its own status, as the agent writes it.
    for (kind, api) in [("Leg", true), ("StoragePool", false)] {
        let status = json!({"apiVersion": "twinsite.io/v1alpha1", "kind": kind, "status": {"observedGeneration": 1}});
        let patch = Patch::Apply(&status);
        let answer = if api {
            code(legs.patch_status("on-m1", &ours, &patch).await)
        } else {
            code(pools.patch_status("medical-m1", &ours, &patch).await)
        };
        assert_eq!(answer.0, 200, "{kind}: {}", answer.1);
        let other = if api {
            code(legs.patch_status("on-m2", &ours, &patch).await)
        } else {
            code(pools.patch_status("medical-m2", &ours, &patch).await)
        };
        assert!(
            other.0 == 422
                && other
                    .1
                    .contains("the agent of node m1 may not write an object of node m2"),
            "{kind}: {other:?}"
        );
    }
    let status = json!({"apiVersion": "twinsite.io/v1alpha1", "kind": "Attachment", "status": {"state": "Attached"}});
    assert_eq!(
        code(
            attachments
                .patch_status("on-m1", &ours, &Patch::Apply(&status))
                .await
        )
        .0,
        200
    );

    // Nothing of the orders themselves, but the finalizer.
    let node = json!({"spec": {"size": "2Gi"}});
    let answer = code(legs.patch("on-m1", &merge, &Patch::Merge(&node)).await);
    assert!(
        answer.0 == 422
            && answer
                .1
                .contains("changes nothing of an object but its status"),
        "{answer:?}"
    );
    let more = json!({"metadata": {"finalizers": ["twinsite.io/agent", "twinsite.io/mine"]}});
    assert_eq!(
        code(legs.patch("on-m1", &merge, &Patch::Merge(&more)).await).0,
        422
    );
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(
        code(legs.patch("on-m1", &merge, &Patch::Merge(&labels)).await).0,
        422
    );
    let none = json!({"metadata": {"finalizers": null}});
    assert_eq!(
        code(legs.patch("on-m2", &merge, &Patch::Merge(&none)).await).0,
        422
    );
    let answer = code(legs.patch("on-m1", &merge, &Patch::Merge(&none)).await);
    assert_eq!(answer.0, 200, "{}", answer.1);
    assert_eq!(
        code(
            attachments
                .patch("on-m1", &merge, &Patch::Merge(&none))
                .await
        )
        .0,
        200
    );

    assert_eq!(
        code(legs.delete("on-m1", &DeleteParams::default()).await).0,
        403
    );
    let mut fresh = legs.get("on-m2").await.unwrap();
    fresh.metadata = kube::api::ObjectMeta {
        name: Some("more".into()),
        ..kube::api::ObjectMeta::default()
    };
    assert_eq!(
        code(legs.create(&PostParams::default(), &fresh).await).0,
        403
    );

    // The Secrets that it needs by name, no other, and no list of any.
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    assert_eq!(code(secrets.get("twinsite-pair").await).0, 200);
    assert_eq!(code(secrets.get("twinsite-witness").await).0, 200);
    assert_eq!(code(secrets.get("twinsite-peer").await).0, 403);
    assert_eq!(code(secrets.list(&ListParams::default()).await).0, 403);
    let one = ListParams::default().fields("metadata.name=twinsite-pair");
    assert_eq!(code(secrets.list(&one).await).0, 200);
    let others: Api<Secret> = Api::namespaced(client.clone(), "rv");
    assert_eq!(code(others.get("somebody").await).0, 403);
    assert_eq!(
        code(
            Api::<Pod>::namespaced(client.clone(), NAMESPACE)
                .list(&ListParams::default())
                .await
        )
        .0,
        403
    );
    let volumes: Api<MirroredVolume> = Api::namespaced(client, "rv");
    assert_eq!(code(volumes.get("records").await).0, 403);
}

/// A token that was not made for a pod names no node.
async fn agent_without_a_node(site: &Site) {
    let client = site.account("twinsite-agent", None).await;
    let legs: Api<Leg> = Api::all(client);
    let status = json!({"status": {"observedGeneration": 1}});
    let answer = code(
        legs.patch_status("on-m2", &PatchParams::default(), &Patch::Merge(&status))
            .await,
    );
    assert!(
        answer.0 == 422 && answer.1.contains("does not name a node"),
        "{answer:?}"
    );
}

async fn operator(site: &Site) {
    let client = site.account("twinsite-operator", None).await;
    let volumes: Api<MirroredVolume> = Api::namespaced(client.clone(), "rv");
    let ours = PatchParams::apply("twinsite-operator").force();
    let status = json!({"apiVersion": "twinsite.io/v1alpha1", "kind": "MirroredVolume", "status": {"epoch": 1}});
    assert_eq!(
        code(
            volumes
                .patch_status("records", &ours, &Patch::Apply(&status))
                .await
        )
        .0,
        200
    );
    let finalizer = json!({"metadata": {"finalizers": ["twinsite.io/volume"]}});
    let merge = PatchParams::default();
    let answer = code(
        volumes
            .patch("records", &merge, &Patch::Merge(&finalizer))
            .await,
    );
    assert_eq!(answer.0, 200, "{}", answer.1);
    let moved = json!({"spec": {"activeSite": "research"}});
    let answer = code(
        volumes
            .patch("records", &merge, &Patch::Merge(&moved))
            .await,
    );
    assert!(
        answer.0 == 422 && answer.1.contains("never writes the spec"),
        "{answer:?}"
    );
    let none = json!({"metadata": {"finalizers": null}});
    assert_eq!(
        code(volumes.patch("records", &merge, &Patch::Merge(&none)).await).0,
        200
    );

    // What a silent agent said is taken back.
    let legs: Api<Leg> = Api::all(client.clone());
    let status = json!({"apiVersion": "twinsite.io/v1alpha1", "kind": "Leg", "status": {"state": "Pending"}});
    let answer = code(
        legs.patch_status("on-m2", &ours, &Patch::Apply(&status))
            .await,
    );
    assert_eq!(answer.0, 200, "{}", answer.1);

    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    assert_eq!(code(secrets.get("twinsite-peer").await).0, 200);
    assert_eq!(code(secrets.get("twinsite-witness").await).0, 200);
    assert_eq!(code(secrets.get("twinsite-pair").await).0, 403);
    assert_eq!(
        code(
            Api::<Secret>::namespaced(client.clone(), "rv")
                .get("somebody")
                .await
        )
        .0,
        403
    );
    operator_on_nodes(site, client).await;
}

/// Nothing of a node, and with `operator.taintLostNodes` one taint.
async fn operator_on_nodes(site: &Site, client: Client) {
    let nodes: Api<Node> = Api::all(client);
    let merge = PatchParams::default();
    let taints = |keys: &[&str]| {
        let taints = keys
            .iter()
            .map(|key| json!({"key": key, "effect": "NoSchedule"}));
        json!({"spec": {"taints": taints.collect::<Vec<_>>()}})
    };
    let lost = taints(&["disk", "twinsite.io/lost"]);
    let admin: Api<Node> = Api::all(site.admin.clone());
    let disk = Patch::Merge(taints(&["disk"]));
    admin.patch("m2", &merge, &disk).await.unwrap();
    assert_eq!(
        code(nodes.patch("m2", &merge, &Patch::Merge(&lost)).await).0,
        403
    );

    let chart = chart();
    let upgrade = [
        "upgrade",
        "twinsite",
        chart.to_str().unwrap(),
        "--reuse-values",
    ];
    let set = ["--set", "operator.taintLostNodes=true"];
    site.helm(&[&upgrade[..], &set].concat()).await.unwrap();
    let labelled = json!({"metadata": {"labels": {"a": "b"}}});
    let end = Instant::now() + Duration::from_secs(60);
    let trial = merge.clone().dry_run();
    while code(nodes.patch("m2", &trial, &Patch::Merge(&labelled)).await).0 != 422 {
        assert!(
            Instant::now() < end,
            "the policy is not in force after a minute"
        );
        sleep(Duration::from_millis(100)).await;
    }
    let answer = code(nodes.patch("m2", &merge, &Patch::Merge(&lost)).await);
    assert_eq!(answer.0, 200, "{}", answer.1);
    let cordon = json!({"spec": {"unschedulable": true}});
    for refused in [
        &cordon,
        &taints(&["twinsite.io/lost"]),
        &taints(&["disk", "other"]),
    ] {
        let answer = code(nodes.patch("m2", &merge, &Patch::Merge(refused)).await);
        assert!(
            answer.0 == 422 && answer.1.contains("but the taint twinsite.io/lost"),
            "{refused}: {answer:?}"
        );
    }
    let back = code(
        nodes
            .patch("m2", &merge, &Patch::Merge(&taints(&["disk"])))
            .await,
    );
    assert_eq!(back.0, 200, "{}", back.1);
}

async fn peer(site: &Site) {
    let client = site.account("twinsite-peer", None).await;
    let volumes: Api<MirroredVolume> = Api::all(client.clone());
    assert_eq!(code(volumes.list(&ListParams::default()).await).0, 200);
    let own: Api<MirroredVolume> = Api::namespaced(client.clone(), "rv");
    let status = json!({"status": {"epoch": 9}});
    assert_eq!(
        code(
            own.patch_status("records", &PatchParams::default(), &Patch::Merge(&status))
                .await
        )
        .0,
        403
    );
    assert_eq!(
        code(own.delete("records", &DeleteParams::default()).await).0,
        403
    );
    let secrets: Api<Secret> = Api::namespaced(client, NAMESPACE);
    assert_eq!(code(secrets.get("twinsite-pair").await).0, 403);
}

/// The node part of the driver asks the agent of its node and nobody else.
async fn nobody(site: &Site) {
    let client = site.account("twinsite-csi-node", None).await;
    assert_eq!(
        code(
            Api::<Leg>::all(client.clone())
                .list(&ListParams::default())
                .await
        )
        .0,
        403
    );
    assert_eq!(
        code(
            Api::<Secret>::namespaced(client, NAMESPACE)
                .get("twinsite-pair")
                .await
        )
        .0,
        403
    );
    let witness: Api<ServiceAccount> = Api::namespaced(site.admin.clone(), NAMESPACE);
    assert!(witness.get_opt("twinsite-witness").await.unwrap().is_none());
}
