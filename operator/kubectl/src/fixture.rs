//! Worlds from YAML and answers from files, for tests.

use std::path::Path;

use serde::Deserialize as _;
use serde_yaml::Value;

use crate::world::{Cluster, Objects};

/// A cluster that answers with these documents.
pub(crate) fn cluster(context: &str, documents: &str) -> Cluster {
    let mut objects = Objects::default();
    for document in serde_yaml::Deserializer::from_str(documents) {
        let value = Value::deserialize(document).expect("YAML");
        if value.is_null() {
            continue;
        }
        let kind = value["kind"].as_str().expect("a kind").to_owned();
        match kind.as_str() {
            "SitePair" => objects.pairs.push(read(value)),
            "StoragePool" => objects.pools.push(read(value)),
            "MirroredVolume" => objects.volumes.push(read(value)),
            "Attachment" => objects.attachments.push(read(value)),
            "Failover" => objects.failovers.push(read(value)),
            other => panic!("no place for a {other}"),
        }
    }
    Cluster {
        context: context.to_owned(),
        objects: Ok(objects),
    }
}

/// A cluster that does not answer.
pub(crate) fn silent(context: &str, error: &str) -> Cluster {
    Cluster {
        context: context.to_owned(),
        objects: Err(error.to_owned()),
    }
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_yaml::from_value(value).expect("an object of this kind")
}

/// Compares with the file `src/golden/NAME`; GOLDEN=write writes it instead.
pub(crate) fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/golden")
        .join(name);
    if std::env::var_os("GOLDEN").is_some_and(|mode| mode == "write") {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, text).expect("a golden file");
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        wanted == text,
        "src/golden/{name} says\n{wanted}\nand not\n{text}\nGOLDEN=write cargo test writes it anew"
    );
}
