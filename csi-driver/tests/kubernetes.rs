//! The controller as a process beside a real etcd and API server, with the rights it asks for and no more. The operator and the
//! agent are played: their side of the objects is written as they would.
//!
//! One test, because a control plane takes seconds to start; passes with one line where its programs cannot be had.

use std::{
    collections::HashMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::net::UnixStream;
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};
use twinsite_api::{Attachment, MirroredVolume, VolumeId};
use twinsite_csi::proto::csi::{
    CapacityRange, ControllerExpandVolumeRequest, ControllerPublishVolumeRequest,
    ControllerUnpublishVolumeRequest, CreateVolumeRequest, DeleteVolumeRequest, ListVolumesRequest,
    VolumeCapability,
    controller_client::ControllerClient,
    volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode},
};
use twinsite_kubernetes::control_plane::ControlPlane;

const LIMIT: Duration = Duration::from_secs(20);
/// The rights that docs/csi.md names.
const RIGHTS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: twinsite-csi}
rules:
- apiGroups: [twinsite.io]
  resources: [mirroredvolumes, attachments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [twinsite.io]
  resources: [sitepairs, storagepools]
  verbs: [get, list, watch]
- apiGroups: [storage.k8s.io]
  resources: [csinodes]
  verbs: [get]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: twinsite-csi}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: twinsite-csi}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: twinsite-csi}
";
const CLUSTER: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: rv}
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
apiVersion: storage.k8s.io/v1
kind: CSINode
metadata: {name: m1}
spec:
  drivers:
  - {name: csi.twinsite.io, nodeID: m1, topologyKeys: [topology.twinsite.io/site]}
---
apiVersion: storage.k8s.io/v1
kind: CSINode
metadata: {name: bare}
spec:
  drivers: []
";

/// Ends the driver with the test.
struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _ended = self.0.wait();
    }
}

fn capability() -> VolumeCapability {
    VolumeCapability {
        access_type: Some(AccessType::Mount(MountVolume::default())),
        access_mode: Some(AccessMode {
            mode: Mode::SingleNodeMultiWriter.into(),
        }),
    }
}

fn within<T>(seconds: u64, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(seconds));
    request
}

fn code<T>(answer: &Result<T, Status>) -> Code {
    answer.as_ref().err().map_or(Code::Ok, Status::code)
}

async fn connect(socket: PathBuf) -> ControllerClient<Channel> {
    let begun = Instant::now();
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        assert!(begun.elapsed() < LIMIT, "the driver does not come up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    let channel = endpoint.connect_with_connector(connector).await;
    ControllerClient::new(channel.expect("the driver answers"))
}

/// Plays the operator: volumes get life, and their capacity.
async fn operate(client: Client) {
    let all: Api<MirroredVolume> = Api::all(client.clone());
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let Ok(volumes) = all.list(&ListParams::default()).await else {
            continue;
        };
        for volume in volumes {
            let namespace = volume.namespace().unwrap_or_default();
            let id = VolumeId::of(&volume.spec.site_pair, &namespace, &volume.name_any());
            let target = |n: u8| json!({"iqn": format!("iqn.2026-11.io.twinsite:{n}"), "naa": format!("naa.600000000000000{n}")});
            let status = json!({"status": {
                "volumeId": id,
                "activeSite": {"name": "medical", "seq": 1, "latched": false},
                "epoch": 1,
                "capacity": volume.spec.capacity,
                "legs": [
                    {"site": "medical", "leg": "A", "state": "Member", "portals": ["192.0.2.1:3260"], "target": target(1)},
                    {"site": "research", "leg": "B", "state": "Member", "portals": ["192.0.2.2:3260"], "target": target(2)},
                ],
            }});
            let api: Api<MirroredVolume> = Api::namespaced(client.clone(), &namespace);
            let params = PatchParams::default();
            let _later = api
                .patch_status(&volume.name_any(), &params, &Patch::Merge(status))
                .await;
        }
    }
}

