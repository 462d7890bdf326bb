//! One node of this cluster that is silent: what stands on its Legs and StoragePools is taken back, and new pods are kept off it.
//!
//! An agent owns what it says (field manager `twinsite-agent`), as a kubelet owns the conditions of its Node. Once nothing is heard
//! of it the operator writes over `Ready` (Unknown) and a Leg's `state`, by server-side apply with force, and from then on only
//! keeps that. It never says that something is served: the agent, which sees on its own object that it was called silent, says
//! so itself, at once and with force, and so takes its fields back.
//!
//! Invariants: nothing is written while the API server, or the watches by which agents are heard, may be what is silent; what an agent
//! says later stands.
//!
//! The taint (only if the operator was told so) closes a gap: a pod that is let go of a fenced node is placed by a scheduler that calls the
//! node Ready for 40 s, perhaps there again. It has a key of its own, says NoSchedule, so that it ends nothing, and goes as soon as
//! kubelet speaks again; no other taint is touched.
//! Not here: when an agent counts as silent (`shell::own`), what is said of a pool (`pool`), what a volume does without the node
//! (`volume::attachments`).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Node, Taint},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp, Unit},
};
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::reflector::ObjectRef,
};
use serde_json::json;
use twinsite_api::{
    API_VERSION, Condition, Leg, LegState, NodeLossPolicy, Seen, SitePair, condition,
    condition_type, reason,
};

use crate::{
    shell::{
        events::{News, Tone},
        operator::{Key, Operator},
        queue::Outcome,
        watch::{RequestError, within},
    },
    volume::names,
};

/// A node whose agent is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silent {
    /// For so long, and the Node object is there.
    Agent(Duration),
    /// For so long, and the Node object is gone.
    Gone(Duration),
}

impl Silent {
    /// Whether the agent of a node is silent.
    pub fn of(operator: &Operator, node: &str) -> Option<Self> {
        let silence = operator.own.agent_silence(node)?;
        let there = operator.own.nodes.store.get(&ObjectRef::new(node));
        Some(if there.is_some() {
            Self::Agent(silence)
        } else {
            Self::Gone(silence)
        })
    }

    /// Reason and message of a condition.
    pub fn says(self, node: &str, now: Timestamp) -> (&'static str, String) {
        let (Self::Agent(silence) | Self::Gone(silence)) = self;
        let since = SignedDuration::try_from(silence)
            .ok()
            .and_then(|silence| now.checked_sub(silence).ok())
            .and_then(|since| since.round(Unit::Second).ok())
            .unwrap_or(now);
        let text = match self {
            Self::Agent(_) => format!(
                "nothing was heard of the agent of node {node} since {since}: whether it serves is not known; is the node up, and does its pod run (kubectl -n NAMESPACE get pods -l app.kubernetes.io/component=agent -o wide)?"
            ),
            Self::Gone(_) => format!(
                "node {node} is not in the cluster any more, and nothing was heard of its agent since {since}"
            ),
        };
        (reason::AGENT_SILENT, text)
    }
}

/// Nodes about which there is something to say or to do.
pub fn wanting(operator: &Operator) -> BTreeSet<String> {
    let mut nodes = unsaid(operator);
    if operator.options.taint_lost_nodes {
        let all = operator.own.nodes.store.state();
        let wanted = all
            .iter()
            .filter(|node| taint_change(operator, node).is_some());
        nodes.extend(wanted.map(|node| node.name_any()));
    }
    nodes
}

/// Nodes with something of this site on them whose agents are silent, if it is not said yet.
fn unsaid(operator: &Operator) -> BTreeSet<String> {
    let own = &operator.own;
    let mut nodes = BTreeSet::new();
    for leg in own.legs.store.state() {
        if !is_said(leg.status.iter().flat_map(|status| &status.conditions)) {
            nodes.insert(leg.spec.node.clone());
        }
    }
    for pool in own.pools.store.state() {
        let of_site = pool.spec.site == operator.options.site;
        if let Some(node) = pool.spec.node.as_ref().filter(|_| of_site)
            && !is_said(pool.status.iter().flat_map(|status| &status.conditions))
        {
            nodes.insert(node.name.clone());
        }
    }
    nodes.retain(|node| own.agent_silence(node).is_some());
    nodes
}

