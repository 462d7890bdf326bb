//! What the chart renders and what it refuses, without a cluster.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize as _;
use serde_yaml::Value;

use crate::helm::{SITE, chart, golden, helm, run, template, tree};

const GOLDEN: &str = "tests/kubernetes/tests/chart/golden";

/// Everything that can be switched on, at once.
const EVERYTHING: &[&str] = &[
    "crds.enabled=false",
    "image.digest=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "imagePullSecrets[0].name=pull",
    "secrets.arrays[0]=array-b",
    "apiServer.host=192.0.2.1",
    "apiServer.port=6443",
    "witness.local=true",
    "operator.hostNetwork=true",
    "operator.taintLostNodes=true",
    "operator.extraArgs[0]=--verbose=yes",
    "operator.workloads[0].apiGroup=kubevirt.io",
    "operator.workloads[0].resources[0]=virtualmachines",
    "agent.threads=4",
    "agent.poolDirectories[0]=/srv/fast",
    "agent.poolDirectories[1]=/srv/slow",
    "agent.httpAddress=[::]:9910",
    "agent.podAnnotations.note=kept",
    "csi.maxVolumesPerNode=64",
    "csi.storageCapacity=true",
    "csi.kubeletDirectory=/var/lib/k0s/kubelet",
    "csi.controller.replicas=1",
    "storageClasses[0].name=mirrored",
    "storageClasses[0].default=true",
    "storageClasses[0].allowVolumeExpansion=false",
    "storageClasses[0].parameters.sitePair=ctrc",
    "storageClasses[0].parameters.fsType=xfs",
    "storageClasses[1].name=kept",
    "storageClasses[1].reclaimPolicy=Retain",
    "storageClasses[1].parameters.sitePair=ctrc",
    "storageClasses[1].parameters.poolClass\\.medical=ssd",
    "monitoring.serviceMonitor.enabled=true",
    "monitoring.prometheusRule.enabled=true",
    "monitoring.force=true",
    "networkPolicy.enabled=true",
    "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.team=ops",
    "extraObjects[0].apiVersion=v1",
    "extraObjects[0].kind=ConfigMap",
    "extraObjects[0].metadata.name=extra",
    "extraObjects[0].metadata.namespace=twinsite",
];

fn documents(text: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).expect("YAML"))
        .filter(|value| !value.is_null())
        .collect()
}

fn id(object: &Value) -> String {
    format!(
        "{} {}",
        object["kind"].as_str().expect("a kind"),
        object["metadata"]["name"].as_str().expect("a name")
    )
}

#[test]
fn the_chart_is_rendered_as_it_was_looked_over() {
    let Some(helm) = helm() else { return };
    let minimal: Vec<&str> = [&SITE[..], &["crds.enabled=false"]].concat();
    let everything: Vec<&str> = [&SITE[..], EVERYTHING].concat();
    for (name, values) in [
        ("minimal", minimal.as_slice()),
        ("everything", everything.as_slice()),
        ("witness", &["mode=witness"]),
    ] {
        let said = template(&helm, values);
        assert!(said.good, "{name}: {}", said.error);
        let mut seen = BTreeSet::new();
        for object in documents(&said.out) {
            assert!(seen.insert(id(&object)), "{name} has {} twice", id(&object));
            assert_ne!(object["metadata"]["namespace"].as_str(), Some("default"));
        }
        golden(&format!("{GOLDEN}/{name}.yaml"), &said.out);
    }
}

#[test]
fn helm_finds_nothing_to_complain_about() {
    let Some(helm) = helm() else { return };
    let chart = chart();
    for set in [SITE.join(","), "mode=witness".to_owned()] {
        let said = run(
            &helm,
            &[
                "lint",
                "--strict",
                chart.to_str().expect("UTF-8"),
                "--set",
                &set,
            ],
        );
        assert!(said.good, "{}{}", said.out, said.error);
    }
}

#[test]
fn a_mistyped_value_is_an_error_that_names_it() {
    let Some(helm) = helm() else { return };
    for (value, words) in [
        (
            "sitename=medical",
            "additional properties 'sitename' not allowed",
        ),
        (
            "operator.replica=3",
            "additional properties 'replica' not allowed",
        ),
        ("operator.replicas=0", "minimum"),
        (
            "operator.resource.x=1",
            "additional properties 'resource' not allowed",
        ),
        (
            "agent.poolDirectory=/a",
            "additional properties 'poolDirectory' not allowed",
        ),
        (
            "agent.poolDirectories[0]=relative",
            "does not match pattern",
        ),
        ("agent.httpAddress=9810", "/agent/httpAddress"),
        (
            "csi.node.loglevel=debug",
            "additional properties 'loglevel' not allowed",
        ),
        (
            "csi.node.logFormat=xml",
            "value must be one of 'text', 'json'",
        ),
        (
            "sidecars.snapshotter.logLevel=2",
            "additional properties 'snapshotter' not allowed",
        ),
        ("image.digest=0123", "/image/digest"),
        ("image.pullPolicy=Sometimes", "value must be one of"),
        ("secrets.peer=twinsite-peer", "want array"),
        ("mode=hub", "value must be one of 'site', 'witness'"),
        ("site=Medical_1", "/site"),
        ("storageClasses[0].name=a", "missing property 'parameters'"),
        (
            "monitoring.serviceMonitor.interval=fast",
            "/monitoring/serviceMonitor/interval",
        ),
    ] {
        // The value under test comes last: it wins over what a site needs.
        let said = template(&helm, &[SITE[0], SITE[1], value]);
        assert!(!said.good, "{value} was taken");
        assert!(said.error.contains(words), "{value}: {}", said.error);
    }
    let class = [
        SITE[0],
        SITE[1],
        "storageClasses[0].name=a",
        "storageClasses[0].parameters.sitePair=ctrc",
        "storageClasses[0].parameters.fstype=xfs",
    ];
    let said = template(&helm, &class);
    assert!(
        said.error
            .contains("additional properties 'fstype' not allowed"),
        "{}",
        said.error
    );
}

