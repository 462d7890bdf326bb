//! The device that pods have. It dies with the agent that shows it, unless that goes on with it under the same key; a pod
//! that has it gets errors for ever, and only a new pod gets the new device.
//!
//! The status keeps the key of the device that the present pods got, so that no clocks are compared and a restart of the
//! operator forgets nothing; it names the new one once the pods of the old one are gone.

use twinsite_api::{Attachment, AttachmentMode, PodDevice, reason};

use super::situation::{self, Situation};
use super::{Action, Plan, PodView};

/// What device the pods here have, from what was known of it.
pub(super) fn of(situation: &Situation<'_>, before: Option<&PodDevice>) -> Option<PodDevice> {
    let writer = situation.attachment(AttachmentMode::Writer)?;
    let before = before.filter(|before| before.node == writer.spec.node);
    let Some(key) = shown(writer) else {
        // While it is being attached anew the pods keep what they had.
        return before.cloned();
    };
    let here = pods(situation, &writer.spec.node);
    let old: Vec<&PodView> = before
        .into_iter()
        .flat_map(|before| here.iter().filter(|pod| before.pods.contains(&pod.uid)))
        .copied()
        .collect();
    let (key, of) = match before {
        Some(known) if known.key != key && !old.is_empty() => (known.key.clone(), old),
        _ => (key.to_owned(), here),
    };
    let mut pods: Vec<String> = of.iter().map(|pod| pod.uid.clone()).collect();
    pods.sort();
    Some(PodDevice {
        node: writer.spec.node.clone(),
        key,
        pods,
    })
}

/// Pods whose device died start anew.
pub(super) fn plan(situation: &Situation<'_>, plan: &mut Plan) {
    let (Some(writer), Some(before)) = (
        situation.attachment(AttachmentMode::Writer),
        situation.last().and_then(|status| status.device.as_ref()),
    ) else {
        return;
    };
    let is_another = shown(writer).is_some_and(|key| key != before.key);
    if !is_another || before.node != writer.spec.node || situation.is_lost(&before.node) {
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

/// Key of the device that the agent shows now.
fn shown(writer: &Attachment) -> Option<&str> {
    let key = writer.status.as_ref()?.key.as_deref();
    key.filter(|_| situation::is_open(writer))
}

fn pods<'a>(situation: &Situation<'a>, node: &str) -> Vec<&'a PodView> {
    let pods = situation.seen.pods.iter();
    pods.filter(|pod| pod.node.as_deref() == Some(node))
        .collect()
}
