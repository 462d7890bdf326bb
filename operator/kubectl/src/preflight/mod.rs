//! `kubectl twinsite preflight`: what is missing before volumes can live at two sites.
//!
//! Each check is one line with what to do. What cannot be looked at is "?", and never counts as good.
//!
//! Invariants: pure; the same facts give the same lines in the same order.
//! Not here: gathering the facts (`gather`).

pub(crate) mod gather;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;
use twinsite_api::{SitePair, condition_type};

use crate::world::{Cluster, condition, pair_conditions, pool_ready};

/// The kinds that the chart brings.
pub(crate) const KINDS: [&str; 7] = [
    "attachments",
    "failovers",
    "legs",
    "mirroredvolumes",
    "mirrorgroups",
    "sitepairs",
    "storagepools",
];
/// Oldest Kubernetes, 1.x, that the chart takes.
const OLDEST_MINOR: u32 = 34;

/// What was seen of one cluster beside its objects.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) cluster: Cluster,
    pub(crate) minor: Option<u32>,
    /// Definitions of `twinsite.io` that serve v1alpha1; none: they could not be looked at.
    pub(crate) kinds: Option<Vec<String>>,
    pub(crate) driver: Option<bool>,
    pub(crate) workloads: Vec<WorkloadFacts>,
    /// Nodes, and how many of them have the driver.
    pub(crate) nodes: Option<(usize, usize)>,
    /// By name of a Secret in the release's namespace.
    pub(crate) secrets: BTreeMap<String, SecretFacts>,
    pub(crate) namespace: String,
}

/// A Deployment or DaemonSet of the release.
#[derive(Debug)]
pub(crate) struct WorkloadFacts {
    pub(crate) kind: &'static str,
    pub(crate) name: &'static str,
    /// Ready and wanted pods; none: it is not there.
    pub(crate) pods: Option<(i32, i32)>,
}

/// A Secret as far as it may be looked at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SecretFacts {
    Absent,
    Hidden,
    /// Its keys, and a fingerprint of the shared key if it has one.
    Present {
        keys: Vec<String>,
        fingerprint: Option<u64>,
    },
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Grade {
    Good,
    Unknown,
    Bad,
}

/// One line.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Check {
    /// A context, or "pair NAME".
    pub(crate) about: String,
    pub(crate) grade: Grade,
    pub(crate) what: String,
    /// What to do about it.
    pub(crate) remedy: Option<String>,
}

/// Every check of every cluster, then those that need both.
pub(crate) fn checks(facts: &[Facts]) -> Vec<Check> {
    let mut list = List::default();
    for one in facts {
        list.about.clone_from(&one.cluster.context);
        cluster(&mut list, one);
    }
    let mut pairs: Vec<&SitePair> = facts
        .iter()
        .filter_map(|one| one.cluster.answer())
        .flat_map(|objects| &objects.pairs)
        .collect();
    pairs.sort_by(|one, other| one.metadata.name.cmp(&other.metadata.name));
    pairs.dedup_by(|one, other| one.metadata.name == other.metadata.name);
    for pair in pairs {
        let name = pair.metadata.name.clone().unwrap_or_default();
        list.about = format!("pair {name}");
        self::pair(&mut list, facts, pair, &name);
    }
    list.checks
}

/// Whether nothing is bad and nothing unknown.
pub(crate) fn all_good(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.grade == Grade::Good)
}

/// The checks as text.
pub(crate) fn render(checks: &[Check]) -> String {
    let mut text = String::new();
    let mut about = None;
    for check in checks {
        if about != Some(&check.about) {
            if about.is_some() {
                text.push('\n');
            }
            let _ = writeln!(text, "{}", check.about);
            about = Some(&check.about);
        }
        let grade = match check.grade {
            Grade::Good => "ok  ",
            Grade::Unknown => "?   ",
            Grade::Bad => "BAD ",
        };
        let _ = writeln!(text, "  {grade} {}", check.what);
        if let Some(remedy) = &check.remedy {
            let _ = writeln!(text, "         {remedy}");
        }
    }
    let bad = checks
        .iter()
        .filter(|check| check.grade == Grade::Bad)
        .count();
    let unknown = checks
        .iter()
        .filter(|check| check.grade == Grade::Unknown)
        .count();
    let _ = match (bad, unknown) {
        (0, 0) => writeln!(text, "\nAll {} checks are good.", checks.len()),
        _ => writeln!(
            text,
            "\n{bad} bad, {unknown} unknown, of {} checks.",
            checks.len()
        ),
    };
    text
}

