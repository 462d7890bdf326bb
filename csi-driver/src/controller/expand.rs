//! ControllerExpandVolume: both legs grow first, the device when it is open, the file system last, on its node.

use kube::ResourceExt as _;
use tokio::time::Instant;
use tonic::Status;
use twinsite_api::{Quantity, VolumeMode};

use super::{Controller, another_look, is_provisioned, label, request::size, signed};
use crate::proto::csi::{CapacityRange, ControllerExpandVolumeResponse};

impl Controller {
    pub(super) async fn expand(
        &self,
        id: &str,
        range: CapacityRange,
        until: Instant,
    ) -> Result<ControllerExpandVolumeResponse, Status> {
        let volume = self.must_find(id).await?;
        let has = volume.spec.capacity.bytes();
        let wanted = size(Some(&range), has, has)?;
        let (namespace, name) = (volume.namespace().unwrap_or_default(), volume.name_any());
        if has < wanted {
            if !is_provisioned(&volume) {
                return Err(Status::failed_precondition(format!(
                    "the size of {} stands in its MirroredVolume: raise spec.capacity there to {wanted}, in both clusters",
                    label(&volume)
                )));
            }
            let capacity = Quantity::from_bytes(wanted);
            self.objects
                .grow_volume(&namespace, &name, capacity)
                .await?;
        }
        loop {
            let Some(volume) = self.objects.volume(&namespace, &name).await? else {
                return Err(Status::not_found(format!("no volume has the id {id:?}")));
            };
            let status = volume.status.as_ref();
            let ready = status.and_then(|status| status.capacity.as_ref());
            let ready = ready.map_or(0, Quantity::bytes);
            if ready >= wanted {
                return Ok(ControllerExpandVolumeResponse {
                    capacity_bytes: signed(volume.spec.capacity.bytes()),
                    // Of a raw block volume too: the node waits until its device has grown.
                    node_expansion_required: volume.spec.volume_mode == VolumeMode::Filesystem
                        || status.is_some_and(|status| status.attached.is_some()),
                });
            }
            if !another_look(until).await {
                return Err(Status::aborted(format!(
                    "{} has {ready} of {wanted} bytes: both legs must be reachable for it to grow",
                    label(&volume)
                )));
            }
        }
    }
}
