//! The device that pods have. It dies with the agent that shows it, unless that goes on with it under the same key; a pod
//! that has it gets errors for ever, and only a new pod gets the new device.
//!
//! The status keeps the key of the device that the present pods got, so that no clocks are compared and a restart of the
//! operator forgets nothing; it names the new one once the pods of the old one are gone.

use twinsite_api::{Attached, Attachment, AttachmentMode, reason};

use super::situation::{self, Situation};
use super::{Action, Plan, PodView};

/// Where the volume is attached, and what device its pods have.
pub(super) fn attached(
    situation: &Situation<'_>,
    writer: &Attachment,
    before: Option<&Attached>,
) -> Attached {
    let spec = &writer.spec;
    let mut now = Attached {
        site: spec.site.clone(),
        node: spec.node.clone(),
        key: None,
        pods: Vec::new(),
    };
    if spec.site != situation.site {
        return now;
    }
    let here = pods(situation, &spec.node);
    let before = before.filter(|before| before.site == now.site && before.node == now.node);
    let key = writer.status.as_ref().and_then(|status| status.key.clone());
    let old: Vec<&PodView> = before
        .into_iter()
        .flat_map(|before| here.iter().filter(|pod| before.pods.contains(&pod.uid)))
        .copied()
        .collect();
    let (key, of) = match before.and_then(|before| before.key.clone()) {
        Some(known) if key.as_ref() != Some(&known) && !old.is_empty() => (Some(known), old),
        known => (key.or(known), here),
    };
    now.key = key;
    now.pods = of.iter().map(|pod| pod.uid.clone()).collect();
    now.pods.sort();
    now
}

/// Pods whose device died start anew.
pub(super) fn plan(situation: &Situation<'_>, plan: &mut Plan) {
    let (Some(writer), Some(before)) = (
        situation.attachment(AttachmentMode::Writer),
        situation.last().and_then(|status| status.attached.as_ref()),
    ) else {
        return;
    };
    let key = writer
        .status
        .as_ref()
        .and_then(|status| status.key.as_ref());
    let is_another = key.is_some() && before.key.is_some() && before.key.as_ref() != key;
    let same_place = before.site == writer.spec.site && before.node == writer.spec.node;
    if !is_another || !same_place || !situation::is_open(writer) {
        return;
    }
    for pod in pods(situation, &writer.spec.node) {
        if pod.deleting || !before.pods.contains(&pod.uid) {
            continue;
        }
        plan.wait(
            reason::PENDING,
            format!(
                "the device of pod {} died with its agent: the pod starts anew",
                pod.name
            ),
        );
        plan.act(Action::RestartPod {
            name: pod.name.clone(),
            uid: pod.uid.clone(),
        });
    }
}

fn pods<'a>(situation: &Situation<'a>, node: &str) -> Vec<&'a PodView> {
    let pods = situation.seen.pods.iter();
    pods.filter(|pod| pod.node.as_deref() == Some(node))
        .collect()
}
