//! The status of a Failover object; the moves are made by each volume's own round.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{api::core::v1::ObjectReference, jiff::Timestamp};
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::reflector::ObjectRef,
};
use serde_json::json;
use twinsite_api::{
    API_VERSION, Failover, FailoverState, FailoverStatus, LegIndex, MirroredVolume, condition_type,
};
use twinsite_register::GroupId;

use super::{
    events::{News, Tone},
    operator::Operator,
    queue::Outcome,
    watch::within,
};
use crate::{
    failover::{self, VolumeView},
    site_pair::index,
    volume::names,
    witness::{Access, Content},
};

/// While it runs, how far it is is looked at this often.
const RUNNING: Duration = Duration::from_secs(1);

/// One round of one order.
pub async fn reconcile(operator: &Operator, name: &str) -> Outcome {
    let Some(order) = operator.own.failovers.store.get(&ObjectRef::new(name)) else {
        return Outcome::Settled;
    };
    let access = operator.links.witness(&order.spec.site_pair);
    let to = access
        .as_deref()
        .and_then(|access| index_of(access, &order.spec.to));
    let volumes: Vec<VolumeView> = selected(operator, &order)
        .into_iter()
        .map(|volume| VolumeView {
            register: access
                .as_deref()
                .and_then(|access| register(operator, access, &volume)),
            volume: match operator.own.group_of(&volume) {
                Some(group) => Arc::new(group.lend(&volume)),
                None => volume,
            },
            to,
        })
        .collect();
    let odd = &operator.own.failovers.odd;
    if odd.unreadable("", name).is_some() {
        // Its status cannot be judged either; an event says so.
        return Outcome::Settled;
    }
    let is_done = order
        .status
        .as_ref()
        .is_some_and(|status| matches!(status.state, FailoverState::Done | FailoverState::Failed));
    let status = match odd.unknown("", name).filter(|_| !is_done) {
        Some(fields) => failover::refused(&order, &fields, Timestamp::now()),
        None => failover::status(&order, &volumes, Timestamp::now()),
    };
    let is_over = matches!(status.state, FailoverState::Done | FailoverState::Failed);
    if order.status.as_ref() != Some(&status) {
        let before = order
            .status
            .as_ref()
            .map(|status| status.state)
            .unwrap_or_default();
        if before != status.state {
            tell(operator, order.object_ref(&()), &status);
        }
        let api: Api<Failover> = Api::all(operator.client.clone());
        let patch = json!({
            "apiVersion": API_VERSION,
            "kind": Failover::kind(&()),
            "metadata": { "name": name, "uid": order.uid() },
            "status": status,
        });
        let params = PatchParams::apply(names::FIELD_MANAGER).force();
        if let Err(error) = within(api.patch_status(name, &params, &Patch::Apply(&patch))).await {
            tracing::warn!(failover = name, %error, "the status could not be written");
            return Outcome::Failed;
        }
    }
    if is_over {
        Outcome::Settled
    } else {
        Outcome::Again(RUNNING)
    }
}

/// The volumes that the order is about: those that it names, and the others of their groups.
fn selected(operator: &Operator, order: &Failover) -> Vec<Arc<MirroredVolume>> {
    let all = operator.own.volumes.store.state();
    let group_of =
        |volume: &MirroredVolume| Some((volume.namespace()?, volume.spec.group.clone()?));
    let groups: Vec<_> = all
        .iter()
        .filter(|volume| failover::selects(order, volume))
        .filter_map(|volume| group_of(volume))
        .collect();
    let is_meant = |volume: &Arc<MirroredVolume>| {
        failover::selects(order, volume)
            || group_of(volume).is_some_and(|group| groups.contains(&group))
    };
    all.into_iter().filter(is_meant).collect()
}

fn tell(operator: &Operator, regarding: ObjectReference, status: &FailoverStatus) {
    operator.events.tell(News {
        regarding,
        tone: if status.state == FailoverState::Failed {
            Tone::Warning
        } else {
            Tone::Normal
        },
        reason: format!("{:?}", status.state),
        note: news(status),
    });
}

/// How far the order is, and why it failed.
fn news(status: &FailoverStatus) -> String {
    let state = status.state;
    let took = status
        .seconds
        .map_or_else(String::new, |seconds| format!(" after {seconds:.1} s"));
    let why = status
        .conditions
        .iter()
        .find(|one| one.type_ == condition_type::READY)
        .filter(|one| state == FailoverState::Failed && !one.message.is_empty())
        .map_or_else(String::new, |one| format!(": {}", one.message));
    format!("the order is {state:?}{took}{why}")
}

fn index_of(access: &Access, site: &str) -> Option<LegIndex> {
    access.sites()?.named(site).map(|claim| index(claim.index))
}

fn register(
    operator: &Operator,
    access: &Access,
    volume: &MirroredVolume,
) -> Option<Arc<twinsite_register::Register>> {
    if access.link().silent.is_some() {
        return None;
    }
    let register = operator.own.register_of(volume);
    match access.reading(GroupId(register.bytes()))?.content {
        Content::Register(register) => Some(Arc::new(*register)),
        Content::Absent | Content::Unusable(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(text: &str) -> FailoverStatus {
        serde_json::from_value(serde_json::from_str(text).unwrap()).unwrap()
    }

    #[test]
    fn an_order_that_failed_says_why_in_its_event() {
        let ready = r#""conditions": [{"type": "Ready", "status": "False", "reason": "Failed", "message": "no agent", "lastTransitionTime": "2026-11-28T04:00:00Z"}]"#;
        let failed = status(&format!(r#"{{"state": "Failed", {ready}}}"#));
        assert_eq!(news(&failed), "the order is Failed: no agent");
        let done = status(r#"{"state": "Done", "seconds": 11.52}"#);
        assert_eq!(news(&done), "the order is Done after 11.5 s");
        let runs = status(&format!(r#"{{"state": "Running", {ready}}}"#));
        assert_eq!(news(&runs), "the order is Running");
    }
}
