//! ControllerPublish and ControllerUnpublish: the Attachment that makes a node the writer of a volume.
//!
//! ```text
//!   no Attachment          make it, wait for what its agent says
//!   one for this node      the same wish: wait; another one: ALREADY_EXISTS
//!   one for another node   FAILED_PRECONDITION, naming it
//!   one that is going      ABORTED until it is gone
//! ```
//! There is one Attachment of a fixed name per volume and cluster, so making it is the mutual exclusion. A node of the site
//! that is not active gets its Attachment like any other: its agent finds out, and NodeStage says where the volume is.
//!
//! The volumes of a group are opened together or not at all: publishing one orders all of them ([`super::company`]).
//!
//! An Attachment after which another one attached never attaches again: it is removed here, and the next call makes a new
//! one, which is a new order to the register.

use std::collections::{BTreeMap, HashMap};

use kube::ResourceExt as _;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tonic::Status;
use twinsite_api::{
    Attachment, AttachmentMode, AttachmentState, AttachmentStatus, MirroredVolume, VolumeId,
    order::{self, attachment_name},
    reason,
};

use super::{
    Controller, another_look,
    company::{TOGETHER_ANNOTATION, is_published},
    identity, label,
    objects::Made,
    request,
};
use crate::{
    CONTEXT_ATTACHMENT, CONTEXT_FS_TYPE, capability::Capability,
    proto::csi::ControllerPublishVolumeRequest,
};

/// How the volume was asked for, kept on the Attachment.
pub(super) const WISH_ANNOTATION: &str = "twinsite.io/published-as";

/// How a volume is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wish {
    capability: Capability,
    read_only: bool,
}

impl Wish {
    /// # Errors
    /// The capability is missing, or none that a volume here has.
    pub(super) fn parse(request: &ControllerPublishVolumeRequest) -> Result<Self, Status> {
        let capability = Capability::parse(request.volume_capability.as_ref());
        Ok(Self {
            capability: capability.map_err(|error| error.invalid())?,
            read_only: request.readonly,
        })
    }

    pub(super) fn of(attachment: &Attachment) -> Option<Self> {
        let text = attachment.annotations().get(WISH_ANNOTATION)?;
        serde_json::from_str(text).ok()
    }

    pub(super) fn text(&self) -> Result<String, Status> {
        serde_json::to_string(self).map_err(|error| Status::internal(error.to_string()))
    }

    fn agrees(&self, other: &Self) -> bool {
        self.read_only == other.read_only && self.capability.agrees(&other.capability)
    }
}

/// What an Attachment says to whoever waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// NodeStage can take over: there is a device, or it knows best why not.
    Given,
    /// Not yet.
    Wait,
    /// This Attachment will never attach again.
    Spent,
}

fn verdict(status: Option<&AttachmentStatus>) -> Verdict {
    let Some(status) = status else {
        return Verdict::Wait;
    };
    let reason = status.reason.as_deref();
    match status.state {
        AttachmentState::Attached | AttachmentState::Suspended => Verdict::Given,
        // It comes as soon as the other site lets go: all else that takes time is done meanwhile.
        AttachmentState::Pending if reason == Some(reason::HELD_ELSEWHERE) => Verdict::Given,
        AttachmentState::Pending
        | AttachmentState::Attaching
        | AttachmentState::Detaching
        | AttachmentState::Detached => Verdict::Wait,
        AttachmentState::Superseded => Verdict::Spent,
        AttachmentState::Refused if reason == Some(reason::NOT_ACTIVE) => Verdict::Given,
        AttachmentState::Refused if reason == Some(reason::ORDER_STALE) => Verdict::Spent,
        AttachmentState::Refused | AttachmentState::Failed | AttachmentState::Done => Verdict::Wait,
    }
}

impl Controller {
    pub(super) async fn publish(
        &self,
        id: &str,
        node: &str,
        wish: &Wish,
        until: Instant,
    ) -> Result<HashMap<String, String>, Status> {
        let volume = self.must_find(id).await?;
        if !self.objects.has_node(node).await? {
            return Err(Status::not_found(format!(
                "the driver runs on no node {node:?}"
            )));
        }
        if let Some(why) = request::mismatch(&wish.capability, &volume) {
            return Err(Status::invalid_argument(why));
        }
        let name = attachment_name(identity(&volume), AttachmentMode::Writer);
        let attachment = match self.objects.attachment(&name).await? {
            _ if volume.spec.group.is_some() => self.order_company(&volume, node, wish).await?,
            Some(attachment) => attachment,
            None if volume.metadata.deletion_timestamp.is_some() => {
                return Err(Status::failed_precondition(format!(
                    "{} is being deleted",
                    label(&volume)
                )));
            }
            None => {
                self.has_place(node).await?;
                self.order(&volume, node, Some(wish)).await?
            }
        };
        let there = &attachment.spec.node;
        if attachment.metadata.deletion_timestamp.is_some() {
            return Err(Status::aborted(format!(
                "{} is being detached from node {there}: ask again",
                label(&volume)
            )));
        }
        if there != node {
            return Err(Status::failed_precondition(format!(
                "{} is published to node {there}",
                label(&volume)
            )));
        }
        if Wish::of(&attachment).is_some_and(|there| !there.agrees(wish)) {
            return Err(Status::already_exists(format!(
                "{} is published to node {node} otherwise: unpublish it first",
                label(&volume)
            )));
        }
        self.wait_given(&attachment, until).await?;
        let mut context = HashMap::from([(CONTEXT_ATTACHMENT.to_owned(), name)]);
        let fs_type = volume.spec.fs_type;
        context.extend(fs_type.map(|name| (CONTEXT_FS_TYPE.to_owned(), name)));
        Ok(context)
    }

