//! `kubectl twinsite support-bundle`: what somebody who helps wants to see, without what nobody should.
//!
//! One folder per cluster: our objects as YAML, what they became in Kubernetes, events, and the logs of our pods.
//!
//! Invariants: no value of a Secret is written, only its keys; text that looks like a credential is struck out. A part that
//! cannot be read becomes a line in `problems.txt` and does not stop the rest.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret},
    events::v1::Event,
    storage::v1::{CSIDriver, CSINode, StorageClass, VolumeAttachment},
};
use kube::{
    Api, Resource, ResourceExt as _,
    api::{ListParams, LogParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use twinsite_api::{
    Attachment, Failover, Leg, MirrorGroup, MirroredVolume, Seen, SitePair, StoragePool,
};

use crate::cluster::{self, Access};

const LOG_LINES: i64 = 20_000;
const OUR_PODS: &str = "app.kubernetes.io/part-of=twinsite";
const OUR_DRIVER: &str = "csi.twinsite.io";

/// Writes one cluster into a folder of its own.
pub(crate) async fn write(access: &Access, namespace: &str, folder: &Path) -> Result<PathBuf> {
    let place = folder.join(file_name(&access.context));
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    let mut writer = Writer {
        place: place.clone(),
        problems: String::new(),
    };
    let client = access.client.clone();
    writer
        .all(
            "sitepairs",
            &Api::<Seen<SitePair>>::all(client.clone()),
            |_| true,
        )
        .await?;
    writer
        .all(
            "storagepools",
            &Api::<Seen<StoragePool>>::all(client.clone()),
            |_| true,
        )
        .await?;
    writer
        .all(
            "mirroredvolumes",
            &Api::<Seen<MirroredVolume>>::all(client.clone()),
            |_| true,
        )
        .await?;
    writer
        .all(
            "mirrorgroups",
            &Api::<Seen<MirrorGroup>>::all(client.clone()),
            |_| true,
        )
        .await?;
    writer
        .all(
            "failovers",
            &Api::<Seen<Failover>>::all(client.clone()),
            |_| true,
        )
        .await?;
    writer
        .all("legs", &Api::<Seen<Leg>>::all(client.clone()), |_| true)
        .await?;
    writer
        .all(
            "attachments",
            &Api::<Seen<Attachment>>::all(client.clone()),
            |_| true,
        )
        .await?;
    writer
        .all(
            "persistentvolumes",
            &Api::<Seen<PersistentVolume>>::all(client.clone()),
            |volume| {
                volume
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.csi.as_ref())
                    .is_some_and(|csi| csi.driver == OUR_DRIVER)
            },
        )
        .await?;
    writer
        .all(
            "persistentvolumeclaims",
            &Api::<Seen<PersistentVolumeClaim>>::all(client.clone()),
            |claim| {
                claim
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.volume_name.as_ref())
                    .is_some_and(|name| name.starts_with("ts-"))
            },
        )
        .await?;
    writer
        .all(
            "volumeattachments",
            &Api::<Seen<VolumeAttachment>>::all(client.clone()),
            |attachment| attachment.spec.attacher == OUR_DRIVER,
        )
        .await?;
    writer
        .all(
            "storageclasses",
            &Api::<Seen<StorageClass>>::all(client.clone()),
            |class| class.provisioner == OUR_DRIVER,
        )
        .await?;
    writer
        .all(
            "csidrivers",
            &Api::<Seen<CSIDriver>>::all(client.clone()),
            |driver| driver.name_any() == OUR_DRIVER,
        )
        .await?;
    writer
        .all(
            "csinodes",
            &Api::<Seen<CSINode>>::all(client.clone()),
            |_| true,
        )
        .await?;
    writer
        .all("nodes", &Api::<Seen<Node>>::all(client.clone()), |_| true)
        .await?;
    writer
        .all(
            "deployments",
            &Api::<Seen<Deployment>>::namespaced(client.clone(), namespace),
            |_| true,
        )
        .await?;
    writer
        .all(
            "daemonsets",
            &Api::<Seen<DaemonSet>>::namespaced(client.clone(), namespace),
            |_| true,
        )
        .await?;
    writer
        .all(
            "pods",
            &Api::<Seen<Pod>>::namespaced(client.clone(), namespace),
            |_| true,
        )
        .await?;
    writer
        .all(
            "events",
            &Api::<Seen<Event>>::all(client.clone()),
            |event| {
                let ours = |text: Option<&str>| text.is_some_and(|text| text.contains("twinsite"));
                ours(event.reporting_controller.as_deref())
                    || ours(
                        event
                            .regarding
                            .as_ref()
                            .and_then(|about| about.api_version.as_deref()),
                    )
                    || event.metadata.namespace.as_deref() == Some(namespace)
            },
        )
        .await?;
    writer
        .secrets(&Api::namespaced(client.clone(), namespace))
        .await?;
    writer.logs(&Api::namespaced(client, namespace)).await?;
    let problems = writer.problems;
    if !problems.is_empty() {
        fs::write(place.join("problems.txt"), problems)?;
    }
    Ok(place)
}

