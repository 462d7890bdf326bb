//! A real API server answers, takes our definitions, survives its own restart, and leaves nothing behind.

use std::path::Path;

use kube::Api;
use kube::api::{DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use twinsite_kubernetes::control_plane::{ControlPlane, client_of};

const POOL: &str = "\
apiVersion: twinsite.io/v1alpha1
kind: StoragePool
metadata: {name: medical-ssd}
spec:
  site: medical
  class: ssd
  node: {name: m1, directory: /var/lib/twinsite/pool}
  portals: [\"192.0.2.11:3260\"]
";

fn skipped() -> bool {
    if let Some(reason) = ControlPlane::missing() {
        eprintln!("skipped: {reason}");
        return true;
    }
    false
}

fn alive(id: u32) -> bool {
    Path::new(&format!("/proc/{id}")).exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_takes_our_definitions_survives_a_restart_and_leaves_nothing() {
    if skipped() {
        return;
    }
    let mut plane = ControlPlane::start("medical").await.unwrap();
    let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds");
    for entry in std::fs::read_dir(crds).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        plane.apply(&text).await.unwrap();
    }
    plane.apply(POOL).await.unwrap();

    plane.stop_api_server();
    assert!(
        plane
            .client()
            .await
            .unwrap()
            .apiserver_version()
            .await
            .is_err()
    );
    plane.start_api_server().await.unwrap();

    let kind = GroupVersionKind::gvk("twinsite.io", "v1alpha1", "StoragePool");
    let pools: Api<DynamicObject> = Api::all_with(
        plane.client().await.unwrap(),
        &ApiResource::from_gvk_with_plural(&kind, "storagepools"),
    );
    let found = pools.list(&ListParams::default()).await.unwrap();
    assert_eq!(found.items.len(), 1);

    // A stranger may not read it.
    let stranger = plane.kubeconfig_for("stranger", &[]).unwrap();
    let stranger = client_of(&stranger).await.unwrap();
    let pools: Api<DynamicObject> = Api::all_with(
        stranger,
        &ApiResource::from_gvk_with_plural(&kind, "storagepools"),
    );
    assert!(pools.list(&ListParams::default()).await.is_err());

    let folder = plane.folder().to_owned();
    let ids: Vec<u32> = ["etcd", "kube-apiserver"]
        .iter()
        .map(|name| plane.group().id(name).unwrap())
        .collect();
    drop(plane);
    assert!(!folder.exists());
    assert!(ids.into_iter().all(|id| !alive(id)));
}
