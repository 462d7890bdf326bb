//! Days on which what is declared is wrong, or not the same in both clusters.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use twinsite_kubernetes::clusters::Clusters;
use twinsite_kubernetes::demo::stage::Stage;
use twinsite_kubernetes::install;
use twinsite_kubernetes::process_group::until;
use twinsite_kubernetes::site::Site;

use crate::look::{
    A_WHILE, LONG, SHORT, field, no_gap, until_condition, until_field, until_gone, until_said,
    whole,
};

const RECORDS: &[&str] = &["-n", "rv", "mirroredvolume", "records"];
/// For how long nothing must happen.
const NOTHING: Duration = Duration::from_secs(4);

/// A volume that nobody uses.
pub(crate) fn spare(namespace: &str, name: &str) -> String {
    format!(
        "apiVersion: twinsite.io/v1alpha1
kind: MirroredVolume
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  sitePair: ctrc
  activeSite: medical
  capacity: 64Mi
  fsType: ext4
  accessModes: [ReadWriteOncePod]
  claim: {{name: {name}, create: true}}
  deletionPolicy: Delete
  legs:
    - {{site: medical, poolClass: ssd}}
    - {{site: research, poolClass: ssd}}
"
    )
}

/// Takes a volume away in both clusters.
pub(crate) fn remove(clusters: &Clusters, namespace: &str, name: &str) -> Result<()> {
    for site in [&clusters.medical, &clusters.research] {
        site.kubectl(&[
            "-n",
            namespace,
            "delete",
            "mirroredvolume",
            name,
            "--wait=false",
            "--ignore-not-found",
        ])?;
    }
    for site in [&clusters.medical, &clusters.research] {
        until_gone(site, SHORT, &["-n", namespace, "mirroredvolume", name])?;
    }
    Ok(())
}

pub(crate) fn a_pod_forced_onto_the_standby_site_is_held_and_told_why(
    stage: &mut Stage,
) -> Result<()> {
    const POD: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: impatient, namespace: rv}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: impatient
      image: localhost/records:dev
      imagePullPolicy: Never
      command: [/bin/sh, -c, 'while :; do sleep 1; done']
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: records}}]
";
    let site = &stage.clusters.research;
    install::apply_text(site, POD)?;
    let told = until(LONG, "a refusal that names medical", || {
        let events = site.kubectl(&[
            "-n",
            "rv",
            "get",
            "events",
            "--field-selector",
            "involvedObject.name=impatient",
        ]);
        events.is_ok_and(|events| events.contains("medical"))
    });
    let phase = field(site, &["-n", "rv", "pod", "impatient"], "{.status.phase}")?;
    site.kubectl(&["-n", "rv", "delete", "pod", "impatient", "--wait=false"])?;
    told.with_context(|| {
        site.kubectl(&["-n", "rv", "get", "events"])
            .unwrap_or_default()
    })?;
    ensure!(phase == "Pending", "the pod is {phase}");
    until(SHORT, "the pod to be gone", || {
        site.kubectl(&["-n", "rv", "get", "pod", "impatient"])
            .is_err()
            && site
                .kubectl(&["get", "volumeattachments", "-o", "name"])
                .is_ok_and(|all| all.is_empty())
    })?;
    no_gap(stage)
}

/// A volume is not born of two opinions, and a volume that lives does not follow one of them.
pub(crate) fn different_specs_are_named_and_nothing_moves(stage: &mut Stage) -> Result<()> {
    let (medical, research) = (&stage.clusters.medical, &stage.clusters.research);
    let text = spare("rv", "apart");
    install::apply_text(medical, &text)?;
    install::apply_text(research, &text.replace("fsType: ext4", "fsType: xfs"))?;
    let apart = ["-n", "rv", "mirroredvolume", "apart"];
    for site in [medical, research] {
        until_said(site, SHORT, &apart, "fsType")?;
    }
    thread::sleep(NOTHING);
    for site in [medical, research] {
        let epoch = field(site, &apart, "{.status.epoch}")?;
        ensure!(epoch.is_empty(), "{} bore it: epoch {epoch}", site.name);
    }
    remove(&stage.clusters, "rv", "apart")?;
    // One cluster heard of a move, the other did not yet.
    let change = |site: &str| format!("{{\"spec\":{{\"activeSite\":\"{site}\"}}}}");
    let edit = |site: &Site, to: &str| {
        let change = change(to);
        let mut arguments = vec!["patch", "--type=merge", "-p", &change];
        arguments.extend(RECORDS);
        site.kubectl(&arguments)
    };
    let medical = &stage.clusters.medical;
    edit(medical, "research")?;
    let said = until_said(medical, SHORT, RECORDS, "both must agree");
    let outcome = stage.write_records(A_WHILE);
    edit(&stage.clusters.medical, "medical")?;
    said?;
    outcome?;
    no_gap(stage)
}