struct Writer {
    place: PathBuf,
    problems: String,
}

impl Writer {
    async fn all<K>(
        &mut self,
        kind: &str,
        api: &Api<Seen<K>>,
        wanted: impl Fn(&K) -> bool,
    ) -> Result<()>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
    {
        match cluster::list(api).await {
            Ok(all) => {
                let all: Vec<K> = all.into_iter().filter(wanted).collect();
                self.save(&format!("{kind}.yaml"), &all)
            }
            Err(error) => {
                self.problem(kind, &cluster::explain(&error));
                Ok(())
            }
        }
    }

    fn save(&self, name: &str, objects: &[impl Serialize]) -> Result<()> {
        let mut text = String::new();
        for object in objects {
            let mut value = serde_json::to_value(object)?;
            redact(&mut value);
            text.push_str("---\n");
            text.push_str(&serde_yaml::to_string(&value)?);
        }
        let path = self.place.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn problem(&mut self, what: &str, error: &str) {
        self.problems.push_str(&format!("{what}: {error}\n"));
    }

    /// Which there are, with which keys.
    async fn secrets(&mut self, api: &Api<Seen<Secret>>) -> Result<()> {
        match cluster::list(api).await {
            Ok(all) => {
                let mut text = String::new();
                for secret in all {
                    let name = secret.name_any();
                    let keys: Vec<_> = secret.data.unwrap_or_default().into_keys().collect();
                    text.push_str(&format!("{name}: {}\n", keys.join(", ")));
                }
                fs::write(self.place.join("secrets.txt"), text)?;
            }
            Err(error) => self.problem("secrets", &cluster::explain(&error)),
        }
        Ok(())
    }

    async fn logs(&mut self, api: &Api<Pod>) -> Result<()> {
        let pods = match api.list(&ListParams::default().labels(OUR_PODS)).await {
            Ok(pods) => pods.items,
            Err(error) => {
                self.problem("logs", &cluster::explain(&error));
                return Ok(());
            }
        };
        let folder = self.place.join("logs");
        fs::create_dir_all(&folder)?;
        for pod in pods {
            let name = pod.name_any();
            let containers = pod.spec.map(|spec| spec.containers).unwrap_or_default();
            for container in containers {
                for previous in [false, true] {
                    let wanted = LogParams {
                        container: Some(container.name.clone()),
                        previous,
                        tail_lines: Some(LOG_LINES),
                        timestamps: true,
                        ..LogParams::default()
                    };
                    let suffix = if previous { ".previous" } else { "" };
                    match api.logs(&name, &wanted).await {
                        Ok(text) => fs::write(
                            folder.join(format!("{name}.{}{suffix}.log", container.name)),
                            struck(&text),
                        )?,
                        // Most containers never restarted.
                        Err(_) if previous => {}
                        Err(error) => self.problem(
                            &format!("log of {name}/{}", container.name),
                            &cluster::explain(&error),
                        ),
                    }
                }
            }
        }
        Ok(())
    }
}

/// A context as the name of a folder.
fn file_name(context: &str) -> String {
    context
        .chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() || "-_.@".contains(letter) {
                letter
            } else {
                '_'
            }
        })
        .collect()
}

