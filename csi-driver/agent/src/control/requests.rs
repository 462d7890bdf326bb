//! What people and the CSI node service ask of a running agent, and the answers.
//!
//! The socket's language: one JSON object per line each way. Nothing here changes what the objects say:
//! a volume that was detached by hand is attached again when its object changes or the agent starts anew.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use twinsite_api::{AttachmentMode, LegIndex, Quantity};
use twinsite_mirror::io::{Format, FsType, VerifyOrder};

use super::{
    node::{Inspection, Node, wall},
    order,
    reconcile::{OrderSeen, Phase, groups::is_grouped},
    verifies::BY_HAND,
};
use crate::status::attachment_status;

/// One request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "command",
    rename_all = "kebab-case",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum Request {
    /// Everything, or one Attachment.
    Status {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// Detach and stay so.
    Detach { name: String },
    /// Undo a detach by hand.
    Attach { name: String },
    /// The node does not use the device any more: if the order is to release the volume, it is detached now.
    Unused { name: String },
    /// The node is about to use the device again: whether it is open, and if so, it is not released before it is unused again.
    Used { name: String },
    /// Take a leg out of the membership.
    DropLeg { name: String, leg: LegIndex },
    /// Grow the volume; both legs are large enough.
    Expand { name: String, size: Quantity },
    /// Record the state of the file system on every member.
    Format {
        name: String,
        state: FormatStep,
        fs_type: String,
    },
    /// Compare both copies of an open volume, or end that. The name may be that of the volume.
    Verify {
        name: String,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        stop: bool,
    },
    /// Read the superblocks of a volume's legs.
    Inspect { name: String },
    /// What is wrong with the objects' files.
    Problems,
}

/// How far making the file system is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FormatStep {
    Started,
    Done,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    pub ok: bool,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub result: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Answer {
    pub fn ok(result: Value) -> Self {
        Self {
            ok: true,
            result,
            error: None,
        }
    }

    pub fn error(text: impl Into<String>) -> Self {
        Self {
            ok: false,
            result: Value::Null,
            error: Some(text.into()),
        }
    }
}

impl Node {
    pub(super) fn answer(&mut self, request: Request, reply: oneshot::Sender<Answer>) {
        let answer = match request {
            Request::Status { name: None } => self.overview(),
            Request::Status { name: Some(name) } => self.status_of(&name),
            Request::Problems => Answer::ok(json!(self.problems)),
            Request::Detach { name } => self.hold(&name),
            Request::Attach { name } => self.let_go(&name),
            Request::Unused { name } => self.unused(name),
            Request::Used { name } => self.used(&name),
            Request::Inspect { name } => return self.inspect(&name, reply),
            Request::Verify { name, stop } => return self.verify_by_hand(&name, stop, reply),
            Request::DropLeg { name, leg } => {
                return self.order_by_hand(&name, reply, |handle| handle.drop_leg(order::leg(leg)));
            }
            Request::Expand { name, size } => {
                return self.order_by_hand(&name, reply, |handle| handle.expand(size.bytes()));
            }
            Request::Format {
                name,
                state,
                fs_type,
            } => {
                let Some(fs_type) = fs_name(&fs_type) else {
                    let _gone = reply.send(Answer::error(
                        "the name of a file system has 1 to 15 letters",
                    ));
                    return;
                };
                let format = match state {
                    FormatStep::Started => Format::Started,
                    FormatStep::Done => Format::Done,
                };
                if let Some(volume) = self
                    .volumes
                    .get_mut(&name)
                    .filter(|volume| volume.reply.is_none())
                {
                    volume.format = Some(format);
                }
                return self
                    .order_by_hand(&name, reply, |handle| handle.set_format(format, fs_type));
            }
        };
        // Whoever asked may have gone.
        let _gone = reply.send(answer);
    }

    fn hold(&mut self, name: &str) -> Answer {
        if !self.desired.objects.attachments.contains_key(name) {
            return Answer::error(format!("there is no Attachment {name}"));
        }
        // The volumes of a group are detached together.
        let all = self.company_of(name);
        self.desired.held.extend(all);
        self.desired.held.insert(name.to_owned());
        Answer::ok(Value::Null)
    }

    /// Undo of [`Self::hold`].
    fn let_go(&mut self, name: &str) -> Answer {
        if !self.desired.held.remove(name) {
            return Answer::error(format!("{name} was not detached by hand"));
        }
        let all = self.company_of(name);
        self.desired.held.retain(|held| !all.contains(held));
        Answer::ok(Value::Null)
    }

    /// The Attachments that are opened and detached together with this one.
    fn company_of(&self, name: &str) -> Vec<String> {
        let attachments = &self.desired.objects.attachments;
        let Some(spec) = attachments.get(name).map(|object| &object.spec) else {
            return Vec::new();
        };
        let same = |other: &twinsite_api::AttachmentSpec| {
            is_grouped(spec) && other.group_id() == spec.group_id() && other.mode == spec.mode
        };
        let all = attachments.iter().filter(|(_, other)| same(&other.spec));
        all.map(|(other, _)| other.clone()).collect()
    }

    fn unused(&mut self, name: String) -> Answer {
        match self.desired.objects.attachments.get(&name) {
            None => Answer::error(format!("there is no Attachment {name}")),
            // It may be used again.
            Some(attachment) if !attachment.spec.release => Answer::ok(Value::Null),
            Some(_) => {
                self.desired.unused.insert(name);
                Answer::ok(Value::Null)
            }
        }
    }

    fn used(&mut self, name: &str) -> Answer {
        let seen = self.observed.volumes.get(name);
        let is_open = seen.is_some_and(|seen| seen.phase == Phase::Open);
        if is_open {
            self.desired.unused.remove(name);
        }
        Answer::ok(json!(is_open))
    }

    fn order_by_hand(
        &mut self,
        name: &str,
        reply: oneshot::Sender<Answer>,
        order: impl FnOnce(&dyn super::volumes::VolumeHandle),
    ) {
        let open = self
            .observed
            .volumes
            .get_mut(name)
            .filter(|seen| seen.phase == Phase::Open);
        let volume = self.volumes.get_mut(name);
        let why = match (open, volume) {
            (Some(seen), Some(volume)) => match (&volume.handle, &volume.reply) {
                (_, Some(_)) => "another order is under way",
                (None, None) => "it is not open",
                (Some(_), None) if seen.order == OrderSeen::UnderWay => {
                    "another order is under way"
                }
                (Some(handle), None) => {
                    seen.order = OrderSeen::UnderWay;
                    order(handle.as_ref());
                    volume.reply = Some(reply);
                    return;
                }
            },
            _ => "it is not open",
        };
        let _gone = reply.send(Answer::error(format!("Attachment {name}: {why}")));
    }

    /// A run of a person's own: at once, and from the beginning.
    fn verify_by_hand(&mut self, name: &str, stop: bool, reply: oneshot::Sender<Answer>) {
        let open = self.observed.volumes.iter().find(|(attachment, seen)| {
            let called = [seen.spec.display_name(), seen.spec.volume.to_string()];
            *attachment == name || called.iter().any(|called| called == name)
        });
        let Some((name, volume)) = open.map(|(name, seen)| (name.clone(), seen.spec.volume)) else {
            let _gone = reply.send(Answer::error(format!("{name} is not open on this node")));
            return;
        };
        if stop {
            let was_open = self.verifies.stop(volume, &wall());
            self.note_verify(&name);
            if !was_open {
                let _gone = reply.send(Answer::error(format!("nothing compares {name} now")));
                return;
            }
            return self.order_by_hand(&name, reply, |handle| handle.verify(VerifyOrder::Stop));
        }
        if let Some(report) = self
            .verifies
            .report(volume)
            .filter(|report| report.is_open())
        {
            let text = format!("{name} is being compared: {}", report.sentence());
            let _gone = reply.send(Answer::error(text));
            return;
        }
        let ready = self
            .observed
            .volumes
            .get(&name)
            .is_some_and(|seen| seen.verify.ready && seen.order != OrderSeen::UnderWay);
        if !ready {
            let text = format!(
                "{name} cannot be compared now: both copies must be in sync, and no other order under way"
            );
            let _gone = reply.send(Answer::error(text));
            return;
        }
        let from = self.verifies.order(volume, Some(BY_HAND), wall());
        self.note_verify(&name);
        self.order_by_hand(&name, reply, |handle| {
            handle.verify(VerifyOrder::Begin { from })
        });
    }

    fn inspect(&mut self, name: &str, reply: oneshot::Sender<Answer>) {
        let Some(attachment) = self.desired.objects.attachments.get(name) else {
            let _gone = reply.send(Answer::error(format!("there is no Attachment {name}")));
            return;
        };
        let mut spec = attachment.spec.clone();
        (spec.mode, spec.move_, spec.birth) = (AttachmentMode::Inspect, None, None);
        (spec.reseed, spec.force) = (None, None);
        let serial = self.serial();
        let inspection = format!("inspect-{serial}");
        let report = self.report(inspection.clone(), serial);
        match self.order((&inspection, serial), &inspection, &spec, report) {
            Ok(order) => {
                let handle = self.opener.open(order);
                let entry = Inspection {
                    serial,
                    _handle: handle,
                    report: None,
                    reply: Some(reply),
                };
                self.inspections.insert(inspection, entry);
            }
            Err(fault) => {
                let _gone = reply.send(Answer::error(fault.text));
            }
        }
    }

    fn status_of(&mut self, name: &str) -> Answer {
        let spec = self
            .observed
            .volumes
            .get(name)
            .map(|seen| seen.spec.clone());
        let spec = spec.or_else(|| {
            self.desired
                .objects
                .attachments
                .get(name)
                .map(|object| object.spec.clone())
        });
        match (spec, self.volumes.get_mut(name)) {
            (Some(spec), Some(volume)) => {
                if let Some(seen) = self.observed.volumes.get(name) {
                    volume.view.phase = Some(seen.phase);
                }
                Answer::ok(json!(attachment_status(&spec, &mut volume.view, &wall())))
            }
            _ => Answer::error(format!("there is no Attachment {name} for this node")),
        }
    }

    fn overview(&mut self) -> Answer {
        let names: Vec<String> = self.volumes.keys().cloned().collect();
        let attachments: serde_json::Map<String, Value> = names
            .into_iter()
            .map(|name| (name.clone(), self.status_of(&name).result))
            .collect();
        let legs: serde_json::Map<String, Value> = self
            .legs
            .iter()
            .map(|(name, view)| {
                let fault = view.fault.as_ref().map(|fault| fault.text.clone());
                let sessions = view
                    .sample
                    .as_ref()
                    .map_or(0, |sample| sample.stats.sessions.len());
                (
                    name.clone(),
                    json!({"served": view.served, "sessions": sessions, "fault": fault}),
                )
            })
            .collect();
        let pools: serde_json::Map<String, Value> = self
            .pools
            .iter()
            .map(|(name, view)| {
                let fault = view.fault.as_ref().map(|fault| fault.text.clone());
                let free = view.space.as_ref().map(|(capacity, _)| capacity.free);
                (name.clone(), json!({"freeBytes": free, "fault": fault}))
            })
            .collect();
        let waits: Vec<String> = self.waits.iter().map(ToString::to_string).collect();
        Answer::ok(json!({
            "node": self.config.node,
            "site": self.config.site,
            "version": env!("CARGO_PKG_VERSION"),
            "problems": self.problems,
            "waits": waits,
            "pools": pools,
            "legs": legs,
            "attachments": attachments,
        }))
    }
}

fn fs_name(name: &str) -> Option<FsType> {
    let mut fs_type = FsType::default();
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    fs_type
        .get_mut(..name.len())?
        .copy_from_slice(name.as_bytes());
    Some(fs_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_one_json_object_each() {
        for (text, request) in [
            (r#"{"command":"status"}"#, Request::Status { name: None }),
            (
                r#"{"command":"detach","name":"w"}"#,
                Request::Detach {
                    name: "w".to_owned(),
                },
            ),
            (
                r#"{"command":"unused","name":"w"}"#,
                Request::Unused {
                    name: "w".to_owned(),
                },
            ),
            (
                r#"{"command":"used","name":"w"}"#,
                Request::Used {
                    name: "w".to_owned(),
                },
            ),
            (
                r#"{"command":"drop-leg","name":"w","leg":"B"}"#,
                Request::DropLeg {
                    name: "w".to_owned(),
                    leg: LegIndex::B,
                },
            ),
            (
                r#"{"command":"verify","name":"w"}"#,
                Request::Verify {
                    name: "w".to_owned(),
                    stop: false,
                },
            ),
            (
                r#"{"command":"format","name":"w","state":"started","fsType":"xfs"}"#,
                Request::Format {
                    name: "w".to_owned(),
                    state: FormatStep::Started,
                    fs_type: "xfs".to_owned(),
                },
            ),
        ] {
            assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request);
            assert_eq!(serde_json::to_string(&request).unwrap(), text);
        }
        assert!(serde_json::from_str::<Request>(r#"{"command":"detach","nme":"w"}"#).is_err());
        assert!(serde_json::from_str::<Request>(r#"{"command":"explode"}"#).is_err());
    }

    #[test]
    fn a_file_system_has_a_short_plain_name() {
        assert_eq!(fs_name("xfs"), Some(*b"xfs\0\0\0\0\0\0\0\0\0\0\0\0"));
        for bad in ["", "x/s", "sixteen-letters-", "abcdefghijklmnop"] {
            assert_eq!(fs_name(bad), None, "{bad}");
        }
    }
}