/// Whether it stands there that the agent is silent.
pub fn is_said<'a>(conditions: impl IntoIterator<Item = &'a Condition>) -> bool {
    let mut conditions = conditions.into_iter();
    conditions.any(|one| one.type_ == condition_type::READY && one.reason == reason::AGENT_SILENT)
}

/// One round of one node.
pub async fn reconcile(operator: &Operator, name: &str) -> Outcome {
    let mut outcome = Outcome::Settled;
    if operator.options.taint_lost_nodes
        && let Err(error) = keep_off(operator, name).await
    {
        tracing::warn!(node = name, %error, "its taints could not be written");
        outcome = Outcome::Failed;
    }
    let Some(silent) = Silent::of(operator, name) else {
        return outcome;
    };
    for pool in operator.own.pools.store.state() {
        if pool
            .spec
            .node
            .as_ref()
            .is_some_and(|node| node.name == name)
        {
            operator.queue.add(Key::Pool(pool.name_any()));
        }
    }
    for leg in operator.own.legs.store.state() {
        let said = leg.status.iter().flat_map(|status| &status.conditions);
        if leg.spec.node != name || is_said(said) {
            continue;
        }
        if let Err(error) = take_back(operator, &leg, silent).await {
            tracing::warn!(leg = leg.name_any(), %error, "the status could not be written");
            outcome = Outcome::Failed;
        }
    }
    outcome
}

/// What an agent said of a Leg counts no more.
async fn take_back(
    operator: &Operator,
    leg: &Arc<Leg>,
    silent: Silent,
) -> Result<(), RequestError> {
    let now = Timestamp::now();
    let (word, text) = silent.says(&leg.spec.node, now);
    let generation = leg.metadata.generation;
    let ready = condition(
        condition_type::READY,
        None,
        word,
        text,
        generation,
        Time(now),
    );
    let patch = json!({
        "apiVersion": API_VERSION,
        "kind": Leg::kind(&()),
        "metadata": { "name": leg.name_any(), "uid": leg.uid() },
        "status": { "state": LegState::Pending, "conditions": [ready] },
    });
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    let api: Api<Seen<Leg>> = Api::all(operator.client.clone());
    match within(api.patch_status(&leg.name_any(), &params, &Patch::Apply(&patch))).await {
        Err(error) if error.code() != Some(404) => Err(error),
        _ => Ok(()),
    }
}

/// Key of the taint of a node that is lost.
pub const LOST_TAINT: &str = "twinsite.io/lost";

/// What becomes of our taint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TaintChange {
    Add,
    Remove,
}

/// When a node counts as lost: as its volumes do, by the most patient pair that fences nodes; `None`: no pair does.
fn patience(pairs: &[Arc<SitePair>]) -> Option<Duration> {
    let fencing = pairs
        .iter()
        .map(|pair| &pair.spec.node_loss)
        .filter(|loss| loss.policy == NodeLossPolicy::Fence);
    fencing.map(|loss| loss.detect_after.length()).max()
}

fn taint_change(operator: &Operator, node: &Node) -> Option<TaintChange> {
    let own = &operator.own;
    let name = node.name_any();
    decide(
        has_taint(node),
        own.node_silence(&name),
        own.node_speaks(&name),
        patience(&own.pairs.store.state()),
    )
}

fn decide(
    is_tainted: bool,
    silence: Option<Duration>,
    speaks: bool,
    patience: Option<Duration>,
) -> Option<TaintChange> {
    let is_lost =
        patience.is_some_and(|patience| silence.is_some_and(|silence| silence >= patience));
    match (is_tainted, is_lost) {
        (false, true) => Some(TaintChange::Add),
        // An operator that has just started has heard of nobody yet.
        (true, false) if speaks => Some(TaintChange::Remove),
        _ => None,
    }
}

fn is_ours(taint: &Taint) -> bool {
    taint.key == LOST_TAINT
}