#[test]
fn what_a_site_needs_is_asked_for_by_name() {
    let Some(helm) = helm() else { return };
    let without_site = template(&helm, &[SITE[1]]);
    assert!(
        without_site.error.contains("such as --set site=medical"),
        "{}",
        without_site.error
    );
    let without_image = template(&helm, &[SITE[0]]);
    assert!(
        without_image
            .error
            .contains("image.repository must name the image"),
        "{}",
        without_image.error
    );
    let without_kind = template(
        &helm,
        &[SITE[0], SITE[1], "monitoring.serviceMonitor.enabled=true"],
    );
    assert!(
        without_kind
            .error
            .contains("install the Prometheus operator first"),
        "{}",
        without_kind.error
    );
}

#[test]
fn the_definitions_are_those_of_the_tree_and_stay_when_the_chart_goes() {
    let Some(helm) = helm() else { return };
    let said = template(&helm, &SITE);
    let rendered: BTreeMap<String, Value> = documents(&said.out)
        .into_iter()
        .filter(|object| object["kind"].as_str() == Some("CustomResourceDefinition"))
        .map(|object| (id(&object), object))
        .collect();
    let folder = tree().join("crds");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("crds") {
        let text = std::fs::read_to_string(entry.expect("an entry").path()).expect("text");
        let stored: Value = serde_yaml::from_str(&text).expect("YAML");
        let mut seen = rendered[&id(&stored)].clone();
        let annotations = seen["metadata"]
            .as_mapping_mut()
            .and_then(|metadata| metadata.remove("annotations"))
            .expect("annotations");
        assert_eq!(
            annotations["helm.sh/resource-policy"].as_str(),
            Some("keep")
        );
        assert_eq!(seen, stored);
        count += 1;
    }
    assert_eq!(count, rendered.len());
}

#[test]
fn every_alert_has_a_runbook_and_asks_for_metrics_that_exist() {
    let text = std::fs::read_to_string(chart().join("files/alerts.yaml")).expect("alerts");
    let alerts: Value = serde_yaml::from_str(&text).expect("YAML");
    let read = |path: &str| std::fs::read_to_string(tree().join(path)).expect("a source file");
    let agent = read("csi-driver/agent/src/metrics/page.rs");
    let operator = read("operator/src/metrics.rs");
    // The operator's registry puts the prefix before each name.
    let is_known = |word: &str| {
        let bare = word.trim_start_matches("twinsite_");
        agent.contains(&format!("\"{word}\"")) || operator.contains(&format!("\"{bare}\""))
    };
    let mut pages = BTreeSet::new();
    for rule in alerts["groups"]
        .as_sequence()
        .expect("groups")
        .iter()
        .flat_map(|group| group["rules"].as_sequence().expect("rules"))
    {
        let name = rule["alert"].as_str().expect("a name");
        assert_eq!(
            rule["annotations"]["runbook_url"].as_str(),
            Some(format!("RUNBOOKS/{name}.md").as_str())
        );
        for field in ["summary", "description"] {
            assert!(
                rule["annotations"][field].is_string(),
                "{name} has no {field}"
            );
        }
        let severity = rule["labels"]["severity"].as_str().expect("a severity");
        assert!(
            ["critical", "warning", "info"].contains(&severity),
            "{name}: {severity}"
        );
        let page = tree().join(format!("docs/runbooks/{name}.md"));
        let page = std::fs::read_to_string(&page)
            .unwrap_or_else(|_| panic!("docs/runbooks/{name}.md is missing"));
        assert!(
            page.starts_with(&format!("# {name}\n")),
            "the page of {name} begins otherwise"
        );
        for part in ["## What it means", "## What to do"] {
            assert!(page.contains(part), "the page of {name} lacks {part:?}");
        }
        let expression = rule["expr"].as_str().expect("an expression");
        for word in expression
            .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
            .filter(|word| word.starts_with("twinsite_"))
        {
            assert!(is_known(word), "{name}: nobody shows {word}");
        }
        pages.insert(format!("{name}.md"));
    }
    for entry in std::fs::read_dir(tree().join("docs/runbooks")).expect("runbooks") {
        let name = entry
            .expect("an entry")
            .file_name()
            .to_string_lossy()
            .into_owned();
        assert!(
            name == "README.md" || pages.contains(&name),
            "docs/runbooks/{name} belongs to no alert"
        );
    }
}
