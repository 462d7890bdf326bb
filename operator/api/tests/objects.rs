//! The kinds as manifests: what the design shows is read, typing errors are not, and the rules that
//! the API server will apply hold offline too.
#![allow(clippy::unwrap_used, reason = "a test may fail so")]

use kube::CustomResourceExt;
use serde_json::{Value, json};
use twinsite_api::*;

const PAIR: &str = r#"
apiVersion: twinsite.io/v1alpha1
kind: SitePair
metadata: {name: ctrc}
spec:
  sites:
  - {name: medical, state: Active}
  - {name: research, state: Active}
  peerKubeconfigSecret: twinsite-peer
  pairSecret: twinsite-pair
  witness: {kubernetes: {kubeconfigSecret: twinsite-witness, namespace: twinsite}}
  failover: {policy: Manual, detectAfter: 5s}
  nodeLoss: {policy: Fence, detectAfter: 20s}
  resync: {maxBytesPerSecond: 200Mi}
"#;

const POOL: &str = r#"
apiVersion: twinsite.io/v1alpha1
kind: StoragePool
metadata: {name: m1}
spec:
  site: medical
  class: ssd
  allowedNamespaces: [rv]
  node: {name: m1, directory: /var/lib/twinsite/pool}
  portals: ["192.0.2.11:3260", "198.51.100.11:3260"]
"#;

const VOLUME: &str = r#"
apiVersion: twinsite.io/v1alpha1
kind: MirroredVolume
metadata: {name: records, namespace: rv}
spec:
  sitePair: ctrc
  activeSite: medical
  failback: Manual
  onNoQuorum: Suspend
  workloads:
  - {apiVersion: apps/v1, kind: StatefulSet, name: records, replicas: 1}
  capacity: 100Gi
  volumeMode: Filesystem
  fsType: xfs
  accessModes: [ReadWriteOncePod]
  claim: {name: records, create: true}
  deletionPolicy: Retain
  legs:
  - {site: medical,  poolClass: ssd}
  - {site: research, pool: array-b, lun: {number: 3, initialize: naa.60060160aabbccdd0011223344556677}}
"#;

const GROUP: &str = r#"
apiVersion: twinsite.io/v1alpha1
kind: MirrorGroup
metadata: {name: ledger, namespace: rv}
spec:
  sitePair: ctrc
  activeSite: medical
  volumes: [journal, data]
  workloads:
  - {apiVersion: apps/v1, kind: StatefulSet, name: ledger, replicas: 1}
"#;

const FAILOVER: &str = r#"
apiVersion: twinsite.io/v1alpha1
kind: Failover
metadata: {name: storm}
spec:
  sitePair: ctrc
  to: research
  mode: Unplanned
  volumes: {all: true}
"#;

const ATTACHMENT: &str = r#"
apiVersion: twinsite.io/v1alpha1
kind: Attachment
metadata: {name: records-m1, uid: 0b0c0d}
spec:
  volume: ts-000102030405060708090a0b0c0d0e0f
  reference: rv/records
  sitePair: ctrc
  node: m1
  site: medical
  mode: Writer
  size: 2Gi
  move: {mode: Failover, expectSeq: 3}
  legs:
  - {leg: A, site: medical, portals: ["127.0.0.1:3260"], chap: {pairSecret: twinsite-pair}}
  - {leg: B, site: research, portals: ["127.0.0.1:3261"]}
"#;

fn read<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_yaml::from_str(text).unwrap()
}

#[test]
fn the_manifests_of_the_design_are_read() {
    let pair: SitePair = read(PAIR);
    assert_eq!(pair.spec.sites[1].name, "research");
    assert_eq!(pair.spec.failover.detect_after.length().as_secs(), 5);
    assert_eq!(
        pair.spec.resync.max_bytes_per_second.unwrap().bytes(),
        209_715_200
    );
    let pool: StoragePool = read(POOL);
    assert_eq!(pool.spec.portals.len(), 2);
    let volume: MirroredVolume = read(VOLUME);
    assert_eq!(volume.spec.capacity.bytes(), 107_374_182_400);
    assert_eq!(volume.spec.legs[1].lun.as_ref().unwrap().number, 3);
    let failover: Failover = read(FAILOVER);
    assert_eq!(failover.spec.mode, FailoverMode::Unplanned);
    let attachment: Attachment = read(ATTACHMENT);
    let spec = attachment.spec;
    assert_eq!(spec.own_index(), Some(LegIndex::A));
    assert_eq!(
        spec.move_,
        Some(MoveOrder {
            mode: MoveMode::Failover,
            expect_seq: 3,
            by_person: false,
        })
    );
    assert_eq!(
        spec.target_name(&spec.legs[1]),
        "iqn.2026-11.io.twinsite:ts-000102030405060708090a0b0c0d0e0f.b"
    );
}

