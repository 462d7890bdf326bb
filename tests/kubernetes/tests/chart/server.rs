//! The chart on a real API server: it installs, upgrades and goes; and its ServiceAccounts may do what they need and no
//! more.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    batch::v1::Job,
    core::v1::{Pod, Secret, ServiceAccount},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::time::sleep;
use twinsite_api::{Attachment, Leg, MirroredVolume, SitePair, StoragePool};
use twinsite_kubernetes::control_plane::{ControlPlane, client_of};

use crate::helm::{SITE, chart, helm, run};

pub(crate) const NAMESPACE: &str = "twinsite";

/// Enough to be looked at: nodes, a pair, a volume, its orders at two nodes, Secrets.
pub(crate) const WORLD: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: rv}
---
apiVersion: v1
kind: Node
metadata: {name: m1}
---
apiVersion: v1
kind: Node
metadata: {name: m2}
---
apiVersion: v1
kind: Secret
metadata: {name: twinsite-peer, namespace: twinsite}
stringData: {kubeconfig: secret}
---
apiVersion: v1
kind: Secret
metadata: {name: twinsite-witness, namespace: twinsite}
stringData: {kubeconfig: secret}
---
apiVersion: v1
kind: Secret
metadata: {name: twinsite-pair, namespace: twinsite}
stringData: {key: secret}
---
apiVersion: v1
kind: Secret
metadata: {name: somebody, namespace: rv}
stringData: {password: secret}
---
apiVersion: twinsite.io/v1alpha1
kind: SitePair
metadata: {name: ctrc}
spec:
  sites: [{name: medical}, {name: research}]
  peerKubeconfigSecret: twinsite-peer
  pairSecret: twinsite-pair
  witness: {kubernetes: {kubeconfigSecret: twinsite-witness, namespace: twinsite}}
