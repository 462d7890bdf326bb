//! Volumes of a group are published together: agents open all of them on one node, or none.
//!
//! ```text
//!   publish one      the Attachments of all are made; this one carries the wish, the others only that they belong to it
//!   unpublish one    its wish goes; with the last wish all Attachments go
//! ```
//! A pod that uses only some of the volumes finds the others opened for it. Which volumes are published stands on their
//! Attachments, so that a restart of this process forgets nothing.
//!
//! Invariants: no wish is granted while one of the others is for another node, or is going; the last wish is looked for, and all
//! is removed, by one call at a time, and what was published itself goes last, so that a call that died half-way is
//! found when it is made again.

use std::collections::BTreeMap;

use kube::ResourceExt as _;
use tokio::time::Instant;
use tonic::Status;
use twinsite_api::{
    Attachment, AttachmentMode, MirroredVolume, VolumeId,
    order::{NotYet, attachment_name},
};

use super::{
    Controller, identity, label,
    publish::{WISH_ANNOTATION, Wish},
};

/// On the Attachments of a group: it is opened for the sake of this group's volumes.
pub(super) const TOGETHER_ANNOTATION: &str = "twinsite.io/published-with";

/// Whether an Attachment stands for a publication, and not only for one of another volume of its group.
pub(super) fn is_published(attachment: &Attachment) -> bool {
    attachment.spec.group.is_none() || attachment.annotations().contains_key(WISH_ANNOTATION)
}

fn writer(volume: VolumeId) -> String {
    attachment_name(volume, AttachmentMode::Writer)
}

impl Controller {
    /// The Attachment of this volume, with one for each other volume of its group.
    pub(super) async fn order_company(
        &self,
        volume: &MirroredVolume,
        node: &str,
        wish: &Wish,
    ) -> Result<Attachment, Status> {
        let _turn = self.together.lock().await;
        let company = self.company(volume).await?;
        let own = identity(volume);
        let (mut missing, mut found) = (Vec::new(), Vec::new());
        for other in &company {
            match self.objects.attachment(&writer(identity(other))).await? {
                Some(there) => found.push((there, other)),
                // The one with the wish comes first: no other is there for the sake of none.
                None if identity(other) == own => missing.insert(0, other),
                None => missing.push(other),
            }
        }
        let there: Vec<&Attachment> = found.iter().map(|(there, _)| there).collect();
        if there.iter().any(|one| one.spec.node != node) && self.forget_forlorn(&there).await? {
            return Err(Status::aborted(format!(
                "volumes of the group of {} were left open on another node: they are detached there, ask again",
                label(volume)
            )));
        }
        for (there, other) in &found {
            fits(there, other, volume, node)?;
        }
        // While the group lives it keeps a volume that is deleted alone.
        let goes = |one: &MirroredVolume| one.metadata.deletion_timestamp.is_some();
        if company.iter().all(goes) {
            return Err(Status::failed_precondition(format!(
                "{} is being deleted, with all of its group",
                label(volume)
            )));
        }
        let is_own = |(there, other): &(Attachment, &MirroredVolume)| {
            identity(other) == own && is_published(there)
        };
        if !found.iter().any(is_own) {
            self.has_place(node).await?;
        }
        for other in missing {
            let wish = Some(wish).filter(|_| identity(other) == own);
            let made = self.order(other, node, wish).await?;
            // Another controller was quicker.
            fits(&made, other, volume, node)?;
        }
        let there = self.objects.attachment(&writer(own)).await?;
        let mut there = there
            .ok_or_else(|| Status::aborted(format!("{} came and went: ask again", writer(own))))?;
        if !is_published(&there) {
            let mut annotations = there.annotations().clone();
            annotations.insert(WISH_ANNOTATION.to_owned(), wish.text()?);
            self.annotate(&mut there, annotations).await?;
        }
        Ok(there)
    }

    /// Attachments of a group that are there for the sake of none go; `true` if they were.
    ///
    /// A lost node whose Attachments were being removed leaves some when it comes back.
    async fn forget_forlorn(&self, there: &[&Attachment]) -> Result<bool, Status> {
        if there.is_empty() || there.iter().any(|one| is_published(one)) {
            return Ok(false);
        }
        for one in there {
            self.objects.delete_attachment(one).await?;
        }
        Ok(true)
    }