pub(crate) fn a_claim_of_somebody_else_is_left_alone(stage: &mut Stage) -> Result<()> {
    const CLAIM: &str = "\
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: taken, namespace: rv}
spec:
  storageClassName: somebody-elses
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 5Gi}}
";
    let (medical, research) = (&stage.clusters.medical, &stage.clusters.research);
    install::apply_text(medical, CLAIM)?;
    let claim = ["-n", "rv", "pvc", "taken"];
    let uid = field(medical, &claim, "{.metadata.uid}")?;
    let text = spare("rv", "taken");
    for site in [medical, research] {
        install::apply_text(site, &text)?;
    }
    let volume = ["-n", "rv", "mirroredvolume", "taken"];
    until_said(medical, LONG, &volume, "ClaimTaken")?;
    until_condition(medical, SHORT, &volume, "Stalled", "True")?;
    until_condition(research, SHORT, &volume, "Ready", "True")?;
    let id = field(medical, &volume, "{.status.volumeId}")?;
    ensure!(
        medical.kubectl(&["get", "pv", &id]).is_err(),
        "a PersistentVolume names a claim that is not ours"
    );
    let seen = field(medical, &claim, "{.metadata.uid} {.spec.volumeName}")?;
    ensure!(seen.trim() == uid, "the claim was touched: {seen}");
    // Out of the way: the volume goes on by itself.
    medical.kubectl(&["-n", "rv", "delete", "pvc", "taken"])?;
    until_condition(medical, SHORT, &volume, "Ready", "True")?;
    until_field(medical, SHORT, &claim, "{.spec.volumeName}", |name| {
        name == id
    })?;
    remove(&stage.clusters, "rv", "taken")
}

pub(crate) fn a_volume_deleted_in_one_cluster_is_forgotten_there_only(
    stage: &mut Stage,
) -> Result<()> {
    let text = spare("rv", "spare");
    let volume = ["-n", "rv", "mirroredvolume", "spare"];
    let (medical, research) = (&stage.clusters.medical, &stage.clusters.research);
    for site in [medical, research] {
        install::apply_text(site, &text)?;
    }
    until_condition(medical, LONG, &volume, "Ready", "True")?;
    until_condition(research, LONG, &volume, "Ready", "True")?;
    let id = field(research, &volume, "{.status.volumeId}")?;
    research.kubectl(&[
        "-n",
        "rv",
        "delete",
        "mirroredvolume",
        "spare",
        "--timeout=60s",
    ])?;
    until_gone(research, SHORT, &["pv", &id])?;
    ensure!(
        medical.kubectl(&["get", "pv", &id]).is_ok(),
        "the PV went at medical too"
    );
    install::apply_text(research, &text)?;
    until_condition(research, LONG, &volume, "Ready", "True")?;
    let again = field(research, &volume, "{.status.volumeId}")?;
    ensure!(again == id, "{again} is not {id}");
    remove(&stage.clusters, "rv", "spare")
}

pub(crate) fn a_namespace_missing_at_the_peer_is_said(stage: &mut Stage) -> Result<()> {
    let medical = &stage.clusters.medical;
    install::apply_text(
        medical,
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: lonely}\n",
    )?;
    install::apply_text(medical, &spare("lonely", "spare"))?;
    let outcome = until_said(
        medical,
        SHORT,
        &["-n", "lonely", "mirroredvolume", "spare"],
        "research",
    );
    medical.kubectl(&["delete", "namespace", "lonely", "--wait=false"])?;
    outcome?;
    until_gone(medical, SHORT, &["namespace", "lonely"])
}