#[derive(Default)]
struct List {
    about: String,
    checks: Vec<Check>,
}

impl List {
    fn add(&mut self, good: Option<bool>, what: impl Into<String>, remedy: impl Into<String>) {
        let grade = match good {
            Some(true) => Grade::Good,
            Some(false) => Grade::Bad,
            None => Grade::Unknown,
        };
        self.checks.push(Check {
            about: self.about.clone(),
            grade,
            what: what.into(),
            remedy: (grade != Grade::Good)
                .then(|| remedy.into())
                .filter(|remedy| !remedy.is_empty()),
        });
    }
}

fn cluster(list: &mut List, facts: &Facts) {
    list.add(
        facts.minor.map(|minor| minor >= OLDEST_MINOR),
        facts.minor.map_or_else(
            || "the version of Kubernetes is not known".to_owned(),
            |minor| format!("Kubernetes 1.{minor}"),
        ),
        format!("twinsite needs Kubernetes 1.{OLDEST_MINOR}"),
    );
    let missing: Option<Vec<_>> = facts.kinds.as_ref().map(|kinds| {
        KINDS
            .iter()
            .copied()
            .filter(|kind| !kinds.iter().any(|known| known == kind))
            .collect()
    });
    list.add(
        missing.as_ref().map(Vec::is_empty),
        match &missing {
            Some(missing) if !missing.is_empty() => {
                format!("definitions that are missing: {}", missing.join(", "))
            }
            _ => "the definitions of twinsite.io".to_owned(),
        },
        "install the chart with crds.enabled=true",
    );
    list.add(
        facts.driver,
        "CSIDriver csi.twinsite.io",
        "install the chart in mode site",
    );
    for workload in &facts.workloads {
        let (ready, wanted) = workload.pods.unwrap_or_default();
        list.add(
            Some(workload.pods.is_some() && ready == wanted && wanted > 0),
            match workload.pods {
                Some(_) => format!("{}: {ready} of {wanted} pods ready", workload.name),
                None => format!("{}: not there", workload.name),
            },
            format!(
                "kubectl -n {} describe {} {}",
                facts.namespace, workload.kind, workload.name
            ),
        );
    }
    if let Some((nodes, with_driver)) = facts.nodes {
        list.add(
            Some(with_driver > 0 && with_driver == nodes),
            format!("nodes that have registered the driver: {with_driver} of {nodes}"),
            "kubectl get csinodes, and the log of twinsite-csi-node on the nodes that lack it",
        );
    } else {
        list.add(None, "nodes cannot be looked at", "");
    }
    if let Err(error) = &facts.cluster.objects {
        list.add(None, format!("its objects cannot be read: {error}"), "");
    }
}

fn pair(list: &mut List, facts: &[Facts], pair: &SitePair, name: &str) {
    if facts.len() == 1 {
        list.add(
            None,
            "only one of the two clusters was looked at",
            "give --contexts ONE,OTHER",
        );
    }
    let same = facts.iter().all(|one| {
        one.cluster
            .pair(name)
            .is_some_and(|other| other.spec == pair.spec)
    });
    if facts.len() > 1 {
        list.add(
            Some(same),
            "one SitePair in both clusters",
            "apply one manifest to both",
        );
    }
    for site in &pair.spec.sites {
        let Some(own) = facts
            .iter()
            .find(|one| one.cluster.site(name) == Some(site.name.as_str()))
        else {
            list.add(
                (facts.len() > 1).then_some(false),
                format!("a cluster that is site {}", site.name),
                "set the chart value `site`, and see the SitePair's condition SiteClaimed",
            );
            continue;
        };
        self::site(list, own, pair, name, &site.name);
    }
    shared_key(list, facts, pair);
}

