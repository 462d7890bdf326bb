//! Which cluster this is: the uid of its namespace kube-system, by which the site's name is claimed at the witness.
//!
//! It is kept beside the records, so that an agent starts with its API server away. The very first start needs the API
//! server: without it there are no objects either.

use std::{io, path::Path, time::Duration};

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use tokio::time::{sleep, timeout};

use crate::control::durable::{read_optional, write_durable};
use twinsite_api::told;

const FILE: &str = "cluster";
/// How long a start waits for the API server when the cluster is known already.
const PATIENCE: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_secs(2);

/// The uid, from the API server if it answers, else as it was kept; waits where neither knows it.
pub(crate) async fn cluster(client: &Client, state: &Path) -> io::Result<String> {
    std::fs::create_dir_all(state)?;
    let path = state.join(FILE);
    let kept = read_optional(&path)?
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty());
    let mut told_before = None;
    loop {
        match ask(client).await {
            Ok(uid) => {
                if kept.as_ref().is_some_and(|kept| *kept != uid) {
                    tracing::warn!(
                        ?kept,
                        uid,
                        "this node belongs to another cluster now, or the cluster was made anew: the site's name may have to be freed at the witness"
                    );
                }
                if kept.as_ref() != Some(&uid) {
                    write_durable(&path, uid.as_bytes())?;
                }
                return Ok(uid);
            }
            Err(error) => {
                if let Some(kept) = kept {
                    tracing::warn!(
                        error,
                        "the API server does not answer: going on with what is known"
                    );
                    return Ok(kept);
                }
                if told_before.as_ref() != Some(&error) {
                    tracing::warn!(
                        error,
                        "waiting for the API server, which says what to do here"
                    );
                    told_before = Some(error);
                }
                sleep(RETRY).await;
            }
        }
    }
}

async fn ask(client: &Client) -> Result<String, String> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    match timeout(PATIENCE, namespaces.get_metadata("kube-system")).await {
        Ok(Ok(found)) => found
            .metadata
            .uid
            .ok_or_else(|| "namespace kube-system has no uid".to_owned()),
        Ok(Err(error)) => Err(told(&error)),
        Err(_) => Err("no answer in time".to_owned()),
    }
}
