//! ListVolumes, in pages: the token is the id after which the next page begins, so that it stays good when volumes come and
//! go between pages.

use std::collections::BTreeMap;

use tonic::Status;
use twinsite_api::{AttachmentMode, MirroredVolume, VolumeId};

use super::{Controller, company::is_published, create::is_live, identity};
use crate::proto::csi::{
    ListVolumesRequest, ListVolumesResponse,
    list_volumes_response::{Entry, VolumeStatus},
};

/// One page of what there is, by id, and the token of the next one.
pub(super) fn page<T>(
    all: BTreeMap<VolumeId, T>,
    most: i32,
    token: &str,
) -> Result<(Vec<(VolumeId, T)>, String), Status> {
    let most =
        usize::try_from(most).map_err(|_| Status::invalid_argument("max_entries is negative"))?;
    let after: Option<VolumeId> = match token {
        "" => None,
        token => Some(token.parse().map_err(|_| {
            Status::aborted("starting_token is none of ours: begin from the start")
        })?),
    };
    let mut rest = all
        .into_iter()
        .filter(|(id, _)| after.is_none_or(|after| *id > after))
        .peekable();
    let most = if most == 0 { usize::MAX } else { most };
    let entries: Vec<_> = rest.by_ref().take(most).collect();
    let last = entries.last().filter(|_| rest.peek().is_some());
    let next = last.map(|(id, _)| id.to_string()).unwrap_or_default();
    Ok((entries, next))
}

impl Controller {
    /// Volumes that can be published, by id.
    pub(super) async fn live(&self) -> Result<BTreeMap<VolumeId, MirroredVolume>, Status> {
        let volumes = self.objects.volumes().await?;
        let live = volumes.iter().filter(|volume| is_live(volume));
        Ok(live
            .map(|volume| (identity(volume), MirroredVolume::clone(volume)))
            .collect())
    }

    pub(super) async fn list(
        &self,
        request: &ListVolumesRequest,
    ) -> Result<ListVolumesResponse, Status> {
        let (most, token) = (request.max_entries, &request.starting_token);
        let (volumes, next_token) = page(self.live().await?, most, token)?;
        let attachments = self.objects.attachments().await?;
        let published = |id: VolumeId| {
            attachments
                .iter()
                .filter(|one| one.spec.volume == id && one.spec.mode == AttachmentMode::Writer)
                .filter(|one| is_published(one))
                .map(|one| one.spec.node.clone())
                .collect()
        };
        let entry = |(id, volume): (VolumeId, MirroredVolume)| Entry {
            volume: Some(self.describe(&volume)),
            status: Some(VolumeStatus {
                published_node_ids: published(id),
            }),
        };
        Ok(ListVolumesResponse {
            entries: volumes.into_iter().map(entry).collect(),
            next_token,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_go_on_after_the_last_id_though_that_volume_has_gone() {
        let id = |n: u8| VolumeId::from_bytes([n; 16]);
        let all = |ids: &[u8]| -> BTreeMap<_, _> { ids.iter().map(|n| (id(*n), *n)).collect() };
        let numbers = |page: &[(VolumeId, u8)]| page.iter().map(|(_, n)| *n).collect::<Vec<_>>();
        let (first, token) = page(all(&[1, 2, 3, 4]), 2, "").unwrap();
        assert_eq!(numbers(&first), [1, 2]);
        let (rest, end) = page(all(&[1, 3, 4]), 0, &token).unwrap();
        assert_eq!((numbers(&rest), end.as_str()), (vec![3, 4], ""));
        let (_, exact) = page(all(&[1, 2]), 2, "").unwrap();
        assert_eq!(exact, "");
        let bad = page(all(&[1]), 0, "invalid-token").unwrap_err();
        assert_eq!(bad.code(), tonic::Code::Aborted);
    }
}
