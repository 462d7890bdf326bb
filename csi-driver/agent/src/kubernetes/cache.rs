//! What the API server has shown, and which files follow from it.
//!
//! Pure. A kind counts as known once a whole list of it has come; until then the files of that kind stay as they are, so
//! that an agent that starts without its API server goes on with what it knew. From then on a list that lacks an object
//! is the order to let it go, also when the object went away unseen.
//!
//! Invariants: an object that is being deleted has no file; a SitePair or StoragePool that a leg or an attachment here
//! still names keeps its file when it is gone, for taking it away would take the legs with it; only Secrets that are
//! named have files, and none is dropped before everything that could name it is known; a file that can be read is not replaced by one
//! that cannot.

use std::collections::{BTreeMap, BTreeSet};

use kube::{ResourceExt as _, api::DynamicObject, runtime::watcher::Event};
use serde_json::{Value, json};
use twinsite_api::{AttachmentMode, SitePairSpec, order::AGENT_FINALIZER, unknown::prune};

use super::kinds::Kind;
use crate::{control::witnesses::secret_name, objects::parse_file};

/// How many Secrets are watched at most: more are not named by sound objects of one node.
pub(crate) const MAX_SECRETS: usize = 64;

/// Where an event comes from: a kind as a whole, or one Secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    All(Kind),
    Secret(String),
}

/// What is known of the cluster.
#[derive(Debug)]
pub(crate) struct Cache {
    node: String,
    site: String,
    shown: BTreeMap<Source, Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    /// Whether a whole list has come.
    listed: bool,
    known: BTreeMap<String, DynamicObject>,
    /// A list that is on its way.
    coming: BTreeMap<String, DynamicObject>,
}

/// An object that is being deleted and waits for this agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaving {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) version: String,
    /// The finalizers that stay.
    pub(crate) others: Vec<String>,
}

impl Cache {
    pub(crate) fn new(node: &str, site: &str) -> Self {
        Self {
            node: node.to_owned(),
            site: site.to_owned(),
            shown: BTreeMap::new(),
        }
    }

    /// Takes what a watch has told; says whether anything may follow from it.
    pub(crate) fn hear(&mut self, source: Source, event: Event<DynamicObject>) -> bool {
        let shown = self.shown.entry(source).or_default();
        match event {
            Event::Init => {
                shown.coming.clear();
                false
            }
            Event::InitApply(object) => {
                shown.coming.insert(object.name_any(), object);
                false
            }
            Event::InitDone => {
                shown.known = std::mem::take(&mut shown.coming);
                shown.listed = true;
                true
            }
            Event::Apply(object) => {
                shown.known.insert(object.name_any(), object);
                true
            }
            Event::Delete(object) => {
                shown.known.remove(&object.name_any());
                true
            }
        }
    }

    /// Secrets that nobody names any more are not watched any more.
    pub(crate) fn forget_secrets(&mut self, named: &BTreeSet<String>) {
        self.shown.retain(|source, _| match source {
            Source::Secret(name) => named.contains(name),
            Source::All(_) => true,
        });
    }

    /// The uid of an object, if it is known.
    pub(crate) fn uid(&self, kind: Kind, name: &str) -> Option<String> {
        self.shown.get(&Source::All(kind))?.known.get(name)?.uid()
    }

    /// Legs and attachments whose deletion waits for this agent.
    pub(crate) fn leaving(&self) -> Vec<Leaving> {
        let mut leaving = Vec::new();
        for kind in [Kind::Leg, Kind::Attachment] {
            for object in self.known(kind).filter(|object| is_deleted(object)) {
                let (ours, others): (Vec<_>, Vec<_>) = object
                    .finalizers()
                    .iter()
                    .cloned()
                    .partition(|finalizer| finalizer == AGENT_FINALIZER);
                if let (false, Some(version)) = (ours.is_empty(), object.resource_version()) {
                    leaving.push(Leaving {
                        kind,
                        name: object.name_any(),
                        version,
                        others,
                    });
                }
            }
        }
        leaving
    }

    /// Secrets that the files of this node name, now that everything that can name one is known.
    pub(crate) fn secrets(&self) -> Option<BTreeSet<String>> {
        let complete = [Kind::SitePair, Kind::Leg, Kind::Attachment]
            .into_iter()
            .all(|kind| self.listed(&Source::All(kind)));
        if !complete {
            return None;
        }
        let mut named = BTreeSet::new();
        for pair in self.known(Kind::SitePair).filter(|pair| self.is_ours(pair)) {
            let spec: Option<SitePairSpec> = serde_json::from_value(pair.data["spec"].clone()).ok();
            let witness = spec.and_then(|spec| secret_name(&spec, &self.site).map(str::to_owned));
            named.extend(witness);
        }
        for leg in self.wanted(Kind::Leg) {
            chap(&leg.data["spec"]["chap"], &mut named);
        }
        for attachment in self.wanted(Kind::Attachment) {
            let legs = attachment.data["spec"]["legs"].as_array();
            for leg in legs.into_iter().flatten() {
                chap(&leg["chap"], &mut named);
            }
        }
        Some(named.into_iter().take(MAX_SECRETS).collect())
    }

