//! A real API server with the chart on it, and clients with the rights of its ServiceAccounts.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{Api, Client, api::PostParams};
use serde_json::{Value, json};
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

    pub(crate) async fn kubeconfig_of(&self, name: &str, pod: Option<&str>) -> String {
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