const STRUCK: &str = "(struck out)";
/// Words in names of fields whose text is a credential.
const PRIVATE: [&str; 6] = [
    "password",
    "token",
    "secretkey",
    "secretaccesskey",
    "accesskey",
    "privatekey",
];

/// Takes out what is long and says nothing, and what nobody should see.
fn redact(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("managedFields");
            map.remove("kubectl.kubernetes.io/last-applied-configuration");
            // An environment variable says its name beside its value.
            let private_variable = map
                .get("name")
                .and_then(Value::as_str)
                .is_some_and(is_private);
            for (key, inner) in map {
                let private = is_private(key) || (private_variable && key == "value");
                match inner {
                    Value::String(text) if private => STRUCK.clone_into(text),
                    other => redact(other),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::String(text) => *text = struck(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn is_private(name: &str) -> bool {
    let plain: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_ascii_lowercase();
    // The token of a Failover names an epoch, and a force is public in its object.
    PRIVATE.iter().any(|word| plain.ends_with(word))
}

/// The text without what looks like a token: the three parts of a JWT, and whatever follows `Bearer`.
fn struck(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut after_bearer = false;
    for piece in text.split_inclusive(|letter: char| {
        letter.is_whitespace() || matches!(letter, '"' | '\'' | ',' | ';' | '=')
    }) {
        let word = piece.trim_end_matches(|letter: char| {
            letter.is_whitespace() || matches!(letter, '"' | '\'' | ',' | ';' | '=')
        });
        let is_jwt = word.starts_with("eyJ") && word.len() > 20;
        if (is_jwt || after_bearer) && !word.is_empty() {
            clean.push_str(STRUCK);
            clean.push_str(&piece[word.len()..]);
        } else {
            clean.push_str(piece);
        }
        after_bearer = if word.is_empty() {
            after_bearer
        } else {
            word.eq_ignore_ascii_case("bearer")
        };
    }
    clean
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn credentials_are_struck_out_wherever_they_stand() {
        let mut value = json!({
            "metadata": {
                "name": "a",
                "managedFields": [{"manager": "x"}],
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "note": "kept"},
            },
            "spec": {
                "chap": {"authSecret": "array-chap", "password": "hunter2"},
                "env": [{"name": "AWS_SECRET_ACCESS_KEY", "value": "wJalr"}, {"name": "TWINSITE_SITE", "value": "medical"}],
                "args": ["--header=Authorization: Bearer abc.def.ghi next"],
            },
        });
        redact(&mut value);
        assert_eq!(
            value,
            json!({
                "metadata": {"name": "a", "annotations": {"note": "kept"}},
                "spec": {
                    "chap": {"authSecret": "array-chap", "password": STRUCK},
                    "env": [{"name": "AWS_SECRET_ACCESS_KEY", "value": STRUCK}, {"name": "TWINSITE_SITE", "value": "medical"}],
                    "args": [format!("--header=Authorization: Bearer {STRUCK} next")],
                },
            })
        );
    }

    #[test]
    fn tokens_in_logs_are_struck_out_and_lines_stay() {
        let text = "one eyJhbGciOiJSUzI1NiIsImtpZCI6Ing.payload.signature, two\nAuthorization: bearer  s3cret\nthree\n";
        assert_eq!(
            struck(text),
            format!("one {STRUCK}, two\nAuthorization: bearer  {STRUCK}\nthree\n")
        );
        assert_eq!(struck("eyJ short"), "eyJ short");
    }

    #[test]
    fn a_context_becomes_one_folder() {
        assert_eq!(file_name("arn:aws:eks/prod a"), "arn_aws_eks_prod_a");
        assert_eq!(file_name("admin@medical.example"), "admin@medical.example");
    }
}