fn has_taint(node: &Node) -> bool {
    let taints = node
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten());
    taints.into_iter().any(is_ours)
}

/// The taints of a node with the change made.
fn changed(node: &Node, change: TaintChange) -> Vec<Taint> {
    let taints = node
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten());
    let others = taints.filter(|taint| !is_ours(taint)).cloned();
    let ours = (change == TaintChange::Add).then(|| Taint {
        key: LOST_TAINT.to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    });
    others.chain(ours).collect()
}

async fn keep_off(operator: &Operator, name: &str) -> Result<(), RequestError> {
    let known = operator.own.nodes.store.get(&ObjectRef::new(name));
    let Some(change) = known.and_then(|node| taint_change(operator, &node)) else {
        return Ok(());
    };
    let api: Api<Node> = Api::all(operator.client.clone());
    // The list is written as a whole, by others too: of exactly this state of the node.
    let Some(node) = within(api.get_opt(name)).await? else {
        return Ok(());
    };
    if has_taint(&node) == (change == TaintChange::Add) {
        return Ok(());
    }
    let patch = json!({
        "metadata": { "resourceVersion": node.resource_version() },
        "spec": { "taints": changed(&node, change) },
    });
    let params = PatchParams {
        field_manager: Some(names::FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    within(api.patch(name, &params, &Patch::Merge(&patch))).await?;
    let (tone, word, note) = match change {
        TaintChange::Add => (
            Tone::Warning,
            "NodeLost",
            format!(
                "the node is silent: no new pod is placed here ({LOST_TAINT}) until it is back"
            ),
        ),
        TaintChange::Remove => (
            Tone::Normal,
            "NodeBack",
            format!("the node is back: {LOST_TAINT} is taken away"),
        ),
    };
    operator.events.tell(News {
        regarding: node.object_ref(&()),
        tone,
        reason: word.to_owned(),
        note,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(taints: &str) -> Node {
        let text = format!("{{metadata: {{name: m1}}, spec: {{taints: {taints}}}}}");
        serde_yaml::from_str(&text).unwrap()
    }

    fn keys(node: &Node, change: TaintChange) -> Vec<String> {
        changed(node, change)
            .into_iter()
            .map(|taint| taint.key)
            .collect()
    }

    #[test]
    fn only_our_own_taint_comes_and_goes() {
        let plain = node("[{key: disk, effect: NoExecute}]");
        assert!(!has_taint(&plain));
        assert_eq!(keys(&plain, TaintChange::Add), ["disk", LOST_TAINT]);
        let tainted = node(
            "[{key: twinsite.io/lost, effect: NoSchedule}, {key: node.kubernetes.io/unreachable, effect: NoSchedule}]",
        );
        assert!(has_taint(&tainted));
        assert_eq!(
            keys(&tainted, TaintChange::Remove),
            ["node.kubernetes.io/unreachable"]
        );
        assert_eq!(keys(&tainted, TaintChange::Add).len(), 2);
    }

    #[test]
    fn a_node_is_tainted_when_its_volumes_are_fenced_and_free_when_it_speaks() {
        let seconds = Duration::from_secs;
        let patience = Some(seconds(20));
        for (what, tainted, silence, speaks, patience, change) in [
            ("it lives", false, None, true, patience, None),
            (
                "it may be slow",
                false,
                Some(seconds(19)),
                false,
                patience,
                None,
            ),
            (
                "it is lost",
                false,
                Some(seconds(20)),
                false,
                patience,
                Some(TaintChange::Add),
            ),
            (
                "it stays lost",
                true,
                Some(seconds(90)),
                false,
                patience,
                None,
            ),
            ("the operator began anew", true, None, false, patience, None),
            (
                "it is back",
                true,
                None,
                true,
                patience,
                Some(TaintChange::Remove),
            ),
            (
                "no pair fences",
                false,
                Some(seconds(900)),
                false,
                None,
                None,
            ),
            (
                "no pair fences any more",
                true,
                Some(seconds(900)),
                false,
                None,
                None,
            ),
        ] {
            assert_eq!(decide(tainted, silence, speaks, patience), change, "{what}");
        }
    }
}