#[test]
fn an_agent_whose_site_has_no_leg_is_the_other_index() {
    let mut spec = read::<Attachment>(ATTACHMENT).spec;
    spec.legs.remove(0);
    assert_eq!(spec.own_index(), Some(LegIndex::A));
}

#[test]
fn a_typing_error_is_an_error_and_not_a_default() {
    let told_of = |text: &str| {
        let object: Value = serde_yaml::from_str(text).unwrap();
        let kind = object["kind"].as_str().unwrap().to_owned();
        unknown::listed(&unknown::unknown_fields(&kind, &object))
    };
    for (text, broken, told) in [
        (
            PAIR,
            ("detectAfter: 5s", "detectAftr: 5s"),
            "spec.failover.detectAftr",
        ),
        (VOLUME, ("fsType", "fstype"), "spec.fstype"),
        (
            ATTACHMENT,
            ("expectSeq", "expectedSeq"),
            "spec.move.expectedSeq",
        ),
    ] {
        assert_eq!(told_of(text), "");
        assert_eq!(told_of(&text.replace(broken.0, broken.1)), told);
    }
    for (text, broken) in [
        (PAIR, ("5s", "five")),
        (PAIR, ("200Mi", "200MiB")),
        (VOLUME, ("100Gi", "lots")),
        (FAILOVER, ("Unplanned", "unplanned")),
        (ATTACHMENT, ("ts-0001", "ts-xx01")),
        (ATTACHMENT, ("expectSeq", "expectedSeq")),
    ] {
        let text = text.replace(broken.0, broken.1);
        let kind = text
            .lines()
            .find_map(|line| line.strip_prefix("kind: "))
            .unwrap();
        let failed = match kind {
            "SitePair" => serde_yaml::from_str::<SitePair>(&text).is_err(),
            "StoragePool" => serde_yaml::from_str::<StoragePool>(&text).is_err(),
            "MirroredVolume" => serde_yaml::from_str::<MirroredVolume>(&text).is_err(),
            "Failover" => serde_yaml::from_str::<Failover>(&text).is_err(),
            _ => serde_yaml::from_str::<Attachment>(&text).is_err(),
        };
        assert!(failed, "{kind} with {} was read", broken.1);
    }
}

/// Applies the rules of the CRD to a manifest, as the API server would on create or update.
fn rules(
    crd: &k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    new: &Value,
    old: Option<&Value>,
) -> Vec<String> {
    let schema = serde_json::to_value(
        crd.spec.versions[0]
            .schema
            .as_ref()
            .unwrap()
            .open_api_v3_schema
            .as_ref()
            .unwrap(),
    )
    .unwrap();
    match kube::core::cel::Validator::new().validate(&schema, new, old) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.iter().map(|error| error.message.clone()).collect(),
    }
}

fn with(text: &str, pointer: &str, value: Value) -> Value {
    let mut manifest: Value = read(text);
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = manifest
        .pointer_mut(parent)
        .unwrap()
        .as_object_mut()
        .unwrap();
    if value.is_null() {
        parent.remove(key);
    } else {
        parent.insert(key.to_owned(), value);
    }
    manifest
}

#[test]
fn the_manifests_of_the_design_pass_the_rules_and_may_be_applied_again() {
    for (crd, text) in [
        (SitePair::crd(), PAIR),
        (StoragePool::crd(), POOL),
        (MirroredVolume::crd(), VOLUME),
        (Failover::crd(), FAILOVER),
        (Attachment::crd(), ATTACHMENT),
    ] {
        let manifest: Value = read(text);
        assert_eq!(rules(&crd, &manifest, None), Vec::<String>::new());
        assert_eq!(
            rules(&crd, &manifest, Some(&manifest)),
            Vec::<String>::new()
        );
    }
}