    /// What is left of the group of a volume whose own Attachment is gone.
    pub(super) async fn leave_remains(&self, id: VolumeId) -> Result<(), Status> {
        let _turn = self.together.lock().await;
        let volume = self.find(&id.to_string()).await?;
        let group = volume.and_then(|volume| volume.status?.group);
        let mut there = Vec::new();
        for id in group.iter().flat_map(|group| &group.volumes) {
            there.extend(self.objects.attachment(&writer(*id)).await?);
        }
        let there: Vec<&Attachment> = there.iter().collect();
        self.forget_forlorn(&there).await.map(drop)
    }

    /// All volumes of the group of this one.
    async fn company(&self, volume: &MirroredVolume) -> Result<Vec<MirroredVolume>, Status> {
        let status = volume.status.as_ref();
        let group = status.and_then(|status| status.group.as_ref());
        let Some(group) = group else {
            let named = volume.spec.group.clone().unwrap_or_default();
            let why = NotYet::Grouped(named);
            return Err(Status::unavailable(format!("{}: {why}", label(volume))));
        };
        let mut company = Vec::new();
        for id in &group.volumes {
            if *id == identity(volume) {
                company.push(volume.clone());
                continue;
            }
            let found = self.find(&id.to_string()).await?;
            company.push(found.ok_or_else(|| {
                Status::unavailable(format!(
                    "{} is of a group whose volume {id} is not there: none of them is opened before",
                    label(volume)
                ))
            })?);
        }
        Ok(company)
    }

    async fn annotate(
        &self,
        attachment: &mut Attachment,
        annotations: BTreeMap<String, String>,
    ) -> Result<(), Status> {
        let wanted = annotations.clone();
        if !self
            .objects
            .annotate_attachment(attachment, annotations)
            .await?
        {
            let name = attachment.name_any();
            return Err(Status::aborted(format!(
                "{name} was changed by another call: ask again"
            )));
        }
        attachment.metadata.annotations = Some(wanted);
        Ok(())
    }

    /// The Attachments of the same group, without this one.
    async fn others(&self, attachment: &Attachment) -> Result<Vec<Attachment>, Status> {
        let mut others = Vec::new();
        for volume in &attachment.spec.group_volumes {
            if *volume != attachment.spec.volume {
                others.extend(self.objects.attachment(&writer(*volume)).await?);
            }
        }
        Ok(others)
    }

    /// Removes an Attachment, with all of its group.
    pub(super) async fn remove_company(&self, attachment: &Attachment) -> Result<(), Status> {
        let _turn = self.together.lock().await;
        self.remove_all(attachment).await.map(drop)
    }

    async fn remove_all(&self, attachment: &Attachment) -> Result<Vec<Attachment>, Status> {
        let others = self.others(attachment).await?;
        for other in others.iter().chain([attachment]) {
            self.objects.delete_attachment(other).await?;
        }
        Ok(others)
    }

    /// Takes the wish of one volume back, and all Attachments of the group with the last wish.
    pub(super) async fn leave_company(
        &self,
        attachment: &Attachment,
        until: Instant,
    ) -> Result<(), Status> {
        let gone = {
            let _turn = self.together.lock().await;
            let there = self.objects.attachment(&attachment.name_any()).await?;
            let is_same = |there: &Attachment| there.metadata.uid == attachment.metadata.uid;
            let Some(mut there) = there.filter(is_same) else {
                return Ok(());
            };
            let others = self.others(&there).await?;
            let stays = |other: &Attachment| {
                is_published(other)
                    && other.metadata.deletion_timestamp.is_none()
                    && other.spec.node == there.spec.node
            };
            if there.metadata.deletion_timestamp.is_none() && others.iter().any(stays) {
                if is_published(&there) {
                    let mut annotations = there.annotations().clone();
                    annotations.remove(WISH_ANNOTATION);
                    self.annotate(&mut there, annotations).await?;
                }
                return Ok(());
            }
            self.remove_all(&there).await?
        };
        for one in gone.iter().chain([attachment]) {
            self.wait_gone(one, until).await?;
        }
        Ok(())
    }
}

/// Whether the Attachment of one volume of the group lets another one be published to this node.
fn fits(
    there: &Attachment,
    other: &MirroredVolume,
    volume: &MirroredVolume,
    node: &str,
) -> Result<(), Status> {
    let on = &there.spec.node;
    if there.metadata.deletion_timestamp.is_some() {
        return Err(Status::aborted(format!(
            "{}, with which {} is opened, is being detached from node {on}: ask again",
            label(other),
            label(volume)
        )));
    }
    if on != node {
        return Err(Status::failed_precondition(format!(
            "{} of the same group is published to node {on}: the volumes of a group are opened on one node",
            label(other)
        )));
    }
    Ok(())
}
