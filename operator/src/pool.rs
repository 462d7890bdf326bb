//! What the operator says of a StoragePool: whether anybody could serve it.
//!
//! Room, marker and legs are the agent's to say (field manager `twinsite-agent`); the operator owns one condition,
//! `Accepted`, and the first `Ready`, so that nobody takes a pool without an agent for a good one.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::reflector::ObjectRef,
};
use serde_json::json;
use twinsite_api::{
    API_VERSION, Condition, StoragePool, condition, condition_type, reason, set_condition,
};

use crate::{
    shell::{operator::Operator, queue::Outcome, watch::within},
    volume::names,
};

/// The pool can serve here.
pub const ACCEPTED: &str = "Accepted";
const OTHER_SITE: &str = "OtherSite";
const NO_NODE: &str = "NoNode";
const ARRAY: &str = "Array";

/// Whether a pool's node is in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NodeSeen {
    There,
    Missing,
}

/// One round of one pool.
pub async fn reconcile(operator: &Operator, name: &str) -> Outcome {
    let Some(pool) = operator.own.pools.store.get(&ObjectRef::new(name)) else {
        return Outcome::Settled;
    };
    let node = pool.spec.node.as_ref().map(|node| {
        let known = operator.own.nodes.store.get(&ObjectRef::new(&node.name));
        if known.is_some() {
            NodeSeen::There
        } else {
            NodeSeen::Missing
        }
    });
    let ours = said(&pool, &operator.options.site, node, Timestamp::now());
    let known = pool.status.iter().flat_map(|status| &status.conditions);
    let known: Vec<&Condition> = known.collect();
    if ours.iter().all(|one| known.contains(&one)) {
        return Outcome::Settled;
    }
    let api: Api<StoragePool> = Api::all(operator.client.clone());
    let patch = json!({
        "apiVersion": API_VERSION,
        "kind": StoragePool::kind(&()),
        "metadata": { "name": name, "uid": pool.uid() },
        "status": { "conditions": ours },
    });
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    match within(api.patch_status(name, &params, &Patch::Apply(&patch))).await {
        Ok(_) => Outcome::Settled,
        Err(error) => {
            tracing::warn!(pool = name, %error, "the status could not be written");
            Outcome::Failed
        }
    }
}

/// The conditions that are the operator's.
fn said(pool: &StoragePool, site: &str, node: Option<NodeSeen>, now: Timestamp) -> Vec<Condition> {
    let generation = pool.metadata.generation;
    let empty = Vec::new();
    let known = pool
        .status
        .as_ref()
        .map_or(&empty, |status| &status.conditions);
    let (accepted, reason, message) = match node {
        _ if pool.spec.site != site => (
            Some(false),
            OTHER_SITE,
            format!(
                "the pool is at site {}, this cluster is {site}: nothing of it is used here",
                pool.spec.site
            ),
        ),
        Some(NodeSeen::Missing) => (
            Some(false),
            NO_NODE,
            format!(
                "there is no node {}: correct node.name, or wait until it joins",
                pool.spec.node.as_ref().map_or("", |node| &node.name)
            ),
        ),
        Some(NodeSeen::There) => (
            Some(true),
            reason::AS_DESIRED,
            "the agent of its node may serve it".to_owned(),
        ),
        None => (
            Some(true),
            ARRAY,
            "its LUNs are served by the array".to_owned(),
        ),
    };
    let mut ours: Vec<Condition> = known
        .iter()
        .filter(|one| one.type_ == ACCEPTED)
        .cloned()
        .collect();
    set_condition(
        &mut ours,
        condition(ACCEPTED, accepted, reason, message, generation, Time(now)),
    );
    // Until its agent says more; an array has none, and is as ready as it is accepted.
    let spoken = known.iter().find(|one| one.type_ == condition_type::READY);
    let by_us = spoken.is_none_or(|one| {
        matches!(
            one.reason.as_str(),
            reason::PENDING | OTHER_SITE | NO_NODE | ARRAY
        )
    });
    if by_us {
        let (status, reason) = match (accepted, node) {
            (Some(true), Some(_)) => (None, reason::PENDING),
            _ => (accepted, reason),
        };
        let message = match status {
            None => "the agent of its node has not said anything yet".to_owned(),
            Some(_) => ours
                .first()
                .map(|one| one.message.clone())
                .unwrap_or_default(),
        };
        let mut first: Vec<Condition> = spoken.into_iter().cloned().collect();
        set_condition(
            &mut first,
            condition(
                condition_type::READY,
                status,
                reason,
                message,
                generation,
                Time(now),
            ),
        );
        ours.extend(first);
    }
    ours
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(text: &str) -> StoragePool {
        serde_yaml::from_str(&format!(
            "apiVersion: twinsite.io/v1alpha1\nkind: StoragePool\nmetadata: {{name: p, generation: 1}}\nspec: {{site: medical, portals: ['192.0.2.1:3260'], {text}}}\n"
        ))
        .unwrap()
    }

    fn words(pool: &StoragePool, site: &str, node: Option<NodeSeen>) -> Vec<String> {
        said(pool, site, node, Timestamp::UNIX_EPOCH)
            .iter()
            .map(|one| format!("{}={} {}", one.type_, one.status, one.reason))
            .collect()
    }

    const NODE: &str = "node: {name: m1, directory: /pool}";

    #[test]
    fn a_pool_is_accepted_where_its_node_is() {
        let node = pool(NODE);
        assert_eq!(
            words(&node, "medical", Some(NodeSeen::There)),
            ["Accepted=True AsDesired", "Ready=Unknown Pending"]
        );
        assert_eq!(
            words(&node, "medical", Some(NodeSeen::Missing)),
            ["Accepted=False NoNode", "Ready=False NoNode"]
        );
        assert_eq!(
            words(&node, "research", Some(NodeSeen::Missing)),
            ["Accepted=False OtherSite", "Ready=False OtherSite"]
        );
        let array = pool("array: {iqn: 'iqn.2026-11.example:a'}");
        assert_eq!(
            words(&array, "medical", None),
            ["Accepted=True Array", "Ready=True Array"]
        );
    }

    #[test]
    fn what_the_agent_says_of_ready_is_left_alone() {
        let mut node = pool(NODE);
        let mut status = twinsite_api::StoragePoolStatus::default();
        status.conditions.push(condition(
            "Ready",
            Some(false),
            "PoolNotMounted",
            "",
            Some(1),
            Time(Timestamp::UNIX_EPOCH),
        ));
        node.status = Some(status);
        assert_eq!(
            words(&node, "medical", Some(NodeSeen::There)),
            ["Accepted=True AsDesired"]
        );
    }
}