pub(crate) fn one_set_applied_to_both_clusters_gets_one_volume(stage: &mut Stage) -> Result<()> {
    const SET: &str = "\
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: mirrored}
provisioner: csi.twinsite.io
parameters: {sitePair: ctrc, poolClass: ssd, fsType: ext4, activeSite: medical}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: plain, namespace: rv}
spec:
  serviceName: plain
  replicas: 1
  selector: {matchLabels: {app: plain}}
  template:
    metadata: {labels: {app: plain}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: plain
          image: localhost/records:dev
          imagePullPolicy: Never
          command: [/bin/sh, -c, 'while :; do sleep 1; done']
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec:
        storageClassName: mirrored
        accessModes: [ReadWriteOncePod]
        resources: {requests: {storage: 64Mi}}
";
    const CLAIM: &[&str] = &["-n", "rv", "pvc", "data-plain-0"];
    const POD: &[&str] = &["-n", "rv", "pod", "plain-0"];
    let (medical, research) = (&stage.clusters.medical, &stage.clusters.research);
    for site in [medical, research] {
        install::apply_text(site, SET)?;
    }
    let mut handles = Vec::new();
    for site in [medical, research] {
        until_field(site, LONG, CLAIM, "{.status.phase}", |phase| {
            phase == "Bound"
        })
        .with_context(|| {
            site.kubectl(&["-n", "rv", "get", "events"])
                .unwrap_or_default()
        })?;
        let volume = field(site, CLAIM, "{.spec.volumeName}")?;
        handles.push(field(site, &["pv", &volume], "{.spec.csi.volumeHandle}")?);
    }
    ensure!(handles[0] == handles[1], "two volumes: {handles:?}");
    until_field(medical, LONG, POD, "{.status.phase}", |phase| {
        phase == "Running"
    })
    .with_context(|| whole(medical, POD))?;
    let phase = field(research, POD, "{.status.phase}")?;
    ensure!(phase == "Pending", "the pod at the standby site is {phase}");
    for site in [medical, research] {
        site.kubectl(&["-n", "rv", "delete", "statefulset", "plain"])?;
    }
    for site in [medical, research] {
        until_gone(site, SHORT, POD)?;
        site.kubectl(&["-n", "rv", "delete", "pvc", "data-plain-0", "--wait=false"])?;
    }
    for site in [medical, research] {
        until_gone(site, LONG, CLAIM)?;
    }
    Ok(())
}

/// The definition of a later version: a field, a state and a version that this operator has never heard of.
pub(crate) fn what_only_a_newer_definition_knows_is_left_alone(stage: &mut Stage) -> Result<()> {
    const NAME: &str = "mirroredvolumes.twinsite.io";
    let medical = &stage.clusters.medical;
    let text = medical.kubectl(&["get", "crd", NAME, "-o", "json"])?;
    let mut definition: serde_json::Value = serde_json::from_str(&text)?;
    let old = definition["spec"].clone();
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    let properties = definition.pointer_mut(spec).context("the spec's fields")?;
    properties["tomorrow"] = json!({"type": "string"});
    let mut later = definition["spec"]["versions"][0].clone();
    later["name"] = json!("v1beta1");
    later["storage"] = json!(false);
    definition["spec"]["versions"]
        .as_array_mut()
        .context("versions")?
        .push(later);
    let replace = |spec: &serde_json::Value| {
        let change = json!({"spec": spec}).to_string();
        medical.kubectl(&["patch", "crd", NAME, "--type=merge", "-p", &change])
    };
    replace(&definition["spec"])?;
    let set = "{\"spec\":{\"tomorrow\":\"blue\"}}";
    let mut arguments = vec!["patch", "--type=merge", "-p", set];
    arguments.extend(RECORDS);
    // The server takes a moment to serve the new definition.
    until(SHORT, "the new field to be served", || {
        medical.kubectl(&arguments).is_ok()
            && field(medical, RECORDS, "{.spec.tomorrow}").is_ok_and(|value| value == "blue")
    })?;
    let label = format!(
        "twinsite.io/volume={}",
        field(medical, RECORDS, "{.status.volumeId}")?
    );
    let ours = ["legs,pv,pvc,attachments", "-A", "-l", &label];
    let before = field(medical, &ours, "{.items[*].metadata.uid}")?;
    for program in ["twinsite-operator", "twinsite-csi"] {
        let killed = crate::look::kill_process(medical, None, program);
        ensure!(killed > 0, "medical runs no {program}");
    }
    let told = "{.status.conditions[?(@.type==\"SpecUnderstood\")].message}";
    until(
        LONG,
        "an operator that started with it to name the field",
        || field(medical, RECORDS, told).is_ok_and(|text| text.contains("spec.tomorrow")),
    )
    .with_context(|| whole(medical, RECORDS))?;
    install::wait_ready(medical)?;
    thread::sleep(NOTHING);
    let after = field(medical, &ours, "{.items[*].metadata.uid}")?;
    let value = field(medical, RECORDS, "{.spec.tomorrow}");
    let ready = field(
        medical,
        RECORDS,
        "{.status.conditions[?(@.type==\"Ready\")].status}",
    );
    let back = medical.kubectl(&[
        "patch",
        "-n",
        "rv",
        "mirroredvolume",
        "records",
        "--type=json",
        "-p",
        "[{\"op\":\"remove\",\"path\":\"/spec/tomorrow\"}]",
    ]);
    replace(&old)?;
    back?;
    ensure!(value? == "blue", "the field is gone");
    ensure!(before == after, "{before} became {after}");
    ensure!(ready? == "True", "{}", whole(medical, RECORDS));
    no_gap(stage)
}
