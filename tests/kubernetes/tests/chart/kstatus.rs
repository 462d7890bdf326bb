//! Flux and helm judge objects by kstatus. Helm carries it, so helm is asked, on a real API server, for statuses as the operator writes them.

use std::fs;

use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use twinsite_api::MirroredVolume;

use crate::server::Site;

const CHART: &str = "{apiVersion: v2, name: volumes, version: 0.1.0}";
const VOLUME: &str = "\
apiVersion: twinsite.io/v1alpha1
kind: MirroredVolume
metadata: {name: records, namespace: twinsite}
spec:
  sitePair: ctrc
  activeSite: medical
  capacity: 1Gi
  fsType: ext4
  claim: {name: records}
  legs: [{site: medical, poolClass: ssd}, {site: research, poolClass: ssd}]
";

/// A status of the operator in which these conditions are so.
fn status(generation: i64, conditions: &[(&str, &str)]) -> Value {
    let conditions: Vec<Value> = conditions
        .iter()
        .map(|(type_, status)| {
            json!({ "type": type_, "status": status, "reason": "AsDesired", "message": "",
                "observedGeneration": generation, "lastTransitionTime": "2026-11-28T12:00:00Z" })
        })
        .collect();
    json!({ "observedGeneration": generation, "conditions": conditions })
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_by_kstatus_waits_until_the_site_can_do_its_role() {
    let Some(site) = Site::start("kstatus").await else {
        return;
    };
    site.install().await;
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("templates")).unwrap();
    fs::write(folder.path().join("Chart.yaml"), CHART).unwrap();
    fs::write(folder.path().join("templates/volume.yaml"), VOLUME).unwrap();
    let chart = folder.path().to_str().unwrap();
    // Nobody has looked at it: kstatus takes that for good, and does not wait for the first word.
    let install = [
        "install",
        "volumes",
        chart,
        "--wait=watcher",
        "--timeout",
        "4s",
    ];
    site.helm(&install).await.unwrap();
    let volumes: Api<MirroredVolume> = Api::namespaced(site.admin.clone(), "twinsite");
    for (said, is_current) in [
        // It is being made.
        (
            status(
                1,
                &[
                    ("Ready", "Unknown"),
                    ("Reconciling", "True"),
                    ("Stalled", "False"),
                ],
            ),
            false,
        ),
        // The site can do its role, active or standby.
        (
            status(
                1,
                &[
                    ("Ready", "True"),
                    ("Reconciling", "False"),
                    ("Stalled", "False"),
                ],
            ),
            true,
        ),
        // One copy only, and the site serves it.
        (
            status(
                1,
                &[
                    ("Ready", "True"),
                    ("Reconciling", "False"),
                    ("Stalled", "False"),
                    ("InSync", "False"),
                    ("Degraded", "True"),
                ],
            ),
            true,
        ),
        // Its copy lacks writes.
        (
            status(
                1,
                &[
                    ("Ready", "False"),
                    ("Reconciling", "False"),
                    ("Stalled", "False"),
                ],
            ),
            false,
        ),
        // It waits for a person.
        (
            status(
                1,
                &[
                    ("Ready", "False"),
                    ("Reconciling", "False"),
                    ("Stalled", "True"),
                ],
            ),
            false,
        ),
        // The last edit was not looked at yet.
        (
            status(
                0,
                &[
                    ("Ready", "True"),
                    ("Reconciling", "False"),
                    ("Stalled", "False"),
                ],
            ),
            false,
        ),
    ] {
        let patch = Patch::Merge(json!({ "status": said }));
        volumes
            .patch_status("records", &PatchParams::default(), &patch)
            .await
            .unwrap();
        let upgrade = [
            "upgrade",
            "volumes",
            chart,
            "--wait=watcher",
            "--timeout",
            "4s",
        ];
        let answer = site.helm(&upgrade).await;
        assert_eq!(answer.is_ok(), is_current, "{said}: {answer:?}");
    }
}
