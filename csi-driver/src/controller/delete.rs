//! DeleteVolume: the volume's object goes; what becomes of the copies is its operator's matter.

use kube::ResourceExt as _;
use tokio::time::Instant;
use tonic::Status;
use twinsite_api::{AttachmentMode, order::attachment_name};

use super::{Controller, another_look, identity, is_provisioned, label};

impl Controller {
    pub(super) async fn delete(&self, id: &str, until: Instant) -> Result<(), Status> {
        let Some(volume) = self.find(id).await? else {
            return Ok(());
        };
        if !is_provisioned(&volume) {
            return Err(Status::failed_precondition(format!(
                "{} was not made for a claim: delete its MirroredVolume",
                label(&volume)
            )));
        }
        let writer = attachment_name(identity(&volume), AttachmentMode::Writer);
        if let Some(attachment) = self.objects.attachment(&writer).await? {
            return Err(Status::failed_precondition(format!(
                "{} is still published to node {}",
                label(&volume),
                attachment.spec.node
            )));
        }
        let (namespace, name) = (volume.namespace().unwrap_or_default(), volume.name_any());
        self.objects.delete_volume(&namespace, &name).await?;
        loop {
            let left = self.objects.volume(&namespace, &name).await?;
            // Another one of this name is another volume.
            if left.is_none_or(|left| left.metadata.uid != volume.metadata.uid) {
                return Ok(());
            }
            if !another_look(until).await {
                return Err(Status::aborted(format!(
                    "{} is being deleted: ask again",
                    label(&volume)
                )));
            }
        }
    }
}
