//! Where the register lives: one of four kinds of witness.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// The witness of a pair: exactly one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.kubernetes), has(self.objectStore), has(self.site), has(self.directory)].filter(x, x).size() == 1").message("exactly one of kubernetes, objectStore, site and directory"))]
pub struct WitnessSpec {
    /// Objects in a third Kubernetes cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesWitness>,
    /// Objects in an S3-compatible bucket that honours conditional puts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_store: Option<ObjectStoreWitness>,
    /// The API server of this site of the pair. Losing that site then needs a human.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub site: Option<String>,
    /// A directory that all agents of the pair see. For one machine and for tests: a network file
    /// system that lies about locks or renames would break it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<DirectoryWitness>,
}

/// A namespace in a cluster that belongs to neither site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubernetesWitness {
    /// Secret in the release namespace with key `kubeconfig`.
    #[schemars(length(min = 1, max = 253))]
    pub kubeconfig_secret: String,
    /// Namespace there that holds the witness objects.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
}

/// A bucket, or a prefix in one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStoreWitness {
    /// Endpoint, bucket and prefix: `https://s3.example.org/bucket/prefix`, or `s3://bucket/prefix` for AWS.
    #[schemars(length(min = 1, max = 1024))]
    pub url: String,
    /// Secret with keys `accessKeyId`, `secretAccessKey` and, where the store wants one, `region`.
    #[schemars(length(min = 1, max = 253))]
    pub secret: String,
}

/// A folder on a file system that all agents see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DirectoryWitness {
    /// Absolute path. The folder must exist: a witness disk that is not mounted is not an empty witness.
    #[schemars(length(min = 1, max = 4096))]
    pub path: String,
}
