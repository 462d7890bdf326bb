//! What the operator says of a StoragePool: whether anybody could serve it.
//!
//! Room, marker and legs are the agent's to say (field manager `twinsite-agent`), and so is `Ready` once it has spoken. The operator
//! owns `Accepted` at the pool's own site, and `Ready` where no agent will speak: before the first word, of an array, of a
//! node that is gone or silent (`node`), and of a pool of the other site.
//!
//! There the same object is `Ready` with the reason `OtherSite`: this cluster has nothing left to do for it. Anything else, for
//! ever, would hold up whoever waits for what Git applied: kstatus, Argo CD's rules, `kubectl wait`.

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
    node::Silent,
    shell::{
        events::{News, Tone},
        operator::Operator,
        queue::Outcome,
        watch::within,
    },
    volume::names,
};

/// The pool can serve here.
pub const ACCEPTED: &str = "Accepted";
const OTHER_SITE: &str = "OtherSite";
const NO_NODE: &str = "NoNode";
const ARRAY: &str = "Array";

/// What is seen of a pool's node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NodeSeen {
    There,
    Missing,
    Silent(Silent),
}

/// What the operator says of a pool.
#[derive(Clone, Debug, Default, PartialEq)]
struct Said {
    /// Where no agent says it.
    observed_generation: Option<i64>,
    conditions: Vec<Condition>,
}

/// One round of one pool.
pub async fn reconcile(operator: &Operator, name: &str) -> Outcome {
    let Some(pool) = operator.own.pools.store.get(&ObjectRef::new(name)) else {
        return Outcome::Settled;
    };
    let node = pool.spec.node.as_ref().map(|node| {
        let known = operator.own.nodes.store.get(&ObjectRef::new(&node.name));
        match (Silent::of(operator, &node.name), known) {
            (Some(silent), _) => NodeSeen::Silent(silent),
            (None, Some(_)) => NodeSeen::There,
            (None, None) => NodeSeen::Missing,
        }
    });
    let ours = said(&pool, &operator.options.site, node, Timestamp::now());
    if stands(&pool, &ours) {
        return Outcome::Settled;
    }
    let api: Api<StoragePool> = Api::all(operator.client.clone());
    let mut status = json!({ "conditions": ours.conditions });
    if let Some(generation) = ours.observed_generation {
        status["observedGeneration"] = generation.into();
    }
    let patch = json!({
        "apiVersion": API_VERSION,
        "kind": StoragePool::kind(&()),
        "metadata": { "name": name, "uid": pool.uid() },
        "status": status,
    });
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    match within(api.patch_status(name, &params, &Patch::Apply(&patch))).await {
        Ok(_) => {
            if let Some(silent) = newly_silent(&pool, &ours) {
                operator.events.tell(News {
                    regarding: pool.object_ref(&()),
                    tone: Tone::Warning,
                    reason: reason::AGENT_SILENT.to_owned(),
                    note: silent.message.clone(),
                });
            }
            Outcome::Settled
        }
        Err(error) => {
            tracing::warn!(pool = name, %error, "the status could not be written");
            Outcome::Failed
        }
    }
}

fn known(pool: &StoragePool) -> &[Condition] {
    pool.status
        .as_ref()
        .map_or(&[], |status| status.conditions.as_slice())
}

fn of_type<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|one| one.type_ == type_)
}

/// Whether all of it stands there already, and nothing that was ours before.
fn stands(pool: &StoragePool, ours: &Said) -> bool {
    let known = known(pool);
    let observed = pool
        .status
        .as_ref()
        .and_then(|status| status.observed_generation);
    let is_left =
        of_type(known, ACCEPTED).is_some() && of_type(&ours.conditions, ACCEPTED).is_none();
    ours.conditions.iter().all(|one| known.contains(one))
        && (ours.observed_generation.is_none() || ours.observed_generation == observed)
        && !is_left
}

fn newly_silent<'a>(pool: &StoragePool, ours: &'a Said) -> Option<&'a Condition> {
    let is_silent = |one: &&Condition| one.reason == reason::AGENT_SILENT;
    let before = of_type(known(pool), condition_type::READY);
    of_type(&ours.conditions, condition_type::READY)
        .filter(is_silent)
        .filter(|_| before.as_ref().is_none_or(|before| !is_silent(before)))
}

/// What is the operator's to say.
fn said(pool: &StoragePool, site: &str, node: Option<NodeSeen>, now: Timestamp) -> Said {
    if pool.spec.site != site {
        let text = format!(
            "it is served at site {}: what it is like there stands in that cluster; nothing of it is used at {site}",
            pool.spec.site
        );
        let ready = made(
            pool,
            condition_type::READY,
            Some(true),
            OTHER_SITE,
            text,
            now,
        );
        return Said {
            observed_generation: pool.metadata.generation,
            conditions: vec![ready],
        };
    }
    let accepted = accepted(pool, node, now);
    let ready = ready(pool, node, &accepted, now);
    Said {
        // The agent of a node says it itself.
        observed_generation: pool.metadata.generation.filter(|_| node.is_none()),
        conditions: std::iter::once(accepted).chain(ready).collect(),
    }
}

/// A condition whose transition time is that of the one that stands there, while its status is.
fn made(
    pool: &StoragePool,
    type_: &str,
    status: Option<bool>,
    reason: &str,
    message: String,
    now: Timestamp,
) -> Condition {
    let new = condition(
        type_,
        status,
        reason,
        message,
        pool.metadata.generation,
        Time(now),
    );
    let mut one: Vec<Condition> = of_type(known(pool), type_).into_iter().cloned().collect();
    set_condition(&mut one, new.clone());
    one.pop().unwrap_or(new)
}