---
apiVersion: twinsite.io/v1alpha1
kind: StoragePool
metadata: {name: medical-m1}
spec: {site: medical, class: ssd, node: {name: m1, directory: /var/lib/twinsite/pool}, portals: [\"192.0.2.11:3260\"]}
---
apiVersion: twinsite.io/v1alpha1
kind: StoragePool
metadata: {name: medical-m2}
spec: {site: medical, class: ssd, node: {name: m2, directory: /var/lib/twinsite/pool}, portals: [\"192.0.2.12:3260\"]}
---
apiVersion: twinsite.io/v1alpha1
kind: MirroredVolume
metadata: {name: records, namespace: rv}
spec:
  sitePair: ctrc
  activeSite: medical
  capacity: 1Gi
  fsType: ext4
  claim: {name: records}
  legs: [{site: medical, poolClass: ssd}, {site: research, poolClass: ssd}]
---
apiVersion: twinsite.io/v1alpha1
kind: Leg
metadata: {name: on-m1, finalizers: [twinsite.io/agent]}
spec: {volume: ts-000102030405060708090a0b0c0d0e0f, leg: A, site: medical, sitePair: ctrc, pool: medical-m1, node: m1, size: 1Gi}
---
apiVersion: twinsite.io/v1alpha1
kind: Leg
metadata: {name: on-m2, finalizers: [twinsite.io/agent]}
spec: {volume: ts-000102030405060708090a0b0c0d0e0e, leg: A, site: medical, sitePair: ctrc, pool: medical-m2, node: m2, size: 1Gi}
---
apiVersion: twinsite.io/v1alpha1
kind: Attachment
metadata: {name: on-m1, finalizers: [twinsite.io/agent]}
spec:
  volume: ts-000102030405060708090a0b0c0d0e0f
  sitePair: ctrc
  node: m1
  site: medical
  mode: Writer
  size: 1Gi
  legs: [{leg: A, site: medical, portals: [\"192.0.2.11:3260\"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: agent-m1, namespace: twinsite}
spec: {nodeName: m1, serviceAccountName: twinsite-agent, containers: [{name: agent, image: none}]}
";

pub(crate) struct Site {
    pub(crate) plane: ControlPlane,
    helm: PathBuf,
    pub(crate) admin: Client,
}

impl Site {
    pub(crate) async fn start(name: &str) -> Option<Self> {
        let helm = helm()?;
        if let Some(reason) = ControlPlane::missing() {
            eprintln!("skipped: {reason}");
            return None;
        }
        let plane = ControlPlane::start(name).await.unwrap();
        let admin = plane.client().await.unwrap();
        Some(Self { plane, helm, admin })
    }

    /// A command of helm on the release; the error is what helm said.
    pub(crate) async fn helm(&self, arguments: &[&str]) -> Result<String, String> {
        let kubeconfig = self.plane.kubeconfig();
        let mut all = vec![
            "--kubeconfig".to_owned(),
            kubeconfig.to_string_lossy().into_owned(),
            "--namespace".to_owned(),
            NAMESPACE.to_owned(),
        ];
        all.extend(arguments.iter().map(|one| (*one).to_owned()));
        let helm = self.helm.clone();
        tokio::task::spawn_blocking(move || {
            let all: Vec<&str> = all.iter().map(String::as_str).collect();
            let said = run(&helm, &all);
            if said.good {
                Ok(said.out)
            } else {
                Err(format!("{}{}", said.out, said.error))
            }
        })
        .await
        .unwrap()
    }

    pub(crate) async fn install(&self) {
        self.install_as("medical").await;
    }

    pub(crate) async fn install_as(&self, site: &str) {
        let chart = chart();
        let set = format!("site={site},{}", SITE[1]);
        let notes = self
            .helm(&[
                "install",
                "twinsite",
                chart.to_str().unwrap(),
                "--create-namespace",
                "--set",
                &set,
            ])
            .await
            .unwrap();
        assert!(notes.contains("kubectl twinsite preflight"), "{notes}");
    }

    /// A client with a token of a ServiceAccount, bound to a pod if one is named.
    pub(crate) async fn account(&self, name: &str, pod: Option<&str>) -> Client {
        client_of(&self.kubeconfig_of(name, pod).await)
            .await
            .unwrap()
    }

    async fn kubeconfig_of(&self, name: &str, pod: Option<&str>) -> String {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin.clone(), NAMESPACE);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                bound_object_ref: pod.map(|pod| BoundObjectReference {
                    kind: Some("Pod".into()),
                    api_version: Some("v1".into()),
                    name: Some(pod.into()),
                    uid: None,
                }),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .unwrap();
        let admin = std::fs::read_to_string(self.plane.kubeconfig()).unwrap();
        let mut config: Value = serde_yaml::from_str(&admin).unwrap();
        config["users"][0]["user"] = json!({"token": answer.status.unwrap().token});
        serde_yaml::to_string(&config).unwrap()
    }
}

/// How a request ended.
pub(crate) fn code<T: std::fmt::Debug>(answer: kube::Result<T>) -> (u16, String) {
    match answer {
        Ok(_) => (200, String::new()),
        Err(kube::Error::Api(status)) => (status.code, status.message),
        Err(other) => panic!("no answer: {other}"),
    }
}

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

    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    assert_eq!(code(secrets.get("twinsite-peer").await).0, 200);
    assert_eq!(code(secrets.get("twinsite-witness").await).0, 200);
    assert_eq!(code(secrets.get("twinsite-pair").await).0, 403);
    assert_eq!(
        code(
            Api::<Secret>::namespaced(client, "rv")
                .get("somebody")
                .await
        )
        .0,
        403
    );
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

#[tokio::test(flavor = "multi_thread")]
async fn the_chart_installs_upgrades_its_definitions_and_goes_only_when_no_volume_is_left() {
    let Some(site) = Site::start("release").await else {
        return;
    };
    site.install().await;
    site.plane.apply(WORLD).await.unwrap();

    // A newer chart brings a newer definition; the objects stay.
    let newer = tempfile::tempdir().unwrap();
    let copy = newer.path().join("twinsite");
    newer_chart(&copy);
    let set = SITE.join(",");
    site.helm(&["upgrade", "twinsite", copy.to_str().unwrap(), "--set", &set])
        .await
        .unwrap();
    let definitions: Api<
        k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    > = Api::all(site.admin.clone());
    let stored = definitions
        .get("mirroredvolumes.twinsite.io")
        .await
        .unwrap();
    assert_eq!(stored.spec.names.short_names, Some(vec!["mvol".to_owned()]));
    let volumes: Api<MirroredVolume> = Api::namespaced(site.admin.clone(), "rv");
    assert!(volumes.get_opt("records").await.unwrap().is_some());

    // While a volume exists nothing goes.
    let (uninstall, guard) = tokio::join!(site.helm(&["uninstall", "twinsite"]), play_guard(&site));
    assert!(guard.contains("1 MirroredVolumes exist"), "{guard}");
    assert!(uninstall.is_err(), "{uninstall:?}");
    let deployments: Api<k8s_openapi::api::apps::v1::Deployment> =
        Api::namespaced(site.admin.clone(), NAMESPACE);
    assert!(
        deployments
            .get_opt("twinsite-operator")
            .await
            .unwrap()
            .is_some()
    );

    volumes
        .delete("records", &DeleteParams::default())
        .await
        .unwrap();
    let attachments: Api<Attachment> = Api::all(site.admin.clone());
    let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    attachments
        .patch("on-m1", &PatchParams::default(), &none)
        .await
        .unwrap();
    attachments
        .delete("on-m1", &DeleteParams::default())
        .await
        .unwrap();
    let (uninstall, guard) = tokio::join!(site.helm(&["uninstall", "twinsite"]), play_guard(&site));
    assert!(guard.contains("the chart may go"), "{guard}");
    uninstall.unwrap();
    assert!(
        deployments
            .get_opt("twinsite-operator")
            .await
            .unwrap()
            .is_none()
    );
    assert!(
        definitions
            .get_opt("mirroredvolumes.twinsite.io")
            .await
            .unwrap()
            .is_some()
    );
    let legs: Api<Leg> = Api::all(site.admin.clone());
    assert_eq!(
        legs.list(&ListParams::default()).await.unwrap().items.len(),
        2
    );

    // What stayed is taken up again.
    site.install().await;
}

/// The chart with a definition of a later day.
fn newer_chart(to: &Path) {
    copy_folder(&chart(), to);
    let file = to.join("files/crds/mirroredvolumes.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let newer = text.replace("    - mv\n", "    - mvol\n");
    assert_ne!(newer, text);
    std::fs::write(file, newer).unwrap();
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Runs the guard's pod by hand, as there is no kubelet here: the same program with the same account.
async fn play_guard(site: &Site) -> String {
    const LIMIT: u32 = 900;
    let jobs: Api<Job> = Api::namespaced(site.admin.clone(), NAMESPACE);
    let mut job = None;
    for _ in 0..LIMIT {
        // One that an earlier try left has its end already.
        job = jobs
            .get_opt("twinsite-uninstall-guard")
            .await
            .unwrap()
            .filter(|job| {
                job.metadata.deletion_timestamp.is_none()
                    && job
                        .status
                        .as_ref()
                        .is_none_or(|status| status.conditions.is_none())
            });
        if job.is_some() {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    let job = job.expect("helm makes the guard's job");
    let pod = job.spec.unwrap().template.spec.unwrap();
    let container = pod.containers[0].clone();
    assert_eq!(container.command, Some(vec!["kubectl-twinsite".to_owned()]));
    let kubeconfig = site
        .kubeconfig_of(&pod.service_account_name.unwrap(), None)
        .await;
    let file = site.plane.folder().join("guard.kubeconfig");
    std::fs::write(&file, kubeconfig).unwrap();
    let output = Command::new(plugin())
        .args(container.args.unwrap_or_default())
        .env("KUBECONFIG", &file)
        .output()
        .unwrap();
    let good = output.status.success();
    let (first, last) = if good {
        ("SuccessCriteriaMet", "Complete")
    } else {
        ("FailureTarget", "Failed")
    };
    let now = k8s_openapi::jiff::Timestamp::now().to_string();
    let condition = |type_| json!({"type": type_, "status": "True", "reason": "Played", "message": "", "lastTransitionTime": now});
    let mut status = json!({
        "startTime": now,
        "conditions": [condition(first), condition(last)],
        "succeeded": i32::from(good),
        "failed": i32::from(!good),
    });
    if good {
        status["completionTime"] = json!(now);
    }
    jobs.patch_status(
        "twinsite-uninstall-guard",
        &PatchParams::default(),
        &Patch::Merge(json!({"status": status})),
    )
    .await
    .unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// The plugin as it was last built beside this test; built now if it never was. `make test` builds all programs first.
pub(crate) fn plugin() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let folder = own.parent().and_then(Path::parent).unwrap();
    let program = folder.join("kubectl-twinsite");
    if !program.exists() {
        let built = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
            .args(["build", "--package", "kubectl-twinsite"])
            .current_dir(crate::helm::tree())
            .status()
            .unwrap();
        assert!(built.success());
    }
    program
}
