//! Fields of a spec that this version does not know, found by the definition that it would install itself.
//!
//! Programs that read from an API server go on without them: the server has judged the object by its own definition, which may
//! be newer. So a field that is added later must be one that an older program may ignore without losing data; what it must not
//! ignore is a new word for `mode` or `policy`, which it cannot read at all. Files written by hand are held to the definition.
//! Only `spec` is looked at: a status is written by programs.

use std::{collections::BTreeMap, fmt, sync::OnceLock};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::Value;

/// A field of a spec that the definition does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownField {
    /// What holds it, such as `spec.legs[0]`.
    pub parent: String,
    pub name: String,
    /// The fields that are known there.
    pub known: Vec<String>,
}

impl fmt::Display for UnknownField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.parent, self.name)
    }
}

/// Fields in words, at most a handful of them.
#[must_use]
pub fn listed(fields: &[UnknownField]) -> String {
    const MOST: usize = 5;
    let mut text: Vec<String> = fields.iter().take(MOST).map(ToString::to_string).collect();
    if fields.len() > MOST {
        text.push(format!("{} more", fields.len() - MOST));
    }
    text.join(", ")
}

/// The unknown fields of an object of a kind of this group; none for any other kind.
#[must_use]
pub fn unknown_fields(kind: &str, object: &Value) -> Vec<UnknownField> {
    let mut found = Vec::new();
    if let (Some(definition), Some(spec)) = (specs().get(kind), object.get("spec")) {
        walk("spec", spec, definition, &mut found);
    }
    found
}

/// Takes them out, and says which they were.
pub fn prune(kind: &str, object: &mut Value) -> Vec<UnknownField> {
    let found = unknown_fields(kind, object);
    for field in &found {
        let path = field.parent.replace(['.', '['], "/").replace(']', "");
        if let Some(parent) = object.pointer_mut(&format!("/{path}"))
            && let Some(parent) = parent.as_object_mut()
        {
            parent.remove(&field.name);
        }
    }
    found
}

fn specs() -> &'static BTreeMap<String, JSONSchemaProps> {
    static SPECS: OnceLock<BTreeMap<String, JSONSchemaProps>> = OnceLock::new();
    SPECS.get_or_init(|| {
        crate::definitions()
            .into_iter()
            .filter_map(spec_of)
            .collect()
    })
}

fn spec_of(definition: CustomResourceDefinition) -> Option<(String, JSONSchemaProps)> {
    let version = definition.spec.versions.into_iter().next()?;
    let mut whole = version.schema?.open_api_v3_schema?.properties?;
    Some((definition.spec.names.kind, whole.remove("spec")?))
}

fn walk(path: &str, value: &Value, definition: &JSONSchemaProps, found: &mut Vec<UnknownField>) {
    match value {
        Value::Object(fields) => {
            let Some(known) = &definition.properties else {
                if let Some(JSONSchemaPropsOrBool::Schema(each)) = &definition.additional_properties
                {
                    for (name, value) in fields {
                        walk(&format!("{path}.{name}"), value, each, found);
                    }
                }
                return;
            };
            for (name, value) in fields {
                match known.get(name) {
                    Some(definition) => walk(&format!("{path}.{name}"), value, definition, found),
                    None => found.push(UnknownField {
                        parent: path.to_owned(),
                        name: name.clone(),
                        known: known.keys().cloned().collect(),
                    }),
                }
            }
        }
        Value::Array(items) => {
            if let Some(JSONSchemaPropsOrArray::Schema(each)) = &definition.items {
                for (n, item) in items.iter().enumerate() {
                    walk(&format!("{path}[{n}]"), item, each, found);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn volume() -> Value {
        json!({"spec": {
            "sitePair": "ctrc", "activeSite": "medical", "capacity": "1Gi", "claim": {"name": "records"},
            "legs": [{"site": "medical", "pool": "m1"}, {"site": "research", "pool": "r1"}],
        }})
    }

    #[test]
    fn what_a_newer_definition_adds_is_found_wherever_it_stands() {
        assert_eq!(unknown_fields("MirroredVolume", &volume()), []);
        let mut newer = volume();
        newer["spec"]["tomorrow"] = json!("blue");
        newer["spec"]["legs"][1]["colour"] = json!({"name": "red"});
        newer["status"] = json!({"mood": "good"});
        let found = unknown_fields("MirroredVolume", &newer);
        assert_eq!(listed(&found), "spec.legs[1].colour, spec.tomorrow");
        assert!(
            found[0].known.contains(&"poolClass".to_owned()),
            "{found:?}"
        );
        assert_eq!(prune("MirroredVolume", &mut newer), found);
        assert_eq!(newer["spec"], volume()["spec"]);
    }

    #[test]
    fn every_kind_has_a_definition_and_other_kinds_have_none() {
        let newer = json!({"spec": {"tomorrow": true}});
        for kind in [
            "SitePair",
            "StoragePool",
            "MirroredVolume",
            "MirrorGroup",
            "Failover",
            "Leg",
            "Attachment",
        ] {
            assert_eq!(
                listed(&unknown_fields(kind, &newer)),
                "spec.tomorrow",
                "{kind}"
            );
        }
        assert_eq!(unknown_fields("Pod", &newer), []);
    }

    #[test]
    fn labels_of_a_selector_are_no_fields() {
        let order = json!({"spec": {"volumes": {"selector": {"matchLabels": {"any": "thing"}}}}});
        assert_eq!(unknown_fields("Failover", &order), []);
    }
}
