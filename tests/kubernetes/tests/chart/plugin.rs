//! The plugin on two real API servers, with a hand that plays the agent where one is needed.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use twinsite_api::{Attachment, Failover, MirroredVolume, SitePair};
use twinsite_kubernetes::control_plane::client_of;

use crate::server::{NAMESPACE, Site, WORLD, code, plugin};

struct Pair {
    medical: Site,
    research: Site,
    kubeconfig: PathBuf,
}

impl Pair {
    async fn start() -> Option<Self> {
        let (medical, research) = tokio::join!(Site::start("medical"), Site::start("research"));
        let (medical, research) = (medical?, research?);
        let mut merged = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "medical",
            "clusters": [], "users": [], "contexts": [],
        });
        for (name, site) in [("medical", &medical), ("research", &research)] {
            let text = fs::read_to_string(site.plane.kubeconfig()).unwrap();
            let own: Value = serde_yaml::from_str(&text).unwrap();
            for list in ["clusters", "users"] {
                let mut entry = own[list][0].clone();
                entry["name"] = json!(name);
                merged[list].as_array_mut().unwrap().push(entry);
            }
            let context = json!({"name": name, "context": {"cluster": name, "user": name}});
            merged["contexts"].as_array_mut().unwrap().push(context);
        }
        let kubeconfig = medical.plane.folder().join("both.kubeconfig");
        fs::write(&kubeconfig, serde_yaml::to_string(&merged).unwrap()).unwrap();
        Some(Self {
            medical,
            research,
            kubeconfig,
        })
    }

    /// What the plugin said, all of it, and whether it ended well.
    async fn plugin(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new(plugin());
        command
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env_remove("TWINSITE_CONTEXTS")
            .current_dir(self.medical.plane.folder());
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .unwrap()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    fn secrets(&self, site: &Site) -> Api<Secret> {
        Api::namespaced(site.admin.clone(), NAMESPACE)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plugin_works_on_two_clusters() {
    let Some(pair) = Pair::start().await else {
        return;
    };
    tokio::join!(
        pair.medical.install_as("medical"),
        pair.research.install_as("research")
    );
    peer_secret(&pair).await;
    shared_key(&pair).await;
    for (name, site) in [("medical", &pair.medical), ("research", &pair.research)] {
        // The Secrets are there already, made by the plugin.
        let world: String = WORLD
            .split("---\n")
            .filter(|document| !document.contains("kind: Secret\nmetadata: {name: twinsite-p"))
            .map(|document| format!("---\n{document}"))
            .collect();
        site.plane.apply(&world).await.unwrap();
        tell(site, name).await;
    }
    status(&pair).await;
    preflight(&pair).await;
    plan(&pair).await;
    failover(&pair).await;
    bundle(&pair).await;
}

async fn peer_secret(pair: &Pair) {
    let make = [
        "peer",
        "create-secret",
        "--from-context",
        "research",
        "--to-context",
        "medical",
    ];
    let (good, said) = pair.plugin(&make).await;
    assert!(good, "{said}");
    let secret = pair
        .secrets(&pair.medical)
        .get("twinsite-peer")
        .await
        .unwrap();
    let text = String::from_utf8(secret.data.unwrap()["kubeconfig"].0.clone()).unwrap();
    let client = client_of(&text).await.unwrap();
    let volumes: Api<MirroredVolume> = Api::all(client.clone());
    assert_eq!(code(volumes.list(&ListParams::default()).await).0, 200);
    let secrets: Api<Secret> = Api::namespaced(client, NAMESPACE);
    assert_eq!(code(secrets.list(&ListParams::default()).await).0, 403);
    // Again is renewal.
    assert!(pair.plugin(&make).await.0);

    let (good, said) = pair
        .plugin(&[
            "peer",
            "create-secret",
            "--from-context",
            "medical",
            "--to-context",
            "medical",
        ])
        .await;
    assert!(!good && said.contains("no peer of itself"), "{said}");
    let (good, said) = pair
        .plugin(&[&make[..], &["--service-account", "nobody"]].concat())
        .await;
    assert!(
        !good && said.contains("is the chart installed there?"),
        "{said}"
    );
}

async fn shared_key(pair: &Pair) {
    let make = ["pair", "create-secret", "--contexts", "medical,research"];
    let (good, said) = pair.plugin(&make).await;
    assert!(good, "{said}");
    let key = |secret: Secret| secret.data.unwrap()["key"].0.clone();
    let one = key(pair
        .secrets(&pair.medical)
        .get("twinsite-pair")
        .await
        .unwrap());
    let other = key(pair
        .secrets(&pair.research)
        .get("twinsite-pair")
        .await
        .unwrap());
    assert_eq!(one, other);
    assert_eq!(one.len(), 64);
    let (good, said) = pair.plugin(&make).await;
    assert!(good && said.contains("the same key"), "{said}");

    // One that is lost is copied from the other cluster; two that differ are left alone.
    let secrets = pair.secrets(&pair.research);
    secrets
        .delete("twinsite-pair", &DeleteParams::default())
        .await
        .unwrap();
    assert!(pair.plugin(&make).await.0);
    assert_eq!(key(secrets.get("twinsite-pair").await.unwrap()), one);
    let changed = Patch::Merge(json!({"stringData": {"key": "another"}}));
    secrets
        .patch("twinsite-pair", &PatchParams::default(), &changed)
        .await
        .unwrap();
    let (good, said) = pair.plugin(&make).await;
    assert!(!good && said.contains("different keys"), "{said}");
    let back = Patch::Merge(json!({"stringData": {"key": String::from_utf8(one).unwrap()}}));
    secrets
        .patch("twinsite-pair", &PatchParams::default(), &back)
        .await
        .unwrap();
}

/// What the operator of a site would say.
async fn tell(site: &Site, name: &str) {
    let now = k8s_openapi::jiff::Timestamp::now().to_string();
    let condition = |type_: &str, status: &str| json!({"type": type_, "status": status, "reason": "Told", "message": "", "lastTransitionTime": now});
    let merge = PatchParams::default();
    let pairs: Api<SitePair> = Api::all(site.admin.clone());
    let status = json!({"status": {
        "observedGeneration": 1,
        "site": name,
        "claims": [{"name": "medical", "index": "A", "claimant": "u1"}, {"name": "research", "index": "B", "claimant": "u2"}],
        "conditions": [condition("Ready", "True"), condition("SiteClaimed", "True"), condition("PeerReachable", "True"), condition("WitnessReachable", "True")],
    }});
    pairs
        .patch_status("ctrc", &merge, &Patch::Merge(&status))
        .await
        .unwrap();
    let leg = |site: &str, index: &str| {
        json!({"site": site, "leg": index, "state": "Member", "portals": ["192.0.2.11:3260"],
            "target": {"iqn": format!("iqn.2026-11.io.twinsite:{site}"), "lun": 0, "naa": "naa.0102030405060708"}})
    };
    let volumes: Api<MirroredVolume> = Api::namespaced(site.admin.clone(), "rv");
    let status = json!({"status": {
        "observedGeneration": 1,
        "volumeId": "ts-000102030405060708090a0b0c0d0e0f",
        "role": if name == "medical" { "Active" } else { "Standby" },
        "activeSite": {"name": "medical", "seq": 4, "latched": false},
        "epoch": 17,
        "attached": {"site": "medical", "node": "m1"},
        "legs": [leg("medical", "A"), leg("research", "B")],
        "conditions": [condition("Ready", "True"), condition("InSync", "True"), condition("FailoverReady", "True"), condition("PeerReachable", "True")],
    }});
    volumes
        .patch_status("records", &merge, &Patch::Merge(&status))
        .await
        .unwrap();
}

async fn status(pair: &Pair) {
    // Nothing but the current context is named: the other cluster is found by the name of its site.
    let (good, said) = pair.plugin(&["status"]).await;
    assert!(good, "{said}");
    for words in [
        "PAIR ctrc: failover Manual",
        "  medical   medical   A    yes    yes        yes",
        "  research  research  B    yes    yes        yes",
        "rv/records  1Gi   medical    medical/m1  in sync  ready",
    ] {
        assert!(said.contains(words), "{words:?} is missing in\n{said}");
    }
    let (good, said) = pair.plugin(&["status", "-o", "json", "--check"]).await;
    assert!(good, "{said}");
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(report["volumes"][0]["mirror"], "InSync");
    let (good, said) = pair
        .plugin(&["status", "--contexts", "medical,nowhere"])
        .await;
    assert!(!good && said.contains("nowhere"), "{said}");
}

async fn preflight(pair: &Pair) {
    let (good, said) = pair.plugin(&["preflight"]).await;
    assert!(!good, "{said}");
    for words in [
        "ok   Kubernetes 1.37",
        "ok   the definitions of twinsite.io",
        "ok   CSIDriver csi.twinsite.io",
        "BAD  twinsite-operator: 0 of 2 pods ready",
        "ok   medical: Secret twinsite/twinsite-peer",
        "BAD  research: Secret twinsite/twinsite-peer",
        "ok   one shared key at both sites",
        "BAD  research: pools: 0",
    ] {
        assert!(said.contains(words), "{words:?} is missing in\n{said}");
    }
}

async fn plan(pair: &Pair) {
    let arguments = ["plan", "rv/records", "--to", "research"];
    let (good, said) = pair.plugin(&arguments).await;
    assert!(
        !good && said.contains("no pool names a node of research"),
        "{said}"
    );
    let arguments = [&arguments[..], &["--node", "m1"]].concat();
    let ((good, said), ()) = tokio::join!(pair.plugin(&arguments), play_agent(&pair.research));
    assert!(good, "{said}");
    for words in [
        "Live, epoch 17, members A and B, active at medical (move 4)",
        "Planned   loses nothing",
        "kubectl twinsite failover rv/records --to research --mode planned",
    ] {
        assert!(said.contains(words), "{words:?} is missing in\n{said}");
    }
    let attachments: Api<Attachment> = Api::all(pair.research.admin.clone());
    let left = attachments.list(&ListParams::default()).await.unwrap();
    let left: Vec<_> = left
        .items
        .iter()
        .filter_map(|one| one.metadata.name.clone())
        .collect();
    assert_eq!(left, ["on-m1"]);
}

/// Answers an Inspect order as an agent does, and lets it go when it is told to.
async fn play_agent(site: &Site) {
    const NAME: &str = "ts-000102030405060708090a0b0c0d0e0f-inspect";
    const LIMIT: u32 = 300;
    let api: Api<Attachment> = Api::all(site.admin.clone());
    let leg = |index: &str| json!({"leg": index, "reachable": true, "class": "Usable", "role": "Member", "epoch": 17});
    let answer = json!({"status": {
        "state": "Done",
        "register": {
            "registerId": "0a", "state": "Live", "epoch": 17, "generation": "0b", "members": ["A", "B"],
            "activeSite": {"name": "medical", "seq": 4, "latched": false}, "activeIndex": "A",
        },
        "inspect": {"token": "17-0c", "legs": [leg("A"), leg("B")]},
    }});
    let none = json!({"metadata": {"finalizers": null}});
    let merge = PatchParams::default();
    let mut answered = false;
    for _ in 0..LIMIT {
        match api.get_opt(NAME).await.unwrap() {
            Some(seen) if seen.metadata.deletion_timestamp.is_some() => {
                api.patch(NAME, &merge, &Patch::Merge(&none)).await.unwrap();
                return;
            }
            Some(_) if !answered => {
                api.patch_status(NAME, &merge, &Patch::Merge(&answer))
                    .await
                    .unwrap();
                answered = true;
            }
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no Inspect order came and went");
}

async fn failover(pair: &Pair) {
    let order = [
        "failover",
        "rv/records",
        "--to",
        "research",
        "--mode",
        "unplanned",
    ];
    let failovers: Api<Failover> = Api::all(pair.research.admin.clone());
    let (good, said) = pair.plugin(&[&order[..], &["--dry-run"]].concat()).await;
    assert!(good && said.contains("mode: Unplanned"), "{said}");
    assert_eq!(
        failovers
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        0
    );

    let (good, said) = pair.plugin(&[&order[..], &["--wait", "0"]].concat()).await;
    assert!(good && said.contains("ordered in research"), "{said}");
    let made = failovers
        .list(&ListParams::default())
        .await
        .unwrap()
        .items
        .remove(0);
    assert_eq!(made.spec.site_pair, "ctrc");
    assert_eq!(made.spec.volumes.names, Some(vec!["records".to_owned()]));

    let (good, said) = pair
        .plugin(&[
            "failover",
            "rv/records",
            "--to",
            "research",
            "--mode",
            "force",
        ])
        .await;
    assert!(!good && said.contains("kubectl twinsite plan"), "{said}");
    let (good, said) = pair
        .plugin(&[
            "failover",
            "--all",
            "--to",
            "elsewhere",
            "--mode",
            "planned",
        ])
        .await;
    assert!(
        !good && said.contains("answers as site elsewhere"),
        "{said}"
    );
}

async fn bundle(pair: &Pair) {
    let (good, said) = pair.plugin(&["support-bundle"]).await;
    assert!(good, "{said}");
    let folder = pair.medical.plane.folder().join("twinsite-support");
    let mut all = String::new();
    for site in ["medical", "research"] {
        for entry in fs::read_dir(folder.join(site)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                all += &fs::read_to_string(path).unwrap();
            }
        }
        let volumes = fs::read_to_string(folder.join(site).join("mirroredvolumes.yaml")).unwrap();
        assert!(volumes.contains("name: records"), "{volumes}");
        let secrets = fs::read_to_string(folder.join(site).join("secrets.txt")).unwrap();
        assert!(secrets.contains("twinsite-pair: key\n"), "{secrets}");
    }
    let key = pair
        .secrets(&pair.medical)
        .get("twinsite-pair")
        .await
        .unwrap();
    let key = String::from_utf8(key.data.unwrap()["key"].0.clone()).unwrap();
    assert!(!all.contains(&key));
    assert!(!all.contains("managedFields"));
    let (good, said) = pair.plugin(&["support-bundle"]).await;
    assert!(!good && said.contains("is there already"), "{said}");
}