#[test]
fn what_must_not_be_created_is_refused_with_its_message() {
    let pool = |pointer, value| rules(&StoragePool::crd(), &with(POOL, pointer, value), None);
    let volume =
        |pointer, value| rules(&MirroredVolume::crd(), &with(VOLUME, pointer, value), None);
    let pair = |pointer, value| rules(&SitePair::crd(), &with(PAIR, pointer, value), None);
    let failover = |pointer, value| rules(&Failover::crd(), &with(FAILOVER, pointer, value), None);
    let attachment =
        |pointer, value| rules(&Attachment::crd(), &with(ATTACHMENT, pointer, value), None);
    let released = |mode: &str| {
        let object: Attachment = read(ATTACHMENT);
        let mut spec = serde_json::to_value(object.spec).unwrap();
        (spec["mode"], spec["release"]) = (json!(mode), json!(true));
        spec
    };
    assert_eq!(
        attachment("/spec", released("Writer")),
        Vec::<String>::new()
    );
    for (found, expected) in [
        (
            pool("/spec/node", Value::Null),
            "exactly one of node and array",
        ),
        (
            pool("/spec/node", json!({"name": "m1"})),
            "exactly one of directory and device",
        ),
        (
            volume("/spec/group", json!("g")),
            "exactly one of group and activeSite",
        ),
        (
            volume("/spec/activeSite", Value::Null),
            "exactly one of group and activeSite",
        ),
        (
            volume("/spec/activeSite", json!("moon")),
            "a leg must stand at activeSite",
        ),
        (
            volume("/spec/volumeMode", json!("Block")),
            "a Block volume has no fsType",
        ),
        (
            volume("/spec/legs", json!([{"site": "medical"}])),
            "exactly one of pool and poolClass",
        ),
        (
            pair("/spec/witness", json!({})),
            "exactly one of kubernetes",
        ),
        (
            pair("/spec/witness", json!({"site": "moon"})),
            "witness.site must be one of the sites",
        ),
        (
            pair(
                "/spec/sites",
                json!([{"name": "medical", "state": "Drained"}, {"name": "research", "state": "Drained"}]),
            ),
            "at most one site",
        ),
        (failover("/spec/volumes", json!({})), "exactly one of all"),
        (
            failover("/spec/mode", json!("Force")),
            "force stands exactly with mode Force",
        ),
        (
            attachment("/spec/mode", json!("Birth")),
            "birth stands exactly with mode Birth",
        ),
        (
            attachment("/spec/mode", json!("Inspect")),
            "only a Writer or Caretaker",
        ),
        (
            attachment("/spec", released("Caretaker")),
            "only a Writer is released",
        ),
    ] {
        assert!(
            found.iter().any(|message| message.contains(expected)),
            "{expected}: {found:?}"
        );
    }
}

#[test]
fn what_must_not_change_is_refused_with_its_message() {
    let volume = |pointer, value| {
        rules(
            &MirroredVolume::crd(),
            &with(VOLUME, pointer, value),
            Some(&read(VOLUME)),
        )
    };
    for (found, expected) in [
        (
            volume("/spec/sitePair", json!("other")),
            "sitePair is immutable",
        ),
        (
            volume("/spec/capacity", json!("99Gi")),
            "capacity only grows",
        ),
        (volume("/spec/fsType", json!("ext4")), "fsType is immutable"),
        (volume("/spec/fsType", Value::Null), "fsType is immutable"),
        (
            volume("/spec/claim", json!({"name": "other"})),
            "claim.name is immutable",
        ),
        (
            rules(
                &Failover::crd(),
                &with(FAILOVER, "/spec/to", json!("medical")),
                Some(&read(FAILOVER)),
            ),
            "immutable",
        ),
        (
            rules(
                &SitePair::crd(),
                &with(
                    PAIR,
                    "/spec/sites",
                    json!([{"name": "medical"}, {"name": "moon"}]),
                ),
                Some(&read(PAIR)),
            ),
            "names of the sites are immutable",
        ),
        (
            rules(
                &Attachment::crd(),
                &with(ATTACHMENT, "/spec/node", json!("m2")),
                Some(&read(ATTACHMENT)),
            ),
            "immutable",
        ),
    ] {
        assert!(
            found.iter().any(|message| message.contains(expected)),
            "{expected}: {found:?}"
        );
    }
    assert_eq!(volume("/spec/capacity", json!("1Ti")), Vec::<String>::new());
    assert_eq!(
        volume("/spec/activeSite", json!("research")),
        Vec::<String>::new()
    );
}

