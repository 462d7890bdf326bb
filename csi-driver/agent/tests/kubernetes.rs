//! The agent as a process beside a real etcd and API server: objects become files, statuses come back, finalizers go, and an
//! API server that is away stops nothing.
//!
//! One test, because a control plane takes seconds to start; passes with one line where its programs cannot be had.
#![allow(clippy::unwrap_used, reason = "a test may fail so")]

use std::{
    fmt::Debug,
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use kube::{
    Api, Client, Resource,
    api::{DeleteParams, Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use serde_yaml::Value;
use twinsite_agent::backend::Pool;
use twinsite_api::{Attachment, Leg, SitePair, StoragePool};
use twinsite_kubernetes::control_plane::ControlPlane;
use twinsite_witness::{Directory, Witness};

const VOLUME: &str = "ts-000102030405060708090a0b0c0d0e0f";
const LIMIT: Duration = Duration::from_secs(90);

struct Lab {
    plane: ControlPlane,
    client: Client,
    dir: tempfile::TempDir,
    agent: Option<Child>,
    starts: u32,
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(agent) = &mut self.agent {
            let _gone = agent.kill();
            let _ended = agent.wait();
        }
    }
}

impl Lab {
    async fn new() -> Self {
        let plane = ControlPlane::start("bridge").await.unwrap();
        let crds = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../crds");
        for kind in ["sitepairs", "storagepools", "legs", "attachments"] {
            let text = fs::read_to_string(crds.join(format!("{kind}.yaml"))).unwrap();
            plane.apply(&text).await.unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        for folder in ["witness", "stolen", "pool"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        Pool::init(&dir.path().join("pool")).unwrap();
        let client = plane.client().await.unwrap();
        Self {
            plane,
            client,
            dir,
            agent: None,
            starts: 0,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn apply(&self, text: &str) {
        let text = text.replace("DIR", &self.dir.path().display().to_string());
        self.plane.apply(&text).await.unwrap();
    }

    fn start_agent(&mut self) {
        self.starts += 1;
        let log = File::create(self.path(&format!("agent-{}.log", self.starts))).unwrap();
        let agent = Command::new(env!("CARGO_BIN_EXE_twinsite-agent"))
            .args(["--kubernetes", "--node", "m1", "--site", "medical"])
            .args(["--namespace", "twinsite", "--listen", "127.0.0.1:0"])
            .args(["--threads", "1", "--kubeconfig"])
            .env("RUST_LOG", "info")
            .arg(self.plane.kubeconfig())
            .arg("--state")
            .arg(self.path("state"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agent = Some(agent);
    }

    fn kill_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    async fn stop_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        let told = Command::new("kill").arg(agent.id().to_string()).status();
        assert!(told.unwrap().success());
        let start = Instant::now();
        let status = loop {
            if let Some(status) = agent.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < LIMIT, "the agent does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert!(status.success(), "{status}");
    }

    fn log(&self) -> String {
        let log = self.path(&format!("agent-{}.log", self.starts));
        fs::read_to_string(log).unwrap_or_default()
    }

    fn file(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path("state/objects").join(name)).ok()
    }

    async fn get<K>(&self, name: &str) -> Option<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        Api::<K>::all(self.client.clone())
            .get_opt(name)
            .await
            .unwrap()
    }

    async fn delete<K>(&self, name: &str)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        Api::<K>::all(self.client.clone())
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }

    async fn until<F: Future<Output = bool>>(&self, what: &str, holds: impl Fn() -> F) {
        let start = Instant::now();
        while !holds().await {
            if start.elapsed() > LIMIT {
                let leg = self.file("status/leg-served.yaml");
                panic!("never: {what}\n{}\n{leg:?}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until_file(&self, name: &str, there: bool) {
        self.until(&format!("{name} is there: {there}"), || async {
            self.file(name).is_some() == there
        })
        .await;
    }

    /// Until a status file, which needs no API server, has this state.
    async fn until_state(&self, name: &str, state: &str) {
        self.until(&format!("{name} is {state}"), || async {
            let text = self.file(&format!("status/{name}")).unwrap_or_default();
            let object: Value = serde_yaml::from_str(&text).unwrap_or_default();
            object["status"]["state"] == *state
        })
        .await;
    }

    async fn until_gone<K>(&self, name: &str)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        self.until(&format!("{name} is gone"), || async {
            self.get::<K>(name).await.is_none()
        })
        .await;
    }
}

fn leg(name: &str, volume: &str, metadata: &str) -> String {
    format!(
        "apiVersion: twinsite.io/v1alpha1
kind: Leg
metadata: {{name: {name}{metadata}}}
spec: {{volume: {volume}, leg: A, site: medical, sitePair: ctrc, pool: m1, node: m1, size: 4Mi, chap: {{pairSecret: twinsite-pair}}}}
"
    )
}

fn attachment(name: &str, pair: &str, node: &str) -> String {
    format!(
        "apiVersion: twinsite.io/v1alpha1
kind: Attachment
metadata: {{name: {name}, finalizers: [twinsite.io/agent]}}
spec:
  volume: {VOLUME}
  sitePair: {pair}
  node: {node}
  site: medical
  mode: Writer
  frontEnd: None
  size: 4Mi
  legs:
  - {{leg: A, site: medical, portals: ['127.0.0.1:1']}}
  - {{leg: B, site: research, portals: ['127.0.0.1:2']}}
"
    )
}

const OBJECTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: twinsite}
---
apiVersion: v1
kind: Secret
metadata: {name: twinsite-pair, namespace: twinsite}
stringData: {key: 0123456789abcdef}
---
apiVersion: v1
kind: Secret
metadata: {name: unrelated, namespace: twinsite}
stringData: {key: nobody names it}
---
apiVersion: twinsite.io/v1alpha1
kind: SitePair
metadata: {name: ctrc}
spec:
  sites: [{name: medical}, {name: research}]
  witness: {directory: {path: DIR/witness}}
---
apiVersion: twinsite.io/v1alpha1
kind: SitePair
metadata: {name: stolen}
spec:
  sites: [{name: medical}, {name: research}]
  witness: {directory: {path: DIR/stolen}}
---
apiVersion: twinsite.io/v1alpha1
kind: StoragePool
metadata: {name: m1}
spec:
  site: medical
  node: {name: m1, directory: DIR/pool}
  portals: ['127.0.0.1:3260']
---
apiVersion: twinsite.io/v1alpha1
kind: StoragePool
metadata: {name: m2}
spec:
  site: medical
  node: {name: m2, directory: DIR/elsewhere}
  portals: ['127.0.0.1:3261']
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_lives_by_its_cluster_and_without_it() {
    if let Some(reason) = ControlPlane::missing() {
        println!("skipped: {reason}");
        return;
    }
    let mut lab = Lab::new().await;
    lab.apply(OBJECTS).await;
    objects_become_files_and_statuses_come_back(&mut lab).await;
    whoever_is_called_silent_speaks_and_takes_its_fields_back(&lab).await;
    a_deletion_waits_for_the_agent(&lab).await;
    a_name_that_another_cluster_has_is_said(&lab).await;
    the_api_server_goes_and_comes(&mut lab).await;
    what_was_deleted_unseen_is_let_go(&mut lab).await;
    lab.stop_agent().await;
}

async fn objects_become_files_and_statuses_come_back(lab: &mut Lab) {
    let finalizer = ", finalizers: [twinsite.io/agent]";
    lab.apply(&leg("served", VOLUME, finalizer)).await;
    lab.start_agent();
    lab.until("the leg is served", || async {
        let leg = lab.get::<Leg>("served").await.unwrap();
        leg.status
            .is_some_and(|status| status.portals.len() == 1 && status.boot_id.is_some())
    })
    .await;
    let status = lab.get::<Leg>("served").await.unwrap().status.unwrap();
    assert_eq!(status.observed_generation, Some(1));
    assert!(status.observed_at.is_some());
    lab.until("the pool is measured", || async {
        let pool = lab.get::<StoragePool>("m1").await.unwrap();
        pool.status
            .is_some_and(|status| status.free_bytes.is_some() && status.legs == 1)
    })
    .await;
    let pair = lab.get::<SitePair>("ctrc").await.unwrap();
    assert!(pair.status.is_none(), "a pair's status is the operator's");

    let objects = lab.path("state/objects");
    let mut files: Vec<String> = fs::read_dir(&objects)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    files.sort();
    assert_eq!(
        files,
        [
            "leg-served.yaml",
            "secret-twinsite-pair.yaml",
            "sitepair-ctrc.yaml",
            "sitepair-stolen.yaml",
            "storagepool-m1.yaml"
        ]
    );
    let secret = fs::metadata(objects.join("secret-twinsite-pair.yaml")).unwrap();
    assert_eq!(secret.permissions().mode() & 0o777, 0o600);
    assert_eq!(
        fs::metadata(objects).unwrap().permissions().mode() & 0o777,
        0o700
    );
}

/// As the operator does when nothing is heard of a node.
async fn whoever_is_called_silent_speaks_and_takes_its_fields_back(lab: &Lab) {
    let silent = json!({"type": "Ready", "status": "Unknown", "reason": "AgentSilent", "message": "since noon",
        "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let operator = PatchParams::apply("twinsite-operator").force();
    let status = |kind: &str, name: &str, status: serde_json::Value| json!({"apiVersion": "twinsite.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "status": status});
    let legs = Api::<Leg>::all(lab.client.clone());
    let pools = Api::<StoragePool>::all(lab.client.clone());
    let start = Instant::now();
    let said = json!({"state": "Pending", "conditions": [silent]});
    let said = Patch::Apply(status("Leg", "served", said));
    let leg = legs.patch_status("served", &operator, &said).await.unwrap();
    let leg = leg.status.unwrap();
    assert_eq!(leg.conditions[0].reason, "AgentSilent");
    let said = Patch::Apply(status("StoragePool", "m1", json!({"conditions": [silent]})));
    pools.patch_status("m1", &operator, &said).await.unwrap();
    lab.until("both say again what the agent says", || async {
        let leg = lab.get::<Leg>("served").await.unwrap();
        let pool = lab.get::<StoragePool>("m1").await.unwrap();
        let (leg, pool) = (leg.status.unwrap(), pool.status.unwrap());
        let conditions = [&leg.conditions[..], &pool.conditions[..]].concat();
        leg.state == twinsite_api::LegState::Serving
            && conditions.iter().all(|one| one.status == "True")
            && conditions.len() == 2
    })
    .await;
    // The next routine word would have come after a minute.
    let took = start.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    let leg = lab.get::<Leg>("served").await.unwrap();
    let owns_ready = |manager: &str| {
        let fields = leg.metadata.managed_fields.iter().flatten();
        let mut fields = fields.filter(|one| one.manager.as_deref() == Some(manager));
        fields.any(|one| {
            serde_json::to_string(&one.fields_v1)
                .unwrap()
                .contains("f:reason")
        })
    };
    assert!(owns_ready("twinsite-agent") && !owns_ready("twinsite-operator"));
}

async fn a_deletion_waits_for_the_agent(lab: &Lab) {
    lab.apply(&attachment("w", "ctrc", "m1")).await;
    lab.until("the agent says what it thinks of it", || async {
        let object = lab.get::<Attachment>("w").await.unwrap();
        object.status.is_some_and(|status| status.reason.is_some())
    })
    .await;
    lab.delete::<Attachment>("w").await;
    lab.until_gone::<Attachment>("w").await;
    assert_eq!(lab.file("attachment-w.yaml"), None);
    // One for another node is nobody's business here.
    lab.apply(&attachment("other", "ctrc", "m2")).await;
    lab.delete::<Attachment>("other").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(lab.get::<Attachment>("other").await.is_some());
}

async fn a_name_that_another_cluster_has_is_said(lab: &Lab) {
    let store = Arc::new(Directory::open(&lab.path("stolen")).unwrap());
    let witness = Witness::new(store, "stolen").unwrap();
    witness.claim("medical", "another cluster").await.unwrap();
    lab.apply(&attachment("w2", "stolen", "m1")).await;
    lab.until("the claim was refused", || async {
        let object = lab.get::<Attachment>("w2").await.unwrap();
        let status = object.status.unwrap_or_default();
        status.reason.as_deref() == Some("ClaimedByAnother")
            && status
                .message
                .is_some_and(|message| message.contains("two clusters"))
    })
    .await;
    lab.delete::<Attachment>("w2").await;
    lab.until_gone::<Attachment>("w2").await;
}

async fn the_api_server_goes_and_comes(lab: &mut Lab) {
    lab.plane.stop_api_server();
    lab.kill_agent();
    fs::remove_file(lab.path("state/objects/status/leg-served.yaml")).unwrap();
    lab.start_agent();
    // Started from its folder.
    lab.until_state("leg-served.yaml", "Serving").await;
    // Said once, however often it is tried.
    let log = lab.log();
    assert!(!log.contains("kube_client"), "{log}");
    lab.plane.start_api_server().await.unwrap();
    let volume = "ts-100102030405060708090a0b0c0d0e0f";
    lab.apply(&leg("later", volume, "")).await;
    lab.until("the watches are back", || async {
        let leg = lab.get::<Leg>("later").await.unwrap();
        leg.status.is_some_and(|status| status.size.is_some())
    })
    .await;
}

async fn what_was_deleted_unseen_is_let_go(lab: &mut Lab) {
    lab.kill_agent();
    // One that waits for the agent, and one that nothing held.
    lab.delete::<Leg>("served").await;
    lab.delete::<Leg>("later").await;
    let leg = lab.get::<Leg>("served").await.unwrap();
    assert!(leg.metadata.deletion_timestamp.is_some());
    assert!(lab.file("leg-later.yaml").is_some());
    lab.start_agent();
    lab.until_gone::<Leg>("served").await;
    lab.until_file("leg-later.yaml", false).await;
    lab.until_file("secret-twinsite-pair.yaml", false).await;
    // A finalizer that came too late for the agent does not keep an object for ever.
    lab.apply(&attachment("brief", "ctrc", "m1")).await;
    lab.delete::<Attachment>("brief").await;
    lab.until_gone::<Attachment>("brief").await;
    // A status of a name that starts anew lands on the new object.
    lab.apply(&attachment("brief", "ctrc", "m1")).await;
    lab.until("the new object has a status", || async {
        let object = lab.get::<Attachment>("brief").await.unwrap();
        object.status.is_some_and(|status| status.reason.is_some())
    })
    .await;
    let force = json!({"metadata": {"finalizers": []}});
    Api::<Attachment>::all(lab.client.clone())
        .patch("brief", &PatchParams::default(), &Patch::Merge(force))
        .await
        .unwrap();
    lab.delete::<Attachment>("brief").await;
    lab.until_file("attachment-brief.yaml", false).await;
}
