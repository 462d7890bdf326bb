//! The chart on a real API server: it installs, upgrades and goes.

use std::{path::Path, process::Command, time::Duration};

use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::time::sleep;
use twinsite_api::{Attachment, Leg, MirroredVolume};

use crate::helm::{SITE, chart};
use crate::server::{NAMESPACE, Site, WORLD, plugin};

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