    /// Makes the Attachment of a volume; without a wish: for the sake of the others of its group.
    pub(super) async fn order(
        &self,
        volume: &MirroredVolume,
        node: &str,
        wish: Option<&Wish>,
    ) -> Result<Attachment, Status> {
        let pair = self.must_find_pair(&volume.spec.site_pair).await?;
        let (site, mode) = (&self.config.site, AttachmentMode::Writer);
        let mut attachment = order::object(volume, &pair, site, node, mode)
            .map_err(|not_yet| Status::unavailable(format!("{}: {not_yet}", label(volume))))?;
        let mut annotations = BTreeMap::new();
        if let Some(wish) = wish {
            annotations.insert(WISH_ANNOTATION.to_owned(), wish.text()?);
        }
        if let Some(group) = attachment.spec.group {
            annotations.insert(TOGETHER_ANNOTATION.to_owned(), group.to_string());
        }
        attachment.metadata.annotations = Some(annotations);
        let name = attachment.name_any();
        if self.objects.create_attachment(&attachment).await? == Made::New {
            tracing::info!(volume = %label(volume), node, "published");
        }
        let there = self.objects.attachment(&name).await?;
        there.ok_or_else(|| Status::aborted(format!("{name} came and went: ask again")))
    }

    /// Whether a node takes one publication more. What is opened for another volume's sake only is not counted: Kubernetes, which
    /// places pods by this number, does not count it either.
    pub(super) async fn has_place(&self, node: &str) -> Result<(), Status> {
        let most = self.config.max_volumes;
        if most == 0 {
            return Ok(());
        }
        let attachments = self.objects.attachments().await?;
        let is_here =
            |one: &&Attachment| one.spec.node == node && one.spec.mode == AttachmentMode::Writer;
        let mut here = attachments.iter().filter(is_here).collect::<Vec<_>>();
        here.retain(|one| is_published(one));
        if i64::try_from(here.len()).unwrap_or(i64::MAX) >= most {
            return Err(Status::resource_exhausted(format!(
                "node {node} takes {most} volumes (csi.maxVolumesPerNode), and has them: the pod needs another node, or one of them ends here"
            )));
        }
        Ok(())
    }

    async fn wait_given(&self, attachment: &Attachment, until: Instant) -> Result<(), Status> {
        let name = attachment.name_any();
        loop {
            let now = self.objects.attachment(&name).await?;
            let now = now.filter(|now| now.metadata.uid == attachment.metadata.uid);
            let Some(now) = now.filter(|now| now.metadata.deletion_timestamp.is_none()) else {
                return Err(Status::aborted(format!("{name} was removed: ask again")));
            };
            match verdict(now.status.as_ref()) {
                Verdict::Given => return Ok(()),
                Verdict::Spent => {
                    self.remove_company(attachment).await?;
                    return Err(Status::aborted(format!(
                        "{name} is spent, another attachment came after it; it is made anew: ask again"
                    )));
                }
                Verdict::Wait => {}
            }
            if !another_look(until).await {
                return Err(Status::aborted(waiting(&now)));
            }
        }
    }

    pub(super) async fn unpublish(
        &self,
        id: &str,
        node: &str,
        until: Instant,
    ) -> Result<(), Status> {
        let Ok(volume) = id.parse::<VolumeId>() else {
            return Ok(());
        };
        let name = attachment_name(volume, AttachmentMode::Writer);
        let Some(attachment) = self.objects.attachment(&name).await? else {
            return self.leave_remains(volume).await;
        };
        if !node.is_empty() && attachment.spec.node != node {
            return Ok(());
        }
        if attachment.spec.group.is_some() {
            return self.leave_company(&attachment, until).await;
        }
        self.objects.delete_attachment(&attachment).await?;
        self.wait_gone(&attachment, until).await
    }

    /// Waits until the agent has detached.
    pub(super) async fn wait_gone(
        &self,
        attachment: &Attachment,
        until: Instant,
    ) -> Result<(), Status> {
        let name = attachment.name_any();
        loop {
            let left = self.objects.attachment(&name).await?;
            let left = left.filter(|left| left.metadata.uid == attachment.metadata.uid);
            let Some(left) = left else {
                return Ok(());
            };
            if !another_look(until).await {
                return Err(Status::aborted(format!(
                    "node {} has not detached {} yet: {}",
                    left.spec.node,
                    left.spec.volume,
                    waiting(&left)
                )));
            }
        }
    }
}

/// What an Attachment waits for, in words.
fn waiting(attachment: &Attachment) -> String {
    let name = attachment.name_any();
    match &attachment.status {
        None => format!(
            "the agent of node {} has not taken {name} up: see that it runs",
            attachment.spec.node
        ),
        Some(status) => format!(
            "{name} is {:?} ({}): {}",
            status.state,
            status.reason.as_deref().unwrap_or("no reason given"),
            status.message.as_deref().unwrap_or_default()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_waits_for_the_other_site_is_waited_for_on_the_node() {
        let said = |text: &str| serde_yaml::from_str::<AttachmentStatus>(text).unwrap();
        for (text, wanted) in [
            ("{state: Pending}", Verdict::Wait),
            ("{state: Pending, reason: Pending}", Verdict::Wait),
            ("{state: Pending, reason: HeldElsewhere}", Verdict::Given),
            ("{state: Attaching}", Verdict::Wait),
            ("{state: Attached}", Verdict::Given),
            ("{state: Refused, reason: NotActive}", Verdict::Given),
            ("{state: Refused, reason: StillActive}", Verdict::Wait),
            ("{state: Refused, reason: OrderStale}", Verdict::Spent),
        ] {
            assert_eq!(verdict(Some(&said(text))), wanted, "{text}");
        }
        assert_eq!(verdict(None), Verdict::Wait);
    }
}
