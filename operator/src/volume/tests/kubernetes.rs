//! What Kubernetes' own controllers, kubelet and our CSI controller do, as far as plans see it.

use twinsite_api::{AttachmentMode, order};

use super::super::{PodView, VolumeAttachmentView};
use super::world::World;

impl World {
    pub(super) fn kubernetes(&mut self) {
        for place in 0..2 {
            if self.clusters[place].up {
                self.bind(place);
                self.pods(place);
                self.attach(place);
            }
        }
    }

    /// The PersistentVolume controller binds a claim that names its volume, or that the volume names.
    pub(super) fn bind(&mut self, place: usize) {
        let cluster = &mut self.clusters[place];
        let (Some(volume), Some(claim)) =
            (cluster.persistent_volume.as_mut(), cluster.claim.as_mut())
        else {
            return;
        };
        let reference = volume.spec.as_mut().unwrap().claim_ref.as_mut().unwrap();
        let spec = claim.spec.as_mut().unwrap();
        let fits = reference.name == claim.metadata.name && reference.uid.is_none();
        if fits
            && spec
                .volume_name
                .as_ref()
                .is_none_or(|name| Some(name) == volume.metadata.name.as_ref())
        {
            reference.uid.clone_from(&claim.metadata.uid);
            spec.volume_name.clone_from(&volume.metadata.name);
            self.changed = true;
        }
    }

    pub(super) fn pods(&mut self, place: usize) {
        let (uid, now) = (self.uid(), self.now);
        let cluster = &mut self.clusters[place];
        let wanted = cluster.workloads.iter().any(|(_, replicas)| *replicas > 0);
        let claim = cluster
            .claim
            .as_ref()
            .is_some_and(|claim| claim.spec.as_ref().unwrap().volume_name.is_some());
        if wanted && claim && cluster.pods.is_empty() {
            // Kubernetes takes a node that lives.
            let node = cluster
                .nodes
                .iter()
                .find(|node| node.ready)
                .map(|node| node.name.clone());
            let name = "records-0".to_owned();
            cluster.pods.push(PodView {
                name,
                uid,
                node,
                deleting: false,
                owner: Some(("StatefulSet".to_owned(), "records".to_owned())),
            });
            cluster.pods_at = now;
            self.changed = true;
        } else if !wanted && !cluster.pods.is_empty() {
            // A kubelet that lives ends its pods.
            let nodes = &cluster.nodes;
            let lives = |pod: &PodView| {
                nodes.iter().any(|node| {
                    let is_well = node.ready && node.silent_for.is_none();
                    is_well && pod.node.as_ref() == Some(&node.name)
                })
            };
            let before = cluster.pods.len();
            cluster.pods.retain(|pod| !lives(pod));
            if cluster.pods.len() != before {
                cluster.pods_at = now;
                self.changed = true;
            }
        }
    }

    /// The attach/detach controller, external-attacher and our ControllerPublish.
    pub(super) fn attach(&mut self, place: usize) {
        let (uid, writer_uid, time) = (self.uid(), self.uid(), self.time());
        let cluster = &mut self.clusters[place];
        let is_reported = self.now - cluster.pods_at >= self.kubelet_lag;
        self.changed |= !is_reported;
        let node = cluster.pods.first().and_then(|pod| pod.node.clone());
        match (
            node,
            cluster
                .volume_attachments
                .first()
                .map(|known| known.node.clone()),
        ) {
            (Some(node), None) if cluster.persistent_volume.is_some() => {
                cluster.volume_attachments.push(VolumeAttachmentView {
                    name: "va".to_owned(),
                    uid,
                    node: node.clone(),
                    attached: false,
                    deleting: false,
                });
                self.changed = true;
            }
            (wanted, Some(there)) if wanted.as_ref() != Some(&there) && is_reported => {
                let node = cluster.nodes.iter().find(|node| node.name == there);
                // A volume in use on a node that does not answer is not detached.
                if node.is_some_and(|node| node.ready || !node.volume_in_use) {
                    cluster.volume_attachments.clear();
                    self.changed = true;
                }
            }
            _ => {}
        }
        let cluster = &mut self.clusters[place];
        if let (Some(pod), true) = (cluster.pods.first(), is_reported) {
            let used = cluster
                .nodes
                .iter_mut()
                .find(|known| pod.node.as_ref() == Some(&known.name) && known.ready);
            if let Some(known) = used {
                self.changed |= !known.volume_in_use;
                known.volume_in_use = true;
            }
        }
        let is_writer = |mode| mode == AttachmentMode::Writer;
        let there = cluster
            .attachments
            .iter_mut()
            .find(|attachment| is_writer(attachment.spec.mode));
        match (cluster.volume_attachments.first(), there) {
            (Some(attachment), None) => {
                let Some(volume) = &cluster.volume else {
                    return;
                };
                let made = order::object(
                    volume,
                    &cluster.pair,
                    cluster.site,
                    &attachment.node,
                    AttachmentMode::Writer,
                );
                if let Ok(mut object) = made {
                    object.metadata.uid = Some(writer_uid);
                    cluster.attachments.push(object);
                    self.changed = true;
                }
            }
            // ControllerPublish has its answer.
            (Some(known), Some(writer)) if known.node == writer.spec.node && !known.attached => {
                cluster.volume_attachments[0].attached = true;
                self.changed = true;
            }
            (None, Some(writer)) if writer.metadata.deletion_timestamp.is_none() => {
                writer.metadata.deletion_timestamp = Some(time);
                self.changed = true;
            }
            _ => {}
        }
    }
}