fn site(list: &mut List, own: &Facts, pair: &SitePair, name: &str, site: &str) {
    let conditions = own.cluster.pair(name).map_or(&[][..], pair_conditions);
    for (type_, what) in [
        (condition_type::SITE_CLAIMED, "name claimed at the witness"),
        (condition_type::PEER_REACHABLE, "way to the other cluster"),
        (condition_type::WITNESS_REACHABLE, "way to the witness"),
    ] {
        let seen = condition(conditions, type_);
        list.add(
            seen.and_then(|seen| match seen.status.as_str() {
                "True" => Some(true),
                "False" => Some(false),
                _ => None,
            }),
            format!("{site}: {what}"),
            seen.map(|seen| seen.message.clone())
                .filter(|message| !message.is_empty())
                .unwrap_or_else(|| {
                    format!(
                        "kubectl describe sitepair {name}, in {}",
                        own.cluster.context
                    )
                }),
        );
    }
    let witness = pair
        .spec
        .witness
        .kubernetes
        .as_ref()
        .map(|witness| witness.kubeconfig_secret.as_str());
    for (secret, key) in [
        (pair.spec.peer_kubeconfig_secret.as_deref(), "kubeconfig"),
        (witness, "kubeconfig"),
        (pair.spec.pair_secret.as_deref(), "key"),
    ] {
        if let Some(secret) = secret {
            self::secret(list, own, site, secret, key);
        }
    }
    let pools: Vec<_> = own
        .cluster
        .answer()
        .into_iter()
        .flat_map(|objects| &objects.pools)
        .filter(|pool| pool.spec.site == site)
        .collect();
    list.add(
        Some(!pools.is_empty()),
        format!("{site}: pools: {}", pools.len()),
        "apply a StoragePool with this site",
    );
    for pool in pools {
        let name = pool.metadata.name.as_deref().unwrap_or_default();
        let says = pool
            .status
            .as_ref()
            .and_then(|status| condition(&status.conditions, condition_type::READY))
            .map(|ready| ready.message.clone())
            .filter(|message| !message.is_empty());
        list.add(
            pool_ready(pool),
            format!("{site}: pool {name}"),
            says.unwrap_or_else(|| format!("kubectl describe storagepool {name}")),
        );
        let loopback = pool.spec.portals.iter().any(|portal| {
            portal.starts_with("127.")
                || portal.starts_with("localhost")
                || portal.starts_with("[::1]")
        });
        if loopback {
            list.add(
                Some(false),
                format!("{site}: portals of pool {name}"),
                "one is on loopback, where the other site cannot reach it: name an address of the node",
            );
        }
    }
}

fn secret(list: &mut List, own: &Facts, site: &str, name: &str, key: &str) {
    let (good, why) = match own.secrets.get(name) {
        Some(SecretFacts::Present { keys, .. }) => (
            // `value` is what some tools call a kubeconfig.
            Some(
                keys.iter()
                    .any(|known| known == key || (key == "kubeconfig" && known == "value")),
            ),
            format!("it has no key {key:?}"),
        ),
        Some(SecretFacts::Absent) => (Some(false), "it is not there".to_owned()),
        Some(SecretFacts::Hidden) | None => (None, "you may not look at it".to_owned()),
    };
    let command = if key == "key" { "pair" } else { "peer" };
    list.add(
        good,
        format!("{site}: Secret {}/{name}", own.namespace),
        format!("{why}: kubectl twinsite {command} create-secret --help"),
    );
}

fn shared_key(list: &mut List, facts: &[Facts], pair: &SitePair) {
    let Some(name) = &pair.spec.pair_secret else {
        return;
    };
    let keys: Vec<_> = facts
        .iter()
        .filter_map(|one| match one.secrets.get(name) {
            Some(SecretFacts::Present { fingerprint, .. }) => *fingerprint,
            _ => None,
        })
        .collect();
    if let [one, other] = keys.as_slice() {
        list.add(
            Some(one == other),
            "one shared key at both sites",
            "copy it from one cluster to the other: legs cannot be reached with another one",
        );
    }
}
