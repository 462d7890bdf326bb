//! One object of an API server, as far as this version can read it: one that it cannot read is a value, not the end of a list.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use crate::{
    VolumeId,
    unknown::{UnknownField, unknown_fields},
};

/// An object of a list or a watch.
#[derive(Clone, Debug)]
pub struct Seen<K> {
    pub metadata: ObjectMeta,
    /// The object, without what this version does not know.
    pub read: Result<K, Unreadable>,
    /// What that is.
    pub unknown: Vec<UnknownField>,
}

/// An object that this version cannot read, such as one with a word for `mode` that came later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Unreadable {
    pub why: String,
    /// Its `spec.sitePair`, from which the identity of a volume follows.
    pub pair: Option<String>,
}

impl<K> Seen<K> {
    /// The identity that a volume of this name has.
    #[must_use]
    pub fn volume_id(&self) -> Option<VolumeId> {
        let pair = self.read.as_ref().err()?.pair.as_deref()?;
        let namespace = self.metadata.namespace.as_deref()?;
        Some(VolumeId::of(
            pair,
            namespace,
            self.metadata.name.as_deref()?,
        ))
    }
}

impl<'de, K> Deserialize<'de> for Seen<K>
where
    K: Resource<DynamicType = ()> + de::DeserializeOwned,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let metadata = value.get("metadata");
        let metadata = metadata.and_then(|metadata| ObjectMeta::deserialize(metadata).ok());
        let metadata = metadata.unwrap_or_default();
        let is_ours = K::group(&()) == crate::GROUP;
        let unknown = if is_ours {
            unknown_fields(&K::kind(&()), &value)
        } else {
            Vec::new()
        };
        let read = K::deserialize(&value).map_err(|error| Unreadable {
            why: error.to_string(),
            pair: value["spec"]["sitePair"].as_str().map(str::to_owned),
        });
        Ok(Self {
            metadata,
            read,
            unknown,
        })
    }
}

impl<K: Resource<DynamicType = ()>> Resource for Seen<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::MirroredVolume;

    #[test]
    fn one_that_cannot_be_read_does_not_hide_the_others() {
        let volume = |name: &str, more: (&str, Value)| {
            let mut volume = json!({
                "apiVersion": crate::API_VERSION, "kind": "MirroredVolume",
                "metadata": {"name": name, "namespace": "rv"},
                "spec": {
                    "sitePair": "ctrc", "activeSite": "medical", "capacity": "1Gi", "claim": {"name": name},
                    "legs": [{"site": "medical", "pool": "m1"}],
                },
            });
            volume["spec"][more.0] = more.1;
            volume
        };
        let list = json!([
            volume("plain", ("failback", json!("Manual"))),
            volume("newer", ("tomorrow", json!("blue"))),
            volume("odd", ("failback", json!("OnSundays"))),
        ]);
        let seen: Vec<Seen<MirroredVolume>> = serde_json::from_value(list).unwrap();
        assert!(seen[0].read.is_ok() && seen[0].unknown.is_empty());
        assert_eq!(seen[1].read.as_ref().unwrap().spec.claim.name, "newer");
        assert_eq!(seen[1].unknown[0].to_string(), "spec.tomorrow");
        let why = seen[2].read.as_ref().unwrap_err();
        assert!(why.to_string().contains("OnSundays"), "{why}");
        assert_eq!(seen[2].volume_id(), Some(VolumeId::of("ctrc", "rv", "odd")));
    }
}