/// Plays the agent: attaches what is ordered, lets go of what is deleted unless it is told to hold it.
async fn attach(client: Client, holds: Arc<AtomicBool>) {
    let api: Api<Attachment> = Api::all(client);
    let params = PatchParams::default();
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let Ok(attachments) = api.list(&ListParams::default()).await else {
            continue;
        };
        for attachment in attachments {
            let name = attachment.name_any();
            if attachment.metadata.deletion_timestamp.is_none() {
                let status = json!({"status": {"state": "Attached"}});
                let _later = api
                    .patch_status(&name, &params, &Patch::Merge(status))
                    .await;
            } else if !holds.load(Ordering::Acquire) {
                let free = json!({"metadata": {"finalizers": null}});
                let _later = api.patch(&name, &params, &Patch::Merge(free)).await;
            }
        }
    }
}

async fn until<F: Future<Output = bool>>(what: &str, mut there: impl FnMut() -> F) {
    let begun = Instant::now();
    while !there().await {
        assert!(begun.elapsed() < LIMIT, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn claim(name: &str) -> CreateVolumeRequest {
    let parameters = [
        ("sitePair", "ctrc"),
        ("poolClass", "ssd"),
        ("csi.storage.k8s.io/pvc/name", name),
        ("csi.storage.k8s.io/pvc/namespace", "rv"),
    ];
    CreateVolumeRequest {
        name: format!("pvc-{name}"),
        volume_capabilities: vec![capability()],
        parameters: parameters
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        ..CreateVolumeRequest::default()
    }
}

fn publish(id: &str, node: &str) -> ControllerPublishVolumeRequest {
    ControllerPublishVolumeRequest {
        volume_id: id.to_owned(),
        node_id: node.to_owned(),
        volume_capability: Some(capability()),
        ..ControllerPublishVolumeRequest::default()
    }
}

fn unpublish(id: &str) -> ControllerUnpublishVolumeRequest {
    ControllerUnpublishVolumeRequest {
        volume_id: id.to_owned(),
        node_id: "m1".to_owned(),
        secrets: HashMap::new(),
    }
}

async fn start(plane: &ControlPlane, folder: &Path) -> (Driver, ControllerClient<Channel>) {
    let kubeconfig = folder.join("kubeconfig");
    let text = plane.kubeconfig_for("twinsite-csi", &[]).expect("a user");
    fs::write(&kubeconfig, text).expect("a file");
    let socket = folder.join("csi.sock");
    let log = File::create(folder.join("log")).expect("a log");
    let child = Command::new(env!("CARGO_BIN_EXE_twinsite-csi"))
        .args(["controller", "--site=medical", "--namespace=twinsite"])
        .arg(format!("--endpoint=unix://{}", socket.display()))
        .env("KUBECONFIG", kubeconfig)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the driver starts");
    let driver = Driver(child);
    (driver, connect(socket).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_and_publications_are_objects_of_the_cluster() {
    if let Some(why) = ControlPlane::missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let mut plane = ControlPlane::start("csi").await.unwrap();
    let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds");
    for kind in [
        "sitepairs",
        "storagepools",
        "attachments",
        "mirroredvolumes",
    ] {
        let text = fs::read_to_string(crds.join(format!("{kind}.yaml"))).unwrap();
        plane.apply(&text).await.unwrap();
    }
    plane.apply(RIGHTS).await.unwrap();
    plane.apply(CLUSTER).await.unwrap();
    let client = plane.client().await.unwrap();
    let holds = Arc::new(AtomicBool::new(false));
    let operator = tokio::spawn(operate(client.clone()));
    let agent = tokio::spawn(attach(client.clone(), holds.clone()));
    let folder = tempfile::tempdir().unwrap();
    let (driver, mut csi) = start(&plane, folder.path()).await;

    // A claim becomes a volume of its name, once.
    let made = csi
        .create_volume(within(20, claim("data-0")))
        .await
        .unwrap();
    let id = made.into_inner().volume.unwrap().volume_id;
    let again = csi
        .create_volume(within(20, claim("data-0")))
        .await
        .unwrap();
    assert_eq!(again.into_inner().volume.unwrap().volume_id, id);
    assert_eq!(id, VolumeId::of("ctrc", "rv", "data-0").to_string());
    let volumes: Api<MirroredVolume> = Api::namespaced(client.clone(), "rv");
    let volume = volumes.get("data-0").await.unwrap();
    assert_eq!(volume.labels()["twinsite.io/provisioner"], "csi");
    assert!(!volume.spec.claim.create);

    // Published: one Attachment, with the agent's finalizer.
    for node in ["m9", "bare"] {
        let nowhere = csi.controller_publish_volume(within(10, publish(&id, node)));
        assert_eq!(code(&nowhere.await), Code::NotFound, "{node}");
    }
    for _ in 0..2 {
        let published = csi.controller_publish_volume(within(20, publish(&id, "m1")));
        published.await.unwrap();
    }
    let attachments: Api<Attachment> = Api::all(client.clone());
    let name = format!("{id}-writer");
    let attachment = attachments.get(&name).await.unwrap();
    assert_eq!(attachment.finalizers(), ["twinsite.io/agent"]);
    let listed = csi.list_volumes(within(10, ListVolumesRequest::default()));
    let entries = listed.await.unwrap().into_inner().entries;
    let status = entries[0].status.as_ref().unwrap();
    assert_eq!(status.published_node_ids, ["m1"]);

    // What the operator orders later reaches the order of the published volume.
    let record = json!({"status": {"move": {"mode": "Planned", "expectSeq": 7}}});
    let params = PatchParams::default();
    let patch = Patch::Merge(record);
    volumes
        .patch_status("data-0", &params, &patch)
        .await
        .unwrap();
    until("the move in the order", || async {
        let order = attachments.get(&name).await.unwrap().spec.move_;
        order.is_some_and(|order| order.expect_seq == 7)
    })
    .await;
    let record = json!({"status": {"move": null}});
    let patch = Patch::Merge(record);
    volumes
        .patch_status("data-0", &params, &patch)
        .await
        .unwrap();
    until("the order without a move", || async {
        attachments.get(&name).await.unwrap().spec.move_.is_none()
    })
    .await;
    let grow = ControllerExpandVolumeRequest {
        volume_id: id.clone(),
        capacity_range: Some(CapacityRange {
            required_bytes: 2 << 30,
            limit_bytes: 0,
        }),
        ..ControllerExpandVolumeRequest::default()
    };
    let grown = csi
        .controller_expand_volume(within(20, grow))
        .await
        .unwrap();
    assert_eq!(grown.into_inner().capacity_bytes, 2 << 30);
    until("the larger size in the order", || async {
        attachments.get(&name).await.unwrap().spec.size.bytes() == 2 << 30
    })
    .await;

    // The API server goes and comes again: a call meanwhile says so, and a later one works.
    plane.stop_api_server();
    let away = csi
        .controller_unpublish_volume(within(6, unpublish(&id)))
        .await;
    let away = code(&away);
    let fine = [Code::Unavailable, Code::Cancelled, Code::DeadlineExceeded];
    assert!(fine.contains(&away), "{away:?}");
    plane.start_api_server().await.unwrap();

    // Unpublished only when the agent has let go.
    holds.store(true, Ordering::Release);
    until("a call that is not under way", || {
        let mut csi = csi.clone();
        let request = within(3, unpublish(&id));
        async move {
            let held = csi.controller_unpublish_volume(request).await.unwrap_err();
            held.code() == Code::Aborted && held.message().contains("not detached")
        }
    })
    .await;
    let deleted = attachments.get(&name).await.unwrap();
    assert!(deleted.metadata.deletion_timestamp.is_some());
    holds.store(false, Ordering::Release);
    let free = csi.controller_unpublish_volume(within(20, unpublish(&id)));
    free.await.unwrap();
    assert!(attachments.get_opt(&name).await.unwrap().is_none());

    // A driver that starts anew knows the volumes.
    drop(driver);
    let (_driver, mut csi) = start(&plane, folder.path()).await;
    until("the volumes to be known", || {
        let mut csi = csi.clone();
        async move {
            let listed = csi.list_volumes(within(5, ListVolumesRequest::default()));
            listed
                .await
                .is_ok_and(|listed| listed.into_inner().entries.len() == 1)
        }
    })
    .await;
    for _ in 0..2 {
        let delete = DeleteVolumeRequest {
            volume_id: id.clone(),
            secrets: HashMap::new(),
        };
        csi.delete_volume(within(20, delete)).await.unwrap();
    }
    assert!(volumes.get_opt("data-0").await.unwrap().is_none());
    operator.abort();
    agent.abort();
}
