//! The operator, and the custom resource definitions from the types of `twinsite-api`.
//!
//! | module | |
//! |---|---|
//! | [`volume`], [`failover`], [`policy`] | what is done about one volume, said of an order, judged without a person: pure planners |
//! | `moves` | where a volume should be, and whether this site lets it go or takes it |
//! | [`shell`] | watches, queue, workers, leadership; observes for the planners and carries their plans out |
//! | [`site_pair`], [`pool`], [`node`] | what is said of pairs, of pools and of what silent agents served; the links to witness and peer |
//! | [`witness`], [`peer`] | the register, the claims and signs of life; the other cluster, read-only |
//! | [`metrics`], [`health`] | `/metrics`, `/healthz`, `/readyz` |
//!
//! `crds/` holds what [`files`] gives, one file per kind, and nothing else; a test keeps the two equal.
#![forbid(unsafe_code)]

#[cfg(test)]
mod argo;
pub mod failover;
pub mod health;
pub mod metrics;
mod moves;
pub mod node;
pub mod peer;
pub mod policy;
pub mod pool;
pub mod shell;
pub mod site_pair;
pub mod volume;
pub mod witness;

use std::collections::BTreeMap;

use serde_json::Value;

/// File name and text of every definition, as they stand in `crds/`.
///
/// # Errors
/// A definition cannot be written as YAML.
pub fn files() -> anyhow::Result<Vec<(String, String)>> {
    twinsite_api::definitions()
        .iter()
        .map(|definition| {
            let name = format!("{}.yaml", definition.spec.names.plural);
            let value = sorted(serde_json::to_value(definition)?);
            Ok((name, serde_yaml::to_string(&value)?))
        })
        .collect()
}

/// Keys in alphabetical order at every level: whether a map keeps its order depends on which features other crates of a
/// build switch on. Formats of unsigned numbers go: no API server knows them, and each says so at every apply.
fn sorted(value: Value) -> Value {
    let is_known = |(key, value): &(String, Value)| {
        key != "format"
            || !value
                .as_str()
                .is_some_and(|format| format.starts_with("uint"))
    };
    match value {
        Value::Object(map) => {
            let ordered: BTreeMap<String, Value> = map.into_iter().filter(is_known).collect();
            Value::Object(
                ordered
                    .into_iter()
                    .map(|(key, value)| (key, sorted(value)))
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}
