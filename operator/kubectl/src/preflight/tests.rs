//! Each check of a pair, passed and failed.

use std::collections::BTreeMap;

use super::{Facts, KINDS, SecretFacts, WorkloadFacts, all_good, checks, render};
use crate::{
    fixture::{cluster, golden, silent},
    world::Cluster,
};

fn objects(site: &str, reachable: &str) -> String {
    format!(
        "---
apiVersion: twinsite.io/v1alpha1
kind: SitePair
metadata: {{name: ctrc}}
spec:
  sites: [{{name: medical}}, {{name: research}}]
  peerKubeconfigSecret: twinsite-peer
  pairSecret: twinsite-pair
  witness: {{kubernetes: {{kubeconfigSecret: twinsite-witness, namespace: twinsite}}}}
status:
  site: {site}
  conditions:
  - {{type: SiteClaimed, status: \"True\", reason: AsDesired, message: \"\", lastTransitionTime: 2026-11-28T06:00:00Z}}
  - {{type: PeerReachable, status: \"{reachable}\", reason: Asked, message: \"connection refused\", lastTransitionTime: 2026-11-28T06:00:00Z}}
  - {{type: WitnessReachable, status: \"True\", reason: AsDesired, message: \"\", lastTransitionTime: 2026-11-28T06:00:00Z}}
---
apiVersion: twinsite.io/v1alpha1
kind: StoragePool
metadata: {{name: {site}-ssd}}
spec: {{site: {site}, class: ssd, node: {{name: n1, directory: /var/lib/twinsite/pool}}, portals: [\"192.0.2.11:3260\"]}}
status:
  conditions:
  - {{type: Ready, status: \"True\", reason: AsDesired, message: \"\", lastTransitionTime: 2026-11-28T06:00:00Z}}
"
    )
}

fn present(key: &str, fingerprint: Option<u64>) -> SecretFacts {
    SecretFacts::Present {
        keys: vec![key.to_owned()],
        fingerprint,
    }
}

fn good(cluster: Cluster) -> Facts {
    let workload = |kind, name, count| WorkloadFacts {
        kind,
        name,
        pods: Some((count, count)),
    };
    Facts {
        cluster,
        minor: Some(37),
        kinds: Some(KINDS.map(str::to_owned).to_vec()),
        driver: Some(true),
        workloads: vec![
            workload("deployment", "twinsite-operator", 2),
            workload("daemonset", "twinsite-agent", 3),
        ],
        nodes: Some((3, 3)),
        secrets: BTreeMap::from([
            ("twinsite-peer".to_owned(), present("kubeconfig", None)),
            ("twinsite-witness".to_owned(), present("value", None)),
            ("twinsite-pair".to_owned(), present("key", Some(7))),
        ]),
        namespace: "twinsite".to_owned(),
    }
}

#[test]
fn a_pair_that_is_ready_passes_every_check() {
    let facts = [
        good(cluster("medical", &objects("medical", "True"))),
        good(cluster("research", &objects("research", "True"))),
    ];
    let checks = checks(&facts);
    golden("preflight-good.txt", &render(&checks));
    assert!(all_good(&checks));
}

#[test]
fn whatever_is_missing_comes_with_what_to_do() {
    let mut one = good(cluster(
        "medical",
        &objects("medical", "False").replace("192.0.2.11", "127.0.0.1"),
    ));
    one.minor = Some(32);
    one.kinds = Some(vec!["legs".to_owned()]);
    one.driver = Some(false);
    one.workloads[0].pods = Some((0, 2));
    one.workloads[1].pods = None;
    one.nodes = Some((3, 1));
    one.secrets
        .insert("twinsite-peer".to_owned(), SecretFacts::Absent);
    one.secrets
        .insert("twinsite-witness".to_owned(), present("config", None));
    one.secrets
        .insert("twinsite-pair".to_owned(), present("key", Some(8)));
    let other = good(cluster("research", &objects("research", "True")));
    let checks = checks(&[one, other]);
    golden("preflight-bad.txt", &render(&checks));
    assert!(!all_good(&checks));
}

#[test]
fn what_cannot_be_looked_at_is_not_good() {
    let mut facts = good(silent("medical", "connection refused"));
    facts.minor = None;
    facts.kinds = None;
    facts.nodes = None;
    let checks = checks(&[facts]);
    golden("preflight-unknown.txt", &render(&checks));
    assert!(!all_good(&checks));
}