fn accepted(pool: &StoragePool, node: Option<NodeSeen>, now: Timestamp) -> Condition {
    let (accepted, reason, message) = match node {
        Some(NodeSeen::Missing | NodeSeen::Silent(Silent::Gone(_))) => (
            false,
            NO_NODE,
            format!(
                "there is no node {}: correct node.name, or wait until it joins",
                node_name(pool)
            ),
        ),
        Some(NodeSeen::There | NodeSeen::Silent(Silent::Agent(_))) => (
            true,
            reason::AS_DESIRED,
            "the agent of its node may serve it".to_owned(),
        ),
        None => (true, ARRAY, "its LUNs are served by the array".to_owned()),
    };
    made(pool, ACCEPTED, Some(accepted), reason, message, now)
}

fn node_name(pool: &StoragePool) -> &str {
    pool.spec.node.as_ref().map_or("", |node| &node.name)
}

/// `None`: it is the agent's.
fn ready(
    pool: &StoragePool,
    node: Option<NodeSeen>,
    accepted: &Condition,
    now: Timestamp,
) -> Option<Condition> {
    let spoken = of_type(known(pool), condition_type::READY);
    let called_silent = spoken.filter(|one| one.reason == reason::AGENT_SILENT);
    let says = |status, reason: &str, text: &str| {
        let type_ = condition_type::READY;
        Some(made(pool, type_, status, reason, text.to_owned(), now))
    };
    match node {
        Some(NodeSeen::Silent(silent)) => match called_silent {
            // Since when stands there.
            Some(said) => Some(said.clone()),
            None => {
                let (word, text) = silent.says(node_name(pool), now);
                says(None, word, &text)
            }
        },
        // Not silent any more, and not heard yet: an operator that has just started, or an agent that is about to speak.
        Some(_)
            if called_silent
                .is_some_and(|said| said.observed_generation == pool.metadata.generation) =>
        {
            called_silent.cloned()
        }
        Some(node) if spoken.is_none_or(is_ours) => match node {
            NodeSeen::There => says(
                None,
                reason::PENDING,
                "the agent of its node has not said anything yet",
            ),
            _ => says(Some(false), NO_NODE, &accepted.message),
        },
        Some(_) => None,
        None => says(Some(true), ARRAY, &accepted.message),
    }
}

/// Words that no agent says.
fn is_ours(ready: &Condition) -> bool {
    matches!(
        ready.reason.as_str(),
        reason::PENDING | reason::AGENT_SILENT | OTHER_SITE | NO_NODE | ARRAY
    )
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
            .conditions
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
            ["Ready=True OtherSite"]
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

    fn told_by_the_agent(ready: bool) -> StoragePool {
        let mut pool = pool(NODE);
        let told = condition(
            "Ready",
            Some(ready),
            reason::AS_DESIRED,
            "",
            Some(1),
            Time(Timestamp::UNIX_EPOCH),
        );
        pool.status.get_or_insert_default().conditions.push(told);
        pool
    }

    fn seconds(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn a_silent_agents_word_is_taken_back_once_and_given_back_by_nobody_but_the_agent() {
        let silent = |seconds| {
            let silence = std::time::Duration::from_secs(seconds);
            Some(NodeSeen::Silent(Silent::Agent(silence)))
        };
        let mut pool = told_by_the_agent(true);
        let first = said(&pool, "medical", silent(30), seconds(1000));
        let ready = of_type(&first.conditions, "Ready").unwrap();
        assert_eq!(
            (ready.status.as_str(), ready.reason.as_str()),
            ("Unknown", "AgentSilent")
        );
        assert!(
            ready.message.contains("since 1970-01-01T00:16:10Z"),
            "{}",
            ready.message
        );
        assert_eq!(ready.last_transition_time, Time(seconds(1000)));
        assert!(newly_silent(&pool, &first).is_some());
        // It stands there: nothing is new, also for an operator that has just started and has heard of nobody.
        pool.status.as_mut().unwrap().conditions = first.conditions.clone();
        for node in [silent(90), Some(NodeSeen::There)] {
            let again = said(&pool, "medical", node, seconds(1060));
            assert!(stands(&pool, &again), "{again:?}");
            assert!(newly_silent(&pool, &again).is_none());
        }
        // Another node is named: that one has not spoken.
        pool.metadata.generation = Some(2);
        assert_eq!(
            words(&pool, "medical", Some(NodeSeen::There)),
            ["Accepted=True AsDesired", "Ready=Unknown Pending"]
        );
        // The agent speaks.
        assert_eq!(
            words(&told_by_the_agent(true), "medical", Some(NodeSeen::There)),
            ["Accepted=True AsDesired"]
        );
    }

    #[test]
    fn whoever_waits_for_what_git_applied_gets_through_in_both_clusters() {
        for (text, site) in [
            (NODE, "research"),
            ("array: {iqn: 'iqn.2026-11.example:a'}", "medical"),
        ] {
            let pool = pool(text);
            let node = pool.spec.node.as_ref().map(|_| NodeSeen::Missing);
            let said = said(&pool, site, node, seconds(1));
            assert_eq!(said.observed_generation, Some(1));
            assert_eq!(of_type(&said.conditions, "Ready").unwrap().status, "True");
        }
    }

    #[test]
    fn what_an_older_version_left_behind_goes() {
        let mut pool = pool(NODE);
        let ours = said(&pool, "research", None, seconds(1));
        let status = pool.status.get_or_insert_default();
        status.observed_generation = Some(1);
        status.conditions = ours.conditions.clone();
        assert!(stands(&pool, &ours));
        let left = condition(
            ACCEPTED,
            Some(false),
            OTHER_SITE,
            "",
            Some(1),
            Time(seconds(1)),
        );
        pool.status.as_mut().unwrap().conditions.push(left);
        assert!(!stands(&pool, &ours));
    }
}