    /// The files that should be there, given those that are.
    pub(crate) fn files(&self, on_disk: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        for kind in [
            Kind::SitePair,
            Kind::StoragePool,
            Kind::Leg,
            Kind::Attachment,
        ] {
            if self.listed(&Source::All(kind)) {
                for object in self.wanted(kind) {
                    let (file, text) = (kind.file(&object.name_any()), text(kind, object));
                    // What was readable of this object stays: a newer value must not take a leg away when the agent starts anew.
                    let content = match on_disk.get(&file) {
                        Some(before)
                            if *before != text
                                && is_of(object, before)
                                && !is_readable(&file, &text) =>
                        {
                            before.clone()
                        }
                        _ => text,
                    };
                    files.insert(file, content);
                }
            }
        }
        let secrets = self.secrets();
        let named = self.named();
        for (file, content) in on_disk {
            let Some((kind, name)) = Kind::of_file(file) else {
                continue;
            };
            let stays = match kind {
                Kind::Secret => match &secrets {
                    None => true,
                    Some(secrets) => {
                        secrets.contains(name) && !self.listed(&Source::Secret(name.to_owned()))
                    }
                },
                Kind::SitePair | Kind::StoragePool => {
                    !self.listed(&Source::All(kind)) || named.contains(&(kind, name.to_owned()))
                }
                Kind::Leg | Kind::Attachment => !self.listed(&Source::All(kind)),
            };
            if stays {
                files.entry(file.clone()).or_insert_with(|| content.clone());
            }
        }
        for name in secrets.into_iter().flatten() {
            let shown = self.shown.get(&Source::Secret(name.clone()));
            if let Some(secret) = shown.and_then(|shown| shown.known.get(&name)) {
                files.insert(Kind::Secret.file(&name), text(Kind::Secret, secret));
            }
        }
        files
    }

    /// Pairs and pools that the legs and attachments of this node name.
    fn named(&self) -> BTreeSet<(Kind, String)> {
        let mut named = BTreeSet::new();
        let name = |value: &Value| value.as_str().map(str::to_owned);
        for leg in self.wanted(Kind::Leg) {
            let spec = &leg.data["spec"];
            named.extend(name(&spec["sitePair"]).map(|name| (Kind::SitePair, name)));
            named.extend(name(&spec["pool"]).map(|name| (Kind::StoragePool, name)));
        }
        for attachment in self.wanted(Kind::Attachment) {
            let pair = name(&attachment.data["spec"]["sitePair"]);
            named.extend(pair.map(|name| (Kind::SitePair, name)));
        }
        named
    }

    fn listed(&self, source: &Source) -> bool {
        self.shown.get(source).is_some_and(|shown| shown.listed)
    }

    fn known(&self, kind: Kind) -> impl Iterator<Item = &DynamicObject> {
        let shown = self.shown.get(&Source::All(kind));
        shown.into_iter().flat_map(|shown| shown.known.values())
    }

    /// Known objects that concern this node and are not on their way out.
    fn wanted(&self, kind: Kind) -> impl Iterator<Item = &DynamicObject> {
        self.known(kind).filter(move |object| match kind {
            Kind::Leg | Kind::Attachment => self.is_ours(object) && !is_deleted(object),
            Kind::SitePair | Kind::StoragePool | Kind::Secret => self.is_ours(object),
        })
    }

    /// Whether this node does anything about it.
    fn is_ours(&self, object: &DynamicObject) -> bool {
        let spec = &object.data["spec"];
        // A pool of the node, a leg or attachment for it; a pair in which the site is; Secrets were asked for by name.
        if let Some(sites) = spec["sites"].as_array() {
            return sites.iter().any(|site| site["name"] == *self.site);
        }
        if spec["portals"].is_array() {
            return spec["site"] == *self.site && spec["node"]["name"] == *self.node;
        }
        spec["node"] == *self.node
    }
}

fn is_deleted(object: &DynamicObject) -> bool {
    object.metadata.deletion_timestamp.is_some()
}

/// Names of Secrets in a `chap` field.
fn chap(chap: &Value, named: &mut BTreeSet<String>) {
    for key in ["pairSecret", "authSecret"] {
        named.extend(chap[key].as_str().map(str::to_owned));
    }
}

fn is_readable(file: &str, text: &str) -> bool {
    parse_file(file, text).problems.is_empty()
}

/// Whether a file was written for this object, and not for one of its name that is gone.
fn is_of(object: &DynamicObject, file: &str) -> bool {
    let file: Option<Value> = serde_yaml::from_str(file).ok();
    let written = file.and_then(|file| Some(file["metadata"]["uid"].as_str()?.to_owned()));
    written.is_none_or(|uid| object.uid() == Some(uid))
}

/// An order whose work cannot be taken back: one that is not understood as a whole is refused by the reader of its file.
fn is_final(kind: Kind, spec: &Value) -> bool {
    let modes = [
        AttachmentMode::Birth,
        AttachmentMode::Wipe,
        AttachmentMode::Reseed,
        AttachmentMode::Force,
    ];
    kind == Kind::Attachment && modes.iter().any(|mode| spec["mode"] == format!("{mode:?}"))
}

/// An object as its file has it: what an agent needs, and nothing that changes on its own or that only a newer version knows.
fn text(kind: Kind, object: &DynamicObject) -> String {
    let mut metadata = json!({"name": object.name_any()});
    let mut file = json!({"apiVersion": kind.api_version(), "kind": kind.word()});
    if kind == Kind::Secret {
        file["data"] = object.data.get("data").cloned().unwrap_or(json!({}));
    } else {
        if let Some(uid) = object.uid() {
            metadata["uid"] = uid.into();
        }
        if let Some(generation) = object.metadata.generation {
            metadata["generation"] = generation.into();
        }
        file["spec"] = object.data["spec"].clone();
        if !is_final(kind, &file["spec"]) {
            prune(kind.word(), &mut file);
        }
        // The rank of the attachment outlives the state folder of a node (protocol 2.7 "Order").
        let order = &object.data["status"]["order"];
        if kind == Kind::Attachment && order.is_u64() {
            file["status"] = json!({"order": order});
        }
    }
    file["metadata"] = metadata;
    serde_yaml::to_string(&file).unwrap_or_default()
}

#[cfg(test)]
mod tests;