#[test]
fn the_list_of_a_group_is_fixed_and_its_volumes_leave_to_it_what_it_says() {
    let group = |volumes: Value| {
        let new = with(GROUP, "/spec/volumes", volumes);
        rules(&MirrorGroup::crd(), &new, Some(&read(GROUP)))
    };
    assert_eq!(group(json!(["data", "journal"])), Vec::<String>::new());
    for (volumes, expected) in [
        (json!(["journal"]), "volumes are fixed"),
        (json!(["journal", "data", "index"]), "volumes are fixed"),
        (json!(["journal", "data", "data"]), "named once"),
    ] {
        let found = group(volumes.clone());
        let told = found.iter().any(|message| message.contains(expected));
        assert!(told, "{volumes}: {found:?}");
    }
    let moved = with(GROUP, "/spec/activeSite", json!("research"));
    let found = rules(&MirrorGroup::crd(), &moved, Some(&read(GROUP)));
    assert_eq!(found, Vec::<String>::new());

    let mut volume: Value = read(VOLUME);
    let spec = volume["spec"].as_object_mut().unwrap();
    for field in ["activeSite", "failback", "onNoQuorum", "workloads"] {
        spec.remove(field);
    }
    spec.insert("group".to_owned(), json!("ledger"));
    let accepted = |volume: &Value| rules(&MirroredVolume::crd(), volume, None);
    assert_eq!(accepted(&volume), Vec::<String>::new());
    let mut goes = volume.clone();
    goes["spec"]["deletionPolicy"] = json!("Delete");
    assert_eq!(accepted(&goes), Vec::<String>::new());
    for (field, value, expected) in [
        ("failback", json!("Manual"), "stand in the MirrorGroup"),
        ("workloads", json!([]), "stand in the MirrorGroup"),
        (
            "activeSite",
            json!("medical"),
            "exactly one of group and activeSite",
        ),
    ] {
        let mut other = volume.clone();
        other["spec"][field] = value;
        let found = accepted(&other);
        let told = found.iter().any(|message| message.contains(expected));
        assert!(told, "{field}: {found:?}");
    }
}

#[test]
fn a_volume_reads_with_what_its_group_lends_it_as_one_that_is_in_none() {
    let group: MirrorGroup = read(GROUP);
    let mut volume: MirroredVolume = read(VOLUME);
    volume.spec.active_site = None;
    volume.spec.workloads = None;
    volume.spec.group = Some("ledger".to_owned());
    let lent = group.lend(&volume);
    assert_eq!(lent.spec.active_site.as_deref(), Some("medical"));
    assert_eq!(lent.spec.workloads.unwrap()[0].name, "ledger");
    assert_eq!(lent.spec.group, volume.spec.group);
    let ids = group.volume_ids();
    assert!(ids.len() == 2 && ids[0] < ids[1], "{ids:?}");
    assert_eq!(group.id().to_string().get(..3), Some("tg-"));
}

#[test]
fn every_field_of_a_spec_is_explained() {
    fn walk(path: &str, schema: &Value, missing: &mut Vec<String>) {
        if let Some(fields) = schema.get("properties").and_then(Value::as_object) {
            for (name, field) in fields {
                let path = format!("{path}.{name}");
                if field.get("description").is_none()
                    && !path.contains("metadata")
                    && !path.contains(".selector.")
                {
                    missing.push(path.clone());
                }
                walk(&path, field, missing);
            }
        }
        if let Some(items) = schema.get("items") {
            walk(&format!("{path}[]"), items, missing);
        }
    }
    let mut missing = Vec::new();
    for crd in definitions() {
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
        let spec = &schema["openAPIV3Schema"]["properties"]["spec"];
        walk(&crd.spec.names.kind, spec, &mut missing);
    }
    assert_eq!(missing, Vec::<String>::new());
}

/// What the API server asks of a structural schema, as far as a derive can get it wrong.
#[test]
fn the_schemas_are_structural() {
    fn walk(path: &str, schema: &Value, wrong: &mut Vec<String>) {
        let Some(fields) = schema.as_object() else {
            return wrong.push(format!("{path}: no object"));
        };
        let has = |key: &str| fields.contains_key(key);
        for key in [
            "$ref",
            "definitions",
            "const",
            "examples",
            "patternProperties",
            "not",
            "if",
            "uniqueItems",
            "oneOf",
            "allOf",
        ] {
            if has(key) {
                wrong.push(format!("{path}: {key}"));
            }
        }
        if !has("type")
            && !has("x-kubernetes-int-or-string")
            && !has("x-kubernetes-preserve-unknown-fields")
        {
            wrong.push(format!("{path}: no type"));
        }
        if has("properties") && has("additionalProperties") {
            wrong.push(format!("{path}: properties and additionalProperties"));
        }
        for (name, field) in fields
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            walk(&format!("{path}.{name}"), field, wrong);
        }
        for key in ["items", "additionalProperties"] {
            if let Some(inner) = fields.get(key).filter(|inner| inner.is_object()) {
                walk(&format!("{path}[]"), inner, wrong);
            }
        }
    }
    let mut wrong = Vec::new();
    for crd in definitions() {
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
        let root = &schema["openAPIV3Schema"];
        for part in ["spec", "status"] {
            walk(
                &format!("{}.{part}", crd.spec.names.kind),
                &root["properties"][part],
                &mut wrong,
            );
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}
